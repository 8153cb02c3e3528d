"""What the clients of a soak saw."""

from __future__ import annotations

from collections import Counter


class Tally:
    """What the clients saw."""

    def __init__(self) -> None:
        self.asked: Counter[str] = Counter()
        """By kind of request."""
        self.answered: Counter[str] = Counter()
        self.refused: Counter[str] = Counter()
        """By `x-sidecar-reason` and kind of request."""
        self.broken = 0
        """Answers that visibly broke off, where the upstream's had."""
        self.left = 0
        """Requests whose client did not wait."""
        self.violations: list[str] = []

    def violation(self, what: str) -> None:
        if len(self.violations) < 100:
            self.violations.append(what)
