"""Hedge: a request that has waited longer than most asks a second time, and the first good answer wins.

Dean and Barroso, "The Tail at Scale" (2013): a second request after the 95th percentile cuts the tail for a few per
cent of load.  `after` is that percentile, as the operator knows it.

Rules:

1. Only what can be asked twice at once: the body is there whole, the request is nobody's retry, and the method is safe
   (RFC 9110 9.2.1) or named.  An Idempotency-Key does not help here: servers answer the second of two concurrent
   requests with 409 (draft-ietf-httpapi-idempotency-key-header 2.6).
2. A hedge is paid for from the upstream's retry budget when it is started, and never started when the time left is
   shorter than answers lately took.
3. Good is a response below 500 that is not 429.  A failure waits for the others; if all fail, a response is better than
   none, and the earlier better than the later.  Failure before `after` is not a reason to hedge: that is for `retry`.
4. Losers are cancelled, with the streams they may have opened.  Cancelling the request cancels all.

Cost.  The usual request is answered in time, and pays neither a task nor a timer, but about 2 us (a task and a timer
each are about 10).  The first try stays a part of its request: what it waits for passes through `Race.__await__`, which
notes it, so that a hedge that has won can call off just that.  As all requests of a route wait equally long, they stand
in one queue in the order in which they fall due, each until it is answered, and one timer watches its head.  Only a
hedge runs beside, in a `Run`.
"""

from __future__ import annotations

from asyncio import CancelledError
from collections.abc import Generator
from typing import Annotated, Any, Final

from pydantic import Field

from sidecar.core import events, metrics
from sidecar.core.env import BuildContext, Handle
from sidecar.core.exchange import Exchange
from sidecar.core.outcome import Outcome
from sidecar.core.promise import Promise, Run
from sidecar.core.spec import Block
from sidecar.core.stage import Layer, Service
from sidecar.core.units import Duration, Method

QUICKEST: Final = 0.001
"""Seconds: less than any answer takes."""
EARLY: Final = 1e-4
"""Seconds by which a timer may fire too soon."""
MEMORY: Final = 1 / 32
"""The weight of the latest answer in what answers usually take."""


class Spec(Block):
    """Ask a second time when the answer is slow."""

    after: Duration
    """Wait so long for the first answer, best its 95th percentile."""
    max_extra: Annotated[int, Field(ge=1, le=5)] = 1
    """Further tries at most, each `after` later than the one before (Polly: 1)."""
    methods: Annotated[tuple[Method, ...], Field(strict=False, min_length=1)] = ("GET", "HEAD", "OPTIONS")
    """Methods that may be asked twice at the same time."""


class Hedge:
    """The policy, compiled; one for each route."""

    def __init__(self, spec: Spec, ctx: BuildContext) -> None:
        self.env = ctx.env
        self.route = ctx.route
        self.after = spec.after
        self.max_extra = spec.max_extra
        self.methods = frozenset(method.encode() for method in spec.methods)
        self.budget = ctx.resources("retry_budget", ctx.upstream)
        self.usual = 0.0
        """Seconds that answers lately took."""
        meter = ctx.env.meter
        self.counters = {
            result: meter.counter(metrics.HEDGES, route=ctx.route, result=result)
            for result in ("won", "lost", "budget", "deadline")
        }
        self.observed = None
        if not spec.is_enforced:
            self.observed = meter.counter(metrics.WOULD_REFUSE, policy="hedge", route=ctx.route)
        self._waiting: dict[Race, None] = {}
        """A queue that a race can also leave from its middle."""
        self._timer: Handle | None = None

    def layer(self, inner: Service) -> Service:
        methods, budget = self.methods, self.budget

        async def call(x: Exchange) -> Outcome:
            if x.stream is not None or x.is_retry or x.method not in methods or x.upgrade is not None:
                return await inner(x)
            if not x.is_counted:
                x.is_counted = True
                budget.deposit()
            race = Race(self, x, inner)
            try:
                outcome = await race
                return await race.decide(outcome) if race.started else outcome
            except CancelledError:
                if race.winner is None:  # it is not a hedge that called the first try off
                    raise
                return race.winner
            finally:
                race.close()

        return call

    def watch(self, race: Race) -> float:
        """Hedge it once it has waited `after` more; the time is now."""
        now = self.env.now()
        race.due = now + self.after
        self._waiting[race] = None
        if self._timer is None:
            self._timer = self.env.call_later(self.after, self._look)
        return now

    def _look(self) -> None:
        """Start what is due.  The timer stays set meanwhile, so that a race that joins does not set a second one."""
        now = self.env.now()
        waiting = self._waiting
        while (race := next(iter(waiting), None)) is not None and race.due - now < EARLY:
            del waiting[race]
            if race.first is not None:
                race.hedge(now)
        self._timer = None if race is None else self.env.call_later(race.due - now, self._look)

    def leave(self, race: Race) -> None:
        """It needs no hedge any more."""
        self._waiting.pop(race, None)

    def __repr__(self) -> str:
        return f"<Hedge {self.route} after {self.after:g} s>"


