"""Tests of the router, compared with a matcher that tries every rule."""

from __future__ import annotations

import re
from itertools import combinations
from typing import Any
from urllib.parse import parse_qsl

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from sidecar.core import uri
from sidecar.core.exchange import Exchange
from sidecar.routing.match_spec import MatchSpec
from sidecar.routing.router import MAX_CACHED_HOSTS, Router, host_names, neighbours, ties
from sidecar.routing.rule import Rule
from tests.support.service import exchange


def router(*matches: dict[str, Any], **named: dict[str, Any]) -> Router[str]:
    everything = {f"{number}": match for number, match in enumerate(matches)} | named
    rules = [Rule(MatchSpec(**match), name) for name, match in everything.items()]
    assert not list(ties(rules))
    return Router(rules)


def test_the_most_specific_wins_whatever_the_order() -> None:
    matches: dict[str, dict[str, Any]] = {
        "all": {},
        "pattern": {"path_regex": "/orders/[0-9]+/.*"},
        "below": {"path_prefix": "/orders"},
        "deeper": {"path_prefix": "/orders/new"},
        "one": {"path": "/orders/{id}"},
        "part": {"path": "/orders/{id}/parts/{part}"},
        "first part": {"path": "/orders/{id}/parts/1"},
        "newest": {"path": "/orders/new"},
        "write": {"path": "/orders/{id}", "methods": ["PUT", "DELETE"]},
        "gold": {"path": "/orders/{id}", "methods": ["PUT"], "headers": {"x-tier": "gold"}},
    }
    for named in (matches, dict(reversed(matches.items()))):
        route = router(**named)
        assert route.match(exchange("GET", "/")) == "all"
        assert route.match(exchange("GET", "/ordersx")) == "all"
        assert route.match(exchange("OPTIONS", "*")) == "all"
        assert route.match(exchange("GET", "/orders")) == "below"
        assert route.match(exchange("GET", "/orders/")) == "below"
        assert route.match(exchange("GET", "/orders/1/x")) == "below"
        assert route.match(exchange("GET", "/orders/new/x")) == "deeper"
        assert route.match(exchange("GET", "/orders/new")) == "newest"
        assert route.match(exchange("GET", "/orders/17")) == "one"
        assert route.match(exchange("PUT", "/orders/17")) == "write"
        assert route.match(exchange("PUT", "/orders/17", {"X-Tier": "gold"})) == "gold"
        assert route.match(exchange("GET", "/orders/1/parts/2")) == "part"
        assert route.match(exchange("GET", "/orders/1/parts/1")) == "first part"


def test_captures_are_decoded_and_set_only_by_a_match() -> None:
    route = router({"path": "/orders/{id}/{part}", "methods": ["GET"]}, {"path_regex": "/v(?P<version>[0-9]+)/.*"})
    x = exchange("GET", "/orders/a%20b/caf%c3%a9")
    assert route.match(x) == "0"
    assert x.captures == {"id": "a b", "part": "café"}
    x = exchange("GET", "/v2/x")
    assert route.match(x) == "1"
    assert x.captures == {"version": "2"}
    x = exchange("POST", "/orders/1/2")
    assert route.match(x) is None
    assert x.captures == {}


def test_captures_are_those_of_the_path_that_was_matched() -> None:
    x = exchange("GET", "/orders/17")
    assert router({"path": "/orders/{id}"}).match(x) == "0"
    twin = x.fork(2, "retry")
    x.path = twin.path = b"/elsewhere"
    assert (x.captures, twin.captures) == ({"id": "17"}, {"id": "17"})


@pytest.mark.parametrize("leaf", ["17", "a-b_c~d", "a.b", "a..b", "0b5c…", "x" * 1000])
def test_a_last_segment_that_all_read_alike_is_captured(leaf: str) -> None:
    route = router({"path": "/v1.0/orders/{id}"}, below={"path_prefix": "/v1.0"})
    x = exchange("GET", f"/v1.0/orders/{leaf}")
    assert route.match(x) == "0"
    assert x.captures == {"id": leaf}


@pytest.mark.parametrize("leaf", [".", "..", "%2e", "..;x", "%2E%2e", "\\..\\", "%00"])
def test_a_dot_segment_or_a_nul_at_the_end_matches_nothing(leaf: str) -> None:
    route = router({"path": "/orders/{id}"}, below={"path_prefix": "/orders"}, all={})
    assert route.match(exchange("GET", f"/orders/{leaf}")) is None


