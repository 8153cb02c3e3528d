"""Tests of a check's messages: what is wrong, and what would be right."""

from __future__ import annotations

import pytest

from sidecar.config.files import Source
from sidecar.config.load import load

HEAD = """\
version: 1
listeners: {inbound: {address: "127.0.0.1:8080"}}
upstreams: {app: {endpoints: ["http://a:1"]}}
"""


def messages(text: str, **environ: str) -> tuple[list[str], list[str]]:
    loaded = load([Source("p.yaml", text.encode())], environ)
    return tuple([f"{each.path}: {each.message}" for each in found] for found in (loaded.problems, loaded.warnings))  # type: ignore[return-value]


def of_route(keys: str, **environ: str) -> tuple[list[str], list[str]]:
    return messages(f"{HEAD}routes: [{{name: r, upstream: app, {keys}}}]\n", **environ)


@pytest.mark.parametrize(
    ("keys", "message"),
    [
        ('retry: {on: ["503"]}', "retry.on[0]: is not a condition; write the status without quotes, 503"),
        (
            'circuit_breaker: {failures: ["429"]}',
            "failures[0]: is not a condition; write the status without quotes",
        ),
        (
            'fallback: {on: ["503"], steps: [{response: {status: 200}}]}',
            "on[0]: is not a condition; write the status without",
        ),
        ('retry: {on: ["600"]}', "is not a condition; write a status such as 503 or one of"),
        ('retry: {max_attempts: "3"}', "max_attempts: must be a whole number; take the quotes off"),
        ('retry: {max_attempts: "many"}', "max_attempts: must be a whole number"),
        ("rate_limit: [{name: a, rate: 1/s, burst: 1.5}]", "a.burst: must be a whole number or 'auto'"),
        ("rate_limit: [{name: a, rate: 1/s, burst: aut}]", "a whole number or 'auto'; did you mean `auto`?"),
        ('rate_limit: [{name: a, rate: 1/s, burst: "5"}]', "a.burst: must be a whole number; take the quotes off"),
        ("rate_limit: [{name: a, rate: 1/s, burst: -1}]", "a.burst: must be at least 0"),
        ("retry: no", "retry: must be a mapping of keys and values; `off` turns it off"),
        ("retry: false", "retry: must be a mapping of keys and values; `off` turns it off"),
        ("cache: none", "cache: must be a mapping of keys and values; `off` turns it off"),
        ("retry: 3", "retry: must be a mapping of keys and values, such as {max_attempts: 3}"),
        (
            "fallback: 503",
            "fallback: must be a list, or a mapping of keys and values, such as [{response: {status: 503",
        ),
        ("pacing: {decrease: 100%}", "pacing.decrease: must be at most 95%"),
        ("pacing: {decrease: 5%}", "pacing.decrease: must be at least 10%"),
        ("throttle: {window: 500ms}", "throttle.window: must be at least 1s"),
        ("throttle: {window: 1h}", "throttle.window: must be at most 10m"),
        ("throttle: {max_refused: 0%}", "throttle.max_refused: must be more than 0%"),
        ("throttle: {ratio: 2x}", "throttle.ratio: must be a number"),
        ("throttle: {ratio: 11}", "throttle.ratio: must be at most 10"),
        ("mirror: {upstream: app, compare: {max_body: 2MiB}}", "compare.max_body: must be at most 1MiB"),
        ("timeout: {header: no}", "timeout.header: is the name `no`; write off to send no field, or another name"),
        ("cache: {stale_if_error: off}", "cache.stale_if_error: is not a duration; write 0s to turn it off"),
        ("timeout: 3s", "timeout: must be a mapping of keys and values, such as {request: 3s}"),
        ("hedge: 50ms", "hedge: must be a mapping of keys and values, such as {after: 50ms}"),
        ("cache: 30s", "cache: must be a mapping of keys and values, such as {ttl: 30s}"),
        ("concurrency: 100", "concurrency: must be a mapping of keys and values, such as {max: 100}"),
        ("circuit_breaker: 50%", "must be a mapping of keys and values, such as {failure_rate: 50%}"),
        ("fault: maybe", "fault: must be a mapping of keys and values, such as {abort: {status: 503, share: 30%}"),
        ("retry: {backoff: 25ms}", "backoff: must be a mapping of keys and values, such as {base: 25ms}"),
        ("circuit_breaker: {half_open: 3}", "half_open: must be a mapping of keys and values, such as {probes: 3}"),
        ("match: /orders", "match: must be a mapping of keys and values, such as {path_prefix: /orders}"),
        ("timeout: '${D}'", 'such as {request: "${D}"} (the environment variable D gave it)'),
        ("path_prefix: /orders", "path_prefix: belongs under `match`: match: {path_prefix: /orders}"),
        ("headers: {x-tier: gold}", "headers: belongs under `match`: match: {headers: {x-tier: gold}}"),
        ("path: '${T}'", 'belongs under `match`: match: {path: "${T}"}'),
        ("retry: {base: 5s}", "base: belongs under `backoff`: backoff: {base: 5s}"),
        ("circuit_breaker: {probes: 5}", "probes: belongs under `half_open`: half_open: {probes: 5}"),
        ("cache: {ignore_query: [a]}", "ignore_query: belongs under `key`: key: {ignore_query: [a]}"),
        ("match: {path_regex: '(a)\\1'}", "has `\\1` at column 4, which is not supported; a back-reference takes"),
        ("match: {path_regex: 'a\\b'}", "has `\\b` at column 2, which is not supported; known are"),
        ("fallback: {status: 200}", "fallback: is a list of steps; write this one as `- response: {status: 503, ...}`"),
        ("fallback: {on: [503]}", "steps: is missing; add `steps: [{response: {status: 503"),
        ("hedge: {}", "after: is missing; add `after: 250ms`"),
        ("retry: {max_attempts: '${T}'}", "must be a whole number (the environment variable T gave it)"),
        ('timeout: {request: "${Q:-3}"}', "is not a duration; write it such as 250ms, 2s, 5m or 1h (Q is not set"),
    ],
)
def test_a_problem_says_what_would_be_right(keys: str, message: str) -> None:
    problems, _ = of_route(keys, T="word", D="3s")
    assert any(message in problem for problem in problems), problems


