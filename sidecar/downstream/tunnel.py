"""Tunnel: joins a client's and an upstream's connection after `101 Switching Protocols`, with backpressure.

Rules:

1. Bytes are forwarded unchanged in the same turn of the loop.  If a side cannot take more, reading from the other side
   is paused.
2. If one side half-closes, the other is half-closed too, if its transport supports that; otherwise it is closed.  Since
   the half-closed side may have left, the idle timeout is then at most `limits.half_close_timeout`.
3. The tunnel ends after `timeout.idle` of its route without bytes in either direction, and when its listener drains.
   Each side then gets a Close frame 1001 between two frames (RFC 6455 5.5.1, 7.4.1) and `LINGER_SECONDS` to answer it.
4. A tunnel counts as a connection of its listener and of its endpoint until both sides are closed.  Its request keeps
   its permits until then, and is then recorded with the bytes of both directions.
"""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING, Final, cast

from sidecar.core.body import Body
from sidecar.core.exchange import NEVER, Exchange
from sidecar.core.outcome import CLIENT_CLOSED, RESET, Failure, Outcome, Refusal, Upgraded
from sidecar.downstream.closing import LINGER_SECONDS, end_writing
from sidecar.downstream.websocket import GOING_AWAY, GOING_AWAY_MASKED, FrameFollower

if TYPE_CHECKING:
    from sidecar.downstream.listener import Listener


class Tunnel:
    """Client and upstream connection of a session, which listener and server manage as one connection."""

    __slots__ = (
        "_client", "_exchange", "_failure", "_idle_timeout", "_is_closing", "_listener", "_outcome", "_server",
        "_upstream", "expires",
    )  # fmt: skip

    def __init__(self, listener: Listener, x: Exchange, outcome: Outcome) -> None:
        """Take the upgraded request and its 101."""
        self._listener = listener
        self._exchange = x
        self._outcome = outcome
        self._idle_timeout = x.idle_timeout
        self._failure: Failure | None = None
        """Failure that broke the session off; None after a regular end."""
        self._is_closing = False
        """True once the sidecar has started to end the tunnel."""
        self._upstream: Upgraded | None = None
        """Upstream connection; None before `open`."""
        self._client = TunnelSide(self, GOING_AWAY)
        self._server = TunnelSide(self, GOING_AWAY_MASKED)
        self._client.other, self._server.other = self._server, self._client
        self.expires = NEVER

    def open(self, client: asyncio.Transport, upstream: Upgraded, head: bytes, early: bytes) -> bool:
        """Join the two connections; False if the upstream's is already closed.

        `head` is the 101 for the client; `early` are the bytes that followed the client's request.
        """
        taken = upstream.take_over(self._server)
        if taken is None:
            return False
        self._upstream = upstream
        self._server.transport, answered = taken
        self._client.transport = client
        client.set_protocol(self._client)
        client.write(head)
        self.restart_idle_timeout()
        client.resume_reading()  # before bytes that may pause it again
        if answered:
            self._server.data_received(answered)
        if early:
            self._client.data_received(early)
        return True

    def half_close(self) -> None:
        """Handle that the client half-closed before the tunnel was open."""
        if not self._client.eof_received():
            self._client.close()

    # ----- called by the sides

    def restart_idle_timeout(self) -> None:
        """Start the idle timeout anew, unless the tunnel is ending."""
        if not self._is_closing and self._idle_timeout != NEVER:
            self.expires = self._listener.now() + self._idle_timeout

    def bound_silence(self) -> bool:
        """Limit the idle timeout of a half-closed tunnel; False if a half-close is to close the tunnel."""
        seconds = self._listener.limits.half_close_timeout
        self._idle_timeout = min(self._idle_timeout, seconds)
        self.restart_idle_timeout()
        return seconds > 0

    def end_side(self, side: TunnelSide, error: Exception | None) -> None:
        """Handle a closed side: close the other one, or record the session if both are closed.

        `error` is that of the closed connection; None if it was closed regularly.
        """
        if side is self._server and self._upstream is not None:
            self._upstream.close()
        if error is not None and not self._is_closing and not side.other.is_closed:
            self._failure = CLIENT_CLOSED if side is self._client else RESET
        if side.other.is_closed:
            self._listener.forget(self)
            self._record()
        elif not self._is_closing or not side.other.is_discarding:
            side.other.close()

    def _record(self) -> None:
        """End the outcome's stream, which releases the permits, and record the request."""
        x, outcome = self._exchange, self._outcome
        x.stream = Body()
        x.stream.received = self._client.received
        if outcome.stream is not None:
            outcome.stream.received = self._server.received
            outcome.stream.finish()
        self._listener.record(x, outcome, self._failure)
        self._client.other = self._server.other = ENDED  # breaks reference cycles, which only the collector would free
        self._client = self._server = ENDED

    # ----- called by listener and server

    def expire(self, now: float) -> None:
        """End a tunnel after its idle timeout, or abort one that has not ended in time."""
        if self._is_closing:
            self.abort()
        else:
            self._exchange.refused_by = "timeout"
            detail = f"No bytes passed in either direction for {self._idle_timeout:.3g} s."
            self._outcome.refusal = Refusal("timeout", detail=detail, limit=self._idle_timeout)
            self.drain()

    def drain(self) -> None:
        """End the tunnel after the current frame of each direction."""
        if not self._is_closing:
            self._is_closing = True
            self.expires = self._listener.now() + LINGER_SECONDS
            if not self._client.frames.is_closed and not self._server.frames.is_closed:  # else the peers are closing it
                self._client.end_frames()
                self._server.end_frames()

    def abort(self) -> None:
        self._client.abort()
        self._server.abort()

    def __repr__(self) -> str:
        return f"<Tunnel {'closing' if self._is_closing else 'open'}>"


