"""Half-open as plain arithmetic: who may probe, what the probes say and when, and the ramp back to full traffic.

No clock and no chance: instants and results are handed in, which makes it easy to test against a model.
"""

from __future__ import annotations

from math import ceil
from typing import Any, Final

from sidecar.core.exchange import Exchange
from sidecar.core.window import FAILED
from sidecar.stages.circuit_breaker.evidence import ROUNDING, Verdict, answered
from sidecar.stages.circuit_breaker.spec import Rules

FIRST_SHARE: Final = 0.1
"""Where the ramp begins, as Envoy's slow start: from nothing nobody would come to see the first step."""

ENOUGH: Final = 1 - ROUNDING


class Trial:
    """Up to `rules.probes` requests decide; see the package's docstring for the corner cases."""

    __slots__ = ("deadline", "failed", "out", "results", "rules", "slow")

    def __init__(self, rules: Rules, now: float) -> None:
        self.rules = rules
        self.deadline = now + rules.verdict_within
        self.out: list[tuple[float, Exchange]] = []
        """The probes under way, and when they began."""
        self.results = self.failed = self.slow = 0

    @property
    def has_permit(self) -> bool:
        """May one more probe go out?"""
        return len(self.out) + self.results < self.rules.probes

    def take(self, x: Exchange, now: float) -> None:
        """A probe goes out."""
        self.out.append((now, x))

    def give_back(self, x: Exchange, began: float) -> None:
        """A probe has ended: its permit returns, whatever it is worth."""
        self.out.remove((began, x))

    def record(self, bits: int, now: float) -> Verdict | None:
        """A result; the verdict once there is one."""
        self.results += 1
        self.failed += bits & FAILED
        self.slow += bits >> 1
        return self._verdict(self.rules.probes, self.failed) or self.overdue(now)

    def overdue(self, now: float) -> Verdict | None:
        """Past the deadline, the verdict on what is known; with nothing known, more time."""
        if now < self.deadline:
            return None
        known, failed = self.results, self.failed
        for began, x in self.out:
            head = answered(x, began)
            if head is not None:  # its body still streams
                known += 1
                failed += self.rules.failures.statuses[head.status]
            elif now - began >= self.rules.verdict_within:
                known += 1
                failed += 1
        if known == 0:
            self.deadline = now + self.rules.verdict_within
            return None
        return self._verdict(known, failed, missing=0)

    def _verdict(self, probes: int, failed: int, missing: int | None = None) -> Verdict | None:
        """The verdict over so many probes, if those still missing cannot change it."""
        if missing is None:
            missing = max(0, probes - self.results)
        too_many = max(1, ceil(self.rules.probe_rate * probes - ROUNDING))
        too_slow = max(1, ceil(self.rules.slow_rate * probes - ROUNDING))
        if failed >= too_many:
            return Verdict(False, f"{failed} of {probes} probes failed or did not answer in time", too_many, failed)
        if self.slow >= too_slow:
            return Verdict(False, f"{self.slow} of {probes} probes were slow", too_slow, self.slow)
        if failed + missing < too_many and self.slow + missing < too_slow:
            return Verdict(True, f"{probes - missing - failed} of {probes} probes succeeded")
        return None

    def describe(self) -> dict[str, Any]:
        return {"under_way": len(self.out), "results": self.results, "failed": self.failed, "slow": self.slow}


class Ramp:
    """Lets through a share that rises in a straight line; evenly spread, as chance would send bursts."""

    __slots__ = ("_credit", "began")

    def __init__(self, now: float) -> None:
        self.began = now
        self._credit = 1.0

    def share(self, seconds: float, now: float) -> float:
        """What part passes at this instant of a ramp that lasts `seconds`."""
        passed = now - self.began
        return 1.0 if passed >= seconds else max(FIRST_SHARE, passed / seconds)

    def is_next(self, share: float) -> bool:
        """Does the next request belong to the share?  Asked again before one is taken, the answer is the same."""
        if self._credit < ENOUGH:
            self._credit += share
        return self._credit >= ENOUGH

    def take(self) -> None:
        """It goes through."""
        self._credit -= 1
