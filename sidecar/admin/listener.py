"""The admin listener: its sockets, its probes, and the web application that answers everything else.

Rules:

1. A probe costs little and depends on little.  `GET /livez` and `GET /readyz` are answered here, and their connection
   is closed: a kubelet opens one for each.
2. aiohttp is loaded by the first request of another kind, in a thread, so that neither the start nor the requests of
   the service wait for it.  The connection waits, and is then handed to aiohttp with all that it has sent.
3. Only a complete and plain probe is answered here.  Whatever differs from one (a body, another method, an odd field)
   is aiohttp's to judge.
"""

from __future__ import annotations

import asyncio
import re
from http import HTTPStatus
from typing import TYPE_CHECKING, Final, cast

from sidecar.admin.answers import HEADERS, Answer, probe, problem
from sidecar.admin.live import Feed
from sidecar.admin.view import AdminView
from sidecar.config.process_spec import AdminSpec, reveal
from sidecar.core.env import Handle
from sidecar.core.events import BUG
from sidecar.core.message import write_http_date
from sidecar.core.metrics import BUGS
from sidecar.downstream.sockets import BACKLOG, Sockets

if TYPE_CHECKING:
    from aiohttp import web

    from sidecar.admin.app import Admin

IDLE_SECONDS: Final = 75.0
"""A connection that has not sent a whole request head after so long is closed."""
MAX_PROBE_BYTES: Final = 8192
"""A longer head is aiohttp's to judge."""

_STARTS: Final = tuple(
    b"%b %b HTTP/1.%b\r\n" % (method, path, minor)
    for method in (b"GET", b"HEAD")
    for path in (b"/livez", b"/readyz")
    for minor in (b"0", b"1")
)
_FIELD: Final = (
    rb"(?!(?i:content-length|transfer-encoding|expect|upgrade):)[0-9A-Za-z!#$%&'*+.^_`|~-]+:[\t -~\x80-\xff]*\r\n"
)
_PROBE: Final = re.compile(rb"(GET|HEAD) (/livez|/readyz) HTTP/1\.[01]\r\n(?:" + _FIELD + rb")*\r\n")


class AdminListener:
    """Listens for probes, scrapers, people and `sidecar top`."""

    def __init__(self, view: AdminView) -> None:
        self.feed = Feed(view)
        self.addresses: list[str] = []
        """Where it can be reached, such as `127.0.0.1:9901`."""
        self._view = view
        self._token: str | None = None
        self._sockets: Sockets | None = None
        self._servers: list[asyncio.Server] = []
        self._connections: set[ProbeConnection] = set()
        self._waiting: list[ProbeConnection] = []
        """Connections that need the application while it is being loaded."""
        self._loading: asyncio.Task[None] | None = None
        self._runner: web.AppRunner | None = None

    async def open(self, spec: AdminSpec) -> None:
        """Listen where `spec` says.  Raises `OSError`, whose text says what would help."""
        if spec.token is not None:
            self._token = reveal(spec.token)
            self._view.secrets.hide([self._token])
        try:
            self._sockets = await Sockets.open(spec.address)
        except OSError as error:
            reason = f"the admin listener cannot listen on {spec.address}: {error.strerror}"
            raise OSError(error.errno, reason) from error
        loop = asyncio.get_running_loop()
        for sock in self._sockets.duplicates():
            self._servers.append(
                await loop.create_server(lambda: ProbeConnection(self, self._view), sock=sock, backlog=BACKLOG)
            )
        self.addresses = self._sockets.addresses
        self.feed.start()

    async def close(self) -> None:
        """Stop listening, end every stream and let the requests in progress end."""
        for server in self._servers:
            server.close()
        await self.feed.stop()
        if self._loading is not None:
            self._loading.cancel()
            await asyncio.gather(self._loading, return_exceptions=True)
        for connection in list(self._connections):
            connection.close()
        if self._runner is not None:
            await self._runner.cleanup()
            self._runner = None
        if self._sockets is not None:
            self._sockets.close()
            self._sockets = None

    # ----- connections

    def enter(self, connection: ProbeConnection) -> None:
        """Take note of a new connection."""
        self._connections.add(connection)

    def leave(self, connection: ProbeConnection) -> None:
        """Forget a connection that was closed or handed over."""
        self._connections.discard(connection)

    def serve(self, connection: ProbeConnection) -> None:
        """Hand a connection to the application, once that is loaded."""
        if self._runner is not None and self._runner.server is not None:
            connection.hand_over(self._runner.server())
            return
        self._waiting.append(connection)
        if self._loading is None:
            self._loading = self._view.env.spawn(self._load())

    async def _load(self) -> None:
        try:
            admin = await asyncio.to_thread(_import_admin)
            runner = admin(self._view, self.feed, self._token).runner()
            await runner.setup()
            server = runner.server
            assert server is not None
        except Exception as error:
            self._view.env.meter.counter(BUGS, where="admin").value += 1
            self._view.env.emit(BUG, where="admin listener", error=error)
            self._loading = None  # the next request tries again
            for connection in self._taken():
                connection.answer(problem(500, "the sidecar failed to load its admin pages; its log says how"))
            return
        self._runner = runner
        for connection in self._taken():
            connection.hand_over(server())

    def _taken(self) -> list[ProbeConnection]:
        waiting, self._waiting = self._waiting, []
        return [connection for connection in waiting if connection in self._connections]


