"""Policies in force on a virtual loop: real listeners' connections, real pipelines, real upstream clients."""

from __future__ import annotations

import asyncio
import random
from dataclasses import replace
from typing import Any, Final, NamedTuple

from sidecar.config.spec import PolicySpec, RouteSpec, UpstreamSpec
from sidecar.control.compiler import Snapshot, compile_policies
from sidecar.control.state import StateStore
from sidecar.core import events
from sidecar.core.env import Env
from sidecar.core.exchange import Exchange
from sidecar.core.outcome import Outcome
from sidecar.downstream.connection import Downstream
from sidecar.downstream.listener import Listener
from sidecar.downstream.server import Server
from sidecar.policytest.client import Client, Received
from sidecar.policytest.service import Script
from sidecar.policytest.spec import RequestSpec
from sidecar.simulation.network import Address, MemoryLoop, join
from sidecar.telemetry.metrics.registry import Registry
from sidecar.upstream.address import parse_address

INBOUND: Final = "inbound"
TURNS: Final = 20
"""Of the loop, after which all is done that needs no time."""
PATIENCE: Final = 600.0
"""Seconds after which a client gives up: a test that waits for ever should not."""
EPOCH: Final = 1_750_000_000.0
"""The Unix time at which a test begins."""


class Happened(NamedTuple):
    """One request and what came of it."""

    received: Received
    x: Exchange | None
    """As it was recorded; None where it never was."""
    outcome: Outcome | None
    seconds: float


class Untold:
    """Telemetry that tells nobody."""

    begin = None

    def use(self, *_: Any) -> None:
        """There is nothing to set."""


class World:
    """One test's.  Make it on a running `MemoryLoop`.  Raises `CompileError`."""

    def __init__(self, spec: PolicySpec, seed: int) -> None:
        loop = asyncio.get_running_loop()
        assert isinstance(loop, MemoryLoop)
        start = loop.time()
        self._loop = loop
        self.bugs: list[str] = []
        self.env = Env(
            now=loop.time,
            wall=lambda: EPOCH + loop.time() - start,
            sleep=asyncio.sleep,
            call_later=loop.call_later,
            spawn=loop.create_task,
            future=loop.create_future,
            rng=random.Random(seed),
            emit=self._note,
            meter=Registry(),
        )
        spec = replace(
            spec,
            upstreams={name: _simple(upstream) for name, upstream in spec.upstreams.items()},
            caches={name: cache.model_copy(update={"redis": None}) for name, cache in spec.caches.items()},
        )
        names = {address: name for name, upstream in spec.upstreams.items() for address in _addresses(upstream)}
        self.script = Script(self.env, names)
        loop.accept = self.script.accept
        self.store = StateStore()
        lease = self.store.lease()
        self.snapshot: Snapshot = compile_policies(spec, self.env, lease, metrics=_unmeasured)
        self.store.commit(lease)

    @property
    def listener(self) -> str:
        """Where requests come in that name no listener."""
        names = list(self.snapshot.spec.listeners)
        return INBOUND if INBOUND in names else names[0] if len(names) == 1 else ""

    async def ask(self, listener: str, request: RequestSpec) -> Happened:
        """One request, from the client's connection to its answer."""
        recorded: list[tuple[Exchange, Outcome]] = []
        server = Server(self.env, lambda x, outcome, _reason, _seconds: recorded.append((x, outcome)), Untold())
        server.limits = self.snapshot.spec.limits
        door = Listener(listener, self.snapshot.spec.listeners[listener], server)
        door.use(self.snapshot)
        began = self._loop.time()
        done: asyncio.Future[Received] = self._loop.create_future()
        client = Client(request, done)
        join(self._loop, client, Downstream(door))
        timer = self._loop.call_later(PATIENCE, client.give_up)
        received = await done
        timer.cancel()
        took = self._loop.time() - began
        await self.settle()
        x, outcome = recorded[0] if recorded else (None, None)
        return Happened(received, x, outcome, took)

    async def settle(self) -> None:
        """Let what is ready run."""
        for _ in range(TURNS):
            await asyncio.sleep(0)

    def breakers(self) -> dict[str, str]:
        """The state of every breaker, by the name of what it stands under."""
        found = {}
        for key, thing in self.store.objects().items():
            if key[0] == "breaker":
                found[key[-1]] = thing.describe()["state"]
        return found

    def _note(self, event: str, /, **attributes: Any) -> None:
        if event == events.BUG:
            self.bugs.append(", ".join(f"{name}: {value!r}" for name, value in attributes.items()))


class _Unmeasured:
    """Where durations go that nobody looks at."""

    def record(self, *_: Any) -> None:
        """Forget it."""


def _unmeasured(_: RouteSpec) -> Any:
    return _Unmeasured()


def _simple(spec: UpstreamSpec) -> UpstreamSpec:
    """An upstream whose endpoints are known, without what needs a real network."""
    changed: dict[str, Any] = {"health_check": None, "tls": None, "discover": None}
    if spec.discover is not None:
        changed["endpoints"] = (f"{spec.discover.scheme}://{spec.discover.dns}:{spec.discover.port}",)
    return spec.model_copy(update=changed)


def _addresses(spec: UpstreamSpec) -> list[Address]:
    found = [parse_address(url) for url in spec.endpoints or ()]
    return [(address.path, None) if address.path else (address.host, address.port) for address in found]
