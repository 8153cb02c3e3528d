"""Tests of access rules in `sidecar import envoy`: `jwt_authn`, `rbac` and `ext_authz`."""

from __future__ import annotations

import json
from typing import Any

from tests.support.cases import each
from tests.support.issuer import jwk, key
from tests.unit.imports.checked import Checked, checked
from tests.unit.imports.test_envoy import at, bootstrap, envoy

REFUSES = [{"deny": {"networks": ["0.0.0.0/0", "::/0"]}}]
AUTHZ, JWT, RBAC = "envoy.filters.http.ext_authz", "envoy.filters.http.jwt_authn", "envoy.filters.http.rbac"


def filters(*parts: dict[str, Any]) -> dict[str, Any]:
    return {"http_filters": [*parts, {"name": "envoy.filters.http.router"}]}


def authz(**keys: Any) -> dict[str, Any]:
    service = {"server_uri": {"uri": "http://auth:9191", "timeout": "0.25s"}, "path_prefix": "/check",
               "authorization_request": {"allowed_headers": {"patterns": [{"exact": "Cookie"}, {"prefix": "x-"}]}},
               "authorization_response": {"allowed_upstream_headers": {"patterns": [
                   {"exact": "X-User"}, {"prefix": "X-R-"}]}}}  # fmt: skip
    return {"name": AUTHZ, "typed_config": {"@type": "x.ExtAuthz", "http_service": service, **keys}}


def provider(**keys: Any) -> dict[str, Any]:
    keys_set = json.dumps({"keys": [jwk(key())]})
    return {"issuer": "https://id.example", "audiences": ["orders"], "local_jwks": {"inline_string": keys_set}, **keys}


def jwt(*rules: dict[str, Any], other: dict[str, Any] | None = None, **keys: Any) -> dict[str, Any]:
    config = {"@type": "x.JwtAuthentication", "providers": {"corp": provider(**keys)}, "rules": list(rules)}
    config["providers"] |= {} if other is None else {"other": other}
    config["requirement_map"] = {"strict": {"provider_name": "corp"}, "gone": {"provider_name": "nobody"}}
    return {"name": JWT, "typed_config": config}


def rbac(action: str, *policies: dict[str, Any], **keys: Any) -> dict[str, Any]:
    rules = {"action": action, "policies": {f"p{at}": each for at, each in enumerate(policies)}}
    return {"name": RBAC, "typed_config": {"@type": "x.RBAC", "rules": rules, **keys}}


def policy(permission: dict[str, Any] | None = None, principal: dict[str, Any] | None = None) -> dict[str, Any]:
    return {"permissions": [permission or {"any": True}], "principals": [principal or {"any": True}]}


ALL = {"match": {"prefix": "/"}, "requires": {"provider_name": "corp"}}
OFF = {"@type": "x.ExtAuthzPerRoute", "disabled": True}

PROTECTED: list[tuple[dict[str, Any], Any]] = [
    ({"manager": {"http_filters": [{"name": JWT}]}}, REFUSES),
    ({"manager": filters({"name": AUTHZ, "typed_config": {"@type": "x.ExtAuthz", "grpc_service": {}}})}, REFUSES),
    ({"manager": filters(authz(failure_mode_allow=True))}, REFUSES),
    ({"manager": filters(authz(with_request_body={"max_request_bytes": 1}))}, REFUSES),
    ({"manager": filters(authz(http_service={"server_uri": {"uri": "http://auth:9191"}, "authorization_request": {
        "headers_to_add": [{"key": "x-a", "value": "b"}]}}))}, REFUSES),
    ({"manager": filters(authz()), "host": {"typed_per_filter_config": {AUTHZ: OFF}}}, None),
    ({"manager": filters({**authz(), "disabled": True})}, None),
    ({"manager": filters(authz(), jwt(ALL))}, REFUSES),
    ({"host": {"typed_per_filter_config": {"odd": {"@type": "x.OAuth2PerRoute"}}}}, REFUSES),
    ({"manager": {"http_filters": [{"name": "envoy.filters.http.lua"}]}}, None),
    ({"manager": filters(rbac("ALLOW"))}, REFUSES), ({"manager": filters(rbac("DENY"))}, None),
    ({"manager": filters(rbac("LOG", policy()))}, None),
    ({"manager": filters(rbac("ALLOW", policy({"any": True}), matcher={}))}, REFUSES),
    ({"manager": filters(rbac("ALLOW"))
      , "host": {"typed_per_filter_config": {RBAC: {"@type": "x.RBACPerRoute"}}}}, None),
    ({"manager": filters(rbac("ALLOW")), "host": {"typed_per_filter_config": {
        RBAC: {"@type": "x.RBACPerRoute", "rbac": {"rules": {"policies": {"a": policy({"any": True})}}}}}}}, None),
]  # fmt: skip


