"""Downstream connection that speaks HTTP/2: the transport, the deadlines and the drain of a session.

A `DownstreamConnection` hands its transport over when the client's preface has arrived, so HTTP/1.1 and HTTP/2 share a
port.  The protocol is `sidecar/http2`; each stream is a `StreamExchange`.

Rules:

1. The rest of a frame or a header block has to come within `limits.body_timeout`.  Streams are looked at once a second
   while there are any.
2. A drain announces the end in two steps, and closes once no stream is left.
3. All that is sent within one call of the event loop goes out in one write.
"""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING, Final

from sidecar.core.http1 import Invalid
from sidecar.core.message import parse_fields
from sidecar.core.outcome import BAD_REQUEST, CLIENT_CLOSED, failed
from sidecar.downstream.closing import LingeringClose
from sidecar.downstream.http2.exchange import StreamExchange
from sidecar.downstream.request_head import LastHop, Peer
from sidecar.downstream.response_head import make_rejection
from sidecar.http2.errors import CANCEL, ENHANCE_YOUR_CALM, SETTINGS_TIMEOUT
from sidecar.http2.heads import Head
from sidecar.http2.limits import Limits
from sidecar.http2.session import Session
from sidecar.http2.stream import Stream

if TYPE_CHECKING:
    from sidecar.downstream.listener import Listener

LOOK: Final = 1.0
"""Seconds between two looks at the streams."""
ONLY_HTTP2: Final = (
    b"HTTP/1.1 505 HTTP Version Not Supported\r\ncontent-type: text/plain\r\nx-sidecar-reason: bad_request\r\n"
    b"connection: close\r\ncontent-length: 33\r\n\r\nThis listener speaks HTTP/2 only."
)
"""Answer to a client that speaks something else on a listener without HTTP/1.1."""
CLOSE_SECONDS: Final = 5.0
"""Seconds that a closed connection has to send what was written."""


