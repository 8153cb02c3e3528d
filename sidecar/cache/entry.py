"""Items of a cache: stored responses, and for keys whose responses differ by request fields, the names of these fields.

Everything that a look-up needs is computed when an entry is stored, so that a hit only compares numbers.  Instants are
seconds of a clock that never jumps (`Env.now`); the wall clock enters once, when `Date` and `Expires` are read.
"""

from __future__ import annotations

from collections.abc import Iterable
from math import inf
from typing import Final

from sidecar.cache.rfc.facts import Facts
from sidecar.cache.rfc.freshness import Plan
from sidecar.cache.rfc.key import is_keyed_by_fields, uri_of
from sidecar.cache.rfc.lines import only
from sidecar.cache.rfc.vary import FieldNames
from sidecar.core.message import Headers, parse_fields

IN_NOT_MODIFIED: Final = frozenset(
    (b"cache-control", b"cdn-cache-control", b"content-location", b"date", b"etag", b"expires", b"vary")
)
"""Fields of a 304 (RFC 9110 15.4.5)."""
OVERHEAD: Final = 640
"""Bytes that an entry takes beside key, fields and body: objects, table slots and indexes, with a reserve."""
TAG_OVERHEAD: Final = 300
"""Bytes that one tag takes, its place in the index included."""
MAX_TAGS: Final = 64
"""Tags of one entry; further ones are ignored."""
ARRIVING: Final = 1 << 60
"""Size in bytes of an entry whose body is still arriving: larger than any table stores."""
MAX_TAG: Final = 256
"""Bytes of the longest tag; longer ones are ignored."""


class Item:
    """Item stored under a key, with its links in the order of use (`sidecar.cache.lru`)."""

    __slots__ = ("is_keyed_by_fields", "keep_until", "key", "newer", "older", "size")

    def __init__(self, key: bytes, keep_until: float) -> None:
        self.key = key
        self.keep_until = keep_until
        """Instant after which the item is useless."""
        self.older: Item | None = None
        self.newer: Item | None = None
        self.size = 0
        """Bytes that the item takes of the cache's budget."""
        self.is_keyed_by_fields = False
        """True if the key holds request fields beside the URI, so that one rule has several keys for a URI."""

    @property
    def uri(self) -> bytes:
        """URI of the resource."""
        return uri_of(self.key)


class Entry(Item):
    """Stored response to a GET."""

    __slots__ = (
        "_not_modified",
        "body",
        "born",
        "date",
        "etag",
        "fresh_until",
        "hits",
        "immutable",
        "is_whole",
        "last_modified",
        "lines",
        "must_validate",
        "no_cache",
        "stale_if_error_until",
        "stale_until",
        "status",
        "tags",
        "vary",
    )

    def __init__(
        self, key: bytes, status: int, lines: bytes, body: bytes, facts: Facts, plan: Plan, age: float,
        now: float, wall: float, keep: float, is_keyed_by_fields: bool = False, is_whole: bool = True,
    ) -> None:  # fmt: skip
        """Make an entry of a response as received.  If it is not whole, no table stores it before `complete`.

        `lines` are sendable but for `Age`; `now` and `wall` are the instant of receipt on both clocks; `age` is the age
        at that instant, and `keep` how long the entry is kept beyond its freshness, all in seconds.
        """
        self.must_validate = plan.must_validate
        self.no_cache = plan.no_cache
        self.immutable = plan.immutable
        while_revalidate, if_error = plan.stale_while_revalidate, plan.stale_if_error
        self.born = now - age
        """Instant at which the response's age was zero, so that `Age` is a subtraction."""
        self.fresh_until = fresh_until = self.born + plan.lifetime
        self.stale_until = fresh_until + while_revalidate
        self.stale_if_error_until = fresh_until + if_error
        if while_revalidate > keep:
            keep = while_revalidate
        if if_error > keep:
            keep = if_error
        super().__init__(key, (fresh_until if fresh_until > now else now) + keep)
        self.is_keyed_by_fields = is_keyed_by_fields
        self.status = status
        self.lines = lines
        """Header lines, sendable but for `Age` and Cache-Status."""
        self.body = body
        self.etag = facts.etag
        self.last_modified = facts.last_modified
        """Last-Modified in seconds since 1970; None if it is absent."""
        self.date = wall if facts.date is None else facts.date
        """Date in seconds since 1970; the time of receipt if it is absent."""
        self.vary: FieldNames = facts.vary or ()
        """Request fields by which the response varies, sorted."""
        self.tags = tags_of(facts.tags) if facts.tags else ()
        """Tags by which the entry can be purged, in lower case."""
        self.hits = 0
        """Number of requests that were answered with this entry."""
        self._not_modified = b""
        self.is_whole = is_whole
        """True once the whole body has arrived."""
        self.size = OVERHEAD + len(body) + len(lines) + len(key)
        if is_keyed_by_fields or self.tags or not is_whole:
            self.recompute()

    def recompute(self) -> None:
        """Compute `size`, and drop cached values that depend on the other attributes."""
        indexes = len(self.tags) + self.is_keyed_by_fields
        size = OVERHEAD + len(self.body) + len(self.lines) + len(self.key) + TAG_OVERHEAD * indexes
        self.size = size if self.is_whole else ARRIVING
        self._not_modified = b""

    def complete(self, body: bytes) -> None:
        """Take the body, now that all of it has arrived."""
        self.body = body
        self.is_whole = True
        self.recompute()

    def change_key(self, key: bytes) -> None:
        """Change the key before the entry is stored."""
        self.key = key
        self.recompute()

    def expire(self, now: float) -> None:
        """End the freshness: from now on the entry may only be used stale, or after validation."""
        left = self.fresh_until - now
        if left > 0:
            self.fresh_until = now
            self.stale_until -= left

    @property
    def has_validator(self) -> bool:
        """True if the entry has an entity tag or Last-Modified."""
        return self.etag is not None or self.last_modified is not None

    @property
    def headers(self) -> Headers:
        """Header fields as pairs."""
        return parse_fields(self.lines)

    @property
    def not_modified(self) -> bytes:
        """Header lines of a 304, without `Age`."""
        if not self._not_modified:
            self._not_modified = only(self.lines, IN_NOT_MODIFIED)
        return self._not_modified

    def __repr__(self) -> str:
        return f"<Entry {self.status} {self.uri!r} {len(self.body)} bytes>"


class Variants(Item):
    """Item in place of an entry: the responses of its key differ by the named request fields (RFC 9111 4.1)."""

    __slots__ = ("keys", "names")

    def __init__(self, key: bytes, names: FieldNames) -> None:
        super().__init__(key, inf)
        self.names = names
        """Names of the request fields, in lower case and sorted."""
        self.keys: dict[bytes, None] = {}
        """Keys of the stored variants, oldest first; a dict for its order."""
        self.is_keyed_by_fields = is_keyed_by_fields(key)
        self.size = OVERHEAD + len(key) + TAG_OVERHEAD * self.is_keyed_by_fields

    def __repr__(self) -> str:
        return f"<Variants {self.uri!r} by {self.names} {len(self.keys)}>"


def tags_of(words: Iterable[bytes]) -> tuple[bytes, ...]:
    """Return the tags by which a response can be purged: words of Cache-Tag and Surrogate-Key, unique and bounded."""
    tags = (word.strip(b" \t") for word in words)
    return tuple(dict.fromkeys(tag for tag in tags if tag and len(tag) <= MAX_TAG))[:MAX_TAGS]
