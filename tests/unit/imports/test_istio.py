"""Tests of `sidecar import istio`: what each value becomes, and what is reported."""

from __future__ import annotations

import json
from typing import Any

import pytest

from sidecar.imports.findings import TranslationError
from tests.support.cases import each
from tests.unit.imports.checked import Checked, checked
from tests.unit.imports.test_envoy import at


def istio(kind: str, spec: dict[str, Any], *others: tuple[str, dict[str, Any]], name: str = "shop") -> Checked:
    """Return the translation of an object and others, each as one document."""
    objects = [
        {"apiVersion": "networking.istio.io/v1", "kind": one, "metadata": {"name": name}, "spec": what}
        for one, what in ((kind, spec), *others)
    ]
    return checked("istio", "\n---\n".join(json.dumps(each, indent=1) for each in objects))


def route(http: dict[str, Any], **spec: Any) -> Checked:
    """Return the translation of a virtual service with one route."""
    target = {"destination": {"host": "app", "port": {"number": 80}}}
    return istio("VirtualService", {"hosts": ["app"], "http": [{"route": [target], **http}], **spec})


ALL = ["GET", "HEAD", "OPTIONS", "PUT", "DELETE", "POST", "PATCH"]


ROUTES: list[tuple[dict[str, Any], str, Any]] = [
    ({}, "retry", {"max_attempts": 3, "on": ["connect_failure", "unavailable", "cancelled"], "methods": ALL}),
    ({"retries": {"attempts": 4, "retryOn": "5xx,429", "perTryTimeout": "2s"}}, "retry.max_attempts", 5),
    ({"retries": {"attempts": 4, "retryOn": "gateway-error,429"}}, "retry.on",
     ["connect_failure", "reset", "timeout", 502, 503, 504, 429]),
    ({"retries": {"attempts": 2, "perTryTimeout": "2s"}}, "timeout.attempt", "2s"),
    ({"retries": {"attempts": 2, "backoff": "50ms"}}, "retry.backoff.base", "50ms"),
    ({"retries": {"attempts": 0}}, "retry", "off"),
    ({"timeout": "1.5s"}, "timeout.request", "1500ms"),
    ({}, "timeout.request", "off"),
    ({"rewrite": {"authority": "b.example"}}, "transform.request.host", "b.example"),
    ({"rewrite": {"uri": "/v2"}, "match": [{"uri": {"prefix": "/v1/"}}]}, "transform.request.path_prefix",
     {"/v1": "/v2"}),
    ({"rewrite": {"uri": "/b"}, "match": [{"uri": {"exact": "/a"}}]}, "transform.request.path", "/b"),
    ({"rewrite": {"uri": "/v2"}}, "transform.request.path_regex", {"pattern": "/(.*)", "to": "/v2/\\1"}),
    ({"headers": {"request": {"set": {"X-A": "{b}"}, "remove": ["x-c"]}, "response": {"add": {"x-d": "e"}}}},
     "transform", {"request": {"headers": {"set": {"x-a": "{{b}}"}, "remove": ["x-c"]}},
                   "response": {"headers": {"add": {"x-d": "e"}}}}),
    ({"mirror": {"host": "next"}, "mirrorPercentage": {"value": 2.5}}, "mirror",
     {"upstream": "next", "writes": True, "share": "2.5%"}),
    ({"fault": {"delay": {"fixedDelay": "7s", "percentage": {"value": 10}},
                "abort": {"httpStatus": 400, "percent": 5}}}, "fault",
     {"latency": {"share": "10%", "fixed": "7s"}, "abort": {"share": "5%", "status": 400}}),
    ({"corsPolicy": {"allowOrigins": [{"exact": "https://a.example"}], "allowMethods": ["GET"], "maxAge": "24h"}},
     "cors", {"origins": ["https://a.example"], "methods": ["GET"], "max_age": "86400s"}),
]  # fmt: skip


@each(ROUTES)
def test_a_value_of_a_route(case: tuple[dict[str, Any], str, Any]) -> None:
    assert at(route(case[0]).route(), case[1]) == case[2]


MATCHES: list[tuple[dict[str, Any], dict[str, Any]]] = [
    ({"uri": {"prefix": "/"}}, {"host": "app"}),
    ({"uri": {"regex": "/a[0-9]+"}, "method": {"exact": "PUT"}},
     {"host": "app", "path_regex": "/a[0-9]+", "methods": ["PUT"]}),
    ({"headers": {"X-User": {"exact": "jo"}}, "queryParams": {"q": {"exact": "1"}}},
     {"host": "app", "headers": {"x-user": "jo"}, "query": {"q": "1"}}),
    ({"headers": {"x": {"regex": "^a|b$"}}}, {"host": "app", "when": "request.headers['x'].matches('^(?:a|b)$')"}),
    ({"withoutHeaders": {"x": {"exact": "a'"}}},
     {"host": "app", "when": "(!('x' in request.headers) || !(request.headers['x'] == 'a\\''))"}),
    ({"headers": {"x": {}}}, {"host": "app", "when": "'x' in request.headers"}),
]  # fmt: skip