class Http2Connection(asyncio.Protocol):
    """Connection of one client, handler of its session."""

    __slots__ = (
        "_closing", "_depth", "_last", "_peer", "_progress", "_session", "_started", "_transport", "_unfinished",
        "_written", "expires", "listener",
    )  # fmt: skip

    def __init__(self, listener: Listener, transport: asyncio.Transport, address: str) -> None:
        self.listener = listener
        limits = listener.limits
        self._peer = Peer(address, listener.scheme, trust=listener.trust, protocol=20)
        self._transport: asyncio.Transport | None = transport
        """None once the transport is closed."""
        self._session = Session(
            self,
            Limits(
                max_head=limits.max_header_bytes,
                max_fields=limits.max_fields,
                max_list_members=limits.max_list_members,
                max_query_parameters=limits.max_query_parameters,
            ),
            False,
        )
        self._depth = 0
        """Calls within which nothing is written yet: what they send goes out together."""
        self._started = self._last = listener.now()
        """Instants at which the connection began, and at which bytes last arrived."""
        self._progress = 0
        """Number of bytes that the session had read when the incomplete frame began."""
        self._unfinished = 0.0
        """Instant at which that was; 0.0 if there is none."""
        self._written = 0.0
        """Instant since which the transport is full; 0.0 while it is not."""
        self._closing = False
        self.expires = self._started + LOOK
        """Instant (`Env.now`) of the next look."""

    @property
    def serving(self) -> int:
        """Number of requests under way."""
        return len(self._session.streams)

    # ----- asyncio.Protocol

    def data_received(self, data: bytes) -> None:
        self._last = now = self.listener.now()
        session = self._session
        self.expires = min(self.expires, now + LOOK)
        self._depth += 1
        try:
            session.receive(data, now)
        except Exception as error:
            self.listener.report_bug(None, error)
            self.abort()
        self._depth -= 1
        if session.fault is not None and not session.has_preface and not self.listener.speaks_http1:
            self._refuse_http1()
            return
        if not session.is_unfinished:
            self._unfinished = 0.0
        elif not self._unfinished or session.progress != self._progress:
            self._unfinished = now
            self._progress = session.progress
        self.flush()

    def _refuse_http1(self) -> None:
        """Answer a client that does not speak HTTP/2, on a listener that speaks nothing else, and close."""
        transport, listener = self._transport, self.listener
        self._transport = None
        if transport is not None:
            listener.count_rejection()
            transport.write(ONLY_HTTP2)
            listener.replace(self, LingeringClose(listener, transport))

    def flush(self) -> None:
        """Write what the session has to send, and close if it has ended."""
        transport = self._transport
        if self._depth or transport is None:
            return
        session = self._session
        while data := session.take_output():
            transport.write(data)
        if (session.fault is not None or session.is_done) and not self._closing:
            self._closing = True
            if session.fault is not None:
                self.listener.count_rejection()
                self._abandon_all()
            self.expires = self.listener.now() + CLOSE_SECONDS
            transport.close()

    def pause_writing(self) -> None:
        self._written = self.listener.now()
        self._session.pause_writing()

    def resume_writing(self) -> None:
        self._written = 0.0
        self._depth += 1
        self._session.resume_writing()
        self._depth -= 1
        self.flush()

    def eof_received(self) -> bool:
        return False

    def connection_lost(self, error: Exception | None) -> None:
        self._transport = None
        self.listener.forget(self)
        self._abandon_all()

    def _abandon_all(self) -> None:
        """The client is gone: give up all that is under way."""
        for stream in list(self._session.streams.values()):
            if isinstance(stream.user, StreamExchange):
                stream.user.abandon(CLIENT_CLOSED)

    # ----- handler of the session

    def on_head(self, stream: Stream, head: Head, is_end: bool) -> None:
        listener = self.listener
        exchange = StreamExchange(self, self._session, stream)
        stream.user = exchange
        try:
            exchange.begin(head, is_end, self._peer)
        except Invalid as error:
            listener.count_rejection()
            exchange.refuse(make_rejection(BAD_REQUEST, error))
        except LastHop as last:
            exchange.x = last.x
            if last.failure is None:
                exchange.answer(listener.last_hop(last.x))
            else:
                exchange.refuse(failed(last.failure))
        except Exception as error:
            exchange.break_down(error)

    def on_interim(self, stream: Stream, head: Head) -> None:
        """Do nothing: clients send none."""

    def on_data(self, stream: Stream, data: bytes, is_end: bool) -> None:
        if isinstance(stream.user, StreamExchange):
            stream.user.feed(data, is_end, [])

    def on_trailers(self, stream: Stream, head: Head) -> None:
        if isinstance(stream.user, StreamExchange):
            stream.user.feed(b"", True, parse_fields(head.lines))

    def on_reset(self, stream: Stream, code: int, text: str) -> None:
        if isinstance(stream.user, StreamExchange):
            stream.user.abandon(CLIENT_CLOSED)

    def on_writable(self, stream: Stream) -> None:
        if isinstance(stream.user, StreamExchange):
            stream.user.on_sent()

    def on_goaway(self, last: int, code: int) -> None:
        """The client opens no more streams: close after those that are open."""
        self._session.finish_drain()

    def on_pong(self, payload: bytes) -> None:
        """Do nothing: the session sees to the PING of a drain."""

    # ----- what listener and server call

    def expire(self, now: float) -> None:
        transport, session, limits = self._transport, self._session, self.listener.limits
        if transport is None:
            return
        if self._closing or (self._written and now - self._written > limits.body_timeout):
            transport.abort()
            return
        self._depth += 1
        if not session.is_acknowledged and now - self._started > limits.header_timeout:
            session.fail(SETTINGS_TIMEOUT, "the settings were not acknowledged in time")
        elif not session.streams and now - self._last > limits.idle_timeout:
            session.finish_drain()
        elif self._unfinished and now - self._unfinished > limits.body_timeout:
            session.fail(ENHANCE_YOUR_CALM, "a frame or a header block did not arrive in time")
        for stream in list(session.streams.values()):
            if isinstance(stream.user, StreamExchange):
                stream.user.look(now, limits.body_timeout)
            elif now - self._last > limits.header_timeout:
                session.reset(stream, CANCEL)
        self._depth -= 1
        is_busy = session.streams or self._unfinished or not session.is_acknowledged
        self.expires = now + LOOK if is_busy else self._last + limits.idle_timeout + LOOK
        self.flush()

    def drain(self) -> None:
        session = self._session
        if session.streams or not session.is_acknowledged:
            session.drain()
            self.listener.env.call_later(LOOK, self._finish_drain)
        else:
            session.finish_drain()
        self.flush()

    def _finish_drain(self) -> None:
        self._session.finish_drain()
        self.flush()

    def abort(self) -> None:
        if self._transport is not None:
            self._transport.abort()
