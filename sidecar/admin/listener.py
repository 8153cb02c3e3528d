"""Admin listener: its sockets and probes, and the hand-over of all other connections to the web application.

Rules:

1. A probe is cheap and independent of most code.  `GET /livez` and `GET /readyz` are answered here, and their
   connection is closed, because a kubelet opens one for each probe.
2. The first other request loads aiohttp in a thread, so that neither the start nor requests of the service wait for it.
   The connection waits meanwhile; aiohttp then gets all data of the connection, from its beginning.
3. Only a complete and ordinary probe is answered here.  Anything else, such as a body, another method or an unusual
   field, goes to aiohttp once its head is complete.
4. Clients of this listener cannot harm the service.  They have the deadlines of `limits` for a head, an idle connection
   and reading a response, and at most an eighth of all descriptors.  If no connection is left, the one that was idle
   longest is closed, so that a probe always gets through.
"""

from __future__ import annotations

import asyncio
import math
import re
import socket
from collections.abc import Awaitable, Callable
from http import HTTPStatus
from typing import TYPE_CHECKING, Final, cast

from sidecar.admin.access import Access
from sidecar.admin.history import HistoryKeeper
from sidecar.admin.live import Feed
from sidecar.admin.responses import HEADERS, PlainResponse, probe, problem
from sidecar.admin.view import AdminView
from sidecar.config.listen_address import ListenAddress
from sidecar.config.process_spec import AdminSpec
from sidecar.core.env import TimerHandle
from sidecar.core.events import ADMIN_FAILED, BUG
from sidecar.core.message import write_http_date
from sidecar.core.metrics import BUGS
from sidecar.core.spec import Secret, SecretFile, reveal
from sidecar.downstream.descriptors import HasFileno, are_scarce, share
from sidecar.downstream.sockets import BACKLOG, Sockets
from sidecar.upstream.errors import describe_error

if TYPE_CHECKING:
    from aiohttp import web

    from sidecar.admin.app import Admin

MAX_CONNECTIONS: Final = 300
"""Most open connections, if there are enough descriptors; more than pages may be open."""
SHARE: Final = 8
"""Divisor for the part of all descriptors that the connections may use."""
PAGES: Final = 0.75
"""Share of the connections that open pages may use."""
SWEEP_SECONDS: Final = 1.0
"""Pause between two checks of the deadlines of all connections."""
MAX_PROBE_BYTES: Final = 8192
"""Largest head of a probe in bytes; aiohttp handles larger ones."""

_FIELD: Final = (
    rb"(?!(?i:content-length|transfer-encoding|expect|upgrade):)[0-9A-Za-z!#$%&'*+.^_`|~-]+:[\t -~\x80-\xff]*\r\n"
)
_HOST: Final = re.compile(rb"(?im)^host:[ \t]*(.*?)[ \t]*\r$")
_END: Final = re.compile(rb"\n\r?\n")
_PROBE: Final = re.compile(rb"(GET|HEAD) (/livez|/readyz) HTTP/1\.[01]\r\n(?:" + _FIELD + rb")*\r\n")


