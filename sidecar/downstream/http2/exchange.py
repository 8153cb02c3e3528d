"""Exchange on one stream of an HTTP/2 connection: source of the request's body, sink of the response's.

Rules:

1. A request's head is read like one of HTTP/1.1 (`request_head`).  What was made of a head is kept with it, for blocks
   that come again.
2. A body that nobody takes costs a window (`Session.pause`), an answer that the client does not take one read of the
   upstream's socket: its source is paused while some of it waits.
3. A request's body is collected before its route runs, as over HTTP/1.1 (`slow_clients`), up to `HIGH_WATER`.
4. The next bytes of a body, and the window for those of an answer, have to come within `limits.body_timeout`.
"""

from __future__ import annotations

import asyncio
from binascii import hexlify
from typing import TYPE_CHECKING, Final, cast

from sidecar.core.body import HIGH_WATER, OPEN, Body
from sidecar.core.exchange import Exchange
from sidecar.core.http1 import Invalid, may_trail
from sidecar.core.message import Headers
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
    grpc_verdict,
)
from sidecar.downstream.grpc.answers import as_grpc, broken_trailers, read_call
from sidecar.downstream.request_body import too_large
from sidecar.downstream.request_head import SPECIAL, Peer, read_request
from sidecar.downstream.response_head import make_problem, make_rejection
from sidecar.downstream.slow_clients import START_AFTER
from sidecar.engine.pipeline import Call
from sidecar.http2.errors import CANCEL, INTERNAL_ERROR
from sidecar.http2.heads import Head
from sidecar.http2.session import Session
from sidecar.http2.stream import Stream

if TYPE_CHECKING:
    from sidecar.control.route import Route
    from sidecar.downstream.http2.connection import Http2Connection

BODILESS: Final = (204, 304)


class StreamExchange:
    """One exchange on its stream: source of the request's body, sink of the answer's."""

    __slots__ = (
        "_answer", "_call", "_cancelled_outcome", "_connection", "_end", "_has_left", "_is_collecting", "_is_ended",
        "_is_grpc", "_is_paused", "_last", "_method", "_outcome", "_request", "_session", "_stream", "_waits_since",
        "x",
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
        self._is_grpc = False
        """True for a call of gRPC, also for one that cannot be read."""
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
            head.derived = (*SPECIAL.take(head.lines, 0, len(head.lines)), read_call(head))
        lines, special, speaks_to_caches, previous = cast("tuple[bytes, Headers, bool, int]", head.derived)
        self._is_grpc = previous >= 0
        x, length, _ = read_request(head.method, head.path, 11, lines, special, speaks_to_caches, peer, now)
        if previous >= 0:
            x.is_grpc = x.grpc_timeout = True
            x.marked_attempt = max(x.marked_attempt, previous)
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
            x.is_grpc = self._is_grpc
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
        x = self.x
        assert x is not None
        if x.is_grpc and not x.web:
            outcome = as_grpc(outcome)
        self._outcome = outcome
        self._is_collecting = False
        session, stream, body = self._session, self._stream, outcome.stream
        status, lines = outcome.status, outcome.lines
        if outcome.parsed is not None and outcome.header(b"date") is None:
            lines += b"date: %b\r\n" % self._connection.listener.date
        if x.method == b"HEAD" or status in BODILESS or (x.is_grpc and body is None and not outcome.body and not x.web):
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
        answer, self._answer = self._answer, None
        if answer is not None and answer.verdict and self._outcome is not None:
            self._outcome.verdict = answer.verdict
        lines = b"".join([b"%b: %b\r\n" % field for field in trailers if may_trail(field[0])]) if trailers else b""
        self._session.send_trailers(self._stream, lines)
        self._finish(None)
        self._connection.flush()

    def fail(self, failure: Failure) -> None:
        """Break the answer off so that the client sees it is not whole."""
        answer, self._answer = self._answer, None
        outcome, x = self._outcome, self.x
        is_call = x is not None and x.is_grpc and not x.web
        if is_call and outcome is not None and answer is not None and failure.origin != "client":
            outcome.verdict = grpc_verdict(failure.grpc)
            fields = broken_trailers(failure, answer.cause, self._connection.listener.details)
            self._session.send_trailers(self._stream, b"".join([b"%b: %b\r\n" % field for field in fields]))
            self._finish(failure)
            self._connection.flush()
            return
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
