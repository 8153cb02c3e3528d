"""WebSocket on a stream of an upstream connection: the extended CONNECT of HTTP/2 (RFC 8441).

Rules:

1. It is sent only to a peer whose settings allow it (RFC 8441 3).  For another peer the sidecar refuses the request.
2. The handshake has no key (RFC 8441 5).  A 2xx becomes the 101 of HTTP/1.1, with the accept value of the client's key.
   Any other response passes as it is, with its body.
3. END_STREAM is a half-close, and RST_STREAM with CANCEL is a reset (RFC 8441 5).  A stream whose peer does not end it
   is reset after `CLOSE_WITHIN`.
4. What the client does not take costs a window of the stream.
"""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING, Any, Final

from sidecar.core.body import Body
from sidecar.core.exchange import NEVER, Exchange
from sidecar.core.outcome import PROTOCOL, STALE_CONNECTION, Failure, Outcome, failed
from sidecar.http2.stream import Stream
from sidecar.upstream.connection import Receiver
from sidecar.upstream.http2.request import request_lines
from sidecar.upstream.http2.stream import UpstreamStream
from sidecar.upstream.response_head import accept_value, read_stream_response

if TYPE_CHECKING:
    from sidecar.http2.heads import Head
    from sidecar.upstream.http2.connection import MultiplexedConnection

CLOSE_WITHIN: Final = 2.0
"""Seconds in which the peer has to end a stream that was closed here."""
KEY: Final = b"sec-websocket-key:"
ACCEPT: Final = b"sec-websocket-accept:"
LENGTH: Final = b"content-length:"


class WebSocketStream(UpstreamStream):
    """Exchange that asks for a WebSocket, and after that the `Upgraded` of its outcome."""

    __slots__ = ("_early", "_is_switched", "_is_switching", "_transport")

    def __init__(self, connection: MultiplexedConnection) -> None:
        super().__init__(connection)
        self._is_switching = False
        """True once a 2xx has arrived."""
        self._is_switched = False
        """True once it was delivered as a 101."""
        self._transport: WebSocketTransport | None = None
        """Transport of the session; None before a tunnel has taken it over."""
        self._early: list[bytes] = []
        """Bytes that have arrived before that: at most a window."""

    def exchange(self, x: Exchange, expires: float, now: float, receiver: Receiver) -> None:
        connection, pool = self._connection, self.pool
        if not connection.has_room:
            receiver.take(failed(STALE_CONNECTION, cause="the connection takes no more streams"))
            return
        if not connection.session.allows_connect:
            receiver.take(pool.refuse_websocket())
            return
        self._exchange = x
        self._receiver = receiver
        self._deadline = self.expires = expires
        self._started = now
        path = x.path if x.query is None else b"%b?%b" % (x.path, x.query)
        self._stream = stream = connection.session.open(
            b"CONNECT", pool.scheme, x.authority or pool.host, path, without(KEY, request_lines(x, now)), False,
            x.sensitive, b"websocket",
        )  # fmt: skip
        stream.user = self
        pool.deadlines.add(self)
        connection.begin(x, expires, now)
        connection.flush_later()

    def expire(self, now: float) -> None:
        if self._is_switched:
            self.fail(PROTOCOL, "nobody has taken the session over")
        else:
            super().expire(now)

    def _listen_on(self, x: Exchange, now: float, failure: Failure) -> bool:
        """Return False: a session would begin that nobody takes."""
        return False

    # ----- the response

    def on_head(self, head: Head, is_end: bool) -> None:
        x = self._exchange
        if x is None or not 200 <= head.status < 300:
            super().on_head(head, is_end)
        elif is_end:
            self._break(PROTOCOL, "the stream of a WebSocket ends with its head")
        else:
            lines = without(LENGTH, without(ACCEPT, read_stream_response(head.lines)[0]))
            key = x.header(b"sec-websocket-key") or b""
            lines += b"sec-websocket-accept: %b\r\n" % accept_value(key)
            self._outcome = outcome = Outcome(101, lines=lines, stream=Body())  # the body keeps permits
            outcome.tunnel = self
            self._is_switching = True
            self._touch()

    def on_reset(self, stream: Stream, code: int, text: str) -> None:
        if self._is_switched:
            self.fail(PROTOCOL, text)
        else:
            super().on_reset(stream, code, text)

    def lose(self, error: str, was_written: bool, is_stale: bool) -> None:
        if self._is_switched:
            self.fail(PROTOCOL, error)
        else:
            super().lose(error, was_written, is_stale)

    def settle(self) -> None:
        if not self._is_switching or self._failure is not None:
            super().settle()
            return
        self.is_touched = False
        if self._stream is None:
            return
        outcome, self._outcome = self._outcome, None
        receiver, self._receiver = self._receiver, None
        if outcome is not None and receiver is not None:
            self._is_switched = True
            receiver.take(outcome)
        pieces, self._pieces = self._pieces, []
        transport = self._transport
        if transport is None:
            self._early += pieces
        else:
            transport.deliver(b"".join(pieces), self._is_whole)

    def fail(self, failure: Failure, cause: str) -> None:
        if not self._is_switched:
            super().fail(failure, cause)
            return
        transport = self._transport
        self._leave()
        if transport is not None:
            transport.lose(ConnectionResetError(cause))

    # ----- the session

    def take_over(self, protocol: asyncio.Protocol) -> tuple[asyncio.Transport, bytes] | None:
        """Hand the session to `protocol`.  Return its transport and the bytes that have arrived; None if it is over."""
        if self._stream is None:
            return None
        self.pool.deadlines.discard(self)
        self._deadline = self.expires = NEVER
        self._transport = transport = WebSocketTransport(self, protocol)
        early, self._early = b"".join(self._early), []
        self.hold(False)
        if self._is_whole:
            self.pool.env.call_later(0, transport.deliver, b"", True)
        return transport, early

    def close(self) -> None:
        """End the session, also one that nobody has taken over."""
        if self._transport is not None:
            self._transport.close()
        else:
            self.leave()

    def leave(self) -> None:
        """Leave the stream; it is reset unless it has run its course."""
        if self._stream is not None:
            self._leave()

    def leave_in_time(self) -> None:
        """Leave the stream once the peer has ended it, or after `CLOSE_WITHIN`."""
        stream = self._stream
        if stream is None or not stream.can_receive:
            self.leave()
        else:
            self._connection.session.resume(stream)  # what still arrives is dropped
            self.pool.env.call_later(CLOSE_WITHIN, self.leave)

    def on_writable(self) -> None:
        if self._transport is not None:
            self._transport.on_writable()

    def hold(self, is_paused: bool) -> None:
        """Stop or start giving the peer windows."""
        self._is_paused = is_paused
        stream = self._stream
        if stream is None:
            return
        if is_paused:
            self._connection.session.pause(stream)
        else:
            self._connection.session.resume(stream)
            self._connection.flush_later()

    @property
    def is_held(self) -> bool:
        """True while the client does not take what arrives."""
        return self._is_paused

    def end(self) -> None:
        """Send the end of what is written."""
        self.send_end(b"")


