"""State that workers share, in a worker: messages to the supervisor and from it.  No I/O.

The supervisor's side is in `sharing.py`, the arithmetic of leases in `sidecar.leases`, and the order of values that
workers tell each other in `topics.py`.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from typing import Any, Final

from sidecar.core.env import PermitLease, TokenLease
from sidecar.process.workers.borrowed import WorkerPermits, WorkerTokens
from sidecar.process.workers.topics import Apply, Subscriptions

ASK_AGAIN: Final = 0.05
"""Seconds between two requests for the same probe."""


class SharedState:
    """Leases, told values, and turns to probe of this worker: implements `Env.workers`."""

    def __init__(self, number: int, count: int, now: Callable[[], float], send: Callable[..., None]) -> None:
        """Take the clock, which is the same in all processes; `send(*message)` sends a message to the supervisor."""
        self.number = number
        """Number of this worker, from 0."""
        self.count = count
        """Number of workers."""
        self.send = send
        """Sends a message to the supervisor."""
        self._now = now
        self._topics = Subscriptions(lambda topic, key, value: send("tell", topic, key, value))
        self._leases: dict[str, WorkerPermits | WorkerTokens] = {}
        self._number = 0
        """Number of the last exchange about rates."""
        self._exchanges: dict[int, asyncio.Future[Any]] = {}
        """Exchanges about rates that have no answer, by number."""
        self._probes: dict[str, float] = {}
        """Instants until which this worker may probe, by topic."""
        self._asked: dict[str, float] = {}
        """Instants at which it has asked for that."""
        self._first = False
        self._when_first: dict[str, Callable[[], None]] = {}

    def receive(self, message: list[Any]) -> bool:
        """Handle a message of the supervisor; False if it concerns nothing that workers share."""
        kind, *rest = message
        if kind == "value":
            topic, key, value, is_own = rest
            self._topics.receive(topic, key, value, is_own)
        elif kind == "lease":
            name, what, count = rest
            if (lease := self._leases.get(name)) is not None:
                lease.lease.receive(what, count)
            elif what != "none":  # the limit no longer exists
                self.send("lease", name, "give", count if what == "grant" else 0)
        elif kind == "grants":
            number, now, grants = rest
            if (waiting := self._exchanges.get(number)) is not None and not waiting.done():
                waiting.set_result((now, grants))
        elif kind == "probe":
            self._probes[rest[0]] = rest[1]
        elif kind == "first":
            self._set_first(rest[0])
        else:
            return False
        return True

    def look(self) -> bool:
        """Adjust all leases to the use of them; True if they are to be looked at again soon.

        Called many times a second.
        """
        looks = [lease.look() for lease in list(self._leases.values())]
        return any(looks)

    def subscribe(self, topic: str, apply: Apply) -> Callable[[str, Any], None]:
        """Implement `Workers.subscribe`."""
        tell = self._topics.subscribe(topic, apply)

        def tell_and_end_probe(key: str, value: Any) -> None:
            if not value.get("probing"):
                self._probes.pop(topic, None)
            tell(key, value)

        return tell_and_end_probe

    def leave(self, topic: str, apply: Apply) -> None:
        """Implement `Workers.leave`."""
        self._topics.leave(topic, apply)
        self._probes.pop(topic, None)
        self._asked.pop(topic, None)
        self._when_first.pop(topic, None)

    def may_probe(self, topic: str, seconds: float) -> bool:
        """Implement `Workers.may_probe`."""
        now = self._now()
        if now < self._probes.get(topic, 0.0):
            return True
        if now >= self._asked.get(topic, 0.0) + ASK_AGAIN:
            self._asked[topic] = now
            self.send("probe", topic, seconds)
        return False

    def lease_permits(
        self, name: str, total: int, active: Callable[[], int], waiting: Callable[[], int], changed: Callable[[], None]
    ) -> PermitLease:
        """Implement `Workers.lease_permits`."""
        permits = self._leases[name] = WorkerPermits(self, name, active, waiting, changed)
        permits.resize(total)
        return permits

    def lease_tokens(self, name: str, deposits: Callable[[], int], part: Callable[[], int]) -> TokenLease:
        """Implement `Workers.lease_tokens`."""
        tokens = self._leases[name] = WorkerTokens(self, name, deposits, part)
        return tokens

    def end_lease(self, name: str, lease: WorkerPermits | WorkerTokens) -> None:
        """Give a lease back for good."""
        lease.lease.end()
        if self._leases.get(name) is lease:
            del self._leases[name]
            self.send("unlease", name)

    def declare_rate(self, name: str, rate: float, capacity: float, lease: float, max_keys: int, debt: float) -> None:
        """Implement `Workers.declare_rate`."""
        self.send("rate", name, rate, capacity, lease, max_keys, debt)

    def end_rate(self, name: str) -> None:
        """Implement `Workers.end_rate`."""
        self.send("unlease", name)

    async def lease_rates(self, asks: list[list[Any]]) -> tuple[float, list[tuple[float, float, float]]]:
        """Implement `Workers.lease_rates`."""
        self._number += 1
        number = self._number
        waiting: asyncio.Future[tuple[float, list[tuple[float, float, float]]]]
        waiting = self._exchanges[number] = asyncio.get_running_loop().create_future()
        self.send("rates", number, asks)
        try:
            return await waiting
        finally:
            del self._exchanges[number]

    @property
    def is_first(self) -> bool:
        """Implement `Workers.is_first`."""
        return self._first

    def when_first(self, topic: str, start: Callable[[], None]) -> None:
        """Implement `Workers.when_first`."""
        self._when_first[topic] = start

    def _set_first(self, is_first: bool) -> None:
        self._first = is_first
        if is_first:
            for start in list(self._when_first.values()):
                start()
