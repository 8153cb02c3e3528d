"""Upstream connection: an `asyncio.Protocol` that carries one exchange at a time; `TRANSITIONS` has its phases.

Rules (`docs/design/protocols.md` has the reasons):

1. The receiver gets one outcome for each exchange.  Later bytes belong to the response's body, or close the connection.
2. A connection is reused only if both messages were complete, nothing followed, and it is persistent (RFC 9112 9.3).
3. If a reused connection closes before the first byte of a response, the failure is `STALE_CONNECTION` for idempotent
   methods, else `RESET` (RFC 9112 9.3.1).  A 408 that closes such a connection has the same meaning (RFC 9110 15.5.9).
4. Empty lines before the first response of a connection are skipped.  Before a later response they are an error.
5. A body that ends with the connection counts as complete, except over TLS without a close_notify (RFC 9112 9.8).
6. Malformed bytes become `PROTOCOL` and never reach a client.
7. If the client is slow or its deadline short, the failure is not the upstream's (`response_times.py`).
8. From its first long response on, a connection reads at most `READ_BYTES` at a time (`BoundedReads`).
"""

from __future__ import annotations

import asyncio
import os
import re
import select
from contextlib import suppress
from typing import TYPE_CHECKING, Final, Protocol, cast

from sidecar.core import events
from sidecar.core.body import UNTIL_CLOSE, Body, BodyReader
from sidecar.core.exchange import IDEMPOTENT_METHODS, NEVER, Exchange
from sidecar.core.http1 import (
    CHUNKED,
    LONG_HEAD,
    MAX_FIELDS,
    MAX_MEMBERS,
    ChunkedDecoder,
    Invalid,
    check_fields,
    parse_response,
)
from sidecar.core.outcome import (
    CLIENT_TIMEOUT,
    INTERNAL,
    PROTOCOL,
    RESET,
    SLOW_READER,
    STALE_CONNECTION,
    TIMEOUT,
    Failure,
    Outcome,
    failed,
)
from sidecar.upstream.errors import describe_error, describe_late_body
from sidecar.upstream.request_body import RequestBody
from sidecar.upstream.request_head import request_head
from sidecar.upstream.response_head import (
    MAX_HEAD_BYTES,
    UPGRADE_REQUIRED,
    read_interim,
    read_ordinary,
    read_required_upgrade,
    read_response,
    read_upgrade,
)
from sidecar.upstream.response_times import is_hurried
from sidecar.upstream.tls import is_cut_off

if TYPE_CHECKING:
    from sidecar.upstream.pool import Pool

CONNECTING: Final = 0
"""Phase of the TCP and TLS handshake, before there is a transport."""
IDLE: Final = 1
"""Phase without an exchange, in the pool or on the way to a request."""
AWAITING_HEAD: Final = 2
"""Phase from the start of a request to the end of the final response head."""
READING_BODY: Final = 3
"""Phase in which the body of a response arrives."""
SWITCHED: Final = 4
"""Phase after a 101, in which the connection carries another protocol."""
CLOSED: Final = 5
"""Last phase: the connection is closing or closed."""

TRANSITIONS: Final = {
    CONNECTING: (IDLE,),
    IDLE: (AWAITING_HEAD, CLOSED),
    AWAITING_HEAD: (IDLE, READING_BODY, SWITCHED, CLOSED),
    READING_BODY: (IDLE, CLOSED),
    SWITCHED: (CLOSED,),
    CLOSED: (),
}
"""Phases that may follow each phase."""

EMPTY_LINES: Final = re.compile(rb"(?:\r\n){1,8}(?!\r\n)")
"""Empty lines that may precede the first response of a connection."""
REQUEST_TIMEOUT: Final = 408
MAX_INTERIM: Final = 16
"""Most interim responses to one request."""

READ_BYTES: Final = 124 * 1024
"""Most bytes in one read of a connection that has carried a long response.  An object of this size is below the
threshold from which the C library maps memory for each allocation."""
READ_BUFFER: Final = memoryview(bytearray(READ_BYTES))
"""Buffer for such reads, shared by all connections: each read is copied out before the next one begins."""