@each(PROTECTED)
def test_what_a_filter_keeps_out(case: tuple[dict[str, Any], Any]) -> None:
    assert envoy(**case[0]).route().get("authorize") == case[1]


def test_a_filter_within_another_one() -> None:
    inner = {"@type": "x.RBAC"}
    for config in ({"@type": "x.ExtensionWithMatcher", "extension_config": {"name": "a", "typed_config": inner}},
                   {"@type": "udpa.TypedStruct", "type_url": "x.JwtAuthentication"}):  # fmt: skip
        assert envoy(manager=filters({"name": "own", "typed_config": config})).route()["authorize"] == REFUSES
    arms = [{"name": "app", "weight": 1}, {"name": "next", "weight": 1, "typed_per_filter_config": {RBAC: {}}}]
    found = envoy(routes=[{"match": {"prefix": "/"}, "route": {"weighted_clusters": {"clusters": arms}}}])
    assert found.route()["authorize"] == REFUSES


def test_the_address_of_a_server_is_that_of_its_cluster() -> None:
    config = authz()
    config["typed_config"]["http_service"]["server_uri"] = {"uri": "auth", "cluster": "next"}
    found = envoy(manager=filters(config))
    assert found.policy["identities"]["external"]["external"]["url"] == "http://127.0.0.1:9000/check"
    config["typed_config"]["http_service"]["server_uri"] = {"uri": "auth", "cluster": "gone"}
    assert envoy(manager=filters(config)).route()["authorize"] == REFUSES


def test_a_server_that_is_asked() -> None:
    found = envoy(manager=filters(authz()))
    assert found.route()["authenticate"] == {"any_of": ["external"]}
    assert found.policy["identities"]["external"] == {"external": {
        "url": "http://auth:9191/check", "headers": ["authorization", "cookie"], "forward": ["x-user"],
        "timeout": "250ms"}}  # fmt: skip
    assert found.said("only whole names of fields")
    assert at(found.route(), "transform.request.headers.remove") == ["x-r-*"], "no client writes what a server does"


# ----- jwt_authn

IDENTITY: list[tuple[dict[str, Any], str, Any]] = [
    ({}, "jwt.audiences", ["orders"]), ({}, "jwt.leeway", "60s"), ({"clock_skew_seconds": 5}, "jwt.leeway", "5s"),
    ({"local_jwks": {"filename": "/keys.json"}}, "jwt.keys", {"file": "/keys.json"}),
    ({"local_jwks": None, "remote_jwks": {"http_uri": {"uri": "https://id.example/k", "cluster": "c", "timeout": "3s"},
                                          "cache_duration": "300s"}}, "jwt.keys",
     {"url": "https://id.example/k", "timeout": "3s", "refresh": "300s"}),
]  # fmt: skip


@each(IDENTITY)
def test_a_provider(case: tuple[dict[str, Any], str, Any]) -> None:
    found = envoy(manager=filters(jwt(ALL, **case[0])))
    assert at(found.policy["identities"]["corp"], case[1]) == case[2]
    assert found.route()["authenticate"] == {"any_of": ["corp"], "forward": {"credentials": "drop"}}


UNTRANSLATED: list[dict[str, Any]] = [
    {"issuer": ""}, {"from_params": ["t"]}, {"from_cookies": ["t"]}, {"subjects": {"prefix": "a"}},
    {"from_headers": [{"name": "x-jwt"}]}, {"local_jwks": None}, {"local_jwks": {"inline_string": "{"}},
    {"max_lifetime": "1s"}, {"local_jwks": {"inline_string": '{"keys": [{"kty": "EC", "crv": "P-256"}]}'}},
]  # fmt: skip


