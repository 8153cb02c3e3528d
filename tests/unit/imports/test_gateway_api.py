"""Tests of `sidecar import gateway-api`: what each value becomes, and what is reported."""

from __future__ import annotations

import json
from typing import Any

from tests.support.cases import each
from tests.unit.imports.checked import Checked, checked
from tests.unit.imports.test_envoy import at

REFUSES = [{"deny": {"networks": ["0.0.0.0/0", "::/0"]}}]
LISTENER = {"name": "http", "protocol": "HTTP", "port": 80}


def objects(*parts: tuple[str, str, dict[str, Any]]) -> Checked:
    documents = [
        {"apiVersion": "gateway.networking.k8s.io/v1", "kind": kind, "metadata": {"name": name}, "spec": spec}
        for kind, name, spec in parts
    ]
    return checked("gateway-api", "\n---\n".join(json.dumps(each, indent=1) for each in documents))


def rule(kind: str = "HTTPRoute", listener: dict[str, Any] | None = None, **keys: Any) -> Checked:
    """Return the translation of a route with one rule, of a gateway with one listener."""
    one = {"backendRefs": [{"name": "app", "port": 8080}], **keys}
    gateway = ("Gateway", "edge", {"gatewayClassName": "x", "listeners": [{**LISTENER, **(listener or {})}]})
    return objects(gateway, (kind, "shop", {"parentRefs": [{"name": "edge"}], "rules": [one]}))


def modifier(kind: str, **keys: Any) -> dict[str, Any]:
    key = "urlRewrite" if kind == "URLRewrite" else kind[0].lower() + kind[1:]
    return {"filters": [{"type": kind, key: keys}]}


RULES: list[tuple[dict[str, Any], str, Any]] = [
    ({"timeouts": {"request": "10s", "backendRequest": "2s"}}, "timeout", {"request": "10s", "attempt": "2s"}),
    ({"timeouts": {"request": "0s"}}, "timeout.request", "off"),
    ({"retry": {"attempts": 2, "codes": [500, 503], "backoff": "100ms"}}, "retry",
     {"max_attempts": 3, "on": ["connect_failure", "reset", 500, 503], "backoff": {"base": "100ms", "max": "100ms"}}),
    ({"retry": {"attempts": 0}}, "retry", "off"),
    (modifier("RequestHeaderModifier", set=[{"name": "X-A", "value": "b"}], remove=["x-c"]),
     "transform.request.headers", {"set": {"x-a": "b"}, "remove": ["x-c"]}),
    (modifier("ResponseHeaderModifier", add=[{"name": "X-A", "value": "b"}]), "transform.response.headers",
     {"add": {"x-a": "b"}}),
    (modifier("URLRewrite", hostname="b.example", path={"type": "ReplaceFullPath", "replaceFullPath": "/b"}),
     "transform.request", {"host": "b.example", "path": "/b"}),
    ({"matches": [{"path": {"value": "/a"}}],
      **modifier("URLRewrite", path={"type": "ReplacePrefixMatch", "replacePrefixMatch": "/b"})},
     "transform.request.path_prefix", {"/a": "/b"}),
    (modifier("RequestMirror", backendRef={"name": "next", "port": 80}, percent=42), "mirror",
     {"upstream": "next-80", "writes": True, "share": "42%"}),
    (modifier("RequestMirror", backendRef={"name": "next", "port": 80}, fraction={"numerator": 1, "denominator": 8}),
     "mirror.share", "12.5%"),
    ({"filters": [{"type": "CORS", "cors": {"allowOrigins": ["https://a.example"], "maxAge": 5}}]}, "cors",
     {"origins": ["https://a.example"], "max_age": "5s"}),
    ({"backendRefs": [{"name": "a", "port": 80, "weight": 9}, {"name": "b", "port": 80, "weight": 1},
                      {"name": "c", "port": 80, "weight": 0}]}, "upstream", {"split": {"a-80": "90%", "b-80": "10%"}}),
]  # fmt: skip


@each(RULES)
def test_a_value_of_a_rule(case: tuple[dict[str, Any], str, Any]) -> None:
    assert at(rule(**case[0]).route(), case[1]) == case[2]


MATCHES: list[tuple[dict[str, Any], dict[str, Any] | None]] = [
    ({"path": {"type": "PathPrefix", "value": "/"}}, None),
    ({"path": {"type": "Exact", "value": "/a"}, "method": "PUT"}, {"path": "/a", "methods": ["PUT"]}),
    ({"path": {"type": "RegularExpression", "value": "/a[0-9]"}}, {"path_regex": "/a[0-9]"}),
    ({"path": {"value": "/a"}, "headers": [{"name": "X", "value": "1"}], "queryParams": [{"name": "q", "value": "2"}]},
     {"path_prefix": "/a", "headers": {"x": "1"}, "query": {"q": "2"}}),
    ({"headers": [{"name": "x", "type": "RegularExpression", "value": "a+"}]},
     {"when": "request.headers['x'].matches('^(?:a+)$')"}),
]  # fmt: skip


@each(MATCHES)
def test_a_match(case: tuple[dict[str, Any], dict[str, Any] | None]) -> None:
    assert rule(matches=[case[0]]).route().get("match") == case[1]


