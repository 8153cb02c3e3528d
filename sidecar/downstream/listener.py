"""Listener: one address with its acceptors, its connections and their shared settings.

Several objects represent a connection in turn: a `Handshake`, a `DownstreamConnection`, a `Tunnel`, a `LingeringClose`.
Each is a `ManagedConnection`.  The listener counts the connection once, and the server's sweep checks its deadline.
"""

from __future__ import annotations

import asyncio
import socket
from binascii import hexlify
from collections.abc import Callable
from typing import TYPE_CHECKING, Final, Protocol

from sidecar.config.process_spec import HTTP1, HTTP2, OUTBOUND, LimitsSpec, ListenerSpec
from sidecar.control.compiler import Snapshot
from sidecar.control.route import Route
from sidecar.core import events, metrics
from sidecar.core.exchange import Exchange
from sidecar.core.outcome import NO_ROUTE, Failure, Outcome, Refusal, failed
from sidecar.downstream.connection import DownstreamConnection
from sidecar.downstream.descriptors import HasFileno, are_scarce
from sidecar.downstream.request_head import Trust, hop_name
from sidecar.downstream.response_head import UNMASKED
from sidecar.downstream.slow_clients import SlowClients
from sidecar.downstream.sockets import BACKLOG, Sockets
from sidecar.downstream.tls_acceptor import Handshake, TlsAcceptor
from sidecar.downstream.tunnel import Tunnel
from sidecar.telemetry.plain import Masks
from sidecar.upstream.certificates import CertificateWatch

if TYPE_CHECKING:
    from sidecar.downstream.capture.capture import Capture
    from sidecar.downstream.server import Recorder, Server

REFUSED: Final = (
    b"HTTP/1.1 503 Service Unavailable\r\ncontent-type: application/problem+json\r\nx-sidecar-reason: overloaded\r\n"
    b"retry-after: 1\r\nconnection: close\r\ncontent-length: %d\r\n\r\n%b"
)
"""Response to a connection beyond the limit: its format with the size of the body and the body."""


ALPN: Final = ((HTTP2, "h2"), (HTTP1, "http/1.1"))
"""Names of the protocols in handshakes (RFC 7301), the preferred one first."""


class ManagedConnection(Protocol):
    """Object that represents a client connection: the methods that listener and server call."""

    @property
    def expires(self) -> float:
        """Deadline (`Env.now`) after which the sweep calls `expire`."""

    def expire(self, now: float) -> None:
        """Handle the passed deadline: close the connection, or set a new deadline."""

    def drain(self) -> None:
        """Close once no request is in flight."""

    def abort(self) -> None:
        """Close at once."""


IDS: Final = 32
"""Number of request ids that are made at a time."""
Match = Callable[[Exchange], Route | None]
"""Function that returns the route of a request; None without one."""


class Limits:
    """Limits of a policy file as plain attributes, because pydantic's are slower to read in each request."""

    __slots__ = (
        "body_timeout", "half_close_timeout", "header_timeout", "idle_timeout", "max_body", "max_connections",
        "max_fields", "max_header_bytes", "max_list_members", "max_query_parameters",
    )  # fmt: skip

    def __init__(self, spec: LimitsSpec) -> None:
        self.max_connections = spec.max_connections
        self.max_header_bytes = spec.max_header_bytes
        self.max_fields = spec.max_fields
        self.max_list_members = spec.max_list_members
        self.max_query_parameters = spec.max_query_parameters
        self.max_body: int | None = spec.max_body
        self.header_timeout = spec.header_timeout
        self.body_timeout = spec.body_timeout
        self.idle_timeout = spec.idle_timeout
        self.half_close_timeout = spec.half_close_timeout


