"""A listener without sockets: clients are joined to it in memory, on a loop of virtual time, and a service of the test
answers.

    front = Front(service)
    client = front.connect()
    client.write(GET)
    await settle()
    assert (await client.answer()).status == 200
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Coroutine
from types import SimpleNamespace
from typing import Any, NamedTuple

from sidecar.config.process_spec import LimitsSpec, ListenerSpec
from sidecar.core.body import Body
from sidecar.core.exchange import Exchange
from sidecar.core.message import Headers
from sidecar.core.outcome import Failure, Outcome
from sidecar.downstream.connection import Downstream
from sidecar.downstream.listener import Listener
from sidecar.downstream.server import Server
from tests.support.loop import settle, virtual_env
from tests.support.transports import TransportPair, Wire
from tests.support.wire import Message, read_response

Service = Callable[[Exchange], Coroutine[Any, Any, Outcome]]

GET = b"GET / HTTP/1.1\r\nHost: a\r\n\r\n"
CLOSE = b"GET / HTTP/1.1\r\nHost: a\r\nConnection: close\r\n\r\n"


def post(body: bytes, *lines: bytes, sent: int | None = None) -> bytes:
    """A POST, of which only so much of the body is sent."""
    head = b"\r\n".join([b"POST / HTTP/1.1", b"Host: a", b"Content-Length: %d" % len(body), *lines])
    return head + b"\r\n\r\n" + body[:sent]


class Client(Wire):
    """A client's end."""

    transport: Any
    connection: Downstream
    pair: TransportPair

    def __init__(self) -> None:
        super().__init__()
        self._read = 0

    async def answer(self, method: str = "GET") -> Message:
        """The next response that has arrived whole."""
        await settle()
        reader = asyncio.StreamReader()
        data = bytes(self.received[self._read :])
        reader.feed_data(data)
        reader.feed_eof()
        message = await read_response(reader, method)
        self._read = len(self.received) - len(reader._buffer)  # type: ignore[attr-defined]
        return message

    @property
    def rest(self) -> bytes:
        """What was not read as a response."""
        return bytes(self.received[self._read :])

    @property
    def is_closed(self) -> bool:
        return self.is_eof or self.is_lost


class Record(NamedTuple):
    """What was recorded of one exchange."""

    method: bytes
    status: int
    reason: str
    seconds: float


class Front:
    """The listener, its server and what they have recorded."""

    def __init__(self, service: Service, limits: dict[str, Any] | None = None, idle: float = float("inf")) -> None:
        self.env = virtual_env()
        self.records: list[Record] = []
        untraced: Any = SimpleNamespace(begin=None, use=lambda *_: None)
        self.server = Server(self.env, self._record, untraced)
        self.server.limits = LimitsSpec.model_validate(limits or {})
        spec = ListenerSpec.model_validate({"address": "127.0.0.1:0"})
        self.listener = Listener("test", spec, self.server)
        self.server.listeners["test"] = self.listener
        self.route = SimpleNamespace(name="all", criticality=1, service=service)
        self.listener.match = lambda x: self.route  # type: ignore[assignment,return-value]
        self.server.start()

    def _record(self, x: Exchange, outcome: Outcome, reason: str, seconds: float) -> None:
        self.records.append(Record(x.method, outcome.status, reason, seconds))

    def connect(self, **extra: Any) -> Client:
        """A client that has connected."""
        client = Client()
        client.connection = Downstream(self.listener)
        client.pair = TransportPair(client, client.connection, extra=extra)
        return client

    @property
    def bugs(self) -> list[dict[str, Any]]:
        return self.env.emitted("bug")

    @property
    def is_empty(self) -> bool:
        """Is no connection left, by any count?"""
        return not self.listener.connections and self.server.open_connections == 0


class Source:
    """Where a response's body comes from, in a test."""

    def __init__(self) -> None:
        self.said: list[str] = []

    def pause_body(self) -> None:
        self.said.append("pause")

    def resume_body(self) -> None:
        self.said.append("resume")

    def cancel_body(self) -> None:
        self.said.append("cancel")


class Taken:
    """The sink of a request's body, in a test."""

    def __init__(self) -> None:
        self.data = bytearray()
        self.trailers: Headers | None = None
        self.failure: Failure | None = None

    def write(self, data: bytes) -> None:
        self.data += data

    def finish(self, trailers: Headers) -> None:
        self.trailers = trailers

    def fail(self, failure: Failure) -> None:
        self.failure = failure


def streamed(length: int | None = None, status: int = 200) -> tuple[Outcome, Body, Source]:
    """An answer whose body is still coming."""
    source = Source()
    body = Body(source, length)
    return Outcome(status, [(b"x", b"y")], stream=body), body, source


def always(outcome: Outcome | Callable[[Exchange], Outcome]) -> Service:
    """A service that answers at once."""

    async def service(x: Exchange) -> Outcome:
        return outcome(x) if callable(outcome) else outcome

    return service
