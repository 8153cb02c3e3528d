"""Listeners: their sockets, their connections, and what all connections of the process share.

The sweep of the downstream side lives here: once a second each connection's `expires` is compared with the clock, 0.5 ms
for 10 000 connections.  Timeouts towards clients are whole seconds and more, so no finer tick is needed.
"""

from __future__ import annotations

import asyncio
import ssl
from collections.abc import Callable
from typing import Any, Final

from sidecar.control.compiler import Route, Snapshot
from sidecar.control.listener import LimitsSpec, ListenerSpec
from sidecar.core import events
from sidecar.core.env import Env
from sidecar.core.exchange import Exchange
from sidecar.core.headers import write_http_date
from sidecar.core.outcome import NO_ROUTE, Failure, Outcome, Refusal, failed
from sidecar.edge.downstream import Downstream
from sidecar.upstream.certificates import CertificateWatch

SWEEP: Final = 1.0
"""Seconds."""
BACKLOG: Final = 1024
DRAIN_POLL: Final = 0.02
REFUSED: Final = (
    b"HTTP/1.1 503 Service Unavailable\r\ncontent-type: application/problem+json\r\nx-sidecar-reason: overloaded\r\n"
    b"retry-after: 1\r\nconnection: close\r\ncontent-length: %d\r\n\r\n%b"
)


Recorder = Callable[[Exchange, Outcome, str, float], None]
"""Takes each exchange that has ended: outcome, failure code (empty for none) and duration in seconds."""


class Listener:
    """One address that is listened on, and what its connections need on every request as plain attributes."""

    def __init__(self, name: str, spec: ListenerSpec, server: Server) -> None:
        self.name = name
        self.spec = spec
        self.server = server
        self.env = server.env
        self.now = server.env.now
        self.scheme = b"http" if spec.tls is None else b"https"
        self.trusted = tuple(spec.trusted_proxies)
        self.limits: LimitsSpec = server.limits
        self.date = server.date
        self.draining = False
        self.addresses: list[str] = []
        self.connections: set[Downstream] = set()
        self.watch: CertificateWatch | None = None
        self.match: Callable[[Exchange], Route | None] = lambda _: None
        self._allowed: Callable[[Exchange], list[bytes]] = lambda _: []
        self._socket: asyncio.Server | None = None
        self._refused = server.env.meter.counter(events.REFUSALS, listener=name, policy="limits", reason="overloaded")
        self._invalid = server.env.meter.counter(events.REFUSALS, listener=name, policy="http", reason="bad_request")
        server.env.meter.gauge(events.CONNECTIONS, lambda: len(self.connections), listener=name)

    async def bind(self) -> None:
        """Listen.  Raises `OSError` that names the address."""
        loop = asyncio.get_running_loop()
        context: ssl.SSLContext | None = None
        if self.spec.tls is not None:
            self.watch = CertificateWatch(self.spec.tls, f"listener {self.name}", self.env)
            context = self.watch.front
        address = self.spec.address
        make = lambda: Downstream(self)  # noqa: E731 - a factory for the loop
        try:
            if address.path:
                self._socket = await loop.create_unix_server(make, address.path, backlog=BACKLOG, ssl=context)
            else:
                self._socket = await loop.create_server(
                    make, address.host, address.port, backlog=BACKLOG, ssl=context, reuse_address=True
                )
        except OSError as error:
            raise OSError(
                error.errno, f"listener {self.name} cannot listen on {address}: {error.strerror or error}"
            ) from error
        names = [sock.getsockname() for sock in self._socket.sockets]
        self.addresses = [f"unix:{address.path}"] if address.path else [_spelled(name) for name in names]

    def use(self, snapshot: Snapshot) -> None:
        """Take another set of policies; requests under way keep theirs."""
        router = snapshot.listeners[self.name]
        self.match = router.match
        self._allowed = router.allowed
        self.limits = snapshot.spec.limits

    def stop_accepting(self) -> None:
        if self._socket is not None:
            self._socket.close()
            self._socket = None

    def drain(self) -> None:
        """Accept no more, close what is idle, and the rest when its request has been answered."""
        self.stop_accepting()
        self.draining = True
        for connection in list(self.connections):
            connection.drain()

    # ----- what its connections call

    def admit(self, connection: Downstream) -> bool:
        """Is there room for one more connection?"""
        if self.server.open_connections >= self.limits.max_connections:
            self._refused.value += 1
            return False
        self.connections.add(connection)
        self.server.open_connections += 1
        return True

    def forget(self, connection: Downstream) -> None:
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

    def no_route(self, x: Exchange) -> Outcome:
        """404, or 405 with the methods that the path knows (RFC 9110 15.5.6)."""
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
        self.server.recorder(x, outcome, outcome.reason if failure is None else failure.code, self.now() - x.arrived)

    def reject(self, outcome: Outcome) -> None:
        """Something that is not HTTP was turned away."""
        self._invalid.value += 1

    def bug(self, x: Exchange, error: BaseException | None) -> None:
        self.env.emit(events.BUG, request=repr(x), error=error)

    def __repr__(self) -> str:
        return f"<Listener {self.name} {', '.join(self.addresses)} {len(self.connections)} connections>"