class Race:
    """One request and its tries.  Awaiting it is the first try."""

    due = 0.0
    """When the next hedge may start."""
    first: Any = None
    """What the first try waits for, while it waits."""
    hedges: tuple[Run[Outcome], ...] = ()
    started = 0
    """Hedges begun."""
    under_way = 0
    """Hedges without a result."""
    best: Outcome | None = None
    """Of the answers that were not good, the one to give if none is."""
    winner: Outcome | None = None
    """A hedge's good answer."""
    last: Promise[None] | None = None
    """What the request waits for once its own try has failed."""
    is_over = False

    def __init__(self, hedge: Hedge, x: Exchange, inner: Service) -> None:
        self._hedge = hedge
        self._x = x
        self._inner = inner

    def __await__(self) -> Generator[Any, Any, Outcome]:
        hedge = self._hedge
        coroutine = self._inner(self._x)
        began = 0.0
        try:
            waiting = coroutine.send(None)
            began = hedge.watch(self)
            while True:
                self.first = waiting
                try:
                    yield waiting
                except BaseException as error:
                    self.first = None
                    waiting = coroutine.throw(error)
                else:
                    self.first = None
                    waiting = coroutine.send(None)
        except StopIteration as stop:
            if began:
                hedge.usual += (hedge.env.now() - began - hedge.usual) * MEMORY
            return stop.value  # type: ignore[no-any-return]

    async def decide(self, outcome: Outcome) -> Outcome:
        """The first try has ended, with hedges beside it: whose answer is it?"""
        if self.winner is not None:  # it could not be called off in time
            _discard(outcome)
            return self.winner
        if _is_good(outcome):
            return outcome
        self._keep(outcome)
        if self.under_way:
            self.last = Promise()
            await self.last
        if self.winner is not None:
            return self.winner
        best, self.best = self.best, None
        assert best is not None
        return best

    def hedge(self, now: float) -> None:
        """Another try beside those under way, if there is time and money for it."""
        hedge, x = self._hedge, self._x
        if hedge.observed is not None:
            hedge.observed.add()
            return
        if now + max(hedge.usual, QUICKEST) >= x.deadline:
            hedge.counters["deadline"].add()
            return
        if not hedge.budget.withdraw():
            hedge.counters["budget"].add()
            return
        self.started += 1
        self.under_way += 1
        twin = x.fork(max(x.attempt + self.started, len(x.attempts) + 1), "hedge")
        twin.is_hedge = True
        if x.trace is not None:
            x.trace.note(events.HEDGED, attempt=twin.attempt, after=hedge.after, tokens=hedge.budget.tokens)
        twin.avoid = x.avoid.union(attempt.endpoint for attempt in x.attempts)
        run = Run(self._inner(twin), self._ended)
        self.hedges += (run,)
        if self.is_over:  # decided while this try was being started
            run.cancel()
        elif self.started < hedge.max_extra:
            hedge.watch(self)

    def _ended(self, run: Run[Outcome]) -> None:
        """A hedge has a result."""
        self.under_way -= 1
        outcome = run.value
        if outcome is None:
            if isinstance(run.error, Exception):
                self._hedge.env.emit(events.BUG, where=f"a hedge of {self._hedge.route}", error=run.error)
        elif self.is_over or self.winner is not None:
            _discard(outcome)
        elif _is_good(outcome):
            self.winner = outcome
            if self.first is not None:
                self.first.cancel()
        else:
            self._keep(outcome)
        if self.last is not None and (self.winner is not None or self.under_way == 0):
            self.last.resolve(None)

    def _keep(self, outcome: Outcome) -> None:
        best = self.best
        if best is None or (best.failure is not None and outcome.failure is None):
            outcome, self.best = best, outcome  # type: ignore[assignment]
        _discard(outcome)

    def close(self) -> None:
        """The request has its answer or is gone: call off the rest."""
        self.is_over = True
        self._hedge.leave(self)
        if self.started:
            for run in self.hedges:
                run.cancel()
            _discard(self.best)
            won = self.winner is not None
            self._hedge.counters["won"].add(won)
            self._hedge.counters["lost"].add(self.started - won)


def _is_good(outcome: Outcome) -> bool:
    return outcome.failure is None and outcome.status < 500 and outcome.status != 429


def _discard(outcome: Outcome | None) -> None:
    if outcome is not None and outcome.stream is not None:
        outcome.stream.cancel()


def build(spec: Spec, ctx: BuildContext) -> Layer:
    """The hedge layer of a route."""
    return Hedge(spec, ctx).layer
