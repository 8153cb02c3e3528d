"""Stage `circuit_breaker`: refuses requests while a circuit is open.

The circuit decides (`breaker.py`).  The stage has the parts of one route: the refusal, the mode, and notes on a
request's trace.  A ticket names the state that admitted the request, so a late result of an earlier state is dropped.

Rules, in short (`docs/design/circuit-breaker.md` has the reasons and the choices of other libraries):

- An outcome that `failures` names is a failure.  Other failures, refusals of the sidecar and clients that leave count
  as nothing.
- A good result never opens the circuit; a slow one can.
- The first request after the open time begins the probes, whose share of failures decides; then a ramp follows.
- A streamed body is settled at its end; its slowness is that of its head.
"""

from __future__ import annotations

from typing import Any, Final

from sidecar.core import events, metrics
from sidecar.core.env import BuildContext
from sidecar.core.exchange import Exchange, RequestTrace
from sidecar.core.metrics import Counter
from sidecar.core.outcome import BREAKER_OPEN, NO_REFUSAL, Outcome, Refusal
from sidecar.core.stage import Gate
from sidecar.stages.circuit_breaker.breaker import Breaker
from sidecar.stages.circuit_breaker.evidence import Verdict
from sidecar.stages.circuit_breaker.spec import Spec
from sidecar.stages.circuit_breaker.states import HALF_OPEN, Closed, State, Ticket

LATER: Final = ("sidecar.stages.circuit_breaker.machine",)
"""Modules that are needed from the first transition on, imported once the process serves."""
REFUSAL_LASTS: Final = 0.1
"""Seconds for which a refusal is reused; its Retry-After is too long by at most that."""


class CircuitBreakerStage:
    """Stage of one route before a circuit."""

    __slots__ = ("_breaker", "_observed", "_refusal", "_refusal_state", "_refusal_until", "_where")

    def __init__(self, breaker: Breaker, where: str, observed: Counter | None) -> None:
        """`observed` counts requests that would have been refused; None to refuse them."""
        self._breaker = breaker
        self._where = where
        self._observed = observed
        self._refusal: Refusal = NO_REFUSAL
        self._refusal_state: State | None = None
        self._refusal_until = 0.0

    def admit(self, x: Exchange) -> object:
        breaker = self._breaker
        shared = breaker.shared_ticket
        if shared is not None:
            return shared
        now = breaker.now()
        state = breaker.state
        ticket = state.admit(x, now)
        if x.trace is not None and not (state is breaker.state and state.__class__ is Closed):
            self._trace(x, x.trace, state, ticket)
        if ticket is not None:
            return ticket
        breaker.refused += 1
        if self._observed is not None:
            self._observed.value += 1
            return None
        if now >= self._refusal_until or breaker.state is not self._refusal_state:
            self._renew_refusal(breaker, now)
        return Outcome(503, None, b"", failure=BREAKER_OPEN, refusal=self._refusal)

    def settle(self, x: Exchange, ticket: Any, outcome: Outcome) -> None:
        if ticket is None:  # under observe: the circuit has not admitted the request
            return
        admitted: Ticket = ticket  # not a `cast`, which is a call where it is not compiled
        state, began = admitted
        if state is self._breaker.state:
            state.settle(x, began, outcome)
            if x.trace is not None and self._breaker.state is not state:
                self._trace(x, x.trace, state, None)

    def _trace(self, x: Exchange, trace: RequestTrace, before: State, ticket: Ticket | None) -> None:
        """Note a probe, and a transition that the request has caused."""
        breaker = self._breaker
        after = breaker.state
        if after is not before:
            trace.note(events.TRANSITED, breaker=breaker.name, before=before.name, after=after.name, why=breaker.why)
        if ticket is not None and ticket[0].name == HALF_OPEN:
            trace.note(events.PROBED, breaker=breaker.name, attempt=x.attempt)

    def would_admit(self) -> bool:
        """True if a request would pass now; a balancer asks before it chooses an endpoint."""
        breaker = self._breaker
        if self._observed is not None or breaker.shared_ticket is not None:
            return True
        return breaker.state.is_ready(breaker.now())

    def _renew_refusal(self, breaker: Breaker, now: float) -> None:
        """Make the refusal that the next requests share."""
        self._refusal_state = breaker.state
        self._refusal_until = now + REFUSAL_LASTS
        # while half-open, the verdict that opened the circuit is outdated
        verdict = Verdict(False, "") if breaker.state.name == HALF_OPEN else breaker.verdict
        self._refusal = Refusal(
            policy="circuit_breaker",
            where=self._where,
            detail=breaker.explain(),
            limit=verdict.limit or None,
            value=verdict.value or None,
            retry_after=breaker.retry_after,
        )

    def __repr__(self) -> str:
        return f"<CircuitBreakerStage {self._breaker!r}>"


def build(spec: Spec, ctx: BuildContext) -> Gate:
    """Return the stage before the circuit of a route, of an upstream, or of one endpoint."""
    breaker: Breaker = ctx.obtain(("breaker", *ctx.owner), spec, lambda: Breaker(spec, ctx.env, ":".join(ctx.owner)))
    observed = None
    if not spec.is_enforced:
        observed = ctx.env.meter.counter(metrics.WOULD_REFUSE, policy="circuit_breaker", route=ctx.route)
    return CircuitBreakerStage(breaker, ctx.where, observed)
