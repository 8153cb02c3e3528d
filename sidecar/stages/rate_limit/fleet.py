"""Limits of one block whose counts several processes share, before those of this process.

The counts are in a store, or in the supervisor of several workers.

Rules:

1. A request that finds leased tokens passes at once.  One whose key has no lease waits for an answer of the store, and
   again if others took what it brought, three times at most.  For an observed limit it does not wait: it is counted
   once the store has answered.
2. While the store is away, `on_store_failure` holds: the fair share of this process, admission, or refusal.  While its
   answer is late, what the first two admit does not wait, and the store is told of it afterwards.
3. A request that a later limit refuses gets its tokens back.
4. What an answer costs is told to the store, which then grants nothing until that is made up for.
"""

from __future__ import annotations

from functools import partial
from math import ceil
from typing import Any, Final

from sidecar.core import events, metrics
from sidecar.core.env import BuildContext, Env
from sidecar.core.exchange import Exchange
from sidecar.core.message import parse_fields
from sidecar.core.metrics import Counter
from sidecar.core.outcome import RATE_LIMITED, Outcome, Refusal, failed
from sidecar.core.stage import Stage, Wait
from sidecar.leases.rate import ADMITTED, UNKNOWN
from sidecar.limits.answers import LONGEST_DEBT, AnswerCost
from sidecar.limits.fields import SEPARATE, FieldLines, remaining_of, state_limit
from sidecar.limits.gcra import OVERFLOW, Gcra
from sidecar.limits.keys import cost_reader, key_reader
from sidecar.limits.spec import answer_unit, fixed_cost
from sidecar.stages.rate_limit.spec import LimitSpec, Spec
from sidecar.stages.rate_limit.stage import WARN_EVERY, is_counted_together
from sidecar.store.shared_limits import SharedLimit, SharedLimits
from sidecar.store.supervisor import SUPERVISOR, WorkerLimit, supervisor_store

ROUNDS: Final = 3
"""Answers that a request waits for, at most."""
TOLERANCE: Final = 1e-6
"""Seconds by which sums of intervals may exceed a whole second, because of rounding."""
STORELESS: Final = 1.0
"""Seconds after which a refused client may ask again while the store is away."""


class FleetState:
    """State of a limit that survives a reload: its leases and its counters."""

    def __init__(self, spec: LimitSpec, store: SharedLimits, name: str, env: Env, labels: dict[str, str]) -> None:
        debt = _debt(spec)
        settings = (store, name, spec.rate, spec.capacity, spec.lease, spec.max_keys, debt)
        self.shared: SharedLimit
        """Counts of the limit."""
        if spec.store is None:
            assert env.workers is not None
            self.shared = WorkerLimit(*settings, env.workers)
            self.place = "all workers"
            """Processes that share the counts, in words."""
        else:
            self.shared = SharedLimit(*settings)
            self.place = f"all processes that share `{spec.store}`"
        self._spec = spec
        meter = env.meter
        self.refused = meter.counter(metrics.RATE_LIMITED, limit=spec.name, result="refused", **labels)
        self.observed = meter.counter(metrics.RATE_LIMITED, limit=spec.name, result="observed", **labels)
        self.storeless = meter.counter(metrics.RATE_LIMIT_STORELESS, limit=spec.name, **labels)
        self.overflowed = meter.counter(metrics.RATE_LIMIT_OVERFLOW, limit=spec.name, **labels)
        self._warn_from = 0.0
        """Instant before which no further warning of a full table is given."""
        self._env = env
        self._labels = labels
        self.shared.lessee.on_overflow = self.count_overflow
        meter.gauge(metrics.RATE_LIMIT_KEYS, lambda: len(self.shared.lessee.leases), limit=spec.name, **labels)

    def retune(self, spec: LimitSpec) -> None:
        """Apply new settings; leases of the old ones are given up."""
        self._spec = spec
        self.shared.retune(spec.rate, spec.capacity, spec.lease, spec.max_keys, _debt(spec))

    def count_overflow(self, now: float) -> None:
        """Count a request whose key has no place in the table, and warn at times."""
        self.overflowed.value += 1
        if now >= self._warn_from:
            self._warn_from = now + WARN_EVERY
            keys = len(self.shared.lessee.leases)
            self._env.emit(events.RATE_LIMIT_FULL, limit=self._spec.name, keys=keys, **self._labels)

    def retire(self) -> None:
        """Remove the limit from its store."""
        self.shared.retire()

    def describe(self) -> dict[str, Any]:
        """Return limit, scope, store, keys and counters, JSON-ready."""
        return {
            "limit": self._spec.words,
            "shared_by": "workers" if self._spec.store is None else "fleet",
            "key": self._spec.key,
            "mode": self._spec.mode,
            "store": self._spec.store or SUPERVISOR,
            "store_up": self.shared.store.is_up,
            "on_store_failure": self._spec.on_store_failure,
            "keys": len(self.shared.lessee.leases),
            "max_keys": self._spec.max_keys,
            "refused": self.refused.value,
            "observed": self.observed.value,
            "storeless": self.storeless.value,
            "overflowed": self.overflowed.value,
        }


