"""Tests of the check of `aggregate`: routes of parts, callers of parts, and caches in front of parts."""

from __future__ import annotations

import pytest

from sidecar.config.files import Source
from sidecar.config.load import load

HEAD = """\
version: 1
listeners: {inbound: {address: "127.0.0.1:8080"}}
upstreams: {users: {endpoints: ["http://127.0.0.1:9000"]}, orders: {endpoints: ["http://127.0.0.1:9001"]}}
identities: {partners: {certificate: {spiffe: "spiffe://a/b"}}}
routes:
"""
KNOWN = "authenticate: {any_of: [partners]}"
INNER = "  - {name: inner, listener: none, match: {path: /inner}, upstream: orders%s}\n"
AGGREGATE = """    aggregate:
      parts:
        user: {upstream: users, path: /users}
        order: {route: inner, path: /inner}
"""


def messages(outer: str = "", inner: str = "", name: str = "page", head: str = HEAD) -> list[str]:
    """Return errors, then warnings; `outer` is on the route with parts, `inner` on the route of its part `order`."""
    lines = f"  - name: {name}\n    match: {{path: /{name}}}\n" + (f"    {outer}\n" if outer else "") + AGGREGATE
    loaded = load([Source("p.yaml", (head + lines + INNER % (f", {inner}" if inner else "")).encode())], {})
    ignored = ("certificate", "may be called by everyone", "no route uses the identity")
    found = [str(each).partition(": ")[2] for each in (*loaded.problems, *loaded.warnings)]
    return [each for each in found if not any(word in each for word in ignored)]


def test_parts_without_policies_are_sound() -> None:
    assert messages() == []


# ----- callers


LIMIT = "rate_limit: [{name: all, rate: 100/m, burst: 10, key: caller}]"
RULE = "authorize: [{allow: {callers: [ada]}}]"


@pytest.mark.parametrize("inner", [LIMIT, RULE])
def test_parts_have_the_callers_of_their_request(inner: str) -> None:
    assert messages(KNOWN, inner) == []
    assert any("authenticate" in each for each in messages("", inner))


def test_a_route_with_a_listener_has_no_callers_by_its_parts() -> None:
    lines = INNER.replace("listener: none, ", "") % f", {LIMIT}"
    text = HEAD + f"  - name: page\n    match: {{path: /page}}\n    {KNOWN}\n{AGGREGATE}" + lines
    loaded = load([Source("p.yaml", text.encode())], {})
    assert ["needs the callers" in str(each) for each in loaded.problems] == [True]


def test_every_route_with_the_part_must_know_its_callers() -> None:
    other = f"  - name: open\n    match: {{path: /open}}\n    authenticate: off\n{AGGREGATE}"
    assert any("needs the callers" in each for each in messages(KNOWN, LIMIT, head=HEAD + other))
    other = other.replace("authenticate: off", KNOWN)
    assert messages(KNOWN, LIMIT, head=HEAD + other) == []


# ----- caches in front of parts


CACHE = "cache: {ttl: 10s}"
NETWORK = "authorize: [{allow: {networks: [10.0.0.0/8]}}]"


@pytest.mark.parametrize(
    ("outer", "inner", "is_wrong"),
    [
        (CACHE, "", False),
        (CACHE, KNOWN, True),
        (f"{CACHE}\n    {KNOWN}", KNOWN, False),
        (CACHE, NETWORK, True),
        (f"{CACHE}\n    {KNOWN}", NETWORK, True),
        (f"{CACHE}\n    {NETWORK}", NETWORK, False),
        (f"{CACHE}\n    {KNOWN}", RULE, False),
        (f"cache: {{ttl: 10s, shared: true}}\n    {KNOWN}", RULE, True),
        (f"{CACHE}\n    {KNOWN}", "authorize: [{allow: {headers: {x-a: b}}}]", True),
        (f"{CACHE}\n    {KNOWN}", f"{NETWORK[:-1]}, {{deny: {{networks: [10.1.0.0/16]}}}}]", True),
        ("", NETWORK, False),
    ],
)
def test_a_cache_answers_nobody_whom_a_part_would_refuse(outer: str, inner: str, is_wrong: bool) -> None:
    found = [each for each in messages(outer, inner) if "leave the cache out" in each]
    assert len(found) == is_wrong
    if found:
        assert "routes.page.cache" in found[0]
        assert "`inner` of the part order" in found[0]


def test_parts_of_parts_count_too() -> None:
    outer = "  - {name: top, match: {path: /top}, cache: {ttl: 10s}, "
    outer += "aggregate: {parts: {all: {route: page, path: /page}}}}\n"
    found = [each for each in messages("", KNOWN, head=HEAD + outer) if "leave the cache out" in each]
    assert ["the part all.order" in each for each in found] == [True]


