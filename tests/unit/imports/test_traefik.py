"""Tests of `sidecar import traefik`: files in YAML and TOML, objects of Kubernetes, rules, and what is reported."""

from __future__ import annotations

import json
from typing import Any

from tests.support.cases import each
from tests.unit.imports.checked import Checked, checked
from tests.unit.imports.test_envoy import at

REFUSES = [{"deny": {"networks": ["0.0.0.0/0", "::/0"]}}]


def traefik(
    middleware: dict[str, Any] | None = None,
    service: dict[str, Any] | None = None,
    rule: str = "PathPrefix(`/`)",
    router: dict[str, Any] | None = None,
    **more: Any,
) -> Checked:
    """Return the translation of a file with one router."""
    whole = {"rule": rule, "service": "app", "middlewares": ["one"] if middleware else [], **(router or {})}
    balancer = {"servers": [{"url": "http://192.0.2.1:80"}], **(service or {})}
    http = {"routers": {"shop": whole}, "services": {"app": {"loadBalancer": balancer}},
            "middlewares": {"one": middleware} if middleware else {}}  # fmt: skip
    for key, value in more.items():
        http.setdefault(key, {}).update(value)
    return checked("traefik", json.dumps({"http": http}, indent=1))


MIDDLEWARES: list[tuple[dict[str, Any], str, Any]] = [
    ({"retry": {"attempts": 4}}, "retry.max_attempts", 4),
    ({"retry": {"attempts": 4}}, "retry.on", ["connect_failure"]),
    ({"retry": {"attempts": 4, "initialInterval": "100ms"}}, "retry.backoff", {"base": "100ms", "max": "200ms"}),
    ({"retry": {"attempts": 2, "status": ["500-599", "429"]}}, "retry.on", ["connect_failure", "5xx", 429]),
    ({"retry": {"attempts": 1}}, "retry", "off"),
    ({"circuitBreaker": {"expression": "NetworkErrorRatio() > 0.3"}}, "circuit_breaker.failure_rate", "30%"),
    ({"circuitBreaker": {"expression": "ResponseCodeRatio(500, 600, 0, 600) > 0.25 || NetworkErrorRatio() > 0.25"}},
     "circuit_breaker.failures", ["5xx", "connect_failure", "reset", "timeout"]),
    ({"circuitBreaker": {"expression": "LatencyAtQuantileMS(50.0) > 100", "fallbackDuration": 20}},
     "circuit_breaker.slow_calls", {"longer_than": "100ms", "rate": "50%"}),
    ({"circuitBreaker": {"expression": "LatencyAtQuantileMS(50.0) > 100", "fallbackDuration": 20}},
     "circuit_breaker.open_for", "20s"),
    ({"circuitBreaker": {"expression": "NetworkErrorRatio() > 0.3 && NetworkErrorRatio() > 0.4"}},
     "circuit_breaker", None),
    ({"rateLimit": {"average": 100, "period": "1m", "burst": 50}}, "rate_limit",
     [{"name": "imported", "rate": "100/m", "burst": 49, "key": "client.address", "ipv6_prefix": 128}]),
    ({"rateLimit": {"average": 5, "sourceCriterion": {"requestHeaderName": "X-User"}}}, "rate_limit",
     [{"name": "imported", "rate": "5/s", "burst": 0, "key": "header.x-user"}]),
    ({"rateLimit": {"average": 5, "sourceCriterion": {"requestHeaderName": "X-Forwarded-For"}}}, "rate_limit",
     [{"name": "imported", "rate": "5/s", "burst": 0, "key": "client.address"}]),
    ({"rateLimit": {"average": 5, "period": 0, "burst": 10**8}}, "rate_limit",
     [{"name": "imported", "rate": "5/s", "burst": 1_000_000, "key": "client.address", "ipv6_prefix": 128}]),
    ({"rateLimit": {"average": 1, "period": "250h"}}, "rate_limit",
     [{"name": "imported", "rate": "0.004/h", "burst": 0, "key": "client.address", "ipv6_prefix": 128}]),
    ({"rateLimit": {"average": 5, "sourceCriterion": {"requestHeaderName": "Host"}}}, "rate_limit",
     [{"name": "imported", "rate": "5/s", "burst": 0}]),
    ({"inFlightReq": {"amount": 10}}, "concurrency.max", 10),
    ({"headers": {"customRequestHeaders": {"X-A": "b", "X-C": ""}, "frameDeny": True, "stsSeconds": 60}}, "transform",
     {"request": {"headers": {"set": {"x-a": "b"}, "remove": ["x-c"]}},
      "response": {"headers": {"set": {"x-frame-options": "DENY", "strict-transport-security": "max-age=60"}}}}),
    ({"headers": {"accessControlAllowOriginList": ["https://a.example"], "accessControlMaxAge": 100}}, "cors",
     {"origins": ["https://a.example"], "max_age": "100s"}),
    ({"stripPrefix": {"prefixes": ["/a", "/b"]}}, "transform.request.path_prefix", {"/a": "/", "/b": "/"}),
    ({"addPrefix": {"prefix": "/a"}}, "transform.request.path_regex", {"pattern": "/(.*)", "to": "/a/\\1"}),
    ({"replacePath": {"path": "/a"}}, "transform.request.path", "/a"),
    ({"replacePathRegex": {"regex": "^/a/(.*)$", "replacement": "/b/$1"}}, "transform.request.path_regex",
     {"pattern": "/a/(.*)", "to": "/b/\\1"}),
    ({"ipAllowList": {"sourceRange": ["192.0.2.0/24"]}}, "authorize", {"networks": ["192.0.2.0/24"]}),
    ({"headers": {"allowedHosts": ["A.example", "b"]}}, "authorize",
     {"when": "request.host == 'a.example'"}),
    ({"chain": {"middlewares": ["two"]}}, "retry.max_attempts", 2),
]  # fmt: skip


