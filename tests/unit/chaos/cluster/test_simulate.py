"""Scenarios in virtual time: verdicts, repeatability, and the policies that decide."""

from __future__ import annotations

import pytest

from chaos.cluster.simulate import simulate
from chaos.margin import comes_back, margin
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


@pytest.mark.parametrize("name", ["long_tail", "one_bad_of_three", "slow_loris_bodies", "thundering_herd"])
def test_a_seed_repeats_a_run_and_another_does_not(name: str) -> None:
    (loaded,) = [each for each in ALL if each.name == name]
    first, again, other = (simulate(loaded, "sidecar", seed) for seed in (1, 1, 2))
    assert first.json() == again.json()
    assert first.requests != other.requests


def test_a_system_recovers_up_to_a_load_and_not_beyond() -> None:
    (loaded,) = [each for each in ALL if each.name == "metastable_overload"]
    assert comes_back(loaded, "sidecar", 1, 1.0)
    assert not comes_back(loaded, "sidecar", 1, 3.0)
    assert not comes_back(loaded, "bare", 1, 1.0)
    assert comes_back(loaded, "bare", 1, 0.4)


def test_the_margin_is_found_by_bisection(monkeypatch: pytest.MonkeyPatch) -> None:
    asked: list[float] = []

    def comes_back_below(limit: float) -> None:
        def answer(loaded: Loaded, arm: str, seed: int, factor: float) -> bool:
            asked.append(factor)
            return factor < limit

        monkeypatch.setattr("chaos.margin.comes_back", answer)

    comes_back_below(1.7)
    assert margin(ALL[0], "sidecar", 1) == pytest.approx(1.7, rel=0.03)
    assert len(asked) == 9
    comes_back_below(0.01)
    assert margin(ALL[0], "sidecar", 1) == 0.0
    comes_back_below(100)
    assert margin(ALL[0], "sidecar", 1) == 4.0
