"""Fields of responses that state a rate limit, as complete lines.

- `structured`: `RateLimit` and `RateLimit-Policy` (draft-ietf-httpapi-ratelimit-headers, RFC 9651).  They are lists, so
  the lines of several limits, and those of a service behind the sidecar, add up.
- `separate`: `RateLimit-Limit`, `RateLimit-Remaining` and `RateLimit-Reset`, as early versions of the draft had them.

Of a rate limit, the quota is the capacity, and its window the time in which an empty bucket fills: a client that
spreads the quota over the window is never refused.
"""

from __future__ import annotations

from math import ceil
from typing import Final

STRUCTURED: Final = "structured"
SEPARATE: Final = "separate"
SEPARATE_NAMES: Final = (b"ratelimit-limit", b"ratelimit-remaining", b"ratelimit-reset")


class FieldLines:
    """Writer of the field lines of one limit."""

    __slots__ = ("_between", "_end", "_start")

    def __init__(self, name: str, quota: int, window: float, form: str) -> None:
        """Take the name of the limit, its window in seconds, and the form, `STRUCTURED` or `SEPARATE`."""
        if form == SEPARATE:
            self._start = b"ratelimit-limit: %d\r\nratelimit-remaining: " % quota
            self._between = b"\r\nratelimit-reset: "
            self._end = b"\r\n"
        else:
            self._start = b'ratelimit: "%b";r=' % name.encode()
            self._between = b";t="
            self._end = b'\r\nratelimit-policy: "%b";q=%d;w=%d\r\n' % (
                name.encode(), quota, max(1, ceil(window - 1e-6))
            )  # fmt: skip

    def write(self, remaining: int, seconds: float) -> bytes:
        """Return the lines, for requests that remain and the seconds until the whole quota is available."""
        return b"%b%d%b%d%b" % (self._start, remaining, self._between, ceil(seconds), self._end)
