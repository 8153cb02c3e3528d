"""Upstreams fitted to a record: each attempt gets what a recorded attempt of the same time got.

Rules:

1. The answer is drawn from the recorded attempts of the same route at the same endpoint, in the window of `WINDOW`
   seconds around the instant.  A window with fewer than `ENOUGH` grows to both sides.  So an outage hits all attempts
   of its time, as recorded: failures stay correlated.
2. Without such attempts within `REACH` seconds, those of the route at any endpoint follow, then all of the endpoint,
   then all.
3. Attempts after the first are drawn from recorded ones of that kind where the window has `ENOUGH`: a request that
   fails for its own sake fails again.
4. A recorded attempt that was cut off after `d` seconds takes longer than `d`: how long is drawn from answers of the
   same time that took longer (the estimator of Kaplan and Meier, 1958, by redistribution), or from those of any time
   unless most attempts of the window were cut off.  Without one it never answers.
5. Attempts of a window are drawn in random order, each once before any again.  Drawing with replacement would double
   the variance of the failures in a window, and breakers would open on it.
6. Refused connections are drawn when a connection is made; all other outcomes with the request.
7. Where the record shows that latency depends on the calls in flight (`load.py`), an answer is as much slower or faster
   as the calls in flight are more or fewer than those beside the recorded attempt.
8. Where it shows that failures do, a recorded answer fails with the probability by which the share of failures grows
   with the calls in flight, and a recorded failure becomes an answer of the same time if the share shrinks.
"""

from __future__ import annotations

import random
from bisect import bisect_left
from collections import defaultdict
from typing import Final, NamedTuple

from sidecar.core.exchange import NEVER
from sidecar.replay.load import FailureCurve, failure_curve, load_curve
from sidecar.replay.record import BAD_STATUS, REFUSED, Record, Try

WINDOW: Final = 1.0
"""Length of a window in seconds."""
ENOUGH: Final = 12
"""Fewest attempts to draw from."""
REACH: Final = 10
"""Most windows to each side by which a window grows."""
MOST_SETS: Final = 20_000
"""Most sets of attempts that are remembered."""

Key = tuple[str, str, bool]
"""Route, endpoint, and True for attempts after the first; an empty text stands for all."""


class Answer(NamedTuple):
    """Behaviour of an upstream towards one attempt.

    - `seconds`: time until the answer or the failure; `NEVER` for none.
    - `status`: status of the answer; 0 for a failure.
    - `reason`: code of the failure; empty for an answer.
    """

    seconds: float
    status: int
    reason: str = ""


class Draws:
    """Attempts to draw from, in random order; each is drawn once before any again."""

    __slots__ = ("failing", "left", "tries")

    def __init__(self, tries: list[Try]) -> None:
        self.tries = tries
        self.failing = sum(not _is_good(a) for a in tries) / len(tries) if tries else 0.0
        """Share of the attempts that failed, from 0 to 1."""
        self.left: list[Try] = []
        """Attempts that were not drawn since the last shuffle, the next one last."""

    def take(self, rng: random.Random) -> Try:
        """Return the next attempt."""
        if not self.left:
            self.left = self.tries[:]
            rng.shuffle(self.left)
        return self.left.pop()


