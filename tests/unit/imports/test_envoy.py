"""Tests of `sidecar import envoy`: what each value becomes, and what is reported."""

from __future__ import annotations

import json
from typing import Any

import pytest

from sidecar.imports.findings import TranslationError
from tests.support.cases import each
from tests.unit.imports.checked import Checked, checked

PACKAGE = "type.googleapis.com/envoy.extensions.filters"
RETRY = {"retry_on": "gateway-error,retriable-status-codes,nonsense", "retriable_status_codes": [429], "num_retries": 2}


def bootstrap(
    route: dict[str, Any] | None = None,
    cluster: dict[str, Any] | None = None,
    routes: list[dict[str, Any]] | None = None,
    host: dict[str, Any] | None = None,
    manager: dict[str, Any] | None = None,
    chain: dict[str, Any] | None = None,
) -> str:
    """Return a bootstrap with one listener, one virtual host and two clusters."""
    action = {"cluster": "app", **(route or {})}
    virtual = {"name": "all", "domains": ["*"], "routes": routes or [{"match": {"prefix": "/"}, "route": action}]}
    config = {
        "@type": f"{PACKAGE}.network.http_connection_manager.v3.HttpConnectionManager",
        "route_config": {"virtual_hosts": [virtual | (host or {})]},
        **(manager or {}),
    }
    address = {"socket_address": {"address": "127.0.0.1", "port_value": 9000}}
    assignment = {"endpoints": [{"lb_endpoints": [{"endpoint": {"address": address}}]}]}
    clusters = [{"name": "app", "load_assignment": assignment, **(cluster or {})}]
    clusters.append({"name": "next", "load_assignment": assignment})
    filters = {"filters": [{"name": "http", "typed_config": config}], **(chain or {})}
    listener = {"address": {"socket_address": {"address": "::", "port_value": 80}}, "filter_chains": [filters]}
    return json.dumps({"static_resources": {"listeners": [listener], "clusters": clusters}}, indent=1)


def envoy(**parts: Any) -> Checked:
    return checked("envoy", bootstrap(**parts))


def at(value: Any, path: str) -> Any:
    for key in path.split("."):
        value = value.get(key) if isinstance(value, dict) else None
    return value


ACTIONS: list[tuple[dict[str, Any], str, Any]] = [
    ({}, "timeout.request", "15s"),
    ({"timeout": "0s"}, "timeout.request", "off"),
    ({"timeout": "0.250s", "idle_timeout": "60s"}, "timeout", {"request": "250ms", "idle": "60s"}),
    ({"retry_policy": RETRY}, "retry.max_attempts", 3),
    ({"retry_policy": RETRY}, "retry.on", ["connect_failure", "reset", "timeout", 502, 503, 504, 429]),
    ({"retry_policy": {"retry_on": "5xx"}}, "retry.max_attempts", 2),
    ({"retry_policy": {"retry_on": "5xx", "num_retries": 0}}, "retry", "off"),
    ({"retry_policy": {"retry_on": "5xx", "num_retries": 50}}, "retry.max_attempts", 10),
    ({"retryPolicy": {"retryOn": "reset", "perTryTimeout": "1s"}}, "timeout.attempt", "1s"),
    ({"retry_policy": {"retry_on": "5xx", "retry_back_off": {"base_interval": "0.1s", "max_interval": "2s"}}},
     "retry.backoff", {"base": "100ms", "max": "2s"}),
    ({"host_rewrite_literal": "a.example"}, "transform.request.host", "a.example"),
    ({"request_mirror_policies": [{"cluster": "next"}]}, "mirror.upstream", "next"),
    ({"request_mirror_policies": [{"cluster": "next", "runtime_fraction":
        {"default_value": {"numerator": 25, "denominator": "TEN_THOUSAND"}}}]}, "mirror.share", "0.25%"),
]  # fmt: skip


@each(ACTIONS)
def test_an_action_of_a_route(case: tuple[dict[str, Any], str, Any]) -> None:
    assert at(envoy(route=case[0]).route(), case[1]) == case[2]


CLUSTERS: list[tuple[dict[str, Any], str, Any]] = [
    ({"lb_policy": "LEAST_REQUEST"}, "load_balancing", "least_request"),
    ({}, "load_balancing", "round_robin"),
    ({}, "connect_timeout", "5s"),
    ({"connect_timeout": "0.25s"}, "connect_timeout", "250ms"),
    ({"outlier_detection": {}}, "ejection",
     {"consecutive_failures": 5, "eject_for": "30s", "max_eject_for": "300s", "min_healthy": 0}),
    ({"outlier_detection": {"consecutive_5xx": 3, "base_ejection_time": "1s"}}, "ejection.consecutive_failures", 3),
    ({"outlier_detection": {"consecutive_5xx": 3, "enforcing_consecutive_5xx": 0}}, "ejection", None),
    ({"circuit_breakers": {"thresholds": [{"max_connections": 7, "max_requests": 9}]}}, "connections.max", 7),
    ({"circuit_breakers": {"thresholds": [{"max_connections": 7, "max_requests": 9}]}}, "concurrency.max", 9),
    ({"circuit_breakers": {"thresholds": [{"retry_budget": {"budget_percent": {"value": 12.5}}}]}},
     "retry_budget.ratio", "12.5%"),
    ({"health_checks": [{"timeout": "1s", "http_health_check": {"path": "/h"}}]}, "health_check",
     {"path": "/h", "timeout": "1s"}),
    ({"health_checks": [{"grpc_health_check": {}}]}, "health_check", {"grpc": ""}),
    ({"http2_protocol_options": {}}, "protocol", "http2"),
    ({"transport_socket": {"typed_config": {"@type": "x.UpstreamTlsContext", "sni": "a.example", "common_tls_context":
        {"validation_context": {"trusted_ca": {"filename": "/ca.pem"}}}}}}, "tls",
     {"server_name": "a.example", "ca": "/ca.pem"}),
]  # fmt: skip


