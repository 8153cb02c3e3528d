"""Tests of access rules in `sidecar import istio`: tokens, policies, and the routes that they hold for."""

from __future__ import annotations

import json
from typing import Any

from tests.support.cases import each
from tests.support.issuer import jwk, key
from tests.unit.imports.checked import Checked, checked

REFUSES = [{"deny": {"networks": ["0.0.0.0/0", "::/0"]}}]
ISSUER = "https://id.example"
APP = {"selector": {"matchLabels": {"app": "app"}}}
EDGE = {"selector": {"matchLabels": {"istio": "ingressgateway"}}}


def objects(*parts: tuple[str, dict[str, Any]], namespace: str = "") -> Checked:
    documents = [
        {
            "kind": kind,
            "metadata": {"name": f"one{at}", **({"namespace": namespace} if namespace else {})},
            "spec": spec,
        }
        for at, (kind, spec) in enumerate(parts)
    ]
    return checked("istio", "\n---\n".join(json.dumps(each, indent=1) for each in documents))


def tokens(**keys: Any) -> dict[str, Any]:
    rule = {"issuer": ISSUER, "jwks": json.dumps({"keys": [jwk(key())]}), **keys}
    return {**APP, "jwtRules": [rule]}


def policy(*rules: dict[str, Any], action: str = "ALLOW", **keys: Any) -> tuple[str, dict[str, Any]]:
    return "AuthorizationPolicy", {**APP, "action": action, "rules": list(rules), **keys}


def beside(*parts: tuple[str, dict[str, Any]]) -> dict[str, Any]:
    """Return the route beside the workload."""
    found = objects(*parts)
    assert [one["listener"] for one in found.policy["routes"]] == ["inbound-app"]
    return found.route()


TOKENS: tuple[str, dict[str, Any]] = ("RequestAuthentication", tokens())


def test_a_token_is_checked_but_not_demanded() -> None:
    found = objects(TOKENS)
    assert found.route()["authenticate"] == {"any_of": ["one0"], "optional": True, "forward": {"credentials": "drop"}}
    assert "authorize" not in found.route()
    assert found.route()["transform"] == {"request": {"query": {"remove": ["access_token"]}}}
    assert found.policy["upstreams"]["app-beside"]["endpoints"] == ["http://127.0.0.1:8080"]
    identity = found.policy["identities"]["one0"]["jwt"]
    assert (identity["issuer"], identity["leeway"], "keys" in identity) == (ISSUER, "60s", True)


def test_what_the_upstream_learns_of_a_token() -> None:
    claims = [{"header": "x-sub", "claim": "sub"}, {"header": "x-deep", "claim": "a.b"}]
    route = beside(("RequestAuthentication", tokens(
        forwardOriginalToken=True, outputClaimToHeaders=claims, outputPayloadToHeader="x-payload",
        fromHeaders=[{"name": "Authorization", "prefix": "Bearer "}], audiences=["orders"], timeout="3s")))  # fmt: skip
    assert route["authenticate"]["forward"] == {"claims": {"sub": "x-sub"}}
    assert route["transform"] == {"request": {"headers": {"remove": ["x-payload", "x-deep"]}}}


UNKNOWN_TOKENS: list[dict[str, Any]] = [
    {"fromHeaders": [{"name": "x-jwt"}]}, {"fromParams": ["token"]}, {"fromCookies": ["token"]}, {"issuer": ""},
    {"jwks": "{"}, {"jwks": '{"keys": [{"kty": "EC"}]}'},
]  # fmt: skip


@each(UNKNOWN_TOKENS)
def test_a_token_without_an_equal_refuses(keys: dict[str, Any]) -> None:
    assert beside(("RequestAuthentication", tokens(**keys)))["authorize"] == REFUSES


JWT = f"has(caller.claims['iss']) && caller.claims['iss'] == '{ISSUER}'"
SUB = f"{JWT} && has(caller.claims['sub']) && caller.claims['sub']"
SPIFFE = "has(caller.claims['uri'])"


