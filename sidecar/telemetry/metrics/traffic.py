"""Traffic of the last minutes by second, for the curves of the live page and of `sidecar top`.

Every second the duration histograms are compared with their values a second ago, so requests do no extra work.

A second is kept as the JSON text that is sent: `[time, {route: [errors, fallbacks, bucket, count, bucket, count,
...]}]`.  It has only routes with requests, and the buckets are those of `BOUNDS`.  It has counts, because percentiles
of several seconds or routes cannot be combined; readers compute percentiles from sums of counts.  Errors are those of
`is_error`, broken-off responses included.  Fallbacks are responses of a fallback, in the second in which it gave them.
"""

from __future__ import annotations

import json
from collections import deque
from typing import Final

from sidecar.core.metrics import BOUNDS, FALLBACKS, REQUEST_DURATION, Counter, Histogram
from sidecar.telemetry.metrics.durations import are_errors
from sidecar.telemetry.metrics.registry import Labels, Registry

MINUTES: Final = 5
KEEP: Final = MINUTES * 60
"""Number of seconds that are kept."""


class Traffic:
    """Ring of seconds; `sample` is called every second."""

    def __init__(self, registry: Registry, keep: int = KEEP) -> None:
        self._registry = registry
        self._before: dict[Labels, tuple[Histogram, list[int]]] = {}
        self._fallbacks_before: dict[Labels, tuple[Counter, int]] = {}
        self.ring: deque[bytes] = deque(maxlen=keep)
        """Seconds as JSON, oldest first."""

    def sample(self, wall: float) -> bytes:
        """End a second, and return its traffic as JSON; `wall` is its Unix time."""
        routes: dict[str, list[int]] = {}
        before, self._before = self._before, {}
        for labels, histogram in self._registry.instruments(REQUEST_DURATION):
            if not isinstance(histogram, Histogram):
                continue
            known = before.get(labels)
            if known is not None and known[0] is histogram and known[1] == histogram.counts:
                self._before[labels] = known
                continue
            counts = list(histogram.counts)
            last = known[1] if known is not None and known[0] is histogram else [0] * len(counts)
            self._before[labels] = (histogram, counts)
            if counts != last:
                _add(routes, dict(labels), [now - then for now, then in zip(counts, last, strict=True)])
        self._add_fallbacks(routes)
        second = {route: _sparse(sums) for route, sums in routes.items()}
        text = json.dumps([round(wall, 3), second], separators=(",", ":")).encode()
        self.ring.append(text)
        return text

    def _add_fallbacks(self, routes: dict[str, list[int]]) -> None:
        """Add the fallback responses of this second to the sums of their routes."""
        before, self._fallbacks_before = self._fallbacks_before, {}
        for labels, counter in self._registry.instruments(FALLBACKS):
            if not isinstance(counter, Counter):
                continue
            known, count = before.get(labels, (counter, 0))
            self._fallbacks_before[labels] = (counter, counter.value)
            if added := counter.value - (count if known is counter else 0):
                _sums(routes, dict(labels))[1] += added


def _sums(routes: dict[str, list[int]], labels: dict[str, str]) -> list[int]:
    """Return the sums of a route: errors, fallbacks, then the count of each bucket."""
    return routes.setdefault(labels.get("route", ""), [0] * (len(BOUNDS) + 3))


def _add(routes: dict[str, list[int]], labels: dict[str, str], counts: list[int]) -> None:
    """Add the counts of a series to the sums of its route."""
    sums = _sums(routes, labels)
    if are_errors(labels):
        sums[0] += sum(counts)
    for bucket, count in enumerate(counts, 2):
        sums[bucket] += count


def _sparse(sums: list[int]) -> list[int]:
    """Return `[errors, fallbacks, bucket, count, ...]`, without empty buckets."""
    sparse = sums[:2]
    for bucket, count in enumerate(sums[2:]):
        if count:
            sparse += (bucket, count)
    return sparse
