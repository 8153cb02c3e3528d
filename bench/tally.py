"""Counts of a soak's clients."""

from __future__ import annotations

from collections import Counter


class Tally:
    """Counts of requests by result, and violations of the rules."""

    def __init__(self) -> None:
        self.asked: Counter[str] = Counter()
        """Number of requests by kind."""
        self.answered: Counter[str] = Counter()
        self.refused: Counter[str] = Counter()
        """Number of refused requests by `x-sidecar-reason` and kind."""
        self.broken = 0
        """Number of responses that were visibly cut short because the upstream's were."""
        self.left = 0
        """Number of requests whose client disconnected."""
        self.violations: list[str] = []

    def violation(self, what: str) -> None:
        if len(self.violations) < 100:
            self.violations.append(what)
