"""Number of steps in which a backtracking engine tries a pattern on a text: a measure of dangerous patterns.

1. The tree that `re` itself makes of a pattern is walked in the order in which `re` tries its parts.  Each part that is
   tried counts, and each character that a repeated part takes.
2. The engine's own short cuts are left out, so it takes no more steps than are counted here.
3. Flags other than DOTALL and ASCII, and back-references, are not supported.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from contextlib import suppress
from typing import Any

parse: Any = re._parser.parse  # type: ignore[attr-defined]
SPACE, WORD = set(b" \t\n\r\f\v"), {*range(48, 58), *range(65, 91), *range(97, 123), 95}
CLASSES = {"DIGIT": set(range(48, 58)), "SPACE": SPACE, "WORD": WORD}
EVERY = frozenset(range(256))
MOST = 1_000_000
"""Steps after which counting ends: an exponential pattern would run for ever."""


class TooManySteps(Exception):
    """Raised after `MOST` steps."""


class Engine:
    """Matcher of one text that counts its steps."""

    def __init__(self, pattern: re.Pattern[Any], text: bytes) -> None:
        self.steps = 0
        self._text = text
        self._is_dotall = bool(pattern.flags & re.DOTALL)
        self._tree = list(parse(pattern.pattern, pattern.flags))

    def find(self, how: str) -> tuple[int, int] | None:
        """Return the span of the match that `fullmatch`, `match` or `search` finds; None without a match."""
        for start in range(len(self._text) + 1 if how == "search" else 1):
            for end in self._sequence(self._tree, start):
                if how != "fullmatch" or end == len(self._text):
                    return start, end
        return None

    def _sequence(self, parts: list[Any], at: int) -> Iterator[int]:
        if not parts:
            yield at
            return
        for end in self._part(*parts[0], at):
            yield from self._sequence(parts[1:], end)

    def _part(self, kind: Any, value: Any, at: int) -> Iterator[int]:
        self.steps += 1
        if self.steps >= MOST:
            raise TooManySteps
        name = str(kind)
        if name == "BRANCH":
            for branch in value[1]:
                yield from self._sequence(list(branch), at)
        elif name == "SUBPATTERN":
            yield from self._sequence(list(value[-1]), at)
        elif name == "ATOMIC_GROUP":
            yield from _first(self._sequence(list(value), at))
        elif name in ("MAX_REPEAT", "MIN_REPEAT", "POSSESSIVE_REPEAT"):
            least, most, inner = value
            ends = self._repeated(list(inner), at, least, int(most))
            yield from reversed(list(ends)) if name == "MIN_REPEAT" else _first(ends) if name[0] == "P" else ends
        elif name in ("ASSERT", "ASSERT_NOT"):
            direction, inner = value
            begin = at if direction == 1 else at - inner.getwidth()[0]
            is_there = begin >= 0 and next(self._sequence(list(inner), begin), None) is not None
            if is_there == (name == "ASSERT"):
                yield at
        elif name == "AT":
            if at == (len(self._text) if str(value) == "AT_END_STRING" else 0):
                yield at
        elif at < len(self._text) and self._text[at] in self._octets(kind, value):
            yield at + 1

    def _repeated(self, inner: list[Any], at: int, least: int, most: int) -> Iterator[int]:
        if len(inner) == 1 and (octets := self._octets(*inner[0])):  # a single character: no need to recurse for each
            end = at
            while end < len(self._text) and end - at < most and self._text[end] in octets:
                self.steps += 1
                end += 1
            for place in range(end, at + least - 1, -1):
                self.steps += 1
                yield place
            return
        if most:
            for end in self._sequence(inner, at):
                if end > at or least:
                    yield from self._repeated(inner, end, max(0, least - 1), most - 1)
        if not least:
            yield at

    def _octets(self, kind: Any, value: Any) -> frozenset[int] | set[int]:
        """Return the octets that a part of one character matches; empty for other parts."""
        name = str(kind)
        if name == "LITERAL":
            return {value}
        if name == "NOT_LITERAL":
            return EVERY - {value}
        if name == "ANY":
            return EVERY if self._is_dotall else EVERY - {10}
        if name == "RANGE":
            return set(range(value[0], value[1] + 1))
        if name == "CATEGORY":
            word = str(value).removeprefix("CATEGORY_")
            return EVERY - CLASSES[word[4:]] if word.startswith("NOT_") else CLASSES[word]
        if name == "IN":
            is_negated = str(value[0][0]) == "NEGATE"
            found: set[int] = set()
            for part in value[is_negated:]:
                found |= self._octets(*part)
            return EVERY - found if is_negated else found
        return frozenset()


def _first(ends: Iterator[int]) -> Iterator[int]:
    for end in ends:
        yield end
        return


def steps(pattern: re.Pattern[Any], text: bytes, how: str = "fullmatch") -> int:
    """Return the steps of `pattern.fullmatch`, `match` or `search` on a text of octets; no more than `MOST`."""
    engine = Engine(pattern, text)
    with suppress(TooManySteps):
        engine.find(how)
    return engine.steps