class AdminListener:
    """Listener for probes, scrapers, people and `sidecar top`."""

    def __init__(
        self, view: AdminView, open_sockets: Callable[[ListenAddress], Awaitable[Sockets]] | None = None
    ) -> None:
        """`open_sockets` replaces the opening of the listening sockets."""
        self.feed = Feed(view)
        self.keeper = HistoryKeeper(view)
        self._open_sockets = open_sockets or Sockets.open
        self.addresses: list[str] = []
        """Bound addresses, such as `127.0.0.1:9901`."""
        self._view = view
        self.access = Access()
        self._token: Secret | None = None
        """Token as policies configure it; None if they have none."""
        self._timer: TimerHandle | None = None
        self._sockets: Sockets | None = None
        self._servers: list[asyncio.Server] = []
        self._connections: set[ProbeConnection] = set()
        self._waiting: list[ProbeConnection] = []
        """Connections that need the application while it is being loaded."""
        self._loading: asyncio.Task[None] | None = None
        self._runner: web.AppRunner | None = None

    async def open(self, spec: AdminSpec) -> None:
        """Listen on the address of `spec`.  Raises `OSError` with a message for the user."""
        self._token = spec.token
        token = None if spec.token is None else reveal(spec.token)
        hosts = [*spec.hosts, spec.address.host]
        self.access = Access(token, filter(None, hosts), is_local=bool(spec.address.path))
        self._hide_token()
        try:
            self._sockets = await self._open_sockets(spec.address)
        except OSError as error:
            reason = f"the admin listener cannot listen on {spec.address}: {error.strerror}"
            raise OSError(error.errno, reason) from error
        loop = asyncio.get_running_loop()
        for sock in self._sockets.duplicates():
            self._servers.append(
                await loop.create_server(lambda: ProbeConnection(self, self._view), sock=sock, backlog=BACKLOG)
            )
        self.addresses = self._sockets.addresses
        self.feed.room = int(PAGES * self._room)
        self.feed.start()
        self.keeper.start(spec.history)
        self._sweep()

    async def renew(self) -> None:
        """Read the file of the token again; if it cannot be read or is empty, the old token stays in force."""
        if not isinstance(self._token, SecretFile):
            return
        try:
            token = await asyncio.to_thread(reveal, self._token)
        except (OSError, UnicodeDecodeError) as error:
            self._view.env.emit(ADMIN_FAILED, file=self._token.file, cause=describe_error(error))
            return
        if not token:
            self._view.env.emit(ADMIN_FAILED, file=self._token.file, cause="the file is empty")
        elif token != self.access.token:
            self.access.token = token
            self._hide_token()

    def _hide_token(self) -> None:
        """Keep the token out of logs and `/state`."""
        if self.access.token is not None:
            self._view.secrets.hide([self.access.token], "admin")

    @property
    def listening(self) -> list[socket.socket]:
        """Listening sockets, which stay the listener's own."""
        return [] if self._sockets is None else self._sockets.listening

    def leave(self) -> None:
        """Stop listening, because another process serves the address; open connections stay."""
        for server in self._servers:
            server.close()
        if self._sockets is not None:
            self._sockets.disown()
        self.keeper.leave()

    async def close(self) -> None:
        """Stop listening, end all streams, and wait for the requests in progress."""
        for server in self._servers:
            server.close()
        await self.feed.stop()
        await self.keeper.stop()
        if self._loading is not None:
            self._loading.cancel()
            await asyncio.gather(self._loading, return_exceptions=True)
        if self._timer is not None:
            self._timer.cancel()
        for connection in list(self._connections):
            if not connection.is_handed_over:  # the application closes its own connections
                connection.close()
        if self._runner is not None:
            await self._runner.cleanup()
            self._runner = None
        if self._sockets is not None:
            self._sockets.close()
            self._sockets = None

    # ----- connections

    @property
    def _room(self) -> int:
        """Number of connections that may be open at once."""
        return share(SHARE, MAX_CONNECTIONS)

    def admit(self, connection: ProbeConnection, sock: HasFileno | None) -> bool:
        """Add a new connection, in place of an idle one if there is no room; False if there is no idle one either."""
        if len(self._connections) >= self._room or are_scarce(sock, is_admin=True):
            waiting = [each for each in self._connections if not each.is_busy]
            if not waiting:
                return False
            victim = min(waiting, key=lambda each: each.since)
            self._connections.discard(victim)
            victim.abort()
        self._connections.add(connection)
        return True

    def forget(self, connection: ProbeConnection) -> None:
        """Remove a connection that is closed."""
        self._connections.discard(connection)

    def _sweep(self) -> None:
        """Expire connections whose deadline has passed, and do so again after `SWEEP_SECONDS`."""
        now = self._view.env.now()
        for connection in [each for each in self._connections if each.expires <= now]:
            connection.expire()
        self._timer = self._view.env.call_later(SWEEP_SECONDS, self._sweep)

    def serve(self, connection: ProbeConnection) -> None:
        """Hand a connection to the application, as soon as it is loaded."""
        if self._runner is not None and self._runner.server is not None:
            connection.hand_over(self._runner.server())
            return
        self._waiting.append(connection)
        if self._loading is None:
            self._loading = self._view.env.spawn(self._load())

    async def _load(self) -> None:
        """Load the application, and hand it the waiting connections; answer them with 500 if that fails."""
        try:
            admin = await asyncio.to_thread(_import_admin)
            runner = admin(self._view, self.feed, self.keeper, self.access).runner()
            await runner.setup()
            server = runner.server
            assert server is not None
        except Exception as error:
            self._view.env.meter.counter(BUGS, where="admin").value += 1
            self._view.env.emit(BUG, where="admin listener", error=error)
            self._loading = None  # the next request tries again
            for connection in self._take_waiting():
                connection.respond(
                    problem(500, "the sidecar could not load its admin application; see the log of the sidecar")
                )
            return
        self._runner = runner
        for connection in self._take_waiting():
            connection.hand_over(server())

    def _take_waiting(self) -> list[ProbeConnection]:
        """Return the waiting connections that are still open, and empty the list."""
        waiting, self._waiting = self._waiting, []
        return [connection for connection in waiting if connection in self._connections]


