"""A stored answer, with all that a look-up needs worked out when it is stored: a hit then only compares numbers.

Instants are seconds of a clock that never jumps (`Env.now`); wall clock time enters once, when the answer's `Date` and
`Expires` are read.  `born` is the instant at which the answer was 0 seconds old: `Age` is a subtraction.
"""

from __future__ import annotations

from collections.abc import Iterable
from math import inf
from typing import Final

from sidecar.cache.rfc.facts import Facts
from sidecar.cache.rfc.freshness import Plan
from sidecar.cache.rfc.key import is_more_than_uri, uri_of
from sidecar.cache.rfc.lines import only
from sidecar.cache.rfc.vary import Names
from sidecar.core.message import Headers, parse_fields

IN_NOT_MODIFIED: Final = frozenset(
    (b"cache-control", b"cdn-cache-control", b"content-location", b"date", b"etag", b"expires", b"vary")
)
"""RFC 9110 15.4.5."""
OVERHEAD: Final = 640
"""Bytes that an entry costs beside its key, fields and body: objects, tables, indexes (measured, and a sixth more)."""
TAG_OVERHEAD: Final = 300
"""Bytes of a tag, with its place in the index."""
MAX_TAGS: Final = 64
MAX_TAG: Final = 256
"""Bytes of a tag."""


class Item:
    """What is stored under a key, in its place in the order of use (`sidecar.cache.lru`)."""

    __slots__ = ("is_one_of_several", "keep_until", "key", "newer", "older", "size")

    def __init__(self, key: bytes, keep_until: float) -> None:
        self.key = key
        self.keep_until = keep_until
        """Until when it is of use."""
        self.older: Item | None = None
        self.newer: Item | None = None
        self.size = 0
        """Bytes that it counts for."""
        self.is_one_of_several = False
        """Has its rule other keys of the same URI?"""

    @property
    def uri(self) -> bytes:
        """Of what it is the answer."""
        return uri_of(self.key)


class Entry(Item):
    """An answer to a GET."""

    __slots__ = (
        "_not_modified",
        "body",
        "born",
        "date",
        "etag",
        "fresh_until",
        "hits",
        "immutable",
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
        now: float, wall: float, keep: float, is_one_of_several: bool = False,
    ) -> None:  # fmt: skip
        """`lines` are ready to be sent but for `Age`; `now` and `wall` are the instant of receipt on both clocks, and
        `age` is how old it was then."""
        self.must_validate = plan.must_validate
        self.no_cache = plan.no_cache
        self.immutable = plan.immutable
        while_revalidate, if_error = plan.stale_while_revalidate, plan.stale_if_error
        self.born = now - age
        self.fresh_until = fresh_until = self.born + plan.lifetime
        self.stale_until = fresh_until + while_revalidate
        self.stale_if_error_until = fresh_until + if_error
        if while_revalidate > keep:
            keep = while_revalidate
        if if_error > keep:
            keep = if_error
        super().__init__(key, (fresh_until if fresh_until > now else now) + keep)  # for validation, or as a last resort
        self.is_one_of_several = is_one_of_several
        self.status = status
        self.lines = lines
        self.body = body
        self.etag = facts.etag
        self.last_modified = facts.last_modified
        """Seconds since 1970."""
        self.date = wall if facts.date is None else facts.date
        """Seconds since 1970."""
        self.vary: Names = facts.vary or ()
        self.tags = tags_of(facts.tags) if facts.tags else ()
        self.hits = 0
        self._not_modified = b""
        self.size = OVERHEAD + len(body) + len(lines) + len(key)
        if is_one_of_several or self.tags:
            self.ready()

    def ready(self) -> None:
        """Work out what follows from the rest: `size`, the bytes that it counts for, and what is made on demand."""
        indexes = len(self.tags) + self.is_one_of_several
        self.size = OVERHEAD + len(self.body) + len(self.lines) + len(self.key) + TAG_OVERHEAD * indexes
        self._not_modified = b""

    def become(self, key: bytes) -> None:
        """It is to be stored under another key."""
        self.key = key
        self.ready()

    @property
    def has_validator(self) -> bool:
        return self.etag is not None or self.last_modified is not None

    @property
    def headers(self) -> Headers:
        """The fields as pairs."""
        return parse_fields(self.lines)

    @property
    def not_modified(self) -> bytes:
        """The lines of a 304, without `Age`."""
        if not self._not_modified:
            self._not_modified = only(self.lines, IN_NOT_MODIFIED)
        return self._not_modified

    def __repr__(self) -> str:
        return f"<Entry {self.status} {self.uri!r} {len(self.body)} bytes>"


class Variants(Item):
    """In place of an entry: the answers of this key differ by these fields (RFC 9111 4.1)."""

    __slots__ = ("keys", "names")

    def __init__(self, key: bytes, names: Names) -> None:
        super().__init__(key, inf)
        self.names = names
        self.keys: dict[bytes, None] = {}
        """Of the variants, oldest first."""
        self.is_one_of_several = is_more_than_uri(key)
        self.size = OVERHEAD + len(key) + TAG_OVERHEAD * self.is_one_of_several

    def __repr__(self) -> str:
        return f"<Variants {self.uri!r} by {self.names} {len(self.keys)}>"


def tags_of(words: Iterable[bytes]) -> tuple[bytes, ...]:
    """What an answer can be purged by: the words of `Cache-Tag` and `Surrogate-Key`, each once and within bounds."""
    tags = (word.strip(b" \t") for word in words)
    return tuple(dict.fromkeys(tag for tag in tags if tag and len(tag) <= MAX_TAG))[:MAX_TAGS]
