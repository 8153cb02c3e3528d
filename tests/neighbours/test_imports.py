"""Tests of `sidecar import` beside the original: same requests and faults, same statuses and upstream requests."""

from __future__ import annotations

import asyncio
import json
from pathlib import Path
from string import Template

import pytest

from chaos.parts.client import fetch
from chaos.parts.http import Message, response
from chaos.parts.servers import Connection, Server
from tests.neighbours.proxies import find, free_port, running
from tests.support.process import Sidecar
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
