"""Tests of requests that would reach other routes here than in the original."""

from __future__ import annotations

from typing import Any

from tests.support.cases import each
from tests.unit.imports.checked import Checked
from tests.unit.imports.test_envoy import envoy, routes
from tests.unit.imports.test_envoy_access import JWT, REFUSES, filters, jwt
from tests.unit.imports.test_nginx import nginx
from tests.unit.imports.test_traefik import traefik


def rules(found: Checked) -> dict[str, Any]:
    """Return the access rules of each route by its path."""
    matches = [(each.get("match", {}), each.get("authorize")) for each in found.policy["routes"]]
    return {match.get("path_prefix") or match.get("path") or "": rule for match, rule in matches}


ANSWERS: list[dict[str, Any]] = [
    {"direct_response": {"status": 403}}, {"redirect": {"https_redirect": True}}, {"route": {"cluster": "gone"}},
]  # fmt: skip


@each(ANSWERS)
def test_no_other_route_takes_the_requests_of_one_that_answers_by_itself(answer: dict[str, Any]) -> None:
    found = envoy(
        routes=[{"match": {"prefix": "/admin/"}, **answer}, {"match": {"prefix": "/"}, "route": {"cluster": "app"}}]
    )
    assert rules(found) == {"": None, "/admin/": REFUSES}
    alone = envoy(routes=[{"match": {"prefix": "/"}, **answer}, {"match": {"path": "/a"}, "route": {"cluster": "app"}}])
    assert "routes" not in alone.policy, "nobody would take its requests"


def test_a_location_without_an_upstream_is_closed() -> None:
    found = nginx(server="location /files/ { root /srv; } location /old { return 301 /new; }")
    assert rules(found) == {"": [{"allow": {"when": "!(request.path.startsWith('/old'))"}}],
                            "/files/": REFUSES, "/old": REFUSES}  # fmt: skip


OFF = {JWT: {"@type": "x.PerRouteConfig", "disabled": True}}
ALL = {"match": {"prefix": "/"}, "requires": {"provider_name": "corp"}}


def mixed(*matches: tuple[str, bool]) -> Checked:
    """Return routes by textual prefixes, of which some are open."""
    parts = [{"match": {"prefix": prefix}, "route": {"cluster": "app"},
              "typed_per_filter_config": OFF if is_open else {}} for prefix, is_open in matches]  # fmt: skip
    return envoy(manager=filters(jwt(ALL)), routes=parts)


def test_a_textual_prefix_with_access_rules() -> None:
    found = mixed(("/admin", False), ("/adminx", True), ("/", True))
    closed = [{"allow": {"when": "!(request.path.startsWith('/admin'))"}}]
    assert rules(found) == {"/admin": None, "/adminx": closed, "": closed}
    assert found.said("refuses /adminx here")
    several = rules(mixed(("/admin", False), ("/shop", True), ("/keys", False), ("/", True)))
    both = "!(request.path.startsWith('/admin')) && !(request.path.startsWith('/keys'))"
    assert several == {"/admin": None, "/shop": None, "/keys": None, "": [{"allow": {"when": both}}]}
    assert rules(mixed(("/admin/", False), ("/", True)))[""] is None, "whole segments mean the same"


def test_an_open_prefix_leaves_its_own_path_to_a_route_with_access_rules() -> None:
    found = mixed(("/public/", True), ("/", False))
    assert found.route()["match"] == {"path_prefix": "/public/", "when": "request.path.startsWith('/public/')"}
    assert mixed(("/public/", True), ("/other", False)).route()["match"] == {"path_prefix": "/public/"}


def test_a_guarded_route_that_cannot_be_matched_here() -> None:
    odd = {"match": {"safe_regex": {"regex": "/(a|aa)+(?=b)$"}}, "route": {"cluster": "app"}}
    rest = {"match": {"prefix": "/"}, "route": {"cluster": "app"}, "typed_per_filter_config": OFF}
    assert envoy(manager=filters(jwt(ALL)), routes=[odd, rest]).route()["authorize"] == REFUSES
    assert "authorize" not in routes({"safe_regex": {"regex": "/(a|aa)+(?=b)$"}}, {"prefix": "/"}).route()
    unknown = {"match": {"prefix": "/a", "runtime_fraction": {}}, "route": {"cluster": "app"}}
    assert envoy(manager=filters(jwt(ALL)), routes=[unknown, rest]).route()["authorize"] == REFUSES


def test_a_router_with_access_rules_that_cannot_be_read() -> None:
    near = {"near": {"ipAllowList": {"sourceRange": ["10.0.0.0/8"]}}}
    for rule, wanted in (("Host(`a`) && ClientIP(`1.1.1.1`)", REFUSES), ("Host(`b`) && ClientIP(`1.1.1.1`)", None)):
        odd = {"rule": rule, "service": "app", "middlewares": ["near"]}
        found = traefik(rule="Host(`a`)", routers={"odd": odd}, middlewares=near)
        assert found.route().get("authorize") == wanted


def test_addresses_that_clients_may_state_themselves() -> None:
    tls = (
        "listen 443 ssl; ssl_certificate /c; ssl_certificate_key /k; ssl_verify_client on; ssl_client_certificate /ca;"
    )
    found = nginx("allow 10.0.0.0/8; deny all;", server=tls)
    assert [one["authorize"] for one in found.policy["routes"]] == [
        [{"allow": {"networks": ["10.0.0.0/8"]}}], REFUSES]  # fmt: skip
    assert found.said("are trusted to state another address here")
