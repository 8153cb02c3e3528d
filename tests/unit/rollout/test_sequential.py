"""Tests of the sequential test: it finds what is worse soon, and hardly ever what is not."""

from __future__ import annotations

import random
from math import log, log1p

import pytest

from sidecar.rollout.sequential import EPOCH, PairedTest

PER_SECOND = 50
ALPHA = 0.005


def found_after(candidate: float, stable: float, seed: int, seconds: float, margin: float = 0.01) -> float | None:
    """Return the seconds until a candidate with an error rate is found to be worse; None if it is not.

    Pairs without a difference are drawn together, as the gap before the next pair that has one.
    """
    rng, test = random.Random(seed), PairedTest(margin, ALPHA, 0.0)
    worse, better = candidate * (1 - stable), stable * (1 - candidate)
    number = 0
    while worse + better:
        gap = int(log(1 - rng.random()) / log1p(-worse - better))
        number += gap
        if number >= seconds * PER_SECOND:
            return None
        test.equal += gap
        if test.add(1 if rng.random() * (worse + better) < worse else -1, number / PER_SECOND):
            return number / PER_SECOND
        number += 1
    return None


@pytest.mark.parametrize("stable", [0.0, 0.005])
def test_five_percent_of_errors_are_found_within_a_minute(stable: float) -> None:
    runs = [found_after(0.05, stable, seed, 60) for seed in range(500)]
    assert sum(run is not None for run in runs) >= 475, "95 of 100"


@pytest.mark.parametrize(("rate", "runs"), [(0.0, 500), (0.001, 500), (0.02, 500), (0.5, 100)])
def test_equal_arms_are_hardly_ever_found(rate: float, runs: int) -> None:
    for margin in (0.0, 0.01):
        found = sum(found_after(rate, rate, seed, 60, margin) is not None for seed in range(runs))
        assert found <= runs / 100, "1 of 100"


def test_a_candidate_within_the_margin_is_not_found() -> None:
    assert sum(found_after(0.019, 0.01, seed, 120) is not None for seed in range(50)) == 0


def test_an_incident_of_both_arms_says_nothing() -> None:
    rng, test = random.Random(1), PairedTest(0.01, ALPHA, 0.0)
    for number in range(20_000):
        rate = 0.4 if number % 1000 > 500 else 0.001
        assert not test.add((rng.random() < rate) - (rng.random() < rate), number / PER_SECOND)


def test_a_long_good_past_does_not_hide_a_bad_present() -> None:
    test = PairedTest(0.01, ALPHA, 0.0)
    now = 0.0
    for _ in range(100_000):
        now += 0.1
        assert not test.add(0, now)
    rng, began = random.Random(2), now
    while not test.add(rng.random() < 0.05, now):
        now += 1 / PER_SECOND
    assert now - began < 60


def test_the_error_probabilities_of_all_epochs_add_up() -> None:
    test = PairedTest(0.01, 0.01, 0.0)
    total = 0.0
    for number in range(1, 2000):
        test.add(0, EPOCH * number)
        total += 2.718281828459045**-test.threshold
        assert test.epoch == number + 1
    assert 0.003 < total < 0.01 * (1 - 6 / 9.8696) + 1e-5, "without the first epoch, whose share is 6 / pi squared"
