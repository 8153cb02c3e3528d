"""The same scenarios on a virtual clock: the sidecar's own code, from its listeners to its upstream connections, and
the same services, links and load, all on one loop (`chaos.cluster.virtual`) in one thread.

What differs from a real run: no time passes but what somebody waits for, so nothing costs CPU; SIGSTOP freezes a
service at its next step; and there is no memory to be looked at.  A run is a function of the files and the seed.
"""

from __future__ import annotations

import asyncio
import random
import socket
from collections.abc import Awaitable, Callable, Mapping, Sequence
from typing import Any, cast

from chaos.cluster.base import Addresses, ClusterError
from chaos.cluster.node import make_part
from chaos.cluster.virtual import VirtualLoop
from chaos.parts.part import Part, Row, World
from chaos.parts.service import Service
from chaos.run import Collector, blank, run_arm
from chaos.scenario.files import Loaded
from chaos.verdict.recording import Recording
from sidecar.config.files import Source, digest
from sidecar.control.reload import Control, Origin
from sidecar.control.state import StateStore
from sidecar.core.env import Env
from sidecar.core.exchange import Exchange
from sidecar.downstream.server import Server
from sidecar.telemetry.metrics.registry import Registry

ENDING = 0.01
"""Seconds in which what a sidecar has spawned comes to its end."""
WALL = 1_750_000_000.0
"""Seconds since 1970 at the loop's second 0."""


def simulate(loaded: Loaded, arm: str, seed: int, *, without: bool = False) -> Recording:
    """One arm, in virtual time."""
    recording = blank(loaded, arm, seed, without)
    recording.is_simulated = True
    collector = Collector(recording, loaded.scenario.guard.rows)

    async def run() -> Recording:
        return await run_arm(loaded, Virtual(seed, collector.report), collector, without=without)

    with asyncio.Runner(loop_factory=VirtualLoop) as runner:
        return runner.run(run())


class Silent:
    """Telemetry that nobody listens to."""

    begin: Callable[[Exchange], None] | None = None

    def use(self, spec: object, service: str) -> None:
        pass


class VirtualSidecar:
    """A sidecar: what `sidecar run` puts together, without a process, an admin listener and a log."""

    def __init__(self, name: str, seed: int, report: Callable[[Row], None]) -> None:
        loop = asyncio.get_running_loop()
        self.name = name
        self.registry = Registry()
        self.is_dead = False

        def emit(event: str, /, **facts: Any) -> None:
            if not self.is_dead:
                report(("event", loop.time(), name, event, {key: str(value) for key, value in facts.items()}))

        self.env = Env(
            now=loop.time,
            wall=lambda: WALL + loop.time(),
            sleep=asyncio.sleep,
            call_later=loop.call_later,
            spawn=loop.create_task,
            future=loop.create_future,
            rng=random.Random(f"{seed}:{name}"),
            emit=emit,
            meter=self.registry,
        )
        self.store = StateStore(self.registry)
        self.server = Server(self.env, lambda *_: None, Silent())
        self.sources: list[Source] = []
        self.control: Control | None = None
        self.watching: asyncio.Task[None] | None = None

    async def start(self, sources: Sequence[Source], environ: Mapping[str, str]) -> Addresses:
        self.sources = list(sources)
        origin = Origin(
            self.name, environ, lambda _: self.sources, lambda _: digest(self.sources), cast("Any", directly)
        )
        self.control = control = Control(self.env, self.store, origin, self.server)
        first = await control.reload("start")
        if first.result == "rejected":
            raise ClusterError(f"{self.name}: " + "\n".join(first.problems))
        self.watching = self.env.spawn(control.watch())
        self.server.start()
        found = {name: listener.addresses[0] for name, listener in self.server.listeners.items()}
        return Addresses(found.get("inbound", ""), found.get("outbound", ""))

    async def end(self, how: str) -> None:
        if self.watching is not None:
            self.watching.cancel()
        if how == "drain":
            snapshot = None if self.control is None else self.control.snapshot
            await self.server.drain(snapshot.spec.limits.drain_timeout if snapshot is not None else 0.0)
        self.is_dead = True
        for listener in self.server.listeners.values():
            listener.stop_accepting()
        self.server.abort()
        for thing in self.store.objects().values():
            if (retire := getattr(thing, "retire", None)) is not None:
                retire()
        await asyncio.sleep(ENDING)

    @property
    def connections(self) -> int:
        pools = self.store.describe().get("pools", {}).values()
        outgoing: int = sum(pool.get("open", 0) for facts in pools for pool in facts.get("pools", {}).values())
        return self.server.open_connections + outgoing


async def directly(work: Callable[[], Any]) -> Any:
    """In place of a thread."""
    return work()


class Virtual:
    """The cluster."""

    is_simulated = True

    def __init__(self, seed: int, report: Callable[[Row], None]) -> None:
        self.seed = seed
        self.report = report
        self.loop = cast("VirtualLoop", asyncio.get_running_loop())
        self.parts: dict[str, Part] = {}
        self.sidecars: dict[str, VirtualSidecar] = {}
        self.table: dict[str, Any] = {}
        self.loop.names = self._resolve

    def now(self) -> float:
        return self.loop.time()

    async def sleep(self, seconds: float) -> None:
        await asyncio.sleep(seconds)

    async def start(self, kind: str, name: str, spec: dict[str, Any]) -> list[str]:
        stall: Callable[[float], Awaitable[None]] = asyncio.sleep
        world = World(self.loop.time, f"{self.seed}:{name}", self.report, stall, is_virtual=True)
        part = self.parts[name] = make_part(kind, name, spec, world)
        return await part.start()

    async def tell(self, name: str, command: str, **arguments: Any) -> None:
        if name in self.parts:
            await self.parts[name].do(command, **arguments)

    async def start_sidecar(self, name: str, sources: Sequence[Source], env: Mapping[str, str]) -> Addresses:
        sidecar = self.sidecars[name] = VirtualSidecar(name, self.seed, self.report)
        return await sidecar.start(sources, {"INBOUND": "127.0.0.1:0", "OUTBOUND": "127.0.0.1:0", **env})

    async def push(self, name: str, sources: Sequence[Source]) -> None:
        self.sidecars[name].sources = list(sources)

    def names(self, table: dict[str, Any]) -> None:
        self.table = table

    def _resolve(self, host: str) -> tuple[float, list[str]]:
        entry = self.table.get(host)
        if entry is None or entry.get("fail"):
            raise socket.gaierror(socket.EAI_NONAME, "Name or service not known")
        return entry.get("delay", 0.0), list(entry["addresses"])

    async def end(self, name: str, how: str) -> None:
        if name in self.sidecars:
            await self.sidecars[name].end(how)
            return
        part = self.parts[name]
        if how in ("stop", "continue"):
            assert isinstance(part, Service)
            part.freeze(how == "stop")
        else:
            await part.stop()
            del self.parts[name]

    def sample(self) -> None:
        for name, sidecar in self.sidecars.items():
            if not sidecar.is_dead:
                self.report(("sample", name, self.now(), 0, 0, sidecar.connections))

    async def close(self) -> None:
        for part in self.parts.values():
            await part.stop()
        for sidecar in self.sidecars.values():
            if not sidecar.is_dead:
                await sidecar.end("kill")
