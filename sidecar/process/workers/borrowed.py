"""Permits and tokens that this worker holds, out of those that the supervisor lends to all workers."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, Protocol

from sidecar.core.env import PermitLease, TokenLease
from sidecar.leases.permits import Lease, lease_size


class Lender(Protocol):
    """The worker's link to the supervisor."""

    count: int
    """Number of workers."""

    def send(self, *message: Any) -> None:
        """Send a message to the supervisor."""

    def end_lease(self, name: str, lease: Any) -> None:
        """Give a lease back for good."""


class WorkerPermits(PermitLease):
    """Permits of a limit that this worker holds."""

    def __init__(
        self, link: Lender, name: str, active: Callable[[], int], waiting: Callable[[], int],
        changed: Callable[[], None],
    ) -> None:  # fmt: skip
        self._link = link
        self._name = name
        self._waiting = waiting
        self.lease = Lease(lambda kind, *counts: link.send("lease", name, kind, *counts), 1, active, changed)

    @property
    def held(self) -> int:
        return self.lease.held

    @property
    def is_exhausted(self) -> bool:
        return self.lease.is_exhausted

    def want(self, waiting: int) -> None:
        self.lease.want(waiting)

    def resize(self, total: int) -> None:
        self.lease.size = lease_size(total, self._link.count)
        self._link.send("permits", self._name, total)
        self.lease.look()

    def look(self) -> bool:
        """Adjust the lease to the use of it; True if it is to be looked at again soon."""
        waiting = self._waiting()
        is_tight = self.lease.is_exhausted or waiting > 0
        self.lease.look(waiting)
        return is_tight

    def end(self) -> None:
        self._link.end_lease(self._name, self)


class WorkerTokens(TokenLease):
    """Tokens of a retry budget that this worker holds."""

    def __init__(self, link: Lender, name: str, deposits: Callable[[], int], part: Callable[[], int]) -> None:
        """`deposits()` returns the number of first attempts so far, and `part()` the tokens to hold."""
        self._link = link
        self._name = name
        self._deposits = deposits
        self._part = part
        self._reported = self._spent = 0
        """Deposits that the supervisor knows of, and tokens spent of which it does not."""
        self._recent = 0
        """Tokens spent since the last look."""
        self.lease = Lease(self._send, 1, lambda: 0, lambda: None)

    @property
    def held(self) -> int:
        return self.lease.held

    def withdraw(self) -> bool:
        lease = self.lease
        if lease.held < 1:
            lease.want(1)
            return False
        lease.held -= 1
        self._spent += 1
        self._recent += 1
        if 2 * lease.held < lease.size:
            lease.want(0)
        return True

    def retune(self, ratio: float, floor: float, window: float) -> None:
        self.lease.size = max(1, self._part())
        self._link.send("budget", self._name, ratio, floor, window)
        self.lease.look()

    def look(self) -> bool:
        """Report what was counted, and adjust the lease to it; True if it is to be looked at again soon."""
        is_tight = self.lease.is_exhausted or self._recent > 0
        self.lease.size = max(1, self._part(), 2 * self._recent)
        self._recent = 0
        self._report()
        self.lease.look()
        if 4 * self.lease.held < 3 * self.lease.size:
            self.lease.want(0)
        return is_tight

    def _report(self) -> None:
        deposits = self._deposits()
        if deposits > self._reported or self._spent:
            self._link.send("used", self._name, deposits - self._reported, self._spent)
            self._reported, self._spent = deposits, 0

    def _send(self, kind: str, *counts: int) -> None:
        self._report()  # before anything is given back, so that the pool never takes a spent token for a free one
        self._link.send("lease", self._name, kind, *counts)

    def end(self) -> None:
        self._link.end_lease(self._name, self)
