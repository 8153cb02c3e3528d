"""Stages of an arm: they report the outcome of each request to the rollout.

Its place is inside the cache, whose hits say nothing about an upstream, and outside of everything that limits, retries
or judges attempts.  So it sees what the route's policies have made of the upstream, but not what a fallback hides.
Without `return_when` an `OutcomeCounter` stands there.
"""

from __future__ import annotations

from collections.abc import Callable

from sidecar.core.exchange import Exchange
from sidecar.core.outcome import BREAKER_OPEN, Outcome
from sidecar.rollout.arms import Arms


class ArmStage:
    """Observer of one arm whose latencies are not compared."""

    __slots__ = ("_arm", "_arms")

    def __init__(self, arms: Arms, arm: int) -> None:
        self._arms = arms
        self._arm = arm

    def settle(self, x: Exchange, ticket: object, outcome: Outcome) -> None:
        failure = outcome.failure
        if failure is None:
            self._arms.note(self._arm, outcome.verdict >= 500, 0.0, False)
        elif failure.origin != "client":
            self._arms.note(self._arm, True, 0.0, failure.code == BREAKER_OPEN.code)


class ArmTicket:
    """Ticket of a request: when it came, and when the head of its response was there."""

    __slots__ = ("answered", "began")

    def __init__(self, began: float) -> None:
        self.began = began
        self.answered = 0.0


class TimedArmStage:
    """Stage of one arm whose latencies are compared too."""

    __slots__ = ("_arm", "_arms", "_now")

    def __init__(self, arms: Arms, arm: int, now: Callable[[], float]) -> None:
        self._arms = arms
        self._arm = arm
        self._now = now

    def admit(self, x: Exchange) -> object:
        return ArmTicket(self._now())

    def answer(self, x: Exchange, ticket: object, outcome: Outcome) -> object:
        assert isinstance(ticket, ArmTicket)
        ticket.answered = self._now()
        return outcome

    def settle(self, x: Exchange, ticket: object, outcome: Outcome) -> None:
        failure = outcome.failure
        if failure is not None and failure.origin == "client":
            return
        assert isinstance(ticket, ArmTicket)
        is_bad = failure is not None or outcome.verdict >= 500
        is_refused = failure is not None and failure.code == BREAKER_OPEN.code
        self._arms.note(self._arm, is_bad, (ticket.answered or self._now()) - ticket.began, is_refused)
