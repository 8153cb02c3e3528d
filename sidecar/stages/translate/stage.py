"""Stage `translate`: makes calls of gRPC from REST requests, and JSON from their answers.

Rules:

1. The stages further out see the REST request, and an answer with an HTTP status of its own.  Those further in (retry,
   breaker) see the call of gRPC and its status.
2. A request that no binding takes is refused (404, or 405 with the methods that there are), and so is one that does not
   fit its binding (400, with the place).  The client is charged with both.
3. An answer has the HTTP status of its gRPC status, wherever that came: in the head, or in the trailers of an answer
   to one message.  Details become JSON too (`answers.py`).
4. Refusals and failures of the stages further in pass unchanged, and so does an answer that is no gRPC and no success.
5. Messages of a stream are passed on one by one.  Nothing is sent to the client before the first message or the end,
   so an early error keeps its status; a stream that is silent for `LONGEST_PEEK` begins without it.
6. The request may be repeated as its REST method may, or as the descriptor says of the method.
7. A WebSocket is a call for the stages further in (`websocket.py`), and a session for those further out.  Its time has
   no limit but `timeout.idle` and the caller's own deadline.
8. A page of another host opens a WebSocket only if `cors` allows its origin: browsers add cookies and ask nobody.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Final

from sidecar.core.body import COMPLETE, Body
from sidecar.core.env import BuildContext, Env
from sidecar.core.exchange import NEVER, Exchange, RequestCopy
from sidecar.core.message import Headers
from sidecar.core.outcome import (
    NO_ROUTE,
    ORIGIN_REFUSED,
    TRANSFORM,
    UNFIT_REQUEST,
    Failure,
    Outcome,
    Refusal,
    failed,
)
from sidecar.core.stage import Service, Stage, Wait, unbound
from sidecar.grpc.bindings import Binding, Bindings, RequestError
from sidecar.grpc.descriptors import DescriptorSet, Method
from sidecar.grpc.framing import frame
from sidecar.grpc.status import is_grpc
from sidecar.grpc.templates import Match
from sidecar.stages.translate.answers import AnswerError, Form, GrpcAnswer, StreamAnswer
from sidecar.stages.translate.source import load
from sidecar.stages.translate.spec import Spec
from sidecar.stages.translate.websocket import (
    SessionCounters,
    WebSocketCall,
    handshake_fields,
    handshake_problem,
    is_foreign,
)
from sidecar.transform import coding
from sidecar.transform.buffering import collect
from sidecar.transform.jsonbody import InvalidBody
from sidecar.transform.validators import coding_of, is_json

LONGEST_PEEK: Final = 1.0
"""Seconds for which the head of a silent stream is held back."""
DROPPED: Final = frozenset(
    (
        b"accept", b"accept-encoding", b"content-encoding", b"content-length", b"content-md5", b"content-digest",
        b"content-type", b"digest", b"expect", b"if-match", b"if-modified-since", b"if-none-match", b"if-range",
        b"if-unmodified-since", b"range", b"repr-digest",
    )
)  # fmt: skip
"""Fields of the REST request that would say something false of the call."""
CALL: Final[Headers] = [(b"content-type", b"application/grpc")]
REPEATED_LIKE: Final = {1: b"GET", 2: b"PUT"}
"""Methods by `idempotency_level`: no side effects, idempotent."""


class Translated:
    """Ticket of a translated request: its binding, and the request as it came."""

    __slots__ = ("_accepts_trailers", "_facts", "_grpc_timeout", "binding")

    def __init__(self, x: Exchange, binding: Binding) -> None:
        self.binding = binding
        self._facts: RequestCopy | None = RequestCopy(x)
        self._accepts_trailers = x.accepts_trailers
        self._grpc_timeout = x.grpc_timeout

    def restore(self, x: Exchange) -> None:
        """Undo all changes."""
        facts, self._facts = self._facts, None
        if facts is not None:
            facts.restore(x)
            x.accepts_trailers = self._accepts_trailers
            x.grpc_timeout = self._grpc_timeout
            x.is_grpc = False
            x.rest_method = b""


class TranslateStage:
    """Translation of one route."""

    __slots__ = ("_allows_origin", "_counters", "_env", "_form", "_limit", "_types", "_where", "bindings", "inner")

    inner: Service
    """Pipeline behind the stage, for the calls of WebSockets; not set without them."""

    def __init__(
        self,
        spec: Spec,
        env: Env,
        where: str,
        types: DescriptorSet,
        bindings: Bindings,
        allows_origin: Callable[[bytes], bool],
        counters: SessionCounters | None,
    ) -> None:
        """`allows_origin` is that of the route's `cors` block; `counters` are None without WebSockets."""
        self._counters = counters
        self._env = env
        self._allows_origin = allows_origin
        if bindings.sockets is not None:
            self.inner = unbound
        self._where = where
        self._types = types
        self.bindings = bindings
        """Bindings of all methods that the route serves."""
        self._limit = spec.grpc.max_body
        self._form = Form(spec.grpc.streams)

    # ----- requests

    def admit(self, x: Exchange) -> Translated | Outcome | Wait:
        if x.upgrade is not None:
            return self._open(x)
        match = self.bindings.match(x.method, x.path)
        binding = match.target
        if binding is None:
            return self._unbound(match, x.path)
        if x.stream is not None:
            return Wait(self._read(x, x.stream, match, binding))
        return self._call(x, match, binding)

    async def _read(self, x: Exchange, stream: Body, match: Match[Binding], binding: Binding) -> Translated | Outcome:
        """Wait for the body of a request, and make the call."""
        if x.expects_continue and (stream.length is None or stream.length <= self._limit):
            x.expects_continue = False
            if x.interim is not None:
                x.interim(100, b"")
        collected = await collect(stream, self._limit)
        if isinstance(collected, Failure):
            return failed(collected)
        if isinstance(collected, Body):
            x.stream = collected
            return self._too_large()
        x.stream = None
        x.body = collected
        return self._call(x, match, binding)

    def _call(self, x: Exchange, match: Match[Binding], binding: Binding) -> Translated | Outcome:
        """Turn a request into its call."""
        body = x.body
        kind = x.header(b"content-type")
        if body:
            if len(body) > self._limit:
                return self._too_large()
            if not binding.is_raw_request and kind is not None and not is_json(kind):
                return self._refuse("The body is not JSON; its Content-Type must be application/json.", 415)
            encoding = coding_of(x)
            if encoding and encoding != b"identity":
                if not coding.is_known(encoding):
                    return self._refuse("The body has a content coding that is not known here.", 415)
                try:
                    body = coding.decode(body, encoding, self._limit)
                except coding.BodyTooLarge:
                    return self._too_large()
                except InvalidBody as error:
                    return self._refuse(f"The body {error}.")
        try:
            message = binding.message(match.segments, x.query, body, kind or b"")
        except RequestError as problem:  # compiled code gives a name one type for the whole function
            return self._refuse(str(problem))
        call = Translated(x, binding)
        become_call(x, binding.method, x.method)
        x.body = frame(message)
        x.stream = None
        return call

    def _unbound(self, match: Match[Binding], path: bytes) -> Outcome:
        """Return the refusal of a request that no binding takes."""
        socket = self.bindings.match_socket(path).target
        if socket is not None:
            outcome = self._refuse(f"{socket.method.full_name} takes a stream of requests: open a WebSocket.", 426)
            outcome.headers = [(b"upgrade", b"websocket"), (b"connection", b"Upgrade")]
            return outcome
        if not match.allowed:
            detail = "No method of the route's services is bound to the path."
            return failed(NO_ROUTE, Refusal("translate", self._where, detail))
        outcome = failed(NO_ROUTE, Refusal("translate", self._where, "The path is bound, but not with this method."))
        outcome.status = 405
        outcome.headers = [(b"allow", ", ".join(match.methods).encode("latin-1"))]
        return outcome

    def _open(self, x: Exchange) -> Outcome | Wait:
        """Begin the call of a WebSocket."""
        match = self.bindings.match_socket(x.path)
        binding = match.target
        if binding is None:
            if self.bindings.match(x.method, x.path).target is not None:
                return self._refuse("The request asks for an upgrade, which the method does not have.")
            return self._unbound(match, x.path)
        problem = handshake_problem(x)
        if problem:
            return self._refuse(problem)
        if is_foreign(x) and not self._allows_origin(x.joined(b"origin") or b""):
            detail = "Pages of this origin may not open a WebSocket here; name it in `cors.origins` of the route."
            return failed(ORIGIN_REFUSED, Refusal("translate", self._where, detail))
        try:
            parameters = binding.parameters(match.segments, x.query)
        except RequestError as error:
            return self._refuse(str(error))
        target = binding

        def shape(call: Outcome) -> GrpcAnswer:
            return GrpcAnswer(call, target, self._types, self._limit)

        def convert(outcome: Outcome) -> Outcome:
            found = self._convert(target, outcome)
            if isinstance(found, Outcome):
                return found
            found.close()
            outcome.discard()
            return self._broken(f"The answer is HTTP {outcome.status} and not gRPC.")

        assert self._counters is not None
        fields = handshake_fields(x)
        socket = WebSocketCall(
            self._env, self._counters, binding, parameters, fields, self._limit, shape, convert
        )  # fmt: skip
        call = x.fork(x.attempt, x.why)
        call.upgrade = None
        call.interim = None
        call.deadline = x.caller_deadline
        call.attempt_timeout = call.idle_timeout = NEVER
        become_call(call, binding.method, binding.rule.method.encode())
        call.headers = [field for field in call.headers if not field[0].startswith(b"sec-websocket-")]
        return Wait(socket.open(call, self.inner))

    def _refuse(self, detail: str, status: int = 400) -> Outcome:
        outcome = failed(UNFIT_REQUEST, Refusal("translate", self._where, detail))
        outcome.status = status
        return outcome

    def _too_large(self) -> Outcome:
        return self._refuse(f"The body is larger than {self._limit} bytes.", 413)

    # ----- answers

    def answer(self, x: Exchange, ticket: Translated, outcome: Outcome) -> Outcome | Wait:
        ticket.restore(x)
        return self._convert(ticket.binding, outcome)

    def _convert(self, binding: Binding, outcome: Outcome) -> Outcome | Wait:
        """Return the REST answer to a call."""
        if outcome.failure is not None or outcome.tunnel is not None:
            return outcome
        if not is_grpc(outcome.header(b"content-type") or b""):
            if outcome.status != 200:
                return outcome
            outcome.discard()
            return self._broken("The answer is not gRPC.")
        answer = GrpcAnswer(outcome, binding, self._types, self._limit)
        stream = outcome.stream
        if stream is not None and binding.method.server_streaming and not answer.has_status:
            return self._stream(answer, stream)
        if stream is None:
            return self._whole(answer, outcome.body, [])
        if stream.state == COMPLETE and stream.received <= self._limit:
            return self._whole(answer, stream.whole(), stream.trailers)
        return Wait(self._collect(answer, stream))

    async def _collect(self, answer: GrpcAnswer, stream: Body) -> Outcome:
        """Wait for the end of an answer to one message."""
        collected = await collect(stream, self._limit + 5)
        if isinstance(collected, Failure):
            return failed(collected, cause=stream.cause)
        if isinstance(collected, Body):
            collected.cancel(TRANSFORM)
            return self._broken(f"The answer's message is larger than {self._limit} bytes.")
        return self._whole(answer, collected, stream.trailers)

    def _whole(self, answer: GrpcAnswer, data: bytes, trailers: Headers) -> Outcome:
        """Return the REST answer to a whole answer of gRPC."""
        try:
            if answer.binding.method.server_streaming:
                return answer.of_stream(data, trailers, self._form)
            return answer.of_message(data, trailers)
        except AnswerError as error:
            return self._broken(str(error))

    def _stream(self, answer: GrpcAnswer, stream: Body) -> Outcome | Wait:
        """Return the REST answer to a stream, once its first message or its end has come."""
        made = StreamAnswer(answer, stream, self._form, self._broken)
        stream.attach(made)
        if made.outcome is not None:
            return made.outcome
        return Wait(self._first(made))

    async def _first(self, made: StreamAnswer) -> Outcome:
        timer = self._env.call_later(LONGEST_PEEK, made.begin)
        try:
            return await made.first
        except BaseException:
            made.cancel_body()
            raise
        finally:
            timer.cancel()

    def _broken(self, detail: str) -> Outcome:
        """Return the failure of an answer that cannot be translated."""
        return failed(TRANSFORM, Refusal("translate", self._where, detail), cause=detail)

    def settle(self, x: Exchange, ticket: Translated, outcome: Outcome) -> None:
        ticket.restore(x)


def become_call(x: Exchange, method: Method, rest_method: bytes) -> None:
    """Turn a request into a call of a method; `rest_method` is the method by which it may be repeated."""
    x.rest_method = REPEATED_LIKE.get(method.idempotency, rest_method)
    x.method = b"POST"
    x.path = b"/" + method.full_name.encode()
    x.query = None
    x.headers = CALL + [field for field in x.headers if field[0] not in DROPPED and not field[0].startswith(b"grpc-")]
    x.expects_continue = False
    x.accepts_trailers = True
    x.is_grpc = True
    x.grpc_timeout = True


def build(spec: Spec, ctx: BuildContext) -> Stage:
    """Return the stage of a route."""
    types, bindings = load(spec.grpc, ctx.where.rpartition(":")[0])
    counters = None if bindings.sockets is None else SessionCounters(ctx.env, ctx.route)
    return TranslateStage(spec, ctx.env, ctx.where, types, bindings, ctx.resources("origins", ctx.route), counters)