class Receiver(Protocol):
    """Object that waits for the outcome of an exchange."""

    def take(self, outcome: Outcome) -> None:
        """Accept the outcome; called once, unless the exchange is aborted before."""


class UpstreamConnection(asyncio.Protocol):
    """Connection to one endpoint: sends requests, reads responses and is the `Source` of their bodies.

    After a 101 it is also the `Upgraded` of the outcome, until a tunnel takes its transport over.
    """

    __slots__ = (
        "_buffer",
        "_deadline",
        "_exchange",
        "_interims",
        "_is_bounded",
        "_is_reading_paused",
        "_is_writing_paused",
        "_keep_alive",
        "_phase",
        "_piece_at",
        "_reader",
        "_receiver",
        "_request_body",
        "_scanned",
        "_started",
        "expires",
        "idle_since",
        "pool",
        "served",
        "transport",
        "used_before",
    )

    def __init__(self, pool: Pool) -> None:
        self.pool = pool
        self.served = 0
        """Number of exchanges after which the connection was reusable."""
        self.idle_since = 0.0
        """Instant at which the pool last kept the connection idle; 0.0 before that."""
        self.used_before: UpstreamConnection | None = None
        """While this connection is idle, the idle one that was used before it; else None."""
        self.expires = NEVER
        """Deadline after which the sweep calls `expire`, while an exchange is in flight."""
        self._phase = CONNECTING
        self.transport: asyncio.Transport | None = None
        """Transport; None before the connection is made and after it is lost."""
        self._exchange: Exchange | None = None
        """Current exchange; None outside AWAITING_HEAD and READING_BODY."""
        self._receiver: Receiver | None = None
        """Receiver of the outcome; None once it has the outcome."""
        self._deadline = NEVER
        """Instant by which the response must be complete."""
        self._started = 0.0
        """Instant at which the attempt began."""
        self._piece_at = 0.0
        """Instant of the last piece of the body; not updated for exchanges without an idle timeout or deadline."""
        self._request_body: RequestBody | None = None
        """Body of the request if it is streamed, else None."""
        self._reader: BodyReader | None = None
        """Reader of the response's body; None outside READING_BODY."""
        self._buffer = b""
        """Start of a response head; after a 101, bytes of the new protocol."""
        self._scanned = 0
        """Number of bytes of the buffer in which no end of a head was found."""
        self._interims = 0
        """Number of interim responses to the request."""
        self._keep_alive = True
        """True if the response allows another exchange on this connection."""
        self._is_reading_paused = False
        """True while the client does not take the response's body."""
        self._is_writing_paused = False
        """True while the transport has paused writing."""
        self._is_bounded = False
        """True once reads are limited to `READ_BYTES`."""

    # ----- one exchange

    def exchange(self, x: Exchange, expires: float, now: float, receiver: Receiver) -> None:
        """Send a request; the receiver gets its outcome later.

        `expires` is the instant by which the response must be complete; `now` is the start of the attempt.
        """
        transport, pool = self.transport, self.pool
        assert transport is not None
        self._phase = AWAITING_HEAD
        self._exchange = x
        self._receiver = receiver
        self._deadline = self.expires = expires
        self._started = now
        self._interims = 0
        deadlines = pool.deadlines  # inlined `Deadlines.add`
        deadlines.entries.add(self)
        if not deadlines.is_ticking:
            deadlines.start()
        head = request_head(x, now, pool.host)
        stream = x.stream
        if stream is None:
            transport.write(head + x.body if x.body else head)
        else:
            self._request_body = body = RequestBody(self, transport, x, stream)
            transport.write(head)
            body.start()

    def finish(self, is_reusable: bool, is_doubtful: bool = False) -> None:
        """End the exchange, and return the connection to its pool or close it.

        `is_doubtful` is True if the peer may still send an unannounced body.
        """
        self._exchange = self._reader = None
        body, transport = self._request_body, self.transport
        if (
            is_reusable
            and (body is None or body.is_sent)
            and not self._is_writing_paused
            and transport is not None
            and not transport.is_closing()
        ):
            self._request_body = None
            if self._is_reading_paused:  # the last piece has filled the client's buffer
                self.resume_reading()
            self.pool.deadlines.entries.discard(self)
            self._phase = IDLE
            self.served += 1
            if is_doubtful:
                self.pool.await_silence(self)
            else:
                self.pool.release(self)
        else:
            self.close()

    def fail(self, failure: Failure, cause: str) -> None:
        """Abort the connection and end the exchange with a failure, which the body's sink or the receiver gets.

        `cause` describes the error for logs.
        """
        reader, transport = self._reader, self.transport
        self.finish(False)
        if transport is not None:
            transport.abort()
        if reader is not None:
            reader.body.fail(failure, cause)
        receiver, self._receiver = self._receiver, None
        if receiver is not None:
            receiver.take(failed(failure, cause=cause))

    def abort(self) -> None:
        """Abort the connection and its exchange; the receiver gets no outcome."""
        self._receiver = None
        if self._exchange is not None:
            self.fail(RESET, "abandoned")

    def expire(self, now: float) -> None:
        """Fail the exchange, because its deadline or the idle timeout of its body has passed."""
        x, reader, times = self._exchange, self._reader, self.pool.times
        if times.continued is self:
            times.continued = None
            times.fall_silent(self._started, now)
            self.fail(TIMEOUT, "no response to an attempt that went on after its caller's deadline")
        elif self._request_body is not None and self._request_body.is_starved:
            self.fail(CLIENT_TIMEOUT, "the request's body did not arrive in time")
        elif x is None:
            self.fail(TIMEOUT, "no complete response in time")
        elif reader is None:
            self._expire_without_head(x, now)
        else:
            self._expire_body(x, reader.body, now)

    def _expire_without_head(self, x: Exchange, now: float) -> None:
        """Fail an exchange without a response head, and decide whether client, caller or upstream is to blame."""
        body = self._request_body
        blocked = 0.0 if body is None else body.blocked_for(now)
        failure = self.pool.times.judge_unanswered(x, self._started, blocked, now)
        if failure is CLIENT_TIMEOUT:
            self.fail(failure, "the request's body left no time for a response")
        elif not is_hurried(x, now) or not self._continue_attempt(x, now, failure):
            self.fail(failure, "no complete response in time")

    def _continue_attempt(self, x: Exchange, now: float, failure: Failure) -> bool:
        """Report the failure, but continue the attempt to measure the response time; False if that is not possible."""
        pool = self.pool
        times, receiver = pool.times, self._receiver
        until = self._started + min(times.patience, x.attempt_timeout)
        if (
            receiver is None
            or times.continued is not None
            or x.stream is not None
            or x.upgrade is not None
            or until <= now
            or not pool.has_room
        ):
            return False
        twin = x.fork(x.attempt, x.why)
        twin.interim = None  # the client may be reading the response to its next request by then
        self._exchange = twin
        self._receiver = None
        self._deadline = self.expires = until
        times.begin_continued(self, self._started)
        receiver.take(failed(failure, cause="no complete response in time"))
        return True

    def _expire_body(self, x: Exchange, body: Body, now: float) -> None:
        """Fail an exchange with an incomplete response, and decide whether client, caller or upstream is to blame."""
        if now < self._deadline:
            idle = f"the response's body stalled for {x.idle_timeout:.3g} s"
            self.fail(TIMEOUT, f"{idle} after {body.received} bytes")
            return
        times = self.pool.times
        failure = times.judge_body(x, body, self._piece_at, self._started, self._is_reading_paused, now)
        self.fail(failure, describe_late_body(failure, body))

    def close(self) -> None:
        """Leave the pool, and close the transport once all written bytes are sent."""
        self._phase = CLOSED
        if self.pool.times.continued is self:
            self.pool.times.continued = None
        body, self._request_body = self._request_body, None
        if body is not None:
            body.end()
        self.pool.deadlines.discard(self)
        self.pool.discard(self)
        if self.transport is not None:
            self.transport.close()

    # ----- called by the pool while requests wait for a connection

    @property
    def blocked_since(self) -> float:
        """Instant since which the exchange waits for its client or for a `100 Continue`; `NEVER` if it does not."""
        body = self._request_body
        if body is not None and (body.is_starved or (body.is_held_back and self._reader is None)):
            return body.starved_since
        return NEVER if self._reader is None else self._reader.body.blocked_since

    @property
    def route(self) -> str:
        """Name of the route of the current exchange; empty without one."""
        x = self._exchange
        return "" if x is None or x.route is None else x.route.name

    def yield_place(self) -> None:
        """End an exchange that waits for its own client; if it waits for a `100 Continue`, send the body instead."""
        if self._request_body is not None and self._request_body.is_held_back:
            self._request_body.send_withheld(b"")
            return
        self.fail(CLIENT_TIMEOUT, "the client did not keep up while other requests waited for its place")

    # ----- called by the pool for an idle connection

    def is_idle(self) -> bool:
        """True if the connection is open and has no exchange."""
        return self._phase == IDLE

    def is_closing(self) -> bool:
        """True if the transport is closing or lost.  `Pool.take` has an inlined copy of this method."""
        return self.transport is None or self.transport.is_closing()

    def peer_address(self) -> str:
        """Return the IP address of the endpoint; empty without one."""
        peer = None if self.transport is None else self.transport.get_extra_info("peername")
        return str(peer[0]) if peer else ""

    def has_input(self) -> bool:
        """True if the socket of an idle connection has input, such as an EOF, that the event loop may not have read.

        The check takes a system call, so it is only for requests that must not be sent twice.
        """
        sock = None if self.transport is None else self.transport.get_extra_info("socket")
        if sock is None:
            return False
        poll = select.poll()
        poll.register(sock.fileno(), select.POLLIN | select.POLLRDHUP)
        return bool(poll.poll(0))

    # ----- asyncio.Protocol

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self.transport = cast("asyncio.Transport", transport)
        self._phase = IDLE

    def data_received(self, data: bytes) -> None:
        try:
            if self._phase == AWAITING_HEAD:
                if self._buffer:
                    data = self._buffer + data
                    self._buffer = b""
                head = None if self._scanned else read_ordinary(data, self.pool.wall)
                if head is None:
                    self._take_unusual_head(data)
                else:
                    status, end, lines, length, self._keep_alive = head
                    self._take_final(data, status, end, lines, length)
            elif self._phase == READING_BODY:
                self._take_body(data)
            else:  # bytes without a request, such as a 408 before the peer closes
                self.close()
        except Invalid as error:
            self.fail(PROTOCOL, str(error))
        except Exception as bug:
            self.pool.env.emit(events.BUG, where=repr(self), error=bug)
            self.fail(INTERNAL, "a bug in the sidecar")

    def connection_lost(self, error: Exception | None) -> None:
        if error is not None and self._request_body is not None:
            self._read_early_response()
        while self._reader is not None and self._reader.is_behind:
            self.data_received(b"")
        transport, self.transport = self.transport, None
        x, reader = self._exchange, self._reader
        if x is None:
            self.close()
        elif reader is not None and reader.ends_with_the_connection and error is None:
            if transport is not None and is_cut_off(transport):
                self.fail(RESET, "closed without a TLS close_notify: the response may be incomplete")
            else:
                self._end_body(reader)
        elif (failure := self._slow_client()) is not None:
            self.fail(failure, "closed while it waited for the client")
        elif self._is_stale() and x.method in IDEMPOTENT_METHODS:
            self.fail(STALE_CONNECTION, "closed while idle")
        else:
            self.fail(RESET, describe_error(error) if error else "closed before the response was complete")

    def pause_writing(self) -> None:
        self._is_writing_paused = True
        if self._request_body is not None:
            self._request_body.pause()

    def resume_writing(self) -> None:
        self._is_writing_paused = False
        if self._request_body is not None:
            self._request_body.resume()

    def _is_stale(self) -> bool:
        """True if the connection was used or idle before this exchange, and no byte of a response has arrived."""
        return self._is_reused and self._phase == AWAITING_HEAD and not self._buffer and not self._interims

    @property
    def _is_reused(self) -> bool:
        """True if the connection was used or idle before this exchange."""
        return self.served > 0 or self.idle_since > 0

    def _is_idle_close(self, x: Exchange) -> bool:
        """True if a 408 refers to the idle time before this exchange, and the exchange can be repeated."""
        is_closing = self._is_reused and not self._keep_alive and not self._interims
        return is_closing and x.method in IDEMPOTENT_METHODS and x.is_replayable

    def _slow_client(self) -> Failure | None:
        """Return the client's failure if the peer may have closed the connection because the client was slow; else
        None."""
        now, body, reader = self.pool.env.now(), self._request_body, self._reader
        if reader is not None:
            return SLOW_READER if 2 * reader.body.blocked_for(now) > now - self._started else None
        return CLIENT_TIMEOUT if body is not None and body.is_slow(now) else None

    def _read_early_response(self) -> None:
        """Read the rest of the socket's input after a failed write, because it may contain a response.

        A server that answers 413 and closes resets the connection (RFC 9112 9.6).  Event loops do not read after a
        failed write.
        """
        assert self.transport is not None
        sock = self.transport.get_extra_info("socket")
        if sock is None or self.transport.get_extra_info("sslcontext") is not None:
            return
        with suppress(OSError):
            while self._exchange is not None and (data := os.read(sock.fileno(), MAX_HEAD_BYTES)):
                self.data_received(data)

    # ----- response head

    def _take_unusual_head(self, data: bytes) -> None:
        """Parse a head that is not a common one with the grammar: incomplete, interim, invalid or unusual."""
        x = self._exchange
        assert x is not None
        while True:
            try:
                parsed = parse_response(data, MAX_HEAD_BYTES, self._scanned)
            except Invalid:
                if self.served or self._interims or data[:1] != b"\r":
                    raise
                self._scanned = 0
                begin = _begin(data)
                if begin < 0:
                    self._buffer = data
                    return
                data = data[begin:]
                continue
            if parsed is None:
                self._buffer = data
                self._scanned = len(data)
                return
            self._scanned = 0
            status, version, start, end = parsed
            if end > LONG_HEAD:
                check_fields(data, start, end - 2, MAX_FIELDS, MAX_MEMBERS)
            if status >= 200:
                break
            if status == 101:
                self._switch(read_upgrade(x, data, start, end - 2), data[end:])
                return
            self._pass_interim(x, status, read_interim(data, start, end - 2))
            data = data[end:]
            if not data or self._exchange is None:
                return
        lines, length, self._keep_alive = read_response(data, start, end - 2, version, self.pool.env.wall)
        if status == UPGRADE_REQUIRED:
            lines += read_required_upgrade(data, start, end - 2)
        self._take_final(data, status, end, lines, length)

    def _take_final(self, data: bytes, status: int, end: int, lines: bytes, length: int | None) -> None:
        """Continue with a final response whose head is `data[:end]`."""
        x = self._exchange
        assert x is not None
        is_bodiless = x.method == b"HEAD"
        if status == 204 or status == 304:  # never with a body (RFC 9110 6.4.1)
            is_bodiless = True
        elif status == REQUEST_TIMEOUT and self._is_idle_close(x):
            self.fail(STALE_CONNECTION, "closed while idle, with a 408")
            return
        if is_bodiless:
            if length is not None and length >= 0 and status != 204:
                lines += b"content-length: %d\r\n" % length
            if length:
                self._keep_alive = False
            self._respond(Outcome(status, None, b"", lines), len(data) == end, status != 304)
        elif length is None:  # delimited by the close (RFC 9112 6.3 rule 8)
            self._keep_alive = False
            self._stream(Outcome(status, None, b"", lines), UNTIL_CLOSE, data[end:])
        elif length == CHUNKED:
            self._take_chunked(x, Outcome(status, None, b"", lines), data[end:])
        elif len(data) - end >= length:
            outcome = Outcome(status, None, data[end : end + length], lines)
            self._respond(outcome, len(data) - end == length)
        else:
            self._stream(Outcome(status, None, b"", lines), length, data[end:])

    def _pass_interim(self, x: Exchange, status: int, lines: bytes) -> None:
        """Forward an interim response; a 100 also starts a body that was held back.  Raises `Invalid` for too many."""
        self._interims += 1
        if self._interims > MAX_INTERIM:
            raise Invalid(f"more than {MAX_INTERIM} interim responses")
        if status == 100:
            if self._request_body is not None:
                self._request_body.send_withheld(lines)
        elif x.interim is not None:
            x.interim(status, lines)

    def _take_chunked(self, x: Exchange, outcome: Outcome, data: bytes) -> None:
        """Continue with a chunked response; `data` follows its head."""
        if data.endswith(b"0\r\n\r\n"):  # probably the complete body
            decoder = ChunkedDecoder()
            pieces = decoder.feed(data)
            if decoder.done and not (decoder.trailers and x.accepts_trailers):
                outcome.body = b"".join(pieces)
                self._respond(outcome, not decoder.rest)
                return
        self._stream(outcome, CHUNKED, data)

    def _respond(self, outcome: Outcome, is_clean: bool, is_doubtful: bool = False) -> None:
        """Deliver a complete response; `is_clean` is False if bytes followed it, `is_doubtful` is that of `finish`.

        The connection returns to its pool first, because the receiver may use it again.
        """
        receiver, self._receiver = self._receiver, None
        if receiver is None:
            self._record_continued()
        self.finish(self._keep_alive and is_clean, is_doubtful)
        if receiver is not None:
            receiver.take(outcome)

    def _record_continued(self) -> None:
        """Record the time of the response to a continued attempt (`ResponseTimes`)."""
        times = self.pool.times
        if times.continued is self:
            times.record_continued(self.pool.env.now())

    # ----- response body

    def _stream(self, outcome: Outcome, length: int, first: bytes) -> None:
        """Deliver a response whose body is still arriving; `first` are the bytes that followed its head."""
        outcome.stream = body = Body(self, length if length >= 0 else None)
        self._reader = BodyReader(body, length)
        self._phase = READING_BODY
        self._await_piece()
        receiver = self._receiver
        if receiver is None:
            self._record_continued()
            body.cancel()
            return
        if not self._is_bounded and not 0 <= length - len(first) <= READ_BYTES:
            self._bound_reads()
        if first:
            self._take_body(first)  # if this fails, the receiver gets the failure as the outcome
        if self._receiver is receiver:
            self._receiver = None
            receiver.take(outcome)

    def _bound_reads(self) -> None:
        """Limit further reads to `READ_BYTES`.

        Event loops read larger pieces by default, from all ready connections before any of them can be paused.
        """
        transport = self.transport
        if transport is not None:
            self._is_bounded = True
            transport.pause_reading()  # uvloop checks the kind of protocol only when reading starts
            transport.set_protocol(BoundedReads(self))
            transport.resume_reading()

    def _take_body(self, data: bytes) -> None:
        """Feed the next bytes to the body of the response."""
        reader = self._reader
        assert reader is not None
        if not self._is_reading_paused:
            self._await_piece()
        is_whole = reader.feed(data)
        if self._reader is not reader:
            return
        if is_whole:
            self._end_body(reader)
        elif reader.is_behind and self.transport is not None:  # other connections come first
            self.transport.pause_reading()
            self.pool.env.call_later(0, self._take_rest, reader)

    def _take_rest(self, reader: BodyReader) -> None:
        """Process received bytes that have waited for this turn of the loop, and resume reading after them."""
        if self._reader is reader and reader.is_behind:
            self.data_received(b"")
        transport = self.transport
        if transport is not None and not reader.is_behind and not self._is_reading_paused:
            transport.resume_reading()

    def _end_body(self, reader: BodyReader) -> None:
        """End the exchange and its complete body."""
        body = reader.body
        body.source = None  # after `finish` the connection may carry another exchange
        self.finish(self._keep_alive and not reader.rest)
        body.finish(reader.trailers)

    def _await_piece(self) -> None:
        """Set the deadline for the next piece of the body."""
        x = self._exchange
        if x is not None and (x.idle_timeout != NEVER or x.caller_deadline != NEVER):
            self._piece_at = now = self.pool.env.now()
            self.expires = min(self._deadline, now + x.idle_timeout)

    def pause_reading(self) -> None:
        """Pause reading."""
        self._is_reading_paused = True
        if self.transport is not None:
            self.transport.pause_reading()

    def resume_reading(self) -> None:
        """Resume reading."""
        self._is_reading_paused = False
        if self.transport is not None:
            self.transport.resume_reading()

    def pause_body(self) -> None:
        self.expires = self._deadline  # no idle timeout, because the client delays the body
        if self._reader is not None:
            self._reader.body.block(self.pool.env.now())
        self.pause_reading()

    def resume_body(self) -> None:
        self._await_piece()
        if self._reader is not None:
            self._reader.body.unblock(self.pool.env.now())
        self.resume_reading()

    def cancel_body(self) -> None:
        self._reader = None
        self.abort()

    # ----- another protocol (RFC 9110 7.8)

    def _switch(self, lines: bytes, early: bytes) -> None:
        """Deliver a 101, whose receiver must take the connection over before the deadline of the exchange.

        `early` are bytes of the new protocol that followed the head.
        """
        receiver, self._receiver = self._receiver, None
        outcome = Outcome(101, lines=lines, stream=Body())  # the body keeps permits until the tunnel ends
        outcome.tunnel = self
        self._phase = SWITCHED
        self._exchange = None
        self._buffer = early
        self.pause_reading()
        if receiver is not None:
            receiver.take(outcome)

    def take_over(self, protocol: asyncio.Protocol) -> tuple[asyncio.Transport, bytes] | None:
        """Hand the transport to `protocol`.  Return it with the bytes already received; None if it is closed.

        The connection remains in the pool until `close`, because tunnels count towards `connections.max`.
        """
        transport = self.transport
        if transport is None or self._phase != SWITCHED:
            return None
        self.pool.deadlines.discard(self)
        early, self._buffer = self._buffer, b""
        transport.set_protocol(protocol)
        transport.resume_reading()
        return transport, early

    def __repr__(self) -> str:
        phase = ("connecting", "idle", "awaiting head", "reading body", "switched", "closed")[self._phase]
        return f"<UpstreamConnection {self.pool.name} {phase} {self._exchange!r}>"


class BoundedReads(asyncio.BufferedProtocol):
    """Protocol that reads at most `READ_BYTES` at a time; it passes everything on to its connection."""

    __slots__ = ("_connection",)

    def __init__(self, connection: UpstreamConnection) -> None:
        self._connection = connection

    def get_buffer(self, sizehint: int) -> memoryview:
        return READ_BUFFER

    def buffer_updated(self, nbytes: int) -> None:
        self._connection.data_received(bytes(READ_BUFFER[:nbytes]))

    def connection_lost(self, error: Exception | None) -> None:
        self._connection.connection_lost(error)

    def pause_writing(self) -> None:
        self._connection.pause_writing()

    def resume_writing(self) -> None:
        self._connection.resume_writing()


def _begin(data: bytes) -> int:
    """Return the start of a response after empty lines; -1 if it has not begun.  Raises `Invalid` for other bytes."""
    found = EMPTY_LINES.match(data)
    end = 0 if found is None else found.end()
    if data[end:] in (b"", b"\r"):
        return -1
    if not end:
        raise Invalid("the response does not begin with an HTTP/1.1 status line")
    return end
