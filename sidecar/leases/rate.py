"""Leases of a rate: tokens of one limit that a process may spend without asking, for 50 to 200 ms.

Rules:

1. The lessor runs the generic cell rate algorithm (ITU-T I.371) over what it grants.  For demand that is expected it
   grants tokens ahead of their time, by half a lease at most.  So a lessee spends at the full rate between two asks.
2. A token is spent neither before it conforms nor after its lease has ended; what is kept for the time of a renewal,
   about an eighth, counts to the next lease.  So in any second all lessees together spend little more than the
   capacity and the tokens of one second and one lease.
3. Tokens given back count as never granted, but only as far as the bucket would not have been full without them.  So
   idle lessees that renew and give back cannot pile up tokens.
4. Half of what is available may be granted for demand that is only expected.  Requests that wait get the rest, so the
   reserve of one lessee refuses no request of another while there is enough.
5. A message may be lost: its tokens are then spent by nobody.  It must not be delivered twice.
6. What was spent without a token, since a cost was known too late, is told with the next ask (`owed`).  It counts
   whatever is left, up to the debt that the limit allows.  If the answer is lost, it is told again.

A supervisor of workers has one `RateLessor` for each limit, and each worker one `RateLessee`.  A worker sends what
`collect` returns over its pipe; the supervisor calls `exchange` for each ask, with its own monotonic clock, and the
worker passes the grants to `receive`.  Tokens of a dead worker lapse with their leases; nothing has to be told.
"""

from __future__ import annotations

from collections.abc import Callable
from heapq import heappop, heappush
from math import floor, sqrt
from typing import Final, NamedTuple

TOLERANCE: Final = 1e-9
"""Seconds by which sums of intervals may exceed a bound, because of rounding."""
MEMORY: Final = 0.2
"""Seconds after a grant in which its tokens can be given back, and the longest lease."""
PERIOD: Final = 0.025
"""Seconds whose grants to one key are counted together."""
PERIODS: Final = 8
"""Periods that are remembered: those of `MEMORY`."""
ENOUGH: Final = 2.0
"""Least requests in a lease that make a demand: fewer come too irregularly to expect them."""
AHEAD: Final = 1 / 8
"""Part of a lease before its end in which the next one is asked for."""
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
    owed: float = 0.0
    """Tokens that were spent without a grant."""


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

    def cut(self, furthest: float) -> None:
        """Set the TAT back to an instant that it must not be beyond."""
        if self.tat > furthest:
            self.base = self.tat = furthest
            self.recent = []

    def fold(self) -> float:
        """Return the TAT after all grants.  Those of one period count as made at the instant of its last."""
        tat = self.base
        for _, last, seconds in self.recent:
            tat = max(tat, last) + seconds
        return tat


