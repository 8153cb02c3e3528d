from __future__ import annotations

import sys
from typing import Any, cast

import pytest

from sidecar.cache.store import Store as Cache
from sidecar.control.compiler import CompileError, Snapshot, compile_policies
from sidecar.control.state import StateStore
from sidecar.core.body import Body
from sidecar.core.outcome import CONNECT_FAILURE
from sidecar.core.promise import Run
from sidecar.upstream.budget import RetryBudget
from tests.support.clock import FakeEnv, make_env
from tests.support.service import ScriptedService, exchange, response
from tests.unit.config.policies import ScriptedUpstream, policies

UPSTREAMS = """\
upstreams:
  app: {endpoints: ["http://127.0.0.1:9000"]}
  other: {endpoints: ["http://127.0.0.1:9001"], circuit_breaker: {consecutive_failures: 2}, concurrency: {max: 9}}
"""


def compiled(*texts: str, store: StateStore | None = None, env: FakeEnv | None = None, **more: Any) -> Snapshot:
    store = store or StateStore()
    lease = store.lease()
    snapshot = compile_policies(policies(*texts), env or make_env(), lease, make=ScriptedUpstream, **more)
    store.retire(store.commit(lease))
    return snapshot


def script(snapshot: Snapshot, upstream: str) -> ScriptedService:
    made = snapshot.upstreams[upstream]
    assert isinstance(made, ScriptedUpstream)
    return made.script


def ask(snapshot: Snapshot, route: str, **facts: Any) -> int:
    """Send a request through a route's pipeline and return its status."""
    done: list[Run[Any]] = []
    x = exchange("GET", "/", **facts)
    Run(snapshot.routes[route].pipeline(x), done.append)  # type: ignore[arg-type]
    assert done[0].error is None
    return int(done[0].value.status)


def chain(snapshot: Snapshot, route: str) -> list[str]:
    links = snapshot.routes[route].chain
    return [link.policy if link.scope == "route" else f"{link.policy} of upstream" for link in links]


def test_what_is_not_configured_is_not_in_the_chain() -> None:
    snapshot = compiled(UPSTREAMS, "routes: [{name: r, upstream: app}]")
    route = snapshot.routes["r"]
    assert route.chain == ()
    assert route.pipeline.admits == ()


def test_the_order_is_that_of_the_stages_and_the_upstream_comes_last_of_its_kind() -> None:
    snapshot = compiled(
        UPSTREAMS,
        """
        routes:
          - name: r
            upstream: other
            fault: {latency: {fixed: 1ms, share: 1%}}
            circuit_breaker: {}
            retry: {}
            hedge: {after: 1ms}
            concurrency: {max: 3}
            fallback: [{response: {status: 503}}]
            timeout: {}
        """,
    )
    assert chain(snapshot, "r") == [
        "timeout", "fallback", "concurrency", "concurrency of upstream", "hedge", "retry",
        "circuit_breaker", "circuit_breaker of upstream", "fault",
    ]  # fmt: skip
    places = [link.where for link in snapshot.routes["r"].chain]
    assert places[:4] == ["p.yaml:17", "p.yaml:16", "p.yaml:15", "p.yaml:6"]


def test_routes_share_what_stands_under_their_upstream_and_nothing_else() -> None:
    store = StateStore()
    snapshot = compiled(
        UPSTREAMS,
        """
        routes:
          - {name: a, upstream: other, match: {path: /a}, circuit_breaker: {}}
          - {name: b, upstream: other, match: {path: /b}, circuit_breaker: {}}
        """,
        store=store,
    )
    assert {key for key in store.objects() if key[0] == "breaker"} == {
        ("breaker", "upstream", "other"), ("breaker", "route", "a"), ("breaker", "route", "b"),
    }  # fmt: skip
    script(snapshot, "other").script = [CONNECT_FAILURE]
    assert [ask(snapshot, "a"), ask(snapshot, "b")] == [502, 502]
    assert [ask(snapshot, "a"), ask(snapshot, "b")] == [503, 503]
    assert script(snapshot, "other").calls == 2


def test_a_fallback_goes_through_the_other_upstreams_limits_and_no_policy_of_the_route() -> None:
    snapshot = compiled(
        UPSTREAMS,
        """
        routes:
          - {name: r, upstream: app, fallback: [{upstream: other}]}
          - {name: direct, upstream: other, match: {path: /direct}}
        """,
    )
    script(snapshot, "app").script = [CONNECT_FAILURE]
    assert ask(snapshot, "r", deadline=1e9) == 200
    script(snapshot, "other").script = [CONNECT_FAILURE]
    for _ in range(3):
        assert ask(snapshot, "r", deadline=1e9) >= 500
    assert script(snapshot, "other").calls == 3  # one succeeded, two failed, and then the breaker was open
    assert ask(snapshot, "direct") == 503


