"""Tests of the rate that answers lower: it converges to what an upstream accepts, recovers, and never ends at zero."""

from __future__ import annotations

from random import Random

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from sidecar.leases.rate import NEVER
from sidecar.stages.pacing.pace import FORGET, Pace

START = 1000.0


class Loop:
    """Attempts at an even pace to an upstream that accepts so many in a second, by a token bucket."""

    def __init__(self, capacity: float, demand: float, *, seed: int = 0) -> None:
        self.pace = Pace(0.7, 1.0, 10.0)
        self.capacity, self.demand = capacity, demand
        self.now = START
        self.tokens, self.filled = capacity / 10, START
        self.answers: list[tuple[float, float, bool]] = []
        """Instants of answers to come, instants at which their attempts were sent, and True for accepted ones."""
        self.sent: list[tuple[float, bool]] = []
        self.random = Random(seed)

    def run(self, seconds: float) -> None:
        """Send for so long; attempts that may not be sent at once are refused."""
        until = self.now + seconds
        while self.now < until:
            self.now += self.random.uniform(0.5, 1.5) / self.demand
            while self.answers and self.answers[0][0] <= self.now:
                at, sent_at, is_accepted = self.answers.pop(0)
                if is_accepted:
                    self.pace.accept(at)
                else:
                    self.pace.press(sent_at, at, 0.0)
            if self.pace.delay(self.now) <= 0:
                self.pace.send(self.now, 0.0)
                self.tokens = min(self.capacity / 10, self.tokens + (self.now - self.filled) * self.capacity)
                self.filled = self.now
                is_accepted = self.tokens >= 1 or self.capacity == NEVER
                self.tokens -= is_accepted
                self.answers.append((self.now + 0.02, self.now, is_accepted))
                self.sent.append((self.now, is_accepted))

    def share(self, since: float, *, accepted: bool) -> float:
        """Return the attempts per second since an instant: accepted ones, or all."""
        found = [one for at, one in self.sent if at >= since and (one or not accepted)]
        return len(found) / (self.now - since)


@settings(max_examples=25, deadline=None, derandomize=True)
@given(st.sampled_from((20.0, 100.0, 400.0)), st.sampled_from((1.5, 4.0, 10.0)), st.integers(0, 2**32))
def test_it_converges_to_what_the_upstream_accepts(capacity: float, load: float, seed: int) -> None:
    loop = Loop(capacity, capacity * load, seed=seed)
    loop.run(40)
    since = START + 10
    assert loop.share(since, accepted=True) >= 0.7 * capacity
    assert loop.share(since, accepted=False) <= 1.3 * capacity


@settings(max_examples=10, deadline=None, derandomize=True)
@given(st.sampled_from((20.0, 100.0)), st.integers(0, 2**32))
def test_it_recovers_from_an_upstream_that_accepted_nothing(capacity: float, seed: int) -> None:
    loop = Loop(0.0, capacity, seed=seed)
    loop.run(30)
    assert loop.share(START + 10, accepted=False) >= 0.8, "it keeps asking"
    assert loop.share(START + 10, accepted=False) <= 3.0
    loop.capacity = 10 * capacity
    loop.run(60)
    assert loop.share(loop.now - 10, accepted=True) >= 0.9 * capacity


@settings(max_examples=200, deadline=None)
@given(
    st.lists(st.tuples(st.sampled_from(("send", "press", "accept", "ahead")), st.floats(-5, 100)), max_size=80),
    st.sampled_from((0.1, 1.0, 50.0)),
)
def test_the_next_attempt_is_never_further_than_the_least_rate_allows(
    steps: list[tuple[str, float]], min_rate: float
) -> None:
    """Clocks that step back, holds and fields of any size included."""
    pace, now = Pace(0.5, min_rate, 10.0), START
    for step, value in steps:
        now += value / 10
        if step == "send" and pace.delay(now) <= 0:
            pace.send(now, 0.0)
        elif step == "press":
            pace.press(now, now, abs(value))
        elif step == "accept":
            pace.accept(now)
        elif step == "ahead":
            pace.allow_ahead(0.0, 1.0 + abs(value), now)
        assert pace.limit(now) >= min_rate
        assert pace.delay(now) <= 1 / min_rate + 1e-9


def test_of_a_burst_of_refusals_one_counts() -> None:
    pace = Pace(0.7, 1.0, 10.0)
    for number in range(100):
        pace.send(START + number / 100, 0.0)
    assert pace.press(START + 0.5, START + 1, 0.0)
    rate = pace.rate
    assert not any(pace.press(START + 0.9, START + 1.1, 0.0) for _ in range(50))
    assert pace.rate == rate
    assert not pace.press(START + 1.2, START + 1.3, 0.0)
    assert pace.rate == pytest.approx(0.7 * rate)


def test_it_does_not_rise_while_the_upstream_has_asked_to_wait() -> None:
    pace = Pace(0.7, 1.0, 5.0)
    for number in range(100):
        pace.send(START + number / 100, 0.0)
    pace.press(START + 1, START + 1, 60.0)
    rate = pace.rate
    for number in range(50):
        pace.send(START + 1 + number / 10, 0.0)
        pace.accept(START + 1 + number / 10)
    assert pace.rate == rate, "for `max_hold`"
    for number in range(1000):
        pace.send(START + 6 + number / 100, 0.0)
        pace.accept(START + 6 + number / 100)
    assert pace.rate > rate


def test_the_limit_ends_a_minute_after_the_last_sign() -> None:
    pace = Pace(0.7, 1.0, 5.0)
    pace.send(START, 0.0)
    pace.press(START, START, 0.0)
    assert not pace.accept(START + FORGET - 1)
    assert pace.accept(START + FORGET)
    assert pace.limit(START + FORGET) == NEVER


def test_what_remains_is_spread_until_the_reset() -> None:
    pace = Pace(0.7, 1.0, 30.0)
    pace.allow_ahead(50.0, 10.0, START)
    assert pace.limit(START) == 5.0
    assert pace.limit(START + 10) == NEVER
