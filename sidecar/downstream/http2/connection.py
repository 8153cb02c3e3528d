"""Downstream connection that speaks HTTP/2: the transport, the deadlines and the drain of a session.

A `DownstreamConnection` hands its transport over when the client's preface has arrived, so HTTP/1.1 and HTTP/2 share a
port.  The protocol is `sidecar/http2`; each stream is a `StreamExchange`.

Rules:

1. The rest of a header block has to come within `limits.header_timeout`, that of any other frame within
   `limits.body_timeout`.  Streams are looked at once a second while there are any.
2. A drain announces the end in two steps, and closes once no stream is left.
3. All that is sent within one call of the event loop goes out in one write.
"""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING, Final

from sidecar.core.http1 import Invalid
from sidecar.core.message import Message, parse_fields
from sidecar.core.outcome import BAD_REQUEST, CLIENT_CLOSED, SLOW_READER, Outcome, failed
from sidecar.downstream.backlog import Backlog
from sidecar.downstream.closing import LingeringClose, reset
from sidecar.downstream.http2.exchange import StreamExchange
from sidecar.downstream.http2.stream_transport import StreamTransport
from sidecar.downstream.request_head import LastHop, Peer
from sidecar.downstream.response_head import make_rejection
from sidecar.http2.errors import ENHANCE_YOUR_CALM, NO_ERROR, SETTINGS_TIMEOUT
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
PING_AFTER: Final = 30.0
"""Seconds of silence of a client with open streams after which it is asked whether it is still there."""
PONG_WITHIN: Final = 15.0
"""Seconds that it has to answer."""
ARE_YOU_THERE: Final = b"silent??"
"""Payload of that PING."""
ENDLESS: Final = Outcome(200, [(b"content-type", b"text/event-stream")])
"""Response that stands for WebSockets, which have no minimum rate either."""
MAX_UNREAD_BYTES: Final = 512 * 1024
"""Bytes in a transport above which the client's frames are not read: their answers would be added."""


