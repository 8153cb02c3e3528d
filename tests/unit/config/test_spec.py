"""Tests of policies: precedence with places, references, suggestions, and all problems in one run."""

from __future__ import annotations

from collections.abc import Mapping
from textwrap import dedent
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from sidecar.config.files import Source
from sidecar.config.load import SECTIONS, Loaded, load
from sidecar.config.node import BUILT_IN
from sidecar.config.spec import POLICIES, PolicySpec, RouteHead, RouteSpec, UpstreamSpec
from sidecar.core.spec import SecretFile, reveal

HEAD = """\
version: 1
listeners: {inbound: {address: "127.0.0.1:8080"}}
upstreams: {app: {endpoints: ["http://127.0.0.1:9000"]}}
"""
ROUTE = "routes: [{name: r, upstream: app}]\n"


def parse(*texts: str, **environ: str) -> Loaded:
    sources = [Source(f"{'abc'[index]}.yaml", dedent(text).encode()) for index, text in enumerate(texts)]
    return load(sources, environ)


def problems(*texts: str) -> list[str]:
    loaded = parse(*texts)
    assert loaded.spec is None
    return [str(problem) for problem in loaded.problems]


def warnings(text: str) -> list[str]:
    loaded = parse(text)
    assert loaded.problems == []
    return [str(problem) for problem in loaded.warnings]


def spec(*texts: str, **environ: str) -> PolicySpec:
    loaded = parse(*texts, **environ)
    assert [str(problem) for problem in loaded.problems] == []
    assert loaded.spec is not None
    return loaded.spec


def route(text: str) -> RouteSpec:
    return spec(text).routes[0]


def block(found: RouteSpec, name: str) -> Any:
    return found.blocks[name]


# ----- precedence


LAYERS = """\
version: 1
listeners: {inbound: {address: "127.0.0.1:8080"}}
upstreams:
  app:
    endpoints: ["http://127.0.0.1:9000"]
    policy:
      retry: {max_attempts: 5, backoff: {base: 50ms}, max_body: 1KiB}
policies:
  first:
    retry: {backoff: {max: 400ms}, max_body: 2KiB}
  second:
    retry: {backoff: {jitter: none}, max_body: 3KiB}
defaults:
  retry: {max_attempts: 9, retry_after: {max: 1s}}
  timeout: {request: 10s}
routes:
  - name: r
    upstream: app
    use: [first, second]
    retry: {on: [503]}
"""


def test_the_nearest_wins_key_by_key() -> None:
    retry = block(route(LAYERS), "retry")
    assert retry.on == (503,)
    assert retry.max_body == 3 * 1024, "the last bundle is the nearest"
    assert (retry.backoff.base, retry.backoff.max, retry.backoff.jitter) == (0.05, 0.4, "none")
    assert retry.max_attempts == 5, "the upstream's policy is nearer than the defaults"
    assert retry.retry_after.max == 1.0
    assert "PUT" in retry.methods, "the built-in default"


@pytest.mark.parametrize(
    ("path", "line"),
    [
        (("retry",), 20),
        (("retry", "on"), 20),
        (("retry", "on", 0), 20),
        (("retry", "max_body"), 12),
        (("retry", "backoff", "max"), 10),
        (("retry", "backoff", "base"), 7),
        (("retry", "max_attempts"), 7),
        (("retry", "retry_after", "max"), 14),
        (("timeout", "request"), 15),
        (("upstream",), 18),
    ],
)
def test_every_effective_value_knows_where_it_was_written(path: tuple[str | int, ...], line: int) -> None:
    mark = route(LAYERS).where(*path)
    assert (mark.file, mark.line) == ("a.yaml", line)
    assert str(mark) == f"a.yaml:{line}"


def test_a_built_in_default_is_in_no_file() -> None:
    mark = route(LAYERS).where("retry", "methods")
    assert mark == BUILT_IN
    assert str(mark) == "built-in default"


def test_off_turns_an_inherited_block_off() -> None:
    found = route(LAYERS.replace("retry: {on: [503]}", "retry: off"))
    assert set(found.blocks) == {"timeout"}


