"""Results of a client's bytes, as values: the served requests, and the status of the refusal.

A `DownstreamConnection` with a service that only records its requests reads the bytes.  So the vectors of this package
test all the code behind a socket and not a part of it, compiled or not.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import dataclass, field
from types import SimpleNamespace
from typing import Any, NamedTuple

from sidecar.config.process_spec import LimitsSpec, ListenerSpec
from sidecar.core.exchange import Exchange
from sidecar.core.message import Headers
from sidecar.core.outcome import Failure, Outcome
from sidecar.core.promise import Promise
from sidecar.downstream.connection import ANSWERING, READING_HEAD, DownstreamConnection
from sidecar.downstream.listener import Listener
from sidecar.downstream.server import Server
from tests.support.clock import FakeEnv, make_env
from tests.support.routes import one_route
from tests.wire.pipe import Pipe

SPEC = ListenerSpec.model_validate({"address": "127.0.0.1:0", "protocols": ["http1"]})
LIMITS = LimitsSpec()


class Request(NamedTuple):
    """Request as a service gets it."""

    method: bytes
    target: bytes
    authority: bytes
    body: bytes
    trailers: tuple[tuple[bytes, bytes], ...] = ()
    headers: tuple[tuple[bytes, bytes], ...] = ()


@dataclass
class Conversation:
    """Results of all bytes on a connection."""

    requests: list[Request] = field(default_factory=list)
    """Requests that arrived completely."""
    status: int | None = None
    """Status with which the rest was refused; None if nothing was refused."""
    reason: str = ""
    broken: bool = False
    """True if a body was refused after its head had been served."""
    rest: bytes = b""
    """Bytes that the connection keeps, since more must follow."""
    is_open: bool = False
    """True if a body is incomplete."""


class Collector:
    """Sink of one body."""

    def __init__(self, whole: Callable[[bytes, Headers], None]) -> None:
        self.data = bytearray()
        self.failure: Failure | None = None
        self._whole = whole

    def write(self, data: bytes) -> None:
        self.data += data

    def finish(self, trailers: Headers) -> None:
        self._whole(bytes(self.data), trailers)

    def fail(self, failure: Failure) -> None:
        self.failure = failure


class Reader:
    """Connection whose service records each request once it is complete, and answers then."""

    def __init__(self, limits: LimitsSpec | None = None, env: FakeEnv | None = None) -> None:
        self._env = env or make_env()
        untraced: Any = SimpleNamespace(begin=None, use=lambda *_: None)
        server = Server(self._env, self._record, untraced)
        server.limits = limits or LIMITS
        listener = Listener("test", SPEC, server)
        route = one_route(self._serve)
        listener.match = lambda _: route
        self._connection = DownstreamConnection(listener)
        self._connection.connection_made(Pipe())
        self.conversation = Conversation()

    async def _serve(self, x: Exchange) -> Outcome:
        if x.stream is None:
            self._note(x, x.body, [])
            return Outcome(204)
        whole: Promise[None] = Promise()

        def take(body: bytes, trailers: Headers) -> None:
            self._note(x, body, trailers)
            whole.resolve(None)

        x.stream.attach(Collector(take))
        await whole
        return Outcome(204)

    def _note(self, x: Exchange, body: bytes, trailers: Headers) -> None:
        headers = tuple(pair for pair in x.headers if pair[0] != b"x-request-id")
        self.conversation.requests.append(Request(x.method, x.target, x.authority, body, tuple(trailers), headers))

    def _record(self, x: Exchange, outcome: Outcome, _reason: str, _seconds: float) -> None:
        if outcome.failure is not None:
            self.conversation.status, self.conversation.reason = outcome.status, outcome.cause
            self.conversation.broken = x.stream is not None

    def feed(self, data: bytes) -> None:
        """Feed bytes of the client."""
        connection = self._connection
        connection.data_received(data)
        while connection._phase == READING_HEAD:  # more requests than one turn serves
            before = connection._buffer
            connection._read_heads()
            if connection._buffer == before:
                break
        assert not self._env.emitted("bug")

    def result(self) -> Conversation:
        connection = self._connection
        self.conversation.rest = connection._buffer if connection._phase <= ANSWERING else b""
        self.conversation.is_open = connection._request_body is not None
        return self.conversation


def read(pieces: bytes | Iterable[bytes], limits: LimitsSpec | None = None) -> Conversation:
    """Return the results of bytes that arrive in these pieces."""
    reader = Reader(limits)
    for piece in (pieces,) if isinstance(pieces, bytes) else pieces:
        if piece:
            reader.feed(piece)
    return reader.result()


def halves(data: bytes) -> Iterable[tuple[bytes, bytes]]:
    """Yield the data cut in two, at every index."""
    return ((data[:index], data[index:]) for index in range(1, len(data)))


def dribble(data: bytes) -> list[bytes]:
    """Return the data as single bytes."""
    return [data[index : index + 1] for index in range(len(data))]