def test_what_is_no_path_has_no_segments() -> None:
    route = router({"path": "/reports"}, {"path": "/{id}"})
    assert route.match(exchange("OPTIONS", "*")) is None
    assert route.match(exchange("GET", "reports")) is None
    assert route.match(exchange("GET", "/")) is None


def test_a_template_with_a_literal_at_the_end_comes_first_where_it_says_more() -> None:
    route = router({"path": "/{kind}/new", "methods": ["GET"]}, {"path": "/orders/{id}"})
    assert route.match(exchange("GET", "/orders/new")) == "0"
    assert route.match(exchange("PUT", "/orders/new")) == "1"
    assert route.match(exchange("GET", "/orders/7")) == "1"


def test_a_pattern_is_less_than_a_prefix_and_more_than_all() -> None:
    route = router(all={"path_prefix": "/"}, json={"path_regex": r".*\.json"}, files={"path_prefix": "/files"})
    assert route.match(exchange("GET", "/x.json")) == "json"
    assert route.match(exchange("GET", "/files/x.json")) == "files"
    assert route.match(exchange("GET", "/x")) == "all"


def test_a_path_too_long_for_a_pattern_is_not_left_to_what_is_less_specific() -> None:
    route = router(all={}, json={"path_regex": r".*\.json"}, files={"path_prefix": "/files"})
    assert route.match(exchange("GET", "/" + "x" * 2000)) is None
    assert route.match(exchange("GET", "/files/" + "x" * 2000)) == "files"
    assert router(all={}).match(exchange("GET", "/" + "x" * 2000)) == "all"


@pytest.mark.parametrize(
    "path",
    [
        "/%61dmin/x", "/admin/x", "//admin/x", "/admin//x", "/%2Fadmin/x", "/admin%2Fx", "/admin;v=1/x", "/%2561dmin/x",
        "/\\admin/x", "/%5Cadmin/x", "/public/..%2Fadmin", "/public/%2e%2e/admin", "/public/..;/admin",
        "/public/%252e%252e/admin", "/public\\..\\admin", "/;/admin/x", "/%252Fadmin/x", "/public/../admin",
    ],
)  # fmt: skip
def test_no_spelling_gets_past_a_rule(path: str) -> None:
    route = router(public={"path_prefix": "/"}, admin={"path_prefix": "/admin"})
    assert route.match(exchange("GET", path)) in ("admin", None)


def test_ambiguous_paths_match_if_every_reading_leads_to_the_same_route() -> None:
    route = router(objects={"path_prefix": "/bucket"}, rest={"path_prefix": "/"})
    for path in ("/bucket/a%2Fb", "/bucket//a", "/bucket/a;v=1", "/bucket/100%25", "/bucket/a%5Cb/"):
        assert route.match(exchange("GET", path)) == "objects"
    assert route.match(exchange("GET", "/x//y%2Fz")) == "rest"
    only = router(project={"path": "/projects/{id}"}, below={"path_prefix": "/projects"})
    assert only.match(exchange("GET", "/projects/group%2Fname")) is None
    assert only.match(exchange("GET", "/projects/%7Ename;v=1")) == "project"


def test_405_knows_the_methods() -> None:
    route = router(
        {"path": "/orders/{id}", "methods": ["GET", "HEAD"]},
        {"path": "/orders/{id}", "methods": ["PUT"], "headers": {"x-tier": "gold"}},
        {"path_prefix": "/orders", "methods": ["POST"]},
        {"host": "a.example", "methods": ["PATCH"]},
    )
    assert route.match(exchange("DELETE", "/orders/1")) is None
    assert route.allowed(exchange("DELETE", "/orders/1")) == [b"GET", b"HEAD", b"POST"]
    assert route.allowed(exchange("DELETE", "/orders/1", {"x-tier": "gold"})) == [b"GET", b"HEAD", b"POST", b"PUT"]
    assert route.allowed(exchange("DELETE", "/orders/1", authority=b"a.example:8080")) == [
        b"GET", b"HEAD", b"PATCH", b"POST",
    ]  # fmt: skip
    assert route.allowed(exchange("DELETE", "/x")) == []
    assert route.allowed(exchange("DELETE", "/orders/..%2Fx")) == []


