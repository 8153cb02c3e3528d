"""Taking a body whole that is still arriving: up to a limit, and without losing a byte where it turns out longer.

The waiter is woken by the body's end, after everyone who settles by it (`Body.on_close`), so that whoever collects
answers in an orderly world.  While it waits the sender's own limits hold: the edge's for a client that dribbles, the
deadline for an upstream.
"""

from __future__ import annotations

from sidecar.core.body import Body
from sidecar.core.message import Headers
from sidecar.core.outcome import Failure
from sidecar.core.promise import Promise


class _Collector:
    """A sink that keeps what comes until there is too much of it; then it passes everything on to another body, for
    which it is also the source."""

    __slots__ = ("body", "limit", "pieces", "promise", "rest", "size")

    def __init__(self, body: Body, limit: int) -> None:
        self.body = body
        self.limit = limit
        self.pieces: list[bytes] = []
        self.size = 0
        self.rest: Body | None = None
        self.promise: Promise[bytes | Body | Failure] = Promise(body.cancel)

    # ----- the sink of the body that arrives

    def write(self, data: bytes) -> None:
        if self.rest is not None:
            self.rest.feed(data)
            return
        self.pieces.append(data)
        self.size += len(data)
        if self.size > self.limit:
            self.rest = Body(self, self.body.length)
            self.rest.feed(b"".join(self.pieces))
            self.pieces.clear()
            self.promise.resolve(self.rest)

    def finish(self, trailers: Headers) -> None:
        if self.rest is not None:
            self.rest.finish(trailers)
            self.body.detach()

    def fail(self, failure: Failure) -> None:
        if self.rest is not None:
            self.rest.fail(failure)
            self.body.detach()

    def ended(self, failure: Failure | None) -> None:
        """The body has ended and everyone else knows."""
        if self.rest is None:
            self.body.detach()
            self.promise.resolve(failure if failure is not None else b"".join(self.pieces))

    # ----- the source of the body that is passed on

    def pause_body(self) -> None:
        self.body.pause()

    def resume_body(self) -> None:
        self.body.resume()

    def cancel_body(self) -> None:
        self.body.cancel()


async def collect(body: Body, limit: int) -> bytes | Body | Failure:
    """The whole of a body that nobody reads yet; a body to read in its place where it has more than `limit` bytes; or
    why it broke off.  Its trailers are lost where it is taken whole."""
    if body.length is not None and body.length > limit:
        return body
    collector = _Collector(body, limit)
    body.attach(collector)
    if not collector.promise.done():
        body.on_close(collector.ended)
    return await collector.promise
