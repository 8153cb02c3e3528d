"""Server: all listeners of the process, and the sweep of their connections' deadlines.

Once a second, the sweep compares the deadline (`expires`) of each connection with the clock.  Requests therefore need
no timers of their own.  Timeouts of clients are one second or longer, so a second is precise enough.
"""

from __future__ import annotations

import socket
from collections.abc import Awaitable, Callable
from functools import partial
from os import urandom
from typing import TYPE_CHECKING, Any, Final, Protocol

from sidecar.certificate_dates import MOST_LEFT
from sidecar.config.listen_address import ListenAddress
from sidecar.config.process_spec import LimitsSpec, ListenerSpec
from sidecar.control.compiler import Snapshot
from sidecar.core import events, metrics
from sidecar.core.env import Env
from sidecar.core.exchange import Exchange
from sidecar.core.message import write_http_date
from sidecar.core.outcome import Outcome
from sidecar.downstream.descriptors import HasFileno
from sidecar.downstream.listener import Listener
from sidecar.downstream.sockets import Make, Sockets

if TYPE_CHECKING:
    from sidecar.telemetry.spec import TelemetrySpec

SWEEP_SECONDS: Final = 1.0
"""Seconds between two sweeps."""
ACCEPT_TURNS: Final = 4
"""Turns of the event loop after which each connection that the kernel has given out is an open one."""
DRAIN_POLL_SECONDS: Final = 0.02
"""Seconds between two checks whether all connections are closed."""
Recorder = Callable[[Exchange, Outcome, str, float], None]
"""Function that records a completed exchange: `record(x, outcome, code, seconds)`, with the code of its failure (empty
without one) and its duration in seconds."""


class Telemetry(Protocol):
    """Telemetry: the methods that the server calls (`sidecar.telemetry.pipeline`)."""

    @property
    def begin(self) -> Callable[[Exchange], None] | None:
        """Function that starts the trace of a request, before routing; None while tracing is off."""

    def use(self, spec: TelemetrySpec | None, service: str) -> None:
        """Apply the telemetry settings of a snapshot; never raises."""


class Crowd(Protocol):
    """Connections of all workers of the sidecar."""

    @property
    def connections(self) -> int:
        """Number of open connections of all workers."""

    def note(self, connections: int) -> None:
        """Take note of the number of open connections of this worker."""

    def hand_over(self, listener: str, sock: HasFileno) -> bool:
        """Send a new connection to a worker with fewer of them; False to keep it.  The caller closes its socket."""


Open = Callable[[str, ListenAddress], Awaitable[Sockets]]
"""Function that returns the listening sockets of a listener: `open(name, address)`.  Raises `OSError`."""


