"""Stage `hedge`: a layer that asks a second time after `after`; the first good response wins.

Dean and Barroso, "The Tail at Scale" (2013): a second request after the 95th percentile cuts the tail for little load.

Rules:

1. Only a request that can be asked twice at once is hedged: its body is whole, it is nobody's retry, and its method is
   safe (RFC 9110 9.2.1) or named.  An Idempotency-Key does not help: servers answer the second of two with 409.
2. A hedge is paid for from the upstream's retry budget, and not started if usual responses would come too late.
3. A good response is one below 500 that is not 429.  A failure waits for the others; if none is good, a response is
   better than a failure, and the earlier one better than the later.
4. Losers are cancelled, with their streams.  Cancelling the request cancels all.
5. A request that is answered in time costs neither a task nor a timer of its own: one timer watches a queue of all.
"""

from __future__ import annotations

from asyncio import CancelledError
from collections.abc import Generator
from typing import Any, Final

from sidecar.core import events, metrics
from sidecar.core.env import BuildContext, Handle
from sidecar.core.exchange import SHORTEST_ANSWER, Exchange
from sidecar.core.metrics import Counter
from sidecar.core.outcome import Outcome
from sidecar.core.promise import Promise, Run
from sidecar.core.stage import Layer, Service
from sidecar.stages.hedge.spec import Spec

EARLY: Final = 1e-4
"""Seconds by which a timer may fire too soon."""
MEMORY: Final = 1 / 32
"""Weight of the latest response in the usual time of one."""


class HedgeLayer:
    """Hedging policy of one route, with the queue of requests that wait."""

    def __init__(self, spec: Spec, ctx: BuildContext) -> None:
        self.env = ctx.env
        self.route = ctx.route
        self.after = spec.after
        self.max_extra = spec.max_extra
        self.methods = frozenset(method.encode() for method in spec.methods)
        self.budget = ctx.resources("retry_budget", ctx.upstream)
        self.usual = 0.0
        """Seconds that responses lately took."""
        meter = ctx.env.meter
        self.counters = {
            result: meter.counter(metrics.HEDGES, route=ctx.route, result=result)
            for result in ("won", "lost", "budget", "deadline")
        }
        self.observed: Counter | None = None
        """Counts what would have been started; None starts hedges."""
        if not spec.is_enforced:
            self.observed = meter.counter(metrics.WOULD_REFUSE, policy="hedge", route=ctx.route)
        self._waiting: dict[Race, None] = {}
        """Races in the order in which they fall due; all wait equally long.  A race may leave from the middle."""
        self._timer: Handle | None = None

    def __call__(self, inner: Service) -> Service:
        return HedgeService(self, inner).call

    def watch(self, race: Race) -> float:
        """Start a hedge once the race has waited `after` more.  Return the present instant."""
        now = self.env.now()
        race.due = now + self.after
        self._waiting[race] = None
        if self._timer is None:
            self._timer = self.env.call_later(self.after, self._look)
        return now

    def _look(self) -> None:
        """Start the hedges that are due.  The timer stays set meanwhile: a race that joins sets no second one."""
        now = self.env.now()
        waiting = self._waiting
        while (race := next(iter(waiting), None)) is not None and race.due - now < EARLY:
            del waiting[race]
            if race.first is not None:
                race.hedge(now)
        self._timer = None if race is None else self.env.call_later(race.due - now, self._look)

    def leave(self, race: Race) -> None:
        """Take a race out of the queue."""
        self._waiting.pop(race, None)

    def __repr__(self) -> str:
        return f"<HedgeLayer {self.route} after {self.after:g} s>"


class HedgeService:
    """Inner service whose slow requests are hedged."""

    __slots__ = ("_deposit", "_inner", "_layer", "_methods")

    def __init__(self, layer: HedgeLayer, inner: Service) -> None:
        self._layer = layer
        self._inner = inner
        self._deposit = layer.budget.deposit
        self._methods = layer.methods

    async def call(self, x: Exchange) -> Outcome:
        """Return the first good response, or the best of those that are not."""
        if x.stream is not None or x.is_retry or x.method not in self._methods or x.upgrade is not None:
            return await self._inner(x)
        if not x.is_counted:
            x.is_counted = True
            self._deposit()
        race = Race(self._layer, x, self._inner)
        try:
            outcome = await race
            return await race.decide(outcome) if race.started else outcome
        except CancelledError:
            if race.winner is None:  # the client has left; a hedge that wins cancels the first attempt too
                raise
            return race.winner
        finally:
            race.close()


