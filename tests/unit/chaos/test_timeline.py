"""Tests of the timeline: each fault begins, ends and is undone as its scenario says."""

from __future__ import annotations

import asyncio
from typing import Any

import pytest

from chaos.scenario.files import SCENARIOS, load
from chaos.scenario.spec import Scenario
from chaos.timeline import Timeline
from chaos.topology import NOWHERE, Topology
from chaos.verdict.recording import FaultRecord
from tests.unit.chaos.linked_service import play

SMALL: dict[str, Any] = {
    "title": "t", "story": "s", "policies": {},
    "services": {"catalogue": {"workers": 1, "queue": 1, "replicas": 3, "work": {"/": {"time": "1ms"}}}},
    "load": {"c": {"to": "catalogue", "path": "/", "rate": "1/s"}},
    "expect": {"contained": [{"measure": "duplicates", "at_most": 0}]},
}  # fmt: skip
"""Scenario with a service of three replicas."""


class RecordingCluster:
    """Cluster that records its calls and does nothing."""

    is_simulated = True

    def __init__(self) -> None:
        self.loop = asyncio.get_running_loop()
        self.zero = self.loop.time()
        self.told: list[tuple[float, str, str, dict[str, Any]]] = []
        self.tables: list[dict[str, Any]] = []

    def now(self) -> float:
        return self.loop.time() - self.zero

    async def sleep(self, seconds: float) -> None:
        await asyncio.sleep(seconds)

    async def tell(self, name: str, command: str, **arguments: Any) -> None:
        self.told.append((round(self.now(), 3), name, command, arguments))

    async def start(self, kind: str, name: str, spec: dict[str, Any]) -> list[str]:
        self.told.append((round(self.now(), 3), name, "start", {}))
        return ["127.0.0.1:1"]

    async def end(self, name: str, how: str) -> None:
        self.told.append((round(self.now(), 3), name, how, {}))

    def names(self, table: dict[str, Any]) -> None:
        self.tables.append(table)


def timeline(*faults: dict[str, Any]) -> tuple[Timeline, RecordingCluster, list[FaultRecord]]:
    (loaded,) = load([SCENARIOS / "one_bad_of_three.yaml"])
    scenario = Scenario.model_validate({**SMALL, "faults": [{"on": "catalogue", **fault} for fault in faults]})
    cluster = RecordingCluster()
    topology = Topology(loaded._replace(scenario=scenario), "bare", cluster)  # type: ignore[arg-type]
    topology.specs = {f"catalogue.{n}": {} for n in range(3)}
    found: list[FaultRecord] = []
    return Timeline(topology, 0.0, found.append), cluster, found


def test_a_fault_has_a_start_and_a_time_to_live() -> None:
    async def scene() -> None:
        run, cluster, found = timeline({"fault": "latency", "at": "1s", "for": "2s", "by": "50ms", "replicas": [1]})
        await run.run()
        (began, ended) = cluster.told
        assert began[:3] == (1.0, "catalogue.1-link", "toxic")
        assert began[3]["by"] == 0.05
        assert ended == (3.0, "catalogue.1-link", "undo", {"id": began[3]["id"]})
        assert found == [FaultRecord("latency catalogue", 1.0, 3.0)]

    play(scene)


def test_a_flapping_fault_is_on_and_off_in_turns() -> None:
    async def scene() -> None:
        run, cluster, _ = timeline({"fault": "status", "for": "2s", "flap": "500ms", "replicas": [0]})
        await run.run()
        assert [(at, what) for at, _, what, _ in cluster.told] == [
            (0.0, "answer"),
            (0.5, "undo"),
            (1.0, "answer"),
            (1.5, "undo"),
        ]

    play(scene)


def test_correlated_faults_strike_all_replicas_at_once() -> None:
    async def scene() -> None:
        run, cluster, _ = timeline({"fault": "slow", "for": "1s", "by": "1s"}, {"fault": "cpu", "for": "1s"})
        await run.run()
        assert sorted({name for _, name, _, _ in cluster.told}) == [f"catalogue.{n}" for n in range(3)]
        assert {at for at, *_ in cluster.told} == {0.0, 1.0}

    play(scene)


def test_replicas_are_restarted_one_by_one() -> None:
    async def scene() -> None:
        run, cluster, _ = timeline({"fault": "restart", "for": "1s", "one_by_one": True})
        await run.run()
        steps = [(at, name, what) for at, name, what, _ in cluster.told if what in ("drain", "start")]
        expected = []
        for n in range(3):
            expected += [(float(n), f"catalogue.{n}", "drain"), (n + 1.0, f"catalogue.{n}", "start")]
        assert steps == expected

    play(scene)


def test_faults_in_force_are_undone_when_a_run_is_stopped() -> None:
    async def scene() -> None:
        run, cluster, _ = timeline({"fault": "blackhole", "for": "60s"}, {"fault": "stop", "for": "60s"})
        running = asyncio.ensure_future(run.run())
        await asyncio.sleep(1)
        running.cancel()
        await run.undo_all()
        assert [what for _, _, what, _ in cluster.told].count("undo") == 3
        assert [what for _, _, what, _ in cluster.told].count("continue") == 3

    play(scene)


@pytest.mark.parametrize(
    ("kind", "entry"),
    [
        ("names_fail", {"fail": True}),
        ("names_slow", {"fail": False, "delay": 0.5}),
        ("names_wrong", {"addresses": [NOWHERE]}),
        ("names_stale", {"addresses": [NOWHERE, "127.0.0.1"]}),
    ],
)
def test_a_fault_of_names_changes_what_they_resolve_to(kind: str, entry: dict[str, Any]) -> None:
    async def scene() -> None:
        run, cluster, _ = timeline({"fault": kind, "for": "1s", "by": "500ms"})
        await run.run()
        struck, healed = cluster.tables[0]["catalogue.test"], cluster.tables[-1]["catalogue.test"]
        assert entry.items() <= struck.items()
        assert healed == {"addresses": ["127.0.0.1"]}

    play(scene)