class Server:
    """All listeners of the process."""

    def __init__(self, env: Env, recorder: Recorder) -> None:
        self.env = env
        self.recorder = recorder
        self.limits = LimitsSpec()
        self.listeners: dict[str, Listener] = {}
        self.leaving: set[Listener] = set()
        """Listeners that a reload has dropped and that still have connections."""
        self.open_connections = 0
        self.date = write_http_date(env.wall())
        self._timer: Any = None

    def start(self) -> None:
        """Begin the sweep."""
        self._sweep()

    def _sweep(self) -> None:
        now = self.env.now()
        self.date = write_http_date(self.env.wall())
        for listener in (*self.listeners.values(), *self.leaving):
            listener.date = self.date
            if listener.watch is not None:
                listener.watch.poll()
            for connection in [c for c in listener.connections if c.expires <= now]:
                connection.expire(now)
        self.leaving = {listener for listener in self.leaving if listener.connections}
        self._timer = self.env.call_later(SWEEP, self._sweep)

    async def prepare(self, specs: dict[str, ListenerSpec]) -> dict[str, Listener]:
        """Bind what is new or changed, and touch nothing else.  Raises `OSError`, with nothing bound."""
        bound: dict[str, Listener] = {}
        try:
            for name, spec in specs.items():
                present = self.listeners.get(name)
                if present is None or present.spec != spec:
                    listener = Listener(name, spec, self)
                    bound[name] = listener
                    await listener.bind()
        except OSError:
            self.abandon(bound)
            raise
        return bound

    def abandon(self, bound: dict[str, Listener]) -> None:
        """Close what `prepare` has bound: the policies were not applied after all."""
        for listener in bound.values():
            listener.stop_accepting()

    def apply(self, snapshot: Snapshot, bound: dict[str, Listener]) -> None:
        """Swap: every listener takes the snapshot, dropped and replaced ones drain.  Cannot fail."""
        wanted = snapshot.spec.listeners
        for name in list(self.listeners):
            if name not in wanted or name in bound:
                listener = self.listeners.pop(name)
                listener.drain()
                self.leaving.add(listener)
        self.listeners.update(bound)
        self.limits = snapshot.spec.limits
        for listener in self.listeners.values():
            listener.use(snapshot)

    async def drain(self, timeout: float) -> int:
        """Stop accepting, let requests end for at most `timeout` seconds, then close; returns how many were cut off."""
        everyone = (*self.listeners.values(), *self.leaving)
        for listener in everyone:
            listener.drain()
        until = self.env.now() + timeout
        while self.open_connections and self.env.now() < until:
            await self.env.sleep(DRAIN_POLL)
        left = self.open_connections
        self.abort()
        return left

    def abort(self) -> None:
        """Cut off whatever is left."""
        for listener in (*self.listeners.values(), *self.leaving):
            for connection in list(listener.connections):
                connection.abort()
        if self._timer is not None:
            self._timer.cancel()

    def describe(self) -> dict[str, Any]:
        return {
            listener.name: {
                "addresses": listener.addresses,
                "tls": listener.watch is not None,
                "connections": len(listener.connections),
                "draining": listener.draining,
            }
            for listener in (*self.listeners.values(), *self.leaving)
        }


def _spelled(name: Any) -> str:
    host, port = name[0], name[1]
    return f"[{host}]:{port}" if ":" in host else f"{host}:{port}"
