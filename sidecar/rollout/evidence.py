"""Evidence on a candidate: outcomes of its requests beside those of the stable arm, and the verdict.

Rules:

1. A request of the candidate is paired with the newest one of the stable arm that has no pair, if that is at most
   `PAIR_SECONDS` old.  A request is in at most one pair.
2. Outcomes that the client has caused make no pair.
3. For a latency, the candidate is bad if it took longer than the stable arm's percentile times the margin, the stable
   arm if it took longer than that percentile.  Whatever the estimate of the percentile is, the candidate is bad more
   often only if it is slower by more than the margin.
4. The percentile is estimated by steps (Ma, Muthukrishnan and Sandler 2013, "Frugal streaming"): up by much at a longer
   latency, down by little at any other.
"""

from __future__ import annotations

from typing import Any, Final

from sidecar.rollout.sequential import PairedTest
from sidecar.rollout.spec import ReturnSpec

ALPHA: Final = 0.01
"""Probability that a candidate which is no worse is taken back, over all criteria and all time."""
PAIR_SECONDS: Final = 10.0
"""Greatest age of the other half of a pair."""
QUANTILE: Final = 0.99
"""Percentile that latencies are compared by."""
STEP: Final = 0.05
"""Relative step of its estimate."""
FIRST: Final = 100
"""Number of the stable arm's requests whose longest latency begins the estimate."""
NO_TIME: Final = -1.0
"""Instant of a half without a request."""


class Arm:
    """Counts of one arm, and its newest request without a pair."""

    __slots__ = ("at", "errors", "is_bad", "opened_at", "requests", "seconds")

    def __init__(self) -> None:
        self.requests = 0
        self.errors = 0
        self.is_bad = False
        self.seconds = 0.0
        self.at = NO_TIME
        """Instant of the newest request without a pair; `NO_TIME` without one."""
        self.opened_at = NO_TIME
        """Instant of the last refusal by a circuit breaker; `NO_TIME` without one."""

    def note(self, is_bad: bool, seconds: float, is_refused: bool, now: float) -> None:
        """Record the outcome of a request."""
        self.requests += 1
        if is_bad:
            self.errors += 1
            if is_refused:
                self.opened_at = now
        self.is_bad = is_bad
        self.seconds = seconds
        self.at = now

    def describe(self) -> dict[str, Any]:
        return {"requests": self.requests, "errors": self.errors}


class Evidence:
    """Evidence on one candidate."""

    __slots__ = ("_errors", "_latency", "_spec", "_times", "candidate", "percentile", "stable")

    def __init__(self, spec: ReturnSpec, now: float, alpha: float = ALPHA) -> None:
        alpha /= max(1, (spec.errors is not None) + (spec.p99 is not None))
        self._spec = spec
        self._errors = None if spec.errors is None else PairedTest(spec.errors.worse_by_points / 100, alpha, now)
        self._latency = None if spec.p99 is None else PairedTest(0.0, alpha, now)
        self._times = 1.0 if spec.p99 is None else 1 + spec.p99.worse_by
        self.stable = Arm()
        self.candidate = Arm()
        self.percentile = 0.0
        """Estimate of the stable arm's percentile, in seconds."""

    def note_stable(self, is_bad: bool, seconds: float, is_refused: bool, now: float) -> str:
        """Record the outcome of a request of the stable arm; the result is that of `note_candidate`."""
        self.stable.note(is_bad, seconds, is_refused, now)
        found = self._pair(now)
        if self.stable.requests <= FIRST:
            self.percentile = max(self.percentile, seconds)
        elif seconds > self.percentile:
            self.percentile *= 1 + STEP * QUANTILE
        else:
            self.percentile *= 1 - STEP * (1 - QUANTILE)
        return found

    def note_candidate(self, is_bad: bool, seconds: float, is_refused: bool, now: float) -> str:
        """Record the outcome of a request of the candidate; return the reason to take it back, else an empty text.

        `seconds` is the time to the head of the response, `is_refused` True if the arm's circuit breaker refused.
        """
        self.candidate.note(is_bad, seconds, is_refused, now)
        opened_at = self.stable.opened_at
        is_alone = opened_at == NO_TIME or now - opened_at > PAIR_SECONDS
        if is_refused and is_alone and self._spec.breaker:
            return "its circuit breaker opened"
        return self._pair(now)

    def _pair(self, now: float) -> str:
        """Count the newest requests of both arms as a pair, if they are one."""
        stable, candidate = self.stable, self.candidate
        if stable.at == NO_TIME or candidate.at == NO_TIME:
            return ""
        if abs(stable.at - candidate.at) > PAIR_SECONDS:
            return ""
        stable.at = candidate.at = NO_TIME
        test = self._errors
        if test is not None and test.add(candidate.is_bad - stable.is_bad, now):
            return (
                f"{test.worse} of {test.pairs} pairs failed only at the candidate, {test.better} only at the stable arm"
            )
        test = self._latency
        if test is not None and self.stable.requests > FIRST:
            is_slow = candidate.seconds > self.percentile * self._times
            if test.add(is_slow - (stable.seconds > self.percentile), now):
                return (
                    f"{test.worse} of {test.pairs} pairs were slow only at the candidate, {test.better} only at the "
                    f"stable arm, whose 99th percentile is about {self.percentile * 1e3:.0f} ms"
                )
        return ""

    def describe(self) -> dict[str, Any]:
        """Return counts, evidence and thresholds, JSON-ready."""
        found: dict[str, Any] = {"stable": self.stable.describe(), "candidate": self.candidate.describe()}
        for name, test in (("errors", self._errors), ("p99", self._latency)):
            if test is not None:
                found[name] = {
                    "pairs": test.pairs,
                    "worse": test.worse,
                    "better": test.better,
                    "evidence": round(test.evidence, 2),
                    "threshold": round(test.threshold, 2),
                }
        if self._latency is not None:
            found["stable_p99_ms"] = round(self.percentile * 1e3, 1)
        return found
