"""Listener: one address, its acceptors, its connections, and what those need of it.

A connection passes from one object to another while it lives: a `Handshake`, a `DownstreamConnection`, a `Tunnel` or a
`LingeringClose`.  Each is a `ManagedConnection`, which the listener counts once and the server's sweep expires.
"""

from __future__ import annotations

import asyncio
import socket
from collections.abc import Callable
from typing import TYPE_CHECKING, Final, Protocol

from sidecar.config.process_spec import OUTBOUND, LimitsSpec, ListenerSpec
from sidecar.control.compiler import Route, Snapshot
from sidecar.core import events, metrics
from sidecar.core.exchange import Exchange
from sidecar.core.outcome import NO_ROUTE, Failure, Outcome, Refusal, failed
from sidecar.downstream.connection import DownstreamConnection
from sidecar.downstream.descriptors import HasFileno, are_scarce
from sidecar.downstream.request_head import Trust, hop_name
from sidecar.downstream.response_head import UNMASKED
from sidecar.downstream.slow_clients import SlowClients
from sidecar.downstream.sockets import BACKLOG, Sockets
from sidecar.downstream.tls_acceptor import TlsAcceptor
from sidecar.downstream.tunnel import Tunnel
from sidecar.telemetry.plain import Masks
from sidecar.upstream.certificates import CertificateWatch

if TYPE_CHECKING:
    from sidecar.downstream.server import Recorder, Server

REFUSED: Final = (
    b"HTTP/1.1 503 Service Unavailable\r\ncontent-type: application/problem+json\r\nx-sidecar-reason: overloaded\r\n"
    b"retry-after: 1\r\nconnection: close\r\ncontent-length: %d\r\n\r\n%b"
)


class ManagedConnection(Protocol):
    """Client's connection in one of its forms, as listener and server see it."""

    @property
    def expires(self) -> float:
        """Instant (`Env.now`) from which the sweep calls `expire`."""

    def expire(self, now: float) -> None: ...
    def drain(self) -> None:
        """Close once nothing is under way."""

    def abort(self) -> None:
        """Close at once."""


Match = Callable[[Exchange], Route | None]
"""Returns the route of a request, None if there is none."""