class FleetLimit:
    """Limit as one route applies it."""

    __slots__ = (
        "cost", "debit", "is_fair", "lessee", "lines", "now", "observed", "read", "read_cost", "spec", "state", "store",
        "unit", "where",
    )  # fmt: skip

    def __init__(
        self, spec: LimitSpec, state: FleetState, where: str, form: str, observed: Counter | None, env: Env
    ) -> None:
        self.spec = spec
        self.now = env.now
        self.unit = answer_unit(spec.cost)
        """Bytes of an answer that count as one; 0 if answers do not count."""
        self.state = state
        self.store = state.shared.store
        self.lessee = state.shared.lessee
        self.is_fair = spec.on_store_failure == "process"
        """True if this process has a fair share of the limit while the store is away."""
        self.where = where
        self.observed = observed
        """Counts requests that would have been refused; None to refuse them."""
        self.read = key_reader(spec) if spec.is_keyed else None
        """Reader of the key; None if all requests have the empty key."""
        self.read_cost = cost_reader(spec.cost, float(spec.capacity))
        self.cost = fixed_cost(spec.cost)
        self.debit = self.cost / spec.rate
        """Seconds by which a request moves the TAT."""
        self.lines = FieldLines(spec.name, spec.capacity, spec.window, form, self.unit)

    def take(self, key: str, cost: float, now: float) -> float:
        """Return 0 to admit a request, `UNKNOWN` if the store has to be asked, or the seconds until it may pass."""
        if self.store.is_up:
            return self.lessee.take(key, cost, now)
        return self.take_alone(key, cost, now)

    def take_alone(self, key: str, cost: float, now: float) -> float:
        """Decide without the store."""
        if self.is_fair:
            delay = 0.0 if self.spend_share(key, cost, now) else self.take_share(key, cost, now)
            self.state.storeless.value += delay > ADMITTED
            return delay
        self.state.storeless.value += 1
        return ADMITTED if self.spec.on_store_failure == "allow" else STORELESS

    def spend_share(self, key: str, cost: float, now: float) -> bool:
        """Admit a request by the fair share of this process, and keep in mind to tell the store; False if it must not.

        Without that the bucket would be full after each of several outages in a row.
        """
        if self.take_share(key, cost, now) > ADMITTED:
            return False
        self.state.storeless.value += 1
        lease = self.lessee.leases.get(key)
        if lease is not None:
            lease.owed += cost
        return True

    def take_share(self, key: str, cost: float, now: float) -> float:
        """Count a request by the fair share of this process; return 0 to admit it, or the seconds until it may pass."""
        share: Gcra = self.state.shared.find_share()
        key = share.locate(key, now)
        if key == OVERFLOW:
            self.state.count_overflow(now)
        arrival = share.arrival(key, now)
        if key not in share.buckets:
            lease = self.lessee.leases.get(key)
            if lease is not None and lease.end > 0 and not self.store.is_up:  # what was left is known
                arrival = min(max(now, lease.tat), now + share.depth)
        tat = arrival + min(cost, share.capacity) * share.interval
        delay = share.delay(tat, now)
        if delay > 0:
            return delay
        share.charge(key, tat)
        return ADMITTED

    def take_ahead(self, key: str, cost: float, now: float) -> bool:
        """Admit a request for which the store is late, if it would be admitted without the store."""
        if not self.store.is_late or self.spec.on_store_failure == "deny":
            return False
        if self.is_fair and self.take_share(key, cost, now) > ADMITTED:
            return False
        self.state.storeless.value += 1
        self.lessee.charge(key, cost, now)
        return True

    def charge(self, key: str, cost: float) -> None:
        """Count more for a request that was admitted, whatever is left."""
        now = self.now()
        if self.store.is_up:
            self.lessee.charge(key, cost, now)
        elif self.is_fair:
            share: Gcra = self.state.shared.find_share()
            share.owe(key, cost, now)

    def report(self, key: str, now: float) -> bytes:
        """Return the field lines for what the fleet has left, as far as this process knows; or its own fair share."""
        if self.store.is_up or not self.is_fair:
            lease = self.lessee.leases.get(key)
            tat = now if lease is None or lease.tat < now else lease.tat
            left = (now + self.lessee.depth - tat) / self.lessee.interval
            return self.lines.write(int(left) if left > 0 else 0, ceil(tat - now - TOLERANCE))
        share: Gcra = self.state.shared.find_share()
        ahead = share.arrival(share.locate(key, now), now) - now
        return self.lines.write(share.remaining(ahead), ceil(ahead - TOLERANCE))

    def left(self, key: str, now: float) -> int:
        """Return the requests that the fleet has left, as far as this process knows; or its own fair share."""
        if self.store.is_up or not self.is_fair:
            lease = self.lessee.leases.get(key)
            tat = now if lease is None or lease.tat < now else lease.tat
            left = (now + self.lessee.depth - tat) / self.lessee.interval
            return int(left) if left > 0 else 0
        share: Gcra = self.state.shared.find_share()
        return share.remaining(share.arrival(share.locate(key, now), now) - now)


