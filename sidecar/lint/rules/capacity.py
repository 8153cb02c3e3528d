"""Rules about capacity: limits of concurrency and rate, quotas, queues, ejections, health checks and discovery."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from math import ceil, isinf
from typing import Any, Final

from sidecar.config.node import Node
from sidecar.limits.spec import NO_KEY, counts_all_of
from sidecar.lint.arithmetic import erlang_loss, in_flight, number, percent, seconds, times
from sidecar.lint.facts import LimitFacts, RouteFacts, UpstreamFacts
from sidecar.lint.rule import Hit, Rule, RuleText, limit_rule, route_rule, upstream_rule

REFUSED: Final = 0.01
"""Share of requests that a limit may refuse at its usual load."""
SLOW_DETECTION: Final = 60.0
"""Seconds after which a health check, or discovery, should have found an endpoint that no longer serves."""
LONGEST_WINDOW: Final = {"hour": 3600, "day": 90_000, "week": 608_400, "month": 2_682_000}
"""Longest window of a quota in seconds, with the hour that clocks are set back."""


@limit_rule(
    RuleText(
        "R060",
        "A queue that outlives the deadline of its requests",
        "warning",
        "A request that leaves the queue late has too little time left: it is served for nobody.",
        "SRE book ch. 22; Bronson et al., Metastable Failures in Distributed Systems (HotOS 2021)",
        "routes: [{name: order, upstream: app, timeout: {request: 1s, attempt: 900ms}, "
        "concurrency: {max: 50, queue: 100, queue_timeout: 500ms}}]",
        "routes: [{name: order, upstream: app, timeout: {request: 1s, attempt: 800ms}, "
        "concurrency: {max: 50, queue: 25, queue_timeout: 100ms}}]",
    )
)
def late_queue(limit: LimitFacts) -> Iterator[Hit]:
    wait = limit.spec.queue_timeout
    if isinf(limit.request) or wait >= limit.request:
        return
    left = limit.request - wait
    if limit.slow is not None and limit.slow > left:
        need = f"a call takes {seconds(limit.slow)} (stated)"
    elif not isinf(limit.attempt) and limit.attempt < limit.request and limit.attempt > left * (1 + 1e-9):
        need = f"a try may take {limit.attempt_text}"
    else:
        return
    yield Hit(
        limit.node.nearest("queue_timeout"),
        f"leaves {seconds(left)} of {limit.request_text} after {limit.wait} in the queue, but {need}; shorten it",
    )


@limit_rule(
    RuleText(
        "R061",
        "Places in a queue that are never served",
        "warning",
        "By Little's law the last place waits for queue x latency / max: beyond queue_timeout it is refused after "
        "waiting "
        "instead of at once.",
        "Little, A Proof for the Queuing Formula L = λW (1961); SRE book ch. 22: queues of half the pool or less",
        "routes: [{name: order, upstream: app, timeout: {request: 2s}, "
        "concurrency: {max: 10, queue: 200, queue_timeout: 100ms}}]",
        "routes: [{name: order, upstream: app, timeout: {request: 2s}, "
        "concurrency: {max: 10, queue: 10, queue_timeout: 200ms}}]",
        "routes: {order: {latency: {p50: 100ms}}}",
    )
)
def dead_places(limit: LimitFacts) -> Iterator[Hit]:
    spec, latency = limit.spec, limit.usual
    if latency is None:
        return
    permits = spec.max or spec.adaptive.max
    wait = spec.queue * latency / permits
    if wait > spec.queue_timeout * 1.5:
        served = max(1, int(spec.queue_timeout * permits / latency))
        yield Hit(
            limit.node.nearest("queue"),
            f"is served in {seconds(wait)} ({spec.queue} places x {seconds(latency)} / {permits}), but queue_timeout "
            f"is {limit.wait}; make it {served} at most",
        )


@limit_rule(
    RuleText(
        "R062",
        "A queue many times longer than its limit",
        "warning",
        "A long queue adds its whole delay to every request of an overload, and serves none more.",
        "SRE book ch. 22: queues of half the pool or less; Nichols and Jacobson (2012)",
        "routes: [{name: order, upstream: app, timeout: {request: 2s}, concurrency: {max: 10, queue: 1000}}]",
        "routes: [{name: order, upstream: app, timeout: {request: 2s}, concurrency: {max: 100, queue: 50}}]",
    )
)
def long_queue(limit: LimitFacts) -> Iterator[Hit]:
    spec = limit.spec
    if spec.max is not None and limit.usual is None and spec.queue > 4 * spec.max:
        each = spec.queue_timeout * spec.max / spec.queue
        yield Hit(
            limit.node.nearest("queue"),
            f"has {spec.queue} places behind {spec.max} permits: only calls of {seconds(each)} or less empty it within "
            f"queue_timeout; make it {spec.max} at most",
        )


@route_rule(
    RuleText(
        "R063",
        "A concurrency limit below the usual load",
        "warning",
        "By Little's law rate x latency requests are in flight, so a lower limit refuses requests on a good day.",
        "Little (1961); Erlang (1917)",
        "routes: [{name: order, upstream: app, timeout: {request: 2s}, concurrency: {max: 4}}]",
        "routes: [{name: order, upstream: app, timeout: {request: 2s}, concurrency: {max: 20}}]",
        "routes: {order: {rate: 50/s, latency: {p50: 100ms}}}",
    )
)
def small_limit(route: RouteFacts) -> Iterator[Hit]:
    yield from _small_limit(route.concurrency, [route], route.at("concurrency", "max"))
    upstream = route.first_of
    if upstream is not None and not any(each.cache is not None or "@" in each.name for each in upstream.routes):
        yield from _small_limit(upstream.spec.concurrency, upstream.routes, upstream.at("concurrency", "max"))


def _small_limit(block: Any, routes: Sequence[RouteFacts], node: Node) -> Iterator[Hit]:
    """Yield a limit below the usual load of its routes together."""
    if block is None or block.max is None:
        return
    load, words = 0.0, ""
    for route in routes:
        rate, latency = route.rate, route.traffic.latency.p50
        if rate is None or rate.is_bound or latency is None:
            return
        load += in_flight(rate.value, latency)
        words = f"{rate.words} x {seconds(latency)}"
    words = words if len(routes) == 1 else f"rates x latencies of {len(routes)} routes"
    refused = erlang_loss(load, block.max)
    if refused > REFUSED and not block.queue:
        effect = f"refuses {percent(refused)} of the requests by chance"
    elif load >= block.max:
        effect = "refuses requests all the time"
    else:
        return
    least = ceil(load + 3 * load**0.5 + 1)
    yield Hit(node, f"{effect}: {words} are {number(load)} requests in flight; make it at least {least}")


@route_rule(
    RuleText(
        "R064",
        "A limit of a route that its upstream's limit precedes",
        "warning",
        "The route's own limit never refuses, so it keeps no room for other routes.",
        "Netflix concurrency-limits; Nygard, Release It!: Bulkheads",
        'upstreams: {app: {endpoints: ["http://a:80"], concurrency: {max: 100}}}\n'
        "routes: [{name: order, upstream: app, timeout: {request: 2s}, concurrency: {max: 200}}]",
        'upstreams: {app: {endpoints: ["http://a:80"], concurrency: {max: 100}}}\n'
        "routes: [{name: order, upstream: app, timeout: {request: 2s}, concurrency: {max: 50}}]",
    )
)
def wide_route(route: RouteFacts) -> Iterator[Hit]:
    block, upstream = route.concurrency, route.upstream
    shared = upstream.spec.concurrency if upstream is not None else None
    if block is None or upstream is None or shared is None or block.max is None or shared.max is None:
        return
    if block.is_enforced and shared.is_enforced and block.max >= shared.max:
        yield Hit(
            route.at("concurrency", "max"),
            f"is {block.max}, but upstreams.{upstream.name}.concurrency.max is {shared.max} for all routes; make it "
            "lower "
            "than that",
        )


@upstream_rule(
    RuleText(
        "R065",
        "A concurrency limit above what the connections carry",
        "warning",
        "Requests wait for a connection instead, without the limit's queue and its order by criticality.",
        "Envoy's circuit breaking: max_connections beside max_requests",
        'upstreams: {app: {endpoints: ["http://a:80"], connections: {max: 50}, concurrency: {max: 400}}}\n'
        "routes: [{name: order, upstream: app, timeout: {request: 2s}}]",
        'upstreams: {app: {endpoints: ["http://a:80"], connections: {max: 256}, concurrency: {max: 200}}}\n'
        "routes: [{name: order, upstream: app, timeout: {request: 2s}}]",
    )
)
def few_connections(upstream: UpstreamFacts) -> Iterator[Hit]:
    spec = upstream.spec
    if spec.concurrency is None or spec.concurrency.max is None or not upstream.endpoints or spec.protocol == "http2":
        return
    carried = upstream.endpoints * spec.connections.max
    if spec.concurrency.max > carried and not spec.may_use_http2(spec.is_tls):
        yield Hit(
            upstream.at("concurrency", "max"),
            f"is {spec.concurrency.max}, but {times(upstream.endpoints, 'endpoint')} with connections.max "
            f"{spec.connections.max} carry {carried} requests; lower it, or raise connections.max",
        )


@route_rule(
    RuleText(
        "R066",
        "A concurrency limit that the rate limit never lets fill",
        "note",
        "By Little's law the rate limit bounds the requests in flight below the limit, so one of them does nothing.",
        "Little (1961)",
        "routes: [{name: order, upstream: app, timeout: {request: 1s}, "
        "rate_limit: [{name: all, rate: 10/s, burst: 5}], concurrency: {max: 100}}]",
        "routes: [{name: order, upstream: app, timeout: {request: 1s}, "
        "rate_limit: [{name: all, rate: 200/s, burst: 50}], concurrency: {max: 100}}]",
    )
)
def unreachable_limit(route: RouteFacts) -> Iterator[Hit]:
    block = route.concurrency
    if block is None or block.max is None or isinf(route.request):
        return
    for limit in route.limits:
        if limit.key != NO_KEY or limit.mode != "enforce" or limit.store is not None or limit.delay is not None:
            continue
        if not isinstance(limit.cost, int | float) or limit.cost < 1 or limit.count != "all":
            continue
        most = limit.capacity + limit.rate * route.request
        if most < block.max:
            yield Hit(
                route.at("concurrency", "max"),
                f"is never reached: the rate limit `{limit.name}` lets {number(most)} requests start within "
                f"{route.whole} "
                f"(timeout.request); make it lower than that, or leave it out",
            )
            return


@route_rule(
    RuleText(
        "R067",
        "A delay of a rate limit that takes the whole request",
        "warning",
        "A request that was delayed that long times out, after it has waited and used its place.",
        "NGINX limit_req with burst and without nodelay",
        "routes: [{name: order, upstream: app, timeout: {request: 1s}, "
        "rate_limit: [{name: all, rate: 10/s, delay: {max: 2s}}]}]",
        "routes: [{name: order, upstream: app, timeout: {request: 1s}, "
        "rate_limit: [{name: all, rate: 10/s, delay: {max: 100ms}}]}]",
        is_checked_at_load=True,
    )
)
def long_delay(route: RouteFacts) -> Iterator[Hit]:
    for index, limit in enumerate(route.limits):
        if limit.delay is not None and limit.delay.max >= route.request:
            yield Hit(
                route.at("rate_limit", index, "delay", "max"),
                f"is no shorter than the request, which ends after {route.whole} (timeout.request); make it a fraction",
            )


@route_rule(
    RuleText(
        "R068",
        "A rate limit of all requests below that of one client",
        "warning",
        "One client within its own limit uses up the limit of all, so the limit by key protects nobody.",
        "Amazon Builders' Library, Fairness in multi-tenant systems",
        "routes: [{name: order, upstream: app, timeout: {request: 1s}, rate_limit: [{name: all, rate: 50/s}, "
        "{name: each, rate: 50/s, key: client.address}]}]",
        "routes: [{name: order, upstream: app, timeout: {request: 1s}, rate_limit: [{name: all, rate: 500/s}, "
        "{name: each, rate: 50/s, key: client.address}]}]",
        is_checked_at_load=True,
    )
)
def unfair_limits(route: RouteFacts) -> Iterator[Hit]:
    shared = [
        limit for limit in route.limits if limit.key == NO_KEY and limit.mode == "enforce" and limit.delay is None
    ]
    for index, limit in enumerate(route.limits):
        alike = (each for each in shared if (each.count, each.cost) == (limit.count, limit.cost))
        lower = next((each for each in alike if each.rate <= limit.rate), None)
        if limit.key != NO_KEY and limit.mode == "enforce" and lower is not None:
            yield Hit(
                route.at("rate_limit", index, "rate"),
                f"lets one {limit.key} use up `{lower.name}` ({lower.words}), which is for all; make it a fraction of "
                "that",
            )


@upstream_rule(
    RuleText(
        "R070",
        "An ejection that can empty the set",
        "warning",
        "A failure that all endpoints share, such as a bad request, ejects them all: nobody is served.",
        "envoy#2671 and #28304 (panic mode); Linkerd's failure accrual without a floor",
        'upstreams: {app: {endpoints: ["http://a:80", "http://b:80"], panic: fail_fast, ejection: {min_healthy: 0}}}\n'
        "routes: [{name: order, upstream: app, timeout: {request: 2s}}]",
        'upstreams: {app: {endpoints: ["http://a:80", "http://b:80"], panic: fail_fast, ejection: {min_healthy: 1}}}\n'
        "routes: [{name: order, upstream: app, timeout: {request: 2s}}]",
    )
)
def empty_set(upstream: UpstreamFacts) -> Iterator[Hit]:
    ejection = upstream.spec.ejection
    if ejection is not None and ejection.min_healthy == 0:
        then = (
            "refuses all requests" if upstream.spec.panic == "fail_fast" else "spreads requests over all of them again"
        )
        count = f"all {upstream.endpoints} endpoints" if upstream.endpoints else "all endpoints"
        yield Hit(
            upstream.at("ejection", "min_healthy"),
            f"lets {count} be ejected by {ejection.consecutive_failures} failures each, and then {then}; write 1 or "
            "more",
        )


@upstream_rule(
    RuleText(
        "R071",
        "Few endpoints that must carry the whole load",
        "warning",
        "When all but `min_healthy` are ejected, those that are left get all requests, and fail under them.",
        "SRE book ch. 22 on cascading failures; Envoy's max_ejection_percent of 10 %",
        'upstreams: {app: {endpoints: ["http://a:80", "http://b:80", "http://c:80", "http://d:80", "http://e:80"], '
        "ejection: {min_healthy: 1}}}\n"
        "routes: [{name: order, upstream: app, timeout: {request: 2s}}]",
        'upstreams: {app: {endpoints: ["http://a:80", "http://b:80", "http://c:80", "http://d:80", "http://e:80"], '
        "ejection: {min_healthy: 3}}}\n"
        "routes: [{name: order, upstream: app, timeout: {request: 2s}}]",
    )
)
def overloaded_rest(upstream: UpstreamFacts) -> Iterator[Hit]:
    ejection = upstream.spec.ejection
    if ejection is None or not 0 < ejection.min_healthy < upstream.endpoints or upstream.spec.concurrency is not None:
        return
    factor = upstream.endpoints / ejection.min_healthy
    if factor > 3:
        yield Hit(
            upstream.at("ejection", "min_healthy"),
            f"lets {ejection.min_healthy} of {upstream.endpoints} endpoints get {number(factor)} times the load, "
            "without a "
            f"limit of concurrency; write {(upstream.endpoints + 1) // 2}, or add concurrency to the upstream",
        )


@upstream_rule(
    RuleText(
        "R072",
        "An ejection that ends before its calls",
        "warning",
        "An endpoint that hangs gets requests again while those from before still wait for it.",
        "Envoy's base_ejection_time (30s); envoy#21142",
        'upstreams: {app: {endpoints: ["http://a:80", "http://b:80"], ejection: {eject_for: 1s}}}\n'
        "routes: [{name: order, upstream: app, timeout: {request: 10s}}]",
        'upstreams: {app: {endpoints: ["http://a:80", "http://b:80"], ejection: {eject_for: 10s}}}\n'
        "routes: [{name: order, upstream: app, timeout: {request: 10s, attempt: 2s}}]",
    )
)
def short_ejection(upstream: UpstreamFacts) -> Iterator[Hit]:
    ejection = upstream.spec.ejection
    slow = [route for route in upstream.routes if not isinf(route.limit)]
    if ejection is None or not slow or "timeout" not in ejection.on:
        return
    longest = max(slow, key=lambda route: route.limit)
    if ejection.eject_for < longest.limit:
        key = "attempt" if longest.attempt <= longest.request else "request"
        given = upstream.node.printable(seconds(ejection.eject_for), "ejection", "eject_for")
        yield Hit(
            upstream.at("ejection", "eject_for"),
            f"is {given}, but a call of {longest.name} may hang for {longest.text(longest.limit, 'timeout', key)} "
            f"(timeout.{key}); make it longer than that",
        )


@upstream_rule(
    RuleText(
        "R073",
        "A dead endpoint that keeps its share of the requests",
        "note",
        "Nothing leaves it out: with n endpoints every n-th request fails until someone acts.",
        "Envoy's outlier detection; Linkerd's failure accrual; Nygard, Release It!: Unbalanced Capacities",
        'upstreams: {app: {endpoints: ["http://a:80", "http://b:80", "http://c:80"]}}\n'
        "routes: [{name: order, upstream: app, timeout: {request: 2s}}]",
        'upstreams: {app: {endpoints: ["http://a:80", "http://b:80", "http://c:80"], ejection: {min_healthy: 2}}}\n'
        "routes: [{name: order, upstream: app, timeout: {request: 2s}}]",
    )
)
def kept_dead(upstream: UpstreamFacts) -> Iterator[Hit]:
    if upstream.endpoints > 1 and upstream.routes and not upstream.has_isolation:
        yield Hit(
            upstream.at("endpoints"),
            f"has {upstream.endpoints} endpoints and leaves out none that fails, so one that is down fails "
            f"{percent(1 / upstream.endpoints)} of the tries; add such as ejection: {{consecutive_failures: 5, "
            "eject_for: 10s}",
        )


@upstream_rule(
    RuleText(
        "R074",
        "A health check that is slow to see",
        "warning",
        "An endpoint that hangs gets its share of the requests until the last probe has failed.",
        "Kubernetes documentation: periodSeconds x failureThreshold; HAProxy inter and fall",
        'upstreams: {app: {endpoints: ["http://a:80"], health_check: {path: /healthz, interval: 30s, unhealthy_after: '
        "5}}}\n"
        "routes: [{name: order, upstream: app, timeout: {request: 2s}}]",
        'upstreams: {app: {endpoints: ["http://a:80"], health_check: {path: /healthz, interval: 5s, unhealthy_after: '
        "3}}}\n"
        "routes: [{name: order, upstream: app, timeout: {request: 2s}}]",
    )
)
def slow_check(upstream: UpstreamFacts) -> Iterator[Hit]:
    check = upstream.spec.health_check
    if check is None or upstream.spec.ejection is not None:
        return
    delay = check.unhealthy_after * (check.interval + check.timeout)
    if delay > SLOW_DETECTION:
        yield Hit(
            upstream.at("health_check", "interval"),
            f"finds an endpoint that hangs after {seconds(delay)} ({check.unhealthy_after} x "
            f"({seconds(check.interval)} + "
            f"{seconds(check.timeout)})); shorten it, or add an ejection",
        )


@upstream_rule(
    RuleText(
        "R075",
        "An upstream that one failed probe takes away",
        "warning",
        "A single lost packet or a pause of the garbage collector is enough to lose an endpoint.",
        "Kubernetes documentation: failureThreshold 3; HAProxy fall 3",
        'upstreams: {app: {endpoints: ["http://a:80"], panic: fail_fast, health_check: {path: /healthz, '
        "unhealthy_after: 1}}}\n"
        "routes: [{name: order, upstream: app, timeout: {request: 2s}}]",
        'upstreams: {app: {endpoints: ["http://a:80"], panic: fail_fast, health_check: {path: /healthz, '
        "unhealthy_after: 3}}}\n"
        "routes: [{name: order, upstream: app, timeout: {request: 2s}}]",
    )
)
def nervous_check(upstream: UpstreamFacts) -> Iterator[Hit]:
    check = upstream.spec.health_check
    if check is not None and check.unhealthy_after == 1:
        daily = 86400 / (check.interval + 0.0)
        yield Hit(
            upstream.at("health_check", "unhealthy_after"),
            f"takes an endpoint away at one failed probe: at one lost in ten thousand that is {number(daily / 1e4)} "
            "times a "
            "day for each endpoint; write 3",
        )


@route_rule(
    RuleText(
        "R076",
        "A quota that the rate limit beside it never lets be reached",
        "warning",
        "The rate limit refuses whatever the quota would, so the quota promises more than callers can have.",
        "Google Apigee documentation: comparing Quota and SpikeArrest policies",
        "routes: [{name: order, upstream: app, timeout: {request: 2s}, "
        "rate_limit: [{name: pace, rate: 10/m, burst: 10, key: client.address}], "
        "quota: [{name: hourly, max: 5000, per: hour, key: client.address}]}]",
        "routes: [{name: order, upstream: app, timeout: {request: 2s}, "
        "rate_limit: [{name: pace, rate: 10/s, burst: 10, key: client.address}], "
        "quota: [{name: hourly, max: 5000, per: hour, key: client.address}]}]",
    )
)
def unreachable_quota(route: RouteFacts) -> Iterator[Hit]:
    block = route.blocks.get("quota")
    limits = [
        each for each in route.limits
        if each.mode == "enforce" and each.cost == 1 and each.count == "all"
    ]  # fmt: skip
    for index, quota in enumerate(block.quotas if block is not None else ()):
        for limit in limits if quota.cost == 1 else ():
            most = limit.capacity + limit.rate * LONGEST_WINDOW[quota.per]
            if counts_all_of(limit, quota) and most < quota.max:
                yield Hit(
                    route.at("quota", index, "max"),
                    f"is never reached: `{limit.name}` lets at most {most:.0f} through in the {quota.per}; lower it",
                )
                break


@route_rule(
    RuleText(
        "R077",
        "A wait for pacing that takes the whole request",
        "warning",
        "An attempt that has waited that long is sent when no time is left for its answer.",
        "SRE book ch. 22; RFC 9110 10.2.3 (Retry-After)",
        'upstreams: {app: {endpoints: ["http://a:80"], pacing: {max_wait: 2s}}}\n'
        "routes: [{name: order, upstream: app, timeout: {request: 2s}}]",
        'upstreams: {app: {endpoints: ["http://a:80"], pacing: {max_wait: 200ms}}}\n'
        "routes: [{name: order, upstream: app, timeout: {request: 2s}}]",
    )
)
def long_pacing(route: RouteFacts) -> Iterator[Hit]:
    own, upstream = route.blocks.get("pacing"), route.first_of
    if own is not None and own.max_wait >= route.request:
        yield Hit(
            route.at("pacing", "max_wait"),
            f"is not shorter than {route.whole} (timeout.request), so that who waits gets no answer; shorten it",
        )
    if upstream is None or upstream.spec.pacing is None:
        return
    shortest = min(upstream.routes, key=lambda each: each.request)
    if upstream.spec.pacing.max_wait >= shortest.request:
        yield Hit(
            upstream.at("pacing", "max_wait"),
            f"is not shorter than {shortest.whole} (timeout.request of {shortest.name}), so that who waits gets no "
            "answer; shorten it",
        )


@upstream_rule(
    RuleText(
        "R078",
        "A name that is looked up too seldom for its endpoints to leave",
        "warning",
        "Addresses that have left get their share of the requests until the next look-up.",
        "Envoy dns_refresh_rate 5s; HAProxy hold valid 10s; Kubernetes DNS records with a TTL of 5 to 30s",
        "upstreams: {app: {discover: {dns: app.prod.svc, port: 80, interval: 10m}}}\n"
        "routes: [{name: order, upstream: app, timeout: {request: 2s}}]",
        "upstreams: {app: {discover: {dns: app.prod.svc, port: 80, interval: 10s}}}\n"
        "routes: [{name: order, upstream: app, timeout: {request: 2s}}]",
    )
)
def seldom_looked_up(upstream: UpstreamFacts) -> Iterator[Hit]:
    discover = upstream.spec.discover
    if discover is None or not (discover.dns or discover.srv) or upstream.has_isolation:
        return
    if discover.interval > SLOW_DETECTION:
        yield Hit(
            upstream.at("discover", "interval"),
            f"finds out after up to {seconds(discover.interval)} that an endpoint has left, and nothing else leaves it "
            "out; shorten it, or add an ejection",
        )


@upstream_rule(
    RuleText(
        "R079",
        "Discovered endpoints that one failed look-up takes away",
        "warning",
        "A name server that is away for a moment takes every endpoint away, although all of them serve.",
        "Envoy documentation: a failed resolution keeps the last good endpoints; RFC 8767 (serving stale data)",
        "upstreams: {app: {discover: {dns: app.prod.svc, port: 80, interval: 10s, keep_for: 5s}}}\n"
        "routes: [{name: order, upstream: app, timeout: {request: 2s}}]",
        "upstreams: {app: {discover: {dns: app.prod.svc, port: 80, interval: 10s, keep_for: 1h}}}\n"
        "routes: [{name: order, upstream: app, timeout: {request: 2s}}]",
    )
)
def soon_forgotten(upstream: UpstreamFacts) -> Iterator[Hit]:
    discover = upstream.spec.discover
    if discover is None or discover.keep_for is None or not (discover.dns or discover.srv):
        return
    if discover.keep_for < discover.interval:
        yield Hit(
            upstream.at("discover", "keep_for"),
            f"is shorter than {seconds(discover.interval)} (interval), so that one failed look-up leaves no endpoint; "
            "lengthen it",
        )


RULES: Final[tuple[Rule, ...]] = (
    late_queue, dead_places, long_queue, small_limit, wide_route, few_connections, unreachable_limit, long_delay,
    unfair_limits, empty_set, overloaded_rest, short_ejection, kept_dead, slow_check, nervous_check,
    unreachable_quota, long_pacing, seldom_looked_up, soon_forgotten,
)  # fmt: skip
