"""Values of Cache-Status (RFC 9211): a list to which each cache on the way adds what it did."""

from __future__ import annotations

from typing import Final, Literal

FIELD: Final = b"cache-status"
NAME: Final = b"sidecar"
"""Name of this cache in the list."""

Forward = Literal["bypass", "method", "uri-miss", "vary-miss", "miss", "request", "stale", "partial"]
"""Reasons why a request went towards the origin (RFC 9211 2.2)."""


def hit(ttl: float, detail: bytes = b"") -> bytes:
    """Return the value for a response from the store; `ttl` is the freshness left, negative if it is stale (2.4)."""
    if detail:
        return b"%b; hit; ttl=%d; detail=%b" % (NAME, ttl, detail)
    return b"%b; hit; ttl=%d" % (NAME, ttl)


def forwarded(
    why: Forward, status: int = 0, *, stored: bool = False, collapsed: bool = False, ttl: float | None = None,
    detail: bytes = b"",
) -> bytes:  # fmt: skip
    """Return the value for a request that went towards the origin.

    `status` is the origin's response where the client gets another one (2.3), 0 otherwise; `ttl` is the freshness left.
    """
    value = b"%b; fwd=%b" % (NAME, why.encode())
    if status:
        value += b"; fwd-status=%d" % status
    if ttl is not None:
        value += b"; ttl=%d" % ttl
    if stored:
        value += b"; stored"
    if collapsed:
        value += b"; collapsed"
    if detail:
        value += b"; detail=%b" % detail
    return value


class StoredLine:
    """Line of Cache-Status for a fetched and stored response, kept between uses since it rarely changes."""

    __slots__ = ("_line", "_ttl", "_why")

    def __init__(self) -> None:
        self._why: Forward = "miss"
        self._ttl = -1
        self._line = b""

    def line(self, why: Forward, ttl: int) -> bytes:
        """Return the line for a reason and a freshness in whole seconds."""
        if ttl != self._ttl or why != self._why:
            self._why, self._ttl = why, ttl
            self._line = b"%b: %b\r\n" % (FIELD, forwarded(why, stored=True, ttl=ttl))
        return self._line
