"""Leases of a rate: tokens of one limit that a process may spend without asking, for 50 to 200 ms.

Rules:

1. The lessor runs the generic cell rate algorithm (ITU-T I.371) over what it grants.  For demand that is expected it
   grants tokens ahead of their time, by half a lease at most.  So a lessee spends at the full rate between two asks.
2. A token is spent neither before it conforms nor after its lease has ended.  So in any second all lessees together
   spend at most the capacity and the tokens of one second and one lease.
3. Tokens given back count as never granted, but only as far as the bucket would not have been full without them.  So
   idle lessees that renew and give back cannot pile up tokens.
4. Half of what is available may be granted for demand that is only expected.  Requests that wait get the rest, so the
   reserve of one lessee refuses no request of another while there is enough.
5. A message may be lost: its tokens are then spent by nobody.  It must not be delivered twice.
6. A lessor that has lost its counts starts with empty buckets (`lost_at`).

A supervisor of workers has one `RateLessor` for each limit, and each worker one `RateLessee`.  A worker sends what
`collect` returns over its pipe; the supervisor calls `exchange` for each ask, with its own monotonic clock, and the
worker passes the grants to `receive`.  Tokens of a dead worker lapse with their leases; nothing has to be told.
"""

from __future__ import annotations

from collections.abc import Callable
from heapq import heappop, heappush
from math import floor
from typing import Final, NamedTuple

TOLERANCE: Final = 1e-9
"""Seconds by which sums of intervals may exceed a bound, because of rounding."""
MEMORY: Final = 0.2
"""Seconds after a grant in which its tokens can be given back, and the longest lease."""
PERIOD: Final = 0.025
"""Seconds whose grants to one key are counted together."""
PERIODS: Final = 8
"""Periods that are remembered: those of `MEMORY`."""
ENOUGH: Final = 3.0
"""Least requests in a lease that make a demand: fewer come too irregularly to expect them."""
LOOKS: Final = 8
"""Keys that are examined for eviction when a new key comes to a full table."""
OVERFLOW: Final = "\0overflow"
"""Key that all keys beyond a table share."""
ADMITTED: Final = 0.0
"""Result of `RateLessee.take`: the request may pass."""
UNKNOWN: Final = -1.0
"""Result of `RateLessee.take`: only the lessor knows; the request waits for its answer."""
NEVER: Final = float("inf")


class Ask(NamedTuple):
    """Message of a lessee about one key."""

    key: str
    least: float
    """Tokens for the first request that waits; 0 without one."""
    firm: float
    """Tokens for all requests that wait."""
    want: float
    """Tokens for these and for the demand that is expected."""
    back: float
    """Tokens of the last grant that the lessee gives back."""
    stamp: float
    """`Grant.stamp` of the grant that `back` belongs to."""


class Grant(NamedTuple):
    """Answer of a lessor about one key."""

    tokens: float
    """Tokens granted; 0 if there are none."""
    start: float
    """Seconds from the lessor's clock to the theoretical arrival time (TAT) at which the tokens begin."""
    wait: float
    """Seconds until the next request that waits could be granted; 0 if all were."""
    stamp: float
    """Instant of the grant by the lessor's clock."""


class _Account:
    """Count of a lessor for one key: the TAT before its recent grants, and these."""

    __slots__ = ("base", "recent", "tat")

    def __init__(self, tat: float) -> None:
        self.tat = tat
        """Theoretical arrival time of the next token, by the lessor's clock."""
        self.base = tat
        """TAT before the grants of `recent`."""
        self.recent: list[tuple[float, float, float]] = []
        """Grants of the last `MEMORY` seconds that were kept, by periods: number of the period, instant of its last
        grant, and its seconds, which are tokens times the interval."""

    def roll(self, period: float) -> None:
        """Move grants of old periods into the base."""
        while self.recent and self.recent[0][0] < period - PERIODS:
            self.base = max(self.base, self.recent[0][1]) + self.recent[0][2]
            del self.recent[0]

    def grant(self, period: float, now: float, seconds: float) -> None:
        """Count a grant."""
        if self.recent and self.recent[-1][0] == period:
            seconds += self.recent.pop()[2]
        self.recent.append((period, now, seconds))
        self.tat = self.fold()

    def give_back(self, period: float, seconds: float) -> None:
        """Count seconds of a period as never granted."""
        for index, (number, last, granted) in enumerate(self.recent):
            if number == period:
                self.recent[index] = (number, last, granted - min(seconds, granted))
        self.recent = [each for each in self.recent if each[2] > TOLERANCE]
        self.tat = self.fold()

    def fold(self) -> float:
        """Return the TAT after all grants.  Those of one period count as made at the instant of its last."""
        tat = self.base
        for _, last, seconds in self.recent:
            tat = max(tat, last) + seconds
        return tat


