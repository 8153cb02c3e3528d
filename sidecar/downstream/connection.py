"""Downstream connection: an `asyncio.Protocol` that reads requests, runs their routes and writes the responses.

Rules:

1. A connection serves one request at a time.  Pipelined requests are buffered as bytes; reading is paused when the
   buffer exceeds the limit of one head.
2. Each request is answered at most once, and recorded once.  If the client leaves, the call of its request is
   cancelled.
3. If a response ends before the request's body was read, the connection closes.
4. A head has one deadline.  A request body and a slow reader have an allowance (`slow_clients`), so a slow client costs
   one connection and a bounded buffer.
5. A client may half-close after complete requests (RFC 9112 9.6): they are answered before the connection closes.  A
   client that has left looks the same.  The EOF therefore counts as leaving if it arrives late (`HALF_CLOSE_SECONDS`),
   and otherwise `limits.half_close_timeout` applies.  With TLS, event loops close both directions at once.
"""

from __future__ import annotations

import asyncio
import re
from collections.abc import Callable
from typing import TYPE_CHECKING, Final, cast

from sidecar.core.body import COMPLETE, HIGH_WATER, Body
from sidecar.core.exchange import CRITICALITIES, NEVER, Exchange
from sidecar.core.http1 import Invalid
from sidecar.core.outcome import (
    BAD_REQUEST,
    CLIENT_CLOSED,
    CLIENT_TIMEOUT,
    INTERNAL,
    OVERLOADED,
    RESET,
    SLOW_READER,
    Failure,
    Outcome,
    Refusal,
    Upgraded,
    failed,
)
from sidecar.downstream.backlog import WRITE_LIMIT, Backlog, unsent_bytes
from sidecar.downstream.closing import LINGER_SECONDS, MAX_ORPHANED, LingeringClose, reset
from sidecar.downstream.request_body import RequestBody, too_large
from sidecar.downstream.request_head import LastHop, Peer, fields_of_kind, read_ordinary, read_request, split_request
from sidecar.downstream.response_body import MAX_AT_ONCE, ResponseBody, StoredBody
from sidecar.downstream.response_head import LENGTHS, STATUS_LINES, encode_head, make_problem, make_rejection
from sidecar.downstream.slow_clients import SLOW_AFTER, START_AFTER
from sidecar.downstream.tunnel import Tunnel
from sidecar.engine.pipeline import Call

if TYPE_CHECKING:
    from sidecar.control.route import Route
    from sidecar.downstream.listener import Listener

NEW: Final = 0
IDLE: Final = 1
READING_HEAD: Final = 2
SERVING: Final = 3
ANSWERING: Final = 4
CLOSING: Final = 5
ABANDONED: Final = 6
LINGERING: Final = 7
SWITCHED: Final = 8
CLOSED: Final = 9
COLLECTING: Final = 10
PHASES: Final = (
    "NEW", "IDLE", "READING_HEAD", "SERVING", "ANSWERING", "CLOSING", "ABANDONED", "LINGERING", "SWITCHED", "CLOSED",
    "COLLECTING",
)  # fmt: skip
"""Names of the phases by number."""
TRANSITIONS: Final = {
    NEW: (
        IDLE,  # the connection is accepted
        CLOSING,  # another worker takes the connection, or their limit is reached: the connection is answered 503
    ),
    IDLE: (
        READING_HEAD,  # bytes arrive
        CLOSING,  # the idle timeout has passed, the listener drains, or the client has half-closed
        SWITCHED,  # the listener does not speak HTTP/1.1: an `Http2Connection` takes the transport
        CLOSED,  # the client closes
    ),
    READING_HEAD: (
        IDLE,  # the bytes were empty lines
        COLLECTING,  # the head is complete, but its body is not: the body is collected first
        SERVING,  # the head is complete: the route runs
        ANSWERING,  # the head is invalid or late, or must not be forwarded (`LastHop`)
        SWITCHED,  # the client speaks HTTP/2: an `Http2Connection` takes the transport
        CLOSED,  # the client closes
    ),
    COLLECTING: (
        SERVING,  # enough of the body has arrived: the route runs
        ANSWERING,  # no route matches, the body is invalid or late, or nothing more can be buffered
        CLOSED,  # the client closes
    ),
    SERVING: (
        ANSWERING,  # the route has an outcome, or the request's body is invalid or late
        SWITCHED,  # the upstream switches protocols: a `Tunnel` has the transport
        ABANDONED,  # the client closes: the call is cancelled
    ),
    ANSWERING: (
        IDLE,  # the response is written
        READING_HEAD,  # the response is written, and bytes of the next request have arrived
        CLOSING,  # the response is written or breaks off, and the connection is not persistent
        CLOSED,  # the client closes: the response's body is cancelled
    ),
    CLOSING: (
        LINGERING,  # the client may still be sending or reading: a `LingeringClose` has the transport
        CLOSED,  # the transport is closed
    ),
    ABANDONED: (
        CLOSED,  # the call has ended, or continues for other requests
    ),
    LINGERING: (),
    SWITCHED: (),
    CLOSED: (),
}
"""Phases that may follow each phase, and when; tests check them.  A request body may still be arriving in SERVING and
ANSWERING (`_request_body`)."""

