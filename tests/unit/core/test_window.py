"""Tests of windows, compared with plain lists."""

from __future__ import annotations

import math

from hypothesis import given
from hypothesis import strategies as st

from sidecar.core.window import BUCKETS, FAILED, SLOW, CountWindow, SlidingCount, TimeWindow

STEPS = st.lists(st.tuples(st.floats(0, 30), st.integers(0, 3)), max_size=80)


def test_a_sliding_count_forgets_a_bucket_at_a_time() -> None:
    count = SlidingCount(10.0)
    count.add(100.0)
    count.add(105.5)
    assert count.total(109.9) == 2
    assert count.total(110.0) == 1
    assert count.total(114.9) == 1
    assert count.total(115.0) == 0


def test_a_clock_that_runs_backwards_counts_into_the_newest_bucket() -> None:
    count = SlidingCount(10.0)
    count.add(100.0)
    count.add(50.0)
    assert count.total(100.0) == 2
    assert count.total(110.0) == 0


@given(st.floats(0.01, 1000), STEPS)
def test_a_time_window_counts_what_a_list_of_buckets_counts(seconds: float, steps: list[tuple[float, int]]) -> None:
    window, calls, now = TimeWindow(seconds), [], 1000.0
    for wait, bits in steps:
        now += wait
        window.record(bits, now)
        calls.append((math.floor(now * (BUCKETS / seconds)), bits))
        recent = [b for tick, b in calls if tick > math.floor(now * (BUCKETS / seconds)) - BUCKETS]
        expected = len(recent), sum(b & FAILED for b in recent), sum(b >> 1 for b in recent)
        assert window.counts(now) == expected
    window.clear()
    assert window.counts(now) == (0, 0, 0)


@given(st.integers(1, 12), st.lists(st.integers(0, 3), max_size=60))
def test_a_count_window_counts_the_last_calls(size: int, results: list[int]) -> None:
    window = CountWindow(size)
    for number, bits in enumerate(results, 1):
        window.record(bits, 0.0)
        recent = results[max(0, number - size) : number]
        assert window.counts(0.0) == (
            len(recent),
            sum(b & FAILED for b in recent),
            sum((b & SLOW) >> 1 for b in recent),
        )
    window.clear()
    assert window.counts(0.0) == (0, 0, 0)
