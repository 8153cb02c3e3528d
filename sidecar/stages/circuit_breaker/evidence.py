"""What results say: which are failures, how many there lately were, and whether that is too many."""

from __future__ import annotations

from typing import Any, Final, NamedTuple

from sidecar.core.exchange import Attempt, Exchange
from sidecar.core.outcome import Outcome
from sidecar.core.window import FAILED, SLOW, CountWindow, TimeWindow, Window
from sidecar.stages.circuit_breaker.spec import CallsSpec, Rules, Spec

IGNORED: Final = -1
"""The result of a call that says nothing about the upstream."""
ROUNDING: Final = 1e-9
"""Shares are binary fractions: 7 of 100 calls have to reach 7 %."""


class Verdict(NamedTuple):
    """What the evidence says, and by which measure."""

    is_good: bool
    why: str
    limit: float = 0.0
    value: float = 0.0


def answered(x: Exchange, began: float) -> Attempt | None:
    """The try behind a ticket if its head has come: what is known of a call whose body still streams."""
    for attempt in reversed(x.attempts):
        if attempt.number == x.attempt and attempt.answered and attempt.started >= began:
            return attempt
    return None


class Evidence:
    """The window of recent calls and the failures in a row, under rules that a reload may change."""

    __slots__ = ("_length", "in_a_row", "rules", "window")

    def __init__(self, spec: Spec) -> None:
        self._length: float | CallsSpec = 0.0
        self.window: Window
        self.retune(spec)
        self.in_a_row = 0
        """Failures since the last success."""

    def retune(self, spec: Spec) -> None:
        """Take new settings; counts stay while the window's length does."""
        self.rules = Rules(spec)
        if spec.window != self._length:
            length = self._length = spec.window
            self.window = CountWindow(length.calls) if isinstance(length, CallsSpec) else TimeWindow(length)

    def clear(self) -> None:
        self.window.clear()
        self.in_a_row = 0

    def judge(self, x: Exchange, began: float, outcome: Outcome, now: float) -> int:
        """What a result is: bits of `core.window`, or IGNORED."""
        rules = self.rules
        if rules.failures.match(outcome):
            bits = FAILED
        elif outcome.failure is None:
            bits = 0
        else:
            return IGNORED
        if now - began > rules.slow_after:
            if outcome.stream is None:
                return bits | SLOW
            # How long a streamed body takes is as much for its reader to say: its head counts.
            head = answered(x, began)
            if head is not None and head.answered - began > rules.slow_after:
                return bits | SLOW
        return bits

    def learn(self, bits: int, now: float) -> Verdict | None:
        """Count a result; the verdict if it is one too many.  A good one never is."""
        rules = self.rules
        self.window.record(bits, now)
        if not bits & FAILED:
            self.in_a_row = 0
            if not bits:
                return None
        else:
            self.in_a_row += 1
            if self.in_a_row >= rules.in_a_row:
                why = f"{self.in_a_row} failure{'s' * (self.in_a_row > 1)} in a row"
                return Verdict(False, why, rules.in_a_row, self.in_a_row)
        calls, failed, slow = self.window.counts(now)
        if calls < rules.min_calls:
            return None
        if bits & FAILED and failed >= rules.failure_rate * calls - ROUNDING:
            return Verdict(False, f"{failed} of {calls} calls failed", rules.failure_rate, failed / calls)
        if bits & SLOW and slow >= rules.slow_rate * calls - ROUNDING:
            return Verdict(False, f"{slow} of {calls} calls were slow", rules.slow_rate, slow / calls)
        return None

    def describe(self, now: float) -> dict[str, Any]:
        calls, failed, slow = self.window.counts(now)
        return {
            "calls": calls,
            "failed": failed,
            "slow": slow,
            "failure_rate": round(failed / calls, 4) if calls else None,
            "slow_rate": round(slow / calls, 4) if calls else None,
            "failures_in_a_row": self.in_a_row,
        }
