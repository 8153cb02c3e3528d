"""Downstream connection that speaks HTTP/2: each stream is one exchange, under the policies of HTTP/1.1.

A `DownstreamConnection` hands its transport over when the client's preface has arrived, so HTTP/1.1 and HTTP/2 share a
port.  The protocol is `sidecar/http2`; here are the transport, the deadlines, and the two bodies of each exchange.

Rules:

1. A request's head is read like one of HTTP/1.1 (`request_head`).  What was made of a head is kept with it, for blocks
   that come again.
2. A body that nobody takes costs a window (`Session.pause`), an answer that the client does not take one read of the
   upstream's socket: its source is paused while some of it waits.
3. A request's body is collected before its route runs, as over HTTP/1.1 (`slow_clients`), up to `HIGH_WATER`.
4. The next bytes of a body, the window for those of an answer, and the rest of a frame or a header block have to come
   within `limits.body_timeout`.  Streams are looked at once a second while there are any.
5. A drain announces the end in two steps, and closes once no stream is left.

Not here yet: an extended CONNECT (WebSocket over HTTP/2), and the least rate of slow clients.
"""

from __future__ import annotations

import asyncio
from binascii import hexlify
from typing import TYPE_CHECKING, Final, cast

from sidecar.core.body import HIGH_WATER, OPEN, Body
from sidecar.core.exchange import Exchange
from sidecar.core.http1 import Invalid, may_trail
from sidecar.core.message import Headers, parse_fields
from sidecar.core.outcome import (
    BAD_REQUEST,
    CLIENT_CLOSED,
    CLIENT_TIMEOUT,
    INTERNAL,
    OVERLOADED,
    SLOW_READER,
    Failure,
    Outcome,
    Refusal,
    failed,
)
from sidecar.downstream.request_body import too_large
from sidecar.downstream.request_head import SPECIAL, LastHop, Peer, read_request
from sidecar.downstream.response_head import make_problem, make_rejection
from sidecar.downstream.slow_clients import START_AFTER
from sidecar.engine.pipeline import Call
from sidecar.http2.errors import CANCEL, ENHANCE_YOUR_CALM, INTERNAL_ERROR, SETTINGS_TIMEOUT
from sidecar.http2.heads import Head
from sidecar.http2.limits import Limits
from sidecar.http2.session import Session
from sidecar.http2.stream import Stream

if TYPE_CHECKING:
    from sidecar.control.route import Route
    from sidecar.downstream.listener import Listener

LOOK: Final = 1.0
"""Seconds between two looks at the streams."""
BODILESS: Final = (204, 304)
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
        if listener.trust.has_certificates:
            self._peer.certificate = transport.get_extra_info("peercert") or None
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
        if not session.is_unfinished:
            self._unfinished = 0.0
        elif not self._unfinished or session.progress != self._progress:
            self._unfinished = now
            self._progress = session.progress
        self.flush()

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


