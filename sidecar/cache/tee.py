"""Copies a body of the upstream to several readers and into the store.

Rules:

1. While the body is buffered for the store, its pieces are shared objects.  The upstream is read as fast as it sends: a
   slow reader costs no memory and delays nobody.
2. If the body exceeds the limit or the budget, buffering ends.  The body is then a plain stream at the pace of its
   slowest reader, and nobody can join.
3. A body that breaks off, or ends before its announced length, is never stored.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Final

from sidecar.core.body import Body
from sidecar.core.message import Headers
from sidecar.core.outcome import CLIENT_CLOSED, Failure

BUFFERING, STORED, UNSTORED = range(3)
TOO_LARGE: Final = b"too-large"
"""Refusal of a body that is longer than the limit."""
NO_ROOM: Final = b"no-room"
"""Refusal of a body for which the budget has no room at present."""
BROKEN_OFF: Final = b"broken-off"
"""Refusal of a body that broke off, or ended before its announced length."""


class ByteBudget:
    """Budget in bytes for all bodies that are buffered for one store at the same time."""

    __slots__ = ("limit", "used")

    def __init__(self, limit: int) -> None:
        self.limit = limit
        self.used = 0

    def reserve(self, size: int) -> bool:
        """Reserve `size` bytes.  Returns False, and reserves nothing, if the limit does not allow it."""
        if self.used + size > self.limit:
            return False
        self.used += size
        return True

    def release(self, size: int) -> None:
        """Return `size` reserved bytes."""
        self.used -= size


class Tee:
    """Sink for the upstream's body that feeds any number of readers.

    When buffering ends, `done` is called once: with the whole body, or with None if the body is not to be stored.
    """

    __slots__ = ("_budget", "_done", "_limit", "_pieces", "_readers", "_size", "_source", "refusal", "state")

    def __init__(self, source: Body, limit: int, budget: ByteBudget, done: Callable[[bytes | None], None]) -> None:
        self._source: Body | None = source  # None at the end, like `_done`: both would form a reference cycle
        self._limit = limit
        self._budget = budget
        self._done: Callable[[bytes | None], None] | None = done
        self.state = BUFFERING
        """`BUFFERING`, `STORED` or `UNSTORED`."""
        self.refusal = b""
        """Reason why the body is not stored, as a token; empty if it is stored."""
        self._pieces: list[bytes] = []
        self._size = 0
        self._readers: list[TeeReader] = []

    def start(self) -> None:
        """Begin to read the upstream's body."""
        if self._source is not None:
            self._source.attach(self)

    @property
    def is_open(self) -> bool:
        """True while readers can join, because every byte so far is still buffered."""
        return self.state == BUFFERING

    def reader(self) -> Body:
        """Return another body with the same content, from the first byte on."""
        reader = TeeReader(self)
        body = reader.body = Body(reader, self._source.length if self._source is not None else self._size)
        for piece in self._pieces:
            body.feed(piece)
        self._readers.append(reader)
        return body

    # ----- sink of the upstream's body

    def write(self, data: bytes) -> None:
        if self.state == BUFFERING:
            self._size += len(data)
            if self._size > self._limit:
                self._refuse(TOO_LARGE)
            elif not self._budget.reserve(len(data)):
                self._refuse(NO_ROOM)
            else:
                self._pieces.append(data)
        for reader in tuple(self._readers):
            reader.body.feed(data)

    def finish(self, trailers: Headers) -> None:
        if self.state == BUFFERING and self._source is not None:
            if self._source.length is None or self._source.length == self._size:
                self._end(STORED)
            else:
                self._refuse(BROKEN_OFF)
        source, self._source = self._source, None
        readers, self._readers = self._readers, []
        for reader in readers:
            if source is not None:
                reader.body.sensitive = source.sensitive
            reader.body.finish(trailers)

    def fail(self, failure: Failure) -> None:
        if self.state == BUFFERING:
            self._refuse(BROKEN_OFF)
        cause = "" if self._source is None else self._source.cause
        self._source = None
        readers, self._readers = self._readers, []
        for reader in readers:
            reader.body.fail(failure, cause)

    def _refuse(self, why: bytes) -> None:
        """End the buffering of a body that is not stored."""
        self.refusal = why
        self._end(UNSTORED)

    def _end(self, state: int) -> None:
        """End the buffering and hand over the body."""
        pieces, self._pieces = self._pieces, []
        self.state = state
        self._budget.release(sum(map(len, pieces)))
        done, self._done = self._done, None
        if done is not None:
            done(None if state == UNSTORED else pieces[0] if len(pieces) == 1 else b"".join(pieces))
        if state == UNSTORED:
            self._pace_or_cancel()

    # ----- calls by the readers

    def update_pace(self) -> None:
        """Resume the upstream, or pause it if a reader of an unstored body cannot take more."""
        if self._source is None:
            return
        if self.state == UNSTORED and any(reader.is_paused for reader in self._readers):
            self._source.pause()
        else:
            self._source.resume()

    def remove(self, reader: TeeReader) -> None:
        """Remove a reader that has left."""
        if reader in self._readers:
            self._readers.remove(reader)
            self._pace_or_cancel(reader.body.failure)

    def _pace_or_cancel(self, failure: Failure | None = None) -> None:
        """Cancel the upstream's body if it has no reader and is not buffered; else update its pace.

        `failure` says why the last reader has left; None if no reader has just left.
        """
        if self._readers or self.state == BUFFERING:
            self.update_pace()
        elif self._source is not None:
            self._source.cancel(failure or CLIENT_CLOSED)


class TeeReader:
    """Source of one reader's body."""

    __slots__ = ("_tee", "body", "is_paused")

    def __init__(self, tee: Tee) -> None:
        self._tee = tee
        self.body: Body
        self.is_paused = False

    def pause_body(self) -> None:
        self.is_paused = True
        self._tee.update_pace()

    def resume_body(self) -> None:
        self.is_paused = False
        self._tee.update_pace()

    def cancel_body(self) -> None:
        self._tee.remove(self)
