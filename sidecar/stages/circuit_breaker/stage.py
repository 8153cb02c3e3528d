"""Circuit breaker: after too much failure stop asking for a while, then feel the way back.

pybreaker supplies the machine (closed, open, half-open; the transitions and who hears of them); evidence, admission and
time are ours, because its own ways in count a coroutine's creation as success, a cancellation as failure, and let
everyone through half-open.  Per call that is one `admit` and one `settle`, under a microsecond together.

A ticket names the state object that admitted.  Each transition makes a new one, so a result of an earlier time meets
no taker.  No timers: time is looked at when a request comes, so an idle breaker costs nothing.

Corner cases, and how Resilience4j (R4j) and Polly decide them:

- *Does a success trip?*  A good one never: evidence of health is no reason to refuse.  A slow one can, by the slow
  rate alone.  R4j evaluates after any result, so a good call that completes `min_calls` may open; Polly on failures.
- *What is a success?*  A response that `failures` does not name.  A failure that it does not name, a refusal of our own
  and a client that leaves count as nothing and return the probe's permit.  R4j releases the permit of a cancelled
  call too; Polly counts whatever it does not handle as a success, and closes on it.
- *Late results* of an earlier state are dropped.  R4j and Polly credit them to the state of the moment, so that a call
  from before the trip can close or reopen a half-open circuit.
- *What ends the open time?*  The first request after it, not a timer (Polly too; R4j by default).  It doubles while
  probes fail and shrinks again by health that was seen, not by time: one step for `min_calls` good calls over at
  least the last open time.  R4j and Polly can grow too, and forget it all on closing.
- *Retry-After* of the answer that trips replaces the open time, shorter or longer, up to `max_open_for`.  Jitter only
  ever adds, so that nobody probes before the time that callers were told.
- *Who is admitted half-open?*  `probes` in all, those under way and those answered together (R4j; Polly admits one).
- *The verdict* is a share, as in R4j: the `failure_rate` (50 % if off) or slow rate of the probes, given as soon as the
  rest cannot change it.  One unlucky probe in three does not cost another open period.
- *For how long?*  `verdict_within`; then what is known decides, and a probe without an answer for so long has failed.
  With nothing known (every probe cancelled, or no traffic) the time starts again and a permit is free.  R4j by
  default waits for ever, else opens without evidence; Polly has no limit, so a lost probe holds it for good.
- *And then?*  Ramp: the share let through rises in a straight line from a tenth (Envoy's slow start) to all, and any
  trip on the way reopens.  R4j and Polly let the whole herd in at once.  The state is half-open until the ramp's end.
- *Does a window survive?*  It is cleared on going half-open and then kept: probes and ramp count towards the closed
  state, which is judged by the same rules.  R4j and Polly begin anew on closing.  While open nothing is recorded.
- *Forced* open or closed is a state without an end: results are counted and cannot trip.  `auto` goes from forced open
  to half-open, since nobody knows better than a probe, and from forced closed to closed.
- *Streams* are settled at the body's end, so one that breaks off is a failure; slowness is that of the head,
  and a probe whose head has come when the verdict is due is judged by its status.
- *A reload* keeps state and counts; only another window length starts the counts anew.
"""

from __future__ import annotations

from typing import Final, cast

from sidecar.core import events, metrics
from sidecar.core.env import BuildContext
from sidecar.core.exchange import Exchange
from sidecar.core.metrics import Counter
from sidecar.core.outcome import BREAKER_OPEN, NO_REFUSAL, Outcome, Refusal
from sidecar.core.stage import Gate
from sidecar.stages.circuit_breaker.machine import Breaker
from sidecar.stages.circuit_breaker.spec import Spec
from sidecar.stages.circuit_breaker.states import Closed, HalfOpen, State, Ticket

__all__ = ["Breaker", "BreakerGate", "Spec", "build", "endpoint_breaker"]

