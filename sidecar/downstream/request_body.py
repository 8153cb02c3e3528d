"""A request's body that did not come whole with its head: read, bounded in size and in time, and pushed on.

The next piece has to come within `limits.body_timeout`, and all of them, after as long a grace, at a least average
rate:
a client that dribbles is dropped all the same.  While the upstream does not take the body no time counts against the
client.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from sidecar.core.body import Body, BodyReader
from sidecar.core.http1 import Invalid
from sidecar.downstream.closing import MIN_RATE

if TYPE_CHECKING:
    from sidecar.downstream.reading import RequestReader


class IncomingBody:
    """The source of one request's `stream`."""

    __slots__ = ("_before", "_connection", "_reader", "_since", "body", "is_paused")

    def __init__(self, connection: RequestReader, length: int) -> None:
        """`length` is in bytes, or `CHUNKED`."""
        self._connection = connection
        self._since = connection.listener.now()
        self._before = 0
        self.is_paused = False
        """Is it the upstream that does not take it?"""
        self.body = Body(self, length if length >= 0 else None)
        self._reader = BodyReader(self.body, length)

    def take(self, data: bytes) -> bool:
        """Push the next bytes on; is the body whole now?  Raises `Invalid`."""
        is_whole = self._reader.feed(data)
        limit = self._connection.listener.limits.max_body
        if limit is not None and self.body.received > limit:
            raise too_large(limit)
        return is_whole

    def finish(self) -> bytes:
        """It is whole: tell its reader; returns what followed it."""
        self.body.finish(self._reader.trailers)
        return self._reader.rest

    @property
    def due(self) -> float:
        """The instant by which more must have come."""
        listener = self._connection.listener
        timeout = listener.limits.body_timeout
        return timeout + min(listener.now(), self._since + (self.body.received - self._before) / MIN_RATE)

    # ----- the source

    def pause_body(self) -> None:
        self.is_paused = True
        self._connection.hold()
        self._connection.await_body()

    def resume_body(self) -> None:
        self.is_paused = False
        self._since = self._connection.listener.now()
        self._before = self.body.received
        self._connection.read_on()
        self._connection.await_body()

    def cancel_body(self) -> None:
        """What comes is thrown away; the connection ends with the answer."""


def too_large(limit: int) -> Invalid:
    """What a body beyond `limits.max_body` is answered."""
    return Invalid(f"the body is larger than the limit of {limit} bytes", 413)
