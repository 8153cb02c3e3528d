"""gRPC-Web at a listener: a call becomes one of gRPC before it is routed, and its answer is turned back.

Rules:

1. A POST with a content type of gRPC-Web is a call, over HTTP/1.1 and HTTP/2.  Routes and policies see the call of gRPC
   that it stands for.
2. The answer is text if `Accept` names the text form, or if the request is text and `Accept` names neither.
3. The status is in the last frame of the body, also in an answer of trailers only: scripts see no header field of
   another origin unless it is exposed.  No answer is without this frame.
4. Bodies stream both ways, with the back-pressure of the connections.
5. A frame of the upstream that would be taken for the trailers breaks the answer off with INTERNAL, and so does a
   last message that is cut off: what followed would be taken for its rest.

Elsewhere: preflight requests and exposed fields (`sidecar.stages.cors`).
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Final

from sidecar.control.route import Route
from sidecar.core.body import COMPLETE, Body
from sidecar.core.exchange import Exchange
from sidecar.core.message import Headers
from sidecar.core.outcome import (
    BAD_REQUEST,
    CLIENT_CLOSED,
    PROTOCOL,
    Failure,
    Outcome,
    Refusal,
    failed,
    grpc_verdict,
)
from sidecar.downstream.grpc.answers import as_grpc, broken_trailers, in_web_form
from sidecar.grpc.status import CONTENT_TYPE
from sidecar.grpc.web import TEXT, FrameFollower, TextDecoder, become_call, encode_text, trailer_frame

NO_MESSAGES: Final = "the answer's frames are not whole messages"
Match = Callable[[Exchange], Route | None]


def translating(match: Match) -> Match:
    """Return a match function that turns a call of gRPC-Web into one of gRPC first."""
    routes: dict[tuple[Route, bool], Route] = {}

    def translate_and_match(x: Exchange) -> Route | None:
        kind = become_call(x)
        if kind is None:
            return match(x)
        route = match(x)
        if route is None:
            return None
        translated = routes.get((route, kind.is_text))
        if translated is None:
            pipeline = route.pipeline.within(GrpcWebStage(kind.is_text))
            translated = routes[route, kind.is_text] = Route(route.spec, route.chain, pipeline, route.slow_places)
            translated.metrics = route.metrics
        return translated

    return translate_and_match


class GrpcWebStage:
    """Outermost stage of a route for calls of gRPC-Web: decodes the request, encodes the answer."""

    __slots__ = ("_is_text",)

    def __init__(self, is_text: bool) -> None:
        """`is_text` is True for requests in the text form."""
        self._is_text = is_text

    def admit(self, x: Exchange) -> Outcome | None:
        if not self._is_text:
            return None
        if x.stream is not None:
            x.stream = _Decoding(x.stream).target
            return None
        decoder = TextDecoder()
        try:
            x.body = decoder.feed(x.body)
            decoder.finish()
        except ValueError as error:
            return failed(BAD_REQUEST, Refusal("grpc_web", detail=f"{str(error)[:1].upper()}{str(error)[1:]}."))
        return None

    def answer(self, x: Exchange, ticket: object, outcome: Outcome) -> Outcome:
        """Return the answer in the form of gRPC-Web; failures get theirs where they become answers."""
        if outcome.failure is not None:
            return outcome
        outcome = as_grpc(outcome)
        if outcome.header(b"grpc-status") is not None:
            if outcome.stream is not None:
                outcome.stream.cancel()
            return in_web_form(outcome, x.web)
        kind = outcome.header(b"content-type") or b""
        headers: Headers = [
            (b"content-type", x.web + kind[len(CONTENT_TYPE) :].partition(b";")[0]),
            *[field for field in outcome.headers if field[0] not in (b"content-type", b"content-length")],
        ]
        is_text = x.web == TEXT
        body = outcome.stream
        if body is None:
            body = Body()
            body.feed(outcome.body)
            body.finish()
        if body.state == COMPLETE:
            messages = body.whole()
            follower = FrameFollower()
            if follower.follow(messages) < len(messages) or not follower.is_between:
                return failed(PROTOCOL, cause=NO_MESSAGES)
            whole = messages + trailer_frame(body.trailers)
            found = Outcome(200, headers, encode_text(whole) if is_text else whole)
        else:
            found = Outcome(200, headers, stream=_Encoding(body, is_text).target)
        found.verdict = outcome.verdict
        found.sensitive = outcome.sensitive
        return found

    def settle(self, x: Exchange, ticket: object, outcome: Outcome) -> None:
        """Do nothing: the verdict that the trailers have brought is in the outcome by now."""

    def __repr__(self) -> str:
        return f"<GrpcWebStage {'text' if self._is_text else 'binary'}>"


class _Relay:
    """Sink of one body, source of another with other bytes."""

    __slots__ = ("_origin", "target")

    def __init__(self, origin: Body) -> None:
        self._origin = origin
        self.target = Body(self)
        """Body with the other bytes."""

    def pause_body(self) -> None:
        self._origin.pause()

    def resume_body(self) -> None:
        self._origin.resume()

    def cancel_body(self) -> None:
        self._origin.cancel(self.target.failure or CLIENT_CLOSED)


class _Decoding(_Relay):
    """Request's body, from the text form."""

    __slots__ = ("_decoder",)

    def __init__(self, origin: Body) -> None:
        super().__init__(origin)
        self._decoder = TextDecoder()
        origin.attach(self)

    def write(self, data: bytes) -> None:
        try:
            decoded = self._decoder.feed(data)
        except ValueError as error:
            self._break(error)
            return
        if decoded:
            self.target.feed(decoded)

    def finish(self, trailers: Headers) -> None:
        try:
            self._decoder.finish()
        except ValueError as error:
            self._break(error)
            return
        self.target.finish(trailers)

    def fail(self, failure: Failure) -> None:
        self.target.fail(failure, self._origin.cause)

    def _break(self, error: ValueError) -> None:
        self._origin.cancel(BAD_REQUEST)
        self.target.fail(BAD_REQUEST, str(error))


class _Encoding(_Relay):
    """Answer's body, with its trailers as the last frame."""

    __slots__ = ("_frames", "_is_text")

    def __init__(self, origin: Body, is_text: bool) -> None:
        super().__init__(origin)
        self._is_text = is_text
        self._frames = FrameFollower()
        origin.attach(self)

    def write(self, data: bytes) -> None:
        size = self._frames.follow(data)
        part = data[:size]
        if part:
            self.target.feed(encode_text(part) if self._is_text else part)
        if size < len(data):
            self._origin.cancel(PROTOCOL)
            self.fail(PROTOCOL)

    def finish(self, trailers: Headers) -> None:
        if not self._frames.is_between:
            self.fail(PROTOCOL)
            return
        self.target.verdict = self._origin.verdict
        self._end(trailers)

    def fail(self, failure: Failure) -> None:
        """End the body with the status of the failure.

        It breaks off if the client has left, and within a message, to which the status would seem to belong.
        """
        if failure.origin == "client" or not self._frames.is_between:
            self.target.fail(failure, self._origin.cause)
            return
        self.target.verdict = grpc_verdict(failure.grpc)
        self._end(broken_trailers(failure, "", None))

    def _end(self, trailers: Headers) -> None:
        frame = trailer_frame(trailers)
        self.target.feed(encode_text(frame) if self._is_text else frame)
        self.target.finish()
