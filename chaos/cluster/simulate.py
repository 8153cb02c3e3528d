"""Scenarios in virtual time: all parts and sidecars of an arm on one virtual loop, in one thread.

The sidecar's own code runs, from its listeners to its upstream connections.  A run is a function of the files and the
seed.  It differs from a run with processes in this:

1. Only waiting takes time; work of the CPU takes none.
2. A service that is stopped (SIGSTOP) freezes at its next step.
3. Memory is not measured.
"""

from __future__ import annotations

import asyncio
import random
import socket
from collections.abc import Awaitable, Callable, Mapping, Sequence
from typing import Any, Final, cast

from chaos.cluster.base import Addresses, ClusterError
from chaos.parts.kinds import make_part
from chaos.parts.part import Part, PartEnv, Row, split
from chaos.parts.service import Service
from chaos.run import RowSink, empty_recording, run_arm
from chaos.scenario.files import Loaded
from chaos.verdict.recording import Recording
from sidecar.config.files import Source, digest
from sidecar.control.reload import Control, PolicySource
from sidecar.control.state import StateStore
from sidecar.core.env import Env
from sidecar.demo import examples
from sidecar.downstream.server import Server
from sidecar.simulation.loop import VirtualLoop
from sidecar.simulation.no_telemetry import NoTelemetry
from sidecar.telemetry.metrics.registry import Registry
from sidecar.telemetry.plain import Secrets

ENDING: Final = 0.01
"""Seconds in which the tasks of a sidecar end."""


def simulate(loaded: Loaded, arm: str, seed: int, *, without: bool = False) -> Recording:
    """Return the recording of one arm; `without` its decisive policy blocks."""
    recording = empty_recording(loaded, arm, seed, without)
    recording.is_simulated = True
    rows = RowSink(recording, loaded.scenario.guard.rows)

    async def run() -> None:
        await run_arm(loaded, Virtual(seed, rows.report), rows, without=without)

    with asyncio.Runner(loop_factory=VirtualLoop) as runner:
        runner.run(run())  # without a result, of which `Runner` would build the text as it restores SIGINT's handler
    return recording


def running_loop() -> VirtualLoop:
    """Return the running loop, which has to be a virtual one."""
    loop = asyncio.get_running_loop()
    assert isinstance(loop, VirtualLoop)
    return loop


class VirtualSidecar:
    """Sidecar without a process: as `sidecar run` composes it, without admin listener and log.

    - `sources`: its policy files; replaced ones are noticed as in production.
    - `outbound`: address of its outbound listener; empty before the start, and without one.
    - `is_dead`: True once it has ended.
    """

    def __init__(self, name: str, seed: int, report: Callable[[Row], None]) -> None:
        loop = running_loop()
        self.name = name
        self.outbound = ""
        self.is_dead = False
        self.secrets = secrets = Secrets()

        def emit(event: str, /, **facts: Any) -> None:
            if not self.is_dead:
                report(
                    ("event", loop.time(), name, event, {key: secrets.text(str(value)) for key, value in facts.items()})
                )

        registry = Registry()
        self.env = Env.on(loop, wall=loop.wall, rng=random.Random(f"{seed}:{name}"), emit=emit, meter=registry)
        self.store = StateStore(registry)
        self.server = Server(self.env, lambda *_: None, NoTelemetry(), loop.network.socket)
        self.sources: list[Source] = []
        self.control: Control | None = None
        self.watching: asyncio.Task[None] | None = None

    async def start(self, sources: Sequence[Source], environ: Mapping[str, str]) -> Addresses:
        """Serve the policies and return the addresses of the listeners."""
        self.sources = list(sources)
        origin = PolicySource(
            self.name, environ, lambda _: self.sources, lambda _: digest(self.sources), cast("Any", _directly)
        )
        self.control = control = Control(self.env, self.store, origin, self.server, show=self.secrets.mask)
        first = await control.reload("start")
        if first.result == "rejected":
            raise ClusterError(f"{self.name}: " + "\n".join(first.problems))
        self.watching = self.env.spawn(control.watch())
        self.server.start()
        for listener in self.server.listeners.values():
            if listener.capture is not None:
                listener.capture.open_socket = running_loop().network.open_socket
        found = {name: listener.addresses[0] for name, listener in self.server.listeners.items()}
        self.outbound = found.get("outbound", "")
        return Addresses(found.get("inbound", ""), found.get("outbound", ""))

    async def end(self, how: str) -> None:
        """End by `drain` or `kill`."""
        if self.watching is not None:
            self.watching.cancel()
        if how == "drain":
            snapshot = None if self.control is None else self.control.snapshot
            await self.server.drain(snapshot.spec.limits.drain_timeout if snapshot is not None else 0.0)
        self.is_dead = True
        for listener in self.server.listeners.values():
            listener.stop_accepting()
        self.server.abort()
        for state in self.store.objects().values():
            if (retire := getattr(state, "retire", None)) is not None:
                retire()
        await asyncio.sleep(ENDING)

    @property
    def connections(self) -> int:
        """Open connections on both sides."""
        pools = self.store.describe().get("pools", {}).values()
        upstream: int = sum(pool.get("open", 0) for facts in pools for pool in facts.get("pools", {}).values())
        return self.server.open_connections + upstream


async def _directly(work: Callable[[], Any]) -> Any:
    """Run a function on the loop, where nothing blocks; production uses a worker thread."""
    return work()


class Virtual:
    """Cluster on one virtual loop."""

    is_simulated = True

    def __init__(self, seed: int, report: Callable[[Row], None]) -> None:
        self.seed = seed
        self.report = report
        self.loop = running_loop()
        self.parts: dict[str, Part] = {}
        self.sidecars: dict[str, VirtualSidecar] = {}
        self.table: dict[str, Any] = {}
        self.loop.network.resolve = self._resolve

    def now(self) -> float:
        return self.loop.time()

    async def sleep(self, seconds: float) -> None:
        await asyncio.sleep(seconds)

    async def start(self, kind: str, name: str, spec: dict[str, Any]) -> list[str]:
        stall: Callable[[float], Awaitable[None]] = asyncio.sleep
        env = PartEnv(self.loop.time, f"{self.seed}:{name}", self.report, stall, is_virtual=True)
        part = self.parts[name] = make_part(kind, name, spec, env)
        return await part.start()

    async def tell(self, name: str, command: str, **arguments: Any) -> None:
        if name in self.parts:
            await self.parts[name].do(command, **arguments)

    async def start_sidecar(self, name: str, sources: Sequence[Source], env: Mapping[str, str]) -> Addresses:
        sidecar = self.sidecars[name] = VirtualSidecar(name, self.seed, self.report)
        return await sidecar.start(sources, {"INBOUND": "127.0.0.1:0", "OUTBOUND": "127.0.0.1:0", **env})

    def redirected(self, name: str, addresses: Sequence[str]) -> list[str]:
        outbound = split(self.sidecars[name].outbound)
        found = [self.loop.network.redirect(split(address), outbound) for address in addresses]
        return [f"{host}:{port}" for host, port in found]

    async def push(self, name: str, sources: Sequence[Source]) -> None:
        self.sidecars[name].sources = list(sources)

    def examples(self) -> str:
        return str(examples.find(""))

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
