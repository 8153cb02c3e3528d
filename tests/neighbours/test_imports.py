"""Tests of `sidecar import` beside the original: same requests and faults, same statuses and upstream requests."""

from __future__ import annotations

import asyncio
import json
from collections.abc import Awaitable, Callable
from datetime import UTC, datetime
from pathlib import Path
from string import Template
from typing import Any

import pytest

from chaos.parts.client import fetch
from chaos.parts.http import Message, response
from chaos.parts.servers import Connection, Server
from tests.neighbours.proxies import find, free_port, running
from tests.support.issuer import jwk, key, sign
from tests.support.process import PATIENCE, Sidecar
from tests.unit.imports.checked import checked

ENVOY = """
admin: {address: {socket_address: {address: 127.0.0.1, port_value: 0}}}
static_resources:
  listeners:
  - address: {socket_address: {address: 127.0.0.1, port_value: $port}}
    filter_chains:
    - filters:
      - name: envoy.filters.network.http_connection_manager
        typed_config:
          "@type": type.googleapis.com/envoy.extensions.filters.network.http_connection_manager.v3.HttpConnectionManager
          stat_prefix: all
          http_filters:
          - name: envoy.filters.http.router
            typed_config: {"@type": type.googleapis.com/envoy.extensions.filters.http.router.v3.Router}
          route_config:
            virtual_hosts:
            - name: all
              domains: ["*"]
              routes:
              - match: {prefix: /api/}
                route: {cluster: next, prefix_rewrite: /v2/, retry_policy: {retry_on: 5xx, num_retries: 2}}
              - match: {path: /slow}
                route: {cluster: next, timeout: 0.5s}
              - match: {prefix: /}
                route: {cluster: next, retry_policy: {retry_on: gateway-error, num_retries: 1}}
  clusters:
  - name: next
    connect_timeout: 5s
    type: STATIC
    load_assignment:
      cluster_name: next
      endpoints: [{lb_endpoints: [{endpoint: {address: {socket_address: {address: 127.0.0.1, port_value: $next}}}}]}]
"""
NGINX = """
worker_processes 1; master_process off; daemon off; pid $directory/pid; error_log $directory/log crit;
events { worker_connections 1024; }
http {
  access_log off; client_body_temp_path $directory/b; proxy_temp_path $directory/p;
  fastcgi_temp_path $directory/f; uwsgi_temp_path $directory/u; scgi_temp_path $directory/s;
  upstream next {
    server 127.0.0.1:$next max_fails=0; server 127.0.0.1:$other max_fails=0;
  }
  server {
    listen 127.0.0.1:$port;
    proxy_next_upstream error timeout http_500;
    location / { proxy_pass http://next; proxy_next_upstream error http_502 http_503 non_idempotent; }
    location /api/ { proxy_pass http://next/v2/; }
    location /slow { proxy_pass http://next; proxy_next_upstream off; proxy_read_timeout 500ms; }
  }
}
"""
ENVOY_ACCESS = """
admin: {address: {socket_address: {address: 127.0.0.1, port_value: 0}}}
static_resources:
  listeners:
  - address: {socket_address: {address: 127.0.0.1, port_value: $port}}
    filter_chains:
    - filters:
      - name: envoy.filters.network.http_connection_manager
        typed_config:
          "@type": type.googleapis.com/envoy.extensions.filters.network.http_connection_manager.v3.HttpConnectionManager
          stat_prefix: all
          http_filters:
          - name: envoy.filters.http.jwt_authn
            typed_config:
              "@type": type.googleapis.com/envoy.extensions.filters.http.jwt_authn.v3.JwtAuthentication
              providers:
                one:
                  issuer: https://id.example
                  audiences: [orders]
                  payload_in_metadata: claims
                  claim_to_headers: [{header_name: x-tenant, claim_name: tenant}]
                  local_jwks: {inline_string: '$keys'}
                two: {issuer: https://other.example, local_jwks: {inline_string: '$keys'}}
              rules:
              - match: {prefix: /open}
              - match: {prefix: /maybe/}
                requires: {requires_any: {requirements: [{provider_name: one}, {allow_missing: {}}]}}
              - match: {prefix: /either}
                requires: {requires_any: {requirements: [{provider_name: one}, {provider_name: two}]}}
              - match: {prefix: /}
                requires: {provider_name: one}
          - name: envoy.filters.http.rbac
            typed_config:
              "@type": type.googleapis.com/envoy.extensions.filters.http.rbac.v3.RBAC
              rules:
                action: DENY
                policies:
                  write:
                    permissions:
                    - and_rules:
                        rules:
                        - url_path: {path: {prefix: /admin}}
                        - not_rule: {header: {name: ":method", string_match: {exact: GET}}}
                    principals:
                    - not_id:
                        metadata:
                          filter: envoy.filters.http.jwt_authn
                          path: [{key: claims}, {key: tenant}]
                          value: {string_match: {exact: acme}}
                  place:
                    permissions: [{url_path: {path: {safe_regex: {regex: "/[a-z]+/near"}}}}]
                    principals: [{not_id: {direct_remote_ip: {address_prefix: 127.0.0.1, prefix_len: 32}}}]
                  field:
                    permissions: [{header: {name: x-test, string_match: {prefix: bad}}}]
                    principals: [{any: true}]
          - name: envoy.filters.http.local_ratelimit
            typed_config: {"@type": type.googleapis.com/envoy.extensions.filters.http.local_ratelimit.v3.LocalRateLimit,
                           stat_prefix: limit}
          - name: envoy.filters.http.router
            typed_config: {"@type": type.googleapis.com/envoy.extensions.filters.http.router.v3.Router}
          route_config:
            virtual_hosts:
            - name: all
              domains: ["*"]
              routes:
              - match: {prefix: /open/limited}
                route: {cluster: next}
                typed_per_filter_config:
                  envoy.filters.http.local_ratelimit:
                    "@type": type.googleapis.com/envoy.extensions.filters.http.local_ratelimit.v3.LocalRateLimit
                    stat_prefix: limit
                    token_bucket: {max_tokens: 3, tokens_per_fill: 1, fill_interval: 600s}
                    filter_enabled: {default_value: {numerator: 100}}
                    filter_enforced: {default_value: {numerator: 100}}
              - match: {prefix: /open/closed}
                direct_response: {status: 403}
              - match: {prefix: /}
                route: {cluster: next}
  clusters:
  - name: next
    connect_timeout: 5s
    type: STATIC
    load_assignment:
      cluster_name: next
      endpoints: [{lb_endpoints: [{endpoint: {address: {socket_address: {address: 127.0.0.1, port_value: $next}}}}]}]
"""
NGINX_ACCESS = """
worker_processes 1; master_process off; daemon off; pid $directory/pid; error_log $directory/log crit;
events { worker_connections 1024; }
http {
  access_log off; client_body_temp_path $directory/b; proxy_temp_path $directory/p;
  fastcgi_temp_path $directory/f; uwsgi_temp_path $directory/u; scgi_temp_path $directory/s;
  limit_req_zone $$binary_remote_addr zone=few:1m rate=1r/m;
  limit_req_status 429;
  server {
    listen 127.0.0.1:$port;
    location = /check {
      internal; proxy_pass http://127.0.0.1:$other/verify; proxy_pass_request_body off;
      proxy_set_header Content-Length ""; proxy_set_header X-Original-URI $$request_uri;
      proxy_set_header X-Original-Method $$request_method;
    }
    location / {
      proxy_pass http://127.0.0.1:$next; auth_request /check;
      auth_request_set $$user $$upstream_http_x_user; proxy_set_header X-User $$user;
    }
    location /open/ { proxy_pass http://127.0.0.1:$next; }
    location /near/ { proxy_pass http://127.0.0.1:$next; allow 127.0.0.1; deny all; }
    location /far/ { proxy_pass http://127.0.0.1:$next; deny 127.0.0.1; allow all; }
    location /mixed/ { proxy_pass http://127.0.0.1:$next; allow 127.0.0.2; deny 127.0.0.0/8; allow all; }
    location /read/ { proxy_pass http://127.0.0.1:$next; limit_except GET { deny all; } }
    location /field/ { proxy_pass http://127.0.0.1:$next; if ($$http_x_test ~ ^bad) { return 403; } }
    location /limited/ { proxy_pass http://127.0.0.1:$next; limit_req zone=few burst=2 nodelay; }
    location ~ \\.bak$$ { deny all; }
    location /gone/ { return 404; }
  }
}
"""
REQUESTS = [(method, path) for path in ("/200", "/500", "/503", "/api/500", "/api/404", "/reset", "/slow")
            for method in ("GET", "PUT", "POST") if path != "/slow" or method == "GET"]  # fmt: skip


