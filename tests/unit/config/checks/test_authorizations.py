"""Tests of the check of `authorize`."""

from __future__ import annotations

import json
from typing import Any

import pytest

from sidecar.config.files import Source
from sidecar.config.load import load

IDENTITIES = {
    "ids": {"jwt": {"issuer": "https://id.example", "audiences": ["a"], "keys": {"url": "https://id.example/k"}}}
}
SCOPES: dict[str, Any] = {"allow": {"scopes": ["a"]}}
KNOWN = {"authenticate": {"any_of": ["ids"]}}


def found(authorize: Any, match: dict[str, Any] | None = None, **route: Any) -> list[str]:
    """Return errors and warnings, without their places."""
    document = {
        "version": 1,
        "listeners": {"inbound": {"address": "127.0.0.1:0"}},
        "upstreams": {"app": {"endpoints": ["http://127.0.0.1:1"]}},
        "routes": [
            {"name": "r", "upstream": "app", "match": match or {"path": "/x/{id}"}, "authorize": authorize, **route}
        ],
    }
    if "authenticate" in route:
        document["identities"] = IDENTITIES
    loaded = load([Source("a.yaml", json.dumps(document).encode())], {})
    return [f"{each.path}: {each.message}" for each in (*loaded.problems, *loaded.warnings)]


@pytest.mark.parametrize(
    "authorize",
    [
        [SCOPES, {"allow": {"methods": ["GET"], "when": "path.id != '0'"}}],
        {"scopes": ["a"], "path": {"id": "7"}},
        [{"deny": {"networks": ["10.0.0.0/8"]}}, {"allow": {}}],
        [{"deny": {"networks": ["10.0.0.0/8"]}}, {"allow": {"networks": ["10.0.0.0/8", "192.0.2.0/24"]}}],
    ],
)
def test_rules_with_a_use(authorize: Any) -> None:
    assert found(authorize, **KNOWN) == []


@pytest.mark.parametrize(
    ("authorize", "words"),
    [
        ([SCOPES], "routes.r.authorize[0]: needs to know the caller"),
        ({"callers": ["a"]}, "routes.r.authorize: needs to know the caller"),
        ({"when": "caller.id == 'a'"}, "needs to know the caller"),
        ({"mode": "observe", "rules": [SCOPES]}, "routes.r.authorize.rules[0]: needs to know the caller"),
        ([{"allow": {}}], "routes.r.authorize: allows every request"),
        ([{"deny": {"networks": ["::/0"]}}], "has no allow"),
        ({"path": {"ID": "7"}}, "names the capture ID"),
        ({"when": "path.tenant == 'a'"}, "names the capture tenant"),
    ],
)
def test_rules_without_one(authorize: Any, words: str) -> None:
    (message,) = found(authorize)
    assert words in message


def test_a_rule_after_one_that_allows_everything() -> None:
    first, second = found([{"allow": {}}, SCOPES], **KNOWN)
    assert {first.partition(":")[0], second.partition(":")[0]} == {"routes.r.authorize", "routes.r.authorize[1]"}
    assert "a rule above allows every request" in first + second


def test_a_method_that_the_route_does_not_take() -> None:
    (message,) = found({"methods": ["PUT"]}, {"path": "/x", "methods": ["GET"]})
    assert "never allows a request: the match of the route takes GET only" in message


def test_a_network_that_is_denied() -> None:
    (message,) = found([{"deny": {"networks": ["10.0.0.0/8"]}}, {"allow": {"networks": ["::ffff:10.1.0.0/112"]}}])
    assert "all its networks are denied" in message


def test_authentication_that_only_observes() -> None:
    authenticate = {"any_of": ["ids"], "mode": "observe"}
    (message,) = found([SCOPES], authenticate=authenticate)
    assert "lets pass as anonymous" in message
    assert found({"mode": "observe", "rules": [SCOPES]}, authenticate=authenticate) == []


