"""`FakeEnv`: an `Env` whose clock stands still unless a test moves it, and which remembers what it was asked for.

`sleep` returns at once, having moved the clock, and is recorded; timers fire in `advance`.  For code that really runs
beside other code use `virtual_env` of `tests.support.loop` instead: the same class on a loop of virtual time.
"""

from __future__ import annotations

import asyncio
import random
from collections.abc import Awaitable, Callable, Coroutine
from typing import Any

from sidecar.core.env import Env
from sidecar.core.metrics import Counter, Histogram

Labels = frozenset[tuple[str, str]]
WALL = 1_750_000_000.0
"""The Unix time at which fake clocks start."""


class MemoryMeter:
    """A `Meter` that can be asked what was counted."""

    def __init__(self) -> None:
        self.counters: dict[tuple[str, Labels], Counter] = {}
        self.histograms: dict[tuple[str, Labels], Histogram] = {}
        self.gauges: dict[tuple[str, Labels], Callable[[], float]] = {}

    def counter(self, name: str, /, **labels: str) -> Counter:
        return self.counters.setdefault((name, frozenset(labels.items())), Counter())

    def histogram(self, name: str, /, **labels: str) -> Histogram:
        return self.histograms.setdefault((name, frozenset(labels.items())), Histogram())

    def gauge(self, name: str, read: Callable[[], float], /, **labels: str) -> None:
        self.gauges[name, frozenset(labels.items())] = read

    def value(self, name: str, /, **labels: str) -> float:
        """The sum of all counters and gauges of that name that bear at least these labels; 0 where there are none."""
        wanted = frozenset(labels.items())
        counted = sum(c.value for (key, has), c in self.counters.items() if key == name and wanted <= has)
        return counted + sum(read() for (key, has), read in self.gauges.items() if key == name and wanted <= has)


class FakeTimer:
    """A timer of a fake clock."""

    def __init__(self, when: float, function: Callable[..., Any], args: tuple[Any, ...]) -> None:
        self.when = when
        self.function = function
        self.args = args
        self.cancelled = False

    def cancel(self) -> None:
        self.cancelled = True


class FakeClock:
    """A clock that a test moves."""

    def __init__(self, start: float = 1000.0) -> None:
        self.start = self.time = start
        self.timers: list[FakeTimer] = []
        self.sleeps: list[float] = []

    def now(self) -> float:
        return self.time

    async def sleep(self, seconds: float) -> None:
        self.sleeps.append(seconds)
        self.advance(max(0.0, seconds))

    def call_later(self, seconds: float, function: Callable[..., Any], *args: Any) -> FakeTimer:
        timer = FakeTimer(self.time + max(0.0, seconds), function, args)
        self.timers.append(timer)
        return timer

    def advance(self, seconds: float) -> None:
        """Move the clock, firing the timers that fall due on the way, each at its own instant."""
        until = self.time + seconds
        while due := [t for t in self.timers if t.when <= until and not t.cancelled]:
            timer = min(due, key=lambda t: t.when)
            self.timers.remove(timer)
            self.time = max(self.time, timer.when)
            timer.function(*timer.args)
        self.time = until


class FakeEnv(Env):
    """An `Env` with a memory: `env.sleeps`, `env.events`, `env.meter.value(...)`, `env.advance(...)`."""

    clock: FakeClock
    sleeps: list[float]
    events: list[tuple[str, dict[str, Any]]]
    meter: MemoryMeter
    __setattr__ = object.__setattr__  # thawed, so that a test can replace a part of it

    def advance(self, seconds: float) -> None:
        """Move the fake clock (not that of a virtual loop, which moves itself)."""
        self.clock.advance(seconds)

    def emitted(self, name: str) -> list[dict[str, Any]]:
        """The attributes of every event of that name."""
        return [attributes for event, attributes in self.events if event == name]


def assemble(
    now: Callable[[], float],
    sleep: Callable[[float], Awaitable[None]],
    call_later: Callable[..., Any],
    rng: random.Random,
) -> FakeEnv:
    """An env on the given clock."""
    events: list[tuple[str, dict[str, Any]]] = []
    start = now()

    def spawn(coroutine: Coroutine[Any, Any, Any]) -> Any:
        return asyncio.get_running_loop().create_task(coroutine)

    env = FakeEnv(
        now=now,
        wall=lambda: WALL + now() - start,
        sleep=sleep,
        call_later=call_later,
        spawn=spawn,
        future=lambda: asyncio.get_running_loop().create_future(),
        rng=rng,
        emit=lambda event, /, **attributes: events.append((event, attributes)),
        meter=MemoryMeter(),
    )
    env.events = events
    env.sleeps = []
    return env


def make_env(seed: int = 0, *, start: float = 1000.0) -> FakeEnv:
    """An env on a fake clock, with a generator of the given seed."""
    clock = FakeClock(start)
    env = assemble(clock.now, clock.sleep, clock.call_later, random.Random(seed))
    env.clock = clock
    env.sleeps = clock.sleeps
    return env
