"""Stage `hedge`: sends a second request after `after`; the first good response wins.

Dean and Barroso, "The Tail at Scale" (2013): a second request after the 95th percentile cuts the tail for little load.

Rules:

1. Only a request that can be sent twice at once is hedged: its body is whole, it is not marked as a retry, and its
   method is safe (RFC 9110 9.2.1) or named.  An Idempotency-Key does not help: the second of two is answered 409.
2. A hedge takes from the upstream's retry budget, and is not started if a usual response would come too late.
3. A good response is one below 500 that is not 429.  A failed attempt waits for the others.  If none is good, a
   response is preferred to a failure, and an earlier one to a later.
4. Losers are cancelled, with their streams.  Cancelling the request cancels all.
5. The first attempt is the request's own call; a hedge that wins before it has ended supersedes it.
6. A request that is answered in time needs neither a task nor a timer of its own: one timer watches the queue of all.
"""

from __future__ import annotations

from functools import partial
from typing import Final

from sidecar.core import events, metrics
from sidecar.core.env import BuildContext, TimerHandle
from sidecar.core.exchange import SHORTEST_ANSWER, Exchange, Supersedable
from sidecar.core.metrics import Counter
from sidecar.core.outcome import RESOURCE_EXHAUSTED_STATUS, Outcome
from sidecar.core.promise import Promise
from sidecar.core.stage import Stage, Wait
from sidecar.engine.pipeline import Call, Pipeline
from sidecar.stages.hedge.spec import Spec
from sidecar.upstream.budget import RetryWorth

EARLY: Final = 1e-4
"""Seconds by which a timer may fire too soon."""
MEMORY: Final = 1 / 32
"""Weight of the latest response in the usual response time."""


class HedgeStage:
    """Hedging policy of one route, with the queue of requests that wait."""

    supersedes = True

    def __init__(self, spec: Spec, ctx: BuildContext) -> None:
        self.env = ctx.env
        self.inner: Pipeline | None = None
        self.route = ctx.route
        self.after = spec.after
        self.max_extra = spec.max_extra
        self.methods = frozenset(method.encode() for method in spec.methods)
        self.budget = ctx.resources("retry_budget", ctx.upstream)
        self.worth = ctx.obtain(
            ("retry_worth", ctx.route, "hedge"), None, partial(RetryWorth, ctx.env, ctx.route, "hedge")
        )
        self.usual = 0.0
        """Seconds that recent responses took, as a moving average."""
        meter = ctx.env.meter
        self.counters = {
            result: meter.counter(metrics.HEDGES, route=ctx.route, result=result)
            for result in ("won", "lost", "budget", "deadline")
        }
        self.observed: Counter | None = None
        """Counts hedges that would have been started; None to start them."""
        if not spec.is_enforced:
            self.observed = meter.counter(metrics.WOULD_REFUSE, policy="hedge", route=ctx.route)
        self._waiting: dict[Race, None] = {}
        """Races in the order in which they fall due; all wait equally long.  A race may leave from the middle."""
        self._timer: TimerHandle | None = None

    def admit(self, x: Exchange) -> Race | None:
        call, x.call = x.call, None
        if (
            x.stream is not None
            or x.is_retry
            or (x.rest_method or x.method) not in self.methods
            or x.upgrade is not None
            or call is None
        ):
            return None
        if not x.is_counted:
            x.is_counted = True
            self.budget.deposit(x.arrived)
        race = Race(self, x, call)
        race.began = self.env.now()
        self.watch(race, race.began)
        return race

    def answer(self, x: Exchange, ticket: Race | None, outcome: Outcome) -> Outcome | Wait:
        """Return the first good response, or the best of the others."""
        return outcome if ticket is None else ticket.decide(outcome)

    def settle(self, x: Exchange, ticket: Race | None, outcome: Outcome) -> None:
        if ticket is not None and not ticket.is_over:
            ticket.close()

    def watch(self, race: Race, now: float) -> None:
        """Queue a race for its next hedge, which is due `after` from now."""
        race.due = now + self.after
        self._waiting[race] = None
        if self._timer is None:
            self._timer = self.env.call_later(self.after, self._start_due)

    def _start_due(self) -> None:
        """Start the hedges that are due, and set the timer for the next one.

        `_timer` is not cleared before, so that a race that joins meanwhile sets no second timer.
        """
        now = self.env.now()
        waiting = self._waiting
        while (race := next(iter(waiting), None)) is not None and race.due - now < EARLY:
            del waiting[race]
            race.hedge(now)
        self._timer = None if race is None else self.env.call_later(race.due - now, self._start_due)

    def leave(self, race: Race) -> None:
        """Remove a race from the queue."""
        self._waiting.pop(race, None)

    def __repr__(self) -> str:
        return f"<HedgeStage {self.route} after {self.after:g} s>"


