"""Tests of latency and failures by load: shown by a record only if they are there, and how they help a prediction."""

from __future__ import annotations

import random

import pytest

from sidecar.replay.fit import Fitted
from sidecar.replay.limits import limits
from sidecar.replay.load import FailureCurve, LoadCurve, failure_curve, load_curve
from sidecar.replay.record import Try
from sidecar.replay.run import recorded_numbers
from sidecar.replay.world import run_world
from tests.support.cases import each
from tests.unit.replay.truth import A, Truth, policies, recorded, traffic


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


# ----- failures

ONCE = "timeout: {request: 3s}"
RETRIED = "timeout: {request: 3s}, retry: {max_attempts: 3}"
FLAPPING = [(A, second, second + 0.5) for second in range(200)]
RECORDS = {
    "calls beside more than one other are shed": (Truth(sheds=0.2, free=1), ONCE, 4000, True),
    "failures at random, and retries": (Truth(errors=0.3), RETRIED, 2000, False),
    "failures at random, and latency by load": (Truth(errors=0.2, load=0.3, free=1), ONCE, 2000, False),
    "an endpoint that fails every other half of a second": (Truth(down=FLAPPING), ONCE, 3000, False),
    "an outage, and timeouts": (
        Truth(down=[(A, 10.0, 20.0)], slow=0.1), "timeout: {request: 3s, attempt: 300ms}", 1500, False
    ),
}  # fmt: skip


@each(RECORDS)
def test_failures_depend_on_load_only_where_they_do(name: str) -> None:
    truth, route, count, expected = RECORDS[name]
    assert bool(Fitted(recorded(policies(route), truth, traffic(count, 60.0))).failures) == expected


def test_a_curve_of_failures_rises_with_the_calls_in_flight() -> None:
    record = recorded(policies(ONCE), Truth(sheds=0.2, free=1), traffic(6000, 60.0))
    curve = failure_curve([a for found in record.tries for a in found if a.endpoint == A])
    assert curve is not None
    assert curve.breaks(1, 1) == curve.spares(1, 1, 0.1) == 0.0
    assert curve.breaks(0, 3) == pytest.approx(0.4, abs=0.1)
    assert curve.spares(3, 0, 0.0) > 0.9
    assert curve.breaks(0, 1000) == 1.0, "beyond the record it goes on with its slope, up to all"


def test_relief_ends_no_outage() -> None:
    curve = FailureCurve([(0.0, 0.02), (4.0, 0.1)], [])
    assert curve.spares(4, 0, 0.1) == pytest.approx(0.8)
    assert curve.spares(4, 0, 1.0) == pytest.approx(0.08), "of ten failures in an outage one is due to load"


RELIEF = {
    "a rate limit": (Truth(sheds=0.2, free=1), f"{ONCE}, rate_limit: [{{name: all, rate: 25/s, burst: 20}}]"),
    "a concurrency limit": (
        Truth(sheds=0.2, free=1), f"{ONCE}, concurrency: {{max: 4, queue: 100, queue_timeout: 2s}}",
    ),
    "hedges": (Truth(sheds=0.2, free=1, slow=0.05), f"{ONCE}, hedge: {{after: 60ms}}"),
}  # fmt: skip


@pytest.mark.parametrize("name", RELIEF)
def test_failures_under_another_load_are_predicted(name: str) -> None:
    truth, after = RELIEF[name]
    requests = traffic(4000, 60.0)
    record = recorded(policies(ONCE), truth, requests)
    outcome = run_world(policies(after), requests, truth, 21)
    fitted = Fitted(record)
    predicted = run_world(policies(after), record.requests, fitted, 1, fitted.endpoints)
    assert predicted.goodput == pytest.approx(outcome.goodput, abs=0.03)
    assert predicted.p99 == pytest.approx(outcome.p99, rel=0.2)
    fitted = Fitted(record)
    fitted.failures.clear()
    without = run_world(policies(after), record.requests, fitted, 1, fitted.endpoints)
    error, error_without = (abs(each.goodput - outcome.goodput) for each in (predicted, without))
    assert error < error_without / 2, "the curve halves the error"


def test_a_record_without_dependence_says_so() -> None:
    record = recorded(policies("timeout: {request: 3s}"), Truth(), traffic(50, 80.0))

    def told(*numbers: int) -> str:
        return " ".join(limits(record, 0, *numbers))

    assert "shows no latency and no failures that depend on load" in told()
    assert "load changes the latency of 2 endpoints and no failures" in told(2)
    assert "load changes no latency and failures of 1 endpoint," in told(0, 1)
