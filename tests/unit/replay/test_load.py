"""Tests of latency by load: shown by a record only if it is there, and what it does for the prediction."""

from __future__ import annotations

import random

import pytest

from sidecar.replay.fit import Fitted
from sidecar.replay.limits import limits
from sidecar.replay.load import LoadCurve, load_curve
from sidecar.replay.record import Try
from sidecar.replay.run import recorded_numbers
from sidecar.replay.world import run_world
from tests.unit.replay.truth import Truth, policies, recorded, traffic


def tries(slope: float = 0.0, slow_from: float = 1e9, seconds: int = 60) -> list[tuple[str, Try]]:
    """Return attempts at one endpoint whose latency grows with the calls in flight, or that is slow from an instant."""
    rng = random.Random(3)
    found: list[tuple[str, Try]] = []
    for number in range(seconds * 20):
        at = number / 20
        is_slow = at >= slow_from
        calls = rng.randrange(5) + 10 * is_slow
        latency = 0.05 * (1 + slope * calls) * rng.lognormvariate(0, 0.3) * (4 if is_slow else 1)
        found.append(("orders", Try("http://app-1:80", at, latency, 200, in_flight=calls)))
    return found


def test_a_curve_rises_with_the_calls_in_flight() -> None:
    curve = load_curve(tries(slope=0.5))
    assert curve is not None
    assert curve.factor(0, 4) == pytest.approx(3.0, rel=0.2)
    assert curve.factor(4, 0) == pytest.approx(1 / curve.factor(0, 4))
    assert curve.factor(2, 2) == 1
    factors = [curve.factor(0, calls) for calls in range(12)]
    assert factors == sorted(factors)
    assert curve.factor(0, 8) == pytest.approx(5.0, rel=0.25), "beyond the record it goes on with its slope"


@pytest.mark.parametrize(
    "found",
    [
        tries(),
        tries(slow_from=30.0),
        tries(slope=0.5, seconds=10),
        [(route, a._replace(in_flight=0)) for route, a in tries(slope=0.5)],
        [(route, a._replace(status=503)) for route, a in tries(slope=0.5)],
        [],
    ],
    ids=["no dependence", "a slow time with more in flight", "too short", "no endpoints", "no answers", "nothing"],
)
def test_a_record_that_shows_no_dependence_has_no_curve(found: list[tuple[str, Try]]) -> None:
    assert load_curve(found) is None


def test_a_flat_curve_changes_nothing() -> None:
    assert LoadCurve([(1.0, 1.0), (2.0, 1.0)]).factor(0, 100) == 1


def test_the_calls_in_flight_of_a_record_are_those_at_the_same_endpoint() -> None:
    record = recorded(policies("timeout: {request: 3s}"), Truth(), traffic(200, 80.0))
    every = [a for found in record.tries for a in found]
    for a in every:
        beside = [b for b in every if b.endpoint == a.endpoint and b.at < a.at < b.at + b.seconds]
        assert a.in_flight == len(beside)


CHANGES = {
    "a rate limit takes load off": (
        Truth(load=0.5, free=1), "timeout: {request: 3s}",
        "timeout: {request: 3s}, rate_limit: [{name: all, rate: 25/s, burst: 20}]", 60.0,
    ),
    "without retries": (
        Truth(load=0.4, free=1, errors=0.3), "timeout: {request: 3s}, retry: {max_attempts: 3}",
        "timeout: {request: 3s}", 40.0,
    ),
}  # fmt: skip


@pytest.mark.parametrize("name", CHANGES)
def test_relief_is_predicted(name: str) -> None:
    truth, before, after, rate = CHANGES[name]
    old, new = policies(before), policies(after)
    requests = traffic(1500, rate)
    record = recorded(old, truth, requests)
    outcome = run_world(new, requests, truth, 21)
    fitted = Fitted(record)
    predicted = run_world(new, record.requests, fitted, 1, fitted.endpoints)
    assert predicted.p99 == pytest.approx(outcome.p99, rel=0.2)
    assert predicted.goodput == pytest.approx(outcome.goodput, abs=0.03)
    assert predicted.goodput < recorded_numbers(record).goodput, "the old policies are named as the better ones"
    fitted = Fitted(record)
    fitted.curves.clear()
    without = run_world(new, record.requests, fitted, 1, fitted.endpoints)
    assert abs(predicted.p99 - outcome.p99) < abs(without.p99 - outcome.p99) / 2, "the curve halves the error"


def test_a_record_without_dependence_says_so() -> None:
    record = recorded(policies("timeout: {request: 3s}"), Truth(), traffic(50, 80.0))
    assert any("shows no latency that depends on load" in each for each in limits(record, 0))
    assert any("load changes the latency of 2 endpoints" in each for each in limits(record, 0, 2))
