"""Stage `fault`: delays, answers or resets a share of the attempts.

Rules:

1. An injected fault looks like one of the upstream: `abort` is a real response, `reset` a connection that is closed
   after the request.  A `latency` that exceeds the attempt's timeout or the deadline ends as a timeout at that time.
   Below a second it counts as a usual response time, for which a caller's deadline can be too short (`response_times`).
2. Each kind is drawn separately for each attempt, from `Env`, so a seed repeats the same faults.  If several are
   drawn, the latency comes first, and the reset wins over the abort.
3. An injected response says `x-sidecar-reason: fault_injected`; the attempt's endpoint in the access log is `fault`.
4. `mode: observe` counts the faults that would have been injected.
"""

from __future__ import annotations

from typing import Final

from sidecar.core import events, metrics
from sidecar.core.env import BuildContext
from sidecar.core.exchange import Attempt, Exchange
from sidecar.core.metrics import Counter
from sidecar.core.outcome import FAULT, RESET, SHORT_DEADLINE, TIMEOUT, Outcome, failed, grpc_verdict
from sidecar.core.stage import Service, Stage, Wait, unbound
from sidecar.expression.condition import Condition
from sidecar.expression.facts import REQUEST
from sidecar.grpc.status import status_from_http
from sidecar.stages.fault.spec import AbortSpec, LatencySpec, Spec
from sidecar.upstream.response_times import UNKNOWN

CAUSE: Final = "injected by the fault policy"
ENDPOINT: Final = "fault"
"""Endpoint of an attempt that an injected fault has ended."""


class FaultStage:
    """Fault injection of one route."""

    def __init__(self, spec: Spec, ctx: BuildContext) -> None:
        self.env = ctx.env
        self.inner: Service = unbound
        self.when = None if spec.when is None else Condition(spec.when, REQUEST)
        self.latency: LatencySpec | None = spec.latency
        self.abort: AbortSpec | None = spec.abort
        self._uniform = ctx.env.rng.random
        self.abort_share = spec.abort.share if spec.abort else 0.0
        self.reset_share = spec.reset.share if spec.reset else 0.0
        counter = ctx.env.meter.counter
        self.counters = {
            kind: counter(metrics.FAULTS, route=ctx.route, kind=kind) for kind in ("latency", "abort", "reset")
        }
        self.observed: Counter | None = None
        """Counts faults that would have been injected; None to inject them."""
        if not spec.is_enforced:
            self.observed = counter(metrics.WOULD_REFUSE, policy="fault", route=ctx.route)

    def admit(self, x: Exchange) -> Wait | None:
        if self.when is not None and not self.when.holds(x):
            return None
        delay, end = self.draw()
        if not delay and not end:
            return None
        if self.observed is not None:
            self.observed.value += 1
            return None
        return Wait(self.inject(x, delay, end))

    def draw(self) -> tuple[float, str]:
        """Draw the faults of an attempt: seconds of latency, and `abort`, `reset` or an empty string."""
        uniform = self._uniform
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

    async def inject(self, x: Exchange, delay: float, end: str) -> Outcome:
        """Delay an attempt by `delay` seconds, then end it as `end` says, or let it go on if `end` is empty."""
        env = self.env
        if x.trace is not None:
            x.trace.note(events.FAULTED, attempt=x.attempt, latency=delay, kind=end or "latency")
        attempt = Attempt(x.attempt, env.now())
        attempt.why = x.why
        attempt.endpoint = ENDPOINT
        if delay:
            self.counters["latency"].value += 1
            patience = min(x.attempt_timeout, x.deadline - env.now())
            await env.sleep(max(0.0, min(delay, patience)))
            if delay >= patience:
                is_hurried = x.deadline == x.caller_deadline and patience < x.attempt_timeout
                failure = SHORT_DEADLINE if is_hurried and delay < UNKNOWN else TIMEOUT
                return self._end(x, attempt, failed(failure, cause=CAUSE))
        if end == "reset":
            self.counters["reset"].value += 1
            return self._end(x, attempt, failed(RESET, cause=CAUSE))
        if self.abort is not None and end == "abort":
            self.counters["abort"].value += 1
            headers = [(b"x-sidecar-reason", FAULT.code.encode())]
            outcome = Outcome(self.abort.status, headers, cause=CAUSE)
            if x.is_grpc:
                outcome.verdict = grpc_verdict(status_from_http(outcome.status))
            return self._end(x, attempt, outcome)
        twin = x.fork(x.attempt, x.why)
        twin.attempt_timeout = x.attempt_timeout - delay
        return await self.inner(twin)

    def _end(self, x: Exchange, attempt: Attempt, outcome: Outcome) -> Outcome:
        """Record the attempt on the exchange, and return its outcome."""
        attempt.ended = self.env.now()
        if outcome.failure is None:
            attempt.status, attempt.verdict = outcome.status, outcome.verdict
        attempt.reason = outcome.reason
        x.attempts.append(attempt)
        return outcome


def build(spec: Spec, ctx: BuildContext) -> Stage:
    """Return the stage of a route."""
    return FaultStage(spec, ctx)
