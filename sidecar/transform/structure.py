"""Check of the structure of a JSON text that streams: one object or list, whose brackets and strings match.

What stands around the text, such as the members of an object that it becomes a member of, cannot be changed by a text
that passes.  The check does not see the rest of the grammar (`jsonbody.checked` does): commas and colons, the spelling
of numbers and words, escapes, and octets that are not UTF-8 within strings.
"""

from __future__ import annotations

import re
from typing import Final

from sidecar.transform.jsonbody import SPACE, InvalidBody

DEEPEST: Final = 1000
"""Most brackets that may be open at a time, as in a text that is checked as a whole."""
END: Final = b"\0"
"""Octet after each piece; JSON does not have it."""
STRING: Final = re.compile(rb'"(?:[^"\\\0]++|\\[^\0])*(?:"|\\?\0)', re.DOTALL)
"""Matches a string, or its beginning up to the end of the piece.  It matches at each quote, so it never backtracks."""
LONGEST: Final = 64 * 1024
"""Most bytes that are matched at once: the engine takes memory for each escape of a string."""
ESCAPE: Final = b"\\"
WORD: Final = b"s"
"""Text in place of a string."""
BRACKETS: Final = b"{}[]"
OUTSIDE: Final = BRACKETS + SPACE + b",:0123456789+-.eEtrufalsn" + END
"""Octets outside of strings."""
INNER: Final = bytes(octet for octet in range(256) if octet not in BRACKETS)
CLOSED_BY: Final = {0x7B: 0x7D, 0x5B: 0x5D}


class Structure:
    """Structure of a text as far as it has arrived."""

    __slots__ = ("_before", "_has_begun", "_open")

    def __init__(self) -> None:
        self._before = b""
        """Octets by which the next piece goes on with a string; empty outside of strings."""
        self._open: list[int] = []
        """Brackets that close those which are open, innermost last."""
        self._has_begun = False
        """True once the first bracket has come."""

    @property
    def is_empty(self) -> bool:
        """True if nothing but white space has come."""
        return not self._has_begun

    def feed(self, piece: bytes) -> None:
        """Check the next piece.  Raises `InvalidBody`."""
        for at in range(0, len(piece), LONGEST):
            self._feed(piece[at : at + LONGEST] if len(piece) > LONGEST else piece)

    def _feed(self, piece: bytes) -> None:
        if END in piece:
            raise InvalidBody("has an octet 0, which JSON does not have")
        text = self._before + piece
        plain = STRING.sub(WORD, text + END)
        if plain.endswith(END):
            self._before = b""
        else:
            is_escaping = (len(text) - len(text.rstrip(ESCAPE))) % 2
            self._before = b'"\\' if is_escaping else b'"'
        if plain.translate(None, OUTSIDE):
            raise InvalidBody("is no JSON")
        if not self._has_begun:
            first = plain.lstrip(SPACE)[:1]
            if first == END:
                return
            if first not in (b"{", b"["):
                raise InvalidBody("is neither an object nor a list")
            self._has_begun = True
        elif not self._open:
            self._check_end(plain)
        self._match(plain)

    def _match(self, plain: bytes) -> None:
        """Match the brackets of a piece without its strings."""
        brackets = plain.translate(None, INNER)
        waiting, last = self._open, len(brackets) - 1
        for at, bracket in enumerate(brackets):
            closing = CLOSED_BY.get(bracket)
            if closing is not None:
                waiting.append(closing)
                if len(waiting) > DEEPEST:
                    raise InvalidBody("is nested too deep")
            elif not waiting or waiting.pop() != bracket:
                raise InvalidBody("has brackets that do not match")
            elif not waiting:
                if at < last:
                    raise InvalidBody("goes on after its end")
                self._check_end(plain[max(plain.rfind(b"}"), plain.rfind(b"]")) + 1 :])

    def _check_end(self, plain: bytes) -> None:
        """Check what follows the last bracket."""
        if plain.strip(SPACE + END):
            raise InvalidBody("goes on after its end")

    def finish(self) -> None:
        """Check the end of the text; an empty one passes.  Raises `InvalidBody`."""
        if self._open or self._before:
            raise InvalidBody("ends within the text")
