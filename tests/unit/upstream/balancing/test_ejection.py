"""Tests of passive ejection: ejected endpoints, length, and return."""

from __future__ import annotations

from typing import Any

import pytest
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, rule

from sidecar.core import events, metrics
from sidecar.core.outcome import ABANDONED, BREAKER_OPEN, CONNECT_TIMEOUT, PROTOCOL, RESET, TIMEOUT, Outcome, failed
from sidecar.upstream.balancing.balancer import Balancer
from sidecar.upstream.balancing.ejection import SUCCESSES_PER_EJECTION, Ejector
from sidecar.upstream.endpoint import Endpoint, EndpointSet
from sidecar.upstream.spec import EjectionSpec, UpstreamSpec
from tests.support.clock import make_env
from tests.support.service import exchange, response

FAULT = response(500)
OK = response(200)


class Bench:
    """Upstream whose endpoints answer as the test says."""

    def __init__(self, size: int = 3, **settings: Any) -> None:
        self.env = make_env(seed=3)
        spec = UpstreamSpec.model_validate({"endpoints": [f"http://10.0.0.{n}:80" for n in range(1, size + 1)]})
        self.set = EndpointSet("app", spec, self.env)
        self.ejector = Ejector(self.set, EjectionSpec.model_validate({"consecutive_failures": 3, **settings}), self.env)
        self.balancer = Balancer(self.set, spec, self.env)

    def __getitem__(self, index: int) -> Endpoint:
        return self.set.members[index]

    def answer(self, index: int, outcome: Outcome, times: int = 1, started: float | None = None) -> None:
        now = self.env.now()
        for _ in range(times):
            self.ejector.record(self[index], outcome, now if started is None else started, now)

    def eject(self, index: int = 0) -> float:
        """Make an endpoint fail until it is ejected; return the seconds of the ejection."""
        self.env.advance(0.001)
        self.answer(index, FAULT, 3)
        assert not self[index].is_up
        return self[index].ejected_until - self.env.now()

    def trial(self, index: int, outcome: Outcome) -> None:
        """Wait for the endpoint's trial request and let it end with an outcome."""
        self.env.advance(max(0.0, self[index].ejected_until - self.env.now()))
        while not self[index].is_on_trial:
            self.balancer.pick(exchange(), self.env.now())
        self.answer(index, outcome)

    @property
    def ejections(self) -> float:
        return self.env.meter.value(metrics.EJECTIONS, upstream="app")


def test_faults_in_a_row_eject_and_a_success_between_them_starts_again() -> None:
    bench = Bench()
    bench.answer(0, FAULT, 2)
    bench.answer(0, OK)
    bench.answer(0, FAULT, 2)
    assert bench[0].is_up
    bench.answer(0, FAULT)
    assert not bench[0].is_up
    (event,) = bench.env.emitted(events.ENDPOINT_EJECTED)
    assert event["endpoint"] == "http://10.0.0.1:80"
    assert (event["reason"], event["consecutive_failures"], event["up"]) == ("500", 3, 2)
    assert bench.ejections == 1


@pytest.mark.parametrize("outcome", [failed(CONNECT_TIMEOUT), failed(RESET), failed(TIMEOUT), response(503)])
def test_what_is_a_fault(outcome: Outcome) -> None:
    bench = Bench()
    bench.answer(0, outcome, 3)
    assert not bench[0].is_up


@pytest.mark.parametrize(
    "outcome",
    [
        ABANDONED,
        failed(BREAKER_OPEN),
        failed(PROTOCOL),
        response(429),
        response(503, headers={"retry-after": "3"}),
    ],
)
def test_what_is_neither_fault_nor_success(outcome: Outcome) -> None:
    bench = Bench(on=["connect_failure", "5xx", 429])
    bench.answer(0, outcome, 10)
    assert bench[0].is_up
    bench.answer(0, FAULT, 2)
    bench.answer(0, outcome)
    bench.answer(0, FAULT)
    assert not bench[0].is_up


def test_a_client_error_is_a_success() -> None:
    bench = Bench()
    bench.answer(0, FAULT, 2)
    bench.answer(0, response(404))
    assert bench[0].failures == 0


def test_never_below_min_healthy() -> None:
    bench = Bench(3, min_healthy=2)
    bench.eject(0)
    bench.answer(1, FAULT, 50)
    assert bench[1].is_up
    bench.trial(0, OK)
    bench.answer(1, FAULT)
    assert not bench[1].is_up, "there is room again, and it has failed all along"


def test_a_single_endpoint_stays() -> None:
    bench = Bench(1)
    bench.answer(0, FAULT, 50)
    assert bench[0].is_up


def test_an_unhealthy_peer_does_not_count_as_one_that_is_left() -> None:
    bench = Bench(2)
    bench[1].set_health(False)
    bench.answer(0, FAULT, 50)
    assert bench[0].is_up


def test_late_results_are_ignored() -> None:
    bench = Bench()
    before = bench.env.now()
    seconds = bench.eject()
    bench.answer(0, FAULT, 100, started=before)
    bench.answer(0, OK, 100, started=before)
    assert bench[0].ejected_until - bench.env.now() == seconds
    assert bench[0].state == "ejected"


