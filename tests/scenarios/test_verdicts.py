"""All scenarios in virtual time: their verdicts, and the policies that decide them."""

from __future__ import annotations

import pytest

from chaos.cluster.simulate import simulate
from chaos.margin import comes_back
from chaos.scenario.files import SCENARIOS, Loaded, load
from chaos.verdict.judge import judge, passed
from chaos.verdict.recording import Recording

ALL = [loaded for loaded in load([SCENARIOS]) if loaded.scenario.simulated]
SIDECAR = [(loaded, "sidecar") for loaded in ALL]
BARE = [(loaded, "bare") for loaded in ALL if "bare" in loaded.scenario.arms]
DECIDED = [loaded for loaded in ALL if loaded.scenario.decisive]


def told(recording: Recording, loaded: Loaded) -> list[str]:
    return [f"{v.what}: {v.measured} ({v.limit})" for v in judge(recording, loaded.scenario) if not v.passed]


@pytest.mark.parametrize(("loaded", "arm"), BARE + SIDECAR, ids=lambda v: v if isinstance(v, str) else v.name)
def test_the_cascade_is_seen_without_and_contained_with_sidecars(loaded: Loaded, arm: str) -> None:
    assert told(simulate(loaded, arm, 1), loaded) == []


@pytest.mark.parametrize("loaded", DECIDED, ids=lambda loaded: loaded.name)
def test_a_scenario_fails_without_its_decisive_policies(loaded: Loaded) -> None:
    recording = simulate(loaded, "sidecar", 1, without=True)
    assert recording.trouble == ""
    assert not passed(judge(recording, loaded.scenario))


def test_a_system_recovers_up_to_a_load_and_not_beyond() -> None:
    (loaded,) = [each for each in ALL if each.name == "metastable_overload"]
    assert comes_back(loaded, "sidecar", 1, 1.0)
    assert not comes_back(loaded, "sidecar", 1, 3.0)
    assert not comes_back(loaded, "bare", 1, 1.0)
    assert comes_back(loaded, "bare", 1, 0.4)
