"""State that workers share, in the supervisor: leases of limits, told values, and turns to probe.  No I/O.

Rules:

1. Each limit has one pool or lessor, whatever the number of workers.  A worker declares its limits when it has built
   them, so each of them exists before anything is leased from it.
2. A limit is removed once no running worker has it any more.  It outlives workers that die, all at once too: with new
   counts, their successors would exceed the limit.  So there are as many limits as the policies have.
3. Of the workers that want to probe an upstream, one at a time may.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, Final

from sidecar.leases.permits import Pool, TokenPool
from sidecar.leases.rate import Ask, RateLessor
from sidecar.process.workers.topics import TopicBook

MOST_PROBES: Final = 10_000
"""Most topics for which a worker may probe."""
REMOVED_SECONDS: Final = 0.1
"""Seconds until a worker may ask again for tokens of a limit that does not exist."""

Send = Callable[..., None]
"""Function that sends a message to a worker: `send(worker, *message)`."""


class Sharing:
    """State that all workers share."""

    def __init__(self, workers: int, send: Send, now: Callable[[], float]) -> None:
        self.topics = TopicBook()
        """Values that workers have told."""
        self._workers = workers
        self._send = send
        self._now = now
        self._pools: dict[str, Pool] = {}
        self._lessors: dict[str, RateLessor] = {}
        self._members: dict[str, set[int]] = {}
        """Workers that have a limit, by the limit's name."""
        self._declared: dict[int, set[str]] = {}
        """Limits that each worker has declared since its start."""
        self._running: set[int] = set()
        """Workers that have said something since their start."""
        self._probes: dict[str, tuple[int, float]] = {}
        """Worker that may probe, and until when, by topic."""

    def receive(self, worker: int, message: list[Any]) -> bool:
        """Handle a message of a worker; False if it concerns nothing that workers share."""
        kind, *rest = message
        now = self._now()
        self._running.add(worker)
        if kind == "tell":
            self._tell(worker, *rest)
        elif kind == "probe":
            self._grant_probe(worker, *rest)
        elif kind == "permits":
            self._pool(worker, rest[0], Pool).resize(rest[1], now)
        elif kind == "budget":
            pool = self._pool(worker, rest[0], TokenPool)
            if isinstance(pool, TokenPool):
                pool.retune(*rest[1:])
        elif kind == "lease":
            name, what, *counts = rest
            if (lender := self._pools.get(name)) is not None and what in ("want", "give", "answer"):
                getattr(lender, what)(worker, *counts, now)
        elif kind == "used":
            name, first, spent = rest
            budget = self._pools.get(name)
            if isinstance(budget, TokenPool):
                budget.report(worker, first, spent, now)
        elif kind == "rate":
            self._declare_rate(worker, *rest)
        elif kind == "rates":
            number, asks = rest
            self._send(worker, "grants", number, now, [self._grant(ask, now) for ask in asks])
        elif kind == "unlease":
            self._remove(worker, rest[0])
        else:
            return False
        return True

    def settle(self, worker: int) -> None:
        """Take note that a worker has declared all its limits: those that only its predecessor had may be removed."""
        declared = self._declared.get(worker, set())
        for name in [name for name, members in self._members.items() if worker in members and name not in declared]:
            self._remove(worker, name)

    def look(self) -> None:
        """Look at all pools.  Called about once a second."""
        now = self._now()
        for pool in self._pools.values():
            pool.look(now)

    def leave(self, worker: int) -> None:
        """Take back all that a dead worker had."""
        now = self._now()
        self._running.discard(worker)
        self._declared.pop(worker, None)
        for pool in self._pools.values():
            pool.leave(worker, now)
        self._probes = {topic: claim for topic, claim in self._probes.items() if claim[0] != worker}

    def describe(self, kind: str) -> dict[str, dict[str, Any]]:
        """Return the pools of a kind, `concurrency` or `retry_budget`, by the names of their limits, JSON-ready."""
        now = self._now()
        return {
            name.removeprefix(f"{kind}:"): pool.describe(now)
            for name, pool in self._pools.items()
            if name.startswith(f"{kind}:")
        }

    def _tell(self, worker: int, topic: str, key: str, value: Any) -> None:
        self.topics.put(topic, key, value)
        if not value.get("probing"):
            self._probes.pop(topic, None)
        for each in range(self._workers):
            self._send(each, "value", topic, key, value, each == worker)

    def _grant_probe(self, worker: int, topic: str, seconds: float) -> None:
        now = self._now()
        holder, until = self._probes.get(topic, (worker, 0.0))
        if (holder == worker or until <= now) and (topic in self._probes or len(self._probes) < MOST_PROBES):
            self._probes[topic] = (worker, now + seconds)
            self._send(worker, "probe", topic, now + seconds)

    def _declare_rate(
        self, worker: int, name: str, rate: float, capacity: float, lease: float, max_keys: int, debt: float
    ) -> None:
        lessor = self._lessors.get(name)
        if lessor is None:
            self._lessors[name] = RateLessor(rate, capacity, lease, max_keys, debt)
        else:
            lessor.retune(rate, capacity, lease, max_keys, debt)
        self._join(worker, name)

    def _grant(self, ask: list[Any], now: float) -> tuple[float, float, float]:
        """Return tokens, start and wait of the answer to an ask."""
        name, *members = ask
        lessor = self._lessors.get(name)
        if lessor is None:  # a reload has removed the limit
            return 0.0, 0.0, REMOVED_SECONDS
        grant = lessor.exchange(Ask(*members), now)
        return grant.tokens, grant.start, grant.wait

    def _pool(self, worker: int, name: str, kind: type[Pool]) -> Pool:
        """Return the pool with a name for a worker, made if it is missing."""
        pool = self._pools.get(name)
        if pool is None:

            def send(number: int, what: str, count: int) -> None:
                self._send(number, "lease", name, what, count)

            pool = self._pools[name] = kind(send)
        self._join(worker, name)
        return pool

    def _join(self, worker: int, name: str) -> None:
        self._members.setdefault(name, set()).add(worker)
        self._declared.setdefault(worker, set()).add(name)

    def _remove(self, worker: int, name: str) -> None:
        """Remove a worker from a limit, and the limit once no running worker has it."""
        members = self._members.get(name, set())
        members.discard(worker)
        self._declared.get(worker, set()).discard(name)
        if not members & self._running:
            self._members.pop(name, None)
            self._pools.pop(name, None)
            self._lessors.pop(name, None)
