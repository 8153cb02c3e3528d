"""Tests of routes with candidates: splits over upstreams and canaries of policies, compiled and asked."""

from __future__ import annotations

from collections import Counter
from typing import Any

import pytest

from sidecar.config.files import Source
from sidecar.config.load import Loaded, load
from sidecar.control.compiler import Snapshot
from sidecar.control.state import StateStore
from sidecar.core.exchange import Exchange
from sidecar.core.outcome import CONNECT_FAILURE, Outcome
from sidecar.core.promise import Run
from sidecar.inspect.explain import explain_text
from tests.support.clock import FakeEnv, make_env
from tests.support.service import exchange
from tests.unit.config.policies import HEAD
from tests.unit.control.test_compiler import chain, compiled, script

UPSTREAMS = """\
upstreams:
  v1: {endpoints: ["http://127.0.0.1:9000"]}
  v2: {endpoints: ["http://127.0.0.1:9001"], policy: {retry: {max_attempts: 2, on: [5xx]}}}
"""
SPLIT = """\
routes:
  - name: shop
    upstream: {split: {v1: 80%, v2: 20%}, return_when: {errors: {worse_by_points: 1}}}
    circuit_breaker: {consecutive_failures: 5}
"""
CANARY = """\
routes:
  - name: shop
    upstream: v1
    timeout: {request: 3s}
    circuit_breaker: {consecutive_failures: 5}
    candidate: {share: 50%, timeout: {request: 1s}, circuit_breaker: off, concurrency: {max: 10}}
"""


def loading(*texts: str) -> Loaded:
    return load([Source("p.yaml", "".join([HEAD, *texts]).encode())], {})


def asked(snapshot: Snapshot, number: int, env: FakeEnv | None = None) -> Counter[str]:
    """Send requests to the listener, and return how many each route has got."""
    found: Counter[str] = Counter()
    for _ in range(number):
        x: Exchange = exchange("GET", "/")
        route = snapshot.listeners["inbound"].match(x)
        assert route is not None
        found[route.name] += 1
        done: list[Run[Outcome]] = []
        Run(route.pipeline(x), done.append)
        assert done[0].error is None
        if env is not None:
            env.advance(0.02)
    return found


def test_each_upstream_of_a_split_gets_its_share_under_the_policies_of_its_own_layers() -> None:
    snapshot = compiled(UPSTREAMS, SPLIT)
    found = asked(snapshot, 500)
    assert set(found) == {"shop", "shop@v2"}
    assert 60 < found["shop@v2"] < 140
    assert script(snapshot, "v2").calls == found["shop@v2"]
    assert chain(snapshot, "shop") == ["circuit_breaker"]
    assert chain(snapshot, "shop@v2") == ["retry", "circuit_breaker"]


def test_a_bad_candidate_opens_its_own_breaker_and_is_taken_back() -> None:
    env, store = make_env(seed=1), StateStore()
    snapshot = compiled(UPSTREAMS, SPLIT, env=env, store=store)
    script(snapshot, "v2").script = [CONNECT_FAILURE]
    asked(snapshot, 400, env)
    assert asked(snapshot, 100, env) == {"shop": 100}
    (candidate,) = store.describe()["rollout"]["shop"]["candidates"]
    assert candidate["returned"]["reason"]
    assert candidate["share"] == 0


def test_a_reload_keeps_the_return_unless_the_candidate_changes() -> None:
    env, store = make_env(seed=1), StateStore()
    snapshot = compiled(UPSTREAMS, SPLIT, env=env, store=store)
    script(snapshot, "v2").script = [CONNECT_FAILURE]
    asked(snapshot, 400, env)
    other = "  - {name: other, upstream: v1, match: {path: /other}}\n"
    assert asked(compiled(UPSTREAMS, SPLIT + other, env=env, store=store), 100, env) == {"shop": 100}
    changed = SPLIT.replace("failures: 5", "failures: 6")
    assert asked(compiled(UPSTREAMS, changed, env=env, store=store), 100, env)["shop@v2"] > 0


