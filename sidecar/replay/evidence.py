"""Evidence for values of policies: durations, failures and calls in flight of one route or upstream.

It comes from a log, or from the figures that a sidecar keeps over time (`figures.py`).  Good times are the windows
whose error rate is at most twice the median: incidents do not raise the limits.  What a client does is no failure.
"""

from __future__ import annotations

from bisect import bisect_right
from collections import defaultdict
from collections.abc import Sequence
from statistics import median
from typing import Final, NamedTuple, Protocol

from sidecar.lint.facts import Policies, RouteFacts, UpstreamFacts
from sidecar.replay.cached import CacheFigures
from sidecar.replay.record import BAD_STATUS, Record, Try
from sidecar.replay.tally import percentile

LEAST: Final = 100
"""Least number of calls from which anything is suggested."""
WINDOW: Final = 10.0
"""Seconds of the windows in which the calls of a log are counted."""


class Window(NamedTuple):
    """Calls of one window.

    - `again`: attempts after the first.
    """

    calls: int
    failed: int
    again: int


class Evidence(Protocol):
    """Evidence about one route or upstream."""

    @property
    def window(self) -> float:
        """Length of a window in seconds."""

    @property
    def calls(self) -> int:
        """Number of calls."""

    @property
    def good(self) -> int:
        """Number of good answers."""

    @property
    def cut_off(self) -> int:
        """Number of calls that a timeout ended."""

    def percentile(self, share: float) -> float:
        """Return the seconds within which a share of the good answers came."""

    def beyond(self, seconds: float) -> int:
        """Return the number of good answers that took longer."""

    def good_windows(self) -> Sequence[Window]:
        """Return the windows of good times that have calls."""

    def most_in_flight(self) -> tuple[int, str]:
        """Return the most calls in flight in good times, 0 if unknown, and words that go on after the number."""


class Origin(Protocol):
    """Origin of evidence for one set of policies."""

    @property
    def name(self) -> str:
        """Word for it: `log` or `figures`."""

    @property
    def policies(self) -> Policies:
        """Facts of the policies."""

    @property
    def record(self) -> Record | None:
        """Record that can be replayed; None without one."""

    @property
    def caches(self) -> CacheFigures | None:
        """Figures of caches; None if the origin has none."""

    @property
    def requests(self) -> int:
        """Number of requests."""

    @property
    def seconds(self) -> float:
        """Time in which they came."""

    def of_route(self, route: RouteFacts) -> Evidence | None:
        """Return the evidence about the attempts of a route; None without any."""

    def of_upstream(self, upstream: UpstreamFacts) -> Evidence | None:
        """Return the evidence about the attempts at an upstream; None without any."""

    def unknown(self) -> list[str]:
        """Return sentences about what is not suggested because the origin cannot tell."""


def good_times(windows: Sequence[Window]) -> list[bool]:
    """Return for each window, each with calls, whether it is one of good times."""
    rates = [each.failed / each.calls for each in windows]
    usual = median(rates) if rates else 0.0
    return [rate <= 2 * usual for rate in rates]


class LogEvidence:
    """Evidence of recorded attempts."""

    def __init__(self, tries: list[Try], has_starts: bool = True) -> None:
        """`has_starts`: True if the starts of the attempts are exact, so that calls in flight are known."""
        self._has_starts = has_starts
        self._durations = sorted(each.seconds for each in tries if not each.reason and each.status < BAD_STATUS)
        windows: defaultdict[int, list[Try]] = defaultdict(list)
        for each in tries:
            windows[int(each.at / WINDOW)].append(each)
        counted = {place: Window(len(found), _failed(found), _again(found)) for place, found in windows.items()}
        is_good = good_times(list(counted.values()))
        self._good = {place: each for (place, each), good in zip(counted.items(), is_good, strict=True) if good}
        self._windows = windows
        self.window = WINDOW
        self.calls = len(tries)
        self.good = len(self._durations)
        self.cut_off = sum(each.reason == "timeout" for each in tries)

    def percentile(self, share: float) -> float:
        """Return the seconds within which a share of the good answers came."""
        return percentile(self._durations, share)

    def beyond(self, seconds: float) -> int:
        """Return the number of good answers that took longer."""
        return self.good - bisect_right(self._durations, seconds)

    def good_windows(self) -> Sequence[Window]:
        """Return the windows of good times that have calls."""
        return list(self._good.values())

    def most_in_flight(self) -> tuple[int, str]:
        """Return the most calls in flight at one instant of good times, and words that go on after the number."""
        most = 0
        for place in self._good if self._has_starts else ():
            window = self._windows[place]
            now = 0
            for _, step in sorted([(a.at, 1) for a in window] + [(a.at + a.seconds, -1) for a in window]):
                now += step
                most = max(most, now)
        return most, "calls were in flight in good times"


def _failed(tries: Sequence[Try]) -> int:
    return sum(a.reason == "timeout" or (bool(a.reason) and not a.is_censored) or a.status >= BAD_STATUS for a in tries)


def _again(tries: Sequence[Try]) -> int:
    return sum(a.is_again for a in tries)


class LogOrigin:
    """Evidence of a log."""

    name = "log"

    def __init__(self, policies: Policies, record: Record, caches: CacheFigures | None = None) -> None:
        """`caches` are figures of a sidecar beside the log, which does not say when answers change."""
        self.policies = policies
        self.record = record
        self.caches = caches
        self.requests = len(record.requests)
        self.seconds = record.seconds
        routes: defaultdict[str, list[Try]] = defaultdict(list)
        upstreams: defaultdict[str, list[Try]] = defaultdict(list)
        owner = {route.name: route.spec.upstream for route in policies.routes}
        for request, tries in zip(record.requests, record.tries, strict=True):
            routes[request.route] += tries
            if name := owner.get(request.route):
                upstreams[name] += tries
        self._routes, self._upstreams = routes, upstreams

    def of_route(self, route: RouteFacts) -> Evidence | None:
        """Return the evidence about the attempts of a route; None without any."""
        return self._evidence(self._routes.get(route.name))

    def of_upstream(self, upstream: UpstreamFacts) -> Evidence | None:
        """Return the evidence about the attempts at an upstream; None without any."""
        return self._evidence(self._upstreams.get(upstream.name))

    def _evidence(self, tries: list[Try] | None) -> Evidence | None:
        return None if tries is None else LogEvidence(tries, not self.record.has_whole_seconds)

    def unknown(self) -> list[str]:
        """Return sentences about what is not suggested because the log cannot tell."""
        few = sorted(name for name, tries in self._routes.items() if name and len(tries) < LEAST)
        sentences = [f"routes with fewer than {LEAST} calls in the log: {', '.join(few)}"] if few else []
        if not self.record.has_attempts:
            sentences.append("the log has no attempts: times of requests stand for those of calls, retries included")
        if self.record.has_whole_seconds:
            words = "limits of concurrency, because the log has whole seconds"
            sentences.append(f"{words}: calls in flight are unknown (nginx: add msec=$msec)")
        if self.caches is not None:
            sentences += self.caches.unknown()
        elif any(route.cache is not None for route in self.policies.routes):
            words = "lifetimes of cached answers, because a log does not say when answers change"
            sentences.append(f"{words}: figures of a sidecar beside it do (--admin or --history)")
        return sentences
