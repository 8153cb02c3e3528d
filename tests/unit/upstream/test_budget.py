"""Tests of the retry budget: Finagle's rule, and a plain model of it."""

from __future__ import annotations

import math

import pytest
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, precondition, rule
from pydantic import ValidationError

from sidecar.core import events, metrics
from sidecar.core.window import BUCKETS
from sidecar.upstream.budget import RetryBudget
from sidecar.upstream.spec import RetryBudgetSpec
from tests.support.cases import each
from tests.support.clock import FakeEnv, make_env


def spec(**keys: object) -> RetryBudgetSpec:
    return RetryBudgetSpec.model_validate(keys)


def spend(budget: RetryBudget, tries: int) -> int:
    return sum(budget.withdraw() for _ in range(tries))


def test_the_floor_alone_allows_a_few() -> None:
    budget = RetryBudget(spec(), make_env(), "app")
    assert budget.tokens == 30
    assert spend(budget, 100) == 30


def test_the_ratio_is_one_to_first_attempts() -> None:
    env = make_env()
    budget = RetryBudget(spec(min_per_second=0), env, "app")
    for _ in range(100):
        budget.deposit(env.now())
    assert spend(budget, 100) == 20


@each(range(1, 101))
def test_shares_that_no_binary_fraction_hits(percent: int) -> None:
    env = make_env()
    budget = RetryBudget(spec(ratio=f"{percent}%", min_per_second=0), env, "app")
    for _ in range(100):
        budget.deposit(env.now())
    assert spend(budget, 200) == percent


def test_deposits_and_withdrawals_leave_with_the_window() -> None:
    env = make_env()
    budget = RetryBudget(spec(min_per_second=1), env, "app")
    for _ in range(50):
        budget.deposit(env.now())
    assert spend(budget, 100) == 20
    env.advance(10)
    assert budget.tokens == 10


def test_a_storm_is_amplified_by_the_ratio_and_not_by_the_attempts() -> None:
    env = make_env()
    budget = RetryBudget(spec(), env, "app")
    retries = 0
    for _ in range(10_000):  # 1000 a second, all fail, each would make three attempts
        budget.deposit(env.now())
        retries += spend(budget, 2)
        env.advance(0.001)
    assert 2000 <= retries <= 2050


def test_exhaustion_is_told_once_a_window() -> None:
    env = make_env()
    budget = RetryBudget(spec(min_per_second=0), env, "app")
    spend(budget, 100)
    assert len(env.emitted(events.BUDGET_EXHAUSTED)) == 1
    assert env.emitted(events.BUDGET_EXHAUSTED)[0]["upstream"] == "app"
    env.advance(10)
    spend(budget, 100)
    assert len(env.emitted(events.BUDGET_EXHAUSTED)) == 2


def test_observe_lets_through_and_counts() -> None:
    env = make_env()
    budget = RetryBudget(spec(min_per_second=0, mode="observe"), env, "app")
    assert spend(budget, 5) == 5
    assert env.meter.value(metrics.WOULD_REFUSE, policy="retry_budget", upstream="app") == 5


def test_metrics_tell_a_budget_that_only_observes() -> None:
    env = make_env()
    budget = RetryBudget(spec(mode="observe"), env, "app")
    assert env.meter.value(metrics.BUDGET_OBSERVED, upstream="app") == 1
    budget.retune(spec())
    assert env.meter.value(metrics.BUDGET_OBSERVED, upstream="app") == 0


def test_retune_keeps_the_counts_of_the_same_window() -> None:
    env = make_env()
    budget = RetryBudget(spec(), env, "app")
    spend(budget, 10)
    for _ in range(10):
        budget.deposit(env.now())
    budget.retune(spec(ratio="50%", min_per_second=1))
    assert budget.tokens == 10 + 5 - 10
    budget.retune(spec(window="20s"))
    assert budget.tokens == 60


def test_it_describes_and_meters_itself() -> None:
    env = make_env()
    budget = RetryBudget(spec(), env, "app")
    budget.withdraw()
    assert budget.describe() == {
        "tokens": 29, "first_attempts": 0, "retries": 1, "ratio": 0.2, "floor": 30, "window": 10,
    }  # fmt: skip
    assert env.meter.value(metrics.BUDGET_TOKENS, upstream="app") == 29
    assert "29 tokens" in repr(budget)


@pytest.mark.parametrize("keys", [{"ratio": 0.2}, {"ratio": "200%"}, {"min_per_second": -1}, {"window": "0s"}])
def test_rubbish_is_refused(keys: dict[str, object]) -> None:
    with pytest.raises(ValidationError):
        spec(**keys)


class BudgetMachine(RuleBasedStateMachine):
    """Random test of the budget beside lists of instants, in whole buckets."""

    def __init__(self) -> None:
        super().__init__()
        self.env: FakeEnv = make_env()
        self.spec = spec(ratio="30%", min_per_second=0.5, window="10s")
        self.budget = RetryBudget(self.spec, self.env, "app")
        self.first: list[int] = []
        self.spent: list[int] = []

    def tick(self) -> int:
        return math.floor(self.env.now() * (BUCKETS / 10))

    def recent(self, ticks: list[int]) -> int:
        return sum(tick > self.tick() - BUCKETS for tick in ticks)

    def tokens(self) -> float:
        return self.spec.min_per_second * 10 + self.spec.ratio * self.recent(self.first) - self.recent(self.spent)

    @rule(seconds=st.one_of(st.floats(0, 3), st.floats(0, 100)))
    def wait(self, seconds: float) -> None:
        self.env.advance(seconds)

    @rule(times=st.integers(1, 20))
    def deposit(self, times: int) -> None:
        for _ in range(times):
            self.budget.deposit(self.env.now())
            self.first.append(self.tick())

    @rule(times=st.integers(1, 20))
    def withdraw(self, times: int) -> None:
        for _ in range(times):
            granted = self.tokens() > 1 - 1e-6
            assert self.budget.withdraw() == granted
            if granted:
                self.spent.append(self.tick())

    @precondition(lambda self: self.first)
    @rule(ratio=st.integers(1, 100), floor=st.integers(0, 5))
    def retune(self, ratio: int, floor: int) -> None:
        self.spec = spec(ratio=f"{ratio}%", min_per_second=floor)
        self.budget.retune(self.spec)

    @invariant()
    def agrees(self) -> None:
        assert self.budget.tokens == pytest.approx(self.tokens(), abs=1e-5)


TestBudgetMachine = BudgetMachine.TestCase
