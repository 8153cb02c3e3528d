"""What becomes of a client's bytes, as a value: the requests that are served and why the rest is not.

It is the sidecar's own `RequestReader` with a service that only notes what it gets, so that the vectors of this package
are held against the code that reads a socket and not against a part of it.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import dataclass, field
from types import SimpleNamespace
from typing import Any, NamedTuple

from sidecar.control.listener import LimitsSpec
from sidecar.core.exchange import Exchange
from sidecar.core.http1 import Invalid
from sidecar.core.outcome import Failure, Headers
from sidecar.edge.reading import RequestReader
from sidecar.edge.request import Peer
from tests.support.clock import FakeEnv, make_env


class Request(NamedTuple):
    """One request as a service gets it."""

    method: bytes
    target: bytes
    authority: bytes
    body: bytes
    trailers: tuple[tuple[bytes, bytes], ...] = ()
    headers: tuple[tuple[bytes, bytes], ...] = ()


@dataclass
class Conversation:
    """What all the bytes came to."""

    requests: list[Request] = field(default_factory=list)
    """Those that arrived whole."""
    status: int | None = None
    """With which the rest was turned away."""
    reason: str = ""
    broken: bool = False
    """Was it a body, after its head had been served?"""
    rest: bytes = b""
    """What is kept because more has to come."""
    is_open: bool = False
    """Is a body still on its way?"""


class Collector:
    """The sink of one body."""

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


class Reader(RequestReader):
    """Serves each request at once; the next one begins when its body has ended."""

    def __init__(self, limits: LimitsSpec | None = None, env: FakeEnv | None = None) -> None:
        env = env or make_env()
        listener: Any = SimpleNamespace(now=env.now, env=env, limits=limits or LimitsSpec())
        super().__init__(listener)
        self._peer = Peer("192.0.2.1", b"http")
        self.conversation = Conversation()

    def serve(self, x: Exchange) -> None:
        if x.stream is None:
            self._note(x, x.body, [])
            return
        x.stream.attach(Collector(lambda body, trailers: self._note(x, body, trailers)))

    def _note(self, x: Exchange, body: bytes, trailers: Headers) -> None:
        headers = tuple(pair for pair in x.headers if pair[0] != b"x-request-id")
        self.conversation.requests.append(Request(x.method, x.target, x.authority, body, tuple(trailers), headers))
        self._x = None
        if not self._keep:
            self._closing = True
            self._buffer = b""

    def data_received(self, data: bytes) -> None:
        super().data_received(data)
        while self._x is None and self._buffer and not self._closing:
            before = self._buffer
            self._advance()
            if self._buffer == before:
                break

    def answer(self, x: Exchange) -> None:
        self._closing = True

    def reject(self, error: Invalid) -> None:
        self._turn_away(error)

    def break_request(self, error: Invalid) -> None:
        self.conversation.broken = True
        self._turn_away(error)

    def _turn_away(self, error: Invalid) -> None:
        self.conversation.status, self.conversation.reason = error.status, str(error)
        self._incoming = None
        self._closing = True
        self._buffer = b""

    def expire(self, now: float) -> None:
        """The tests of this package have no clock."""

    def drain(self) -> None:
        """Nor an end."""

    def interim(self, status: int, lines: bytes) -> None:
        """Nor an upstream."""

    def result(self) -> Conversation:
        self.conversation.rest = self._buffer
        self.conversation.is_open = self._incoming is not None
        return self.conversation


def read(pieces: bytes | Iterable[bytes], limits: LimitsSpec | None = None) -> Conversation:
    """What becomes of these bytes, which arrive as these pieces."""
    reader = Reader(limits)
    for piece in (pieces,) if isinstance(pieces, bytes) else pieces:
        if piece:
            reader.data_received(piece)
    return reader.result()


def halves(data: bytes) -> Iterable[tuple[bytes, bytes]]:
    """The data cut in two, at every index."""
    return ((data[:index], data[index:]) for index in range(1, len(data)))


def dribble(data: bytes) -> list[bytes]:
    """A byte at a time."""
    return [data[index : index + 1] for index in range(len(data))]
