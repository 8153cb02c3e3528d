"""Tests of `sidecar import nginx`: its grammar, what each directive becomes, and what is reported."""

from __future__ import annotations

from typing import Any

import pytest

from sidecar.imports.findings import Findings, TranslationError
from sidecar.imports.nginx.grammar import MOST_TEXT, read_directives
from sidecar.imports.translate import translate
from tests.support.cases import each
from tests.unit.imports.checked import Checked, checked
from tests.unit.imports.test_envoy import at

TWO = "upstream app { server a:1; server b:2; }"


def nginx(
    location: str = "", upstream: str = TWO, server: str = "", head: str = "location /", outer: str = ""
) -> Checked:
    return checked(
        "nginx",
        f"http {{ {outer}\n{upstream}\n"
        f"server {{ listen 8080; {server}\n{head} {{ proxy_pass http://app; {location} }} }} }}",
    )


@each([
    ("", "timeout", {"request": "off", "attempt": "60s", "idle": "60s"}),
    ("proxy_read_timeout 500ms;", "timeout.attempt", "500ms"),
    ("proxy_read_timeout 1m30s;", "timeout.idle", "90s"),
    ("", "retry.max_attempts", 2),
    ("", "retry.on", ["connect_failure", "reset", "timeout"]),
    ("proxy_next_upstream off;", "retry", None),
    ("proxy_next_upstream_tries 1;", "retry", None),
    ("proxy_next_upstream http_503 http_429 non_idempotent;", "retry.on", [503, 429]),
    ("proxy_next_upstream error non_idempotent;", "retry.methods",
     ["GET", "HEAD", "OPTIONS", "PUT", "DELETE", "POST", "PATCH"]),
    ("", "transform.request.host", "app"),
    ("proxy_set_header Host $http_host;", "transform", None),
    ("proxy_set_header Host api.example;", "transform.request.host", "api.example"),
    ("proxy_set_header Host $host; proxy_set_header X-A \"b {c}\";", "transform.request.headers.set",
     {"x-a": "b {{c}}"}),
    ("proxy_set_header Host $host; proxy_set_header X-Real-IP $remote_addr;", "transform.request.headers.set",
     {"x-real-ip": "{client.address}"}),
    ("proxy_set_header X-A ''; proxy_set_header X-B \"\";", "transform.request.headers.remove", ["x-a", "x-b"]),
    ("proxy_hide_header X-Powered-By;", "transform.response.headers.remove", ["x-powered-by"]),
    ("proxy_set_header Host $host; proxy_set_header Content-Length \"\"; proxy_set_header X-A b;",
     "transform.request", {"headers": {"set": {"x-a": "b"}}}),
    ("add_header X-A b always;", "transform.response.headers.add", {"x-a": "b"}),
])  # fmt: skip
def test_a_directive_of_a_location(case: tuple[str, str, Any]) -> None:
    assert at(nginx(case[0]).route(), case[1]) == case[2]


@each([
    ("server a:1; server b;", "endpoints", ["http://a:1", "http://b:80"]),
    ("server a weight=3; server b;", "endpoints",
     [{"url": "http://a:80", "weight": 3}, {"url": "http://b:80", "weight": 1}]),
    ("server a; server b; least_conn;", "load_balancing", "least_request"),
    ("server a; server b;", "load_balancing", "round_robin"),
    ("server a; server b; hash $http_x_user;", "load_balancing", {"hash": {"header": "x-user"}}),
    ("server a; server b; ip_hash;", "load_balancing", {"hash": {}}),
    ("server a;", "ejection", None),
    ("server a max_fails=0; server b max_fails=0;", "ejection", None),
    ("server a max_fails=3 fail_timeout=30s; server b max_fails=3 fail_timeout=30s;",
     "ejection.consecutive_failures", 3),
    ("server a max_fails=3 fail_timeout=30s; server b max_fails=3 fail_timeout=30s;", "ejection.eject_for", "30s"),
    ("server a max_conns=7; keepalive_timeout 5s; keepalive_requests 9;", "connections",
     {"max": 7, "idle_timeout": "5s", "max_requests": 9}),
    ("server a; server b down; server c backup;", "endpoints", ["http://a:80"]),
])  # fmt: skip
def test_an_upstream(case: tuple[str, str, Any]) -> None:
    assert at(nginx(upstream=f"upstream app {{ {case[0]} }}").upstream("app"), case[1]) == case[2]


