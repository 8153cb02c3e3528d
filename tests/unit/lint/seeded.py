"""Mistakes from public incident reports, issue trackers and books, as policies, each with the rule that finds it."""

from __future__ import annotations

from typing import Final, NamedTuple


class Mistake(NamedTuple):
    """Mistake that somebody made in public."""

    source: str
    """Issue, pull request, report or book, and what happened there."""
    rule: str
    """Rule that finds it."""
    policies: str
    """The same mistake as policies."""
    traffic: str = ""
    """Traffic where the source states it."""


def route(policies: str, name: str = "order") -> str:
    return f"routes: [{{name: {name}, upstream: app, {policies}}}]"


def with_upstream(settings: str, policies: str = "timeout: {request: 2s}") -> str:
    return f"upstreams: {{app: {{{settings}}}}}\n{route(policies)}"


ONE: Final = 'endpoints: ["http://a:80"]'
TWO: Final = 'endpoints: ["http://a:80", "http://b:80"]'

MISTAKES: Final = (
    # ----- times
    Mistake(
        "istio/istio#21137: attempts: 3 beside timeout: 2s, and the retry never got control", "R003",
        route("timeout: {request: 2s}, retry: {max_attempts: 3, on: [timeout]}"),
    ),
    Mistake(
        "knative/serving#1940: perTryTimeout is the timeout of the whole route", "R002",
        route("timeout: {request: 60s, attempt: 60s}, retry: {max_attempts: 3}"),
    ),
    Mistake(
        "envoyproxy/envoy#31332: three tries of 3s, and the question what is left of the total", "R001",
        route("timeout: {request: 5s, attempt: 3s}, retry: {max_attempts: 4}"),
    ),
    Mistake(
        "GoogleCloudPlatform/esp-v2#509: no retry of a timeout, since the route's time was exhausted by the first try",
        "R003", route("timeout: {request: 15s}, retry: {max_attempts: 2, on: [timeout, 503]}"),
    ),
    Mistake(
        "Loopers-dev-lab/loop-pack-be-l2-vol2-java#167: slow calls of 2s beside a read timeout of 500ms", "R005",
        route("timeout: {request: 500ms}, circuit_breaker: {slow_calls: {longer_than: 2s, rate: 50%}}"),
    ),
    Mistake(
        "folbricht/desync#29: a client timeout of 0, so a process hangs on an unreliable network", "R007",
        route("match: {path: /chunks}"),
    ),
    Mistake(
        "mozilla/crlite#168: no timeout by default, and a task hung until somebody looked", "R007",
        route("retry: {max_attempts: 3}"),
    ),
    Mistake(
        "ringo/ringojs#281: connect and read timeouts of 0 are infinite", "R007",
        route("timeout: {request: off}"),
    ),
    Mistake(
        "galax-io/gatling-picatinny#50: a connect timeout of 3000 that was read as seconds", "R009",
        with_upstream(f"{ONE}, connect_timeout: 3000s"),
    ),
    Mistake(
        "anthony-chaudhary/fak#2258: a gateway sleeps an honoured hour while its client leaves after 300s", "R008",
        route("timeout: {request: 300s}, retry: {retry_after: {max: 1h}}"),
    ),
    Mistake(
        "hashicorp/go-retryablehttp#283: Retry-After: 3600 is slept in full", "R008",
        route("timeout: {request: 30s}, retry: {retry_after: {max: 3600s}}"),
    ),
    Mistake(
        "speakeasy-api/gram#3494: 10s to drain, calls of 60s, and EOF at each deployment", "R010",
        "limits: {drain_timeout: 10s}\n" + route("timeout: {request: 60s}"),
    ),
    Mistake(
        "Amazon Builders' Library, Timeouts, retries and backoff: a timeout below the latency of a good day", "R011",
        route("timeout: {request: 50ms}"), "routes: {order: {latency: {p50: 20ms, p99: 120ms}}}",
    ),
    # ----- retries and hedges
    Mistake(
        "istio/istio#50506: retries by default, and a payout was made twice", "R020",
        route("match: {methods: [POST], path: /payout}, timeout: {request: 9s}, retry: {methods: [POST]}"),
    ),
    Mistake(
        "istio/istio#13851: a POST was retried after it had reached the service", "R020",
        route("timeout: {request: 9s, attempt: 2s}, retry: {methods: [GET, POST], on: [reset, 503]}"),
    ),
    Mistake(
        "softonic/axios-retry#66: ETIMEDOUT and ECONNRESET are retried for POST, and entries are duplicated", "R020",
        route("timeout: {request: 9s, attempt: 2s}, retry: {methods: [POST], on: [timeout, reset, connect_failure]}"),
    ),
    Mistake(
        "adamcavendish/aioduct#79: every method is retried on 5xx, PATCH too", "R020",
        route("timeout: {request: 9s}, retry: {methods: [GET, PUT, PATCH], on: [500, 502, 503]}"),
    ),
    Mistake(
        "gRPC proposal A6: hedged calls are executed more than once, so they must be safe to repeat", "R021",
        route("timeout: {request: 2s}, hedge: {after: 50ms, methods: [GET, POST]}"),
    ),
    Mistake(
        "elbywan/wretch#176: 400 was retried until the API answered 429", "R022",
        route("timeout: {request: 9s}, retry: {on: [400, 429, 503]}"),
    ),
    Mistake(
        "openzim/mwoffliner#600: 404 is retried, although there is nothing to deliver", "R022",
        route("timeout: {request: 9s}, retry: {on: [404, 503]}"),
    ),
    Mistake(
        "gojek/heimdall#21: many instances retry in the same moment", "R023",
        route("timeout: {request: 9s}, retry: {backoff: {base: 100ms, jitter: none}}"),
    ),
    Mistake(
        "rails/rails#31872: jobs fail together, come back together, and bring the downstream down again", "R023",
        route("timeout: {request: 30s}, retry: {max_attempts: 5, backoff: {base: 1s, max: 4s, jitter: none}}"),
    ),
    Mistake(
        "HKUDS/nanobot#2760: four tries of the application, three of the library in each: 12 requests", "R024",
        route("timeout: {request: 9s}, retry: {max_attempts: 4}, hedge: {after: 1s, max_extra: 2}"),
    ),
    Mistake(
        "dandi/dandi-cli#830: five tries with growing waits took more than eighteen minutes", "R025",
        route("timeout: {request: 10s}, retry: {max_attempts: 5, backoff: {base: 5s, max: 80s, jitter: none}}"),
    ),
    Mistake(
        "joshrotenberg/tower-resilience#171: N calls times max_attempts while the downstream fails", "R026",
        with_upstream(f"{ONE}, retry_budget: {{ratio: 100%}}", "timeout: {request: 9s}, retry: {max_attempts: 4}"),
    ),
    Mistake(
        "Bronson et al., HotOS 2021: the retries that slowness causes keep the system down", "R026",
        with_upstream(f"{ONE}, retry_budget: {{mode: observe}}", "timeout: {request: 3s}, retry: {max_attempts: 4}"),
    ),
    Mistake(
        "envoyproxy/envoy#24937: many clients with little traffic each have a floor of retries of their own", "R027",
        with_upstream(f"{ONE}, retry_budget: {{ratio: 20%, min_per_second: 10}}",
                      "timeout: {request: 3s}, retry: {max_attempts: 3}"),
        "routes: {order: {rate: 2/s}}",
    ),
    Mistake(
        "failsafe-go/failsafe-go#106: hedges and retries share a budget that few requests fill", "R028",
        with_upstream(f"{ONE}, retry_budget: {{ratio: 4%, min_per_second: 0}}",
                      "timeout: {request: 3s}, retry: {max_attempts: 2}, hedge: {after: 90ms}"),
    ),
    # ----- breakers
    Mistake(
        "blockful/anticapture#2148: ten requests in 30s are needed, the relayer never has them, and it waits out 30s",
        "R040", route("timeout: {request: 30s}, circuit_breaker: {window: 30s, min_calls: 10, open_for: 60s}"),
        "routes: {order: {rate: 10/m}}",
    ),
    Mistake(
        "Resilience4j's documentation: 100 calls at least by default, which little traffic never makes", "R040",
        route("timeout: {request: 2s}, circuit_breaker: {window: 60s, min_calls: 100}"),
        "routes: {order: {rate: 1/s}}",
    ),
    Mistake(
        "nodeshift/opossum#232: traffic drops to a trickle, and the first error opens the circuit", "R041",
        route("timeout: {request: 2s}, circuit_breaker: {min_calls: 1, failure_rate: 50%}"),
    ),
    Mistake(
        "traefik/traefik#10963: a ratio without a least number of requests", "R041",
        route("timeout: {request: 2s}, circuit_breaker: {min_calls: 2, failure_rate: 30%}"),
    ),
    Mistake(
        "envoyproxy/envoy#23057: one failure is enough", "R041",
        route("timeout: {request: 2s}, circuit_breaker: {consecutive_failures: 1}"),
    ),
    Mistake(
        "safe-global/safe-client-gateway#3442: probes are sent while calls from before still hang", "R042",
        route("timeout: {request: 30s}, circuit_breaker: {open_for: 1s, max_open_for: 5s}"),
    ),
    Mistake(
        "resilience4j/resilience4j#935: a probe that does not return in time, and no verdict", "R043",
        route("timeout: {request: 20s}, circuit_breaker: {open_for: 30s, half_open: {verdict_within: 2s}}"),
    ),
    Mistake(
        "sgl-project/sglang#25811: responses of 400 opened the circuit of healthy workers", "R045",
        route("timeout: {request: 2s}, circuit_breaker: {failures: [4xx, 5xx]}"),
    ),
    Mistake(
        "yammer/circuitbox#45: every response that is no success counts", "R045",
        route("timeout: {request: 2s}, circuit_breaker: {failures: [404, 5xx, timeout]}"),
    ),
    Mistake(
        "erpc/erpc#1130: an upstream that hangs never opens its breaker, since timeouts are ignored", "R046",
        route("timeout: {request: 2s}, circuit_breaker: {failures: [connect_failure, reset, 5xx]}"),
    ),
    Mistake(
        "Netflix/Hystrix#1647: after one good probe everything flows back, and the backend fails again", "R047",
        route("timeout: {request: 2s}, circuit_breaker: {half_open: {probes: 1, ramp: 0s}}"),
    ),
    Mistake(
        "Expensify/Bedrock-PHP#267: one host that fails opens the circuit for all", "R049",
        with_upstream(TWO, "timeout: {request: 2s}, circuit_breaker: {failure_rate: 30%}"),
    ),
    Mistake(
        "zeromicro/go-zero#5011: a throttle whose window is shorter than the calls that it counts", "R050",
        route("timeout: {request: 30s}, throttle: {window: 10s}"),
    ),
    # ----- capacity
    Mistake(
        "freeunitorg/freeunit#198: the backlog is served oldest first, for clients that have left", "R061",
        route("timeout: {request: 30s}, concurrency: {max: 8, queue: 5000, queue_timeout: 5s}"),
        "routes: {order: {latency: {p50: 100ms}}}",
    ),
    Mistake(
        "ephpm/ephpm#301: tens of thousands of stale entries in the queue, and goodput is zero", "R062",
        route("timeout: {request: 15s}, concurrency: {max: 64, queue: 40000, queue_timeout: 10s}"),
    ),
    Mistake(
        "scylladb/scylladb#5144: admission pauses, and admits requests that no client waits for", "R060",
        route("timeout: {request: 2s, attempt: 1500ms}, concurrency: {max: 50, queue: 50, queue_timeout: 1s}"),
    ),
    Mistake(
        "facebookarchive/nifty#152: tasks wait longer in the queue than their timeout allows", "R006",
        route("timeout: {request: 1s}, concurrency: {max: 50, queue: 50, queue_timeout: 5s}"),
    ),
    Mistake(
        "SRE book ch. 22: by Little's law 100 requests a second of 100ms do not fit into 8 places", "R063",
        route("timeout: {request: 2s}, concurrency: {max: 8}"),
        "routes: {order: {rate: 100/s, latency: {p50: 100ms}}}",
    ),
    Mistake(
        "BennettSchwartz/membrane#10: one client uses up the bucket of all", "R068",
        route("timeout: {request: 2s}, rate_limit: [{name: all, rate: 100/s}, "
              "{name: client, rate: 100/s, key: client.address}]"),
    ),
    Mistake(
        "istio/istio#20135: all endpoints are ejected", "R070",
        with_upstream(f"{TWO}, ejection: {{consecutive_failures: 10, eject_for: 60s, min_healthy: 0}}"),
    ),
    Mistake(
        "envoyproxy/envoy#10770: max_ejection_percent: 100, and all hosts failed the check", "R070",
        with_upstream(f"{TWO}, panic: fail_fast, ejection: {{consecutive_failures: 3, min_healthy: 0}}"),
    ),
    Mistake(
        "envoyproxy/envoy#4902: health checks every 60s with a timeout of 60s", "R074",
        with_upstream(f"{TWO}, health_check: {{path: /healthz, interval: 60s, timeout: 60s, unhealthy_after: 2}}"),
    ),
    Mistake(
        "hashicorp/consul#1208: a check is critical at the first failure, and the proxy reloads twice", "R075",
        with_upstream(f"{TWO}, health_check: {{path: /healthz, unhealthy_after: 1}}"),
    ),
    # ----- answers
    Mistake(
        "mitodl/ol-infrastructure#2923: User-Agent is part of the cache key, although the content is the same", "R081",
        route("timeout: {request: 2s}, cache: {key: {headers: [user-agent]}}"),
    ),
    Mistake(
        "mozilla/addons-frontend#10777: a true Vary on Cookie makes the key different for everybody", "R081",
        route("timeout: {request: 2s}, cache: {key: {headers: [cookie]}}"),
    ),
    Mistake(
        "mozilla-services/tecken#1108: minutes of waiting for Redis within a request", "R084",
        'caches: {shared: {redis: {url: "redis://127.0.0.1:6379/0", timeout: 200s}}}\n'
        + route("timeout: {request: 5s}, cache: {store: shared}"),
    ),
    Mistake(
        "logto-io/logto#8611: a Redis that stalls holds each request for seconds", "R084",
        'caches: {shared: {redis: {url: "redis://127.0.0.1:6379/0", timeout: 5s}}}\n'
        + route("timeout: {request: 8s}, cache: {store: shared}"),
    ),
    Mistake(
        "Amazon Builders' Library, Avoiding fallback: the fallback starts when no time is left", "R085",
        'upstreams: {app: {endpoints: ["http://a:80"]}, other: {endpoints: ["http://b:80"]}}\n'
        + route("timeout: {request: 1s, attempt: 500ms}, retry: {max_attempts: 2}, fallback: [{upstream: other}]"),
    ),
    Mistake(
        "aws-samples/sample-citadel#76: a bad canary relies on a human who notices", "R090",
        'upstreams: {v1: {endpoints: ["http://a:80"]}, v2: {endpoints: ["http://b:80"]}}\n'
        "routes: [{name: order, upstream: {split: {v1: 90%, v2: 10%}, ramp: {to: 100%, over: 10m}}, "
        "timeout: {request: 2s}}]",
    ),
)  # fmt: skip
"""Mistakes of one set of policies."""