def test_a_canary_has_its_own_policies_over_those_of_the_route() -> None:
    snapshot = compiled(UPSTREAMS, CANARY)
    found = asked(snapshot, 200)
    assert 60 < found["shop@candidate"] < 140
    assert chain(snapshot, "shop") == ["timeout", "circuit_breaker"]
    assert chain(snapshot, "shop@candidate") == ["timeout", "concurrency"]
    assert {link.block.request for link in snapshot.routes["shop@candidate"].chain if link.policy == "timeout"} == {1.0}  # type: ignore[attr-defined]


def test_a_route_without_candidates_has_a_plain_router() -> None:
    snapshot = compiled(UPSTREAMS, "routes: [{name: r, upstream: v1}, {name: s, upstream: v2, match: {path: /s}}]")
    assert type(snapshot.listeners["inbound"]).__name__ == "Router"
    assert snapshot.routes["r"].stable is snapshot.routes["r"]


@pytest.mark.parametrize(
    ("route", "says"),
    [
        ("upstream: {split: {v1: 90%, v3: 10%}}", "names no upstream: there is no `v3`"),
        ("upstream: {split: {v1: 90%, v2: 11%}}", "101% together"),
        ("upstream: {split: {v1: 90%, v2: 10%}}, candidate: {share: 5%}", "stands beside a split"),
        ("upstream: v1, candidate: {share: 5%, timout: {request: 1s}}", "timout"),
        ("upstream: v1, candidate: {share: 5%, timeout: {request: 0s}}", "more than zero"),
        ("upstream: v1, candidate: {timeout: {request: 1s}}", "share"),
        ("upstream: {splt: {v1: 90%, v2: 10%}}", "splt"),
    ],
)
def test_errors_are_said_with_their_place(route: str, says: str) -> None:
    loaded = loading(UPSTREAMS, f"routes: [{{name: shop, {route}}}]")
    assert any(says in str(problem) for problem in loaded.problems), loaded.problems
    assert all(problem.line for problem in loaded.problems)


def test_an_upstream_of_a_split_is_used() -> None:
    assert not [each for each in loading(UPSTREAMS, SPLIT).warnings if "no route uses" in str(each)]


def test_explain_shows_the_shares_and_the_stable_arm() -> None:
    snapshot = compiled(UPSTREAMS, SPLIT)
    for _ in range(20):
        text: Any = explain_text(snapshot, "inbound", exchange("GET", "/"))
        assert "takes the route shop (" in text
    assert "20% of the requests meet shop@v2, to upstream v2" in text
    assert "taken back if errors are more by 1 points" in text


def test_a_candidate_of_a_route_with_parts_has_parts_of_its_own() -> None:
    snapshot = compiled(
        UPSTREAMS,
        "routes: [{name: shop, aggregate: {parts: {a: {upstream: v1, path: /a}}},",
        " candidate: {share: 50%, aggregate: {parts: {a: {upstream: v2}}}}}]",
    )
    assert snapshot.routes["shop:a"].spec.upstream == "v1"
    assert snapshot.routes["shop@candidate:a"].spec.upstream == "v2"
    assert snapshot.routes["shop@candidate"].spec.parts == {"a": "shop@candidate:a"}


WARNED = [
    ("timeout: {request: 1s, attempt: 2s}", "timeout.attempt", "has no effect: timeout.request (1s) ends first"),
    ("hedge: {after: 3s}, timeout: {request: 1s}", "hedge.after", "never hedges"),
    ("rate_limit: [{name: a, rate: 5/s, burst: 0}]", "rate_limit.a.burst", "refuses the second of two requests"),
    ("cache: {max_body: 900MiB}", "cache.max_body", "is more than the whole cache `default` holds"),
    ("criticality: {by_caller: {x: critical}}", "criticality.by_caller", "has no effect without authenticate"),
    ("mirror: {upstream: v1}", "mirror.upstream", "copies requests to `v1`, which gets them already"),
    ("fallback: [stale]", "fallback[0]", "never finds a response"),
    ("timeout: {request: 1s}, aggregate: off", "", ""),
]
REFUSED = [
    ("transform: {request: {path: '/x/{path.id}'}}", "{path.id}, which the route `shop@candidate` does not capture"),
    ("rate_limit: [{name: a, rate: 5/s, key: path.id}]", "path.id"),
    ("mirror: {upstream: v9}", "names no upstream: there is no `v9`"),
    ("cache: {store: c9}", "names no cache: there is no `c9`"),
    ("authenticate: {any_of: [someone]}", "names no identity: there is no `someone`"),
    ("fallback: [{upstream: v9}]", "names no upstream: there is no `v9`"),
    ("authorize: [{allow: {when: 'path.id == caller.id'}}]", "names the capture id"),
]