def test_off_in_a_bundle_cuts_off_what_lies_further_away() -> None:
    text = LAYERS.replace("retry: {backoff: {jitter: none}, max_body: 3KiB}", "retry: off")
    retry = block(route(text), "retry")
    assert (retry.on, retry.max_attempts, retry.max_body) == ((503,), 3, 64 * 1024)


def test_off_turns_a_part_of_a_block_off() -> None:
    text = HEAD + "defaults: {circuit_breaker: {slow_calls: {longer_than: 1s, rate: 50%}}}\n"
    assert block(route(text + ROUTE), "circuit_breaker").slow_calls is not None
    text += "routes: [{name: r, upstream: app, circuit_breaker: {slow_calls: off}}]"
    assert block(route(text), "circuit_breaker").slow_calls is None


def test_what_no_file_says_is_not_there() -> None:
    found = route(HEAD + ROUTE)
    assert found.blocks == {}
    assert found.criticality == "default"


def test_an_empty_block_is_on_with_its_defaults() -> None:
    assert block(route(HEAD + "routes: [{name: r, upstream: app, retry: {}}]"), "retry").max_attempts == 3


def test_criticality_is_inherited() -> None:
    assert route(HEAD + "defaults: {criticality: sheddable}\n" + ROUTE).criticality == "sheddable"


def test_a_list_is_replaced_whole() -> None:
    text = HEAD + "defaults: {fallback: [{response: {status: 503}}, {response: {status: 500}}]}\n"
    text += "routes: [{name: r, upstream: app, fallback: [{response: {status: 200}}]}]"
    assert len(block(route(text), "fallback").steps) == 1


def test_blocks_under_an_upstream_are_its_own() -> None:
    text = """\
        version: 1
        listeners: {inbound: {address: "127.0.0.1:8080"}}
        upstreams:
          app:
            endpoints: ["http://127.0.0.1:9000"]
            circuit_breaker: {per: endpoint}
            concurrency: {max: 7}
            health_check: off
        routes: [{name: r, upstream: app}]
        """
    found = spec(text)
    upstream = found.upstreams["app"]
    assert upstream.circuit_breaker is not None
    assert upstream.circuit_breaker.per == "endpoint"
    assert upstream.concurrency is not None
    assert upstream.concurrency.max == 7
    assert upstream.health_check is None
    assert upstream.retry_budget.ratio == 0.2
    assert found.where("upstreams", "app", "concurrency").line == 7
    assert found.where("upstreams", "app", "retry_budget") == BUILT_IN
    assert found.routes[0].blocks == {}


def test_a_moved_line_changes_nothing() -> None:
    assert spec(LAYERS) == spec("# a comment\n" + LAYERS)
    assert spec(LAYERS) != spec(LAYERS.replace("503", "502"))


# ----- listeners and secrets


@pytest.mark.parametrize(
    ("more", "name"),
    [("inbound: {address: '127.0.0.1:1'}", "inbound"), ("x: {address: '127.0.0.1:1'}", None)],
)
def test_a_route_without_listener_is_for_inbound_or_for_all(more: str, name: str | None) -> None:
    text = HEAD.replace('inbound: {address: "127.0.0.1:8080"}', more + ", y: {address: '127.0.0.1:2'}")
    assert route(text + ROUTE).listener == name


def test_addresses() -> None:
    text = HEAD.replace('"127.0.0.1:8080"', '"[2001:DB8::1]:80"').replace("routes", "")
    text += "admin: {address: 'unix:/run/admin.sock'}\n" + ROUTE
    found = spec(text)
    assert found.listeners["inbound"].address == ("2001:db8::1", 80, "")
    assert str(found.listeners["inbound"].address) == "[2001:db8::1]:80"
    assert found.admin is not None
    assert found.admin.address.path == "/run/admin.sock"


def test_the_admin_listener_is_on_loopback_unless_it_is_off() -> None:
    admin = spec(HEAD + ROUTE).admin
    assert admin is not None
    assert str(admin.address) == "127.0.0.1:9901"
    assert spec(HEAD + "admin: off\n" + ROUTE).admin is None


