"""Verdicts on stored entries: use for a request at an instant (RFC 9111 4, 4.2.4 and 5.2.1).

A policy decides if the directives of a request are honoured.  Two readings go beyond the RFC: `no-store` bypasses the
cache, and `immutable` (RFC 8246) answers a reload (`max-age=0`) while the response is fresh, but not a forced one
(`no-cache`).
"""

from __future__ import annotations

import re
from typing import Final

from sidecar.cache.entry import Entry
from sidecar.cache.rfc.directives import NOTHING, Directives, parse
from sidecar.core.message import parse_fields
from sidecar.core.outcome import Outcome

READ: Final = frozenset(
    (
        b"cache-control", b"pragma", b"range", b"if-range", b"if-none-match", b"if-modified-since", b"if-match",
        b"if-unmodified-since",
    )
)  # fmt: skip
"""Request fields that decide how a request is answered from a store."""
CACHE_FIELD: Final = re.compile(rb"\n(?:cache-control|pragma|range|if-)", re.IGNORECASE)
"""Matches a field of `READ`.  The pattern begins with a literal, which is found much faster than alternatives."""
ERRORS: Final = frozenset((500, 502, 503, 504))
"""Statuses that a stale response may replace (RFC 5861 4)."""
FRESH, STALE, REFRESH, VALIDATE = range(4)
"""Verdicts: use the entry; use it stale, as the request allows; use it and refresh it in the background; validate it
first."""
NO_DIRECTIVES: Final = NOTHING
"""Directives of a request without cache fields."""

Fields = dict[bytes, bytes]


def read_fields(lines: bytes) -> Fields | None:
    """Return the fields of `READ`, repeated ones joined (RFC 9110 5.3); None without any, as in most requests."""
    if CACHE_FIELD.search(b"\n" + lines) is None:
        return None
    fields: Fields = {}
    for name, value in parse_fields(lines):
        if name in READ:
            fields[name] = fields[name] + b", " + value if name in fields else value
    return fields or None


def request_directives(fields: Fields | None) -> Directives:
    """Return the cache directives of a request.

    `Pragma: no-cache` counts if there is no Cache-Control (RFC 9111 5.4).
    """
    if fields is None:
        return NO_DIRECTIVES
    control = fields.get(b"cache-control")
    if control is not None:
        return parse((control,))
    pragma = fields.get(b"pragma")
    return NO_CACHE if pragma is not None and b"no-cache" in pragma.lower() else NO_DIRECTIVES


NO_CACHE: Final = parse((b"no-cache",))


def is_for_origin(fields: Fields) -> bool:
    """True if the request has conditions that only the origin may evaluate (RFC 9111 4.3.2)."""
    return b"if-match" in fields or b"if-unmodified-since" in fields


def accepts_shared(asked: Directives) -> bool:
    """True if the request accepts any fresh response, also that of a fetch in flight for another request."""
    return not asked.no_cache and asked.max_age is None and asked.min_fresh is None


def judge(entry: Entry, asked: Directives, now: float) -> int:
    """Return the verdict on an entry: `FRESH`, `STALE`, `REFRESH` or `VALIDATE`."""
    if entry.no_cache or asked.no_cache:  # RFC 9111 5.2.2.4, 5.2.1.4
        return VALIDATE
    left = entry.fresh_until - now
    if asked.max_age is not None and now - entry.born > asked.max_age and not (entry.immutable and left > 0):  # 5.2.1.1
        return VALIDATE
    if asked.min_fresh is not None and left < asked.min_fresh:  # 5.2.1.3
        return VALIDATE
    if left > 0:
        return FRESH
    if entry.must_validate:  # 4.2.4
        return VALIDATE
    if asked.max_stale is not None and -left <= asked.max_stale:  # 5.2.1.2
        return STALE
    return REFRESH if now < entry.stale_until else VALIDATE  # RFC 5861 3


def can_replace_error(entry: Entry, asked: Directives, now: float) -> bool:
    """True if the entry may be used in place of an error (RFC 5861 4).

    A request can extend the time by `stale-if-error`, or forbid the use by `no-cache`.
    """
    if entry.no_cache or entry.must_validate or asked.no_cache:
        return False
    until = entry.stale_if_error_until
    if asked.stale_if_error is not None:
        until = max(until, entry.fresh_until + asked.stale_if_error)
    return now < max(until, entry.fresh_until)


def is_last_resort(entry: Entry, asked: Directives) -> bool:
    """True if `fallback: [stale]` may use the entry, however stale it is."""
    return not (entry.no_cache or entry.must_validate or asked.no_cache)


def has_failed(outcome: Outcome) -> bool:
    """True if the outcome is an error that a stale response may replace (RFC 5861 4)."""
    return outcome.status in ERRORS if outcome.failure is None else outcome.failure.origin != "client"
