"""Body: streams the content of one message from a connection to a sink, with backpressure.

Rules:

1. The receiving connection feeds pieces.  They go to the attached sink in the same turn of the loop, without a task, a
   queue or a future.
2. Without a sink, pieces are buffered.  The source is paused at `HIGH_WATER`, so a body takes at most that and one read
   of the socket.
3. A body has one sink at a time.  Hedges therefore need a body that is complete (`Exchange.body`).
4. A body can be recorded while it streams (`record`), up to a limit.  While it fits, `rewind` lets the next attempt
   send a request's body again from the start, and `recorded` has a response's body in the end.
5. A body ends exactly once: complete (`finish`), broken off by its sender (`fail`) or cancelled by its reader
   (`cancel`).
"""

from __future__ import annotations

from collections.abc import Callable
from math import inf
from typing import Final, Protocol

from sidecar.core.http1 import CHUNKED, ChunkedDecoder
from sidecar.core.message import Headers, fold
from sidecar.core.outcome import CLIENT_CLOSED, NOT_MARKED, Failure

HIGH_WATER: Final = 64 * 1024
"""Buffered bytes at which the source is paused."""
SMALL: Final = 1024
"""Bytes below which a piece that is kept is joined with the next."""
OPEN, COMPLETE, BROKEN, CANCELLED = range(4)
"""States of a body; it stays in each of the last three."""


def add_piece(pieces: list[bytes], data: bytes) -> None:
    """Add a piece to those that are kept.  Pieces of a few bytes would take many times their size in memory."""
    if pieces and len(pieces[-1]) < SMALL:
        pieces[-1] += data
    else:
        pieces.append(data)


class Source(Protocol):
    """Origin of a body: a connection that can stop reading.  Pausing and resuming are idempotent."""

    def pause_body(self) -> None: ...
    def resume_body(self) -> None: ...
    def cancel_body(self) -> None:
        """Discard the rest of the body; the body's `failure` says why."""


class Sink(Protocol):
    """Destination of a body.  Its methods never raise."""

    def write(self, data: bytes) -> None: ...
    def finish(self, trailers: Headers) -> None: ...
    def fail(self, failure: Failure) -> None: ...


