"""Taking the fields that are read here out of a head, and letting all others pass as the lines that they are.  No I/O.

Peers say the same lines again and again, so what became of a line is remembered: looking it up is a third of the cost
of taking it apart.
"""

from __future__ import annotations

from typing import Final

from sidecar.core.message import Headers

LINES: Final = 1024
"""How many lines a `Selection` remembers."""
LINE: Final = 64
"""Bytes of the longest of them: what is longer mostly differs from message to message."""
SECRETS: Final = frozenset((b"authorization", b"proxy-authorization", b"cookie", b"set-cookie", b"x-api-key"))
"""Never remembered."""


class Line:
    """What is to be done with one."""

    __slots__ = ("field", "is_noted", "is_taken")

    def __init__(self, field: tuple[bytes, bytes], is_taken: bool = False, is_noted: bool = False) -> None:
        self.field = field
        """Its name, in lower case, and its value, where it is taken."""
        self.is_taken = is_taken
        self.is_noted = is_noted


PASSING: Final = Line((b"", b""))
NOTED: Final = Line((b"", b""), is_noted=True)


class Selection:
    """Names of fields, and what the lines of late were."""

    __slots__ = ("_known", "_names", "_noted")

    def __init__(self, names: frozenset[bytes], noted: frozenset[bytes] = frozenset()) -> None:
        """Fields to take, and fields that pass but are to be noticed; lower case."""
        self._names = names
        self._noted = noted
        self._known: dict[bytes, Line] = {}

    def take(self, data: bytes, start: int, end: int) -> tuple[bytes, Headers, bool]:
        """Split a head whose field lines are `data[start:end]`: the lines that pass, the fields taken, and whether one
        was noticed."""
        noticed = False
        taken: Headers = []
        kept: list[bytes] = []
        known = self._known
        for text in data[start:end].split(b"\r\n"):
            line = known.get(text)
            if line is None:
                line = self._read(text)
            if line.is_taken:
                taken.append(line.field)
            else:
                kept.append(text)
                if line.is_noted:
                    noticed = True
        return b"\r\n".join(kept), taken, noticed

    def _read(self, text: bytes) -> Line:
        name = text[: text.find(b":")].lower()
        if name in self._names:
            line = Line((name, text[len(name) + 1 :].strip(b" \t")), is_taken=True)
        else:
            line = NOTED if name in self._noted else PASSING
        if len(text) <= LINE and name not in SECRETS:
            if len(self._known) >= LINES:
                self._known.clear()
            self._known[text] = line
        return line
