"""nginx, HAProxy and Envoy as neighbours that speak HTTP/2: one process each, with a listener for each place in a row.

The facts of a configuration are ports:

- `port`, `port2`: HTTP/2 from clients, to the sidecar over HTTP/1.1 (`next`) and over HTTP/2 (`next2`);
- `rear`, `rear2`: HTTP/1.1 and HTTP/2 from the sidecar, to the recorders `last` and `last2`;
- `answers`: HTTP/1.1 from clients, to the sidecar (`next_answers`) over HTTP/1.1;
- `rear_answers`: HTTP/1.1 from the sidecar, to the server of HTTP/2 (`last_answers`).

nginx speaks HTTP/1.1 alone to what is behind it, so it has no `port2` and no `rear_answers`.
"""

from __future__ import annotations

NGINX_SERVER = """
  server {
    listen 127.0.0.1:%s;
    location / {
      proxy_pass http://127.0.0.1:%s; proxy_http_version 1.1; proxy_request_buffering off; proxy_buffering off;
      proxy_set_header Connection ""; proxy_set_header Host $$http_host;
      proxy_set_header X-Mark "$secret-$$request_id"; proxy_set_header X-Target $$request_uri;
      proxy_read_timeout ${patience}s; proxy_next_upstream off;
    }
  }
"""
NGINX = (
    """
worker_processes 1; master_process off; daemon off; pid $directory/pid; error_log $directory/log crit;
events { worker_connections 4096; }
http {
  access_log off; client_body_temp_path $directory/b; proxy_temp_path $directory/p;
  fastcgi_temp_path $directory/f; uwsgi_temp_path $directory/u; scgi_temp_path $directory/s;
"""
    + NGINX_SERVER % ("$port http2", "$next")
    + NGINX_SERVER % ("$rear", "$last")
    + NGINX_SERVER % ("$rear2 http2", "$last2")
    + NGINX_SERVER % ("$answers", "$next_answers")
    + "}\n"
)
HAPROXY_PAIR = """
frontend %(name)s
  bind 127.0.0.1:$%(name)s%(front)s
  http-request set-header X-Mark $secret-%%[uuid()]
  http-request set-header X-Target %%[pathq]
  default_backend %(name)s_next
backend %(name)s_next
  server next 127.0.0.1:$%(next)s pool-max-conn 16%(back)s
"""
HAPROXY = """
global
  maxconn 4000
defaults
  mode http
  timeout connect ${patience}s
  timeout client 60s
  timeout server ${patience}s
  timeout http-request 20s
  retries 0
  http-reuse always
""" + "".join(
    [
        HAPROXY_PAIR % {"name": name, "front": " proto h2" if front else "", "next": following, "back": back}
        for name, front, following, back in (
            ("port", True, "next", ""), ("port2", True, "next2", " proto h2"), ("rear", False, "last", ""),
            ("rear2", True, "last2", ""), ("answers", False, "next_answers", ""),
            ("rear_answers", False, "last_answers", " proto h2"),
        )
    ]
)  # fmt: skip
ENVOY_LISTENER = """
  - address: {socket_address: {address: 127.0.0.1, port_value: $%(name)s}}
    filter_chains:
    - filters:
      - name: envoy.filters.network.http_connection_manager
        typed_config:
          "@type": type.googleapis.com/envoy.extensions.filters.network.http_connection_manager.v3.HttpConnectionManager
          stat_prefix: %(name)s
          codec_type: AUTO
          http_filters:
          - name: envoy.filters.http.router
            typed_config: {"@type": type.googleapis.com/envoy.extensions.filters.http.router.v3.Router}
          route_config:
            request_headers_to_add:
            - header: {key: x-mark, value: "$secret-%%STREAM_ID%%"}
              append_action: OVERWRITE_IF_EXISTS_OR_ADD
            - header: {key: x-target, value: "%%REQ(:PATH)%%"}
              append_action: OVERWRITE_IF_EXISTS_OR_ADD
            virtual_hosts:
            - name: all
              domains: ["*"]
              routes: [{match: {prefix: /}, route: {cluster: %(name)s, timeout: ${patience}s}}]
"""
ENVOY_CLUSTER = """
  - name: %(name)s
    connect_timeout: ${patience}s
    type: STATIC
    load_assignment:
      cluster_name: %(name)s
      endpoints:
      - lb_endpoints: [{endpoint: {address: {socket_address: {address: 127.0.0.1, port_value: $%(next)s}}}}]
"""
ENVOY_HTTP2 = """
    typed_extension_protocol_options:
      envoy.extensions.upstreams.http.v3.HttpProtocolOptions:
        "@type": type.googleapis.com/envoy.extensions.upstreams.http.v3.HttpProtocolOptions
        explicit_http_config: {http2_protocol_options: {}}
"""
PAIRS = (
    ("port", "next", False), ("port2", "next2", True), ("rear", "last", False), ("rear2", "last2", False),
    ("answers", "next_answers", False), ("rear_answers", "last_answers", True),
)  # fmt: skip
ENVOY = (
    "admin: {address: {socket_address: {address: 127.0.0.1, port_value: 0}}}\nstatic_resources:\n  listeners:"
    + "".join([ENVOY_LISTENER % {"name": name} for name, _, _ in PAIRS])
    + "  clusters:"
    + "".join(
        [
            ENVOY_CLUSTER % {"name": name, "next": following} + (ENVOY_HTTP2 if is_http2 else "")
            for name, following, is_http2 in PAIRS
        ]
    )
)
CONFIGURATIONS = {"nginx": NGINX, "haproxy": HAPROXY, "envoy": ENVOY}
