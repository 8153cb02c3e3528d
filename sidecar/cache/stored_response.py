"""Responses made from a stored entry: whole, head only, 304, or a part of it."""

from __future__ import annotations

from sidecar.cache.entry import Entry
from sidecar.cache.rfc.lines import join
from sidecar.cache.rfc.ranges import is_applicable, parse_ranges, partial
from sidecar.cache.rfc.reuse import Fields
from sidecar.cache.rfc.validation import is_not_modified
from sidecar.core.exchange import Exchange
from sidecar.core.outcome import Outcome


def make_response(entry: Entry, x: Exchange, fields: Fields | None, now: float, wall: float, status: bytes) -> Outcome:
    """Return the response to a request from a complete entry.

    `fields` are those of `read_fields`, `wall` is in seconds since 1970, `status` is the value of Cache-Status.
    Preconditions come before the range (RFC 9110 13.2.2), and both apply to a 200 only (13.2.1, 14.2).
    """
    if fields is not None and entry.status == 200:
        if is_held_by_client(entry, fields, wall):
            return not_modified(entry, now, status)
        asked = fields.get(b"range")
        if asked is not None and x.method == b"GET" and is_applicable(fields.get(b"if-range"), entry, wall):
            ranges = parse_ranges(asked, len(entry.body))
            if ranges is not None:
                code, headers, body = partial(entry, ranges)
                return Outcome(code, None, body, lines=with_age(join(headers), entry, now, status))
    lines = with_age(entry.lines, entry, now, status)
    if x.method == b"HEAD":
        return Outcome(entry.status, lines=b"%bcontent-length: %d\r\n" % (lines, len(entry.body)))
    return Outcome(entry.status, None, entry.body, lines)


def is_held_by_client(entry: Entry, fields: Fields | None, wall: float) -> bool:
    """True if the request's conditions show that the client holds this representation."""
    if fields is None or entry.status != 200:
        return False
    return is_not_modified(entry, fields.get(b"if-none-match"), fields.get(b"if-modified-since"), wall)


def not_modified(entry: Entry, now: float, status: bytes) -> Outcome:
    """Return the 304 for an entry (RFC 9110 15.4.5)."""
    return Outcome(304, lines=with_age(entry.not_modified, entry, now, status))


def with_age(lines: bytes, entry: Entry, now: float, status: bytes) -> bytes:
    """Return the stored lines with `Age` (RFC 9111 4 and 5.1) and Cache-Status."""
    return b"%bage: %d\r\ncache-status: %b\r\n" % (lines, int(max(0.0, now - entry.born)), status)
