"""Capture: settings, counters and limits of a listener's redirected connections.

Rules:

1. A connection whose original destination is the listener itself is refused, on whatever local address.
2. A connection of this process to a destination that comes back to the listener is refused too: the kernel's rules do
   not exempt the sidecar's user.  `own` has the local addresses of such connections.
3. TLS with a server name of the policies goes to an endpoint of its upstream; everything else to its destination.
"""

from __future__ import annotations

import asyncio
import errno
import socket
from collections.abc import Callable
from contextlib import suppress
from typing import TYPE_CHECKING, Any, Final

from sidecar.config.process_spec import CaptureSpec
from sidecar.control.compiler import Snapshot, Terminal
from sidecar.control.passthrough import Passthrough
from sidecar.control.route import Route
from sidecar.core import events, metrics
from sidecar.core.exchange import Exchange
from sidecar.core.metrics import Counter
from sidecar.downstream.capture.destination import Destination, is_local, read_destination
from sidecar.downstream.capture.sniff import HTTP1, HTTP2, TCP, TLS
from sidecar.downstream.connection import DownstreamConnection
from sidecar.upstream.endpoint import Endpoint

if TYPE_CHECKING:
    from sidecar.downstream.listener import Listener, ManagedConnection

LOOP: Final = "loop"
NO_DESTINATION: Final = "no_destination"
TOO_MANY: Final = "too_many"
CONNECT: Final = "connect"
NO_ENDPOINT: Final = "no_endpoint"
REASONS: Final = (LOOP, NO_DESTINATION, TOO_MANY, CONNECT, NO_ENDPOINT)
"""Reasons for which a connection is closed without a destination."""
ROUTES: Final = "routes"
UPSTREAM: Final = "upstream"
ORIGINAL: Final = "original"
PLACES: Final = {
    HTTP1: (ROUTES, ORIGINAL),
    HTTP2: (ROUTES, ORIGINAL),
    TLS: (UPSTREAM, ORIGINAL),
    TCP: (ORIGINAL,),
}
"""Places to which connections of each protocol go.  HTTP that the listener does not speak passes as TCP."""


