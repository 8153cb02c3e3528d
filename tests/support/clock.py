"""`FakeEnv`: an `Env` that records its calls, on a clock that stands still unless a test moves it.

`sleep` records its seconds, moves the clock by them and returns at once; timers fire in `advance`.  For code that runs
beside other code use `virtual_env` of `tests.support.loop`: the same class on a loop of virtual time.
"""

from __future__ import annotations

import asyncio
import random
from collections.abc import Awaitable, Callable, Coroutine
from typing import Any

from sidecar.core.env import Env, Loop
from sidecar.core.metrics import Counter, Histogram
from sidecar.simulation.loop import EPOCH

Labels = frozenset[tuple[str, str]]
WALL = EPOCH
"""The Unix time at which fake clocks start."""


class MemoryMeter:
    """`Meter` whose values a test can read."""

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
        """Return the sum of all counters and gauges of that name that have at least these labels; 0 without any."""
        wanted = frozenset(labels.items())
        counted = sum(c.value for (key, has), c in self.counters.items() if key == name and wanted <= has)
        return counted + sum(read() for (key, has), read in self.gauges.items() if key == name and wanted <= has)


class FakeTimer:
    """Timer of a fake clock."""

    def __init__(self, when: float, function: Callable[..., Any], args: tuple[Any, ...]) -> None:
        self.when = when
        self.function = function
        self.args = args
        self.cancelled = False

    def cancel(self) -> None:
        self.cancelled = True


class FakeClock:
    """Clock that a test moves; to an `Env` it is a loop, whose tasks and futures are those of the running one."""

    def __init__(self, start: float = 1000.0) -> None:
        self.start = self.now = start
        self.timers: list[FakeTimer] = []
        self.sleeps: list[float] = []

    def time(self) -> float:
        return self.now

    async def sleep(self, seconds: float) -> None:
        self.sleeps.append(seconds)
        self.advance(max(0.0, seconds))

    def call_later(self, seconds: float, function: Callable[..., Any], *args: Any) -> FakeTimer:
        timer = FakeTimer(self.now + max(0.0, seconds), function, args)
        self.timers.append(timer)
        return timer

    def create_task(self, coroutine: Coroutine[Any, Any, Any]) -> asyncio.Task[Any]:
        return asyncio.get_running_loop().create_task(coroutine)

    def create_future(self) -> asyncio.Future[Any]:
        return asyncio.get_running_loop().create_future()

    def advance(self, seconds: float) -> None:
        """Move the clock and fire the timers that fall due on the way, each at its own instant."""
        until = self.now + seconds
        while due := [t for t in self.timers if t.when <= until and not t.cancelled]:
            timer = min(due, key=lambda t: t.when)
            self.timers.remove(timer)
            self.now = max(self.now, timer.when)
            timer.function(*timer.args)
        self.now = until


class FakeEnv(Env):
    """`Env` that records its calls: `env.sleeps`, `env.events`, `env.meter.value(...)`, `env.advance(...)`."""

    clock: FakeClock
    sleeps: list[float]
    events: list[tuple[str, dict[str, Any]]]
    meter: MemoryMeter
    __setattr__ = object.__setattr__  # not frozen, so that a test can replace a member

    def advance(self, seconds: float) -> None:
        """Move the fake clock (not that of a virtual loop, which moves itself)."""
        self.clock.advance(seconds)

    def emitted(self, name: str) -> list[dict[str, Any]]:
        """Return the attributes of every event of that name."""
        return [attributes for event, attributes in self.events if event == name]


def remembering(
    loop: Loop, *, seed: int | None = 0, sleep: Callable[[float], Awaitable[None]] = asyncio.sleep, names: Any = None
) -> FakeEnv:
    """Return an env on a loop or fake clock, whose wall clock starts now; seed None: real randomness."""
    events: list[tuple[str, dict[str, Any]]] = []
    start = loop.time()
    env = FakeEnv.on(
        loop,
        wall=lambda: WALL + loop.time() - start,
        sleep=sleep,
        rng=random.Random(seed),
        emit=lambda event, /, **attributes: events.append((event, attributes)),
        meter=MemoryMeter(),
        names=names,
    )
    env.events = events
    env.sleeps = []
    return env


def make_env(seed: int = 0, *, start: float = 1000.0) -> FakeEnv:
    """Return an env on a fake clock, with a generator of the given seed."""
    clock = FakeClock(start)
    env = remembering(clock, seed=seed, sleep=clock.sleep)
    env.clock = clock
    env.sleeps = clock.sleeps
    return env