def test_secrets_are_never_shown(tmp_path: Any) -> None:
    found = spec(HEAD + "admin: {token: '${TOKEN}'}\n" + ROUTE, TOKEN="hunter2")
    assert found.admin is not None
    assert found.admin.token is not None
    assert reveal(found.admin.token) == "hunter2"
    assert "hunter2" not in repr(found)
    assert "hunter2" not in found.admin.model_dump_json()
    path = tmp_path / "token"
    path.write_text("hunter3\n")
    assert reveal(SecretFile(file=str(path))) == "hunter3"


def test_a_wrong_secret_is_not_shown_either() -> None:
    loaded = parse(HEAD + "admin: {token: ['${TOKEN}']}\n" + ROUTE, TOKEN="hunter2")
    assert loaded.problems
    assert "hunter2" not in str(loaded)


# ----- several files


def test_files_of_a_directory_are_joined() -> None:
    found = spec(
        "version: 1\nlisteners: {inbound: {address: '127.0.0.1:8080'}}\ndefaults: {timeout: {request: 1s}}\n",
        "upstreams: {app: {endpoints: ['http://h:9000']}}\nroutes: [{name: one, upstream: app, match: {path: /1}}]",
        "version: 1\nroutes: [{name: two, upstream: app, match: {path: /2}}]\ndefaults: {retry: {}}\n",
    )
    assert [(each.name, each.where("name").file) for each in found.routes] == [("one", "b.yaml"), ("two", "c.yaml")]
    assert set(found.routes[0].blocks) == {"timeout", "retry"}


def test_what_is_defined_twice_shows_both_places() -> None:
    second = "version: 2\nupstreams: {app: {}}\nroutes: [{name: r, upstream: app, match: {path: /x}}]\nservice: x\n"
    assert problems("service: y\n" + HEAD + ROUTE, second) == [
        "b.yaml:1:1: version: is defined twice: here and at a.yaml:2:1; keep one of them",
        "b.yaml:2:13: upstreams.app: is defined twice: here and at a.yaml:4:13; keep one of them",
        "b.yaml:3:17: routes.r.name: `r` is defined twice: here and at a.yaml:5:17; rename one",
        "b.yaml:4:1: service: is defined twice: here and at a.yaml:1:1; keep one of them",
    ]


def test_a_broken_file_does_not_hide_the_problems_of_the_others_nor_invent_any() -> None:
    found = problems("version: 1\nroutes: [{name: r, upstream: app, timeout: {request: 3}}]", "upstreams: {app: [")
    assert len(found) == 2
    assert found[0].startswith("a.yaml:2:54: routes.r.timeout.request: is a number without a unit")
    assert found[1].startswith("b.yaml:2:1: is not valid YAML") or found[1].startswith("b.yaml:1:19: is not valid YAML")


# ----- problems