class Http2Connection(asyncio.Protocol):
    """Connection of one client, handler of its session."""

    __slots__ = (
        "_backlog", "_buffered", "_depth", "_fresh", "_is_flush_due", "_is_reading_paused", "_last", "_loop", "_peer",
        "_pinged", "_progress", "_session", "_started", "_transport", "_unfinished", "downloads", "expires", "listener",
    )  # fmt: skip

    def __init__(self, listener: Listener, transport: asyncio.Transport, address: str) -> None:
        self.listener = listener
        limits = listener.limits
        self._loop = asyncio.get_running_loop()
        self._peer = Peer(address, listener.scheme, trust=listener.trust, protocol=20)
        if listener.trust.has_certificates:
            self._peer.certificate = transport.get_extra_info("peercert") or None
        self._transport: asyncio.Transport | None = transport
        """None once the transport is closed or handed over."""
        self._session = Session(
            self,
            Limits(
                max_head=limits.max_header_bytes,
                max_fields=limits.max_fields,
                max_list_members=limits.max_list_members,
                max_query_parameters=limits.max_query_parameters,
                allows_connect=True,
            ),
            False,
        )
        self._session.joins_content = True
        self._depth = 0
        """Calls within which nothing is written yet: what they send goes out together."""
        self._is_flush_due = False
        """True if the output is written in the next turn of the loop."""
        self._fresh: list[StreamExchange] = []
        """Exchanges whose bodies were not whole with their heads; those that are not at the end of the read either
        take time."""
        self._started = self._last = listener.now()
        """Instants at which the connection began, and at which bytes last arrived."""
        self._pinged = 0.0
        """Instant at which a silent client was sent a PING; 0.0 if none is to be answered."""
        self._progress = 0
        """Number of frames that the session had read when the incomplete one began."""
        self._unfinished = 0.0
        """Instant at which that was; 0.0 if there is none."""
        self._buffered = 0
        """Bytes of content that wait in the session, as entered in the listener's account."""
        self._backlog: Backlog | None = None
        """Bytes in the transport; None if it was never full."""
        self._is_reading_paused = False
        self.downloads = 1
        """Streams whose answers waited for the client at the last look, at least 1."""
        self.expires = self._started + LOOK
        """Instant (`Env.now`) of the next look."""

    @property
    def transport(self) -> asyncio.Transport | None:
        """Transport; None once it is closed or handed over."""
        return self._transport

    @property
    def serving(self) -> int:
        """Number of requests under way."""
        return len(self._session.streams)

    # ----- asyncio.Protocol

    def data_received(self, data: bytes) -> None:
        self._last = now = self.listener.now()
        self._pinged = 0.0
        session = self._session
        self.expires = min(self.expires, now + LOOK)
        self._depth += 1
        try:
            session.receive(data, now)
            if self._fresh:
                self._follow_fresh()
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
        self._write()

    def _refuse_http1(self) -> None:
        """Answer a client that does not speak HTTP/2, on a listener that speaks nothing else, and close."""
        transport, listener = self._transport, self.listener
        self._transport = None
        if transport is not None:
            listener.count_rejection()
            transport.write(ONLY_HTTP2)
            listener.replace(self, LingeringClose(listener, transport))

    def follow(self, exchange: StreamExchange) -> None:
        """Limit the time of a request's body, unless it is whole at the end of this read."""
        self._fresh.append(exchange)

    def _follow_fresh(self) -> None:
        fresh, self._fresh = self._fresh, []
        for exchange in fresh:
            exchange.follow_upload()

    def flush(self) -> None:
        """Write what the session has to send, once for all that is sent in this turn of the loop."""
        if not self._depth and not self._is_flush_due:
            self._is_flush_due = True
            self._loop.call_soon(self._flush_now)

    def _flush_now(self) -> None:
        self._is_flush_due = False
        self._write()

    def _write(self) -> None:
        """Write what the session has to send, and close if it has ended."""
        transport = self._transport
        if self._depth or transport is None:
            return
        session = self._session
        self._depth = 1
        try:
            while data := session.take_output():
                transport.write(data)
        finally:
            self._depth = 0
        if session.unsent != self._buffered:
            self.account()
        if session.is_writing_paused:
            self._bound_output(transport)
        if session.fault is not None or session.is_done:
            self._close(transport)

    def _bound_output(self, transport: asyncio.Transport) -> None:
        """Count what is in the transport, and read no more frames while that is too much."""
        if self._backlog is not None:
            self._backlog.add(0)
        if not self._is_reading_paused and transport.get_write_buffer_size() > MAX_UNREAD_BYTES:
            self._is_reading_paused = True
            transport.pause_reading()

    def end_soon(self, stream: StreamTransport, error: Exception | None) -> None:
        """Tell the tunnel on a stream in the next turn of the loop that the stream has ended."""
        self._loop.call_soon(stream.lose, error)

    def account(self) -> None:
        """Enter the bytes that wait in the session in the listener's account."""
        size = self._session.unsent
        self.listener.slow.buffered += size - self._buffered
        self._buffered = size

    def _close(self, transport: asyncio.Transport) -> None:
        """Close after a connection error, or after the last stream; the client may still be reading."""
        fault, listener = self._session.fault, self.listener
        if fault is not None:
            listener.count_rejection()
        self._release()
        listener.replace(self, LingeringClose(listener, transport))
        if fault is not None and fault.code == ENHANCE_YOUR_CALM:
            transport.pause_reading()  # the rest of a flood is not even read

    def _release(self) -> None:
        """Give up all that is under way, and what is in the account: the transport is closed or handed over."""
        self._transport = None
        slow = self.listener.slow
        for stream in list(self._session.streams.values()):
            user = stream.user
            if isinstance(user, StreamExchange):
                user.abandon(CLIENT_CLOSED)
            elif isinstance(user, StreamTransport):
                user.lose(ConnectionResetError("the connection of HTTP/2 has ended"))
        slow.buffered -= self._buffered
        self._buffered = 0
        if self._backlog is not None:
            self._backlog.end(self.listener.now())
            self._backlog = None
        self._session.detach()

    def pause_writing(self) -> None:
        transport, listener = self._transport, self.listener
        self._session.pause_writing()
        if transport is None:
            return
        backlog = self._backlog
        if backlog is None:
            backlog = self._backlog = Backlog(listener.slow, transport, self)
        backlog.begin(listener.now(), self._endless_answer(), listener.limits.body_timeout)
        self.look_soon()

    def _endless_answer(self) -> Message | None:
        """Return a response if all that have begun are endless streams or WebSockets, else None."""
        found: Message | None = None
        for stream in self._session.streams.values():
            user = stream.user
            if isinstance(user, StreamTransport):
                found = ENDLESS
            elif isinstance(user, StreamExchange) and user.outcome is not None:
                if not user.is_answer_endless:
                    return None
                found = user.outcome
        return found

    def resume_writing(self) -> None:
        if self._backlog is not None:
            self._backlog.end(self.listener.now())
        if self._is_reading_paused and self._transport is not None:
            self._is_reading_paused = False
            self._transport.resume_reading()
        self._depth += 1
        self._session.resume_writing()
        self._depth -= 1
        self._write()

    def eof_received(self) -> bool:
        return False

    def connection_lost(self, error: Exception | None) -> None:
        self.listener.forget(self)
        self._release()

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
        except Exception as bug:  # compiled code gives a name one type for the whole function
            exchange.break_down(bug)

    def on_interim(self, stream: Stream, head: Head) -> None:
        """Do nothing: clients send none."""

    def on_data(self, stream: Stream, data: bytes, is_end: bool) -> None:
        user = stream.user
        if isinstance(user, StreamExchange):
            user.feed(data, is_end, [])
        elif isinstance(user, StreamTransport):
            user.feed(data, is_end)

    def on_trailers(self, stream: Stream, head: Head) -> None:
        user = stream.user
        if isinstance(user, StreamExchange):
            if head.sensitive:
                user.mark(head.sensitive)
            user.feed(b"", True, parse_fields(head.lines))
        elif isinstance(user, StreamTransport):
            user.feed(b"", True)

    def on_reset(self, stream: Stream, code: int, text: str) -> None:
        user = stream.user
        if isinstance(user, StreamExchange):
            user.abandon(CLIENT_CLOSED)
        elif isinstance(user, StreamTransport):
            user.lose(ConnectionResetError(text))

    def on_writable(self, stream: Stream) -> None:
        user = stream.user
        if isinstance(user, (StreamExchange, StreamTransport)):
            user.on_sent()

    def on_goaway(self, last: int, code: int) -> None:
        """The client opens no more streams: close after those that are open."""
        self._session.finish_drain()

    def on_pong(self, payload: bytes) -> None:
        """Do nothing: whatever arrives shows that the client is alive, and the session sees to the PING of a drain."""

    # ----- what listener and server call

    def look_soon(self) -> None:
        """Look at the streams in a second at the latest."""
        self.expires = min(self.expires, self.listener.now() + LOOK)

    def expire(self, now: float) -> None:
        """Look at the connection and its streams."""
        transport, session, limits, backlog = self._transport, self._session, self.listener.limits, self._backlog
        if transport is None:
            return
        if session.is_writing_paused and backlog is not None:
            backlog.look(now)
            if backlog.expires <= now:
                self.cut_off()
                return
        self._depth += 1
        if not session.is_acknowledged and now - self._started > limits.header_timeout:
            session.fail(SETTINGS_TIMEOUT, "the settings were not acknowledged in time")
        elif not session.streams and now - self._last > limits.idle_timeout:
            session.finish_drain()
        elif self._unfinished and now - self._unfinished > (
            limits.header_timeout if session.is_within_head else limits.body_timeout
        ):
            session.fail(ENHANCE_YOUR_CALM, "a frame or a header block did not arrive in time")
        elif session.streams:
            self._look_at_streams(now)
        self._depth -= 1
        is_busy = session.streams or self._unfinished or not session.is_acknowledged
        self.expires = now + LOOK if is_busy else self._last + limits.idle_timeout + LOOK
        self._write()

    def _look_at_streams(self, now: float) -> None:
        """End what takes too long, and ask a silent client whether it is still there."""
        session, limits = self._session, self.listener.limits
        streams = list(session.streams.values())
        uploads = downloads = 0
        for stream in streams:
            user = stream.user
            if isinstance(user, StreamExchange):
                uploads += user.is_uploading
                downloads += user.is_behind
        self.downloads = max(1, downloads)
        for stream in streams:
            user = stream.user
            if isinstance(user, StreamExchange):
                user.look(now, uploads, downloads, limits.body_timeout)
            elif isinstance(user, StreamTransport):
                user.expire(now)
        if self._pinged:
            if now - self._pinged > PONG_WITHIN and not session.is_writing_paused:
                session.fail(NO_ERROR, "the client does not answer a PING")
        elif now - self._last > PING_AFTER and session.is_acknowledged:
            self._pinged = now
            session.ping(ARE_YOU_THERE)

    def cut_off(self) -> None:
        """Reset the connection of a client that does not read."""
        transport = self._transport
        if transport is not None:
            for stream in list(self._session.streams.values()):
                if isinstance(stream.user, StreamExchange) and stream.user.outcome is not None:
                    stream.user.abandon(SLOW_READER)
            reset(transport)

    def drain(self) -> None:
        session = self._session
        for stream in list(session.streams.values()):
            if isinstance(stream.user, StreamTransport):
                stream.user.drain()
        if session.streams or not session.is_acknowledged:
            session.drain()
            self.listener.env.call_later(LOOK, self._finish_drain)
        else:
            session.finish_drain()
        self._write()

    def _finish_drain(self) -> None:
        self._session.finish_drain()
        self._write()

    def abort(self) -> None:
        if self._transport is not None:
            self._transport.abort()

    def __repr__(self) -> str:
        return f"<Http2Connection {self.listener.name} {len(self._session.streams)} streams>"
