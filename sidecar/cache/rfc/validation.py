"""Validation: conditional requests to the upstream and from clients (RFC 9111 4.3, RFC 9110 8.8 and 13).

The cache answers If-None-Match and, only in its absence, If-Modified-Since (13.2.2).  Requests with If-Match or
If-Unmodified-Since go to the origin (RFC 9111 4.3.2).  A malformed entity tag validates nothing.
"""

from __future__ import annotations

from typing import Final

from sidecar.cache.entry import Entry
from sidecar.cache.rfc.dates import parse_date
from sidecar.cache.rfc.etag import is_strong, is_tag, tags_of, weakly_equal
from sidecar.core.message import Headers, get, get_all

CONDITIONS: Final = frozenset(
    (b"if-none-match", b"if-modified-since", b"if-match", b"if-unmodified-since", b"if-range", b"range")
)
"""Request fields that ask for less than a whole response."""
NOT_UPDATED: Final = frozenset((b"content-length", b"content-range", b"age", b"cache-status"))
"""Fields of a 304 or a HEAD that leave the stored ones unchanged: those of RFC 9111 3.2, and the cache's own."""


def is_not_modified(entry: Entry, none_match: bytes | None, modified_since: bytes | None, now: float) -> bool:
    """True if the client holds this representation; `now` is in seconds since 1970."""
    if none_match is not None:  # 13.1.2; 13.2.2: If-Modified-Since is then ignored
        if none_match.strip() == b"*":
            return True
        tags = tags_of(none_match)
        return bool(tags and entry.etag and any(weakly_equal(entry.etag, tag) for tag in tags))
    if modified_since is None:
        return False
    since = parse_date(modified_since, now)
    if since is None:  # 13.1.3
        return False
    # RFC 9111 4.3.2: Date replaces an absent Last-Modified
    modified = entry.last_modified if entry.last_modified is not None else entry.date
    return modified <= since


def conditional(headers: Headers, entry: Entry) -> Headers:
    """Return the request's fields with the entry's validators as conditions (RFC 9111 4.3.1)."""
    fields = unconditional(headers)
    if entry.etag:
        fields.append((b"if-none-match", entry.etag))
    if entry.last_modified is not None and (modified := get(entry.headers, b"last-modified")) is not None:
        fields.append((b"if-modified-since", modified))
    return fields


def unconditional(headers: Headers) -> Headers:
    """Return the request's fields without conditions and range, so that the response is whole."""
    return [field for field in headers if field[0] not in CONDITIONS]


def is_same(entry: Entry, headers: Headers, now: float) -> bool:
    """True if a 304 is about this entry (RFC 9111 4.3.4).

    A 304 without validator answers the only condition that was sent, which was about this entry.
    """
    tag = get(headers, b"etag")
    if tag is not None and is_tag(tag):
        if is_strong(tag):
            return tag == entry.etag
        return entry.etag is not None and weakly_equal(tag, entry.etag)
    modified = get(headers, b"last-modified")
    return modified is None or parse_date(modified, now) == entry.last_modified


def is_same_by_head(entry: Entry, headers: Headers, now: float) -> bool:
    """True if the response to a HEAD agrees with this entry (RFC 9111 4.3.5)."""
    length = get(headers, b"content-length")
    return not is_replaced_by_head(entry, headers, now) and (length is None or length == b"%d" % len(entry.body))


def is_replaced_by_head(entry: Entry, headers: Headers, now: float) -> bool:
    """True if the validators in the response to a HEAD are those of another representation."""
    tag, modified = get(headers, b"etag"), get(headers, b"last-modified")
    return (tag is not None and tag != entry.etag) or (
        modified is not None and parse_date(modified, now) != entry.last_modified
    )


def freshened(stored: Headers, update: Headers, dropped: frozenset[bytes] = frozenset()) -> Headers:
    """Return the stored fields, replaced by those of the update (RFC 9111 3.2)."""
    new = [field for field in update if field[0] not in NOT_UPDATED and field[0] not in dropped]
    names = {name for name, _ in new}
    return [field for field in stored if field[0] not in names] + new


def own_cookies(update: Headers, stored: Headers) -> list[bytes]:
    """Return the cookies that a 304 sets for its client, if cookies are not stored."""
    return [] if get(stored, b"set-cookie") is not None else get_all(update, b"set-cookie")
