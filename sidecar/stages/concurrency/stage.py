"""Concurrency: so many requests in flight and no more, a short queue before that, and the important ones first.

A permit covers the request to the last byte of its answer.  A plain cap is a gate; a queue has to await and the
adaptive limit has to time the head of an answer, so these two are a layer.

Decisions:

- *Criticality* decides who is refused (`permits.py` says how): sheddable goes first and critical last, as in the SRE
  book, ch. 21.  The proxies do not have it (envoy#43256).
- *First in, first out* within a rank.  Adaptive LIFO serves better where a queue is seconds long and its first have
  given up; ours lasts `queue_timeout` and the deadline is looked at on entry, so nobody in it has given up, and LIFO
  would only make the longest waits longer.
- *No place for what cannot finish*: on entry the wait that the queue promises and the usual time of an answer are held
  against the deadline, and a waiter is given up when the time of an answer is all that it has left.
- *No timers* but those of waiters: one each, as many as the queue has places.
- *A refusal is cheap and says to come back in 1 s*: an overload passes as fast as requests end; what matters is that
  those who were refused do not all come back at once.
- *The adaptive limit* learns from answers below 500 that needed one try; a retry's backoff says nothing about the
  upstream, and errors are often faster than answers.
- The permit count is shared under an upstream, and a reload changes the limit but not the count.
- `mode: observe` lets everything pass, counts what would have found neither permit nor place, and keeps learning.
"""

from __future__ import annotations

from typing import Any, Final

from sidecar.core import events, metrics
from sidecar.core.env import BuildContext, Env
from sidecar.core.exchange import Exchange
from sidecar.core.outcome import ABANDONED, OVERLOADED, Outcome, Refusal, failed
from sidecar.core.stage import Service, Stage
from sidecar.stages.concurrency.limit import Gradient
from sidecar.stages.concurrency.permits import Permits
from sidecar.stages.concurrency.spec import Spec

__all__ = ["Spec", "build"]

RETRY_AFTER: Final = 1.0
"""Seconds."""
PACE: Final = 0.1
"""Weight of the newest answer in the usual time of one."""
TOO_BUSY: Final = (429, 503)
"""Statuses by which an upstream itself says that it is overloaded."""
TOO_SLOW: Final = ("timeout", "connect_timeout")


class Bulkhead:
    """What survives a reload: the permits, and what was learnt about the upstream."""

    def __init__(self, spec: Spec, env: Env, labels: dict[str, str]) -> None:
        self.permits = permits = Permits(env)
        self.gradient: Gradient | None = None
        self.typical = 0.0
        """Seconds from the permit to the head of the answer, usually; learnt by the layer."""
        self.retune(spec)
        env.meter.gauge(metrics.CONCURRENCY_ACTIVE, lambda: permits.active, **labels)
        env.meter.gauge(metrics.CONCURRENCY_LIMIT, lambda: permits.limit, **labels)
        env.meter.gauge(metrics.QUEUE_LENGTH, lambda: permits.queued, **labels)

    def retune(self, spec: Spec) -> None:
        """Take new settings."""
        self.queue = spec.queue
        self.cap = spec.max or 0
        if spec.adaptive is None:
            self.gradient = None
        else:
            highest = min(spec.adaptive.max, spec.max or spec.adaptive.max)
            lowest = min(spec.adaptive.min, highest)
            self.gradient = self.gradient or Gradient(lowest, highest)
            self.gradient.retune(lowest, highest)
        self._apply()

    def _apply(self) -> None:
        self.permits.retune(int(self.gradient.limit) if self.gradient else self.cap, self.queue)

    def learn(self, x: Exchange, outcome: Outcome, now: float, latency: float) -> None:
        """The head of an answer has come, or will not come."""
        failure = outcome.failure
        if failure is None and outcome.status < 500 and len(x.attempts) <= 1:
            self.typical += (latency - self.typical) * (PACE if self.typical else 1.0)
        if (gradient := self.gradient) is None:
            return
        active = self.permits.active
        if outcome.status in TOO_BUSY if failure is None else failure.origin == "upstream" and failure.code in TOO_SLOW:
            changed = gradient.drop(now, active)
        elif failure is None and outcome.status < 500 and len(x.attempts) <= 1:
            changed = gradient.sample(now, latency, active)
        else:
            return
        if changed:
            self._apply()

    def describe(self) -> dict[str, Any]:
        facts = self.permits.describe() | {"typical_latency": self.typical}
        return facts if self.gradient is None else facts | {"adaptive": self.gradient.describe()}


