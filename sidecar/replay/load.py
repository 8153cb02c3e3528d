"""Latency of an endpoint by its calls in flight, where a record shows that it depends on them.

Rules:

1. Slow times have more calls in flight whatever the cause (Little's law).  So dependence counts as shown only if calls
   that began beside more others took longer than those of the same second that began beside fewer.
2. Each second counts alike, so that the onset of an incident decides nothing.
3. The curve is the mean latency by calls in flight in good times, made monotone (Ayer et al., 1955).  Latencies are
   those of answers, as multiples of the median of their route.
4. Beyond the most calls in flight that the record has, the curve goes on with the slope of its upper half.

Failures by load are not fitted.
"""

from __future__ import annotations

from bisect import bisect_right
from collections import defaultdict
from collections.abc import Sequence
from math import log, sqrt
from statistics import fmean, median, stdev
from typing import Final

from sidecar.replay.evidence import Window, good_times
from sidecar.replay.record import BAD_STATUS, Try

WINDOW: Final = 1.0
"""Length in seconds of the windows in which calls are compared."""
ENOUGH: Final = 8
"""Fewest calls of a window, and of a point of the curve."""
WINDOWS: Final = 20
"""Fewest windows that show dependence."""
CORRELATION: Final = 0.1
"""Least mean correlation of latency and calls in flight within a window."""
SURE: Final = 5.0
"""Least mean correlation in standard errors."""
SHORTEST: Final = 1e-6
"""Shortest latency in seconds."""

Sample = tuple[float, int, float]
"""Start, calls in flight, and latency as a multiple of the route's median."""


class LoadCurve:
    """Latency of one endpoint by its calls in flight."""

    def __init__(self, points: Sequence[tuple[float, float]]) -> None:
        """`points` are calls in flight and relative latency, in ascending order of both."""
        self._calls = [calls for calls, _ in points]
        self._latency = [latency for _, latency in points]
        half = len(points) // 2
        self._slope = (self._latency[-1] - self._latency[half]) / ((self._calls[-1] - self._calls[half]) or 1.0)

    def factor(self, before: int, now: int) -> float:
        """Return by what the latency changes from one number of calls in flight to another."""
        return self._at(now) / self._at(before)

    def _at(self, calls: int) -> float:
        place = bisect_right(self._calls, calls)
        if place == len(self._calls):
            return self._latency[-1] + self._slope * (calls - self._calls[-1])
        if place == 0:
            return self._latency[0]
        low, high = self._calls[place - 1], self._calls[place]
        share = (calls - low) / (high - low)
        return self._latency[place - 1] + share * (self._latency[place] - self._latency[place - 1])


def load_curve(tries: Sequence[tuple[str, Try]]) -> LoadCurve | None:
    """Return the curve of an endpoint; None if its attempts, each with its route, show no dependence."""
    windows: defaultdict[int, list[Sample]] = defaultdict(list)
    durations: defaultdict[str, list[float]] = defaultdict(list)
    counts: defaultdict[int, list[int]] = defaultdict(lambda: [0, 0])
    for route, a in tries:
        is_answer = not a.reason and a.status < BAD_STATUS
        count = counts[int(a.at / WINDOW)]
        count[0] += 1
        count[1] += not is_answer
        if is_answer:
            durations[route].append(a.seconds)
    usual = {route: max(median(found), SHORTEST) for route, found in durations.items()}
    for route, a in tries:
        if not a.reason and a.status < BAD_STATUS:
            relative = max(a.seconds, SHORTEST) / usual[route]
            windows[int(a.at / WINDOW)].append((a.at, a.in_flight, relative))
    if not _is_shown(list(windows.values())):
        return None
    is_good = good_times([Window(calls, failed, 0) for calls, failed in counts.values()])
    good = [place for place, each in zip(counts, is_good, strict=True) if each]
    points = _points([sample for place in good for sample in windows.get(place, [])])
    return LoadCurve(points) if len(points) > 1 else None


def _is_shown(windows: Sequence[Sequence[Sample]]) -> bool:
    """True if latency and calls in flight are correlated within windows."""
    found = [r for window in windows if len(window) >= ENOUGH and (r := _correlation(window)) is not None]
    if len(found) < WINDOWS:
        return False
    mean = fmean(found)
    return mean >= CORRELATION and mean >= SURE * stdev(found) / sqrt(len(found))


def _correlation(window: Sequence[Sample]) -> float | None:
    """Return the correlation of calls in flight and the logarithm of latency; None if one of them never changes."""
    calls = [float(sample[1]) for sample in window]
    latency = [log(sample[2]) for sample in window]
    middle, level = fmean(calls), fmean(latency)
    both = sum((x - middle) * (y - level) for x, y in zip(calls, latency, strict=True))
    spread = sqrt(sum((x - middle) ** 2 for x in calls) * sum((y - level) ** 2 for y in latency))
    return both / spread if spread > 0 else None


def _points(samples: Sequence[Sample]) -> list[tuple[float, float]]:
    """Return mean calls in flight and mean latency of groups of samples, so that both ascend."""
    pools: list[list[float]] = []  # number of samples, sum of calls in flight, sum of latencies
    by_calls: defaultdict[int, list[float]] = defaultdict(list)
    for _, calls, latency in samples:
        by_calls[calls].append(latency)
    rest = [0.0, 0.0, 0.0]
    for calls, found in sorted(by_calls.items()):
        rest = [rest[0] + len(found), rest[1] + calls * len(found), rest[2] + sum(found)]
        if rest[0] < ENOUGH:
            continue
        pools.append(rest)
        rest = [0.0, 0.0, 0.0]
        while len(pools) > 1 and pools[-2][2] / pools[-2][0] >= pools[-1][2] / pools[-1][0]:
            last = pools.pop()
            pools[-1] = [one + other for one, other in zip(pools[-1], last, strict=True)]
    return [(calls / number, latency / number) for number, calls, latency in pools]
