"""Counts of stored answers that were fetched anew, by whether they had changed, with their age.

`recommend` estimates from them how often answers change, and so how long they may be reused.  Only a fetch that
replaces or validates a stored answer is counted; hits and first fetches are not.
"""

from __future__ import annotations

from sidecar.core import metrics
from sidecar.core.metrics import Counter, Meter


class Refreshes:
    """Refreshed answers of one route."""

    def __init__(self, meter: Meter, route: str) -> None:
        self._ages = {
            (is_changed, is_stated): AgeCounter(meter, route, is_changed, is_stated)
            for is_changed in (False, True)
            for is_stated in (False, True)
        }

    def count(self, age: float, is_changed: bool, is_stated: bool) -> None:
        """Count an answer that was fetched anew at an age in seconds.

        `is_stated`: True if the answer itself says how long it is fresh, so that the policy's `ttl` has no effect.
        """
        self._ages[is_changed, is_stated].add(age)


class AgeCounter:
    """Number of answers and the sum of their ages; the fraction of a second that is left counts with the next one."""

    def __init__(self, meter: Meter, route: str, is_changed: bool, is_stated: bool) -> None:
        labels = {
            "route": route,
            "result": "changed" if is_changed else "unchanged",
            "lifetime": "answer" if is_stated else "policy",
        }
        self._number: Counter = meter.counter(metrics.CACHE_REFRESHES, **labels)
        self._seconds: Counter = meter.counter(metrics.CACHE_REFRESHED_AGE, **labels)
        self._rest = 0.0

    def add(self, age: float) -> None:
        """Add one answer."""
        self._number.add()
        self._rest += max(0.0, age)
        whole = int(self._rest)
        self._seconds.add(whole)
        self._rest -= whole