@pytest.mark.parametrize(("blocks", "path", "says"), WARNED)
def test_the_policies_of_a_candidate_are_warned_of_as_those_of_a_route(blocks: str, path: str, says: str) -> None:
    route = f"routes: [{{name: shop, upstream: v1, candidate: {{share: 5%, {blocks}}}}}]\n"
    found = [str(each) for each in loading(UPSTREAMS, route).warnings if "upstreams.v2" not in str(each)]
    assert len(found) == (1 if says else 0), found
    if says:
        assert f"routes.shop.candidate.{path}: {says}" in found[0]


@pytest.mark.parametrize(("blocks", "says"), REFUSED)
def test_the_policies_of_a_candidate_are_refused_as_those_of_a_route(blocks: str, says: str) -> None:
    route = f"routes: [{{name: shop, upstream: v1, candidate: {{share: 5%, {blocks}}}}}]\n"
    found = [str(each) for each in loading(UPSTREAMS, route).problems]
    assert found
    assert all("routes.shop.candidate." in each for each in found)
    assert says in found[0]


def test_what_both_arms_inherit_is_warned_of_once() -> None:
    route = "routes: [{name: shop, upstream: v1, hedge: {after: 3s}, timeout: {request: 1s}, candidate: {share: 5%}}]\n"
    assert len([each for each in loading(UPSTREAMS, route).warnings if "never hedges" in each.message]) == 1


APART = """\
routes:
  - name: shop
    upstream: v1
    circuit_breaker: {consecutive_failures: 5}
    retry: {max_attempts: 3}
    concurrency: {max: 5}
    cache: {ttl: 30s}
    rate_limit: [{name: a, rate: 5/s}]
    mirror: {upstream: v2}
    candidate: {share: 50%, retry: {max_attempts: 5}}
"""


def test_the_state_of_the_arms_is_apart() -> None:
    store = StateStore()
    compiled(UPSTREAMS, APART, store=store)
    keys = set(store.objects())
    for stable, candidate in (
        (("breaker", "route", "shop"), ("breaker", "route", "shop@candidate")),
        (("concurrency", "route", "shop"), ("concurrency", "route", "shop@candidate")),
        (("retry_budget", "v1"), ("retry_budget", "v1", "shop@candidate")),
        (("mirror", "shop"), ("mirror", "shop@candidate")),
    ):
        assert {stable, candidate} <= keys, keys
    assert len([key for key in keys if key[0] == "cache" and key[-1] != "default"]) % 2 == 0, keys


@pytest.mark.parametrize(
    ("candidate", "owners"),
    [
        ("upstream: {split: {v1: 50%, v2: 50%}}", {"shop"}),
        ("upstream: v1, candidate: {share: 50%, timeout: {request: 1s}}", {"shop"}),
        ("upstream: v1, candidate: {share: 50%, BLOCK: [LIMIT, OTHER]}", {"shop", "shop@candidate"}),
        ("upstream: v1, candidate: {mode: observe, BLOCK: [LIMIT, OTHER]}", {"shop", "shop@candidate"}),
    ],
)
@pytest.mark.parametrize(
    ("block", "limit", "other"),
    [
        ("rate_limit", "{name: a, rate: 5/s}", "{name: b, rate: 5/m}"),
        ("quota", "{name: a, max: 5, per: day}", "{name: b, max: 5, per: hour}"),
    ],
)
def test_equal_limits_of_callers_are_one_count_for_all_arms(
    block: str, limit: str, other: str, candidate: str, owners: set[str]
) -> None:
    own = candidate.replace("BLOCK", block).replace("LIMIT", limit).replace("OTHER", other)
    store = StateStore()
    compiled(UPSTREAMS, f"routes: [{{name: shop, {block}: [{limit}], {own}}}]\n", store=store)
    assert {key[2] for key in store.objects() if key[0] == block} == owners