@each(UNTRANSLATED)
def test_a_provider_without_an_equal_refuses(keys: dict[str, Any]) -> None:
    found = envoy(manager=filters(jwt(ALL, **keys)))
    assert found.route()["authorize"] == REFUSES
    assert "identities" not in found.policy
    assert "authenticate" not in found.route()


def test_what_the_upstream_learns_of_a_token() -> None:
    claims = [{"header_name": "x-tenant", "claim_name": "tenant"}, {"header_name": "x-deep", "claim_name": "a.b"}]
    found = envoy(manager=filters(jwt(ALL, forward=True, forward_payload_header="x-payload", claim_to_headers=claims)))
    assert found.route()["authenticate"]["forward"] == {"claims": {"tenant": "x-tenant"}}
    removed = at(found.route(), "transform.request.headers.remove")
    assert removed == ["x-payload", "x-deep"], "no client writes what only the other proxy does"


MATCHED: list[tuple[list[dict[str, Any]], list[tuple[Any, Any]]]] = [
    ([ALL], [(None, False)]),
    ([{"match": {"prefix": "/health"}}, ALL], [("/health", None), (None, False)]),
    ([ALL, {"match": {"prefix": "/health"}}], [(None, False)]),
    ([{"match": {"path": "/one"}, "requires": {"provider_name": "corp"}}], [("/one", False), (None, None)]),
    ([{"match": {"prefix": "/"}, "requires": {"requires_any": {"requirements": [
        {"provider_name": "corp"}, {"allow_missing": {}}]}}}], [(None, True)]),
    ([{"match": {"prefix": "/"}, "requires": {"allow_missing_or_failed": {}}}], [(None, None)]),
    ([{"match": {"prefix": "/"}, "requirement_name": "strict"}], [(None, False)]),
    ([{"match": {"prefix": "/"}, "requires": {"provider_and_audiences": {"provider_name": "corp"}}}], [(None, False)]),
    ([], [(None, None)]),
]  # fmt: skip


@each(MATCHED)
def test_the_first_rule_that_matches_decides(case: tuple[list[dict[str, Any]], list[tuple[Any, Any]]]) -> None:
    found = []
    for one in envoy(manager=filters(jwt(*case[0]))).policy["routes"]:
        match = one.get("match", {})
        block = one.get("authenticate")
        path = match.get("path_prefix") or match.get("path")
        found.append((path, None if block is None else block.get("optional", False)))
    assert found == case[1]


def test_demands_that_prefixes_divide() -> None:
    api = {"match": {"prefix": "/api"}, "requires": {"provider_name": "corp"}}
    found = envoy(manager=filters(jwt(api, {"match": {"prefix": "/pub/"}}, ALL)))
    inner, public, rest = found.policy["routes"]
    assert inner["match"] == {"path_prefix": "/api"}
    assert public["match"] == {"path_prefix": "/pub/", "when": "request.path.startsWith('/pub/')"}
    assert rest["authorize"] == [{"allow": {"when": "!(request.path.startsWith('/api'))"}}], "/apix needs a token too"


DEMANDS: list[dict[str, Any]] = [
    {"match": {"prefix": "/"}, "requirement_name": "gone"},
    {"match": {"prefix": "/"}, "requirement_name": "elsewhere"},
    {"match": {"prefix": "/"}, "requires": {"requires_all": {"requirements": [{"provider_name": "corp"}]}}},
    {"match": {"prefix": "/"}, "requires": {"provider_and_audiences": {"provider_name": "corp", "audiences": ["b"]}}},
    {"match": {"prefix": "/", "headers": [{"name": "x"}]}, "requires": {"provider_name": "corp"}},
]


@each(DEMANDS)
def test_a_demand_without_an_equal_refuses(rule: dict[str, Any]) -> None:
    assert envoy(manager=filters(jwt(rule))).route()["authorize"] == REFUSES


