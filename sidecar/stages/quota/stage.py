"""Stage `quota`: the quotas of one block.

Rules:

1. Every quota of the block must let a request through; one that is refused counts for none of them.  Of several that
   refuse it, the refusal names the one whose window ends last.
2. A quota under an upstream has one count for all its routes, one under a route its own.  The counts survive a reload,
   and with a store a restart.
3. A quota counts requests, not attempts, and cache hits too.
4. `mode: observe` lets everything pass.  A request that would have been refused then counts for no observed quota, as
   if it had been; it counts for the enforced ones, which it passes.  It never waits for the store of an observed quota.
5. A request whose key has no leased units waits for an answer of the store, three times at most.  While the store is
   away, `on_store_failure` holds.
6. A window begins by the wall clock.  One that steps back by an hour at most leaves no window.
7. The wall clock is read once a second.  In between, a request belongs to the window in which its head was complete.

8. Costs by the size of the answer are charged after it (`sidecar.limits.answers`), to the window in which it ends.

Refusals are no failures of the upstream: this stage is outside of breaker, retry and fallback.
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
from sidecar.leases.quota import EXHAUSTED, SKEW, QuotaTable, Spent
from sidecar.leases.rate import ADMITTED, NEVER, OVERFLOW, UNKNOWN
from sidecar.limits.answers import AnswerCost
from sidecar.limits.fields import LAST, SEPARATE, UNIT, FieldLines, state_limit
from sidecar.limits.keys import cost_reader, key_reader
from sidecar.limits.spec import answer_unit, fixed_cost
from sidecar.stages.quota.spec import QuotaSpec, Spec
from sidecar.stages.quota.windows import Windows

WARN_EVERY: Final = 60.0
"""Seconds between two warnings that all keys of a quota are in use."""
SLACK: Final = 1e-6
"""Part of a request by which sums of costs may be too low, because of rounding."""
ROUNDS: Final = 3
"""Answers of the store that a request waits for, at most."""


class QuotaState:
    """State of a quota that survives a reload: its counts in this process, or its units from the store."""

    def __init__(self, spec: QuotaSpec, shared: Any, env: Env, labels: dict[str, str]) -> None:
        """`shared` is the quota in its store (`sidecar.store.shared_quotas.SharedQuota`); None without a store."""
        self.table = QuotaTable(float(spec.max), spec.max_keys)
        """Counts of a quota without a store."""
        self.shared = shared
        self.windows = Windows(spec.per, spec.resets, spec.time_zone)
        self.start = self.end = 0.0
        """Unix times of the window that was found last."""
        self._spec = spec
        self._env = env
        self._labels = labels
        self._warn_from = 0.0
        """Instant before which no further warning of a full table is given."""
        meter = env.meter
        self.refused = meter.counter(metrics.QUOTA_EXCEEDED, limit=spec.name, result="refused", **labels)
        self.observed = meter.counter(metrics.QUOTA_EXCEEDED, limit=spec.name, result="observed", **labels)
        self.overflowed = meter.counter(metrics.QUOTA_OVERFLOW, limit=spec.name, **labels)
        meter.gauge(metrics.QUOTA_KEYS, lambda: self.keys, limit=spec.name, **labels)
        self.storeless: Counter | None = None
        """Counts requests that were decided without the store; None for a quota without one."""
        if shared is not None:
            self.storeless = meter.counter(metrics.QUOTA_STORELESS, limit=spec.name, **labels)
            shared.lessee.on_overflow = self.count_overflow

    @property
    def keys(self) -> int:
        """Number of keys that are counted one by one, or have a lease, in this process in the current window."""
        if self._env.wall() >= self.end:
            return 0
        keys = self.table.spent if self.shared is None else self.shared.lessee.leases
        return len(keys) - (OVERFLOW in keys)

    def retune(self, spec: QuotaSpec) -> None:
        """Apply new settings.  The counts stay, unless the quota has another key or other windows."""
        before, self._spec = self._spec, spec
        if (spec.per, spec.resets, spec.time_zone) != (before.per, before.resets, before.time_zone):
            self.windows = Windows(spec.per, spec.resets, spec.time_zone)
            self.start = self.end = 0.0
            self.table.start = -SKEW
            self.table.clear()
            if self.shared is not None:
                self.shared.lessee.roll(-NEVER)
        if (spec.key, spec.otherwise, spec.ipv6_prefix) != (before.key, before.otherwise, before.ipv6_prefix):
            self.table.clear()
        self.table.most, self.table.max_keys = float(spec.max), spec.max_keys
        if self.shared is not None:
            self.shared.lessee.retune(float(spec.max), spec.max_keys)

    def retire(self) -> None:
        """Remove the quota from its store."""
        if self.shared is not None:
            self.shared.retire()

    def roll(self, wall: float) -> None:
        """Begin the window that a Unix time is in, unless it is the current one."""
        if self.start - SKEW <= wall < self.end:
            return
        windows = self.windows
        windows.find(wall)
        self.start, self.end = windows.start, windows.end
        if self.shared is None:
            self.table.roll(self.start)
        else:
            self.shared.roll(self.start, self.end)

    def count_overflow(self) -> None:
        """Count a request whose key has no count of its own, and warn at times."""
        self.overflowed.value += 1
        now = self._env.now()
        if now >= self._warn_from:
            self._warn_from = now + WARN_EVERY
            self._env.emit(events.QUOTA_FULL, limit=self._spec.name, keys=self._spec.max_keys, **self._labels)

    def describe(self) -> dict[str, Any]:
        """Return quota, scope, window, keys and counters, JSON-ready."""
        self.roll(self._env.wall())  # the last request may have come in a window that has ended
        facts: dict[str, Any] = {
            "quota": self._spec.words,
            "shared_by": "process" if self.shared is None else "fleet",
            "key": self._spec.key,
            "mode": self._spec.mode,
            "ends": self.end,
            "keys": self.keys,
            "max_keys": self._spec.max_keys,
            "refused": self.refused.value,
            "observed": self.observed.value,
            "overflowed": self.overflowed.value,
        }
        if self.shared is not None and self.storeless is not None:
            facts |= {
                "store": self._spec.store,
                "store_up": self.shared.store.is_up,
                "on_store_failure": self._spec.on_store_failure,
                "storeless": self.storeless.value,
            }
        return facts


class RouteQuota:
    """Quota as one route applies it."""

    __slots__ = (
        "closes", "cost", "first", "floor", "form", "lines", "lines_of", "now", "observed", "opens", "read",
        "read_cost", "rest", "seconds", "since", "spec", "spent", "state", "top", "unit", "until", "where",
    )  # fmt: skip

    def __init__(
        self, spec: QuotaSpec, state: QuotaState, where: str, form: str, observed: Counter | None, env: Env
    ) -> None:
        self.spec = spec
        self.state = state
        self.now = env.now
        self.unit = answer_unit(spec.cost)
        """Bytes of an answer that count as one; 0 if answers do not count."""
        self.where = where
        """`file:line` of the quota."""
        self.form = form
        self.observed = observed
        """Counts requests that would have been refused; None to refuse them."""
        self.read = key_reader(spec) if spec.is_keyed else None
        """Reader of the key; None if all requests have the empty key."""
        self.read_cost = cost_reader(spec.cost, float(spec.max))
        self.cost = fixed_cost(spec.cost)
        self.lines = FieldLines(spec.name, spec.max, 1.0, form, self.unit)
        """Writer of the fields of the current window."""
        self.lines_of = -1.0
        """Length of the window that `lines` states, in seconds."""
        self.seconds = 0
        """Whole seconds to the end of the window, from `since` to before `until`."""
        self.since = self.until = 0.0
        self.opens = self.closes = 0.0
        """Instants (`env.now`) of these Unix times: the wall clock is not read for a request from in between."""
        self.spent: Spent | None = None
        """Count of the empty key, if all requests have it and are counted in this process; None before the first."""
        self.first = self.rest = b""
        """Parts of the field lines that were written last: before the last three digits of what is left, and behind."""
        self.floor = self.top = 0.0
        """Bounds of what is left for which `first` holds, the lower one included; 0 if it holds for nothing."""

    def take(self, key: str, cost: float, now: float) -> float:
        """Return `ADMITTED`, `UNKNOWN` if the store has to be asked, or `EXHAUSTED`."""
        shared = self.state.shared
        if shared is None:
            return ADMITTED if self.state.table.take(key, cost) else EXHAUSTED
        if shared.store.is_up:
            found: float = shared.lessee.take(key, cost, now)
            return found
        return self.take_alone(key, cost, now)

    def take_alone(self, key: str, cost: float, now: float) -> float:
        """Decide without the store."""
        state, policy = self.state, self.spec.on_store_failure
        if state.storeless is not None:
            state.storeless.value += 1
        if policy == "deny":
            lease = state.shared.lessee.leases.get(key)
            if lease is None or lease.held < cost:
                return EXHAUSTED
        admitted = state.shared.take_alone(key, cost, now, is_bounded=policy == "process")
        return ADMITTED if admitted else EXHAUSTED

    def charge(self, key: str, cost: float) -> None:
        """Count more for a request that was admitted, whatever is left."""
        now = self.now()
        if self.state.shared is None:
            self.state.table.charge(key, cost)
        else:
            self.state.shared.lessee.charge(key, cost, now)

    def refund(self, key: str, cost: float) -> None:
        """Take back a request that was admitted at this instant."""
        if self.state.shared is None:
            self.state.table.refund(key, cost)
        else:
            self.state.shared.lessee.refund(key, cost)

    def left(self, key: str) -> float:
        """Return the requests that a key has left, as far as this process knows."""
        state = self.state
        left: float = state.table.left(key) if state.shared is None else state.shared.lessee.left(key)
        return left

    def look(self, now: float, wall: float) -> None:
        """Note for which instants the window and the seconds to its end hold."""
        if not self.since <= wall < self.until:
            self._count_down(wall)
        self.opens, self.closes = now - (wall - self.since), now + (self.until - wall)

    def report(self, left: float) -> bytes:
        """Return the field lines for requests that are left."""
        lines = self.lines
        text = lines.write(int(left + SLACK), self.seconds)
        self.first, self.rest, self.floor = lines.first, lines.rest, lines.floor - SLACK
        self.top = self.floor + UNIT if lines.floor else self.floor
        return text

    def _count_down(self, wall: float) -> None:
        """Find the seconds that the lines state at a Unix time, and how long they hold."""
        state = self.state
        length = state.end - state.start
        if length != self.lines_of:
            self.lines = FieldLines(self.spec.name, self.spec.max, length, self.form, self.unit)
            self.lines_of = length
        self.seconds = ceil(max(0.0, state.end - wall))
        self.since = max(state.start, state.end - self.seconds)
        self.until = state.end - self.seconds + 1.0 if self.seconds else 0.0


class Passed:
    """Quota that lets a request through, or refuses it."""

    __slots__ = ("cost", "key", "quota")

    def __init__(self, quota: RouteQuota, key: str, cost: float) -> None:
        self.quota = quota
        self.key = key
        self.cost = cost


def count_observed(over: list[RouteQuota]) -> None:
    """Count a request that is over observed quotas: for each of them, and once for the block."""
    for quota in over:
        quota.state.observed.value += 1
    if (counter := over[0].observed) is not None:
        counter.value += 1


class Quota:
    """Quotas of one block.  A ticket holds field lines, or is None."""

    __slots__ = ("_form", "_now", "_only", "_quotas", "_reports", "_spawn", "_wall")

    def __init__(self, quotas: list[RouteQuota], env: Env, form: str) -> None:
        self._quotas = quotas
        self._only: RouteQuota | None = None
        """Quota of a block with one quota and a fixed cost; else None."""
        if len(quotas) == 1 and quotas[0].read_cost is None and not quotas[0].unit:
            self._only = quotas[0]
        self._form = form
        self._reports = form != "off" and any(quota.observed is None for quota in quotas)
        self._now = env.now
        self._spawn = env.spawn
        self._wall = env.wall

    @property
    def adds_lines(self) -> bool:
        """True if the field lines are only appended to those of the response."""
        return self._form != SEPARATE

    def admit(self, x: Exchange) -> object:
        quota = self._only
        if quota is not None and quota.opens <= x.arrived < quota.closes:
            state, read = quota.state, quota.read
            if state.shared is not None:
                lease = state.shared.lessee.leases.get("" if read is None else read(x))
                if lease is not None and lease.held - quota.cost >= lease.low and not lease.is_shared:
                    lease.held -= quota.cost
                    lease.taken += quota.cost
                    lease.used_at = self._now()
                    return quota.report(lease.left + lease.held) if self._reports else None
            else:
                table = state.table
                spent = quota.spent if read is None else table.spent.get(read(x))
                if spent is not None:
                    used = spent.units + quota.cost
                    left = table.most - used
                    if left >= 0:
                        spent.units = used
                        if quota.floor <= left < quota.top:
                            return quota.first + LAST[int(left - quota.floor)] + quota.rest
                        return quota.report(left) if self._reports else None
        return self._decide(x, 0)

    def _decide(self, x: Exchange, round: int) -> object:
        """Admit or refuse a request by all quotas, or wait for a store."""
        now, wall = self._now(), self._wall()
        passed: list[Passed] = []
        refused: Passed | None = None
        over: list[RouteQuota] = []
        unknown: list[Passed] = []
        for quota in self._quotas:
            state, shared = quota.state, quota.state.shared
            state.roll(wall)
            quota.look(now, wall)
            key = "" if quota.read is None else quota.read(x)
            if shared is None:
                key = state.table.locate(key)
                if key == OVERFLOW:
                    state.count_overflow()
            cost = quota.cost if quota.read_cost is None else quota.read_cost(x)
            found = quota.take(key, cost, now)
            if found == UNKNOWN and refused is not None:
                continue  # nothing that the store answers lets the request pass
            if found == UNKNOWN and quota.observed is not None:
                unknown.append(Passed(quota, key, cost))
                continue
            if found == UNKNOWN:
                future = shared.store.wait() if round < ROUNDS else None
                if future is not None:
                    shared.lessee.wait(key, cost)
                    self._refund(passed)
                    return Wait(self._await(x, future, round + 1))
                found = quota.take_alone(key, cost, now)
            if found <= ADMITTED:
                passed.append(Passed(quota, key, cost))
                if quota.read is None and shared is None:
                    quota.spent = state.table.spent.get(key)
            elif quota.observed is not None:
                over.append(quota)
            elif refused is None or state.end > refused.quota.state.end:
                refused = Passed(quota, key, cost)
        if refused is not None:
            self._refund(passed)
            return self._refuse(refused, wall)
        if over or unknown:
            observed = [each for each in passed if each.quota.observed is not None]
            self._refund(observed)
            passed = [each for each in passed if each.quota.observed is None]
            if over:
                count_observed(over)
            else:
                unknown += observed
                passed += unknown  # charged for the answer, as far as is known
                self._spawn(self._observe(unknown))
        return self._ticket(passed)

    def _ticket(self, passed: list[Passed]) -> object:
        """Return the ticket of an admitted request."""
        return self._report(passed) if self._reports else None

    @staticmethod
    def _refund(passed: list[Passed]) -> None:
        for each in passed:
            each.quota.refund(each.key, each.cost)

    async def _await(self, x: Exchange, future: Any, round: int) -> object:
        """Wait for an answer of the store, then decide again."""
        await future
        result = self._decide(x, round)
        while isinstance(result, Wait):
            result = await result.awaited
        return result

    async def _observe(self, asked: list[Passed]) -> None:
        """Count a request for observed quotas as their stores answer; the request itself does not wait for them."""
        for round in range(ROUNDS + 1):
            now, future = self._now(), None
            passed: list[Passed] = []
            over: list[RouteQuota] = []
            for each in asked:
                quota, shared = each.quota, each.quota.state.shared
                found = quota.take(each.key, each.cost, now)
                if found == UNKNOWN:
                    future = shared.store.wait() if round < ROUNDS else None
                    if future is not None:
                        shared.lessee.wait(each.key, each.cost)
                        break
                    found = quota.take_alone(each.key, each.cost, now)
                if found <= ADMITTED:
                    passed.append(each)
                else:
                    over.append(quota)
            if future is not None:
                self._refund(passed)
                await future
                continue
            if over:
                count_observed(over)
                self._refund(passed)
            return

    def _report(self, passed: list[Passed]) -> bytes | None:
        """Return the field lines of the enforced quotas."""
        enforced = [each for each in passed if each.quota.observed is None]
        if self._form == SEPARATE and len(enforced) > 1:
            enforced = [min(enforced, key=lambda each: each.quota.left(each.key))]
        return b"".join([each.quota.report(each.quota.left(each.key)) for each in enforced]) or None

    def _refuse(self, refused: Passed, wall: float) -> Outcome:
        """Return the refusal of a request, until the window ends."""
        quota, key, cost = refused.quota, refused.key, refused.cost
        spec, state = quota.spec, quota.state
        state.refused.value += 1
        whose = "all requests together" if not spec.is_keyed else f"each {spec.key}"
        if key == OVERFLOW:
            whose = f"all {spec.key} beyond the {spec.max_keys} that are counted one by one"
        detail = f"the quota `{spec.name}` is {spec.words}, for {whose}"
        if state.shared is not None and not state.shared.store.is_up:
            share = "refuses what it has not leased" if spec.on_store_failure == "deny" else "has a share of it"
            detail += f"; the store `{spec.store}` is away, and this process {share}"
        value = round(spec.max - quota.left(key) + cost, 3)
        delay = max(1.0, state.end - wall)
        outcome = failed(RATE_LIMITED, Refusal("quota", quota.where, detail, spec.max, value, delay))
        if self._reports:
            outcome.headers = parse_fields(quota.report(quota.left(key)))
        return outcome

    def answer(self, x: Exchange, ticket: object, outcome: Outcome) -> Outcome:
        return state_limit(outcome, ticket, self._form)


class AnswerQuota(Quota):
    """Quotas of one block, some of which count the size of the answers."""

    __slots__ = ("_env",)

    def __init__(self, quotas: list[RouteQuota], env: Env, form: str) -> None:
        super().__init__(quotas, env, form)
        self._env = env

    @property
    def adds_lines(self) -> bool:
        return False

    def _ticket(self, passed: list[Passed]) -> object:
        lines = self._report(passed) if self._reports else None
        ticket = AnswerCost(self._env, lines or b"")
        for each in passed:
            if each.quota.unit:
                ticket.add(each.quota, each.key)
        return ticket

    def answer(self, x: Exchange, ticket: object, outcome: Outcome) -> Outcome:
        assert isinstance(ticket, AnswerCost)
        ticket.begin(outcome)
        return state_limit(outcome, ticket.lines or None, self._form)


def build(spec: Spec, ctx: BuildContext) -> Stage:
    """Return the stage of the quotas of a block.  All stages of one owner share their counts."""
    quotas = []
    labels = {ctx.scope: ctx.owner[1]}
    for number, written in enumerate(spec.quotas):
        each = written if spec.is_enforced else written.model_copy(update={"mode": "observe"})
        place = "in this process" if each.store is None else f"in {each.store}"
        make = partial(_make_state, each, ctx, labels)
        state: QuotaState = ctx.obtain(("quota", *ctx.owner, each.name, place), each, make)
        where = ctx.where_of(number)
        if where == ctx.where:  # the block is no bare list
            where = ctx.where_of("quotas", number)
        observed = None
        if each.mode == "observe":
            observed = ctx.env.meter.counter(metrics.WOULD_REFUSE, policy="quota", route=ctx.route)
        quotas.append(RouteQuota(each, state, where, spec.fields, observed, ctx.env))
        if each.store is not None:
            ctx.resources("quota_store", each.store)  # kept by this set of policies too
    if any(each.unit for each in quotas):
        return AnswerQuota(quotas, ctx.env, spec.fields)
    return Quota(quotas, ctx.env, spec.fields)


def _make_state(spec: QuotaSpec, ctx: BuildContext, labels: dict[str, str]) -> QuotaState:
    """Return the state of a quota, with its place in the store if it has one."""
    shared = None
    if spec.store is not None:
        from sidecar.store.shared_quotas import SharedQuota

        name = ":".join((ctx.service, *ctx.owner, spec.name))
        shared = SharedQuota(ctx.resources("quota_store", spec.store), name, float(spec.max), spec.max_keys)
    return QuotaState(spec, shared, ctx.env, labels)
