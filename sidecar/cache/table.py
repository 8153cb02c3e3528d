"""Memory of a cache: items by key within a budget of bytes, evicted in order of least recent use.  No I/O.

Rules:

1. An item counts with all of its memory: key, fields, body, tags, slots.  An item of more than a quarter of the budget
   is not stored, so that one body cannot empty the cache.
2. There are no timers.  An expired item is removed when it is looked up, or evicted as the least recently used.
3. The cost of a purge by tag or URI depends on the number of removed items.  Most keys are a rule's namespace and a
   URI, so a purge tries one key for each rule (`namespaces`).  Keys with request fields, and tags, have an index.  A
   purge by prefix looks at every key.
4. Eviction removes some hundred small items at once (`SPARE`).  Items stored in sequence are mostly neighbours in
   memory; freeing them together costs less than one by one.
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
"""Variants stored for one key, at most; a further one replaces the oldest."""
VARIANT_OVERHEAD: Final = 120
"""Bytes that a place in the list of variants takes, beside the key."""
SPARE: Final = 128 * 1024
"""Bytes evicted beyond what is needed, at most; a 512th of the budget if that is less."""
HOTTEST_AMONG: Final = 2000
"""Most recently used items among which the hottest are searched: a report must not stall the loop."""


class Table:
    """Items by key."""

    def __init__(self, max_bytes: int, evictions: Counter | None = None) -> None:
        self.max_bytes = max_bytes
        """Budget in bytes."""
        self.bytes = 0
        """Bytes of the budget that the stored items take."""
        self.evictions = evictions or Counter()
        self._items: dict[bytes, Item] = {}
        self._recent = Recent()
        self.namespaces: frozenset[bytes] = frozenset()
        """Prefixes of the keys of every rule that has stored in this table (`KeyRule.namespace`)."""
        self._uris: dict[bytes, set[bytes]] = {}
        """Keys that hold request fields, by URI."""
        self._tags: dict[bytes, set[bytes]] = {}
        """Keys of the entries that have a tag, by tag."""

    def get(self, key: bytes, now: float) -> Item | None:
        """Return the unexpired item under a key, now the most recently used; None if there is none."""
        item = self._items.get(key)
        if item is None:
            return None
        if item.keep_until < now:
            self.remove(key)
            return None
        self._recent.touch(item)
        return item

    def peek(self, key: bytes) -> Item | None:
        """Return the item under a key, without counting that as use; None if there is none."""
        return self._items.get(key)

    def put(self, item: Item) -> bool:
        """Store an item under its key and make room.  Returns False if the item is too large."""
        self.remove(item.key)
        return self.fits(item) and self.add(item) is None

    def fits(self, item: Item) -> bool:
        """True if the item is small enough to be stored."""
        return 4 * item.size <= self.max_bytes

    def largest(self) -> int:
        """Return the size in bytes of the largest item that can be stored."""
        return self.max_bytes // 4

    def add(self, item: Item) -> Item | None:
        """Store an item that fits, if nothing is stored under its key.

        Returns None if the item was stored, else the item that already has this key.
        """
        key = item.key
        known = self._items.setdefault(key, item)
        if known is not item:
            return known
        limit = self.max_bytes if self.bytes <= self.max_bytes else self.bytes
        self._recent.add(item)
        self.bytes += item.size
        if item.is_keyed_by_fields:
            self._uris.setdefault(item.uri, set()).add(key)
        if isinstance(item, Entry) and item.tags:
            for tag in item.tags:
                self._tags.setdefault(tag, set()).add(key)
        if self.bytes > limit:
            self._evict(limit)
        return None

    def add_variant(self, variants: Variants, key: bytes) -> None:
        """Add the key of a stored response to the list of variants."""
        if self._items.get(variants.key) is not variants:  # evicted to make room for this variant
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
        """Remove the item under a key, with its variants.  Returns the number of items removed."""
        item = self._items.pop(key, None)
        return 0 if item is None else self._unlink(item)

    def _unlink(self, item: Item) -> int:
        """Remove an item, which is no longer in the table, from the order of use and the indexes, with its variants.

        Returns the number of items removed.
        """
        key = item.key
        self._recent.remove(item)
        self.bytes -= item.size
        if item.is_keyed_by_fields:
            _leave(self._uris, item.uri, key)
        if isinstance(item, Entry):
            if item.tags:
                for tag in item.tags:
                    _leave(self._tags, tag, key)
        elif isinstance(item, Variants):
            return 1 + sum(self.remove(variant) for variant in item.keys)
        return 1

    def _evict(self, limit: int) -> None:
        """Make room down to `limit` bytes.

        The table exceeds its budget only while a lowered budget takes effect (`shrink`).  A new item then makes room
        only for itself.
        """
        if self.bytes > limit:
            if limit == self.max_bytes:
                limit -= min(limit >> 9, SPARE)
            while self.bytes > limit:
                self._evict_one()

    def _evict_one(self) -> None:
        oldest = self._recent.oldest
        assert oldest is not None
        del self._items[oldest.key]
        self._unlink(oldest)
        self.evictions.value += 1

    # ----- purging and looking

    def remove_uri(self, uri: bytes) -> int:
        """Remove all items of a URI.  Returns their number."""
        return self._remove_all([*(namespace + uri for namespace in self.namespaces), *self._uris.get(uri, ())])

    def remove_prefix(self, prefix: bytes) -> int:
        """Remove all items whose URI starts with the prefix.  Returns their number."""
        return self._remove_all([key for key in self._items if key.startswith(prefix, key.find(b" ") + 1)])

    def remove_tag(self, tag: bytes) -> int:
        """Remove all entries with the tag.  Returns their number."""
        return self._remove_all(self._tags.get(tag, ()))

    def stored_namespaces(self) -> frozenset[bytes]:
        """Return the namespaces of the stored keys."""
        return frozenset(key[: key.find(b" ") + 1] for key in list(self._items))

    def remove_everything(self) -> int:
        """Remove all items.  Returns their number."""
        count = len(self._items)
        for index in (self._items, self._uris, self._tags):
            index.clear()
        self._recent.clear()
        self.bytes = 0
        return count

    def _remove_all(self, keys: Iterable[bytes]) -> int:
        return sum(self.remove(key) for key in list(keys))

    def shrink(self, most: int) -> bool:
        """Evict up to `most` items after the budget was lowered.  Returns True if more items exceed it."""
        while self.bytes > self.max_bytes and most:
            self._evict_one()
            most -= 1
        return self.bytes > self.max_bytes

    def hottest(self, count: int) -> list[Entry]:
        """Return the entries with the most hits among the recently used ones."""
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
