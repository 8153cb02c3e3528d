"""A client's connection and an upstream's after `101 Switching Protocols`: joined end to end, with back-pressure.

Rules:

1. Bytes pass unchanged and in the same turn of the loop.  An end that cannot take more stops the other one's reading.
2. A half-closed end half-closes the other (where its transport can), a lost one closes it.
3. Silence in both directions for the route's `timeout.idle` ends it; so does the sidecar's own end.  Either way both
   sides are told with a Close frame 1001 between two frames (RFC 6455 5.5.1 and 7.4.1), and get `LINGER` to answer.
4. It counts as a connection of its listener, and as one of its endpoint, until both ends are closed.
"""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING, Final

from sidecar.core.exchange import NEVER
from sidecar.core.outcome import Upgraded
from sidecar.downstream.websocket import GOING_AWAY, GOING_AWAY_MASKED, FrameFollower

if TYPE_CHECKING:
    from sidecar.downstream.listener import Listener

LINGER: Final = 2.0
"""Seconds for the answers to our Close frames."""


class Tunnel:
    """Both ends, as the listener sees them."""

    __slots__ = ("_client", "_idle_timeout", "_is_ending", "_listener", "_server", "_upstream", "expires")

    def __init__(self, listener: Listener, idle_timeout: float) -> None:
        """`idle_timeout` is in seconds."""
        self._listener = listener
        self._idle_timeout = idle_timeout
        self._is_ending = False
        self._upstream: Upgraded | None = None
        self._client = End(self, GOING_AWAY)
        self._server = End(self, GOING_AWAY_MASKED)
        self._client.other, self._server.other = self._server, self._client
        self.expires = NEVER

    def open(self, client: asyncio.Transport, upstream: Upgraded, head: bytes, early: bytes) -> bool:
        """Join them; False if the upstream's is lost already.  `head` answers the client; `early` came with its
        request."""
        taken = upstream.take_over(self._server)
        if taken is None:
            return False
        self._upstream = upstream
        self._server.transport, answered = taken
        self._client.transport = client
        client.set_protocol(self._client)
        client.write(head)
        self.touch()
        if answered:
            self._server.data_received(answered)
        if early:
            self._client.data_received(early)
        client.resume_reading()
        return True

    # ----- what its ends call

    def touch(self) -> None:
        """Something has passed."""
        if not self._is_ending and self._idle_timeout != NEVER:
            self.expires = self._listener.now() + self._idle_timeout

    def lose(self, end: End) -> None:
        """One end is lost."""
        if end is self._server and self._upstream is not None:
            self._upstream.close()
        if end.other.is_lost:
            self._listener.forget(self)
        elif not self._is_ending or not end.other.is_cut:
            end.other.close()

    # ----- what the listener asks of it

    def expire(self, now: float) -> None:
        """Silent for too long; or it was told to end and has not."""
        if self._is_ending:
            self.abort()
        else:
            self.drain()

    def drain(self) -> None:
        """End it, at the next end of a frame in each direction."""
        if not self._is_ending:
            self._is_ending = True
            self.expires = self._listener.now() + LINGER
            if not self._client.frames.is_closed and not self._server.frames.is_closed:  # else they are at it already
                self._client.cut()
                self._server.cut()

    def abort(self) -> None:
        self._client.abort()
        self._server.abort()

    def __repr__(self) -> str:
        return f"<Tunnel {'ending' if self._is_ending else 'open'}>"


class End(asyncio.Protocol):
    """One of the two connections."""

    __slots__ = (
        "_close_frame",
        "_is_cutting",
        "_tunnel",
        "frames",
        "is_cut",
        "is_eof",
        "is_lost",
        "other",
        "transport",
    )

    other: End

    def __init__(self, tunnel: Tunnel, close_frame: bytes) -> None:
        """`close_frame` is what this end is told when the sidecar ends the conversation."""
        self._tunnel = tunnel
        self._close_frame = close_frame
        self.frames = FrameFollower()
        """What this end sends."""
        self._is_cutting = False
        self.transport: asyncio.Transport | None = None
        self.is_cut = False
        """Does nothing that it sends pass any more?"""
        self.is_eof = False
        self.is_lost = False

    def data_received(self, data: bytes) -> None:
        self._tunnel.touch()
        if self.is_cut:
            self.frames.follow(data)
            self._close_if_answered()
        elif self._is_cutting:
            size = self.frames.follow(data, stop=True)
            self.other.write(data[:size])
            self.cut()
            if self.is_cut:
                self.data_received(data[size:])
        else:
            self.frames.follow(data)
            self.other.write(data)

    def cut(self) -> None:
        """Tell the other end, between two frames of this one, that the conversation is over."""
        self._is_cutting = True
        if self.frames.is_between:
            self.is_cut = True
            if not self.frames.is_closed:
                self.other.write(self.other._close_frame)
            self.other._close_if_answered()

    def _close_if_answered(self) -> None:
        """Both Close frames have passed: the connection has no more to say (RFC 6455 7.1.1)."""
        if self.frames.is_closed and self.other.is_cut:
            self.close()

    def eof_received(self) -> bool:
        self.is_eof = True
        other = self.other.transport
        if self.other.is_eof or other is None or not other.can_write_eof():
            self.other.close()
            return False
        other.write_eof()
        return self.transport is not None and self.transport.can_write_eof()

    def connection_lost(self, error: Exception | None) -> None:
        self.is_lost = True
        self.transport = None
        self._tunnel.lose(self)

    def pause_writing(self) -> None:
        if self.other.transport is not None:
            self.other.transport.pause_reading()

    def resume_writing(self) -> None:
        if self.other.transport is not None:
            self.other.transport.resume_reading()

    def write(self, data: bytes) -> None:
        if data and self.transport is not None:
            self.transport.write(data)

    def close(self) -> None:
        """Close after what was written has gone out."""
        if self.transport is not None:
            self.transport.close()

    def abort(self) -> None:
        if self.transport is not None:
            self.transport.abort()
