"""Values that evidence suggests for policies (`evidence.py`).

- `timeout.attempt`: the percentile beyond which the accepted share of false timeouts lies (Amazon Builders' Library,
  "Timeouts, retries, and backoff with jitter").
- `timeout.request`: all attempts with their waits, as rule R001 of lint.
- `hedge.after`: the 95th percentile (Dean and Barroso, "The Tail at Scale").
- `circuit_breaker.failure_rate`: the noise of good times, as a binomial tail (rule R041 of lint).
- `concurrency.max`: the most calls in flight, which Little's law explains.
- `retry_budget.ratio`: the share of retries in the busiest window (SRE book ch. 21).
- `cache.ttl`, `cache.stale_while_revalidate`: the rate at which answers change (`changes.py`).

A value is suggested only if there is enough evidence, and if the one in force is far from it.
"""

from __future__ import annotations

from collections.abc import Iterator
from math import ceil, floor, inf, isinf, log10
from typing import Final, Literal, NamedTuple

from sidecar.lint.arithmetic import binomial_tail, failures_that_trip, percent, seconds
from sidecar.lint.facts import RouteFacts, UpstreamFacts
from sidecar.replay.cached import LEAST as LEAST_REFRESHED
from sidecar.replay.cached import SHORTEST as SHORTEST_LIFETIME
from sidecar.replay.cached import CacheFigures
from sidecar.replay.changes import ChangeRate, longest_lifetime, stale_share
from sidecar.replay.evidence import LEAST, Evidence, Origin

FALSE_TIMEOUTS: Final = 0.001
"""Accepted share of good answers that a timeout cuts off."""
TAIL: Final = 5
"""Least number of answers beyond a percentile from which it is taken."""
HEDGED: Final = 0.95
"""Percentile after which a hedge is sent."""
FAR: Final = 1.5
"""Factor by which a value may differ from what the evidence suggests."""
HEADROOM: Final = 2.0
"""Factor between the most calls in flight and a limit."""
STEPS: Final = (0.1, 0.2, 0.3, 0.4, 0.5, 0.6, 0.8)
"""Failure rates that are suggested for breakers."""
FALSE_OPENINGS: Final = 1 / (30 * 24 * 3600)
"""Accepted false openings of a breaker a second: one in thirty days."""
SHORTEST: Final = 0.01
"""Shortest timeout in seconds that is suggested."""
MORE_HITS: Final = 0.01
"""Least gain in requests that a cache answers, as a share, for which a longer lifetime is suggested."""


class Advice(NamedTuple):
    """Suggested value.

    - `kind`, `name`: its owner, a route or an upstream.
    - `path`: keys below the owner.
    - `old`: value in force as text; empty without one.
    - `why`: evidence, a sentence.
    """

    kind: Literal["routes", "upstreams"]
    name: str
    path: tuple[str, ...]
    old: str
    new: str
    why: str

    @property
    def place(self) -> str:
        """Path from the root of the document, such as `routes.order.timeout.attempt`."""
        return ".".join((self.kind, self.name, *self.path))


def advise(origin: Origin) -> list[Advice]:
    """Return what the evidence of an origin suggests for its policies, in the order of the routes."""
    found: list[Advice] = []
    for route in origin.policies.routes:
        evidence = origin.of_route(route)
        if evidence is not None and "@" not in route.name:
            found += _of_route(route, evidence)
        if origin.caches is not None and "@" not in route.name:
            found += _lifetimes(route, origin.caches)
    for upstream in origin.policies.upstreams.values():
        evidence = origin.of_upstream(upstream)
        if evidence is not None:
            found += _of_upstream(upstream, evidence)
    return found


