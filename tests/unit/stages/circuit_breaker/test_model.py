"""Random test of the breaker beside a plain model of its rules, which shares no code with it."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

import pytest
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, precondition, rule

from sidecar.core.outcome import ABANDONED, Outcome
from sidecar.stages.circuit_breaker import stage as breaker
from sidecar.stages.circuit_breaker.spec import Spec
from sidecar.stages.circuit_breaker.stage import CircuitBreakerStage
from tests.support.clock import FakeEnv, make_env
from tests.support.service import context, exchange, response

X = exchange()
OUTCOMES = {"good": response(200), "bad": response(500), "none": ABANDONED}
MIN_CALLS, RATE, IN_A_ROW, OPEN, LONGEST, PROBES, WITHIN, RAMP = 4, 0.5, 6, 5.0, 20.0, 3, 10.0, 8.0


@dataclass
class Model:
    """Model of the rules in the breaker's module docstring, with lists."""

    size: int
    state: str = "closed"
    era: int = 0
    """Number of transitions so far; results of calls from an earlier era are ignored."""
    calls: list[bool] = field(default_factory=list)
    """Calls in the window: True for a failure."""
    in_a_row: int = 0
    doubled: int = 0
    until: float = 0.0
    opened_for: float = 0.0
    probes: list[float] = field(default_factory=list)
    results: list[bool] = field(default_factory=list)
    deadline: float = 0.0
    ramp: float | None = None
    healthy: int = 0
    healthy_since: float = 0.0

    def turn(self, state: str) -> None:
        self.state, self.era = state, self.era + 1

    def trip(self, now: float) -> None:
        self.doubled += self.state == "half_open"
        self.opened_for = min(OPEN * 2**self.doubled, LONGEST)
        self.until = now + self.opened_for
        self.turn("open")

    def close(self, now: float) -> None:
        self.healthy, self.healthy_since = 0, now
        self.turn("closed")

    def look(self, now: float) -> None:
        """Apply the transitions that are due when a request arrives."""
        if self.state == "open" and now >= self.until:
            self.turn("half_open")
            self.calls, self.in_a_row, self.probes, self.results, self.ramp = [], 0, [], [], None
            self.deadline = now + WITHIN
        if self.state == "half_open" and self.ramp is None and now >= self.deadline:
            self.judge_late(now)
        if self.state == "half_open" and self.ramp is not None and now - self.ramp >= RAMP:
            self.close(now)

    def judge_late(self, now: float) -> None:
        known = self.results + [True for began in self.probes if now - began >= WITHIN]
        if not known:
            self.deadline = now + WITHIN
        elif sum(known) >= RATE * len(known):
            self.trip(now)
        else:
            self.ramp = now

    def shown(self, now: float) -> str:
        """Return the displayed state: without traffic, the state that the next request would find."""
        if self.state == "open" and now >= self.until:
            return "half_open"
        if self.state == "half_open" and self.ramp is not None and now - self.ramp >= RAMP:
            return "closed"
        return self.state

    def may_admit(self) -> bool | None:
        """Return whether a request is admitted; None if the ramp decides."""
        if self.state == "half_open":
            return None if self.ramp is not None else len(self.probes) + len(self.results) < PROBES
        return self.state == "closed"

    def settle(self, began: float, kind: str, now: float) -> None:
        if self.state == "half_open" and self.ramp is None:
            self.probes.remove(began)
            if kind != "none":
                self.record(kind == "bad")
                self.results.append(kind == "bad")
                bad, left = sum(self.results), PROBES - len(self.results)
                if bad >= RATE * PROBES:
                    self.trip(now)
                elif bad + left < RATE * PROBES:
                    self.ramp = now
                elif now >= self.deadline:
                    self.judge_late(now)
        elif kind == "bad":
            self.record(True)
            self.in_a_row += 1
            too_many = len(self.calls) >= MIN_CALLS and sum(self.calls) >= RATE * len(self.calls)
            if too_many or self.in_a_row >= IN_A_ROW:
                self.trip(now)
        elif kind == "good":
            self.record(False)
            self.in_a_row = 0
            if self.state == "closed" and self.doubled:
                self.healthy += 1
                if self.healthy >= MIN_CALLS and now - self.healthy_since >= self.opened_for:
                    self.doubled, self.healthy, self.healthy_since = self.doubled - 1, 0, now

    def record(self, is_failure: bool) -> None:
        self.calls = [*self.calls, is_failure][-self.size :]


