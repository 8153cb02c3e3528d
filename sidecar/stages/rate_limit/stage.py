"""Stage `rate_limit`: the limits of one block on the rate of requests.

Rules:

1. Every limit of the block must let a request through; one that is refused counts for none of them.
2. A limit under an upstream has one count for all its routes, one under a route its own.  The counts survive a reload.
3. A limit counts requests, not attempts.  With `count: misses` its place is directly inside the cache.  Answers do not
   state it then: the cache would repeat that to others.
4. With `delay`, a request over the limit waits for its turn.  A client that leaves while it waits has used its turn.
5. `mode: observe` lets everything pass.  A request that would have been refused then counts for no observed limit, as
   if it had been; it counts for the enforced ones, which it passes.
6. Refusals are no failures of the upstream: this stage is outside of breaker, retry and fallback.
7. Costs by the size of the answer are charged after it (`sidecar.limits.answers`).
8. Several workers share the count of a limit (`fleet.py`).  One with `delay` is divided among them in even parts.

The path of a request that is within its only limit is one comparison and one assignment, with a key after one look-up.
"""

from __future__ import annotations

from math import ceil
from typing import Any, Final

from sidecar.core import events, metrics
from sidecar.core.env import BuildContext, Env
from sidecar.core.exchange import Exchange
from sidecar.core.message import parse_fields
from sidecar.core.metrics import Counter
from sidecar.core.outcome import RATE_LIMITED, Outcome, Refusal, failed
from sidecar.core.stage import Stage, Wait
from sidecar.core.units import as_written
from sidecar.limits.answers import LONGEST_DEBT, AnswerCost
from sidecar.limits.fields import SEPARATE, FieldLines, state_limit
from sidecar.limits.gcra import OVERFLOW, Bucket, Gcra
from sidecar.limits.keys import cost_reader, key_reader
from sidecar.limits.spec import answer_unit, fixed_cost
from sidecar.stages.rate_limit.spec import LimitSpec, Spec

WARN_EVERY: Final = 60.0
"""Seconds between two warnings that the keys of a limit are all in use."""


class Limiter:
    """State of a limit that survives a reload: its counts by key, its waiting requests, and its counters."""

    def __init__(self, spec: LimitSpec, env: Env, labels: dict[str, str]) -> None:
        self.parts = 1 if env.workers is None else env.workers.count
        """Number of even parts of the limit, of which this process has one."""
        self.gcra = gcra = Gcra(spec.rate, spec.capacity, spec.max_keys)
        self.waiting = 0
        """Requests that wait for their turn."""
        self._spec = spec
        self._env = env
        self._labels = labels
        self._warn_from = 0.0
        """Instant before which no further warning of a full table is given."""
        self._full_until = 0.0
        """Instant until which the table is told as full: a while after the last key without a place.

        The number of keys does not tell, since one that says nothing any more is only evicted for another."""
        meter = env.meter
        self.refused = meter.counter(metrics.RATE_LIMITED, limit=spec.name, result="refused", **labels)
        self.observed = meter.counter(metrics.RATE_LIMITED, limit=spec.name, result="observed", **labels)
        self.delayed = meter.counter(metrics.RATE_LIMITED, limit=spec.name, result="delayed", **labels)
        self.overflowed = meter.counter(metrics.RATE_LIMIT_OVERFLOW, limit=spec.name, **labels)
        meter.gauge(metrics.RATE_LIMIT_KEYS, lambda: gcra.keys, limit=spec.name, **labels)
        self.retune(spec)

    def retune(self, spec: LimitSpec) -> None:
        """Apply new settings.  The counts stay, unless the limit has another key."""
        if (spec.key, spec.otherwise, spec.ipv6_prefix) != (
            self._spec.key, self._spec.otherwise, self._spec.ipv6_prefix
        ):  # fmt: skip
            self.gcra.clear()
        self._spec = spec
        parts, delay = self.parts, 0.0 if spec.delay is None else spec.delay.max
        capacity = spec.capacity / parts
        if parts > 1:  # the most expensive request must pass
            capacity = max(capacity, fixed_cost(spec.cost))
        self.gcra.max_debt = LONGEST_DEBT if answer_unit(spec.cost) else 0.0
        self.gcra.retune(spec.rate / parts, capacity, spec.max_keys, delay)

    def count_overflow(self, now: float) -> None:
        """Count a request whose key has no place in the table, and warn at times."""
        self.overflowed.value += 1
        self._full_until = now + WARN_EVERY
        if now >= self._warn_from:
            self._warn_from = now + WARN_EVERY
            self._env.emit(events.RATE_LIMIT_FULL, limit=self._spec.name, keys=self.gcra.keys, **self._labels)

    def describe(self) -> dict[str, Any]:
        """Return limit, scope, keys and counters, JSON-ready."""
        return {
            "limit": self._spec.words,
            "shared_by": "process",
            "key": self._spec.key,
            "mode": self._spec.mode,
            "keys": self.gcra.keys,
            "max_keys": self._spec.max_keys,
            "is_full": self._env.now() < self._full_until,
            "waiting": self.waiting,
            "refused": self.refused.value,
            "observed": self.observed.value,
            "delayed": self.delayed.value,
            "overflowed": self.overflowed.value,
        }


