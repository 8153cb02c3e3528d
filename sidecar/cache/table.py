"""What is stored in memory: entries by key within a budget of bytes, the least recently used leaving first.  No I/O.

Rules:

1. Everything counts: an entry its key, fields, body, tags and table slots; a note on variants likewise.  What is more
   than a quarter of the budget is not stored: one body must not empty the store.
2. No timers: an entry past its use is dropped when it is met, or leaves as the least recently used.
3. Purging by tag or URI costs what it removes.  A key is mostly the name of its rule and the URI: of these a purge
   tries one for each rule (`namespaces`).  Those that say more, and tags, have an index that lives and dies with the
   entries.  To purge a prefix looks at each key.
4. Room is made for some hundred entries at once: those that were stored one after another mostly lie so in memory, and
   to let go of them together costs less than one by one, with other work between (`SPARE`).
"""

from __future__ import annotations

from collections.abc import Iterable
from heapq import nlargest
from itertools import islice
from typing import Final

from sidecar.cache.entry import Entry, Item, Variants
from sidecar.cache.lru import Recent
from sidecar.core.metrics import Counter

MAX_VARIANTS: Final = 64
"""Answers kept side by side for one key; beyond it the oldest goes."""
VARIANT_OVERHEAD: Final = 120
"""Bytes of a place in the list of variants, beside the key."""
SPARE: Final = 128 * 1024
"""Bytes that are let go of beyond what is needed, at most; a 512th of the budget if that is less.  Of small answers
that is 0.05 ms of work."""
HOTTEST_AMONG: Final = 2000
"""Entries, the most recently used, among which the hottest are looked for: a report must not stop the loop."""


class Table:
    """Entries by key."""

    def __init__(self, max_bytes: int, evictions: Counter | None = None) -> None:
        self.max_bytes = max_bytes
        self.bytes = 0
        self.evictions = evictions or Counter()
        self._items: dict[bytes, Item] = {}
        self._recent = Recent()
        self.namespaces: frozenset[bytes] = frozenset()
        """What the keys of each rule begin with that ever stored here (`KeyRule.namespace`)."""
        self._uris: dict[bytes, set[bytes]] = {}
        """The keys that are more than namespace and URI."""
        self._tags: dict[bytes, set[bytes]] = {}

    def peek(self, key: bytes, now: float) -> Item | None:
        """What is stored under a key, which thereby becomes the most recently used."""
        item = self._items.get(key)
        if item is None:
            return None
        if item.keep_until < now:
            self.remove(key)
            return None
        self._recent.touch(item)
        return item

    def get(self, key: bytes) -> Item | None:
        """What is stored under a key, which thereby is not used."""
        return self._items.get(key)

    def put(self, item: Item) -> bool:
        """Store under `item.key`, making room; False if it is too large to be stored."""
        self.remove(item.key)
        return self.fits(item) and self.add(item) is None

    def fits(self, item: Item) -> bool:
        """Is it small enough to be stored?"""
        return 4 * item.size <= self.max_bytes

    def add(self, item: Item) -> Item | None:
        """Store what fits where nothing is stored under its key: None; else what is stored there."""
        key = item.key
        known = self._items.setdefault(key, item)
        if known is not item:
            return known
        limit = self.max_bytes if self.bytes <= self.max_bytes else self.bytes
        self._recent.add(item)
        self.bytes += item.size
        if item.is_one_of_several:
            self._uris.setdefault(item.uri, set()).add(key)
        if isinstance(item, Entry) and item.tags:
            for tag in item.tags:
                self._tags.setdefault(tag, set()).add(key)
        if self.bytes > limit:
            self._evict(limit)
        return None

    def add_variant(self, variants: Variants, key: bytes) -> None:
        """Remember that an answer of these variants is stored under a key of its own."""
        if self._items.get(variants.key) is not variants:  # it had to make room for its own variant
            self.remove(key)
            return
        size = variants.size
        if key not in variants.keys:
            variants.size += len(key) + VARIANT_OVERHEAD
        variants.keys.pop(key, None)
        variants.keys[key] = None
        if len(variants.keys) > MAX_VARIANTS:
            oldest = next(iter(variants.keys))
            del variants.keys[oldest]
            variants.size -= len(oldest) + VARIANT_OVERHEAD
            self.remove(oldest)
        limit = self.max_bytes if self.bytes <= self.max_bytes else self.bytes
        self.bytes += variants.size - size
        self._evict(limit)

    def remove(self, key: bytes) -> int:
        """Drop what is stored under a key, with its variants.  How many items that were."""
        item = self._items.pop(key, None)
        return 0 if item is None else self._forget(item)

    def _forget(self, item: Item) -> int:
        """It has left the table: what else there is of it goes too."""
        key = item.key
        self._recent.remove(item)
        self.bytes -= item.size
        if item.is_one_of_several:
            _leave(self._uris, item.uri, key)
        if isinstance(item, Entry):
            if item.tags:
                for tag in item.tags:
                    _leave(self._tags, tag, key)
        elif isinstance(item, Variants):
            return 1 + sum(self.remove(variant) for variant in item.keys)
        return 1

    def _evict(self, limit: int) -> None:
        """Make room.  More than the budget is stored only while a lowered one takes effect (`shrink`); who comes then
        makes room for itself alone."""
        if self.bytes > limit:
            if limit == self.max_bytes:
                limit -= min(limit >> 9, SPARE)
            while self.bytes > limit:
                self._evict_one()

    def _evict_one(self) -> None:
        oldest = self._recent.oldest
        assert oldest is not None
        del self._items[oldest.key]
        self._forget(oldest)
        self.evictions.value += 1

    # ----- purging and looking

    def remove_uri(self, uri: bytes) -> int:
        """Drop all that is stored for a URI."""
        return self._remove_all([*(namespace + uri for namespace in self.namespaces), *self._uris.get(uri, ())])

    def remove_prefix(self, prefix: bytes) -> int:
        """Drop all whose URI starts so."""
        return self._remove_all([key for key in self._items if key.startswith(prefix, key.find(b" ") + 1)])

    def remove_tag(self, tag: bytes) -> int:
        """Drop all that bears a tag."""
        return self._remove_all(self._tags.get(tag, ()))

    def stored_namespaces(self) -> frozenset[bytes]:
        """What the keys begin with that are there now."""
        return frozenset(key[: key.find(b" ") + 1] for key in list(self._items))

    def remove_everything(self) -> int:
        count = len(self._items)
        for index in (self._items, self._uris, self._tags):
            index.clear()
        self._recent.clear()
        self.bytes = 0
        return count

    def _remove_all(self, keys: Iterable[bytes]) -> int:
        return sum(self.remove(key) for key in list(keys))

    def shrink(self, most: int) -> bool:
        """Evict at most so many items of those that do not fit; are there more?  For a budget that was lowered."""
        while self.bytes > self.max_bytes and most:
            self._evict_one()
            most -= 1
        return self.bytes > self.max_bytes

    def hottest(self, count: int) -> list[Entry]:
        """The entries with the most hits among the recently used ones."""
        recent = (item for item in islice(self._recent.newest_first(), HOTTEST_AMONG) if isinstance(item, Entry))
        return nlargest(count, recent, key=lambda entry: entry.hits)

    def __len__(self) -> int:
        return len(self._items)

    def __repr__(self) -> str:
        return f"<Table {len(self)} items {self.bytes}/{self.max_bytes} bytes>"


def _leave(index: dict[bytes, set[bytes]], name: bytes, key: bytes) -> None:
    index[name].discard(key)
    if not index[name]:
        del index[name]
