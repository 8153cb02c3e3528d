"""Tests of the directory `candidate`: a second set of policies that a share of the requests meets."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable
from math import log
from pathlib import Path
from typing import Any

import pytest

from sidecar.config import files
from sidecar.config.files import Source
from sidecar.config.load import Loaded, load
from sidecar.control.compiler import Snapshot, compile_policies
from sidecar.control.state import StateStore
from sidecar.control.watch import fingerprint
from sidecar.inspect.explain import explain_text
from sidecar.lint.run import find
from tests.support.clock import make_env
from tests.support.service import exchange
from tests.unit.config.policies import HEAD, ScriptedUpstream

SHARE = "candidate: {share: 50%, sticky: {header: x-user}, return_when: {errors: {worse_by_points: 1}}}\n"
UPSTREAMS = """\
upstreams:
  app: {endpoints: ["http://127.0.0.1:9000"]}
  other: {endpoints: ["http://127.0.0.1:9001"]}
"""
ROUTES = """\
routes:
  - {name: shop, match: {path: /shop}, upstream: app, timeout: {request: 3s}, circuit_breaker: {min_calls: 9}}
  - {name: home, match: {path: /home}, upstream: other, cache: {ttl: 5s}}
"""
PARTS = """\
routes:
  - name: page
    match: {path: /page}
    aggregate: {parts: {user: {upstream: other, path: /user}, orders: {route: orders, path: /orders}}}
  - {name: orders, listener: none, match: {path: /orders}, upstream: app, timeout: {request: 1s}}
