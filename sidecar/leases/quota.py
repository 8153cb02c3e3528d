"""Quotas: units of a limit in a window of time, such as a day, that several processes share.

Rules:

1. A lessor hands out units, and never more than the quota of a key in a window.  A unit counts as used once it is
   handed out, so a process that ends without giving units back loses them for its callers until the window ends.
2. A lessee spends units without asking, asks for more before they are used up, and gives back what it has not used for
   `HOLD` seconds.  It gets a small part of the quota ahead of need, and near the end of the quota nothing.
3. In doubt a quota counts more, never less: units that a lost message granted or gave back count as used, and units
   that were spent without the lessor (`owed`) are told again until an answer comes.  Costs that are known too late are
   owed too, and may go beyond the quota.  A lessor that has lost its counts, as its new epoch tells, learns them from
   all lessees again: the largest that one of them knows.
4. No key is evicted before its window ends.  Keys beyond the bound share the count of `OVERFLOW`.
5. A clock that steps back by `SKEW` at most leaves no window.  One that steps back further takes the counts of a table
   along.

No I/O and no clock: the caller passes instants and windows.  A window is named by the Unix time of its start.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable
from math import floor
from typing import Final, NamedTuple

from sidecar.leases.rate import ADMITTED, NEVER, OVERFLOW, UNKNOWN

EXHAUSTED: Final = 1.0
"""Result of `QuotaLessee.take`: the quota is used up."""
SKEW: Final = 3600.0
"""Seconds by which a clock may step back without leaving a window."""
HOLD: Final = 10.0
"""Seconds without a request after which a lessee gives units back."""
RECHECK: Final = 1.0
"""Seconds between two asks for a key whose quota is used up: another process may give units back."""
SMALLEST_SHARE: Final = 0.001
"""Share of the quota that a lessee asks for ahead of need, at least."""
LARGEST_SHARE: Final = 0.05
"""Share of the quota that a lessee asks for ahead of need, at most."""
SHORTEST: Final = 0.1
"""Least seconds from which the demand of a second is estimated."""
LAST: Final = 8.0
"""Largest part of what is left that is granted ahead of need, as a divisor."""
LOOKS: Final = 8
"""Keys of a lessee that are examined when a new key comes to a full table."""
TOLERANCE: Final = 1e-9
"""Units by which sums may exceed a bound, because of rounding."""


class QuotaAsk(NamedTuple):
    """Message of a lessee about one key."""

    key: str
    start: float
    """Window, by the Unix time of its start."""
    firm: float
    """Units for requests that wait."""
    want: float
    """Units for these and for the demand that is expected."""
    back: float
    """Units that the lessee gives back."""
    owed: float
    """Units that were spent without the lessor."""
    known: float
    """Units that were used when the lessor was last heard, for a lessor that has lost its count."""
    epoch: str = ""
    """Epoch of the lessor's counts when it was last heard; empty if it never was."""


class QuotaGrant(NamedTuple):
    """Answer of a lessor about one key."""

    units: float
    """Units granted; 0 if there are none."""
    left: float
    """Units of the quota that nobody has."""
    is_overflow: bool
    """True if the key is counted together with others, because the table is full."""


def recall(used: float, ask: QuotaAsk, epoch: str) -> float:
    """Return the units that are used before an ask, by the count of a lessor with this epoch."""
    return max(used, ask.known) if ask.epoch and ask.epoch != epoch else used


def settle_ask(used: float, ask: QuotaAsk, most: float) -> tuple[float, float]:
    """Return the units that are used after an ask, and those of them that it is granted, of a quota of `most`."""
    used = max(0.0, used - ask.back) + ask.owed
    left = max(0.0, most - used)
    granted = min(ask.firm, left)
    if ask.want > ask.firm and left > ask.firm:
        granted = max(granted, min(ask.want, ask.firm + floor((left - ask.firm) / LAST)))
    return used + granted, granted


class Spent:
    """Used units of one key."""

    __slots__ = ("units",)

    def __init__(self, units: float) -> None:
        self.units = units
        """Units; infinite for the empty key once the table has forgotten it."""


