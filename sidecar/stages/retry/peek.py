"""Wait for the first message of a gRPC answer, or for its end.

A server may send the head of its answer early and its status late, in the trailers.  Until the first octet of a message
has come, nothing of the answer is lost if it is thrown away.  What has come stays in the body, at most one read.
"""

from __future__ import annotations

from typing import Final

from sidecar.core.body import OPEN, Body
from sidecar.core.env import Env
from sidecar.core.message import Headers
from sidecar.core.outcome import Failure
from sidecar.core.promise import Promise

LONGEST_PEEK: Final = 1.0
"""Seconds of waiting for an attempt without a timeout: the head of a quiet stream must not be held back for long."""


async def peek(body: Body, seconds: float, env: Env) -> None:
    """Return once some content has come, the body has ended, or after `seconds`.  The body must have no sink."""
    if body.state != OPEN or body.received:
        return
    first = _First(body)
    body.attach(first)
    body.on_close(first.end)
    timer = env.call_later(seconds, first.end, None)
    try:
        await first.promise
    finally:
        timer.cancel()
        if not body.received:
            body.detach()


class _First:
    """Sink that gives the first piece back."""

    __slots__ = ("_body", "promise")

    def __init__(self, body: Body) -> None:
        self._body = body
        self.promise: Promise[None] = Promise()

    def write(self, data: bytes) -> None:
        self._body.detach()
        self._body.put_back(data)
        self.promise.resolve(None)

    def finish(self, trailers: Headers) -> None:
        """Do nothing: `end` is called after all others have settled."""

    def fail(self, failure: Failure) -> None:
        """Do nothing: see `finish`."""

    def end(self, _: Failure | None) -> None:
        """Resolve the promise at the end of the body or of the time."""
        self.promise.resolve(None)
