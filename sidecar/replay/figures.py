"""Evidence of the figures that a sidecar keeps over time (`telemetry/metrics/history.py`).

Figures tell the durations of attempts by upstream and those of requests by route.  So the attempts of a route are known
if no other route has its upstream, or if each of its requests is one attempt and nothing else.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from math import ceil

from sidecar.core.metrics import BOUNDS
from sidecar.lint.facts import Policies, RouteFacts, UpstreamFacts
from sidecar.replay.cached import MAX_STALE, CacheFigures
from sidecar.replay.evidence import LEAST, Evidence, Window, good_times
from sidecar.telemetry.metrics.history import PERIOD
from sidecar.telemetry.metrics.period import Calls, HistoryDocument, Period

NONE = Calls()


class FiguresEvidence:
    """Evidence of the periods of one route or upstream."""

    def __init__(self, periods: Sequence[Period], calls: Sequence[Calls], again: Sequence[int], limit: str) -> None:
        """`again` are the attempts after the first of each period; `limit` is the name of the limit of concurrency."""
        self._counts: Counter[int] = Counter()
        windows, active = [], []
        self.calls = self.cut_off = 0
        for period, each, repeated in zip(periods, calls, again, strict=True):
            for bucket, count in zip(each.good[::2], each.good[1::2], strict=True):
                self._counts[bucket] += count
            number = sum(each.good[1::2]) + each.failed
            self.calls += number
            self.cut_off += each.timeouts
            if number:
                windows.append(Window(number, each.failed, repeated))
                active.append(period.active.get(limit, 0))
        is_good = good_times(windows)
        self._windows = [each for each, good in zip(windows, is_good, strict=True) if good]
        self._active = max((most for most, good in zip(active, is_good, strict=True) if good), default=0)
        self.window = PERIOD
        self.good = sum(self._counts.values())

    def percentile(self, share: float) -> float:
        """Return the seconds within which a share of the good answers came: the upper bound of a bucket."""
        left = ceil(share * self.good)
        for bucket, count in sorted(self._counts.items()):
            left -= count
            if left <= 0:
                return BOUNDS[min(bucket, len(BOUNDS) - 1)]
        return 0.0

    def beyond(self, seconds: float) -> int:
        """Return the number of good answers that took longer, those of the same bucket included."""
        return sum(n for bucket, n in self._counts.items() if bucket >= len(BOUNDS) or BOUNDS[bucket] > seconds)

    def good_windows(self) -> Sequence[Window]:
        """Return the windows of good times that have calls."""
        return self._windows

    def most_in_flight(self) -> tuple[int, str]:
        """Return the most permits in use at a reading of good times, and words that go on after the number."""
        return self._active, "requests held a permit at the readings of each second in good times"


class FiguresOrigin:
    """Evidence of the figures of a sidecar."""

    name = "figures"
    record = None

    def __init__(self, policies: Policies, history: HistoryDocument, max_stale: float = MAX_STALE) -> None:
        self.policies = policies
        self.caches = CacheFigures(policies, history, max_stale)
        self._periods = history.periods
        self.requests = sum(
            sum(calls.good[1::2]) + calls.failed for period in self._periods for calls in period.routes.values()
        )
        """Number of requests that were answered well or that the upstream failed."""
        self.seconds = sum(period.seconds for period in self._periods)
        """Length of all periods together."""

    def of_route(self, route: RouteFacts) -> Evidence | None:
        """Return the evidence about the attempts of a route; None where its attempts cannot be told apart."""
        upstream = route.upstream
        if upstream is not None and [each.name for each in upstream.routes] == [route.name]:
            return self.of_upstream(upstream)
        if not self._is_one_attempt(route):
            return None
        calls = [period.routes.get(route.name, NONE) for period in self._periods]
        return FiguresEvidence(self._periods, calls, [0] * len(calls), f"route:{route.name}")

    def of_upstream(self, upstream: UpstreamFacts) -> Evidence | None:
        """Return the evidence about the attempts at an upstream."""
        routes = [route.name for route in upstream.routes]
        calls = [period.upstreams.get(upstream.name, NONE) for period in self._periods]
        again = [sum(period.routes.get(name, NONE).again for name in routes) for period in self._periods]
        return FiguresEvidence(self._periods, calls, again, f"upstream:{upstream.name}")

    def unknown(self) -> list[str]:
        """Return sentences about what is not suggested because the figures cannot tell."""
        routes = [route for route in self.policies.routes if route.upstream is not None and "@" not in route.name]
        blurred = [route.name for route in routes if self.of_route(route) is None]
        few = [r.name for r in routes if (found := self.of_route(r)) is not None and found.calls < LEAST]
        sentences = []
        if few:
            sentences.append(f"routes with fewer than {LEAST} calls in the figures: {', '.join(few)}")
        if blurred:
            sentences.append(
                f"times of the attempts of {', '.join(blurred)}, which share an upstream and do more than one attempt: "
                "a log has them (--log)"
            )
        return [
            *sentences,
            *self.caches.unknown(),
            "effects of the values: a replay needs the requests one by one, as a log has them (--log)",
            "what happened between two readings: windows are minutes, and permits are read every second",
        ]

    @staticmethod
    def _is_one_attempt(route: RouteFacts) -> bool:
        """True if a request of the route is one attempt, and nothing else takes time or answers."""
        upstream = route.upstream
        if upstream is None or route.tries > 1 or route.extra or route.fallback_calls:
            return False
        has_queue = any(each is not None and each.queue for each in (route.concurrency, upstream.spec.concurrency))
        is_delayed = any(limit.delay is not None for limit in route.limits)
        return route.cache is None and route.fallback is None and not has_queue and not is_delayed
