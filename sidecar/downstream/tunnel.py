"""Tunnel: a client's and an upstream's connection after `101 Switching Protocols`, joined with backpressure.

Rules:

1. Bytes pass unchanged and in the same turn of the loop.  A side that cannot take more pauses the other one's reading.
2. A half-closed side half-closes the other one, if its transport can; a closed side closes the other one.  From then on
   silence ends the tunnel after `limits.half_close_timeout`, since the side may have left.
3. Silence in both directions for the route's `timeout.idle` ends the tunnel, and so does a draining listener.  Both
   sides then get a Close frame 1001 between two frames (RFC 6455 5.5.1 and 7.4.1) and `LINGER_SECONDS` to answer it.
4. A tunnel counts as a connection of its listener and of its endpoint until both sides are closed.  Until then its
   request keeps its permits, and then it is recorded, with the bytes of both directions.
"""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING

from sidecar.core.body import Body
from sidecar.core.exchange import NEVER, Exchange
from sidecar.core.outcome import CLIENT_CLOSED, RESET, Failure, Outcome, Refusal, Upgraded
from sidecar.downstream.closing import LINGER_SECONDS
from sidecar.downstream.websocket import GOING_AWAY, GOING_AWAY_MASKED, FrameFollower

if TYPE_CHECKING:
    from sidecar.downstream.listener import Listener


class Tunnel:
    """Both sides together, as listener and server see them."""

    __slots__ = (
        "_client", "_exchange", "_failure", "_idle_timeout", "_is_closing", "_listener", "_outcome", "_server",
        "_upstream", "expires",
    )  # fmt: skip

    def __init__(self, listener: Listener, x: Exchange, outcome: Outcome) -> None:
        """`x` is the request that was upgraded, and `outcome` its 101."""
        self._listener = listener
        self._exchange = x
        self._outcome = outcome
        self._idle_timeout = x.idle_timeout
        self._failure: Failure | None = None
        """Failure that has broken the session off; None for an end that a side or the sidecar has chosen."""
        self._is_closing = False
        """True once both sides are told that the tunnel ends."""
        self._upstream: Upgraded | None = None
        """Upstream connection; None before `open`."""
        self._client = TunnelSide(self, GOING_AWAY)
        self._server = TunnelSide(self, GOING_AWAY_MASKED)
        self._client.other, self._server.other = self._server, self._client
        self.expires = NEVER

    def open(self, client: asyncio.Transport, upstream: Upgraded, head: bytes, early: bytes) -> bool:
        """Join the two connections; False if the upstream's is closed already.

        `head` is the answer to the client; `early` are bytes that the client has sent after its request.
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
        if answered:
            self._server.data_received(answered)
        if early:
            self._client.data_received(early)
        client.resume_reading()
        return True

    def half_close(self) -> None:
        """Pass on that the client had sent its last byte before the tunnel was open."""
        if not self._client.eof_received():
            self._client.close()

    # ----- what its sides call

    def restart_idle_timeout(self) -> None:
        if not self._is_closing and self._idle_timeout != NEVER:
            self.expires = self._listener.now() + self._idle_timeout

    def bound_silence(self) -> bool:
        """Shorten the idle timeout because a side is half-closed; False if that counts as closed."""
        seconds = self._listener.limits.half_close_timeout
        self._idle_timeout = min(self._idle_timeout, seconds)
        self.restart_idle_timeout()
        return seconds > 0

    def end_side(self, side: TunnelSide, error: Exception | None) -> None:
        """Close the other side of one that is closed; `error` is what the system says of it."""
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
        """End the stream that stands for the session, and record the request."""
        x, outcome = self._exchange, self._outcome
        x.stream = Body()
        x.stream.received = self._client.received
        if outcome.stream is not None:
            outcome.stream.received = self._server.received
            outcome.stream.finish()
        self._listener.record(x, outcome, self._failure)

    # ----- what listener and server call

    def expire(self, now: float) -> None:
        """End a silent tunnel, or abort one that has not ended in time."""
        if self._is_closing:
            self.abort()
        else:
            self._exchange.refused_by = "timeout"
            detail = f"It was silent in both directions for {self._idle_timeout:.3g} s."
            self._outcome.refusal = Refusal("timeout", detail=detail, limit=self._idle_timeout)
            self.drain()

    def drain(self) -> None:
        """End the tunnel, at the next end of a frame in each direction."""
        if not self._is_closing:
            self._is_closing = True
            self.expires = self._listener.now() + LINGER_SECONDS
            if not self._client.frames.is_closed and not self._server.frames.is_closed:  # else they are closing already
                self._client.end_frames()
                self._server.end_frames()

    def abort(self) -> None:
        self._client.abort()
        self._server.abort()

    def __repr__(self) -> str:
        return f"<Tunnel {'closing' if self._is_closing else 'open'}>"


class TunnelSide(asyncio.Protocol):
    """One of the two connections."""

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

    def __init__(self, tunnel: Tunnel, close_frame: bytes) -> None:
        """`close_frame` is sent to this side when the sidecar ends the tunnel."""
        self._tunnel = tunnel
        self._close_frame = close_frame
        self.frames = FrameFollower()
        """Frames that this side sends."""
        self._is_ending = False
        """True once data from this side passes to the end of the current frame only."""
        self.transport: asyncio.Transport | None = None
        """None before the tunnel is open, and once this side is closed."""
        self.is_discarding = False
        """True once data from this side is discarded."""
        self.is_eof = False
        """True once this side has sent its last byte."""
        self.is_closed = False
        self.received = 0
        """Bytes that this side has sent."""

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
                self.received -= len(data) - size  # counted once more by the next line
                self.data_received(data[size:])
        else:
            self.frames.follow(data)
            self.other.write(data)

    def end_frames(self) -> None:
        """Send a Close frame to the other side once this side's current frame has passed, and discard the rest."""
        self._is_ending = True
        if self.frames.is_between:
            self.is_discarding = True
            if not self.frames.is_closed:
                self.other.write(self.other._close_frame)
            self.other._close_if_answered()

    def _close_if_answered(self) -> None:
        """Close once both Close frames have passed (RFC 6455 7.1.1)."""
        if self.frames.is_closed and self.other.is_discarding:
            self.close()

    def eof_received(self) -> bool:
        self.is_eof = True
        other = self.other.transport
        if self.other.is_eof or other is None or not other.can_write_eof() or not self._tunnel.bound_silence():
            self.other.close()
            return False
        other.write_eof()
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
        if data and self.transport is not None and not self.other.is_eof:  # which has half-closed this side too
            self.transport.write(data)

    def close(self) -> None:
        """Close after what was written has gone out."""
        if self.transport is not None:
            self.transport.close()

    def abort(self) -> None:
        """Close at once."""
        if self.transport is not None:
            self.transport.abort()
