"""Facts that rules compute with: blocks in force, limits of time, worst case and traffic of each route.

They are computed once for one set of policies, and rules only read them.
"""

from __future__ import annotations

import weakref
from collections.abc import Iterator
from math import isinf
from typing import Any, NamedTuple

from sidecar.config.checks.aggregations import worst_of
from sidecar.config.node import Node
from sidecar.config.spec import AGGREGATE, PolicySpec, RouteSpec, UpstreamSpec
from sidecar.core.exchange import NEVER
from sidecar.limits.spec import NO_KEY
from sidecar.lint.arithmetic import seconds
from sidecar.lint.traffic import NO_TRAFFIC, RouteTraffic, TrafficSpec

WRITES = ("POST", "PATCH")
"""Methods that are not idempotent (RFC 9110 9.2.2)."""


class KnownRate(NamedTuple):
    """Rate of requests, with where it is known from."""

    value: float
    """Requests a second; an upper bound if `is_bound`."""
    words: str
    """Rate as text, with its origin."""
    is_bound: bool
    """True if a rate limit bounds the rate, which may be lower."""


class Worst(NamedTuple):
    """Worst case of one request."""

    seconds: float
    """Longest time; infinite without a limit."""
    calls: int
    """Most calls of upstreams."""


class UpstreamFacts:
    """Facts of one upstream."""

    def __init__(self, policies: Policies, name: str, spec: UpstreamSpec) -> None:
        self.policies: Policies = weakref.proxy(policies)  # no cycle, since diffs are computed at each reload
        self.name = name
        self.spec = spec
        self.node = policies.spec.node.nearest("upstreams", name)
        self.routes: list[RouteFacts] = []
        """Routes whose requests go to it."""

    @property
    def endpoints(self) -> int:
        """Number of endpoints that are in use at a time; 0 if they are discovered."""
        return self.spec.most_in_use

    @property
    def has_isolation(self) -> bool:
        """True if one endpoint that fails is left out while others serve."""
        breaker = self.spec.circuit_breaker
        is_each = breaker is not None and breaker.per == "endpoint" and breaker.is_enforced
        return is_each or self.spec.ejection is not None or self.spec.health_check is not None

    @property
    def rate(self) -> KnownRate | None:
        """Rate of all its routes together; None if the rate of one is unknown."""
        rates = [route.rate for route in self.routes]
        known = [rate for rate in rates if rate is not None]
        if not known or len(known) < len(rates):
            return None
        if len(known) == 1:
            return known[0]
        total = sum(rate.value for rate in known)
        return KnownRate(total, f"{_rate(total)} of {len(known)} routes together", any(rate.is_bound for rate in known))

    def at(self, *path: str | int) -> Node:
        """Return the node at a path below the upstream, or the nearest one on the way to it."""
        return self.node.nearest(*path)

    def has(self, *path: str | int) -> bool:
        """True if the files have a value at a path below the upstream."""
        return self.node.find(path) is not None