class Fitted:
    """Upstreams that behave as the record says."""

    def __init__(self, record: Record) -> None:
        self._pools: dict[Key, tuple[list[float], list[Try]]] = {}
        pools: dict[Key, list[Try]] = defaultdict(list)
        for request, tries in zip(record.requests, record.tries, strict=True):
            route = request.route
            for a in tries:
                keys = {(route, a.endpoint), (route, ""), ("", a.endpoint), ("", "")}
                for one, other in keys:
                    pools[one, other, False].append(a)
                    if a.is_again:
                        pools[one, other, True].append(a)
        for key, tries in pools.items():
            tries.sort(key=lambda a: a.at)
            self._pools[key] = ([a.at for a in tries], tries)
        self._answered: dict[Key, list[float]] = {
            key: sorted(a.seconds for a in tries if a.status) for key, (_, tries) in self._pools.items() if not key[2]
        }
        """Durations of answers in ascending order."""
        by_endpoint = _by_endpoint(record)
        curves = {url: load_curve(found) for url, found in by_endpoint.items()}
        self.curves = {url: curve for url, curve in curves.items() if curve is not None}
        """Latency by calls in flight of the endpoints where it depends on them."""
        failures = {url: failure_curve([a for _, a in found]) for url, found in by_endpoint.items()}
        self.failures = {url: curve for url, curve in failures.items() if curve is not None}
        """Failures by calls in flight of the endpoints where they depend on them."""
        self._sets: dict[tuple[str, str, bool, int], Draws] = {}
        self._refusals: dict[tuple[str, int], float] = {}
        self.endpoints = sorted({key[1] for key in self._pools if key[1]})
        """URLs of all recorded endpoints."""
        self.drawn_beyond = 0
        """Number of draws whose duration the log has only as a lower bound, without any longer answer."""

    def refuses(self, endpoint: str, at: float, rng: random.Random) -> str:
        """Return the reason for which a new connection fails; empty for one that is made."""
        place = endpoint, int(at / WINDOW)
        share = self._refusals.get(place)
        if share is None:
            found = self._set("", endpoint, at, is_again=False).tries
            share = sum(a.reason in REFUSED for a in found) / len(found) if found else 0.0
            if len(self._refusals) >= MOST_SETS:
                self._refusals.clear()
            self._refusals[place] = share
        return "connect_failure" if share and rng.random() < share else ""

    def draw(
        self, route: str, endpoint: str, at: float, rng: random.Random, *, is_again: bool, is_new: bool, in_flight: int
    ) -> Answer:
        """Return the behaviour towards an attempt at an instant, in seconds from the first request.

        `is_new`: True for the first request of a connection, which was not refused.  `in_flight`: other attempts at the
        endpoint that have no answer yet.
        """
        draws = self._set(route, endpoint, at, is_again=is_again)
        found = draws.tries
        if not found:
            return Answer(0.0, 200)
        a = draws.take(rng)
        if is_new and a.reason in REFUSED:
            others = [each for each in found if each.reason not in REFUSED]
            a = rng.choice(others) if others else Try(endpoint, at, a.seconds, 503, in_flight=a.in_flight)
        failures = self.failures.get(endpoint)
        if failures is not None and not a.is_censored and a.reason not in REFUSED:
            a = _under_load(a, draws, failures, in_flight, rng)
        if a.is_censored:
            answer = self._longer(found, (route, endpoint), a.seconds, rng)
        else:
            answer = Answer(a.seconds, a.status, a.reason)
        curve = self.curves.get(endpoint)
        if curve is None or not answer.status or answer.seconds == NEVER:
            return answer
        return answer._replace(seconds=answer.seconds * curve.factor(a.in_flight, in_flight))

    def _longer(self, found: list[Try], key: tuple[str, str], seconds: float, rng: random.Random) -> Answer:
        """Return an answer that takes longer than one of the attempts `found`, which was cut off after `seconds`."""
        same_time = [a for a in found if a.status and a.seconds > seconds]
        if same_time:
            a = same_time[int(rng.random() * len(same_time))]
            return Answer(a.seconds, a.status)
        if 2 * sum(a.is_censored for a in found) < len(found):  # else an outage, in which nothing answers
            route, endpoint = key
            for each in ((route, endpoint, False), (route, "", False), ("", endpoint, False)):
                durations = self._answered.get(each, [])
                first = bisect_left(durations, seconds)
                if len(durations) - first >= ENOUGH:
                    return Answer(durations[first + int(rng.random() * (len(durations) - first))], 200)
        self.drawn_beyond += 1
        return Answer(NEVER, 0, "timeout")

    def _set(self, route: str, endpoint: str, at: float, *, is_again: bool) -> Draws:
        """Return the recorded attempts to draw from."""
        place = route, endpoint, is_again, int(at / WINDOW)
        found = self._sets.get(place)
        if found is None:
            found = Draws(self._collect(*place))
            if len(self._sets) >= MOST_SETS:
                self._sets.clear()
            self._sets[place] = found
        return found

    def _collect(self, route: str, endpoint: str, is_again: bool, window: int) -> list[Try]:
        """Return the attempts of the window, or of the nearest with enough; empty if the record has none at all."""
        keys = [(route, endpoint), (route, ""), ("", endpoint), ("", "")]
        for again in (True, False) if is_again else (False,):
            for one, other in keys:
                # Attempts after the first say whether failures belong to the request: only their own time counts.
                found = self._near((one, other, again), window, 1 if again else REACH)
                if len(found) >= ENOUGH:
                    return found
        return next((near for one, other in keys if (near := self._near((one, other, False), window, 1 << 40))), [])

    def _near(self, key: Key, window: int, reach: int) -> list[Try]:
        """Return the attempts within `reach` windows, from as few windows as have enough."""
        times, tries = self._pools.get(key, ([], []))
        wide = 0
        found: list[Try] = []
        while True:
            first = bisect_left(times, (window - wide) * WINDOW)
            last = bisect_left(times, (window + wide + 1) * WINDOW)
            found = tries[first:last]
            if len(found) >= ENOUGH or len(found) == len(tries) or wide >= reach:
                return found
            wide = min(reach, max(1, wide * 2))


def _is_good(a: Try) -> bool:
    return not a.reason and a.status < BAD_STATUS


def _under_load(a: Try, draws: Draws, failures: FailureCurve, in_flight: int, rng: random.Random) -> Try:
    """Return an attempt, or another one if it fails or succeeds because more or fewer calls are in flight now."""
    if _is_good(a):
        chance = failures.breaks(a.in_flight, in_flight)
        return rng.choice(failures.failed) if chance and rng.random() < chance else a
    chance = failures.spares(a.in_flight, in_flight, draws.failing)
    if chance and rng.random() < chance:
        good = [each for each in draws.tries if _is_good(each)]
        return rng.choice(good) if good else a
    return a


def _by_endpoint(record: Record) -> dict[str, list[tuple[str, Try]]]:
    """Return the attempts at each endpoint with their routes."""
    tries: defaultdict[str, list[tuple[str, Try]]] = defaultdict(list)
    for request, found in zip(record.requests, record.tries, strict=True):
        for a in found:
            if a.endpoint:
                tries[a.endpoint].append((request.route, a))
    return tries
