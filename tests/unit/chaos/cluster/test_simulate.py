"""Tests of scenarios in virtual time: one verdict and its causes, repeatability, and the search for the margin.

The verdicts of all scenarios are in `tests/scenarios/test_verdicts.py`.
"""

from __future__ import annotations

from functools import cache

import pytest

from chaos.cluster.simulate import simulate
from chaos.margin import margin
from chaos.scenario.files import Loaded
from chaos.verdict.judge import judge, passed
from chaos.verdict.recording import Recording
from tests.support import scenarios

ALL = {name: loaded for name, loaded in scenarios.ALL.items() if loaded.scenario.simulated}


@cache
def usual(name: str) -> Recording:
    """Return the run with sidecars and seed 1, cached for several tests."""
    return simulate(ALL[name], "sidecar", 1)


def is_passed(recording: Recording, loaded: Loaded) -> bool:
    assert recording.trouble == ""
    return passed(judge(recording, loaded.scenario))


def test_a_scenario_passes_in_both_arms_and_fails_without_its_decisive_policies() -> None:
    loaded = ALL["connection_blackhole"]
    assert is_passed(simulate(loaded, "bare", 1), loaded), "the cascade is seen"
    assert is_passed(usual(loaded.name), loaded), "and contained"
    assert not is_passed(simulate(loaded, "sidecar", 1, without=True), loaded)


@pytest.mark.parametrize("name", ["long_tail", "one_bad_of_three", "slow_loris_bodies", "thundering_herd"])
def test_a_seed_repeats_a_run(name: str) -> None:
    assert simulate(ALL[name], "sidecar", 1).json() == usual(name).json()


def test_another_seed_is_another_run() -> None:
    assert simulate(ALL["long_tail"], "sidecar", 2).requests != usual("long_tail").requests


def test_the_margin_is_found_by_bisection(monkeypatch: pytest.MonkeyPatch) -> None:
    asked: list[float] = []

    def comes_back_below(limit: float) -> None:
        def answer(loaded: Loaded, arm: str, seed: int, factor: float) -> bool:
            asked.append(factor)
            return factor < limit

        monkeypatch.setattr("chaos.margin.can_recover", answer)

    comes_back_below(1.7)
    assert margin(ALL["long_tail"], "sidecar", 1) == pytest.approx(1.7, rel=0.03)
    assert len(asked) == 9
    comes_back_below(0.01)
    assert margin(ALL["long_tail"], "sidecar", 1) == 0.0
    comes_back_below(100)
    assert margin(ALL["long_tail"], "sidecar", 1) == 4.0
