"""Request body that did not arrive completely with its head: limited in size and time, and forwarded as it arrives.

The next bytes must arrive within `limits.body_timeout`, and all of them at the minimum rate (`Pace`).  Time does not
count while the upstream does not take the body, or has not yet requested it (`Expect: 100-continue`).

Before its route runs, a body is collected (`slow_clients`), and counts in the listener's account of buffered bytes.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from sidecar.core.body import HIGH_WATER, Body, BodyReader
from sidecar.core.http1 import Invalid
from sidecar.downstream.slow_clients import FAIR, SLOW_AFTER, Pace

if TYPE_CHECKING:
    from sidecar.downstream.connection import DownstreamConnection


class RequestBody:
    """Source of one request's `stream`."""

    __slots__ = ("_began", "_collected", "_connection", "_last_piece", "_pace", "_reader", "body", "is_paused")

    def __init__(self, connection: DownstreamConnection, length: int) -> None:
        """`length` is in bytes, or `CHUNKED`."""
        self._connection = connection
        self._pace = Pace(connection.listener.slow)
        self._began = now = connection.listener.now()
        """Instant at which the head was complete."""
        self._last_piece = now
        """Instant at which the last piece arrived, or at which the client's time began to count again."""
        self._collected = 0
        """Collected bytes in the listener's account."""
        self.is_paused = False
        """True while the upstream does not take the body."""
        self.body = Body(self, length if length >= 0 else None)
        """Body that the request's route reads."""
        self._reader = BodyReader(self.body, length)

    def begin(self) -> None:
        """Start counting the time until the client sends the next piece."""
        self._last_piece = now = self._connection.listener.now()
        self._pace.wait(now)

    def feed(self, data: bytes) -> bool:
        """Feed the next bytes to the body; True once it is complete.  Raises `Invalid`."""
        listener, body = self._connection.listener, self.body
        received = body.received
        is_whole = self._reader.feed(data)
        limit = listener.limits.max_body
        if limit is not None and body.received > limit:
            raise too_large(limit)
        if not is_whole:
            self._last_piece = now = listener.now()
            self._pace.move(body.received - received, now)
        return is_whole

    @property
    def is_behind(self) -> bool:
        """True if received bytes wait for the next turn of the loop (`BodyReader.is_behind`)."""
        return self._reader.is_behind

    def collect(self) -> bool:
        """Add the received bytes to the account; True if no more should be collected."""
        slow, received = self._connection.listener.slow, self.body.received
        slow.buffered += received - self._collected
        self._collected = received
        return self.has_enough or slow.is_full

    @property
    def has_enough(self) -> bool:
        """True if `HIGH_WATER` bytes have arrived, the most that is collected."""
        return self.body.received >= HIGH_WATER

    @property
    def needs_place(self) -> bool:
        """True if the bytes arrived so slowly that the request needs one of the upstream's places for slow requests."""
        slow = self._connection.listener.slow
        seconds = self._connection.listener.now() - self._began
        return self.body.received < FAIR * slow.min_rate * seconds

    @property
    def has_waited(self) -> bool:
        """True if the body has waited for such a place for longer than the grace of a slow client."""
        listener = self._connection.listener
        return self.is_paused and listener.now() - self._last_piece > listener.slow.grace

    @property
    def is_slow(self) -> bool:
        """True if the body has been collected for more than `SLOW_AFTER` seconds."""
        return self._connection.listener.now() - self._began > SLOW_AFTER

    def release(self) -> None:
        """Remove the body from the account when its collection ends."""
        self._connection.listener.slow.buffered -= self._collected
        self._collected = 0

    def finish(self) -> bytes:
        """End the body as complete, and return the bytes that followed it."""
        self.body.finish(self._reader.trailers)
        return self._reader.rest

    @property
    def expires(self) -> float:
        """Instant by which the next bytes must have arrived."""
        return min(self._pace.expires, self._last_piece + self._connection.listener.limits.body_timeout)

    # ----- `Source` of the body

    def pause_body(self) -> None:
        self.is_paused = True
        self._pace.stop(self._connection.listener.now())
        self._connection.pause_reading()
        self._connection.set_body_deadline()

    def resume_body(self) -> None:
        self.is_paused = False
        self.begin()
        self._connection.resume_reading()
        self._connection.set_body_deadline()

    def cancel_body(self) -> None:
        """Do nothing: further bytes are discarded, and the connection closes after the response."""


def too_large(limit: int) -> Invalid:
    """Return the error for a body of more than `limit` bytes (`limits.max_body`)."""
    return Invalid(f"the body is larger than the limit of {limit} bytes", 413)
