"""A body on its way to several readers and into the store.

While it is being kept for the store, its pieces are the same objects for all, so a slow reader costs nothing more and
holds up nobody; the source is read as fast as it comes.  When the body turns out too long, or too much is on its way
already, it goes on as a plain stream: the slowest reader sets the pace, and nobody can join any more.  What breaks off,
or ends before its announced length, is never kept.
"""

from __future__ import annotations

from collections.abc import Callable

from sidecar.core.body import Body
from sidecar.core.message import Headers
from sidecar.core.outcome import Failure

KEEPING, KEPT, LOST = range(3)


class Budget:
    """Bytes of bodies that may be on their way into one store at the same time."""

    __slots__ = ("limit", "taken")

    def __init__(self, limit: int) -> None:
        self.limit = limit
        self.taken = 0

    def take(self, size: int) -> bool:
        if self.taken + size > self.limit:
            return False
        self.taken += size
        return True

    def give(self, size: int) -> None:
        self.taken -= size


class Tee:
    """A sink for the upstream's body that feeds any number of readers, and `done` with the whole of it, or None."""

    __slots__ = ("_budget", "_done", "_limit", "_pieces", "_readers", "_size", "_source", "state")

    def __init__(self, source: Body, limit: int, budget: Budget, done: Callable[[bytes | None], None]) -> None:
        self._source: Body | None = source  # None at the end, as `_done`: both hold on to us
        self._limit = limit
        self._budget = budget
        self._done: Callable[[bytes | None], None] | None = done
        self.state = KEEPING
        self._pieces: list[bytes] = []
        self._size = 0
        self._readers: list[Reader] = []

    def start(self) -> None:
        if self._source is not None:
            self._source.attach(self)

    @property
    def is_open(self) -> bool:
        """Can readers join: is everything from the first byte on still there?"""
        return self.state == KEEPING

    def reader(self) -> Body:
        """One more body with the same content."""
        reader = Reader(self)
        body = reader.body = Body(reader, self._source.length if self._source is not None else self._size)
        for piece in self._pieces:
            body.feed(piece)
        self._readers.append(reader)
        return body

    # ----- what the upstream's body tells

    def write(self, data: bytes) -> None:
        if self.state == KEEPING:
            self._size += len(data)
            if self._size <= self._limit and self._budget.take(len(data)):
                self._pieces.append(data)
            else:
                self._end(LOST)
        for reader in tuple(self._readers):
            reader.body.feed(data)

    def finish(self, trailers: Headers) -> None:
        if self.state == KEEPING and self._source is not None:
            is_whole = self._source.length is None or self._source.length == self._size
            self._end(KEPT if is_whole else LOST)
        self._source = None
        readers, self._readers = self._readers, []
        for reader in readers:
            reader.body.finish(trailers)

    def fail(self, failure: Failure) -> None:
        if self.state == KEEPING:
            self._end(LOST)
        self._source = None
        readers, self._readers = self._readers, []
        for reader in readers:
            reader.body.fail(failure)

    def _end(self, state: int) -> None:
        pieces, self._pieces = self._pieces, []
        self.state = state
        self._budget.give(sum(map(len, pieces)))
        done, self._done = self._done, None
        if done is not None:
            done(None if state == LOST else pieces[0] if len(pieces) == 1 else b"".join(pieces))
        if state == LOST:
            self._go_on()

    # ----- what the readers say

    def pace(self) -> None:
        """Read on, unless somebody cannot take more and the rest is not kept."""
        if self._source is None:
            return
        if self.state == LOST and any(reader.is_paused for reader in self._readers):
            self._source.pause()
        else:
            self._source.resume()

    def leave(self, reader: Reader) -> None:
        if reader in self._readers:
            self._readers.remove(reader)
            self._go_on()

    def _go_on(self) -> None:
        if self._readers or self.state == KEEPING:
            self.pace()
        elif self._source is not None:
            self._source.cancel()


class Reader:
    """The source of one reader's body."""

    __slots__ = ("_tee", "body", "is_paused")

    def __init__(self, tee: Tee) -> None:
        self._tee = tee
        self.body: Body
        self.is_paused = False

    def pause_body(self) -> None:
        self.is_paused = True
        self._tee.pace()

    def resume_body(self) -> None:
        self.is_paused = False
        self._tee.pace()

    def cancel_body(self) -> None:
        self._tee.leave(self)