class Listener:
    """Address on which clients connect, with the settings that its connections read for each request."""

    def __init__(self, name: str, spec: ListenerSpec, server: Server) -> None:
        self.name = name
        """Key of the listener in the policy files."""
        self.spec = spec
        self.server = server
        self.env = server.env
        self.now = server.env.now
        self.getrandbits = server.env.rng.getrandbits
        """Source of request ids."""
        self.request_ids: list[bytes] = []
        """Request ids that are not yet used."""
        self.recorder: Recorder = server.recorder
        """Function that records each completed exchange."""
        self.scheme = b"http" if spec.tls is None else b"https"
        """Scheme of the connections, `http` or `https`."""
        self.speaks_http1 = spec.speaks_http1
        """True if clients may speak HTTP/1.1."""
        self.speaks_http2 = spec.speaks_http2
        """True if clients may speak HTTP/2."""
        self.trust = trust_of(name, spec, server.hop_key)
        """Trust in the clients."""
        self._has_details = spec.has_details
        self.limits = Limits(server.limits)
        """Limits of the current snapshot."""
        self.slow = SlowClients(spec.slow_clients)
        """Settings and buffer account of slow clients."""
        self.date = server.date
        """Current value of the Date field."""
        self.is_draining = False
        """True once no more connections are accepted."""
        self.is_gentle = False
        """True while idle connections may send one more request, although the listener drains."""
        self.addresses: list[str] = []
        """Addresses for clients (`Sockets.addresses`); empty before `bind`."""
        self.connections: set[ManagedConnection] = set()
        """Open connections, without refused ones."""
        self.capture: Capture | None = None
        """Redirected connections; None if the listener does not take such."""
        if spec.original_destination:
            from sidecar.downstream.capture.capture import Capture as MakeCapture

            self.capture = MakeCapture(self, spec.capture)
        self.certificates: CertificateWatch | None = None
        """Certificates of a TLS listener; None before `bind` and for plain text."""
        self.match: Match = lambda _: None
        """Router of the current snapshot."""
        self._allowed: Callable[[Exchange], list[bytes]] = lambda _: []
        """Function that returns the methods with which an unmatched request would match."""
        self._snapshot: Snapshot | None = None
        """Current snapshot; None before the first."""
        self._sockets: Sockets | None = None
        self._acceptors: list[asyncio.Server | TlsAcceptor] = []
        self._refused = server.env.meter.counter(metrics.REFUSALS, listener=name, policy="limits", reason="overloaded")
        self._invalid = server.env.meter.counter(metrics.REFUSALS, listener=name, policy="http", reason="bad_request")
        self._failed_handshakes = server.env.meter.counter(
            metrics.REFUSALS, listener=name, policy="tls", reason="handshake"
        )

    async def bind(self, predecessor: Listener | None) -> None:
        """Start listening, on the sockets of `predecessor` if one has the same address.

        Connections wait in the kernel's queue until `accept`.  Raises `OSError` with the address.
        """
        if self.spec.tls is not None:
            protocols = [alpn for name, alpn in ALPN if name in self.spec.protocols]
            self.certificates = CertificateWatch(self.spec.tls, f"listener {self.name}", self.env, protocols)
        address = self.spec.address
        try:
            sockets = (predecessor and predecessor.share()) or await self.server.open_sockets(self.name, address)
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
        return await create(self._make_protocol, sock=sock, backlog=BACKLOG, start_serving=False)

    def _make_protocol(self) -> asyncio.Protocol:
        """Return the protocol of a new connection without TLS."""
        if self.capture is not None:
            from sidecar.downstream.capture.connection import CapturedConnection

            return CapturedConnection(self, self.capture)
        return DownstreamConnection(self)

    def share(self) -> Sockets | None:
        """Return the sockets for a successor to share; None if the listener is not bound."""
        return None if self._sockets is None else self._sockets.share()

    def accept(self) -> None:
        """Start accepting connections."""
        for acceptor in self._acceptors:
            self.env.spawn(self._start_serving(acceptor))

    async def _start_serving(self, acceptor: asyncio.Server | TlsAcceptor) -> None:
        if acceptor in self._acceptors:  # the listener may have been closed before this task runs
            await acceptor.start_serving()

    def use(self, snapshot: Snapshot) -> None:
        """Use a snapshot's policies for new requests; requests in flight keep theirs."""
        router = snapshot.listeners[self.name]
        begin = self.server.telemetry.begin
        match: Match = router.match
        if self.spec.grpc_web:
            from sidecar.downstream.grpc.web import translating

            match = translating(match)
        self.match = match if begin is None else match_traced(begin, match)
        self._allowed = router.allowed
        self.limits = Limits(snapshot.spec.limits)
        self._snapshot = snapshot
        if self.capture is not None:
            self.capture.use(snapshot)

    def note_web_call(self, x: Exchange) -> None:
        """Make a request that is refused before it has a route a call of gRPC-Web, if it is one."""
        if self.spec.grpc_web:
            from sidecar.grpc.web import become_call

            become_call(x)

    def stop_accepting(self) -> None:
        """Close the acceptors and the listening sockets."""
        for acceptor in self._acceptors:
            acceptor.close()
        self._acceptors.clear()
        if self._sockets is not None:
            self._sockets.close()
            self._sockets = None

    def drain(self, *, is_gentle: bool = False) -> None:
        """Stop accepting, close idle connections, and close the others once their request is answered.

        With `is_gentle`, HTTP/1.1 connections that are idle or in their handshake may send one more request.
        """
        self.stop_accepting()
        self.is_draining = True
        self.is_gentle = is_gentle
        for connection in list(self.connections):
            if not is_gentle or not isinstance(connection, DownstreamConnection | Handshake) or connection.is_serving:
                connection.drain()

    def disown(self) -> None:
        """Leave the file of a Unix socket to another process."""
        if self._sockets is not None:
            self._sockets.disown()

    @property
    def listening(self) -> list[socket.socket]:
        """Listening sockets, which stay the listener's own."""
        return [] if self._sockets is None else self._sockets.listening

    @property
    def active(self) -> int:
        """Number of requests in flight, WebSocket sessions included.

        The requests are counted on access, because a counter would cost time in each request.
        """
        count = 0
        for each in self.connections:
            if isinstance(each, DownstreamConnection):
                count += each.is_serving
            elif isinstance(each, Tunnel):
                count += 1
            else:  # HTTP/2, whose module is imported with its first connection
                count += getattr(each, "serving", 0)
        return count

    def http2_streams(self) -> list[int]:
        """Return the number of open streams of each connection that speaks HTTP/2."""
        counts = [getattr(each, "serving", None) for each in self.connections]
        return [count for count in counts if count is not None]

    # ----- called by the connections

    def admit(self, connection: ManagedConnection, sock: HasFileno | None) -> bool:
        """Add a new connection; False if the limit of connections or of descriptors is reached."""
        if connection in self.connections:
            return True  # a TLS connection was added before its handshake
        crowd = self.server.crowd
        open_connections = self.server.open_connections if crowd is None else crowd.connections
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
        if crowd is not None:
            crowd.note(self.server.open_connections)
        return True

    def hand_over(self, sock: HasFileno | None) -> bool:
        """Send a new connection to a worker that has fewer; True if the caller must close its own socket."""
        crowd = self.server.crowd
        return crowd is not None and sock is not None and crowd.hand_over(self.name, sock)

    def take(self, sock: socket.socket) -> None:
        """Serve a connection that another worker has accepted, for one request if the listener drains meanwhile."""
        if self.certificates is not None:
            Handshake(self, sock, self.certificates.front)
        else:
            self.server.arriving += 1
            self.env.spawn(self._take(sock))

    async def _take(self, sock: socket.socket) -> None:
        try:
            await asyncio.get_running_loop().connect_accepted_socket(self._make_protocol, sock)
        except OSError:  # the client has left meanwhile
            sock.close()
        finally:
            self.server.arriving -= 1

    def replace(self, connection: ManagedConnection, successor: ManagedConnection) -> None:
        """Replace the object that represents a connection by its successor."""
        if connection in self.connections:
            self.connections.discard(connection)
            self.connections.add(successor)
            if self.is_draining and not self.is_gentle:
                successor.drain()

    def forget(self, connection: ManagedConnection) -> None:
        """Remove a connection that is closed; without effect if it was replaced."""
        if connection in self.connections:
            self.connections.discard(connection)
            self.server.open_connections -= 1
            if self.server.crowd is not None:
                self.server.crowd.note(self.server.open_connections)

    @property
    def details(self) -> Masks | None:
        """Masks for details of upstreams in problem documents; None if these contain no details."""
        if not self._has_details:
            return None
        return UNMASKED if self._snapshot is None else self._snapshot.spec.facts

    @property
    def refusal(self) -> bytes:
        """Response to a connection beyond the limit."""
        limit = self.limits.max_connections
        detail = (
            b'{"type":"urn:sidecar:problem:overloaded","title":"Too many connections","status":503,"limit":%d}' % limit
        )
        return REFUSED % (len(detail), detail)

    def last_hop(self, x: Exchange) -> Outcome:
        """Return the response to an OPTIONS or TRACE request that must not be forwarded (RFC 9110 9.3.7, 9.3.8).

        OPTIONS gets the known methods.  TRACE is refused, because it would disclose fields that other hops have added.
        """
        allow = (b"allow", b", ".join(self._allowed(x) or [b"OPTIONS"]))
        return Outcome(200 if x.method == b"OPTIONS" else 405, [allow])

    def no_route(self, x: Exchange) -> Outcome:
        """Return the response to a request without a route: 404, or 405 if other methods match (RFC 9110 15.5.6)."""
        if x.path == b"*":
            return self.last_hop(x)
        allowed = self._allowed(x)
        if not allowed:
            return failed(
                NO_ROUTE, Refusal("routes", detail=f"No route of the listener {self.name} matches the request.")
            )
        outcome = failed(NO_ROUTE, Refusal("routes", detail="The path is known, but not with this method."))
        outcome.status = outcome.verdict = 405
        outcome.headers = [(b"allow", b", ".join(allowed))]
        return outcome

    def record(self, x: Exchange, outcome: Outcome, failure: Failure | None) -> float:
        """Record a completed exchange, and return the instant of its end.

        `failure` is the one that ended it after its response had begun, else None.
        """
        now = self.now()
        seconds = now - x.arrived if x.arrived else 0.0  # an invalid head has no instant of arrival
        failure = failure or outcome.failure
        self.recorder(x, outcome, "" if failure is None else failure.code, seconds)
        return now

    def make_request_id(self) -> bytes:
        """Return a new request id: 32 random hex digits.

        Many are made at a time, because the call of the random generator takes most of the time.
        """
        ids = self.request_ids
        if not ids:
            ids += hexlify(self.getrandbits(128 * IDS).to_bytes(16 * IDS, "big"), b" ", 16).split()
        return ids.pop()

    def count_rejection(self) -> None:
        """Count a request that was not valid HTTP."""
        self._invalid.value += 1

    def count_failed_handshake(self) -> None:
        """Count a TLS handshake that failed or timed out."""
        self._failed_handshakes.value += 1

    def report_bug(self, x: Exchange | None, error: BaseException | None) -> None:
        """Log an unexpected exception with the request in which it occurred."""
        self.env.emit(events.BUG, request=repr(x), error=error)

    def __repr__(self) -> str:
        return f"<Listener {self.name} {', '.join(self.addresses)} {len(self.connections)} connections>"


def trust_of(name: str, spec: ListenerSpec, hop_key: bytes) -> Trust:
    """Return the trust of a listener in its clients.

    All clients are trusted if the listener requires client certificates.  So are those of the listener `outbound` on
    loopback, which only the service beside the sidecar can reach.
    """
    is_verified = spec.tls is not None and spec.tls.client_ca is not None
    return Trust(
        tuple(spec.trusted_proxies),
        has_certificates=is_verified,
        believes_all=is_verified or (name == OUTBOUND and spec.address.is_loopback),
        min_deadline=spec.untrusted.min_deadline,
        passing=frozenset(field.lower().encode() for field in spec.untrusted.pass_),
        via="" if spec.via == "off" else spec.via,
        hop=hop_name(hop_key, name),
    )


def match_traced(begin: Callable[[Exchange], None], match: Match) -> Match:
    """Return a match function that first calls `begin`, which starts the trace of the request."""

    def begin_and_match(x: Exchange) -> Route | None:
        begin(x)
        return match(x)

    return begin_and_match
