"""Fleet of processes that share one limit through leases, in virtual time, with a network that delays and loses."""

from __future__ import annotations

from dataclasses import dataclass, field
from heapq import heappop, heappush
from itertools import count
from random import Random
from typing import Any

from sidecar.leases.rate import ADMITTED, NEVER, UNKNOWN, RateLessee, RateLessor
from sidecar.leases.store_clock import StoreClock

PATIENCE = 0.02
"""Seconds for which a request waits for an answer."""


@dataclass
class Fleet:
    """Processes, the store that has the lessor, and all requests that were admitted."""

    rate: float
    capacity: float
    lease: float
    rng: Random
    loss: float = 0.0
    """Share of messages that are lost, each way."""
    delay: float = 0.002
    """Longest time of a message, in seconds."""
    admitted: list[float] = field(default_factory=list)
    refused: list[float] = field(default_factory=list)
    waited: int = 0
    """Requests that had to wait for an answer."""
    exchanges: int = 0

    def __post_init__(self) -> None:
        self.now = 1000.0
        self.lessor = RateLessor(self.rate, self.capacity, self.lease)
        self.clock = StoreClock()
        self.step = 0.0
        """Seconds by which the wall clock of the store is wrong."""
        self._queue: list[tuple[float, int, Any, tuple[Any, ...]]] = []
        self._serial = count()
        self.processes: list[Process] = []

    def at(self, instant: float, call: Any, *args: Any) -> None:
        heappush(self._queue, (instant, next(self._serial), call, args))

    def run(self, until: float) -> None:
        while self._queue and self._queue[0][0] <= until:
            self.now, _, call, args = heappop(self._queue)
            call(*args)
        self.now = until

    def add(self, demand: float, begin: float = 1000.0, end: float = NEVER) -> Process:
        process = Process(self, demand, begin, end)
        self.processes.append(process)
        return process

    def most_in(self, seconds: float) -> int:
        """Return the most requests admitted in any window of so many seconds."""
        most, start = 0, 0
        times = sorted(self.admitted)
        for index, at in enumerate(times):
            while times[start] <= at - seconds:
                start += 1
            most = max(most, index - start + 1)
        return most


class Process:
    """Process with one lessee and a random stream of requests for one key."""

    def __init__(self, fleet: Fleet, demand: float, begin: float, end: float) -> None:
        self.fleet = fleet
        self.demand = demand
        self.end = end
        self.admitted = 0
        self.start()
        fleet.at(begin, self.arrive)

    def start(self) -> None:
        """Start anew, without what was known."""
        self.lessee = RateLessee(self.fleet.rate, self.fleet.capacity, self.fleet.lease)
        self.waiting: list[float] = []
        self.in_flight: Any = None
        self.last_exchange = -NEVER
        self.wake_at = NEVER

    def arrive(self) -> None:
        now = self.fleet.now
        if now >= self.end:
            return
        self.take(now, may_wait=True)
        self.pump()
        self.fleet.at(now + self.fleet.rng.expovariate(self.demand), self.arrive)

    def take(self, began: float, may_wait: bool) -> None:
        fleet = self.fleet
        result = self.lessee.take("key", 1.0, fleet.now)
        if result == ADMITTED:
            fleet.admitted.append(fleet.now)
            self.admitted += 1
        elif result == UNKNOWN and may_wait:
            self.lessee.wait("key", 1.0)
            fleet.waited += began == fleet.now
            self.waiting.append(began)
        else:
            fleet.refused.append(fleet.now)

    def pump(self) -> None:
        now = self.fleet.now
        if self.in_flight is None and (self.lessee.is_asking or self.lessee.due <= now):
            asks = self.lessee.collect(now)
            if asks:
                self.send(asks + self.lessee.collect_old(now))
        if self.in_flight is None and self.lessee.due < self.wake_at:
            self.wake_at = self.lessee.due
            self.fleet.at(self.wake_at, self.wake, self.lessee)

    def wake(self, lessee: Any) -> None:
        if lessee is self.lessee:
            self.wake_at = NEVER
            self.pump()

    def send(self, asks: list[Any]) -> None:
        fleet = self.fleet
        self.in_flight = flight = (asks, fleet.now)
        fleet.exchanges += 1
        fleet.at(fleet.now + PATIENCE, self.give_up, flight)
        if fleet.rng.random() >= fleet.loss:
            fleet.at(fleet.now + fleet.rng.random() * fleet.delay, self.serve, flight, self.last_exchange)

    def serve(self, flight: Any, last: float) -> None:
        fleet = self.fleet
        now = fleet.clock.advance(fleet.now + fleet.step, flight[1] - last)
        grants = [fleet.lessor.exchange(ask, now) for ask in flight[0]]
        if fleet.rng.random() >= fleet.loss:
            fleet.at(fleet.now + fleet.rng.random() * fleet.delay, self.hear, flight, grants)

    def hear(self, flight: Any, grants: list[Any]) -> None:
        if self.in_flight is not flight:
            return
        self.in_flight = None
        self.last_exchange = flight[1]
        for ask, grant in zip(flight[0], grants, strict=True):
            self.lessee.receive(ask, grant, self.fleet.now)
        self.release()

    def give_up(self, flight: Any) -> None:
        if self.in_flight is not flight:
            return
        self.in_flight = None
        for ask in flight[0]:
            self.lessee.fail(ask)
        self.release()

    def release(self) -> None:
        waiting, self.waiting = self.waiting, []
        for began in waiting:
            self.take(began, may_wait=self.fleet.now - began < PATIENCE)
        self.pump()
