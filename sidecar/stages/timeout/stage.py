"""Deadline: when the whole request, one try, and the next piece of a body are due.

The gate only stamps instants and durations on the exchange; whoever waits reads them: the upstream client sweeps its
busy connections, retry and hedge start nothing that cannot end, the queue takes nobody who cannot be served in time,
and the time that is left travels upstream.  So a request costs two comparisons here, and no timer.

Decisions:

- `request` counts from the first byte of the request to the last of the response, body and retries included, as the
  policy format says (Envoy's route timeout starts only at the request's end, its `max_stream_duration` is like ours).
- A deadline that came in with the request has already been stamped by the edge; the earlier instant holds.
- Nothing left is a refusal (504, `timeout`) before anything is sent: a caller that has given up is no load upstream.
- `off` for one key is for streams without an end (server-sent events, WebSocket).
- `mode: observe` stamps nothing and counts answers that came later than they would have been allowed to.
"""

from __future__ import annotations

from sidecar.core import metrics
from sidecar.core.env import BuildContext
from sidecar.core.exchange import Exchange
from sidecar.core.outcome import DEADLINE, TIMEOUT, Outcome, Refusal, failed
from sidecar.core.stage import Gate
from sidecar.stages.timeout.spec import HEADER, Spec

__all__ = ["Spec", "build"]


class Deadline:
    """Stamps what is due on the exchange; refuses where no time is left."""

    def __init__(self, spec: Spec, ctx: BuildContext) -> None:
        self.request = spec.request
        self.attempt = spec.attempt
        self.idle = spec.idle
        self.header = b"" if spec.header == "off" else spec.header.lower().encode()
        self.is_usual = spec.header == HEADER
        self.now = ctx.env.now
        self.where = ctx.where

    def admit(self, x: Exchange) -> object:
        due = x.arrived + self.request
        if due < x.deadline:
            x.deadline = due
        x.attempt_timeout = self.attempt
        x.idle_timeout = self.idle
        if not self.is_usual:
            self.use_header(x)
        now = self.now()
        return None if now < x.deadline else self.refuse(x, now)

    def use_header(self, x: Exchange) -> None:
        """Another field than the usual one says how much time is left."""
        x.timeout_header = self.header
        left = x.header(self.header) if self.header else None
        if left is not None:
            x.headers = [field for field in x.headers if field[0] != self.header]
            if left.isdigit() and len(left) < 10:
                x.deadline = min(x.deadline, x.arrived + int(left) / 1000)

    def refuse(self, x: Exchange, now: float) -> Outcome:
        """Too late before it began."""
        allowed = x.deadline - x.arrived
        whose = "the caller" if allowed < self.request else "this route"
        detail = f"{whose} allows {max(0.0, allowed):.3g} s, and they were over before the request could be sent"
        return failed(DEADLINE, Refusal("timeout", self.where, detail, limit=allowed, value=now - x.arrived))

    def settle(self, x: Exchange, ticket: object, outcome: Outcome) -> None:
        """Nothing was taken, so there is nothing to give back; a timeout is told whose it was."""
        if outcome.failure is not TIMEOUT:
            return
        now = self.now()
        if now < x.deadline:
            limit, whose = self.attempt, f"this route allows {self.attempt:.3g} s for one try"
        else:
            limit = x.deadline - x.arrived
            whose = f"{'the caller' if limit < self.request else 'this route'} allows {limit:.3g} s in all"
        detail = f"{outcome.cause}: {whose}" if outcome.cause else whose
        outcome.refusal = Refusal("timeout", self.where, detail, limit, round(now - x.arrived, 3))


class Observer:
    """Counts answers that came too late, whole or in one of their tries, and changes nothing."""

    def __init__(self, spec: Spec, ctx: BuildContext) -> None:
        self.spec = spec
        self.now = ctx.env.now
        self.late = ctx.env.meter.counter(metrics.WOULD_REFUSE, policy="timeout", route=ctx.route)

    def admit(self, x: Exchange) -> object:
        return min(x.deadline, x.arrived + self.spec.request)

    def settle(self, x: Exchange, ticket: object, outcome: Outcome) -> None:
        if outcome.failure is not None and outcome.failure.origin == "client":
            return  # how long it would have taken nobody knows
        slow = any(attempt.ended - attempt.started > self.spec.attempt for attempt in x.attempts)
        if slow or self.now() > ticket:  # type: ignore[operator]
            self.late.value += 1


def build(spec: Spec, ctx: BuildContext) -> Gate:
    """The gate of a route's `timeout` block."""
    return Deadline(spec, ctx) if spec.is_enforced else Observer(spec, ctx)