@each([
    ("location /", None),
    ("location /a", {"path_prefix": "/a"}),
    ("location ^~ /a/", {"path_prefix": "/a/"}),
    ("location = /a", {"path": "/a"}),
    ("location ~ ^/v[12]/", {"path_regex": "(?:^/v[12]/).*"}),
    ("location ~ \\.json$", {"path_regex": ".*(?:\\.json)"}),
])  # fmt: skip
def test_a_location(case: tuple[str, dict[str, Any] | None]) -> None:
    found = nginx(head=case[0]).route().get("match")
    assert found == case[1] or (found is not None and case[1] is not None and found.keys() == case[1].keys())


def test_paths_hosts_and_listeners() -> None:
    found = checked("nginx", """
    server { listen 80; listen [::]:80; location /a/ { proxy_pass http://h:9/b/; } }
    server { listen 80; listen 443 ssl; server_name x.example *.y.example ~^z;
             ssl_certificate /c; ssl_certificate_key /k;
             location / { proxy_pass https://h:9; } location /s { return 200; } }
    """)  # fmt: skip
    assert {name: keys["address"] for name, keys in found.policy["listeners"].items()} == {
        "inbound": "0.0.0.0:80",
        "port-443": "0.0.0.0:443",
    }
    assert found.policy["listeners"]["port-443"]["tls"] == {"cert": "/c", "key": "/k"}
    assert found.route()["transform"]["request"]["path_prefix"] == {"/a": "/b"}
    hosts = [(route["listener"], at(route, "match.host")) for route in found.policy["routes"]]
    assert hosts[:4] == [("inbound", None), ("inbound", "x.example"), ("inbound", "*.y.example"), ("port-443", None)]
    closed = [
        (route["listener"], route["match"].get("host"), route["authorize"]) for route in found.policy["routes"][4:]
    ]
    assert closed == [("inbound", "x.example", REFUSES), ("inbound", "*.y.example", REFUSES),
                      ("port-443", None, REFUSES)], "no other route takes /s"  # fmt: skip
    assert found.upstream("h-9-tls")["tls"] == {"verify": False}
    assert found.said("~^z has no equal")
    assert found.said("location /s: answers without `proxy_pass`")


def test_a_return_comes_before_a_proxy_pass() -> None:
    found = nginx(server="location /x/ { return 403; proxy_pass http://app; }")
    rules = {each.get("match", {}).get("path_prefix"): each.get("authorize") for each in found.policy["routes"]}
    assert rules == {None: None, "/x/": REFUSES}
    found = checked(
        "nginx",
        """server { listen 80; location / { proxy_pass http://a; } }
        server { listen 80; server_name x.example; return 301 https://x.example; location / { proxy_pass http://b; } }
    """,
    )
    rules = {each.get("match", {}).get("host"): each.get("authorize") for each in found.policy["routes"]}
    assert rules == {None: None, "x.example": REFUSES}


def test_a_variable_with_a_constant_value() -> None:
    server = "set $next http://b:9; location /x { proxy_pass $next; } location /y { proxy_pass $next/z; }"
    found = nginx(server=server)
    assert found.route()["upstream"] == "b-9"
    assert found.said("location /y: its `proxy_pass` is not translated")


def test_rates() -> None:
    zone = "limit_req_zone $binary_remote_addr zone=one:10m rate=10r/s; limit_conn_zone $server_name zone=all:1m;"
    found = nginx("limit_req zone=one burst=5 nodelay; limit_conn all 7;", outer=zone).route()
    assert found["rate_limit"] == [
        {"name": "one", "rate": "10/s", "burst": 5, "key": "client.address", "ipv6_prefix": 128}
    ]
    assert found["concurrency"] == {"max": 7}
    delayed = nginx("limit_req zone=one burst=5;", outer=zone).route()["rate_limit"][0]
    assert (delayed["burst"], delayed["delay"]) == (0, {"max": "500ms"})
    large = nginx("limit_req zone=one burst=1234567 nodelay;", outer=zone).route()["rate_limit"][0]
    assert large["burst"] == 1_000_000