class Capture:
    """Redirected connections of one listener."""

    def __init__(self, listener: Listener, spec: CaptureSpec) -> None:
        meter, name = listener.env.meter, listener.name
        self.listener = listener
        self.spec = spec
        self.own: set[tuple[str, int]] = set()
        """Local addresses of the open connections to destinations."""
        self.passages = 0
        """Number of open passages."""
        self.upstreams: dict[str, Terminal] = {}
        """Upstreams of the current snapshot, by name."""
        self._passthrough: Passthrough | None = None
        """Routes to original destinations, of the current snapshot."""
        self.read_destination: Callable[[Any], Destination | None] = read_destination
        """Function that returns the original destination of a socket; tests replace it."""
        self.open_socket: Callable[[str, int], Any] = open_socket
        """Coroutine function that returns a connecting socket; tests replace it."""
        self._counts: dict[tuple[str, str], Counter] = {
            (protocol, target): meter.counter(metrics.CAPTURED, listener=name, protocol=protocol, to=target)
            for protocol, targets in PLACES.items()
            for target in targets
        }
        self._failures = {
            reason: meter.counter(metrics.CAPTURE_FAILURES, listener=name, reason=reason) for reason in REASONS
        }
        self.sent = meter.counter(metrics.CAPTURE_BYTES, listener=name, direction="sent")
        """Bytes that clients have sent."""
        self.received = meter.counter(metrics.CAPTURE_BYTES, listener=name, direction="received")
        """Bytes that servers have sent."""
        meter.gauge(metrics.CAPTURE_PASSAGES, lambda: float(self.passages), listener=name)

    def count(self, protocol: str, target: str) -> None:
        """Count a connection by protocol and target."""
        self._counts[protocol, target].value += 1

    def route(self, holder: ManagedConnection, transport: asyncio.Transport, protocol: str, data: bytes) -> bool:
        """Hand a connection of HTTP, with the bytes so far, to the routes; False if the listener does not speak it.

        `holder` has represented the connection until now.
        """
        listener = self.listener
        if not (protocol == HTTP1 and listener.speaks_http1) and not (protocol == HTTP2 and listener.speaks_http2):
            return False
        self.count(protocol, ROUTES)
        connection = DownstreamConnection(listener)
        listener.replace(holder, connection)
        transport.set_protocol(connection)
        connection.connection_made(transport)
        if not transport.is_closing():
            connection.data_received(data)
        return True

    def refuse(self, reason: str, destination: Destination | None, detail: str) -> None:
        """Count and log a connection that is closed without a destination."""
        self._failures[reason].value += 1
        self.listener.env.emit(
            events.CAPTURE_REFUSED,
            listener=self.listener.name,
            reason=reason,
            destination=None if destination is None else str(destination),
            cause=detail,
        )

    def find_destination(self, transport: asyncio.BaseTransport) -> Destination | None:
        """Return the original destination of a connection; None if it must be refused, which is counted and logged."""
        found = self.read_destination(transport.get_extra_info("socket"))
        here = transport.get_extra_info("sockname")
        peer = transport.get_extra_info("peername")
        if found is None or (isinstance(here, tuple) and (found.host, found.port) == here[:2]):
            self.refuse(
                NO_DESTINATION,
                found,
                "was made to the listener itself, not redirected to it; let clients dial their own servers",
            )
            return None
        if isinstance(here, tuple) and found.port == here[1] and is_local(found.host):
            self.refuse(LOOP, found, "leads to the listener itself; let clients dial their own servers")
            return None
        if isinstance(peer, tuple) and (unmapped(peer[0]), peer[1]) in self.own:
            self.refuse(
                LOOP, found, "is the sidecar's own; run it under the user that the rules of `sidecar capture` exempt"
            )
            return None
        return found

    def use(self, snapshot: Snapshot) -> None:
        """Use a snapshot's upstreams and routes to original destinations for new connections and requests."""
        self.upstreams = snapshot.upstreams
        self._passthrough = snapshot.passthrough

    def route_of(self, x: Exchange, transport: asyncio.BaseTransport | None) -> Route | None:
        """Return the route of a request that takes no other: to its original destination.  None if that is unknown."""
        if self._passthrough is None or transport is None or x.path == b"*":
            return None
        found = self.read_destination(transport.get_extra_info("socket"))
        return None if found is None else self._passthrough.route_to(str(found), x.version)

    def upstream_of(self, server_name: str) -> Terminal | None:
        """Return the upstream of TLS connections with a server name; None if the policies name none."""
        names = self.spec.server_names
        if not names or not server_name:
            return None
        found = names.get(server_name)
        rest = server_name
        while found is None and "." in rest:
            rest = rest.partition(".")[2]
            found = names.get(f"*.{rest}")
        return None if found is None else self.upstreams.get(found)


def choose(upstream: Terminal, now: float, tried: list[Endpoint]) -> Endpoint | None:
    """Return the least busy endpoint that is available and not yet tried; None without one."""
    endpoints = upstream.endpoints
    for group in (*endpoints.tiers, endpoints.members):
        usable = [each for each in group if each not in tried and each.is_available(now)]
        if usable:
            return min(usable, key=lambda each: each.in_flight)
    return next((each for each in endpoints.members if each not in tried), None)


def unmapped(host: str) -> str:
    """Return an address without the prefix of IPv4 addresses in IPv6."""
    return host.removeprefix("::ffff:") if "." in host else host


async def open_socket(host: str, port: int) -> socket.socket:
    """Return a socket that is connecting to an IP address.  Raises `OSError`.

    Its local address is known from then on, so that a connection that comes back can be told.
    """
    sock = socket.socket(socket.AF_INET6 if ":" in host else socket.AF_INET, socket.SOCK_STREAM)
    try:
        sock.setblocking(False)
        with suppress(OSError):
            sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        result = sock.connect_ex((host, port))
        if result not in (0, errno.EINPROGRESS):
            raise OSError(result, errno.errorcode.get(result, "connect"))
    except BaseException:
        sock.close()
        raise
    return sock


async def finish_connecting(sock: socket.socket, host: str, port: int) -> None:
    """Wait until a socket is connected.  Raises `OSError`."""
    try:
        await asyncio.get_running_loop().sock_connect(sock, (host, port))
    except OSError as error:
        if error.errno != errno.EISCONN:
            raise
