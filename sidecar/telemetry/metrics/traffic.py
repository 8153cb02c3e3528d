"""The last minutes, second by second: what the live page and `sidecar top` draw their curves from.

Requests pay nothing for it: once a second the histograms that are counted anyway are compared with what they were a
second ago.  A series that has not moved costs one comparison of two lists, so 1000 idle ones take 0.3 ms.

A second is kept as the JSON text that is sent, and only for routes that had requests: `[time, {route: [errors, bucket,
count, bucket, count, ...]}]`, the buckets being those of `BOUNDS`.  Counts, not percentiles, because those of several
seconds or routes cannot be put together again: whoever shows them takes them from the sum of the counts.
"""

from __future__ import annotations

import json
from collections import deque
from typing import Final

from sidecar.core.metrics import REQUEST_DURATION, SECONDS, Histogram
from sidecar.telemetry.metrics.registry import Labels, Registry

MINUTES: Final = 5
KEEP: Final = MINUTES * 60
"""Seconds."""
BOUNDS: Final = SECONDS
SERVER_ERROR: Final = 500


class Traffic:
    """A ring of seconds.  `sample` is called once in each of them."""

    def __init__(self, registry: Registry, keep: int = KEEP) -> None:
        self._registry = registry
        self._before: dict[Labels, tuple[Histogram, list[int]]] = {}
        self.ring: deque[bytes] = deque(maxlen=keep)
        """The seconds as JSON, oldest first."""

    def sample(self, wall: float) -> bytes:
        """End a second: what has happened since the last call, as JSON; `wall` is its Unix time."""
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
        second = {route: _sparse(sums) for route, sums in routes.items()}
        text = json.dumps([round(wall, 3), second], separators=(",", ":")).encode()
        self.ring.append(text)
        return text


def _add(routes: dict[str, list[int]], labels: dict[str, str], counts: list[int]) -> None:
    """Add a series to its route: errors first, then the buckets."""
    sums = routes.setdefault(labels.get("route", ""), [0] * (len(counts) + 1))
    if int(labels.get("http.response.status_code", SERVER_ERROR)) >= SERVER_ERROR:
        sums[0] += sum(counts)
    for bucket, count in enumerate(counts, 1):
        sums[bucket] += count


def _sparse(sums: list[int]) -> list[int]:
    """`[errors, bucket, count, ...]` of the buckets that are not empty."""
    sparse = [sums[0]]
    for bucket, count in enumerate(sums[1:]):
        if count:
            sparse += (bucket, count)
    return sparse
