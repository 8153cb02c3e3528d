"""Model tests of the generic cell rate algorithm: against a token bucket, with evictions, and with clock steps."""

from __future__ import annotations

from typing import NamedTuple

from hypothesis import given
from hypothesis import strategies as st

from sidecar.limits.gcra import LOOKS, OVERFLOW, Gcra

INTERVALS = st.sampled_from([0.125, 0.5, 1.0, 2.0])
"""Seconds between two requests; sums of these have no rounding."""
STEPS = st.integers(0, 40).map(lambda eighths: eighths / 8)


class Offer(NamedTuple):
    """Request of a test: seconds since the last one, key and cost."""

    step: float
    key: str
    cost: int


def offers(most_cost: int = 1, keys: str = "a") -> st.SearchStrategy[list[Offer]]:
    each = st.builds(Offer, STEPS | st.just(0.0), st.sampled_from(keys), st.integers(1, most_cost))
    return st.lists(each, max_size=60)


class Bucket:
    """Token bucket: the model of one key."""

    def __init__(self, interval: float, capacity: int) -> None:
        self.interval = interval
        self.capacity = capacity
        self.tokens = float(capacity)
        self.at = 0.0

    def take(self, now: float, cost: float) -> bool:
        self.tokens = min(self.capacity, self.tokens + (now - self.at) / self.interval)
        self.at = now
        if self.tokens < cost:
            return False
        self.tokens -= cost
        return True


def offer(gcra: Gcra, key: str, now: float, cost: float = 1.0) -> bool:
    """Offer a request as the stage does; return True if it is admitted."""
    tat = gcra.arrival(key, now) + cost * gcra.interval
    if gcra.delay(tat, now) > 0:
        return False
    gcra.charge(key, tat)
    return True


@given(INTERVALS, st.integers(1, 6), offers(most_cost=6))
def test_a_key_is_a_token_bucket(interval: float, capacity: int, requests: list[Offer]) -> None:
    gcra, bucket, now = Gcra(1 / interval, capacity, 10), Bucket(interval, capacity), 0.0
    for step, key, cost in requests:
        now += step
        assert offer(gcra, key, now, cost) is bucket.take(now, cost)
        assert gcra.remaining(gcra.arrival(key, now) - now) == int(bucket.tokens)


@given(INTERVALS, st.integers(1, 4), st.integers(1, 4), offers(keys="abcdefgh"))
def test_eviction_resets_no_count(interval: float, capacity: int, max_keys: int, requests: list[Offer]) -> None:
    """Each key counts as in a table without bound, as long as it is not counted with the overflow."""
    gcra, now = Gcra(1 / interval, capacity, max_keys), 0.0
    buckets: dict[str, Bucket] = {}
    for step, key, _ in requests:
        now += step
        located = gcra.locate(key, now)
        assert located in (key, OVERFLOW)
        bucket = buckets.setdefault(located, Bucket(interval, capacity))
        assert offer(gcra, located, now) is bucket.take(now, 1)
        assert gcra.keys <= max_keys
        assert len(gcra.buckets) <= max_keys + 1


@given(INTERVALS, st.integers(1, 6), offers(), st.floats(0, 1e6))
def test_a_clock_that_steps_back_locks_nobody_out(
    interval: float, capacity: int, requests: list[Offer], back: float
) -> None:
    gcra, now = Gcra(1 / interval, capacity, 10), 1e6
    for step, key, _ in requests:
        now += step
        offer(gcra, key, now)
    now -= back
    tat = gcra.arrival("a", now) + interval
    assert gcra.delay(tat, now) <= interval + 1e-9, "but for rounding"
    assert offer(gcra, "a", now + interval + 1e-6), "one interval later the next request conforms"


@given(INTERVALS, st.integers(1, 6), st.floats(0, 1e6))
def test_a_clock_that_steps_ahead_gives_no_more_than_the_burst(interval: float, capacity: int, ahead: float) -> None:
    gcra = Gcra(1 / interval, capacity, 10)
    while offer(gcra, "a", 0.0):
        pass
    assert sum(offer(gcra, "a", ahead) for _ in range(capacity + 3)) <= capacity


def test_a_burst_is_admitted_then_the_even_pace() -> None:
    gcra = Gcra(10, 5, 10)
    assert [offer(gcra, "a", 0.0) for _ in range(7)] == [True] * 5 + [False] * 2
    assert [offer(gcra, "a", now) for now in (0.05, 0.1, 0.15, 0.2)] == [False, True, False, True]
    assert offer(gcra, "b", 0.2), "keys are counted apart"


def test_a_flood_of_keys_shares_one_count_and_evicts_nobody() -> None:
    gcra = Gcra(1, 2, 3)
    for key in ("a", "a", "b", "c"):
        assert offer(gcra, gcra.locate(key, 0.0), 0.0)
    strangers = [gcra.locate(f"stranger-{number}", 0.5) for number in range(100)]
    assert set(strangers) == {OVERFLOW}
    assert sum(offer(gcra, each, 0.5) for each in strangers) == 2
    assert not offer(gcra, gcra.locate("a", 0.5), 0.5), "the count of a known key is as before"
    assert gcra.locate("late", 1.5) == "late", "keys whose time has passed make room"


def test_eviction_looks_at_few_keys() -> None:
    gcra = Gcra(1, 10, 1000)
    for number in range(1000):
        gcra.charge(f"{number}", 5.0 if number < LOOKS else 0.5)
    assert gcra.locate("new", 1.0) == OVERFLOW
    assert gcra.locate("new", 1.0) == "new"
    assert gcra.keys == 1000 - LOOKS


def test_a_retuned_limit_keeps_its_counts() -> None:
    gcra = Gcra(1, 10, 10)
    for _ in range(10):
        assert offer(gcra, "a", 0.0)
    gcra.retune(10, 2, 10, 0.0)
    assert not offer(gcra, "a", 0.05)
    assert offer(gcra, "a", 0.16), "and applies the new settings to them"
    gcra.clear()
    assert gcra.keys == 0
    assert offer(gcra, "a", 0.16)


def test_a_key_that_is_not_known_had_an_empty_bucket_when_counts_were_lost() -> None:
    gcra = Gcra(10, 50, 10)
    gcra.full_at = 105.0
    assert not offer(gcra, "a", 100.0)
    assert sum(offer(gcra, "b", 102.0) for _ in range(50)) == 20, "two seconds of the rate"
    assert sum(offer(gcra, "c", 106.0) for _ in range(60)) == 50
