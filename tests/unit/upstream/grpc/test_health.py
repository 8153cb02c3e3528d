"""Tests of the probe by the gRPC health checking protocol, against a server of grpcio and one of bytes."""

from __future__ import annotations

import asyncio
from typing import Any

import grpc
import grpc.aio
import pytest
from pydantic import ValidationError

from sidecar.upstream.endpoint import Endpoint
from sidecar.upstream.grpc.health import decode_answer, encode_request, grpc_probe
from sidecar.upstream.spec import HealthCheckSpec
from tests.support.loop import virtual_env


def test_messages_are_those_of_protobuf() -> None:
    assert encode_request("shop.Orders") == b"\x0a\x0bshop.Orders"
    assert encode_request("") == b""
    assert [decode_answer(b"\x08" + bytes([n])) for n in range(5)] == [
        "UNKNOWN", "SERVING", "NOT_SERVING", "SERVICE_UNKNOWN", "status 4",
    ]  # fmt: skip
    assert decode_answer(b"") == "UNKNOWN"


@pytest.mark.parametrize("keys", [{}, {"path": "/healthz", "grpc": "shop.Orders"}])
def test_a_check_has_a_path_or_a_service(keys: dict[str, Any]) -> None:
    with pytest.raises(ValidationError, match="takes one of path: /healthz, and grpc"):
        HealthCheckSpec.model_validate(keys)
    with pytest.raises(ValidationError, match="is not the name of a service"):
        HealthCheckSpec.model_validate({"grpc": "shop orders"})


class Health(grpc.GenericRpcHandler):
    """Health service whose answers are those of the test, by service."""

    def service(self, details: Any) -> Any:
        return grpc.unary_unary_rpc_method_handler(self.check) if details.method.endswith("Health/Check") else None

    async def check(self, request: bytes, context: Any) -> bytes:
        name = request[2:].decode()
        if name == "shop.Unknown":
            await context.abort(grpc.StatusCode.NOT_FOUND, "no such service")
        if name == "shop.Slow":
            await asyncio.Event().wait()
        return b"\x08\x02" if name == "shop.Ill" else b"\x08\x01"


async def probed(port: int, service: str) -> str:
    spec = HealthCheckSpec.model_validate({"grpc": service, "timeout": "200ms" if service == "shop.Slow" else "20s"})
    return await grpc_probe(virtual_env(), None, None, "")(Endpoint(f"http://127.0.0.1:{port}"), spec)


async def test_against_a_real_server() -> None:
    server = grpc.aio.server()
    server.add_generic_rpc_handlers((Health(),))
    port = server.add_insecure_port("127.0.0.1:0")
    await server.start()
    services = ("", "shop.Orders", "shop.Ill", "shop.Unknown", "shop.Slow")
    found = dict(zip(services, await asyncio.gather(*(probed(port, name) for name in services)), strict=True))
    await server.stop(None)
    assert found == {
        "": "",
        "shop.Orders": "",
        "shop.Ill": "NOT_SERVING",
        "shop.Unknown": "NOT_FOUND: no such service",
        "shop.Slow": "no answer within 0.2s",
    }


async def test_a_server_without_the_service_is_healthy() -> None:
    server = grpc.aio.server()
    port = server.add_insecure_port("127.0.0.1:0")
    await server.start()
    assert await probed(port, "shop.Orders") == ""
    await server.stop(None)


async def test_a_server_of_http1_is_not() -> None:
    async def answer(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await reader.read(100)
        writer.write(b"HTTP/1.1 400 Bad Request\r\ncontent-length: 0\r\n\r\n")
        writer.close()

    server = await asyncio.start_server(answer, "127.0.0.1", 0)
    port = server.sockets[0].getsockname()[1]
    reason = await probed(port, "shop.Orders")
    server.close()
    await server.wait_closed()
    assert reason.startswith("does not speak HTTP/2")
    assert await probed(port, "shop.Orders") != "", "nobody listens any more"
