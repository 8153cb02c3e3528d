"""Tests of all scenarios in virtual time: verdicts, and the policies that decide them."""

from __future__ import annotations

import re

import pytest

from chaos.battery import simulated
from chaos.cluster.simulate import simulate
from chaos.margin import can_recover
from chaos.scenario.files import SCENARIOS, Loaded
from chaos.verdict.judge import judge, passed
from chaos.verdict.recording import Recording
from chaos.verdict.report import page
from tests.support import scenarios

ALL = [loaded for loaded in scenarios.ALL.values() if loaded.scenario.simulated]
BARE = [loaded for loaded in ALL if "bare" in loaded.scenario.arms]
DECIDED = [loaded for loaded in ALL if loaded.scenario.decisive]


def told(recording: Recording, loaded: Loaded) -> list[str]:
    return [f"{v.what}: {v.measured} ({v.limit})" for v in judge(recording, loaded.scenario) if not v.passed]


@pytest.mark.parametrize("loaded", BARE, ids=lambda loaded: loaded.name)
def test_the_cascade_is_seen_without_sidecars(loaded: Loaded) -> None:
    assert told(simulate(loaded, "bare", 1), loaded) == []


@pytest.mark.parametrize("loaded", ALL, ids=lambda loaded: loaded.name)
def test_it_is_contained_with_sidecars_and_the_report_ends_with_the_line_that_did_it(loaded: Loaded) -> None:
    result = simulated(loaded, ["sidecar"], 1)
    assert result.passed
    places = re.findall(r"\(?([\w./-]+\.yaml):(\d+)", result.cause)
    assert places
    for file, line in places:
        text = (SCENARIOS.parents[1] / file).read_text().splitlines()[int(line) - 1]
        assert text.strip(), (file, line)
        assert not text.lstrip().startswith("#")
    last = page([result]).rpartition("<p")[2]
    assert all(f"{file}:{line}" in last for file, line in places)


@pytest.mark.parametrize("loaded", DECIDED, ids=lambda loaded: loaded.name)
def test_a_scenario_fails_without_its_decisive_policies(loaded: Loaded) -> None:
    recording = simulate(loaded, "sidecar", 1, without=True)
    assert recording.trouble == ""
    assert not passed(judge(recording, loaded.scenario))


def test_a_system_recovers_up_to_a_load_and_not_beyond() -> None:
    (loaded,) = [each for each in ALL if each.name == "metastable_overload"]
    assert can_recover(loaded, "sidecar", 1, 1.0)
    assert not can_recover(loaded, "sidecar", 1, 3.0)
    assert not can_recover(loaded, "bare", 1, 1.0)
    assert can_recover(loaded, "bare", 1, 0.4)


CONTAINED = [
    "bad_policy",
    "cache_stampede",
    "cold_cache",
    "connection_blackhole",
    "flapping_upstream",
    "grey_corruption",
    "grpc_bad_day",
    "introspection_hangs",
    "issuer_away",
    "load_spike",
    "long_tail",
    "name_service_down",
    "one_bad_of_three",
    "redis_dead",
    "retry_storm",
    "rolling_restart",
    "sidecar_killed",
    "slow_dependency",
    "slow_loris_bodies",
    "thundering_herd",
    "timeouts_inverted",
]
"""Scenarios that the recommended values contain without a value of their own."""


def test_the_recommended_values_contain_most_scenarios() -> None:
    chosen = [loaded for loaded in ALL if loaded.name in CONTAINED]
    assert len(chosen) == len(CONTAINED) >= 20
    results = [simulated(loaded, ["recommended"], 1) for loaded in chosen]
    assert [each.name for each in results if not each.arms[0].passed] == []
    assert "With recommended values" in page(results[:1])
