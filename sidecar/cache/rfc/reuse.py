"""May a stored answer be used for this request, now (RFC 9111 4, 4.2.4 and 5.2.1)?

The request's directives are wishes ("prefers") that a cache can honour or overrule; the policy may tell it to ignore
them.  Honoured, they mean what they say, with two readings of ours: `no-store` goes past the cache, and `immutable`
(RFC 8246) answers a plain reload (`max-age=0`) while the answer is fresh, but not a forced one (`no-cache`).
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
"""Fields of a request that have a say in how it is answered from a store."""
HAS_SAY: Final = re.compile(rb"\n(?:cache-control|pragma|range|if-)", re.IGNORECASE)
"""Begins with a literal, which makes it a fifth as dear as looking for each name."""
ERRORS: Final = frozenset((500, 502, 503, 504))
"""RFC 5861 4."""
FRESH, STALE, REVALIDATE_BEHIND, VALIDATE = range(4)
"""Use it; use it, the request allows it stale; use it and fetch a new one meanwhile; do not use it as it is."""
NO_WISH: Final = NOTHING
"""What a request wishes that says nothing to caches."""

Fields = dict[bytes, bytes]


def read_fields(lines: bytes) -> Fields | None:
    """The fields of `READ`, repeated ones joined (RFC 9110 5.3); None if there are none, as in most requests."""
    if HAS_SAY.search(b"\n" + lines) is None:
        return None
    fields: Fields = {}
    for name, value in parse_fields(lines):
        if name in READ:
            fields[name] = fields[name] + b", " + value if name in fields else value
    return fields or None


def wishes(fields: Fields | None) -> Directives:
    """What the request says to caches.  `Pragma: no-cache` counts where there is no Cache-Control (RFC 9111 5.4)."""
    if fields is None:
        return NO_WISH
    control = fields.get(b"cache-control")
    if control is not None:
        return parse((control,))
    pragma = fields.get(b"pragma")
    return NO_CACHE if pragma is not None and b"no-cache" in pragma.lower() else NO_WISH


NO_CACHE: Final = parse((b"no-cache",))


def is_for_origin(fields: Fields) -> bool:
    """Does it bear conditions that only the origin may evaluate (RFC 9111 4.3.2)?"""
    return b"if-match" in fields or b"if-unmodified-since" in fields


def is_patient(wish: Directives) -> bool:
    """Will any fresh answer do?  Then it may come from a call that another request made."""
    return not wish.no_cache and wish.max_age is None and wish.min_fresh is None


def judge(entry: Entry, wish: Directives, now: float) -> int:
    """`FRESH`, `STALE`, `REVALIDATE_BEHIND` or `VALIDATE`."""
    if entry.no_cache or wish.no_cache:  # RFC 9111 5.2.2.4, 5.2.1.4
        return VALIDATE
    left = entry.fresh_until - now
    if wish.max_age is not None and now - entry.born > wish.max_age and not (entry.immutable and left > 0):  # 5.2.1.1
        return VALIDATE
    if wish.min_fresh is not None and left < wish.min_fresh:  # 5.2.1.3
        return VALIDATE
    if left > 0:
        return FRESH
    if entry.must_validate:  # 4.2.4
        return VALIDATE
    if wish.max_stale is not None and -left <= wish.max_stale:  # 5.2.1.2
        return STALE
    return REVALIDATE_BEHIND if now < entry.stale_until else VALIDATE  # RFC 5861 3


def may_stand_in(entry: Entry, wish: Directives, now: float) -> bool:
    """May it be used in place of an error (RFC 5861 4)?  A request can extend the time, or forbid it by `no-cache`."""
    if entry.no_cache or entry.must_validate or wish.no_cache:
        return False
    until = entry.stale_if_error_until
    if wish.stale_if_error is not None:
        until = max(until, entry.fresh_until + wish.stale_if_error)
    return now < max(until, entry.fresh_until)


def is_last_resort(entry: Entry, wish: Directives) -> bool:
    """May `fallback: [stale]` use it, however stale it is?"""
    return not (entry.no_cache or entry.must_validate or wish.no_cache)


def has_failed(outcome: Outcome) -> bool:
    """Is it an error for which something stale may stand in (RFC 5861 4)?"""
    return outcome.status in ERRORS if outcome.failure is None else outcome.failure.origin != "client"
