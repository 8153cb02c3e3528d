"""Leases of permits: parts of a common amount that the supervisor lends to workers.  No I/O and no clock.

The supervisor has a `Pool` for each limit, and each worker has a `Lease` of it.  What a lease holds, its worker may use
without asking.  Messages between them carry differences, so no order of messages lends anything twice:

    worker to supervisor    want N          it needs N more; replaces its last `want`
                            give N          it holds N less
    supervisor to worker    grant N         it holds N more
                            recall N        it gives back what it does not use, at most N, and answers with `give`
                            none            nothing is left, and no other worker has given anything back

Rules:

1. The sum of all leases is never above the total.  A lease is counted from before its `grant` is sent until its `give`
   has arrived.
2. A worker keeps at most one lease of `size` unused.  The pool calls back what others hold unused as soon as a worker
   gets less than it wants.
3. What a dead worker held is free again once the supervisor has seen its end (`leave`).
4. If the total falls, the pool calls back the difference, and again once a second while permits in use keep it.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, Final

from sidecar.core.window import SlidingCount

SHARE: Final = 4
"""Leases into which each worker's even part of the total is divided."""

Send = Callable[..., None]
"""Function that sends a message: `send(worker, kind, count)`."""


def lease_size(total: int, workers: int) -> int:
    """Return the size of one lease."""
    return max(1, total // (SHARE * workers))


class Pool:
    """Amount that workers share, such as the permits of a concurrency limit."""

    def __init__(self, send: Send, total: int = 0) -> None:
        self._send = send
        self._total = total
        self.held: dict[int, int] = {}
        """Amount lent to each worker."""
        self.wanted: dict[int, int] = {}
        """Amount that each worker needs in addition."""
        self._recalled: set[int] = set()
        """Workers that have yet to answer a recall."""
        self._answered: set[int] = set()
        """Workers that have answered one since there was too little; they are not asked again."""
        self._turn = 0

    def total(self, now: float) -> int:
        """Return the amount that may be lent in all."""
        return self._total

    def free(self, now: float) -> int:
        """Return the amount that may be lent now; negative after the total has fallen."""
        return self.total(now) - sum(self.held.values())

    def resize(self, total: int, now: float) -> None:
        """Apply another total."""
        if total != self._total:
            self._total = total
            self._serve(now)

    def want(self, worker: int, count: int, now: float) -> None:
        """Note that a worker needs `count` more, and lend what is free."""
        self.wanted[worker] = count
        self._serve(now)

    def give(self, worker: int, count: int, now: float) -> None:
        """Take back a part of a worker's lease."""
        self.held[worker] = max(0, self.held.get(worker, 0) - count)
        if worker in self._recalled:
            self._recalled.discard(worker)
            self._answered.add(worker)
        self._serve(now)

    def look(self, now: float) -> None:
        """Ask again for what exceeds the total, and lend what time has freed.  Called about once a second."""
        self._answered.clear()
        self._serve(now)

    def leave(self, worker: int, now: float) -> None:
        """Take back all that a dead worker held."""
        self.held.pop(worker, None)
        self.wanted.pop(worker, None)
        self._recalled.discard(worker)
        self._answered.discard(worker)
        self._serve(now)

    def _serve(self, now: float) -> None:
        """Lend what is free to the workers that want it, in turns; recall unused leases if that is not enough."""
        free = self.free(now)
        if free < 0:
            self._shrink(-free)
            free = 0
        waiting = sorted(worker for worker, count in self.wanted.items() if count > 0)
        if not waiting:
            return
        self._turn += 1
        first = self._turn % len(waiting)
        for place, worker in enumerate(waiting[first:] + waiting[:first]):
            share = -(-free // (len(waiting) - place))
            count = min(self.wanted[worker], share)
            if count > 0:
                free -= count
                self.wanted[worker] -= count
                self.held[worker] = self.held.get(worker, 0) + count
                self._send(worker, "grant", count)
        missing = sum(self.wanted.values())
        if missing <= 0:
            self._answered.clear()
            return
        asked = self._recalled | self._answered
        for worker, count in self.held.items():
            if count > 0 and not self.wanted.get(worker) and worker not in asked:
                self._recalled.add(worker)
                self._send(worker, "recall", missing)
        if not self._recalled:
            self._answered.clear()
            for worker, count in self.wanted.items():
                if count > 0:
                    self.wanted[worker] = 0
                    self._send(worker, "none", 0)

    def _shrink(self, excess: int) -> None:
        """Call back what exceeds the total, from each worker its part.  Nothing may be lent: tokens are spent, too."""
        lent = sum(self.held.values())
        for worker, count in self.held.items():
            part = min(count, -(-excess * count // lent)) if count else 0
            if part > 0 and worker not in self._recalled and worker not in self._answered:
                self._recalled.add(worker)
                self._send(worker, "recall", part)

    def describe(self, now: float) -> dict[str, Any]:
        """Return the total and its parts as JSON-ready values; workers count from 1."""
        return {
            "total": self.total(now),
            "leased": {str(worker + 1): count for worker, count in sorted(self.held.items()) if count},
        }


class TokenPool(Pool):
    """Tokens of a retry budget, which a worker leases before it spends them.

    What is spent leaves the lease and is counted in the window of the budget, at the instant of the report.  A dead
    worker's lease counts as spent, because nobody knows how much of it was.
    """

    def __init__(self, send: Send) -> None:
        super().__init__(send)
        self.settings = (0.0, 0.0, 0.0)
        """Ratio, floor in tokens and window in seconds."""
        self._first = self._spent = SlidingCount(1.0)

    def retune(self, ratio: float, floor: float, window: float) -> None:
        """Apply settings; counts are kept unless the length of the window changes."""
        if window != self.settings[2]:
            self._first, self._spent = SlidingCount(window), SlidingCount(window)
        self.settings = (ratio, floor, window)

    def total(self, now: float) -> int:
        ratio, floor, _ = self.settings
        return int(round(floor + ratio * self._first.total(now) - self._spent.total(now), 6))

    def report(self, worker: int, first: int, spent: int, now: float) -> None:
        """Count first attempts, and tokens of its lease that a worker has spent."""
        self._first.add(now, first)
        self._charge(worker, spent, now)

    def leave(self, worker: int, now: float) -> None:
        self._charge(worker, self.held.get(worker, 0), now)
        super().leave(worker, now)

    def _charge(self, worker: int, spent: int, now: float) -> None:
        self._spent.add(now, spent)
        self.held[worker] = max(0, self.held.get(worker, 0) - spent)

    def describe(self, now: float) -> dict[str, Any]:
        facts = {"first_attempts": self._first.total(now), "retries": self._spent.total(now)}
        return super().describe(now) | facts


class Lease:
    """Part of a pool that this worker holds."""

    def __init__(
        self, send: Callable[[str, int], None], size: int, used: Callable[[], int], changed: Callable[[], None]
    ) -> None:
        """`send(kind, count)` sends a message.

        `used()` returns how much of the lease is in use; `changed()` is called after `held` has changed.
        """
        self.held = 0
        """Amount that the worker may use."""
        self.size = size
        """Most that it keeps unused."""
        self.is_exhausted = False
        """True if the last `want` brought nothing, until the next change or `look`."""
        self._send = send
        self._used = used
        self._changed = changed
        self._wanted = 0

    @property
    def unused(self) -> int:
        """Amount that is not in use."""
        return self.held - self._used()

    def want(self, count: int) -> None:
        """Ask for `count` more, unless that has been asked for."""
        if count > self._wanted:
            self._wanted = count
            self._send("want", count)

    def receive(self, kind: str, count: int) -> None:
        """Handle a message of the pool."""
        if kind == "grant":
            self.held += count
            self._wanted = max(0, self._wanted - count)
            self.is_exhausted = False
            self._changed()
        elif kind == "recall":
            self._give(min(count, max(0, self.unused)), is_answer=True)
        else:
            self._wanted = 0
            self.is_exhausted = True
            self._changed()

    def look(self, waiting: int = 0) -> None:
        """Give back what exceeds `size`, or ask for what is missing; `waiting` requests need one each.

        Called many times a second.
        """
        self.is_exhausted = False
        unused = self.unused
        if waiting:
            self.want(waiting + self.size)
        elif unused > self.size:
            self._give(unused - self.size)
        elif 2 * unused < self.size:
            self.want(self.size - max(0, unused))

    def end(self) -> None:
        """Give everything back."""
        self._give(self.held)

    def _give(self, count: int, *, is_answer: bool = False) -> None:
        """Give back a part."""
        if count:
            self.held -= count
            self._changed()
        if count or is_answer:
            self._send("give", count)