class Body:
    """Body of one message.  `length` is its Content-Length in bytes, None if unknown."""

    __slots__ = (
        "_barred",
        "_limit",
        "_listeners",
        "_paused",
        "_pieces",
        "_record",
        "_sink",
        "_size",
        "blocked_seconds",
        "blocked_since",
        "cause",
        "failure",
        "length",
        "received",
        "sensitive",
        "source",
        "state",
        "trailers",
        "verdict",
    )  # fmt: skip

    def __init__(self, source: Source | None = None, length: int | None = None) -> None:
        self.source = source
        """Connection that the body comes from; None once the body has ended."""
        self.length = length
        self.received = 0
        """Bytes of content that have arrived."""
        self.state = OPEN
        self.failure: Failure | None = None
        """Failure that ended the body; None while it is open, and if it is complete."""
        self.cause = ""
        """Description of what broke the body off, for logs; empty unless it is broken."""
        self.blocked_seconds = 0.0
        """Seconds for which the client has delayed the body, by not sending or not reading it."""
        self.blocked_since = inf
        """Instant at which the current delay by the client began; infinite without one."""
        self.trailers: Headers = []
        self.verdict = 0
        """Verdict on the message (`Outcome.verdict`) that its trailers have brought; 0 without one."""
        self.sensitive = NOT_MARKED
        """Names of the trailers that came as never indexed, as `Outcome.sensitive`."""
        self._barred: frozenset[bytes] | None = None
        self._pieces: list[bytes] = []
        self._size = 0
        self._sink: Sink | None = None
        self._paused = False
        self._limit = -1
        self._record: list[bytes] | None = None
        self._listeners: list[Callable[[Failure | None], None]] = []

    # ----- called by the sender

    def feed(self, data: bytes) -> None:
        """Pass the next piece to the sink, or buffer it if there is none."""
        self.received += len(data)
        if self._record is not None:
            if self.received > self._limit:
                self._record = None
            else:
                add_piece(self._record, data)
        if self._sink is not None:
            self._sink.write(data)
        elif self.state == OPEN:
            add_piece(self._pieces, data)
            self._size += len(data)
            if self._size >= HIGH_WATER:
                self.pause()

    def finish(self, trailers: Headers | None = None) -> None:
        """End the body as complete."""
        if self.state != OPEN:
            return
        self.state = COMPLETE
        if trailers:
            self.trailers = trailers
            if self._barred is not None:
                self.bar_trailers(self._barred)
        self._close(None)  # before the sink, whose owner may rely on what the listeners have settled
        sink, self._sink = self._sink, None  # breaks a reference cycle, as in _close
        if sink is not None:
            sink.finish(self.trailers)

    def bar_trailers(self, names: frozenset[bytes]) -> None:
        """Drop the trailers with these folded names, which a policy has removed from the fields too."""
        self._barred = names
        self.trailers = [field for field in self.trailers if fold(field[0]) not in names]

    def fail(self, failure: Failure, cause: str = "") -> None:
        """End the body as broken off by its sender; `cause` describes the error for logs."""
        if self.state != OPEN:
            return
        self.state = BROKEN
        self.failure = failure
        self.cause = cause
        self._close(failure)
        sink, self._sink = self._sink, None
        if sink is not None:
            sink.fail(failure)

    # ----- called by the reader

    def attach(self, sink: Sink) -> None:
        """Send the buffered pieces and all that follow to `sink`."""
        self._sink = sink
        pieces, self._pieces, self._size = self._pieces, [], 0
        was_paused, self._paused = self._paused, False  # pauses by an earlier sink no longer count
        for piece in pieces:
            sink.write(piece)
        if self._sink is not sink:
            return
        if self.state == COMPLETE:
            self._sink = None
            sink.finish(self.trailers)
        elif self.state == BROKEN and self.failure is not None:
            self._sink = None
            sink.fail(self.failure)
        elif was_paused and not self._paused and self.source is not None:
            self.source.resume_body()

    def detach(self) -> None:
        """Remove the sink; further pieces are buffered."""
        self._sink = None

    def put_back(self, data: bytes) -> None:
        """Buffer a piece again that a sink has got, before all others; the sink must be detached."""
        self._pieces.insert(0, data)
        self._size += len(data)
        if self._size >= HIGH_WATER:
            self.pause()

    def pause(self) -> None:
        """Pause the source; without effect while it is paused, and once the body has ended."""
        if not self._paused and self.state == OPEN:
            self._paused = True
            if self.source is not None:
                self.source.pause_body()

    def resume(self) -> None:
        """Resume the source; without effect unless it is paused."""
        if self._paused:
            self._paused = False
            if self.source is not None and self.state == OPEN:
                self.source.resume_body()

    @property
    def left(self) -> int:
        """Bytes that have yet to arrive; 0 if the length is unknown."""
        return 0 if self.length is None else self.length - self.received

    # ----- delays by the client, measured by the connection to the upstream

    def block(self, now: float) -> None:
        """Record that the client delays the body from now on.  Idempotent."""
        if self.blocked_since == inf:
            self.blocked_since = now

    def unblock(self, now: float) -> None:
        """Record that the client no longer delays the body.  Idempotent."""
        self.blocked_seconds = self.blocked_for(now)
        self.blocked_since = inf

    def blocked_for(self, now: float) -> float:
        """Return the seconds for which the client has delayed the body until `now`."""
        return self.blocked_seconds + max(0.0, now - self.blocked_since)

    def cancel(self, failure: Failure = CLIENT_CLOSED) -> None:
        """Discard the rest of the body; `failure` says why the client does not get it."""
        self._sink = None
        self._pieces.clear()
        self._size = 0
        self._record = None
        if self.state == OPEN:
            self.state = CANCELLED
            self.failure = failure
            if self.source is not None:
                self.source.cancel_body()
            self._close(failure)

    def on_close(self, listener: Callable[[Failure | None], None]) -> None:
        """Call `listener` once the body has ended: with None if it is complete, else with its failure."""
        if self.state == OPEN:
            self._listeners.append(listener)
        else:
            listener(self.failure)

    def _close(self, failure: Failure | None) -> None:
        self.source = None  # breaks a reference cycle, which only the garbage collector would free
        listeners, self._listeners = self._listeners, []
        for listener in listeners:
            listener(failure)

    # ----- replay of a request's body

    def record(self, limit: int) -> None:
        """Record up to `limit` bytes for further attempts; of several limits the largest counts.

        Call it before the first `attach`.
        """
        if limit <= self._limit or max(self.received, self.length or 0) > limit or not self.is_replayable:
            return
        self._limit = limit
        if self._record is None:
            self._record = list(self._pieces)

    def recorded(self) -> bytes | None:
        """Return the content of a complete body that was recorded as a whole; None for any other."""
        return b"".join(self._record) if self.state == COMPLETE and self._record is not None else None

    def stop_recording(self) -> None:
        """Forget what was recorded, and record no more."""
        self._record = None

    @property
    def is_replayable(self) -> bool:
        """True if all bytes since the start are in memory, and the body is neither broken nor cancelled."""
        if self.state == BROKEN or self.state == CANCELLED:
            return False
        return self._record is not None or (self._sink is None and self.received == self._size)

    def rewind(self) -> None:
        """Restart the body from its first byte.  The body must be replayable."""
        self._sink = None
        if self._record is not None:
            self._pieces = list(self._record)
            self._size = sum(map(len, self._pieces))
            if self._size < HIGH_WATER:
                self.resume()

    # ----- complete bodies

    def whole(self) -> bytes:
        """Return the content of a complete body that has had no sink."""
        pieces = self._pieces
        return pieces[0] if len(pieces) == 1 else b"".join(pieces)

    @staticmethod
    def of(content: bytes, trailers: Headers, length: int | None = None) -> Body:
        """Return a complete body."""
        body = Body(None, length)
        body.state = COMPLETE
        body.trailers = trailers
        body.received = body._size = len(content)
        if content:
            body._pieces.append(content)
        return body

    def __repr__(self) -> str:
        state = ("open", "whole", "broken", "cancelled")[self.state]
        return f"<Body {state} {self.received}/{'?' if self.length is None else self.length}>"


# ----- from the bytes of a connection to a body

UNTIL_CLOSE: Final = -2
"""Length of a body that ends when the connection closes (RFC 9112 6.3)."""


class BodyReader:
    """Reader of one message body: takes the bytes of a connection and feeds their content to `body`."""

    __slots__ = ("_decoder", "_left", "body", "rest", "trailers")

    def __init__(self, body: Body, length: int) -> None:
        """`length` is in bytes, or `CHUNKED`, or `UNTIL_CLOSE`."""
        self.body = body
        self.rest = b""
        """Bytes that followed the body; empty until the body is complete."""
        self.trailers: Headers = []
        self._decoder = ChunkedDecoder() if length == CHUNKED else None
        self._left = length

    @property
    def ends_with_the_connection(self) -> bool:
        """True if the body ends when the connection closes."""
        return self._left == UNTIL_CLOSE

    @property
    def is_behind(self) -> bool:
        """True if a read held more chunks than one turn of the loop processes, so that some bytes wait for the next."""
        return self._decoder is not None and self._decoder.is_behind

    def feed(self, data: bytes) -> bool:
        """Feed the next bytes to `body` and return True once the body is complete.

        The caller then updates its own state and calls `body.finish`.  Raises `Invalid`.
        """
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