def test_hosts() -> None:
    route = router(
        port={"host": "API.example.com:8443"},
        api={"host": "api.example.com"},
        deep={"host": "*.b.example.com"},
        wild={"host": "*.example.com"},
        v6={"host": "[::1]"},
        any={},
    )

    def to(authority: bytes, scheme: bytes = b"http") -> str | None:
        return route.match(exchange("GET", "/", authority=authority, scheme=scheme))

    assert to(b"api.example.com") == "api"
    assert to(b"API.EXAMPLE.com.:80") == "api"
    assert to(b"api.example.com:9000") == "api"
    assert to(b"api.example.com:8443") == "port"
    assert to(b"x.example.com") == to(b"x.y.example.com:1") == "wild"
    assert to(b"x.b.example.com") == "deep"
    assert to(b"b.example.com") == "wild"
    assert to(b"example.com") == "any"
    assert to(b"notexample.com") == "any"
    assert to(b"[::1]:8080") == to(b"[::1]") == "v6"
    assert to(b"") == "any"
    assert to(b".example.com") == "any"


def test_a_port_in_a_rule_is_the_default_port_of_a_request_without_one() -> None:
    route = router(secure={"host": "a.example:443"}, other={"host": "a.example"})
    assert route.match(exchange("GET", "/", authority=b"a.example", scheme=b"https")) == "secure"
    assert route.match(exchange("GET", "/", authority=b"a.example:0443", scheme=b"http")) == "secure"
    assert route.match(exchange("GET", "/", authority=b"a.example", scheme=b"http")) == "other"
    assert host_names(b"http", b"A.b.:") == [b"a.b:80", b"a.b", b".b"]


def test_a_less_specific_host_stands_in_where_the_other_has_no_route_for_the_path() -> None:
    route = router(api={"host": "api.example.com", "path_prefix": "/api"}, rest={"path_prefix": "/"})
    assert route.match(exchange("GET", "/x", authority=b"api.example.com")) == "rest"


def test_hosts_that_clients_invent_take_no_memory() -> None:
    route = router({"host": "*.example.com"})
    for number in range(3 * MAX_CACHED_HOSTS):
        assert route.match(exchange("GET", "/", authority=b"h%d.example.com" % number)) == "0"
    assert len(route._cached) <= MAX_CACHED_HOSTS
    assert route.match(exchange("GET", "/", authority=b"a." * 10_000 + b"example.com")) is None
    assert max(len(authority) for _, authority in route._cached) < 300


# ----- against a matcher that asks every rule

SEGMENT = st.sampled_from(["a", "b", "c", "c.d"])
SPECIAL_STATUSES = st.sampled_from(
    ["a", "b", "c", "c.d", ".", "..", ".e", "%61", "a%2Fb", "a;x", "", "b%252Fc", "a%5Cb", "%25", "d"]
)
HOSTS = [None, "a.x", "b.x", "*.x", "*.a.x", "a.x:81"]
AUTHORITIES = [b"a.x", b"A.x:81", b"b.x:80", b"c.a.x", b"y", b""]


def joined(parts: list[str]) -> str:
    return "/" + "/".join(parts)


def templates(parts: list[tuple[str, bool]]) -> str:
    return joined([f"{{p{number}}}" if capture else part for number, (part, capture) in enumerate(parts)])


PATHS = st.one_of(
    st.just({}),
    st.lists(SEGMENT, min_size=1, max_size=3).map(lambda parts: {"path": joined(parts)}),
    st.lists(st.tuples(SEGMENT, st.booleans()), min_size=1, max_size=3).map(lambda parts: {"path": templates(parts)}),
    st.lists(SEGMENT, max_size=3).map(lambda parts: {"path_prefix": joined(parts)}),
    st.sampled_from(["/a/.*", "/[ab]/c", "/b[^/]*"]).map(lambda pattern: {"path_regex": pattern}),
)
MATCHES = st.builds(
    lambda host, path, methods, headers, query: {
        "host": host, "methods": sorted(methods) if methods else None, "headers": headers, "query": query, **path
    },
    st.sampled_from(HOSTS),
    PATHS,
    st.none() | st.sets(st.sampled_from(["GET", "PUT"]), min_size=1),
    st.dictionaries(st.sampled_from(["t", "u"]), st.sampled_from(["1", "2"]), max_size=1),
    st.dictionaries(st.sampled_from(["q", "r"]), st.sampled_from(["1", "2"]), max_size=1),
)  # fmt: skip
REQUESTS = st.builds(
    lambda parts, method, authority, headers, query: exchange(
        method, joined(parts), [(name.encode(), value.encode()) for name, value in headers], authority=authority,
        query=query,
    ),
    st.lists(SPECIAL_STATUSES, min_size=1, max_size=4),
    st.sampled_from(["GET", "PUT", "POST"]),
    st.sampled_from(AUTHORITIES),
    st.lists(st.tuples(st.sampled_from("tu"), st.sampled_from("12")), max_size=2),
    st.sampled_from([None, b"", b"q=1", b"q=2&r=1", b"q=1&q=1", b"%71=1"]),
)  # fmt: skip