def test_all_problems_come_out_of_one_run() -> None:
    text = """\
        version: 1
        servce: x
        listeners: {inbound: {address: ":8080"}}
        limits: {idle_timeout: 75, max_connections: "10"}
        upstreams:
          app: {endpoints: ["http://127.0.0.1:9000"], load_balancing: least_reqest, timeout: {attempt: 1s}}
        policies:
          bundle: {retry: {max_atempts: 3}}
        defaults:
          timeout:
        routes:
          - name: r
            upstream: ap
            use: [bundel]
            listener: inbond
            match: {path: orders}
            retry_budget: {ratio: 20%}
            circuit_breaker: {window: {cals: 3}, failures: [5xxx], slow_calls: {longer_than: 1s}}
          - upstream: app
        """
    assert problems(text) == [
        "a.yaml:2:1: servce: is not a known key; did you mean `service`?",
        'a.yaml:3:32: listeners.inbound.address: is not an address; write it such as "127.0.0.1:8080", "[::1]:8080" '
        'or "unix:/run/sidecar.sock"; did you mean "0.0.0.0:8080"?',
        "a.yaml:4:24: limits.idle_timeout: is a number without a unit; write a duration such as 250ms, 2s, 5m or 1h",
        "a.yaml:4:45: limits.max_connections: must be a whole number; take the quotes off",
        "a.yaml:6:63: upstreams.app.load_balancing: must be 'round_robin', 'least_request', 'latency' or 'random'; "
        "did you mean `least_request`?",
        "a.yaml:6:77: upstreams.app.timeout: belongs under `policy` of the upstream: policy: {timeout: ...}",
        "a.yaml:8:20: policies.bundle.retry.max_atempts: is not a known key; did you mean `max_attempts`?",
        "a.yaml:10:3: defaults.timeout: is empty; write {} for its defaults, off to turn it off, or leave it out",
        "a.yaml:13:15: routes.r.upstream: names no upstream: there is no `ap`; did you mean `app`?",
        "a.yaml:14:11: routes.r.use[0]: names no bundle: there is no `bundel`; did you mean `bundle`?",
        "a.yaml:15:15: routes.r.listener: names no listener: there is no `inbond`; did you mean `inbound`?",
        'a.yaml:16:19: routes.r.match.path: must start with a slash: write "/orders"',
        "a.yaml:17:5: routes.r.retry_budget: belongs under an upstream, where it holds for all routes to it",
        "a.yaml:18:32: routes.r.circuit_breaker.window.cals: is not a known key; did you mean `calls`?",
        "a.yaml:18:53: routes.r.circuit_breaker.failures[0]: is not a condition; write a status such as 503 or one of "
        "connect_failure, reset, timeout, protocol_error, 1xx, 2xx, 3xx, 4xx, 5xx",
        "a.yaml:18:60: routes.r.circuit_breaker.slow_calls.rate: is missing; add `rate: 20%`",
        "a.yaml:19:5: routes[1].name: is missing; add `name: ...`",
    ]


def test_a_value_that_many_inherit_is_reported_once_where_it_is_written() -> None:
    routes = "".join(f"  - {{name: r{n}, upstream: app, match: {{path: /{n}}}}}\n" for n in range(5))
    found = problems(HEAD + "defaults: {timeout: {request: 3}}\nroutes:\n" + routes)
    assert len(found) == 1
    assert found[0].startswith("a.yaml:4:31: defaults.timeout.request: ")


def test_layers_that_no_route_uses_are_checked_but_may_be_incomplete() -> None:
    text = HEAD + "policies: {b: {hedge: {max_extra: 1}, circuit_breaker: {slow_calls: {rate: 3}}}}\n" + ROUTE
    (found,) = problems(text)
    assert "policies.b.circuit_breaker.slow_calls.rate: is a number without a unit" in found


