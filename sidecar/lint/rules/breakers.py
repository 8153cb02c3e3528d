"""Rules about circuit breakers: those that cannot open, that open on noise, and that probe at the wrong time."""

from __future__ import annotations

from collections.abc import Iterator
from math import isinf
from typing import Final

from sidecar.lint.arithmetic import binomial_tail, failures_that_trip, number, percent, seconds
from sidecar.lint.facts import BreakerFacts, RouteFacts
from sidecar.lint.rule import Hit, Rule, RuleText, breaker_rule, route_rule

DAY: Final = 86_400.0
GOOD_DAY: Final = 0.01
"""Share of calls that fail on a good day where none is stated."""
USUAL_RATE: Final = 10.0
"""Calls a second where no rate is known."""
SLOW_TRIP: Final = 60.0
"""Seconds of a complete outage after which a breaker should be open."""


@breaker_rule(
    RuleText(
        "R040",
        "A breaker that cannot open at its traffic",
        "warning",
        "The window never has `min_calls` calls, so the rate never counts and the breaker stays closed in an outage.",
        "blockful/anticapture#2148; Resilience4j's default of 100 calls",
        "routes: [{name: order, upstream: app, timeout: {request: 2s}, circuit_breaker: {min_calls: 50, window: 10s}}]",
        "routes: [{name: order, upstream: app, timeout: {request: 2s}, circuit_breaker: {min_calls: 10, window: 10s}}]",
        "routes: {order: {rate: 3/s}}",
    )
)
def cannot_open(breaker: BreakerFacts) -> Iterator[Hit]:
    if breaker.rate is None or breaker.window is None or breaker.spec.consecutive_failures is not None:
        return
    calls = breaker.rate.value * breaker.window
    if calls < breaker.spec.min_calls:
        window = breaker.text(breaker.window, "window")
        yield Hit(
            breaker.at("min_calls"),
            f"never opens: {breaker.rate.words} is {number(calls)} calls in {window}, fewer than min_calls "
            f"({breaker.spec.min_calls}); lower min_calls, lengthen the window, or add consecutive_failures: 5",
        )


@breaker_rule(
    RuleText(
        "R041",
        "A breaker that opens on noise",
        "warning",
        "A share of few calls says little: at the usual error rate chance alone reaches it, and refuses everyone.",
        "binomial distribution; Traefik's circuit breaker without RequestThreshold; go-hystrix discussions of volume "
        "thresholds",
        "routes: [{name: order, upstream: app, timeout: {request: 2s}, circuit_breaker: {min_calls: 5, failure_rate: "
        "20%}}]",
        "routes: [{name: order, upstream: app, timeout: {request: 2s}, circuit_breaker: {min_calls: 20, failure_rate: "
        "50%}}]",
    )
)
def opens_on_noise(breaker: BreakerFacts) -> Iterator[Hit]:
    spec, rate = breaker.spec, breaker.rate.value if breaker.rate is not None else USUAL_RATE
    errors = breaker.errors if breaker.errors is not None else GOOD_DAY
    named = "stated" if breaker.errors is not None else "assumed"
    if isinstance(spec.failure_rate, float):
        length = breaker.window if breaker.window is not None else spec.window.calls / rate
        calls = spec.min_calls
        if breaker.rate is not None and not breaker.rate.is_bound and breaker.window is not None:
            calls = max(calls, int(rate * breaker.window))
        least = failures_that_trip(calls, spec.failure_rate)
        chance = binomial_tail(calls, errors, least)
        trips = chance * DAY / max(length, calls / rate)
        if trips >= 1:
            yield Hit(
                breaker.at("failure_rate" if breaker.has("failure_rate") else "min_calls"),
                f"opens on noise: with {percent(errors)} failed calls ({named}) {least} of {calls} fail by chance in "
                f"{percent(chance)} of the windows, about {number(trips)} times a day; raise min_calls or failure_rate",
            )
    if spec.consecutive_failures is not None:
        trips = errors**spec.consecutive_failures * rate * DAY
        if trips >= 1:
            what = f"{spec.consecutive_failures} in a row" if spec.consecutive_failures > 1 else "a single failure"
            yield Hit(
                breaker.at("consecutive_failures"),
                f"opens on noise: with {percent(errors)} failed calls ({named}) and {number(rate)} calls a second "
                f"{what} "
                f"comes by chance about {number(trips)} times a day; write 5 or more",
            )


