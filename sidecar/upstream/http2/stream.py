"""Exchange on one stream of an upstream connection: sends its request, and is the `Source` of its response's body.

Rules:

1. What a read of the connection brings is noted and delivered after the read (`settle`).  A response that is whole in
   one read, trailers included, is therefore delivered whole.
2. RST_STREAM after a whole response does not change the response (RFC 9113 8.1), whatever its code.
3. An exchange whose stream the peer has not processed fails as `STALE_CONNECTION`, which repeats any method: a
   REFUSED_STREAM, a GOAWAY with a lower number, and a head that was never written.  So does HTTP_1_1_REQUIRED, where
   HTTP/1.1 may be spoken.  So that it can be repeated, the first `HIGH_WATER` bytes of a streamed body are recorded.
4. A malformed response is `PROTOCOL`, a reset by the peer `RESET`, and whatever the client's delay caused is the
   client's (`response_times`), as over HTTP/1.1.
5. An exchange that ends before its stream resets the stream (`CANCEL`).
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Final

from sidecar.core.body import HIGH_WATER, Body
from sidecar.core.exchange import IDEMPOTENT_METHODS, NEVER, NO_FIELDS, Exchange
from sidecar.core.message import Headers, parse_fields
from sidecar.core.outcome import (
    CLIENT_TIMEOUT,
    PROTOCOL,
    RESET,
    SLOW_READER,
    STALE_CONNECTION,
    TIMEOUT,
    Failure,
    Outcome,
    failed,
)
from sidecar.grpc.status import is_grpc
from sidecar.http2.errors import HTTP_1_1_REQUIRED, REFUSED_STREAM
from sidecar.http2.stream import Stream
from sidecar.upstream.connection import MAX_INTERIM, Receiver
from sidecar.upstream.errors import describe_late_body
from sidecar.upstream.grpc.answer import STATUS_FIELDS
from sidecar.upstream.http2.request import StreamedBody, hop_lines, own_lines, split_lines
from sidecar.upstream.response_head import read_stream_response
from sidecar.upstream.response_times import is_hurried

if TYPE_CHECKING:
    from sidecar.http2.heads import Head
    from sidecar.upstream.http2.connection import MultiplexedConnection

NOT_MODIFIED: Final = 304
OK: Final = 200


class ResponseLines:
    """Field lines of a response head, as they are forwarded; kept for heads that come again."""

    __slots__ = ("_date", "_dated", "has_date", "is_call", "lines")

    def __init__(self, head: Head) -> None:
        self.lines, self.has_date = read_stream_response(head.lines)
        self._date = b""
        self._dated = b""
        message = Outcome(head.status, lines=self.lines)
        self.is_call = (
            head.status == OK
            and is_grpc(message.header(b"content-type") or b"")
            and not any(message.header(name) is not None for name in STATUS_FIELDS)
        )
        """True for the head of an answer of gRPC whose status is still to come."""

    def dated(self, date: bytes) -> bytes:
        """Return the lines with a Date; those of one date are one object."""
        if date is not self._date:
            self._date = date
            self._dated = b"%bdate: %b\r\n" % (self.lines, date)
        return self._dated


class UpstreamStream:
    """Exchange on a stream of its own."""

    __slots__ = (
        "_answer", "_cause", "_connection", "_deadline", "_exchange", "_failure", "_has_room", "_interims",
        "_is_paused", "_is_told", "_is_whole", "_length", "_outcome", "_piece_at", "_pieces", "_receiver",
        "_request_body", "_started", "_stream", "_trailers", "expires", "is_touched", "pool",
    )  # fmt: skip

    def __init__(self, connection: MultiplexedConnection, has_room: bool = False) -> None:
        """`has_room` is True if the connection has just said so, and `exchange` follows at once."""
        self.pool = connection.pool
        self.expires = NEVER
        """Deadline after which the sweep calls `expire`, while the exchange is in flight."""
        self.is_touched = False
        """True while something that has arrived is to be delivered."""
        self._connection = connection
        self._has_room = has_room
        self._stream: Stream | None = None
        """Stream of the exchange; None before the request is sent, and after the end."""
        self._exchange: Exchange | None = None
        """Exchange; None before the request is sent, and after the end."""
        self._receiver: Receiver | None = None
        """Receiver of the outcome; None once it has the outcome."""
        self._deadline = NEVER
        """Instant by which the response must be complete."""
        self._started = 0.0
        """Instant at which the attempt began."""
        self._piece_at = 0.0
        """Instant of the last piece of the body; not updated for exchanges without an idle timeout or deadline."""
        self._request_body: StreamedBody | None = None
        """Body of the request if it is streamed, else None."""
        self._answer: Body | None = None
        """Body of the response while it arrives, else None."""
        self._is_told = False
        """True once the head of the response was delivered."""
        self._outcome: Outcome | None = None
        """Response whose head is to be delivered; else None."""
        self._length = -1
        """Bytes that its body has, as its head says; -1 if it does not."""
        self._pieces: list[bytes] = []
        """Pieces of the body that are to be delivered."""
        self._is_whole = False
        """True once the response is complete."""
        self._trailers: Headers = []
        self._failure: Failure | None = None
        """Failure that has ended the stream before the response was complete; None without one."""
        self._cause = ""
        """Description of that failure."""
        self._interims = 0
        """Number of interim responses to the request."""
        self._is_paused = False
        """True while the client does not take the response's body."""

    @property
    def connection(self) -> MultiplexedConnection:
        """Connection that carries the stream."""
        return self._connection

    # ----- one exchange

    def exchange(self, x: Exchange, expires: float, now: float, receiver: Receiver) -> None:
        """Send a request; the receiver gets its outcome, later unless the connection can take no stream any more.

        `expires` is the instant by which the response must be complete; `now` is the start of the attempt.
        """
        connection, pool = self._connection, self.pool
        if not self._has_room and not connection.has_room:
            receiver.take(failed(STALE_CONNECTION, cause="the connection takes no more streams"))
            return
        self._exchange = x
        self._receiver = receiver
        self._deadline = self.expires = expires
        self._started = now
        body = x.stream
        path = x.path if x.query is None else b"%b?%b" % (x.path, x.query)
        is_end = body is None and not x.body
        session = connection.session
        before, request_id = split_lines(x)
        self._stream = stream = session.open(
            x.method,
            pool.scheme,
            x.authority or pool.host,
            path,
            own_lines(x, now),
            is_end,
            x.sensitive,
            request_id=request_id,
            steady=(before, hop_lines(x)),
            content=x.body,
        )
        stream.user = self
        pool.deadlines.add(self)
        connection.begin(x, expires, now)
        if body is not None:
            body.record(HIGH_WATER)
            self._request_body = sink = StreamedBody(self, connection.transport, x, body)
            sink.start()
        connection.flush_later()

    def _leave(self) -> None:
        """End the exchange, and leave the stream; it is reset unless it has run its course."""
        stream, body = self._stream, self._request_body
        self._exchange = self._stream = self._outcome = self._answer = self._request_body = None
        if self.pool.times.continued is self:
            self.pool.times.continued = None
        if body is not None:
            body.end()
        self.pool.deadlines.discard(self)
        if stream is not None:
            stream.user = None
            self._connection.end(stream)

    def fail(self, failure: Failure, cause: str) -> None:
        """End the exchange with a failure, which the body's sink or the receiver gets; `cause` is for logs."""
        answer, receiver = self._answer, self._receiver
        self._receiver = None
        self._leave()
        if answer is not None:
            answer.fail(failure, cause)
        if receiver is not None:
            receiver.take(failed(failure, cause=cause))

    def abort(self) -> None:
        """End the exchange; the receiver gets no outcome."""
        self._receiver = None
        if self._exchange is not None:
            self.fail(RESET, "abandoned")

    # ----- the deadline

    def expire(self, now: float) -> None:
        """Fail the exchange, because its deadline or the idle timeout of its body has passed."""
        x, answer, times, body = self._exchange, self._answer, self.pool.times, self._request_body
        if x is None:
            self.pool.deadlines.discard(self)
        elif times.continued is self:
            times.continued = None
            times.fall_silent(self._started, now)
            self._expire_silently(TIMEOUT, "no response to an attempt that went on after its caller's deadline", now)
        elif body is not None and body.is_starved:
            self.fail(CLIENT_TIMEOUT, "the request's body did not arrive in time")
        elif answer is None:
            self._expire_unanswered(x, now)
        elif now < self._deadline:
            idle = f"the response's body stalled for {x.idle_timeout:.3g} s"
            self._expire_silently(TIMEOUT, f"{idle} after {answer.received} bytes", now)
        else:
            failure = times.judge_body(x, answer, self._piece_at, self._started, self._is_paused, now)
            self._expire_silently(failure, describe_late_body(failure, answer), now)

    def _expire_unanswered(self, x: Exchange, now: float) -> None:
        """Fail an exchange without a response head, and decide whether client, caller or upstream is to blame."""
        body = self._request_body
        held = 0.0 if body is None else body.blocked_for(now)
        failure = self.pool.times.judge_unanswered(x, self._started, held, now)
        if failure is CLIENT_TIMEOUT:
            self.fail(failure, "the request's body left no time for a response")
        elif not is_hurried(x, now) or not self._listen_on(x, now, failure):
            self._expire_silently(failure, "no complete response in time", now)

    def _expire_silently(self, failure: Failure, cause: str, now: float) -> None:
        """Fail the exchange; if the upstream is to blame, the connection is doubted."""
        if failure is TIMEOUT:
            self._connection.doubt(self._started, now)
        self.fail(failure, cause)

    def _listen_on(self, x: Exchange, now: float, failure: Failure) -> bool:
        """Report the failure, but continue the attempt to measure the response time; False if that is not possible."""
        times, receiver = self.pool.times, self._receiver
        until = self._started + min(times.patience, x.attempt_timeout)
        if receiver is None or times.continued is not None or x.stream is not None or until <= now:
            return False
        twin = x.fork(x.attempt, x.why)
        twin.interim = None  # the client may be reading the response to its next request by then
        self._exchange = twin
        self._receiver = None
        self._deadline = self.expires = until
        times.begin_continued(self, self._started)
        receiver.take(failed(failure, cause="no complete response in time"))
        return True

    # ----- called by the pool while requests wait for a stream

    @property
    def blocked_since(self) -> float:
        """Instant since which the exchange waits for its client or for a `100 Continue`; `NEVER` if it does not."""
        body = self._request_body
        if body is not None and (body.is_starved or (body.is_held_back and self._answer is None)):
            return body.starved_since
        return NEVER if self._answer is None else self._answer.blocked_since

    @property
    def route(self) -> str:
        """Name of the route of the exchange; empty without one."""
        x = self._exchange
        return "" if x is None or x.route is None else x.route.name

    def yield_place(self) -> None:
        """End an exchange that waits for its own client; if it waits for a `100 Continue`, send the body instead."""
        if self._request_body is not None and self._request_body.is_held_back:
            self._request_body.send_withheld(b"")
            return
        self.fail(CLIENT_TIMEOUT, "the client did not keep up while other requests waited for its place")

    # ----- the request's body, called by its sink

    def send(self, data: bytes) -> bool:
        """Send the next piece.  False if it waits: more should come once `on_writable` was called."""
        stream = self._stream
        if stream is None:
            return True
        is_sent = self._connection.session.send(stream, data, False)
        self._connection.flush_later()
        return is_sent

    def send_end(self, lines: bytes) -> None:
        """Send the end of the body, with trailers as field lines."""
        stream, x = self._stream, self._exchange
        if stream is not None:
            marks = NO_FIELDS if x is None else x.sensitive
            self._connection.session.send_trailers(stream, lines, marks)
            self._connection.flush_later()

    def on_writable(self) -> None:
        """Resume the request's body: all that waited is sent."""
        if self._request_body is not None:
            self._request_body.resume()

    # ----- the response, called by the connection within a read

    def on_interim(self, head: Head) -> None:
        """Forward an interim response; a 100 also starts a body that was held back."""
        x = self._exchange
        if x is None:
            return
        self._interims += 1
        if self._interims > MAX_INTERIM:
            self._break(PROTOCOL, f"more than {MAX_INTERIM} interim responses")
            return
        lines = read_stream_response(head.lines)[0]
        if head.status == 100:
            if self._request_body is not None:
                self._request_body.send_withheld(lines)
        elif x.interim is not None:
            x.interim(head.status, lines)

    def on_head(self, head: Head, is_end: bool) -> None:
        """Note the head of the final response."""
        x, stream = self._exchange, self._stream
        if x is None or stream is None:
            return
        known = head.derived
        if not isinstance(known, ResponseLines):
            known = head.derived = ResponseLines(head)
        lines = known.lines if known.has_date else known.dated(self._connection.date())
        status = head.status
        self._length = length = head.content_length
        if length >= 0 and (x.method == b"HEAD" or status == NOT_MODIFIED):
            lines += b"content-length: %d\r\n" % length
        self._outcome = outcome = Outcome(status, lines=lines)
        outcome.sensitive = head.sensitive
        if known.is_call:
            outcome.call_lines = lines
        if not is_end:
            self._touch()
            return
        self._is_whole = True
        if stream.content:
            self._pieces.append(stream.content)
        if stream.ending is not None:
            self._take_trailers(stream.ending)
        if not self.is_touched:
            self.is_touched = True
            self._connection.touch(self)

    def on_data(self, data: bytes, is_end: bool) -> None:
        """Note the next piece of the body."""
        if data:
            self._pieces.append(data)
        self._is_whole = is_end
        self._touch()

    def on_trailers(self, head: Head) -> None:
        """Note the trailers, which end the body."""
        self._take_trailers(head)
        self._is_whole = True
        self._touch()

    def _take_trailers(self, head: Head) -> None:
        known: Any = head.derived  # not a `cast`, which is a call where it is not compiled
        if known is None:
            known = head.derived = parse_fields(head.lines)
        if head.sensitive:
            answer, outcome = self._answer, self._outcome
            if answer is not None:
                answer.sensitive = head.sensitive
            elif outcome is not None:
                outcome.sensitive |= head.sensitive
        self._trailers = [*known]

    def on_reset(self, stream: Stream, code: int, text: str) -> None:
        """Note the end of the stream before its time."""
        if stream.fault:
            self._break(PROTOCOL, text)
        elif code == REFUSED_STREAM or (code == HTTP_1_1_REQUIRED and not self._is_told and self.pool.fall_back()):
            self._break(STALE_CONNECTION, text)
        else:
            self._break(self._slow_client() or RESET, text)

    def lose(self, error: str, was_written: bool, is_stale: bool) -> None:
        """Note the loss of the connection.

        `was_written` is False if nothing of the request was handed to the transport.  `is_stale` is True if the peer
        had probably closed the connection before the request arrived.
        """
        x = self._exchange
        if x is None:
            return
        if not was_written:
            self._break(STALE_CONNECTION, "closed before the request was sent")
        elif (failure := self._slow_client()) is not None:
            self._break(failure, "closed while it waited for the client")
        elif is_stale and not self._is_told and not self._interims and x.method in IDEMPOTENT_METHODS:
            self._break(STALE_CONNECTION, "closed while idle")
        else:
            self._break(RESET, error)

    def _break(self, failure: Failure, cause: str) -> None:
        if self._failure is None:
            self._failure = failure
            self._cause = cause
        self._touch()

    def _touch(self) -> None:
        if not self.is_touched:
            self.is_touched = True
            if self._stream is not None:
                self._stream.paused = True  # or a second window would arrive before the body can stop the first
            self._connection.touch(self)

    def _slow_client(self) -> Failure | None:
        """Return the client's failure if the peer may have ended the exchange because the client was slow; else
        None."""
        now, body, answer = self.pool.env.now(), self._request_body, self._answer
        if answer is not None:
            return SLOW_READER if 2 * answer.blocked_for(now) > now - self._started else None
        return CLIENT_TIMEOUT if body is not None and body.is_slow(now) else None

    # ----- delivery after the read

    def settle(self) -> None:
        """Deliver what has arrived."""
        self.is_touched = False
        if self._exchange is None:
            self._pieces = []
            return
        pieces = self._pieces
        if not pieces:
            data = b""
        else:
            data = pieces[0] if len(pieces) == 1 else b"".join(pieces)
            self._pieces = []
        outcome, failure = self._outcome, self._failure
        if self._is_whole:
            self._end(outcome, data)
        elif failure is not None:
            if data and self._answer is not None:
                self._answer.feed(data)
            self.fail(failure, self._cause)
        elif outcome is not None:
            self._tell(outcome, data)
        elif data and self._answer is not None:
            if not self._is_paused:
                self._await_piece()
            self._answer.feed(data)
        if self._stream is not None and not self._is_paused:
            self._connection.session.resume(self._stream)

    def _tell(self, outcome: Outcome, data: bytes) -> None:
        """Deliver a response whose body is still arriving; `data` has arrived with its head."""
        self._outcome = None
        self._is_told = True
        outcome.stream = self._answer = body = Body(self, self._length if self._length >= 0 else None)
        self._await_piece()
        receiver, self._receiver = self._receiver, None
        if receiver is None:
            self._record_continued()
            body.cancel()
            return
        if data:
            body.feed(data)
        receiver.take(outcome)

    def _end(self, outcome: Outcome | None, data: bytes) -> None:
        """End the exchange and its complete response."""
        answer, receiver, trailers = self._answer, self._receiver, self._trailers
        self._receiver = None
        if outcome is not None and receiver is None:
            self._record_continued()
        if answer is not None:
            if data:
                answer.feed(data)
                if self._exchange is None:  # the reader has given the body up
                    return
            answer.source = None  # after `finish` the stream is gone
            self._leave()
            answer.finish(trailers)
        elif outcome is not None:
            self._leave()
            if trailers:
                outcome.stream = body = Body.of(data, trailers, self._length if self._length >= 0 else None)
                body.sensitive = outcome.sensitive
            else:
                outcome.body = data
            if receiver is not None:
                receiver.take(outcome)

    def _record_continued(self) -> None:
        """Record the time of the response to a continued attempt (`ResponseTimes`)."""
        times = self.pool.times
        if times.continued is self:
            times.record_continued(self.pool.env.now())

    def _await_piece(self) -> None:
        """Set the deadline for the next piece of the body."""
        x = self._exchange
        if x is not None and (x.idle_timeout != NEVER or x.caller_deadline != NEVER):
            self._piece_at = now = self.pool.env.now()
            self.expires = min(self._deadline, now + x.idle_timeout)

    # ----- source of the response's body

    def pause_body(self) -> None:
        self.expires = self._deadline  # no idle timeout, because the client delays the body
        self._is_paused = True
        if self._answer is not None:
            self._answer.block(self.pool.env.now())
        if self._stream is not None:
            self._connection.session.pause(self._stream)

    def resume_body(self) -> None:
        self._is_paused = False
        self._await_piece()
        if self._answer is not None:
            self._answer.unblock(self.pool.env.now())
        if self._stream is not None:
            self._connection.session.resume(self._stream)
            self._connection.flush_later()

    def cancel_body(self) -> None:
        self._answer = None
        self.abort()

    def __repr__(self) -> str:
        return f"<UpstreamStream {self.pool.name} {self._stream!r} {self._exchange!r}>"
