"""Permits and the queue for them, by rank.

Rules:

1. Rank 0 matters most (`sidecar.core.exchange.CRITICAL`).  A tenth of the permits is kept for rank 0, and a tenth more
   for ranks 0 and 1, but only within 30 s of their last request: while all rank alike, a limit of 100 is 100.
2. The queue is served by rank, and first in, first out within one.
3. If the queue is full, the youngest of the lowest rank makes place for a newcomer that ranks higher.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, Final

from sidecar.core.env import Env, Handle
from sidecar.core.exchange import CRITICAL, CRITICALITIES, DEFAULT, NEVER, SHEDDABLE
from sidecar.core.outcome import Failure, Outcome
from sidecar.core.promise import Promise

RESERVED: Final = 0.1
"""Share of the permits that each rank leaves to those above it."""
REMEMBERED: Final = 30.0
"""Seconds for which the share is kept after the last request of a higher rank."""

Place = Promise[Outcome | None]
"""Place in the queue.  It resolves to None for a permit, to an outcome for a refusal."""
Waiters = dict[Place, Handle]
"""Waiters of one rank in order of arrival, each with the timer that gives it up."""
Refuse = Callable[[str], Outcome]
"""Makes a refusal of its reason."""


class Permits:
    """Permits in use, and who waits for one."""

    def __init__(self, env: Env) -> None:
        self.active = 0
        """Permits in use."""
        self.limit = 0
        """Permits in all."""
        self.size = 0
        """Places in the queue."""
        self._now = env.now
        self._call_later = env.call_later
        self._queue: tuple[Waiters, Waiters, Waiters] = ({}, {}, {})
        """Waiters by rank."""
        self._seen = [-NEVER, -NEVER]
        """Instants of the last critical and the last default request."""
        self._handing = False

    def retune(self, limit: int, size: int) -> None:
        """Take another limit and queue size.  Permits in use stay in use, and waiters keep their places."""
        self.limit = limit
        self.size = size
        self._below_default = max(1, int(limit * (1 - 2 * RESERVED) + 1e-9))
        self._below_critical = max(1, int(limit * (1 - RESERVED) + 1e-9))
        if any(self._queue):
            self._hand_on()

    # ----- permits

    def ceiling(self, rank: int) -> int:
        """Return the permits that a rank may use, together with all others."""
        if rank == CRITICAL:
            return self.limit
        recent = self._now() - REMEMBERED
        if rank == DEFAULT:
            return self._below_critical if self._seen[CRITICAL] > recent else self.limit
        return self._below_default if max(self._seen) > recent else self.limit

    def take(self, rank: int) -> bool:
        """Take a permit.  False if there is none for this rank, or if others wait for it."""
        if rank != SHEDDABLE:
            self._seen[rank] = self._now()
        if self.active >= self._below_default and (self.active >= self.ceiling(rank) or any(self._queue[: rank + 1])):
            return False
        self.active += 1
        return True

    def release(self, _broken: Failure | None = None) -> None:
        """Give a permit back.  Fits `Body.on_close`."""
        self.active -= 1
        critical, default, sheddable = self._queue  # one by one, which costs less than `any` does
        if critical or default or sheddable:
            self._hand_on()

    def _hand_on(self) -> None:
        """Give free permits to waiters.  One that ends at once releases in here; the loop goes on instead."""
        if self._handing:
            return
        self._handing = True
        try:
            while (rank := self._next_rank()) is not None and self.active < self.ceiling(rank):
                queue = self._queue[rank]
                place = next(iter(queue))
                queue.pop(place).cancel()
                if not place.cancelled():  # a cancelled Task leaves only in the next turn of the loop
                    self.active += 1
                    place.resolve(None)
        finally:
            self._handing = False

    def _next_rank(self) -> int | None:
        return next((rank for rank, queue in enumerate(self._queue) if queue), None)

    # ----- the queue

    @property
    def queued(self) -> int:
        """Requests that wait."""
        return sum(map(len, self._queue))

    def ahead(self, rank: int) -> int:
        """Return the number of waiters that a newcomer of this rank would have before it."""
        return sum(map(len, self._queue[: rank + 1]))

    def join(self, rank: int, patience: float, refuse: Refuse) -> Place | None:
        """Return a place in the queue for `patience` seconds, None if all are taken.  `leave` it if awaiting fails."""
        loser: Place | None = None
        if self.queued >= self.size:
            lower = next((queue for queue in self._queue[:rank:-1] if queue), None)
            if lower is None:
                return None
            loser, timer = lower.popitem()
            timer.cancel()
        place: Place = Promise()
        self._queue[rank][place] = self._call_later(patience, self._expire, rank, place, refuse)
        if loser is not None:
            loser.resolve(refuse("its place in the queue went to a request of higher criticality"))
        return place

    def _expire(self, rank: int, place: Place, refuse: Refuse) -> None:
        if self._queue[rank].pop(place, None) is not None:
            place.resolve(refuse("no permit came free in the time that it could wait"))

    def leave(self, rank: int, place: Place) -> None:
        """Give back the place of a cancelled waiter, or its permit if that has just come."""
        timer = self._queue[rank].pop(place, None)
        if timer is not None:
            timer.cancel()
        elif not place.cancelled() and place.result() is None:
            self.release()

    def describe(self) -> dict[str, Any]:
        """Return the counts, JSON-ready."""
        waiting = {name: len(self._queue[rank]) for name, rank in CRITICALITIES.items()}
        return {"active": self.active, "limit": self.limit, "queue": self.size, "waiting": waiting}

    def __repr__(self) -> str:
        return f"<Permits {self.active}/{self.limit}, {self.queued}/{self.size} wait>"