@each([
    ("$remote_addr", "client.address", ""), ("$http_x_forwarded_for", "client.address", "`trusted_proxies` state"),
    ("$http_x_real_ip", "client.address", "`trusted_proxies` state"), ("$http_host", "none", ""),
    ("$http_x_tenant", "header.x-tenant", "requests without the field share one count here"),
])  # fmt: skip
def test_limits_count_by_what_requests_have_here(case: tuple[str, str, str]) -> None:
    """Listeners take `Host` and what proxies say of the client, so that no key finds these fields."""
    variable, key, difference = case
    found = nginx("limit_req zone=one nodelay;", outer=f"limit_req_zone {variable} zone=one:10m rate=10r/s;")
    (limit,) = found.route()["rate_limit"]
    assert limit.get("key", "none") == key
    assert limit.get("ipv6_prefix") == (128 if key == "client.address" else None)
    assert not difference or found.said(difference)


def test_every_zone_is_the_name_of_a_limit() -> None:
    zones = ("_api", "a b", "a+b", "z" * 80)
    outer = "".join(f"limit_req_zone $remote_addr 'zone={each}:10m' rate=10r/s; " for each in zones)
    found = nginx("".join(f"limit_req 'zone={each}' nodelay; " for each in zones), outer=outer)
    assert [each["name"] for each in found.route()["rate_limit"]] == ["zone_api", "a-b", "a-b-2", "z" * 50]


def test_directives_hold_for_the_blocks_within() -> None:
    found = nginx(server="proxy_read_timeout 3s;", outer="proxy_read_timeout 9s; proxy_connect_timeout 2s;")
    assert found.route()["timeout"]["attempt"] == "3s"
    assert found.upstream("app")["connect_timeout"] == "2s"


@each([
    ("proxy_buffering off;", "proxy_buffering off: has no equal here"),
    ("if ($x) { return 400; }", "if ($x): has a condition without an equal here; the condition lets nobody pass here"),
    ("if ($x) { set $y 1; }", "if ($x): has no equal here"),
    ("proxy_set_header X-Client $ssl_client_s_dn;", "has a variable without an equal"),
    ("auth_request /a;", "auth_request /a: its location is not in the file; keeps requests out there"),
    ("include a.conf;", "include a.conf: is not read"),
    ("proxy_next_upstream_timeout 3s;", "write `timeout.request`"),
    ("content_by_lua_block { if a then { } end }", "content_by_lua_block: has no equal here"),
    ("limit_req zone=gone;", "limit_req zone=gone: its zone is not in the file"),
    ("proxy_set_header X-A $ssl_client_s_dn;", "has a variable without an equal"),
    ("error_page 500 /e;", "error_page 500 /e: has no equal here"),
])  # fmt: skip
def test_nothing_is_lost_silently(case: tuple[str, str]) -> None:
    assert nginx(case[0]).said(f"source:3: not translated: {case[1]}") or nginx(case[0]).said(case[1])


def test_the_grammar() -> None:
    root = read_directives(Findings("f"), 'a \'b;{\' "c\\"d" ${e}f; # g;\nh { i\n j\\;k; }')
    first, second = root.block
    assert (first.name, first.words, first.line) == ("a", ["b;{", 'c"d', "${e}f"], 1)
    assert (second.name, second.block[0].words, second.block[0].line) == ("h", ["j\\;k"], 2)


