"""Items in the order in which they were last used, as a list that is linked through the items themselves.

An ordered dictionary has a node of its own for each item, somewhere else in memory, and asks its table again and again
where that is: with 60 000 items this is a good part of what storing one costs.
"""

from __future__ import annotations

from collections.abc import Iterator

from sidecar.cache.entry import Item


class Recent:
    """The oldest item, the newest, and all between them.  An item is in one such list at most."""

    __slots__ = ("newest", "oldest")

    def __init__(self) -> None:
        self.oldest: Item | None = None
        self.newest: Item | None = None

    def add(self, item: Item) -> None:
        """As the newest."""
        newest = self.newest
        item.older = newest
        if newest is None:
            self.oldest = item
        else:
            newest.newer = item
        self.newest = item

    def remove(self, item: Item) -> None:
        """Take one out that is in."""
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
        """It has been used just now."""
        if item is not self.newest:
            self.remove(item)
            self.add(item)

    def clear(self) -> None:
        """Take all out: those that hold on to each other would wait for the garbage collector."""
        item, self.oldest, self.newest = self.oldest, None, None
        while item is not None:
            newer = item.newer
            item.older = item.newer = None
            item = newer

    def newest_first(self) -> Iterator[Item]:
        item = self.newest
        while item is not None:
            yield item
            item = item.older
