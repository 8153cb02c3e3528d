"""One listener: its address, its connections, and what they ask of it."""

from __future__ import annotations

import asyncio
import socket
from collections.abc import Callable
from typing import TYPE_CHECKING, Final, Protocol

from sidecar.config.process_spec import LimitsSpec, ListenerSpec
from sidecar.control.compiler import Route, Snapshot
from sidecar.core import events, metrics
from sidecar.core.exchange import Exchange
from sidecar.core.outcome import NO_ROUTE, Failure, Outcome, Refusal, failed
from sidecar.downstream.connection import Downstream
from sidecar.downstream.descriptors import Numbered, are_scarce
from sidecar.downstream.sockets import BACKLOG, Sockets
from sidecar.downstream.tls_acceptor import TlsDoor
from sidecar.upstream.certificates import CertificateWatch

if TYPE_CHECKING:
    from sidecar.downstream.server import Server

REFUSED: Final = (
    b"HTTP/1.1 503 Service Unavailable\r\ncontent-type: application/problem+json\r\nx-sidecar-reason: overloaded\r\n"
    b"retry-after: 1\r\nconnection: close\r\ncontent-length: %d\r\n\r\n%b"
)


class Guest(Protocol):
    """A client's connection, whatever it is at the moment."""

    @property
    def expires(self) -> float:
        """The instant (`Env.now`) after which `expire` is called."""

    def expire(self, now: float) -> None: ...
    def drain(self) -> None:
        """The sidecar stops: end when nothing is under way."""

    def abort(self) -> None:
        """Cut it off at once."""


Match = Callable[[Exchange], Route | None]


