"""Client of HTTP/2 for a `Proxy` in memory, and the service behind it that speaks HTTP/2.

proxy = StreamProxy(POLICIES)
call = proxy.client.ask(b"POST", CALL, MESSAGE)
(asked,) = await proxy.asked(1)
asked.answer(b"reply", trailers=b"grpc-status: 0\\r\\n")
assert (await call.end()).trailers == b"grpc-status: 0\\r\\n"
"""

from __future__ import annotations

import asyncio
from typing import Any

from sidecar.downstream.connection import DownstreamConnection
from sidecar.http2.heads import Head
from sidecar.http2.limits import Limits
from sidecar.http2.session import Session
from sidecar.http2.stream import Stream
from sidecar.simulation.transport import Address, join
from tests.support.loop import settle
from tests.support.proxy import Proxy, Service
from tests.support.transports import Wire

ANY_RATE = Limits(frame_burst=1e9, reset_burst=1e9, allows_connect=True)
TURNS = 200
"""Turns of the loop that an event may take; each is a millisecond of virtual time."""
CALL = b"content-type: application/grpc\r\nte: trailers\r\n"
MESSAGE = b"\x00\x00\x00\x00\x02hi"


class Exchanged:
    """Both directions of one stream, as one of its ends sees it."""

    def __init__(self, end: StreamEnd, stream: Stream) -> None:
        self._end = end
        self.stream = stream
        self.head: Head | None = None
        self.body = b""
        self.trailers = b""
        self.marks: frozenset[bytes] = frozenset()
        """Names of the trailers that came as never indexed."""
        self.is_whole = False
        self.code: int | None = None
        """Error code of a reset; None without one."""

    @property
    def lines(self) -> bytes:
        """Field lines of the other side's head."""
        assert self.head is not None, "no head has come"
        return self.head.lines

    async def end(self) -> Exchanged:
        """Wait until the other side has ended the stream, well or not."""
        return await until(lambda: self if self.is_whole or self.code is not None else None)

    async def begin(self) -> Exchanged:
        """Wait for the other side's head."""
        return await until(lambda: self if self.head is not None or self.code is not None else None)

    def answer(
        self,
        body: bytes = b"",
        trailers: bytes = b"",
        status: int = 200,
        lines: bytes = b"content-type: application/grpc\r\n",
        marks: frozenset[bytes] = frozenset(),
    ) -> None:
        """Send a whole answer in one write; `marks` are names of fields and trailers that go as never indexed."""
        session = self._end.session
        session.respond(self.stream, status, lines, not body and not trailers, marks)
        if body:
            session.send(self.stream, body, not trailers)
        if trailers:
            session.send_trailers(self.stream, trailers, marks)
        self._end.flush()

    def respond(
        self, lines: bytes = b"content-type: application/grpc\r\n", marks: frozenset[bytes] = frozenset()
    ) -> None:
        """Send the head of an answer."""
        self._end.session.respond(self.stream, 200, lines, False, marks)
        self._end.flush()

    def send(self, body: bytes, *, is_end: bool = False) -> None:
        self._end.session.send(self.stream, body, is_end)
        self._end.flush()

    def trail(self, lines: bytes, marks: frozenset[bytes] = frozenset()) -> None:
        self._end.session.send_trailers(self.stream, lines, marks)
        self._end.flush()

    def reset(self, code: int) -> None:
        self._end.session.reset(self.stream, code)
        self._end.flush()


class StreamEnd(Wire):
    """One end of a connection of HTTP/2."""

    def __init__(self, *, is_client: bool) -> None:
        super().__init__()
        self.session = Session(self, ANY_RATE, is_client)
        self.streams: dict[int, Exchanged] = {}

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        super().connection_made(transport)
        self.flush()

    def connection_lost(self, exc: Exception | None) -> None:
        super().connection_lost(exc)
        self.session.detach()
        if self.session.is_client:
            self.streams.clear()

    def data_received(self, data: bytes) -> None:
        self.session.receive(data, 0.0)
        self.flush()

    def flush(self) -> None:
        while data := self.session.take_output():
            self.transport.write(data)

    def ask(self, method: bytes, lines: bytes, body: bytes = b"", path: bytes = b"/", end: bool = True) -> Exchanged:
        """Open a stream with a request."""
        stream = self.session.open(method, b"http", b"a.test", path, lines, end and not body)
        if body:
            self.session.send(stream, body, end)
        self.streams[stream.id] = found = Exchanged(self, stream)
        self.flush()
        return found

    def open_socket(self, path: bytes, lines: bytes) -> Exchanged:
        """Open a stream for a WebSocket (RFC 8441)."""
        stream = self.session.open(b"CONNECT", b"http", b"a.test", path, lines, False, protocol=b"websocket")
        self.streams[stream.id] = found = Exchanged(self, stream)
        self.flush()
        return found

    # ----- handler of the session

    def on_head(self, stream: Stream, head: Head, is_end: bool) -> None:
        found = self.streams.setdefault(stream.id, Exchanged(self, stream))
        found.head, found.is_whole = head, is_end

    def on_data(self, stream: Stream, data: bytes, is_end: bool) -> None:
        found = self.streams[stream.id]
        found.body += data
        found.is_whole = is_end

    def on_trailers(self, stream: Stream, head: Head) -> None:
        found = self.streams[stream.id]
        found.trailers, found.marks, found.is_whole = head.lines, head.sensitive, True

    def on_reset(self, stream: Stream, code: int, text: str) -> None:
        self.streams[stream.id].code = code

    def on_interim(self, stream: Stream, head: Head) -> None: ...
    def on_writable(self, stream: Stream) -> None: ...
    def on_goaway(self, last: int, code: int) -> None: ...
    def on_pong(self, payload: bytes) -> None: ...


class StreamService(Service):
    """Server behind the proxy that speaks HTTP/2; the test answers."""

    def __init__(self) -> None:
        super().__init__()
        self.ends: list[StreamEnd] = []

    async def accept(self, _: Address) -> asyncio.BaseProtocol:
        self.ends.append(end := StreamEnd(is_client=False))
        return end

    @property
    def asked(self) -> list[Exchanged]:
        """Requests so far, in the order of their connections."""
        return [each for end in self.ends for each in end.streams.values()]


class StreamProxy:
    """Proxy with a client and a service of HTTP/2."""

    def __init__(self, policies: str) -> None:
        self.service = StreamService()
        self.proxy = Proxy(policies, self.service)
        self.client = self.connect()

    def connect(self) -> StreamEnd:
        end = StreamEnd(is_client=True)
        join(self.proxy.loop, end, DownstreamConnection(self.proxy.listener))
        return end

    async def asked(self, number: int) -> list[Exchanged]:
        """Wait until the service has had a number of requests, and return them."""
        return await until(lambda: found if len(found := self.service.asked) >= number else None)


async def until(look: Any) -> Any:
    """Wait until `look` returns something else than None, and return it."""
    for _ in range(TURNS):
        await settle()
        if (found := look()) is not None:
            return found
        await asyncio.sleep(0.001)
    raise AssertionError("nothing happened")