HTTP2: Final = b"PRI * HTTP/2.0\r\n\r\n"
"""Beginning of HTTP/2's preface, which looks like a request of a version that is not spoken here."""
EMPTY_LINES: Final = re.compile(rb"\A(?:\r\n)+")
"""Empty lines before a request line."""
MAX_REQUESTS_A_TURN: Final = 16
"""Most pipelined requests that are answered in one turn of the loop.  One read can contain thousands of them, and other
connections wait meanwhile."""
WORDS: Final = {rank: word.encode() for word, rank in CRITICALITIES.items()}
"""Value of X-Criticality by criticality."""
HALF_CLOSE_SECONDS: Final = 1.0
"""Seconds after the last byte of a request in which an EOF is taken for a half-close.  A later EOF usually means that
the client has timed out and closed, and its call is cancelled."""
SHORT: Final = len(LENGTHS)
"""Size of a body in bytes below which its Content-Length is in `LENGTHS`."""
EXCESSIVE: Final = (414, 431)
"""Statuses of heads that are well-formed as far as they were read, and more than is allowed."""
SWITCHING: Final = b"connection: Upgrade\r\nupgrade: websocket\r\n"
"""Field lines of a 101."""


class DownstreamConnection(asyncio.Protocol):
    """Connection of one client, in one of the `PHASES`."""

    __slots__ = (
        "_backlog", "_body_ended", "_buffer", "_call", "_cancelled_outcome", "_end", "_exchange", "_half_close_ends",
        "_has_to_linger", "_interim", "_is_reading_heads", "_is_reading_paused", "_keep_alive", "_outcome", "_peer",
        "_phase", "_request_body", "_scanned", "_sent_before", "_stream", "_transport", "expires", "is_writing_paused",
        "listener",
    )  # fmt: skip

    def __init__(self, listener: Listener) -> None:
        self.listener = listener
        self.expires = NEVER
        """Deadline (`Env.now`) after which the server's sweep calls `expire`; `NEVER` without one."""
        self._phase = NEW
        self._transport: asyncio.Transport | None = None
        """Transport; None before the connection is made, and once the transport is closed or handed over."""
        self._peer: Peer | None = None
        """Address and trust of the client; None before the connection is made."""
        self._buffer = b""
        """Received bytes that do not yet belong to a request."""
        self._scanned = 0
        """Number of bytes of the buffer in which no end of a head was found."""
        self._is_reading_heads = False
        """True while `_read_heads` runs, which is not reentrant."""
        self._is_reading_paused = False
        """True while the upstream does not take the request's body, or too many requests are pipelined."""
        self.is_writing_paused = False
        """True while the transport has paused writing because the client is behind."""
        self._backlog: Backlog | None = None
        """Backlog of the client; None if it was never behind."""
        self._exchange: Exchange | None = None
        """Request being served or answered; None between requests."""
        self._request_body: RequestBody | None = None
        """Body of the request while it is still arriving, else None."""
        self._call: Call | None = None
        """Call of the request's route; None before it starts, and once it has ended."""
        self._cancelled_outcome: Outcome | None = None
        """Response to write when the cancelled call has ended; None if the client has closed."""
        self._outcome: Outcome | None = None
        """Response being written; None without one."""
        self._stream: Body | StoredBody | None = None
        """Body of the response until it is written, else None."""
        self._keep_alive = True
        """True if another request may follow."""
        self._has_to_linger = False
        """True if the client may still be sending when the connection closes."""
        self._body_ended = 0.0
        """Instant at which the last streamed request body was complete; 0.0 before the first."""
        self._half_close_ends = 0.0
        """Deadline of a half-closed connection without progress; 0.0 unless the client has half-closed."""
        self._sent_before = 0
        """Bytes of the response's body that had arrived when that deadline was set."""
        self._end: Callable[[Call], None] | None = None
        """`_end_call`, bound once for all requests; None while there is no transport, since it makes a cycle."""
        self._interim: Callable[[int, bytes], None] | None = None
        """`_write_interim`, likewise."""

    @property
    def is_serving(self) -> bool:
        """True while a request is in flight."""
        return self._phase in (SERVING, ANSWERING, COLLECTING)

    # ----- asyncio.Protocol

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._transport = transport = cast("asyncio.Transport", transport)
        listener = self.listener
        sock = transport.get_extra_info("socket")
        if listener.server.crowd is not None and self not in listener.connections and listener.hand_over(sock):
            self._phase = CLOSING
            transport.abort()
            return
        if not listener.admit(self, sock):
            self._phase = CLOSING
            transport.write(listener.refusal)
            transport.close()
            return
        self._phase = IDLE
        self._end = self._end_call
        self._interim = self._write_interim
        transport.set_write_buffer_limits(WRITE_LIMIT)
        name = transport.get_extra_info("peername")
        address = name[0] if isinstance(name, tuple) else ""
        self._peer = peer = Peer(address, listener.scheme, trust=listener.trust)
        if listener.trust.has_certificates:
            peer.certificate = transport.get_extra_info("peercert") or None
        self.expires = listener.now() + listener.limits.header_timeout
        if not listener.speaks_http1:
            self._switch_to_http2(b"")

    def data_received(self, data: bytes) -> None:
        if self._request_body is not None:
            self._read_body(self._request_body, data)
            return
        phase = self._phase
        if phase == IDLE:
            self._phase = READING_HEAD
            self._buffer = data
            self._read_heads()
        elif phase == READING_HEAD:
            self._buffer += data
            self._read_heads()
        elif phase in (SERVING, ANSWERING):
            self._buffer += data
        else:
            return
        if len(self._buffer) > self.listener.limits.max_header_bytes:
            self.pause_reading()

    def pause_writing(self) -> None:
        self.is_writing_paused = True
        transport, listener = self._transport, self.listener
        if transport is None:
            return
        backlog = self._backlog
        if backlog is None:
            backlog = self._backlog = Backlog(listener.slow, transport, self)
        backlog.begin(listener.now(), self._outcome, listener.limits.body_timeout)
        self.expires = backlog.expires
        self.count_read_ahead(0)

    def count_read_ahead(self, size: int) -> None:
        """Count `size` more bytes for a client that is behind, and pause the response's body if it exceeds a limit."""
        backlog, stream = self._backlog, self._stream
        if backlog is not None and stream is not None and backlog.add(size, stream.left):
            stream.pause()

    def resume_writing(self) -> None:
        self.is_writing_paused = False
        if self._backlog is not None:
            self._backlog.end(self.listener.now())
        phase = self._phase
        if phase in (SERVING, ANSWERING, COLLECTING):
            self.set_body_deadline()
            if self._half_close_ends:
                self._extend_half_close()
            if self._stream is not None:
                self._stream.resume()
        elif phase in (IDLE, READING_HEAD):
            self._set_head_deadline()
            if self._half_close_ends:
                self._extend_half_close()
            self._read_heads()
            self.resume_reading()

    def eof_received(self) -> bool:
        """Return True to keep a half-closed connection, so that complete requests are answered; False to close it."""
        x, phase, listener = self._exchange, self._phase, self.listener
        if self._half_close_ends:
            return True  # event loops report the EOF again when reading is resumed
        if not listener.limits.half_close_timeout or self._request_body is not None:
            return False
        if phase == READING_HEAD:
            if self._has_part_of_a_head:
                return False
        elif (
            phase not in (SERVING, ANSWERING)
            or x is None
            or listener.now() > max(x.arrived, self._body_ended) + HALF_CLOSE_SECONDS
        ):
            return False
        self._extend_half_close()
        return True

    def connection_lost(self, error: Exception | None) -> None:
        phase, request_body = self._phase, self._request_body
        self._phase = ABANDONED if phase == SERVING else CLOSED
        self._release_transport()
        self._request_body = None
        self._buffer = b""
        self.listener.forget(self)
        if phase == SERVING:
            self._abandon_call()
        if request_body is not None:
            request_body.release()
            request_body.body.fail(CLIENT_CLOSED)
        if phase == COLLECTING:
            self._record(failed(CLIENT_CLOSED), CLIENT_CLOSED)
        if phase == ANSWERING and self._stream is not None:
            self._stream.cancel()
            self._record(self._outcome, CLIENT_CLOSED)

    # ----- reading requests

    def _read_heads(self) -> None:
        """Start the requests in the buffer, each after the previous one was answered."""
        if self._is_reading_heads:
            return
        self._is_reading_heads = True
        left = MAX_REQUESTS_A_TURN
        try:
            while self._phase == READING_HEAD and not self.is_writing_paused and self._read_head():
                left -= 1
                if not left:
                    self.listener.env.call_later(0, self._read_heads)
                    break
        except Exception as error:
            self.listener.report_bug(self._exchange, error)
            self.abort()
        finally:
            self._is_reading_heads = False
        if self._half_close_ends:
            self._serve_half_closed()

    @property
    def _has_part_of_a_head(self) -> bool:
        """True if the buffer was parsed and has only a part of a head."""
        return self._scanned == len(self._buffer) or self._buffer == b"\r"

    def _extend_half_close(self) -> None:
        """Set a new deadline for a half-closed connection, because its client has read something."""
        self._half_close_ends = self.listener.now() + self.listener.limits.half_close_timeout
        self._serve_half_closed()

    def _serve_half_closed(self) -> None:
        """Close a half-closed connection if no complete request is left; otherwise set its deadline."""
        phase, transport = self._phase, self._transport
        if transport is None or transport.is_closing():
            return
        if phase == IDLE:
            self.close()
        elif self._request_body is not None or (phase == READING_HEAD and self._has_part_of_a_head):
            transport.close()
        elif phase in (SERVING, ANSWERING):
            if not self._buffer:
                self._keep_alive = False
            if not self.is_writing_paused:
                self.expires = self._half_close_ends
                self._sent_before = self._stream.received if isinstance(self._stream, Body) else 0

    def _read_head(self) -> bool:
        """Start the first request in the buffer; False if its head is incomplete, invalid or not to be forwarded."""
        listener, data, peer = self.listener, self._buffer, self._peer
        now = listener.now()
        assert peer is not None
        try:
            if data[0] == 13:  # empty lines before a request line are ignored (RFC 9112 2.2)
                data = self._buffer = EMPTY_LINES.sub(b"", data, 1)
                if not data:
                    self._phase = IDLE
                    return False
                if data == b"\r":
                    return False
            head = None if self._scanned else read_ordinary(data)
            if head is None or head[3] > listener.limits.max_header_bytes:
                head = split_request(data, listener.limits, self._scanned)
                if head is None:
                    if not self._scanned:
                        self.expires = now + listener.limits.header_timeout
                    self._scanned = len(data)
                    return False
            method, target, version, end, lines, special, speaks_to_caches = head
            self._scanned = 0
            self._buffer = data[end:] if len(data) > end else b""
            x, length, self._keep_alive = read_request(
                method, target, version, lines, special, speaks_to_caches, peer, now
            )
            self._exchange = x
            if not x.request_id:
                ids = listener.request_ids
                x.request_id = ids.pop() if ids else listener.make_request_id()
            x.raw = b"%bx-request-id: %b\r\n" % (x.raw, x.request_id)  # `x.add`, with one copy less
            x.interim = self._interim if method != b"HEAD" else self._write_continue
            phase = SERVING
            if length:
                phase = self._open_body(x, length)
            else:
                self.expires = NEVER
        except Invalid as error:
            if listener.speaks_http2 and data.startswith(HTTP2):
                self._switch_to_http2(data)
            else:
                self._reject(error)
            return False
        except LastHop as last:
            self._exchange = last.x
            self._keep_alive, self._has_to_linger = False, True
            if last.failure is None:
                self._write(last.x, listener.last_hop(last.x))
            else:
                self._write(last.x, make_problem(last.x, failed(last.failure), listener.details))
            return False
        self._phase = phase
        self._serve(x)
        return True

    def _switch_to_http2(self, data: bytes) -> None:
        """Hand the connection over: its client speaks HTTP/2 (RFC 9113 3.3 and 3.4), or has to."""
        from sidecar.downstream.http2.connection import Http2Connection  # for the sake of the start

        transport, listener, peer = self._transport, self.listener, self._peer
        assert transport is not None
        assert peer is not None
        self._phase = SWITCHED
        self._release_transport()
        self._buffer = b""
        successor = Http2Connection(listener, transport, peer.address)
        transport.set_protocol(successor)
        listener.replace(self, successor)
        if data:
            successor.data_received(data)

    def _open_body(self, x: Exchange, length: int) -> int:
        """Set the body of a request, as bytes if it has arrived completely, else as a stream.

        Returns the next phase, SERVING or COLLECTING.  Raises `Invalid`.
        """
        data, limit = self._buffer, self.listener.limits.max_body
        if limit is not None and length > limit:
            raise too_large(limit)
        if 0 < length <= len(data):
            x.body = data[:length]
            self._buffer = data[length:]
            return SERVING
        request_body = RequestBody(self, length)
        self._buffer = b""
        if data:
            x.expects_continue = False  # the client does not wait for a 100
            if request_body.feed(data):
                self._buffer = request_body.finish()
                if request_body.body.trailers:
                    x.stream = request_body.body
                else:
                    x.body = request_body.body.whole()
                self.resume_reading()
                return SERVING
        self._request_body = request_body
        x.stream = request_body.body
        if not x.expects_continue:
            request_body.begin()
        self.set_body_deadline()
        self.resume_reading()
        if request_body.is_behind:
            self._read_on_later(request_body)
        return SERVING if x.expects_continue else COLLECTING

    def _read_body(self, request_body: RequestBody, data: bytes) -> None:
        """Feed the next bytes to the body of the current request."""
        try:
            is_whole = request_body.feed(data)
        except Invalid as error:
            self._break_request(error)
            return
        if not is_whole:
            self.set_body_deadline()
            if request_body.is_behind:
                self._read_on_later(request_body)
            if self._phase == COLLECTING:
                self._collect(request_body)
            return
        self._request_body = None
        self._body_ended = self.listener.now()
        self.set_body_deadline()
        rest = request_body.finish()  # the route may produce its response within this call
        phase = self._phase
        if phase == COLLECTING:
            self._buffer = rest
            self.resume_reading()
            self._run_collected(request_body)
        elif phase in (SERVING, ANSWERING):
            self._buffer = rest
            self.resume_reading()
        elif phase == IDLE:
            self.resume_reading()
            if rest:
                self._phase = READING_HEAD
                self._buffer = rest
                self._set_head_deadline()
                self._read_heads()

    def _read_on_later(self, request_body: RequestBody) -> None:
        """Process the rest of the received bytes in the next turn of the loop, after other connections."""
        self.pause_reading()
        self.listener.env.call_later(0, self._read_on, request_body)

    def _read_on(self, request_body: RequestBody) -> None:
        """Process received bytes that have waited for this turn of the loop."""
        if self._request_body is request_body and request_body.is_behind:
            self._read_body(request_body, b"")
        if not request_body.is_behind:
            self.resume_reading()

    def _collect(self, request_body: RequestBody) -> None:
        """Run the route if enough of the request's body has arrived; refuse the request if no more can be buffered."""
        if not request_body.collect():
            return
        if request_body.has_enough:
            if not request_body.needs_place:
                self._run_collected(request_body)  # otherwise `_start_streaming` takes a place first
        elif request_body.is_slow:
            self._refuse_slow(request_body, "Too many bytes are buffered for slow clients.")
        else:
            self._run_collected(request_body)

    def _refuse_slow(self, request_body: RequestBody, detail: str) -> None:
        """Refuse a request with a slow body; `detail` is the reason."""
        x = self._exchange
        assert x is not None
        request_body.release()
        self._keep_alive, self._has_to_linger = False, True
        self._respond(x, failed(OVERLOADED, Refusal("slow_clients", detail=detail)))

    def _run_collected(self, request_body: RequestBody) -> None:
        """Run the route of a request whose body was collected, completely or in part."""
        request_body.release()
        x, body = self._exchange, request_body.body
        assert x is not None
        if body.state == COMPLETE and not body.trailers:
            x.body = body.whole()
            x.stream = None
        self._phase = SERVING
        try:
            assert self._end is not None
            self._call = call = Call(cast("Route", x.route).pipeline, x, self._end)
            call.start()
        except Exception as error:
            self._break_down(error)

    def _start_streaming(self, request_body: RequestBody) -> None:
        """Run the route of a request whose body is still arriving, if a slow place is free; else try again later."""
        if self._phase == COLLECTING and self._request_body is request_body:
            assert self._exchange is not None
            places = cast("Route", self._exchange.route).slow_places
            if places.take():
                request_body.body.on_close(places.release)
                self._run_collected(request_body)
            elif request_body.has_waited:
                self._refuse_slow(request_body, f"All {places.limit} places for slow requests are taken.")
            else:
                self.listener.env.call_later(SLOW_AFTER, self._start_streaming, request_body)

    def set_body_deadline(self) -> None:
        """Set the deadline for the next bytes of the request's body.

        There is no deadline once the body is complete, and while the upstream does not take it.
        """
        if not self.is_writing_paused:
            request_body = self._request_body
            self.expires = NEVER if request_body is None or request_body.is_paused else request_body.expires

    def _set_head_deadline(self) -> None:
        """Set the deadline of the next head: the header timeout if it has begun to arrive, else the idle timeout."""
        listener = self.listener
        if self._buffer:
            self.expires = listener.now() + listener.limits.header_timeout
        else:
            self.expires = listener.now() + listener.limits.idle_timeout

    def pause_reading(self) -> None:
        self._is_reading_paused = True
        if self._transport is not None:
            self._transport.pause_reading()

    def resume_reading(self) -> None:
        """Resume reading, unless the buffer is too long or the upstream does not take the request's body."""
        if (
            self._is_reading_paused
            and len(self._buffer) <= self.listener.limits.max_header_bytes
            and (self._request_body is None or not self._request_body.is_paused)
        ):
            self._is_reading_paused = False
            if self._transport is not None:
                self._transport.resume_reading()

    # ----- serving

    def _serve(self, x: Exchange) -> None:
        """Select the route of a request and run it, or start to collect the body first."""
        try:
            route = self.listener.match(x)
            if route is None:
                capture = self.listener.capture
                route = None if capture is None else capture.route_of(x, self._transport)
                if route is None:
                    self._respond(x, self.listener.no_route(x))
                    return
            x.route = route
            if x.stated_criticality < 0:
                x.criticality = route.criticality
            else:
                self._set_criticality(x, route.criticality)
            if self._phase == SERVING:
                assert self._end is not None
                self._call = call = Call(route.pipeline, x, self._end)
                call.start()
                return
        except Exception as error:
            self._break_down(error)
            return
        request_body = self._request_body
        assert request_body is not None
        length = request_body.body.length
        if length is None or length > HIGH_WATER:
            self.listener.env.call_later(START_AFTER, self._start_streaming, request_body)
        self._collect(request_body)

    def _set_criticality(self, x: Exchange, own: int) -> None:
        """Set the criticality of a request that states one.  An untrusted client can only lower the route's (`own`)."""
        rank, peer = x.stated_criticality, self._peer
        if peer is not None and not peer.is_trusted:
            rank = max(rank, own)  # the highest number is refused first
            x.add(b"x-criticality", WORDS[rank])
        x.criticality = rank

    def _end_call(self, call: Call) -> None:
        """Write the response of a call that has ended."""
        self._call, outcome, x = None, call.value, self._exchange
        if outcome is None:
            if isinstance(call.error, asyncio.CancelledError):
                outcome = self._cancelled_outcome or failed(CLIENT_CLOSED)
            else:
                outcome = failed(INTERNAL)
                self.listener.report_bug(x, call.error)
        try:
            if self._phase == SERVING and x is not None:
                if outcome.failure is None and outcome.tunnel is None:
                    self._write(x, outcome)
                else:
                    self._respond(x, outcome)
            elif self._phase == ABANDONED:
                self._end_abandoned(outcome)
            else:  # the client had left, and the call continued for other requests
                outcome.discard()
        except Exception as error:
            self._break_down(error)

    def _abandon_call(self) -> None:
        """Cancel the call of a client that has left, unless the call continues for other requests."""
        x, call = self._exchange, self._call
        if call is not None and x is not None and not x.abandon(call):
            self._call = None
            self._end_abandoned(failed(CLIENT_CLOSED))

    def _end_abandoned(self, outcome: Outcome) -> None:
        """Record a request whose client has left before the response."""
        self._phase = CLOSED
        outcome.discard()
        self._record(outcome, outcome.failure or CLIENT_CLOSED)

    def _break_request(self, error: Invalid) -> None:
        """End a request whose body is invalid or late; it is answered unless its response has begun."""
        request_body, self._request_body = self._request_body, None
        self._keep_alive, self._has_to_linger = False, True
        self.expires = self.listener.now() + self.listener.limits.body_timeout
        failure = CLIENT_TIMEOUT if error.status == CLIENT_TIMEOUT.status else BAD_REQUEST
        if request_body is not None:
            request_body.release()
        if self._phase == COLLECTING and self._exchange is not None:
            self._respond(self._exchange, make_rejection(failure, error))
            return
        if self._call is not None:
            self._cancelled_outcome = make_rejection(failure, error)
            self._call.cancel()
        if request_body is not None:
            request_body.body.fail(failure)

    def _break_down(self, error: Exception) -> None:
        """Report a bug, and answer 500 unless the response has begun."""
        x = self._exchange
        self.listener.report_bug(x, error)
        if self._phase in (SERVING, COLLECTING) and x is not None:
            self._write(x, make_problem(x, failed(INTERNAL), self.listener.details))
        else:
            self.abort()

    # ----- writing responses

    def _write_interim(self, status: int, lines: bytes) -> None:
        """Forward an interim response (RFC 9110 15.2), except to an HTTP/1.0 client."""
        transport, x = self._transport, self._exchange
        if self._phase == SERVING and transport is not None and x is not None and x.version == 11:
            transport.write(b"%b%b\r\n" % (STATUS_LINES[status], lines))
            if status == 100 and self._request_body is not None:
                self._request_body.begin()
                self.set_body_deadline()

    def _write_continue(self, status: int, lines: bytes) -> None:
        """Forward only a 100: some clients (nginx 1.22 as a proxy) take a 103 to a HEAD for the final response."""
        if status == 100:
            self._write_interim(status, lines)

    def _reject(self, error: Invalid) -> None:
        """Answer a head that is invalid or late, and close the connection."""
        self._keep_alive, self._has_to_linger = False, True
        outcome = make_rejection(BAD_REQUEST, error)
        self.listener.count_rejection()
        x = self._exchange
        if x is not None:
            self.listener.note_web_call(x)
        elif error.status in EXCESSIVE and self._buffer.startswith(b"POST "):
            self._exchange = x = Exchange(b"POST", b"/", fields_of_kind(self._buffer))
            self.listener.note_web_call(x)
        else:
            self._exchange = x = Exchange(b"", b"/", [])
        x.version = 11
        self._write(x, make_problem(x if x.web else None, outcome, self.listener.details))

    def _respond(self, x: Exchange, outcome: Outcome) -> None:
        """Write the response of an outcome: a tunnel, a response, or a problem document for a failure."""
        if outcome.tunnel is not None:
            self._switch(x, outcome, outcome.tunnel)
        else:
            is_answer = outcome.failure is None or outcome.body or outcome.stream is not None
            self._write(x, outcome if is_answer else make_problem(x, outcome, self.listener.details))

    def _switch(self, x: Exchange, outcome: Outcome, upstream: Upgraded) -> None:
        """Join the connections of the client and of an upstream that has switched protocols."""
        transport, listener = self._transport, self.listener
        assert transport is not None
        tunnel = Tunnel(listener, x, outcome)
        if not tunnel.open(transport, upstream, encode_head(outcome, SWITCHING, listener.date), self._buffer):
            if outcome.stream is not None:
                outcome.stream.fail(RESET)
            self._write(x, make_problem(x, failed(RESET, cause="closed after switching protocols"), listener.details))
            return
        self._phase = SWITCHED
        self._release_transport()
        self._exchange = None  # the tunnel will record it
        listener.replace(self, tunnel)
        if self._half_close_ends:
            tunnel.half_close()

    def _write(self, x: Exchange, outcome: Outcome) -> None:
        """Write the head of a response, and its body if that is complete and short; else start to stream the body."""
        self._phase = ANSWERING
        self._outcome = outcome
        transport, stream, body, status = self._transport, outcome.stream, outcome.body, outcome.status
        assert transport is not None
        if self._request_body is not None or (self._keep_alive and self.listener.is_draining):
            self._keep_alive, self._has_to_linger = False, True  # the client still sends, or may send another request
        is_bodiless = x.method == b"HEAD" or status == 304 or status == 204
        if is_bodiless:
            framing = b""
        elif stream is None:
            size = len(body)
            framing = LENGTHS[size] if size < SHORT else b"content-length: %d\r\n" % size
        else:
            response_body = ResponseBody(self, transport, x, stream.length)
            framing = response_body.framing
            if response_body.ends_with_the_connection:
                self._keep_alive = False
        if not self._keep_alive:
            framing += b"connection: close\r\n"
        elif x.version == 10:
            framing += b"connection: keep-alive\r\n"
        head = encode_head(outcome, framing, self.listener.date)
        if is_bodiless:
            transport.write(head)
            if stream is not None:
                stream.cancel()
            self.finish(outcome.failure)
        elif stream is not None:
            transport.write(head)
            self._stream = stream
            stream.attach(response_body)
            if self.is_writing_paused:  # paused before the stream was attached
                self.count_read_ahead(0)
        elif size <= MAX_AT_ONCE:
            transport.write(head + body)
            self.finish(outcome.failure)
        else:
            transport.write(head)
            self._stream = stored = StoredBody(self, transport, body, outcome.failure)
            stored.resume()

    def finish(self, failure: Failure | None) -> None:
        """Record the exchange at the end of its response, and read the next request or close the connection.

        `failure` is the one that broke the response off; None if the response is complete.
        """
        x, outcome = self._exchange, self._outcome
        self._exchange = self._outcome = self._stream = None
        assert x is not None
        assert outcome is not None
        if not self._keep_alive:
            self._phase = CLOSING
            self.listener.record(x, outcome, failure)
            self._close_transport()
            return
        listener = self.listener
        self._phase = READING_HEAD if self._buffer else IDLE
        now = listener.record(x, outcome, failure)
        if not self.is_writing_paused:  # inlined `_set_head_deadline`
            limits = listener.limits
            self.expires = now + (limits.header_timeout if self._buffer else limits.idle_timeout)
        if self._is_reading_paused:
            self.resume_reading()
        if self._buffer:
            self._read_heads()

    def fail(self, failure: Failure) -> None:
        """End a response that breaks off.

        For a client that reads too slowly, the connection is reset, to free the bytes that it has not read.
        """
        self._keep_alive = False
        if failure.code == CLIENT_TIMEOUT.code and self._transport is not None:
            reset(self._transport)
        self.finish(failure)

    def cut_off(self) -> None:
        """Reset the connection of a client that reads too slowly, and record the request with that reason."""
        transport = self._transport
        if transport is None:
            return
        if self._phase == ANSWERING and (stream := self._stream) is not None:
            self._phase = CLOSING
            stream.cancel(SLOW_READER)  # ends the attempt before it is recorded
            self._record(self._outcome, SLOW_READER)
        reset(transport)

    def _record(self, outcome: Outcome | None, failure: Failure | None) -> None:
        """Record the last exchange of the connection, if it has one."""
        x = self._exchange
        self._exchange = self._outcome = self._stream = None
        if x is not None and outcome is not None:
            self.listener.record(x, outcome, failure)

    # ----- closing

    def close(self) -> None:
        """Close an idle connection."""
        self._phase = CLOSING
        self._close_transport()

    def _close_transport(self) -> None:
        """Close the transport once all written bytes are sent; linger if the client may still be sending or reading."""
        transport, request_body = self._transport, self._request_body
        if request_body is not None:
            self._request_body = None
            request_body.body.fail(CLIENT_CLOSED)
        if transport is None or transport.is_closing():
            return
        is_behind = transport.can_write_eof() and unsent_bytes(transport) > MAX_ORPHANED
        if is_behind or (self._has_to_linger and not self._half_close_ends):
            self._linger(transport)
        else:
            self.expires = self.listener.now() + LINGER_SECONDS  # because a TLS transport waits for the client's close
            transport.close()

    def _linger(self, transport: asyncio.Transport) -> None:
        """Hand the transport over to a `LingeringClose`."""
        self._phase = LINGERING
        self._release_transport()
        self.listener.replace(self, LingeringClose(self.listener, transport))

    def _release_transport(self) -> None:
        """Forget the transport, which is closed or handed over, and the client's unread bytes."""
        self._transport = None
        self._end = self._interim = None
        if self._backlog is not None:
            self._backlog.end(self.listener.now())
            self._backlog = None

    def abort(self) -> None:
        """Close at once and discard unsent bytes."""
        if self._transport is not None:
            self._transport.abort()

    def expire(self, now: float) -> None:
        """Handle the passed deadline by the phase: close, answer 408, cut the client off, or set a new deadline."""
        phase, transport = self._phase, self._transport
        if transport is None:
            return
        backlog = self._backlog
        if phase == CLOSING and unsent_bytes(transport):
            self._linger(transport)  # the client is still reading
        elif phase == CLOSING:
            transport.abort()
        elif self.is_writing_paused and backlog is not None:
            backlog.look(now)
            self.expires = backlog.expires
            if self.expires <= now:
                self.cut_off()
        elif phase == IDLE:
            self.close()
        elif phase == READING_HEAD:
            self._reject(Invalid("the request head did not arrive in time", 408))
        elif self._request_body is not None:
            self._break_request(Invalid("the request's body did not arrive in time", 408))
        elif self._half_close_ends and isinstance(self._stream, Body) and self._stream.received > self._sent_before:
            self._extend_half_close()  # bytes were written, which would have failed if the client had left
        else:  # the call of a broken request has not ended in time
            transport.abort()

    def drain(self) -> None:
        """Close once no request is in flight."""
        if self._phase == IDLE:
            self.close()
        elif self.is_serving and self._keep_alive:
            self._keep_alive, self._has_to_linger = False, True

    def __repr__(self) -> str:
        return f"<DownstreamConnection {self.listener.name} {PHASES[self._phase]} {self._exchange!r}>"