async def answer(connection: Connection, asked: Message) -> None:
    """Answer with the status in the path, close without one, or let the client wait."""
    word = asked.target.rpartition("/")[2]
    if word == "reset":
        await connection.close()
    elif word == "slow":
        await asyncio.sleep(30)
    else:
        await connection.send(response(int(word), b"", [("Connection", "close")]))
        await connection.close()


async def told(address: str, servers: list[Server]) -> list[tuple[str, str, int, list[str]]]:
    """Return status and upstream requests of each request."""
    found = []
    for method, path in REQUESTS:
        for server in servers:
            server.requests.clear()
        got = await fetch(address, method, path)
        targets = sorted(f"{each.method} {each.target}" for server in servers for each in server.requests)
        found.append((method, path, got.status, targets))
    return found


def expected(kind: str, found: list[tuple[str, str, int, list[str]]]) -> list[tuple[str, str, int, list[str]]]:
    """Return the results of an original with the one documented difference: Envoy answers a reset with 503."""
    is_reset = [kind == "envoy" and path == "/reset" and status == 503 for _, path, status, _ in found]
    return [(row[0], row[1], 502 if reset else row[2], row[3]) for row, reset in zip(found, is_reset, strict=True)]


@pytest.mark.parametrize(("kind", "configuration"), [("envoy", ENVOY), ("nginx", NGINX)])
async def test_a_translation_does_the_same_as_the_original(kind: str, configuration: str, tmp_path: Path) -> None:
    if find(kind) is None:
        pytest.skip(f"{kind} is not installed")
    async with Server(answer) as one, Server(answer) as two:
        facts = {"port": free_port(), "next": one.port, "other": two.port}
        async with running(kind, configuration, facts, tmp_path):
            original = await told(f"127.0.0.1:{facts['port']}", [one, two])
        text = Template(configuration).substitute(facts, directory=tmp_path)
        policy = checked(kind, text).policy
        policy["listeners"]["inbound"]["address"] = "127.0.0.1:0"
        policy["admin"] = {"address": "127.0.0.1:0"}
        async with Sidecar(json.dumps(policy), tmp_path) as sidecar:
            assert await told(sidecar.inbound, [one, two]) == expected(kind, original)