class RouteLimit:
    """Limit as one route applies it."""

    __slots__ = (
        "above", "bucket", "debit", "gcra", "limiter", "lines", "longest", "max_delay", "max_waiting", "now",
        "observed", "read", "read_cost", "spec", "text", "unit", "up_to", "where",
    )  # fmt: skip

    def __init__(
        self, spec: LimitSpec, limiter: Limiter, where: str, form: str, observed: Counter | None, env: Env
    ) -> None:
        self.spec = spec
        self.limiter = limiter
        self.gcra = limiter.gcra
        self.now = env.now
        self.unit = answer_unit(spec.cost)
        """Bytes of an answer that count as one; 0 if answers do not count."""
        self.bucket: Bucket | None = None
        """Count of the empty key, if all requests have it; None before the first of them."""
        self.where = where
        """`file:line` of the limit."""
        self.observed = observed
        """Counts requests that would have been refused; None to refuse them."""
        self.read = key_reader(spec) if spec.is_keyed else None
        """Reader of the key; None if all requests have the empty key."""
        self.read_cost = cost_reader(spec.cost, float(spec.capacity))
        self.debit = fixed_cost(spec.cost) * limiter.parts / spec.rate
        """Seconds by which a request moves the TAT, if all cost the same."""
        self.max_delay = 0.0 if spec.delay is None else spec.delay.max
        """Longest delay in seconds; 0 to refuse at once."""
        self.longest = as_written("1s", self.max_delay)
        """Longest delay in words."""
        self.max_waiting = 0 if spec.delay is None else spec.delay.waiting
        self.lines = FieldLines(spec.name, spec.capacity, spec.window, form, self.unit)
        self.text = b""
        """Field lines that were written last."""
        self.above = self.up_to = 0.0
        """Bounds of the seconds for which `text` holds, the upper one included and never beyond the depth."""

    def charge(self, key: str, cost: float) -> None:
        """Count more for a request that was admitted, whatever is left."""
        self.gcra.owe(key, cost, self.now())

    def report(self, ahead: float) -> bytes:
        """Return the field lines after a request has moved the TAT to so many seconds ahead of the clock."""
        gcra = self.gcra
        left, seconds = gcra.remaining(ahead), ceil(ahead)
        self.text = text = self.lines.write(left, seconds)
        self.above = max(gcra.depth - (left + 1) * gcra.interval, seconds - 1.0)
        self.up_to = min(gcra.depth - left * gcra.interval, float(seconds)) if left else 0.0
        return text


class Passed:
    """Limit that lets a request through, with the count after it."""

    __slots__ = ("key", "limit", "tat")

    def __init__(self, limit: RouteLimit, key: str, tat: float) -> None:
        self.limit = limit
        self.key = key
        self.tat = tat