class StreamExchange:
    """One exchange on its stream: source of the request's body, sink of the answer's."""

    __slots__ = (
        "_answer", "_call", "_cancelled_outcome", "_connection", "_end", "_has_left", "_is_collecting", "_is_ended",
        "_is_paused", "_last", "_method", "_outcome", "_request", "_session", "_stream", "_waits_since", "x",
    )  # fmt: skip

    def __init__(self, connection: Http2Connection, session: Session, stream: Stream) -> None:
        self._connection = connection
        self._session = session
        self._stream = stream
        self.x: Exchange | None = None
        self._request: Body | None = None
        """Body of the request while it is arriving, else None."""
        self._is_collecting = False
        """True while the route waits for that body."""
        self._is_paused = False
        """True while nobody takes it."""
        self._last = connection.listener.now()
        """Instant at which something of it last arrived, or was asked for."""
        self._call: Call | None = None
        self._outcome: Outcome | None = None
        self._answer: Body | None = None
        """Body of the answer while it is still coming, else None."""
        self._waits_since = 0.0
        """Instant since which some of the answer waits for the client; 0.0 while none does."""
        self._end: list[Failure | None] = []
        """Failure or None to record once everything is sent; empty while more of the response may come."""
        self._method = b""
        """Method, also of a request that cannot be read."""
        self._cancelled_outcome: Outcome | None = None
        """Answer to give when the cancelled call has ended."""
        self._has_left = False
        """True once the client does not wait for the answer any more."""
        self._is_ended = False
        """True once the exchange is recorded."""

    # ----- the request

    def begin(self, head: Head, is_end: bool, peer: Peer) -> None:
        """Read the head and run its route.  Raises `Invalid` and `LastHop`."""
        listener = self._connection.listener
        now = listener.now()
        self._method = head.method
        if head.refusal is not None:
            raise Invalid(str(head.refusal), head.refusal.status)
        if head.derived is None:
            head.derived = SPECIAL.take(head.lines, 0, len(head.lines))
        lines, special, speaks_to_caches = cast("tuple[bytes, Headers, bool]", head.derived)
        x, length, _ = read_request(head.method, head.path, 11, lines, special, speaks_to_caches, peer, now)
        self.x = x
        if not x.request_id:
            x.request_id = hexlify(listener.getrandbits(128).to_bytes(16, "big"))
        x.add(b"x-request-id", x.request_id)
        x.interim = self._write_interim
        limit = listener.limits.max_body
        if limit is not None and length is not None and length > limit:
            raise too_large(limit)
        if not is_end:
            self._request = x.stream = Body(self, length)
        route = listener.match(x)
        if route is None:
            self.refuse(listener.no_route(x))
            return
        x.route = route
        if x.stated_criticality < 0:
            x.criticality = route.criticality
        else:
            x.criticality = x.stated_criticality if peer.is_trusted else max(x.stated_criticality, route.criticality)
        if is_end or x.expects_continue:
            self._run()
        else:
            self._is_collecting = True
            listener.env.call_later(START_AFTER, self._start_early)

    def _start_early(self) -> None:
        """Run the route although the body still comes, if there is a place for a request that may be slow."""
        x, body = self.x, self._request
        if not self._is_collecting or x is None or body is None:
            return
        places = cast("Route", x.route).slow_places
        if places.take():
            body.on_close(places.release)
            self._run()
        else:
            detail = f"All {places.limit} places for slow requests are taken."
            self.refuse(failed(OVERLOADED, Refusal("slow_clients", detail=detail)))
        self._connection.flush()

    def _run(self) -> None:
        x = self.x
        assert x is not None
        self._is_collecting = False
        try:
            self._call = call = Call(cast("Route", x.route).pipeline, x, self._end_call)
            call.start()
        except Exception as error:
            self.break_down(error)

    def feed(self, data: bytes, is_end: bool, trailers: Headers) -> None:
        """Take the next bytes of the request's body."""
        body, x = self._request, self.x
        if body is None or x is None:
            return
        self._last = self._connection.listener.now()
        x.expects_continue = False
        if data:
            limit = self._connection.listener.limits.max_body
            if limit is not None and body.received + len(data) > limit:
                self._break_request(make_rejection(BAD_REQUEST, too_large(limit)), BAD_REQUEST)
                return
            body.feed(data)
        if is_end:
            self._request = None
            body.finish(trailers)
        if self._is_collecting:
            if is_end:
                if not body.trailers:
                    x.body = body.whole()
                    x.stream = None
                self._run()
            elif body.received >= HIGH_WATER:
                self._run()

    def _break_request(self, outcome: Outcome, failure: Failure) -> None:
        """End a request whose body will never be whole.  It is answered unless its answer has begun."""
        body, self._request = self._request, None
        call = self._call
        if call is not None:
            self._cancelled_outcome = outcome
            call.cancel()
        if body is not None:
            body.fail(failure)
        if call is None and not self._is_ended and self._outcome is None:
            self.refuse(outcome)

    # the source of its body

    def pause_body(self) -> None:
        self._is_paused = True
        self._session.pause(self._stream)

    def resume_body(self) -> None:
        self._is_paused = False
        self._last = self._connection.listener.now()
        self._session.resume(self._stream)
        self._connection.flush()

    def cancel_body(self) -> None:
        """Give the client no more windows: the answer's end stops the upload."""
        self._request = None
        self._session.pause(self._stream)

    # ----- the answer

    def _write_interim(self, status: int, lines: bytes) -> None:
        self._session.respond(self._stream, status, lines, False)
        self._last = self._connection.listener.now()
        self._connection.flush()

    def _end_call(self, call: Call) -> None:
        outcome, listener = call.value, self._connection.listener
        self._call = None
        if outcome is None:
            if isinstance(call.error, asyncio.CancelledError):
                outcome = self._cancelled_outcome or failed(CLIENT_CLOSED)
            else:
                outcome = failed(INTERNAL)
                listener.report_bug(self.x, call.error)
        if self._is_ended or self._outcome is not None:
            outcome.discard()
            return
        if self._has_left or not self._stream.can_send:
            self._record(outcome, outcome.failure or CLIENT_CLOSED)
            outcome.discard()
            return
        try:
            if outcome.failure is None or outcome.body or outcome.stream is not None:
                self.answer(outcome)
            else:
                self.refuse(outcome)
        except Exception as error:
            self.break_down(error)
        self._connection.flush()

    def refuse(self, outcome: Outcome) -> None:
        """Answer with a problem document, unless the outcome has a body of its own."""
        x = self.x
        if x is None:
            self.x = x = Exchange(self._method, b"/", [])
        if outcome.failure is not None and not outcome.body:
            outcome = make_problem(x, outcome, self._connection.listener.details)
        self.answer(outcome)

    def break_down(self, error: Exception) -> None:
        """Report a bug, and answer 500 unless the answer has begun."""
        self._connection.listener.report_bug(self.x, error)
        if self._outcome is None:
            self.refuse(failed(INTERNAL))
        elif not self._is_ended:
            self._session.reset(self._stream, INTERNAL_ERROR)
            self._record(self._outcome, INTERNAL)

    def answer(self, outcome: Outcome) -> None:
        """Send an answer: its head, and its body if that is whole, else as it comes."""
        self._outcome = outcome
        self._is_collecting = False
        x, session, stream, body = self.x, self._session, self._stream, outcome.stream
        assert x is not None
        status, lines = outcome.status, outcome.lines
        if outcome.parsed is not None and outcome.header(b"date") is None:
            lines += b"date: %b\r\n" % self._connection.listener.date
        if x.method == b"HEAD" or status in BODILESS:
            session.respond(stream, status, lines, True)
            if body is not None:
                body.cancel()
            self._finish(outcome.failure)
        elif body is None:
            lines += b"content-length: %d\r\n" % len(outcome.body)
            session.respond(stream, status, lines, not outcome.body)
            if outcome.body:
                session.send(stream, outcome.body, True)
            self._finish(outcome.failure)
        else:
            if body.length is not None:
                lines += b"content-length: %d\r\n" % body.length
            session.respond(stream, status, lines, False)
            self._answer = body
            body.attach(self)

    # the sink of its body

    def write(self, data: bytes) -> None:
        if not self._session.send(self._stream, data, False):
            if not self._waits_since:
                self._waits_since = self._connection.listener.now()
            if self._answer is not None:
                self._answer.pause()
        self._connection.flush()

    def finish(self, trailers: Headers) -> None:
        self._answer = None
        lines = b"".join([b"%b: %b\r\n" % field for field in trailers if may_trail(field[0])]) if trailers else b""
        self._session.send_trailers(self._stream, lines)
        self._finish(None)
        self._connection.flush()

    def fail(self, failure: Failure) -> None:
        """Break the answer off so that the client sees it is not whole."""
        self._answer = None
        outcome = self._outcome
        self._session.reset(self._stream, INTERNAL_ERROR)
        self._record(outcome, failure)
        self._connection.flush()

    def on_sent(self) -> None:
        """All that waited is sent."""
        self._waits_since = 0.0
        if self._end:
            self._finish(self._end[0])
        elif self._answer is not None:
            self._answer.resume()

    def _finish(self, failure: Failure | None) -> None:
        """Record the exchange once its answer is out; the rest of the request is not wanted."""
        stream = self._stream
        if stream.has_pending:
            self._end = [failure]
            if not self._waits_since:
                self._waits_since = self._connection.listener.now()
            return
        if stream.can_receive:
            self._session.stop(stream)
        self._record(self._outcome, failure)

    def _record(self, outcome: Outcome | None, failure: Failure | None) -> None:
        if self._is_ended:
            return
        self._is_ended = True
        body, self._request = self._request, None
        if body is not None and body.state == OPEN:
            body.fail(CLIENT_CLOSED)
        if self.x is not None and outcome is not None:
            self._connection.listener.record(self.x, outcome, failure)

    # ----- its end before its time

    def abandon(self, failure: Failure) -> None:
        """The client has left, or reset the stream: cancel the call unless it goes on for others."""
        if self._is_ended:
            return
        body, self._request = self._request, None
        self._is_collecting = False
        self._has_left = True
        call, x, answer = self._call, self.x, self._answer
        self._answer = None
        if answer is not None:
            answer.cancel(failure)
        if self._outcome is not None:
            self._record(self._outcome, failure)
        elif call is None:
            self._record(failed(failure), failure)
        elif x is not None and not x.abandon(call):
            self._call = None
            self._record(failed(failure), failure)
        if body is not None:
            body.fail(failure)

    def look(self, now: float, timeout: float) -> None:
        """End a body that does not come, and an answer that is not taken."""
        if self._waits_since and now - self._waits_since > timeout:
            self.abandon(SLOW_READER)
            self._session.reset(self._stream, CANCEL)
        elif self._request is not None and not self._is_paused and now - self._last > timeout:
            x = self.x
            if x is None or x.expects_continue:
                return
            late = make_rejection(CLIENT_TIMEOUT, Invalid("the request's body did not arrive in time", 408))
            self._break_request(late, CLIENT_TIMEOUT)