def test_a_candidate_that_retries_spends_a_budget_of_its_own() -> None:
    env, store = make_env(seed=1), StateStore()
    snapshot = compiled(UPSTREAMS, APART, env=env, store=store)
    budgets = {key: each for key, each in store.objects().items() if key[0] == "retry_budget"}
    mine, other = budgets["retry_budget", "v1", "shop@candidate"], budgets["retry_budget", "v1"]
    full = other.tokens
    while mine.withdraw():
        pass
    assert other.tokens == full
    assert snapshot.routes["shop@candidate"].spec.upstream == "v1"


def test_the_cache_of_an_arm_serves_the_other_arm_nothing() -> None:
    snapshot = compiled(UPSTREAMS, APART)
    rules = {name: next(link.stage for link in snapshot.routes[name].chain if link.policy == "cache")
             for name in ("shop", "shop@candidate")}  # fmt: skip
    for name in rules:
        x: Exchange = exchange("GET", "/")
        done: list[Run[Outcome]] = []
        Run(snapshot.routes[name].pipeline(x), done.append)
    assert script(snapshot, "v1").calls == 2, "the second arm has fetched for itself"


def test_a_write_through_one_arm_invalidates_the_cache_of_the_other() -> None:
    route = "routes: [{name: shop, upstream: v1, cache: {ttl: 30s}, candidate: {share: 50%, concurrency: {max: 9}}}]\n"
    snapshot = compiled(UPSTREAMS, route)

    def ask(arm: str, method: str) -> int:
        before = script(snapshot, "v1").calls
        done: list[Run[Outcome]] = []
        Run(snapshot.routes[arm].pipeline(exchange(method, "/a")), done.append)
        return script(snapshot, "v1").calls - before

    assert [ask("shop", "GET"), ask("shop", "GET")] == [1, 0]
    ask("shop@candidate", "POST")
    assert ask("shop", "GET") == 1


def test_arms_that_a_reload_replaces_have_no_share_and_new_ones_are_measured() -> None:
    env, store = make_env(seed=1), StateStore()
    third = UPSTREAMS + '  v3: {endpoints: ["http://127.0.0.1:9002"]}\n'

    def split(shares: str) -> str:
        return f"routes:\n  - {{name: shop, upstream: {{split: {{{shares}}}}}}}\n"

    compiled(third, split("v1: 70%, v2: 20%, v3: 10%"), env=env, store=store)
    compiled(third, split("v1: 60%, v3: 40%"), env=env, store=store)
    arms = store.objects()["rollout", "shop"]
    names = ("shop", "shop@v2", "shop@v3")
    assert [arms.share_of(name) for name in names] == [0.6, 0.0, 0.4]
    compiled(third, split("v1: 90%, v2: 10%"), env=env, store=store)
    assert [arms.share_of(name) for name in names] == [0.9, 0.1, 0.0]


def test_a_ramp_goes_on_through_a_reload_of_something_else() -> None:
    env, store = make_env(seed=1), StateStore()
    ramp = "routes:\n  - {name: shop, upstream: {split: {v1: 100%, v2: 0%}, ramp: {to: 100%, over: 10m}}}\n"
    compiled(UPSTREAMS, ramp, env=env, store=store)
    arms = store.objects()["rollout", "shop"]
    env.advance(300)
    other = "  - {name: other, upstream: v1, match: {path: /other}}\n"
    compiled(UPSTREAMS, ramp + other, env=env, store=store)
    assert store.objects()["rollout", "shop"] is arms
    assert arms.share(1) == pytest.approx(0.5)
    env.advance(300)
    assert arms.share(1) == 1


OBSERVED = """\
routes:
  - name: shop
    upstream: v1
    circuit_breaker: {consecutive_failures: 100, open_for: 1m}
    candidate:
      mode: observe
      circuit_breaker: {consecutive_failures: 3}
      rate_limit: [{name: all, rate: 1/h, burst: 5}]
"""