@pytest.mark.parametrize(
    ("text", "message"),
    [
        (HEAD.replace("version: 1", 'version: "1"'), "version: must be 1, without quotes"),
        (HEAD + "x-common: &c {timeout: {request: 1s}}\n", "x-common: belongs under `policies`"),
        (HEAD + "timeout: {request: 1s}\n", "timeout: belongs under a route, or under `defaults` for all routes"),
        (
            HEAD + "defaults: {match: {path: /x}}\n",
            "defaults.match: is not a policy; it belongs directly under a route",
        ),
        (HEAD.replace("{endpoints", "{health_check: /healthz, endpoints"), "such as {path: /healthz}"),
        (HEAD.replace("{endpoints", "{connections: 5, endpoints"), "such as {max: 5}"),
        (HEAD.replace("{endpoints", "{dns: a.svc, endpoints"), "belongs under `discover`: discover: {dns: a.svc}"),
    ],
)
def test_so_does_one_outside_of_routes(text: str, message: str) -> None:
    problems, _ = messages(text)
    assert any(message in problem for problem in problems), problems


@pytest.mark.parametrize(
    ("keys", "message"),
    [
        ("retry: {backoff: {base: 5s, max: 1s}}", "retry.backoff.base: is longer than backoff.max (1s)"),
        ("retry: {backoff: {base: 5s}}", "retry.backoff.base: is longer than backoff.max (0.25s)"),
        ("retry: {backoff: {max: 1ms}}", "retry.backoff: is longer than backoff.max"),
        ("retry: {max_attempts: 1}", "retry.max_attempts: never retries"),
        ("timeout: {request: 99999999h}", "timeout.request: is 4,166,667 days long; is the unit right?"),
        ("timeout: {attempt: 100us}", "timeout.attempt: is shorter than a millisecond"),
        ("hedge: {after: 10us}", "hedge.after: is shorter than a millisecond"),
        ("cache: {ttl: 99999h}", "cache.ttl: is 4,167 days long"),
        ("circuit_breaker: {failure_rate: 0%}", "failure_rate: opens the circuit at the first"),
        (
            "circuit_breaker: {slow_calls: {longer_than: 1s, rate: 0%}}",
            "slow_calls.rate: opens the circuit",
        ),
        ("fault: {abort: {share: 0%}}", "fault.abort.share: aborts nothing"),
        ("fault: {latency: {fixed: 1s, share: 0%}}", "fault.latency.share: delays nothing"),
        ("fault: {reset: {share: 0%}}", "fault.reset.share: resets nothing"),
        ("concurrency: {max: 5, queue_timeout: 1s}", "queue_timeout: has no effect without a queue"),
        ("pacing: {max_wait: 0s, waiting: 5}", "pacing.waiting: has no effect without max_wait"),
        ("pacing: {max_wait: 5s}", "pacing.max_wait: is so long that attempts go on at a rate that is"),
        ("throttle: {max_refused: 100%}", "max_refused: leaves about one attempt in a window to find out"),
        ("cache: {max_body: 1GiB}", "cache.max_body: is more than the whole cache `default` holds"),
        ("retry: {max_body: 99999GiB}", "retry.max_body: is more than 1 TiB"),
        ("timeout: {request: '${LONG}'}", "is ${LONG} long; is the unit right?"),
    ],
)
def test_a_value_that_can_hardly_be_meant_is_warned_of(keys: str, message: str) -> None:
    problems, warnings = of_route(keys, LONG="99999h")
    assert problems == []
    assert any(message in warning for warning in warnings), warnings