REFUSAL_LASTS: Final = 0.1
"""Seconds for which one computed refusal is given out; its Retry-After is too long by at most that."""


class BreakerGate:
    """A breaker as one route meets it: the refusal's words and the mode are the route's, the circuit may be shared."""

    __slots__ = ("_breaker", "_observed", "_refusal", "_refusal_of", "_refusal_until", "_where")

    def __init__(self, breaker: Breaker, where: str, observed: Counter | None = None) -> None:
        self._breaker = breaker
        self._where = where
        self._observed = observed
        """Set in `mode: observe`: counts what would have been refused."""
        self._refusal: Refusal = NO_REFUSAL
        self._refusal_of: State | None = None
        self._refusal_until = 0.0

    def admit(self, x: Exchange) -> Ticket | Outcome | None:
        breaker = self._breaker
        now = breaker.now()
        state = breaker._state
        ticket = state.admit(x, now)
        if x.trace is not None and not (state is breaker._state and state.__class__ is Closed):
            self._tell(x, state, ticket)
        if ticket is not None:
            return ticket
        breaker.refused += 1
        if self._observed is not None:
            self._observed.value += 1
            return None
        if now >= self._refusal_until or breaker._state is not self._refusal_of:
            self._refuse_anew(breaker, now)
        return Outcome(503, None, b"", failure=BREAKER_OPEN, refusal=self._refusal)

    def settle(self, x: Exchange, ticket: object, outcome: Outcome) -> None:
        if ticket is None:  # observed: it passed without leave
            return
        state, began = cast("Ticket", ticket)
        if state is self._breaker._state:
            state.settle(x, began, outcome)
            if x.trace is not None and self._breaker._state is not state:
                self._tell(x, state, None)

    def _tell(self, x: Exchange, before: State, ticket: Ticket | None) -> None:
        """Note on the request's trace that it probes, and what it has changed."""
        breaker = self._breaker
        after = breaker._state
        if after is not before:
            facts = {"before": before.name, "after": after.name, "why": breaker.why}
            x.trace.note(events.TRANSITED, breaker=breaker.name, **facts)
        if ticket is not None and ticket[0].__class__ is HalfOpen:
            x.trace.note(events.PROBED, breaker=breaker.name, attempt=x.attempt)

    def would_admit(self) -> bool:
        """Would a request pass now?  For a balancer, before it chooses."""
        breaker = self._breaker
        return self._observed is not None or breaker._state.is_ready(breaker.now())

    def _refuse_anew(self, breaker: Breaker, now: float) -> None:
        self._refusal_of = breaker._state
        self._refusal_until = now + REFUSAL_LASTS
        verdict = breaker.verdict
        self._refusal = Refusal(
            policy="circuit_breaker",
            where=self._where,
            detail=breaker.explain(),
            limit=verdict.limit or None,
            value=verdict.value or None,
            retry_after=breaker.retry_after,
        )

    def __repr__(self) -> str:
        return f"<BreakerGate {self._breaker!r}>"


def _gate(spec: Spec, ctx: BuildContext, owner: tuple[str, ...]) -> BreakerGate:
    breaker = ctx.obtain(("breaker", *owner), spec, lambda: Breaker(spec, ctx.env, ":".join(owner)))
    observed = None
    if not spec.is_enforced:
        observed = ctx.env.meter.counter(metrics.WOULD_REFUSE, policy="circuit_breaker", route=ctx.route)
    return BreakerGate(breaker, ctx.where, observed)


def build(spec: Spec, ctx: BuildContext) -> Gate:
    """The breaker of a route or, under an upstream, the one that all its routes share."""
    return _gate(spec, ctx, ctx.owner)


def endpoint_breaker(spec: Spec, ctx: BuildContext, endpoint: str) -> BreakerGate:
    """The breaker of one endpoint (`per: endpoint`), for whoever chooses endpoints: one that refuses is passed over."""
    return _gate(spec, ctx, ("upstream", ctx.upstream, endpoint))