def test_a_candidate_of_a_parts_route_counts_too() -> None:
    candidate = f"candidate: {{share: 5%, {KNOWN}}}"
    found = [each for each in messages(CACHE, candidate) if "leave the cache out" in each]
    assert ["the route `inner@candidate` of the part order" in each for each in found] == [True]
    assert messages("", "candidate: {share: 5%, timeout: {request: 1s}}") == []


# ----- candidates


def test_a_candidate_has_parts_of_its_own() -> None:
    candidate = "candidate: {share: 5%, timeout: {request: 2s}}"
    assert messages(candidate) == []
    changed = "candidate: {share: 5%, aggregate: {parts: {x: {route: no, path: /}}}}"
    assert any("there is no `no`" in each for each in messages(changed))


def test_the_member_with_the_missing_parts_has_a_name_of_its_own() -> None:
    for answer in ("", "      answer: {json: {user: 1}}\n"):
        text = (
            HEAD + "  - name: page\n    match: {path: /page}\n" + AGGREGATE + answer + "      partial: {member: user}\n"
        )
        loaded = load([Source("p.yaml", (text + INNER % "").encode())], {})
        assert ["has the member user twice" in str(each) for each in loaded.problems] == [True]


# ----- what a block cannot do


@pytest.mark.parametrize(("methods", "warns"), [("[GET, HEAD]", False), ("[GET, POST, PUT]", True)])
def test_parts_get_no_body_of_the_request(methods: str, warns: bool) -> None:
    text = HEAD + f"  - name: page\n    match: {{path: /page, methods: {methods}}}\n" + AGGREGATE + INNER % ""
    found = [str(each) for each in load([Source("p.yaml", text.encode())], {}).warnings]
    assert (
        any("passes no body of a request to its parts, but the route takes POST, PUT" in each for each in found)
        == warns
    )


def test_calls_of_grpc_have_no_parts() -> None:
    text = HEAD + "  - name: page\n    match: {grpc: {service: shop.Orders}}\n" + AGGREGATE + INNER % ""
    assert any(
        "cannot answer calls of gRPC" in str(each) for each in load([Source("p.yaml", text.encode())], {}).problems
    )


def test_a_circle_through_a_candidate_is_an_error() -> None:
    inner = "candidate: {share: 5%, aggregate: {parts: {all: {route: page, path: /page}}}}"
    assert any("asks itself by its parts" in each for each in messages("", inner.replace("5%", "5%, fallback: off")))


# ----- the worst case


@pytest.mark.parametrize(
    ("each", "calls", "told"),
    [
        ('{of: "{parts.user./ids}", max: 50}', "", ""),
        ('{of: "{parts.user./ids}", max: 300}', "", "may make 301 requests for one, but max_calls allows 200"),
        ('{of: "{parts.user./ids}", max: 300}', "      max_calls: 301\n", "makes up to 301 calls"),
        ('{of: "{parts.user./ids}", max: 300, batch: 10}', "", ""),
    ],
)
def test_the_worst_case_is_a_product(each: str, calls: str, told: str) -> None:
    item = "{items}" if "batch" in each else "{item}"
    part = f'        more: {{upstream: orders, path: "/x?i={item}", each: {each}, timeout: 1s}}\n'
    block = "    aggregate:\n      parts:\n        user: {upstream: users, path: /users}\n" + part + calls
    head = HEAD.replace("routes:", "defaults: {retry: {max_attempts: 1}}\nroutes:")
    text = head + "  - name: page\n    match: {path: /page}\n" + block
    loaded = load([Source("p.yaml", text.encode())], {})
    found = [str(each) for each in (*loaded.problems, *loaded.warnings) if "aggregate" in str(each)]
    assert [told in each for each in found] == ([True] if told else []), found


@pytest.mark.parametrize(
    ("first", "second", "told"),
    [("100ms", "200ms", ""), ("400ms", "700ms", "ends after 1.1s"), ("100ms", "2s", "ends first")],
)
def test_times_that_cannot_be_are_told(first: str, second: str, told: str) -> None:
    parts = f"        user: {{upstream: users, path: /users, timeout: {first}}}\n"
    parts += f'        more: {{upstream: orders, path: "/x/{{parts.user./id}}", timeout: {second}}}\n'
    text = HEAD + "  - name: page\n    match: {path: /page}\n    timeout: {request: 1s}\n    aggregate:\n      parts:\n"
    found = [str(each) for each in load([Source("p.yaml", (text + parts).encode())], {}).warnings]
    assert [told in each for each in found if "parts.more.timeout" in each] == ([True] if told else []), found
