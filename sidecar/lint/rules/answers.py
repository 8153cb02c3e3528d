"""Rules about answers: caches, fallbacks, injected faults, mirrors and rollouts."""

from __future__ import annotations

from collections.abc import Iterator
from math import isinf
from typing import Final

from sidecar.lint.arithmetic import number, percent, seconds
from sidecar.lint.facts import RouteFacts
from sidecar.lint.rule import Hit, Rule, RuleText, route_rule

UNIQUE: Final = frozenset(
    ("x-request-id", "traceparent", "tracestate", "x-b3-traceid", "x-correlation-id", "idempotency-key", "date",
     "x-amzn-trace-id", "x-cloud-trace-context")
)  # fmt: skip
"""Fields that differ in each request."""
PERSONAL: Final = frozenset(("cookie", "user-agent", "authorization"))
"""Fields that differ in each client."""
FEW_HITS: Final = 0.1
"""Hit ratio below which a cache is not worth its memory."""


@route_rule(
    RuleText(
        "R080",
        "A cache that cannot hit",
        "warning",
        "Only responses to GET and HEAD are reused, or the key differs in each request.",
        "RFC 9111 2 and 4; Fastly's and Varnish's documentation of Vary and of hash keys",
        "routes: [{name: order, upstream: app, timeout: {request: 2s}, cache: {key: {headers: [x-request-id]}}}]",
        "routes: [{name: order, upstream: app, timeout: {request: 2s}, cache: {key: {headers: [accept-language]}}}]",
    )
)
def cannot_hit(route: RouteFacts) -> Iterator[Hit]:
    if route.cache is None:
        return
    if not route.takes("GET", "HEAD"):
        named = ", ".join(route.spec.match.methods or ())
        yield Hit(
            route.at("cache"), f"never hits: the route takes {named} alone; take it out, or add GET to match.methods"
        )
    for index, field in enumerate(route.cache.key.headers):
        if field in UNIQUE:
            yield Hit(
                route.at("cache", "key", "headers", index),
                f"never hits: {field} differs in each request; leave it out",
            )


@route_rule(
    RuleText(
        "R081",
        "A cache that hardly hits",
        "note",
        "The key has a field that differs in each client, so responses are rarely shared.",
        "Varnish's and Fastly's documentation: normalise User-Agent and Cookie before they are part of a key",
        "routes: [{name: order, upstream: app, timeout: {request: 2s}, cache: {key: {headers: [user-agent]}}}]",
        "routes: [{name: order, upstream: app, timeout: {request: 2s}, cache: {key: {headers: [accept-encoding]}}}]",
    )
)
def hardly_hits(route: RouteFacts) -> Iterator[Hit]:
    for index, field in enumerate(route.cache.key.headers if route.cache is not None else ()):
        if field in PERSONAL:
            message = f"keeps a response for each value of {field}, which differs in each client"
            yield Hit(
                route.at("cache", "key", "headers", index), f"{message}; leave it out, or name a field with few values"
            )


@route_rule(
    RuleText(
        "R082",
        "A lifetime in which no second request comes",
        "warning",
        "Even if all requests had one URL, most would find an expired response.",
        "Che et al., Hierarchical Web Caching Systems (2002): hits of a TTL cache",
        "routes: [{name: order, upstream: app, timeout: {request: 2s}, cache: {ttl: 1s}}]",
        "routes: [{name: order, upstream: app, timeout: {request: 2s}, cache: {ttl: 10m}}]",
        "routes: {order: {rate: 3/m}}",
    )
)
def short_ttl(route: RouteFacts) -> Iterator[Hit]:
    cache, rate = route.cache, route.rate
    if cache is None or rate is None or cache.ttl is None:
        return
    lifetime = cache.ttl + cache.stale_while_revalidate
    expected = rate.value * lifetime
    hits = expected / (1 + expected)
    if hits < FEW_HITS:
        given = route.text(cache.ttl, "cache", "ttl")
        yield Hit(
            route.at("cache", "ttl"),
            f"answers {percent(hits)} of the requests at most: {rate.words} is {number(expected)} requests in {given}; "
            "lengthen it, or take the cache out",
        )


@route_rule(
    RuleText(
        "R083",
        "Waiting for another request's response beyond the deadline",
        "warning",
        "Requests that wait time out before they may ask the upstream themselves.",
        "nginx proxy_cache_lock_timeout; Varnish: waiting lists",
        "routes: [{name: order, upstream: app, timeout: {request: 1s}, cache: {coalesce: {timeout: 5s}}}]",
        "routes: [{name: order, upstream: app, timeout: {request: 1s}, cache: {coalesce: {timeout: 500ms}}}]",
    )
)
def long_coalescing(route: RouteFacts) -> Iterator[Hit]:
    if route.cache is None or not route.has("cache", "coalesce", "timeout") or isinf(route.request):
        return
    if route.cache.coalesce.timeout > route.request:
        given = route.text(route.cache.coalesce.timeout, "cache", "coalesce", "timeout")
        yield Hit(
            route.at("cache", "coalesce", "timeout"),
            f"is {given}, but the request ends after {route.whole} (timeout.request); make it shorter than that",
        )