@breaker_rule(
    RuleText(
        "R042",
        "An open time shorter than the upstream's timeout",
        "warning",
        "Calls from before the trip still hang when the probes are sent, so an upstream without capacity gets more "
        "calls.",
        "safe-global/safe-client-gateway#3442: 17 times the calls in half-open; Nygard, Release It!",
        "routes: [{name: order, upstream: app, timeout: {request: 10s}, circuit_breaker: {open_for: 1s}}]",
        "routes: [{name: order, upstream: app, timeout: {request: 2s}, circuit_breaker: {open_for: 5s}}]",
    )
)
def short_open_time(breaker: BreakerFacts) -> Iterator[Hit]:
    if not isinf(breaker.limit) and breaker.spec.max_open_for < breaker.limit:
        key = "max_open_for" if breaker.has("max_open_for") else "open_for"
        given = breaker.text(getattr(breaker.spec, key), key)
        yield Hit(
            breaker.at(key),
            f"ends after {given} at most, while calls may hang for {breaker.limit_text}; make it longer than that",
        )
    elif not isinf(breaker.limit) and breaker.spec.open_for < breaker.limit:
        given = breaker.text(breaker.spec.open_for, "open_for")
        yield Hit(
            breaker.at("open_for"),
            f"probes after {given}, while calls may hang for {breaker.limit_text}; make it longer than that",
        )


@breaker_rule(
    RuleText(
        "R043",
        "A verdict on probes before they can end",
        "warning",
        "A probe that is slow but good counts as failed, so the breaker opens again and again.",
        "resilience4j#935; Resilience4j's maxWaitDurationInHalfOpenState",
        "routes: [{name: order, upstream: app, timeout: {request: 5s}, circuit_breaker: {half_open: {verdict_within: "
        "1s}}}]",
        "routes: [{name: order, upstream: app, timeout: {request: 2s}, circuit_breaker: {half_open: {verdict_within: "
        "10s}}}]",
    )
)
def early_verdict(breaker: BreakerFacts) -> Iterator[Hit]:
    within = breaker.spec.half_open.verdict_within
    if within < breaker.limit and not isinf(breaker.limit):
        given = breaker.text(within, "half_open", "verdict_within")
        yield Hit(
            breaker.at("half_open", "verdict_within"),
            f"judges probes after {given}, but one may take {breaker.limit_text}; make it at least that",
        )


@breaker_rule(
    RuleText(
        "R044",
        "A breaker that opens long after the outage",
        "warning",
        "A share over a long window is diluted by the good calls before the outage.",
        "Nygard, Release It!; Polly's documentation of SamplingDuration",
        "routes: [{name: order, upstream: app, timeout: {request: 2s}, circuit_breaker: {window: 10m, failure_rate: "
        "50%}}]",
        "routes: [{name: order, upstream: app, timeout: {request: 2s}, circuit_breaker: {window: 10m, failure_rate: "
        "50%, "
        "consecutive_failures: 10}}]",
    )
)
def late_trip(breaker: BreakerFacts) -> Iterator[Hit]:
    spec = breaker.spec
    if breaker.window is None or not isinstance(spec.failure_rate, float) or spec.consecutive_failures is not None:
        return
    delay = breaker.window * spec.failure_rate
    if delay > SLOW_TRIP:
        window = breaker.text(breaker.window, "window")
        yield Hit(
            breaker.at("window"),
            f"opens {seconds(delay)} after the start of a complete outage ({percent(spec.failure_rate)} of {window}); "
            "shorten the window, or add consecutive_failures: 10",
        )