class RateLessor:
    """Limit of one rate and capacity for each of many keys, handed out in leases."""

    __slots__ = ("_accounts", "debt", "depth", "interval", "lease", "max_keys")

    def __init__(self, rate: float, capacity: float, lease: float, max_keys: int = 10_000, debt: float = 0.0) -> None:
        """`rate` is in tokens per second; `lease`, and the most that may be owed, in seconds."""
        self._accounts: dict[str, _Account] = {}
        """Accounts by key; those used last are at the end."""
        self.retune(rate, capacity, lease, max_keys, debt)

    def retune(self, rate: float, capacity: float, lease: float, max_keys: int, debt: float = 0.0) -> None:
        """Apply other settings; the counts stay."""
        self.interval = 1.0 / rate
        self.depth = capacity / rate
        self.debt = debt
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
        account.cut(furthest + self.debt)  # the clock was set back, or the limit was changed
        period = now // PERIOD
        account.roll(period)
        if ask.back > 0 and 0 <= now - ask.stamp <= MEMORY:
            account.give_back(ask.stamp // PERIOD, ask.back * interval)
        if ask.owed > 0:
            account.grant(period, now, ask.owed * interval)
            account.cut(furthest + self.debt)
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
            account = _Account(now)
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
        "asked_at", "average", "counted_from", "demand", "due", "end", "expires", "first_waiting", "following",
        "is_asked", "is_old", "key", "low", "missed", "owed", "refused_until", "retry_at", "stamp", "taken", "tat",
        "used", "waiting",
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
        self.is_old = False
        """True if the lease is renewed along with others."""
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
        self.average = 0.0
        """Demand of the last leases in tokens per second, on average."""
        self.used = 0.0
        """Tokens spent or refused from `counted_from` to the last ask."""
        self.counted_from = now
        """Instant from which the demand is counted."""
        self.owed = 0.0
        """Tokens spent without a grant, which the lessor does not know of yet."""
        self.refused_until = 0.0
        """Instant before which the lessor is not asked again."""
        self.retry_at = 0.0
        """Instant at which the lessor expects to have tokens, as far as it knew."""
        self.due = NEVER
        """Instant at which the lease is looked at; infinite if it is not to be."""

    def has_tokens(self, now: float) -> bool:
        """True if tokens are left, in this lease or in the next."""
        return self.following is not None or not self.is_over(now)

    def is_over(self, now: float) -> bool:
        """True if the lease is spent or has ended."""
        return now >= self.expires or self.tat + TOLERANCE >= self.end

    def promote(self, margin: float) -> None:
        """Begin the next lease, with what is left of this one, which was kept for the time until then.

        More tokens are asked for when those are left that are used in `margin` seconds of TAT, half of them at most.
        """
        assert self.following is not None
        left = max(0.0, self.end - self.tat)
        self.tat, self.end, self.expires, self.stamp = self.following
        self.tat -= left
        self.low = self.end - min(margin, (self.end - self.tat) / 2)
        self.following = None


class RateLessee:
    """Leases of one limit in one process, by key.

    A key in use is asked for once in each lease, shortly before its tokens are used up or end; or from half of the
    lease on, along with other keys.  While the lessor has less than is wanted, it is asked twice in each lease.
    """

    __slots__ = (
        "_asks", "_due", "_old", "_serial", "ahead", "depth", "interval", "lease", "leases", "max_keys", "on_ask",
        "on_overflow", "pace",
    )  # fmt: skip

    def __init__(self, rate: float, capacity: float, lease: float, max_keys: int = 10_000) -> None:
        """The arguments are those of the lessor."""
        self.leases: dict[str, RateLease] = {}
        """Leases by key: of keys that are in use, at most `max_keys` and `OVERFLOW`."""
        self.on_ask: Callable[[], None] | None = None
        """Called when an ask is added; None if the owner looks for asks itself."""
        self.on_overflow: Callable[[float], None] | None = None
        """Called with the instant of a request whose key has no place in the table."""
        self._asks: list[RateLease] = []
        """Leases with an ask to be sent."""
        self._due: list[tuple[float, int, RateLease]] = []
        """Heap of instants at which a lease is looked at.  An entry counts if its instant is the lease's `due`."""
        self._old: list[RateLease] = []
        """Leases in use of which half is over, and which are not asked for yet."""
        self._serial = 0
        self.retune(rate, capacity, lease, max_keys)

    def retune(self, rate: float, capacity: float, lease: float, max_keys: int) -> None:
        """Apply other settings, and give up all tokens: they are of the old rate."""
        self.interval = 1.0 / rate
        self.depth = capacity / rate + TOLERANCE
        self.lease = lease
        self.ahead = lease * AHEAD
        """Seconds before the end of a lease in which the next one is asked for."""
        self.pace = max(lease / 4, min(lease, self.depth) / 2)
        """Least seconds between two asks while the lessor has nothing to spare.

        A grant for expected demand is half of what the lessor has, which is at most the depth and half a lease.  So
        one lessee alone can use the whole rate at this pace."""
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
            if lease.key != key and self.on_overflow is not None:
                self.on_overflow(now)
        if lease.following is not None and lease.is_over(now):
            self._promote(lease)
        tat = lease.tat + cost * self.interval
        if tat > lease.end + TOLERANCE or now >= lease.expires:
            if lease.following is not None:  # the cost is more than what is left
                self._promote(lease)
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
        if tat > lease.low and lease.following is None and now >= lease.refused_until:
            lease.low = lease.end
            self._ask(lease)
        return ADMITTED

    def wait(self, key: str, cost: float) -> None:
        """Count a request that waits for the answer of the lessor."""
        lease = self.leases.get(key) or self.leases[OVERFLOW]
        if not lease.waiting:
            lease.first_waiting = cost
        lease.waiting += cost

    def charge(self, key: str, cost: float, now: float) -> None:
        """Spend tokens for a request that was admitted before, whatever is left."""
        lease = self.leases.get(key)
        if lease is None:
            lease = self._add(key, now)
        lease.taken += cost
        cost = self._pay(lease, cost, now)
        if lease.following is not None and cost > 0:
            self._promote(lease)
            cost = self._pay(lease, cost, now)
        lease.owed += cost
        if lease.owed > 0 or (lease.tat > lease.low and lease.following is None and now >= lease.refused_until):
            lease.low = lease.end
            self._ask(lease)

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
        due = self._due
        while due and due[0][0] != due[0][2].due:
            heappop(due)
        return due[0][0] if due else NEVER

    def collect(self, now: float, most: int = 1000) -> list[Ask]:
        """Return the asks to be sent now, at most so many.  Each is answered by `receive` or `fail`."""
        while self.due <= now:
            lease = heappop(self._due)[2]
            lease.due = NEVER
            self._look(lease, now)
        return self._write_all(now, most)

    def collect_old(self, now: float, most: int = 1000) -> list[Ask]:
        """Return the asks of leases that are worth renewing along with others, at most so many."""
        for lease in self._old:
            lease.is_old = False
            if lease.following is None and lease.taken + lease.missed > 0 and not lease.is_over(now):
                self._ask(lease)
        self._old.clear()
        return self._write_all(now, most)

    def _write_all(self, now: float, most: int) -> list[Ask]:
        """Return the asks that wait, at most so many."""
        asks, self._asks = self._asks[:most], self._asks[most:]
        found = []
        for lease in asks:
            ask = self._write(lease, now)
            if ask.want > 0 or ask.back > 0 or ask.owed > 0:
                found.append(ask)
            else:
                lease.is_asked = False
            self._plan(lease, now)
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
            if lease.is_over(now):
                self._promote(lease)
        lease.refused_until = 0.0
        if grant.tokens < ask.want and grant.tokens * self.interval < self.lease / 2 + self.interval:
            lease.refused_until = lease.asked_at + self.pace  # as much is left, and none of it conforms yet
        if grant.wait > 0:
            lease.retry_at = now + grant.wait
            lease.refused_until = max(lease.refused_until, now + min(grant.wait, self.lease))
        self._plan(lease, now)

    def fail(self, ask: Ask) -> None:
        """Give up an ask that was not answered.  What it gave back is lost, and what was owed still is."""
        lease = self.leases.get(ask.key)
        if lease is not None:
            lease.is_asked = False
            lease.waiting = lease.first_waiting = 0.0
            lease.owed += ask.owed

    def _add(self, key: str, now: float) -> RateLease:
        """Return a new lease without tokens, or the one of `OVERFLOW` if the table is full."""
        if len(self.leases) >= self.max_keys and key != OVERFLOW:
            return self.leases.get(OVERFLOW) or self._add(OVERFLOW, now)
        lease = self.leases[key] = RateLease(key, now)
        self._watch(lease, now + self.lease)
        return lease

    def _pay(self, lease: RateLease, cost: float, now: float) -> float:
        """Spend what is left of a lease, the cost at most; return the rest of the cost."""
        if now >= lease.expires:
            return cost
        paid = min(cost, max(0.0, lease.end - lease.tat) / self.interval)
        lease.tat += paid * self.interval
        return cost - paid

    def _promote(self, lease: RateLease) -> None:
        lease.promote(lease.demand * self.ahead * self.interval)

    def _watch(self, lease: RateLease, at: float) -> None:
        """Look at a lease at an instant, or earlier if that was planned."""
        if at < lease.due:
            lease.due = at
            self._serial += 1
            heappush(self._due, (at, self._serial, lease))

    def _ask(self, lease: RateLease) -> None:
        if not lease.is_asked:
            lease.is_asked = True
            self._asks.append(lease)
            if self.on_ask is not None:
                self.on_ask()

    def _plan(self, lease: RateLease, now: float) -> None:
        """Plan the next look at a lease."""
        if lease.is_asked:
            at = now + self.lease  # earlier if there is an answer
        elif lease.has_tokens(now):
            at = lease.asked_at + self.lease / 2
            if at <= now:
                at = lease.asked_at + self.lease - self.ahead
            if lease.refused_until > now:
                at = min(at, lease.refused_until)
        else:
            at = lease.refused_until if lease.refused_until > now else lease.asked_at + self.lease
        self._watch(lease, at if at > now else now + self.ahead)

    def _look(self, lease: RateLease, now: float) -> None:
        """Renew a lease that is in use, give back what is left of another, and forget one that has neither."""
        if not lease.is_asked:
            if lease.following is not None and lease.is_over(now):
                self._promote(lease)
            age = now - lease.asked_at + TOLERANCE
            is_used = lease.taken + lease.missed > 0
            is_refused = now < lease.refused_until
            if lease.owed > 0:
                self._ask(lease)
            elif not lease.has_tokens(now):
                if is_used and not is_refused:
                    self._ask(lease)
                elif not is_used and not is_refused and age >= self.lease:
                    del self.leases[lease.key]
                    return
            elif not is_used:
                if age >= self.lease / 2:
                    self._ask(lease)
            elif lease.following is None:
                if age >= self.lease - self.ahead or (lease.tat > lease.low and not is_refused):
                    self._ask(lease)
                elif age >= self.lease / 2 and not lease.is_old and not is_refused:
                    lease.is_old = True
                    self._old.append(lease)
        self._plan(lease, now)

    def _count_demand(self, lease: RateLease, now: float) -> None:
        """Estimate the demand: the average, or more if the last requests are too many to be chance.

        Reserves for chance bursts of many lessees would starve a small bucket."""
        lease.used += lease.taken + lease.missed
        used = max(0.0, lease.used + lease.waiting)  # sums and differences of costs may fall below 0
        passed = now - lease.counted_from
        lease.demand = max(lease.average, (used - sqrt(used)) / max(passed, self.lease))
        if passed >= self.lease:
            lease.average += (used / passed - lease.average) * passed / (passed + 3 * self.lease)
            lease.used = 0.0
            lease.counted_from = now

    def _write(self, lease: RateLease, now: float) -> Ask:
        """Return the ask for a lease, and take from the lease what the ask gives back."""
        is_used = lease.taken + lease.missed + lease.waiting > 0
        self._count_demand(lease, now)
        expected, seconds = 0.0, min(self.lease, self.depth)
        if is_used and lease.following is None and min(1.1 * lease.demand, 1 / self.interval) * seconds >= ENOUGH:
            expected = min(1.1 * lease.demand, 2 / self.interval) * seconds  # a burst may be twice the rate
        back, stamp, kept = 0.0, lease.stamp, 0.0
        if lease.tat + TOLERANCE < lease.end:
            left = (lease.end - lease.tat) / self.interval
            if expected and now < lease.expires:
                kept = min(left, lease.demand * (lease.expires - now))
            if left > kept:
                back = float(floor(left - kept + 0.5)) if kept else left
                lease.end -= back * self.interval
                kept = left - back
        lease.low = lease.end
        firm, least, want = lease.waiting, lease.first_waiting, lease.waiting
        if lease.following is not None:
            self._promote(lease)
        elif expected:
            want = max(firm, float(floor(expected - kept + TOLERANCE)))
        owed, lease.owed = lease.owed, 0.0
        lease.taken = lease.missed = lease.waiting = lease.first_waiting = 0.0
        lease.asked_at = now
        return Ask(lease.key, least, firm, want, back, stamp, owed)
