"""Tests of the watch over the event loop, on a clock that a test moves."""

from __future__ import annotations

from sidecar.core.events import LOOP_STALLED
from sidecar.core.metrics import LOOP_LAG, LOOP_STALLS
from sidecar.process.stall import StallWatch
from tests.support.clock import WALL, FakeEnv, make_env


def stall(env: FakeEnv, seconds: float) -> None:
    """Let time pass without a timer firing, then let the loop go on."""
    env.clock.now += seconds
    env.advance(0)


def test_a_loop_on_time_is_not_stalled() -> None:
    env = make_env()
    watch = StallWatch(env, interval=0.125)
    watch.start()
    env.advance(12.5)
    assert watch.describe() == {"stalls": 0, "longest_seconds": 0.0, "last": None}
    assert env.events == []
    ((_, lag),) = env.meter.histograms.items()
    assert sum(lag.counts) == lag.counts[0] == 100


def test_stalls_are_counted_and_told() -> None:
    env = make_env()
    watch = StallWatch(env, interval=0.125, threshold=0.125)
    watch.start()
    env.advance(1.0)
    stall(env, 0.1875)  # late by half: within the threshold
    stall(env, 0.625)
    stall(env, 0.375)
    assert env.meter.value(LOOP_STALLS) == 2
    assert [event["seconds"] for event in env.emitted(LOOP_STALLED)] == [0.5, 0.25]
    facts = watch.describe()
    assert (facts["stalls"], facts["longest_seconds"]) == (2, 0.5)
    assert facts["last"] == env.wall() > WALL
    assert LOOP_LAG in {name for name, _ in env.meter.histograms}
    assert repr(watch) == "<StallWatch 2 stalls, the longest 0.500 s>"


def test_it_stops_and_starts_once() -> None:
    env = make_env()
    watch = StallWatch(env)
    watch.start()
    watch.start()
    assert len(env.clock.timers) == 1
    watch.stop()
    watch.stop()
    stall(env, 5)
    assert env.events == []
    watch.start()
    env.advance(1)
    assert env.events == []
