"""Raw field lines, searched and cut without splitting them into pairs.

Messages pass through unsplit (`sidecar.core.message`), and so do those that are stored.  All lines match the grammar,
and each ends with CRLF.
"""

from __future__ import annotations

import re
from functools import lru_cache

from sidecar.core.message import Headers


def values(lines: bytes, lower: bytes, name: bytes) -> list[bytes]:
    """Return all values of a field; `lower` is `lowered(lines)`, computed once for several names."""
    found = []
    needle = b"\n%b:" % name
    at = lower.find(needle)
    while at >= 0:
        start = at + len(needle) - 1  # `lower` has one byte more at its start
        found.append(lines[start : lines.index(b"\r\n", start)].strip(b" \t"))
        at = lower.find(needle, start)
    return found


def lowered(lines: bytes) -> bytes:
    r"""Return a line feed and the lines in lower case, so that `\nname:` occurs if and only if the field does."""
    return b"\n" + lines.lower()


def without(lines: bytes, names: frozenset[bytes]) -> bytes:
    """Return the lines without those of the named fields."""
    return _lines_of(names).sub(b"", b"\n" + lines)[1:]


@lru_cache(maxsize=256)
def _lines_of(names: frozenset[bytes]) -> re.Pattern[bytes]:
    """Return a pattern for a line of one of the fields, with the line feed before it."""
    first = b"".join(re.escape(letter) for name in names for letter in (name[:1].lower(), name[:1].upper()))
    any_ = b"|".join(re.escape(name) for name in sorted(names))
    return re.compile(b"\n(?=[%b])(?i:%b):[^\n]*" % (first, any_))


def only(lines: bytes, names: frozenset[bytes]) -> bytes:
    """Return the lines of the named fields."""
    kept = [line for line in lines.split(b"\r\n") if line[: line.find(b":")].lower() in names]
    return b"\r\n".join([*kept, b""])


def join(headers: Headers) -> bytes:
    """Return pairs of name and value as field lines."""
    return b"".join([b"%b: %b\r\n" % field for field in headers])