def source(**keys: Any) -> dict[str, Any]:
    return {"from": [{"source": keys}]}


def operation(**keys: Any) -> dict[str, Any]:
    return {"to": [{"operation": keys}]}


def when(key: str, *values: str, **keys: Any) -> dict[str, Any]:
    return {"when": [{"key": key, **({"values": list(values)} if values else {}), **keys}]}


CONDITIONS: list[tuple[dict[str, Any], Any]] = [
    (operation(methods=["GET", "P*"]), ["request.method == 'GET'", "request.method.startsWith('P')"]),
    (operation(paths=["/a/*"]), "request.path.startsWith('/a/')"),
    (operation(paths=["*.html"]), "request.path.endsWith('.html')"),
    (operation(paths=["/a/{*}/b"]), "request.path.matches('^/a/[^/]+/b$')"),
    (operation(paths=["/a/{**}"]), "request.path.matches('^/a/.*$')"),
    (operation(notPaths=["/a"]), "!(request.path == '/a')"),
    (operation(hosts=["A.example"]), "request.host == 'a.example'"),
    (operation(hosts=["*.example"]), "request.host.endsWith('.example')"),
    (operation(methods=["GET"], paths=["/a"]), "request.method == 'GET' && request.path == '/a'"),
    (source(ipBlocks=["10.0.0.0/8"]), {"networks": ["10.0.0.0/8"]}),
    (source(notIpBlocks=["10.0.0.1"]), [{"deny": {"networks": ["10.0.0.1"]}}, {"allow": {}}]),
    (source(requestPrincipals=["*"]), "has(caller.claims['iss'])"),
    (source(requestPrincipals=[f"{ISSUER}/alice"]), f"{SUB} == 'alice'"),
    (source(requestPrincipals=[f"{ISSUER}/*"]), JWT),
    (source(requestPrincipals=["https://*"]), JWT),
    (source(requestPrincipals=["*/alice"]), f"{JWT} && ((has(caller.claims['sub']) && "
     "caller.claims['sub'].endsWith('/alice')) || (has(caller.claims['sub']) && caller.claims['sub'] == 'alice'))"),
    (source(notRequestPrincipals=["*"]), "!(has(caller.claims['iss']))"),
    (when("request.headers[X-A]", "1"), "'x-a' in request.headers && request.headers['x-a'] == '1'"),
    (when("request.headers[x]", "*"), "'x' in request.headers"),
    (when("request.headers[x]", notValues=["1"]), "!('x' in request.headers && request.headers['x'] == '1')"),
    (when("request.auth.claims[group]", "a"), [
        "has(caller.claims['group']) && caller.claims['group'] == 'a'",
        "has(caller.claims['group'][0]) && 'a' in caller.claims['group']"]),
    (when("request.auth.claims[a][b]", "*"), "has(caller.claims['a']['b'])"),
    (when("request.auth.claims[group]", "a*"),
     "has(caller.claims['group']) && caller.claims['group'].startsWith('a')"),
    (when("request.auth.presenter", "cli"), [
        "has(caller.claims['azp']) && caller.claims['azp'] == 'cli'",
        "has(caller.claims['azp'][0]) && 'cli' in caller.claims['azp']"]),
    (when("source.ip", "10.0.0.0/8"), {"networks": ["10.0.0.0/8"]}),
    ({}, None),
]  # fmt: skip


@each(CONDITIONS)
def test_a_condition(case: tuple[dict[str, Any], Any]) -> None:
    wanted = case[1] if isinstance(case[1], list) else [] if case[1] is None else [case[1]]
    rules = [{"allow": {"when": one}} if isinstance(one, str) else one if "deny" in one or "allow" in one
             else {"allow": one} for one in wanted]  # fmt: skip
    assert beside(TOKENS, policy(case[0])).get("authorize", []) == rules


