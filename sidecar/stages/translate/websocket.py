"""Streams of gRPC over a WebSocket: one JSON message in each message of the client, one for each of the answer.

A `WebSocketCall` stands where the upstream of a tunnel does (`Upgraded`): the tunnel writes the client's bytes to it,
and gets the bytes for the client from it.  So HTTP/1.1 and the extended CONNECT of HTTP/2 share their code, and the
tunnel does idle timeout, drain and telemetry.  Rules:

1. The handshake is answered once the call has a stream at the upstream.  What fails before is an answer of HTTP.
2. An empty message ends the client's stream.  A Close frame before the answer has ended cancels the call.
3. A status other than OK is the last message, `{"error": {code, message, details}}`, and the code of the Close frame is
   `STATUS_CODES` plus the status.  OK is 1000.
4. A client is read only as fast as the upstream takes its messages, and the upstream only as fast as the client reads.
5. What the client does is not charged to the upstream: the call is cancelled.
6. The status of the call is the verdict on the session in metrics, log and spans.
"""

from __future__ import annotations

import asyncio
from base64 import b64decode, b64encode
from binascii import Error
from collections.abc import Callable
from hashlib import sha1
from typing import TYPE_CHECKING, Any, Final

from sidecar.core import events, metrics
from sidecar.core.body import COMPLETE, OPEN, Body
from sidecar.core.env import Env
from sidecar.core.exchange import Exchange
from sidecar.core.message import Headers, tokens
from sidecar.core.metrics import Counter
from sidecar.core.outcome import (
    CLIENT_CLOSED,
    GRPC_STATUSES,
    INTERNAL,
    INTERNAL_STATUS,
    TRANSFORM,
    Failure,
    Outcome,
    grpc_verdict,
)
from sidecar.core.promise import Promise, Run
from sidecar.core.stage import Service
from sidecar.grpc.bindings import RequestError
from sidecar.grpc.framing import MessageTooLarge, frame
from sidecar.grpc.status import is_grpc, status_from_http
from sidecar.stages.translate import frames
from sidecar.stages.translate.answers import AnswerError, GrpcAnswer, error_json
from sidecar.stages.translate.frames import ClientFrames, FrameError, encode_close, encode_frame, parse_close

if TYPE_CHECKING:
    from sidecar.grpc.bindings import Binding

VERSION: Final = b"13"
"""Version of the protocol (RFC 6455 4.1)."""
GUID: Final = b"258EAFA5-E914-47DA-95CA-C5AB0DC85B11"
"""GUID of the handshake (RFC 6455 1.3)."""
KEY_BYTES: Final = 16
"""Bytes of the key in a handshake."""
SUBPROTOCOL: Final = b"json"
"""Subprotocol that is selected if the client offers it."""
STATUS_CODES: Final = 4000
"""Close code of the status 0; those of the others follow, in the range for private use (RFC 6455 7.4.2)."""
INVALID_ARGUMENT: Final = 3
LONGEST_PEEK: Final = 1.0
"""Seconds for which the handshake of a silent server stream is held back."""
CLOSE_WITHIN: Final = 2.0
"""Seconds that a client has to answer a Close frame."""
MAX_FRAMES_A_TURN: Final = 64
"""Messages that are read in one turn of the loop, since a read may hold thousands of them."""
Shape = Callable[[Outcome], GrpcAnswer]
"""Function that reads the head of an answer."""
Convert = Callable[[Outcome], Outcome]
"""Function that makes the answer of HTTP to a call that has ended before the handshake."""


LEFT: Final = "client_closed"
"""Result of a session that the client has ended before the call had its status."""
BROKEN: Final = "client_error"
"""Result of a session whose client has broken the protocol of WebSockets."""


class SessionCounters:
    """Counters of the sessions of one route."""

    def __init__(self, env: Env, route: str) -> None:
        counter = env.meter.counter
        self.received: Counter = counter(metrics.WEBSOCKET_MESSAGES, route=route, direction="received")
        self.sent: Counter = counter(metrics.WEBSOCKET_MESSAGES, route=route, direction="sent")
        self.ended: dict[str, Counter] = {
            result: counter(metrics.WEBSOCKET_SESSIONS, route=route, result=result)
            for result in (*GRPC_STATUSES, LEFT, BROKEN)
        }
        """Counters of sessions by their result: the name of a gRPC status, `LEFT` or `BROKEN`."""