@each(MIDDLEWARES)
def test_a_middleware(case: tuple[dict[str, Any], str, Any]) -> None:
    found = at(traefik(case[0], middlewares={"two": {"retry": {"attempts": 2}}}).route(), case[1])
    assert (found[0] if case[1] == "authorize" else found) == (
        {"allow": case[2]} if case[1] == "authorize" else case[2]
    )


def test_rules_and_limits_of_several_middlewares_add_up() -> None:
    names = ["near", "limit", "far", "more", "asked", "few", "fewer"]
    limit = {"rateLimit": {"average": 5}}
    found = traefik(router={"middlewares": names}, middlewares={
        "near": {"ipAllowList": {"sourceRange": ["10.0.0.0/8"]}}, "limit": limit, "more": limit,
        "far": {"ipWhiteList": {"sourceRange": ["10.1.0.0/16", "192.0.2.1"]}},
        "asked": {"forwardAuth": {"address": "http://auth:9/check?a=b", "authResponseHeaders": ["X-User"]}},
        "few": {"inFlightReq": {"amount": 3}}, "fewer": {"inFlightReq": {"amount": 2}},
    })  # fmt: skip
    assert found.route()["authorize"] == [{"allow": {"networks": ["10.1.0.0/16"]}}]
    assert found.route()["authenticate"] == {"any_of": ["external"]}
    assert found.route()["concurrency"] == {"max": 2}
    assert [each["name"] for each in found.route()["rate_limit"]] == ["imported", "imported-2"]
    assert found.policy["identities"]["external"] == {"external": {
        "url": "http://auth:9/check?a=b", "append_path": False, "headers": ["authorization", "cookie"],
        "forward": ["x-user"], "timeout": "30s"}}  # fmt: skip
    refused = traefik(router={"middlewares": ["basic", "near"]}, middlewares={
        "basic": {"basicAuth": {"users": ["a"]}}, "near": {"ipAllowList": {"sourceRange": ["10.0.0.0/8"]}}
    })  # fmt: skip
    assert refused.route()["authorize"] == REFUSES, "an allowed network does not undo a refusal"
    assert "authenticate" not in refused.route()


