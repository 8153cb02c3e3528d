"""Canonical paths, the readings of a path by different servers, and query strings.

Rules:

1. Paths are compared in their canonical form (RFC 3986 6.2.2): escapes of unreserved characters are decoded, and the
   other escapes have capital digits.  Case and a trailing slash are significant.
2. Some paths are read differently by different servers.  Such a path is matched under every reading.  If the readings
   lead to different routes, the path matches none.
3. A path with a NUL, or with a dot segment under any reading, matches no route.

`docs/design/paths.md` gives the reasons.
"""

from __future__ import annotations

import re
from collections.abc import Callable
from functools import lru_cache
from typing import Final
from urllib.parse import quote, unquote, unquote_to_bytes

_UNRESERVED: Final = frozenset(b"ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789-._~")
_ODD_ESCAPE: Final = re.compile(
    rb"%(?:[a-f][0-9A-Fa-f]|[0-9A-F][a-f]|2[DE]|3[0-9]|4[1-9A-F]|5[0-9AF]|6[1-9A-F]|7[0-9AE])"
)
"""Escape that is not canonical: it has a small digit, or encodes an unreserved character."""
_DIGITS: Final = "0123456789ABCDEFabcdef"
_DECODED: Final = {
    f"%{high}{low}".encode(): bytes((octet,)) if octet in _UNRESERVED else f"%{octet:02X}".encode()
    for high in _DIGITS
    for low in _DIGITS
    for octet in (int(high + low, 16),)
}
SPECIAL: Final = b"%;\\"
"""Octets that may give a path several readings.  So do `//`, and a dot after a slash."""
MAX_BYTES: Final = 8192
"""Longest path whose readings are determined, in bytes.  RFC 9112 3 recommends at least 8000 octets."""
_DOTS: Final = re.compile(rb"/\.\.?(?:/|$)|%00|\x00")
_PARAMETERS: Final = re.compile(rb"(?:;|%3B)[^/]*")
_SLASHES: Final = re.compile(rb"//+")
_ESCAPED_SLASHES: Final = re.compile(rb"%2F|%5C|\\")
_DISPUTED: Final = re.compile(rb"%2[5F]|%5C|%3B|[;\\]|//")


def canonical(path: bytes) -> bytes:
    """Return the canonical form of a path (RFC 3986 6.2.2.1, 6.2.2.2)."""
    return _ODD_ESCAPE.sub(lambda escape: _DECODED[escape[0]], path)


_REREADINGS: Final[tuple[Callable[[bytes], bytes], ...]] = (
    lambda path: canonical(path.replace(b"%25", b"%")),  # decoded twice
    lambda path: _ESCAPED_SLASHES.sub(b"/", path),  # decoded before it is split; backslash as separator (Windows)
    lambda path: _PARAMETERS.sub(b"", path),  # path parameters dropped, as servlet containers do
    lambda path: _SLASHES.sub(b"/", path),  # empty segments dropped
)


def readings(path: bytes) -> list[bytes]:
    """Return all readings of a path, the canonical form first; an empty list for a path that matches no route."""
    if len(path) > MAX_BYTES:
        return []
    found = [canonical(path)]
    if _DISPUTED.search(found[0]):
        for reread in _REREADINGS:  # a server may apply any of these: all combinations, 16 at most
            found += [again for known in found if (again := reread(known)) not in found]
    return [] if any(map(_DOTS.search, found)) else found


def literal(path: str) -> bytes:
    """Return the canonical form of a path in a policy file.  Raises `ValueError` with the remedy."""
    if not path.startswith("/"):
        raise ValueError(f'must start with a slash: write "/{path}"')
    if "?" in path or "#" in path:
        raise ValueError("has a query or a fragment; write the path only, and conditions on the query under `query`")
    if "*" in path:
        raise ValueError("has a `*`, which means nothing here; write `path_prefix`, or a template such as /orders/{id}")
    canon = canonical(quote(path, safe="/%:@!$&'()*+,;=~\\").encode())
    if re.search(rb"%(?![0-9A-F]{2})", canon):
        raise ValueError("has a `%` that begins no escape; write it as %25")
    if readings(canon) != [canon]:
        raise ValueError(
            "is read differently by different servers; "
            "leave out dot segments, empty segments, `;`, `\\`, %2F, %5C and %25"
        )
    return canon


def text(segment: bytes) -> str:
    """Return a captured part of a path as text, percent-decoded; octets that are not UTF-8 are replaced."""
    return unquote(segment.decode("utf-8", "replace")) if b"%" in segment else segment.decode("utf-8", "replace")


# ----- query strings


def decoded(part: bytes) -> bytes:
    """Return a decoded name or value of a query: `+` is a space, percent-encoded octets are decoded once."""
    return unquote_to_bytes(part.replace(b"+", b" "))


LONG_QUERY: Final = 1024
"""Bytes above which a query is parsed only once for all routes with a condition on a parameter."""


@lru_cache(maxsize=4)
def _parameters(query: bytes) -> dict[bytes, list[bytes]]:
    """Return the decoded values of all parameters by name."""
    found: dict[bytes, list[bytes]] = {}
    for pair in query.split(b"&"):
        key, _, value = pair.partition(b"=")
        if b"%" in pair or b"+" in pair:
            key, value = decoded(key), decoded(value)
        found.setdefault(key, []).append(value)
    return found


def parameter(query: bytes | None, name: bytes) -> list[bytes]:
    """Return the decoded values of a query parameter.  Callers must not change the list."""
    if query is not None and len(query) > LONG_QUERY:
        return _parameters(query).get(name, [])
    found = []
    longest = 3 * len(name)  # if every octet is percent-encoded
    for pair in query.split(b"&") if query else ():
        key, _, value = pair.partition(b"=")
        if key == name or (len(key) <= longest and (b"%" in key or b"+" in key) and decoded(key) == name):
            found.append(decoded(value) if b"%" in value or b"+" in value else value)
    return found
