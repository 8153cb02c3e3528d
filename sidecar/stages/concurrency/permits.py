"""Permits and the queue for them, by rank.

Rules:

1. Rank 0 is the most important (`sidecar.core.exchange.CRITICAL`).  A tenth of the permits is kept for rank 0, and a
   tenth more for ranks 0 and 1, but only for `REMEMBERED` seconds after their last request.  While all requests have
   one rank, a limit of 100 is 100.
2. The queue is served by rank, and first in, first out within a rank.
3. If the queue is full, a newcomer of a higher rank replaces the youngest waiter of the lowest rank.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, Final

from sidecar.core.env import Env, TimerHandle
from sidecar.core.exchange import CRITICAL, CRITICALITIES, DEFAULT, NEVER, SHEDDABLE
from sidecar.core.outcome import Failure, Outcome
from sidecar.core.promise import Promise

RESERVED: Final = 0.1
"""Share of the permits that each rank leaves to the ranks above it."""
REMEMBERED: Final = 30.0
"""Seconds for which that share is kept after the last request of a higher rank."""

Place = Promise[Outcome | None]
"""Place in the queue.  It resolves to None for a permit, to an outcome for a refusal."""
Waiters = dict[Place, TimerHandle]
"""Waiters of one rank in order of arrival, each with the timer that refuses it."""
Refuse = Callable[[str], Outcome]
"""Returns a refusal with the given reason."""


class Permits:
    """Permits in use, and the queue of requests that wait for one."""

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
        """Apply another limit and queue size.  Permits in use stay in use, and waiters keep their places."""
        self.limit = limit
        self.size = size
        least = min(1, limit)  # a worker may hold no permit at all
        self._below_default = max(least, int(limit * (1 - 2 * RESERVED) + 1e-9))
        self._below_critical = max(least, int(limit * (1 - RESERVED) + 1e-9))
        if any(self._queue):
            self._serve_queue()

    # ----- permits

    def ceiling(self, rank: int) -> int:
        """Return the number of permits in use up to which a rank may take another one."""
        if rank == CRITICAL:
            return self.limit
        recent = self._now() - REMEMBERED
        if rank == DEFAULT:
            return self._below_critical if self._seen[CRITICAL] > recent else self.limit
        return self._below_default if max(self._seen) > recent else self.limit

    def take(self, rank: int) -> bool:
        """Take a permit.  Returns False if there is none for this rank, or if others wait for one."""
        return self.take_at(rank, self._now())

    def take_at(self, rank: int, now: float) -> bool:
        """Take a permit as `take` does, for a caller that has read the clock."""
        if rank != SHEDDABLE:
            self._seen[rank] = now
        if self.active >= self._below_default and (self.active >= self.ceiling(rank) or any(self._queue[: rank + 1])):
            return False
        self.active += 1
        return True

    def release(self, _broken: Failure | None = None) -> None:
        """Return a permit.  The argument is that of `Body.on_close`, and unused."""
        self.active -= 1
        critical, default, sheddable = self._queue  # written out, since `any` costs more
        if critical or default or sheddable:
            self._serve_queue()

    def _serve_queue(self) -> None:
        """Give free permits to waiters.  A waiter that ends at once releases its permit within this loop."""
        if self._handing:
            return
        self._handing = True
        try:
            while (rank := self._next_rank()) is not None and self.active < self.ceiling(rank):
                queue = self._queue[rank]
                place = next(iter(queue))
                queue.pop(place).cancel()
                if not place.cancelled():  # a cancelled task calls `leave` only in the next turn of the loop
                    self.active += 1
                    place.resolve(None)
        finally:
            self._handing = False

    def _next_rank(self) -> int | None:
        """Return the most important rank with a waiter; None if nothing waits."""
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
        """Return a place in the queue for `patience` seconds; None if all are taken.

        The caller must `leave` the place if awaiting it fails.
        """
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

    def shed(self, places: int, refuse: Refuse) -> None:
        """Refuse the youngest waiters of the lowest rank until at most `places` wait."""
        while self.queued > places:
            queue = next(queue for queue in self._queue[::-1] if queue)
            place, timer = queue.popitem()
            timer.cancel()
            place.resolve(refuse("there is no permit left for its criticality"))

    def _expire(self, rank: int, place: Place, refuse: Refuse) -> None:
        """Refuse a waiter whose time in the queue is over."""
        if self._queue[rank].pop(place, None) is not None:
            place.resolve(refuse("no permit came free in the time that it could wait"))

    def leave(self, rank: int, place: Place) -> None:
        """Remove the place of a cancelled waiter, or return its permit if it has just got one."""
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
