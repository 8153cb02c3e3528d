"""Tests of the circuit breaker, case by case; `test_model.py` compares it with a plain model at random."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest
from pydantic import ValidationError

from sidecar.core import events, metrics
from sidecar.core.body import Body
from sidecar.core.exchange import Attempt
from sidecar.core.outcome import (
    ABANDONED,
    BREAKER_OPEN,
    CONNECT_FAILURE,
    DEADLINE,
    PROTOCOL,
    TIMEOUT,
    Outcome,
    failed,
)
from sidecar.stages.circuit_breaker import stage as breaker
from sidecar.stages.circuit_breaker.spec import Spec
from sidecar.stages.circuit_breaker.stage import CircuitBreakerStage
from tests.support.clock import WALL, FakeEnv, make_env
from tests.support.service import Store, context, exchange, response

GOOD = response(200)
BAD = response(500)
X = exchange()


class Bench:
    """Breaker, its clock, and the calls that were admitted."""

    def __init__(self, *, scope: str = "route", **keys: Any) -> None:
        self.env: FakeEnv = make_env()
        self.store = Store()
        self.scope = scope
        self.gate = self.build(**keys)

    def build(self, **keys: Any) -> CircuitBreakerStage:
        spec = Spec.model_validate({"jitter": "0%", **keys})
        gate = breaker.build(spec, context(self.env, scope=self.scope, store=self.store))
        assert isinstance(gate, CircuitBreakerStage)
        return gate

    @property
    def breaker(self) -> Any:
        return self.gate._breaker

    @property
    def state(self) -> str:
        return str(self.breaker.describe()["state"])

    def admit(self) -> Any:
        """Return a ticket; None if refused."""
        ticket = self.gate.admit(X)
        return None if isinstance(ticket, Outcome) else ticket

    def call(self, outcome: Outcome = GOOD, took: float = 0.0) -> bool:
        """Make one call; True if it was admitted."""
        ticket = self.admit()
        if ticket is None:
            return False
        self.env.advance(took)
        self.gate.settle(X, ticket, outcome)
        return True

    def calls(self, *outcomes: Outcome) -> list[bool]:
        return [self.call(outcome) for outcome in outcomes]

    def refusal(self) -> Outcome:
        outcome = self.gate.admit(X)
        assert isinstance(outcome, Outcome)
        return outcome

    def trip(self) -> None:
        while self.state == "closed":
            self.call(BAD)


def opened(**keys: Any) -> Bench:
    bench = Bench(**{"consecutive_failures": 1, "open_for": "5s", **keys})
    bench.trip()
    assert bench.state == "open"
    return bench


def half_open(probes: int = 3, ramp: str = "0s", verdict_within: str = "10s", **keys: Any) -> Bench:
    bench = opened(half_open={"probes": probes, "ramp": ramp, "verdict_within": verdict_within}, **keys)
    bench.env.advance(bench.breaker.opened_for)
    return bench


# ----- when it opens


def test_it_opens_at_the_failure_rate_and_not_before_min_calls() -> None:
    bench = Bench(window={"calls": 100}, min_calls=10, failure_rate="50%")
    bench.calls(*[BAD, GOOD] * 4, BAD)
    assert bench.state == "closed"
    bench.call(BAD)
    assert bench.state == "open"
    assert bench.breaker.describe()["why"] == "6 of 10 calls failed"


@pytest.mark.parametrize("percent", [1, 7, 14, 28, 29, 55, 56, 57, 58, 100])
def test_rates_that_no_binary_fraction_hits(percent: int) -> None:
    bench = Bench(window={"calls": 100}, min_calls=100, failure_rate=f"{percent}%")
    bench.calls(*[GOOD] * (100 - percent), *[BAD] * (percent - 1))
    assert bench.state == "closed"
    bench.call(BAD)
    assert bench.state == "open"


def test_a_count_window_forgets_the_oldest_call() -> None:
    bench = Bench(window={"calls": 4}, min_calls=4, failure_rate="50%")
    bench.calls(BAD, GOOD, GOOD, GOOD, GOOD, BAD)
    assert bench.state == "closed"
    bench.call(BAD)
    assert bench.state == "open"


def test_a_time_window_forgets_what_is_older() -> None:
    bench = Bench(window="10s", min_calls=4, failure_rate="50%")
    bench.calls(BAD, BAD, BAD)
    bench.env.advance(10)
    bench.calls(GOOD, GOOD, GOOD, BAD)
    assert bench.state == "closed"


def test_failures_in_a_row_need_no_min_calls_and_a_success_starts_anew() -> None:
    bench = Bench(failure_rate="off", consecutive_failures=3)
    bench.calls(BAD, BAD, GOOD, BAD, BAD)
    assert bench.state == "closed"
    bench.call(failed(TIMEOUT))
    assert bench.state == "open"


def test_a_good_call_never_trips_though_it_completes_min_calls() -> None:
    bench = Bench(window={"calls": 10}, min_calls=4, failure_rate="50%")
    bench.calls(BAD, BAD, BAD, GOOD)
    assert bench.state == "closed"
    bench.call(BAD)
    assert bench.state == "open"


def test_a_slow_success_can_trip_by_the_slow_rate_alone() -> None:
    bench = Bench(min_calls=4, failure_rate="1%", slow_calls={"longer_than": "1s", "rate": "50%"}, window={"calls": 10})
    bench.call(GOOD, took=1.0)  # not longer than
    bench.call(GOOD, took=1.1)
    bench.call(GOOD)
    bench.call(GOOD, took=2)
    assert bench.state == "open"
    assert bench.breaker.describe()["why"] == "2 of 4 calls were slow"


def test_a_slow_success_does_not_trip_by_the_failure_rate() -> None:
    bench = Bench(min_calls=4, failure_rate="50%", slow_calls={"longer_than": "1s", "rate": "100%"})
    bench.calls(BAD, BAD, BAD)
    bench.call(GOOD, took=2)
    assert bench.state == "closed"


def test_a_streamed_answer_is_slow_by_its_head() -> None:
    bench = Bench(min_calls=1, failure_rate="off", slow_calls={"longer_than": "1s", "rate": "100%"})

    def stream(head: float) -> None:
        x = exchange()
        ticket = bench.gate.admit(x)
        attempt = Attempt(1, bench.env.now())
        x.attempts.append(attempt)
        bench.env.advance(head)
        attempt.answered = bench.env.now()
        bench.env.advance(3600)
        bench.gate.settle(x, ticket, response(200, stream=Body()))

    stream(0.5)
    assert bench.state == "closed"
    stream(1.5)
    assert bench.state == "open"


@pytest.mark.parametrize("outcome", [ABANDONED, failed(BREAKER_OPEN), failed(DEADLINE), failed(PROTOCOL)])
def test_what_says_nothing_about_the_upstream_is_not_counted(outcome: Outcome) -> None:
    bench = Bench(consecutive_failures=2)
    bench.calls(BAD, outcome, outcome)
    assert bench.breaker.describe()["calls"] == 1
    bench.call(BAD)
    assert bench.state == "open"


def test_failures_are_what_the_policy_names() -> None:
    bench = Bench(consecutive_failures=1, failures=["connect_failure", 503])
    bench.calls(BAD, failed(TIMEOUT), response(404))
    assert bench.state == "closed"
    bench.call(failed(CONNECT_FAILURE))
    assert bench.state == "open"


# ----- while it is open


def test_it_refuses_and_says_who_why_and_until_when() -> None:
    bench = opened()
    outcome = bench.refusal()
    assert (outcome.status, outcome.failure) == (503, BREAKER_OPEN)
    refusal = outcome.refusal
    assert (refusal.policy, refusal.where) == ("circuit_breaker", "policies.yaml:7")
    assert refusal.detail == "The circuit is open: 1 failure in a row"
    assert (refusal.limit, refusal.value) == (1, 1)
    assert refusal.retry_after == 5
    bench.env.advance(3)
    assert bench.refusal().refusal.retry_after == pytest.approx(2)
    assert bench.breaker.describe()["refused"] == 2


def test_a_computed_refusal_serves_for_a_tenth_of_a_second() -> None:
    bench = opened()
    first = bench.refusal()
    bench.env.advance(0.05)
    second = bench.refusal()
    assert second is not first
    assert second.headers is not first.headers
    assert second.refusal is first.refusal
    bench.env.advance(0.06)
    assert bench.refusal().refusal.retry_after == pytest.approx(4.89)


def test_time_does_not_pass_without_traffic() -> None:
    bench = opened()
    bench.env.advance(100)
    assert bench.breaker.state.name == "open"
    assert bench.breaker.describe()["next_probe_in"] == 0
    assert bench.admit()
    assert bench.breaker.state.name == "half_open"


def level(bench: Bench) -> float:
    return bench.env.meter.value(metrics.BREAKER_STATE)


def test_an_open_circuit_without_traffic_is_shown_half_open_once_its_time_is_over() -> None:
    bench = opened()
    bench.env.advance(4.9)
    assert (bench.state, level(bench)) == ("open", 2)
    bench.env.advance(0.2)
    assert (bench.state, level(bench)) == ("half_open", 1)
    assert bench.breaker.describe()["why"] == "it was open for 5 s and waits for traffic to probe with"
    assert bench.breaker.describe()["history"][-1]["after"] == "open", "no transition that no request has made"


def test_a_circuit_that_an_operator_holds_open_is_never_shown_half_open() -> None:
    bench = opened()
    bench.breaker.force("open")
    bench.env.advance(1e6)
    assert (bench.state, level(bench)) == ("open", 2)


def test_probes_that_find_no_traffic_wait_for_it_and_a_ramp_that_is_over_is_shown_closed() -> None:
    bench = opened(half_open={"probes": 1, "ramp": "10s", "verdict_within": "5s"})
    bench.breaker.force("open")
    bench.breaker.force("auto")
    assert "waits for traffic" not in bench.breaker.describe()["why"]
    bench.env.advance(6)
    assert "waits for traffic" in bench.breaker.describe()["why"]
    bench.call(GOOD)
    bench.env.advance(9)
    assert (bench.state, level(bench)) == ("half_open", 1)
    bench.env.advance(2)
    assert (bench.state, level(bench)) == ("closed", 0)


def test_late_results_of_an_older_state_are_ignored() -> None:
    bench = Bench(consecutive_failures=1, half_open={"probes": 3, "ramp": "0s"})
    late = [bench.admit() for _ in range(4)]
    bench.call(BAD)
    until = bench.breaker.open_until
    bench.gate.settle(X, late[0], BAD)  # does not lengthen the open time
    assert bench.breaker.open_until == until
    bench.env.advance(5)
    probe = bench.admit()
    bench.gate.settle(X, late[1], BAD)  # does not reopen
    bench.gate.settle(X, late[2], GOOD)  # is not counted as a probe's success
    assert bench.breaker.describe()["probes"] == {"under_way": 1, "results": 0, "failed": 0, "slow": 0}
    bench.gate.settle(X, probe, GOOD)
    bench.call()
    assert bench.state == "closed"
    bench.gate.settle(X, late[3], BAD)  # is not counted when closed again
    assert bench.state == "closed"


@pytest.mark.parametrize(
    ("header", "expected"),
    [("7", 7), ("2", 2), ("600", 60), ("0", 5), ("rubbish", 5), ("Sun, 15 Jun 2025 15:06:50 GMT", 10)],
)
def test_retry_after_replaces_the_open_time(header: str, expected: float) -> None:
    bench = Bench(consecutive_failures=1)
    assert WALL == 1750000000  # Sun, 15 Jun 2025 15:06:40 GMT
    bench.call(response(503, headers={"retry-after": header}))
    assert bench.breaker.opened_for == pytest.approx(expected, abs=0.01)


def test_jitter_only_adds() -> None:
    times = set()
    for seed in range(50):
        bench = Bench(consecutive_failures=1, jitter="20%")
        bench.env.rng.seed(seed)
        bench.call(BAD)
        times.add(bench.breaker.opened_for)
    assert 5 <= min(times) < 5.2
    assert 5.8 < max(times) <= 6
    assert len(times) == 50


# ----- half-open


def test_it_admits_no_more_probes_than_it_says() -> None:
    bench = half_open(probes=3)
    probes = [bench.admit() for _ in range(50)]
    assert sum(probe is not None for probe in probes) == 3
    assert bench.refusal().refusal.retry_after == 10
    assert "half-open" in bench.refusal().refusal.detail


def test_results_take_up_permits_too() -> None:
    bench = half_open(probes=3)
    bench.call()
    assert [bench.admit() is not None for _ in range(3)] == [True, True, False]


def test_good_probes_close_it_as_soon_as_the_rest_cannot_matter() -> None:
    bench = half_open(probes=3)
    bench.call()
    assert bench.state == "half_open"
    bench.call()
    assert bench.state == "closed"
    assert bench.breaker.describe()["why"] == "2 of 3 probes succeeded"


def test_one_bad_probe_of_three_is_bad_luck_and_two_are_not() -> None:
    bench = half_open(probes=3)
    bench.calls(BAD, GOOD, GOOD)
    assert bench.state == "closed"
    bench = half_open(probes=3)
    bench.calls(BAD, BAD)
    assert bench.state == "open"


def test_one_probe_decides_alone_if_there_is_but_one() -> None:
    bench = half_open(probes=1)
    bench.call(BAD)
    assert bench.state == "open"


def test_slow_probes_reopen() -> None:
    bench = half_open(probes=2, slow_calls={"longer_than": "1s", "rate": "50%"})
    bench.call(GOOD, took=1.5)
    assert bench.state == "open"
    assert bench.breaker.describe()["why"] == "1 of 2 probes were slow"


@pytest.mark.parametrize("outcome", [ABANDONED, failed(BREAKER_OPEN)])
def test_a_cancelled_probe_returns_its_permit_and_counts_for_nothing(outcome: Outcome) -> None:
    bench = half_open(probes=1)
    probe = bench.admit()
    assert bench.admit() is None
    bench.gate.settle(X, probe, outcome)
    assert bench.state == "half_open"
    assert bench.call()
    assert bench.state == "closed"


def test_a_probe_that_hangs_has_failed_at_the_deadline() -> None:
    bench = half_open(probes=2)
    bench.admit()
    bench.admit()
    bench.env.advance(9.9)
    assert bench.admit() is None
    assert bench.state == "half_open"
    bench.env.advance(0.2)
    assert bench.admit() is None
    assert bench.state == "open"
    assert bench.breaker.describe()["why"] == "2 of 2 probes failed or did not answer in time"


@pytest.mark.parametrize(("status", "state"), [(200, "closed"), (500, "open")])
def test_a_probe_whose_body_streams_is_judged_by_its_head_at_the_deadline(status: int, state: str) -> None:
    bench = half_open(probes=1)
    x = exchange()
    ticket = bench.gate.admit(x)
    attempt = Attempt(1, bench.env.now())
    x.attempts.append(attempt)
    bench.env.advance(1)
    attempt.answered, attempt.status = bench.env.now(), status
    bench.env.advance(8.9)
    assert bench.admit() is None
    assert bench.state == "half_open"
    bench.env.advance(0.2)
    assert (bench.admit() is not None) == (state == "closed")
    assert bench.state == state
    bench.gate.settle(x, ticket, GOOD)


def test_too_few_results_at_the_deadline_decide_nonetheless() -> None:
    bench = half_open(probes=10)
    bench.call()
    young = None
    bench.env.advance(9)
    young = bench.admit()  # admitted shortly before the verdict, so without a result
    bench.env.advance(1.5)
    assert bench.admit()
    assert bench.state == "closed"
    bench.gate.settle(X, young, BAD)
    assert bench.breaker.describe()["failed"] == 0


def test_a_result_after_the_deadline_decides_too() -> None:
    bench = half_open(probes=10)
    probe = bench.admit()
    bench.env.advance(11)
    bench.gate.settle(X, probe, GOOD)
    assert bench.state == "closed"


def test_knowing_nothing_at_the_deadline_starts_the_time_again() -> None:
    bench = half_open(probes=1)
    bench.call(ABANDONED)
    bench.env.advance(1000)
    probe = bench.admit()
    assert probe
    assert bench.state == "half_open"
    bench.env.advance(9.9)
    assert bench.admit() is None
    bench.gate.settle(X, probe, GOOD)
    assert bench.state == "closed"


# ----- the ramp


def test_the_share_let_through_rises_in_a_straight_line() -> None:
    bench = half_open(probes=1, ramp="10s")
    bench.call()
    assert bench.state == "half_open"
    shares = []
    for _ in range(10):
        admitted = 0
        for _ in range(100):
            admitted += bench.call()
            bench.env.advance(0.01)
        shares.append(admitted)
    assert shares[0] == pytest.approx(10, abs=2)
    assert shares[5] == pytest.approx(55, abs=3)
    assert shares[9] == pytest.approx(95, abs=3)
    assert shares == sorted(shares)
    bench.env.advance(0.01)
    assert bench.call()
    assert bench.state == "closed"
    assert bench.breaker.describe()["why"] == "nothing tripped it during the ramp"


def test_the_first_after_the_verdict_passes() -> None:
    bench = half_open(probes=1, ramp="10s")
    assert bench.calls(GOOD, GOOD, GOOD) == [True, True, False]
    assert bench.breaker.describe()["share"] == 0.1
    assert bench.refusal().refusal.retry_after == 10


def test_any_trip_in_the_ramp_reopens_for_twice_as_long() -> None:
    bench = half_open(probes=1, ramp="10s")
    bench.call()
    bench.env.advance(9)
    while bench.state == "half_open":
        bench.call(BAD)
    assert bench.state == "open"
    assert bench.breaker.opened_for == 10


def test_the_window_of_probes_and_ramp_goes_on_when_closed() -> None:
    bench = half_open(probes=1, ramp="1s", window="100s", consecutive_failures=None, min_calls=3)
    bench.call()
    bench.env.advance(0.999)
    assert bench.call()
    bench.env.advance(1)
    assert bench.call()
    assert bench.state == "closed"
    assert bench.breaker.describe()["calls"] == 3


# ----- growth


def test_the_open_time_doubles_while_probes_fail() -> None:
    bench = half_open(probes=1)
    times = []
    for _ in range(6):
        bench.call(BAD)
        times.append(bench.breaker.opened_for)
        bench.env.advance(bench.breaker.opened_for)
    assert times == [10, 20, 40, 60, 60, 60]


def test_growth_is_kept_on_closing_and_shrinks_by_health_that_was_seen() -> None:
    bench = half_open(probes=1, min_calls=4)
    bench.call(BAD)
    bench.env.advance(10)
    bench.call()
    assert bench.state == "closed"
    bench.env.advance(1000)  # time alone is no evidence
    bench.call(BAD)
    assert bench.breaker.opened_for == 10
    bench.env.advance(10)
    bench.call()
    bench.calls(*[GOOD] * 100)  # a burst is no evidence either
    assert bench.breaker.reopened == 1
    bench.env.advance(10)
    bench.call()
    assert bench.breaker.reopened == 0
    bench.call(BAD)
    assert bench.breaker.opened_for == 5


# ----- forced by an operator


def test_forced_open_stays_until_auto_and_then_probes() -> None:
    bench = Bench(half_open={"probes": 1, "ramp": "0s"})
    bench.breaker.force("open")
    bench.env.advance(1e6)
    assert bench.refusal().refusal.retry_after is None
    facts = bench.breaker.describe()
    assert (facts["forced"], facts["why"], facts["next_probe_in"]) == (True, "an operator holds it open", None)
    bench.breaker.force("auto")
    assert bench.state == "half_open"
    bench.call(BAD)
    assert bench.state == "open"
    bench.env.advance(10)
    assert bench.admit()


def test_forced_closed_counts_and_never_opens() -> None:
    bench = opened()
    bench.breaker.force("closed")
    assert bench.calls(*[BAD] * 100) == [True] * 100
    assert bench.breaker.describe()["failures_in_a_row"] == 100
    bench.breaker.force("auto")
    assert bench.state == "closed"
    bench.call(BAD)
    assert bench.state == "open"


def test_forcing_again_and_auto_without_force_change_nothing() -> None:
    bench = Bench()
    bench.breaker.force("auto")
    assert bench.breaker.describe()["history"] == []
    bench.breaker.force("open")
    bench.breaker.force("open")
    assert len(bench.breaker.describe()["history"]) == 1


# ----- observe, scope, reload, telling


def test_observe_lets_all_pass_and_counts_what_it_would_refuse() -> None:
    bench = Bench(consecutive_failures=1, mode="observe", half_open={"probes": 1, "ramp": "0s"})
    bench.trip()
    assert [bench.gate.admit(X) for _ in range(3)] == [None, None, None]
    bench.gate.settle(X, None, BAD)
    assert bench.gate.would_admit()
    assert bench.env.meter.value(metrics.WOULD_REFUSE, policy="circuit_breaker", route="order") == 3
    assert bench.breaker.describe()["observed"], "an open circuit that refuses nothing must not look like one that does"
    bench.env.advance(5)
    assert bench.call()
    assert bench.state == "closed"


def test_metrics_tell_a_breaker_that_only_observes() -> None:
    bench = Bench(consecutive_failures=1, mode="observe", scope="upstream")
    for mode, is_observed in (("observe", 1), ("enforce", 0), ("observe", 1)):
        bench.build(consecutive_failures=1, mode=mode)
        assert bench.env.meter.value(metrics.BREAKER_OBSERVED, breaker="upstream:app") == is_observed


def test_the_same_owner_shares_one_circuit_and_another_has_its_own() -> None:
    env, store = make_env(), Store()
    spec = Spec(consecutive_failures=1)

    def gate(route: str, scope: str) -> Any:
        return breaker.build(spec, context(env, route=route, scope=scope, store=store))

    shared, other, own = gate("a", "upstream"), gate("b", "upstream"), gate("b", "route")
    shared.settle(X, shared.admit(X), BAD)
    assert isinstance(other.admit(X), Outcome)
    assert not isinstance(own.admit(X), Outcome)
    assert set(store.objects) == {("breaker", "upstream", "app"), ("breaker", "route", "b")}


def test_each_endpoint_has_its_own_and_can_be_asked_beforehand() -> None:
    env, store = make_env(), Store()
    ctx = context(env, scope="upstream", store=store)
    spec = Spec.model_validate({"per": "endpoint", "consecutive_failures": 1, "jitter": "0%"})
    one, two = (breaker.build(spec, replace(ctx, endpoint=f"http://{n}")) for n in "12")
    one.settle(X, one.admit(X), BAD)
    assert (one.would_admit(), two.would_admit()) == (False, True)
    assert ("breaker", "upstream", "app", "http://1") in store.objects
    env.advance(5)
    assert [one.would_admit() for _ in range(5)] == [True] * 5  # takes no permit
    for _ in range(2):
        one.settle(X, one.admit(X), GOOD)
    asked = [one.would_admit() for _ in range(3)]
    assert asked == [True, True, True]  # the ramp's decision stays until a request takes it
    one.settle(X, one.admit(X), GOOD)
    assert not one.would_admit()
    env.advance(10)
    assert one.would_admit()


def test_a_reload_keeps_state_and_counts_where_the_window_stays() -> None:
    bench = Bench(consecutive_failures=3)
    bench.calls(BAD, BAD)
    bench.build(consecutive_failures=3, failure_rate="90%")
    bench.call(BAD)
    assert bench.state == "open"
    bench.build(consecutive_failures=3, open_for="1s", max_open_for="1s")
    assert bench.breaker.open_until == bench.env.now() + 1
    bench.env.advance(1)
    assert bench.admit()
    bench.build(consecutive_failures=3, open_for="1s", max_open_for="1s", half_open={"probes": 1, "ramp": "0s"})
    assert bench.admit() is None
    assert bench.state == "half_open"


def test_a_rule_on_slow_calls_that_a_reload_adds_judges_the_requests_that_come_after_it() -> None:
    bench, slow = Bench(min_calls=1), {"longer_than": "1s", "rate": "50%"}
    before = bench.admit()
    bench.build(min_calls=1, slow_calls=slow)
    after = bench.admit()
    bench.env.advance(5)
    bench.gate.settle(X, before, GOOD)
    assert (bench.breaker.describe()["slow"], bench.state) == (0, "closed")
    bench.gate.settle(X, after, GOOD)
    assert bench.state == "open"


def test_a_rule_on_slow_calls_that_a_reload_drops_judges_nothing_more() -> None:
    bench = Bench(min_calls=1, slow_calls={"longer_than": "1s", "rate": "50%"})
    before = bench.admit()
    bench.build(min_calls=1)
    after = bench.admit()
    bench.env.advance(5)
    for ticket in (before, after):
        bench.gate.settle(X, ticket, GOOD)
    assert (bench.breaker.describe()["calls"], bench.state) == (2, "closed")


def test_a_reload_with_another_window_starts_counting_anew() -> None:
    bench = Bench()
    bench.calls(BAD, BAD)
    bench.build(window="20s")
    assert bench.breaker.describe()["calls"] == 0
    bench.build(window={"calls": 50})
    bench.call()
    assert bench.breaker.describe()["calls"] == 1


def test_transitions_are_told_counted_and_remembered() -> None:
    bench = half_open(probes=1, ramp="10s", scope="upstream")
    bench.call()
    bench.env.advance(10)
    bench.call()
    told = [(e["before"], e["after"]) for e in bench.env.emitted(events.BREAKER_TRANSITION)]
    assert told == [("closed", "open"), ("open", "half_open"), ("half_open", "half_open"), ("half_open", "closed")]
    assert {e["breaker"] for e in bench.env.emitted(events.BREAKER_TRANSITION)} == {"upstream:app"}
    history = bench.breaker.describe()["history"]
    assert [entry["why"] for entry in history] == [
        "1 failure in a row",
        "it was open for 5 s",
        "1 of 1 probes succeeded",
        "nothing tripped it during the ramp",
    ]
    assert history[0]["open_for"] == 5
    count = bench.env.meter.value
    for state in ("open", "half_open", "closed"):
        assert count(metrics.BREAKER_TRANSITIONS, breaker="upstream:app", to=state) == 1
    assert count(metrics.BREAKER_STATE, breaker="upstream:app") == 0
    bench.breaker.force("open")
    assert count(metrics.BREAKER_STATE, breaker="upstream:app") == 2
    assert "open" in repr(bench.gate)


@pytest.mark.parametrize(
    ("ramp", "calls", "why", "limit", "value"),
    [
        ("0s", [BAD, BAD], "2 of 3 probes failed", 2, 2),
        ("10s", [GOOD, GOOD, GOOD, *[BAD] * 40], "4 failures in a row", 4, 4),
    ],
    ids=["trial", "ramp"],
)
def test_one_that_opened_again_says_why_it_did(
    ramp: str, calls: list[Outcome], why: str, limit: int, value: int
) -> None:
    bench = Bench(consecutive_failures=4, half_open={"probes": 3, "ramp": ramp})
    bench.calls(*[BAD] * 4)
    bench.env.advance(5)
    for outcome in calls:
        if bench.state != "open":
            bench.env.advance(0.1)
            bench.call(outcome)
    assert bench.state == "open"
    again = bench.gate.admit(X)
    assert isinstance(again, Outcome)
    assert why in again.refusal.detail
    assert (again.refusal.limit, again.refusal.value) == (limit, value)
    facts = bench.breaker.describe()
    assert why in facts["why"]
    assert why in facts["opened_because"]
    assert why in facts["history"][-1]["why"]


def test_a_half_open_one_does_not_refuse_by_the_limit_that_had_opened_it() -> None:
    bench = Bench(consecutive_failures=4, half_open={"probes": 1})
    bench.calls(*[BAD] * 4)
    bench.env.advance(5)
    bench.gate.admit(X)
    refused = bench.gate.admit(X)
    assert isinstance(refused, Outcome)
    assert refused.refusal.detail.endswith("why it had opened: 4 failures in a row")
    assert (refused.refusal.limit, refused.refusal.value) == (None, None)


def test_the_history_is_bounded() -> None:
    bench = half_open(probes=1)
    for _ in range(50):
        bench.call(BAD)
        bench.env.advance(1000)
    assert len(bench.breaker.describe()["history"]) == 20


# ----- fields of the policy file


@pytest.mark.parametrize(
    ("keys", "message"),
    [
        ({"failure_rate": "off"}, "can never open"),
        ({"window": {"calls": 10}}, "make min_calls at most that"),
        ({"open_for": "2m"}, "make it at least as long"),
        ({"failure_rate": 0.5}, "without a unit"),
        ({"window": 10}, "without a unit"),
        ({"failures": []}, "at least 1 item"),
        ({"failures": ["oops"]}, "is not a condition"),
        ({"per": "route"}, "endpoint"),
        ({"half_open": {"probes": 0}}, "greater than or equal to 1"),
    ],
)
def test_rubbish_is_refused_with_the_remedy(keys: dict[str, Any], message: str) -> None:
    with pytest.raises(ValidationError, match=message):
        Spec.model_validate(keys)


def test_the_example_of_the_policy_format() -> None:
    spec = Spec.model_validate(
        {
            "window": "10s",
            "min_calls": 20,
            "failure_rate": "50%",
            "slow_calls": {"longer_than": "1s", "rate": "80%"},
            "consecutive_failures": 10,
            "failures": ["connect_failure", "reset", "timeout", "5xx"],
            "open_for": "5s",
            "max_open_for": "60s",
            "jitter": "20%",
            "half_open": {"probes": 3, "verdict_within": "10s", "ramp": "10s"},
        }
    )
    assert spec.window == 10
    assert Spec.model_json_schema()