@pytest.mark.parametrize(
    ("first", "second"),
    [
        ({"scopes": ["a"]}, {"scopes": ["a"]}),
        ({"scopes": ["a"]}, {"scopes": ["b", "a"], "methods": ["GET"]}),
        ({"callers": ["x", "y"]}, {"callers": ["y"]}),
        ({"methods": ["GET", "PUT"]}, {"methods": ["PUT"], "networks": ["10.0.0.0/8"]}),
        ({"networks": ["10.0.0.0/8"]}, {"networks": ["10.1.0.0/16", "::ffff:10.2.0.0/112"]}),
        ({"path": {"id": ["1", "2"]}}, {"path": {"id": "1"}}),
        ({"headers": {"x-tier": "gold"}}, {"headers": {"x-tier": "gold", "x-other": "1"}}),
        ({"when": "path.id == '1'"}, {"when": "path.id == '1'", "methods": ["GET"]}),
    ],
)
def test_a_rule_after_one_that_allows_as_much(first: dict[str, Any], second: dict[str, Any]) -> None:
    (message,) = found([{"allow": first}, {"allow": second}], **KNOWN)
    assert message.startswith("routes.r.authorize[1]: has no effect: a rule above allows the same requests")
    if first != second:
        assert found([{"allow": second}, {"allow": first}], **KNOWN) == []


@pytest.mark.parametrize(
    ("first", "second"),
    [
        ({"scopes": ["a"]}, {"scopes": ["b"]}),
        ({"callers": ["x"]}, {"scopes": ["x"]}),
        ({"methods": ["GET"]}, {"networks": ["10.0.0.0/8"]}),
        ({"networks": ["10.0.0.0/8"]}, {"networks": ["10.0.0.0/8", "192.0.2.0/24"]}),
        ({"path": {"id": "1"}}, {"path": {"id": ["1", "2"]}}),
        ({"headers": {"x-tier": "gold"}}, {"headers": {"x-other": "gold"}}),
        ({"when": "path.id == '1'"}, {"when": "path.id == '2'"}),
    ],
)
def test_rules_of_which_each_allows_something_else(first: dict[str, Any], second: dict[str, Any]) -> None:
    assert found([{"allow": first}, {"allow": second}], **KNOWN) == []


@pytest.mark.parametrize(
    ("caller", "instead"),
    [
        ("*", "for such callers write when: \"caller.id != ''\""),
        ("batch-*", "for such callers write when: \"caller.id.startsWith('batch-')\""),
        ("*@example.com", "write the whole name of each caller"),
    ],
)
def test_names_of_callers_are_no_patterns(caller: str, instead: str) -> None:
    (message,) = found({"callers": [caller]}, **KNOWN)
    assert message.startswith("routes.r.authorize.callers: ")
    assert f"names the caller `{caller}`, and `*` stands for nothing else here; {instead}" in message


def test_the_condition_for_every_caller_can_be_written() -> None:
    for text in ("caller.id != ''", "caller.id.startsWith('batch-')"):
        assert found({"when": text}, **KNOWN) == []


def test_a_value_that_is_listed_twice() -> None:
    messages = found({"scopes": ["a", "a", "a"], "callers": ["b", "b"], "methods": ["GET", "GET"]}, **KNOWN)
    assert sorted(messages) == [
        f"routes.r.authorize.{key}: has `{value}` twice; take one out"
        for key, value in (("callers", "b"), ("methods", "GET"), ("scopes", "a"))
    ]


def test_anonymous_requests_that_no_rule_allows() -> None:
    optional = {"any_of": ["ids"], "optional": True}
    (message,) = found([SCOPES], authenticate=optional)
    assert message.startswith("routes.r.authenticate.optional: has no effect: each rule of authorize needs a caller")
    assert found([SCOPES, {"allow": {"methods": ["GET"]}}], authenticate=optional) == []
    assert found({"mode": "observe", "rules": [SCOPES]}, authenticate=optional) == []