class TunnelSide(asyncio.Protocol):
    """Protocol of one of the two connections of a tunnel."""

    __slots__ = (
        "_close_frame",
        "_is_ending",
        "_tunnel",
        "frames",
        "is_closed",
        "is_discarding",
        "is_eof",
        "other",
        "received",
        "transport",
    )

    other: TunnelSide
    """Opposite side of the tunnel."""

    def __init__(self, tunnel: Tunnel, close_frame: bytes) -> None:
        """Take the Close frame to send to this side when the sidecar ends the tunnel."""
        self._tunnel = tunnel
        self._close_frame = close_frame
        self.frames = FrameFollower()
        """Parser of the frames from this side."""
        self._is_ending = False
        """True if data from this side is forwarded only to the end of the current frame."""
        self.transport: asyncio.Transport | None = None
        """Transport of this side; None before the tunnel is open, and once this side is closed."""
        self.is_discarding = False
        """True once data from this side is discarded."""
        self.is_eof = False
        """True once this side has half-closed."""
        self.is_closed = False
        """True once the connection of this side is closed."""
        self.received = 0
        """Bytes received from this side."""

    def data_received(self, data: bytes) -> None:
        self.received += len(data)
        self._tunnel.restart_idle_timeout()
        if self.is_discarding:
            self.frames.follow(data)
            self._close_if_answered()
        elif self._is_ending:
            size = self.frames.follow(data, stop=True)
            self.other.write(data[:size])
            self.end_frames()
            if self.is_discarding:
                self.received -= len(data) - size  # the next line counts them again
                self.data_received(data[size:])
        else:
            self.frames.follow(data)
            self.other.write(data)

    def end_frames(self) -> None:
        """Stop forwarding data from this side after its current frame, and send a Close frame to the other side."""
        self._is_ending = True
        if self.frames.is_between:
            self.is_discarding = True
            if not self.frames.is_closed:
                self.other.write(self.other._close_frame)
            self.other._close_if_answered()

    def _close_if_answered(self) -> None:
        """Close this side once it has sent and received a Close frame (RFC 6455 7.1.1)."""
        if self.frames.is_closed and self.other.is_discarding:
            self.close()

    def eof_received(self) -> bool:
        self.is_eof = True
        other = self.other.transport
        if self.other.is_eof or other is None or not other.can_write_eof() or not self._tunnel.bound_silence():
            self.other.close()
            return False
        end_writing(other)
        return self.transport is not None and self.transport.can_write_eof()

    def connection_lost(self, error: Exception | None) -> None:
        self.is_closed = True
        self.transport = None
        self._tunnel.end_side(self, error)

    def pause_writing(self) -> None:
        if self.other.transport is not None:
            self.other.transport.pause_reading()

    def resume_writing(self) -> None:
        if self.other.transport is not None:
            self.other.transport.resume_reading()

    def write(self, data: bytes) -> None:
        if data and self.transport is not None and not self.other.is_eof:  # its EOF has half-closed this side
            self.transport.write(data)

    def close(self) -> None:
        """Close this side once all written bytes are sent."""
        if self.transport is not None:
            self.transport.close()

    def abort(self) -> None:
        """Close this side at once."""
        if self.transport is not None:
            self.transport.abort()


def _ended_side() -> TunnelSide:
    """Return a side that is closed, and its own opposite."""
    side = TunnelSide(cast("Tunnel", None), b"")
    side.is_closed = True
    side.other = side
    return side


ENDED: Final = _ended_side()
"""Both sides of a tunnel that has ended."""