class Door:
    """What the gate and the layer have in common: the permits, the refusal, and the count of what is only observed."""

    def __init__(self, spec: Spec, ctx: BuildContext, bulkhead: Bulkhead) -> None:
        self.permits = bulkhead.permits
        self.where = ctx.where
        self.is_enforced = spec.is_enforced
        self.observed = ctx.env.meter.counter(metrics.WOULD_REFUSE, policy="concurrency", route=ctx.route)

    def refuse(self, why: str) -> Outcome:
        limit, active = self.permits.limit, self.permits.active
        detail = f"{active} requests are in flight, {limit} may be: {why}"
        return failed(OVERLOADED, Refusal("concurrency", self.where, detail, limit, active, RETRY_AFTER))

    def pass_observed(self) -> None:
        """Let in what should have been refused, and count it if no place in the queue would have been left either."""
        if self.permits.active >= self.permits.limit + self.permits.size:
            self.observed.value += 1
        self.permits.active += 1


class Cap(Door):
    """A gate: a permit or a refusal."""

    def admit(self, x: Exchange) -> object:
        if not self.permits.take(x.criticality):
            if self.is_enforced:
                return self.refuse("there is no permit left for its criticality")
            self.pass_observed()
        return None

    def settle(self, _x: Exchange, _ticket: object, _outcome: Outcome) -> None:
        self.permits.release()


class Line(Door):
    """Makes the layer: a permit, or a place in the queue, or a refusal; and an eye on how long answers take."""

    def __init__(self, spec: Spec, ctx: BuildContext, bulkhead: Bulkhead) -> None:
        super().__init__(spec, ctx, bulkhead)
        self.bulkhead = bulkhead
        self.patience = spec.queue_timeout
        self.now = ctx.env.now

    def layer(self, inner: Service) -> Service:
        return Permitted(self, inner).call

    async def wait(self, x: Exchange) -> Outcome | None:
        """Queue for a permit: None once there is one, else the refusal."""
        permits, typical = self.permits, self.bulkhead.typical
        if not self.is_enforced:
            self.pass_observed()
            return None
        if permits.size == 0:
            return self.refuse("there is no permit left for its criticality")
        rank = x.criticality
        left = x.deadline - self.now() - typical
        if left <= typical * (permits.ahead(rank) + 1) / permits.limit:
            return self.refuse("the time that it has left is too short to wait for a permit and for an answer")
        place = permits.join(rank, min(self.patience, left), self.refuse)
        if place is None:
            return self.refuse(f"and all {permits.size} places in the queue are taken")
        began = self.now()
        try:
            refusal: Outcome | None = await place
            if x.trace is not None:
                x.trace.note(events.QUEUED, waited=round(self.now() - began, 6), admitted=refusal is None)
            return refusal
        except BaseException:
            permits.leave(rank, place)
            raise


class Permitted:
    """An inner service behind a line."""

    __slots__ = ("_bulkhead", "_inner", "_line", "_now", "_permits")

    def __init__(self, line: Line, inner: Service) -> None:
        self._line, self._inner = line, inner
        self._bulkhead, self._permits, self._now = line.bulkhead, line.permits, line.now

    async def call(self, x: Exchange) -> Outcome:
        permits = self._permits
        if not permits.take(x.criticality):
            refusal = await self._line.wait(x)
            if refusal is not None:
                return refusal
        outcome = ABANDONED
        started = self._now()
        try:
            outcome = await self._inner(x)
            self._bulkhead.learn(x, outcome, ended := self._now(), ended - started)
            return outcome
        finally:
            if outcome.stream is None:
                permits.release()
            else:
                outcome.stream.on_close(permits.release)


def build(spec: Spec, ctx: BuildContext) -> Stage:
    """The gate or the layer of a `concurrency` block; all of one owner share its permits."""
    labels = {ctx.scope: ctx.owner[1]}
    bulkhead: Bulkhead = ctx.obtain(("concurrency", *ctx.owner), spec, lambda: Bulkhead(spec, ctx.env, labels))
    needs_layer = spec.adaptive is not None or (spec.queue > 0 and spec.is_enforced)
    return Line(spec, ctx, bulkhead).layer if needs_layer else Cap(spec, ctx, bulkhead)