@breaker_rule(
    RuleText(
        "R045",
        "A breaker that counts the mistakes of clients",
        "warning",
        "One client with bad requests opens it for all others.",
        "linkerd/website#2126 (PERMISSION_DENIED); KrakenD: every status but 200 and 201 is an error",
        "routes: [{name: order, upstream: app, timeout: {request: 2s}, circuit_breaker: {failures: [4xx, 5xx, "
        "timeout]}}]",
        "routes: [{name: order, upstream: app, timeout: {request: 2s}, circuit_breaker: {failures: [5xx, timeout]}}]",
    )
)
def counts_clients(breaker: BreakerFacts) -> Iterator[Hit]:
    for index, each in enumerate(breaker.spec.failures):
        if each == "4xx" or (isinstance(each, int) and 400 <= each < 500):
            yield Hit(
                breaker.at("failures", index),
                f"counts {each} as a failure of the upstream, so clients that send bad requests open it for all; "
                "leave it out",
            )


@breaker_rule(
    RuleText(
        "R046",
        "A breaker that does not see an upstream that hangs",
        "warning",
        "Most outages begin with slow calls: a breaker that counts only errors lets all requests wait for their "
        "timeout.",
        "Resilience4j's defaults: slow calls count above 60s and at 100 %; Nygard, Release It!: Slow Responses",
        "routes: [{name: order, upstream: app, timeout: {request: 2s}, circuit_breaker: {failures: [5xx, reset]}}]",
        "routes: [{name: order, upstream: app, timeout: {request: 2s}, circuit_breaker: {failures: [5xx, reset, "
        "timeout]}}]",
    )
)
def blind_to_hangs(breaker: BreakerFacts) -> Iterator[Hit]:
    spec = breaker.spec
    if (
        breaker.has("failures")
        and "timeout" not in spec.failures
        and 504 not in spec.failures
        and "deadline_exceeded" not in spec.failures
        and spec.slow_calls is None
    ):
        ends = "" if isinf(breaker.limit) else f": each call waits {breaker.limit_text}"
        message = f"leaves out timeout, so the breaker stays closed while the upstream hangs{ends}"
        yield Hit(breaker.at("failures"), f"{message}; add timeout, or slow_calls")


@breaker_rule(
    RuleText(
        "R047",
        "All requests at once after the first good probes",
        "warning",
        "An upstream that has just come back, with cold caches, gets the whole load in one moment.",
        "apache/apisix api-breaker; App-vNext/Polly#216; Envoy's slow start",
        "routes: [{name: order, upstream: app, timeout: {request: 2s}, circuit_breaker: {half_open: {ramp: 0s}}}]",
        "routes: [{name: order, upstream: app, timeout: {request: 2s}, circuit_breaker: {half_open: {ramp: 10s}}}]",
    )
)
def no_ramp(breaker: BreakerFacts) -> Iterator[Hit]:
    if breaker.spec.half_open.ramp == 0:
        yield Hit(
            breaker.at("half_open", "ramp"),
            "lets all requests pass at once after the first good probes; write such as ramp: 10s",
        )


@breaker_rule(
    RuleText(
        "R048",
        "Breakers of all sidecars that probe in step",
        "note",
        "Many sidecars that opened together send their probes together.",
        "Linkerd's circuit breaking: jittered penalties; Envoy's max_ejection_time_jitter",
        "routes: [{name: order, upstream: app, timeout: {request: 2s}, circuit_breaker: {jitter: 0%}}]",
        "routes: [{name: order, upstream: app, timeout: {request: 2s}, circuit_breaker: {jitter: 20%}}]",
    )
)
def no_breaker_jitter(breaker: BreakerFacts) -> Iterator[Hit]:
    if breaker.spec.jitter == 0:
        yield Hit(breaker.at("jitter"), "makes all sidecars probe in the same moment; write such as jitter: 20%")


