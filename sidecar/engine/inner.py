"""Inner exchange: a request that the sidecar itself makes through a pipeline, without a client's connection.

A part of an aggregated answer is one, and so is every other request of the sidecar's own, such as a copy for another
upstream.  It is a `Call`, so it meets all stages of its pipeline.  Rules:

1. The body of the response is collected up to a limit, and up to what an `Allowance` of several exchanges has left.
   With `discards`, it is read to its end and not kept.
2. Its end is reported once, after all stages have settled: with a response whose body is whole, or with a failure.
   A bug in a stage is a failure too, and is in `error`.
3. After `give_up` nothing is reported.  A fetch of a cache that other requests wait for goes on without it.
"""

from __future__ import annotations

import sys
from collections.abc import Callable
from typing import Any, Final

from sidecar.core.body import Body
from sidecar.core.exchange import Exchange
from sidecar.core.message import Headers
from sidecar.core.outcome import ANSWER_TOO_LARGE, INTERNAL, PROTOCOL, Failure, failed
from sidecar.engine.pipeline import Call, Pipeline

NO_LIMIT: Final = sys.maxsize
"""Limit of a body that is not kept."""


class Allowance:
    """Bytes that several inner exchanges may collect together."""

    __slots__ = ("left",)

    def __init__(self, left: int) -> None:
        self.left = left
        """Bytes that are left; negative once the limit is exceeded."""


class InnerExchange(Call):
    """One request through a pipeline, and its response with a whole body.

    `value` is the response or a failure, and None until the head of the response.
    """

    __slots__ = ("_allowance", "_discards", "_is_given_up", "_limit", "_pieces", "_report_to", "_stream", "size")

    def __init__(
        self,
        pipeline: Pipeline,
        x: Exchange,
        limit: int,
        report_to: Callable[[Any], None] | None = None,
        allowance: Allowance | None = None,
        discards: bool = False,
    ) -> None:
        """Call `report_to(inner)` at the end, possibly within `start`; None to call `report` of a subclass.

        `limit` is in bytes.  `allowance` is shared with other exchanges; None without one, and with `discards`.
        """
        Call.__init__(self, pipeline, x, None)
        self.size = 0
        """Bytes of the body so far."""
        self._limit = NO_LIMIT if discards else limit
        self._report_to = report_to
        self._allowance = allowance
        self._discards = discards
        self._is_given_up = False
        self._stream: Body | None = None
        """Body that is still arriving; None without one."""
        self._pieces: list[bytes] | None = None
        """Pieces of that body; None without one."""

    def give_up(self) -> None:
        """Cancel the request, unless it has ended; nothing is reported."""
        self._is_given_up = True
        stream, self._stream = self._stream, None
        if stream is not None:
            stream.cancel()
        elif self.value is None and self.error is None:
            self.x.abandon(self)

    def report(self) -> None:
        """Report the end, once."""
        report_to, self._report_to = self._report_to, None
        if report_to is not None:
            report_to(self)

    def ended(self) -> None:
        """Take the result of the call."""
        outcome = self.value
        if self._is_given_up:
            self.discard()
            return
        if outcome is None:
            if not isinstance(self.error, Exception):
                self.error = None
            self.value = failed(INTERNAL)
        elif outcome.tunnel is not None:
            outcome.discard()
            self.value = failed(PROTOCOL, cause="the upstream switched protocols, which was not asked for")
        elif outcome.stream is not None:
            self._collect(outcome.stream)
            return
        elif not self._count(len(outcome.body)):
            self.value = failed(ANSWER_TOO_LARGE)
        self.report()

    def _collect(self, stream: Body) -> None:
        """Collect a body that is still arriving."""
        if stream.length is not None and stream.length > self._limit:
            self._refuse(stream)
        else:
            self._pieces = []
            self._stream = stream
            stream.attach(self)

    def _count(self, size: int) -> bool:
        """Count bytes that have arrived; False if there are too many."""
        self.size += size
        allowance = self._allowance
        if allowance is not None:
            allowance.left -= size
            if allowance.left < 0:
                return False
        return self.size <= self._limit

    def _refuse(self, stream: Body) -> None:
        """Refuse the rest of a body that is too large."""
        self._stream = self._pieces = None
        stream.cancel(ANSWER_TOO_LARGE)
        self.value = failed(ANSWER_TOO_LARGE)
        self.report()

    # ----- sink of the response's body

    def write(self, data: bytes) -> None:
        stream, pieces = self._stream, self._pieces
        if stream is None or pieces is None:
            return
        if not self._count(len(data)):
            self._refuse(stream)
        elif not self._discards:
            pieces.append(data)

    def finish(self, trailers: Headers) -> None:
        outcome, pieces = self.value, self._pieces
        if self._stream is None or outcome is None or pieces is None:
            return
        self._stream = self._pieces = None
        outcome.body = pieces[0] if len(pieces) == 1 else b"".join(pieces)
        outcome.stream = None  # all stages have settled by it
        self.report()

    def fail(self, failure: Failure) -> None:
        stream = self._stream
        if stream is not None:
            self._stream = self._pieces = None
            self.value = failed(failure, cause=stream.cause)
            self.report()

    def __repr__(self) -> str:
        return f"<InnerExchange {self.x!r} {self.value!r}>"