@each(CLUSTERS)
def test_a_cluster(case: tuple[dict[str, Any], str, Any]) -> None:
    assert at(envoy(cluster=case[0]).upstream("app"), case[1]) == case[2]


def test_names_and_weights_of_endpoints() -> None:
    named = {"address": {"socket_address": {"address": "app.svc", "port_value": 1}}}
    one = {"endpoints": [{"lb_endpoints": [{"endpoint": named}]}]}
    found = envoy(cluster={"type": "STRICT_DNS", "load_assignment": one})
    assert found.upstream("app")["discover"] == {"dns": "app.svc", "port": 1}
    other = {"address": {"socket_address": {"address": "::1", "port_value": 2}}}
    two = {"endpoints": [{"lb_endpoints": [{"endpoint": named, "load_balancing_weight": 3}, {"endpoint": other}]}]}
    assert envoy(cluster={"load_assignment": two}).upstream("app")["endpoints"] == [
        {"url": "http://app.svc:1", "weight": 3},
        {"url": "http://[::1]:2", "weight": 1},
    ]


def routes(*matches: dict[str, Any]) -> Checked:
    return envoy(routes=[{"match": match, "route": {"cluster": "app"}} for match in matches])


MATCHES: list[tuple[dict[str, Any], dict[str, Any] | None]] = [
    ({"prefix": "/"}, None),
    ({"path": "/a"}, {"path": "/a"}),
    ({"path_separated_prefix": "/a"}, {"path_prefix": "/a"}),
    ({"safe_regex": {"regex": "/a[0-9]+"}}, {"path_regex": "/a[0-9]+"}),
    ({"prefix": "/a", "headers": [{"name": ":method", "exact_match": "GET"},
                                 {"name": "x", "string_match": {"exact": "1"}}]},
     {"path_prefix": "/a", "methods": ["GET"], "headers": {"x": "1"}}),
    ({"path": "/a", "query_parameters": [{"name": "q", "string_match": {"exact": "1"}}]},
     {"path": "/a", "query": {"q": "1"}}),
]  # fmt: skip


@each(MATCHES)
def test_a_match(case: tuple[dict[str, Any], dict[str, Any] | None]) -> None:
    assert routes(case[0]).route().get("match") == case[1]


UNKNOWN: list[dict[str, Any]] = [
    {"headers": [{"name": "x", "present_match": True}]},
    {"headers": [{"name": "x", "exact_match": "1", "invert_match": True}]},
    {"runtime_fraction": {}}, {"query_parameters": [{"name": "q"}]}, {"case_sensitive": False},
]  # fmt: skip


@each(UNKNOWN)
def test_a_route_with_an_unknown_condition_is_left_out(match: dict[str, Any]) -> None:
    found = routes({"prefix": "/a/", **match}, {"prefix": "/"})
    assert len(found.policy["routes"]) == 1
    assert found.said("whole route is left out")


def test_the_order_of_routes() -> None:
    found = routes({"prefix": "/a/"}, {"path": "/a/b"}, {"prefix": "/"}, {"path": "/c"})
    assert [route.get("match") for route in found.policy["routes"]] == [{"path_prefix": "/a/"}, None]
    assert sum("is never reached" in each for each in found.findings) == 2
    assert routes({"safe_regex": {"regex": "/a.*"}}, {"path": "/ab"}).said("tries this route first")


