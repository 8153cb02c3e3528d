"""Tests of an endpoint's usual answer time, and of the verdict that it is silent."""

from __future__ import annotations

import random

import pytest

from sidecar.upstream.response_times import PATIENCE, SAMPLED, UNKNOWN, WARM_UP, ResponseTimes


def test_an_endpoint_without_responses_has_the_usual_time_unknown() -> None:
    times = ResponseTimes()
    assert times.is_too_short(UNKNOWN * 0.99)
    assert not times.is_too_short(UNKNOWN)
    assert times.patience == UNKNOWN


def test_of_the_first_answers_the_longest_is_usual() -> None:
    times = ResponseTimes()
    for seconds in (0.01, 0.05, 0.02):
        times.note(seconds, 1.0)
    assert times.usual == 0.05
    assert times.is_too_short(0.049)
    assert not times.is_too_short(0.05)


def test_in_the_long_run_it_is_the_99th_percentile() -> None:
    times, chance = ResponseTimes(), random.Random(1)
    samples = [chance.expovariate(50) for _ in range(50_000)]
    seen = []
    for seconds in samples:
        times.note(seconds, 1.0)
        seen.append(times.usual)
    percentile = sorted(samples)[int(len(samples) * 0.99)]
    assert sorted(seen)[len(seen) // 2] == pytest.approx(percentile, rel=0.25)


@pytest.mark.parametrize(("before", "after", "answers"), [(0.02, 2.0, 60), (2.0, 0.02, 5000)])
def test_it_follows_an_endpoint_that_changes(before: float, after: float, answers: int) -> None:
    times = ResponseTimes()
    for _ in range(WARM_UP):
        times.note(before, 1.0)
    for _ in range(answers):
        times.note(after, 2.0)
    assert times.usual == pytest.approx(after, rel=0.01)


def test_one_slow_response_moves_the_estimate_by_a_step() -> None:
    times = ResponseTimes()
    for _ in range(WARM_UP + SAMPLED):
        times.note(0.02, 1.0)
    times.note(60.0, 2.0)
    assert times.usual < 0.023


def test_an_endpoint_is_silent_until_it_answers() -> None:
    times = ResponseTimes()
    times.note(0.02, 1.0)
    times.fall_silent(since=1.5, now=2.5)
    assert not times.is_too_short(0.001)
    assert "silent" in repr(times)
    times.note(0.02, 3.0)
    assert times.is_too_short(0.001)


def test_it_is_not_silent_if_it_has_answered_others_meanwhile() -> None:
    times = ResponseTimes()
    times.note(0.02, 2.0)
    times.fall_silent(since=1.5, now=2.5)
    assert times.is_too_short(0.001)


def test_patience_grows_with_the_usual_time() -> None:
    times = ResponseTimes()
    times.note(3.0, 1.0)
    assert times.patience == 3.0 * PATIENCE
