"""One arm of a scenario, from the start of its parts to its recording."""

from __future__ import annotations

import asyncio
from collections.abc import Callable

from chaos.cluster.base import Cluster, ClusterError
from chaos.parts.part import Row
from chaos.scenario.files import Loaded
from chaos.timeline import Timeline
from chaos.topology import Topology
from chaos.verdict.recording import Recording

LEAD = 0.3
"""Seconds from the last part's start to the first request."""
SAMPLE_EVERY = 0.5
GRACE = 4.0
"""For the last answers."""

Progress = Callable[[str], None]


class Collector:
    """Takes the rows of all parts, and is the guard of their number."""

    def __init__(self, recording: Recording, most: int) -> None:
        self.recording = recording
        self.most = most
        self.count = 0
        self.zero: float | None = None
        self.early: list[Row] = []

    def report(self, row: Row) -> None:
        if row[0] == "note":
            if row[1] not in self.recording.notes:
                self.recording.notes.append(row[1])
            return
        self.count += 1
        if self.count > self.most:
            return
        if self.zero is None:
            self.early.append(row)
        else:
            self.recording.add(row, self.zero)

    def begin(self, zero: float) -> None:
        self.zero = zero
        for row in self.early:
            self.recording.add(row, zero)
        self.early.clear()


def blank(loaded: Loaded, arm: str, seed: int, without: bool) -> Recording:
    """A recording with nothing in it yet."""
    phases = loaded.scenario.phases
    during, after = phases.during, phases.during + phases.after
    decisive = loaded.scenario.decisive if without else {}
    return Recording(
        loaded.name, arm, seed, {"before": (-phases.before, 0.0), "during": (0.0, during), "after": (during, after)},
        without=[f"{name}: {block}" for name, blocks in decisive.items() for block in blocks],
    )  # fmt: skip


async def run_arm(
    loaded: Loaded,
    cluster: Cluster,
    collector: Collector,
    progress: Progress = lambda _: None,
    *,
    without: bool = False,
) -> Recording:
    """Run it, and close the cluster; the recording says in `trouble` what went wrong with the run itself."""
    recording = collector.recording
    began = cluster.now()
    topology = Topology(loaded, recording.arm, cluster, without)
    timeline: Timeline | None = None
    try:
        names = getattr(cluster, "names", None)
        if names is not None:
            names({f"{name}.test": {"addresses": ["127.0.0.1"]} for name in topology.named()})
        progress("starting")
        await topology.start()
        phases = loaded.scenario.phases
        start = cluster.now() + LEAD
        zero = start + phases.warm_up + phases.before
        collector.begin(zero)
        seconds = zero - start + phases.during + phases.after
        targets = {spec.to: topology.addresses_of(spec.to) for spec in loaded.scenario.load.values()}
        await cluster.tell("load", "run", targets=targets, at=start, seconds=seconds)
        timeline = Timeline(topology, zero, recording.faults.append)
        faults = asyncio.create_task(timeline.run())
        try:
            await _watch(cluster, collector, zero, start + seconds, faults, progress)
        finally:
            faults.cancel()
        limit = start + seconds + loaded.scenario.guard.overtime
        await cluster.tell("load", "wait", grace=min(GRACE, limit - cluster.now()))
        if not cluster.is_simulated:
            await asyncio.sleep(0.25)  # the last batch of rows
    except (ClusterError, OSError) as error:
        recording.trouble = str(error)
    finally:
        if timeline is not None:
            try:
                await timeline.undo_all()
            except (ClusterError, OSError) as error:
                recording.trouble = recording.trouble or f"a fault could not be undone: {error}"
        await cluster.close()
    recording.seconds = round(cluster.now() - began, 2)
    return recording


async def _watch(
    cluster: Cluster, collector: Collector, zero: float, until: float, faults: asyncio.Task[None], progress: Progress
) -> None:
    """Sample, tell where we are, and stop what exceeds its bounds."""
    while cluster.now() < until:
        await cluster.sleep(SAMPLE_EVERY)
        cluster.sample()
        progress(f"{cluster.now() - zero:+.0f} s")
        if faults.done() and faults.exception() is not None:
            raise ClusterError(f"a fault failed: {faults.exception()}")
        if collector.count > collector.most:
            raise ClusterError(f"the run produced more than {collector.most} rows")