class RouteFacts:
    """Facts of one route, or of one candidate of a rollout."""

    def __init__(self, policies: Policies, spec: RouteSpec) -> None:
        self.policies: Policies = weakref.proxy(policies)  # no cycle, since diffs are computed at each reload
        self.spec = spec
        self.name = spec.name
        blocks: dict[str, Any] = dict(spec.blocks)
        self.blocks = blocks
        self.timeout = blocks.get("timeout")
        self.retry = blocks.get("retry")
        self.hedge = blocks.get("hedge")
        self.breaker = blocks.get("circuit_breaker")
        self.concurrency = blocks.get("concurrency")
        self.cache = blocks.get("cache")
        self.fallback = blocks.get("fallback")
        self.throttle = blocks.get("throttle")
        self.limits = blocks["rate_limit"].limits if "rate_limit" in blocks else []
        self.upstream = policies.upstreams.get(spec.upstream)
        self.request: float = self.timeout.request if self.timeout is not None else NEVER
        """Longest time of a request in seconds; infinite without one."""
        self.attempt: float = self.timeout.attempt if self.timeout is not None else NEVER
        """Longest time of an attempt in seconds; infinite without one."""
        self.limit = min(self.request, self.attempt)
        """Time after which an attempt ends at the latest, in seconds."""
        self.traffic: RouteTraffic = policies.traffic.routes.get(spec.name.partition("@")[0], RouteTraffic.built_in())
        self.rate = self._rate()
        """Rate of its requests; None if nothing is known."""

    def at(self, *path: str | int) -> Node:
        """Return the node at a path below the route, or the nearest one on the way to it."""
        return self.spec.node.nearest(*path)

    def has(self, *path: str | int) -> bool:
        """True if the files have a value at a path below the route."""
        return self.spec.node.find(path) is not None

    def text(self, value: float, *path: str | int) -> str:
        """Return a time as text, or as the file has it if it comes from an environment variable."""
        return self.spec.node.printable(seconds(value), *path)

    @property
    def first_of(self) -> UpstreamFacts | None:
        """Upstream whose first route it is, so that a rule of routes looks at an upstream once; None otherwise."""
        upstream = self.upstream
        return upstream if upstream is not None and upstream.routes[0].name == self.name else None

    @property
    def whole(self) -> str:
        """Text of `timeout.request`."""
        return self.text(self.request, "timeout", "request")

    @property
    def tries(self) -> int:
        """Most attempts of one request, hedges left out."""
        return self.retry.max_attempts if self.retry is not None and self.retry.is_enforced else 1

    @property
    def extra(self) -> int:
        """Most further attempts of hedging."""
        return self.hedge.max_extra if self.hedge is not None and self.hedge.is_enforced else 0

    @property
    def is_stream(self) -> bool:
        """True if the file turns the limit of a request off on purpose, and limits silence instead."""
        return self.timeout is not None and isinf(self.request) and not isinf(self.timeout.idle)

    @property
    def fallback_calls(self) -> int:
        """Number of steps of the fallback that ask an upstream."""
        steps = self.fallback.steps if self.fallback is not None else ()
        return sum(step.upstream is not None for step in steps)

    @property
    def worst(self) -> Worst:
        """Worst case of one request."""
        if AGGREGATE in self.blocks:
            cost = worst_of(self.spec, self.policies.by_name)
            return Worst(min(self.request, cost.seconds), cost.calls)
        total = self.attempt
        if self.retry is not None:
            waits = max(self.retry.backoff.max, self.retry.retry_after.max)
            total = self.tries * self.attempt + (self.tries - 1) * waits
        total += self.extra * self.hedge.after if self.hedge is not None else 0.0
        if self.concurrency is not None and self.concurrency.queue:
            total += self.concurrency.queue_timeout
        total += sum(limit.delay.max for limit in self.limits if limit.delay is not None)
        total += self.fallback_calls * self.attempt if self.fallback_calls else 0.0
        return Worst(min(self.request, total), self.tries * (1 + self.extra) + self.fallback_calls)

    def takes(self, *methods: str) -> bool:
        """True if the match names one of the methods; without methods in the match it takes all of them."""
        named = self.spec.match.methods
        return named is None or any(method in named for method in methods)

    def _rate(self) -> KnownRate | None:
        """Return the stated rate, or the lowest rate limit over all requests; None without both."""
        if self.traffic.rate is not None:
            return KnownRate(self.traffic.rate, f"{_rate(self.traffic.rate)} (stated)", False)
        own = [(limit, "rate_limit") for limit in self.limits]
        if self.upstream is not None and self.upstream.spec.rate_limit is not None:
            own += [
                (limit, f"upstreams.{self.upstream.name}.rate_limit") for limit in self.upstream.spec.rate_limit.limits
            ]
        bounds = [
            (limit.rate, f"{place} `{limit.name}`")
            for limit, place in own
            if limit.key == NO_KEY and limit.mode == "enforce" and limit.count == "all" and limit.store is None
            and isinstance(limit.cost, int | float) and limit.cost >= 1
        ]  # fmt: skip
        if not bounds:
            return None
        rate, place = min(bounds)
        return KnownRate(rate, f"at most {_rate(rate)} ({place})", True)


class BreakerFacts(NamedTuple):
    """Facts of one breaker."""

    spec: Any
    node: Node
    """Node of its block."""
    rate: KnownRate | None
    """Rate of the calls that it sees; None if nothing is known."""
    errors: float | None
    """Stated share of calls that fail on a good day; None without one."""
    limit: float
    """Longest time of a call that it sees, in seconds."""
    limit_text: str
    """Longest time as text, with its key."""
    endpoints: int
    """Endpoints that one breaker of the block judges together."""
    upstream: UpstreamFacts | None
    """Upstream whose calls it judges; None for a route with several."""

    def at(self, *path: str | int) -> Node:
        """Return the node at a path below the block, or the nearest one on the way to it."""
        return self.node.nearest(*path)

    def has(self, *path: str | int) -> bool:
        """True if the files have a value at a path below the block."""
        return self.node.find(path) is not None

    def text(self, value: float, *path: str | int) -> str:
        """Return a time as text, or as the file has it if it comes from an environment variable."""
        return self.node.printable(seconds(value), *path)

    @property
    def window(self) -> float | None:
        """Length of the window in seconds; None if it counts calls."""
        window = self.spec.window
        return window if isinstance(window, float) else None