def test_hosts_splits_and_header_fields() -> None:
    arms = {"clusters": [{"name": "app", "weight": 1}, {"name": "next", "weight": 2}]}
    field = {"header": {"key": "X-A", "value": "{a} 100%%"}, "append_action": "OVERWRITE_IF_EXISTS_OR_ADD"}
    operator = {"header": {"key": "x-b", "value": "%STREAM_ID%"}}
    found = envoy(
        routes=[{"match": {"prefix": "/"}, "route": {"weighted_clusters": arms, "prefix_rewrite": "/"}}],
        host={"domains": ["a.example:*", "*.example:8080", "b.*"], "request_headers_to_add": [field, operator],
              "response_headers_to_remove": ["server"]},
    )  # fmt: skip
    assert [route["match"]["host"] for route in found.policy["routes"]] == ["a.example", "*.example"]
    assert found.route()["upstream"] == {"split": {"next": "66.6667%", "app": "33.3333%"}}
    assert found.route()["transform"] == {
        "request": {"headers": {"set": {"x-a": "{{a}} 100%"}}},
        "response": {"headers": {"remove": ["server"]}},
    }
    assert found.said("host b.* ends with a star")
    assert found.said("command operator")
    forged = {"header": {"key": "X-User", "value": "%DYNAMIC_METADATA(a)%"}, "append_action": "OVERWRITE_IF_EXISTS"}
    own = {"header": {"key": "Content-Length", "value": "0"}}
    found = envoy(host={"request_headers_to_add": [forged, own], "request_headers_to_remove": ["X-Forwarded-For"]})
    assert found.route()["transform"] == {"request": {"headers": {"remove": ["x-user"]}}}, "no client writes it"
    assert sum("is written by the sidecar itself" in each for each in found.findings) == 2


def test_cors_and_rates() -> None:
    cors = {"@type": "x.CorsPolicy", "allow_origin_string_match": [{"exact": "https://a.example"}, {"suffix": "b"}],
            "allow_methods": "GET, PUT", "max_age": "60"}  # fmt: skip
    rate = {
        "@type": "x.LocalRateLimit",
        "token_bucket": {"max_tokens": 10, "tokens_per_fill": 5, "fill_interval": "60s"},
        **{key: {"default_value": {"numerator": 100}} for key in ("filter_enabled", "filter_enforced")},
    }
    found = envoy(host={"typed_per_filter_config": {"a": cors, "b": rate, "c": {"@type": "x.Other"}}})
    assert found.route()["cors"] == {"origins": ["https://a.example"], "methods": ["GET", "PUT"], "max_age": "60s"}
    assert found.route()["rate_limit"] == [{"name": "imported", "rate": "5/m", "burst": 9}]
    slow = rate | {"token_bucket": {"max_tokens": 10**8, "fill_interval": "7200s"}}
    (limit,) = envoy(host={"typed_per_filter_config": {"b": slow}}).route()["rate_limit"]
    assert (limit["rate"], limit["burst"]) == ("0.5/h", 1_000_000)
    with pytest.raises(TranslationError, match="is `0s`; a time such as 1s would be right"):
        envoy(host={"typed_per_filter_config": {"b": rate | {"token_bucket": {"fill_interval": "0s"}}}})
    counted = {"b": {key: value for key, value in rate.items() if key != "filter_enforced"}}
    assert envoy(host={"typed_per_filter_config": counted}).route()["rate_limit"][0]["mode"] == "observe"
    idle = envoy(host={"typed_per_filter_config": {"b": {"@type": "x.LocalRateLimit", "token_bucket": {}}}})
    assert "rate_limit" not in idle.route()
    assert idle.said("is on for no request there")
    old = {"allow_origin": ["https://a.example"], "allow_credentials": True}
    assert envoy(route={"cors": old}).route()["cors"] == {"origins": ["https://a.example"], "credentials": True}
    assert envoy(host={"cors": old}).route()["cors"]["origins"] == ["https://a.example"]
    assert found.said("only exact origins")
    assert found.said("typed_per_filter_config.c: has no equal here")


LOST: list[tuple[dict[str, Any], str]] = [
    ({"route": {"hash_policy": [{}]}}, "route.hash_policy"),
    ({"cluster": {"outlier_detection": {"success_rate_stdev_factor": 1}}}, "success_rate_stdev_factor"),
    ({"cluster": {"circuit_breakers": {"thresholds": [{"max_retries": 1, "max_pending_requests": 1}]}}}, "max_retries"),
    ({"cluster": {"lb_policy": "MAGLEV"}}, "`MAGLEV` has no equal here"),
    ({"manager": {"http_filters": [{"name": "envoy.filters.http.lua"}]}}, "filter envoy.filters.http.lua"),
    ({"manager": {"tracing": {"a": 1}}}, "typed_config.tracing"),
    ({"manager": {"rds": {}}}, "routes from a server"),
    ({"routes": [{"match": {"prefix": "/"}, "redirect": {}}]}, "is no route to a cluster"),
    ({"routes": [{"match": {"prefix": "/"}, "route": {"cluster": "gone"}}]}, "goes to the cluster `gone`"),
    ({"routes": [{"match": {"safe_regex": {"regex": "/(a|aa)+(?=b)$"}}, "route": {"cluster": "app"}}]}, "route `all`"),
]  # fmt: skip


@each(LOST)
def test_nothing_is_lost_silently(case: tuple[dict[str, Any], str]) -> None:
    assert envoy(**case[0]).said(case[1])


def test_each_value_has_its_line() -> None:
    text = bootstrap(route={"timeout": "3s"})
    line = next(at for at, each in enumerate(text.splitlines(), 1) if '"timeout": "3s"' in each)
    lines = [" ".join(each.split()) for each in checked("envoy", text).text.splitlines()]
    assert f"request: 3s # source:{line}" in lines