def meets(match: MatchSpec, x: Exchange, path: str, *, any_method: bool = False) -> bool:
    """True if a request meets the conditions, evaluated one after the other as the policy format defines them."""
    name, _, port = x.authority.decode().lower().partition(":")
    if match.host is not None:
        if match.host.startswith("*") and not (name.endswith(match.host[1:]) and name != match.host[1:]):
            return False
        if ":" in match.host and match.host != f"{name}:{port or 80}":
            return False
        if not match.host.startswith("*") and match.host.partition(":")[0] != name:
            return False
    if match.path is not None and not re.fullmatch(re.sub(r"\\{\w+\\}", "[^/]+", re.escape(match.path)), path):
        return False
    if match.path_prefix is not None:
        prefix = match.path_prefix.rstrip("/")
        if path != prefix and not path.startswith(prefix + "/"):
            return False
    if match.path_regex is not None and not re.fullmatch(match.path_regex, path):
        return False
    if match.methods is not None and not any_method and x.method.decode() not in match.methods:
        return False
    for header, value in match.headers.items():
        if [v for k, v in x.headers if k == header.encode()] != [value.encode()]:
            return False
    given = parse_qsl((x.query or b"").decode(), keep_blank_values=True)
    return all([v for k, v in given if k == key] == [value] for key, value in match.query.items())


@settings(max_examples=300, deadline=None)
@given(st.lists(MATCHES, min_size=1, max_size=12), st.lists(REQUESTS, min_size=1, max_size=8))
def test_it_decides_like_a_matcher_that_asks_every_rule(
    matches: list[dict[str, Any]], requests: list[Exchange]
) -> None:
    rules: list[Rule[int]] = []
    for number, match in enumerate(matches):
        rule = Rule(MatchSpec(**match), number)
        if not any(rule.can_tie(other) for other in rules):
            rules.append(rule)
    assert not list(ties(rules))
    router = Router(rules)
    for x in requests:
        found, allowed = set(), []
        for path in uri.readings(x.path):
            met = [rule for rule in rules if meets(rule.match, x, path.decode())]
            for one, two in combinations(met, 2):
                assert one.rank != two.rank, f"{one.match} and {two.match} tie, and `can_tie` did not see it"
            found.add(max(met, key=lambda rule: rule.rank).target if met else None)
            near = [rule for rule in rules if meets(rule.match, x, path.decode(), any_method=True)]
            allowed.append({method.encode() for rule in near for method in rule.match.methods or ()})
        assert router.match(x) == (found.pop() if len(found) == 1 else None)
        assert router.allowed(x) == (sorted(set.intersection(*allowed)) if allowed else [])


def test_looking_for_ties_tries_no_pair_that_cannot_be_one() -> None:
    rules = [Rule(MatchSpec(path=f"/{n}/{{id}}/x"), n) for n in range(200)]
    rules += [Rule(MatchSpec(path=f"/{{id}}/{n}/x"), n) for n in range(5)]
    tried = sum(len(list(others)) for _, others in neighbours(rules))
    assert tried == 200 * 5, "templates with literals in different places may tie, these 200 not with each other"


@given(st.lists(st.tuples(*[st.sampled_from(["a", "b", "{x}"])] * 3), max_size=8, unique=True))
def test_ties_are_those_of_all_pairs(keys: list[tuple[str, ...]]) -> None:
    named = [[part.replace("x", f"x{place}") for place, part in enumerate(key)] for key in keys]
    rules = [Rule(MatchSpec(path="/" + "/".join(parts)), number) for number, parts in enumerate(named)]
    found = {frozenset((one.target, two.target)) for one, two in ties(rules)}
    assert found == {frozenset((a.target, b.target)) for a, b in combinations(rules, 2) if a.can_tie(b)}