def handshake_problem(x: Exchange) -> str:
    """Return a sentence on what is wrong with a handshake (RFC 6455 4.2.1); empty if nothing is."""
    key = x.header(b"sec-websocket-key") or b""
    try:
        is_key = len(b64decode(key, validate=True)) == KEY_BYTES
    except Error:
        is_key = False
    if not is_key:
        return "Sec-WebSocket-Key must be 16 bytes in Base64."
    return "" if x.header(b"sec-websocket-version") == VERSION else "Sec-WebSocket-Version must be 13."


def is_foreign(x: Exchange) -> bool:
    """True for a handshake by a page of another host, to which a browser adds the user's cookies all the same."""
    origin = x.joined(b"origin")
    if origin is None:
        return False
    return origin.lower() not in (b"http://" + x.host.lower(), b"https://" + x.host.lower())


def handshake_fields(x: Exchange) -> Headers:
    """Return the fields of the 101 to a handshake."""
    key = x.header(b"sec-websocket-key") or b""
    found: Headers = [(b"sec-websocket-accept", b64encode(sha1(key + GUID, usedforsecurity=False).digest()))]
    if SUBPROTOCOL in tokens(x.headers, b"sec-websocket-protocol"):
        found.append((b"sec-websocket-protocol", SUBPROTOCOL))
    return found