class ProbeConnection(asyncio.Protocol):
    """Connection that is answered here if it asks for a probe, and handed to the application if not."""

    def __init__(self, listener: AdminListener, view: AdminView) -> None:
        self._listener = listener
        self._view = view
        self._transport: asyncio.Transport
        self._buffer = b""
        self._is_waiting = False
        """True once it needs the application."""
        self._idle: Handle | None = None

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._transport = cast("asyncio.Transport", transport)
        self._idle = self._view.env.call_later(IDLE_SECONDS, self.close)
        self._listener.enter(self)

    def data_received(self, data: bytes) -> None:
        self._buffer += data
        if self._is_waiting or self._transport.is_closing():
            return
        if is_unfinished_probe(self._buffer):
            return
        if len(self._buffer) <= MAX_PROBE_BYTES and (match := _PROBE.fullmatch(self._buffer)) is not None:
            self.answer(probe(self._view, match[2].decode()), has_content=match[1] == b"GET")
            return
        self._is_waiting = True
        self._stop_timer()
        self._transport.pause_reading()
        self._listener.serve(self)

    def connection_lost(self, exc: Exception | None) -> None:
        self._stop_timer()
        self._listener.leave(self)

    def close(self) -> None:
        """Close the connection, after what was written to it."""
        self._transport.close()

    def answer(self, answer: Answer, *, has_content: bool = True) -> None:
        """Write an answer and close the connection."""
        content = answer.text.encode()
        fields = {
            "Content-Type": f"{answer.content_type}; charset=utf-8",
            "Content-Length": len(content),
            "Date": write_http_date(self._view.env.wall()).decode(),
            **HEADERS,
            "Connection": "close",
        }
        head = f"HTTP/1.1 {answer.status} {HTTPStatus(answer.status).phrase}\r\n"
        head += "".join(f"{name}: {value}\r\n" for name, value in fields.items())
        self._transport.write(head.encode() + b"\r\n" + (content if has_content else b""))
        self.close()

    def hand_over(self, protocol: asyncio.Protocol) -> None:
        """Let `protocol` have the connection, as though it had accepted it."""
        self._listener.leave(self)
        self._transport.set_protocol(protocol)
        protocol.connection_made(self._transport)
        self._transport.resume_reading()
        protocol.data_received(self._buffer)

    def _stop_timer(self) -> None:
        if self._idle is not None:
            self._idle.cancel()
            self._idle = None


def is_unfinished_probe(received: bytes) -> bool:
    """True if more bytes can make a probe of what was received."""
    if b"\r\n\r\n" in received or len(received) > MAX_PROBE_BYTES:
        return False
    return any(start.startswith(received) or received.startswith(start) for start in _STARTS)


def _import_admin() -> type[Admin]:
    from sidecar.admin.app import Admin

    return Admin
