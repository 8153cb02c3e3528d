"""Tests of the rate that answers lower: it converges to what an upstream accepts, recovers, and never ends at zero."""

from __future__ import annotations

from heapq import heappop, heappush
from random import Random

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from sidecar.leases.rate import NEVER
from sidecar.stages.pacing.pace import BURST, FORGET, TICK, Pace

START = 1000.0


class Loop:
    """Attempts at a fairly even pace to an upstream that accepts so many in a second, by a token bucket."""

    def __init__(
        self, capacity: float, demand: float, *, seed: int = 0, max_wait: float = 0.0, latency: float = 0.02
    ) -> None:
        self.pace = Pace(0.7, 1.0, 10.0, max_wait)
        self.capacity, self.demand, self.max_wait, self.latency = capacity, demand, max_wait, latency
        self.now = START
        self.tokens, self.filled = capacity / 10, START
        self.due: list[tuple[float, int, float, bool | None]] = []
        """Sends and answers to come: instant, number, turn of the attempt, and True if accepted; None for a send."""
        self.number = 0
        self.sent: list[tuple[float, bool]] = []
        self.random = Random(seed)

    def run(self, seconds: float) -> None:
        """Send for so long; attempts that would have to wait too long are refused."""
        until = self.now + seconds
        while self.now < until:
            self.now += self.random.uniform(0.5, 1.5) / self.demand
            while self.due and self.due[0][0] <= self.now:
                self.step(*heappop(self.due))
            delay = max(0.0, self.pace.delay(self.now))
            if delay <= self.max_wait:
                self.pace.send(self.now, delay)
                self.plan(self.now + delay, self.now, None)

    def step(self, at: float, _: int, turn: float, is_accepted: bool | None) -> None:
        """Do what is due."""
        if is_accepted is None:
            self.tokens = min(max(1.0, self.capacity / 10), self.tokens + (at - self.filled) * self.capacity)
            self.filled = at
            is_accepted = self.tokens >= 1
            self.tokens -= is_accepted
            self.plan(at + self.latency, turn, is_accepted)
            self.sent.append((at, is_accepted))
        elif is_accepted:
            self.pace.accept(at)
        else:
            self.pace.press(turn, at, 0.0)

    def plan(self, at: float, turn: float, is_accepted: bool | None) -> None:
        """Add what is due later."""
        self.number += 1
        heappush(self.due, (at, self.number, turn, is_accepted))

    def share(self, since: float, *, accepted: bool) -> float:
        """Return the attempts per second since an instant: accepted ones, or all."""
        found = [one for at, one in self.sent if at >= since and (one or not accepted)]
        return len(found) / (self.now - since)


@settings(max_examples=25, deadline=None, derandomize=True)
@given(
    st.sampled_from((20.0, 100.0)),
    st.sampled_from((1.5, 6.0)),
    st.sampled_from((0.0, 0.1, 1.0)),
    st.sampled_from((0.02, 0.5)),
    st.integers(0, 2**32),
)
def test_it_converges_to_what_the_upstream_accepts(
    capacity: float, load: float, max_wait: float, latency: float, seed: int
) -> None:
    loop = Loop(capacity, capacity * load, seed=seed, max_wait=max_wait, latency=latency)
    loop.run(30)
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
    loop.run(20)
    assert loop.share(loop.now - 5, accepted=True) >= 0.9 * capacity


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


@settings(max_examples=100, deadline=None)
@given(
    st.sampled_from((0.5, 20.0, 100.0, 3000.0)),
    st.sampled_from((0.0, 0.1, 2.0)),
    st.lists(st.floats(0, 0.1), min_size=50, max_size=400),
)
def test_no_more_is_sent_than_the_rate_and_a_burst(min_rate: float, max_wait: float, gaps: list[float]) -> None:
    pace, now = Pace(0.7, min_rate, 10.0, max_wait), START
    pace.press(now, now, 0.0)
    rate = pace.limit(now)
    assert rate == min_rate
    sent = []
    for gap in gaps:
        now += gap * min(1.0, 10 / rate)
        delay = max(0.0, pace.delay(now))
        if delay <= max_wait:
            pace.send(now, delay)
            sent.append(now + delay)
    for first in range(0, len(sent), 7):
        for last in range(first, len(sent), 7):
            assert last - first + 1 <= (sent[last] - sent[first]) * rate + max(1.0, BURST * rate) + 1e-6


@settings(max_examples=100, deadline=None)
@given(
    st.floats(4, 2000), st.sampled_from((0.3, 0.7, 0.9)),
    st.lists(st.floats(0.01, 3), min_size=1, max_size=30),
)  # fmt: skip
def test_it_rises_as_the_formula_of_cubic_says(rate: float, decrease: float, steps: list[float]) -> None:
    """W(t) = C (t - K)^3 + Wmax, with K = cbrt(Wmax (1 - beta) / C) and C = 0.4 (RFC 9438 4.2).

    As in the adaptive mode of AWS SDKs, W is a rate, and at most twice the measured one.
    """
    pace = Pace(decrease, 0.001, 10.0)
    count = round(rate * 4)
    for number in range(count):
        pace.send(START + number * 4 / count, 0.0)
    now = START + 4 - 1e-9
    peak = pace.measured(now)
    assert peak == pytest.approx(rate, rel=0.3, abs=1 / TICK)
    pace.press(now, now, 0.0)
    assert pace.rate == pytest.approx(decrease * peak)
    turn = (peak * (1 - decrease) / 0.4) ** (1 / 3)
    began, expected = now, pace.rate
    for step in steps:
        now += step
        for number in range(round(rate * min(step, 1))):
            pace.send(now - min(step, 1) + number / rate, 0.0)
        expected = max(expected, min(0.4 * (now - began - turn) ** 3 + peak, 2 * pace.measured(now)))
        pace.accept(now)
        assert pace.rate == pytest.approx(expected)


def test_an_attempt_that_waited_for_its_turn_lowers_the_rate_no_further() -> None:
    """Turns are those of the higher rate, although the attempts are sent after the decrease."""
    loop = Loop(100.0, 1000.0, max_wait=0.1)
    loop.run(60)
    assert loop.share(START + 20, accepted=True) >= 90


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


def test_the_limit_ends_a_minute_after_the_last_sign_with_or_without_attempts() -> None:
    pace = Pace(0.7, 1.0, 5.0)
    pace.send(START, 0.0)
    assert pace.press(START, START, 0.0)
    assert pace.limit(START + FORGET - 1) != NEVER
    assert not pace.lapse(START + FORGET - 1)
    assert pace.limit(START + FORGET) == NEVER
    assert pace.delay(START + FORGET) <= 0
    assert pace.lapse(START + FORGET)
    assert not pace.lapse(START + FORGET), "it has ended"
    assert pace.press(START + FORGET, START + FORGET, 0.0), "another limit begins"


def test_a_reload_with_a_shorter_hold_ends_a_longer_one() -> None:
    pace = Pace(0.7, 1.0, 3600.0)
    pace.press(START, START, 3600.0)
    pace.allow_ahead(0.0, 3600.0, START)
    pace.retune(0.7, 1.0, 10.0, 0.1, START + 5)
    assert pace._held_until == START + 15
    assert pace._ahead_until == START + 15
    pace.retune(0.7, 1.0, 3600.0, 0.1, START + 6)
    assert pace._held_until == START + 15, "a longer one is for what comes"


def test_what_remains_is_spread_until_the_reset() -> None:
    pace = Pace(0.7, 1.0, 30.0)
    pace.allow_ahead(50.0, 10.0, START)
    assert pace.limit(START) == 5.0
    assert pace.limit(START + 10) == NEVER
