"""Fields of responses that state a rate limit, as complete lines.

- `structured`: `RateLimit` and `RateLimit-Policy` (draft-ietf-httpapi-ratelimit-headers, RFC 9651).  They are lists, so
  the lines of several limits, and those of a service behind the sidecar, add up.
- `separate`: `RateLimit-Limit`, `RateLimit-Remaining` and `RateLimit-Reset`, as early versions of the draft had them.

Of a rate limit, the quota is the capacity, and its window the time in which an empty bucket fills: a client that
spreads the quota over the window is never refused.  A limit that counts the size of answers is stated in bytes, with
the draft's quota unit `content-bytes`.  Larger numbers than structured fields have are stated as the largest.
"""

from __future__ import annotations

from math import ceil, inf
from typing import Final

from sidecar.core.message import Headers, get, parse_fields, without
from sidecar.core.outcome import Outcome, append_lines

STRUCTURED: Final = "structured"
SEPARATE: Final = "separate"
SEPARATE_NAMES: Final = (b"ratelimit-limit", b"ratelimit-remaining", b"ratelimit-reset")
DIGITS: Final = 15
"""Most digits of an integer of structured fields (RFC 9651 3.3.1)."""
LARGEST: Final = 999_999_999_999_999
"""Largest integer of structured fields."""
UNIT: Final = 1000
LAST: Final = tuple([b"%03d" % number for number in range(UNIT)])
"""Last three digits of a number: formatting costs more than a look-up."""


def state_limit(outcome: Outcome, lines: object, form: str) -> Outcome:
    """Append the lines of a limit to an outcome.

    Of the separate fields, there is one set: those of the limit with the least left, here or in the answer.  Those of a
    stored answer are of another time, and do not count.
    """
    if isinstance(lines, bytes):
        if form == SEPARATE and any(outcome.header(name) is not None for name in SEPARATE_NAMES):
            is_stored = outcome.header(b"age") is not None
            if not is_stored and remaining_of(outcome.headers) < remaining_of(parse_fields(lines)):
                return outcome
            outcome.headers = without(outcome.headers, *SEPARATE_NAMES)
        append_lines(outcome, lines)
    return outcome


def remaining_of(fields: Headers) -> float:
    """Return the number in RateLimit-Remaining; infinite without one."""
    value = get(fields, SEPARATE_NAMES[1]) or b""
    return float(value) if value.isdigit() and len(value) <= DIGITS else inf


class FieldLines:
    """Writer of the field lines of one limit.  Parts of the lines that were written last are used again."""

    __slots__ = ("_between", "_end", "_rest_of", "_start", "_unit", "first", "floor", "rest")

    def __init__(self, name: str, quota: int, window: float, form: str, unit: int = 0) -> None:
        """Take the name of the limit, its window in seconds, and the form, `STRUCTURED` or `SEPARATE`.

        `unit` is how many bytes of an answer count as one; 0 if requests count.
        """
        self._unit = max(1, unit)
        quota = min(quota * self._unit, LARGEST)
        if form == SEPARATE:
            self._start = b"ratelimit-limit: %d\r\nratelimit-remaining: " % quota
            self._between = b"\r\nratelimit-reset: "
            self._end = b"\r\n"
        else:
            self._start = b'ratelimit: "%b";r=' % name.encode()
            self._between = b";t="
            what = b';qu="content-bytes"' if unit else b""
            self._end = b'\r\nratelimit-policy: "%b";q=%d%b;w=%d\r\n' % (
                name.encode(), quota, what, max(1, ceil(window - 1e-6))
            )  # fmt: skip
        self.first = self._start
        """Beginning of the lines, up to the last three digits of the requests that remain."""
        self.floor = 0
        """Requests that remain according to that beginning, with zeros as the last digits; 0 if there is none."""
        self.rest = b""
        """Lines behind the requests that remain; empty before the first."""
        self._rest_of = -1
        """Seconds in that rest."""

    def write(self, remaining: int, seconds: int) -> bytes:
        """Return the lines, for requests that remain and whole seconds until the whole quota is available."""
        if self._unit > 1:
            remaining = min(remaining * self._unit, LARGEST)
        if seconds != self._rest_of:
            self._rest_of = seconds
            self.rest = b"%b%d%b" % (self._between, seconds, self._end)
        if remaining < UNIT:
            return b"%b%d%b" % (self._start, remaining, self.rest)
        floor = remaining - remaining % UNIT
        if floor != self.floor:
            self.floor = floor
            self.first = b"%b%d" % (self._start, floor // UNIT)
        return self.first + LAST[remaining - floor] + self.rest
