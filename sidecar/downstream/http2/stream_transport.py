"""Transport of a WebSocket session on a stream (RFC 8441), with the methods that a `Tunnel` calls.

Rules:

1. END_STREAM is a half-close, and RST_STREAM with CANCEL is a reset (RFC 8441 5).
2. What the other side does not take costs a window of the stream, and what the client does not take one read of the
   upstream's socket.
3. The 101 of the upstream becomes a 200 (RFC 8441 4); it is sent before the first bytes.
"""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING, Any, cast

from sidecar.core.outcome import Outcome
from sidecar.http2.errors import CANCEL
from sidecar.http2.session import Session
from sidecar.http2.stream import Stream

if TYPE_CHECKING:
    from sidecar.downstream.http2.connection import Http2Connection
    from sidecar.downstream.tunnel import Tunnel


class StreamTransport(asyncio.Transport):
    """Stream of an extended CONNECT as a transport.  Its protocol is a side of `tunnel`."""

    def __init__(self, connection: Http2Connection, session: Session, stream: Stream, outcome: Outcome) -> None:
        super().__init__()
        self._connection = connection
        self._session = session
        self._stream = stream
        self._lines = outcome.lines
        """Field lines of the response."""
        self.tunnel: Tunnel | None = None
        """Session that the stream carries; None before it is open."""
        self._protocol: asyncio.Protocol | None = None
        self._has_begun = False
        """True once the head of the response was sent."""
        self._is_eof_sent = False
        self._is_closing = False
        self._is_lost = False
        """True once the protocol was told of the end."""

    # ----- what the tunnel calls

    def set_protocol(self, protocol: asyncio.BaseProtocol) -> None:
        self._protocol = cast("asyncio.Protocol", protocol)

    def write(self, data: Any) -> None:
        if not self._has_begun:
            self._has_begun = True
            self._session.respond(self._stream, 200, self._lines, False)
        if data and not self._is_eof_sent and not self._session.send(self._stream, data, False):
            self._pause_writer()
        self._connection.flush()

    def _pause_writer(self) -> None:
        """Tell the protocol that some bytes wait for the client."""
        self._connection.look_soon()
        if self._protocol is not None:
            self._protocol.pause_writing()

    def can_write_eof(self) -> bool:
        return True

    def write_eof(self) -> None:
        if not self._is_eof_sent:
            self._is_eof_sent = True
            self._session.send(self._stream, b"", True)
            self._connection.flush()

    def pause_reading(self) -> None:
        self._session.pause(self._stream)

    def resume_reading(self) -> None:
        self._session.resume(self._stream)
        self._connection.flush()

    def close(self) -> None:
        """End the stream once all written bytes are sent."""
        if not self._is_closing:
            self._is_closing = True
            self.write_eof()
            if not self._stream.has_pending:
                self._end()

    def abort(self) -> None:
        self._is_closing = True
        self._session.reset(self._stream, CANCEL)
        self._connection.flush()
        self._lose_soon(None)

    def is_closing(self) -> bool:
        return self._is_closing

    # ----- what the connection calls

    def feed(self, data: bytes, is_end: bool) -> None:
        """Take bytes of the client."""
        protocol = self._protocol
        if protocol is None or self._is_lost:
            return
        if data and not self._is_closing:
            protocol.data_received(data)
        if is_end and not self._is_lost and not protocol.eof_received():
            self.close()

    def on_sent(self) -> None:
        """Go on after all bytes that waited are sent."""
        if self._is_closing:
            self._end()
        elif self._protocol is not None:
            self._protocol.resume_writing()

    def lose(self, error: Exception | None) -> None:
        """Tell the protocol that the stream has ended."""
        if not self._is_lost and self._protocol is not None:
            self._is_lost = self._is_closing = True
            self._protocol.connection_lost(error)

    def expire(self, now: float) -> None:
        """End a tunnel whose time is over."""
        tunnel = self.tunnel
        if tunnel is not None and tunnel.expires <= now:
            tunnel.expire(now)

    def drain(self) -> None:
        if self.tunnel is not None:
            self.tunnel.drain()

    # ----- the end

    def _end(self) -> None:
        """Stop a client that still sends; the stream is closed then."""
        self._session.stop(self._stream)
        self._connection.flush()
        self._lose_soon(None)

    def _lose_soon(self, error: Exception | None) -> None:
        self._connection.end_soon(self, error)