def test_settings_of_a_route() -> None:
    own: dict[str, Any] = {"@type": "x.PerRouteConfig", "requirement_name": "strict"}
    found = envoy(manager=filters(jwt()), host={"typed_per_filter_config": {JWT: own}})
    assert found.route()["authenticate"]["any_of"] == ["corp"]
    own = {"@type": "x.PerRouteConfig", "disabled": True}
    assert "authenticate" not in envoy(manager=filters(jwt(ALL)), host={"typed_per_filter_config": {JWT: own}}).route()


# ----- rbac


def header(**keys: Any) -> dict[str, Any]:
    return {"header": {"name": "x", **keys}}


def claim(value: dict[str, Any], *path: str, **keys: Any) -> dict[str, Any]:
    steps = [{"key": each} for each in ("payload", *(path or ("role",)))]
    return {"metadata": {"filter": JWT, "path": steps, "value": value, **keys}}


ISSUER = "has(caller.claims['iss']) && caller.claims['iss'] == 'https://id.example'"
ROLE = f"{ISSUER} && has(caller.claims['role']) && caller.claims['role']"
CONDITIONS: list[tuple[dict[str, Any], Any]] = [
    ({"url_path": {"path": {"prefix": "/a"}}}, "request.path.startsWith('/a')"),
    ({"url_path": {"path": {"safe_regex": {"regex": "/a[0-9]+"}}}}, "request.path.matches('^(?:/a[0-9]+)$')"),
    ({"header": {"name": ":method", "string_match": {"exact": "GET"}}}, "request.method == 'GET'"),
    ({"header": {"name": ":authority", "exact_match": "a.example"}}, "request.host == 'a.example'"),
    (header(string_match={"suffix": "b"}), "'x' in request.headers && request.headers['x'].endsWith('b')"),
    (header(exact_match="b", invert_match=True),
     "'x' in request.headers && !('x' in request.headers && request.headers['x'] == 'b')"),
    (header(present_match=True), "'x' in request.headers"), (header(), "'x' in request.headers"),
    (header(present_match=True, invert_match=True), "!('x' in request.headers)"),
    ({"not_rule": header(present_match=True)}, "!('x' in request.headers)"),
    ({"or_rules": {"rules": [header(), {"url_path": {"path": {"exact": "/a"}}}]}},
     ["'x' in request.headers", "request.path == '/a'"]),
    ({"and_rules": {"rules": [header(), {"url_path": {"path": {"exact": "/a"}}}]}},
     "'x' in request.headers && request.path == '/a'"),
    ({"direct_remote_ip": {"address_prefix": "192.0.2.0", "prefix_len": 24}}, {"networks": ["192.0.2.0/24"]}),
    (claim({"string_match": {"exact": "admin"}}), f"{ROLE} == 'admin'"),
    (claim({"list_match": {"one_of": {"string_match": {"exact": "a"}}}}),
     f"{ISSUER} && has(caller.claims['role'][0]) && 'a' in caller.claims['role']"),
    (claim({"bool_match": True}), f"{ROLE} == true"),
    (claim({"present_match": True}, "a", "b"), f"{ISSUER} && has(caller.claims['a']['b'])"),
]  # fmt: skip
NO_EQUAL: list[dict[str, Any]] = [
    {"remote_ip": {"address_prefix": "192.0.2.0", "prefix_len": 24}}, {"destination_port": 80},
    {"authenticated": {"principal_name": {"exact": "spiffe://a/b"}}}, {"uri_template": {}}, {"any": False},
    {"header": {"name": ":path", "string_match": {"exact": "/a"}}}, header(range_match={"start": 1, "end": 2}),
    header(string_match={"exact": "b", "ignore_case": True}), header(safe_regex_match={"regex": "(a+)+"}),
    header(exact_match="b", treat_missing_header_as_empty=True),
    {"metadata": {"filter": "other", "path": [{"key": "a"}, {"key": "b"}], "value": {"present_match": True}}},
    {"header": {"name": ":authority", "exact_match": "A.example"}},
]  # fmt: skip


def decided(action: str, condition: dict[str, Any]) -> Checked:
    return envoy(manager=filters(jwt(ALL, payload_in_metadata="payload"), rbac(action, policy(None, condition))))


