"""Tests of REST to gRPC beside Envoy: same descriptors, same requests, same status and JSON."""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import grpc
import grpc.aio
import pytest
from google.protobuf import message_factory

from chaos.parts.client import fetch
from tests.neighbours.proxies import find, free_port, running
from tests.neighbours.transcoding_vectors import DATA, METHODS, REQUESTS, Request
from tests.support.process import Sidecar, policies
from tests.support.protos import pool_of

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
          - name: envoy.filters.http.grpc_json_transcoder
            typed_config:
              "@type": type.googleapis.com/envoy.extensions.filters.http.grpc_json_transcoder.v3.GrpcJsonTranscoder
              proto_descriptor: $directory/echo.binpb
              services: [test.Echo]
              convert_grpc_status: true
              request_validation_options: {reject_unknown_method: true, reject_unknown_query_parameters: true}
          - name: envoy.filters.http.router
            typed_config: {"@type": type.googleapis.com/envoy.extensions.filters.http.router.v3.Router}
          route_config:
            virtual_hosts:
            - name: all
              domains: ["*"]
              routes: [{match: {prefix: /}, route: {cluster: next, timeout: 30s}}]
  clusters:
  - name: next
    connect_timeout: 30s
    type: STATIC
    load_assignment:
      cluster_name: next
      endpoints: [{lb_endpoints: [{endpoint: {address: {socket_address: {address: 127.0.0.1, port_value: $next}}}}]}]
    typed_extension_protocol_options:
      envoy.extensions.upstreams.http.v3.HttpProtocolOptions:
        "@type": type.googleapis.com/envoy.extensions.upstreams.http.v3.HttpProtocolOptions
        explicit_http_config: {http2_protocol_options: {}}
"""
AT_ONCE = 32
POOL = pool_of(DATA)
CODES = {code.value[0]: code for code in grpc.StatusCode}


class Echo(grpc.GenericRpcHandler):
    """The service: it answers with the message, or with the status whose code is its `count`."""

    def service(self, details: Any) -> Any:
        name = details.method.rpartition("/")[2]
        method = POOL.FindServiceByName("test.Echo").methods_by_name[name]
        decode = message_factory.GetMessageClass(method.input_type).FromString
        kind = grpc.unary_unary_rpc_method_handler if name in METHODS else grpc.unary_stream_rpc_method_handler
        answer = self.fail if name == "Fail" else self.echo if name in METHODS else self.repeat
        return kind(answer, decode, lambda message: message.SerializeToString())

    async def echo(self, message: Any, _: Any) -> Any:
        return message

    async def fail(self, message: Any, context: Any) -> Any:
        await context.abort(CODES.get(message.count, grpc.StatusCode.UNKNOWN), message.name)

    async def repeat(self, message: Any, context: Any) -> AsyncIterator[Any]:
        if message.name == "fail":
            await context.abort(CODES[message.count], "early")
        for _ in range(message.count):
            yield message


def told(status: int, body: bytes) -> tuple[int, Any]:
    """Return the status, and the JSON of a good answer; of another one the code, and the message of a service."""
    try:
        found = json.loads(body)
    except ValueError:
        return status, body if status < 400 else None
    if status < 400:
        return status, found
    message = found.get("message") if isinstance(found, dict) else None
    return status, message if message in ("why", "early") else None


async def ask(address: str, request: Request) -> tuple[int, Any]:
    fields = {"content-type": "application/json"} if request.method != "GET" else {}
    answer = await fetch(address, request.method, request.target, request.body, **fields)
    return told(answer.status, answer.body)


async def test_the_sidecar_answers_as_envoy_does(tmp_path: Path) -> None:
    """A request that says why the two differ must differ."""
    if find("envoy") is None:
        pytest.skip("envoy is not installed")
    (tmp_path / "echo.binpb").write_bytes(DATA)
    server = grpc.aio.server(handlers=[Echo()], options=[("grpc.so_reuseport", 0)])
    port = server.add_insecure_port("127.0.0.1:0")
    translate = {"grpc": {"descriptors": str(tmp_path / "echo.binpb"), "services": ["test.Echo"], "streams": "array"}}
    policy = policies(
        upstreams={"app": {"endpoints": [f"http://127.0.0.1:{port}"], "protocol": "http2"}},
        routes=[{"name": "all", "match": {"path_prefix": "/"}, "upstream": "app", "translate": translate}],
    )
    facts = {"port": free_port(), "next": port}
    wrong = []
    await server.start()
    try:
        async with running("envoy", ENVOY, facts, tmp_path), Sidecar(policy, tmp_path) as sidecar:
            turn = asyncio.Semaphore(AT_ONCE)

            async def compare(request: Request) -> None:
                async with turn:
                    ours = await ask(sidecar.inbound, request)
                    theirs = await ask(f"127.0.0.1:{facts['port']}", request)
                if (ours != theirs) != bool(request.differs):
                    wrong.append(f"{request}\n  sidecar {ours}\n  envoy   {theirs}")

            await asyncio.gather(*map(compare, REQUESTS))
    finally:
        await server.stop(None)
    assert not wrong, "\n".join([f"{len(wrong)} differences", *wrong])