def test_what_is_missing_from_all_layers_is_told() -> None:
    (found,) = problems(HEAD + "policies: {b: {hedge: {max_extra: 1}}}\nroutes: [{name: r, upstream: app, use: [b]}]")
    assert found == "a.yaml:4:16: policies.b.hedge.after: is missing; add `after: 250ms`"


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("", "a.yaml:1:1: holds no policies; begin with `version: 1`"),
        ("[]", "a.yaml:1:1: must be a mapping with the keys version"),
        ("x", "a.yaml:1:1: must be a mapping with the keys version"),
        (HEAD.replace("version: 1", "version: 2") + ROUTE, "a.yaml:1:10: version: must be 1"),
        (HEAD.replace("version: 1", "service: x") + ROUTE, "a.yaml:1:1: version: is missing; add `version: 1`"),
        (HEAD.replace('{inbound: {address: "127.0.0.1:8080"}}', "{}") + ROUTE, "listeners: is missing; add"),
        (HEAD + "routes: {r: {upstream: app}}", "routes: must be a list; begin each route with `- name:`"),
        (HEAD + "routes: [3]", "a.yaml:4:10: routes[0]: must be a mapping"),
        (HEAD + "upstreams2: 3\n" + ROUTE, "upstreams2: is not a known key; did you mean `upstreams`?"),
        (HEAD + "policies: {'a b': {}}\n" + ROUTE, "policies.a b: is not a name; use letters"),
        (HEAD + "policies: [a]\n" + ROUTE, "policies: must be a mapping of names"),
        (HEAD + "policies: {a: [b]}\n" + ROUTE, "policies.a: must be a mapping of policies"),
        (HEAD + "policies: {a: {tls: {}}}\n" + ROUTE, "policies.a.tls: is not a policy; it belongs directly under"),
        (HEAD + "routes: [{name: r, upstream: app, retry: on}]", "routes.r.retry: must be a mapping of keys"),
        (HEAD + "routes: [{name: r, upstream: app, retry: {max_attempts: 0}}]", "max_attempts: must be at least 1"),
        (HEAD + "routes: [{name: r, upstream: app, retry: {max_attempts: '3'}}]", "must be a whole number"),
        (HEAD + "routes: [{name: r, upstream: app, throttle: {window: 1h}}]", "throttle.window: must be at most 10m"),
        (HEAD + "routes: [{name: r, upstream: app, pacing: {decrease: 1%}}]", "pacing.decrease: must be at least 10%"),
        (
            HEAD + "routes: [{name: r, upstream: app, rate_limit: [{name: a, rate: 1/s, store: s, lease: 1ms}]}]",
            "lease: must be at least 50ms",
        ),
        (
            HEAD + "routes: [{name: r, upstream: app, rate_limit: [{name: a b, rate: 1/s}]}]",
            "name: is no name of a limit; write up to 63 letters",
        ),
        (
            HEAD + "routes: [{name: r, upstream: app, quota: [{name: a, max: 1, per: day, resets: '6:00'}]}]",
            "resets: is no time of the day; write it with hours from 00 to 23, such as",
        ),
        (HEAD + "routes: [{name: r, upstream: app, retry: {mode: obsrve}}]", "did you mean `observe`?"),
        (HEAD + "routes: [{name: r, upstream: app, match: {headers: {x: 1}}}]", "headers.x: must be text; put it"),
        (HEAD + "routes: [{name: r, upstream: app, fallback: [{upstream: ap}]}]", "[0].upstream: names no upstream"),
        (
            HEAD + "caches: {shared: {}}\nroutes: [{name: r, upstream: app, cache: {store: share}}]",
            "r.cache.store: names no cache: there is no `share`; did you mean `shared`?",
        ),
        (HEAD + "caches: {c: {redis: {url: 'http://x'}}}\n" + ROUTE, "c.redis.url: is not the address of a Redis"),
        (HEAD + "caches: {c: {memory: {max_size: 1KiB}}}\n" + ROUTE, "caches.c.memory.max_size: "),
        (HEAD + "routes: [{name: r, upstream: app, fallback: [{upstrem: a}]}]", "did you mean `upstream`?"),
        (HEAD + "routes: [{name: r, upstream: app, fallback: [{response: {}}]}]", "[0].response.status: is missing"),
        (HEAD + "routes: [{name: r, upstream: app, fallback: [{response: {status: 503, body: '{pth.x}'}}]}]", "pth"),
        (HEAD + "admin: {address: '0.0.0.0:8080'}\n" + ROUTE, "is also where `inbound` listens (127.0.0.1:8080)"),
        (HEAD + "admin: {address: '127.0.0.1:99999'}\n" + ROUTE, "has the port 99999"),
        (HEAD + "admin: {address: 'unix:admin.sock'}\n" + ROUTE, "needs the absolute path of a socket"),
        (HEAD + "admin: {token: \"\"}\n" + ROUTE, "admin.token: is empty, which would let everyone in"),
        (HEAD + "admin: {token: {fil: x}}\n" + ROUTE, "admin.token.fil: is not a known key; did you mean `file`?"),
        (HEAD + "routes: [{name: r, upstream: app, match: {path: /a, path_prefix: /b}}]", "stands beside `path`"),
    ],
)  # fmt: skip
def test_each_mistake_says_where_what_and_what_would_be_right(text: str, words: str) -> None:
    found = problems(text)
    assert any(words in problem for problem in found), found