class Server:
    """Listeners of the process, and the sweep of their connections."""

    def __init__(
        self,
        env: Env,
        recorder: Recorder,
        telemetry: Telemetry,
        make_socket: Make = socket.socket,
        open_sockets: Open | None = None,
        crowd: Crowd | None = None,
        hop_key: bytes = b"",
    ) -> None:
        """`open_sockets` replaces the opening of listening sockets with `make_socket`."""
        self.env = env
        self.open_sockets: Open = open_sockets or (lambda _, address: Sockets.open(address, make_socket))
        self.crowd = crowd
        """Connections of all workers; None if the sidecar is one process."""
        self.telemetry = telemetry
        self.recorder = recorder
        self.limits = LimitsSpec.built_in()
        """Limits of the current snapshot."""
        self.listeners: dict[str, Listener] = {}
        """Listeners of the current snapshot by name."""
        self.draining_listeners: set[Listener] = set()
        """Listeners that a reload has removed or replaced and that still have connections."""
        self.open_connections = 0
        """Number of open connections of all listeners."""
        self.arriving = 0
        """Number of connections that other workers have accepted and that are not open here yet."""
        self._is_draining = False
        """True once no listener accepts connections any more."""
        self.hop_key = hop_key or urandom(16)
        """Random key that makes the names of listeners in X-Sidecar-Hops unique to this sidecar."""
        self.date = write_http_date(env.wall())
        """Value of the Date field, updated by the sweep."""
        self._timer: Any = None

    def start(self) -> None:
        """Start the sweep."""
        self._sweep()

    def _sweep(self) -> None:
        """Expire the connections whose deadline has passed, update the date, and schedule the next sweep."""
        now = self.env.now()
        self.date = write_http_date(self.env.wall())
        for listener in (*self.listeners.values(), *self.draining_listeners):
            listener.date = self.date
            if listener.certificates is not None:
                listener.certificates.poll()
            due = [connection for connection in listener.connections if connection.expires <= now]
            for connection in sorted(due, key=lambda connection: connection.expires):
                try:
                    connection.expire(now)
                except Exception as error:  # a bug in one connection must not stop the sweep
                    self.env.emit(events.BUG, request=repr(connection), error=error)
                    connection.abort()
        self.draining_listeners = {listener for listener in self.draining_listeners if listener.connections}
        self._timer = self.env.call_later(SWEEP_SECONDS, self._sweep)

    async def prepare(self, specs: dict[str, ListenerSpec]) -> dict[str, Listener]:
        """Bind the listeners that are new or changed and return them by name.

        A listener whose address stays shares the sockets of the one that it replaces, which continues until `apply`.
        Raises `OSError` after closing all that were bound.
        """
        bound: dict[str, Listener] = {}
        replaced = [listener for name, listener in self.listeners.items() if specs.get(name) != listener.spec]
        predecessors = {listener.spec.address: listener for listener in replaced}
        try:
            for name, spec in specs.items():
                present = self.listeners.get(name)
                if present is None or present.spec != spec:
                    listener = Listener(name, spec, self)
                    bound[name] = listener
                    await listener.bind(predecessors.get(spec.address))
        except BaseException:
            self.abandon(bound)
            raise
        return bound

    def abandon(self, bound: dict[str, Listener]) -> None:
        """Close the listeners that `prepare` has bound, if the policies are not applied."""
        for listener in bound.values():
            listener.stop_accepting()

    def apply(self, snapshot: Snapshot, bound: dict[str, Listener]) -> None:
        """Apply a snapshot: its listeners use it, and removed or replaced listeners drain.  Never raises.

        During a drain, no listener is new: it would accept connections that the end of the drain cuts off.
        """
        if self._is_draining:
            self.abandon(bound)
            bound = {}
        wanted = snapshot.spec.listeners
        for name in list(self.listeners):
            if name not in wanted or name in bound:
                listener = self.listeners.pop(name)
                listener.drain()
                self.draining_listeners.add(listener)
                if (successor := bound.get(name)) is not None:
                    listener.slow.use(successor.spec.slow_clients)
                    successor.slow = listener.slow  # one account for both, so that reloads do not multiply its bound
        self.listeners.update(bound)
        for listener in bound.values():
            self._register_gauges(listener.name, listener.scheme)
        self.limits = snapshot.spec.limits
        self.telemetry.use(snapshot.spec.telemetry, snapshot.spec.service)
        for listener in self.listeners.values():
            listener.use(snapshot)
        for listener in bound.values():
            listener.accept()

    def _register_gauges(self, name: str, scheme: bytes) -> None:
        """Register the gauges of a listener's name; they include draining listeners of the same name."""

        namesakes = partial(self._namesakes, name)
        gauge, labels = self.env.meter.gauge, {"listener": name, "url.scheme": scheme.decode()}
        gauge(metrics.CONNECTIONS, lambda: sum(len(each.connections) for each in namesakes()), listener=name)
        gauge(metrics.SLOW_CLIENT_BYTES, lambda: _buffered(namesakes()), listener=name)
        if scheme == b"https":
            gauge(metrics.CERTIFICATE_LEFT, partial(self._seconds_left, name), owner=f"listener {name}")
        gauge(metrics.REQUESTS_ACTIVE, lambda: sum(e.active for e in namesakes() if e.scheme == scheme), **labels)

    def _seconds_left(self, name: str) -> float:
        """Return the seconds until the first file of a listener's TLS block expires; many without one."""
        listener = self.listeners.get(name)
        watch = None if listener is None else listener.certificates
        return MOST_LEFT if watch is None else watch.seconds_left()

    async def drain(self, timeout: float, *, is_gentle: bool = False) -> int:
        """Stop accepting, wait at most `timeout` seconds for requests in flight, then abort the remaining connections.

        `is_gentle`: True if another process serves the addresses.  Idle connections then stay open for one more request
        or half of the time, since a client may be sending one.  Returns the number of aborted connections.
        """
        began = self.env.now()
        self._is_draining = True
        for listener in (*self.listeners.values(), *self.draining_listeners):
            listener.drain(is_gentle=is_gentle)
        for _ in range(ACCEPT_TURNS):
            await self.env.sleep(0)
        while (self.open_connections or self.arriving) and (now := self.env.now()) < began + timeout:
            if is_gentle and now >= began + timeout / 2:
                is_gentle = False
                for listener in (*self.listeners.values(), *self.draining_listeners):
                    listener.drain()
            await self.env.sleep(DRAIN_POLL_SECONDS)
        left = self.open_connections
        self.abort()
        return left

    def disown(self) -> None:
        """Leave the files of Unix sockets to the process that takes the listening sockets over."""
        for listener in self.listeners.values():
            listener.disown()

    def sockets(self) -> dict[tuple[str, ListenAddress], list[socket.socket]]:
        """Return the listening sockets of each listener, by its name and address."""
        return {(name, each.spec.address): each.listening for name, each in self.listeners.items()}

    def abort(self) -> None:
        """Abort all connections and stop the sweep."""
        for listener in (*self.listeners.values(), *self.draining_listeners):
            for connection in list(listener.connections):
                connection.abort()
        if self._timer is not None:
            self._timer.cancel()

    def _namesakes(self, name: str) -> list[Listener]:
        """Return the listeners with one name: the current one first, then those that it has replaced."""
        return [each for each in (*self.listeners.values(), *self.draining_listeners) if each.name == name]

    def describe(self) -> dict[str, Any]:
        """Return the state of the listeners by name as JSON-ready values; draining predecessors are included."""
        state = {}
        for listener in (*self.listeners.values(), *self.draining_listeners):
            if listener.name not in state:
                namesakes = self._namesakes(listener.name)
                state[listener.name] = {
                    "addresses": listener.addresses,
                    "tls": listener.certificates is not None,
                    "certificates": None if listener.certificates is None else listener.certificates.describe(),
                    "connections": sum(len(each.connections) for each in namesakes),
                    "http2": _http2(namesakes),
                    "slow_client_bytes": _buffered(namesakes),
                    "draining": listener.is_draining,
                }
        return state


def _http2(listeners: list[Listener]) -> dict[str, int]:
    """Return the numbers of connections that speak HTTP/2 and of their open streams."""
    streams = [count for each in listeners for count in each.http2_streams()]
    return {"connections": len(streams), "streams": sum(streams)}


def _buffered(listeners: list[Listener]) -> int:
    """Return the bytes buffered for slow clients.  An account that several listeners share counts once."""
    return sum(account.buffered for account in {each.slow for each in listeners})
