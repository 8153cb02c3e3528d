"""`Cache-Status` (RFC 9211): what this cache did, one member of a list that each cache on the way adds to."""

from __future__ import annotations

from typing import Final, Literal

FIELD: Final = b"cache-status"
NAME: Final = b"sidecar"

Forward = Literal["bypass", "method", "uri-miss", "vary-miss", "miss", "request", "stale", "partial"]
"""Why a request went on towards the origin (RFC 9211 2.2)."""


def hit(ttl: float, detail: bytes = b"") -> bytes:
    """Answered from the store; `ttl` is the freshness left, negative for a stale answer (2.4)."""
    if detail:
        return b"%b; hit; ttl=%d; detail=%b" % (NAME, ttl, detail)
    return b"%b; hit; ttl=%d" % (NAME, ttl)


def forwarded(
    why: Forward, status: int = 0, *, stored: bool = False, collapsed: bool = False, ttl: float | None = None,
    detail: bytes = b"",
) -> bytes:  # fmt: skip
    """Went on towards the origin, which answered with `status` where that is not what the client sees (2.3)."""
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


class Stored:
    """The line of the field for the most common of these: it went on, and the answer was stored.  Mostly that is the
    same line as the last time."""

    __slots__ = ("_line", "_ttl", "_why")

    def __init__(self) -> None:
        self._why: Forward = "miss"
        self._ttl = -1
        self._line = b""

    def line(self, why: Forward, ttl: int) -> bytes:
        if ttl != self._ttl or why != self._why:
            self._why, self._ttl = why, ttl
            self._line = b"%b: %b\r\n" % (FIELD, forwarded(why, stored=True, ttl=ttl))
        return self._line
