"""Buffers bodies and parses them as documents, or says why a body cannot be read.

Rules:

1. A body that is still arriving is collected up to a limit.  A longer one continues as a stream, without losing a byte.
2. The caller continues at the end of the body, after all callbacks that settle by it (`Body.on_close`).
3. While the caller waits, the limits of the sender apply: those for slow clients, or the deadline for an upstream.
4. Trailers of a buffered body are lost.
"""

from __future__ import annotations

from typing import Final, Literal, NamedTuple

from sidecar.core.body import Body
from sidecar.core.exchange import Exchange
from sidecar.core.message import Headers
from sidecar.core.outcome import CLIENT_CLOSED, Failure, Outcome
from sidecar.core.promise import Promise
from sidecar.transform import coding
from sidecar.transform.forms import from_form
from sidecar.transform.jsonbody import Document, InvalidBody, parse
from sidecar.transform.validators import coding_of

Kind = Literal["invalid", "too_large", "coding"]


class BodyProblem(NamedTuple):
    """Reason why a body cannot be read."""

    kind: Kind
    detail: str
    """Completes "The body ..."."""


class BufferedBody(NamedTuple):
    """Body as far as it could be read."""

    document: Document | None = None
    """Parsed content; None if it could not be read, or there is no body."""
    data: bytes = b""
    """Content as received."""
    coding: bytes = b""
    """Content coding that was decoded; empty if there was none."""
    problem: BodyProblem | None = None
    """Reason why the body could not be read; None if it could."""
    failure: Failure | None = None
    """Failure that broke the body off; None if it came whole."""


NO_BODY: Final = BufferedBody()
"""Result for a message without a body."""


def read_body(message: Exchange | Outcome, limit: int, *, form: bool = False) -> BufferedBody:
    """Read the body of a message that does not stream.  `limit` is in bytes, and holds for the decoded content too."""
    data = message.body
    if not data:
        return NO_BODY
    encoding = coding_of(message)
    if encoding and not coding.is_known(encoding):
        return _unknown(encoding)
    if len(data) > limit:
        return BufferedBody(data=data, problem=BodyProblem("too_large", f"is larger than {limit} bytes"))
    try:
        plain = coding.decode(data, encoding, limit) if encoding else data
        return BufferedBody(from_form(plain) if form else parse(plain), data, encoding)
    except coding.BodyTooLarge as error:
        return BufferedBody(data=data, problem=BodyProblem("too_large", str(error)))
    except InvalidBody as invalid:  # compiled code gives a name one type for the whole function
        return BufferedBody(data=data, problem=BodyProblem("invalid", str(invalid)))


async def buffer_body(message: Exchange | Outcome, limit: int, *, form: bool = False) -> BufferedBody:
    """Read the body of a message that may stream.

    The message no longer streams afterwards, unless its body was too large or broke off.
    """
    if message.stream is not None:
        encoding = coding_of(message)
        if not coding.is_known(encoding):
            return _unknown(encoding)
        collected = await collect(message.stream, limit)
        if isinstance(collected, Failure):
            return BufferedBody(failure=collected)
        if isinstance(collected, Body):
            message.stream = collected
            return BufferedBody(problem=BodyProblem("too_large", f"is larger than {limit} bytes"))
        message.stream = None
        message.body = collected
    return read_body(message, limit, form=form)


async def collect(body: Body, limit: int) -> bytes | Body | Failure:
    """Wait for the end of a body that has no sink yet.

    Returns its content, the failure that broke it off, or, if it has more than `limit` bytes, a body that continues it.
    """
    if body.length is not None and body.length > limit:
        return body
    collector = _Collector(body, limit)
    body.attach(collector)
    if not collector.promise.done():
        body.on_close(collector.ended)
    return await collector.promise


class _Collector:
    """Sink that collects a body.  Beyond the limit it becomes the source of another body with the same bytes."""

    __slots__ = ("body", "limit", "pieces", "promise", "rest", "size")

    def __init__(self, body: Body, limit: int) -> None:
        self.body = body
        self.limit = limit
        self.pieces: list[bytes] = []
        self.size = 0
        self.rest: Body | None = None
        """Body to which everything is passed on; None below the limit."""
        self.promise: Promise[bytes | Body | Failure] = Promise(body.cancel)

    # ----- sink of the arriving body

    def write(self, data: bytes) -> None:
        if self.rest is not None:
            self.rest.feed(data)
            return
        self.pieces.append(data)
        self.size += len(data)
        if self.size > self.limit:
            self.rest = Body(self, self.body.length)
            self.rest.feed(b"".join(self.pieces))
            self.pieces.clear()
            self.promise.resolve(self.rest)

    def finish(self, trailers: Headers) -> None:
        if self.rest is not None:
            self.rest.sensitive = self.body.sensitive
            self.rest.finish(trailers)
            self.body.detach()

    def fail(self, failure: Failure) -> None:
        if self.rest is not None:
            self.rest.fail(failure, self.body.cause)
            self.body.detach()

    def ended(self, failure: Failure | None) -> None:
        """Resolve the promise at the end of the body, after all others have settled."""
        if self.rest is None:
            self.body.detach()
            self.promise.resolve(failure if failure is not None else b"".join(self.pieces))

    # ----- source of the body that is passed on

    def pause_body(self) -> None:
        self.body.pause()

    def resume_body(self) -> None:
        self.body.resume()

    def cancel_body(self) -> None:
        failure = None if self.rest is None else self.rest.failure
        self.body.cancel(failure or CLIENT_CLOSED)


def _unknown(encoding: bytes) -> BufferedBody:
    return BufferedBody(problem=BodyProblem("coding", f"has the content coding {encoding.decode('latin-1')[:80]}"))