class Listener:
    """One address that is listened on.  What its connections need for each request are plain attributes."""

    def __init__(self, name: str, spec: ListenerSpec, server: Server) -> None:
        self.name = name
        """Key of the listener in the policy files."""
        self.spec = spec
        self.server = server
        self.env = server.env
        self.now = server.env.now
        self.getrandbits = server.env.rng.getrandbits
        """Source of request ids."""
        self.recorder: Recorder = server.recorder
        """Takes each exchange that has ended."""
        self.scheme = b"http" if spec.tls is None else b"https"
        """`http` or `https`."""
        self.trust = trust_of(name, spec, server.hop_key)
        """Claims that its clients are believed."""
        self.limits: LimitsSpec = server.limits
        """Limits of the snapshot in use."""
        self.slow = SlowClients(spec.slow_clients)
        """Settings for slow clients, and what is buffered for them."""
        self.date = server.date
        """Value of the Date field."""
        self.is_draining = False
        """True once no more connections are accepted."""
        self.addresses: list[str] = []
        """Addresses as `Sockets.addresses` has them; empty before `bind`."""
        self.connections: set[ManagedConnection] = set()
        """Open connections; a refused one is never among them."""
        self.certificates: CertificateWatch | None = None
        """Certificates of a TLS listener; None before `bind` and for plain text."""
        self.match: Match = lambda _: None
        """Router of the snapshot in use."""
        self._allowed: Callable[[Exchange], list[bytes]] = lambda _: []
        self._snapshot: Snapshot | None = None
        self._sockets: Sockets | None = None
        self._acceptors: list[asyncio.Server | TlsAcceptor] = []
        self._refused = server.env.meter.counter(metrics.REFUSALS, listener=name, policy="limits", reason="overloaded")
        self._invalid = server.env.meter.counter(metrics.REFUSALS, listener=name, policy="http", reason="bad_request")
        self._failed_handshakes = server.env.meter.counter(
            metrics.REFUSALS, listener=name, policy="tls", reason="handshake"
        )

    async def bind(self, predecessor: Listener | None) -> None:
        """Listen, on the sockets of a predecessor with the same address if there is one.  Clients that connect wait
        until `accept`.  Raises `OSError` that names the address."""
        if self.spec.tls is not None:
            protocols = ["h2", "http/1.1"] if self.spec.http2 else None
            self.certificates = CertificateWatch(self.spec.tls, f"listener {self.name}", self.env, protocols)
        address = self.spec.address
        try:
            sockets = (predecessor and predecessor.share()) or await Sockets.open(address, self.server.make_socket)
        except OSError as error:
            raise OSError(error.errno, f"listener {self.name} cannot listen on {address}: {error.strerror}") from error
        self._sockets = sockets
        self.addresses = sockets.addresses
        for sock in sockets.duplicates():
            self._acceptors.append(await self._make_acceptor(sock))

    async def _make_acceptor(self, sock: socket.socket) -> asyncio.Server | TlsAcceptor:
        if self.certificates is not None:
            return TlsAcceptor(self, sock, self.certificates.front)
        loop = asyncio.get_running_loop()
        create = loop.create_unix_server if self.spec.address.path else loop.create_server
        return await create(lambda: DownstreamConnection(self), sock=sock, backlog=BACKLOG, start_serving=False)

    def share(self) -> Sockets | None:
        """Return the sockets for a successor to share; None if the listener is not bound."""
        return None if self._sockets is None else self._sockets.share()

    def accept(self) -> None:
        """Start to accept connections."""
        for acceptor in self._acceptors:
            self.env.spawn(self._start_serving(acceptor))

    async def _start_serving(self, acceptor: asyncio.Server | TlsAcceptor) -> None:
        if acceptor in self._acceptors:  # else the listener was closed before this task ran
            await acceptor.start_serving()

    def use(self, snapshot: Snapshot) -> None:
        """Use a snapshot's policies for the requests from now on; those under way keep theirs."""
        router = snapshot.listeners[self.name]
        begin = self.server.telemetry.begin
        self.match = router.match if begin is None else traced(begin, router.match)
        self._allowed = router.allowed
        self.limits = snapshot.spec.limits
        self._snapshot = snapshot

    def stop_accepting(self) -> None:
        for acceptor in self._acceptors:
            acceptor.close()
        self._acceptors.clear()
        if self._sockets is not None:
            self._sockets.close()
            self._sockets = None

    def drain(self) -> None:
        """Stop accepting, close idle connections, and the others once their request is answered."""
        self.stop_accepting()
        self.is_draining = True
        for connection in list(self.connections):
            connection.drain()

    @property
    def active(self) -> int:
        """Number of requests under way, WebSocket sessions included.  It is counted when it is read, because a counter
        would cost each request."""
        count = 0
        for each in self.connections:
            if isinstance(each, DownstreamConnection):
                count += each.is_serving
            elif isinstance(each, Tunnel):
                count += 1
            else:  # one of HTTP/2, whose module is imported with the first
                count += getattr(each, "serving", 0)
        return count

    # ----- what its connections call

    def admit(self, connection: ManagedConnection, sock: HasFileno | None) -> bool:
        """Add a new connection; False if there is no room for it."""
        if connection in self.connections:
            return True  # a TLS connection was added before its handshake
        open_connections = self.server.open_connections
        if open_connections >= self.limits.max_connections or are_scarce(sock):
            self._refused.value += 1
            limit = self.limits.max_connections
            cause = "limits.max_connections" if open_connections >= limit else "file descriptors are scarce"
            self.env.emit(
                events.CONNECTION_REFUSED, listener=self.name, open=open_connections, limit=limit, cause=cause
            )
            return False
        self.connections.add(connection)
        self.server.open_connections += 1
        return True

    def replace(self, connection: ManagedConnection, successor: ManagedConnection) -> None:
        """Put another object in the place of a connection that lives on as that."""
        if connection in self.connections:
            self.connections.discard(connection)
            self.connections.add(successor)
            if self.is_draining:
                successor.drain()

    def forget(self, connection: ManagedConnection) -> None:
        """Remove a connection that is closed or was replaced."""
        if connection in self.connections:
            self.connections.discard(connection)
            self.server.open_connections -= 1

    @property
    def details(self) -> Masks | None:
        """Masks for what problem documents tell of upstreams; None: they tell nothing."""
        if not self.spec.has_details:
            return None
        return UNMASKED if self._snapshot is None else self._snapshot.spec.facts

    @property
    def refusal(self) -> bytes:
        """Answer to a connection for which there is no room."""
        limit = self.limits.max_connections
        detail = (
            b'{"type":"urn:sidecar:problem:overloaded","title":"Too many connections","status":503,"limit":%d}' % limit
        )
        return REFUSED % (len(detail), detail)

    def last_hop(self, x: Exchange) -> Outcome:
        """Return the answer to a request that must not be forwarded (RFC 9110 9.3.7 and 9.3.8).  OPTIONS gets the known
        methods.  TRACE is refused, because it would show the fields that other hops have added."""
        allow = (b"allow", b", ".join(self._allowed(x) or [b"OPTIONS"]))
        return Outcome(200 if x.method == b"OPTIONS" else 405, [allow])

    def no_route(self, x: Exchange) -> Outcome:
        """Return the answer to a request without a route: 404, or 405 if its path has routes (RFC 9110 15.5.6)."""
        if x.path == b"*":
            return self.last_hop(x)
        allowed = self._allowed(x)
        if not allowed:
            return failed(
                NO_ROUTE, Refusal("routes", detail=f"No route of the listener {self.name} matches the request.")
            )
        outcome = failed(NO_ROUTE, Refusal("routes", detail="The path is known, but not with this method."))
        outcome.status = 405
        outcome.headers = [(b"allow", b", ".join(allowed))]
        return outcome

    def record(self, x: Exchange, outcome: Outcome, failure: Failure | None) -> None:
        """Record an exchange that has ended.  `failure` is what broke it after its answer had begun, else None."""
        seconds = self.now() - x.arrived if x.arrived else 0.0  # bytes that are not HTTP have no instant of arrival
        self.recorder(x, outcome, outcome.reason if failure is None else failure.code, seconds)

    def count_rejection(self) -> None:
        """Count a request that was not valid HTTP."""
        self._invalid.value += 1

    def count_failed_handshake(self) -> None:
        """Count a TLS handshake that failed or timed out."""
        self._failed_handshakes.value += 1

    def report_bug(self, x: Exchange | None, error: BaseException | None) -> None:
        """Emit an exception that no one expected, with the request that it broke."""
        self.env.emit(events.BUG, request=repr(x), error=error)

    def __repr__(self) -> str:
        return f"<Listener {self.name} {', '.join(self.addresses)} {len(self.connections)} connections>"


def trust_of(name: str, spec: ListenerSpec, hop_key: bytes) -> Trust:
    """Return what a listener believes of its clients.

    All of them are believed where each has shown a certificate, and on the loopback listener `outbound`, which only the
    service beside us can reach.
    """
    is_verified = spec.tls is not None and spec.tls.client_ca is not None
    return Trust(
        tuple(spec.trusted_proxies),
        believes_all=is_verified or (name == OUTBOUND and spec.address.is_loopback),
        min_deadline=spec.untrusted.min_deadline,
        passing=frozenset(field.lower().encode() for field in spec.untrusted.pass_),
        via="" if spec.via == "off" else spec.via,
        hop=hop_name(hop_key, name),
    )


def traced(begin: Callable[[Exchange], None], match: Match) -> Match:
    """Return a match that finds a request's place in its trace first.  Used only while requests are traced."""

    def begin_and_match(x: Exchange) -> Route | None:
        begin(x)
        return match(x)

    return begin_and_match
