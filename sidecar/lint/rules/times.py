"""Rules about limits of time: those without effect, and routes without any."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from math import isinf
from typing import Final

from sidecar.config.checks import times
from sidecar.config.spec import AGGREGATE, NO_LISTENER, RouteSpec
from sidecar.lint.arithmetic import seconds
from sidecar.lint.facts import Policies, RouteFacts
from sidecar.lint.rule import Hit, Rule, RuleText, policies_rule, route_rule

TIGHT: Final = 0.01
"""Share of requests that a timeout may cut off on a good day, above which it is too tight."""


def _at_load(find: Callable[[RouteSpec], Iterator[times.Found]]) -> Callable[[RouteFacts], Iterator[Hit]]:
    """Return the function of a rule that loading checks too."""
    return lambda route: (Hit(route.at(*path), message) for path, message in find(route.spec))


@route_rule(
    RuleText(
        "R001",
        "Tries that cannot run in the time of the request",
        "warning",
        "The last tries never run, so the policy promises more than it does.",
        "Envoy's retry documentation: per-try timeout against route timeout; KrakenD's rule on timeouts",
        "routes: [{name: order, upstream: app, timeout: {request: 3s, attempt: 2s}, retry: {max_attempts: 3}}]",
        "routes: [{name: order, upstream: app, timeout: {request: 3s, attempt: 1s}, retry: {max_attempts: 3}}]",
        is_checked_at_load=True,
    )
)
def tries_that_do_not_fit(route: RouteFacts) -> Iterator[Hit]:
    for path, message in times.find_attempts_that_do_not_fit(route.spec):
        fit = times.fitting(route.spec)
        yield Hit(route.at(*path), message, str(fit) if fit > 1 and route.has(*path) else None)


R002: Final = route_rule(
    RuleText(
        "R002",
        "A time of an attempt that is no shorter than that of the request",
        "warning",
        "The limit of the request ends first, so the one of the attempt has no effect and no retry can follow.",
        "Envoy's route documentation: a per-try timeout above the route timeout is ignored",
        "routes: [{name: order, upstream: app, timeout: {request: 2s, attempt: 3s}}]",
        "routes: [{name: order, upstream: app, timeout: {request: 3s, attempt: 1s}}]",
        is_checked_at_load=True,
    )
)(_at_load(times.find_attempt_without_effect))

R003: Final = route_rule(
    RuleText(
        "R003",
        "A retry of timeouts where no try times out",
        "warning",
        "Without a limit of the attempt the first try takes all the time there is.",
        "SRE book ch. 22: retries need a deadline of their own within that of the request",
        "routes: [{name: order, upstream: app, timeout: {request: 3s}, retry: {on: [timeout, 503]}}]",
        "routes: [{name: order, upstream: app, timeout: {request: 3s, attempt: 900ms}, retry: {on: [timeout, 503]}}]",
        is_checked_at_load=True,
    )
)(_at_load(times.find_retry_of_no_timeout))

R004: Final = route_rule(
    RuleText(
        "R004",
        "A hedge that comes too late",
        "warning",
        "The attempt has ended before the second request is sent.",
        "Dean and Barroso, The Tail at Scale (CACM 2013): hedge after the 95th percentile",
        "routes: [{name: order, upstream: app, timeout: {request: 1s, attempt: 200ms}, hedge: {after: 300ms}}]",
        "routes: [{name: order, upstream: app, timeout: {request: 1s, attempt: 400ms}, hedge: {after: 100ms}}]",
        is_checked_at_load=True,
    )
)(_at_load(times.find_late_hedge))


@route_rule(
    RuleText(
        "R005",
        "Slow calls that never count",
        "warning",
        "A call ends by its timeout before it can be slow.",
        "Resilience4j's CircuitBreaker documentation: slowCallDurationThreshold is 60s by default",
        "routes: [{name: order, upstream: app, timeout: {request: 2s}, "
        "circuit_breaker: {slow_calls: {longer_than: 5s, rate: 80%}}}]",
        "routes: [{name: order, upstream: app, timeout: {request: 2s}, "
        "circuit_breaker: {slow_calls: {longer_than: 1s, rate: 80%}}}]",
        is_checked_at_load=True,
    )
)
def slow_calls_without_effect(route: RouteFacts) -> Iterator[Hit]:
    yield from _at_load(times.find_slow_call_without_effect)(route)
    upstream = route.first_of
    breaker = None if upstream is None else upstream.spec.circuit_breaker
    if upstream is not None and breaker is not None and breaker.slow_calls is not None:
        longest = max(upstream.routes, key=lambda each: each.limit)
        if breaker.slow_calls.longer_than >= longest.limit:
            message = f"never counts a call as slow: all end before, after {seconds(longest.limit)} at most"
            where = upstream.at("circuit_breaker", "slow_calls", "longer_than")
            yield Hit(where, f"{message} (timeouts of {longest.name}); make it shorter than that")


@route_rule(
    RuleText(
        "R006",
        "A queue that waits longer than the request",
        "warning",
        "The request ends first, so nothing ever leaves the queue by its own timeout.",
        "Nichols and Jacobson, Controlling Queue Delay (2012); SRE book ch. 22 on queue lengths",
        "routes: [{name: order, upstream: app, timeout: {request: 1s}, "
        "concurrency: {max: 10, queue: 10, queue_timeout: 2s}}]",
        "routes: [{name: order, upstream: app, timeout: {request: 1s}, "
        "concurrency: {max: 10, queue: 10, queue_timeout: 100ms}}]",
        is_checked_at_load=True,
    )
)
def queue_without_end(route: RouteFacts) -> Iterator[Hit]:
    yield from _at_load(times.find_queue_without_end)(route)
    upstream = route.first_of
    limit = None if upstream is None else upstream.spec.concurrency
    if upstream is not None and limit is not None and limit.queue:
        longest = max(upstream.routes, key=lambda each: each.request)
        if limit.queue_timeout >= longest.request:
            message = f"has no effect: timeout.request of {longest.name} ({longest.whole}) ends first"
            yield Hit(upstream.at("concurrency", "queue_timeout"), f"{message}; make it shorter than that")


@route_rule(
    RuleText(
        "R007",
        "A route without any limit of time",
        "note",
        "A call that hangs holds its connection and its place until the client gives up, which may be never.",
        "Nygard, Release It!: Timeouts; incident reports of hung dependencies",
        "routes: [{name: order, upstream: app}]",
        "routes: [{name: order, upstream: app, timeout: {request: 3s}}]",
    )
)
def no_limit(route: RouteFacts) -> Iterator[Hit]:
    is_part = route.spec.listener == NO_LISTENER or AGGREGATE in route.blocks
    if isinf(route.request) and isinf(route.attempt) and not is_part and not route.is_stream:
        if route.timeout is None:
            yield Hit(
                route.at(), "has no limit of time, so a call that hangs holds it for ever; add timeout: {request: 3s}"
            )
        elif isinf(route.timeout.idle):
            message = "limits neither the request nor its silence, so a call that hangs holds it for ever"
            yield Hit(route.at("timeout"), f"{message}; add such as idle: 1m")


@route_rule(
    RuleText(
        "R008",
        "A Retry-After that is waited for longer than the request lasts",
        "warning",
        "The wait ends with the request, as a timeout instead of the upstream's own answer.",
        "RFC 9110 10.2.3; gRPC A6: pushback",
        "routes: [{name: order, upstream: app, timeout: {request: 2s}, retry: {retry_after: {max: 30s}}}]",
        "routes: [{name: order, upstream: app, timeout: {request: 2s}, retry: {retry_after: {max: 1s}}}]",
    )
)
def long_retry_after(route: RouteFacts) -> Iterator[Hit]:
    if route.retry is None or not route.has("retry", "retry_after", "max"):
        return
    most = route.retry.retry_after.max
    if most >= route.request:
        yield Hit(
            route.at("retry", "retry_after", "max"),
            f"waits up to {route.text(most, 'retry', 'retry_after', 'max')}, but the request ends after {route.whole} "
            "(timeout.request); make it shorter than that",
        )


@route_rule(
    RuleText(
        "R009",
        "A connect timeout that the attempt precedes",
        "warning",
        "A connection that hangs uses up the whole attempt, so no other endpoint is tried in it.",
        "Amazon Builders' Library, Timeouts, retries and backoff with jitter",
        'upstreams: {app: {endpoints: ["http://127.0.0.1:9000"], connect_timeout: 5s}}\n'
        "routes: [{name: order, upstream: app, timeout: {request: 2s}}]",
        'upstreams: {app: {endpoints: ["http://127.0.0.1:9000"], connect_timeout: 300ms}}\n'
        "routes: [{name: order, upstream: app, timeout: {request: 2s}}]",
    )
)
def long_connect(route: RouteFacts) -> Iterator[Hit]:
    upstream = route.upstream
    if upstream is not None and upstream.has("connect_timeout") and upstream.spec.connect_timeout >= route.limit:
        key = "attempt" if route.attempt <= route.request else "request"
        given = upstream.node.printable(seconds(upstream.spec.connect_timeout), "connect_timeout")
        yield Hit(
            upstream.at("connect_timeout"),
            f"is {given}, but timeout.{key} of {route.name} ends after {route.text(route.limit, 'timeout', key)}; "
            "make it a fraction of that",
        )


@policies_rule(
    RuleText(
        "R010",
        "A shutdown that is shorter than requests",
        "warning",
        "Requests that are still allowed to run are cut off at each deployment.",
        "Kubernetes documentation: termination of pods, terminationGracePeriodSeconds",
        "limits: {drain_timeout: 2s}\nroutes: [{name: report, upstream: app, timeout: {request: 10s}}]",
        "limits: {drain_timeout: 15s}\nroutes: [{name: report, upstream: app, timeout: {request: 10s}}]",
    )
)
def short_drain(policies: Policies) -> Iterator[Hit]:
    drain = policies.spec.limits.drain_timeout
    longest = max(
        (route for route in policies.routes if not isinf(route.request)), key=lambda each: each.request, default=None
    )
    if longest is not None and longest.request > drain:
        given = policies.at().printable(seconds(drain), "limits", "drain_timeout")
        given_here = policies.spec.node.find(("limits", "drain_timeout"))
        message = f"may take {longest.whole}, but a shutdown waits {given} (limits.drain_timeout)"
        if given_here is None:
            yield Hit(longest.at("timeout", "request"), f"{message}; raise that, or lower timeout.request")
        else:
            route = f"the route {longest.name} may take {longest.whole}"
            yield Hit(
                given_here, f"cuts off requests at a shutdown after {given}, while {route}; make it at least that"
            )


@route_rule(
    RuleText(
        "R011",
        "A timeout that cuts off good requests",
        "warning",
        "Requests that would have succeeded fail, and their retries add load while the upstream is healthy.",
        "Amazon Builders' Library: a timeout at the percentile of the accepted share of false timeouts",
        "routes: [{name: order, upstream: app, timeout: {request: 300ms}}]",
        "routes: [{name: order, upstream: app, timeout: {request: 1200ms}}]",
        "routes: {order: {latency: {p50: 40ms, p95: 350ms, p99: 600ms}}}",
    )
)
def tight_timeout(route: RouteFacts) -> Iterator[Hit]:
    latency = route.traffic.latency
    for share, value in ((0.5, latency.p50), (0.05, latency.p95), (TIGHT, latency.p99)):
        if value is not None and route.limit <= value:
            key = "attempt" if route.attempt <= route.request else "request"
            yield Hit(
                route.at("timeout", key),
                f"cuts off {share:.0%} of the requests or more on a good day, whose {1 - share:.0%} percentile is "
                f"{seconds(value)}; make it longer than the 99th percentile",
            )
            return


RULES: Final[tuple[Rule, ...]] = (
    tries_that_do_not_fit, R002, R003, R004, slow_calls_without_effect, queue_without_end, no_limit, long_retry_after,
    long_connect, short_drain, tight_timeout,
)  # fmt: skip