def test_each_ejection_is_longer_up_to_the_limit_and_never_longer_than_the_file_says() -> None:
    bench = Bench(eject_for="10s", max_eject_for="60s")
    times = [bench.eject()]
    for _ in range(6):
        bench.trial(0, FAULT)
        times.append(bench[0].ejected_until - bench.env.now())
    for seconds, full in zip(times, (10, 20, 40, 60, 60, 60, 60), strict=True):
        assert 0.8 * full <= seconds <= full, times
    assert len(set(times)) == 7, "jitter"
    assert bench.env.emitted(events.ENDPOINT_EJECTED)[-1]["on_trial"]


def test_one_success_on_trial_restores() -> None:
    bench = Bench()
    bench.eject()
    bench.trial(0, OK)
    assert bench[0].is_up
    (event,) = bench.env.emitted(events.ENDPOINT_RESTORED)
    assert (event["reason"], event["up"]) == ("trial", 3)


def test_a_trial_that_says_nothing_changes_nothing() -> None:
    bench = Bench()
    bench.eject()
    bench.trial(0, ABANDONED)
    assert bench[0].state == "on_trial"
    bench.env.advance(1.0)
    bench.trial(0, OK)
    assert bench[0].is_up


def test_growth_decays_with_successes_and_not_with_time() -> None:
    bench = Bench()
    bench.eject()
    bench.trial(0, FAULT)
    bench.trial(0, OK)
    assert bench[0].ejections == 2
    bench.env.advance(1e6)
    bench.answer(0, OK, SUCCESSES_PER_EJECTION - 1)
    bench.answer(0, FAULT)
    bench.answer(0, OK, SUCCESSES_PER_EJECTION - 1)
    assert bench[0].ejections == 2, "in a row"
    bench.answer(0, OK)
    assert bench[0].ejections == 1
    bench.answer(0, OK, SUCCESSES_PER_EJECTION)
    assert bench[0].ejections == 0
    assert bench.eject() <= 10


def test_faults_of_a_panic_do_not_make_an_ejection_longer_but_a_success_ends_it() -> None:
    bench = Bench(2)
    seconds = bench.eject(0)
    bench[1].set_health(False)
    bench.answer(0, FAULT, 50)
    assert bench[0].ejected_until - bench.env.now() == seconds
    bench.answer(0, OK)
    assert bench[0].is_up


def test_observing_only_counts() -> None:
    bench = Bench(mode="observe")
    bench.answer(0, FAULT, 9)
    assert bench[0].is_up
    assert bench.env.meter.value(metrics.WOULD_REFUSE, policy="ejection") == 3
    assert not bench.env.events


def test_a_reload_keeps_ejections_and_the_end_of_the_block_ends_them() -> None:
    bench = Bench()
    bench.eject()
    bench.ejector.retune(EjectionSpec(consecutive_failures=1))
    assert not bench[0].is_up
    bench.answer(1, FAULT)
    assert not bench[1].is_up
    bench.ejector.retune(EjectionSpec(mode="observe"))
    assert bench.set.count("up") == 3
    assert bench.ejector.describe()["ejected"] == 0


class NeverBelow(RuleBasedStateMachine):
    """Random answers of endpoints: ejection leaves `min_healthy` of them up, and each can return."""

    @initialize(size=st.integers(1, 5), least=st.integers(0, 4), failures=st.integers(1, 3))
    def build(self, size: int, least: int, failures: int) -> None:
        self.bench = Bench(size, min_healthy=least, consecutive_failures=failures, max_eject_for="40s")
        self.least = min(least, size)
        self.sent: list[tuple[int, float]] = []

    @rule()
    def send(self) -> None:
        endpoint = self.bench.balancer.pick(exchange(), self.bench.env.now())
        assert endpoint is not None
        self.sent.append((self.bench.set.members.index(endpoint), self.bench.env.now()))

    @rule(at=st.integers(0, 1000), outcome=st.sampled_from([OK, FAULT, FAULT, failed(RESET), ABANDONED, response(429)]))
    def answer(self, at: int, outcome: Outcome) -> None:
        if self.sent:
            index, started = self.sent.pop(at % len(self.sent))
            self.bench.answer(index, outcome, started=started)

    @rule(seconds=st.sampled_from([0.001, 0.5, 5.0, 60.0]))
    def wait(self, seconds: float) -> None:
        self.bench.env.advance(seconds)

    @invariant()
    def enough_are_up(self) -> None:
        if hasattr(self, "bench"):
            assert self.bench.set.count("up") >= self.least

    @invariant()
    def ejections_end(self) -> None:
        if hasattr(self, "bench"):
            for endpoint in self.bench.set.members:
                assert endpoint.is_available(self.bench.env.now() + 40.0)

    def teardown(self) -> None:
        if hasattr(self, "bench"):
            self.bench.env.advance(60.0)
            for index, endpoint in enumerate(self.bench.set.members):
                self.bench.answer(index, OK)
                assert endpoint.is_up


NeverBelow.TestCase.settings = settings(max_examples=60, stateful_step_count=40, deadline=None)
TestNeverBelow = NeverBelow.TestCase
