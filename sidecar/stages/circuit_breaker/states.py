"""States of a circuit: admission and the meaning of results in each.

Each transition makes a new state object.  A ticket names the state that admitted the request, so a result that comes
after a transition is recognised as late and is dropped.  No state has a timer: the clock is read when a request comes.
"""

from __future__ import annotations

from math import inf
from typing import TYPE_CHECKING, Any, Final

from sidecar.core.exchange import Exchange
from sidecar.core.outcome import Outcome
from sidecar.stages.circuit_breaker.evidence import Verdict
from sidecar.stages.circuit_breaker.trial import Ramp, Trial

if TYPE_CHECKING:
    from sidecar.stages.circuit_breaker.breaker import Breaker

CLOSED: Final = "closed"
HALF_OPEN: Final = "half_open"
OPEN: Final = "open"


class State:
    """Period that a circuit spends in one state."""

    __slots__ = ("breaker", "name")

    def __init__(self, breaker: Breaker, name: str) -> None:
        self.breaker = breaker
        self.name = name
        """`closed`, `half_open` or `open`."""

    def admit(self, x: Exchange, now: float) -> Ticket | None:
        """Return a ticket for a request that may pass; None to refuse it."""
        raise NotImplementedError

    def is_ready(self, now: float) -> bool:
        """True if `admit` would let a request through; takes no permit."""
        raise NotImplementedError

    def settle(self, x: Exchange, began: float, outcome: Outcome) -> None:
        """Record a result.  Called only for tickets of this state, and only while the circuit is in it."""
        raise NotImplementedError

    def wait(self, now: float) -> float | None:
        """Return the most seconds until more requests may pass; None if only an operator ends the state."""
        raise NotImplementedError

    def seen(self, now: float) -> tuple[str, str]:
        """Return the state in which the next request will find the circuit, and the reason.

        A circuit changes its state only when a request comes.  Without traffic, its own state stays `open` even after
        the open time.
        """
        return self.name, self.breaker.why

    def describe(self, now: float) -> dict[str, Any]:
        """Return the facts of this kind of state as JSON-ready values."""
        raise NotImplementedError


Ticket = tuple[State, float]
"""State that admitted a request, and the instant; infinite if no rule needs it."""


class Closed(State):
    """State in which every request passes and is counted."""

    __slots__ = ("shared_ticket",)

    def __init__(self, breaker: Breaker) -> None:
        super().__init__(breaker, CLOSED)
        self.shared_ticket: object = (self, inf)
        """Ticket of each request while no rule needs the duration of calls.  A rule that a reload adds does not judge
        these requests."""

    def admit(self, x: Exchange, now: float) -> Ticket | None:
        return self, now

    def is_ready(self, now: float) -> bool:
        return True

    def settle(self, x: Exchange, began: float, outcome: Outcome) -> None:
        breaker = self.breaker
        evidence = breaker.evidence
        now = breaker.now()
        bits = evidence.judge(x, began, outcome, now)
        if bits < 0:
            return
        verdict = evidence.learn(bits, now)
        if verdict is not None:
            breaker.trip(verdict, outcome, now)
        elif bits == 0 and breaker.reopened:
            breaker.count_success(now)

    def wait(self, now: float) -> float | None:
        return 0.0

    def describe(self, now: float) -> dict[str, Any]:
        return {}


class Open(State):
    """State in which no request passes until the open time is over."""

    __slots__ = ()

    def __init__(self, breaker: Breaker) -> None:
        super().__init__(breaker, OPEN)

    def admit(self, x: Exchange, now: float) -> Ticket | None:
        breaker = self.breaker
        if now < breaker.open_until or not breaker.may_probe:
            return None
        breaker.move(HALF_OPEN, f"it was open for {breaker.opened_for:.3g} s")
        return breaker.state.admit(x, now)

    def is_ready(self, now: float) -> bool:
        return now >= self.breaker.open_until and self.breaker.may_probe

    def settle(self, x: Exchange, began: float, outcome: Outcome) -> None:
        raise AssertionError("an open circuit admits nothing, so nothing of its own can end")

    def wait(self, now: float) -> float | None:
        until = self.breaker.open_until
        return None if until == inf else max(0.0, until - now)

    def seen(self, now: float) -> tuple[str, str]:
        if now < self.breaker.open_until:
            return OPEN, self.breaker.why
        return HALF_OPEN, f"it was open for {self.breaker.opened_for:.3g} s and waits for traffic to probe with"

    def describe(self, now: float) -> dict[str, Any]:
        wait = self.wait(now)
        return {"open_for": None if wait is None else self.breaker.opened_for, "next_probe_in": wait}


class HalfOpen(State):
    """State in which probes pass, and after good probes a rising share of all requests."""

    __slots__ = ("ramp", "trial")

    def __init__(self, breaker: Breaker) -> None:
        super().__init__(breaker, HALF_OPEN)
        breaker.evidence.clear()
        self.trial = Trial(breaker.evidence.thresholds, breaker.now())
        """Probes, which decide until there is a ramp."""
        self.ramp: Ramp | None = None
        """Rising share of requests; None until the probes were good."""

    def admit(self, x: Exchange, now: float) -> Ticket | None:
        if not self.is_ready(now):
            return None
        if self.breaker.state is not self:  # the elapsed time has caused a transition
            return self.breaker.state.admit(x, now)
        if self.ramp is None:
            self.trial.take(x, now)
        else:
            self.ramp.take()
        return self, now

    def is_ready(self, now: float) -> bool:
        breaker = self.breaker
        if self.ramp is None:
            verdict = self.trial.overdue(now)
            if verdict is None:
                return self.trial.has_permit and breaker.may_probe
            self._decide(verdict, None, now)
        if self.ramp is not None:
            share = self.ramp.share(breaker.evidence.thresholds.ramp, now)
            if share < 1:
                return self.ramp.is_next(share)
            breaker.recover("nothing tripped it during the ramp", now)
        return breaker.state.is_ready(now)

    def settle(self, x: Exchange, began: float, outcome: Outcome) -> None:
        breaker = self.breaker
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

    def begin_ramp(self, began: float) -> None:
        """Begin the ramp, as from the instant `began`, because the probes were good."""
        self.ramp = Ramp(began)

    def _decide(self, verdict: Verdict, outcome: Outcome | None, now: float) -> None:
        """Open the circuit, begin the ramp, or close the circuit if there is no ramp."""
        breaker = self.breaker
        ramp = breaker.evidence.thresholds.ramp
        if not verdict.is_good:
            breaker.trip(verdict, outcome, now)
        elif ramp == 0:
            breaker.recover(verdict.why, now)
        else:
            self.begin_ramp(now)
            breaker.report(self.name, verdict.why, ramp=ramp)

    def wait(self, now: float) -> float | None:
        ends = self.trial.deadline if self.ramp is None else self.ramp.began + self.breaker.evidence.thresholds.ramp
        return max(0.0, ends - now)

    def seen(self, now: float) -> tuple[str, str]:
        if self.ramp is not None and self.ramp.share(self.breaker.evidence.thresholds.ramp, now) >= 1:
            return CLOSED, "nothing tripped it during the ramp"
        if self.ramp is None and not self.trial.in_flight and now >= self.trial.deadline:
            return HALF_OPEN, f"{self.breaker.why}; it waits for traffic to probe with"
        return HALF_OPEN, self.breaker.why

    def describe(self, now: float) -> dict[str, Any]:
        if self.ramp is not None:
            return {"share": round(self.ramp.share(self.breaker.evidence.thresholds.ramp, now), 3)}
        return {"probes": self.trial.describe()}