def test_middlewares_of_an_entry_point_hold_for_its_routers() -> None:
    text = json.dumps({
        "entryPoints": {"web": {"address": ":80", "http": {"middlewares": ["near@file"]}}},
        "http": {"routers": {"shop": {"rule": "Path(`/a`)", "service": "app", "entryPoints": ["web"]}},
                 "services": {"app": {"loadBalancer": {"servers": [{"url": "http://a:1"}]}}},
                 "middlewares": {"near": {"ipAllowList": {"sourceRange": ["10.0.0.0/8"]}}}},
    }, indent=1)  # fmt: skip
    assert checked("traefik", text).route()["authorize"] == [{"allow": {"networks": ["10.0.0.0/8"]}}]


PROTECTED: list[dict[str, Any]] = [
    {"basicAuth": {"users": ["a"]}}, {"digestAuth": {}}, {"forwardAuth": {"address": "http://a", "forwardBody": True}},
    {"forwardAuth": {"address": "http://a", "authResponseHeadersRegex": "^x-"}}, {"forwardAuth": {}},
    {"ipAllowList": {"sourceRange": ["somewhere"]}},
    {"plugin": {"my-jwt": {"a": 1}}}, {"ipAllowList": {"sourceRange": ["192.0.2.0/24"], "ipStrategy": {"depth": 1}}},
    {"chain": {"middlewares": ["elsewhere@docker"]}}, {"headers": {"allowedHosts": ["a"], "hostsProxyHeaders": ["x"]}},
]  # fmt: skip


@each(PROTECTED)
def test_a_route_refuses_if_a_middleware_keeps_requests_out(middleware: dict[str, Any]) -> None:
    found = traefik(middleware)
    assert found.route()["authorize"] == REFUSES
    assert found.said("keeps requests out there; all are refused here")


SYNTAX: list[tuple[str, list[dict[str, Any]]]] = [
    ("Host(`a.example`) && Path(`/x`)", [{"host": "a.example", "path": "/x"}]),
    ("Host(`a.example`, `b.example`)", [{"host": "a.example"}, {"host": "b.example"}]),
    ("(Path(`/x`) || PathPrefix(`/y/`)) && Method(`GET`, `PUT`)",
     [{"path": "/x", "methods": ["GET", "PUT"]}, {"path_prefix": "/y/", "methods": ["GET", "PUT"]}]),
    ("Header(`X-A`, `b`) && Query(`c`, `d`) && Query(`e=f`)",
     [{"headers": {"x-a": "b"}, "query": {"c": "d", "e": "f"}}]),
    ("!(Method(`GET`) || HeaderRegexp(`X`, `^a`))",
     [{"when": "!(request.method == 'GET') && (!('x' in request.headers) || !(request.headers['x'].matches('^a')))"}]),
    ("Path(`/a/{id:[0-9]+}`)", [{"when": "request.path.matches('^/a/(?:[0-9]+)$')"}]),
    ("PathRegexp(`^/a[0-9]`)", [{"path_regex": "(?:/a[0-9]).*"}]),
    ("HostRegexp(`^.+\\.example$`)", [{"when": "request.host.matches('^.+\\\\.example$')"}]),
]  # fmt: skip


@each(SYNTAX)
def test_a_rule(case: tuple[str, list[dict[str, Any]]]) -> None:
    assert [route.get("match") for route in traefik(rule=case[0]).policy["routes"]] == case[1]


@each([
    ("ClientIP(`10.0.0.1`)", "`ClientIP` has no equal here; the whole route is left out"),
    ("Host(`a`) && Host(`b`)", "asks for two hosts at once"),
    ("Host(`a`", "ends too early"),
    ("Host(`a`) Host(`b`)", "too many"),
    ("Host(`a", "cannot be read"),
    ("(" * 60 + "Host(`a`)" + ")" * 60, "nested too deeply"),
    (" || ".join(["Host(`a`)"] * 65), "more than 64 alternatives"),
])  # fmt: skip
def test_a_rule_without_an_equal(case: tuple[str, str]) -> None:
    found = traefik(rule=case[0])
    assert "routes" not in found.policy
    assert found.said(case[1])


