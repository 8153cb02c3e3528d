"""Stage `timeout`: sets the deadline and the timeouts of an exchange.

Other parts enforce them: the upstream client sweeps its busy connections, retry and hedge start no attempt that would
end too late, and the queue of `concurrency` refuses requests that cannot be served in time.

Rules:

1. `request` counts from the first byte of the request to the last of the response, body and retries included.
   (Envoy's `max_stream_duration` does the same; its route timeout starts at the end of the request.)
2. A deadline that came with the request is on the exchange already.  The earlier of the two holds.
3. If no time is left, the request is refused (504, `timeout`) before anything is sent.
4. `off` for a key is for endless streams, such as server-sent events and WebSocket, and changes no other key.
5. `mode: observe` sets nothing, and counts responses that exceed the limits.
6. The refusal says which limit was exceeded: of the request, of one attempt, or between two pieces of a body.
"""

from __future__ import annotations

from typing import cast

from sidecar.core import metrics
from sidecar.core.env import BuildContext
from sidecar.core.exchange import NEVER, SHORTEST_ANSWER, Attempt, Exchange
from sidecar.core.message import fold
from sidecar.core.outcome import DEADLINE, SHORT_DEADLINE, TIMEOUT, Outcome, Refusal, failed
from sidecar.core.stage import Gate
from sidecar.stages.timeout.spec import HEADER, Spec


class TimeoutStage:
    """Sets deadline and timeouts on the exchange; refuses a request that has no time left."""

    def __init__(self, spec: Spec, ctx: BuildContext) -> None:
        self.request = spec.request
        self.attempt = spec.attempt
        self.idle = spec.idle
        self.header = b"" if spec.header == "off" else spec.header.lower().encode()
        self.folded = fold(self.header)
        self.is_usual = spec.header == HEADER
        """True if the time left comes in the default field, which the downstream connection has read."""
        self.now = ctx.env.now
        self.where = ctx.where

    def admit(self, x: Exchange) -> object:
        due = x.arrived + self.request
        if due < x.deadline:
            x.deadline = due
        x.attempt_timeout = self.attempt
        x.idle_timeout = self.idle
        if not self.is_usual:
            self.read_header(x)
        # A request without a body has arrived just now: this stage is the outermost one.
        now = x.arrived if x.stream is None and not x.body else self.now()
        return None if now < x.deadline else self.refuse(x, now)

    def read_header(self, x: Exchange) -> None:
        """Read the time left from the policy's own field."""
        x.timeout_header = self.header
        if not self.header:
            return
        left = x.header(self.header)
        x.headers = [field for field in x.headers if fold(field[0]) != self.folded]
        if left is not None and left.isdigit() and len(left) < 10:
            x.shorten_deadline(int(left) / 1000)

    def refuse(self, x: Exchange, now: float) -> Outcome:
        """Return the refusal of a request that has no time left."""
        allowed = x.deadline - x.arrived
        whose = "the caller" if allowed < self.request else "this route"
        detail = f"{whose} allows {max(0.0, allowed):.3g} s, which were over before the request could be sent"
        return failed(DEADLINE, Refusal("timeout", self.where, detail, limit=allowed, value=now - x.arrived))

    def settle(self, x: Exchange, ticket: object, outcome: Outcome) -> None:
        """Add to a timeout a refusal that says which limit was exceeded.  No resource is released."""
        failure = outcome.failure
        if failure is None or (failure is not TIMEOUT and failure is not SHORT_DEADLINE):
            return
        now = self.now()
        if now + SHORTEST_ANSWER >= x.deadline:
            limit = x.deadline - x.arrived
            whose = f"{'the caller' if limit < self.request else 'this route'} allows {limit:.3g} s in all"
        elif self.is_attempt_over(x, now):
            limit, whose = self.attempt, f"this route allows {self.attempt:.3g} s for one attempt"
        else:
            limit, whose = self.idle, f"this route allows {self.idle:.3g} s between two pieces of a body"
        detail = f"{outcome.cause}: {whose}" if outcome.cause else whose
        outcome.refusal = Refusal("timeout", self.where, detail, limit, round(now - x.arrived, 3))

    def is_attempt_over(self, x: Exchange, now: float) -> bool:
        """True if the last attempt to end, or the one in flight, has used up its time.

        False means that its body paused for too long.
        """
        if self.attempt <= self.idle or not x.attempts:
            return self.attempt != NEVER
        return now - max(x.attempts, key=_end).started >= self.attempt


class TimeoutObserver:
    """Counts responses that exceed the limits, in all or in one of their attempts, and changes nothing."""

    def __init__(self, spec: Spec, ctx: BuildContext) -> None:
        self.request = spec.request
        self.attempt = spec.attempt
        self.now = ctx.env.now
        self.observed = ctx.env.meter.counter(metrics.WOULD_REFUSE, policy="timeout", route=ctx.route)

    def admit(self, x: Exchange) -> object:
        return min(x.deadline, x.arrived + self.request)

    def settle(self, x: Exchange, ticket: object, outcome: Outcome) -> None:
        if outcome.tunnel is not None or (outcome.failure is not None and outcome.failure.origin == "client"):
            return  # a 101 ends the deadline; without the client's failure the duration is unknown
        due = cast("float", ticket)
        is_slow = any(attempt.ended - attempt.started > self.attempt for attempt in x.attempts)
        if is_slow or self.now() > due:
            self.observed.value += 1


def _end(attempt: Attempt) -> float:
    """Return the instant of an attempt's end, infinite while it runs."""
    return attempt.ended or NEVER


def build(spec: Spec, ctx: BuildContext) -> Gate:
    """Return the stage of a route."""
    return TimeoutStage(spec, ctx) if spec.is_enforced else TimeoutObserver(spec, ctx)
