"""Passage: a redirected connection and one to its destination, joined as TCP.

Rules:

1. Bytes pass unchanged in the same turn of the loop.  While one side cannot take more, the other is not read, so that
   a passage holds at most two transports' buffers and one read.
2. A half-close passes on.  The other direction goes on until its end, or until the idle timeout.
3. A passage ends after `capture.idle_timeout` without bytes in either direction.  A reset of one side resets the other.
4. TLS with a server name of the policies goes to the endpoints of its upstream, the least busy first.  Another one is
   tried if the connection fails, before any byte is sent.  Ejection learns from failed connections.
5. A client that was silent at first, and asks by HTTP before its server has sent anything, goes to the routes: pools
   connect before they have a request.  The connection to its destination is closed.
6. A drain leaves passages open: no sidecar knows where their protocol may be cut.  They end at the drain's timeout.
"""

from __future__ import annotations

import asyncio
from contextlib import suppress
from typing import TYPE_CHECKING, Any, Final, cast

from sidecar.control.compiler import Terminal
from sidecar.core import events
from sidecar.core.env import TaskHandle
from sidecar.core.exchange import NEVER
from sidecar.core.outcome import CONNECT_FAILURE, Outcome, failed
from sidecar.downstream.capture.capture import CONNECT, NO_ENDPOINT, ROUTES, Capture, choose, finish_connecting
from sidecar.downstream.capture.destination import Destination
from sidecar.downstream.capture.sniff import Sniffed, guess
from sidecar.downstream.closing import end_writing, reset
from sidecar.upstream.endpoint import Endpoint
from sidecar.upstream.errors import describe_error
from sidecar.upstream.pools import open_connection

if TYPE_CHECKING:
    from sidecar.upstream.client import Upstream

HIGH_WATER: Final = 64 * 1024
"""Bytes in the buffer of one side above which the other is not read."""
MOST_ENDPOINTS: Final = 3
"""Most endpoints of an upstream that one connection tries."""
CONNECTED: Final = Outcome(200)
"""Outcome of a connection that was made, for ejection."""


