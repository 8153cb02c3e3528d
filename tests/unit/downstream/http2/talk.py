"""Clients of HTTP/2 over a connection in memory, to a listener whose routes are the test's."""

from __future__ import annotations

from typing import Any

from sidecar.core.outcome import Outcome
from sidecar.downstream.http2.connection import Http2Connection
from sidecar.http2 import frames as f
from sidecar.http2.limits import Limits
from sidecar.http2.session import Session
from sidecar.http2.stream import Stream
from tests.support.loop import settle
from tests.unit.downstream.front import Front, Service, always
from tests.unit.http2.peer import Frame, Recorder, split

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


class Frames:
    """A client that writes frames as a test makes them, past the exchange of settings, and reads what comes back."""

    def __init__(
        self,
        service: Service = ECHO,
        limits: dict[str, Any] | None = None,
        slow_clients: dict[str, Any] | None = None,
        settings: bytes | None = None,
        is_acknowledged: bool = True,
        **listener: Any,
    ) -> None:
        """With `is_acknowledged` False, the client never acknowledges the settings of the listener."""
        self.front = Front(service, limits, slow_clients=slow_clients, listener=listener)
        self.client = self.front.connect()
        first = f.PREFACE + (f.settings([]) if settings is None else settings)
        self.client.write(first + f.SETTINGS_ACK if is_acknowledged else first)
        self.got: list[Frame] = []
        """All frames received so far."""
        self._read = 0

    async def feed(self, *data: bytes) -> list[Frame]:
        """Write bytes, each argument in a piece of its own, and return the frames that came since the last call."""
        for piece in data:
            self.client.write(piece)
        await settle()
        received = bytes(self.client.received[self._read :])
        whole = end_of_frames(received)
        self._read += whole
        frames = split(received[:whole])
        self.got += frames
        return frames

    def data(self, number: int) -> bytes:
        """Return the content received on a stream."""
        return b"".join(frame.payload for frame in self.got if (frame.kind, frame.stream) == (f.DATA, number))

    def codes(self, kind: int) -> list[int]:
        """Return the error codes of all frames of a kind, RST_STREAM or GOAWAY."""
        return [frame.code for frame in self.got if frame.kind == kind]

    @property
    def connection(self) -> Http2Connection:
        (connection,) = self.front.listener.connections
        assert isinstance(connection, Http2Connection)
        return connection


def end_of_frames(data: bytes) -> int:
    """Return the position after the last whole frame."""
    at = 0
    while len(data) >= at + 9 and len(data) >= at + 9 + int.from_bytes(data[at : at + 3], "big"):
        at += 9 + int.from_bytes(data[at : at + 3], "big")
    return at