NO_EQUAL: list[dict[str, Any]] = [
    source(remoteIpBlocks=["10.0.0.0/8"]), source(ipBlocks=["somewhere"]), operation(ports=["80"]),
    source(principals=["cluster.local/ns/a/sa/b"]), source(unknown=["a"]), when("connection.sni", "a"),
    when("destination.port", "80"), operation(hosts=["x"], ports=["80"]), when("request.headers[:path]", "/a"),
]  # fmt: skip


@each(NO_EQUAL)
def test_a_condition_without_an_equal_lets_nobody_pass(rule: dict[str, Any]) -> None:
    found = objects(TOKENS, policy(rule))
    assert found.route()["authorize"] == REFUSES
    assert found.said("the condition lets nobody pass here")
    other = operation(methods=["GET"])
    assert beside(TOKENS, policy(rule, other))["authorize"] == [{"allow": {"when": "request.method == 'GET'"}}]
    denied = beside(TOKENS, policy(rule, action="DENY"))["authorize"]
    assert denied == ([{"allow": {"when": "!(request.host == 'x')"}}] if rule == NO_EQUAL[-2] else REFUSES)


def test_scopes_are_words() -> None:
    (rules,) = [each["allow"]["when"] for each in beside(TOKENS, policy(when("request.auth.claims[scope]", "a")))[
        "authorize"] if "startsWith('a ')" in each["allow"]["when"]]  # fmt: skip
    assert rules == "has(caller.claims['scope']) && !has(caller.claims['scope'][0]) && " \
        "caller.claims['scope'].startsWith('a ')"  # fmt: skip


def test_deny_counts_before_allow() -> None:
    both = beside(policy(operation(paths=["/a"])), policy(operation(methods=["PUT"]), action="DENY"))
    assert both["authorize"] == [{"allow": {"when": "request.path == '/a' && !(request.method == 'PUT')"}}]
    alone = beside(policy(operation(methods=["PUT"]), action="DENY"))
    assert alone["authorize"] == [{"allow": {"when": "!(request.method == 'PUT')"}}]
    assert beside(policy())["authorize"] == REFUSES, "a policy without rules allows nothing"
    demand = beside(TOKENS, policy(source(notRequestPrincipals=["*"]), action="DENY"))
    assert demand["authorize"] == [{"allow": {"when": "has(caller.claims['iss'])"}}]
    many = beside(policy(operation(paths=["/a"])), policy(operation(paths=["/b"])))
    assert [rule["allow"]["when"] for rule in many["authorize"]] == ["request.path == '/a'", "request.path == '/b'"]


def test_a_dry_run() -> None:
    meta = {"name": "a", "annotations": {"istio.io/dry-run": "true"}}
    dry = {"kind": "AuthorizationPolicy", "metadata": meta, "spec": policy(operation(paths=["/a"]))[1]}
    whole = {"kind": "AuthorizationPolicy", "metadata": {"name": "b"}, "spec": policy(operation(methods=["PUT"]))[1]}
    found = checked("istio", "\n---\n".join(json.dumps(each, indent=1) for each in (dry, whole)))
    assert found.route()["authorize"] == [{"allow": {"when": "request.method == 'PUT'"}}]
    assert found.said("`dry run` refuses nothing")


def test_other_actions() -> None:
    found = objects(TOKENS, policy(operation(paths=["/a"]), action="AUDIT"))
    assert "authorize" not in found.route()
    assert found.said("`AUDIT` refuses nothing")
    assert (
        beside(TOKENS, policy(operation(paths=["/a"]), action="CUSTOM", provider={"name": "x"}))["authorize"] == REFUSES
    )


# ----- certificates of the mesh

