"""A client's session over a connection in memory, to a listener whose routes are the test's."""

from __future__ import annotations

from typing import Any

from sidecar.core.outcome import Outcome
from sidecar.downstream.http2.connection import Http2Connection
from sidecar.http2.limits import Limits
from sidecar.http2.session import Session
from sidecar.http2.stream import Stream
from tests.support.loop import settle
from tests.unit.downstream.front import Front, Service, always
from tests.unit.http2.peer import Recorder

ECHO = always(lambda x: Outcome(200, [(b"x-target", x.target)], b"hello " + x.body))


class Talk:
    """A client's session over a connection in memory."""

    def __init__(
        self,
        service: Service,
        limits: dict[str, Any] | None = None,
        slow_clients: dict[str, Any] | None = None,
        **listener: Any,
    ) -> None:
        self.front = Front(service, limits, slow_clients=slow_clients, listener=listener)
        self.client = self.front.connect()
        self.handler = Recorder()
        self.session = Session(self.handler, Limits(frame_burst=1e9), True)
        self._read = 0

    async def exchange(self) -> None:
        """Let both sides say what they have to say."""
        for _ in range(20):
            while sent := self.session.take_output():
                self.client.write(sent)
            await settle()
            data = bytes(self.client.received[self._read :])
            self._read += len(data)
            self.session.receive(data, 0.0)

    def open(self, method: bytes = b"GET", path: bytes = b"/", lines: bytes = b"", end: bool = True) -> Stream:
        return self.session.open(method, b"http", b"a.test", path, lines, end)

    async def ask(self, method: bytes = b"GET", path: bytes = b"/", lines: bytes = b"", body: bytes = b"") -> Stream:
        stream = self.open(method, path, lines, end=not body)
        if body:
            self.session.send(stream, body, True)
        await self.exchange()
        return stream

    def of(self, stream: Stream, kind: str) -> list[tuple]:
        return [event for event in self.handler.events if event[:2] == (kind, stream.id)]

    def status(self, stream: Stream) -> int:
        ((_, _, head, _),) = self.of(stream, "head")
        return head.status

    def fields(self, stream: Stream) -> bytes:
        ((_, _, head, _),) = self.of(stream, "head")
        return head.lines

    def body(self, stream: Stream) -> bytes:
        return b"".join(event[2] for event in self.of(stream, "data"))

    @property
    def connection(self) -> Http2Connection:
        (connection,) = self.front.listener.connections
        assert isinstance(connection, Http2Connection)
        return connection
