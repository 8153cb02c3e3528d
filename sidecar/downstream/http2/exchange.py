"""Exchange on one stream of an HTTP/2 connection: source of the request's body, sink of the response's.

Rules:

1. A request's head is read like one of HTTP/1.1 (`request_head`).  What was made of a head is kept with it, for blocks
   that come again.
2. A request's body is collected before its route runs, as over HTTP/1.1 (`slow_clients`).  Routes of gRPC run
   at the end of the read: responses may begin before requests end.  A body that comes whole with its head is no stream.
3. A body that nobody takes costs a window (`Session.pause`).  A response that the client does not take is read in
   advance, up to `slow_clients.buffer`; then its source is paused.  A stored response waits where it is stored.
4. Clients that send or read slowly have an allowance (`slow_streams`).  A late body is answered 408, a late reader is
   reset.
5. An extended CONNECT for a WebSocket (RFC 8441) becomes the handshake of HTTP/1.1, and the stream a tunnel.
"""

from __future__ import annotations

import asyncio
from binascii import b2a_base64
from typing import TYPE_CHECKING, Final, cast

from sidecar.core.body import COMPLETE, HIGH_WATER, OPEN, Body, add_piece
from sidecar.core.exchange import Exchange
from sidecar.core.http1 import Invalid, can_be_trailer
from sidecar.core.message import Headers
from sidecar.core.outcome import (
    BAD_REQUEST,
    CLIENT_CLOSED,
    CLIENT_TIMEOUT,
    INTERNAL,
    NOT_MARKED,
    OVERLOADED,
    PROTOCOL,
    RESET,
    SLOW_READER,
    Failure,
    Outcome,
    Refusal,
    failed,
    grpc_verdict,
)
from sidecar.downstream.backlog import is_endless
from sidecar.downstream.connection import WORDS
from sidecar.downstream.grpc.answers import as_grpc, broken_trailers, read_call
from sidecar.downstream.http2.slow_streams import Download, Upload
from sidecar.downstream.http2.stream_transport import StreamTransport
from sidecar.downstream.request_body import too_large
from sidecar.downstream.request_head import SPECIAL, KnownHead, Peer, can_repeat, read_request
from sidecar.downstream.response_body import MAX_AT_ONCE, PIECE
from sidecar.downstream.response_head import make_problem, make_rejection
from sidecar.downstream.slow_clients import SLOW_AFTER, START_AFTER
from sidecar.downstream.tunnel import Tunnel
from sidecar.engine.pipeline import Call
from sidecar.http2.errors import CANCEL, INTERNAL_ERROR
from sidecar.http2.heads import Head
from sidecar.http2.session import Session
from sidecar.http2.stream import Stream

if TYPE_CHECKING:
    from sidecar.control.route import Route
    from sidecar.downstream.http2.connection import Http2Connection

BODILESS: Final = (204, 304)
VERSION: Final = 20
"""Version of the exchanges, as telemetry tells it."""
GOOD: Final = [(b"grpc-status", b"0")]
GOOD_LINES: Final = b"grpc-status: 0\r\n"
"""Trailers of most calls of gRPC, and their lines."""
NO_SWITCH: Final = "the upstream did not switch to WebSocket"


class RequestLines:
    """Parts of a request head; kept for heads that come again."""

    __slots__ = ("lines", "previous", "repeated", "speaks_to_caches", "special")

    def __init__(self, head: Head) -> None:
        self.lines, self.special, self.speaks_to_caches = SPECIAL.take(head.lines, 0, len(head.lines))
        self.previous = read_call(head)
        """Attempts that the caller of a gRPC method has made before; -1 for another request."""
        self.repeated: KnownHead | None = None
        """The head as it was read, if it says the same each time; else None."""


def trailer_lines(trailers: Headers) -> bytes:
    """Return the lines of trailers that may be sent."""
    return b"".join([b"%b: %b\r\n" % field for field in trailers if can_be_trailer(field[0])])