def test_the_retry_budget_is_the_upstreams() -> None:
    store = StateStore()
    compiled(
        UPSTREAMS,
        """
        routes:
          - {name: a, upstream: app, match: {path: /a}, retry: {}}
          - {name: b, upstream: app, match: {path: /b}, hedge: {after: 10ms}}
        """,
        store=store,
    )
    budgets = {key: thing for key, thing in store.objects().items() if isinstance(thing, RetryBudget)}
    assert list(budgets) == [("retry_budget", "app")]


def test_a_breaker_per_endpoint_is_left_to_the_client_and_survives_a_reload() -> None:
    text = """\
    upstreams: {app: {endpoints: ["http://e1:80", "http://e2:80"], circuit_breaker: {per: endpoint, open_for: %s}}}
    routes: [{name: r, upstream: app}]
    """
    store, env = StateStore(), make_env()

    def gate(snapshot: Snapshot) -> Any:
        upstream = snapshot.upstreams["app"]
        assert isinstance(upstream, ScriptedUpstream)
        return upstream.endpoint_gate(upstream.endpoints.members[0])

    first = compiled(text % "5s", store=store, env=env)
    assert first.routes["r"].chain == ()
    gate(first)
    breakers = {key: thing for key, thing in store.objects().items() if key[0] == "breaker"}
    assert [key[:3] for key in breakers] == [("breaker", "upstream", "app")]
    gate(compiled(text % "7s", store=store, env=env))
    assert {key: thing for key, thing in store.objects().items() if key[0] == "breaker"} == breakers
    compiled(
        'upstreams: {app: {endpoints: ["http://e1:80"]}}\nroutes: [{name: r, upstream: app}]', store=store, env=env
    )
    assert [key for key in store.objects() if key[0].startswith("breaker")] == []


def test_listeners_get_their_own_routes_and_those_of_all() -> None:
    snapshot = compiled(
        """\
        admin: off
        upstreams: {app: {endpoints: ["http://127.0.0.1:9000"]}}
        routes:
          - {name: r, upstream: app, criticality: critical}
        """
    )
    route = snapshot.listeners["inbound"].match(exchange("GET", "/x"))
    assert route is snapshot.routes["r"]
    assert (route.name, route.upstream, route.criticality, route.listener) == ("r", "app", 0, "inbound")


def test_each_route_gets_its_metrics() -> None:
    snapshot = compiled(UPSTREAMS, "routes: [{name: r, upstream: app}]", metrics=lambda spec: f"of {spec.name}")
    assert snapshot.routes["r"].metrics == "of r"


def test_what_cannot_be_built_here_is_a_problem_with_its_place() -> None:
    def broken(*_: Any) -> Any:
        raise FileNotFoundError("/etc/tls/ca.pem: No such file or directory")

    store = StateStore()
    with pytest.raises(CompileError) as error:
        compile_policies(
            policies(UPSTREAMS, "routes: [{name: r, upstream: app}]"), make_env(), store.lease(), make=broken
        )
    assert str(error.value).splitlines() == [
        "p.yaml:5:3: upstreams.app: /etc/tls/ca.pem: No such file or directory",
        "p.yaml:6:3: upstreams.other: /etc/tls/ca.pem: No such file or directory",
    ]


CACHED = """
routes:
  - {name: a, upstream: app, match: {path: /a}, cache: {}}
  - {name: b, upstream: app, match: {path: /b}, cache: {store: small}}
  - {name: c, upstream: other, match: {path: /c}}
  - {name: d, upstream: app, match: {path: /d, methods: [GET, HEAD]}}
caches: {small: {memory: {max_size: 1MiB}}, unused: {}}
"""


def test_caches_are_shared_by_name_and_only_made_where_they_are_used() -> None:
    store = StateStore()
    compiled(UPSTREAMS, CACHED, store=store)
    made = {key[1]: cache for key, cache in store.objects().items() if key[0] == "cache"}
    assert made.keys() == {"default", "small"}
    assert made["small"].memory.max_bytes == 2**20
    compiled(UPSTREAMS, CACHED.replace("1MiB", "2MiB"), store=store)
    assert store.objects()["cache", "small"] is made["small"]
    assert made["small"].memory.max_bytes == 2 * 2**20
    compiled(UPSTREAMS, "routes: [{name: r, upstream: app}]", store=store)
    assert not [key for key in store.objects() if key[0] == "cache"]


