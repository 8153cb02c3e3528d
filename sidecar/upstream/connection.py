"""Upstream connection: an `asyncio.Protocol` that carries one exchange at a time.

Phases (`TRANSITIONS`), each with those that may follow it:

    CONNECTING     IDLE
    IDLE           AWAITING_HEAD, CLOSED
    AWAITING_HEAD  IDLE, READING_BODY, SWITCHED, CLOSED
    READING_BODY   IDLE, CLOSED
    SWITCHED       CLOSED

Rules:

1. The outcome is told once.  Later bytes belong to the response's body or end the connection.
2. A connection is reused only if both messages were whole, nothing followed and the peer keeps it open (RFC 9112 9.3).
   A response that may have no body (HEAD, 204, 304) and announces one ends it: the peer may send that body later, where
   it would be taken for the next response.  After a HEAD or a 204 the pool looks whether it stays silent.
3. A reused connection that closes before the first byte of an answer was most likely closed while the request was on
   its way (RFC 9112 9.3.1): `STALE_CONNECTION` for idempotent methods, `RESET` for all others.
   A 408 that closes such a connection says the same (RFC 9110 15.5.9): the peer has given an idle client up.
4. Empty lines before the first answer of a connection are skipped.  Before a later one they may be the rest of the
   answer before it, whose length was then wrong.
5. At most `MAX_INTERIM` interim responses are passed on (RFC 9110 15.2).
6. A body that ends with the connection is whole unless the peer can say otherwise and does: over TLS (RFC 9112 9.8).
7. Malformed bytes become `PROTOCOL` and never reach a client.
8. What the client's own slowness or short deadline ends is not the upstream's failure (`answer_times.py`).
9. From its first long answer on, a connection reads at most `READ_BYTES` at a time (`BoundedReads`).

Choosing, opening and keeping connections is the work of `pool.py`.
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
    SHORT_DEADLINE,
    SLOW_READER,
    STALE_CONNECTION,
    TIMEOUT,
    Failure,
    Outcome,
    failed,
)
from sidecar.upstream.errors import describe_error
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
from sidecar.upstream.tls import is_cut_off

if TYPE_CHECKING:
    from sidecar.upstream.pool import Pool

CONNECTING: Final = 0
"""The transport is not there yet: TCP or TLS handshake."""
IDLE: Final = 1
"""No exchange: in the pool, or about to be handed to a request."""
AWAITING_HEAD: Final = 2
"""The request is being sent; the final response head is not complete."""
READING_BODY: Final = 3
"""The response head was passed on; its body is still arriving."""
SWITCHED: Final = 4
"""After a 101: the connection carries another protocol."""
CLOSED: Final = 5
"""Closing or closed; never left."""

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
"""Matches the empty lines that may precede the first answer of a connection."""
REQUEST_TIMEOUT: Final = 408
MAX_INTERIM: Final = 16
NO_CONTENT: Final = frozenset((204, 304))
"""Statuses whose responses never have a body (RFC 9110 6.4.1)."""
ODD: Final = NO_CONTENT | {REQUEST_TIMEOUT}
"""Those, and the one that may say something of the connection."""

READ_BYTES: Final = 124 * 1024
"""Bytes that one read of a connection brings at most once it has carried a longer answer.  An object of this size is
below the 128 KiB from which the C library maps memory anew for each."""
READ_BUFFER: Final = memoryview(bytearray(READ_BYTES))
"""Memory for such reads, of all connections in turn: each is copied out before the next one begins."""


class Receiver(Protocol):
    """Whoever waits for the outcome of an exchange."""

    def take(self, outcome: Outcome) -> None:
        """Take the outcome; called once, unless the exchange is aborted before."""


class UpstreamConnection(asyncio.Protocol):
    """Connection to one endpoint: sends requests, reads responses and is the source of their bodies.

    After a 101 it is also the `Upgraded` of the outcome, until somebody takes its transport over.
    """

    __slots__ = (
        "_buffer",
        "_deadline",
        "_exchange",
        "_heard",
        "_interims",
        "_is_bounded",
        "_is_reading_paused",
        "_is_writing_paused",
        "_keep_alive",
        "_phase",
        "_reader",
        "_receiver",
        "_request_body",
        "_scanned",
        "_started",
        "_transport",
        "expires",
        "idle_since",
        "pool",
        "served",
    )

    def __init__(self, pool: Pool) -> None:
        self.pool = pool
        self.served = 0
        """Exchanges that left the connection reusable."""
        self.idle_since = 0.0
        """Instant at which the pool last kept it idle; 0.0 before that."""
        self.expires = NEVER
        """Instant at which `expire` is due while an exchange is in flight."""
        self._phase = CONNECTING
        self._transport: asyncio.Transport | None = None
        """None before the connection is made and after it is lost."""
        self._exchange: Exchange | None = None
        """The exchange being carried; None outside AWAITING_HEAD and READING_BODY."""
        self._receiver: Receiver | None = None
        """Takes the outcome; None once it was told."""
        self._deadline = NEVER
        """Instant by which the response must be whole."""
        self._started = 0.0
        """Instant at which the attempt of that exchange began."""
        self._heard = 0.0
        """Instant of the last piece of the body, where pieces have a deadline."""
        self._request_body: RequestBody | None = None
        """The request's body, where it is streamed."""
        self._reader: BodyReader | None = None
        """Reads the response's body; None outside READING_BODY."""
        self._buffer = b""
        """Start of a response head; after a 101, bytes of the new protocol."""
        self._scanned = 0
        """Bytes of the buffer known not to end a head."""
        self._interims = 0
        """Interim responses to this request."""
        self._keep_alive = True
        """True if the response allows another exchange on this connection."""
        self._is_reading_paused = False
        """True while the reader of the response's body takes no more."""
        self._is_writing_paused = False
        """True while the peer has not taken what was written."""
        self._is_bounded = False
        """True once reads are bounded."""

    # ----- one exchange

    def exchange(self, x: Exchange, expires: float, now: float, receiver: Receiver) -> None:
        """Send a request and tell the receiver its outcome, later.

        `expires` is the instant by which the response must be whole; `now` is the one at which the attempt began.
        """
        transport, pool = self._transport, self.pool
        assert transport is not None
        self._phase = AWAITING_HEAD
        self._exchange = x
        self._receiver = receiver
        self._deadline = self.expires = expires
        self._started = now
        self._interims = 0
        pool.deadlines.add(self)
        head = request_head(x, now, pool.host)
        stream = x.stream
        if stream is None:
            transport.write(head + x.body if x.body else head)
        else:
            self._request_body = body = RequestBody(self, transport, x, stream)
            transport.write(head)
            body.start()

    def finish(self, is_reusable: bool, is_doubtful: bool = False) -> None:
        """End the exchange; give the connection back to its pool, or close it.

        `is_doubtful` says that the peer may still send a body that nothing has announced.
        """
        self._exchange = self._reader = None
        body, transport = self._request_body, self._transport
        if (
            is_reusable
            and (body is None or body.is_sent)
            and not self._is_writing_paused
            and transport is not None
            and not transport.is_closing()
        ):
            self._request_body = None
            if self._is_reading_paused:  # the last piece was more than the reader could take
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
        """Drop the connection, then tell the reader of the body or whoever awaits the outcome.

        `cause` says what happened, for logs.
        """
        reader, transport = self._reader, self._transport
        self.finish(False)
        if transport is not None:
            transport.abort()
        if reader is not None:
            reader.body.fail(failure, cause)
        receiver, self._receiver = self._receiver, None
        if receiver is not None:
            receiver.take(failed(failure, cause=cause))

    def abort(self) -> None:
        """Drop the connection because nobody awaits its exchange any more; no outcome is told."""
        self._receiver = None
        if self._exchange is not None:
            self.fail(RESET, "abandoned")

    def expire(self, now: float) -> None:
        """Fail the exchange: its deadline has passed, or the pause between two pieces of a body was too long."""
        x, reader, times = self._exchange, self._reader, self.pool.times
        if times.late is self:
            times.late = None
            times.fall_silent(self._started, now)
            self.fail(TIMEOUT, "no answer to an attempt that its caller has given up")
        elif self._request_body is not None and self._request_body.is_starved:
            self.fail(CLIENT_TIMEOUT, "the request's body did not arrive in time")
        elif x is None:
            self.fail(TIMEOUT, "no whole answer in time")
        elif reader is None:
            self._expire_unanswered(x, now)
        else:
            self._expire_body(x, reader.body, now)

    def _expire_unanswered(self, x: Exchange, now: float) -> None:
        """Fail an exchange without a response head."""
        times, body = self.pool.times, self._request_body
        held = 0.0 if body is None else body.held_for(now)
        given = now - self._started - held
        is_hurried = x.deadline == x.caller_deadline and now >= x.deadline
        is_too_short = given < x.attempt_timeout and times.is_too_short(given)
        if is_too_short and held > (0.0 if times.usual else given):
            self.fail(CLIENT_TIMEOUT, "the request's body left no time for an answer")
        elif not is_hurried:
            self.fail(TIMEOUT, "no whole answer in time")
        else:
            failure = SHORT_DEADLINE if is_too_short else TIMEOUT
            if not self._listen_on(x, now, failure):
                self.fail(failure, "no whole answer in time")

    def _listen_on(self, x: Exchange, now: float, failure: Failure) -> bool:
        """Tell the failure, but wait for the answer to learn how long it takes; False if that is not possible."""
        pool = self.pool
        times, receiver = pool.times, self._receiver
        until = self._started + min(times.patience, x.attempt_timeout)
        if (
            receiver is None
            or times.late is not None
            or x.stream is not None
            or x.upgrade is not None
            or until <= now
            or not pool.has_room
        ):
            return False
        twin = x.fork(x.attempt, x.why)
        twin.interim = None  # the client reads the answer to its next request by then
        self._exchange = twin
        self._receiver = None
        self._deadline = self.expires = until
        times.begin_late(self, self._started)
        receiver.take(failed(failure, cause="no whole answer in time"))
        return True

    def _expire_body(self, x: Exchange, body: Body, now: float) -> None:
        """Fail an exchange whose response is not whole."""
        held = body.held_for(now)
        if now < self._deadline:
            idle = f"the answer's body stalled for {x.idle_timeout:.3g} s"
            self.fail(TIMEOUT, f"{idle} after {body.received} bytes")
        elif self._is_reading_paused or 2 * held > now - self._started:
            self.fail(SLOW_READER, "the client did not read the answer in time")
        elif x.deadline == x.caller_deadline and now >= x.deadline and now - self._heard < self.pool.times.expected:
            self.fail(SHORT_DEADLINE, "the answer's body was still arriving")
        else:
            self.fail(TIMEOUT, f"the answer was cut off after {body.received} bytes of its body")

    def close(self) -> None:
        """Leave the pool and close the transport once everything written has gone out."""
        self._phase = CLOSED
        if self.pool.times.late is self:
            self.pool.times.late = None
        body, self._request_body = self._request_body, None
        if body is not None:
            body.end()
        self.pool.deadlines.discard(self)
        self.pool.discard(self)
        if self._transport is not None:
            self._transport.close()

    # ----- what the pool asks while others wait for a connection

    @property
    def blocked_since(self) -> float:
        """Instant since which the exchange waits for its client, or for a `100 Continue`; `NEVER` if it does not."""
        body = self._request_body
        if body is not None and (body.is_starved or (body.is_held_back and self._reader is None)):
            return body.starved_since
        return NEVER if self._reader is None else self._reader.body.held_since

    @property
    def route(self) -> str:
        """Name of the route whose exchange it carries; empty without one."""
        x = self._exchange
        return "" if x is None or x.route is None else x.route.name

    def give_way(self) -> None:
        """End an exchange that waits for its own client; have a client go on that waits for a `100 Continue`."""
        if self._request_body is not None and self._request_body.is_held_back:
            self._request_body.go_on(b"")
            return
        self.fail(CLIENT_TIMEOUT, "the client did not keep up while other requests waited for its place")

    # ----- what the pool asks of an idle connection

    def is_idle(self) -> bool:
        """True if the connection was made, is not lost and carries nothing."""
        return self._phase == IDLE

    def is_closing(self) -> bool:
        """True if the transport is closing or lost."""
        return self._transport is None or self._transport.is_closing()

    def peer_address(self) -> str:
        """Return the IP address of the endpoint; empty without one."""
        peer = None if self._transport is None else self._transport.get_extra_info("peername")
        return str(peer[0]) if peer else ""

    def has_input(self) -> bool:
        """True if the socket of an idle connection has something to read, such as its end.

        The event loop may not have seen that yet.  It costs a system call: only for requests that must not be sent
        twice.
        """
        sock = None if self._transport is None else self._transport.get_extra_info("socket")
        if sock is None:
            return False
        poll = select.poll()
        poll.register(sock.fileno(), select.POLLIN | select.POLLRDHUP)
        return bool(poll.poll(0))

    # ----- asyncio.Protocol

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._transport = cast("asyncio.Transport", transport)
        self._phase = IDLE

    def data_received(self, data: bytes) -> None:
        try:
            if self._phase == AWAITING_HEAD:
                self._take_head(data)
            elif self._phase == READING_BODY:
                self._take_body(data)
            else:  # unasked: a peer that says goodbye (408), or one that is confused
                self.close()
        except Invalid as error:
            self.fail(PROTOCOL, str(error))
        except Exception as error:
            self.pool.env.emit(events.BUG, where=repr(self), error=error)
            self.fail(INTERNAL, "a bug")

    def connection_lost(self, error: Exception | None) -> None:
        if error is not None and self._request_body is not None:
            self._read_early_answer()
        while self._reader is not None and self._reader.is_behind:
            self.data_received(b"")
        transport, self._transport = self._transport, None
        x, reader = self._exchange, self._reader
        if x is None:
            self.close()
        elif reader is not None and reader.ends_with_the_connection and error is None:
            if transport is not None and is_cut_off(transport):
                self.fail(RESET, "closed without the close_notify of TLS: the answer may not be whole")
            else:
                self._end_body(reader)
        elif (failure := self._slow_client()) is not None:
            self.fail(failure, "closed while it waited for the client")
        elif self._is_stale() and x.method in IDEMPOTENT_METHODS:
            self.fail(STALE_CONNECTION, "closed while idle")
        else:
            self.fail(RESET, describe_error(error) if error else "closed before the answer was whole")

    def pause_writing(self) -> None:
        self._is_writing_paused = True
        if self._request_body is not None:
            self._request_body.pause()

    def resume_writing(self) -> None:
        self._is_writing_paused = False
        if self._request_body is not None:
            self._request_body.resume()

    def _is_stale(self) -> bool:
        """True if the connection was used or idle before this exchange, and nothing of an answer has come."""
        return self._is_reused and self._phase == AWAITING_HEAD and not self._buffer and not self._interims

    @property
    def _is_reused(self) -> bool:
        return self.served > 0 or self.idle_since > 0

    def _is_goodbye(self, x: Exchange) -> bool:
        """True if a 408 ends the idle time before this exchange and the exchange can be repeated."""
        is_closing = self._is_reused and not self._keep_alive and not self._interims
        return is_closing and x.method in IDEMPOTENT_METHODS and x.is_replayable

    def _slow_client(self) -> Failure | None:
        """Return the client's failure for which the peer may have closed the connection: servers have timeouts too."""
        now, body, reader = self.pool.env.now(), self._request_body, self._reader
        if reader is not None:
            return SLOW_READER if 2 * reader.body.held_for(now) > now - self._started else None
        return CLIENT_TIMEOUT if body is not None and body.is_dribbled(now) else None

    def _read_early_answer(self) -> None:
        """Read what the socket still holds after a failed write.

        The peer takes no more of the request's body, but its answer may be here: a server that says 413 and closes
        resets the connection (RFC 9112 9.6), and event loops do not read after a failed write.
        """
        assert self._transport is not None
        sock = self._transport.get_extra_info("socket")
        if sock is None or self._transport.get_extra_info("sslcontext") is not None:
            return
        with suppress(OSError):
            while self._exchange is not None and (data := os.read(sock.fileno(), MAX_HEAD_BYTES)):
                self.data_received(data)

    # ----- response head

    def _take_head(self, data: bytes) -> None:
        if self._buffer:
            data = self._buffer + data
            self._buffer = b""
        head = None if self._scanned else read_ordinary(data, self.pool.env.wall)
        if head is None:
            self._take_odd_head(data)
            return
        status, end, lines, length, self._keep_alive = head
        self._take_final(data, status, end, lines, length)

    def _take_odd_head(self, data: bytes) -> None:
        """Read a head by the grammar: one that has come in pieces, an interim response, or what is not valid."""
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
        """Go on with a final response whose head is `data[:end]`."""
        x = self._exchange
        assert x is not None
        is_bodiless = x.method == b"HEAD"
        if status in ODD:
            if status in NO_CONTENT:
                is_bodiless = True
            elif self._is_goodbye(x):
                self.fail(STALE_CONNECTION, "closed while idle, with a 408")
                return
        if is_bodiless:
            if length is not None and length >= 0 and status != 204:
                lines += b"content-length: %d\r\n" % length
            if length:
                self._keep_alive = False
            self._answer(Outcome(status, lines=lines), len(data) == end, status != 304)
        elif length is None:  # delimited by the close (RFC 9112 6.3 rule 8)
            self._keep_alive = False
            self._stream(Outcome(status, lines=lines), UNTIL_CLOSE, data[end:])
        elif length == CHUNKED:
            self._take_chunked(x, Outcome(status, lines=lines), data[end:])
        elif len(data) - end >= length:
            outcome = Outcome(status, body=data[end : end + length], lines=lines)
            self._answer(outcome, len(data) - end == length)
        else:
            self._stream(Outcome(status, lines=lines), length, data[end:])

    def _pass_interim(self, x: Exchange, status: int, lines: bytes) -> None:
        self._interims += 1
        if self._interims > MAX_INTERIM:
            raise Invalid(f"more than {MAX_INTERIM} interim responses")
        if status == 100:
            if self._request_body is not None:
                self._request_body.go_on(lines)
        elif x.interim is not None:
            x.interim(status, lines)

    def _take_chunked(self, x: Exchange, outcome: Outcome, data: bytes) -> None:
        if data.endswith(b"0\r\n\r\n"):  # most likely the whole body
            decoder = ChunkedDecoder()
            pieces = decoder.feed(data)
            if decoder.done and not (decoder.trailers and x.accepts_trailers):
                outcome.body = b"".join(pieces)
                self._answer(outcome, not decoder.rest)
                return
        self._stream(outcome, CHUNKED, data)

    def _answer(self, outcome: Outcome, is_clean: bool, is_doubtful: bool = False) -> None:
        """Tell an outcome that is whole; `is_clean` is False if bytes followed it, `is_doubtful` as in `finish`.

        The connection is back in its pool before: the receiver may want it again.
        """
        receiver, self._receiver = self._receiver, None
        if receiver is None:
            self._end_late()
        self.finish(self._keep_alive and is_clean, is_doubtful)
        if receiver is not None:
            receiver.take(outcome)

    def _end_late(self) -> None:
        """Learn from an answer that nobody waits for any more."""
        times = self.pool.times
        if times.late is self:
            times.end_late(self.pool.env.now())

    # ----- response body

    def _stream(self, outcome: Outcome, length: int, first: bytes) -> None:
        """Tell an outcome whose body is still arriving; `first` is what came with the head."""
        outcome.stream = body = Body(self, length if length >= 0 else None)
        self._reader = BodyReader(body, length)
        self._phase = READING_BODY
        self._await_piece()
        receiver = self._receiver
        if receiver is None:
            self._end_late()
            body.cancel()
            return
        if not self._is_bounded and not 0 <= length - len(first) <= READ_BYTES:
            self._bound_reads()
        if first:
            self._take_body(first)  # an error in here is told as the outcome
        if self._receiver is receiver:
            self._receiver = None
            receiver.take(outcome)

    def _bound_reads(self) -> None:
        """Read into a buffer of `READ_BYTES` from now on.

        Event loops read up to 256 KiB at once, of each of many connections before anybody can pause them.
        """
        transport = self._transport
        if transport is not None:
            self._is_bounded = True
            transport.pause_reading()  # uvloop notices another kind of protocol when reading begins
            transport.set_protocol(BoundedReads(self))
            transport.resume_reading()

    def _take_body(self, data: bytes) -> None:
        reader = self._reader
        assert reader is not None
        if not self._is_reading_paused:
            self._await_piece()
        is_whole = reader.feed(data)
        if self._reader is not reader:
            return
        if is_whole:
            self._end_body(reader)
        elif reader.is_behind and self._transport is not None:  # let others have their turn
            self._transport.pause_reading()
            self.pool.env.call_later(0, self._take_rest, reader)

    def _take_rest(self, reader: BodyReader) -> None:
        """Take what has arrived and was more than one turn is for, and read on after it."""
        if self._reader is reader and reader.is_behind:
            self.data_received(b"")
        transport = self._transport
        if transport is not None and not reader.is_behind and not self._is_reading_paused:
            transport.resume_reading()

    def _end_body(self, reader: BodyReader) -> None:
        body = reader.body
        body.source = None  # from here on the connection may carry another exchange
        self.finish(self._keep_alive and not reader.rest)
        body.finish(reader.trailers)

    def _await_piece(self) -> None:
        """Allow the idle timeout of the exchange for the next piece of the body."""
        x = self._exchange
        if x is not None and (x.idle_timeout != NEVER or x.caller_deadline != NEVER):
            self._heard = now = self.pool.env.now()
            self.expires = min(self._deadline, now + x.idle_timeout)

    def pause_reading(self) -> None:
        """Stop reading."""
        self._is_reading_paused = True
        if self._transport is not None:
            self._transport.pause_reading()

    def resume_reading(self) -> None:
        """Go on reading."""
        self._is_reading_paused = False
        if self._transport is not None:
            self._transport.resume_reading()

    def pause_body(self) -> None:
        self.expires = self._deadline  # a slow reader is not the upstream's fault
        if self._reader is not None:
            self._reader.body.hold(self.pool.env.now())
        self.pause_reading()

    def resume_body(self) -> None:
        self._await_piece()
        if self._reader is not None:
            self._reader.body.release(self.pool.env.now())
        self.resume_reading()

    def cancel_body(self) -> None:
        self._reader = None
        self.abort()

    # ----- another protocol (RFC 9110 7.8)

    def _switch(self, lines: bytes, early: bytes) -> None:
        """Tell the outcome of a 101; whoever gets it has the connection until the deadline of the exchange.

        `early` came after the head and belongs to the new protocol.
        """
        receiver, self._receiver = self._receiver, None
        outcome = Outcome(101, lines=lines, stream=Body())  # which keeps permits and counts until the tunnel ends
        outcome.tunnel = self
        self._phase = SWITCHED
        self._exchange = None
        self._buffer = early
        self.pause_reading()
        if receiver is not None:
            receiver.take(outcome)

    def take_over(self, protocol: asyncio.Protocol) -> tuple[asyncio.Transport, bytes] | None:
        """Hand the switched transport to `protocol`; return it with the bytes already read, or None if it is lost.

        The connection keeps its place in the pool until `close`: tunnels count towards `connections.max`.
        """
        transport = self._transport
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
    """Protocol of a connection's transport whose reads are bounded; everything else is the connection's."""

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
    """Return where an answer begins behind empty lines; -1 if it has not begun.  Raises `Invalid` if none can."""
    found = EMPTY_LINES.match(data)
    end = 0 if found is None else found.end()
    if data[end:] in (b"", b"\r"):
        return -1
    if not end:
        raise Invalid("the answer does not begin like an HTTP/1.1 response")
    return end
