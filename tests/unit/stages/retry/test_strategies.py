"""Tests of the adapter of tenacity: a real state on a clock of the test, and strategies that read it."""

from __future__ import annotations

from random import Random

import pytest
from tenacity import RetryCallState, wait_fixed

from sidecar.stages.retry.spec import Spec
from sidecar.stages.retry.strategies import Schedule, WaitJittered
from tests.support.clock import make_env
from tests.support.service import ScriptedService, exchange, response


def begun(**keys: object) -> tuple[Schedule, RetryCallState]:
    schedule = Schedule(Spec.model_validate(keys), make_env())
    return schedule, schedule.begin(ScriptedService(200), exchange(), 1000.0)


def test_the_state_is_tenacitys_and_its_times_are_those_handed_in() -> None:
    schedule, state = begun()
    outcome = response(503)
    assert type(state) is RetryCallState
    schedule.record(state, outcome, 1000.25)
    assert state.outcome is not None
    assert state.outcome.result() is outcome
    assert (state.start_time, state.outcome_timestamp, state.seconds_since_start) == (1000.0, 1000.25, 0.25)


def test_attempts_and_sleeps_are_counted_in_the_state() -> None:
    schedule, state = begun(max_attempts=3, backoff={"base": "100ms", "max": "1s", "jitter": "none"})
    waits = []
    for number in range(3):
        schedule.record(state, response(503), 1000.0 + number)
        if schedule.is_exhausted(state):
            break
        assert schedule.plan(state)
        waits.append(state.upcoming_sleep)
        schedule.advance(state)
        assert (state.outcome, state.outcome_timestamp) == (None, None)
    assert waits == [0.1, 0.2]
    assert (state.attempt_number, state.idle_for) == (3, pytest.approx(0.3))


def test_a_retry_after_is_added_to_the_backoff_or_ends_it() -> None:
    schedule, state = begun(retry_after={"max": "5s"}, backoff={"base": "100ms", "jitter": "none"})
    schedule.record(state, response(503, headers={"retry-after": "5"}), 1001.0)
    assert schedule.plan(state)
    assert state.upcoming_sleep == pytest.approx(5.1)
    schedule.record(state, response(503, headers={"retry-after": "6"}), 1001.0)
    assert not schedule.plan(state)
    assert state.upcoming_sleep == pytest.approx(5.1), "nothing is planned"


@pytest.mark.parametrize(("jitter", "least"), [("full", 0.0), ("equal", 0.5), ("none", 1.0)])
def test_jitter_draws_a_part_of_the_wait_from_the_generator_handed_in(jitter: str, least: float) -> None:
    _, state = begun()
    wait = WaitJittered(wait_fixed(2), jitter, Random(3))
    expected = Random(3)
    waits = [wait(state) for _ in range(200)]
    assert waits == [2 * (least + (1 - least) * expected.random()) for _ in range(200)]
    assert min(waits) >= 2 * least