def test_routes_that_take_the_same_requests() -> None:
    names = "".join(f"- {{name: {name}, upstream: app, match: {{path: '/x/{{{name}}}'}}}}\n" for name in "ab")
    text = HEAD + "routes:\n" + names
    (found,) = problems(text)
    assert found == (
        "a.yaml:6:28: routes.b.match: takes requests that the route `a` takes too, and neither is more specific: "
        "see a.yaml:5:28; add a condition to one of them"
    )


# ----- warnings


@pytest.mark.parametrize(
    ("blocks", "words"),
    [
        ("timeout: {request: 1s, attempt: 1s}", "timeout.attempt: has no effect: timeout.request (1s) ends first"),
        ("timeout: {request: 3s, attempt: 1s}, retry: {max_attempts: 4}",
         "retry.max_attempts: only 3 of 4 tries of 1s (timeout.attempt) fit into 3s (timeout.request)"),
        ("timeout: {request: 3s}, retry: {on: [timeout]}", "retry.on: names timeout, but no try times out"),
        ("timeout: {request: 3s, attempt: 200ms}, hedge: {after: 200ms}", "never hedges: timeout.attempt (0.2s)"),
        ("timeout: {request: 100ms}, hedge: {after: 200ms}", "hedge.after: never hedges: timeout.request (0.1s)"),
        ("timeout: {request: 1s}, circuit_breaker: {slow_calls: {longer_than: 2s, rate: 50%}}",
         "slow_calls.longer_than: never counts a call as slow: timeout.request (1s) ends it first"),
        ("timeout: {request: 1s}, concurrency: {max: 1, queue: 1, queue_timeout: 1s}",
         "concurrency.queue_timeout: has no effect: timeout.request (1s) ends first"),
        ("fallback: [{upstream: app}]", "fallback[0].upstream: falls back to `app`, the upstream that failed"),
    ],
)  # fmt: skip
def test_what_has_no_effect_is_a_warning(blocks: str, words: str) -> None:
    (found,) = warnings(HEAD + f"routes: [{{name: r, upstream: app, {blocks}}}]")
    assert words in found
    assert found.startswith("a.yaml:4:")


@pytest.mark.parametrize(
    "blocks",
    [
        "timeout: {request: 3s, attempt: 1s}, retry: {max_attempts: 3}",
        "timeout: {request: off, attempt: 1s}, retry: {max_attempts: 9}",
        "timeout: {request: 1s}, retry: {}",
        "timeout: {request: 300ms, attempt: 100ms}, retry: {max_attempts: 3}",
        "timeout: {request: 1s, attempt: off}, hedge: {after: 200ms}",
    ],
)
def test_what_makes_sense_is_none(blocks: str) -> None:
    assert warnings(HEAD + f"routes: [{{name: r, upstream: app, {blocks}}}]") == []


@pytest.mark.parametrize(
    ("text", "words"),
    [
        (
            HEAD.replace("]}", "], ejection: {}}") + ROUTE,
            "upstreams.app.ejection: never ejects: min_healthy is 1 of 1 endpoint;",
        ),
        (
            HEAD.replace("]}", "], subset: {size: 5}}") + ROUTE,
            "upstreams.app.subset.size: takes all: there are 1; lower it, or take `subset` out",
        ),
        (
            HEAD.replace("]}", ", 'http://b:1', 'http://b:2'], subset: {size: 2}, ejection: {min_healthy: 2}}") + ROUTE,
            "never ejects: min_healthy is 2 of 2 endpoints;",
        ),
        (HEAD.replace("9000", "8080") + ROUTE, "endpoints[0]: is the sidecar's own listener `inbound`"),
        (
            HEAD.replace('8080"', '8080", untrusted: {pass: [x-original-url, x-orginal-uri]}') + ROUTE,
            "inbound.untrusted.pass[1]: names x-orginal-uri, which passes from all clients anyway",
        ),
        (HEAD + "policies: {b: {}}\n" + ROUTE, "policies.b: no route uses the bundle `b`"),
        (HEAD + "caches: {c: {}}\n" + ROUTE, "caches.c: no route uses the cache `c`"),
        (
            HEAD + "routes: [{name: r, upstream: app, fallback: [stale]}]",
            "never finds a response: this route has no cache",
        ),
        (HEAD + "admin: {address: '0.0.0.0:9901'}\n" + ROUTE, "others can reach the admin listener"),
    ],
)
def test_warnings_outside_of_routes(text: str, words: str) -> None:
    found = warnings(text)
    assert len(found) == 1
    assert words in found[0]


