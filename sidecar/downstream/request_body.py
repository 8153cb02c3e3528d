"""Body of a request that did not arrive whole with its head: bounded in size and time, and pushed on as it arrives.

The next bytes have to arrive within `limits.body_timeout`.  All bytes together have to arrive, after as long a grace,
at `MIN_RATE` on average, so that a client which dribbles is dropped too.  While the upstream does not take the body, no
time counts against the client.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from sidecar.core.body import Body, BodyReader
from sidecar.core.http1 import Invalid
from sidecar.downstream.closing import MIN_RATE

if TYPE_CHECKING:
    from sidecar.downstream.connection import DownstreamConnection


class RequestBody:
    """Source of one request's `stream`."""

    __slots__ = ("_connection", "_measured_since", "_reader", "_received_before", "body", "is_paused")

    def __init__(self, connection: DownstreamConnection, length: int) -> None:
        """`length` is in bytes, or `CHUNKED`."""
        self._connection = connection
        self._measured_since = connection.listener.now()
        """Instant from which the average rate is measured."""
        self._received_before = 0
        """Bytes received before that instant."""
        self.is_paused = False
        """True while the upstream does not take the body."""
        self.body = Body(self, length if length >= 0 else None)
        self._reader = BodyReader(self.body, length)

    def feed(self, data: bytes) -> bool:
        """Push the next bytes on; True once the body is whole.  Raises `Invalid`."""
        is_whole = self._reader.feed(data)
        limit = self._connection.listener.limits.max_body
        if limit is not None and self.body.received > limit:
            raise too_large(limit)
        return is_whole

    def finish(self) -> bytes:
        """Tell the body's reader that the body is whole; return the bytes that followed it."""
        self.body.finish(self._reader.trailers)
        return self._reader.rest

    @property
    def expires(self) -> float:
        """Instant by which the next bytes must have arrived."""
        listener = self._connection.listener
        seconds_paid_for = (self.body.received - self._received_before) / MIN_RATE
        return listener.limits.body_timeout + min(listener.now(), self._measured_since + seconds_paid_for)

    # ----- the source

    def pause_body(self) -> None:
        self.is_paused = True
        self._connection.pause_reading()
        self._connection.set_body_deadline()

    def resume_body(self) -> None:
        self.is_paused = False
        self._measured_since = self._connection.listener.now()
        self._received_before = self.body.received
        self._connection.resume_reading()
        self._connection.set_body_deadline()

    def cancel_body(self) -> None:
        """Do nothing: the bytes that still arrive are discarded, and the connection closes with the answer."""


def too_large(limit: int) -> Invalid:
    """Return the error for a body that is larger than `limits.max_body`, in bytes."""
    return Invalid(f"the body is larger than the limit of {limit} bytes", 413)
