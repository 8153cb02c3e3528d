"""Fault: latency, error answers and resets for a share of the requests, for tests and drills.

It stands innermost, directly before the upstream client, and what it injects is indistinguishable from what an upstream
does: breaker, retry, hedge, deadline and fallback see a slow, a failing or a vanishing upstream and act.  (Istio and
Envoy inject before the router, so retries and timeouts of that route are not exercised: istio#13705, envoy#38338.)

Decisions:

- `abort` is a real answer with that status, `reset` an upstream that closes the connection after it has the request.
- `latency` counts against the try: where it outlasts `timeout.attempt` or the deadline the try ends as a timeout then,
  and what is left of the try is all that the upstream gets.
- Each kind is drawn on its own, for every try, from the env's generator: a seed gives the same faults again.  Where two
  strike, the latency comes first; of the other two, the reset.
- An answer that was injected says so (`x-sidecar-reason: fault_injected`), and so does the try in the access log, whose
  endpoint is then `fault`.
- A request that `when` leaves out is not touched; it is asked of the request as it goes upstream, after `transform`.
- `mode: observe` counts what it would have injected.
"""

from __future__ import annotations

from typing import Annotated

from pydantic import Field, model_validator

from sidecar.core import events, metrics
from sidecar.core.env import BuildContext
from sidecar.core.exchange import Attempt, Exchange
from sidecar.core.outcome import RESET, TIMEOUT, Outcome, failed
from sidecar.core.spec import Block, Model
from sidecar.core.stage import Layer, Service
from sidecar.core.units import Duration, DurationOrZero, Share
from sidecar.expression import REQUEST, Condition
from sidecar.expression.spec import RequestWhen

CAUSE = "injected by the fault policy"


class UniformSpec(Model):
    """Every duration between two is as likely as another."""

    min: DurationOrZero
    """The shortest."""
    max: Duration
    """The longest."""

    @model_validator(mode="after")
    def _is_ordered(self) -> UniformSpec:
        if self.min > self.max:
            raise ValueError("has a min above its max; swap them")
        return self


class LatencySpec(Model):
    """Wait before the upstream is asked."""

    fixed: Duration | None = None
    """Always so long."""
    uniform: UniformSpec | None = None
    """Between two durations."""
    share: Share
    """Of all tries."""

    @model_validator(mode="after")
    def _is_one(self) -> LatencySpec:
        if (self.fixed is None) == (self.uniform is None):
            raise ValueError("takes one of fixed: 200ms and uniform: {min: 50ms, max: 1s}")
        return self


class AbortSpec(Model):
    """Answer in the upstream's place."""

    status: Annotated[int, Field(ge=200, le=599)] = 503
    """The status of the answer."""
    share: Share
    """Of all tries."""


class ResetSpec(Model):
    """Break the connection off."""

    share: Share
    """Of all tries."""


class Spec(Block):
    """Injected faults."""

    when: RequestWhen | None = None
    """A condition on the head of the request, such as `request.headers['x-drill'] == 'yes'`; all without it."""
    latency: LatencySpec | None = None
    abort: AbortSpec | None = None
    reset: ResetSpec | None = None

    @model_validator(mode="after")
    def _is_any(self) -> Spec:
        if self.latency is None and self.abort is None and self.reset is None:
            raise ValueError("injects nothing; write latency, abort or reset, such as abort: {status: 503, share: 10%}")
        return self


class Fault:
    """The layer."""

    def __init__(self, spec: Spec, ctx: BuildContext) -> None:
        self.env = ctx.env
        self.is_enforced = spec.is_enforced
        self.when = None if spec.when is None else Condition(spec.when, REQUEST)
        self.latency = spec.latency
        self.abort = spec.abort
        self.abort_share = spec.abort.share if spec.abort else 0.0
        self.reset_share = spec.reset.share if spec.reset else 0.0
        counter = ctx.env.meter.counter
        self.counters = {
            kind: counter(metrics.FAULTS, route=ctx.route, kind=kind) for kind in ("latency", "abort", "reset")
        }
        self.observed = counter(metrics.WOULD_REFUSE, policy="fault", route=ctx.route)

    def draw(self) -> tuple[float, str]:
        """What strikes this try: seconds of latency, and `abort`, `reset` or nothing."""
        uniform = self.env.rng.random
        delay = 0.0
        if self.latency is not None and uniform() < self.latency.share:
            between = self.latency.uniform
            delay = (
                self.latency.fixed or 0.0 if between is None else between.min + uniform() * (between.max - between.min)
            )
        if self.reset_share and uniform() < self.reset_share:
            return delay, "reset"
        if self.abort_share and uniform() < self.abort_share:
            return delay, "abort"
        return delay, ""

    def __call__(self, inner: Service) -> Service:
        when = self.when

        async def call(x: Exchange) -> Outcome:
            if when is not None and not when.holds(x):
                return await inner(x)
            delay, end = self.draw()
            if not delay and not end:
                return await inner(x)
            if not self.is_enforced:
                self.observed.value += 1
                return await inner(x)
            return await self.inject(x, delay, end, inner)

        return call

    async def inject(self, x: Exchange, delay: float, end: str, inner: Service) -> Outcome:
        """Let it strike."""
        env = self.env
        if x.trace is not None:
            x.trace.note(events.FAULTED, attempt=x.attempt, latency=delay, kind=end or "latency")
        attempt = Attempt(x.attempt, env.now())
        attempt.why = x.why
        attempt.endpoint = "fault"
        if delay:
            self.counters["latency"].value += 1
            patience = min(x.attempt_timeout, x.deadline - env.now())
            await env.sleep(max(0.0, min(delay, patience)))
            if delay >= patience:
                return self._ended(x, attempt, failed(TIMEOUT, cause=CAUSE))
        if end == "reset":
            self.counters["reset"].value += 1
            return self._ended(x, attempt, failed(RESET, cause=CAUSE))
        if self.abort is not None and end == "abort":
            self.counters["abort"].value += 1
            headers = [(b"x-sidecar-reason", b"fault_injected")]
            return self._ended(x, attempt, Outcome(self.abort.status, headers, cause=CAUSE))
        twin = x.fork(x.attempt, x.why)
        twin.attempt_timeout = x.attempt_timeout - delay
        return await inner(twin)

    def _ended(self, x: Exchange, attempt: Attempt, outcome: Outcome) -> Outcome:
        attempt.ended = self.env.now()
        attempt.status = 0 if outcome.failure else outcome.status
        attempt.reason = outcome.reason
        x.attempts.append(attempt)
        return outcome


def build(spec: Spec, ctx: BuildContext) -> Layer:
    """The layer of a `fault` block."""
    return Fault(spec, ctx)