def test_services_within_services() -> None:
    services = {
        "other": {"loadBalancer": {"servers": [{"url": "h2c://b"}], "passHostHeader": False}},
        "split": {"weighted": {"services": [{"name": "app", "weight": 3}, {"name": "other", "weight": 1}]}},
        "copied": {"mirroring": {"service": "split", "mirrors": [{"name": "other", "percent": 10}]}},
        "spare": {"failover": {"service": "copied", "fallback": "other"}},
    }
    found = traefik(router={"service": "spare"}, services=services)
    assert found.route()["upstream"] == {"split": {"app": "75%", "other": "25%"}}
    assert found.route()["mirror"] == {"upstream": "other", "share": "10%", "writes": True}
    assert found.route()["fallback"] == [{"upstream": "other"}]
    assert found.upstream("other")["protocol"] == "http2"
    assert found.upstream("other")["endpoints"] == ["http://b:80"]


def test_a_balancer_and_its_transport() -> None:
    service = {"servers": [{"url": "https://a:8443", "weight": 2}, {"url": "https://b:8443"}],
               "serversTransport": "slow",
               "healthCheck": {"path": "/h", "interval": "10s", "timeout": "3s"}, "strategy": "p2c"}  # fmt: skip
    transport = {"serverName": "a", "insecureSkipVerify": True, "maxIdleConnsPerHost": 7,
                 "forwardingTimeouts": {"dialTimeout": "2s", "responseHeaderTimeout": "9s",
                                        "idleConnTimeout": 5}}  # fmt: skip
    found = traefik(service=service, serversTransports={"slow": transport})
    app = found.upstream("app")
    assert app["endpoints"] == [{"url": "https://a:8443", "weight": 2}, {"url": "https://b:8443", "weight": 1}]
    assert app["tls"] == {"server_name": "a", "verify": False}
    assert (app["connect_timeout"], app["connections"], app["policy"]) == (
        "2s", {"idle_timeout": "5s"}, {"timeout": {"request": "off", "attempt": "9s"}})  # fmt: skip
    assert app["health_check"]["path"] == "/h"
    assert app["load_balancing"] == "least_request"
    assert found.said("maxIdleConnsPerHost")


TOML = '''
[entryPoints.web]
  address = ":8000"   # [not.a.table]
[http.routers]
  [http.routers.shop]
    rule = """Host(`a.example`)"""
    "service" = 'app'
    priority = 7
[[http.services.app.loadBalancer.servers]]
  url = "http://a:1"
[[http.services.app.loadBalancer.servers]]
  url = "http://b:1"
[http.services.app.loadBalancer]
  sticky.cookie = {name = "x"}
  unknown = [
    "a",
  ]
'''


def test_a_file_in_toml() -> None:
    found = checked("traefik", TOML, "shop.toml")
    assert found.policy["listeners"] == {"web": {"address": "0.0.0.0:8000"}}
    assert found.route()["match"] == {"host": "a.example"}
    assert found.upstream("app")["endpoints"] == ["http://a:1", "http://b:1"]
    assert '- "http://b:1"' in found.text
    assert "# shop.toml:12" in found.text
    assert [line.split(": ")[0] for line in found.findings] == ["shop.toml:8", "shop.toml:14", "shop.toml:15"]


def objects(*parts: tuple[str, str, dict[str, Any]]) -> Checked:
    documents = [
        {"apiVersion": "traefik.io/v1alpha1", "kind": kind, "metadata": {"name": name}, "spec": spec}
        for kind, name, spec in parts
    ]
    return checked("traefik", "\n---\n".join(json.dumps(each, indent=1) for each in documents))


