"""Latency and failures of an endpoint by its calls in flight, where a record shows that they depend on them.

Rules:

1. Slow times have more calls in flight whatever the cause (Little's law).  So latency counts as dependent only if calls
   that began beside more others took longer than those of the same second that began beside fewer.
2. Each second counts alike, so that the onset of an incident decides nothing.
3. The curve is the mean latency by calls in flight in good times, made monotone (Ayer et al., 1955).  Latencies are
   those of answers, as multiples of the median of their route.
4. Failures come in times too, and slow ones leave more calls in flight.  So failures count as dependent only if of two
   calls in sequence, one of which failed, that one mostly began beside more others.  The first of the two is no other
   of the second: it may have failed early, and then would be missing.
5. The curve of failures is made of all seconds that have a good answer: a time of overload is no good time, and an
   outage says nothing about load.
6. Beyond the most calls in flight that the record has, a curve goes on with the slope of its upper half.

Timeouts are no failures here, because the curve of latency makes them.  Refused connections do not depend on load.
"""

from __future__ import annotations

from bisect import bisect_right
from collections import defaultdict
from collections.abc import Sequence
from math import log, sqrt
from statistics import fmean, median, stdev
from typing import Final

from sidecar.replay.evidence import Window, good_times
from sidecar.replay.record import BAD_STATUS, REFUSED, Try

WINDOW: Final = 1.0
"""Length in seconds of the windows in which calls are compared."""
ENOUGH: Final = 8
"""Fewest calls of a window, and of a point of the curve."""
WINDOWS: Final = 20
"""Fewest windows that show dependence."""
PAIRS: Final = 30
"""Fewest pairs of calls, one of which failed, that show dependence."""
PAIRS_SURE: Final = 4.0
"""Least difference within these pairs in standard errors."""
CORRELATION: Final = 0.1
"""Least mean correlation of latency and calls in flight within a window."""
SURE: Final = 5.0
"""Least mean correlation in standard errors."""
OF_FAILURES: Final = 40
"""Fewest calls of a point of the curve of failures."""
SHORTEST: Final = 1e-6
"""Shortest latency in seconds."""

Sample = tuple[int, float]
"""Calls in flight, and latency as a multiple of the route's median or 1 for a failure."""


class Curve:
    """Quantity that rises with the calls in flight."""

    def __init__(self, points: Sequence[tuple[float, float]]) -> None:
        """`points` are calls in flight and the quantity, in ascending order of both."""
        self._calls = [calls for calls, _ in points]
        self._values = [value for _, value in points]
        half = len(points) // 2
        self._slope = (self._values[-1] - self._values[half]) / ((self._calls[-1] - self._calls[half]) or 1.0)

    def at(self, calls: int) -> float:
        """Return the quantity beside so many calls in flight."""
        place = bisect_right(self._calls, calls)
        if place == len(self._calls):
            return self._values[-1] + self._slope * (calls - self._calls[-1])
        if place == 0:
            return self._values[0]
        low, high = self._calls[place - 1], self._calls[place]
        share = (calls - low) / (high - low)
        return self._values[place - 1] + share * (self._values[place] - self._values[place - 1])


class LoadCurve:
    """Latency of one endpoint by its calls in flight."""

    def __init__(self, points: Sequence[tuple[float, float]]) -> None:
        """`points` are calls in flight and relative latency, in ascending order of both."""
        self._curve = Curve(points)

    def factor(self, before: int, now: int) -> float:
        """Return by what the latency changes from one number of calls in flight to another."""
        return self._curve.at(now) / self._curve.at(before)


