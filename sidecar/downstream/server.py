"""Server: all listeners of the process, and what their connections share.

The downstream sweep lives here: once a second the `expires` of each connection is compared with the clock.  Timeouts
towards clients are whole seconds and more, so no finer tick is needed, and no request needs a timer.
"""

from __future__ import annotations

import socket
from collections.abc import Callable
from functools import partial
from os import urandom
from typing import TYPE_CHECKING, Any, Final, Protocol

from sidecar.config.process_spec import LimitsSpec, ListenerSpec
from sidecar.control.compiler import Snapshot
from sidecar.core import events, metrics
from sidecar.core.env import Env
from sidecar.core.exchange import Exchange
from sidecar.core.message import write_http_date
from sidecar.core.outcome import Outcome
from sidecar.downstream.listener import Listener
from sidecar.downstream.sockets import Make

if TYPE_CHECKING:
    from sidecar.telemetry.spec import TelemetrySpec

SWEEP_SECONDS: Final = 1.0
"""Pause between two sweeps."""
DRAIN_POLL_SECONDS: Final = 0.02
"""Pause between two looks whether all connections are closed."""
Recorder = Callable[[Exchange, Outcome, str, float], None]
"""Takes an exchange that has ended, its outcome, its failure code (empty for none) and its duration in seconds."""


class Telemetry(Protocol):
    """Telemetry as the server needs it (`sidecar.telemetry.pipeline`)."""

    @property
    def begin(self) -> Callable[[Exchange], None] | None:
        """Callback for each request before it is routed; None while no request is traced."""

    def use(self, spec: TelemetrySpec | None, service: str) -> None:
        """Apply the telemetry settings of a snapshot; never raises."""


class Server:
    """All listeners of the process."""

    def __init__(self, env: Env, recorder: Recorder, telemetry: Telemetry, make_socket: Make = socket.socket) -> None:
        self.env = env
        self.make_socket = make_socket
        self.telemetry = telemetry
        self.recorder = recorder
        self.limits = LimitsSpec.built_in()
        """Limits of the snapshot in force."""
        self.listeners: dict[str, Listener] = {}
        """Listeners of the snapshot in force, by name."""
        self.draining_listeners: set[Listener] = set()
        """Listeners that a reload has dropped, while they have connections."""
        self.open_connections = 0
        """Number of connections of all listeners."""
        self.hop_key = urandom(16)
        """Makes the names of listeners in X-Sidecar-Hops this process's own."""
        self.date = write_http_date(env.wall())
        """Value of the Date field, renewed by the sweep."""
        self._timer: Any = None

    def start(self) -> None:
        """Start the sweep."""
        self._sweep()

    def _sweep(self) -> None:
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
                except Exception as error:  # a bug in one connection must not stop the sweep of the others
                    self.env.emit(events.BUG, request=repr(connection), error=error)
                    connection.abort()
        self.draining_listeners = {listener for listener in self.draining_listeners if listener.connections}
        self._timer = self.env.call_later(SWEEP_SECONDS, self._sweep)

    async def prepare(self, specs: dict[str, ListenerSpec]) -> dict[str, Listener]:
        """Bind listeners that are new or changed, and leave the others alone.  A changed listener shares its sockets
        with the one that it replaces until `apply`.  Raises `OSError`, with nothing bound."""
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
        """Close the listeners that `prepare` has bound, because the policies are not applied after all."""
        for listener in bound.values():
            listener.stop_accepting()

    def apply(self, snapshot: Snapshot, bound: dict[str, Listener]) -> None:
        """Put a snapshot in force: its listeners use it, dropped and replaced ones drain.  Never raises."""
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
        """Register the gauges of a listener's name, which draining listeners of that name share."""

        namesakes = partial(self._namesakes, name)
        gauge, labels = self.env.meter.gauge, {"listener": name, "url.scheme": scheme.decode()}
        gauge(metrics.CONNECTIONS, lambda: sum(len(each.connections) for each in namesakes()), listener=name)
        gauge(metrics.SLOW_CLIENT_BYTES, lambda: _buffered(namesakes()), listener=name)
        gauge(metrics.REQUESTS_ACTIVE, lambda: sum(e.active for e in namesakes() if e.scheme == scheme), **labels)

    async def drain(self, timeout: float) -> int:
        """Stop accepting, let requests end for at most `timeout` seconds, then abort the connections that are left;
        return their number."""
        for listener in (*self.listeners.values(), *self.draining_listeners):
            listener.drain()
        until = self.env.now() + timeout
        while self.open_connections and self.env.now() < until:
            await self.env.sleep(DRAIN_POLL_SECONDS)
        left = self.open_connections
        self.abort()
        return left

    def abort(self) -> None:
        """Abort all connections and stop the sweep."""
        for listener in (*self.listeners.values(), *self.draining_listeners):
            for connection in list(listener.connections):
                connection.abort()
        if self._timer is not None:
            self._timer.cancel()

    def _namesakes(self, name: str) -> list[Listener]:
        """Return the listeners of one name: the one in force first, then those that it has replaced."""
        return [each for each in (*self.listeners.values(), *self.draining_listeners) if each.name == name]

    def describe(self) -> dict[str, Any]:
        """Return the listeners' state as JSON-ready values; a listener counts what those have that it has replaced."""
        state = {}
        for listener in (*self.listeners.values(), *self.draining_listeners):
            if listener.name not in state:
                namesakes = self._namesakes(listener.name)
                state[listener.name] = {
                    "addresses": listener.addresses,
                    "tls": listener.certificates is not None,
                    "connections": sum(len(each.connections) for each in namesakes),
                    "slow_client_bytes": _buffered(namesakes),
                    "draining": listener.is_draining,
                }
        return state


def _buffered(listeners: list[Listener]) -> int:
    """Return the bytes buffered for slow clients; listeners that replaced each other share one account."""
    return sum(account.buffered for account in {each.slow for each in listeners})
