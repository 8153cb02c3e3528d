"""Timeline of faults: each begins and ends at its times in the scenario, and at the latest with the run.

A fault becomes a command to a part, or a change of the topology; neither has times of its own.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from typing import Any, Final

from chaos.scenario.spec import (
    AnswerFaultSpec,
    FaultSpec,
    GoawayFault,
    InsideFault,
    NamesFault,
    PolicyFault,
    ProcessFault,
    SlowFault,
    StoreFault,
    TcpFault,
    WorkerFault,
)
from chaos.topology import Topology, link_of
from chaos.verdict.recording import FaultRecord

COMMON: Final = {"on", "at", "for_", "replicas", "flap", "fault"}
"""Settings of every fault, which its part need not know."""
PRE_STOP: Final = 0.5
"""Seconds between the news that a replica terminates and its SIGTERM, as a `preStop` hook gives them."""
ENDINGS: Final = {"kill": "kill", "stop": "stop", "restart": "drain"}
"""Ending of a process, by the kind of fault."""


class Timeline:
    """All faults of a run.

    - `zero`: instant at which the phase `during` begins.
    - `in_force`: faults that have begun and not ended.
    """

    def __init__(self, topology: Topology, zero: float, note: Callable[[FaultRecord], None]) -> None:
        """`note` is called with each fault that has ended."""
        self.topology = topology
        self.cluster = topology.cluster
        self.zero = zero
        self.note = note
        self.in_force: dict[str, FaultSpec] = {}

    async def run(self) -> None:
        """Carry out all faults; return when the last has ended."""
        faults = self.topology.scenario.faults
        await asyncio.gather(*(self._run(f"fault-{n}", fault) for n, fault in enumerate(faults)))

    async def undo_all(self) -> None:
        """End the faults that are still in force: the run was stopped early."""
        for name, fault in list(self.in_force.items()):
            await self._end(name, fault)

    async def _run(self, name: str, fault: FaultSpec) -> None:
        """Carry out one fault from its start to its end, with its repetitions, and record it."""
        await self._until(fault.at)
        began = self.cluster.now() - self.zero
        end = fault.at + fault.for_
        if isinstance(fault, ProcessFault) and fault.one_by_one:
            await self._one_by_one(name, fault)
        elif isinstance(fault, WorkerFault):
            await self._crash(name, fault)
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
        self.note(FaultRecord(what, round(began, 3), round(self.cluster.now() - self.zero, 3)))

    async def _one_by_one(self, name: str, fault: ProcessFault) -> None:
        """Carry out a fault at each replica in turn."""
        for number in range(len(self.topology.replicas(fault.on))):
            one = fault.model_copy(update={"replicas": [number]})
            await self._begin(f"{name}.{number}", one)
            await self.cluster.sleep(fault.for_)
            await self._end(f"{name}.{number}", one)

    async def _crash(self, name: str, fault: WorkerFault) -> None:
        """Kill a worker again and again."""
        self.in_force[name] = fault
        while self.cluster.now() < self.zero + fault.at + fault.for_:
            for replica in self._targets(fault):
                for process in self.topology.processes(fault.on, replica, "sidecar"):
                    await self.cluster.end(process, "kill_worker")
            await self.cluster.sleep(fault.every)
        await self._end(name, fault)

    async def _until(self, at: float) -> None:
        """Wait until an instant of the scenario."""
        wait = self.zero + at - self.cluster.now()
        if wait > 0:
            await self.cluster.sleep(wait)

    def _targets(self, fault: FaultSpec) -> list[str]:
        """Return the replicas that a fault strikes."""
        replicas = self.topology.replicas(fault.on)
        return replicas if fault.replicas is None else [replicas[number] for number in fault.replicas]

    async def _begin(self, name: str, fault: FaultSpec) -> None:
        """Begin a fault: send its command to each replica, or change the topology."""
        self.in_force[name] = fault
        tell, how = self.cluster.tell, fault.model_dump(exclude=COMMON)
        for replica in self._targets(fault):
            match fault:
                case TcpFault():
                    await tell(link_of(replica), "toxic", id=name, kind=fault.fault, **how)
                case AnswerFaultSpec():
                    await tell(replica, "answer", id=name, kind=fault.fault, **how)
                case SlowFault():
                    await tell(replica, "slow", times=fault.times, by=fault.by)
                case InsideFault():
                    known: dict[str, dict[str, Any]] = {"cpu": {"share": fault.share}, "memory": {"rate": fault.rate}}
                    await tell(replica, "inside", id=name, kind=fault.fault, **known.get(fault.fault, {}))
                case GoawayFault():
                    await tell(replica, "goaway", id=name, every=fault.every)
                case StoreFault():
                    await tell(replica, "full")
                case ProcessFault():
                    is_told = fault.fault == "restart" and await self.topology.announce(
                        fault.on, replica, "terminating"
                    )
                    if is_told:
                        await self.cluster.sleep(PRE_STOP)
                    for process in self.topology.processes(fault.on, replica, fault.of):
                        await self.cluster.end(process, ENDINGS[fault.fault])
                    if is_told:
                        await self.topology.announce(fault.on, replica, "gone")
                case PolicyFault():
                    await self.topology.push(fault.on, replica, fault.file)
                case NamesFault():
                    self.topology.resolve(fault)

    async def _end(self, name: str, fault: FaultSpec) -> None:
        """Undo a fault."""
        self.in_force.pop(name, None)
        tell = self.cluster.tell
        for replica in self._targets(fault):
            match fault:
                case TcpFault():
                    await tell(link_of(replica), "undo", id=name)
                case AnswerFaultSpec() | InsideFault() | GoawayFault() | StoreFault():
                    await tell(replica, "undo", id=name)
                case SlowFault():
                    await tell(replica, "slow")
                case ProcessFault(fault="stop"):
                    for process in self.topology.processes(fault.on, replica, fault.of):
                        await self.cluster.end(process, "continue")
                case ProcessFault():
                    await self.topology.restart(fault.on, replica, fault.of)
                case PolicyFault():
                    await self.topology.push(fault.on, replica, None)
                case NamesFault():
                    self.topology.resolve(None)
