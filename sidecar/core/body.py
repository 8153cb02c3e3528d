"""A body on its way from one connection to another: pushed, not pulled, with back-pressure.

The reading side feeds pieces; they go straight to the attached sink, in the same turn of the loop, without a task, a
queue or a future.  Without a sink they are kept, and the source is paused at `HIGH_WATER`: memory per body is bounded
by that and one read of the socket.

A request's body can be recorded while it streams (`record`), up to a limit; as long as it fits, `rewind` lets the next
attempt send it again from the start.  One sink at a time; hedges therefore need a body that is whole (`Exchange.body`).

Every body ends exactly once: whole (`finish`), broken by the sender (`fail`) or given up by the reader (`cancel`).
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Final, Protocol

from sidecar.core.http1 import CHUNKED, ChunkedDecoder
from sidecar.core.message import Headers
from sidecar.core.outcome import CLIENT_CLOSED, Failure

HIGH_WATER: Final = 64 * 1024
OPEN, WHOLE, BROKEN, CANCELLED = range(4)


class Source(Protocol):
    """Where a body comes from: a connection that can stop reading.  Pausing and resuming may be said twice."""

    def pause_body(self) -> None: ...
    def resume_body(self) -> None: ...
    def cancel_body(self) -> None:
        """Nobody wants the rest."""


class Sink(Protocol):
    """Where a body goes.  None of the three may raise."""

    def write(self, data: bytes) -> None: ...
    def finish(self, trailers: Headers) -> None: ...
    def fail(self, failure: Failure) -> None: ...


class Body:
    """The body of one message.  `length` is its Content-Length in bytes, None where unknown."""

    __slots__ = (
        "_limit",
        "_listeners",
        "_paused",
        "_pieces",
        "_record",
        "_sink",
        "_size",
        "cause",
        "failure",
        "length",
        "received",
        "source",
        "state",
        "trailers",
    )  # fmt: skip

    def __init__(self, source: Source | None = None, length: int | None = None) -> None:
        self.source = source
        self.length = length
        self.received = 0
        self.state = OPEN
        self.failure: Failure | None = None
        self.cause = ""
        """Words on what broke the body off, for logs."""
        self.trailers: Headers = []
        self._pieces: list[bytes] = []
        self._size = 0
        self._sink: Sink | None = None
        self._paused = False
        self._limit = -1
        self._record: list[bytes] | None = None
        self._listeners: list[Callable[[Failure | None], None]] = []

    # ----- the sender's side

    def feed(self, data: bytes) -> None:
        """The next piece has arrived."""
        self.received += len(data)
        if self._record is not None:
            if self.received > self._limit:
                self._record = None
            else:
                self._record.append(data)
        if self._sink is not None:
            self._sink.write(data)
        elif self.state == OPEN:
            self._pieces.append(data)
            self._size += len(data)
            if self._size >= HIGH_WATER:
                self.pause()

    def finish(self, trailers: Headers | None = None) -> None:
        """The last piece has arrived."""
        if self.state != OPEN:
            return
        self.state = WHOLE
        if trailers:
            self.trailers = trailers
        self._close(None)  # first: whoever is told by the sink that all is over finds everything settled
        if self._sink is not None:
            self._sink.finish(self.trailers)

    def fail(self, failure: Failure, cause: str = "") -> None:
        """The sender broke off; `cause` says how, for logs."""
        if self.state != OPEN:
            return
        self.state = BROKEN
        self.failure = failure
        self.cause = cause
        self._close(failure)
        if self._sink is not None:
            self._sink.fail(failure)

    # ----- the reader's side

    def attach(self, sink: Sink) -> None:
        """Send what has arrived and all that follows to the sink."""
        self._sink = sink
        pieces, self._pieces, self._size = self._pieces, [], 0
        was_paused, self._paused = self._paused, False  # a pause from here on is the sink's own and holds
        for piece in pieces:
            sink.write(piece)
        if self._sink is not sink:
            return
        if self.state == WHOLE:
            sink.finish(self.trailers)
        elif self.state == BROKEN and self.failure is not None:
            sink.fail(self.failure)
        elif was_paused and not self._paused and self.source is not None:
            self.source.resume_body()

    def detach(self) -> None:
        """The sink is gone; what arrives from now on is kept again."""
        self._sink = None

    def pause(self) -> None:
        """The reader cannot take more for now."""
        if not self._paused and self.state == OPEN:
            self._paused = True
            if self.source is not None:
                self.source.pause_body()

    def resume(self) -> None:
        """The reader can take more."""
        if self._paused:
            self._paused = False
            if self.source is not None and self.state == OPEN:
                self.source.resume_body()

    def cancel(self) -> None:
        """The reader does not want the rest."""
        self._sink = None
        self._pieces.clear()
        self._size = 0
        self._record = None
        if self.state == OPEN:
            self.state = CANCELLED
            if self.source is not None:
                self.source.cancel_body()
            self._close(CLIENT_CLOSED)

    def on_close(self, listener: Callable[[Failure | None], None]) -> None:
        """Call `listener` once when the body has ended: with None if it is whole, else with what broke it."""
        if self.state == OPEN:
            self._listeners.append(listener)
        else:
            listener(CLIENT_CLOSED if self.state == CANCELLED else self.failure)

    def _close(self, failure: Failure | None) -> None:
        self.source = None  # it may hold on to us, and what holds on to each other waits for the garbage collector
        listeners, self._listeners = self._listeners, []
        for listener in listeners:
            listener(failure)

    # ----- sending a request's body again

    def record(self, limit: int) -> None:
        """Keep up to `limit` bytes for another try; call it before the first attach.  A larger limit wins."""
        if limit <= self._limit or max(self.received, self.length or 0) > limit or not self.is_replayable:
            return
        self._limit = limit
        if self._record is None:
            self._record = list(self._pieces)

    @property
    def is_replayable(self) -> bool:
        """Has nothing been lost since the start, and is there still a sender?"""
        if self.state == BROKEN or self.state == CANCELLED:
            return False
        return self._record is not None or (self._sink is None and self.received == self._size)

    def rewind(self) -> None:
        """Start again from the first byte; only where `is_replayable`."""
        self._sink = None
        if self._record is not None:
            self._pieces = list(self._record)
            self._size = sum(map(len, self._pieces))
            if self._size < HIGH_WATER:
                self.resume()

    # ----- taking a body whole

    def whole(self) -> bytes:
        """All of a body that has arrived whole and has no sink."""
        return b"".join(self._pieces)

    def __repr__(self) -> str:
        state = ("open", "whole", "broken", "cancelled")[self.state]
        return f"<Body {state} {self.received}/{'?' if self.length is None else self.length}>"


# ----- from the bytes of a connection

UNTIL_CLOSE: Final = -2
"""A length beside bytes and `CHUNKED`: the body ends with the connection."""


class BodyReader:
    """Reads one body off a connection and pushes it into `body`."""

    __slots__ = ("_decoder", "_left", "body", "rest", "trailers")

    def __init__(self, body: Body, length: int) -> None:
        """`length` is in bytes, or `CHUNKED`, or `UNTIL_CLOSE`."""
        self.body = body
        self.rest = b""
        """Once it is whole: what followed it."""
        self.trailers: Headers = []
        self._decoder = ChunkedDecoder() if length == CHUNKED else None
        self._left = length

    @property
    def ends_with_the_connection(self) -> bool:
        return self._left == UNTIL_CLOSE

    def feed(self, data: bytes) -> bool:
        """Push the next bytes on; is the body whole now?  To say so to `body` (`finish`) is left to the caller, which
        brings itself in order first.  Raises `Invalid`."""
        decoder = self._decoder
        if decoder is not None:
            pieces = decoder.feed(data)
            if decoder.done:
                self.rest, self.trailers = decoder.rest, decoder.trailers
            if pieces:
                self.body.feed(pieces[0] if len(pieces) == 1 else b"".join(pieces))
            return decoder.done
        left = self._left
        if left >= 0:
            if len(data) > left:
                self.rest = data[left:]
                data = data[:left]
            self._left = left = left - len(data)
        if data:
            self.body.feed(data)
        return left == 0