class Listener:
    """One address that is listened on, and what its connections need on every request as plain attributes."""

    def __init__(self, name: str, spec: ListenerSpec, server: Server) -> None:
        self.name = name
        self.spec = spec
        self.server = server
        self.env = server.env
        self.now = server.env.now
        self.getrandbits = server.env.rng.getrandbits
        self.scheme = b"http" if spec.tls is None else b"https"
        self.trusted = tuple(spec.trusted_proxies)
        self.limits: LimitsSpec = server.limits
        self.date = server.date
        self.draining = False
        self.addresses: list[str] = []
        self.connections: set[Guest] = set()
        self.watch: CertificateWatch | None = None
        self.match: Match = lambda _: None
        self._allowed: Callable[[Exchange], list[bytes]] = lambda _: []
        self._sockets: Sockets | None = None
        self._acceptors: list[asyncio.Server | TlsDoor] = []
        self._refused = server.env.meter.counter(metrics.REFUSALS, listener=name, policy="limits", reason="overloaded")
        self._invalid = server.env.meter.counter(metrics.REFUSALS, listener=name, policy="http", reason="bad_request")
        self._estranged = server.env.meter.counter(metrics.REFUSALS, listener=name, policy="tls", reason="handshake")

    async def bind(self, predecessor: Listener | None) -> None:
        """Listen, on the sockets of a predecessor with the same address where there is one; what connects waits until
        `accept`.  Raises `OSError` that names the address."""
        if self.spec.tls is not None:
            self.watch = CertificateWatch(self.spec.tls, f"listener {self.name}", self.env)
        address = self.spec.address
        try:
            sockets = (predecessor and predecessor.share()) or await Sockets.open(address)
        except OSError as error:
            raise OSError(error.errno, f"listener {self.name} cannot listen on {address}: {error.strerror}") from error
        self._sockets = sockets
        self.addresses = sockets.addresses
        for sock in sockets.duplicates():
            self._acceptors.append(await self._door(sock))

    async def _door(self, sock: socket.socket) -> asyncio.Server | TlsDoor:
        if self.watch is not None:
            return TlsDoor(self, sock, self.watch.front)
        loop = asyncio.get_running_loop()
        create = loop.create_unix_server if self.spec.address.path else loop.create_server
        return await create(lambda: Downstream(self), sock=sock, backlog=BACKLOG, start_serving=False)

    def share(self) -> Sockets | None:
        """Its sockets for a successor too."""
        return None if self._sockets is None else self._sockets.share()

    def accept(self) -> None:
        """Take connections from now on."""
        for acceptor in self._acceptors:
            self.env.spawn(acceptor.start_serving())

    def use(self, snapshot: Snapshot) -> None:
        """Take another set of policies; requests under way keep theirs."""
        router = snapshot.listeners[self.name]
        begin = self.server.telemetry.begin
        self.match = router.match if begin is None else traced(begin, router.match)
        self._allowed = router.allowed
        self.limits = snapshot.spec.limits

    def stop_accepting(self) -> None:
        for acceptor in self._acceptors:
            acceptor.close()
        self._acceptors.clear()
        if self._sockets is not None:
            self._sockets.close()
            self._sockets = None

    def drain(self) -> None:
        """Accept no more, close what is idle, and the rest when its request has been answered."""
        self.stop_accepting()
        self.draining = True
        for connection in list(self.connections):
            connection.drain()

    @property
    def active(self) -> int:
        """Requests under way, counted when somebody asks: counting them as they pass would cost each of them."""
        return sum(1 for guest in self.connections if isinstance(guest, Downstream) and guest.is_serving)

    # ----- what its connections call

    def admit(self, connection: Guest, sock: Numbered | None) -> bool:
        """Is there room for one more connection?"""
        if connection in self.connections:
            return True  # since before its handshake
        if self.server.open_connections >= self.limits.max_connections or are_scarce(sock):
            self._refused.value += 1
            return False
        self.connections.add(connection)
        self.server.open_connections += 1
        return True

    def replace(self, connection: Guest, successor: Guest) -> None:
        """A connection goes on as something else."""
        if connection in self.connections:
            self.connections.discard(connection)
            self.connections.add(successor)
            if self.draining:
                successor.drain()

    def forget(self, connection: Guest) -> None:
        if connection in self.connections:
            self.connections.discard(connection)
            self.server.open_connections -= 1

    @property
    def refusal(self) -> bytes:
        """What a connection too many is told."""
        limit = self.limits.max_connections
        detail = (
            b'{"type":"urn:sidecar:problem:overloaded","title":"Too many connections","status":503,"limit":%d}' % limit
        )
        return REFUSED % (len(detail), detail)

    def last_hop(self, x: Exchange) -> Outcome:
        """What we answer ourselves where nobody behind us may: OPTIONS with the methods that are known, TRACE not at
        all, since it would show what other hops have added (RFC 9110 9.3.7 and 9.3.8)."""
        allow = (b"allow", b", ".join(self._allowed(x) or [b"OPTIONS"]))
        return Outcome(200 if x.method == b"OPTIONS" else 405, [allow])

    def no_route(self, x: Exchange) -> Outcome:
        """404, or 405 with the methods that the path knows (RFC 9110 15.5.6)."""
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
        """An exchange has ended; `failure` is what broke it after its answer had begun."""
        seconds = self.now() - x.arrived if x.arrived else 0.0  # one that was not HTTP has no beginning
        self.server.recorder(x, outcome, outcome.reason if failure is None else failure.code, seconds)

    def reject(self, outcome: Outcome) -> None:
        """Something that is not HTTP was turned away."""
        self._invalid.value += 1

    def fail_handshake(self) -> None:
        """A client speaks no TLS that we could agree on, or has not the certificate that we ask for."""
        self._estranged.value += 1

    def bug(self, x: Exchange | None, error: BaseException | None) -> None:
        self.env.emit(events.BUG, request=repr(x), error=error)

    def __repr__(self) -> str:
        return f"<Listener {self.name} {', '.join(self.addresses)} {len(self.connections)} connections>"


def traced(begin: Callable[[Exchange], None], match: Match) -> Match:
    """Find a request's place in its trace on the way to its route; where nobody traces this is not in the way."""

    def begin_and_match(x: Exchange) -> Route | None:
        begin(x)
        return match(x)

    return begin_and_match
