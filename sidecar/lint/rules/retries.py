"""Rules about attempts: retries, hedges, their budgets, and how many calls one request becomes."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Final

from sidecar.lint.arithmetic import number, percent, seconds, times
from sidecar.lint.facts import WRITES, RouteFacts, UpstreamFacts
from sidecar.lint.rule import Hit, Rule, RuleText, route_rule, upstream_rule

MANY_CALLS: Final = 6
"""Calls for one request, above which a policy multiplies load."""
HEDGED: Final = 0.05
"""Share of requests that a hedge after the 95th percentile sends again."""
UNNOTICED: Final = 0.01
"""Seconds of a back-off up to which jitter spreads nothing."""
FULL: Final = 0.5
"""Ratio of a retry budget above which it no longer bounds an overload."""
MEMORY: Final = 2**30
"""Bytes of kept request bodies above which there is a warning."""
HOPELESS: Final = frozenset((400, 401, 402, 403, 404, 405, 406, 410, 411, 413, 414, 415, 422, 501, 505))
"""Statuses that the same request gets again."""
SENT: Final = frozenset(("reset", "timeout", "protocol_error", "5xx", 500, 502, 503, 504))
"""Conditions that may hold after the upstream has acted on the request."""


@route_rule(
    RuleText(
        "R020",
        "A write that may happen twice",
        "error",
        "A lost response does not mean that nothing was done: the payment may be made, and is made again.",
        "RFC 9110 9.2.2; istio/istio#50506 (double payout) and #13851; Stripe's documentation of idempotency keys",
        "routes: [{name: pay, upstream: app, timeout: {request: 3s, attempt: 1s}, retry: {methods: [POST], on: "
        "[timeout, 503]}}]",
        "routes: [{name: pay, upstream: app, timeout: {request: 3s, attempt: 1s}, retry: {methods: [POST], on: "
        "[connect_failure]}}]",
    )
)
def retried_writes(route: RouteFacts) -> Iterator[Hit]:
    if route.retry is None or route.spec.match.grpc is not None or "translate" in route.blocks:
        return
    methods = [method for method in route.retry.methods if method in WRITES and route.takes(method)]
    unsafe = [each for each in route.retry.on if each in SENT]
    if methods and unsafe and route.tries > 1:
        yield Hit(
            route.at("retry", "methods"),
            f"sends {' and '.join(methods)} up to {route.tries} times, also after {', '.join(map(str, unsafe))}, when "
            "the "
            "upstream may have acted; leave it out (requests with an Idempotency-Key are retried anyway), or retry on "
            "connect_failure alone",
        )


@route_rule(
    RuleText(
        "R021",
        "A hedge of writes",
        "error",
        "Both requests are answered: the effect happens twice on every slow day.",
        "Dean and Barroso, The Tail at Scale: hedged requests must be idempotent; gRPC A6",
        "routes: [{name: pay, upstream: app, timeout: {request: 3s}, hedge: {after: 100ms, methods: [POST]}}]",
        "routes: [{name: pay, upstream: app, timeout: {request: 3s}, hedge: {after: 100ms}}]",
    )
)
def hedged_writes(route: RouteFacts) -> Iterator[Hit]:
    if route.hedge is None or route.spec.match.grpc is not None or "translate" in route.blocks:
        return
    methods = [each for each in route.hedge.methods if each in (*WRITES, "PUT", "DELETE") and route.takes(each)]
    if methods:
        yield Hit(
            route.at("hedge", "methods"),
            f"sends {' and '.join(methods)} {1 + route.extra} times at once when the response takes longer than "
            f"{seconds(route.hedge.after)}; leave it out",
        )


@route_rule(
    RuleText(
        "R022",
        "A retry of what fails again",
        "warning",
        "The upstream has judged the request itself, and judges the next one alike.",
        "RFC 9110 15.5: client errors; Amazon Builders' Library: retry only what may succeed",
        "routes: [{name: order, upstream: app, timeout: {request: 3s}, retry: {on: [404, 503]}}]",
        "routes: [{name: order, upstream: app, timeout: {request: 3s}, retry: {on: [503]}}]",
    )
)
def hopeless_retries(route: RouteFacts) -> Iterator[Hit]:
    if route.retry is None:
        return
    for index, condition in enumerate(route.retry.on):
        if condition in HOPELESS or condition == "4xx":
            message = f"retries {condition}, which the same request gets {route.tries} times"
            yield Hit(route.at("retry", "on", index), f"{message}; leave it out")


@route_rule(
    RuleText(
        "R023",
        "Retries without jitter",
        "warning",
        "Requests that failed together come back together, and fail together again.",
        "Brooker, Exponential Backoff and Jitter (AWS Architecture Blog, 2015)",
        "routes: [{name: order, upstream: app, timeout: {request: 3s}, retry: {backoff: {base: 100ms, jitter: none}}}]",
        "routes: [{name: order, upstream: app, timeout: {request: 3s}, retry: {backoff: {base: 100ms, jitter: full}}}, "
        "{name: next, match: {path: /next}, upstream: app, timeout: {request: 3s}, "
        "retry: {backoff: {base: 1ms, max: 1ms, jitter: none}}}]",
    )
)
def no_jitter(route: RouteFacts) -> Iterator[Hit]:
    backoff = None if route.retry is None else route.retry.backoff
    if backoff is not None and backoff.jitter == "none" and backoff.max > UNNOTICED:
        yield Hit(
            route.at("retry", "backoff", "jitter"),
            "sends all retries of one moment in one later moment; write jitter: full",
            "full",
        )


@route_rule(
    RuleText(
        "R024",
        "One request that becomes many",
        "warning",
        "When the upstream is slowest it gets the most calls; at the next layer the factors multiply.",
        "SRE book ch. 21 and 22: three attempts a request, 64 calls from three layers of four",
        "routes: [{name: order, upstream: app, timeout: {request: 3s}, retry: {max_attempts: 4}, "
        "hedge: {after: 100ms, max_extra: 2}}]",
        "routes: [{name: order, upstream: app, timeout: {request: 3s}, retry: {max_attempts: 2}, hedge: {after: "
        "100ms}}]",
    )
)
def many_calls(route: RouteFacts) -> Iterator[Hit]:
    calls = route.tries * (1 + route.extra) + route.fallback_calls
    if calls <= MANY_CALLS:
        return
    parts = [f"{route.tries} tries"]
    parts += [f"{1 + route.extra} requests at once"] if route.extra else []
    what = " x ".join(parts) + (f" + {times(route.fallback_calls, 'fallback')}" if route.fallback_calls else "")
    key = ("retry", "max_attempts") if route.tries > 1 + route.extra else ("hedge", "max_extra")
    yield Hit(
        route.at(*key),
        f"makes up to {calls} calls for one request ({what}); make it {MANY_CALLS} at most, such as 3 tries and one "
        "hedge",
    )


@route_rule(
    RuleText(
        "R025",
        "Several waits of retries that take the whole request",
        "warning",
        "The request ends while it waits, so the last tries do not run.",
        "Amazon Builders' Library, Timeouts, retries and backoff with jitter",
        "routes: [{name: order, upstream: app, timeout: {request: 1s}, retry: {max_attempts: 3, "
        "backoff: {base: 1s, max: 4s, jitter: equal}}}]",
        "routes: [{name: order, upstream: app, timeout: {request: 5s}, retry: {max_attempts: 3, "
        "backoff: {base: 50ms, max: 200ms}}}]",
    )
)
def long_waits(route: RouteFacts) -> Iterator[Hit]:
    if route.retry is None:
        return
    backoff, least = route.retry.backoff, {"full": 0.5, "equal": 0.75, "none": 1.0}
    waits = sum(min(backoff.max, backoff.base * 2**number) for number in range(route.tries - 1)) * least[backoff.jitter]
    if waits >= route.request:
        yield Hit(
            route.at("retry", "backoff"),
            f"waits {seconds(waits)} on average between {route.tries} tries, but the request ends after {route.whole} "
            "(timeout.request); shorten base and max",
        )


@upstream_rule(
    RuleText(
        "R026",
        "A retry budget that bounds nothing",
        "warning",
        "In an outage every request is retried, so the upstream gets a multiple of its load when it can serve least.",
        "Finagle RetryBudget (20 %); gRPC A6; SRE book ch. 21: 10 %",
        'upstreams: {app: {endpoints: ["http://127.0.0.1:9000"], retry_budget: {ratio: 100%}}}\n'
        "routes: [{name: order, upstream: app, timeout: {request: 3s}, retry: {max_attempts: 3}}]",
        'upstreams: {app: {endpoints: ["http://127.0.0.1:9000"], retry_budget: {ratio: 20%}}}\n'
        "routes: [{name: order, upstream: app, timeout: {request: 3s}, retry: {max_attempts: 3}}]",
    )
)
def wide_budget(upstream: UpstreamFacts) -> Iterator[Hit]:
    budget = upstream.spec.retry_budget
    extra = max((route.tries * (1 + route.extra) - 1 for route in upstream.routes), default=0)
    if not extra:
        return
    if not budget.is_enforced:
        message = f"only counts, so an outage makes {1 + extra} calls of each request"
        yield Hit(upstream.at("retry_budget", "mode"), f"{message}; leave mode out")
    elif budget.ratio > FULL:
        load = 1 + min(budget.ratio, extra)
        message = f"lets an outage multiply the load by {number(load)} for as long as it lasts"
        yield Hit(upstream.at("retry_budget", "ratio"), f"{message}; write 20%, or 10% with several layers")


@upstream_rule(
    RuleText(
        "R027",
        "A floor of the retry budget above the traffic",
        "warning",
        "`min_per_second` alone allows more retries than there are requests, whatever the ratio says.",
        "Finagle RetryBudget: minRetriesPerSec is meant for clients with little traffic",
        'upstreams: {app: {endpoints: ["http://127.0.0.1:9000"], retry_budget: {ratio: 10%, min_per_second: 20}}}\n'
        "routes: [{name: order, upstream: app, timeout: {request: 3s}, retry: {max_attempts: 3}}]",
        'upstreams: {app: {endpoints: ["http://127.0.0.1:9000"], retry_budget: {ratio: 10%, min_per_second: 1}}}\n'
        "routes: [{name: order, upstream: app, timeout: {request: 3s}, retry: {max_attempts: 3}}]",
        "routes: {order: {rate: 10/s}}",
    )
)
def high_floor(upstream: UpstreamFacts) -> Iterator[Hit]:
    budget, rate = upstream.spec.retry_budget, upstream.rate
    extra = max((route.tries * (1 + route.extra) - 1 for route in upstream.routes), default=0)
    if not extra or rate is None or not upstream.has("retry_budget", "min_per_second"):
        return
    if budget.min_per_second >= rate.value * min(extra, 1):
        yield Hit(
            upstream.at("retry_budget", "min_per_second"),
            f"allows {number(budget.min_per_second)} retries a second beside {rate.words}, so an outage multiplies "
            "the load "
            f"by {number(1 + min(extra, budget.min_per_second / rate.value + budget.ratio))}; make it a tenth of the "
            "rate",
        )


@route_rule(
    RuleText(
        "R028",
        "A hedge that eats up the retry budget",
        "warning",
        "Hedges and retries share one budget: where hedges take all of it, no request that fails is retried.",
        "Dean and Barroso, The Tail at Scale: 5 % more load for the 95th percentile; gRPC A6",
        'upstreams: {app: {endpoints: ["http://127.0.0.1:9000"], retry_budget: {ratio: 5%, min_per_second: 0}}}\n'
        "routes: [{name: order, upstream: app, timeout: {request: 3s}, retry: {max_attempts: 2}, hedge: {after: "
        "100ms}}]",
        'upstreams: {app: {endpoints: ["http://127.0.0.1:9000"], retry_budget: {ratio: 20%, min_per_second: 0}}}\n'
        "routes: [{name: order, upstream: app, timeout: {request: 3s}, retry: {max_attempts: 2}, hedge: {after: "
        "100ms}}]",
    )
)
def eaten_budget(route: RouteFacts) -> Iterator[Hit]:
    if route.hedge is None or route.upstream is None:
        return
    budget, latency = route.upstream.spec.retry_budget, route.traffic.latency
    known = ((0.5, latency.p50), (0.05, latency.p95), (0.01, latency.p99))
    stated = [share for share, value in known if value is not None and route.hedge.after <= value]
    share = max(stated) if stated else 0.0 if any(value for _, value in known) else HEDGED
    spent, given = share * route.extra, budget.ratio
    if route.traffic.rate:
        given += budget.min_per_second / route.traffic.rate
    elif budget.min_per_second:
        given = max(given, budget.ratio + HEDGED) if not stated else given
    if spent and spent >= given:
        since = "as its latency says" if stated else "after the 95th percentile"
        yield Hit(
            route.at("hedge", "after"),
            f"sends {percent(spent)} more requests ({since}), and the retry budget of {route.upstream.name} allows "
            f"{percent(given)}, so nothing is left for retries; hedge later, or raise retry_budget.ratio",
        )


@route_rule(
    RuleText(
        "R029",
        "Request bodies that fill the memory",
        "warning",
        "Each body that may be sent again is kept until its response; the product is what an outage takes.",
        "Linkerd's retries: 64 KiB a body; Envoy's per_connection_buffer_limit_bytes",
        "routes: [{name: upload, upstream: app, timeout: {request: 60s}, retry: {max_body: 32MiB}, concurrency: {max: "
        "500}}]",
        "routes: [{name: upload, upstream: app, timeout: {request: 15s}, retry: {max_body: 64KiB}, concurrency: {max: "
        "500}}]",
    )
)
def kept_bodies(route: RouteFacts) -> Iterator[Hit]:
    if route.retry is None or not route.has("retry", "max_body"):
        return
    most = route.policies.spec.limits.max_connections
    name = "limits.max_connections"
    if route.concurrency is not None:
        bound = route.concurrency.max or route.concurrency.adaptive.max
        if bound < most:
            most, name = bound + route.concurrency.queue, "concurrency.max"
    total = route.retry.max_body * most
    if total > MEMORY:
        size = f"{total / 2**30:.3g} GiB"
        message = f"may take {size} of memory for {most} requests in flight ({name})"
        yield Hit(route.at("retry", "max_body"), f"{message}; lower one of them")


@route_rule(
    RuleText(
        "R030",
        "A retry that only repeats refused connections of one endpoint",
        "note",
        "The next try within a few milliseconds reaches the same endpoint, which is still down.",
        "Envoy's retry host predicates; Kubernetes: a restart takes seconds",
        "routes: [{name: order, upstream: app, timeout: {request: 3s}, retry: {on: [connect_failure], "
        "backoff: {base: 1ms, max: 2ms}}}]",
        "routes: [{name: order, upstream: app, timeout: {request: 3s}, retry: {on: [connect_failure], "
        "backoff: {base: 100ms, max: 1s}}}]",
    )
)
def hasty_retries(route: RouteFacts) -> Iterator[Hit]:
    if route.retry is None or route.upstream is None or route.upstream.endpoints != 1:
        return
    if set(route.retry.on) == {"connect_failure"} and route.retry.backoff.max * (route.tries - 1) < 0.02:
        waits = route.retry.backoff.max * (route.tries - 1)
        yield Hit(
            route.at("retry", "backoff"),
            f"spends all {route.tries} tries within {seconds(waits)} on the only endpoint of {route.upstream.name}; "
            "write such as backoff: {base: 100ms, max: 1s}, or add an endpoint",
        )


RULES: Final[tuple[Rule, ...]] = (
    retried_writes, hedged_writes, hopeless_retries, no_jitter, many_calls, long_waits, wide_budget, high_floor,
    eaten_budget, kept_bodies, hasty_retries,
)  # fmt: skip