def _of_route(route: RouteFacts, evidence: Evidence) -> Iterator[Advice]:
    """Yield what is suggested for a route."""
    good = evidence.good
    if good < LEAST or route.is_stream:
        return
    attempt = route.attempt
    limit = _time_limit(evidence, route.limit)
    if limit is not None:
        value, why = limit
        if attempt > FAR * value or attempt < value:
            attempt = value
            old = "" if isinf(route.attempt) else seconds(route.attempt)
            yield Advice("routes", route.name, ("timeout", "attempt"), old, seconds(value), why)
    yield from _whole(route, attempt)
    if route.hedge is not None and good * (1 - HEDGED) >= TAIL:
        after = _rounded(evidence.percentile(HEDGED))
        if not after / FAR <= route.hedge.after <= after * FAR:
            why = f"{percent(HEDGED)} of {good} good answers came within {seconds(evidence.percentile(HEDGED))}"
            yield Advice("routes", route.name, ("hedge", "after"), seconds(route.hedge.after), seconds(after), why)
    if route.breaker is not None and route.spec.node.child("circuit_breaker") is not None:
        yield from _breaker("routes", route.name, route.breaker, evidence, 1)


def _time_limit(evidence: Evidence, limit: float) -> tuple[float, str] | None:
    """Return the timeout of an attempt in seconds, with its evidence; None if there is too little."""
    cut_off, count = evidence.cut_off, evidence.good
    if cut_off > FALSE_TIMEOUTS * (count + cut_off) and not isinf(limit):
        reached = evidence.percentile(1 - FALSE_TIMEOUTS)
        if reached > limit / 2:
            value = _rounded(2 * limit)
            words = percent(cut_off / (count + cut_off))
            return value, f"{words} of the calls were cut off at {seconds(limit)}, where good answers still came"
        return None  # the upstream hung: a longer wait would help nobody
    share = FALSE_TIMEOUTS if count * FALSE_TIMEOUTS >= TAIL else 0.01
    if count * share < TAIL:
        return None
    reached = evidence.percentile(1 - share)
    value = max(SHORTEST, _rounded(reached if share == FALSE_TIMEOUTS else 2 * reached))
    beyond = evidence.beyond(value) / count
    words = f"{percent(1 - share)} of {count} good answers came within {seconds(reached)}"
    return value, f"{words}; this would cut off {percent(beyond)}"


def _whole(route: RouteFacts, attempt: float) -> Iterator[Advice]:
    """Yield the time of a request into which all attempts fit."""
    if isinf(attempt) or route.retry is None or not route.retry.is_enforced:
        return
    needed = route.tries * attempt + (route.tries - 1) * route.retry.backoff.max
    if route.request < needed or isinf(route.request):
        old = "" if isinf(route.request) else seconds(route.request)
        why = f"{route.tries} attempts of {seconds(attempt)} with their waits take up to {seconds(needed)}"
        yield Advice("routes", route.name, ("timeout", "request"), old, seconds(_rounded(needed)), why)


def _lifetimes(route: RouteFacts, caches: CacheFigures) -> Iterator[Advice]:
    """Yield the lifetimes of cached answers with the accepted share of stale ones."""
    cache, changes = route.cache, caches.changes(route)
    if cache is None or changes.count < LEAST_REFRESHED or (cache.ttl is None and cache.heuristic):
        return
    rate, most = changes.rate(), caches.max_stale
    given = 0.0 if cache.ttl is None else cache.ttl + cache.stale_while_revalidate
    if stale_share(rate.least, given) > most:
        value = caches.allowed(changes)
    else:
        value = longest_lifetime(max(rate.most, 1 / changes.seconds), most)
        if value < FAR * given:
            return
    now = caches.answered(route)
    then = _answered(now, given, value)
    if value < SHORTEST_LIFETIME or (value > given and then - now < MORE_HITS):
        return
    words = f"{changes.changed} of {changes.count} answers had changed when they were fetched anew, {_once(rate)}"
    assumed, bound = (rate.most, "at most ") if not rate.likely else (rate.likely, "about ")
    if isinf(rate.likely):
        assumed, bound = rate.least, "at least "
    if given:
        before, after = (percent(stale_share(assumed, lifetime)) for lifetime in (given, value))
        words += f"; of the answers from the cache {bound}{before} are stale now, {after} with this"
        words += f"; the cache answers {percent(now)} of the requests now, about {percent(then)} with this"
    stale = cache.stale_while_revalidate / given if given else 0.5 if cache.stale_while_revalidate else 0.0
    for key, old, new in (
        ("ttl", cache.ttl, value * (1 - stale)),
        ("stale_while_revalidate", cache.stale_while_revalidate, value * stale),
    ):
        if new:
            yield Advice(
                "routes", route.name, ("cache", key), "" if old is None else seconds(old), _floored(new), words
            )


