"""Whole proxy in virtual time: policies in force, clients in memory before it, and a service of the test behind it.

proxy = Proxy(POLICIES, service := Service(after=0.02))
answer = await proxy.get({"x-request-timeout-ms": "5"})
assert (answer.status, proxy.breakers()) == (504, {"route:r": "closed"})
"""

from __future__ import annotations

import asyncio
import re
from functools import cache
from types import SimpleNamespace
from typing import Any

from chaos.parts.http import Message, read_response
from sidecar.config.files import Source
from sidecar.config.load import Loaded, load
from sidecar.control.compiler import Snapshot, compile_policies
from sidecar.control.state import StateStore
from sidecar.core.exchange import Exchange
from sidecar.core.outcome import Outcome
from sidecar.downstream.connection import DownstreamConnection
from sidecar.downstream.listener import Listener
from sidecar.downstream.server import Server
from sidecar.simulation.loop import VirtualLoop
from sidecar.simulation.no_telemetry import NoMetrics
from sidecar.simulation.transport import Address, join
from tests.support.loop import settle, virtual_env
from tests.support.transports import Wire

HANDSHAKE = (
    b"GET / HTTP/1.1\r\nHost: a\r\nConnection: Upgrade\r\nUpgrade: websocket\r\n"
    b"Sec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\n\r\n"
)
LENGTH = re.compile(rb"content-length: *(\d+)", re.I)


@cache
def load_once(policies: str) -> Loaded:
    """Return loaded policies, which are immutable and take longer than most tests."""
    return load([Source("policies.yaml", policies.encode())], {})


class Service:
    """Server behind the proxy, for requests with a Content-Length or none."""

    def __init__(self, answer: bytes = b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nhi", after: float = 0.0) -> None:
        self.answer = answer
        self.after = after
        """Seconds from the last byte of a request to its answer."""
        self.is_dead = False
        """True while the service accepts connections and answers nothing."""
        self.is_reading = True
        """False if the service reads only a request's head."""
        self.is_unreachable = False
        """True while connecting to the service hangs."""
        self.connections: list[ServiceConnection] = []
        self.requests = 0
        """Whole requests that have arrived."""

    async def accept(self, _: Address) -> asyncio.BaseProtocol:
        if self.is_unreachable:
            await asyncio.get_running_loop().create_future()
        connection = ServiceConnection(self)
        self.connections.append(connection)
        return connection


class ServiceConnection(Wire):
    """Connection of the proxy to the service."""

    def __init__(self, service: Service) -> None:
        super().__init__()
        self._service = service
        self._read = 0

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        super().connection_made(transport)
        self.transport.split = 64 * 1024

    def data_received(self, data: bytes) -> None:
        super().data_received(data)
        while (end := self.received.find(b"\r\n\r\n", self._read)) >= 0:
            if not self._service.is_reading:
                self.transport.pause_reading()
            length = LENGTH.search(self.received, self._read, end + 2)
            whole = end + 4 + (int(length[1]) if length else 0)
            if len(self.received) < whole:
                return
            self._read = whole
            self._service.requests += 1
            if not self._service.is_dead:
                asyncio.get_running_loop().call_later(self._service.after, self.write, self._service.answer)


class Client(Wire):
    """Connection of a client."""

    def __init__(self) -> None:
        super().__init__()
        self._read = 0

    async def answer(self, method: str = "GET") -> Message:
        """Wait for the next response, which must be whole within a minute."""
        for _ in range(60_000):
            data = bytes(self.received[self._read :])
            reader = asyncio.StreamReader()
            reader.feed_data(data)
            reader.feed_eof()
            try:
                message = await read_response(reader, method)
            except Exception:  # incomplete so far
                await asyncio.sleep(0.001)
                continue
            self._read = len(self.received) - len(reader._buffer)  # type: ignore[attr-defined]
            if message.status >= 200:
                return message
        raise AssertionError(f"no whole answer: {self.received[:200]!r}")


class Proxy:
    """Policies in force on the running virtual loop, one listener `inbound`, and one service for all upstreams."""

    def __init__(self, policies: str, service: Service) -> None:
        loop = asyncio.get_running_loop()
        assert isinstance(loop, VirtualLoop)
        self.loop = loop
        self.env = virtual_env()
        self.service = service
        self.records: list[tuple[Exchange, Outcome, str, float]] = []
        loop.network.accept = service.accept
        loaded = load_once(policies)
        assert loaded.spec is not None, "\n".join(map(str, loaded.problems))
        self.store = StateStore()
        lease = self.store.lease()
        self.snapshot: Snapshot = compile_policies(loaded.spec, self.env, lease, metrics=lambda _: NoMetrics())
        self.store.commit(lease)
        telemetry: Any = SimpleNamespace(begin=None, use=lambda *_: None)
        self.server = Server(self.env, lambda *record: self.records.append(record), telemetry)
        self.server.limits = loaded.spec.limits
        self.listener = Listener("inbound", loaded.spec.listeners["inbound"], self.server)
        self.server.listeners["inbound"] = self.listener
        self.listener.use(self.snapshot)
        self.server.start()

    def connect(self) -> Client:
        client = Client()
        join(self.loop, client, DownstreamConnection(self.listener))
        return client

    def send(
        self, fields: dict[str, str] | None = None, method: str = "GET", body: bytes = b"", path: str = "/"
    ) -> Client:
        """Send one request on a connection of its own."""
        client = self.connect()
        lines = "".join(f"{name}: {value}\r\n" for name, value in (fields or {}).items())
        client.write(f"{method} {path} HTTP/1.1\r\nHost: a\r\n{lines}\r\n".encode() + body)
        return client

    async def get(self, fields: dict[str, str] | None = None, path: str = "/") -> Message:
        """Send a GET and wait for its answer."""
        client = self.send(fields, path=path)
        try:
            return await client.answer()
        finally:
            client.transport.close()
            await settle()

    def state(self, kind: str) -> dict[str, Any]:
        """Return the descriptions of all state of a kind, such as `breaker`, by key."""
        return {":".join(key[1:]): item.describe() for key, item in self.store.objects().items() if key[0] == kind}

    def breakers(self) -> dict[str, str]:
        return {name: described["state"] for name, described in self.state("breaker").items()}

    @property
    def bugs(self) -> list[dict[str, Any]]:
        return self.env.emitted("bug")
