"""Differences between two responses: the status, named fields, and values of JSON bodies, as names.

The names are `status`, `header NAME`, `body`, and for values of JSON their pointers (RFC 6901) with `*` for the index
in an array, so that their number is bounded by the shape of the documents and not by their length.  Rules:

1. Bodies are decoded before they are compared.  What is no JSON, such as NaN, is compared octet by octet.
2. Objects and lists are opened one level at a time, and only where their texts differ.
3. The work is told step by step, so that the caller can do something else in between.  A step opens one value of each
   body, or compares `PAIRS` values.
"""

from __future__ import annotations

from collections.abc import Collection, Iterator
from decimal import Decimal, InvalidOperation
from typing import Any, Final

from sidecar.core.outcome import Outcome
from sidecar.transform.coding import decode
from sidecar.transform.jsonbody import SPACE, known, parse_member, well_formed
from sidecar.transform.selection import scalar
from sidecar.transform.validators import coding_of

MOST: Final = 50
"""Most differences that are found between two responses."""
DEEPEST: Final = 64
"""Depth from which on values are compared as texts."""
LONGEST: Final = 200
"""Most characters of a name; the rest of a longer one is left out."""
PAIRS: Final = 256
"""Most values that are compared in one step."""
PAIR: Final = 64
"""Work of comparing two values, relative to that of opening one byte."""

OBJECT: Final = 0x7B
LIST: Final = 0x5B
QUOTE: Final = 0x22
NUMBER: Final = frozenset(b"-0123456789")
"""First octets of numbers."""


class Comparison:
    """Comparison of responses with the settings of one block."""

    __slots__ = ("_headers", "_ignored", "_max_body")

    def __init__(self, headers: Collection[str], ignore: Collection[str], max_body: int) -> None:
        self._headers = [(name, name.encode()) for name in headers]
        self._ignored = frozenset(ignore)
        self._max_body = max_body

    def find(self, old: Outcome, new: Outcome) -> list[str]:
        """Return the names of the differences, at most `MOST`; bodies must be whole."""
        found: list[str] = []
        for _ in self.steps(old, new, found):
            pass
        return found

    def steps(self, old: Outcome, new: Outcome, found: list[str]) -> Iterator[int]:
        """Add the names of the differences to `found`, and yield the work of each step in bytes."""
        if old.status != new.status:
            found.append("status")
        found += [f"header {name}" for name, field in self._headers if old.header(field) != new.header(field)]
        if old.body != new.body and "" not in self._ignored and self._is_short(old) and self._is_short(new):
            try:
                first, second = self._decoded(old), self._decoded(new)
                yield len(first) + len(second)
                if first != second:
                    yield from self._walk(well_formed(first), well_formed(second), "", found, 0)
            except (ValueError, RecursionError):
                _add(found, "body")  # no JSON, too deep, or a content coding that is wrong or too large
        del found[MOST:]

    def _decoded(self, outcome: Outcome) -> bytes:
        """Return a body without its content coding.  Raises `ValueError`."""
        return decode(outcome.body, coding_of(outcome), self._max_body)

    def _is_short(self, outcome: Outcome) -> bool:
        return outcome.stream is None and len(outcome.body) <= self._max_body

    def _walk(self, old: bytes, new: bytes, pointer: str, found: list[str], depth: int) -> Iterator[int]:
        """Add the differences below a pointer; the texts are JSON."""
        old, new = old.strip(SPACE), new.strip(SPACE)
        if old == new or pointer in self._ignored or len(found) >= MOST:
            return
        kinds, is_deep = (old[0], new[0]), depth >= DEEPEST
        if kinds == (OBJECT, OBJECT) and not is_deep:
            mine, others = _opened(old), _opened(new)
            yield len(old) + len(new)
            for number, key in enumerate({**mine, **others}):
                if number % PAIRS == PAIRS - 1:
                    yield PAIRS * PAIR
                one, other = mine.get(key), others.get(key)
                if one != other:
                    below = f"{pointer}/{key.replace('~', '~0').replace('/', '~1')}"
                    if one is not None and other is not None:
                        yield from self._walk(bytes(one), bytes(other), below, found, depth + 1)
                    elif below not in self._ignored:
                        _add(found, below)
            return
        if kinds == (LIST, LIST) and not is_deep:
            first, second = _opened(old), _opened(new)
            yield len(old) + len(new)
            if len(first) == len(second):
                below = f"{pointer}/*"
                for number, (before, after) in enumerate(zip(first, second, strict=True)):
                    if number % PAIRS == PAIRS - 1:
                        yield PAIRS * PAIR
                    if before != after:
                        yield from self._walk(bytes(before), bytes(after), below, found, depth + 1)
                return
        name = pointer or "body"
        if name not in found and not _is_same(old, new):
            _add(found, name)


def _opened(text: bytes) -> Any:
    """Return the object or list of a text, with members that are texts; their copies are made where they differ."""
    return parse_member(known(text).box, 0)


def _is_same(old: bytes, new: bytes) -> bool:
    """True if two JSON texts that differ have the same value; containers are compared as texts."""
    first, second = old[0], new[0]
    if first == QUOTE and second == QUOTE:
        return scalar(old) == scalar(new)
    if first in NUMBER and second in NUMBER:
        try:
            return Decimal(old.decode()) == Decimal(new.decode())
        except InvalidOperation:  # beyond all bounds
            return False
    return False


def _add(found: list[str], name: str) -> None:
    """Add a name that every log can have: not long, and without halves of surrogate pairs."""
    name = name[:LONGEST].encode("utf-8", "backslashreplace").decode()
    if name not in found:
        found.append(name)