class BreakerMachine(RuleBasedStateMachine):
    """Random sequences of requests, which end in any order and with any result, and of time."""

    @initialize(size=st.integers(MIN_CALLS, 10))
    def begin(self, size: int) -> None:
        self.env: FakeEnv = make_env()
        spec = Spec.model_validate(
            {
                "window": {"calls": size},
                "min_calls": MIN_CALLS,
                "failure_rate": "50%",
                "consecutive_failures": IN_A_ROW,
                "open_for": "5s",
                "max_open_for": "20s",
                "jitter": "0%",
                "half_open": {"probes": PROBES, "verdict_within": "10s", "ramp": "8s"},
            }
        )
        gate = breaker.build(spec, context(self.env))
        assert isinstance(gate, CircuitBreakerStage)
        self.gate = gate
        self.model = Model(size)
        self.out: list[tuple[Any, int, float]] = []

    @rule(seconds=st.sampled_from([0.1, 1, 2.5, 5, 10, 25]))
    def wait(self, seconds: float) -> None:
        self.env.advance(seconds)

    @rule()
    def ask(self) -> None:
        if self.model.state == "open":  # reading the state is not a request
            assert self.gate.would_admit() == (self.env.now() >= self.model.until)
            return
        self.model.look(self.env.now())
        expected = self.model.may_admit()
        admits = self.gate.would_admit()
        assert expected in (None, admits)
        assert self.gate.would_admit() == admits or expected is None

    @rule()
    def request(self) -> None:
        now = self.env.now()
        self.model.look(now)
        expected = self.model.may_admit()
        ticket = self.gate.admit(X)
        admitted = not isinstance(ticket, Outcome)
        assert expected in (None, admitted)
        if admitted:
            if self.model.state == "half_open" and self.model.ramp is None:
                self.model.probes.append(now)
            self.out.append((ticket, self.model.era, now))
        else:
            assert ticket.refusal.retry_after is not None
            assert ticket.refusal.retry_after >= 0

    @precondition(lambda self: getattr(self, "out", None))
    @rule(index=st.integers(0, 1000), kind=st.sampled_from(["good", "bad", "bad", "none"]))
    def end(self, index: int, kind: str) -> None:
        ticket, era, began = self.out.pop(index % len(self.out))
        if era == self.model.era:
            self.model.settle(began, kind, self.env.now())
        self.gate.settle(X, ticket, OUTCOMES[kind])

    @rule(kinds=st.lists(st.sampled_from(["good", "bad"]), min_size=1, max_size=8))
    def burst(self, kinds: list[str]) -> None:
        for kind in kinds:
            before = len(self.out)
            self.request()
            if len(self.out) > before:
                self.end(before, kind)

    @invariant()
    def agrees(self) -> None:
        if not hasattr(self, "model"):
            return
        facts, model = self.gate._breaker.describe(), self.model
        assert facts["state"] == model.shown(self.env.now())
        assert facts["times_doubled"] == model.doubled
        if model.state != "open":
            assert (facts["calls"], facts["failed"]) == (len(model.calls), sum(model.calls))
        else:
            assert facts["open_for"] == pytest.approx(model.opened_for)
        if model.state == "half_open" and model.ramp is None:
            assert facts["probes"]["under_way"] == len(model.probes) <= PROBES


TestBreakerMachine = BreakerMachine.TestCase
TestBreakerMachine.settings = settings(max_examples=60, stateful_step_count=50, deadline=None)