class Passed:
    """Limit that a request meets, with its key and its cost."""

    __slots__ = ("cost", "key", "limit")

    def __init__(self, limit: FleetLimit, key: str, cost: float) -> None:
        self.limit = limit
        self.key = key
        self.cost = cost


def count_observed(over: list[FleetLimit]) -> None:
    """Count a request that is over observed limits: for each of them, and once for the block."""
    for limit in over:
        limit.state.observed.value += 1
    if (counter := over[0].observed) is not None:
        counter.value += 1


class FleetRateLimit:
    """Limits of one block in a store, then those of this process.  A ticket holds field lines, or is None."""

    def __init__(self, limits: list[FleetLimit], local: Any, env: Env, form: str) -> None:
        """`local` is the stage of the limits of this process; None without any."""
        self._limits = limits
        self._only: FleetLimit | None = None
        """Limit of a block with one limit and a fixed cost; else None."""
        if local is None and len(limits) == 1 and limits[0].read_cost is None and not limits[0].unit:
            self._only = limits[0]
        self._local = local
        self._form = form
        self._spawn = env.spawn
        self._reports = form != "off" and any(limit.observed is None for limit in limits)
        self._now = env.now

    @property
    def adds_lines(self) -> bool:
        """True if the field lines are only appended to those of the response."""
        return self._form != SEPARATE

    def admit(self, x: Exchange) -> object:
        limit = self._only
        if limit is not None:
            key, now = "" if limit.read is None else limit.read(x), self._now()
            if limit.store.is_up:
                lessee = limit.lessee
                lease = lessee.leases.get(key)
                if lease is not None:
                    tat = lease.tat + limit.debit
                    if tat <= lease.low and now < lease.expires and tat <= now + lessee.depth:
                        lease.tat = tat
                        lease.taken += limit.cost
                        return limit.report(key, now) if self._reports else None
            elif limit.is_fair and limit.spend_share(key, limit.cost, now):
                return limit.report(key, now) if self._reports else None
        return self._decide(x, 0)

    def _decide(self, x: Exchange, round: int) -> object:
        """Admit or refuse a request by all limits, or wait for the store."""
        now = self._now()
        passed: list[Passed] = []
        over: list[FleetLimit] = []
        unknown: list[Passed] = []
        refused: Passed | None = None
        longest = 0.0
        for limit in self._limits:
            key = "" if limit.read is None else limit.read(x)
            found = Passed(limit, key, limit.cost if limit.read_cost is None else limit.read_cost(x))
            delay = limit.take(key, found.cost, now)
            if delay == UNKNOWN and refused is not None:
                continue  # nothing that the store answers lets the request pass
            if delay == UNKNOWN and limit.take_ahead(key, found.cost, now):
                delay = ADMITTED
            if delay == UNKNOWN and limit.observed is not None:
                unknown.append(found)
                continue
            if delay == UNKNOWN:
                future = limit.store.wait() if round < ROUNDS else None
                if future is not None:
                    limit.lessee.wait(key, found.cost)
                    self._refund(passed)
                    return Wait(self._await(x, future, round + 1))
                delay = limit.take_alone(key, found.cost, now)
            if delay <= ADMITTED:
                passed.append(found)
            elif limit.observed is not None:
                over.append(limit)
            elif delay > longest:
                refused, longest = found, delay
        if refused is not None:
            self._refund(passed)
            return self._refuse(refused, longest)
        if over or unknown:
            observed = [each for each in passed if each.limit.observed is not None]
            self._refund(observed)
            passed = [each for each in passed if each.limit.observed is None]
            if over:
                count_observed(over)
            else:
                unknown += observed
                passed += unknown  # charged for the answer, as far as is known
                self._spawn(self._observe(unknown))
        lines = self._report(passed, now) if self._reports else b""
        if self._local is None:
            return self._ticket(passed, lines, None)
        local = self._local.admit(x)
        if isinstance(local, Outcome):
            self._refund(passed)
            return local
        if isinstance(local, Wait):
            return Wait(self._both(local, passed, lines))
        return self._ticket(passed, lines, local)

    def _report(self, passed: list[Passed], now: float) -> bytes:
        """Return the field lines of the enforced limits."""
        enforced = [each for each in passed if each.limit.observed is None]
        if self._form == SEPARATE and len(enforced) > 1:
            enforced = [min(enforced, key=lambda each: each.limit.left(each.key, now))]
        return b"".join([each.limit.report(each.key, now) for each in enforced])

    def _ticket(self, passed: list[Passed], lines: bytes, local: object) -> object:
        """Return the ticket of an admitted request; `local` is that of the limits of this process."""
        return self._join(lines, local) or None

    def _join(self, lines: bytes, local: object) -> bytes:
        """Return the field lines of all limits; of the separate fields, those of the limit with the least left."""
        if not isinstance(local, bytes):
            return lines
        if self._form == SEPARATE and lines and local:
            return min(lines, local, key=lambda each: remaining_of(parse_fields(each)))
        return lines + local

    @staticmethod
    def _refund(passed: list[Passed]) -> None:
        for each in passed:
            if each.limit.store.is_up and each.key in each.limit.lessee.leases:
                each.limit.lessee.refund(each.key, each.cost)

    async def _await(self, x: Exchange, future: Any, round: int) -> object:
        """Wait for an answer of the store, then decide again."""
        await future
        result = self._decide(x, round)
        while isinstance(result, Wait):
            result = await result.awaited
        return result

    async def _observe(self, asked: list[Passed]) -> None:
        """Count a request for observed limits as their stores answer; the request itself does not wait for them."""
        for round in range(ROUNDS + 1):
            now, future = self._now(), None
            passed: list[Passed] = []
            over: list[FleetLimit] = []
            for each in asked:
                limit = each.limit
                delay = limit.take(each.key, each.cost, now)
                if delay == UNKNOWN:
                    future = limit.store.wait() if round < ROUNDS else None
                    if future is not None:
                        limit.lessee.wait(each.key, each.cost)
                        break
                    delay = limit.take_alone(each.key, each.cost, now)
                if delay <= ADMITTED:
                    passed.append(each)
                else:
                    over.append(limit)
            if future is not None:
                self._refund(passed)
                await future
                continue
            if over:
                count_observed(over)
                self._refund(passed)
            return

    async def _both(self, local: Wait, passed: list[Passed], lines: bytes) -> object:
        """Wait for the turn that the limits of this process give."""
        return self._ticket(passed, lines, await local.awaited)

    def _refuse(self, refused: Passed, delay: float) -> Outcome:
        """Return the refusal of a request that may pass `delay` seconds later."""
        limit = refused.limit
        spec = limit.spec
        limit.state.refused.value += 1
        whose = "all requests together" if not spec.is_keyed else f"each {spec.key}"
        detail = f"the limit `{spec.name}` is {spec.words}, for {whose} in {limit.state.place}"
        if not limit.store.is_up:
            share = "refuses all" if spec.on_store_failure == "deny" else "has a fair share of it"
            store = "that store" if spec.store else "their supervisor"
            detail += f"; {store} is away, and this process {share}"
        value = round(spec.capacity + delay / limit.lessee.interval, 3)
        outcome = failed(RATE_LIMITED, Refusal("rate_limit", limit.where, detail, spec.capacity, value, delay))
        if self._reports:  # what a process does not know to be left is none, as the refusal shows
            left = min(limit.left(refused.key, limit.now()), max(0, ceil(refused.cost) - 1))
            outcome.headers = parse_fields(limit.lines.write(left, ceil(delay)))
        return outcome

    def answer(self, x: Exchange, ticket: object, outcome: Outcome) -> Outcome:
        return state_limit(outcome, ticket, self._form)