class RateLimit:
    """Limits of one block that responses do not state.  A ticket is None."""

    __slots__ = ("_form", "_limits", "_now", "_only", "_reports", "_sleep")

    def __init__(self, limits: list[RouteLimit], env: Env, form: str = "off") -> None:
        self._limits = limits
        self._only: RouteLimit | None = None
        """Limit of a block with one limit and a fixed cost; else None."""
        if len(limits) == 1 and limits[0].read_cost is None and not limits[0].unit:
            self._only = limits[0]
        self._form = form
        self._reports = form != "off"
        self._now = env.now
        self._sleep = env.sleep

    def admit(self, x: Exchange) -> object:
        read_clock, limit = self._now, self._only  # a method call is slow where the attribute holds a function
        now = read_clock()
        if limit is not None:
            read = limit.read
            bucket = limit.bucket if read is None else limit.gcra.buckets.get(read(x))
            if bucket is not None:
                tat, ahead = bucket.tat, limit.debit
                if tat > now:
                    ahead += tat - now
                if limit.above < ahead <= limit.up_to:  # within the depth too
                    bucket.tat = now + ahead
                    return limit.text
                if ahead <= limit.gcra.depth:
                    bucket.tat = now + ahead
                    return limit.report(ahead) if self._reports else None
        return self._decide(x, now)

    def _decide(self, x: Exchange, now: float) -> object:
        """Admit, delay or refuse a request by all limits."""
        passed: list[Passed] = []
        slowest: RouteLimit | None = None
        longest = 0.0
        refusal: Passed | None = None
        refused_for = 0.0
        over: list[RouteLimit] = []
        for limit in self._limits:
            gcra = limit.gcra
            key = gcra.locate("" if limit.read is None else limit.read(x), now)
            if key == OVERFLOW:
                limit.limiter.count_overflow(now)
            debit = limit.debit if limit.read_cost is None else min(limit.read_cost(x), gcra.capacity) * gcra.interval
            found = Passed(limit, key, gcra.arrival(key, now) + debit)
            delay = gcra.delay(found.tat, now)
            if delay > 0:
                if limit.observed is not None:
                    if 0 < delay <= limit.max_delay:  # it would have waited for its turn
                        passed.append(found)
                        continue
                    over.append(limit)
                    continue
                may_wait = limit.limiter.waiting < limit.max_waiting and now + delay < x.deadline
                if delay > limit.max_delay or not may_wait:
                    if delay > refused_for:
                        refusal, refused_for = found, delay
                    continue
                if delay > longest:
                    slowest, longest = limit, delay
            passed.append(found)
        if refusal is not None:
            return self._refuse(refusal, refused_for, now, x.deadline)
        if over:
            count_observed(over)
            passed = [each for each in passed if each.limit.observed is None]
        for each in passed:
            limit = each.limit
            limit.gcra.charge(each.key, each.tat)
            if limit.read is None:
                limit.bucket = limit.gcra.buckets[each.key]
        ticket = self._ticket(passed, now)
        return ticket if slowest is None else Wait(self._delay(x, slowest, longest, ticket))

    def _ticket(self, passed: list[Passed], now: float) -> object:
        """Return the ticket of an admitted request."""
        return self._report(passed, now) if self._reports else None

    def _report(self, passed: list[Passed], now: float) -> bytes:
        """Return the field lines of the enforced limits."""
        enforced = [each for each in passed if each.limit.observed is None]
        if self._form == SEPARATE and len(enforced) > 1:
            enforced = [min(enforced, key=lambda each: each.limit.gcra.remaining(each.tat - now))]
        return b"".join([each.limit.report(each.tat - now) for each in enforced])

    def _refuse(self, found: Passed, delay: float, now: float, deadline: float) -> Outcome:
        """Return the refusal of a request that would conform `delay` seconds later."""
        limit = found.limit
        gcra, spec = limit.gcra, limit.spec
        limit.limiter.refused.value += 1
        whose = "all requests together" if not spec.is_keyed else f"each {spec.key}"
        if found.key == OVERFLOW:
            whose = f"all {spec.key} beyond the {spec.max_keys} that are counted one by one"
        detail = f"the limit `{spec.name}` is {spec.words}, for {whose}"
        if limit.limiter.parts > 1:
            detail += f", in even parts for {limit.limiter.parts} workers"
        if limit.max_delay and delay > limit.max_delay:
            detail += f"; its turn comes later than in {limit.longest}"
        elif limit.max_delay:
            detail += "; its turn comes after its deadline" if now + delay >= deadline else "; too many wait already"
        value = round((found.tat - now) / gcra.interval, 3)
        outcome = failed(RATE_LIMITED, Refusal("rate_limit", limit.where, detail, spec.capacity, value, delay))
        if self._reports:  # `t` ends with Retry-After, which should not be earlier (section 6 of the draft)
            left = gcra.remaining(max(now, gcra.arrival(found.key, now)) - now)
            outcome.headers = parse_fields(limit.lines.write(left, ceil(delay)))
        return outcome

    async def _delay(self, x: Exchange, limit: RouteLimit, seconds: float, ticket: object) -> object:
        """Wait for the turn of a request that is already counted; return its ticket."""
        limiter = limit.limiter
        limiter.waiting += 1
        limiter.delayed.value += 1
        try:
            await self._sleep(seconds)
        finally:
            limiter.waiting -= 1
        if x.trace is not None:
            x.trace.note(events.RATE_DELAYED, limit=limit.spec.name, waited=round(seconds, 6))
        return ticket


