"""Tests of the formulas: against sums that are written out, and against known values."""

from __future__ import annotations

from math import comb, inf

import pytest

from sidecar.lint.arithmetic import binomial_tail, erlang_loss, failures_that_trip, in_flight, number, percent, seconds
from tests.support.cases import each


@each([(5, 0.01, 1), (20, 0.05, 3), (50, 0.3, 20), (10, 0.5, 10), (3, 0.2, 0)])
def test_binomial_tail_is_the_sum_of_its_terms(case: tuple[int, float, int]) -> None:
    calls, p, least = case
    exact = sum(comb(calls, k) * p**k * (1 - p) ** (calls - k) for k in range(least, calls + 1))
    assert binomial_tail(calls, p, least) == pytest.approx(exact)


def test_binomial_tail_at_its_edges() -> None:
    assert binomial_tail(10, 0.0, 1) == 0
    assert binomial_tail(10, 1.0, 10) == 1
    assert binomial_tail(10, 0.5, 11) == 0
    assert binomial_tail(100_000, 0.01, 50_000) == 0
    assert binomial_tail(100_000, 0.5, 1) == pytest.approx(1)


def test_erlang_loss_has_the_values_of_tables() -> None:
    assert erlang_loss(5, 10) == pytest.approx(0.0184, abs=1e-4)
    assert erlang_loss(1, 1) == 0.5
    assert erlang_loss(0, 1) == 0


def test_failures_that_trip_round_up() -> None:
    assert [failures_that_trip(*each) for each in ((20, 0.5), (5, 0.2), (3, 0.5), (10, 0.0))] == [10, 1, 2, 1]


def test_requests_in_flight() -> None:
    assert in_flight(50, 0.1) == 5


def test_texts_of_numbers() -> None:
    assert [seconds(each) for each in (0.25, 1.5, 60, 900, 7200, inf)] == [
        "250ms",
        "1.5s",
        "60s",
        "15min",
        "2h",
        "no limit",
    ]
    assert [number(each) for each in (2.0, 1234.5, 0.05, inf)] == ["2", "1 234", "0.05", "any number"]
    assert percent(0.025) == "2.5%"
