"""Listeners: their sockets, their connections, and what all connections of the process share.

The sweep of the downstream side lives here: once a second each connection's `expires` is compared with the clock, 0.5
ms for 10 000 connections.  Timeouts towards clients are whole seconds and more, so no finer tick is needed.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, Final, Protocol

from sidecar.config.process_spec import LimitsSpec, ListenerSpec
from sidecar.control.compiler import Snapshot
from sidecar.core import events, metrics
from sidecar.core.env import Env
from sidecar.core.exchange import Exchange
from sidecar.core.headers import write_http_date
from sidecar.core.outcome import Outcome
from sidecar.downstream.listener import Listener
from sidecar.telemetry.spec import TelemetrySpec

SWEEP: Final = 1.0
"""Seconds."""
DRAIN_POLL: Final = 0.02
Recorder = Callable[[Exchange, Outcome, str, float], None]
"""Takes each exchange that has ended: outcome, failure code (empty for none) and duration in seconds."""


class Telemetry(Protocol):
    """What a server asks of `sidecar.telemetry.pipeline`."""

    @property
    def begin(self) -> Callable[[Exchange], None] | None:
        """Called once for each request; None where nobody traces."""

    def use(self, spec: TelemetrySpec | None, service: str) -> None:
        """Take the settings of a set of policies.  Cannot fail."""


class Server:
    """All listeners of the process."""

    def __init__(self, env: Env, recorder: Recorder, telemetry: Telemetry) -> None:
        self.env = env
        self.telemetry = telemetry
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
                try:
                    connection.expire(now)
                except Exception as error:  # a bug in one connection must not stop the sweep of all
                    self.env.emit(events.BUG, request=repr(connection), error=error)
                    connection.abort()
        self.leaving = {listener for listener in self.leaving if listener.connections}
        self._timer = self.env.call_later(SWEEP, self._sweep)

    async def prepare(self, specs: dict[str, ListenerSpec]) -> dict[str, Listener]:
        """Bind what is new or changed, and touch nothing else: a changed listener shares its address with the one it
        replaces until `apply`.  Raises `OSError`, with nothing bound."""
        bound: dict[str, Listener] = {}
        leaving = [listener for name, listener in self.listeners.items() if specs.get(name) != listener.spec]
        predecessors = {listener.spec.address: listener for listener in leaving}
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
        for listener in bound.values():
            self._measure(listener.name, listener.scheme)
        self.limits = snapshot.spec.limits
        self.telemetry.use(snapshot.spec.telemetry, snapshot.spec.service)
        for listener in self.listeners.values():
            listener.use(snapshot)
        for listener in bound.values():
            listener.accept()

    def _measure(self, name: str, scheme: bytes) -> None:
        """Gauges of a listener's name, which its predecessors that still have connections share with it."""

        def those() -> list[Listener]:
            return [each for each in (*self.listeners.values(), *self.leaving) if each.name == name]

        gauge, labels = self.env.meter.gauge, {"listener": name, "url.scheme": scheme.decode()}
        gauge(metrics.CONNECTIONS, lambda: sum(len(each.connections) for each in those()), listener=name)
        gauge(metrics.REQUESTS_ACTIVE, lambda: sum(e.active for e in those() if e.scheme == scheme), **labels)

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