class WebSocketCall(asyncio.Transport):
    """Call of gRPC behind a WebSocket.  Its protocol is the server's side of a tunnel."""

    def __init__(
        self,
        env: Env,
        counters: SessionCounters,
        binding: Binding,
        parameters: bytes,
        fields: Headers,
        limit: int,
        shape: Shape,
        convert: Convert,
    ) -> None:
        """`parameters` are the fields of the path and the query, which are in each message of the client.

        `fields` are those of the 101, and `limit` is that of one message in bytes.
        """
        super().__init__()
        self._env = env
        self._counters = counters
        self._session: Outcome | None = None
        """The 101, whose verdict is that on the session; None before it is sent and once there is a result."""
        self._binding = binding
        self._parameters = parameters
        self._fields = fields
        self._shape = shape
        self._convert = convert
        self._protocol: asyncio.Protocol | None = None
        """Server's side of the tunnel; None before the handshake is answered."""
        self._frames = ClientFrames(limit)
        self._run: Run[Outcome] | None = None
        """Run of the stages further in; None once they have an outcome."""
        self._accepted: Promise[Outcome] = Promise()
        """Promise of the answer to the handshake."""
        self._outcome: Outcome | None = None
        """Outcome of the call until the tunnel is open, else None."""
        self._answer: Body | None = None
        """Body of the answer while it arrives, else None."""
        self._request = Body(self)
        """Body of the call: the client's messages."""
        self._timer: Any = None
        """Timer of the handshake, then of the answer to a Close frame; None without one."""
        self._is_paused = False
        """True while the upstream takes no more of the client's messages."""
        self._is_behind = False
        """True while the client does not read."""
        self._is_due = False
        """True while the rest of the client's bytes waits for the next turn of the loop."""
        self._is_half_closed = False
        """True once the client has ended its stream."""
        self._is_closing = False
        """True once a Close frame was sent or received: no message passes any more."""
        self._is_closed = False
        """True once the protocol was told of the end, or is about to be."""
        self._pong: bytes | None = None
        """Payload of the last PING that came while the client did not read; None without one (RFC 6455 5.5.3)."""

    # ----- the handshake

    async def open(self, x: Exchange, inner: Service) -> Outcome:
        """Begin the call `x` with the stages further in, and return the answer to the handshake."""
        binding = self._binding
        if binding.rule.body or binding.method.client_streaming:
            x.stream = self._request
            self._request.pause()  # the stream of an upstream resumes it
        else:
            x.body = frame(self._parameters)
            self._is_half_closed = True
            self._timer = self._env.call_later(LONGEST_PEEK, self._accept)
        run = Run(inner(x), self._end_call)
        if not run.has_ended:
            self._run = run
        try:
            return await self._accepted
        except BaseException:
            self.close()
            raise

    def _accept(self) -> None:
        """Answer the handshake with a 101."""
        self._stop_timer()
        outcome = Outcome(101, self._fields, stream=Body())  # the body keeps permits until the tunnel ends
        outcome.tunnel = self
        self._session = outcome
        self._accepted.resolve(outcome)

    def _end_call(self, run: Run[Outcome]) -> None:
        """Take the outcome of the stages further in."""
        self._run = None
        outcome = run.value
        if self._is_closed or self._is_closing:
            if outcome is not None:
                outcome.discard()
        elif outcome is None:
            self._break_down(run.error)
        elif self._accepted.done():
            self._outcome = outcome
            if self._protocol is not None:
                self._take_answer()
        else:
            self._stop_timer()
            if self._has_begun(outcome):
                self._outcome = outcome
                self._accept()
            else:
                self._is_closed = True
                self._accepted.resolve(self._convert(outcome))

    def _has_begun(self, outcome: Outcome) -> bool:
        """True for the answer to a call, False for one that is an error from its beginning."""
        if outcome.failure is not None or outcome.status != 200 or not is_grpc(outcome.header(b"content-type") or b""):
            return False
        stream = outcome.stream
        if stream is None or (stream.state == COMPLETE and not stream.received):
            try:
                return self._shape(outcome).code([] if stream is None else stream.trailers) == 0
            except AnswerError:
                return False
        return True

    def _break_down(self, error: BaseException | None) -> None:
        """End the session for a bug of a stage, or because the call was cancelled further in."""
        if not isinstance(error, asyncio.CancelledError):
            self._env.emit(events.BUG, where=repr(self), error=error)
        self._fail(INTERNAL, "")

    # ----- what the tunnel calls: the connection of an upstream

    def take_over(self, protocol: asyncio.Protocol) -> tuple[asyncio.Transport, bytes] | None:
        """Take the server's side of the tunnel; None if the session is over."""
        if self._is_closed:
            return None
        self._protocol = protocol
        self._env.call_later(0, self._take_answer)  # the tunnel is not open yet
        return self, b""

    def write(self, data: Any) -> None:
        """Take bytes of the client."""
        if self._is_closed:
            return
        self._frames.feed(data)
        if self._is_paused or self._is_due:
            self._hold()
        else:
            self._read()

    def can_write_eof(self) -> bool:
        return False

    def pause_reading(self) -> None:
        self._is_behind = True
        if self._answer is not None:
            self._answer.pause()

    def resume_reading(self) -> None:
        self._is_behind = False
        pong, self._pong = self._pong, None
        if pong is not None:
            self._send(encode_frame(frames.PONG, pong))
        if self._answer is not None:
            self._answer.resume()

    def is_closing(self) -> bool:
        return self._is_closed

    def close(self) -> None:
        """End the session: the call is cancelled, and the tunnel closes the client's connection."""
        self._stop_timer()
        if self._is_closed:
            return
        self._is_closed = self._is_closing = True
        self._count(LEFT)
        self._drop_call()
        if self._protocol is not None:
            self._env.call_later(0, self._protocol.connection_lost, None)

    def abort(self) -> None:
        self.close()

    # ----- the client's messages

    def _hold(self) -> None:
        """Read no more from the client."""
        if self._protocol is not None:
            self._protocol.pause_writing()

    def _read(self) -> None:
        """Take the messages that are complete, as many as one turn of the loop may."""
        left = MAX_FRAMES_A_TURN
        try:
            while not self._is_paused and not self._is_closed:
                if not left:
                    self._is_due = True
                    self._hold()
                    self._env.call_later(0, self._read_on)
                    return
                left -= 1
                found = self._frames.take(self._env.now())
                if found is None:
                    return
                self._take(*found)
        except FrameError as error:
            self._count(BROKEN)
            self._say_goodbye(error.code, str(error))
            self.close()  # what follows cannot be read

    def _read_on(self) -> None:
        """Go on with bytes that have waited, then read from the client again."""
        self._is_due = False
        if self._is_closed or self._is_paused:
            return
        self._read()
        if self._protocol is not None and not self._is_closed and not self._is_paused and not self._is_due:
            self._protocol.resume_writing()

    def _take(self, opcode: int, payload: bytes) -> None:
        """Take one message or control frame.  Raises `FrameError`."""
        if opcode == frames.CLOSE:
            self._take_close(payload)
        elif opcode == frames.PING:
            if self._is_behind:
                self._pong = payload
            elif not self._is_closing:
                self._send(encode_frame(frames.PONG, payload))
        elif opcode != frames.PONG and not self._is_closing:
            self._take_message(opcode, payload)

    def _take_message(self, opcode: int, payload: bytes) -> None:
        """Pass a message on; an empty one ends the client's stream.  Raises `FrameError`."""
        binding, request = self._binding, self._request
        if opcode == frames.TEXT and not payload.isascii():
            try:
                payload.decode()
            except UnicodeDecodeError:
                raise FrameError(frames.INVALID_PAYLOAD, "a text message is not UTF-8") from None
        if opcode == frames.BINARY and payload and not binding.is_raw_request:
            raise FrameError(frames.UNSUPPORTED, "messages are JSON in text frames")
        if self._is_half_closed:
            self._end(INVALID_ARGUMENT, "A message follows the end of the client's stream.")
            return
        is_end = not payload
        if payload:
            self._counters.received.value += 1
            try:
                message = binding.piece(payload) + self._parameters
            except RequestError as error:
                self._end(INVALID_ARGUMENT, str(error))
                return
            request.feed(frame(message))
        elif not binding.method.client_streaming:
            request.feed(frame(self._parameters))
        if is_end or not binding.method.client_streaming:
            self._is_half_closed = True
            request.finish()

    def _take_close(self, payload: bytes) -> None:
        """Answer a Close frame, and end the session.  Raises `FrameError`."""
        code = parse_close(payload)
        if not self._is_closing:
            self._is_closing = True
            self._drop_call()
            self._send(encode_close(code))
        self.close()

    # the source of the request's body

    def pause_body(self) -> None:
        self._is_paused = True
        self._hold()

    def resume_body(self) -> None:
        """Go on: the upstream takes more messages, the first time because the call has its stream."""
        self._is_paused = False
        if not self._accepted.done():
            self._env.call_later(0, self._accept)
        if not self._is_due:
            self._is_due = True
            self._env.call_later(0, self._read_on)

    def cancel_body(self) -> None:
        """Do nothing: the end of the call ends the session."""

    # ----- the answer

    def _take_answer(self) -> None:
        """Begin to send the answer, if it is there."""
        outcome, self._outcome = self._outcome, None
        if outcome is None:
            return
        if self._is_closing:
            outcome.discard()
        elif outcome.failure is not None:
            self._fail(outcome.failure, outcome.refusal.detail)
        elif outcome.status != 200 or not is_grpc(outcome.header(b"content-type") or b""):
            outcome.discard()
            code = status_from_http(outcome.status) if outcome.status != 200 else INTERNAL_STATUS
            self._end(code, f"The answer is HTTP {outcome.status} and not gRPC.")
        else:
            body = outcome.stream
            if body is None:
                body = Body()
                if outcome.body:
                    body.feed(outcome.body)
                body.finish()
            self._answer = body
            if self._is_behind:
                body.pause()
            body.attach(_Answers(self, self._shape(outcome), body))

    def send_message(self, data: bytes, is_raw: bool) -> None:
        """Send one message of the answer."""
        self._counters.sent.value += 1
        self._send(encode_frame(frames.BINARY if is_raw else frames.TEXT, data))

    def finish(self, code: int, error: bytes, message: str) -> None:
        """End the session with the status of an answer that has ended; `error` is its JSON unless it is OK."""
        self._answer = None
        self._conclude(code, error, message)

    def _conclude(self, code: int, error: bytes, message: str) -> None:
        name = GRPC_STATUSES[code].upper()
        text = f"{name}: {message}" if message else name
        session = self._session
        if code and session is not None:
            session.verdict = grpc_verdict(code)
            session.cause = text
        self._count(GRPC_STATUSES[code])
        if code:
            self._send(encode_frame(frames.TEXT, b'{"error":%b}' % error))
            self._say_goodbye(STATUS_CODES + code, text)
        else:
            self._say_goodbye(frames.NORMAL)

    def fail(self, failure: Failure, detail: str) -> None:
        """End the session for an answer that has broken off."""
        self._answer = None
        self._fail(failure, detail)

    def _fail(self, failure: Failure, detail: str) -> None:
        """End the session with the status of a failure."""
        text = f"{failure.title}: {detail}" if detail else failure.title
        if self._accepted.done():
            self._end(failure.grpc, text)
        else:
            self._is_closed = True
            self._stop_timer()
            self._accepted.resolve(self._convert(Outcome(failure.status, failure=failure)))

    def _end(self, code: int, message: str) -> None:
        """End the session with a status of the sidecar's own."""
        self._conclude(code, error_json(code, message), message)

    # ----- the end

    def _count(self, result: str) -> None:
        """Count the session, unless it has a result already."""
        if self._session is not None:
            self._session = None
            self._counters.ended[result].value += 1

    def _send(self, data: bytes) -> None:
        if self._protocol is not None and not self._is_closed:
            self._protocol.data_received(data)

    def _say_goodbye(self, code: int, reason: str = "") -> None:
        """Send a Close frame, and wait for the client's."""
        if self._is_closing:
            return
        self._is_closing = True
        self._drop_call()
        self._send(encode_close(code, reason))
        if not self._is_closed:
            self._timer = self._env.call_later(CLOSE_WITHIN, self.close)

    def _drop_call(self) -> None:
        """Cancel what is left of the call."""
        run, answer, outcome, request = self._run, self._answer, self._outcome, self._request
        self._run = self._answer = self._outcome = None
        if run is not None:
            run.cancel()
        if outcome is not None:
            outcome.discard()
        if answer is not None:
            answer.cancel(CLIENT_CLOSED)
        if request.state == OPEN:
            request.fail(CLIENT_CLOSED)

    def _stop_timer(self) -> None:
        timer, self._timer = self._timer, None
        if timer is not None:
            timer.cancel()

    def __repr__(self) -> str:
        state = "closed" if self._is_closed else "closing" if self._is_closing else "open"
        return f"<WebSocketCall {self._binding.method.full_name} {state}>"