@route_rule(
    RuleText(
        "R049",
        "One bad endpoint that closes an upstream for all",
        "warning",
        "The breaker judges all endpoints together: the share of one that is down is enough to refuse everything.",
        "Envoy's outlier detection; Linkerd's breaker per endpoint",
        'upstreams: {app: {endpoints: ["http://a:80", "http://b:80"]}}\n'
        "routes: [{name: order, upstream: app, timeout: {request: 2s}, circuit_breaker: {failure_rate: 50%}}]",
        'upstreams: {app: {endpoints: ["http://a:80", "http://b:80"], ejection: {min_healthy: 1}}}\n'
        "routes: [{name: order, upstream: app, timeout: {request: 2s}, circuit_breaker: {failure_rate: 50%}}]",
    )
)
def one_for_all(route: RouteFacts) -> Iterator[Hit]:
    upstream = route.upstream
    if upstream is None or upstream.endpoints < 2 or upstream.has_isolation:
        return
    own = route.breaker
    shared = upstream.spec.circuit_breaker
    for breaker, node in ((own, route.at("circuit_breaker")), (shared, upstream.at("circuit_breaker"))):
        if (
            breaker is not None
            and isinstance(breaker.failure_rate, float)
            and breaker.failure_rate <= 1 / upstream.endpoints
        ):
            yield Hit(
                node,
                f"refuses everything once one of {upstream.endpoints} endpoints of {upstream.name} is down: that is "
                f"{percent(1 / upstream.endpoints)} of the calls, and failure_rate is {percent(breaker.failure_rate)}; "
                "add an ejection or a health check to the upstream, or a breaker with per: endpoint",
            )


@route_rule(
    RuleText(
        "R050",
        "A throttle whose window is shorter than its calls",
        "warning",
        "Calls count when they end, but refused ones at once: a few refusals outweigh all accepts that are under way.",
        "zeromicro/go-zero#5011; SRE book ch. 21: two minutes",
        "routes: [{name: order, upstream: app, timeout: {request: 20s}, throttle: {window: 5s}}]",
        "routes: [{name: order, upstream: app, timeout: {request: 2s}, throttle: {window: 30s}}]",
    )
)
def short_throttle_window(route: RouteFacts) -> Iterator[Hit]:
    if route.throttle is not None and not isinf(route.limit) and route.throttle.window < route.limit:
        given = route.text(route.throttle.window, "throttle", "window")
        key = "attempt" if route.attempt <= route.request else "request"
        yield Hit(
            route.at("throttle", "window"),
            f"is {given}, but a call may take {route.text(route.limit, 'timeout', key)} (timeout.{key}); make it "
            "several "
            "times that",
        )


@route_rule(
    RuleText(
        "R051",
        "A throttle that never counts enough calls",
        "warning",
        "Below `min_calls` nothing is refused, so the throttle never acts.",
        "SRE book ch. 21: client-side throttling counts over two minutes",
        "routes: [{name: order, upstream: app, timeout: {request: 2s}, throttle: {window: 10s, min_calls: 100}}]",
        "routes: [{name: order, upstream: app, timeout: {request: 2s}, throttle: {window: 2m, min_calls: 100}}]",
        "routes: {order: {rate: 3/s}}",
    )
)
def idle_throttle(route: RouteFacts) -> Iterator[Hit]:
    if route.throttle is None or route.rate is None:
        return
    calls = route.rate.value * route.throttle.window * route.tries
    if calls < route.throttle.min_calls:
        window = route.text(route.throttle.window, "throttle", "window")
        yield Hit(
            route.at("throttle", "min_calls"),
            f"never refuses: {route.rate.words} is {number(calls)} calls in {window}, fewer than min_calls "
            f"({route.throttle.min_calls}); lower it, or lengthen the window",
        )


RULES: Final[tuple[Rule, ...]] = (
    cannot_open, opens_on_noise, short_open_time, early_verdict, late_trip, counts_clients, blind_to_hangs, no_ramp,
    no_breaker_jitter, one_for_all, short_throttle_window, idle_throttle,
)  # fmt: skip
