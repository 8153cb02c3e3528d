"""Tests of `sidecar import dapr`: what each value becomes, and what is reported."""

from __future__ import annotations

import json
from typing import Any

import pytest

from sidecar.imports.findings import TranslationError
from tests.support.cases import each
from tests.unit.imports.checked import Checked, checked
from tests.unit.imports.test_envoy import at


def dapr(
    timeout: Any = "1s", retry: dict[str, Any] | None = None, breaker: dict[str, Any] | None = None, **targets: Any
) -> Checked:
    """Return the translation of one app with all three policies."""
    policies = {
        "timeouts": {"quick": timeout},
        "retries": {"again": retry or {"maxRetries": 2}, "DefaultRetryPolicy": {}},
        "circuitBreakers": {"simple": breaker or {}},
    }
    app = {"timeout": "quick", "retry": "again", "circuitBreaker": "simple"}
    spec = {"policies": policies, "targets": {"apps": {"orders": app}, **targets}}
    return checked("dapr", json.dumps({"apiVersion": "dapr.io/v1alpha1", "kind": "Resiliency", "spec": spec}, indent=1))


POLICIES: list[tuple[dict[str, Any], str, Any]] = [
    ({}, "policy.timeout", {"request": "off", "attempt": "1s"}),
    ({"timeout": 250}, "policy.timeout.attempt", "250ms"),
    ({}, "policy.retry.max_attempts", 3),
    ({}, "policy.retry.on", ["connect_failure", "reset", "timeout", "4xx", "5xx"]),
    ({"retry": {"maxRetries": 0}}, "policy.retry", "off"),
    ({"retry": {"maxRetries": -1}}, "policy.retry.max_attempts", 10),
    ({"retry": {"policy": "constant", "duration": "200ms"}}, "policy.retry.backoff",
     {"base": "200ms", "max": "200ms", "jitter": "none"}),
    ({"retry": {"policy": "exponential", "maxInterval": "15s"}}, "policy.retry.backoff",
     {"base": "500ms", "max": "15s", "jitter": "equal"}),
    ({"retry": {"matching": {"httpStatusCodes": "429,500-599", "gRPCStatusCodes": "4,13-14"}}}, "policy.retry.on",
     ["connect_failure", "reset", "timeout", 429, "5xx", "deadline_exceeded", "internal", "unavailable"]),
    ({"breaker": {"trip": "consecutiveFailures > 8"}}, "circuit_breaker.consecutive_failures", 9),
    ({"breaker": {"trip": "consecutiveFailures >= 8"}}, "circuit_breaker.consecutive_failures", 8),
    ({}, "circuit_breaker.consecutive_failures", 6),
    ({"breaker": {"timeout": "30s", "maxRequests": 2}}, "circuit_breaker.open_for", "30s"),
    ({"breaker": {"timeout": "30s", "maxRequests": 2}}, "circuit_breaker.half_open.probes", 2),
    ({"breaker": {"trip": "totalFailures > 8"}}, "circuit_breaker", None),
]  # fmt: skip


@each(POLICIES)
def test_a_policy_of_an_app(case: tuple[dict[str, Any], str, Any]) -> None:
    assert at(dapr(**case[0]).upstream("orders"), case[1]) == case[2]


def test_calls_of_an_app_keep_their_form() -> None:
    by_path, by_field = dapr().policy["routes"]
    assert by_path["match"] == {"path_prefix": "/v1.0/invoke/orders/method"}
    assert by_path["transform"]["request"]["path_prefix"] == {"/v1.0/invoke/orders/method": "/"}
    assert by_field["match"] == {"headers": {"dapr-app-id": "orders"}}
    assert dapr().policy["listeners"] == {"outbound": {"address": "127.0.0.1:3500"}}


REFUSES = [{"deny": {"networks": ["0.0.0.0/0", "::/0"]}}]
BEARER = {"issuer": "https://id.example", "audience": "orders", "jwksURL": "https://id.example/keys"}


def pipeline(kind: str, metadata: dict[str, Any], **spec: Any) -> Checked:
    """Return the translation of an app whose calls go through a middleware."""
    handlers = [{"name": "one", "type": kind}]
    values = [{"name": name, "value": value} for name, value in metadata.items()]
    objects = [
        {"kind": "Resiliency", "spec": {"targets": {"apps": {"orders": {}}}}},
        {"kind": "Configuration", "spec": {"httpPipeline": {"handlers": handlers}, **spec}},
        {"kind": "Component", "metadata": {"name": "one"}, "spec": {"type": kind, "version": "v1", "metadata": values}},
    ]
    return checked("dapr", "\n---\n".join(json.dumps(each, indent=1) for each in objects))


def test_middlewares_of_the_calls_of_a_service() -> None:
    found = pipeline("middleware.http.bearer", BEARER)
    assert [one["authenticate"] for one in found.policy["routes"]] == [{"any_of": ["one"]}] * 2
    identity = found.policy["identities"]["one"]["jwt"]
    assert (identity["issuer"], identity["audiences"]) == ("https://id.example", ["orders"])
    assert identity["keys"] == {"url": "https://id.example/keys"}
    assert pipeline("middleware.http.bearer", {"audience": "orders"}).route()["authorize"] == REFUSES
    assert pipeline("middleware.http.opa", {}).route()["authorize"] == REFUSES
    limited = pipeline("middleware.http.ratelimit", {"maxRequestsPerSecond": "10"}).route()
    assert limited["rate_limit"] == [{"name": "imported", "rate": "10/s", "key": "client.address"}]
    other = pipeline("middleware.http.uppercase", {}, accessControl={"defaultAction": "deny"})
    assert "authorize" not in other.route()
    assert other.said("accessControl: holds for calls that the service gets")


LOST: list[tuple[dict[str, Any], str]] = [
    ({"components": {"store": {"outbound": {"retry": "again"}}}}, "components.store: calls of components"),
    ({"actors": {"cart": {"retry": "again"}}}, "actors.cart: calls of actors"),
    ({}, "retries.DefaultRetryPolicy: no app of the file uses it; write `defaults` for all"),
    ({"breaker": {"trip": "requests > 5"}}, "only `consecutiveFailures > N`"),
    ({"breaker": {"interval": "8s"}}, "failures in a row are counted until a success"),
    ({"retry": {"policy": "constant", "unknown": 1}}, "again.unknown"),
]  # fmt: skip


@each(LOST)
def test_nothing_is_lost_silently(case: tuple[dict[str, Any], str]) -> None:
    assert dapr(**case[0]).said(case[1])


WRONG: list[tuple[dict[str, Any], str]] = [
    ({"timeout": "soon"}, "is `soon`; a duration"),
    ({"retry": {"matching": {"httpStatusCodes": "5xx"}}}, "is `5xx`; codes such as 429,500-599"),
]  # fmt: skip


@each(WRONG)
def test_a_wrong_file(case: tuple[dict[str, Any], str]) -> None:
    with pytest.raises(TranslationError) as raised:
        dapr(**case[0])
    assert case[1] in str(raised.value)