@each([
    ("a b", "source:1: begins a directive that does not end"),
    ("a {\nb;", "source:1: begins a directive that does not end"),
    ("a;\n}", "source:2: has a `}` too early"),
    ("a { b }", "source:1: has a `}` too early"),
    (";", "source:1: has a `;` without a directive"),
    ("a 'b", "source:1: has a quote that does not end: 'b"),
    ("a_by_lua_block { {", "source:1: begins a block of Lua that does not end"),
    ("a {" * 100, "source:1: has more than 40 blocks within each other"),
    ("#" * (MOST_TEXT + 1), "source: has more than"),
    ("events {}", "source: has nothing that `sidecar import nginx` translates"),
    ("server { location / { proxy_pass; } }", "source:1: proxy_pass: has 0 arguments; 1 would be right"),
    ("server { location { proxy_pass http://a; } }", "source:1: location: has 0 arguments"),
    ("server { location / { proxy_pass http://a; proxy_read_timeout x; } }", "has no time such as 30s or 1m"),
    ("upstream a { server b weight=x; } ", "has the weight `x`"),
    ("upstream a { server b max_fails=x; server c; } ", "has `max_fails=x`"),
    ("upstream { server b; } ", "source:1: upstream: has 0 arguments"),
])  # fmt: skip
def test_a_wrong_file(case: tuple[str, str]) -> None:
    with pytest.raises(TranslationError) as raised:
        translate("nginx", "source", case[0])
    assert str(raised.value).startswith(case[1]) or case[1] in str(raised.value)
    assert "\n" not in str(raised.value)


REFUSES = [{"deny": {"networks": ["0.0.0.0/0", "::/0"]}}]


def allowed(**conditions: Any) -> list[dict[str, Any]]:
    return [{"allow": conditions}]


@each([
    ("auth_basic 'x';", REFUSES), ("auth_request /a;", REFUSES), ("internal;", REFUSES), ("auth_basic off;", None),
    ("limit_except GET { deny all; }", allowed(when="request.method in ['GET', 'HEAD']")),
    ("limit_except PUT { allow 10.0.0.0/8; deny all; } allow 192.0.2.1; deny all;",
     [{"allow": {"networks": ["192.0.2.1"], "when": "request.method in ['PUT']"}},
      {"allow": {"networks": ["10.0.0.0/8"], "when": "!(request.method in ['PUT'])"}}]),
    ("limit_except GET { auth_basic 'x'; }", allowed(when="request.method in ['GET', 'HEAD']")),
    ("if ($http_key != 'x') { return 403; }",
     allowed(when="'key' in request.headers && request.headers['key'] == 'x'")),
    ("if ($http_key = \"\") { return 401; }",
     allowed(when="'key' in request.headers && !('key' in request.headers && request.headers['key'] == '')")),
    ("if ( $request_method !~ ^(GET|POST)$ ) { return 405; }", allowed(when="request.method.matches('^(GET|POST)$')")),
    ("if ($http_user_agent ~* bad[a-c]) { return 403; }",
     allowed(when="!('user-agent' in request.headers && "
                  "request.headers['user-agent'].matches('[bB][aA][dD][a-cA-C]'))")),
    ("if ($http_user_agent ~* (a+)+) { return 403; }", REFUSES), ("if ($geoip = x) { return 403; }", REFUSES),
    ("allow 192.0.2.0/24; deny all;", allowed(networks=["192.0.2.0/24"])),
    ("deny 192.0.2.1; allow all;", [{"deny": {"networks": ["192.0.2.1"]}}, {"allow": {}}]),
    ("deny 192.0.2.1; allow 192.0.2.0/24; deny all;",
     [{"deny": {"networks": ["192.0.2.1"]}}, {"allow": {"networks": ["192.0.2.0/24"]}}]),
    ("allow 192.0.2.0/30; deny 192.0.2.0/29; allow 192.0.2.0/28; deny all;",
     [{"allow": {"networks": ["192.0.2.0/30"]}}, {"allow": {"networks": ["192.0.2.8/29"]}}]),
    ("deny unix:; allow all;", None), ("allow somewhere; deny all;", REFUSES), ("deny somewhere; allow all;", REFUSES),
    ("allow all;", None), ("deny all;", REFUSES), ("allow 192.0.2.0/24; deny all; auth_basic 'x';", REFUSES),
    ("set_real_ip_from 10.0.0.0/8; allow 192.0.2.0/24; deny all;", REFUSES),
])  # fmt: skip
def test_who_may_pass(case: tuple[str, Any]) -> None:
    assert nginx(case[0]).route().get("authorize") == case[1]