def _answered(now: float, given: float, value: float) -> float:
    """Return the share of requests that a cache answers with another lifetime (Che et al., 2002)."""
    if not given or now >= 1:
        return 1.0
    asked = now / (1 - now) / given * value
    return asked / (1 + asked)


def _once(rate: ChangeRate) -> str:
    """Return words for a rate of changes."""

    def every(changes: float) -> str:
        return seconds(float(f"{1 / changes:.2g}"))

    if isinf(rate.likely):
        return f"so each changes at least once in {every(rate.least)}"
    if not rate.likely:
        return f"so each changes once in {every(rate.most)} at most"
    return f"so each changes once in {every(rate.likely)} ({every(rate.most)} to {every(rate.least)})"


def _of_upstream(upstream: UpstreamFacts, evidence: Evidence) -> Iterator[Advice]:
    """Yield what is suggested for an upstream."""
    if evidence.calls < LEAST:
        return
    spec = upstream.spec
    if spec.circuit_breaker is not None:
        share = max(1, upstream.endpoints) if spec.circuit_breaker.per == "endpoint" else 1
        yield from _breaker("upstreams", upstream.name, spec.circuit_breaker, evidence, share)
    limit = spec.concurrency
    if limit is not None and limit.adaptive is None and limit.max is not None:
        most, words = evidence.most_in_flight()
        value = ceil(HEADROOM * most)
        if most and not value / HEADROOM <= limit.max <= value * FAR:
            why = f"at most {most} {words}; the limit leaves {HEADROOM:g} times that"
            yield Advice("upstreams", upstream.name, ("concurrency", "max"), str(limit.max), str(value), why)
    if any(route.retry is not None for route in upstream.routes):
        used = max((each.again / each.calls for each in evidence.good_windows()), default=0.0)
        ratio = max(0.05, ceil(HEADROOM * used * 20) / 20)
        if spec.retry_budget.ratio > FAR * ratio:
            why = f"retries were at most {percent(used)} of the calls in {seconds(evidence.window)} of good times"
            old = percent(spec.retry_budget.ratio)
            yield Advice("upstreams", upstream.name, ("retry_budget", "ratio"), old, percent(ratio), why)


def _breaker(
    kind: Literal["routes", "upstreams"], name: str, spec: object, evidence: Evidence, share: int
) -> Iterator[Advice]:
    """Yield the failure rate of a breaker that sees one call of `share`: the least that does not open on noise."""
    rate, window, least = (getattr(spec, key) for key in ("failure_rate", "window", "min_calls"))
    windows = evidence.good_windows()
    calls = sum(each.calls for each in windows)
    if rate == "off" or not isinstance(window, float) or not calls:
        return
    errors = sum(each.failed for each in windows) / calls
    seen = max(least, round(calls / len(windows) / evidence.window * window / share))
    for step in STEPS:
        if binomial_tail(seen, errors, failures_that_trip(seen, step)) / window <= FALSE_OPENINGS:
            break
    if rate < step or rate > step + 0.35:
        words = f"{percent(errors)} of {calls} calls failed in good times"
        why = f"{words}; with {seen} calls a window it opens by chance less than once in 30 days"
        yield Advice(kind, name, ("circuit_breaker", "failure_rate"), percent(rate), percent(step), why)


def _rounded(value: float) -> float:
    """Return a number rounded up to two digits."""
    if value <= 0 or value == inf:
        return value
    unit = 10.0 ** (floor(log10(value)) - 1)
    return float(f"{ceil(value / unit - 1e-9) * unit:.6g}")


def _floored(value: float) -> str:
    """Return a duration as a policy has it, rounded down to two digits or to whole minutes or hours."""
    if value >= 7200:
        return f"{floor(value / 3600)}h"
    if value >= 600:
        return f"{floor(value / 60)}m"
    unit = 10.0 ** (floor(log10(value)) - 1)
    return seconds(floor(value / unit + 1e-9) * unit)