def credentials() -> dict[str, str]:
    """Return values of Authorization: valid ones, and some that are wrong in one way each."""
    ends = int(datetime.now(UTC).timestamp()) + 3600
    claims: dict[str, dict[str, Any]] = {
        "valid": {}, "other tenant": {"tenant": "umbrella"}, "expired": {"exp": ends - 7200},
        "other issuer": {"iss": "https://other.example", "aud": None}, "stranger": {"iss": "https://third.example"},
        "other audience": {"aud": "payments"}, "not yet": {"nbf": ends},
    }  # fmt: skip
    found = {name: f"Bearer {sign(key(), {'exp': ends, **changes}).decode()}" for name, changes in claims.items()}
    forged = sign(key("EC", "two"), {"exp": ends}, kid="one").decode()
    return {**found, "missing": "", "forged": f"Bearer {forged}", "no token": "Bearer x", "basic": "Basic YTpi"}


Asked = tuple[str, str, str, str, str]
"""Source address, method, path, name of the credentials, and value of the field X-Test."""
LEARNED = ("x-user", "x-tenant", "authorization")
"""Fields that tell the upstream of a caller."""
NEAR, FAR = "127.0.0.1", "127.0.0.2"
ENVOY_ASKED: list[Asked] = [
    *((NEAR, "GET", path, name, "") for path in ("/200", "/open/200", "/maybe/200", "/either/200")
      for name in ("valid", "other tenant", "other issuer", "stranger", "other audience", "not yet", "expired",
                   "missing", "forged", "no token", "basic")),
    *((NEAR, method, "/admin/200", name, "") for method in ("GET", "PUT")
      for name in ("valid", "other tenant", "missing")),
    *((place, "GET", path, "valid", "") for place in (NEAR, FAR) for path in ("/a/near", "/a/b/near")),
    *((NEAR, "GET", path, "valid", value) for path in ("/200", "/open/200") for value in ("good", "bad", "badly")),
    *((NEAR, "GET", "/open/limited/200", "missing", "") for _ in range(5)),
    (NEAR, "GET", "/open/closed/200", "missing", ""), (NEAR, "GET", "/openly/200", "missing", ""),
]  # fmt: skip
NGINX_ASKED: list[Asked] = [
    *((NEAR, method, path, name, "") for method in ("GET", "PUT") for path in ("/200", "/open/200")
      for name in ("valid", "other tenant", "expired", "missing", "forged")),
    *((place, "GET", f"/{path}/200", "missing", "") for place in (NEAR, FAR) for path in ("near", "far", "mixed")),
    *((NEAR, method, "/read/200", "missing", "") for method in ("GET", "HEAD", "PUT", "DELETE")),
    *((NEAR, "GET", "/field/200", "missing", value) for value in ("", "good", "bad", "badly", "notbad")),
    *((NEAR, "GET", path, "valid", "") for path in ("/a.bak", "/open/a.bak", "/near/a.bak", "/gone/200", "/check")),
    *((NEAR, "GET", "/limited/200", "missing", "") for _ in range(5)),
]  # fmt: skip