@pytest.mark.parametrize(
    ("text", "message"),
    [
        (
            HEAD.replace("{endpoints", "{connect_timeout: 1us, endpoints"),
            "connect_timeout: is shorter",
        ),
        (
            HEAD.replace("{endpoints", "{health_check: {path: /, interval: 1s, timeout: 2s}, endpoints"),
            "health_check.timeout: is longer than the interval (1s)",
        ),
        (
            HEAD.replace("{endpoints", "{retry_budget: {ratio: 0%, min_per_second: 0.0}, endpoints"),
            "retry_budget: allows no retry at all",
        ),
        (
            HEAD.replace("{endpoints", "{circuit_breaker: {failure_rate: 0%}, endpoints"),
            "failure_rate: opens the circuit",
        ),
        (HEAD + "limits: {idle_timeout: 9999h}\n", "limits.idle_timeout: is 417 days long"),
        (HEAD + "caches: {big: {memory: {max_size: 9999GiB}}}\n", "memory.max_size: is more than 1 TiB"),
    ],
)
def test_so_is_one_outside_of_routes(text: str, message: str) -> None:
    problems, warnings = messages(text + "routes: [{name: r, upstream: app}]\n")
    assert problems == []
    assert any(message in warning for warning in warnings), warnings


@pytest.mark.parametrize(
    "keys",
    [
        "retry: {backoff: {base: 100ms, max: 1s}}", "timeout: {request: 24h, attempt: 1ms}", "cache: {ttl: 720h}",
        "timeout: {request: off}", "circuit_breaker: {failure_rate: off, consecutive_failures: 3}",
        "hedge: {after: 1ms}",
        "cache: {stale_if_error: 0s}", "concurrency: {max: 1, queue: 1, queue_timeout: 1s}", "retry: {max_attempts: 2}",
    ],
)  # fmt: skip
def test_values_that_people_mean_are_not(keys: str) -> None:
    assert of_route(keys) == ([], [])


@pytest.mark.parametrize(
    ("keys", "message"),
    [
        ("timeout: {header: false}", "timeout.header: is `false`; write off to send no field, or another name"),
        ("timeout: {header: none}", "timeout.header: is the name `none`; write off to send no field, or another"),
        ("timeout: {request: false}", "timeout.request: is not a duration; write off to set no limit"),
        ("timeout: {idle: no}", "timeout.idle: is not a duration; write off to set no limit"),
        ("circuit_breaker: {failure_rate: false}", "failure_rate: is not a share; write it such as 20%; `off` turns"),
        ("circuit_breaker: {consecutive_failures: none}", "must be a whole number; `off` turns it off"),
        ("cache: {ttl: false}", "cache.ttl: is not a duration; write it such as 250ms, 2s, 5m or 1h; `off` turns"),
        ("cache: {store: false}", "cache.store: must be text; put it in quotes"),
        (
            "transform: {response: {cookies: {'*': {domain: false}}}}",
            "domain: is `false`; write off to remove it, or its value",
        ),
        (
            "transform: {response: {cookies: {'*': {path: none}}}}",
            "path: is the name `none`; write off to remove it, or its value",
        ),
    ],
)
def test_what_turns_a_key_off_is_said_where_it_can_be(keys: str, message: str) -> None:
    (problem,), _ = of_route(keys)
    assert message in problem


@pytest.mark.parametrize(
    ("keys", "message"),
    [
        ("access_log: false", "telemetry.access_log: must be a mapping of keys and values; `off` turns it off"),
    ],
)
def test_what_turns_telemetry_off_is_said(keys: str, message: str) -> None:
    problems, _ = messages(f"{HEAD}telemetry: {{{keys}}}\nroutes: []\n")
    assert message in problems[0]


