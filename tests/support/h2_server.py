"""Server of HTTP/2 on the `h2` library, which answers and misbehaves as a test says.

    async with H2Server(echo) as server:
        ...  # server.url, server.connections

A behaviour is a function of the connection and of the request, called once the request is whole.  Nothing that it sends
is checked, so that it may be wrong.
"""

from __future__ import annotations

import asyncio
import json
import ssl
from collections.abc import Callable
from dataclasses import dataclass, field

from h2.config import H2Configuration
from h2.connection import H2Connection
from h2.errors import ErrorCodes
from h2.events import (
    DataReceived,
    RemoteSettingsChanged,
    RequestReceived,
    StreamEnded,
    StreamReset,
    TrailersReceived,
    WindowUpdated,
)
from h2.exceptions import ProtocolError
from h2.settings import SettingCodes, Settings

Fields = list[tuple[bytes, bytes]]
OK = [(b":status", b"200")]


@dataclass
class Request:
    """Request on a stream."""

    stream: int
    fields: Fields
    body: bytearray = field(default_factory=bytearray)
    trailers: Fields = field(default_factory=list)

    def get(self, name: bytes) -> bytes:
        return dict(self.fields).get(name, b"")

    @property
    def is_connect(self) -> bool:
        """True for an extended CONNECT, whose bytes are sent back."""
        return self.get(b":protocol") == b"websocket"

    @property
    def path(self) -> str:
        return self.get(b":path").decode()


class Connection(asyncio.Protocol):
    """One connection of a client."""

    def __init__(self, server: H2Server) -> None:
        self.server = server
        config = H2Configuration(
            client_side=False,
            header_encoding=None,
            validate_outbound_headers=False,
            normalize_outbound_headers=False,
        )
        self.h2 = H2Connection(config)
        self.transport: asyncio.Transport
        self.requests: dict[int, Request] = {}
        self.pending: dict[int, tuple[bytes, bool]] = {}
        self.resets: list[tuple[int, int]] = []
        self.answered = 0
        self.is_lost = False

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        assert isinstance(transport, asyncio.Transport)
        self.transport = transport
        self.server.connections.append(self)
        values = {
            **self.h2.local_settings,
            SettingCodes.MAX_CONCURRENT_STREAMS: self.server.max_streams,
            SettingCodes.ENABLE_CONNECT_PROTOCOL: int(self.server.has_sockets),
        }
        self.h2.local_settings = Settings(client=False, initial_values=values)
        self.h2.initiate_connection()
        self.flush()

    def connection_lost(self, exc: Exception | None) -> None:
        self.is_lost = True

    def data_received(self, data: bytes) -> None:
        try:
            events = self.h2.receive_data(data)
        except ProtocolError:
            self.server.errors += 1
            self.flush()
            self.transport.close()
            return
        for event in events:
            if isinstance(event, RequestReceived):
                self.requests[event.stream_id] = request = Request(event.stream_id, list(event.headers))
                if request.is_connect:
                    self.answer(request, end=False)
            elif isinstance(event, DataReceived):
                self.requests[event.stream_id].body += event.data
                self.h2.acknowledge_received_data(event.flow_controlled_length, event.stream_id)
                if self.requests[event.stream_id].is_connect:
                    self.send(self.requests[event.stream_id], event.data)
            elif isinstance(event, TrailersReceived):
                self.requests[event.stream_id].trailers = list(event.headers)
            elif isinstance(event, StreamEnded):
                if self.requests[event.stream_id].is_connect:
                    self.send(self.requests[event.stream_id], b"", True)
                    continue
                self.answered += 1
                self.server.behave(self, self.requests[event.stream_id])
            elif isinstance(event, StreamReset):
                self.resets.append((event.stream_id, event.error_code))
                self.pending.pop(event.stream_id, None)
            elif isinstance(event, (WindowUpdated, RemoteSettingsChanged)):
                for stream in list(self.pending):
                    self._send_pending(stream)
        self.flush()

    def flush(self) -> None:
        if not self.is_lost:
            self.transport.write(self.h2.data_to_send())

    # ----- what behaviours call

    def answer(self, request: Request, body: bytes = b"", fields: Fields | None = None, end: bool = True) -> None:
        self.h2.send_headers(request.stream, [*OK, *(fields or [])], end_stream=end and not body)
        if body:
            self.send(request, body, end)

    def send(self, request: Request, body: bytes, end: bool = False) -> None:
        self.pending[request.stream] = (body, end)
        self._send_pending(request.stream)

    def _send_pending(self, stream: int) -> None:
        body, end = self.pending.pop(stream)
        if end and not body:
            self.h2.end_stream(stream)
        while body:
            size = min(self.h2.local_flow_control_window(stream), self.h2.max_outbound_frame_size, len(body))
            if size <= 0:
                self.pending[stream] = (body, end)
                return
            self.h2.send_data(stream, body[:size], end_stream=end and size == len(body))
            body = body[size:]

    def trail(self, request: Request, fields: Fields) -> None:
        self.h2.send_headers(request.stream, fields, end_stream=True)

    def reset(self, request: Request, code: ErrorCodes) -> None:
        self.h2.reset_stream(request.stream, code)

    def go_away(self, last: int) -> None:
        """Send a GOAWAY beside the library, which would take no frames after its own."""
        self.flush()
        payload = last.to_bytes(4, "big") + bytes(4)
        self.transport.write(len(payload).to_bytes(3, "big") + b"\x07\x00\x00\x00\x00\x00" + payload)


Behaviour = Callable[[Connection, Request], None]


class H2Server:
    """Server on a free port of the loopback interface."""

    def __init__(
        self,
        behave: Behaviour,
        tls: ssl.SSLContext | None = None,
        max_streams: int = 100,
        has_sockets: bool = False,
    ) -> None:
        """`has_sockets` is True if an extended CONNECT is served."""
        self.behave = behave
        self.has_sockets = has_sockets
        self.max_streams = max_streams
        self.connections: list[Connection] = []
        self.errors = 0
        """Connections whose client has broken the protocol."""
        self._tls = tls
        self._server: asyncio.Server

    async def __aenter__(self) -> H2Server:
        loop = asyncio.get_running_loop()
        self._server = await loop.create_server(lambda: Connection(self), "127.0.0.1", 0, ssl=self._tls)
        self.port: int = self._server.sockets[0].getsockname()[1]
        self.url = f"http://127.0.0.1:{self.port}" if self._tls is None else f"https://localhost:{self.port}"
        return self

    async def __aexit__(self, *_: object) -> None:
        for connection in self.connections:
            connection.transport.abort()
        self._server.close()
        await self._server.wait_closed()


def echo(connection: Connection, request: Request) -> None:
    """Answer with the facts of the request, as JSON."""
    facts = {
        "fields": [(name.decode("latin-1"), value.decode("latin-1")) for name, value in request.fields],
        "body": request.body.decode("latin-1"),
        "trailers": [(name.decode("latin-1"), value.decode("latin-1")) for name, value in request.trailers],
        "connection": connection.server.connections.index(connection),
    }
    connection.answer(request, json.dumps(facts).encode(), [(b"content-type", b"application/json")])