class _Answers:
    """Sink of an answer of gRPC."""

    __slots__ = ("_answer", "_body", "_call", "_count", "_is_over", "_reader")

    def __init__(self, call: WebSocketCall, answer: GrpcAnswer, body: Body) -> None:
        self._call = call
        self._answer = answer
        self._body = body
        self._reader = answer.reader
        self._count = 0
        """Messages so far."""
        self._is_over = False
        """True once a message could not be translated."""

    def write(self, data: bytes) -> None:
        answer = self._answer
        try:
            for flags, message in [] if self._is_over else self._reader.feed(data):
                text, _ = answer.text(flags, message)
                self._count += 1
                self._call.send_message(text, answer.binding.is_raw_answer)
        except AnswerError as problem:
            self._break(str(problem))
        except MessageTooLarge:
            self._break("The answer has a message that is too large.")

    def _break(self, text: str) -> None:
        self._is_over = True
        self._body.cancel(TRANSFORM)
        self._call.fail(TRANSFORM, text)

    def finish(self, trailers: Headers) -> None:
        call, answer = self._call, self._answer
        try:
            code = answer.code(trailers)
        except AnswerError as problem:
            call.fail(TRANSFORM, str(problem))
            return
        if not self._reader.is_between:
            call.fail(TRANSFORM, "The answer's last message is cut off.")
        elif code:
            call.finish(code, answer.error(code, trailers), answer.message(trailers))
        elif self._count != 1 and not answer.binding.method.server_streaming:
            call.fail(TRANSFORM, f"The answer has {self._count} messages instead of one.")
        else:
            call.finish(0, b"", "")

    def fail(self, failure: Failure) -> None:
        if failure.origin != "client":
            self._call.fail(failure, "")
