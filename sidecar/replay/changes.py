"""Rate at which answers change, estimated from stored answers that were fetched anew, and the lifetime it allows.

Rules:

1. Answers change at random times with a constant rate, so one of age `t` has changed with probability `1 - exp(-rate
   t)`.  Only whether it has changed is seen, not how often: the rate is the most likely one given all ages (Cho and
   Garcia-Molina, "Estimating Frequency of Change", ACM TOIT 3(3), 2003).
2. The rates beside it are those whose likelihood is not significantly lower (95 %, by Wilks' theorem).
3. Answers of a route may all change at once, such as by an import at night.  So at least one change in the whole time
   of the figures is assumed, whatever the number of answers.
4. Hits find answers of all ages up to their lifetime alike, so `1 - (1 - exp(-x)) / x` of them are stale, with `x` the
   rate times the lifetime.

All answers of a route count alike.  Where some change often and others never, the rate is between theirs.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from math import exp, expm1, inf, log, sqrt
from typing import Final, NamedTuple

from sidecar.telemetry.metrics.period import Refreshed

GROUP: Final = 12
"""Fewest changed answers whose mean age stands for the age of each."""
SURE: Final = 1.92
"""Difference of the logarithm of the likelihood beyond which a rate is significantly less likely."""
LOWEST: Final = 1e-12
"""Lowest rate a second that is looked at."""
HIGHEST: Final = 1e3
"""Highest rate a second that is looked at."""
STEPS: Final = 60
"""Halvings of an interval in the search for a rate."""
YOUNGEST: Final = 0.01
"""Least age in seconds that counts."""


class ChangeRate(NamedTuple):
    """Changes of an answer a second: the most likely rate, with the interval around it; `most` may be infinite."""

    least: float
    likely: float
    most: float


class Changes:
    """Refreshed answers of one route."""

    def __init__(self, periods: Iterable[Refreshed], seconds: float) -> None:
        """`seconds` is the length of all periods together."""
        self.seconds = seconds
        self.changed = self.unchanged = 0
        self._groups: list[tuple[int, float]] = []
        """Number and mean age of answers that had changed."""
        self._unchanged_age = 0.0
        """Age of the answers that had not changed together, in seconds."""
        number, age = 0, 0
        for period in periods:
            self.changed += period.changed[0]
            self.unchanged += period.unchanged[0]
            self._unchanged_age += max(period.unchanged[1], period.unchanged[0] * YOUNGEST)
            number, age = number + period.changed[0], age + period.changed[1]
            if number >= GROUP:
                self._groups.append((number, max(age / number, YOUNGEST)))
                number, age = 0, 0
        if number:
            self._groups.append((number, max(age / number, YOUNGEST)))

    @property
    def count(self) -> int:
        """Number of refreshed answers."""
        return self.changed + self.unchanged

    def rate(self) -> ChangeRate:
        """Return the rate of changes.  There must be a refreshed answer."""
        if not self.unchanged:
            return ChangeRate(_where(lambda rate: self._likelihood(rate) < -SURE, LOWEST, HIGHEST), inf, inf)
        if not self.changed:
            return ChangeRate(0.0, 0.0, SURE / self._unchanged_age)
        likely = _where(lambda rate: self._slope(rate) > 0, LOWEST, HIGHEST)
        least = self._likelihood(likely) - SURE
        return ChangeRate(
            _where(lambda rate: self._likelihood(rate) < least, LOWEST, likely),
            likely,
            _where(lambda rate: self._likelihood(rate) > least, likely, HIGHEST),
        )

    def _likelihood(self, rate: float) -> float:
        """Return the logarithm of the likelihood of a rate."""
        changed = sum(n * log(-expm1(-rate * age)) for n, age in self._groups)
        return changed - rate * self._unchanged_age

    def _slope(self, rate: float) -> float:
        """Return the derivative of the likelihood's logarithm, which falls."""
        changed = sum(n * age * exp(-rate * age) / -expm1(-rate * age) for n, age in self._groups)
        return changed - self._unchanged_age


def stale_share(rate: float, lifetime: float) -> float:
    """Return the share of stale answers among the hits of a cache, for a rate of changes and a lifetime in seconds."""
    x = rate * lifetime
    return x / 2 if x < 1e-6 else 1.0 if x == inf else 1 + expm1(-x) / x


def longest_lifetime(rate: float, share: float) -> float:
    """Return the lifetime in seconds with a share of stale answers among the hits, which is between 0 and 1."""
    return _where(lambda x: stale_share(1.0, x) < share, LOWEST, HIGHEST) / rate


def _where(is_before: Callable[[float], bool], low: float, high: float) -> float:
    """Return the number from which on a condition is false that holds for all lower ones."""
    for _ in range(STEPS):
        middle = sqrt(low * high)
        if is_before(middle):
            low = middle
        else:
            high = middle
    return sqrt(low * high)