@each(CONDITIONS)
def test_a_condition(case: tuple[dict[str, Any], Any]) -> None:
    wanted = case[1] if isinstance(case[1], list) else [case[1]]
    rules = [{"allow": each if isinstance(each, dict) else {"when": each}} for each in wanted]
    assert decided("ALLOW", case[0]).route()["authorize"] == rules


@each(NO_EQUAL)
def test_a_condition_without_an_equal_lets_nobody_pass(condition: dict[str, Any]) -> None:
    wanted = [REFUSES, None] if condition == {"any": False} else [REFUSES, REFUSES]
    found = [decided(action, condition) for action in ("ALLOW", "DENY")]
    assert [one.route().get("authorize") for one in found] == wanted
    assert condition == {"any": False} or all(one.said("the condition lets nobody pass here") for one in found)


MUTUAL = {"transport_socket": {"typed_config": {
    "@type": "x.DownstreamTlsContext", "require_client_certificate": True, "common_tls_context": {
        "tls_certificates": [{"certificate_chain": {"filename": "/c"}, "private_key": {"filename": "/k"}}],
        "validation_context": {"trusted_ca": {"filename": "/ca"}}}}}}  # fmt: skip
NAMED: list[tuple[dict[str, Any], Any]] = [
    ({}, "has(caller.claims['uri'])"),
    ({"principal_name": {"exact": "spiffe://a/b"}}, "has(caller.claims['uri']) && caller.id == 'spiffe://a/b'"),
    ({"principal_name": {"suffix": "/b"}}, "has(caller.claims['uri']) && caller.id.endsWith('/b')"),
    ({"principal_name": {"exact": "a.example"}}, None),
]  # fmt: skip


@each(NAMED)
def test_a_client_certificate(case: tuple[dict[str, Any], Any]) -> None:
    found = envoy(manager=filters(rbac("ALLOW", policy(None, {"authenticated": case[0]}))), chain=MUTUAL)
    assert found.route()["authorize"] == (REFUSES if case[1] is None else [{"allow": {"when": case[1]}}])
    if case[1] is not None:
        assert found.route()["authenticate"] == {"any_of": ["certificates"]}
    beside = filters(jwt(ALL), rbac("ALLOW", policy(None, {"authenticated": case[0]})))
    assert envoy(manager=beside, chain=MUTUAL).route()["authorize"] == REFUSES, "a caller is known in one way"


def test_the_address_that_a_proxy_in_front_states() -> None:
    condition = {"source_ip": {"address_prefix": "192.0.2.0", "prefix_len": 24}}
    config = filters(rbac("ALLOW", policy(None, condition)))
    assert envoy(manager=config).route()["authorize"] == [{"allow": {"networks": ["192.0.2.0/24"]}}]
    text = json.loads(bootstrap(manager=config))
    text["static_resources"]["listeners"][0]["listener_filters"] = [{"name": "envoy.filters.listener.proxy_protocol"}]
    found = checked("envoy", json.dumps(text, indent=1))
    assert found.route()["authorize"] == REFUSES
    assert found.said("listener_filters[0]: has no equal here")


def test_what_is_denied() -> None:
    assert decided("ALLOW", claim({"double_match": {"exact": 1}})).route()["authorize"] == REFUSES
    assert decided("DENY", claim({"double_match": {"exact": 1}})).route()["authorize"] == [
        {"allow": {"when": f"!({ISSUER})"}}], "other tokens are not denied, whatever the value"  # fmt: skip
    network = {"direct_remote_ip": {"address_prefix": "192.0.2.0", "prefix_len": 24}}
    condition = {"and_ids": {"ids": [{"not_id": network}, {"url_path": {"path": {"exact": "/a"}}}]}}
    assert decided("DENY", network).route()["authorize"] == [
        {"deny": {"networks": ["192.0.2.0/24"]}}, {"allow": {}}]  # fmt: skip
    assert decided("DENY", condition).route()["authorize"] == [
        {"allow": {"networks": ["192.0.2.0/24"]}}, {"allow": {"when": "!(request.path == '/a')"}}]  # fmt: skip