@each(MATCHES)
def test_a_match(case: tuple[dict[str, Any], dict[str, Any]]) -> None:
    assert route({"match": [case[0]]}).route()["match"] == case[1]


POLICIES: list[tuple[dict[str, Any], str, Any]] = [
    ({"connectionPool": {"tcp": {"maxConnections": 9, "connectTimeout": "30ms"}}}, "connections.max", 9),
    ({"connectionPool": {"tcp": {"maxConnections": 9, "connectTimeout": "30ms"}}}, "connect_timeout", "30ms"),
    ({"connectionPool": {"http": {"http2MaxRequests": 7, "maxRequestsPerConnection": 3}}}, "concurrency.max", 7),
    ({"connectionPool": {"http": {"idleTimeout": "5s"}}}, "connections.idle_timeout", "5s"),
    ({"loadBalancer": {"simple": "ROUND_ROBIN", "warmupDurationSecs": "30s"}}, "load_balancing", "round_robin"),
    ({"loadBalancer": {"simple": "ROUND_ROBIN", "warmupDurationSecs": "30s"}}, "slow_start", "30s"),
    ({"loadBalancer": {"consistentHash": {"httpHeaderName": "x-user"}}}, "load_balancing",
     {"hash": {"header": "x-user"}}),
    ({"loadBalancer": {"consistentHash": {"useSourceIp": True}}}, "load_balancing", {"hash": {}}),
    ({"outlierDetection": {"consecutive5xxErrors": 3, "baseEjectionTime": "1m"}}, "ejection",
     {"consecutive_failures": 3, "eject_for": "60s", "max_eject_for": "300s"}),
    ({"outlierDetection": {"consecutiveGatewayErrors": 2}}, "ejection.on",
     ["connect_failure", "reset", "timeout", 502, 503, 504]),
    ({"outlierDetection": {"consecutive5xxErrors": 0}}, "ejection", None),
    ({"tls": {"mode": "MUTUAL", "clientCertificate": "/c", "privateKey": "/k", "sni": "s"}}, "tls",
     {"server_name": "s", "cert": "/c", "key": "/k"}),
    ({"tls": {"mode": "DISABLE"}}, "tls", None),
]  # fmt: skip


@each(POLICIES)
def test_a_traffic_policy(case: tuple[dict[str, Any], str, Any]) -> None:
    found = istio("DestinationRule", {"host": "app", "trafficPolicy": case[0]})
    assert at(found.upstream("app"), case[1]) == case[2]
    assert found.route()["match"] == {"host": "app"}


def test_subsets_and_weights() -> None:
    rule = {"host": "app", "trafficPolicy": {"loadBalancer": {"simple": "RANDOM"}}, "subsets": [
        {"name": "v1", "labels": {"version": "v1"}},
        {"name": "v2", "labels": {"version": "v2"}, "trafficPolicy": {"loadBalancer": {"simple": "ROUND_ROBIN"}}},
    ]}  # fmt: skip
    arms = [
        {"destination": {"host": "app", "subset": name}, "weight": weight} for name, weight in (("v1", 90), ("v2", 10))
    ]
    found = istio("VirtualService", {"hosts": ["app"], "http": [{"route": arms}]}, ("DestinationRule", rule))
    assert found.route()["upstream"] == {"split": {"app-v1": "90%", "app-v2": "10%"}}
    assert found.upstream("app-v1")["load_balancing"] == "random"
    assert found.upstream("app-v2")["load_balancing"] == "round_robin"
    assert found.upstream("app-v2")["discover"] == {"kubernetes": {"service": "app-v2"}}
    assert found.said("make a Service `app-v2` that selects version=v2")


def test_a_service_of_the_file_names_the_port_of_its_pods() -> None:
    service = {"ports": [{"port": 80, "name": "http"}, {"port": 90, "name": "grpc"}]}
    target = {"destination": {"host": "shop", "port": {"number": 90}}}
    found = istio("VirtualService", {"hosts": ["shop"], "http": [{"route": [target]}]}, ("Service", service))
    assert found.upstream("shop-90")["discover"] == {"kubernetes": {"service": "shop", "port": "grpc"}}
    assert route({}).upstream("app-80")["endpoints"] == ["http://app:80"]