class FailureCurve:
    """Failures of one endpoint by its calls in flight."""

    def __init__(self, points: Sequence[tuple[float, float]], failed: Sequence[Try]) -> None:
        """`points` are calls in flight and the share that fails, in ascending order of both."""
        self._curve = Curve(points)
        self.failed = failed
        """Attempts that failed, to draw from."""

    def breaks(self, before: int, now: int) -> float:
        """Return the probability that a call fails now that succeeded beside fewer others."""
        earlier, later = self._share(before), self._share(now)
        return (later - earlier) / (1 - earlier) if earlier < later else 0.0

    def spares(self, before: int, now: int, failing: float) -> float:
        """Return the probability that a call succeeds now that failed beside more others.

        `failing` is the share of all calls of its time that failed: those beyond the curve have another cause.
        """
        earlier, later = self._share(before), self._share(now)
        return (earlier - later) / max(earlier, failing) if later < earlier else 0.0

    def _share(self, calls: int) -> float:
        return min(1.0, self._curve.at(calls))


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
            windows[int(a.at / WINDOW)].append((a.in_flight, relative))
    if not _is_shown([[(calls, log(relative)) for calls, relative in found] for found in windows.values()]):
        return None
    is_good = good_times([Window(calls, failed, 0) for calls, failed in counts.values()])
    good = [place for place, each in zip(counts, is_good, strict=True) if each]
    points = _points([sample for place in good for sample in windows.get(place, [])], ENOUGH)
    return LoadCurve(points) if len(points) > 1 else None


def failure_curve(tries: Sequence[Try]) -> FailureCurve | None:
    """Return the curve of an endpoint; None if its attempts show no failures that depend on load."""
    ended = sorted((a for a in tries if not a.is_censored and a.reason not in REFUSED), key=lambda a: a.at)
    failed = [a for a in ended if _has_failed(a)]
    if not _fails_under_load(ended):
        return None
    windows: defaultdict[int, list[Sample]] = defaultdict(list)
    for a in ended:
        windows[int(a.at / WINDOW)].append((a.in_flight, float(_has_failed(a))))
    alive = [found for found in windows.values() if any(not has_failed for _, has_failed in found)]
    points = _points([sample for found in alive for sample in found], OF_FAILURES)
    return FailureCurve(points, failed) if len(points) > 1 else None


def _has_failed(a: Try) -> bool:
    return bool(a.reason) or a.status >= BAD_STATUS


def _fails_under_load(tries: Sequence[Try]) -> bool:
    """True if of two calls in sequence the one that failed mostly began beside more others.

    `tries` are in the order of their starts.
    """
    differences = []
    for first, second in zip(tries[::2], tries[1::2], strict=False):
        if _has_failed(first) == _has_failed(second):
            continue
        others = second.in_flight - (first.at + first.seconds > second.at)
        differences.append(first.in_flight - others if _has_failed(first) else others - first.in_flight)
    spread = sqrt(sum(each * each for each in differences))
    return len(differences) >= PAIRS and sum(differences) >= PAIRS_SURE * spread


def _is_shown(windows: Sequence[Sequence[Sample]]) -> bool:
    """True if the quantity and the calls in flight are correlated within windows."""
    found = [r for window in windows if len(window) >= ENOUGH and (r := _correlation(window)) is not None]
    if len(found) < WINDOWS:
        return False
    mean = fmean(found)
    return mean >= CORRELATION and mean >= SURE * stdev(found) / sqrt(len(found))


def _correlation(window: Sequence[Sample]) -> float | None:
    """Return the correlation of calls in flight and the quantity; None if one of them never changes."""
    calls = [float(sample[0]) for sample in window]
    values = [sample[1] for sample in window]
    middle, level = fmean(calls), fmean(values)
    both = sum((x - middle) * (y - level) for x, y in zip(calls, values, strict=True))
    spread = sqrt(sum((x - middle) ** 2 for x in calls) * sum((y - level) ** 2 for y in values))
    return both / spread if spread > 0 else None


def _points(samples: Sequence[Sample], enough: int) -> list[tuple[float, float]]:
    """Return mean calls in flight and mean quantity of groups of samples, so that both ascend.

    `enough` is the least number of samples of a group.
    """
    pools: list[list[float]] = []  # number of samples, sum of calls in flight, sum of quantities
    by_calls: defaultdict[int, list[float]] = defaultdict(list)
    for calls, value in samples:
        by_calls[calls].append(value)
    rest = [0.0, 0.0, 0.0]
    for calls, found in sorted(by_calls.items()):
        rest = [rest[0] + len(found), rest[1] + calls * len(found), rest[2] + sum(found)]
        if rest[0] < enough:
            continue
        pools.append(rest)
        rest = [0.0, 0.0, 0.0]
        while len(pools) > 1 and pools[-2][2] / pools[-2][0] >= pools[-1][2] / pools[-1][0]:
            last = pools.pop()
            pools[-1] = [one + other for one, other in zip(pools[-1], last, strict=True)]
    return [(calls / number, value / number) for number, calls, value in pools]