# ----- hostile and broken files


def _documents() -> st.SearchStrategy[Any]:
    words = st.sampled_from(
        [
            "off",
            "on",
            "1s",
            "20%",
            "64KiB",
            "app",
            "r",
            "/x",
            "503",
            "GET",
            "{}",
            "http://h:1",
            "127.0.0.1:1",
            "",
            "${X}",
        ]
    )
    keys = st.sampled_from(
        [*SECTIONS, *POLICIES, *RouteHead.model_fields, *UpstreamSpec.model_fields, "on", "steps", "app"]
    )
    scalars = words | st.integers(-2, 700) | st.booleans() | st.none() | st.floats(allow_nan=False)
    return st.recursive(
        scalars, lambda inner: st.lists(inner, max_size=3) | st.dictionaries(keys, inner, max_size=4), max_leaves=25
    )


def _dump(value: Any) -> str:
    if isinstance(value, dict):
        return "{" + ", ".join(f"{key}: {_dump(member)}" for key, member in value.items()) + "}"
    if isinstance(value, list):
        return "[" + ", ".join(map(_dump, value)) + "]"
    if isinstance(value, str):
        return f'"{value}"'
    return (
        {None: "null", True: "true", False: "false"}.get(value, str(value))
        if not isinstance(value, float)
        else str(value)
    )


@settings(deadline=None, max_examples=200)
@given(
    st.dictionaries(
        st.sampled_from(["listeners", "upstreams", "policies", "defaults", "routes", "admin"]), _documents()
    )
)
def test_no_document_raises(sections: Mapping[str, Any]) -> None:
    text = "version: 1\n" + "".join(f"{key}: {_dump(value)}\n" for key, value in sections.items())
    loaded = parse(text)
    assert (loaded.spec is None) == bool(loaded.problems)
    assert all(problem.line >= 1 and problem.column >= 1 and problem.message for problem in loaded.problems)


def test_the_default_cache_need_not_be_declared() -> None:
    cached = "routes: [{name: r, upstream: app, cache: {store: default}}]"
    assert warnings(HEAD + cached) == []
    assert spec(HEAD + cached).caches["default"].memory.max_size == 64 * 2**20
    own = spec(
        HEAD + "caches: {default: {memory: {max_size: 1MiB}}}\n" + "routes: [{name: r, upstream: app, cache: {}}]"
    )
    assert own.caches["default"].memory.max_size == 2**20


@pytest.mark.parametrize(
    ("listener", "message"),
    [
        ("untrusted: {pass: [x-original-url, X_Forwarded_User]}, via: off, trusted_proxies: [10.0.0.0/8]", ""),
        ("untrusted: {min_deadline: 0s}, via: edge-1", ""),
        ("untrusted: {min_deadline: 5}", "without a unit"),
        ("untrusted: {pass: [X_Forwarded_For]}", "reads and writes itself"),
        ("untrusted: {pass: [content_length]}", "reads and writes itself"),
        ("untrusted: {pass: ['x user']}", "not the name of a header field"),
        ("via: 'a b'", "not a name for the field Via"),
        ("via: ''", "not a name for the field Via"),
    ],
)
def test_what_a_listener_says_of_strangers(listener: str, message: str) -> None:
    text = f"""
version: 1
listeners: {{inbound: {{address: "127.0.0.1:8080", {listener}}}}}
upstreams: {{a: {{endpoints: ["http://127.0.0.1:9000"]}}}}
routes: [{{name: a, upstream: a}}]
"""
    loaded = parse(text)
    assert (loaded.spec is None) is bool(message)
    assert [message in str(problem) for problem in loaded.problems] == [True] * bool(message)