def test_service_entries() -> None:
    entry = {"hosts": ["api.example"], "resolution": "STATIC",
             "ports": [{"number": 80, "name": "http", "protocol": "HTTP"}],
             "endpoints": [{"address": "192.0.2.1", "ports": {"http": 8080}, "weight": 3},
                           {"address": "::1"}]}  # fmt: skip
    found = istio("ServiceEntry", entry)
    assert found.route()["match"] == {"host": "api.example"}
    assert found.upstream("api-example-80")["endpoints"] == [
        {"url": "http://192.0.2.1:8080", "weight": 3},
        "http://[::1]:80",
    ]
    rule = {"host": "api.example", "trafficPolicy": {"tls": {"mode": "SIMPLE"}}}
    https = {**entry, "endpoints": [], "resolution": "DNS", "ports": [{"number": 443, "protocol": "HTTPS"}]}
    with pytest.raises(TranslationError, match="has nothing"):
        istio("ServiceEntry", https)
    found = istio("ServiceEntry", https, ("DestinationRule", rule))
    assert found.upstream("api-example-443")["endpoints"] == ["https://api.example:443"]


def gateway(*servers: dict[str, Any]) -> Checked:
    virtual = {"hosts": ["*"], "gateways": ["shop"], "http": [{"route": [{"destination": {"host": "app"}}]}]}
    return istio("Gateway", {"selector": {"istio": "x"}, "servers": [*servers]}, ("VirtualService", virtual))


def test_gateways() -> None:
    http = {"port": {"number": 80, "protocol": "HTTP", "name": "h"}, "hosts": ["ns/*.shop.example"]}
    https = {"port": {"number": 443, "protocol": "HTTPS"}, "hosts": ["a.example"],
             "tls": {"mode": "SIMPLE", "serverCertificate": "/c", "privateKey": "/k"}}  # fmt: skip
    found = gateway(http, https, {"port": {"number": 1, "protocol": "TCP"}, "hosts": ["*"]})
    assert found.policy["listeners"] == {
        "port-80": {"address": "0.0.0.0:80"},
        "port-443": {"address": "0.0.0.0:443", "tls": {"cert": "/c", "key": "/k"}},
    }
    hosts = [(one["listener"], one["match"]["host"]) for one in found.policy["routes"]]
    assert hosts == [("port-80", "*.shop.example"), ("port-443", "a.example")]
    assert found.said("`TCP` has no equal here")
    redirect = gateway({**http, "tls": {"httpsRedirect": True}}, https)
    assert [one["listener"] for one in redirect.policy["routes"]] == ["port-443"]


def test_routes_refuse_if_clients_need_certificates_that_are_not_in_the_file() -> None:
    server = {"port": {"number": 443, "protocol": "HTTPS"}, "hosts": ["*"],
              "tls": {"mode": "MUTUAL", "credentialName": "secret"}}  # fmt: skip
    found = gateway(server)
    assert found.route()["authorize"] == [{"deny": {"networks": ["0.0.0.0/0", "::/0"]}}]
    assert found.said("mount the Secret")


LOST: list[tuple[dict[str, Any], str]] = [
    ({"match": [{"sourceLabels": {"a": "b"}}]}, "the workload of a caller"),
    ({"match": [{"ignoreUriCase": True, "uri": {"exact": "/a"}}]}, "a path in any case"),
    ({"redirect": {"uri": "/x"}}, "is no route to a service (redirect)"),
    ({"headers": {"request": {"set": {"x": "%REQ(a)%"}}}}, "command operator"),
    ({"retries": {"attempts": 1, "retryOn": "5xx,nonsense", "retryRemoteLocalities": True}}, "`nonsense`"),
    ({"retries": {"attempts": 1, "retryRemoteLocalities": True}}, "retries.retryRemoteLocalities"),
    ({"mirrors": [{"destination": {"host": "a"}}, {"destination": {"host": "b"}}]}, "one mirror"),
    ({"unknown": 1}, "http[0].unknown"),
]  # fmt: skip


@each(LOST)
def test_nothing_is_lost_silently(case: tuple[dict[str, Any], str]) -> None:
    rest = {"route": [{"destination": {"host": "app"}}]}
    spec = {"hosts": ["app"], "http": [{**({} if "redirect" in case[0] else rest), **case[0]}, rest]}
    found = istio("VirtualService", spec, ("Deployment", {"replicas": 1}), ("VirtualService", {"tcp": [{}]}))
    assert found.said(case[1])
    assert found.said("Deployment shop: has no equal here")
    assert found.said("is no route of HTTP")


def test_the_first_route_wins() -> None:
    both = [{"match": [{"uri": {"prefix": "/"}}], "route": [{"destination": {"host": name}}]} for name in ("a", "b")]
    found = istio("VirtualService", {"hosts": ["app"], "http": both})
    assert found.route()["upstream"] == "a"
    assert found.said("is never reached")