def expected_access(kind: str, asked: Asked, code: int, fields: list[str]) -> tuple[int, list[str]]:
    """Return what an original says with the documented differences."""
    _, _, path, name, _ = asked
    if kind == "nginx" and code == 404:
        return 403, fields  # what nginx answers itself, the sidecar refuses
    if kind == "envoy" and name == "other audience" and code == 403:
        return 401, fields  # RFC 6750: the token is invalid
    if path == "/openly/200":
        return 401, []  # a textual prefix without a demand: whole segments here
    if path.startswith("/either/"):
        return code, [each for each in fields if not each.startswith("x-tenant")]  # a claim of one issuer of two
    if path.startswith("/maybe/") and name == "basic":
        return code, []  # no credentials go on where the token does not
    return code, fields


async def status(address: str, asked: Asked, authorization: str) -> int:
    """Send a request from an address and return its status."""
    source, method, path, _, value = asked
    host, _, port = address.rpartition(":")
    reader, writer = await asyncio.open_connection(host, int(port), local_addr=(source, 0))
    fields = [f"{method} {path} HTTP/1.1", "Host: shop.example", "Connection: close", "X-User: root", "X-Tenant: root"]
    fields += [f"Authorization: {authorization}"] if authorization else []
    fields += [f"X-Test: {value}"] if value else []
    writer.write("\r\n".join([*fields, "Content-Length: 0", "", ""]).encode())
    head = await asyncio.wait_for(reader.readline(), PATIENCE)
    writer.close()
    return int(head.split()[1])


def checker(known: dict[str, str]) -> Callable[[Connection, Message], Awaitable[None]]:
    """Return what a server does that is asked about requests."""

    async def check(connection: Connection, asked: Message) -> None:
        given = asked.get("authorization")
        is_asked_right = (asked.method, asked.target) == ("GET", "/verify")
        code = 200 if given == known["valid"] else 403 if given == known["other tenant"] else 401
        code = code if is_asked_right else 500
        await connection.send(response(code, b"", [("X-User", "alice"), ("Connection", "close")]))
        await connection.close()

    return check


async def passed(connection: Connection, asked: Message) -> None:
    """Answer with 200 whatever is asked."""
    await connection.send(response(200, b"", [("Connection", "close")]))
    await connection.close()


@pytest.mark.parametrize(
    ("kind", "configuration", "requests"),
    [("envoy", ENVOY_ACCESS, ENVOY_ASKED), ("nginx", NGINX_ACCESS, NGINX_ASKED)],
)
async def test_a_translation_lets_the_same_requests_pass(
    kind: str, configuration: str, requests: list[Asked], tmp_path: Path
) -> None:
    if find(kind) is None:
        pytest.skip(f"{kind} is not installed")
    known = credentials()
    async with Server(passed) as one, Server(checker(known)) as two:

        async def told(address: str) -> list[tuple[Asked, int, list[str]]]:
            """Return the status of each request, and what the upstream learned of its caller."""
            found = []
            for asked in requests:
                one.requests.clear()
                code = await status(address, asked, known[asked[3]])
                fields = [f"{name}: {value}" for each in one.requests for name, value in each.fields
                          if name in LEARNED and value != "root"]  # fmt: skip
                found.append((asked, code, sorted(fields)))
            return found

        facts: dict[str, Any] = {"port": free_port(), "next": one.port, "other": two.port,
                                 "keys": json.dumps({"keys": [jwk(key())]})}  # fmt: skip
        async with running(kind, configuration, facts, tmp_path):
            original = await told(f"127.0.0.1:{facts['port']}")
        text = Template(configuration).substitute(facts, directory=tmp_path)
        policy = checked(kind, text).policy
        policy["listeners"]["inbound"]["address"] = "127.0.0.1:0"
        policy["admin"] = {"address": "127.0.0.1:0"}
        async with Sidecar(json.dumps(policy), tmp_path) as sidecar:
            here = await told(sidecar.inbound)
        assert here == [(asked, *expected_access(kind, asked, code, fields)) for asked, code, fields in original]


