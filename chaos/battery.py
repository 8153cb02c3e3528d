"""Scenarios with all their arms: run side by side and judged.

1. A scenario has passed if the bare arm shows its cascade and the sidecar arm meets its expectations.
2. The Envoy arm and that with recommended values are there to compare: they are judged by the expectations of the
   sidecar arm, and never fail the scenario.
"""

from __future__ import annotations

import asyncio
import tempfile
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from chaos.cluster.containers import Containers
from chaos.cluster.local import Local
from chaos.cluster.namespaces import Namespaces
from chaos.run import RowSink, empty_recording, run_arm
from chaos.scenario.files import Loaded
from chaos.scenario.spec import RECOMMENDED, Scenario
from chaos.verdict.cause import cause
from chaos.verdict.judge import Verdict, judge, passed
from chaos.verdict.recording import Recording

Progress = Callable[[str], None]


@dataclass(frozen=True)
class Arm:
    """Arm with its verdicts."""

    name: str
    recording: Recording
    verdicts: list[Verdict]

    @property
    def passed(self) -> bool:
        return passed(self.verdicts)

    @property
    def counts(self) -> bool:
        """True if the scenario's result depends on this arm."""
        return self.name not in ("envoy", RECOMMENDED)


@dataclass(frozen=True)
class Result:
    """Scenario with its judged arms."""

    name: str
    scenario: Scenario
    arms: list[Arm]
    path: Path
    """File of the scenario."""
    network: str = ""
    """Network of containers that it ran in; empty without containers."""

    @property
    def passed(self) -> bool:
        return all(arm.passed for arm in self.arms if arm.counts)

    @property
    def cause(self) -> str:
        """Return the sentence that says which line of which policy contained the failure."""
        return cause(Loaded(self.name, self.path, self.scenario), self.arms)

    @property
    def headline(self) -> str:
        """Return the result of each arm in words."""
        words = []
        for arm in self.arms:
            if arm.recording.trouble:
                word = "run stopped"
            elif arm.name == "bare":
                word = "cascade seen" if arm.passed else "NO cascade seen"
            elif arm.passed:
                word = "contained"
            else:
                missed = sum(not verdict.passed for verdict in arm.verdicts)
                word = f"{missed} expectation{'s' * (missed != 1)} NOT met"
            words.append(f"{arm.name}: {word}")
        return "; ".join(words)


async def run(
    loaded: Loaded, arms: Sequence[str], seed: int, *, without: bool = False, progress: Progress = lambda _: None,
    network: str = "",
) -> Result:  # fmt: skip
    """Run one scenario with real processes, its arms side by side, so that a busy machine affects all alike.

    With a `network` they run in containers on it.  Raises `ClusterError` where there is no engine.
    """
    chosen = [arm for arm in arms if arm in loaded.scenario.runnable]
    with tempfile.TemporaryDirectory(prefix="chaos-") as directory:
        recordings = await asyncio.gather(
            *(_run_arm(loaded, arm, seed, Path(directory) / arm, without, progress, network) for arm in chosen)
        )
    return result(loaded, recordings, network)


async def _run_arm(
    loaded: Loaded, arm: str, seed: int, directory: Path, without: bool, progress: Progress, network: str
) -> Recording:
    directory.mkdir()
    guard = loaded.scenario.guard
    rows = RowSink(empty_recording(loaded, arm, seed, without and arm != "bare"), guard.rows)
    where = (directory, rows.report, seed, arm, guard.memory)
    captured = [] if arm == "bare" else loaded.scenario.captured_replicas
    if network:
        cluster: Local = Containers(*where, network)
    else:
        cluster = Namespaces(*where, captured) if captured else Local(*where)
    return await run_arm(loaded, cluster, rows, lambda text: progress(f"{loaded.name}, {arm}: {text}"), without=without)


def simulated(loaded: Loaded, arms: Sequence[str], seed: int, *, without: bool = False) -> Result:
    """Run one scenario in virtual time."""
    from chaos.cluster.simulate import simulate

    return result(
        loaded, [simulate(loaded, arm, seed, without=without) for arm in arms if arm in loaded.scenario.runnable]
    )


def result(loaded: Loaded, recordings: Sequence[Recording], network: str = "") -> Result:
    """Judge the recordings of a scenario."""
    arms = [Arm(each.arm, each, judge(each, loaded.scenario)) for each in recordings]
    return Result(loaded.name, loaded.scenario, arms, loaded.path, network)


def document(results: Sequence[Result]) -> dict[str, Any]:
    """Return results and recordings, JSON-ready."""
    return {
        "results": [
            {
                "scenario": each.name,
                "passed": each.passed,
                "cause": each.cause,
                "arms": [
                    {
                        "arm": arm.name,
                        "passed": arm.passed,
                        "verdicts": [verdict._asdict() for verdict in arm.verdicts],
                        "recording": arm.recording.json(),
                    }
                    for arm in each.arms
                ],
            }
            for each in results
        ]
    }


def replayed(document: dict[str, Any], scenarios: Sequence[Loaded]) -> list[Result]:
    """Judge the recordings of a document again.  Raises `KeyError` for a scenario that is not among `scenarios`."""
    known = {loaded.name: loaded for loaded in scenarios}
    return [
        result(known[each["scenario"]], [Recording.of(arm["recording"]) for arm in each["arms"]])
        for each in document["results"]
    ]
