"""Validators: conditional requests made, answered and understood (RFC 9111 4.3, RFC 9110 8.8 and 13).

Entity tags are compared as RFC 9110 8.8.3.2 says and read strictly: what is not an entity tag validates nothing.  The
cache answers `If-None-Match` and, only in its absence, `If-Modified-Since` (13.2.2); `If-Match` and
`If-Unmodified-Since` are for the origin (RFC 9111 4.3.2), requests that bear them go to it.
"""

from __future__ import annotations

from typing import Final

from sidecar.cache.entry import Entry
from sidecar.cache.rfc.dates import parse_date
from sidecar.cache.rfc.etag import is_strong, is_tag, tags_of, weakly_equal
from sidecar.core.headers import get, get_all
from sidecar.core.message import Headers

CONDITIONS: Final = frozenset(
    (b"if-none-match", b"if-modified-since", b"if-match", b"if-unmodified-since", b"if-range", b"range")
)
NOT_UPDATED: Final = frozenset((b"content-length", b"content-range", b"age", b"cache-status"))
"""Fields of a 304 or a HEAD that leave the stored ones as they are: RFC 9111 3.2, and ours."""


def is_not_modified(entry: Entry, none_match: bytes | None, modified_since: bytes | None, now: float) -> bool:
    """Does the client have it already?  `now` in seconds since 1970."""
    if none_match is not None:  # 13.1.2, and 13.2.2: the other one is then ignored
        if none_match.strip() == b"*":
            return True
        tags = tags_of(none_match)
        return bool(tags and entry.etag and any(weakly_equal(entry.etag, tag) for tag in tags))
    if modified_since is None:
        return False
    since = parse_date(modified_since, now)
    if since is None:  # 13.1.3
        return False
    # RFC 9111 4.3.2: Date stands in for an absent Last-Modified
    modified = entry.last_modified if entry.last_modified is not None else entry.date
    return modified <= since


def conditional(headers: Headers, entry: Entry) -> Headers:
    """The request's fields with the entry's validators for conditions (RFC 9111 4.3.1)."""
    fields = unconditional(headers)
    if entry.etag:
        fields.append((b"if-none-match", entry.etag))
    if entry.last_modified is not None and (modified := get(entry.headers, b"last-modified")) is not None:
        fields.append((b"if-modified-since", modified))
    return fields


def unconditional(headers: Headers) -> Headers:
    """The request's fields without any condition or range: what fills a cache has to be whole."""
    return [field for field in headers if field[0] not in CONDITIONS]


def is_same(entry: Entry, headers: Headers, now: float) -> bool:
    """Does a 304 speak of this entry (RFC 9111 4.3.4)?

    One without any validator answers the only question that was asked, which was about this entry.
    """
    tag = get(headers, b"etag")
    if tag is not None and is_tag(tag):
        if is_strong(tag):
            return tag == entry.etag
        return entry.etag is not None and weakly_equal(tag, entry.etag)
    modified = get(headers, b"last-modified")
    return modified is None or parse_date(modified, now) == entry.last_modified


def is_same_by_head(entry: Entry, headers: Headers, now: float) -> bool:
    """Does the answer to a HEAD agree with this entry (RFC 9111 4.3.5)?"""
    tag, modified, length = (get(headers, name) for name in (b"etag", b"last-modified", b"content-length"))
    return (
        (tag is None or tag == entry.etag)
        and (modified is None or parse_date(modified, now) == entry.last_modified)
        and (length is None or length == b"%d" % len(entry.body))
    )


def freshened(stored: Headers, update: Headers, dropped: frozenset[bytes] = frozenset()) -> Headers:
    """The stored fields, those that the update has replaced by it (RFC 9111 3.2)."""
    new = [field for field in update if field[0] not in NOT_UPDATED and field[0] not in dropped]
    names = {name for name, _ in new}
    return [field for field in stored if field[0] not in names] + new


def own_cookies(update: Headers, stored: Headers) -> list[bytes]:
    """Cookies that a 304 sets for its client, where they are not stored."""
    return [] if get(stored, b"set-cookie") is not None else get_all(update, b"set-cookie")