class Race:
    """Race of one request's first attempt and its hedges."""

    __slots__ = (
        "_best", "_call", "_hedges", "_in_flight", "_last", "_stage", "_started", "_winner", "_x", "began", "due",
        "is_over",
    )  # fmt: skip

    def __init__(self, stage: HedgeStage, x: Exchange, call: Supersedable) -> None:
        self.began = 0.0
        """Instant at which the first attempt began."""
        self.due = 0.0
        """Instant at which the next hedge may start."""
        self.is_over = False
        """True once the request has its outcome or its client has left."""
        self._stage = stage
        self._x = x
        self._call: Supersedable | None = call
        """Call whose first attempt is under way; None once that has ended."""
        self._hedges: tuple[Call, ...] = ()
        self._started = 0
        """Number of hedges that were started."""
        self._in_flight = 0
        """Number of hedges without a result."""
        self._best: Outcome | None = None
        """Outcome to return if none is good; None while no attempt has failed."""
        self._winner: Outcome | None = None
        """Good response of a hedge; None until there is one."""
        self._last: Promise[None] | None = None
        """Promise that the request waits for once its first attempt has failed; None until then."""

    def decide(self, outcome: Outcome) -> Outcome | Wait:
        """Return the outcome of the race: the first attempt has ended, or a hedge has superseded it."""
        self._call = None
        if outcome is self._winner:
            self.close()
            return outcome
        stage = self._stage
        stage.usual += (stage.env.now() - self.began - stage.usual) * MEMORY
        if not self._started or is_good(outcome):
            self.close()
            return outcome
        self._keep(outcome)
        stage.leave(self)
        if self._in_flight:
            return Wait(self._wait())
        return self._conclude()

    async def _wait(self) -> Outcome:
        """Wait until a hedge is good or all have ended, and return the outcome of the race."""
        self._last = last = Promise[None]()
        await last
        return self._conclude()

    def _conclude(self) -> Outcome:
        """End the race and return the good response, or else the best outcome."""
        outcome = self._winner
        if outcome is None:
            outcome, self._best = self._best, None
        self.close()
        assert outcome is not None
        return outcome

    def hedge(self, now: float) -> None:
        """Start another attempt beside those in flight, if time and budget allow."""
        stage, x = self._stage, self._x
        if stage.observed is not None:
            stage.observed.value += 1
            return
        if now + max(stage.usual, SHORTEST_ANSWER) >= x.deadline:
            stage.counters["deadline"].value += 1
            return
        if not stage.budget.withdraw():
            stage.counters["budget"].value += 1
            return
        self._started += 1
        self._in_flight += 1
        twin = x.fork(max(x.attempt + self._started, len(x.attempts) + 1), "hedge")
        twin.is_hedge = True
        if x.trace is not None:
            x.trace.note(events.HEDGED, attempt=twin.attempt, after=stage.after, tokens=stage.budget.tokens)
        twin.avoid = x.avoid.union([attempt.endpoint for attempt in x.attempts])
        assert stage.inner is not None
        call = Call(stage.inner, twin, self._ended)
        self._hedges += (call,)
        call.start()
        if self._call is not None and self._started < stage.max_extra:
            stage.watch(self, stage.env.now())

    def _ended(self, call: Call) -> None:
        """Take the outcome of a hedge: a good one ends the race, another may become the best so far."""
        self._in_flight -= 1
        outcome = call.value
        if outcome is None:
            if isinstance(call.error, Exception):
                self._stage.env.emit(events.BUG, where=f"a hedge of {self._stage.route}", error=call.error)
        elif self.is_over or self._winner is not None:
            outcome.discard()
        elif is_good(outcome):
            self._winner = outcome
            if self._call is not None:
                self._call.supersede(self, outcome)
                return
        else:
            self._keep(outcome)
        if self._last is not None and (self._winner is not None or self._in_flight == 0):
            self._last.resolve(None)

    def _keep(self, outcome: Outcome) -> None:
        """Keep the better of an outcome and the best so far; discard the other."""
        best = self._best
        if best is None:
            self._best = outcome
        elif best.failure is not None and outcome.failure is None:
            self._best = outcome
            best.discard()
        else:
            outcome.discard()

    def close(self) -> None:
        """End the race: cancel the hedges, and discard unused outcomes."""
        self.is_over = True
        self._call = None
        self._stage.leave(self)
        if self._started:
            hedges, self._hedges = self._hedges, ()
            for call in hedges:
                call.cancel()
            if self._best is not None:
                self._best.discard()
            won = self._winner is not None
            self._stage.counters["won"].add(won)
            self._stage.counters["lost"].add(self._started - won)
            self._stage.worth.record(self._started, won)


def is_good(outcome: Outcome) -> bool:
    """True for a response that ends the race."""
    verdict = outcome.verdict
    return outcome.failure is None and verdict < 500 and verdict not in (429, RESOURCE_EXHAUSTED_STATUS)


def build(spec: Spec, ctx: BuildContext) -> Stage:
    """Return the stage of a route."""
    return HedgeStage(spec, ctx)