ISTIO = """
apiVersion: security.istio.io/v1
kind: RequestAuthentication
metadata: {name: tokens}
spec:
  selector: {matchLabels: {app: shop}}
  jwtRules:
  - {issuer: "https://id.example", audiences: [orders], forwardOriginalToken: true, jwks: '$keys'}
---
apiVersion: security.istio.io/v1
kind: AuthorizationPolicy
metadata: {name: denied}
spec:
  selector: {matchLabels: {app: shop}}
  action: DENY
  rules:
  - to: [{operation: {paths: ["/open/read/*"], notMethods: [GET]}}]
  - when: [{key: "request.headers[x-test]", values: ["bad*"]}]
---
apiVersion: security.istio.io/v1
kind: AuthorizationPolicy
metadata: {name: allowed}
spec:
  selector: {matchLabels: {app: shop}}
  rules:
  - to: [{operation: {paths: ["/exact", "/open/*", "*.txt", "/t/{*}/end", "/u/{**}"]}}]
  - from: [{source: {requestPrincipals: ["https://id.example/alice"]}}]
    to: [{operation: {paths: ["/alice/*"]}}]
  - when: [{key: "request.auth.claims[groups]", values: [admin]}]
    to: [{operation: {paths: ["/admin/*"], notPaths: ["/admin/keys"]}}]
  - from: [{source: {ipBlocks: ["127.0.0.2"]}}]
    to: [{operation: {paths: ["/near/*"]}}]
"""
AS_ENVOY = """
admin: {address: {socket_address: {address: 127.0.0.1, port_value: 0}}}
static_resources:
  listeners:
  - address: {socket_address: {address: 127.0.0.1, port_value: $port}}
    filter_chains:
    - filters:
      - name: envoy.filters.network.http_connection_manager
        typed_config:
          "@type": type.googleapis.com/envoy.extensions.filters.network.http_connection_manager.v3.HttpConnectionManager
          stat_prefix: all
          http_filters:
          - name: envoy.filters.http.jwt_authn
            typed_config:
              "@type": type.googleapis.com/envoy.extensions.filters.http.jwt_authn.v3.JwtAuthentication
              providers:
                one: {issuer: "https://id.example", audiences: [orders], forward: true, payload_in_metadata: payload,
                      local_jwks: {inline_string: '$keys'}}
              rules:
              - match: {prefix: /}
                requires: {requires_any: {requirements: [{provider_name: one}, {allow_missing: {}}]}}
          - name: denied
            typed_config:
              "@type": type.googleapis.com/envoy.extensions.filters.http.rbac.v3.RBAC
              rules:
                action: DENY
                policies:
                  one:
                    permissions:
                    - and_rules: {rules: [{url_path: {path: {prefix: /open/read/}}}, {not_rule:
                        {header: {name: ":method", string_match: {exact: GET}}}}]}
                    principals: [{any: true}]
                  two:
                    permissions: [{any: true}]
                    principals: [{header: {name: x-test, string_match: {prefix: bad}}}]
          - name: allowed
            typed_config:
              "@type": type.googleapis.com/envoy.extensions.filters.http.rbac.v3.RBAC
              rules:
                policies:
                  one:
                    permissions:
                    - or_rules:
                        rules:
                        - url_path: {path: {exact: /exact}}
                        - url_path: {path: {prefix: /open/}}
                        - url_path: {path: {suffix: .txt}}
                        - uri_template: {name: a, typed_config: {"@type": "$template", path_template: "/t/*/end"}}
                        - uri_template: {name: b, typed_config: {"@type": "$template", path_template: "/u/**"}}
                    principals: [{any: true}]
                  two:
                    permissions: [{url_path: {path: {prefix: /alice/}}}]
                    principals:
                    - and_ids:
                        ids:
                        - metadata: {filter: envoy.filters.http.jwt_authn, path: [{key: payload}, {key: iss}],
                                     value: {string_match: {exact: "https://id.example"}}}
                        - metadata: {filter: envoy.filters.http.jwt_authn, path: [{key: payload}, {key: sub}],
                                     value: {string_match: {exact: alice}}}
                  three:
                    permissions:
                    - and_rules: {rules: [{url_path: {path: {prefix: /admin/}}},
                                          {not_rule: {url_path: {path: {exact: /admin/keys}}}}]}
                    principals:
                    - or_ids:
                        ids:
                        - metadata: {filter: envoy.filters.http.jwt_authn, path: [{key: payload}, {key: groups}],
                                     value: {list_match: {one_of: {string_match: {exact: admin}}}}}
                        - metadata: {filter: envoy.filters.http.jwt_authn, path: [{key: payload}, {key: groups}],
                                     value: {string_match: {exact: admin}}}
                  four:
                    permissions: [{url_path: {path: {prefix: /near/}}}]
                    principals: [{direct_remote_ip: {address_prefix: 127.0.0.2, prefix_len: 32}}]
          - name: envoy.filters.http.router
            typed_config: {"@type": type.googleapis.com/envoy.extensions.filters.http.router.v3.Router}
          route_config:
            virtual_hosts: [{name: all, domains: ["*"], routes: [{match: {prefix: /}, route: {cluster: next}}]}]
  clusters:
  - name: next
    type: STATIC
    load_assignment:
      cluster_name: next
      endpoints: [{lb_endpoints: [{endpoint: {address: {socket_address: {address: 127.0.0.1, port_value: $next}}}}]}]
"""
TEMPLATE_TYPE = "type.googleapis.com/envoy.extensions.path.match.uri_template.v3.UriTemplateMatchConfig"
ISTIO_ASKED: list[Asked] = [
    *((NEAR, "GET", path, "missing", "") for path in (
        "/exact", "/exact/a", "/exact?a=b", "/open/a", "/open", "/openly", "/a.txt", "/b/a.txt", "/a.txt/b", "/t/a/end",
        "/t/a/b/end", "/t//end", "/t/end", "/u/a", "/u/a/b/c", "/u", "/other", "/")),
    *((NEAR, method, f"/open/{path}", "missing", value) for method in ("GET", "PUT", "HEAD")
      for path in ("read/a", "read") for value in ("", "good", "bad", "badly")),
    *((NEAR, "GET", path, name, "") for path in ("/open/a", "/alice/a", "/admin/a", "/admin/keys", "/other")
      for name in ("valid", "bob", "admin", "admins", "one group", "expired", "missing", "forged", "no token",
                   "basic")),
    *((place, "GET", "/near/a", name, "") for place in (NEAR, FAR) for name in ("valid", "expired", "missing")),
]  # fmt: skip