"""


def loading(stable: str, tried: str) -> Loaded:
    sources = (("policies/a.yaml", stable), ("policies/candidate/a.yaml", tried))
    return load([Source(name, (HEAD + text).encode()) for name, text in sources], {})


def compiled(stable: str, tried: str, store: StateStore | None = None) -> Snapshot:
    loaded = loading(SHARE + stable, tried)
    assert loaded.problems == []
    assert loaded.spec is not None
    store = store or StateStore()
    lease = store.lease()
    snapshot = compile_policies(loaded.spec, make_env(), lease, make=ScriptedUpstream)
    store.retire(store.commit(lease))
    return snapshot


def test_a_route_that_differs_has_a_candidate_and_one_that_does_not_has_none() -> None:
    found = compiled(UPSTREAMS + ROUTES, UPSTREAMS + ROUTES.replace("request: 3s", "request: 1s"))
    assert list(found.routes) == ["shop", "shop@candidate", "home"]
    assert [found.routes[name].spec.blocks["timeout"].request for name in ("shop", "shop@candidate")] == [3.0, 1.0]
    assert found.routes["shop@candidate"].spec.where("timeout").file == "policies/candidate/a.yaml"
    met: Counter[str] = Counter()
    for number in range(400):
        route = found.listeners["inbound"].match(exchange("GET", "/shop", [(b"x-user", b"%d" % number)]))
        assert route is not None
        met[route.name] += 1
    assert 150 < met["shop@candidate"] < 250
    assert "50% of the requests meet shop@candidate" in explain_text(found, "inbound", exchange("GET", "/shop"))


def test_a_user_meets_the_candidates_of_all_routes_or_of_none() -> None:
    tried = ROUTES.replace("request: 3s", "request: 1s").replace("ttl: 5s", "ttl: 9s")
    listener = compiled(UPSTREAMS + ROUTES, UPSTREAMS + tried).listeners["inbound"]
    for number in range(100):
        fields = [(b"x-user", b"%d" % number)]
        first, second = (listener.match(exchange("GET", path, fields)) for path in ("/shop", "/home"))
        assert first is not None
        assert second is not None
        assert first.name.endswith("@candidate") is second.name.endswith("@candidate")


def thresholds(store: StateStore) -> list[float]:
    """Return the evidence that takes a candidate back, of each rollout."""
    found = [each.describe()["candidates"] for key, each in store.objects().items() if key[0] == "rollout"]
    return [each["errors"]["threshold"] for candidates in found for each in candidates]


def test_routes_of_one_candidate_share_the_probability_of_a_false_return() -> None:
    tried, stores = ROUTES.replace("request: 3s", "request: 1s"), [StateStore(), StateStore()]
    compiled(UPSTREAMS + ROUTES, UPSTREAMS + tried, stores[0])
    compiled(UPSTREAMS + ROUTES, UPSTREAMS + tried.replace("ttl: 5s", "ttl: 9s"), stores[1])
    ((alone,), both) = map(thresholds, stores)
    assert both == [pytest.approx(alone + log(2), abs=0.011)] * 2


def test_an_upstream_or_a_cache_that_differs_is_one_of_its_own() -> None:
    store, caches = StateStore(), "caches: {default: {memory: {max_size: %s}}}\n"
    tried = UPSTREAMS.replace("9000", "9009").replace('9001"]', '9001"], circuit_breaker: {consecutive_failures: 9}')
    found = compiled(UPSTREAMS + ROUTES + caches % "8MiB", tried + ROUTES + caches % "9MiB", store)
    assert list(found.upstreams) == ["app", "other", "app@candidate", "other@candidate"]
    assert {name: each.spec.upstream for name, each in found.routes.items()} == {
        "shop": "app", "shop@candidate": "app@candidate", "home": "other", "home@candidate": "other@candidate",
    }  # fmt: skip
    keys = set(store.objects())
    assert {("slow_places", "app"), ("slow_places", "app@candidate")} <= keys, keys
    assert {("breaker", "upstream", "other@candidate"), ("breaker", "route", "shop@candidate")} <= keys, keys
    assert {("cache", "default"), ("cache", "default@candidate")} <= keys, keys
    assert found.spec.where("upstreams", "app@candidate", "endpoints").file == "policies/candidate/a.yaml"


def test_what_is_equal_is_shared_by_both_arms() -> None:
    found = compiled(UPSTREAMS + ROUTES, UPSTREAMS + ROUTES.replace("request: 3s", "request: 1s"))
    assert list(found.upstreams) == ["app", "other"]


@pytest.mark.parametrize(
    ("block", "reads"),
    [
        ("fallback: [stale, {upstream: app}]", lambda block: block.steps[1].upstream),
        ("mirror: {upstream: app}", lambda block: block.upstream),
    ],
)
def test_blocks_name_the_upstreams_of_their_own_set(block: str, reads: Callable[[Any], str]) -> None:
    routes = f"routes: [{{name: shop, upstream: other, cache: {{ttl: 5s}}, {block}}}]\n"
    found = compiled(UPSTREAMS + routes, UPSTREAMS.replace("9000", "9009") + routes)
    kind = block.partition(":")[0]
    assert [reads(found.routes[name].spec.blocks[kind]) for name in found.routes] == ["app", "app@candidate"]


def test_parts_of_a_candidate_are_those_of_its_own_set() -> None:
    found = compiled(UPSTREAMS + PARTS, UPSTREAMS + PARTS.replace("request: 1s", "request: 2s"))
    page, tried = (found.routes[name].spec for name in ("page", "page@candidate"))
    assert dict(page.parts) == {"user": "page:user", "orders": "orders"}
    assert dict(tried.parts) == {"user": "page@candidate:user", "orders": "orders@candidate"}
    assert set(tried.parts.values()) <= set(found.routes)
    assert found.routes["orders"].spec.arms == (), "no part of the stable arm meets the candidate"


def test_an_observed_set_counts_only() -> None:
    tried = ROUTES.replace("request: 3s", "request: 1s")
    loaded = loading("candidate: {mode: observe}\n" + UPSTREAMS + ROUTES, UPSTREAMS.replace("9001", "9009") + tried)
    assert loaded.spec is not None
    shop, home = loaded.spec.routes
    assert (shop.arms[0].observes, shop.is_observed) == (("timeout",), True)
    assert [each.message for each in loaded.warnings if "observe" in each.message] == [
        "differs in upstream, which mode: observe does not show; a share of the requests would"
    ]
    assert home.arms == (), "its upstream alone differs"
    assert list(loaded.spec.upstreams) == ["app", "other"], "an observed set has no upstreams of its own"
    assert shop.arms[0].upstream == "app"


@pytest.mark.parametrize(
    ("stable", "tried", "says"),
    [
        (SHARE + ROUTES, ROUTES.replace("name: home", "name: house"),
         "policies/candidate/a.yaml:9:5: routes.house: is no route of the policies in force; add it there"),
        (SHARE + ROUTES, ROUTES.replace("name: home", "name: house"),
         "policies/a.yaml:10:5: routes.home: is missing in the directory `candidate`; add the route there"),
        (SHARE + ROUTES, ROUTES.replace("path: /home", "path: /house"), "has another `match` than the route in force"),
        (SHARE + ROUTES, "limits: {max_connections: 5}\n" + ROUTES, "limits: differs from that of the policies"),
        (ROUTES, ROUTES, "has no share of the requests; add such as `candidate: {share: 5%}`"),
        (SHARE + ROUTES, SHARE + ROUTES, "belongs to the policies beside the directory"),
        ("candidate: {ramp: {to: 5%, over: 1m}}\n" + ROUTES, ROUTES, "candidate: needs a share"),
        (SHARE + ROUTES, ROUTES.replace("upstream: app", "upstream: {split: {app: 50%, other: 50%}}"),
         "has a rollout of its own"),
    ],
)  # fmt: skip
def test_errors_are_said_with_their_place(stable: str, tried: str, says: str) -> None:
    problems = loading(UPSTREAMS + stable, UPSTREAMS + tried).problems
    assert any(says in str(each) for each in problems), problems


def test_a_share_without_the_directory_is_refused() -> None:
    loaded = load([Source("policies/a.yaml", (HEAD + SHARE + UPSTREAMS + ROUTES).encode())], {})
    assert ["candidate: has no policies; put a whole set" in str(each) for each in loaded.problems] == [True]


def test_an_equal_set_is_warned_of() -> None:
    loaded = loading(SHARE + UPSTREAMS + ROUTES, UPSTREAMS + ROUTES)
    assert ["candidate: has no effect" in str(each) for each in loaded.warnings] == [True]


def test_the_files_of_the_directory_are_read_and_watched(tmp_path: Path) -> None:
    second = tmp_path / "candidate"
    (tmp_path / "a.yaml").write_text(HEAD + SHARE + UPSTREAMS + ROUTES)
    second.mkdir()
    (second / "a.yaml").write_text(HEAD + UPSTREAMS + ROUTES)
    (second / "a.test.yaml").write_text("no policies")
    first, other = files.split(files.read(str(tmp_path)))
    assert [[each.name for each in one] for one in (first, other)] == [
        [str(tmp_path / "a.yaml")],
        [str(second / "a.yaml")],
    ]
    alone = files.split(files.read(str(second)))
    assert [len(each) for each in alone] == [1, 0], "a set that is checked by itself is no candidate"
    before = fingerprint(str(tmp_path))
    (second / "a.yaml").write_text(HEAD + UPSTREAMS + ROUTES.replace("request: 3s", "request: 1s"))
    assert fingerprint(str(tmp_path)) != before


def test_lint_shows_the_place_of_the_share() -> None:
    ramp = "candidate: {share: 5%, ramp: {to: 100%, over: 1m}}\n"
    whole = loading(ramp + UPSTREAMS + ROUTES, UPSTREAMS + ROUTES.replace("request: 3s", "request: 1s"))
    route = ROUTES.replace(
        "request: 3s}", "request: 3s}, candidate: {share: 5%, ramp: {to: 100%, over: 1m}, hedge: {after: 1s}}"
    )
    alone = load([Source("policies/a.yaml", (HEAD + UPSTREAMS + route).encode())], {})
    places = []
    for loaded in (whole, alone):
        assert loaded.spec is not None
        places.append([each.problem.path for each in find(loaded.spec) if each.rule == "R090"])
    assert places == [["candidate.ramp"], ["routes.shop.candidate.ramp"]]