class StreamExchange:
    """One exchange on its stream: source of the request's body, sink of the answer's."""

    __slots__ = (
        "_answer",
        "_call",
        "_cancelled_outcome",
        "_connection",
        "_download",
        "_early",
        "_end",
        "_has_left",
        "_is_collecting",
        "_is_connect",
        "_is_ended",
        "_is_grpc",
        "_method",
        "_offered",
        "_outcome",
        "_refused_head",
        "_request",
        "_session",
        "_stored",
        "_stream",
        "_upload",
        "x",
    )  # fmt: skip

    def __init__(self, connection: Http2Connection, session: Session, stream: Stream) -> None:
        self._connection = connection
        self._session = session
        self._stream = stream
        self.x: Exchange | None = None
        self._request: Body | None = None
        """Body of the request while it is arriving, else None."""
        self._upload: Upload | None = None
        """Time and memory of that body; None if it came with the head, and once it is whole."""
        self._is_collecting = False
        """True while the route waits for that body."""
        self._is_connect = False
        """True for an extended CONNECT."""
        self._early: list[bytes] | None = None
        """Bytes of a WebSocket client that came before the tunnel was open: at most a window; None without any."""
        self._call: Call | None = None
        self._outcome: Outcome | None = None
        self._answer: Body | None = None
        """Body of the answer while it is still coming, else None."""
        self._stored = b""
        """Long body of a stored answer of which some has not been sent, else empty."""
        self._offered = 0
        """Bytes of the answer's body that were given to the session."""
        self._download: Download | None = None
        """Time of the answer's body; None if the client was never behind."""
        self._end: list[Failure | None] | None = None
        """Failure or None to record once everything is sent; None while more of the response may come."""
        self._method = b""
        """Method, also of a request that cannot be read."""
        self._is_grpc = False
        """True for a call of gRPC, also for one that cannot be read."""
        self._refused_head: Head | None = None
        """Head that is answered with a refusal; None for any other."""
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
        method = self._method = head.method
        if head.refusal is not None:
            self._is_grpc = read_call(head) >= 0
            self._refused_head = head
            raise Invalid(str(head.refusal), head.refusal.status)
        known = head.derived
        if not isinstance(known, RequestLines):
            known = head.derived = RequestLines(head)
        length: int | None = None
        previous = known.previous
        self._is_grpc = previous >= 0
        if known.repeated is not None:
            x = known.repeated.read(peer, now)
        else:
            if head.protocol:
                method = self._read_connect(head, is_end)
            special = known.special
            x, length, _ = read_request(method, head.path, 11, known.lines, special, known.speaks_to_caches, peer, now)
            if not head.protocol and can_repeat(method, head.path, special):
                known.repeated = KnownHead(x)
        x.version = VERSION
        if head.sensitive:
            x.sensitive = head.sensitive
        if previous >= 0:
            x.is_grpc = x.grpc_timeout = x.accepts_trailers = True
            if previous > x.marked_attempt:
                x.marked_attempt = previous
        self.x = x
        if not x.request_id:
            x.request_id = listener.make_request_id()
        x.raw = b"%bx-request-id: %b\r\n" % (x.raw, x.request_id)  # `x.add`, with one copy less
        x.interim = self._write_interim
        limit = listener.limits.max_body
        if limit is not None and length is not None and length > limit:
            raise too_large(limit)
        content = self._stream.content
        if content is not None:
            if limit is not None and len(content) > limit:
                raise too_large(limit)
            x.body = content
            x.expects_continue = False
            self._stream.content = None
        elif self._is_connect:
            self._ask_for_websocket(x)
            is_end = True
        elif not is_end:
            self._request = x.stream = Body(self, length)
        route = listener.match(x)
        if route is None:
            capture = listener.capture
            route = None if capture is None else capture.route_of(x, self._connection.transport)
            if route is None:
                self.refuse(listener.no_route(x))
                return
        x.route = route
        if x.stated_criticality < 0:
            x.criticality = route.criticality
        elif peer.is_trusted:
            x.criticality = x.stated_criticality
        else:
            x.criticality = max(x.stated_criticality, route.criticality)
            x.add(b"x-criticality", WORDS[x.criticality])
        if is_end:
            self._run()
            return
        self._connection.follow(self)
        if x.expects_continue:
            self._run()
        else:
            self._is_collecting = True

    def follow_upload(self) -> None:
        """Limit the time of a body that did not come in one read with its head; run the route of a gRPC request."""
        body, x, connection = self._request, self.x, self._connection
        if body is None or x is None or self._upload is not None or self._is_ended:
            return
        now = connection.listener.now()
        self._upload = upload = Upload(connection.listener.slow, now, is_endless(x))
        upload.move(body.received, now)
        if not x.expects_continue:
            upload.wait(now)
        if self._is_collecting:
            if is_endless(x):
                self._run()
                return
            if body.length is None or body.length > HIGH_WATER:
                connection.listener.env.call_later(START_AFTER, self._start_streaming)
            self._collect(body, upload)

    def _collect(self, body: Body, upload: Upload) -> None:
        """Run the route if enough of the body has arrived; refuse the request if no more can be buffered."""
        is_full = upload.collect(body.received)
        now = self._connection.listener.now()
        if body.received >= HIGH_WATER:
            if not upload.needs_place(body.received, now):
                self._run()  # otherwise `_start_streaming` takes a place first
        elif is_full:
            if upload.is_slow(now):
                self._refuse_slow("Too many bytes are buffered for slow clients.")
            else:
                self._run()

    def _start_streaming(self) -> None:
        """Run the route although the body still comes, if there is a place for a request that may be slow."""
        x, body, upload, listener = self.x, self._request, self._upload, self._connection.listener
        if not self._is_collecting or x is None or body is None:
            return
        places = cast("Route", x.route).slow_places
        if places.take():
            body.on_close(places.release)
            self._run()
        elif upload is not None and upload.has_waited(listener.now()):
            self._refuse_slow(f"All {places.limit} places for slow requests are taken.")
        else:
            listener.env.call_later(SLOW_AFTER, self._start_streaming)
        self._connection.flush()

    def _refuse_slow(self, detail: str) -> None:
        """Refuse a request with a slow body; `detail` is the reason."""
        self.refuse(failed(OVERLOADED, Refusal("slow_clients", detail=detail)))

    def _run(self) -> None:
        x, upload = self.x, self._upload
        assert x is not None
        self._is_collecting = False
        if upload is not None:
            upload.release()
        try:
            self._call = call = Call(cast("Route", x.route).pipeline, x, self._end_call)
            call.start()
        except Exception as error:
            self.break_down(error)

    def mark(self, names: frozenset[bytes]) -> None:
        """Note the names of trailers that came as never indexed."""
        if self.x is not None:
            self.x.sensitive |= names

    def feed(self, data: bytes, is_end: bool, trailers: Headers) -> None:
        """Take the next bytes of the request's body."""
        body, x, upload = self._request, self.x, self._upload
        if body is None or x is None:
            if self._is_connect:
                self._feed_early(data, is_end)
            return
        if x.expects_continue:
            x.expects_continue = False
            if upload is not None:
                upload.wait(self._connection.listener.now())
        if data:
            limit = self._connection.listener.limits.max_body
            if limit is not None and body.received + len(data) > limit:
                self._break_request(make_rejection(BAD_REQUEST, too_large(limit)), BAD_REQUEST)
                return
            if upload is not None:
                upload.move(len(data), self._connection.listener.now())
            body.feed(data)
        if is_end:
            self._request = None
            self._end_upload()
            body.finish(trailers)
        if self._is_collecting:
            if is_end:
                if not body.trailers:
                    x.body = body.whole()
                    x.stream = None
                self._run()
            elif upload is not None:
                self._collect(body, upload)
            elif body.received >= HIGH_WATER:
                self._run()

    def _end_upload(self) -> None:
        """Forget the time and the memory of a body that has ended."""
        upload, self._upload = self._upload, None
        if upload is not None:
            upload.release()

    def _break_request(self, outcome: Outcome, failure: Failure) -> None:
        """End a request whose body will never be whole.  It is answered unless its answer has begun."""
        body, self._request = self._request, None
        self._end_upload()
        call = self._call
        if call is not None:
            self._cancelled_outcome = outcome
            call.cancel()
        if body is not None:
            body.fail(failure)
        if call is None and not self._is_ended and self._outcome is None:
            self.refuse(outcome)

    # ----- a WebSocket

    def _read_connect(self, head: Head, is_end: bool) -> bytes:
        """Return the method of an extended CONNECT over HTTP/1.1.  Raises `Invalid`."""
        if head.protocol.lower() != b"websocket":
            raise Invalid("the only protocol that CONNECT serves is websocket", 501)
        if is_end:
            raise Invalid("the stream of a WebSocket ends with its head")
        self._is_connect = True
        return b"GET"

    def _ask_for_websocket(self, x: Exchange) -> None:
        """Make the exchange a handshake of HTTP/1.1, whose key HTTP/2 does not have (RFC 8441 5)."""
        key = b2a_base64(self._connection.listener.getrandbits(128).to_bytes(16, "big"), newline=False)
        x.upgrade = b"websocket"
        x.take((b"sec-websocket-key", b"sec-websocket-accept"))
        x.add(b"sec-websocket-key", key)

    def _feed_early(self, data: bytes, is_end: bool) -> None:
        """Keep bytes that come before the tunnel is open; a client that has ended has left."""
        if is_end:
            self.abandon(CLIENT_CLOSED)
            self._session.reset(self._stream, CANCEL)
        elif self._outcome is None:
            if self._early is None:
                self._early = []
            add_piece(self._early, data)
            self._session.pause(self._stream)

    def _switch(self, x: Exchange, outcome: Outcome) -> None:
        """Join the stream and the connection of an upstream that has switched protocols."""
        upstream = outcome.tunnel
        assert upstream is not None
        lines = b"".join(
            [b"%b: %b\r\n" % field for field in outcome.headers if field[0].lower() != b"sec-websocket-accept"]
        )
        connection = self._connection
        transport = StreamTransport(connection, self._session, self._stream, Outcome(200, lines=lines))
        transport.tunnel = tunnel = Tunnel(connection.listener, x, outcome)
        if not tunnel.open(transport, upstream, b"", b"".join(self._early or ())):
            if outcome.stream is not None:
                outcome.stream.fail(RESET)
            self.refuse(failed(RESET, cause="closed after switching protocols"))
            return
        self._is_ended = True  # the tunnel will record it
        self._stream.user = transport
        connection.look_soon()
        if connection.listener.is_draining:
            tunnel.drain()

    # the source of its body

    def pause_body(self) -> None:
        self._session.pause(self._stream)
        if self._upload is not None:
            self._upload.pause(self._connection.listener.now())

    def resume_body(self) -> None:
        if self._upload is not None:
            self._upload.wait(self._connection.listener.now())
        self._session.resume(self._stream)
        self._connection.flush()

    def cancel_body(self) -> None:
        """Give the client no more windows: the answer's end stops the upload."""
        self._request = None
        self._end_upload()
        self._session.pause(self._stream)

    # ----- the answer

    def _write_interim(self, status: int, lines: bytes) -> None:
        self._session.respond(self._stream, status, lines, False)
        if status == 100 and self._upload is not None:
            self._upload.wait(self._connection.listener.now())
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
            if self._is_connect:
                outcome = self._judge_switch(outcome)
            if outcome.tunnel is not None and self.x is not None:
                self._switch(self.x, outcome)
            elif outcome.failure is None or outcome.body or outcome.stream is not None:
                self.answer(outcome)
            else:
                self.refuse(outcome)
        except Exception as error:
            self.break_down(error)
        self._connection.flush()

    def _judge_switch(self, outcome: Outcome) -> Outcome:
        """Return the outcome of an extended CONNECT: a 2xx without a tunnel would be taken for one (RFC 8441 4)."""
        if outcome.tunnel is not None or not 200 <= outcome.status < 300:
            return outcome
        outcome.discard()
        return failed(PROTOCOL, cause=NO_SWITCH)

    def refuse(self, outcome: Outcome) -> None:
        """Answer with a problem document, unless the outcome has a body of its own."""
        x = self.x
        if x is None:
            self.x = x = Exchange(self._method, b"/", [])
            x.version = VERSION
            x.is_grpc = self._is_grpc
            if self._refused_head is not None:
                x.raw, x.parsed = self._refused_head.lines, None
        if x.route is None and not x.is_grpc:
            self._connection.listener.note_web_call(x)
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
        status, lines, marked = outcome.status, outcome.lines, outcome.sensitive
        if outcome.parsed is not None and outcome.header(b"date") is None:
            lines += b"date: %b\r\n" % self._connection.listener.date
        if x.method == b"HEAD" or status in BODILESS or (x.is_grpc and body is None and not outcome.body and not x.web):
            session.respond(stream, status, lines, True, marked)
            if body is not None:
                body.cancel()
            self._finish(outcome.failure)
        elif body is None:
            content = outcome.body
            size = len(content)
            session.respond(stream, status, lines + b"content-length: %d\r\n" % size, not size, marked)
            if size > MAX_AT_ONCE:
                self._stored = content
                self._send_stored()
                return
            if size:
                self._offered = size
                if not session.send(stream, content, True):
                    self._fall_behind()
            self._finish(outcome.failure)
        else:
            if body.length is not None:
                lines += b"content-length: %d\r\n" % body.length
            if (
                body.state == COMPLETE
                and not marked
                and not body.sensitive
                and self._answer_whole(outcome, body, lines)
            ):
                return
            session.respond(stream, status, lines, False, marked)
            self._answer = body
            body.attach(self)

    def _answer_whole(self, outcome: Outcome, body: Body, lines: bytes) -> bool:
        """Send a response that is complete, with trailers, at once; False if it has to be sent piece by piece."""
        content, trailers = body.whole(), body.trailers
        ending = GOOD_LINES if trailers == GOOD else trailer_lines(trailers)
        if not ending or not self._session.answer(self._stream, outcome.status, lines, content, ending):
            return False
        if body.verdict:
            outcome.verdict = body.verdict
        self._offered = len(content)
        self._finish(None)
        return True

    def _send_stored(self) -> None:
        """Send a stored body, piece by piece, until the client is behind; then finish the response."""
        content, outcome = self._stored, self._outcome
        size = len(content)
        while self._offered < size:
            at = self._offered
            self._offered = end = min(size, at + PIECE)
            if not self._session.send(self._stream, content[at:end], end == size):
                self._fall_behind()
                break
        if self._offered == size:
            self._stored = b""
            self._finish(None if outcome is None else outcome.failure)

    # the sink of its body

    def write(self, data: bytes) -> None:
        self._offered += len(data)
        if not self._session.send(self._stream, data, False):
            self._fall_behind()
        self._connection.flush()

    def _fall_behind(self) -> None:
        """Note that some of the answer waits for the client, and pause its source if the buffer has no room for it.

        A response that does not fit into the buffer is paused at once, because reading a part of it would not free the
        upstream.
        """
        connection, answer, download = self._connection, self._answer, self._download
        slow, now = connection.listener.slow, connection.listener.now()
        connection.account()
        if download is None:
            outcome = self._outcome
            taken = self._offered - self._stream.unsent
            self._download = download = Download(slow, now, taken, outcome is not None and is_endless(outcome))
        if not download.is_waiting:
            download.wait(now)
            slow.behind[self] = now
            connection.look_soon()
            slow.make_room(now)
        if answer is not None and (self._stream.unsent + answer.left >= slow.buffer or slow.is_full):
            answer.pause()

    def _catch_up(self) -> None:
        """Note that nothing of the answer waits any more."""
        download = self._download
        if download is not None and download.is_waiting:
            now = self._connection.listener.now()
            download.look(self._offered - self._stream.unsent, now, self._connection.downloads)
            download.stop(now)
            self._connection.listener.slow.behind.pop(self, None)

    def finish(self, trailers: Headers) -> None:
        answer, self._answer = self._answer, None
        if answer is not None and answer.verdict and self._outcome is not None:
            self._outcome.verdict = answer.verdict
        lines = GOOD_LINES if trailers == GOOD else trailer_lines(trailers)
        marks = NOT_MARKED if answer is None else answer.sensitive
        self._session.send_trailers(self._stream, lines, marks)
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
        self._session.reset(self._stream, CANCEL if failure.code == CLIENT_TIMEOUT.code else INTERNAL_ERROR)
        self._record(outcome, failure)
        self._connection.flush()

    def on_sent(self) -> None:
        """All that waited is sent."""
        self._catch_up()
        if self._end:
            self._finish(self._end[0])
        elif self._stored:
            self._send_stored()
        elif self._answer is not None:
            self._answer.resume()

    def _finish(self, failure: Failure | None) -> None:
        """Record the exchange once its answer is out; the rest of the request is not wanted."""
        stream = self._stream
        if stream.has_pending:
            self._end = [failure]
            return
        if stream.can_receive:
            self._session.stop(stream)
        self._record(self._outcome, failure)

    def _record(self, outcome: Outcome | None, failure: Failure | None) -> None:
        if self._is_ended:
            return
        self._is_ended = True
        body, self._request = self._request, None
        self._end_upload()
        self._catch_up()
        self._stored = b""
        if body is not None and body.state == OPEN:
            body.fail(CLIENT_CLOSED)
        x = self.x
        if x is not None:
            if outcome is not None:
                self._connection.listener.record(x, outcome, failure)
            x.interim = None  # breaks two reference cycles, which only the garbage collector would free
        self._stream.user = None

    # ----- its end before its time

    def abandon(self, failure: Failure) -> None:
        """The client has left, or reset the stream: cancel the call unless it goes on for others."""
        if self._is_ended:
            return
        body, self._request = self._request, None
        self._is_collecting = False
        self._has_left = True
        self._end_upload()
        self._catch_up()
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

    def cut_off(self) -> None:
        """Reset the stream of a client that reads too slowly."""
        self.abandon(SLOW_READER)
        self._session.dismiss(self._stream, CANCEL)
        self._connection.flush()

    # ----- the looks of the connection, once a second

    @property
    def is_uploading(self) -> bool:
        """True while the sidecar waits for the client to send, in limited time."""
        return self._upload is not None and self._upload.is_awaited

    @property
    def is_behind(self) -> bool:
        """True while the sidecar waits for the client to read."""
        return self._download is not None and self._download.is_waiting

    @property
    def outcome(self) -> Outcome | None:
        """Answer that has begun; None before it has."""
        return self._outcome

    @property
    def is_answer_endless(self) -> bool:
        """True if the answer has begun, and is an endless stream."""
        return self._outcome is not None and is_endless(self._outcome)

    def look(self, now: float, uploads: int, downloads: int, timeout: float) -> None:
        """End a body that does not come, and an answer that is not taken.

        `uploads` and `downloads` are the numbers of streams that wait for the client, `timeout` is
        `limits.body_timeout`.
        """
        download, upload, x = self._download, self._upload, self.x
        if download is not None and download.is_waiting:
            if download.look(self._offered - self._stream.unsent, now, downloads):
                behind = self._connection.listener.slow.behind
                if behind.pop(self, None) is not None:
                    behind[self] = now  # moves it to the end of the dict
            if download.expires(timeout) <= now:
                self.cut_off()
                return
        if upload is not None and x is not None and not x.expects_continue and upload.is_late(now, uploads, timeout):
            late = make_rejection(CLIENT_TIMEOUT, Invalid("the request's body did not arrive in time", 408))
            self._break_request(late, CLIENT_TIMEOUT)