class WebSocketTransport(asyncio.Transport):
    """Transport of a session.  Its protocol is the server's side of a tunnel."""

    def __init__(self, carrier: WebSocketStream, protocol: asyncio.Protocol) -> None:
        super().__init__()
        self._carrier = carrier
        self._protocol = protocol
        self._is_eof_sent = False
        self._is_closing = False
        self._is_lost = False
        """True once the protocol was told of the end, or is about to be."""

    def write(self, data: Any) -> None:
        if data and not self._is_eof_sent and not self._carrier.send(bytes(data)):
            self._protocol.pause_writing()

    def can_write_eof(self) -> bool:
        return True

    def write_eof(self) -> None:
        if not self._is_eof_sent:
            self._is_eof_sent = True
            self._carrier.end()

    def pause_reading(self) -> None:
        self._carrier.hold(True)

    def resume_reading(self) -> None:
        self._carrier.hold(False)

    def is_closing(self) -> bool:
        return self._is_closing

    def close(self) -> None:
        """End the stream once all written bytes are sent."""
        if not self._is_closing:
            self._is_closing = True
            self.write_eof()
            self._carrier.leave_in_time()
            self._lose_soon()

    def abort(self) -> None:
        self._is_closing = True
        self._carrier.leave()
        self._lose_soon()

    def _lose_soon(self) -> None:
        self._carrier.pool.env.call_later(0, self.lose, None)

    # ----- called by the stream

    def deliver(self, data: bytes, is_end: bool) -> None:
        """Take bytes of the peer, and the end of its side."""
        if data and not self._is_closing:
            self._protocol.data_received(data)
        if is_end:
            if self._is_closing:
                self._carrier.leave()
            elif not self._protocol.eof_received():
                self.close()
        if not self._is_closing and not self._carrier.is_held:
            self.resume_reading()

    def on_writable(self) -> None:
        """Go on after all bytes that waited are sent."""
        if not self._is_closing:
            self._protocol.resume_writing()

    def lose(self, error: Exception | None) -> None:
        """Tell the protocol that the session has ended."""
        if not self._is_lost:
            self._is_lost = self._is_closing = True
            self._protocol.connection_lost(error)


def without(name: bytes, lines: bytes) -> bytes:
    """Return field lines without those of one name, which is in lower case with its colon."""
    return b"".join([line + b"\r\n" for line in lines.split(b"\r\n") if line and not line.lower().startswith(name)])
