"""Items in order of use, as a list that is linked through the items themselves.

An `OrderedDict` has a separate node for each item, and looks each key up again.  With many items these memory accesses
are a good part of the cost of storing one.
"""

from __future__ import annotations

from collections.abc import Iterator

from sidecar.cache.entry import Item


class Recent:
    """Doubly linked list of items, least recently used first.  An item is in at most one such list."""

    __slots__ = ("newest", "oldest")

    def __init__(self) -> None:
        self.oldest: Item | None = None
        """Least recently used item; None if the list is empty."""
        self.newest: Item | None = None
        """Most recently used item; None if the list is empty."""

    def add(self, item: Item) -> None:
        """Append an item as the most recently used."""
        newest = self.newest
        item.older = newest
        if newest is None:
            self.oldest = item
        else:
            newest.newer = item
        self.newest = item

    def remove(self, item: Item) -> None:
        """Remove an item that is in the list."""
        older, newer = item.older, item.newer
        if older is None:
            self.oldest = newer
        else:
            older.newer = newer
        if newer is None:
            self.newest = older
        else:
            newer.older = older
        item.older = item.newer = None

    def touch(self, item: Item) -> None:
        """Make an item the most recently used."""
        if item is not self.newest:
            self.remove(item)
            self.add(item)

    def clear(self) -> None:
        """Remove all items and unlink each: reference cycles would wait for the garbage collector."""
        item, self.oldest, self.newest = self.oldest, None, None
        while item is not None:
            newer = item.newer
            item.older = item.newer = None
            item = newer

    def newest_first(self) -> Iterator[Item]:
        """Iterate from the most to the least recently used."""
        item = self.newest
        while item is not None:
            yield item
            item = item.older
