"""Evidence: classification of results, counts of recent ones, and the verdict on them."""

from __future__ import annotations

from math import inf
from typing import Any, Final, NamedTuple

from sidecar.core.conditions import Conditions
from sidecar.core.exchange import Attempt, Exchange
from sidecar.core.outcome import Outcome
from sidecar.core.window import FAILED, SLOW, CountWindow, TimeWindow, Window
from sidecar.stages.circuit_breaker.spec import CallsSpec, Spec

IGNORED: Final = -1
"""Classification of a call that says nothing about the upstream."""
ROUNDING: Final = 1e-9
"""Tolerance in comparisons of shares, which are binary fractions: 7 of 100 calls must reach a share of 0.07."""
NO_LIMIT: Final = 1 << 60
"""Threshold that no count reaches."""
OUT_OF_REACH: Final = 2.0
"""Threshold that no share reaches."""


class Thresholds:
    """Settings of a circuit as numbers.  A rule that is off has a threshold out of reach."""

    __slots__ = (
        "failure_rate", "failures", "in_a_row", "jitter", "max_open_for", "min_calls", "open_for", "probe_rate",
        "probes", "ramp", "slow_after", "slow_rate", "verdict_within",
    )  # fmt: skip

    def __init__(self, spec: Spec) -> None:
        self.failures = Conditions(spec.failures)
        self.min_calls = spec.min_calls
        self.failure_rate = OUT_OF_REACH if spec.failure_rate == "off" else spec.failure_rate
        self.slow_after = inf if spec.slow_calls is None else spec.slow_calls.longer_than
        self.slow_rate = OUT_OF_REACH if spec.slow_calls is None else spec.slow_calls.rate
        self.in_a_row = NO_LIMIT if spec.consecutive_failures is None else spec.consecutive_failures
        self.open_for = spec.open_for
        self.max_open_for = spec.max_open_for
        self.jitter = spec.jitter
        self.probes = spec.half_open.probes
        self.probe_rate = 0.5 if spec.failure_rate == "off" else spec.failure_rate
        """Share of failed probes that opens the circuit again."""
        self.verdict_within = spec.half_open.verdict_within
        self.ramp = spec.half_open.ramp


class Verdict(NamedTuple):
    """Verdict on the evidence, with the measured value behind it."""

    is_good: bool
    why: str
    """Reason, in a few words."""
    limit: float = 0.0
    """Threshold that was reached; 0.0 if no single one was."""
    value: float = 0.0
    """Measured value."""


def client_seconds(x: Exchange, now: float) -> float:
    """Return the seconds in which the upstream has waited for the client's body until `now`."""
    return 0.0 if x.stream is None else x.stream.blocked_for(now)


def streaming_attempt(x: Exchange, began: float) -> Attempt | None:
    """Return the attempt of a ticket from `began` if its response head has come, else None."""
    for attempt in reversed(x.attempts):
        if attempt.number == x.attempt and attempt.answered and attempt.started >= began:
            return attempt
    return None


class Evidence:
    """Window of recent calls, and the failures in a row."""

    __slots__ = ("_length", "in_a_row", "is_timed", "thresholds", "window")

    def __init__(self, spec: Spec) -> None:
        self._length: float | CallsSpec = 0.0
        self.window: Window
        self.thresholds: Thresholds
        self.is_timed = False
        """True if a rule needs the duration of calls."""
        self.retune(spec)
        self.in_a_row = 0
        """Failures since the last success."""

    def retune(self, spec: Spec) -> None:
        """Apply new settings; counts stay unless the window's length changes."""
        self.thresholds = Thresholds(spec)
        self.is_timed = spec.slow_calls is not None
        if spec.window != self._length:
            length = self._length = spec.window
            self.window = CountWindow(length.calls) if isinstance(length, CallsSpec) else TimeWindow(length)

    def clear(self) -> None:
        """Forget all results."""
        self.window.clear()
        self.in_a_row = 0

    def judge(self, x: Exchange, began: float, outcome: Outcome, now: float) -> int:
        """Return the class of a result, FAILED and SLOW as bits, 0 for a good one; IGNORED if it says nothing."""
        thresholds = self.thresholds
        if outcome.failure is None:  # `Conditions.match`, inlined to save a call
            bits = FAILED if thresholds.failures.statuses[outcome.verdict] else 0
        elif thresholds.failures.match(outcome):
            bits = FAILED
        else:
            return IGNORED
        if now - began > thresholds.slow_after:
            allowed = thresholds.slow_after + client_seconds(x, now)
            if outcome.stream is None:
                return bits | SLOW if now - began > allowed else bits
            # The duration of a streamed body depends on its reader too, so the head counts.
            head = streaming_attempt(x, began)
            if head is not None and head.answered - began > allowed:
                return bits | SLOW
        return bits

    def learn(self, bits: int, now: float) -> Verdict | None:
        """Count a result.  Return the verdict if it reaches a threshold, which a good result never does."""
        thresholds = self.thresholds
        self.window.record(bits, now)
        if not bits & FAILED:
            self.in_a_row = 0
            if not bits:
                return None
        else:
            self.in_a_row += 1
            if self.in_a_row >= thresholds.in_a_row:
                why = f"{self.in_a_row} failure{'s' * (self.in_a_row > 1)} in a row"
                return Verdict(False, why, thresholds.in_a_row, self.in_a_row)
        calls, failed, slow = self.window.counts(now)
        if calls < thresholds.min_calls:
            return None
        if bits & FAILED and failed >= thresholds.failure_rate * calls - ROUNDING:
            return Verdict(False, f"{failed} of {calls} calls failed", thresholds.failure_rate, failed / calls)
        if bits & SLOW and slow >= thresholds.slow_rate * calls - ROUNDING:
            return Verdict(False, f"{slow} of {calls} calls were slow", thresholds.slow_rate, slow / calls)
        return None

    def describe(self, now: float) -> dict[str, Any]:
        """Return the counts, JSON-ready; rates are None without calls."""
        calls, failed, slow = self.window.counts(now)
        return {
            "calls": calls,
            "failed": failed,
            "slow": slow,
            "failure_rate": round(failed / calls, 4) if calls else None,
            "slow_rate": round(slow / calls, 4) if calls else None,
            "failures_in_a_row": self.in_a_row,
        }