class RateLessor:
    """Limit of one rate and capacity for each of many keys, handed out in leases."""

    __slots__ = ("_accounts", "depth", "interval", "lease", "lost_at", "max_keys")

    def __init__(self, rate: float, capacity: float, lease: float, max_keys: int = 10_000) -> None:
        """`rate` is in tokens per second, `lease` in seconds."""
        self._accounts: dict[str, _Account] = {}
        """Accounts by key; those used last are at the end."""
        self.lost_at = -NEVER
        """Instant at which the counts were lost: keys that are not known had an empty bucket then."""
        self.retune(rate, capacity, lease, max_keys)

    def retune(self, rate: float, capacity: float, lease: float, max_keys: int) -> None:
        """Apply other settings; the counts stay."""
        self.interval = 1.0 / rate
        self.depth = capacity / rate
        self.lease = lease
        self.max_keys = max_keys

    @property
    def keys(self) -> int:
        """Number of keys in the table."""
        return len(self._accounts)

    def exchange(self, ask: Ask, now: float) -> Grant:
        """Take back what the ask gives back, and grant what it wants as far as the limit allows."""
        account = self._find(ask.key, now)
        interval = self.interval
        conforming = now + self.depth + TOLERANCE
        furthest = conforming + self.lease / 2
        if account.tat > furthest:  # the clock was set back, or the limit was changed
            account.base = account.tat = furthest
            account.recent = []
        period = now // PERIOD
        account.roll(period)
        if ask.back > 0 and 0 <= now - ask.stamp <= MEMORY:
            account.give_back(ask.stamp // PERIOD, ask.back * interval)
        if ask.want <= 0:
            return Grant(0.0, 0.0, 0.0, now)
        start = max(account.tat, now)
        available = max(0.0, (conforming - start) / interval)
        tokens = min(ask.firm, available)
        if ask.want > ask.firm:
            tokens = max(tokens, min(ask.want, (furthest - start) / interval / 2))
        if tokens < ask.want:
            tokens = float(floor(tokens))
        if tokens < ask.least:
            tokens = 0.0
        wait = 0.0
        if tokens < ask.firm:
            wait = max(0.0, start - conforming + (tokens + max(ask.least, 1.0)) * interval)
        if tokens <= 0:
            return Grant(0.0, 0.0, wait, now)
        account.grant(period, now, tokens * interval)
        return Grant(tokens, start - now, wait, now)

    def _find(self, key: str, now: float) -> _Account:
        """Return the account of a key, or of `OVERFLOW` if the table has no place for it."""
        accounts = self._accounts
        account = accounts.pop(key, None)
        if account is None:
            if len(accounts) >= self.max_keys:
                self._evict(now)
                if len(accounts) >= self.max_keys and key != OVERFLOW:
                    return self._find(OVERFLOW, now)
            account = _Account(max(now, self.lost_at + self.depth))
        accounts[key] = account
        return account

    def _evict(self, now: float) -> None:
        """Evict keys whose TAT has passed, among those that were not used for the longest time."""
        accounts = self._accounts
        for key in list(_first(accounts, LOOKS)):
            account = accounts.pop(key)
            if account.tat > now:
                accounts[key] = account


def _first(accounts: dict[str, _Account], number: int) -> list[str]:
    found: list[str] = []
    for key in accounts:
        if len(found) == number:
            break
        found.append(key)
    return found


class RateLease:
    """Lease of one key: its tokens, perhaps those of the next lease, and the demand."""

    __slots__ = (
        "asked_at", "demand", "end", "expires", "first_waiting", "following", "is_asked", "key", "low", "missed",
        "refused_until", "retry_at", "stamp", "taken", "tat", "waiting",
    )  # fmt: skip

    def __init__(self, key: str, now: float) -> None:
        self.key = key
        self.tat = 0.0
        """Theoretical arrival time of the next token."""
        self.low = 0.0
        """TAT from which more tokens are asked for; at most `end`."""
        self.end = 0.0
        """TAT at which the tokens of the lease end."""
        self.expires = 0.0
        """Instant at which the lease ends."""
        self.stamp = 0.0
        """`Grant.stamp` of the lease."""
        self.following: tuple[float, float, float, float] | None = None
        """TAT, end, expiry and stamp of the next lease; None without one."""
        self.is_asked = False
        """True while an ask is to be sent, or is on its way."""
        self.asked_at = now
        """Instant of the last ask."""
        self.taken = 0.0
        """Tokens spent since the last ask."""
        self.missed = 0.0
        """Tokens that were refused since the last ask."""
        self.waiting = 0.0
        """Tokens for which requests wait."""
        self.first_waiting = 0.0
        """Tokens for the first request that waits."""
        self.demand = 0.0
        """Expected demand in tokens per second."""
        self.refused_until = 0.0
        """Instant before which the lessor is not asked again."""
        self.retry_at = 0.0
        """Instant at which the lessor expects to have tokens, as far as it knew."""

    def promote(self) -> None:
        """Begin the next lease; what is left of this one lapses."""
        assert self.following is not None
        self.tat, self.end, self.expires, self.stamp = self.following
        self.low = (self.tat + self.end) / 2
        self.following = None


class RateLessee:
    """Leases of one limit in one process, by key."""

    __slots__ = ("_asks", "_due", "_serial", "depth", "interval", "lease", "leases", "max_keys", "on_ask", "pace")

    def __init__(self, rate: float, capacity: float, lease: float, max_keys: int = 10_000) -> None:
        """The arguments are those of the lessor."""
        self.leases: dict[str, RateLease] = {}
        """Leases by key: of keys that are in use, at most `max_keys` and `OVERFLOW`."""
        self.on_ask: Callable[[], None] | None = None
        """Called when an ask is added; None if the owner looks for asks itself."""
        self._asks: list[RateLease] = []
        """Leases with an ask to be sent."""
        self._due: list[tuple[float, int, RateLease]] = []
        """Heap of instants at which a lease is looked at, one entry for each lease."""
        self._serial = 0
        self.retune(rate, capacity, lease, max_keys)

    def retune(self, rate: float, capacity: float, lease: float, max_keys: int) -> None:
        """Apply other settings, and give up all tokens: they are of the old rate."""
        self.interval = 1.0 / rate
        self.depth = capacity / rate + TOLERANCE
        self.lease = lease
        self.pace = lease / 8
        """Least seconds between an answer without tokens and the next ask."""
        self.max_keys = max_keys
        for each in self.leases.values():
            each.tat = each.low = each.end = each.expires = 0.0
            each.following = None

    def take(self, key: str, cost: float, now: float) -> float:
        """Spend tokens for a request.

        Return `ADMITTED`; or `UNKNOWN` if only the lessor can tell; or the seconds until there may be tokens.  The
        caller of an unknown request calls `wait`, and takes again after the answer.
        """
        lease = self.leases.get(key)
        if lease is None:
            lease = self._add(key, now)
        if lease.following is not None and (now >= lease.expires or lease.tat + TOLERANCE >= lease.end):
            lease.promote()
        tat = lease.tat + cost * self.interval
        if tat > lease.end + TOLERANCE or now >= lease.expires:
            if lease.following is not None:  # the cost is more than what is left
                lease.promote()
                return self.take(key, cost, now)
            if now < lease.refused_until:
                lease.missed += cost
                return max(lease.refused_until, lease.retry_at) - now
            self._ask(lease)
            return UNKNOWN
        if tat > now + self.depth:
            lease.missed += cost
            return tat - now - self.depth
        lease.tat = tat
        lease.taken += cost
        if tat > lease.low and lease.following is None:
            lease.low = lease.end
            self._ask(lease)
        return ADMITTED

    def wait(self, key: str, cost: float) -> None:
        """Count a request that waits for the answer of the lessor."""
        lease = self.leases.get(key) or self.leases[OVERFLOW]
        if not lease.waiting:
            lease.first_waiting = cost
        lease.waiting += cost

    def refund(self, key: str, cost: float) -> None:
        """Take back a request that was admitted at this instant."""
        lease = self.leases.get(key) or self.leases[OVERFLOW]
        lease.tat -= cost * self.interval
        lease.taken -= cost

    @property
    def is_asking(self) -> bool:
        """True if asks wait to be collected."""
        return bool(self._asks)

    @property
    def due(self) -> float:
        """Next instant at which a lease is to be renewed or given back; infinite without one."""
        return self._due[0][0] if self._due else NEVER

    def collect(self, now: float, most: int = 1000) -> list[Ask]:
        """Return the asks to be sent now, at most so many.  Each is answered by `receive` or `fail`."""
        due = self._due
        while due and due[0][0] <= now:
            self._look(heappop(due)[2], now)
        asks, self._asks = self._asks[:most], self._asks[most:]
        found = []
        for lease in asks:
            ask = self._write(lease, now)
            if ask.want > 0 or ask.back > 0:
                found.append(ask)
            else:
                lease.is_asked = False
        return found

    def receive(self, ask: Ask, grant: Grant, now: float) -> None:
        """Take the answer to an ask.  Requests that wait for it then take again."""
        lease = self.leases.get(ask.key)
        if lease is None:
            return
        lease.is_asked = False
        lease.waiting = lease.first_waiting = 0.0  # those who still wait say so again
        if grant.tokens > 0:
            start = now + grant.start
            end = start + grant.tokens * self.interval
            lease.following = (start, end, lease.asked_at + self.lease, grant.stamp)
            if now >= lease.expires or lease.tat + TOLERANCE >= lease.end:
                lease.promote()
            lease.refused_until = 0.0
        if grant.wait > 0:
            lease.retry_at = now + grant.wait
            lease.refused_until = now + min(max(grant.wait, self.pace), self.lease / 2)

    def fail(self, ask: Ask) -> None:
        """Give up an ask that was not answered.  What it gave back is lost."""
        lease = self.leases.get(ask.key)
        if lease is not None:
            lease.is_asked = False
            lease.waiting = lease.first_waiting = 0.0

    def _add(self, key: str, now: float) -> RateLease:
        """Return a new lease without tokens, or the one of `OVERFLOW` if the table is full."""
        if len(self.leases) >= self.max_keys and key != OVERFLOW:
            return self.leases.get(OVERFLOW) or self._add(OVERFLOW, now)
        lease = self.leases[key] = RateLease(key, now)
        self._watch(lease, now + self.lease / 2)
        return lease

    def _watch(self, lease: RateLease, at: float) -> None:
        self._serial += 1
        heappush(self._due, (at, self._serial, lease))

    def _ask(self, lease: RateLease) -> None:
        if not lease.is_asked:
            lease.is_asked = True
            self._asks.append(lease)
            if self.on_ask is not None:
                self.on_ask()

    def _look(self, lease: RateLease, now: float) -> None:
        """Renew a lease that is in use, give back what is left of another, and forget one that has neither."""
        quarter = self.lease / 4
        age = now - lease.asked_at + TOLERANCE
        if lease.is_asked or age < quarter:
            self._watch(lease, now + quarter)
            return
        if lease.following is not None and (now >= lease.expires or lease.tat + TOLERANCE >= lease.end):
            lease.promote()
        has_tokens = lease.following is not None or (now < lease.expires and lease.tat + TOLERANCE < lease.end)
        is_used = lease.taken > 0 or lease.missed > 0
        if has_tokens and (lease.expires - now < 1.5 * quarter or (not is_used and age >= 2 * quarter)):
            self._ask(lease)
        elif is_used:
            if age >= 2 * quarter and lease.following is None and now >= lease.refused_until:
                self._ask(lease)
        elif not has_tokens and now >= lease.refused_until:
            del self.leases[lease.key]
            return
        self._watch(lease, now + quarter)

    def _expect(self, demand: float) -> float:
        """Return the tokens to ask for ahead of need; no more than twice what the rate brings in a lease."""
        return float(floor(min(1.1 * demand, 2.0 / self.interval) * self.lease + TOLERANCE))

    def _write(self, lease: RateLease, now: float) -> Ask:
        """Return the ask for a lease, and take from the lease what the ask gives back."""
        used = lease.taken + lease.missed + lease.waiting
        rate = used / max(now - lease.asked_at, self.lease)
        lease.demand = rate if rate > lease.demand else (rate + lease.demand) / 2
        back, stamp, rest = 0.0, lease.stamp, lease.expires - now
        if rest > 0 and lease.tat + TOLERANCE < lease.end:
            left = (lease.end - lease.tat) / self.interval
            kept = 0.0
            if used and rest > 0.4 * self.lease and lease.following is None:
                kept = lease.demand * rest
            if left > kept:
                back = float(floor(left - kept + TOLERANCE)) if kept else left
                lease.end -= back * self.interval
                lease.low = lease.end
        firm, least, want = lease.waiting, lease.first_waiting, lease.waiting
        if lease.following is not None:
            lease.promote()
        elif used and (expected := self._expect(lease.demand)) >= ENOUGH:
            want = max(firm, expected)
        lease.taken = lease.missed = lease.waiting = lease.first_waiting = 0.0
        lease.asked_at = now
        return Ask(lease.key, least, firm, want, back, stamp)
