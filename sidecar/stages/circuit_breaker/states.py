"""The three states: pybreaker's classes, with `admit` and `settle` in the place of its `call`.

Each transition makes a new object.  `admit` gives a ticket, that is the state and the instant, or None; `is_ready`
says whether it would, and takes no permit; `settle` is only asked for tickets of the state that still holds; `wait`
says in how many seconds at the latest more may pass.
"""

from __future__ import annotations

from collections.abc import Callable
from math import inf
from typing import TYPE_CHECKING, Any, Final

from sidecar.core.exchange import Exchange
from sidecar.core.imports import hidden
from sidecar.core.outcome import Outcome
from sidecar.stages.circuit_breaker.evidence import Verdict
from sidecar.stages.circuit_breaker.trial import Ramp, Trial

with hidden("redis", "tornado"):
    from pybreaker import CircuitBreakerState, CircuitClosedState, CircuitHalfOpenState, CircuitOpenState

if TYPE_CHECKING:
    from sidecar.stages.circuit_breaker.machine import Breaker


class Closed(CircuitClosedState):
    """Everything passes and is counted."""

    _breaker: Breaker

    def admit(self, _x: Exchange, now: float) -> Ticket | None:
        return self, now

    def is_ready(self, _now: float) -> bool:
        return True

    def settle(self, x: Exchange, began: float, outcome: Outcome) -> None:
        breaker = self._breaker
        evidence = breaker.evidence
        now = breaker.now()
        bits = evidence.judge(x, began, outcome, now)
        if bits < 0:
            return
        verdict = evidence.learn(bits, now)
        if verdict is not None:
            breaker.trip(verdict, outcome, now)
        elif bits == 0 and breaker.reopened:
            breaker.see_health(now)

    def wait(self, _now: float) -> float | None:
        return 0.0

    def describe(self, _now: float) -> dict[str, Any]:
        return {}


class Open(CircuitOpenState):
    """Nothing passes until the time is up."""

    _breaker: Breaker

    def admit(self, x: Exchange, now: float) -> Ticket | None:
        breaker = self._breaker
        if now < breaker.open_until:
            return None
        breaker.move(breaker.half_open, f"it was open for {breaker.opened_for:.3g} s")
        return breaker.admit(x, now)

    def is_ready(self, now: float) -> bool:
        return now >= self._breaker.open_until

    def settle(self, _x: Exchange, _began: float, _outcome: Outcome) -> None:
        raise AssertionError("an open circuit admits nothing, so nothing of its own can end")

    def wait(self, now: float) -> float | None:
        until = self._breaker.open_until
        return None if until == inf else max(0.0, until - now)

    def describe(self, now: float) -> dict[str, Any]:
        wait = self.wait(now)
        return {"open_for": None if wait is None else self._breaker.opened_for, "next_probe_in": wait}


class HalfOpen(CircuitHalfOpenState):
    """A few pass; if they do well, more and more."""

    _breaker: Breaker

    def __init__(self, cb: Breaker, prev_state: CircuitBreakerState | None = None, notify: bool = False) -> None:
        cb.evidence.clear()
        self.trial = Trial(cb.evidence.rules, cb.now())
        self.ramp: Ramp | None = None
        super().__init__(cb, prev_state, notify)

    def admit(self, x: Exchange, now: float) -> Ticket | None:
        if not self.is_ready(now):
            return None
        if self._breaker._state is not self:  # time had decided
            return self._breaker.admit(x, now)
        if self.ramp is None:
            self.trial.take(x, now)
        else:
            self.ramp.take()
        return self, now

    def is_ready(self, now: float) -> bool:
        breaker = self._breaker
        if self.ramp is None:
            verdict = self.trial.overdue(now)
            if verdict is None:
                return self.trial.has_permit
            self._decide(verdict, None, now)
        if self.ramp is not None:
            share = self.ramp.share(breaker.evidence.rules.ramp, now)
            if share < 1:
                return self.ramp.is_next(share)
            breaker.recover("nothing tripped it during the ramp", now)
        return breaker._state.is_ready(now)

    def settle(self, x: Exchange, began: float, outcome: Outcome) -> None:
        breaker = self._breaker
        now = breaker.now()
        bits = breaker.evidence.judge(x, began, outcome, now)
        verdict: Verdict | None = None
        if self.ramp is not None:
            if bits >= 0:
                verdict = breaker.evidence.learn(bits, now)
        else:
            self.trial.give_back(x, began)
            if bits >= 0:
                breaker.evidence.window.record(bits, now)
                verdict = self.trial.record(bits, now)
        if verdict is not None:
            self._decide(verdict, outcome, now)

    def _decide(self, verdict: Verdict, outcome: Outcome | None, now: float) -> None:
        breaker = self._breaker
        ramp = breaker.evidence.rules.ramp
        if not verdict.is_good:
            breaker.trip(verdict, outcome, now)
        elif ramp == 0:
            breaker.recover(verdict.why, now)
        else:
            self.ramp = Ramp(now)
            breaker.note(self.name, verdict.why, ramp=ramp)

    def wait(self, now: float) -> float | None:
        ends = self.trial.deadline if self.ramp is None else self.ramp.began + self._breaker.evidence.rules.ramp
        return max(0.0, ends - now)

    def describe(self, now: float) -> dict[str, Any]:
        if self.ramp is not None:
            return {"share": round(self.ramp.share(self._breaker.evidence.rules.ramp, now), 3)}
        return {"probes": self.trial.describe()}


State = Closed | Open | HalfOpen
Ticket = tuple[State, float]
"""The state that admitted, and when."""
STATES: Final[dict[str, Callable[..., State]]] = {"closed": Closed, "open": Open, "half-open": HalfOpen}
