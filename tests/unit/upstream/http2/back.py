"""Endpoint without sockets that speaks HTTP/2: its servers are sessions that the test plays, in virtual time.

back = StreamBack()
upstream = back.upstream()
run = start(upstream, get())
await settle()
(stream,) = back.server.asked
back.server.answer(stream, b"hi")
await settle()
assert outcome_of(run).body == b"hi"
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from typing import Any

from sidecar.core.stage import Gate
from sidecar.http2.heads import Head
from sidecar.http2.limits import Limits
from sidecar.http2.session import Session
from sidecar.http2.stream import Stream
from sidecar.upstream.client import Upstream
from sidecar.upstream.endpoint import Endpoint
from sidecar.upstream.http2.connection import MultiplexedConnection
from sidecar.upstream.http2.pool import StreamPool
from sidecar.upstream.spec import UpstreamSpec
from tests.support.loop import virtual_env
from tests.support.service import Store
from tests.support.transports import TransportPair, Wire


class Tls:
    """Result of a TLS handshake, as a transport reports it."""

    def __init__(self, selected: str | None) -> None:
        self._selected = selected

    def selected_alpn_protocol(self) -> str | None:
        return self._selected


class Http2Server(Wire):
    """Server's end of one connection."""

    pair: TransportPair

    def __init__(self, limits: Limits) -> None:
        super().__init__()
        self.session = Session(self, limits, False)
        self.asked: list[Stream] = []
        """Streams in the order in which their requests came."""
        self.heads: dict[int, Head] = {}
        self.bodies: dict[int, bytes] = {}
        self.ended: set[int] = set()
        self.trailers: dict[int, bytes] = {}
        self.marks: dict[int, frozenset[bytes]] = {}
        """Names in those trailers that came as never indexed."""
        self.resets: list[tuple[int, int]] = []
        self.pongs: list[bytes] = []
        self.is_deaf = False
        """True if what arrives is ignored, as if it had been lost on the way."""
        self.is_corked = False
        """True if nothing is written until `flush`."""

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        super().connection_made(transport)
        self.flush()

    def data_received(self, data: bytes) -> None:
        super().data_received(data)
        if not self.is_deaf:
            self.session.receive(data, 0.0)
            self.flush()

    def flush(self) -> None:
        if self.is_corked:
            return
        sent = b""
        while data := self.session.take_output():
            sent += data
        if sent:
            self.transport.write(sent)

    # ----- what the test says

    def answer(
        self, stream: Stream, body: bytes = b"", status: int = 200, lines: bytes = b"", end: bool = True
    ) -> None:
        self.session.respond(stream, status, lines, end and not body)
        if body:
            self.session.send(stream, body, end)
        self.flush()

    def send(self, stream: Stream, body: bytes, end: bool = False) -> None:
        self.session.send(stream, body, end)
        self.flush()

    def trail(self, stream: Stream, lines: bytes, marks: frozenset[bytes] = frozenset()) -> None:
        self.session.send_trailers(stream, lines, marks)
        self.flush()

    def reset(self, stream: Stream, code: int) -> None:
        self.session.reset(stream, code)
        self.flush()

    def say(self, *frames: bytes) -> None:
        """Write frames beside the session."""
        self.transport.write(b"".join(frames))

    # ----- handler of the session

    def on_head(self, stream: Stream, head: Head, is_end: bool) -> None:
        self.asked.append(stream)
        self.heads[stream.id] = head
        self.bodies[stream.id] = b""
        if is_end:
            self.ended.add(stream.id)

    def on_interim(self, stream: Stream, head: Head) -> None: ...

    def on_data(self, stream: Stream, data: bytes, is_end: bool) -> None:
        self.bodies[stream.id] += data
        if is_end:
            self.ended.add(stream.id)

    def on_trailers(self, stream: Stream, head: Head) -> None:
        self.trailers[stream.id] = head.lines
        self.marks[stream.id] = head.sensitive
        self.ended.add(stream.id)

    def on_reset(self, stream: Stream, code: int, text: str) -> None:
        self.resets.append((stream.id, code))

    def on_writable(self, stream: Stream) -> None: ...

    def on_goaway(self, last: int, code: int) -> None: ...

    def on_pong(self, payload: bytes) -> None:
        self.pongs.append(payload)


class StreamBack:
    """Upstream of one endpoint, and the servers behind it."""

    def __init__(self, limits: Limits | None = None, url: str = "http://test:80", **spec: Any) -> None:
        self.env = virtual_env()
        self.limits = limits or Limits(frame_burst=1e9, reset_burst=1e9)
        self.servers: list[Http2Server] = []
        self.plain: list[Wire] = []
        """Servers of connections that were opened for HTTP/1.1, or on which it was selected."""
        self.connecting: Callable[[], Any] | None = None
        """Function whose result is awaited before each connection is made; None: connect at once."""
        self.selected: str | None = "h2"
        """Protocol that a server of TLS selects."""
        self.extra: dict[str, Any] = {}
        facts: dict[str, Any] = {"protocol": "auto" if url.startswith("https") else "http2", **spec}
        self.spec = UpstreamSpec.model_validate({"endpoints": [url], **facts})
        self.url = url

    def upstream(self, gate: Callable[[Endpoint], Gate] | None = None) -> Upstream:
        """Return an upstream whose one endpoint is connected here."""
        upstream = Upstream("test", self.spec, self.env, Store().obtain, endpoint_gate=gate)
        pool = upstream.pools.of(upstream.endpoints.members[0])
        assert isinstance(pool, StreamPool)
        self.pool = pool
        pool.connect = self.connect
        pool._connect_plain = self.connect_plain if pool._connect_plain is not None else None
        return upstream

    async def connect(self, protocol: Callable[[], asyncio.BaseProtocol]) -> None:
        if self.connecting is not None:
            await self.connecting()
        if self.url.startswith("https"):
            self.extra = {"ssl_object": Tls(self.selected)}
            if self.selected != "h2":
                self.plain.append(Wire())
                TransportPair(protocol(), self.plain[-1], self.extra)
                return
        server = Http2Server(self.limits)
        self.servers.append(server)
        server.pair = TransportPair(protocol(), server, self.extra)

    async def connect_plain(self, protocol: Callable[[], asyncio.BaseProtocol]) -> None:
        self.plain.append(Wire())
        TransportPair(protocol(), self.plain[-1], {"ssl_object": Tls("http/1.1")})

    @property
    def server(self) -> Http2Server:
        """Return the server of the newest connection."""
        return self.servers[-1]

    @property
    def connection(self) -> MultiplexedConnection:
        (connection,) = self.pool.carriers
        return connection

    @property
    def asked(self) -> list[Stream]:
        return [stream for server in self.servers for stream in server.asked]