def test_a_write_invalidates_the_caches_that_its_route_does_not_use(monkeypatch: pytest.MonkeyPatch) -> None:
    heard: list[tuple[str, bytes]] = []
    monkeypatch.setattr(Cache, "invalidate", lambda cache, x, outcome: heard.append((cache.name, x.method)))
    snapshot = compiled(UPSTREAMS, CACHED)
    assert snapshot.routes["d"].pipeline.admits == (), "it takes no unsafe methods"
    for route in "abcd":
        for method in (b"GET", b"PUT"):
            x = exchange(method, "/")
            done: list[Run[Any]] = []
            Run(snapshot.routes[route].pipeline(x), done.append)  # type: ignore[arg-type]
            assert done[0].error is None
    assert sorted(heard) == sorted(
        2 * [("default", b"PUT"), ("small", b"PUT")] + [("default", b"PUT"), ("small", b"PUT")]
    )


@pytest.mark.parametrize(("rest_method", "invalidates"), [(b"", False), (b"POST", True)])
def test_only_a_transcoded_call_of_grpc_invalidates_caches(
    monkeypatch: pytest.MonkeyPatch, rest_method: bytes, invalidates: bool
) -> None:
    heard: list[str] = []
    monkeypatch.setattr(Cache, "invalidate", lambda cache, x, outcome: heard.append(cache.name))
    x = exchange(b"POST", "/shop.Prices/Get")
    x.is_grpc, x.rest_method = True, rest_method
    done: list[Run[Any]] = []
    Run(compiled(UPSTREAMS, CACHED).routes["c"].pipeline(x), done.append)  # type: ignore[arg-type]
    assert done[0].error is None
    assert bool(heard) is invalidates


def test_a_cache_whose_library_is_missing_says_what_to_install(monkeypatch: pytest.MonkeyPatch) -> None:
    # another test may have loaded them
    for module in ("sidecar.cache.redis_tier", "sidecar.cache.redis_client", "sidecar.store.redis"):
        monkeypatch.delitem(sys.modules, module, raising=False)
    for module in ("redis", "redis.asyncio"):
        monkeypatch.setitem(sys.modules, module, None)
    with pytest.raises(
        CompileError, match=r"caches\.small\.redis: needs a library .* install resilience-sidecar\[redis\]"
    ):
        compiled(UPSTREAMS, CACHED.replace("memory: {max_size: 1MiB}", "redis: {url: 'redis://127.0.0.1'}"))


@pytest.mark.parametrize(
    ("block", "places"),
    [
        ("{max: 40}", 10),
        ("{adaptive: {min: 8, max: 100}}", 2),
        ("{adaptive: {min: 80, max: 100}, max: 20}", 5),
        ("{adaptive: {min: 400, max: 500}}", 64),
        ("{adaptive: {}}", 1),
    ],
)
@pytest.mark.parametrize("where", ["route", "upstream"])
def test_slow_requests_get_a_share_of_the_tightest_limit(where: str, block: str, places: int) -> None:
    own, shared = (f", concurrency: {block}" if where == each else "" for each in ("route", "upstream"))
    snapshot = compiled(
        f"upstreams: {{app: {{endpoints: ['http://127.0.0.1:9000']{shared}}}}}\n"
        f"routes: [{{name: r, upstream: app{own}}}]"
    )
    assert snapshot.routes["r"].slow_places.limit == places


def test_a_fallback_that_finds_no_permit_looks_for_one_at_the_other_upstream() -> None:
    snapshot = compiled(
        """
        upstreams:
          app: {endpoints: ["http://127.0.0.1:9000"]}
          other: {endpoints: ["http://127.0.0.1:9001"], concurrency: {max: 1}}
        routes: [{name: r, upstream: app, fallback: [{upstream: other}]}]
        """
    )
    script(snapshot, "app").script = [CONNECT_FAILURE]
    script(snapshot, "other").script = [response(200, stream=Body())]
    assert ask(snapshot, "r", deadline=1e9) == 200
    assert ask(snapshot, "r", deadline=1e9) >= 500
    asked = {name: cast("ScriptedUpstream", made).asked_to_make_way for name, made in snapshot.upstreams.items()}
    assert asked == {"app": 0, "other": 1}