class Passage:
    """Redirected connection that passes as TCP; listener and server manage it as one connection."""

    is_serving = False
    """False, because the listener counts no requests in it."""

    def __init__(self, capture: Capture, found: Sniffed, destination: Destination, upstream: Terminal | None) -> None:
        self._capture = capture
        self._listener = capture.listener
        self._found = found
        self._destination = destination
        self._upstream = upstream
        """Upstream by the server name; None for the original destination."""
        self._endpoint: Endpoint | None = None
        """Endpoint in use; None without an upstream, and before one is connected."""
        self._own: tuple[str, int] | None = None
        """Local address of the connection to the destination."""
        self._task: TaskHandle | None = None
        self._began = self._listener.now()
        self._why = ""
        """Reason for the end; empty after a regular end."""
        self._is_late = False
        """True once the connect timeout has passed."""
        self._is_over = False
        self._is_silent = False
        """True while neither side has sent anything, so that the client may still turn out to speak HTTP."""
        self._client = PassageSide(self)
        self._server = PassageSide(self)
        self._client.other, self._server.other = self._server, self._client
        self.expires = NEVER
        capture.passages += 1

    def open(self, transport: asyncio.Transport, data: bytes, *, is_eof: bool) -> None:
        """Take the client's connection, the bytes that it has sent, and whether it has half-closed."""
        client = self._client
        client.transport = transport
        transport.set_protocol(client)
        transport.set_write_buffer_limits(HIGH_WATER)
        client.is_eof = is_eof
        self._is_silent = not data and not is_eof and self._upstream is None
        transport.pause_reading()
        self._task = self._listener.env.spawn(self._connect(data))

    async def _connect(self, data: bytes) -> None:
        """Connect to the destination, and join both sides."""
        # Not before the task has begun: cancelled earlier, after a long turn of the loop, it would end nothing.
        self.expires = self._listener.now() + self._capture.spec.connect_timeout
        try:
            await (self._dial() if self._upstream is None else self._dial_upstream(self._upstream))
        except NoEndpointError:
            self._why = NO_ENDPOINT
            self._end_early()
            return
        except OSError as error:
            self._fail(describe_error(error))
            return
        except asyncio.CancelledError:
            if self._is_late:
                self._fail(f"takes longer than capture.connect_timeout, {self._capture.spec.connect_timeout:.3g} s")
                return
            self._end_early()
            raise
        except Exception as error:
            self._listener.report_bug(None, error)
            self._end_early()
            return
        self._task = None
        client, server = self._client, self._server
        if client.transport is None or client.is_closed:  # the client has left meanwhile
            server.abort()
            return
        if server.transport is None:
            client.abort()
            return
        self.restart_idle_timeout()
        if data:
            client.pass_on(data)
        if client.is_eof:
            end_writing(server.transport)
        elif not server.is_full:
            client.transport.resume_reading()

    async def _dial(self) -> None:
        """Connect to the original destination.  Raises `OSError`."""
        host, port = self._destination
        sock: Any = await self._capture.open_socket(host, port)
        try:
            self._remember(sock.getsockname())
            await finish_connecting(sock, host, port)
            await asyncio.get_running_loop().create_connection(lambda: self._server, sock=sock)
        except BaseException:
            sock.close()
            raise

    async def _dial_upstream(self, upstream: Terminal) -> None:
        """Connect to an endpoint of an upstream.  Raises `OSError`."""
        client = cast("Upstream", upstream)
        names = self._listener.env.names
        if names is not None:
            names = names.with_settings(client.spec.resolve)
        tried: list[Endpoint] = []
        while True:
            now = self._listener.now()
            endpoint = choose(upstream, now, tried)
            if endpoint is None:
                self._capture.refuse(NO_ENDPOINT, self._destination, f"the upstream {upstream.name} has no endpoint")
                raise NoEndpointError
            tried.append(endpoint)
            if 0 < endpoint.ejected_until <= now:
                endpoint.begin_trial(now)
            endpoint.in_flight += 1
            try:
                await open_connection(endpoint, None, cast("Any", names), lambda: self._server)
            except BaseException as error:
                endpoint.in_flight -= 1
                if not isinstance(error, OSError):
                    raise
                if client.ejector is not None:
                    client.ejector.record(endpoint, failed(CONNECT_FAILURE), now, self._listener.now())
                if len(tried) == MOST_ENDPOINTS or len(tried) == len(upstream.endpoints.members):
                    raise
                continue
            self._endpoint = endpoint
            if client.ejector is not None:
                client.ejector.record(endpoint, CONNECTED, now, self._listener.now())
            return

    def note_server(self) -> None:
        """Remember the local address of the connection to the destination."""
        transport = self._server.transport
        if self._own is None and transport is not None:
            self._remember(transport.get_extra_info("sockname"))

    def _remember(self, address: Any) -> None:
        if isinstance(address, tuple):
            self._own = (address[0], address[1])
            self._capture.own.add(self._own)

    def _fail(self, cause: str) -> None:
        """Reset the client of a destination that cannot be reached."""
        self._why = CONNECT
        if not self._client.is_closed:
            self._capture.refuse(CONNECT, self._destination, cause)
        self._end_early()

    def _end_early(self) -> None:
        """End a passage without a connection to its destination."""
        self._task = None
        self._server.is_closed = True
        if self._client.is_closed:
            self._end()
        elif self._client.transport is not None:
            reset(self._client.transport)

    # ----- called by the sides

    def restart_idle_timeout(self) -> None:
        """Start the idle timeout anew."""
        self.expires = self._listener.now() + self._capture.spec.idle_timeout

    def is_taken(self, side: PassageSide, data: bytes) -> bool:
        """Take note of the first bytes; True if they are HTTP of the client, which the routes have got then."""
        if not self._is_silent:
            return False
        self._is_silent = False
        transport = self._client.transport
        if side is self._server or transport is None or self._listener.is_draining:
            return False
        if not self._capture.route(self, transport, guess(data).protocol, data):
            return False
        self._why = ROUTES
        self._client.is_closed = True
        self._server.abort()
        return True

    def end_side(self, side: PassageSide, error: Exception | None) -> None:
        """Handle a closed side: end the other one, or the passage if both are closed."""
        other = side.other
        if self._task is not None:  # the client has left before the destination was reached
            self._task.cancel()
        elif other.is_closed:
            self._end()
        elif error is not None:
            self._why = self._why or ("client_reset" if side is self._client else "server_reset")
            other.abort()
        else:
            other.close()

    def _end(self) -> None:
        """Count and log the passage."""
        if self._is_over:
            return
        self._is_over = True
        capture = self._capture
        capture.passages -= 1
        if self._own is not None:
            capture.own.discard(self._own)
        if self._endpoint is not None:
            self._endpoint.in_flight -= 1
        capture.sent.value += self._client.passed
        capture.received.value += self._server.passed
        self._listener.forget(self)
        self._listener.env.emit(
            events.CAPTURE_ENDED,
            listener=self._listener.name,
            protocol=self._found.protocol,
            destination=str(self._destination),
            **({} if self._upstream is None else {"upstream": self._upstream.name}),
            **({"server_name": self._found.server_name} if self._found.server_name else {}),
            sent=self._client.passed,
            received=self._server.passed,
            seconds=round(self._listener.now() - self._began, 3),
            **({"reason": self._why} if self._why else {}),
        )

    # ----- called by listener and server

    def expire(self, now: float) -> None:
        """End a passage after its idle timeout, or the attempt to connect after the timeout of that."""
        if self._task is not None:
            self._is_late = True
            self.expires = NEVER
            self._task.cancel()
            return
        self._why = "idle"
        self.abort()

    def drain(self) -> None:
        """Do nothing: passages end at the drain's timeout."""

    def abort(self) -> None:
        if self._task is not None:
            self._task.cancel()
        self._client.abort()
        self._server.abort()

    def __repr__(self) -> str:
        return f"<Passage {self._found.protocol} {self._destination}>"