class QuotaTable:
    """Used units of one quota by key, for the current window."""

    __slots__ = ("max_keys", "most", "spent", "start")

    def __init__(self, most: float, max_keys: int) -> None:
        self.most = most
        """Units that each key has in a window."""
        self.max_keys = max_keys
        self.start = -NEVER
        """Window of the counts."""
        self.spent: dict[str, Spent] = {}
        """Used units by key."""

    @property
    def used(self) -> dict[str, float]:
        """Copy of the used units by key."""
        return {key: spent.units for key, spent in self.spent.items()}

    def clear(self) -> None:
        """Forget all counts."""
        if (spent := self.spent.get("")) is not None:
            spent.units = NEVER  # a quota without a key holds it, and looks for a new one
        self.spent.clear()

    def roll(self, start: float) -> None:
        """Begin a window, unless the counts are of it."""
        if start > self.start:
            self.clear()
            self.start = start
        elif start < self.start - SKEW:
            self.start = start

    def locate(self, key: str) -> str:
        """Return the key to count a request under: `key` itself, or `OVERFLOW` if the table has no place for it."""
        return key if key in self.spent or len(self.spent) < self.max_keys else OVERFLOW

    def take(self, key: str, cost: float) -> bool:
        """Spend units; False if too few are left.  `locate` has returned the key."""
        spent = self.spent.get(key)
        used = cost if spent is None else spent.units + cost
        if used > self.most + TOLERANCE:
            return False
        self._set(key, used)
        return True

    def charge(self, key: str, cost: float) -> None:
        """Spend units for a request that was admitted before, whatever is left."""
        key = self.locate(key)
        spent = self.spent.get(key)
        self._set(key, cost if spent is None else spent.units + cost)

    def refund(self, key: str, cost: float) -> None:
        """Take back a request that was admitted at this instant."""
        spent = self.spent.get(key)
        self._set(key, 0.0 if spent is None else max(0.0, spent.units - cost))

    def left(self, key: str) -> float:
        """Return the units that a key has left."""
        spent = self.spent.get(key)
        return max(0.0, self.most if spent is None else self.most - spent.units)

    def grant(self, ask: QuotaAsk) -> QuotaGrant:
        """Answer an ask of a lessee."""
        self.roll(ask.start)
        key = self.locate(ask.key)
        spent, before = self.spent.get(key), ask.known if key == ask.key else 0.0
        used, granted = settle_ask(before if spent is None else spent.units, ask, self.most)
        self._set(key, used)
        return QuotaGrant(granted, max(0.0, self.most - used), key == OVERFLOW)

    def _set(self, key: str, units: float) -> None:
        spent = self.spent.get(key)
        if spent is None:
            self.spent[key] = Spent(units)
        else:
            spent.units = units


class QuotaLease:
    """Units of one key in one process."""

    __slots__ = (
        "asked_at", "epoch", "held", "is_asked", "is_known", "is_shared", "key", "left", "low", "owed", "refused_until",
        "share", "share_of", "taken", "used_at", "waiting",
    )  # fmt: skip

    def __init__(self, key: str, now: float, most: float) -> None:
        self.key = key
        self.held = 0.0
        """Units that may be spent."""
        self.low = 0.0
        """Units below which more are asked for."""
        self.left = most
        """Units that nobody had, as far as this process knows."""
        self.is_known = False
        """True once the lessor has told what is left."""
        self.epoch = ""
        """Epoch of the lessor's counts when it told that."""
        self.is_shared = False
        """True if the lessor counts the key together with others."""
        self.is_asked = False
        """True while an ask is to be sent, or is on its way."""
        self.asked_at = now
        """Instant of the last ask."""
        self.used_at = now
        """Instant of the last request."""
        self.taken = 0.0
        """Units spent since the last ask."""
        self.waiting = 0.0
        """Units for which requests wait."""
        self.owed = 0.0
        """Units spent without the lessor, which it does not know of yet."""
        self.share = 0.0
        """Units that may be spent without the lessor, while it is away."""
        self.share_of = 0
        """Number of the outage that `share` is for; 0 before the first."""
        self.refused_until = 0.0
        """Instant before which the lessor is not asked again."""


