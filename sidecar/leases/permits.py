"""Leases of permits: how many of the permits of one limit each process may have in use without asking.

Rules:

1. The lessor's count for a lessee is never below what the lessee may use, so the sum of all is never over the limit.
   A lessee lowers its own count before it says so, and raises it only after the answer.
2. Messages carry totals and a number.  The lessor ignores an ask older than the last, and the lessee an answer to any
   but its last ask.  So a message may be lost, late or doubled; the next one mends the difference.
3. A lessee holds at most `chunk` permits that it does not use, and none of them while another lessee is short.
4. Permits of a lessee that has ended (`drop`) are free again at once.

A supervisor of workers has one `PermitLessor` for each concurrency limit, and drops a worker when its pipe ends or its
process has been reaped.  Each worker has one `PermitLessee`: `take` and `release` around a request, `ask` whenever
`is_due`, `receive` for each answer.  After each exchange or drop, the supervisor sends `offers` to lessees that were
short, and `RECALL` to those in `recalled`.  A retry budget is such a limit whose total moves: workers `spend` permits
instead of releasing them, the supervisor adds what its requests earn (`set_total`), and drops a dead worker with
`is_spent=True`.
"""

from __future__ import annotations

from typing import NamedTuple


class PermitAsk(NamedTuple):
    """Message of a lessee: how many permits it wants to have from now on."""

    number: int
    """Number of the ask, ascending."""
    held: int
    """Permits that the lessee may use until it is answered; all others are given back."""
    want: int
    """Permits that it wants to have, at least `held`."""
    spent: int = 0
    """Permits that it has used up for good since its start."""


class PermitGrant(NamedTuple):
    """Answer of the lessor."""

    number: int
    """Number of the ask; 0 for a message that answers none."""
    held: int
    """Permits that the lessee may use from now on."""
    is_short: bool
    """True while lessees want permits that are not free: spare permits are to be given back."""


class PermitLessor:
    """Permits of one limit, and how many each lessee has."""

    __slots__ = ("_held", "_numbers", "_short", "_spent", "total")

    def __init__(self, total: int) -> None:
        self.total = total
        """Permits of all lessees together."""
        self._held: dict[str, int] = {}
        """Permits by lessee, as many as it may use at most."""
        self._numbers: dict[str, int] = {}
        """Number of the last ask of each lessee."""
        self._short: dict[str, int] = {}
        """Permits that lessees want and did not get, by lessee."""
        self._spent: dict[str, int] = {}
        """Permits that each lessee has used up, as far as it has said."""

    @property
    def free(self) -> int:
        """Permits that no lessee has; below 0 after the total was lowered, until permits come back."""
        return self.total - sum(self._held.values())

    @property
    def is_short(self) -> bool:
        """True while a lessee wants permits that are not free."""
        return bool(self._short)

    def held(self, lessee: str) -> int:
        """Return the permits of a lessee."""
        return self._held.get(lessee, 0)

    def exchange(self, lessee: str, ask: PermitAsk) -> PermitGrant | None:
        """Take back what a lessee gives back, and grant what it wants as far as permits are free.

        Return None for an ask that is older than another one of this lessee.
        """
        if ask.number <= self._numbers.get(lessee, 0):
            return None
        self._numbers[lessee] = ask.number
        self._held[lessee] = min(ask.held, self._held.get(lessee, 0))
        self.total -= ask.spent - self._spent.get(lessee, 0)
        self._spent[lessee] = ask.spent
        missing = ask.want - self._held[lessee]
        granted = min(missing, max(0, self.free))
        if granted > 0:
            self._held[lessee] += granted
        if missing > granted:
            self._short[lessee] = missing - max(0, granted)
        else:
            self._short.pop(lessee, None)
        return PermitGrant(ask.number, self._held[lessee], self.is_short)

    def offers(self) -> dict[str, PermitGrant]:
        """Grant permits that have become free to lessees that are short, and return the messages to send."""
        found: dict[str, PermitGrant] = {}
        for lessee, missing in list(self._short.items()):
            granted = min(missing, self.free)
            if granted > 0:
                self._held[lessee] += granted
                if granted == missing:
                    del self._short[lessee]
                else:
                    self._short[lessee] = missing - granted
                found[lessee] = PermitGrant(self._numbers[lessee], self._held[lessee], self.is_short)
        return found

    def set_total(self, total: int) -> None:
        """Change the limit.  Permits above it come back as lessees give them back."""
        self.total = total

    def recalled(self) -> list[str]:
        """Return the lessees to send `recall` to while others are short: those that are not short themselves."""
        if not self._short:
            return []
        return [lessee for lessee, held in self._held.items() if held and lessee not in self._short]

    def drop(self, lessee: str, *, is_spent: bool = False) -> None:
        """Take back all permits of a lessee that has ended; with `is_spent` they count as used up."""
        if is_spent:
            self.total -= self._held.get(lessee, 0)
        for table in (self._held, self._numbers, self._short, self._spent):
            table.pop(lessee, None)


class PermitLessee:
    """Permits of one process."""

    __slots__ = ("_answered", "_is_short", "_number", "_wanted", "chunk", "held", "spent", "used")

    def __init__(self, chunk: int) -> None:
        """`chunk` is the number of permits to hold beyond those in use, at least 1."""
        self.chunk = chunk
        self.held = 0
        """Permits that this process may use, those in use included."""
        self.used = 0
        """Permits in use."""
        self.spent = 0
        """Permits used up since the start."""
        self._number = 0
        """Number of the last ask."""
        self._answered = 0
        """Number of the last ask that was answered."""
        self._wanted = 0
        """Requests that found no permit since the last ask."""
        self._is_short = False

    def take(self) -> bool:
        """Take a permit; return False if none is left.  The request may wait for the answer to the next ask."""
        if self.used < self.held:
            self.used += 1
            return True
        self._wanted += 1
        return False

    def release(self) -> None:
        """Give a permit back to this process."""
        self.used -= 1

    def spend(self) -> None:
        """Remove a permit that was taken: the request has used it up.  The next ask says so."""
        self.spent += 1
        self.used -= 1
        self.held -= 1

    @property
    def is_due(self) -> bool:
        """True if an ask would change something: requests want permits, few are spare, or too many."""
        spare = self.held - self.used
        if self._is_short:
            return spare > 0 or self._wanted > 0
        return self._wanted > 0 or 2 * spare < self.chunk or spare > 2 * self.chunk

    @property
    def is_answered(self) -> bool:
        """True unless an ask is on its way.  An owner whose messages may be lost asks again after a time."""
        return self._answered == self._number

    def ask(self) -> PermitAsk:
        """Return the ask to send, and give up the permits that it gives back."""
        self._number += 1
        spare = 0 if self._is_short else self.chunk
        want = self.used + self._wanted + spare
        self.held = min(self.held, max(want, self.used))
        self._wanted = 0
        return PermitAsk(self._number, self.held, max(want, self.held), self.spent)

    def receive(self, grant: PermitGrant) -> None:
        """Take an answer, or a recall."""
        self._is_short = grant.is_short
        if grant.number == self._number:
            self._answered = grant.number
            self.held = max(self.held, grant.held)


RECALL = PermitGrant(0, 0, True)
"""Message to a lessee that others are short of permits."""
