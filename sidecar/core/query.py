"""A query string, taken apart as forms are (the URL standard's `application/x-www-form-urlencoded`)."""

from __future__ import annotations

from urllib.parse import unquote_to_bytes


def decoded(part: bytes) -> bytes:
    """A name or value: `+` is a space, percent-encoded octets are decoded once."""
    return unquote_to_bytes(part.replace(b"+", b" "))


def parameter(query: bytes | None, name: bytes) -> list[bytes]:
    """The values of a query parameter, decoded."""
    found = []
    longest = 3 * len(name)  # an octet takes three when it is escaped
    for pair in query.split(b"&") if query else ():
        key, _, value = pair.partition(b"=")
        if key == name or (len(key) <= longest and (b"%" in key or b"+" in key) and decoded(key) == name):
            found.append(decoded(value) if b"%" in value or b"+" in value else value)
    return found