class ProbeConnection(asyncio.Protocol):
    """Connection that answers probes itself, and passes all other requests to the application.

    It stays the protocol of the transport and passes on received data, so that its deadlines hold for all requests.
    """

    def __init__(self, listener: AdminListener, view: AdminView) -> None:
        self._listener = listener
        self._view = view
        self._transport: asyncio.Transport
        self._buffer = b""
        self._application: asyncio.Protocol | None = None
        self.is_busy = False
        """True from the end of a request's head to the end of its response."""
        self._has_begun = False
        """True if a part of a request has arrived."""
        self.since = 0.0
        """Instant at which the connection became idle."""
        self.expires = math.inf
        """Instant at which the connection is closed."""
        self._last = math.inf
        """Instant at which a half-closed connection is closed; infinite for any other."""

    @property
    def is_half_closed(self) -> bool:
        """True once the client has shut down its sending side, so that no further request can come."""
        return self._last < math.inf

    @property
    def is_handed_over(self) -> bool:
        """True once the application serves the connection."""
        return self._application is not None

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._transport = cast("asyncio.Transport", transport)
        self._wait()
        if not self._listener.admit(self, transport.get_extra_info("socket")):
            self.respond(problem(503, "too many connections to the admin listener are open"))

    def data_received(self, data: bytes) -> None:
        if not self.is_busy and not self._has_begun:
            self._has_begun = True
            self.expires = self._view.env.now() + self._view.limits().header_timeout
        if self._application is not None:
            self._application.data_received(data)
            return
        self._buffer += data
        if self.is_busy or self._transport.is_closing():
            return
        if is_unfinished_head(self._buffer):
            return
        if len(self._buffer) <= MAX_PROBE_BYTES and (match := _PROBE.fullmatch(self._buffer)) is not None:
            hosts = [host.decode("latin-1") for host in _HOST.findall(self._buffer)]
            refusal = self._listener.access.refuse_host(hosts)
            response = problem(421, refusal) if refusal else probe(self._view, match[2].decode())
            self.respond(response, has_content=match[1] == b"GET")
            return
        self._transport.pause_reading()
        self.is_busy, self.expires = True, math.inf  # while the application is being loaded
        self._listener.serve(self)

    def eof_received(self) -> bool:
        """Return True to keep a half-closed connection open for a response in progress, as the other listeners do."""
        if self.is_half_closed:
            return True  # an event loop that resumes reading reports the end again
        seconds = self._view.limits().half_close_timeout
        is_under_way = self._has_begun or self.is_busy or self._transport.get_write_buffer_size() > 0
        if self._application is None or not is_under_way or not seconds:
            return False
        self._last = self._view.env.now() + seconds
        self.expires = min(self.expires, self._last)
        return True

    def pause_writing(self) -> None:
        self.expires = self._view.env.now() + self._view.limits().body_timeout
        if self._application is not None:
            self._application.pause_writing()

    def resume_writing(self) -> None:
        if self.is_busy:
            self.expires = self._last
        else:
            self._wait()
        if self._application is not None:
            self._application.resume_writing()

    def connection_lost(self, exc: Exception | None) -> None:
        self._listener.forget(self)
        if self._application is not None:
            self._application.connection_lost(exc)

    # ----- requests

    def begin_request(self) -> None:
        """Mark the beginning of a request: its head has arrived, and the application works on the response."""
        self.is_busy, self.expires = True, self._last

    def end_request(self) -> None:
        """Mark the end of a request: the application has written its response."""
        self.is_busy = False
        self._wait()

    def _wait(self) -> None:
        """Set the idle timeout: the connection waits for a request."""
        self.since = self._view.env.now()
        self._has_begun = False
        self.expires = min(self._last, self.since + self._view.limits().idle_timeout)

    # ----- its end

    def expire(self) -> None:
        """Close the connection, because its client sends or reads too slowly; answer an incomplete head with 408."""
        if self._has_begun and not self.is_busy and not self._transport.get_write_buffer_size():
            self.respond(problem(408, "the head of the request did not arrive in time"))
            self.expires = self._view.env.now() + SWEEP_SECONDS  # for a client that does not read this response
            self._has_begun = False
        else:
            self.abort()

    def abort(self) -> None:
        """Close the connection at once."""
        self._transport.abort()

    def close(self) -> None:
        """Close the connection after all written data was sent."""
        self._transport.close()

    def respond(self, response: PlainResponse, *, has_content: bool = True) -> None:
        """Write a response and close the connection; without `has_content` only its head, for HEAD."""
        content = response.text.encode()
        fields = {
            "Content-Type": f"{response.content_type}; charset=utf-8",
            "Content-Length": len(content),
            "Date": write_http_date(self._view.env.wall()).decode(),
            **HEADERS,
            "Connection": "close",
        }
        head = f"HTTP/1.1 {response.status} {HTTPStatus(response.status).phrase}\r\n"
        head += "".join(f"{name}: {value}\r\n" for name, value in fields.items())
        self._transport.write(head.encode() + b"\r\n" + (content if has_content else b""))
        self.close()

    def hand_over(self, application: asyncio.Protocol) -> None:
        """Connect the application, which gets received and further data as if it had accepted the connection."""
        received, self._buffer = self._buffer, b""
        self._application = application
        self.is_busy = False
        self._wait()
        application.connection_made(self._transport)
        self._transport.resume_reading()
        self.data_received(received)


def is_unfinished_head(received: bytes) -> bool:
    """True if the head is incomplete and not too long.

    Bare line feeds end a head too; aiohttp then decides what to do with it.
    """
    return _END.search(received) is None and len(received) <= MAX_PROBE_BYTES


def _import_admin() -> type[Admin]:
    """Return the application's class, whose first import loads aiohttp."""
    from sidecar.admin.app import Admin

    return Admin