async def test_policies_of_istio_let_the_requests_pass_that_envoy_does(tmp_path: Path) -> None:
    if find("envoy") is None:
        pytest.skip("envoy is not installed")
    ends = int(datetime.now(UTC).timestamp()) + 3600
    claims: dict[str, dict[str, Any]] = {
        "bob": {"sub": "bob"}, "admin": {"groups": ["shop", "admin"]}, "admins": {"groups": ["admins"]},
        "one group": {"sub": "bob", "groups": "admin"},
    }  # fmt: skip
    known = credentials()
    known |= {name: f"Bearer {sign(key(), {'exp': ends, **each}).decode()}" for name, each in claims.items()}
    async with Server(passed) as one:

        async def told(address: str) -> list[tuple[Asked, int]]:
            return [(asked, await status(address, asked, known[asked[3]])) for asked in ISTIO_ASKED]

        facts: dict[str, Any] = {"port": free_port(), "next": one.port, "template": TEMPLATE_TYPE,
                                 "keys": json.dumps({"keys": [jwk(key())]})}  # fmt: skip
        async with running("envoy", AS_ENVOY, facts, tmp_path):
            original = await told(f"127.0.0.1:{facts['port']}")
        policy = checked("istio", Template(ISTIO).substitute(facts)).policy
        (listener,) = policy["listeners"].values()
        listener["address"] = "127.0.0.1:0"
        policy["listeners"] = {"inbound": listener}
        policy["routes"][0]["listener"] = "inbound"
        policy["upstreams"]["shop-beside"]["endpoints"] = [f"http://127.0.0.1:{one.port}"]
        policy["admin"] = {"address": "127.0.0.1:0"}
        async with Sidecar(json.dumps(policy), tmp_path) as sidecar:
            here = await told(sidecar.inbound)
        anonymous = ("missing", "basic")  # who may try again with a token: 401, where Envoy says 403
        assert here == [(asked, 401 if code == 403 and asked[3] in anonymous else code) for asked, code in original]
