"""Differences between two responses: the status, named fields, and values of JSON bodies, as names.

The names are `status`, `header NAME`, `body`, and for values of JSON their pointers (RFC 6901) with `*` for the index
in an array, so that their number is bounded by the shape of the documents and not by their length.  Bodies are decoded
before they are compared.  What is no JSON, such as NaN, is compared octet by octet.
"""

from __future__ import annotations

import json
from collections.abc import Collection
from decimal import Decimal, InvalidOperation
from typing import Any, Final

from sidecar.core.outcome import Outcome
from sidecar.transform.coding import decode
from sidecar.transform.validators import coding_of

MOST: Final = 50
"""Most differences that are found between two responses."""
DEEPEST: Final = 64
"""Depth from which on values are compared as a whole."""
LONGEST: Final = 200
"""Most characters of a name; the rest of a longer one is left out."""


class Comparison:
    """Comparison of responses with the settings of one block."""

    __slots__ = ("_headers", "_ignored", "_max_body")

    def __init__(self, headers: Collection[str], ignore: Collection[str], max_body: int) -> None:
        self._headers = [(name, name.encode()) for name in headers]
        self._ignored = frozenset(ignore)
        self._max_body = max_body

    def find(self, old: Outcome, new: Outcome) -> list[str]:
        """Return the names of the differences, at most `MOST`; bodies must be whole."""
        found = [] if old.status == new.status else ["status"]
        found += [f"header {name}" for name, field in self._headers if old.header(field) != new.header(field)]
        if old.body != new.body and "" not in self._ignored and self._is_short(old) and self._is_short(new):
            try:
                first, second = self._decoded(old), self._decoded(new)
                if first != second:
                    self._walk(_read(first), _read(second), "", found, 0)
            except (ValueError, RecursionError):  # no JSON, too deep, or a content coding that is wrong or too large
                _add(found, "body")
        return found[:MOST]

    def _decoded(self, outcome: Outcome) -> bytes:
        """Return a body without its content coding.  Raises `ValueError`."""
        return decode(outcome.body, coding_of(outcome), self._max_body)

    def _is_short(self, outcome: Outcome) -> bool:
        return outcome.stream is None and len(outcome.body) <= self._max_body

    def _walk(self, old: Any, new: Any, pointer: str, found: list[str], depth: int) -> None:
        """Add the differences below a pointer."""
        if pointer in self._ignored or len(found) >= MOST:
            return
        if depth < DEEPEST and isinstance(old, dict) and isinstance(new, dict):
            for key in {**old, **new}:
                below = f"{pointer}/{key.replace('~', '~0').replace('/', '~1')}"
                if key in old and key in new:
                    self._walk(old[key], new[key], below, found, depth + 1)
                elif below not in self._ignored:
                    _add(found, below)
        elif depth < DEEPEST and isinstance(old, list) and isinstance(new, list) and len(old) == len(new):
            for one, other in zip(old, new, strict=True):
                self._walk(one, other, f"{pointer}/*", found, depth + 1)
        elif old != new or isinstance(old, bool) is not isinstance(new, bool):  # Python's True equals 1
            _add(found, pointer or "body")


def _add(found: list[str], name: str) -> None:
    """Add a name that every log can have: not long, and without halves of surrogate pairs."""
    name = name[:LONGEST].encode("utf-8", "backslashreplace").decode()
    if name not in found:
        found.append(name)


def _read(body: bytes) -> Any:
    """Return the value of a JSON body, with exact numbers.  Raises `ValueError`."""
    return json.loads(body, parse_float=_number, parse_int=_number, parse_constant=_refuse)


def _number(text: str) -> Decimal | tuple[str]:
    """Return a number; its text in a tuple, which equals no other value, if it is beyond all bounds."""
    try:
        return Decimal(text)
    except InvalidOperation:
        return (text,)


def _refuse(word: str) -> Any:
    raise ValueError(f"{word} is no JSON")
