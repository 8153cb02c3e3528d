"""Permits and the queue for them, by rank: the part of a concurrency limit that knows nothing of HTTP.

Rank 0 matters most (`sidecar.core.exchange.CRITICAL`).  Higher ranks keep a share of the permits free for themselves, a
tenth for rank 0 and a tenth more for ranks 0 and 1, but only within 30 s of their last request: while all are alike, a
limit of 100 is 100.  The queue is served by rank, first in first out within one; where it is full, the youngest of the
lowest rank makes place for a newcomer that ranks higher.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, Final

from sidecar.core.env import Env, Handle
from sidecar.core.exchange import CRITICAL, CRITICALITIES, DEFAULT, NEVER, SHEDDABLE
from sidecar.core.outcome import Failure, Outcome
from sidecar.core.promise import Promise

RESERVED: Final = 0.1
"""Share of the permits that each rank leaves to the ones above it."""
REMEMBERED: Final = 30.0
"""Seconds for which that share is kept after the last request of a higher rank."""

Place = Promise[Outcome | None]
"""A place in the queue: None is a permit, an outcome is a refusal."""
Refuse = Callable[[str], Outcome]
"""Makes a refusal out of its reason."""


class Permits:
    """How many are out, and who waits."""

    def __init__(self, env: Env) -> None:
        self.active = 0
        self.limit = 0
        self.size = 0
        """Places in the queue."""
        self._now = env.now
        self._call_later = env.call_later
        self._queue: tuple[dict[Place, Handle], ...] = ({}, {}, {})
        """By rank, in order of arrival, with the timer that gives each waiter up."""
        self._seen = [-NEVER, -NEVER]
        """When the last critical and the last default request came."""
        self._handing = False

    def retune(self, limit: int, size: int) -> None:
        """Another limit and queue; permits that are out stay out, and waiters keep their places."""
        self.limit = limit
        self.size = size
        self._below_default = max(1, int(limit * (1 - 2 * RESERVED) + 1e-9))
        self._below_critical = max(1, int(limit * (1 - RESERVED) + 1e-9))
        if any(self._queue):
            self._hand_on()

    # ----- permits

    def ceiling(self, rank: int) -> int:
        """Permits that this rank may use, together with all others."""
        if rank == CRITICAL:
            return self.limit
        recent = self._now() - REMEMBERED
        if rank == DEFAULT:
            return self._below_critical if self._seen[CRITICAL] > recent else self.limit
        return self._below_default if max(self._seen) > recent else self.limit

    def take(self, rank: int) -> bool:
        """Take a permit if there is one for this rank and nobody waits for it already."""
        if rank != SHEDDABLE:
            self._seen[rank] = self._now()
        if self.active >= self._below_default and (self.active >= self.ceiling(rank) or any(self._queue[: rank + 1])):
            return False
        self.active += 1
        return True

    def release(self, _broken: Failure | None = None) -> None:
        """A permit is free again.  Fits `Body.on_close`."""
        self.active -= 1
        if any(self._queue):
            self._hand_on()

    def _hand_on(self) -> None:
        """Give free permits to waiters.  One that ends at once releases in here: the loop goes on, no stack grows."""
        if self._handing:
            return
        self._handing = True
        try:
            while (rank := self._next_rank()) is not None and self.active < self.ceiling(rank):
                queue = self._queue[rank]
                place = next(iter(queue))
                queue.pop(place).cancel()
                if not place.cancelled():  # a Task learns of its cancellation a turn later, and leaves only then
                    self.active += 1
                    place.resolve(None)
        finally:
            self._handing = False

    def _next_rank(self) -> int | None:
        return next((rank for rank, queue in enumerate(self._queue) if queue), None)

    # ----- the queue

    @property
    def queued(self) -> int:
        return sum(map(len, self._queue))

    def ahead(self, rank: int) -> int:
        """Waiters that a newcomer of this rank would have before it."""
        return sum(map(len, self._queue[: rank + 1]))

    def join(self, rank: int, patience: float, refuse: Refuse) -> Place | None:
        """A place in the queue for `patience` seconds, None where there is none.  `leave` it if awaiting fails."""
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
        """The waiter was cancelled: it gives back its place, or the permit if that had just come."""
        timer = self._queue[rank].pop(place, None)
        if timer is not None:
            timer.cancel()
        elif not place.cancelled() and place.result() is None:
            self.release()

    def describe(self) -> dict[str, Any]:
        waiting = {name: len(self._queue[rank]) for name, rank in CRITICALITIES.items()}
        return {"active": self.active, "limit": self.limit, "queue": self.size, "waiting": waiting}

    def __repr__(self) -> str:
        return f"<Permits {self.active}/{self.limit}, {self.queued}/{self.size} wait>"