class NoEndpointError(OSError):
    """Raised if no endpoint of an upstream is left."""


class PassageSide(asyncio.Protocol):
    """Protocol of one of the two connections of a passage."""

    other: PassageSide
    """Opposite side."""

    def __init__(self, passage: Passage) -> None:
        self._passage = passage
        self.transport: asyncio.Transport | None = None
        """Transport; None before the connection is made."""
        self.is_eof = False
        """True once this side has half-closed."""
        self.is_closed = False
        """True once the connection is closed."""
        self.is_full = False
        """True while the transport's buffer is above `HIGH_WATER`."""
        self.passed = 0
        """Bytes from this side that were passed on."""

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self.transport = cast("asyncio.Transport", transport)
        self.transport.set_write_buffer_limits(HIGH_WATER)
        self._passage.note_server()

    def data_received(self, data: bytes) -> None:
        if self._passage.is_taken(self, data):
            return
        self._passage.restart_idle_timeout()
        self.pass_on(data)

    def pass_on(self, data: bytes) -> None:
        """Write bytes of this side to the other."""
        target = self.other.transport
        if target is not None and not target.is_closing():
            self.passed += len(data)
            target.write(data)

    def eof_received(self) -> bool:
        self._passage.is_taken(self, b"")
        self.is_eof = True
        target = self.other.transport
        if target is None or target.is_closing():
            return False
        if target.can_write_eof():
            end_writing(target)
        if self.other.is_eof:
            self.other.close()
            return False
        return True

    def pause_writing(self) -> None:
        self.is_full = True
        if self.other.transport is not None:
            self.other.transport.pause_reading()

    def resume_writing(self) -> None:
        self.is_full = False
        other = self.other
        if other.transport is not None and not other.transport.is_closing() and not other.is_eof:
            other.transport.resume_reading()

    def connection_lost(self, error: Exception | None) -> None:
        self.is_closed = True
        self._passage.end_side(self, error)

    def close(self) -> None:
        """Close once all written bytes are sent."""
        if self.transport is not None:
            self.transport.close()

    def abort(self) -> None:
        """Close at once, with a reset."""
        if self.transport is not None and not self.is_closed:
            with suppress(OSError):
                reset(self.transport)
