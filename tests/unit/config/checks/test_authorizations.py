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