def test_objects_of_kubernetes() -> None:
    route = {"match": "Host(`a.example`)", "kind": "Rule", "middlewares": [{"name": "strip"}],
             "services": [{"name": "app", "port": 80, "weight": 1},
                          {"name": "both", "kind": "TraefikService", "weight": 1}]}  # fmt: skip
    both = {
        "weighted": {"services": [{"name": "v1", "port": 80, "weight": 1}, {"name": "v2", "port": 80, "weight": 3}]}
    }
    found = objects(
        ("IngressRoute", "shop", {"entryPoints": ["websecure"], "routes": [route], "tls": {"secretName": "s"}}),
        ("Middleware", "strip", {"stripPrefix": {"prefixes": ["/a"]}}),
        ("TraefikService", "both", both),
        ("IngressRouteTCP", "raw", {}),
    )
    assert found.route()["upstream"] == {"split": {"app-80": "50%", "v2-80": "37.5%", "v1-80": "12.5%"}}
    assert found.route()["transform"]["request"]["path_prefix"] == {"/a": "/"}
    assert found.policy["listeners"] == {"websecure": {"address": "0.0.0.0:443"}}
    assert found.said("IngressRouteTCP raw: has no equal here")
    assert found.said("write `tls: {cert, key}`")


def test_middlewares_of_one_name_in_several_namespaces() -> None:
    def middleware(namespace: str, network: str) -> dict[str, Any]:
        return {"apiVersion": "traefik.io/v1alpha1", "kind": "Middleware", "metadata": {
            "name": "near", "namespace": namespace}, "spec": {"ipAllowList": {"sourceRange": [network]}}}  # fmt: skip

    for reference, wanted in (({"name": "near", "namespace": "b"}, [{"allow": {"networks": ["10.2.0.0/16"]}}]),
                              ({"name": "near"}, REFUSES)):  # fmt: skip
        route = {"match": "Host(`a`)", "middlewares": [reference], "services": [{"name": "app", "port": 80}]}
        documents = [middleware("a", "10.1.0.0/16"), middleware("b", "10.2.0.0/16"), {
            "apiVersion": "traefik.io/v1alpha1", "kind": "IngressRoute", "metadata": {"name": "shop"},
            "spec": {"routes": [route]}}]  # fmt: skip
        found = checked("traefik", "\n---\n".join(json.dumps(each, indent=1) for each in documents))
        assert found.route()["authorize"] == wanted


def test_a_failover_of_kubernetes() -> None:
    spare = {"failover": {"service": {"name": "app", "port": 80}, "fallback": {"name": "other", "port": 81}}}
    route = {"match": "Host(`a.example`)", "services": [{"name": "spare", "kind": "TraefikService"}]}
    found = objects(("IngressRoute", "shop", {"routes": [route]}), ("TraefikService", "spare", spare))
    assert (found.route()["upstream"], found.route()["fallback"]) == ("app-80", [{"upstream": "other-81"}])


def test_a_route_refuses_if_its_tls_options_demand_certificates() -> None:
    route = {"match": "Host(`a`)", "services": [{"name": "app", "port": 80}]}
    option = ("TLSOption", "mutual", {"clientAuth": {"clientAuthType": "RequireAndVerifyClientCert"}})
    for name, expected in (("mutual", REFUSES), ("other", None)):
        found = objects(("IngressRoute", "shop", {"routes": [route], "tls": {"options": {"name": name}}}), option)
        assert found.route().get("authorize") == expected


LOST: list[tuple[dict[str, Any], str]] = [
    ({"redirectScheme": {"scheme": "https"}}, "answers with a redirect there; the whole route refuses"),
    ({"compress": {}}, "responses are not compressed"), ({"errors": {"status": ["500"]}}, "write a `fallback`"),
    ({"inFlightReq": {"amount": 1, "sourceCriterion": {"ipStrategy": {"depth": 1}}}}, "for each client"),
    ({"retry": {"attempts": 2, "timeout": "1s"}}, "retry.timeout"), ({"unknown": {}}, "one.unknown"),
]  # fmt: skip


@each(LOST)
def test_nothing_is_lost_silently(case: tuple[dict[str, Any], str]) -> None:
    assert traefik(case[0]).said(case[1])