class QuotaLessee:
    """Units of one quota in one process, by key, for the current window."""

    __slots__ = ("_asks", "_idle", "leases", "max_keys", "most", "on_ask", "on_overflow", "start")

    def __init__(self, most: float, max_keys: int) -> None:
        self.most = most
        self.max_keys = max_keys
        self.start = -NEVER
        """Window of the leases."""
        self.leases: dict[str, QuotaLease] = {}
        """Leases by key, at most `max_keys` and `OVERFLOW`."""
        self.on_ask: Callable[[], None] | None = None
        """Called when an ask is added."""
        self.on_overflow: Callable[[], None] | None = None
        """Called for a request whose key has no count of its own."""
        self._asks: list[QuotaLease] = []
        """Leases with an ask to be sent."""
        self._idle: deque[tuple[float, QuotaLease]] = deque()
        """Instants at which leases are looked at, one for each, ascending."""

    def retune(self, most: float, max_keys: int) -> None:
        """Apply other settings; what is used and leased stays."""
        for lease in self.leases.values():
            lease.left = max(0.0, lease.left + most - self.most)
            lease.refused_until = 0.0
        self.most, self.max_keys = most, max_keys

    def roll(self, start: float) -> None:
        """Begin a window, unless the leases are of it.  Units of the other one lapse."""
        if start > self.start or start < self.start - SKEW:
            self.leases.clear()
            self._asks.clear()
            self._idle.clear()
            self.start = start

    def take(self, key: str, cost: float, now: float) -> float:
        """Spend units for a request.

        Return `ADMITTED`, `UNKNOWN` if only the lessor can tell, or `EXHAUSTED`.  The caller of an unknown request
        calls `wait`, and takes again after the answer.
        """
        lease = self.leases.get(key)
        if lease is None:
            lease = self._add(key, now)
        lease.used_at = now
        if lease.held + TOLERANCE >= cost:
            if lease.is_shared:
                self._count_overflow()
            lease.held = max(0.0, lease.held - cost)
            lease.taken += cost
            if lease.held < lease.low and now >= lease.refused_until:
                lease.low = 0.0
                self._ask(lease)
            return ADMITTED
        if now < lease.refused_until:
            if lease.is_shared:
                self._count_overflow()
            return EXHAUSTED
        self._ask(lease)
        return UNKNOWN

    def take_alone(self, key: str, cost: float, now: float, outage: int, members: int, *, is_bounded: bool) -> bool:
        """Spend units for a request while the lessor is away; False if the share of this process is used up.

        The share is what was left of the quota, divided by the processes.  `outage` is the number of the outage, at
        least 1.  Without `is_bounded` every request passes.
        """
        lease = self.leases.get(key)
        if lease is None:
            lease = self._add(key, now)
        lease.used_at = now
        if lease.held + TOLERANCE >= cost:
            lease.held = max(0.0, lease.held - cost)
            lease.taken += cost
            return True
        if lease.share_of != outage:
            lease.share, lease.share_of = lease.left / members, outage
        if is_bounded and lease.share + TOLERANCE < cost:
            return False
        lease.share -= cost
        lease.owed += cost
        lease.left = max(0.0, lease.left - cost)
        return True

    def wait(self, key: str, cost: float) -> None:
        """Count a request that waits for the answer of the lessor."""
        self._find(key).waiting += cost

    def charge(self, key: str, cost: float, now: float) -> None:
        """Spend units for a request that was admitted before, whatever is left."""
        lease = self.leases.get(key)
        if lease is None:
            lease = self._add(key, now)
        lease.used_at = now
        paid = min(cost, lease.held)
        lease.held -= paid
        lease.taken += cost
        lease.owed += cost - paid
        lease.left = max(0.0, lease.left - (cost - paid))
        if lease.owed > 0 or (lease.held < lease.low and now >= lease.refused_until):
            lease.low = 0.0
            self._ask(lease)

    def refund(self, key: str, cost: float) -> None:
        """Take back a request that was admitted at this instant."""
        lease = self._find(key)
        lease.held += cost
        lease.taken = max(0.0, lease.taken - cost)

    def left(self, key: str) -> float:
        """Return the units that a key has left, as far as this process knows."""
        lease = self.leases.get(key)
        return self.most if lease is None else lease.left + lease.held

    @property
    def is_asking(self) -> bool:
        """True if asks wait to be collected."""
        return bool(self._asks)

    @property
    def due(self) -> float:
        """Next instant at which a lease is to be looked at; infinite without one."""
        return self._idle[0][0] if self._idle else NEVER

    def collect(self, now: float, most: int = 1000) -> list[QuotaAsk]:
        """Return the asks to be sent now, at most so many.  Each is answered by `receive` or `fail`."""
        while self._idle and self._idle[0][0] <= now:
            self._look(self._idle.popleft()[1], now)
        asks, self._asks = self._asks[:most], self._asks[most:]
        return [self._write(lease, now) for lease in asks]

    def owe(self) -> None:
        """Ask for all leases that owe units: the lessor is back."""
        for lease in self.leases.values():
            if lease.owed > 0:
                self._ask(lease)

    def give_back(self, now: float) -> list[QuotaAsk]:
        """Return the asks that give all units back and tell of all that were spent: the process ends."""
        self._asks.clear()
        leases = [lease for lease in self.leases.values() if lease.held > 0 or lease.owed > 0]
        return [self._write(lease, now, is_last=True) for lease in leases]

    def receive(self, ask: QuotaAsk, grant: QuotaGrant, now: float, epoch: str = "") -> None:
        """Take the answer to an ask, of a lessor with this epoch.  Requests that wait for it then take again."""
        lease = self.leases.get(ask.key)
        if lease is None or ask.start != self.start:
            return
        lease.is_asked = False
        lease.waiting = 0.0  # those who still wait say so again
        lease.held += grant.units
        lease.left = grant.left
        lease.is_known, lease.epoch = True, epoch
        lease.is_shared = lease.is_shared or grant.is_overflow
        ahead = grant.units - ask.firm
        lease.low = ahead / 2 if ahead >= 2 else 0.0
        if grant.units + TOLERANCE < ask.firm:
            lease.refused_until = now + RECHECK

    def fail(self, ask: QuotaAsk) -> None:
        """Give up an ask that was not answered.  What it gave back is lost, and what was owed still is."""
        lease = self.leases.get(ask.key)
        if lease is not None and ask.start == self.start:
            lease.is_asked = False
            lease.waiting = 0.0
            lease.owed += ask.owed

    def _find(self, key: str) -> QuotaLease:
        return self.leases.get(key) or self.leases[OVERFLOW]

    def _add(self, key: str, now: float) -> QuotaLease:
        """Return a new lease without units, or the one of `OVERFLOW` if all places are in use."""
        if len(self.leases) >= self.max_keys and key != OVERFLOW:
            self._make_room(now)
            if len(self.leases) >= self.max_keys:
                return self.leases.get(OVERFLOW) or self._add(OVERFLOW, now)
        lease = self.leases[key] = QuotaLease(key, now, self.most)
        lease.is_shared = key == OVERFLOW
        self._idle.append((now + HOLD, lease))
        return lease

    def _make_room(self, now: float) -> None:
        """Forget leases that hold nothing, among those that are looked at next.  Their counts are with the lessor."""
        for _ in range(min(LOOKS, len(self._idle))):
            at, lease = self._idle.popleft()
            if lease.held > 0 or lease.owed > 0 or lease.is_asked or lease.waiting > 0:
                self._idle.append((max(at, now + HOLD), lease))
            else:
                del self.leases[lease.key]

    def _count_overflow(self) -> None:
        count = self.on_overflow
        if count is not None:
            count()

    def _ask(self, lease: QuotaLease) -> None:
        if not lease.is_asked:
            lease.is_asked = True
            self._asks.append(lease)
            call = self.on_ask
            if call is not None:
                call()

    def _look(self, lease: QuotaLease, now: float) -> None:
        """Give back the units of a lease without requests, and forget one that has none."""
        if self.leases.get(lease.key) is not lease:
            return
        is_idle = now - lease.used_at + TOLERANCE >= HOLD
        if is_idle and not lease.is_asked:
            if lease.held <= 0 and lease.owed <= 0:
                del self.leases[lease.key]
                return
            self._ask(lease)
        self._idle.append((now + HOLD, lease))

    def _write(self, lease: QuotaLease, now: float, *, is_last: bool = False) -> QuotaAsk:
        """Return the ask for a lease, and take from the lease what the ask gives back."""
        back = firm = want = 0.0
        if is_last or (now - lease.used_at + TOLERANCE >= HOLD and not lease.waiting):
            back, lease.held = lease.held, 0.0
            lease.low = 0.0
        else:
            firm = want = max(0.0, lease.waiting - lease.held)
            demand = (lease.taken + lease.waiting) / max(SHORTEST, now - lease.asked_at)
            ahead = float(floor(min(max(demand, SMALLEST_SHARE * self.most), LARGEST_SHARE * self.most)))
            want = max(firm, firm + ahead - max(0.0, lease.held - lease.waiting))
        owed, lease.owed = lease.owed, 0.0
        known = max(0.0, self.most - lease.left - owed) if lease.is_known and not lease.is_shared else 0.0
        lease.taken, lease.asked_at = 0.0, now
        return QuotaAsk(lease.key, self.start, firm, want, back, owed, known, lease.epoch)