class Race:
    """One request and its hedges.  Awaiting it makes the first attempt."""

    due = 0.0
    """Instant at which the next hedge may start."""
    first: Any = None
    """Future or promise that the first attempt waits for; None while it waits for none."""
    hedges: tuple[Run[Outcome], ...] = ()
    """Hedges that were started."""
    started = 0
    """Number of hedges that were started."""
    in_flight = 0
    """Number of hedges without a result."""
    best: Outcome | None = None
    """Outcome to return if none is good; None until an attempt has failed."""
    winner: Outcome | None = None
    """Good response of a hedge."""
    last: Promise[None] | None = None
    """Promise that the request waits for once its first attempt has failed; None until then."""
    is_over = False
    """True once the request has its outcome or its client has left."""

    def __init__(self, layer: HedgeLayer, x: Exchange, inner: Service) -> None:
        self._layer = layer
        self._x = x
        self._inner = inner

    def __await__(self) -> Generator[Any, Any, Outcome]:
        """Drive the first attempt, and note what it waits for, so that a hedge that has won can cancel just that."""
        layer = self._layer
        coroutine = self._inner(self._x)
        began = 0.0
        try:
            waiting = coroutine.send(None)
            began = layer.watch(self)
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
                layer.usual += (layer.env.now() - began - layer.usual) * MEMORY
            outcome: Outcome = stop.value
            return outcome

    async def decide(self, outcome: Outcome) -> Outcome:
        """Return the outcome of the race: the first attempt has ended, and hedges were started."""
        if self.winner is not None:  # the first attempt could not be cancelled in time
            outcome.discard()
            return self.winner
        if is_good(outcome):
            return outcome
        self._keep(outcome)
        if self.in_flight:
            self.last = Promise()
            await self.last
        if self.winner is not None:
            return self.winner
        best, self.best = self.best, None
        assert best is not None
        return best

    def hedge(self, now: float) -> None:
        """Start another attempt beside those in flight, if time and budget allow."""
        layer, x = self._layer, self._x
        if layer.observed is not None:
            layer.observed.value += 1
            return
        if now + max(layer.usual, SHORTEST_ANSWER) >= x.deadline:
            layer.counters["deadline"].value += 1
            return
        if not layer.budget.withdraw():
            layer.counters["budget"].value += 1
            return
        self.started += 1
        self.in_flight += 1
        twin = x.fork(max(x.attempt + self.started, len(x.attempts) + 1), "hedge")
        twin.is_hedge = True
        if x.trace is not None:
            x.trace.note(events.HEDGED, attempt=twin.attempt, after=layer.after, tokens=layer.budget.tokens)
        twin.avoid = x.avoid.union([attempt.endpoint for attempt in x.attempts])
        run = Run(self._inner(twin), self._ended)
        self.hedges += (run,)
        if self.is_over:  # decided while this attempt was being started
            run.cancel()
        elif self.started < layer.max_extra:
            layer.watch(self)

    def _ended(self, run: Run[Outcome]) -> None:
        """Take the result of a hedge."""
        self.in_flight -= 1
        outcome = run.value
        if outcome is None:
            if isinstance(run.error, Exception):
                self._layer.env.emit(events.BUG, where=f"a hedge of {self._layer.route}", error=run.error)
        elif self.is_over or self.winner is not None:
            outcome.discard()
        elif is_good(outcome):
            self.winner = outcome
            if self.first is not None:
                self.first.cancel()
        else:
            self._keep(outcome)
        if self.last is not None and (self.winner is not None or self.in_flight == 0):
            self.last.resolve(None)

    def _keep(self, outcome: Outcome) -> None:
        """Keep the better of an outcome and the best so far; discard the other."""
        best = self.best
        if best is None:
            self.best = outcome
        elif best.failure is not None and outcome.failure is None:
            self.best = outcome
            best.discard()
        else:
            outcome.discard()

    def close(self) -> None:
        """End the race: cancel the hedges, and discard what is left."""
        self.is_over = True
        self._layer.leave(self)
        if self.started:
            for run in self.hedges:
                run.cancel()
            if self.best is not None:
                self.best.discard()
            won = self.winner is not None
            self._layer.counters["won"].add(won)
            self._layer.counters["lost"].add(self.started - won)


def is_good(outcome: Outcome) -> bool:
    """True for a response that ends the race."""
    return outcome.failure is None and outcome.status < 500 and outcome.status != 429


def build(spec: Spec, ctx: BuildContext) -> Layer:
    """Return the layer of a route."""
    return HedgeLayer(spec, ctx)