MESH: list[tuple[dict[str, Any], str]] = [
    (source(principals=["cluster.local/ns/a/sa/b"]), f"{SPIFFE} && caller.id == 'spiffe://cluster.local/ns/a/sa/b'"),
    (source(principals=["*/sa/b"]), f"{SPIFFE} && caller.id.endsWith('/sa/b')"), (source(principals=["*"]), SPIFFE),
    (source(namespaces=["a"]), f"{SPIFFE} && caller.id.matches('^spiffe://[^/]+/ns/a/sa/')"),
    (source(serviceAccounts=["a/b"]), f"{SPIFFE} && caller.id.matches('^spiffe://[^/]+/ns/a/sa/b$')"),
]  # fmt: skip


@each(MESH)
def test_a_workload_as_the_caller(case: tuple[dict[str, Any], str]) -> None:
    found = objects(policy(case[0]))
    assert found.policy["identities"] == {"mesh": {"certificate": {"spiffe": "spiffe://*/ns/*/sa/*"}}}
    assert found.route()["authenticate"] == {"any_of": ["mesh"], "optional": True}
    assert found.route()["authorize"] == [{"allow": {"when": case[1]}}]


def peers(mode: str) -> tuple[str, dict[str, Any]]:
    return "PeerAuthentication", {**APP, "mtls": {"mode": mode}}


def test_certificates_of_all_callers() -> None:
    found = objects(peers("STRICT"))
    assert found.route()["authenticate"] == {"any_of": ["mesh"]}
    assert found.said("add `tls: {cert, key, client_ca}` to the listener")
    assert beside(TOKENS, peers("STRICT"))["authorize"] == REFUSES
    assert "authorize" not in beside(TOKENS, peers("PERMISSIVE"))


# ----- the routes that policies hold for


def virtual(host: str = "app", gateway: str = "edge", **keys: Any) -> tuple[str, dict[str, Any]]:
    route = {"route": [{"destination": {"host": host}}], **keys}
    return "VirtualService", {"hosts": ["*" if gateway else host], "gateways": [gateway or "mesh"], "http": [route]}


GATEWAY = ("Gateway", {"selector": {"istio": "ingressgateway"},
                       "servers": [{"port": {"number": 80, "protocol": "HTTP"}, "hosts": ["*"]}]})  # fmt: skip
PATH = operation(paths=["/a"])
ALLOWED = [{"allow": {"when": "request.path == '/a'"}}]
HOLDS: list[tuple[tuple[tuple[str, dict[str, Any]], ...], Any]] = [
    ((virtual(gateway="one1"), GATEWAY, policy(PATH)), ALLOWED),
    ((virtual(gateway="one1", host="other"), GATEWAY, policy(PATH)), None),
    ((virtual(gateway="one1"), GATEWAY, policy(PATH, selector={"matchLabels": {"version": "v1"}})), REFUSES),
    ((virtual(gateway="one1"), GATEWAY, policy(PATH), policy(PATH, selector={"matchLabels": {"version": "v1"}})),
     ALLOWED),
    ((virtual(gateway="one1"), GATEWAY, policy(PATH, action="DENY", selector={"matchLabels": {"version": "v1"}})),
     [{"allow": {"when": "!(request.path == '/a')"}}]),
    ((virtual(gateway="one1"), GATEWAY, policy(PATH, selector=None)), ALLOWED),
    ((virtual(gateway="one1"), GATEWAY, policy(PATH, selector=None, targetRefs=[{"kind": "Service", "name": "app"}])),
     ALLOWED),
    ((virtual(gateway="one1"), GATEWAY, policy(PATH, selector=None, targetRefs=[{"kind": "Service", "name": "b"}])),
     None),
    ((virtual(gateway="one1"), GATEWAY, policy(source(ipBlocks=["10.0.0.0/8"]))), REFUSES),
    ((virtual(gateway="one1", rewrite={"uri": "/b"}), GATEWAY, policy(PATH)), REFUSES),
    ((virtual(gateway=""), policy(PATH)), ALLOWED), ((virtual(gateway="", host="other"), policy(PATH)), None),
    ((virtual(gateway="other"), policy(PATH)), ALLOWED),
]  # fmt: skip