class ReportingRateLimit(RateLimit):
    """Limits of one block that responses state.  A ticket holds the field lines."""

    __slots__ = ()

    @property
    def adds_lines(self) -> bool:
        """True if the field lines are only appended to those of the response."""
        return self._form != SEPARATE

    def answer(self, x: Exchange, ticket: object, outcome: Outcome) -> Outcome:
        return state_limit(outcome, ticket, self._form)


class AnswerRateLimit(RateLimit):
    """Limits of one block, some of which count the size of the answers."""

    __slots__ = ("_env",)

    def __init__(self, limits: list[RouteLimit], env: Env, form: str) -> None:
        super().__init__(limits, env, form)
        self._env = env

    @property
    def adds_lines(self) -> bool:
        """False: the answer is charged too."""
        return False

    def _ticket(self, passed: list[Passed], now: float) -> object:
        ticket = AnswerCost(self._env, self._report(passed, now) if self._reports else b"")
        for each in passed:
            if each.limit.unit:
                ticket.add(each.limit, each.key)
        return ticket

    def answer(self, x: Exchange, ticket: object, outcome: Outcome) -> Outcome:
        assert isinstance(ticket, AnswerCost)
        ticket.begin(outcome)
        return state_limit(outcome, ticket.lines or None, self._form)


def count_observed(over: list[RouteLimit]) -> None:
    """Count a request that observed limits would have refused: for each of them, and once for their block."""
    for limit in over:
        limit.limiter.observed.value += 1
    observed = over[0].observed
    assert observed is not None
    observed.value += 1


def build(spec: Spec, ctx: BuildContext) -> Stage | None:
    """Return the stage of the limits that count all requests; None without one."""
    return _build(spec, ctx, "all")


def build_inside(spec: Spec, ctx: BuildContext) -> Stage | None:
    """Return the stage of the limits that count what the cache does not answer; None without one."""
    return _build(spec.model_copy(update={"fields": "off"}), ctx, "misses")


def _build(spec: Spec, ctx: BuildContext, count: str) -> Stage | None:
    """Return the stage of the limits that count these requests.  All stages of one owner share their counts."""
    if not spec.is_enforced:  # so is each limit, as its state says
        spec = spec.model_copy(update={"limits": [each.model_copy(update={"mode": "observe"}) for each in spec.limits]})
    limits: list[RouteLimit] = []
    is_shared = False
    for number, each in enumerate(spec.limits):
        if each.count == count:
            if not is_counted_together(each, ctx.env):
                limits.append(_route_limit(each, number, spec, ctx))
            else:
                is_shared = True
    stage: Stage | None = None
    is_silent = spec.fields == "off" or all(each.observed is not None for each in limits)
    if any(each.unit for each in limits):
        stage = AnswerRateLimit(limits, ctx.env, "off" if is_silent else spec.fields)
    elif limits and is_silent:
        stage = RateLimit(limits, ctx.env)
    elif limits:
        stage = ReportingRateLimit(limits, ctx.env, spec.fields)
    if is_shared:
        from sidecar.stages.rate_limit.fleet import build_fleet

        return build_fleet(spec, ctx, count, stage)
    return stage


def is_counted_together(spec: LimitSpec, env: Env) -> bool:
    """True if several processes share the count of a limit, in a store or in the supervisor of workers."""
    return spec.store is not None or (env.workers is not None and spec.delay is None)


def _route_limit(each: LimitSpec, number: int, spec: Spec, ctx: BuildContext) -> RouteLimit:
    """Return a limit of the block, with its state from the store."""
    labels = {ctx.scope: ctx.owner[1]}
    limiter: Limiter = ctx.obtain(("rate_limit", *ctx.owner, each.name), each, lambda: Limiter(each, ctx.env, labels))
    where = ctx.where_of(number)
    if where == ctx.where:  # the block is no bare list
        where = ctx.where_of("limits", number)
    observed = None
    if each.mode == "observe":
        observed = ctx.env.meter.counter(metrics.WOULD_REFUSE, policy="rate_limit", route=ctx.route)
    return RouteLimit(each, limiter, where, spec.fields, observed, ctx.env)
