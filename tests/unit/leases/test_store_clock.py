"""Tests of the clock of a store: it never steps, whatever the wall clock does."""

from __future__ import annotations

from math import inf

from hypothesis import given
from hypothesis import strategies as st

from sidecar.leases.store_clock import StoreClock


def test_the_clock_advances_with_the_wall_clock() -> None:
    clock = StoreClock()
    assert [clock.advance(50.0, inf), clock.advance(50.5, 0.6), clock.advance(51.0, inf)] == [0.0, 0.5, 1.0]


def test_a_step_forward_counts_as_the_time_since_the_last_exchange() -> None:
    clock = StoreClock()
    clock.advance(50.0, inf)
    assert clock.advance(3650.0, 0.25) == 0.25


def test_a_step_back_counts_as_no_time() -> None:
    clock = StoreClock()
    clock.advance(50.0, inf)
    assert [clock.advance(10.0, 1.0), clock.advance(10.5, 1.0)] == [0.0, 0.5]


@given(st.lists(st.tuples(st.floats(0, 10), st.floats(-100, 100))))
def test_the_clock_is_never_faster_than_time(steps: list[tuple[float, float]]) -> None:
    clock, real, error, last = StoreClock(), 0.0, 0.0, 0.0
    clock.advance(0.0, inf)
    for passed, step in steps:
        real += passed
        error += step
        now = clock.advance(real + error, passed)
        assert last <= now <= real + 1e-6
        last = now