class FleetAnswerRateLimit(FleetRateLimit):
    """Limits of one block in a store, then those of this process; some count the size of the answers."""

    def __init__(self, limits: list[FleetLimit], local: Any, env: Env, form: str) -> None:
        super().__init__(limits, local, env, form)
        self._env = env

    @property
    def adds_lines(self) -> bool:
        return False

    def _ticket(self, passed: list[Passed], lines: bytes, local: object) -> object:
        ticket = local if isinstance(local, AnswerCost) else AnswerCost(self._env)
        ticket.lines = self._join(lines, local if isinstance(local, bytes) else ticket.lines)
        for each in passed:
            if each.limit.unit:
                ticket.add(each.limit, each.key)
        return ticket

    def answer(self, x: Exchange, ticket: object, outcome: Outcome) -> Outcome:
        assert isinstance(ticket, AnswerCost)
        ticket.begin(outcome)
        return state_limit(outcome, ticket.lines or None, self._form)


def build_fleet(spec: Spec, ctx: BuildContext, count: str, local: Stage | None) -> Stage:
    """Return the stage of a block's limits that processes share, before `local`, the stage of the others."""
    limits: list[FleetLimit] = []
    labels = {ctx.scope: ctx.owner[1]}
    for number, each in enumerate(spec.limits):
        if each.count != count or not is_counted_together(each, ctx.env):
            continue
        name = ":".join((ctx.service, *ctx.owner, each.name))
        store = _store(each, ctx)
        key = ("rate_limit", *ctx.owner, each.name, f"in {each.store or SUPERVISOR}")
        state: FleetState = ctx.obtain(key, each, partial(FleetState, each, store, name, ctx.env, labels))
        where = ctx.where_of(number)
        if where == ctx.where:  # the block is no bare list
            where = ctx.where_of("limits", number)
        observed = None
        if not spec.is_enforced or each.mode == "observe":
            observed = ctx.env.meter.counter(metrics.WOULD_REFUSE, policy="rate_limit", route=ctx.route)
        limits.append(FleetLimit(each, state, where, spec.fields, observed, ctx.env))
    if any(answer_unit(each.cost) for each in spec.limits if each.count == count):
        return FleetAnswerRateLimit(limits, local, ctx.env, spec.fields)
    return FleetRateLimit(limits, local, ctx.env, spec.fields)


def _debt(spec: LimitSpec) -> float:
    """Return the seconds for which answers may use up a limit ahead."""
    return LONGEST_DEBT if answer_unit(spec.cost) else 0.0


def _store(spec: LimitSpec, ctx: BuildContext) -> SharedLimits:
    """Return the store that has the counts of a limit."""
    env, found = ctx.env, None
    if spec.store is not None:
        found = ctx.resources("store", spec.store)
    elif (workers := env.workers) is not None:
        found = ctx.obtain(("store", SUPERVISOR), None, lambda: supervisor_store(env, workers))
    assert isinstance(found, SharedLimits)
    return found
