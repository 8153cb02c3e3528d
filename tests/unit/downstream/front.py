"""Listener without sockets, on a loop of virtual time: clients connect in memory, and a service of the test answers.

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

from chaos.parts.http import Message, read_response
from sidecar.config.process_spec import LimitsSpec, ListenerSpec
from sidecar.core.body import Body
from sidecar.core.exchange import Exchange
from sidecar.core.message import Headers
from sidecar.core.outcome import Failure, Outcome
from sidecar.downstream.listener import Listener
from sidecar.downstream.server import Server
from sidecar.upstream.slow_places import SlowPlaces
from tests.support.loop import settle, virtual_env
from tests.support.routes import one_route
from tests.support.transports import TransportPair, Wire
from tests.unit.downstream.phases import WatchedConnection

Service = Callable[[Exchange], Coroutine[Any, Any, Outcome]]

GET = b"GET / HTTP/1.1\r\nHost: a\r\n\r\n"
CLOSE = b"GET / HTTP/1.1\r\nHost: a\r\nConnection: close\r\n\r\n"


HANDSHAKE = (
    b"GET / HTTP/1.1\r\nHost: a\r\nConnection: Upgrade\r\nUpgrade: websocket\r\n"
    b"Sec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\n\r\n"
)


def post(body: bytes, *lines: bytes, sent: int | None = None) -> bytes:
    """Return a POST with the first `sent` bytes of its body, all of them if None."""
    head = b"\r\n".join([b"POST / HTTP/1.1", b"Host: a", b"Content-Length: %d" % len(body), *lines])
    return head + b"\r\n\r\n" + body[:sent]


class Client(Wire):
    """Client's end of a connection."""

    transport: Any
    connection: WatchedConnection
    pair: TransportPair

    def __init__(self) -> None:
        super().__init__()
        self._read = 0

    async def answer(self, method: str = "GET") -> Message:
        """Return the next response, which must have arrived whole."""
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
        """Return the bytes that were not read as a response."""
        return bytes(self.received[self._read :])

    @property
    def is_closed(self) -> bool:
        return self.is_eof or self.is_lost


class Record(NamedTuple):
    """Record of one exchange."""

    method: bytes
    status: int
    reason: str
    seconds: float
    verdict: int = 0


class Front:
    """Listener, its server, and what they have recorded."""

    def __init__(
        self,
        service: Service,
        limits: dict[str, Any] | None = None,
        *,
        slow_clients: dict[str, Any] | None = None,
        name: str = "test",
        listener: dict[str, Any] | None = None,
    ) -> None:
        """`listener` adds to the spec of the listener `name`."""
        self.env = virtual_env()
        self.records: list[Record] = []
        untraced: Any = SimpleNamespace(begin=None, use=lambda *_: None)
        self.server = Server(self.env, self._record, untraced)
        self.server.limits = LimitsSpec.model_validate(limits or {})
        spec = ListenerSpec.model_validate(
            {"address": "127.0.0.1:0", "slow_clients": slow_clients or {}, **(listener or {})}
        )
        self.listener = Listener(name, spec, self.server)
        self.server.listeners[name] = self.listener
        self.places = SlowPlaces((1.0, 4))
        self.route = one_route(service, self.places)
        self.listener.match = lambda x: self.route  # type: ignore[assignment,return-value]
        self.server.start()

    def _record(self, x: Exchange, outcome: Outcome, reason: str, seconds: float) -> None:
        self.records.append(Record(x.method, outcome.status, reason, seconds, outcome.verdict))

    def connect(self, **extra: Any) -> Client:
        """Return a client that has connected."""
        client = Client()
        client.connection = WatchedConnection(self.listener)
        client.pair = TransportPair(client, client.connection, extra=extra)
        return client

    @property
    def bugs(self) -> list[dict[str, Any]]:
        return self.env.emitted("bug")

    @property
    def is_empty(self) -> bool:
        """True if every count of connections is 0 and nothing is buffered for one."""
        return not (self.listener.connections or self.server.open_connections or self.listener.slow.buffered)


class Source:
    """Source of a response's body, which records its calls."""

    def __init__(self) -> None:
        self.said: list[str] = []

    def pause_body(self) -> None:
        self.said.append("pause")

    def resume_body(self) -> None:
        self.said.append("resume")

    def cancel_body(self) -> None:
        self.said.append("cancel")


class Taken:
    """Sink of a request's body, which keeps all bytes."""

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


class Upgraded:
    """Upstream connection after its 101, with a wire at the other end."""

    def __init__(self, early: bytes = b"") -> None:
        """`early` has arrived with the 101."""
        self.server = Wire()
        self.pair = TransportPair(asyncio.Protocol(), self.server)
        self.early = early
        self.closed = 0
        self.is_lost = False

    def take_over(self, protocol: asyncio.Protocol) -> tuple[asyncio.Transport, bytes] | None:
        if self.is_lost:
            return None
        self.pair.left.set_protocol(protocol)
        return self.pair.left, self.early

    def close(self) -> None:
        self.closed += 1
        self.pair.left.close()


def streamed(length: int | None = None, status: int = 200) -> tuple[Outcome, Body, Source]:
    """Return an answer whose body is still coming, that body, and its source."""
    source = Source()
    body = Body(source, length)
    return Outcome(status, [(b"x", b"y")], stream=body), body, source


def always(outcome: Outcome | Callable[[Exchange], Outcome]) -> Service:
    """Return a service that answers at once."""

    async def service(x: Exchange) -> Outcome:
        return outcome(x) if callable(outcome) else outcome

    return service