CALLS: list[tuple[dict[str, Any], dict[str, Any]]] = [
    ({"method": {"service": "shop.Orders", "method": "Place"}},
     {"grpc": {"service": "shop.Orders", "method": "Place"}}),
    ({"headers": [{"name": "x", "value": "1"}]},
     {"headers": {"x": "1"}, "when": "request.headers['content-type'].startsWith('application/grpc')"}),
]  # fmt: skip


@each(CALLS)
def test_a_match_of_grpc(case: tuple[dict[str, Any], dict[str, Any]]) -> None:
    found = rule("GRPCRoute", matches=[case[0]])
    assert found.route()["match"] == case[1]
    assert found.upstream("app-8080-grpc")["protocol"] == "http2"


def test_hosts_and_listeners() -> None:
    listeners = [
        {**LISTENER, "hostname": "*.example"},
        {"name": "tls", "protocol": "HTTPS", "port": 443, "tls": {"certificateRefs": [{"name": "s"}]}},
        {"name": "raw", "protocol": "TCP", "port": 1},
    ]
    refs = [{"backendRefs": [{"name": "app", "port": 80}]}]
    found = objects(
        ("Gateway", "edge", {"listeners": listeners}),
        ("HTTPRoute", "both", {"parentRefs": [{"name": "edge"}], "hostnames": ["a.example", "b.test"], "rules": refs}),
        ("HTTPRoute", "mesh", {"parentRefs": [{"name": "app", "kind": "Service"}], "rules": refs}),
        ("HTTPRoute", "alone", {"rules": refs, "parentRefs": [{"name": "other"}]}),
    )
    assert [(one["listener"], at(one, "match.host")) for one in found.policy["routes"]] == [
        ("port-80", "a.example"), ("port-443", "a.example"), ("port-443", "b.test"), ("outbound", "app"),
        ("gateway-other", None)]  # fmt: skip
    assert found.said("`TCP` has no equal here")
    assert found.said("gateway other: is not in the file")
    assert found.said("mount the Secret")


def test_a_policy_for_tls_to_a_service() -> None:
    policy = {"targetRefs": [{"name": "app", "kind": "Service"}], "validation": {"hostname": "app.example"}}
    refs = {"rules": [{"backendRefs": [{"name": "app", "port": 443}]}]}
    found = objects(("HTTPRoute", "shop", refs), ("BackendTLSPolicy", "tls", policy))
    assert found.upstream("app-443") == {"tls": {"server_name": "app.example"}, "endpoints": ["https://app:443"]}


PROTECTED: list[dict[str, Any]] = [
    modifier("ExternalAuth", backendRef={"name": "a"}),
    {"filters": [{"type": "ExtensionRef", "extensionRef": {"kind": "Filter", "name": "basic-auth"}}]},
    {"listener": {"protocol": "HTTPS", "tls": {"frontendValidation": {"caCertificateRefs": []}}}},
]  # fmt: skip


@each(PROTECTED)
def test_a_route_refuses_if_its_original_keeps_requests_out(keys: dict[str, Any]) -> None:
    assert rule(**keys).route()["authorize"] == REFUSES


def test_a_server_that_is_asked() -> None:
    auth = {"protocol": "HTTP", "backendRef": {"name": "auth", "port": 9000},
            "http": {"path": "/check", "allowedHeaders": ["Cookie"], "allowedResponseHeaders": ["X-User"]}}  # fmt: skip
    found = rule(filters=[{"type": "ExternalAuth", "externalAuth": auth}])
    assert found.route()["authenticate"] == {"any_of": ["external"]}
    assert found.policy["identities"]["external"] == {"external": {
        "url": "http://auth:9000/check", "headers": ["authorization", "cookie"], "forward": ["x-user"]}}  # fmt: skip
    for keys in ({"protocol": "GRPC"}, {"forwardBody": {"maxSize": 1}}, {"http": {"path": "/check"}}):
        refused = rule(filters=[{"type": "ExternalAuth", "externalAuth": {**auth, **keys}}])
        assert refused.route()["authorize"] == REFUSES


LOST: list[tuple[dict[str, Any], str]] = [
    (modifier("RequestRedirect", scheme="https"), "answers with a redirect there; all its requests are refused"),
    ({"filters": [{"type": "ExtensionRef", "extensionRef": {"kind": "Filter", "name": "cache"}}]},
     "filter ExtensionRef"),
    ({"backendRefs": [{"name": "a", "kind": "ServiceImport"}]}, "a ServiceImport has no equal here"),
    ({"backendRefs": []}, "has no service that is translated"),
    ({"sessionPersistence": {"type": "Cookie"}}, "write `sticky: {cookie: NAME}`"),
    ({"matches": [{"path": {"value": "/a"}}, {"path": {"value": "/a"}}]}, "takes the requests of an earlier rule"),
    ({"matches": [{"path": {"type": "Odd", "value": "/a"}}]}, "`Odd` has no equal here"),
    ({"unknown": 1}, "rules[0].unknown"),
]  # fmt: skip


@each(LOST)
def test_nothing_is_lost_silently(case: tuple[dict[str, Any], str]) -> None:
    found = rule(**case[0])
    assert found.said(case[1])