@route_rule(
    RuleText(
        "R084",
        "A shared cache that takes most of the request's time",
        "warning",
        "While Redis hangs each look-up takes its whole timeout, and the upstream gets what is left.",
        "Facebook, Scaling Memcache (NSDI 2013); incident reports of slow caches",
        'caches: {shared: {redis: {url: "redis://127.0.0.1:6379/0", timeout: 800ms}}}\n'
        "routes: [{name: order, upstream: app, timeout: {request: 1s}, cache: {store: shared}}]",
        'caches: {shared: {redis: {url: "redis://127.0.0.1:6379/0", timeout: 50ms}}}\n'
        "routes: [{name: order, upstream: app, timeout: {request: 1s}, cache: {store: shared}}]",
    )
)
def slow_store(route: RouteFacts) -> Iterator[Hit]:
    if (
        route.cache is None
        or (found := route.policies.spec.caches.get(route.cache.store)) is None
        or found.redis is None
    ):
        return
    if found.redis.timeout > route.request / 2:
        yield Hit(
            route.policies.at("caches", route.cache.store, "redis", "timeout"),
            f"is {seconds(found.redis.timeout)}, more than half of {route.whole} (timeout.request of {route.name}); "
            "make it "
            "a twentieth of that",
        )


@route_rule(
    RuleText(
        "R085",
        "A fallback that has no time",
        "warning",
        "After the timeouts that call for it nothing of the request's time is left for the other upstream.",
        "Amazon Builders' Library, Avoiding fallback in distributed systems",
        'upstreams: {app: {endpoints: ["http://a:80"]}, other: {endpoints: ["http://b:80"]}}\n'
        "routes: [{name: order, upstream: app, timeout: {request: 1s}, fallback: [{upstream: other}]}]",
        'upstreams: {app: {endpoints: ["http://a:80"]}, other: {endpoints: ["http://b:80"]}}\n'
        "routes: [{name: order, upstream: app, timeout: {request: 1s, attempt: 500ms}, fallback: [{upstream: other}]}]",
    )
)
def no_time_to_fall_back(route: RouteFacts) -> Iterator[Hit]:
    if route.fallback is None or not route.fallback_calls or isinf(route.request) or "timeout" not in route.fallback.on:
        return
    first = route.tries * route.attempt
    if first >= route.request:
        node = route.spec.node.nearest("fallback")
        if isinf(route.attempt):
            why = "a call may take all of it, since timeout.attempt is not set"
        else:
            why = f"{route.tries} tries of {route.text(route.attempt, 'timeout', 'attempt')} take all of it"
        yield Hit(
            node,
            f"has no time for its upstream after a timeout: of {route.whole} (timeout.request) {why}; set "
            "timeout.attempt to less than half",
        )


@route_rule(
    RuleText(
        "R086",
        "A success for a write that was not made",
        "error",
        "The client believes that its write was made, and nobody repeats it.",
        "Amazon Builders' Library, Avoiding fallback in distributed systems; RFC 9110 15.3",
        "routes: [{name: order, upstream: app, match: {methods: [POST]}, timeout: {request: 2s}, "
        "fallback: [{response: {status: 200}}]}]",
        "routes: [{name: order, upstream: app, match: {methods: [GET]}, timeout: {request: 2s}, "
        "fallback: [{response: {status: 200}}]}]",
    )
)
def false_success(route: RouteFacts) -> Iterator[Hit]:
    named = [each for each in route.spec.match.methods or () if each in ("POST", "PUT", "PATCH", "DELETE")]
    if route.fallback is None or not named:
        return
    for index, step in enumerate(route.fallback.steps):
        if step.response is not None and 200 <= step.response.status < 300:
            yield Hit(
                route.at("fallback", index, "response", "status"),
                f"answers {step.response.status} to {' and '.join(named)} although nothing was done; write 503",
            )