@pytest.mark.parametrize(
    ("keys", "message"),
    [
        ("via: no", "via: is the name `no`; write off to send no Via, or another name"),
        ("via: false", "via: is `false`; write off to send no Via, or another name"),
        ("via: true", "via: is `true`; write off to send no Via, or another name"),
        ("tls: false", "tls: must be a mapping of keys and values; `off` turns it off"),
        ("problem_details: off", "problem_details: must be true or false"),  # `off` would be taken for false
        ("untrusted: {pass: [x-forwarded-*]}", "untrusted.pass[0]: has `x-forwarded-*`, which is a pattern"),
        ("untrusted: {min_deadline: off}", "untrusted.min_deadline: is not a duration; write 0s to turn it off"),
        ("untrusted: yes", "untrusted: must be a mapping of keys and values"),
        ("protocols: []", "protocols: is empty, so no client could speak; name http1, http2 or both"),
        ("protocols: [http2, http2]", "protocols: names a protocol twice; name each once"),
        ("protocols: [h2]", "protocols[0]: "),
        ("protocols: http2", "protocols: "),
    ],
)
def test_what_is_meant_for_a_listener(keys: str, message: str) -> None:
    text = f"{HEAD}routes: []\n".replace('"127.0.0.1:8080"', f'"127.0.0.1:8080", {keys}')
    (problem,), _ = messages(text)
    assert message in problem


@pytest.mark.parametrize(
    ("old", "new", "warning"),
    [
        (
            '"127.0.0.1:8080"',
            '"127.0.0.1:8080", slow_clients: {buffer_total: 1KiB}',
            "slow_clients.buffer_total: is less than buffer (262144 bytes), which one client may take",
        ),
        *(
            ('"127.0.0.1:8080"', f'"127.0.0.1:8080", {keys}', words)
            for keys, words in (
                (
                    "slow_clients: {min_rate: 1GiB/s}",
                    "slow_clients.min_rate: cuts off clients on ordinary networks",
                ),
                (
                    "slow_clients: {grace: 24h}",
                    "slow_clients.grace: is so long that slow clients are almost never cut off",
                ),
                ("untrusted: {min_deadline: 24h}", "untrusted.min_deadline: is so long that it replaces almost every"),
                (
                    "slow_clients: {buffer: 1GiB, buffer_total: 2GiB}",
                    "slow_clients.buffer: is the memory that each slow client",
                ),
            )
        ),
        ('["http://a:1"]', '["http://a:1"], connect_timeout: 24h', "connect_timeout: lets requests wait that long"),
        ("upstreams:", "limits: {header_timeout: 24h}\nupstreams:", "limits.header_timeout: lets clients hold"),
        ('["http://a:1"]', '["http://a:1"], resolve: {ttl: {min: 1s, max: 1000h}}', "resolve.ttl.max: is 42 days long"),
    ],
)
def test_what_can_hardly_be_meant(old: str, new: str, warning: str) -> None:
    _, warnings = messages(HEAD.replace(old, new) + "routes: [{name: r, match: {path: /a}, upstream: app}]\n")
    assert [each for each in warnings if warning in each], warnings


def test_an_example_says_no_more_than_the_value() -> None:
    (problem,), _ = messages(f"{HEAD}admin: yes\nroutes: []\n")
    assert problem == "admin: must be a mapping of keys and values"


EMPTY = "is empty; give it a value, or leave the key out"


@pytest.mark.parametrize(
    ("keys", "path"),
    [
        ("upstream: ", "routes.r.upstream"),
        ("upstream: null", "routes.r.upstream"),
        ("upstream: app, listener: ", "routes.r.listener"),
        ("upstream: app, candidate: ", "routes.r.candidate"),
        ("upstream: app, match: {host: }", "routes.r.match.host"),
        ("upstream: app, authorize: [{allow: {methods: }}]", "routes.r.authorize[0].allow.methods"),
        ("upstream: app, cache: {key: {ignore_query: }}", "routes.r.cache.key.ignore_query"),
    ],
)
def test_a_key_without_a_value_is_not_taken_as_one_that_is_left_out(keys: str, path: str) -> None:
    problems, _ = messages(f"{HEAD}routes: [{{name: r, {keys}}}]\n")
    assert problems == [f"{path}: {EMPTY}"]


def test_nor_is_one_outside_of_routes() -> None:
    assert messages(HEAD + "service: \nadmin: {token: }\nroutes: [{name: r, upstream: app}]\n")[0] == [
        f"service: {EMPTY}", f"admin.token: {EMPTY}",
    ]  # fmt: skip
