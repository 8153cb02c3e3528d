"""Leases of permits: parts of a common amount that the supervisor lends to workers.  No I/O and no clock.

The supervisor has a `Pool` for each limit, and each worker has a `Lease` of it.  What a lease holds, its worker may use
without asking.  Messages between them:

    worker to supervisor    want N M        it needs to hold N in all, M with a reserve; replaces its last `want`
                            give N          it holds N less, and wants no more than that
                            answer N        the same, as the answer to a recall; N may be 0
    supervisor to worker    grant N         it holds N more
                            recall N        it gives back what it does not use, at most N, and says how much (`answer`)
                            none            nothing is left, and no other worker has given anything back

Rules:

1. The sum of all leases is never above the total.  A lease is counted from before its `grant` is sent until its `give`
   has arrived.  Grants, gives and answers are differences, so no order of messages lends anything twice.  Wants are
   sums, so nothing is lent twice to a worker that asks while a grant is under way.
2. What is needed comes before reserves.  The pool calls back what others hold unused as soon as a worker has less than
   it needs; for reserves it calls back nothing.
3. A worker keeps at most one lease of `size` unused.
4. What a dead worker held is free again once the supervisor has seen its end (`leave`).
5. If the total falls, the pool calls back the difference, and again once a second while permits in use keep it.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, Final

from sidecar.core.window import SlidingCount

SHARE: Final = 4
"""Leases into which each worker's even part of the total is divided."""
NEED: Final = 0
"""Index of what a worker needs in what it wants."""
GOAL: Final = 1
"""Index of that with a reserve."""

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
        self._wanted: dict[int, tuple[int, int]] = {}
        """Amounts that workers want to hold in all, `NEED` and `GOAL`, of those that hold less."""
        self._recalled: dict[int, int] = {}
        """Amount that each worker has been asked for, until it answers."""
        self._answered: set[int] = set()
        """Workers that have given less than that since there was too little; they are not asked again."""
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

    def want(self, worker: int, need: int, goal: int, now: float) -> None:
        """Note that a worker needs to hold so much in all, or with a reserve, and lend what is free."""
        self._wanted[worker] = (need, goal)
        self._serve(now)

    def give(self, worker: int, count: int, now: float) -> None:
        """Take back a part of a worker's lease."""
        self.held[worker] = max(0, self.held.get(worker, 0) - count)
        if count:
            self._wanted.pop(worker, None)
        self._serve(now)

    def answer(self, worker: int, count: int, now: float) -> None:
        """Take back what a worker gives after a recall."""
        if count < self._recalled.pop(worker, 0):
            self._answered.add(worker)
        self.give(worker, count, now)

    def look(self, now: float) -> None:
        """Ask again for what exceeds the total, and lend what time has freed.  Called about once a second."""
        self._answered.clear()
        self._serve(now)

    def leave(self, worker: int, now: float) -> None:
        """Take back all that a dead worker held."""
        self.held.pop(worker, None)
        self._wanted.pop(worker, None)
        self._recalled.pop(worker, None)
        self._answered.discard(worker)
        self._serve(now)

    def _serve(self, now: float) -> None:
        """Lend what is free, in turns; recall unused leases if that is less than what is needed."""
        free = self.free(now)
        if free < 0:
            self._shrink(-free)
        elif not (missing := self._missing(NEED)) or free >= sum(missing.values()):
            self._answered.clear()
        grants: dict[int, int] = {}
        for what in (NEED, GOAL):
            free = self._lend(what, max(0, free), grants)
        for worker, count in grants.items():
            self._send(worker, "grant", count)
        self._wanted = {worker: both for worker, both in self._wanted.items() if self.held.get(worker, 0) < both[GOAL]}
        if needy := self._missing(NEED):
            self._recall(needy)

    def _missing(self, what: int) -> dict[int, int]:
        """Return what each worker holds less than it needs or wants, in the order of workers."""
        missing = {worker: self._wanted[worker][what] - self.held.get(worker, 0) for worker in sorted(self._wanted)}
        return {worker: count for worker, count in missing.items() if count > 0}

    def _lend(self, what: int, free: int, grants: dict[int, int]) -> int:
        """Lend what is free to those that hold too little; add it to the grants, and return the rest."""
        missing = self._missing(what)
        self._turn += 1
        workers = list(missing)
        for place in range(len(workers)):
            worker = workers[(place + self._turn) % len(workers)]
            count = min(missing[worker], -(-free // (len(workers) - place)))
            if count > 0:
                free -= count
                self.held[worker] = self.held.get(worker, 0) + count
                grants[worker] = grants.get(worker, 0) + count
        return free

    def _recall(self, needy: dict[int, int]) -> None:
        """Call back what others hold unused; once all have answered, tell the needy that nothing is left."""
        count = sum(self._wanted[worker][GOAL] - self.held.get(worker, 0) for worker in needy)
        for worker, held in self.held.items():
            if held > 0 and worker not in needy and worker not in self._recalled and worker not in self._answered:
                self._recalled[worker] = count
                self._send(worker, "recall", count)
        if not self._recalled:
            self._answered.clear()
            for worker in needy:
                del self._wanted[worker]
                self._send(worker, "none", 0)

    def _shrink(self, excess: int) -> None:
        """Call back what exceeds the total, from each worker its part.  Nothing may be lent: tokens are spent, too."""
        lent = sum(self.held.values())
        for worker, count in self.held.items():
            part = min(count, -(-excess * count // lent)) if count else 0
            if part > 0 and worker not in self._recalled and worker not in self._answered:
                self._recalled[worker] = part
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
        self._serve(now)

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
        self, send: Callable[..., None], size: int, used: Callable[[], int], changed: Callable[[], None]
    ) -> None:
        """`send(kind, *counts)` sends a message.

        `used()` returns how much of the lease is in use; `changed()` is called after `held` has changed.
        """
        self.held = 0
        """Amount that the worker may use."""
        self.size = size
        """Most that it keeps unused."""
        self.is_exhausted = False
        """True if the last `want` brought nothing, until the next one, the next change, or `look`."""
        self._send = send
        self._used = used
        self._changed = changed
        self._asked = (0, 0)
        """Amounts that were asked for, `NEED` and `GOAL`; zeros once they are held, or cannot be had."""

    @property
    def unused(self) -> int:
        """Amount that is not in use."""
        return self.held - self._used()

    def want(self, waiting: int) -> None:
        """Ask for what so many waiting requests need and a reserve, unless that has been asked for.

        While the answer to an earlier need is under way nothing is sent; `changed` is where to ask again.
        """
        if self._asked[NEED] > self.held:
            return
        need = self._used() + waiting
        if waiting:  # they wait although something is unused: it may be kept for others
            need = max(need, self.held + 1)
        goal = need + self.size
        if need > self._asked[NEED] or goal > self._asked[GOAL]:
            self._asked = (need, goal)
            self.is_exhausted = False
            self._send("want", need, goal)

    def receive(self, kind: str, count: int) -> None:
        """Handle a message of the pool."""
        if kind == "grant":
            self.held += count
            if self.held >= self._asked[GOAL]:
                self._asked = (0, 0)
            self.is_exhausted = False
            self._changed()
        elif kind == "recall":
            self._give(min(count, max(0, self.unused)), is_answer=True)
        else:
            self._asked = (0, 0)
            self.is_exhausted = True
            self._changed()

    def look(self, waiting: int = 0) -> None:
        """Give back what exceeds `size`, or ask for what is missing; `waiting` requests need one each.

        Called many times a second.
        """
        self.is_exhausted = False
        unused = self.unused
        if waiting or 2 * unused < self.size:
            self.want(waiting)
        elif unused > self.size:
            self._give(unused - self.size)

    def end(self) -> None:
        """Give everything back."""
        self._give(self.held)

    def _give(self, count: int, *, is_answer: bool = False) -> None:
        """Give back a part."""
        if count or is_answer:
            self.held -= count
            self._send("answer" if is_answer else "give", count)
        if count:
            self._asked = (0, 0)
            self._changed()