def test_a_whole_set_of_policies_observes_beside_those_of_the_route() -> None:
    env, store = make_env(), StateStore()
    snapshot = compiled(UPSTREAMS, OBSERVED, env=env, store=store)
    script(snapshot, "v1").script = [CONNECT_FAILURE]

    assert asked(snapshot, 10) == {"shop": 10}
    assert script(snapshot, "v1").calls == 10
    assert [*snapshot.routes] == ["shop"]
    assert [(link.policy, link.scope) for link in snapshot.routes["shop"].observed] == [
        ("rate_limit", "candidate"),
        ("circuit_breaker", "candidate"),
    ]
    refused = {
        policy: env.meter.value("sidecar.observed.refusals", route="shop@candidate", policy=policy)
        for policy in ("rate_limit", "circuit_breaker")
    }
    assert refused == {"rate_limit": 4, "circuit_breaker": 7}
    assert env.meter.value("sidecar.observed.refusals", route="shop") == 0
    breakers = store.describe()["breaker"]
    assert [breakers[f"route:{name}"]["state"] for name in ("shop", "shop@candidate")] == ["closed", "open"]
    assert snapshot.routes["shop"].observed[1].block.open_for == 60, "merged over the block of the route"  # type: ignore[attr-defined]


@pytest.mark.parametrize(
    ("candidate", "says"),
    [
        ("{timeout: {request: 1s}}", "needs a share, such as share: 5%, or mode: observe to count only"),
        ("{mode: observe, share: 5%, timeout: {}}", "has mode: observe, which sees every request, and share"),
        ("{mode: observe, ramp: {to: 10%, over: 1h}, timeout: {}}", "which sees every request, and ramp"),
        ("{mode: observe}", "has no policies to observe; write them beside `mode`"),
        ("{mode: observe, criticality: sheddable}", "criticality: cannot be observed beside that of the route"),
        ("{mode: observe, authenticate: off}", "authenticate: cannot be observed beside that of the route"),
    ],
)
def test_what_an_observed_candidate_cannot_have_is_said(candidate: str, says: str) -> None:
    problems = loading(UPSTREAMS, f"routes: [{{name: shop, upstream: v1, candidate: {candidate}}}]\n").problems
    assert says in "\n".join(map(str, problems))


SPLIT_OF = "upstream: {{split: {{v1: {0}, v2: {1}}}, {2}}}"


@pytest.mark.parametrize(
    ("route", "says"),
    [
        (SPLIT_OF.format("100%", "0%", "when: 'true'"), "upstream.split.v2: gets no requests; write such as 5%"),
        (SPLIT_OF.format("0%", "100%", "return_when: {}"), "return_when: compares with the stable arm, which gets no"),
        (SPLIT_OF.format("50%", "50%", "return_when: {breaker: false}"), "return_when: takes nothing back"),
        (
            SPLIT_OF.format("95%", "5%", "return_when: {}, ramp: {to: 5%, over: 1m}"),
            "ramp.to: is the share at the start, so the ramp changes nothing",
        ),
        ("upstream: v1, candidate: {share: 5%}", "candidate: has the same policies as the route itself"),
        ("upstream: v1, candidate: {share: 0%, timeout: {request: 1s}}", "candidate.share: gets no requests"),
        ("upstream: v1, mirror: {upstream: v2, share: 0%}", "mirror.share: copies nothing; write such as 10%, or off"),
    ],
)
def test_a_rollout_that_does_nothing_is_warned_of(route: str, says: str) -> None:
    found = [str(each) for each in loading(UPSTREAMS, f"routes: [{{name: shop, {route}}}]\n").warnings]
    (warning,) = [each for each in found if "routes.shop" in each]
    assert says in warning


@pytest.mark.parametrize("key", ["header: x user", "header: ''", "cookie: 'a;b'", "cookie: ''"])
def test_a_key_that_no_request_can_have_is_refused(key: str) -> None:
    route = f"routes: [{{name: shop, {SPLIT_OF.format('95%', '5%', 'sticky: {' + key + '}')}}}]\n"
    (problem,) = [str(each) for each in loading(UPSTREAMS, route).problems]
    assert "which no header field and no cookie can have as its name" in problem


def test_an_observed_candidate_without_a_policy_is_warned_of() -> None:
    route = "routes: [{name: shop, upstream: v1, retry: {}, candidate: {mode: observe, retry: off}}]\n"
    (warning,) = [str(each) for each in loading(UPSTREAMS, route).warnings if "shop" in str(each)]
    assert "routes.shop.candidate.retry: is off, which mode: observe does not show" in warning


def test_explain_says_what_an_observed_candidate_counts() -> None:
    text = explain_text(compiled(UPSTREAMS, OBSERVED), "inbound", exchange("GET", "/"))
    assert (
        "shop@candidate gets no requests; it counts what it would do to those of shop: rate_limit, circuit_breaker"
        in text
    )
