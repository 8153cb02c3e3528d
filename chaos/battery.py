"""Scenarios with all their arms: run side by side, judged, and put together.

A scenario has passed if the bare arm shows its cascade and the sidecar arm meets its expectations.  The Envoy arm is
judged by the same expectations as the sidecar's and is there to compare: its failures are findings, not failures.
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
from chaos.run import Collector, blank, run_arm
from chaos.scenario.files import Loaded
from chaos.scenario.spec import Scenario
from chaos.verdict.judge import Verdict, judge, passed
from chaos.verdict.recording import Recording

Progress = Callable[[str], None]


@dataclass(frozen=True)
class Arm:
    """One arm, judged."""

    name: str
    recording: Recording
    verdicts: list[Verdict]

    @property
    def passed(self) -> bool:
        return passed(self.verdicts)

    @property
    def counts(self) -> bool:
        """Does the result depend on it?"""
        return self.name != "envoy"


@dataclass(frozen=True)
class Result:
    """One scenario."""

    name: str
    scenario: Scenario
    arms: list[Arm]

    @property
    def passed(self) -> bool:
        return all(arm.passed for arm in self.arms if arm.counts)

    @property
    def headline(self) -> str:
        """The verdict in words."""
        words = []
        for arm in self.arms:
            if arm.recording.trouble:
                words.append(f"{arm.name}: the run was stopped")
            elif arm.name == "bare":
                words.append("without: the cascade happens" if arm.passed else "without: NO cascade was seen")
            elif arm.passed:
                words.append(f"{'with' if arm.name == 'sidecar' else arm.name}: it is contained")
            else:
                missed = sum(not verdict.passed for verdict in arm.verdicts)
                words.append(f"{'with' if arm.name == 'sidecar' else arm.name}: {missed} expectations NOT met")
        return "; ".join(words)


async def run(
    loaded: Loaded, arms: Sequence[str], seed: int, *, without: bool = False, progress: Progress = lambda _: None,
    network: str = "",
) -> Result:  # fmt: skip
    """One scenario with real processes, its arms side by side: they share the weather.

    With a `network` in containers on it.  Raises `ClusterError` where that cannot be.
    """
    chosen = [arm for arm in arms if arm in loaded.scenario.arms]
    with tempfile.TemporaryDirectory(prefix="chaos-") as directory:
        recordings = await asyncio.gather(
            *(_run_arm(loaded, arm, seed, Path(directory) / arm, without, progress, network) for arm in chosen)
        )
    return result(loaded, recordings)


async def _run_arm(
    loaded: Loaded, arm: str, seed: int, directory: Path, without: bool, progress: Progress, network: str
) -> Recording:
    directory.mkdir()
    guard = loaded.scenario.guard
    collector = Collector(blank(loaded, arm, seed, without and arm != "bare"), guard.rows)
    where = (directory, collector.report, seed, arm, guard.memory)
    cluster = Containers(*where, network) if network else Local(*where)
    return await run_arm(
        loaded, cluster, collector, lambda text: progress(f"{loaded.name}, {arm}: {text}"), without=without
    )


def simulated(loaded: Loaded, arms: Sequence[str], seed: int, *, without: bool = False) -> Result:
    """One scenario in virtual time."""
    from chaos.cluster.simulate import simulate

    return result(loaded, [simulate(loaded, arm, seed, without=without) for arm in arms if arm in loaded.scenario.arms])


def result(loaded: Loaded, recordings: Sequence[Recording]) -> Result:
    """The recordings, judged."""
    arms = [Arm(each.arm, each, judge(each, loaded.scenario)) for each in recordings]
    return Result(loaded.name, loaded.scenario, arms)


def document(results: Sequence[Result]) -> dict[str, Any]:
    """Everything as JSON."""
    return {
        "results": [
            {
                "scenario": each.name,
                "passed": each.passed,
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
    """Recordings of a document, judged anew.  KeyError for a scenario that is none of those."""
    known = {loaded.name: loaded for loaded in scenarios}
    return [
        result(known[each["scenario"]], [Recording.of(arm["recording"]) for arm in each["arms"]])
        for each in document["results"]
    ]