def test_the_proxies_in_front_are_those_of_the_listener() -> None:
    proxies = "set_real_ip_from 10.0.0.0/8; real_ip_header X-Forwarded-For; real_ip_recursive on;"
    found = nginx("allow 192.0.2.0/24; deny all;", outer=proxies)
    assert found.policy["listeners"]["inbound"]["trusted_proxies"] == ["10.0.0.0/8"]
    assert found.route()["authorize"] == allowed(networks=["192.0.2.0/24"])
    assert "trusted_proxies" not in nginx(server="set_real_ip_from 10.0.0.0/8;").policy["listeners"]["inbound"]


AUTH = """location = /auth {{ internal; proxy_pass http://10.0.0.9/check; proxy_pass_request_body off;
                              proxy_set_header Content-Length ""; {0} }}"""


def test_a_server_that_is_asked() -> None:
    location = """auth_request /auth; auth_request_set $who $upstream_http_x_user; proxy_set_header X-User $who;
                  auth_request_set $mail $upstream_http_x_mail; proxy_set_header X-Other $mail;"""
    own = "proxy_set_header X-Original-URI $request_uri; proxy_set_header X-Key $http_x_key; proxy_read_timeout 3s;"
    found = nginx(location, server=AUTH.format(own))
    assert found.route()["authenticate"] == {"any_of": ["external"]}
    assert found.policy["identities"]["external"] == {"external": {
        "url": "http://10.0.0.9/check", "append_path": False, "headers": ["authorization", "cookie", "x-key"],
        "forward": ["x-user"], "timeout": "3s"}}  # fmt: skip
    assert found.route()["transform"]["request"]["headers"]["remove"] == ["x-other"], "no client writes it itself"
    assert found.said("the field x-mail of the answer goes on under its own name alone")
    inner = "auth_request_set $who $upstream_http_x_user; set $check http://10.0.0.9/constant;"
    elsewhere = nginx("auth_request /auth; proxy_set_header X-User $who;",
                      server=AUTH.format(inner).replace("http://10.0.0.9/check", "$check"))  # fmt: skip
    assert elsewhere.policy["identities"]["external"]["external"]["forward"] == ["x-user"]
    assert nginx("auth_request /auth;", server=AUTH.format("").replace("= /auth", "^~ /auth")).policy["identities"]
    kept = nginx("auth_request /auth;", server=AUTH.format("proxy_set_header Host $http_host;"))
    assert kept.policy["identities"]["external"]["external"]["keep_host"] is True
    for wrong in ("proxy_set_header X-Role $role;", "proxy_set_header X-Original-URI $uri;"):
        assert nginx("auth_request /auth;", server=AUTH.format(wrong)).route()["authorize"] == REFUSES
    both = nginx("auth_request /auth; satisfy any; allow 10.0.0.0/8; deny all;", server=AUTH.format(""))
    assert both.route()["authorize"] == REFUSES


def test_a_location_that_denies_by_a_pattern_is_no_part_of_the_others() -> None:
    server = (
        "location ~ /\\.git { deny all; } location ~* \\.bak$ { return 404; } location /x { proxy_pass http://app; }"
    )
    server += " location = /y { proxy_pass http://app; } location ~ \\.(png|jpg)$ { root /srv; }"
    found = nginx(server=server)
    rules = {each["name"]: each.get("authorize") for each in found.policy["routes"]}
    condition = " && ".join(
        f"!(request.path.matches('{each}'))" for each in ("/\\\\.git", "\\\\.[bB][aA][kK]$", "\\\\.(png|jpg)$")
    )
    assert rules == {"x": allowed(when=condition), "y": None, "all": allowed(when=condition)}
    odd = nginx(server="location ~ (a+)+ { deny all; }")
    assert odd.route()["authorize"] == REFUSES, "a pattern that is not allowed here denies everything"