@route_rule(
    RuleText(
        "R087",
        "Faults for all requests",
        "warning",
        "A drill that was left on is an outage.",
        "Basiri et al., Chaos Engineering (IEEE Software 2016): bound the blast radius",
        "routes: [{name: order, upstream: app, timeout: {request: 2s}, fault: {abort: {share: 50%}}}]",
        "routes: [{name: order, upstream: app, timeout: {request: 2s}, fault: {abort: {share: 50%}, "
        "when: \"request.headers['x-drill'] == 'yes'\"}}, {name: drill, upstream: app, timeout: {request: 2s}, "
        "match: {headers: {x-drill: 'yes'}}, fault: {abort: {share: 100%}}}]",
    )
)
def faults_for_all(route: RouteFacts) -> Iterator[Hit]:
    fault = route.blocks.get("fault")
    match = route.spec.match
    if fault is None or not fault.is_enforced or fault.when is not None or match.headers or match.query or match.when:
        return  # only those who ask for it get it
    shares = [each.share for each in (fault.latency, fault.abort, fault.reset) if each is not None]
    if any(shares):
        message = f"fails or delays {percent(max(shares))} of the attempts of every client"
        yield Hit(route.at("fault"), f"{message}; add such as when: \"request.headers['x-drill'] == 'yes'\"")


@route_rule(
    RuleText(
        "R088",
        "A mirror that doubles the load of its own upstream",
        "warning",
        "The copies go to the upstream that serves the request, which gets each one twice.",
        "Traefik's and Envoy's documentation of mirroring",
        "routes: [{name: order, upstream: app, timeout: {request: 2s}, mirror: {upstream: app}}]",
        'upstreams: {app: {endpoints: ["http://a:80"]}, next: {endpoints: ["http://b:80"]}}\n'
        "routes: [{name: order, upstream: app, timeout: {request: 2s}, mirror: {upstream: next}}]",
        is_checked_at_load=True,
    )
)
def mirror_to_itself(route: RouteFacts) -> Iterator[Hit]:
    mirror = route.blocks.get("mirror")
    if mirror is None or not mirror.is_enforced or route.upstream is None:
        return
    other = route.policies.upstreams.get(mirror.upstream)
    same = {*route.upstream.spec.urls}.intersection(other.spec.urls if other is not None else ())
    if mirror.upstream == route.upstream.name or same:
        yield Hit(
            route.at("mirror", "upstream"),
            f"sends copies to the upstream of the request itself, which gets {number(1 + mirror.share)} times the "
            "load; name "
            "another one",
        )


@route_rule(
    RuleText(
        "R089",
        "Copies of writes",
        "warning",
        "Each write happens twice: in the upstream of the copies too, and in whatever both share.",
        "Envoy's documentation of request mirroring; Twitter's Diffy: safe methods alone",
        'upstreams: {app: {endpoints: ["http://a:80"]}, next: {endpoints: ["http://b:80"]}}\n'
        "routes: [{name: order, upstream: app, timeout: {request: 2s}, mirror: {upstream: next, writes: true}}]",
        'upstreams: {app: {endpoints: ["http://a:80"]}, next: {endpoints: ["http://b:80"]}}\n'
        "routes: [{name: order, upstream: app, timeout: {request: 2s}, mirror: {upstream: next}}]",
        is_checked_at_load=True,
    )
)
def mirrored_writes(route: RouteFacts) -> Iterator[Hit]:
    mirror = route.blocks.get("mirror")
    if mirror is not None and mirror.writes and mirror.is_enforced:
        message = f"copies writes to {mirror.upstream}, where their effects happen a second time"
        yield Hit(route.at("mirror", "writes"), f"{message}; leave it out unless that upstream has data of its own")


@route_rule(
    RuleText(
        "R090",
        "A rollout that nothing takes back",
        "warning",
        "The share of the candidate grows to its end however many requests fail.",
        "Argo Rollouts and Flagger: analysis; Google SRE workbook ch. 16: canarying releases",
        'upstreams: {v1: {endpoints: ["http://a:80"]}, v2: {endpoints: ["http://b:80"]}}\n'
        "routes: [{name: order, upstream: {split: {v1: 95%, v2: 5%}, ramp: {to: 100%, over: 30m}}, timeout: {request: "
        "2s}}]",
        'upstreams: {v1: {endpoints: ["http://a:80"]}, v2: {endpoints: ["http://b:80"]}}\n'
        "routes: [{name: order, upstream: {split: {v1: 95%, v2: 5%}, ramp: {to: 100%, over: 30m}, "
        "return_when: {errors: {worse_by_points: 1}}}, timeout: {request: 2s}}]",
    )
)
def rollout_without_return(route: RouteFacts) -> Iterator[Hit]:
    rollout = route.spec.rollout
    if rollout is not None and rollout.ramp is not None and rollout.return_when is None:
        section = "candidate" if route.has("candidate") else "upstream"
        yield Hit(
            route.at(section, "ramp"),
            f"grows to {percent(rollout.ramp.to)} in {seconds(rollout.ramp.over)} whatever happens; add such as "
            "return_when: {errors: {worse_by_points: 1}}",
        )


RULES: Final[tuple[Rule, ...]] = (
    cannot_hit, hardly_hits, short_ttl, long_coalescing, slow_store, no_time_to_fall_back, false_success,
    faults_for_all, mirror_to_itself, mirrored_writes, rollout_without_return,
)  # fmt: skip