@each(HOLDS)
def test_the_routes_that_a_policy_holds_for(case: tuple[tuple[tuple[str, dict[str, Any]], ...], Any]) -> None:
    assert objects(*case[0]).route().get("authorize") == case[1]


def test_policies_of_gateways() -> None:
    documents = [
        {"kind": "Gateway", "metadata": {"name": "edge"}, "spec": GATEWAY[1]},
        {"kind": "VirtualService", "metadata": {"name": "app"}, "spec": virtual()[1]},
        {"kind": "RequestAuthentication", "metadata": {"name": "jwt", "namespace": "istio-system"},
         "spec": {**tokens(), **EDGE}},
        {"kind": "AuthorizationPolicy", "metadata": {"name": "net", "namespace": "istio-system"},
         "spec": {**EDGE, "rules": [source(ipBlocks=["10.0.0.0/8"], requestPrincipals=["*"])]}},
    ]  # fmt: skip
    found = checked("istio", "\n---\n".join(json.dumps(each, indent=1) for each in documents))
    (route,) = found.policy["routes"]
    assert route["authorize"] == [{"allow": {"networks": ["10.0.0.0/8"], "when": "has(caller.claims['iss'])"}}]
    assert route["authenticate"]["any_of"] == ["jwt"]
    documents[3]["spec"] = {**EDGE, "rules": [source(remoteIpBlocks=["10.0.0.0/8"])]}
    found = checked("istio", "\n---\n".join(json.dumps(each, indent=1) for each in documents))
    assert found.route()["authorize"] == REFUSES
    assert found.said("name them in `trusted_proxies` of the listener")


def test_a_proxy_on_the_way_passes_the_token_on() -> None:
    found = objects(virtual(gateway="one1"), GATEWAY, TOKENS, policy(source(requestPrincipals=["*"])))
    ahead, inbound = found.policy["routes"]
    assert ahead["authenticate"] == {"any_of": ["one2"], "optional": True}
    assert inbound["authenticate"]["forward"] == {"credentials": "drop"}
    assert ahead["authorize"] == inbound["authorize"] == [{"allow": {"when": "has(caller.claims['iss'])"}}]


def test_a_service_of_the_file_tells_labels_and_port() -> None:
    service = ("Service", {"selector": {"role": "shop"}, "ports": [{"port": 80, "targetPort": 9080}]})
    labels = {"matchLabels": {"role": "shop"}}
    found = objects(service, virtual(gateway="", host="one0"), policy(PATH, selector=labels))
    assert found.route()["authorize"] == ALLOWED
    named = objects(service, policy(PATH, selector=None, targetRefs=[{"kind": "Service", "name": "one0"}]))
    assert named.upstream("one0-beside")["endpoints"] == ["http://127.0.0.1:9080"]


def test_an_extension_that_keeps_requests_out() -> None:
    filters = {"configPatches": [{"patch": {"value": {"name": "envoy.filters.http.ext_authz"}}}]}
    for kind, spec in (("EnvoyFilter", filters), ("WasmPlugin", {"phase": "AUTHN"})):
        assert objects(virtual(gateway=""), (kind, spec)).route()["authorize"] == REFUSES
    other = ("EnvoyFilter", {"configPatches": [{"patch": {"value": {"name": "envoy.filters.http.lua"}}}]})
    assert "authorize" not in objects(virtual(gateway=""), other).route()


def test_a_guarded_route_that_is_left_out_opens_nothing() -> None:
    odd = {"match": [{"uri": {"prefix": "/a"}, "ignoreUriCase": True}], "route": [{"destination": {"host": "app"}}]}
    rest = {"route": [{"destination": {"host": "other"}}]}
    spec = {"hosts": ["a.example"], "gateways": ["edge"], "http": [odd, rest]}
    found = objects(("VirtualService", spec), policy(PATH))
    assert found.route()["authorize"] == REFUSES
    assert found.said("has access rules and is left out")
