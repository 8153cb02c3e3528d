"""Faults in time: each begins and ends when its scenario says so, and has ended when the run has, however that ends."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from typing import Any

from chaos.scenario.spec import (
    AnswerFaultSpec,
    FaultSpec,
    InsideFault,
    NamesFault,
    PolicyFault,
    ProcessFault,
    SlowFault,
    StoreFault,
    TcpFault,
)
from chaos.topology import LINK, SIDECAR, Topology
from chaos.verdict.recording import Struck
from sidecar.config.files import Source

COMMON = {"on", "at", "for_", "replicas", "flap", "fault"}
NOWHERE = "127.0.0.9"
"""An address of loopback where nobody listens."""


class Timeline:
    """All faults of a run."""

    def __init__(self, topology: Topology, zero: float, note: Callable[[Struck], None]) -> None:
        self.topology = topology
        self.cluster = topology.cluster
        self.zero = zero
        self.note = note
        self.undo: dict[str, FaultSpec] = {}
        """Faults in force."""

    async def run(self) -> None:
        """All of them; ends when the last has ended."""
        faults = self.topology.scenario.faults
        await asyncio.gather(*(self._run(f"fault-{n}", fault) for n, fault in enumerate(faults)))

    async def _run(self, name: str, fault: FaultSpec) -> None:
        await self._until(fault.at)
        began = self.cluster.now() - self.zero
        end = fault.at + fault.for_
        if isinstance(fault, ProcessFault) and fault.one_by_one:
            await self._one_by_one(name, fault)
        elif fault.flap is None:
            await self._begin(name, fault)
            await self._until(end)
            await self._end(name, fault)
        else:
            at, turn = fault.at, 0
            while at < end:
                await self._begin(f"{name}.{turn}", fault)
                await self._until(min(at + fault.flap, end))
                await self._end(f"{name}.{turn}", fault)
                at, turn = at + 2 * fault.flap, turn + 1
                await self._until(min(at, end))
        what = f"{getattr(fault, 'fault', '')} {fault.on}"
        self.note(Struck(what, round(began, 3), round(self.cluster.now() - self.zero, 3)))

    async def _one_by_one(self, name: str, fault: ProcessFault) -> None:
        for number in range(len(self.topology.replicas(fault.on))):
            one = fault.model_copy(update={"replicas": [number]})
            await self._begin(f"{name}.{number}", one)
            await self.cluster.sleep(fault.for_)
            await self._end(f"{name}.{number}", one)

    async def _until(self, at: float) -> None:
        wait = self.zero + at - self.cluster.now()
        if wait > 0:
            await self.cluster.sleep(wait)

    async def undo_all(self) -> None:
        """End what is in force still: the run was stopped early."""
        for name, fault in list(self.undo.items()):
            await self._end(name, fault)

    def targets(self, fault: FaultSpec) -> list[str]:
        """The replicas that it strikes."""
        replicas = self.topology.replicas(fault.on)
        return replicas if fault.replicas is None else [replicas[number] for number in fault.replicas]

    # ----- one fault

    async def _begin(self, name: str, fault: FaultSpec) -> None:
        self.undo[name] = fault
        tell, how = self.cluster.tell, fault.model_dump(exclude=COMMON)
        for replica in self.targets(fault):
            match fault:
                case TcpFault():
                    await tell(replica + LINK, "toxic", id=name, kind=fault.fault, **how)
                case AnswerFaultSpec():
                    await tell(replica, "answer", id=name, kind=fault.fault, **how)
                case SlowFault():
                    await tell(replica, "slow", times=fault.times, by=fault.by)
                case InsideFault():
                    known: dict[str, dict[str, Any]] = {"cpu": {"share": fault.share}, "memory": {"rate": fault.rate}}
                    using = known.get(fault.fault, {})
                    await tell(replica, "inside", id=name, kind=fault.fault, **using)
                case StoreFault():
                    await tell(replica, "full")
                case ProcessFault():
                    for node in self._processes(fault, replica):
                        how_ends = {"kill": "kill", "stop": "stop", "restart": "drain"}[fault.fault]
                        await self.cluster.end(node, how_ends)
                case PolicyFault() if self.topology.has_sidecar(fault.on):
                    path = self.topology.loaded.path.parent / fault.file
                    await self.cluster.push(replica + SIDECAR, [Source(path.name, path.read_bytes())])
                case NamesFault():
                    self._resolve(fault)

    async def _end(self, name: str, fault: FaultSpec) -> None:
        self.undo.pop(name, None)
        tell, topology = self.cluster.tell, self.topology
        for replica in self.targets(fault):
            match fault:
                case TcpFault():
                    await tell(replica + LINK, "undo", id=name)
                case AnswerFaultSpec() | InsideFault() | StoreFault():
                    await tell(replica, "undo", id=name)
                case SlowFault():
                    await tell(replica, "slow")
                case ProcessFault(fault="stop"):
                    for node in self._processes(fault, replica):
                        await self.cluster.end(node, "continue")
                case ProcessFault():
                    if fault.of != "sidecar":
                        await topology.restart(fault.on, replica)
                    if fault.of != "service" and topology.has_sidecar(fault.on):
                        await topology.start_sidecar(fault.on, replica)
                case PolicyFault() if topology.has_sidecar(fault.on):
                    sources = topology.sources(fault.on, topology.env[replica])
                    await self.cluster.push(replica + SIDECAR, sources)
                case NamesFault():
                    self._resolve(None)

    def _processes(self, fault: ProcessFault, replica: str) -> list[str]:
        """The sidecar first, so that what is in flight is answered before the service goes."""
        nodes = []
        if fault.of != "service" and self.topology.has_sidecar(fault.on):
            nodes.append(replica + SIDECAR)
        if fault.of != "sidecar":
            nodes.append(replica)
        return nodes

    def _resolve(self, fault: NamesFault | None) -> None:
        table: dict[str, Any] = {f"{name}.test": {"addresses": ["127.0.0.1"]} for name in self.topology.named()}
        if fault is not None:
            entry = table[f"{fault.on}.test"]
            entry["fail"] = fault.fault == "names_fail"
            entry["delay"] = fault.by
            if fault.fault == "names_wrong":
                entry["addresses"] = [NOWHERE]
            elif fault.fault == "names_stale":
                entry["addresses"] = [NOWHERE, *entry["addresses"]]
        names = getattr(self.cluster, "names", None)
        if names is not None:
            names(table)