class LimitFacts(NamedTuple):
    """Facts of one limit of concurrency with a queue."""

    spec: Any
    node: Node
    """Node of its block."""
    request: float
    """Longest time of a request that may wait in the queue, in seconds."""
    request_text: str
    """Longest time of such a request as text, with its key."""
    attempt: float
    """Longest time of an attempt of such a request, in seconds."""
    attempt_text: str
    """Longest time of such an attempt as text, with its key."""
    usual: float | None
    """Stated median of the latency in seconds; None without one."""
    slow: float | None
    """Stated 99th percentile of the latency, or its median, in seconds; None without both."""

    @property
    def wait(self) -> str:
        """Longest wait in the queue as text."""
        return self.node.printable(seconds(self.spec.queue_timeout), "queue_timeout")


class Policies:
    """Facts of one set of policies."""

    def __init__(self, spec: PolicySpec, traffic: TrafficSpec = NO_TRAFFIC) -> None:
        self.spec = spec
        self.traffic = traffic
        self.by_name = {route.name: route for route in spec.routes}
        self.upstreams = {name: UpstreamFacts(self, name, each) for name, each in spec.upstreams.items()}
        self.routes = [RouteFacts(self, each) for route in spec.routes for each in (route, *route.arms)]
        for route in self.routes:
            if route.upstream is not None:
                route.upstream.routes.append(weakref.proxy(route))

    def at(self, *path: str | int) -> Node:
        """Return the node at a path in the document, or the nearest one on the way to it."""
        return self.spec.node.nearest(*path)

    def limits(self) -> Iterator[LimitFacts]:
        """Yield each limit of concurrency that has a queue, of routes and of upstreams."""
        for route in self.routes:
            node = route.spec.node.child("concurrency")
            if node is not None and route.concurrency is not None and route.concurrency.queue:
                yield _limit_facts(route.concurrency, node, route)
        for upstream in self.upstreams.values():
            node, spec = upstream.node.child("concurrency"), upstream.spec.concurrency
            if node is not None and spec is not None and spec.queue and upstream.routes:
                yield _limit_facts(spec, node, max(upstream.routes, key=lambda route: route.request))

    def breakers(self) -> Iterator[BreakerFacts]:
        """Yield each breaker, of routes and of upstreams."""
        for route in self.routes:
            if route.breaker is not None and (node := route.spec.node.child("circuit_breaker")) is not None:
                yield BreakerFacts(
                    route.breaker, node, route.rate, route.traffic.errors, route.limit, _limit_text(route),
                    route.upstream.endpoints if route.upstream is not None else 0, route.upstream,
                )  # fmt: skip
        for upstream in self.upstreams.values():
            breaker, found = upstream.spec.circuit_breaker, upstream.node.child("circuit_breaker")
            if breaker is None or found is None:
                continue
            each = breaker.per == "endpoint" and upstream.endpoints > 1
            rate = upstream.rate
            if rate is not None and each:
                share = rate.value / upstream.endpoints
                rate = KnownRate(share, f"{_rate(share)} for each of {upstream.endpoints} endpoints", rate.is_bound)
            slowest = max(upstream.routes, key=lambda route: route.limit, default=None)
            errors = [route.traffic.errors for route in upstream.routes if route.traffic.errors is not None]
            yield BreakerFacts(
                breaker, found, rate, max(errors, default=None), NEVER if slowest is None else slowest.limit,
                "" if slowest is None else _limit_text(slowest), 1 if each else upstream.endpoints, upstream,
            )  # fmt: skip


def _limit_facts(spec: Any, node: Node, route: RouteFacts) -> LimitFacts:
    """Return the facts of a limit for the requests of a route."""
    latency = route.traffic.latency
    return LimitFacts(
        spec, node, route.request, f"{route.whole} (timeout.request)", route.attempt,
        f"{route.text(route.attempt, 'timeout', 'attempt')} (timeout.attempt)", latency.p50, latency.p99 or latency.p50,
    )  # fmt: skip


def _limit_text(route: RouteFacts) -> str:
    """Return the shorter limit of an attempt as text, with its key."""
    key = "attempt" if route.attempt <= route.request else "request"
    return f"{route.text(route.limit, 'timeout', key)} (timeout.{key} of {route.name})"


def _rate(value: float) -> str:
    """Return a rate as text: `3/s`, or per minute or hour if it is lower."""
    for factor, unit in ((1.0, "s"), (60.0, "m"), (3600.0, "h")):
        if value * factor >= 1:
            return f"{value * factor:.3g}/{unit}"
    return f"{value * 3600:.3g}/h"
