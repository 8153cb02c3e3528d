"""nginx, HAProxy and Envoy as neighbours: one process each, which marks messages with a secret and a number."""

from __future__ import annotations

import asyncio
import contextlib
import os
import shutil
import socket
import subprocess
import sys
from collections.abc import AsyncIterator, Mapping
from pathlib import Path
from string import Template
from typing import Any

from sidecar.process.children import start, stop

SECRET = "5e4a1f"  # a client that does not know it cannot forge a mark
MARK = "x-mark"

NGINX = """
worker_processes 1; master_process off; daemon off; pid $directory/pid; error_log $directory/log crit;
events { worker_connections 1024; }
http {
  access_log off; client_body_temp_path $directory/b; proxy_temp_path $directory/p;
  fastcgi_temp_path $directory/f; uwsgi_temp_path $directory/u; scgi_temp_path $directory/s;
  upstream next { server 127.0.0.1:$next; keepalive 16; }
  map $$http_upgrade $$kind { default ""; websocket upgrade; }
  server {
    listen 127.0.0.1:$port;
    location / {
      proxy_pass http://next; proxy_http_version 1.1; proxy_request_buffering off; proxy_buffering off;
      proxy_set_header Connection $$kind; proxy_set_header Upgrade $$http_upgrade;
      proxy_set_header Host $$http_host; proxy_set_header X-Mark "$secret-$$request_id";
      proxy_read_timeout ${patience}s; proxy_next_upstream off;
    }
  }
}
"""
HAPROXY = """
global
  maxconn 1000
defaults
  mode http
  timeout connect ${patience}s
  timeout client 60s
  timeout server ${patience}s
  timeout http-request 20s
  retries 0
  http-reuse always
frontend all
  bind 127.0.0.1:$port
  http-request set-header X-Mark $secret-%[uuid()]
  default_backend next
backend next
  server next 127.0.0.1:$next pool-max-conn 16
"""
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
          codec_type: HTTP1
          upgrade_configs: [{upgrade_type: websocket}]
          http_filters:
          - name: envoy.filters.http.router
            typed_config: {"@type": type.googleapis.com/envoy.extensions.filters.http.router.v3.Router}
          route_config:
            request_headers_to_add:
            - header: {key: x-mark, value: "$secret-%STREAM_ID%"}
              append_action: OVERWRITE_IF_EXISTS_OR_ADD
            virtual_hosts:
            - name: all
              domains: ["*"]
              routes: [{match: {prefix: /}, route: {cluster: next, timeout: ${patience}s}}]
  clusters:
  - name: next
    connect_timeout: ${patience}s
    type: STATIC
    load_assignment:
      cluster_name: next
      endpoints: [{lb_endpoints: [{endpoint: {address: {socket_address: {address: 127.0.0.1, port_value: $next}}}}]}]
"""
CONFIGURATIONS = {"nginx": NGINX, "haproxy": HAPROXY, "envoy": ENVOY}
ARGUMENTS = {
    "nginx": ("-p", "$directory", "-e", "$directory/log", "-c", "$file"),
    "haproxy": ("-db", "-q", "-f", "$file"),
    "envoy": ("-c", "$file", "--concurrency", "1", "--disable-hot-restart", "--log-level", "error"),
}


def find(name: str) -> str | None:
    """Return the path of a proxy's program; None if it is not installed."""
    path = f"{Path(sys.executable).parent}:{os.environ.get('PATH', '')}:/usr/sbin:/usr/local/sbin"
    return shutil.which(name, path=path)


def free_port() -> int:
    with socket.socket() as sock:
        sock.bind(("127.0.0.1", 0))
        port: int = sock.getsockname()[1]
        return port


@contextlib.asynccontextmanager
async def neighbour(name: str, following: int, directory: Path, patience: int) -> AsyncIterator[str]:
    """Run a proxy in front of the port `following`, with a timeout of `patience` seconds; yield its address."""
    facts = {"port": free_port(), "next": following, "patience": patience}
    async with running(name, CONFIGURATIONS[name], facts, directory):
        yield f"127.0.0.1:{facts['port']}"


@contextlib.asynccontextmanager
async def running(name: str, configuration: str, facts: Mapping[str, Any], directory: Path) -> AsyncIterator[None]:
    """Run a proxy with a configuration, in which the facts stand; one of them is its `port`."""
    program = find(name)
    assert program is not None
    file = directory / f"{name}.yaml"
    known = {**facts, "secret": SECRET, "directory": directory, "file": file}
    file.write_text(Template(configuration).substitute(known))
    argv = [program, *(Template(word).substitute(known) for word in ARGUMENTS[name])]
    process = start(argv, directory / "output")
    try:
        await until_it_listens(facts["port"], process, directory)
        yield
    finally:
        stop(process, 3.0)


async def until_it_listens(port: int, process: subprocess.Popen[bytes], directory: Path) -> None:
    for _ in range(200):
        assert process.poll() is None, (directory / "output").read_text()[-2000:]
        with contextlib.suppress(OSError):
            _, writer = await asyncio.open_connection("127.0.0.1", port)
            writer.close()
            return
        await asyncio.sleep(0.05)
    raise AssertionError(f"does not listen: {(directory / 'output').read_text()[-2000:]}")
