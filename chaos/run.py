"""One arm of a scenario, from the start of its parts to its recording.

The way through: `Topology` starts the parts on a cluster, the load begins, `Timeline` carries out the faults, and the
rows that all parts report become the recording.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from typing import Final

from chaos.cluster.base import Cluster, ClusterError
from chaos.parts.part import Row
from chaos.scenario.files import Loaded
from chaos.timeline import Timeline
from chaos.topology import LOAD, Topology
from chaos.verdict.recording import Recording

LEAD: Final = 0.3
"""Seconds from the start of the last part to the first request."""
SAMPLE_EVERY: Final = 0.5
"""Seconds between two samples of each sidecar."""
GRACE: Final = 4.0
"""Seconds that the last responses may take."""
LAST_ROWS: Final = 0.25
"""Seconds within which processes write their last rows."""

Progress = Callable[[str], None]


class RowSink:
    """Adds the rows of all parts to a recording, and bounds their number.

    - `most`: rows that are kept; `count`: rows so far.
    """

    def __init__(self, recording: Recording, most: int) -> None:
        self.recording = recording
        self.most = most
        self.count = 0
        self._zero: float | None = None
        self._before_begin: list[Row] = []

    def report(self, row: Row) -> None:
        """Add a row; those that come before `begin` wait for it."""
        if row[0] == "note":
            if row[1] not in self.recording.notes:
                self.recording.notes.append(row[1])
            return
        self.count += 1
        if self.count > self.most:
            return
        if self._zero is None:
            self._before_begin.append(row)
        else:
            self.recording.add(row, self._zero)

    def begin(self, zero: float) -> None:
        """Set the instant from which times in the recording count."""
        self._zero = zero
        for row in self._before_begin:
            self.recording.add(row, zero)
        self._before_begin.clear()


def empty_recording(loaded: Loaded, arm: str, seed: int, without: bool) -> Recording:
    """Return the recording of an arm, without rows as yet."""
    phases = loaded.scenario.phases
    during, after = phases.during, phases.during + phases.after
    decisive = loaded.scenario.decisive if without else {}
    return Recording(
        loaded.name, arm, seed, {"before": (-phases.before, 0.0), "during": (0.0, during), "after": (during, after)},
        without=[f"{name}: {block}" for name, blocks in decisive.items() for block in blocks],
    )  # fmt: skip


async def run_arm(
    loaded: Loaded, cluster: Cluster, rows: RowSink, progress: Progress = lambda _: None, *, without: bool = False
) -> Recording:
    """Run an arm and close its cluster; `trouble` of the recording is the reason if the run itself failed."""
    recording = rows.recording
    began = cluster.now()
    phases = loaded.scenario.phases
    topology = Topology(loaded, recording.arm, cluster, without)
    timeline: Timeline | None = None
    try:
        progress("starting")
        await topology.start()
        start = cluster.now() + LEAD
        zero = start + phases.warm_up + phases.before
        end = zero + phases.during + phases.after
        rows.begin(zero)
        await topology.begin_load(start, end - start)
        timeline = Timeline(topology, zero, recording.faults.append)
        faults = asyncio.create_task(timeline.run())
        try:
            await _watch(cluster, rows, zero, end, faults, progress)
        finally:
            faults.cancel()
        limit = end + loaded.scenario.guard.overtime
        await cluster.tell(LOAD, "wait", grace=min(GRACE, limit - cluster.now()))
        if not cluster.is_simulated:
            await asyncio.sleep(LAST_ROWS)
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
    cluster: Cluster, rows: RowSink, zero: float, until: float, faults: asyncio.Task[None], progress: Progress
) -> None:
    """Sample, and stop a run that exceeds its bounds: raises `ClusterError`."""
    while cluster.now() < until:
        await cluster.sleep(SAMPLE_EVERY)
        cluster.sample()
        progress(f"{cluster.now() - zero:+.0f} s")
        if faults.done() and faults.exception() is not None:
            raise ClusterError(f"a fault failed: {faults.exception()}")
        if rows.count > rows.most:
            raise ClusterError(f"the run produced more than {rows.most} rows")