_CALLER: Final = """\
service: {0}
listeners: {{inbound: {{address: "127.0.0.1:1{1}"}}, outbound: {{address: "127.0.0.1:2{1}"}}}}
upstreams: {{app: {{endpoints: ["http://127.0.0.1:9000"]}}, {2}: {{endpoints: ["http://{2}:8080"]{5}}}}}
routes:
  - {{name: in, listener: inbound, upstream: app, timeout: {{request: {3}}}}}
  - {{name: call, listener: outbound, upstream: {2}, {4}}}
"""


def service(name: str, port: str, to: str, waits: str, call: str, upstream: str = "") -> str:
    """Return the policies of a service that calls another one."""
    return _CALLER.format(name, port, to, waits, call, upstream)


def last(name: str, waits: str) -> str:
    """Return the policies of a service that calls nobody."""
    return f"service: {name}\nroutes: [{{name: in, upstream: app, timeout: {{request: {waits}}}}}]\n"


THREE: Final = "timeout: {request: 3s}, retry: {max_attempts: 3}"
CHAINS: Final = (
    Mistake(
        "SRE book ch. 22: four attempts at three layers are 64", "R102",
        "---\n".join((
            service("front", "001", "orders", "9s", "timeout: {request: 8s}, retry: {max_attempts: 4}"),
            service("orders", "002", "stock", "8s", "timeout: {request: 7s}, retry: {max_attempts: 4}"),
            service("stock", "003", "database", "7s", "timeout: {request: 6s}, retry: {max_attempts: 4}"),
            last("database", "1s"),
        )),
    ),
    Mistake(
        "akingundogdu/akingundogdu.com#192: 3 tries at each of 4 hops are 81 calls of the payment provider", "R102",
        "---\n".join((
            service("a", "001", "b", "9s", THREE), service("b", "002", "c", "9s", THREE),
            service("c", "003", "pay", "9s", THREE), last("pay", "1s"),
        )),
    ),
    Mistake(
        "envoyproxy/envoy#7358: the deadline of the egress is ignored by the ingress of the next service", "R101",
        "---\n".join((
            service("web", "001", "stock", "2s", 'timeout: {request: 1s, header: "off"}'), last("stock", "10s"),
        )),
    ),
    Mistake(
        "KrakenD's documentation: client > gateway > API, and here the service waits longer than its caller", "R101",
        "---\n".join((service("web", "001", "stock", "500ms", "timeout: {request: 5s}"), last("stock", "4s"))),
    ),
    Mistake(
        "SRE book ch. 21: budgets of each client, without which an outage multiplies the load", "R103",
        "---\n".join((
            service("web", "001", "orders", "9s", THREE, ", retry_budget: {ratio: 100%}"),
            service("orders", "002", "stock", "9s", THREE, ", retry_budget: {ratio: 100%}"), last("stock", "1s"),
        )),
    ),
)  # fmt: skip
"""Mistakes along a chain of services."""
