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


def stored(why: Forward, ttl: float) -> bytes:
    """The most common of these: went on, and the answer was stored."""
    return _STORED[why] % ttl


_STORED: Final[dict[Forward, bytes]] = {
    why: b"%b; fwd=%b; ttl=%%d; stored" % (NAME, why.encode())
    for why in ("bypass", "method", "uri-miss", "vary-miss", "miss", "request", "stale", "partial")
}
