"""Field lines looked at where they stand.  A message that only passes is not taken apart (see `core/message.py`), and
neither are those that are stored or answered from the store: here is what a cache has to know of them all the same.

Lines have matched the grammar, and each ends in CRLF.
"""

from __future__ import annotations

import re
from functools import lru_cache

from sidecar.core.message import Headers


def values(lines: bytes, lower: bytes, name: bytes) -> list[bytes]:
    """All values of a field.  `lower` is `lowered(lines)`, made once for several names."""
    found = []
    needle = b"\n%b:" % name
    at = lower.find(needle)
    while at >= 0:
        start = at + len(needle) - 1  # `lower` is one byte ahead
        found.append(lines[start : lines.index(b"\r\n", start)].strip(b" \t"))
        at = lower.find(needle, start)
    return found


def lowered(lines: bytes) -> bytes:
    """The lines in lower case, a line feed before the first: `\\nname:` is in there if and only if the field is."""
    return b"\n" + lines.lower()


def without(lines: bytes, names: frozenset[bytes]) -> bytes:
    """The lines but for those of the named fields."""
    return _lines_of(names).sub(b"", b"\n" + lines)[1:]


@lru_cache(maxsize=256)
def _lines_of(names: frozenset[bytes]) -> re.Pattern[bytes]:
    """Matches such a line and the line feed before it."""
    first = b"".join(re.escape(letter) for name in names for letter in (name[:1].lower(), name[:1].upper()))
    any_ = b"|".join(re.escape(name) for name in sorted(names))
    return re.compile(b"\n(?=[%b])(?i:%b):[^\n]*" % (first, any_))


def only(lines: bytes, names: frozenset[bytes]) -> bytes:
    """The lines of the named fields."""
    kept = [line for line in lines.split(b"\r\n") if line[: line.find(b":")].lower() in names]
    return b"\r\n".join([*kept, b""])


def join(headers: Headers) -> bytes:
    """Pairs as lines."""
    return b"".join([b"%b: %b\r\n" % field for field in headers])
