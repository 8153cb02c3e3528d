"""Inner exchange: a request that the sidecar itself makes through a pipeline, without a client's connection.

A part of an aggregated answer is one, and so is every other request of the sidecar's own, such as a copy for another
upstream.  It meets all stages of its pipeline.  Rules:

1. The body of the response is collected up to a limit, and up to what an `Allowance` of several exchanges has left.
   With `discards`, it is read to its end and not kept.
2. Its end is reported once, after all stages have settled: with a response whose body is whole, or with a failure.
   A bug in a stage is a failure too, and is in `error`.
3. After `cancel` nothing is reported.  A fetch of a cache that other requests wait for goes on without it.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from sidecar.core.body import Body
from sidecar.core.exchange import Exchange
from sidecar.core.message import Headers
from sidecar.core.outcome import ANSWER_TOO_LARGE, INTERNAL, PROTOCOL, Failure, Outcome, failed
from sidecar.engine.pipeline import Call, Pipeline


class Allowance:
    """Bytes that several inner exchanges may collect together."""

    __slots__ = ("left",)

    def __init__(self, left: int) -> None:
        self.left = left
        """Bytes that are left; negative once the limit is exceeded."""


class InnerExchange:
    """One request through a pipeline, and its response with a whole body."""

    __slots__ = (
        "_allowance", "_call", "_discards", "_done", "_limit", "_pieces", "_stream", "error", "outcome", "size", "x",
    )  # fmt: skip

    def __init__(
        self,
        x: Exchange,
        limit: int,
        done: Callable[[Any], None],
        allowance: Allowance | None = None,
        discards: bool = False,
    ) -> None:
        """Call `done(inner)` at the end, possibly within `start`.  `limit` is in bytes.

        `allowance` is shared with other exchanges; None without one.
        """
        self.x = x
        self.outcome: Outcome | None = None
        """Response or failure; None until the head of the response."""
        self.error: Exception | None = None
        """Bug that a stage has raised; None without one."""
        self.size = 0
        """Bytes of the body so far."""
        self._limit = limit
        self._allowance = allowance
        self._discards = discards
        self._done: Callable[[Any], None] | None = done
        self._call: Call | None = None
        """Call of the pipeline; None before it starts, and once it has ended."""
        self._stream: Body | None = None
        """Body that is still arriving; None without one."""
        self._pieces: list[bytes] = []

    def start(self, pipeline: Pipeline) -> None:
        """Run the request through `pipeline`."""
        call = self._call = Call(pipeline, self.x, self._take)
        call.start()

    def cancel(self) -> None:
        """Cancel the request, unless it has ended; `done` is not called."""
        self._done = None
        call, stream = self._call, self._stream
        self._call = self._stream = None
        if call is not None:
            self.x.abandon(call)
        elif stream is not None:
            stream.cancel()

    def _take(self, call: Call) -> None:
        """Take the result of the call."""
        self._call = None
        outcome = call.value
        if self._done is None:
            call.discard()
            return
        if outcome is None:
            if isinstance(call.error, Exception):
                self.error = call.error
            self._end(failed(INTERNAL))
            return
        if outcome.tunnel is not None:
            outcome.discard()
            self._end(failed(PROTOCOL, cause="the upstream switched protocols, which was not asked for"))
            return
        self.outcome = outcome
        stream = outcome.stream
        if stream is None:
            body = outcome.body
            self._end(outcome if self._count(len(body)) else failed(ANSWER_TOO_LARGE))
        elif stream.length is not None and stream.length > self._limit and not self._discards:
            self._refuse(stream)
        else:
            self._stream = stream
            stream.attach(self)

    def _count(self, size: int) -> bool:
        """Count bytes that have arrived; False if there are too many."""
        self.size += size
        if self._discards:
            return True
        allowance = self._allowance
        if allowance is not None:
            allowance.left -= size
            if allowance.left < 0:
                return False
        return self.size <= self._limit

    def _refuse(self, stream: Body) -> None:
        """Refuse the rest of a body that is too large."""
        self._stream = None
        self._pieces.clear()
        stream.cancel(ANSWER_TOO_LARGE)
        self._end(failed(ANSWER_TOO_LARGE))

    def _end(self, outcome: Outcome) -> None:
        """Report the end, once."""
        self.outcome = outcome
        done, self._done = self._done, None
        if done is not None:
            done(self)

    # ----- sink of the response's body

    def write(self, data: bytes) -> None:
        stream = self._stream
        if stream is None:
            return
        if not self._count(len(data)):
            self._refuse(stream)
        elif not self._discards:
            self._pieces.append(data)

    def finish(self, trailers: Headers) -> None:
        outcome = self.outcome
        if self._stream is None or outcome is None:
            return
        self._stream = None
        pieces, self._pieces = self._pieces, []
        outcome.body = pieces[0] if len(pieces) == 1 else b"".join(pieces)
        outcome.stream = None  # all stages have settled by it
        self._end(outcome)

    def fail(self, failure: Failure) -> None:
        stream, self._stream = self._stream, None
        if stream is not None:
            self._pieces.clear()
            self._end(failed(failure, cause=stream.cause))

    def __repr__(self) -> str:
        return f"<InnerExchange {self.x!r} {self.outcome!r}>"
