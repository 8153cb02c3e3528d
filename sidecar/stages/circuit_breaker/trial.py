"""Half-open state as plain arithmetic: permits for probes, the verdict on them, and the ramp back to full traffic.

Instants and results are arguments, so a test can compare each step with a model.
"""

from __future__ import annotations

from math import ceil
from typing import Any, Final

from sidecar.core.exchange import Exchange
from sidecar.core.window import FAILED
from sidecar.stages.circuit_breaker.evidence import ROUNDING, Thresholds, Verdict, client_seconds, streaming_attempt

FIRST_SHARE: Final = 0.1
"""Share with which the ramp begins, as in Envoy's slow start: from zero, the first request would wait long."""
ONE: Final = 1 - ROUNDING
"""Credit that lets a request through."""


class Trial:
    """Probes: up to `thresholds.probes` requests whose results decide."""

    __slots__ = ("deadline", "failed", "in_flight", "results", "slow", "thresholds")

    def __init__(self, thresholds: Thresholds, now: float) -> None:
        self.thresholds = thresholds
        self.deadline = now + thresholds.verdict_within
        """Instant at which the known results decide."""
        self.in_flight: list[tuple[float, Exchange]] = []
        """Probes without a result, and the instants at which they began."""
        self.results = 0
        self.failed = 0
        self.slow = 0

    @property
    def has_permit(self) -> bool:
        """True if one more probe may start."""
        return len(self.in_flight) + self.results < self.thresholds.probes

    def take(self, x: Exchange, now: float) -> None:
        """Start a probe."""
        self.in_flight.append((now, x))

    def give_back(self, x: Exchange, began: float) -> None:
        """End a probe and return its permit, whatever its result is."""
        self.in_flight.remove((began, x))

    def record(self, bits: int, now: float) -> Verdict | None:
        """Count a result.  Return the verdict once there is one."""
        self.results += 1
        self.failed += bits & FAILED
        self.slow += bits >> 1
        return self._verdict(self.thresholds.probes, self.failed) or self.overdue(now)

    def overdue(self, now: float) -> Verdict | None:
        """Return the verdict on the known results once the deadline has passed.  Without any, extend the deadline."""
        if now < self.deadline:
            return None
        known, failed = self.results, self.failed
        for began, x in self.in_flight:
            head = streaming_attempt(x, began)
            if head is not None:  # its body still streams
                known += 1
                failed += self.thresholds.failures.statuses[head.status]
            elif now - began - client_seconds(x, now) >= self.thresholds.verdict_within:
                known += 1
                failed += 1
        if known == 0:
            self.deadline = now + self.thresholds.verdict_within
            return None
        return self._verdict(known, failed, missing=0)

    def _verdict(self, probes: int, failed: int, missing: int | None = None) -> Verdict | None:
        """Return the verdict on `probes` probes; None while the `missing` results can change it."""
        thresholds = self.thresholds
        if missing is None:
            missing = max(0, probes - self.results)
        too_many = max(1, ceil(thresholds.probe_rate * probes - ROUNDING))
        too_slow = max(1, ceil(thresholds.slow_rate * probes - ROUNDING))
        if failed >= too_many:
            return Verdict(False, f"{failed} of {probes} probes failed or did not answer in time", too_many, failed)
        if self.slow >= too_slow:
            return Verdict(False, f"{self.slow} of {probes} probes were slow", too_slow, self.slow)
        if failed + missing < too_many and self.slow + missing < too_slow:
            return Verdict(True, f"{probes - missing - failed} of {probes} probes succeeded")
        return None

    def describe(self) -> dict[str, Any]:
        """Return the counts, JSON-ready."""
        return {"under_way": len(self.in_flight), "results": self.results, "failed": self.failed, "slow": self.slow}


class Ramp:
    """Share of requests that rises linearly.  The requests that pass are evenly spread: chance would admit bursts."""

    __slots__ = ("_credit", "began")

    def __init__(self, now: float) -> None:
        self.began = now
        """Instant at which the ramp began."""
        self._credit = 1.0

    def share(self, seconds: float, now: float) -> float:
        """Return the share that passes at `now` on a ramp that lasts `seconds`."""
        passed = now - self.began
        return 1.0 if passed >= seconds else max(FIRST_SHARE, passed / seconds)

    def is_next(self, share: float) -> bool:
        """True if the next request passes.  The result stays the same until `take` is called."""
        if self._credit < ONE:
            self._credit += share
        return self._credit >= ONE

    def take(self) -> None:
        """Let a request pass."""
        self._credit -= 1
