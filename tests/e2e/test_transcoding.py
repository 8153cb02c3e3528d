"""REST to gRPC through a running sidecar, with grpcio as the service."""

from __future__ import annotations

import asyncio
import json
import time
from collections.abc import AsyncIterator, Iterator
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import grpc
import pytest
import pytest_asyncio
from google.protobuf import message_factory

from chaos.parts import websocket as ws
from chaos.parts.websocket import Frame
from sidecar.grpc.framing import frame
from tests.support.issuer import ISSUER, jwk, key, sign
from tests.support.process import NOTHING, Sidecar, policies, route
from tests.support.protos import pool_of
from tests.unit.stages.translate.chat import DATA as CHAT
from tests.unit.stages.translate.shop import DATA

pytestmark = pytest.mark.asyncio(loop_scope="module")

POOL = pool_of(DATA)
CHAT_POOL = pool_of(CHAT)
FLAKY = "flaky"
"""Order that is unavailable at the first call, which the trailers tell."""


class Shop(grpc.GenericRpcHandler):
    """The service of `tests/unit/stages/translate/shop.py`."""

    def __init__(self) -> None:
        self.metadata: list[dict[str, Any]] = []
        self.left: list[float | None] = []

    def service(self, details: Any) -> Any:
        service, _, name = details.method[1:].rpartition("/")
        pool = CHAT_POOL if service == "chat.Chat" else POOL
        method = pool.FindServiceByName(service).methods_by_name[name]
        self.metadata.append(dict(details.invocation_metadata))
        kinds = {"Watch": grpc.unary_stream_rpc_method_handler, "Talk": grpc.stream_stream_rpc_method_handler}
        return kinds.get(name, grpc.unary_unary_rpc_method_handler)(
            getattr(self, name.lower()),
            message_factory.GetMessageClass(method.input_type).FromString,
            lambda message: message.SerializeToString(),
        )

    def made(self, **values: Any) -> Any:
        return message_factory.GetMessageClass(POOL.FindMessageTypeByName("shop.Order"))(**values)

    def talk(self, lines: Iterator[Any], context: Any) -> Iterator[Any]:
        for line in lines:
            if line.text == "fail":
                context.abort(grpc.StatusCode.NOT_FOUND, "no such line")
            line.number = 2**53 + 1
            yield line

    def get(self, key: Any, context: Any) -> Any:
        self.left.append(context.time_remaining())
        if key.id == FLAKY and len(self.metadata) % 2:
            context.abort(grpc.StatusCode.UNAVAILABLE, "not yet")
        if key.id == "none":
            context.abort(grpc.StatusCode.NOT_FOUND, "no such örder")
        return self.made(id=key.id, total=2**53 + 1, tags=["full"] if key.full else [])

    def create(self, order: Any, context: Any) -> Any:
        return order

    def watch(self, key: Any, context: Any) -> Iterator[Any]:
        if key.id == "none":
            context.abort(grpc.StatusCode.PERMISSION_DENIED, "no")
        for number in range(3):
            yield self.made(id=key.id, total=number)
        if key.id == "half":
            context.abort(grpc.StatusCode.DATA_LOSS, "lost")


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def shop() -> AsyncIterator[tuple[Shop, str]]:
    handler = Shop()
    with ThreadPoolExecutor(4) as threads:
        server = grpc.server(threads, handlers=[handler])
        port = server.add_insecure_port("127.0.0.1:0")
        server.start()
        yield handler, f"http://127.0.0.1:{port}"
        server.stop(None).wait()


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def sidecar(shop: tuple[Shop, str], tmp_path_factory: pytest.TempPathFactory) -> AsyncIterator[Sidecar]:
    folder = tmp_path_factory.mktemp("transcoding")
    (folder / "shop.binpb").write_bytes(DATA)
    block = {"grpc": {"descriptors": str(folder / "shop.binpb"), "services": ["shop.Orders"]}}
    (folder / "chat.binpb").write_bytes(CHAT)
    chat = {"descriptors": str(folder / "chat.binpb"), "services": ["chat.Chat"], "streams": "websocket"}
    jwt = {"issuer": ISSUER, "audiences": ["orders"], "keys": {"inline": [jwk(key())]}}
    forward = {"caller": "x-caller", "claims": {"tenant": "x-tenant"}}
    guard = {"authenticate": {"any_of": ["corporate"], "forward": forward}}
    policy = policies(
        listeners={"inbound": {"address": "127.0.0.1:0", "grpc_web": True}},
        identities={"corporate": {"jwt": jwt}},
        upstreams={name: {"endpoints": [shop[1]], "protocol": "http2"} for name in ("orders", "guarded")},
        routes=[
            route(
                "orders", match={"path_prefix": "/v1"}, translate=block, timeout={"request": "5s"},
                retry={"max_attempts": 2, "on": ["unavailable"], "backoff": {"base": "1ms"}},
            ),
            route("chat", match={"path_prefix": "/chat"}, upstream="orders", translate={"grpc": chat}),
            route("guarded", match={"path_prefix": "/v1", "headers": {"x-guarded": "1"}}, translate=block, **guard),
            route("web", match={"grpc": {"service": "shop.Orders"}}, upstream="guarded", **guard),
        ],
    )  # fmt: skip
    async with Sidecar(NOTHING, folder) as running, running.under(policy):
        yield running


async def test_a_call_and_its_answer(sidecar: Sidecar, shop: tuple[Shop, str]) -> None:
    answer = await sidecar.fetch("GET", "/v1/orders/a%2Fb?full=true", **{"x-caller": "me"})
    assert (answer.status, answer.get("content-type")) == (200, "application/json")
    assert json.loads(answer.body) == {"id": "a/b", "total": "9007199254740993", "tags": ["full"]}
    assert shop[0].metadata[-1]["x-caller"] == "me"
    left = shop[0].left[-1]
    assert left is not None
    assert 0 < left <= 5


async def test_a_body_becomes_the_message(sidecar: Sidecar) -> None:
    order = {"id": "7", "total": "-9223372036854775808", "tags": ["ä", ""]}
    answer = await sidecar.fetch(
        "POST", "/v1/orders", json.dumps(order).encode(), **{"content-type": "application/json"}
    )
    assert json.loads(answer.body) == order
    long = {"id": "x" * 300_000}
    answer = await sidecar.fetch("POST", "/v1/orders", json.dumps(long).encode())
    assert json.loads(answer.body) == long
    answer = await sidecar.fetch("POST", "/v1/orders", b'{"tags": ["a", 5]}')
    assert (answer.status, json.loads(answer.body)["detail"]) == (400, "The body's tags[1] is a number, not a string.")


async def test_errors_have_the_status_of_their_code(sidecar: Sidecar) -> None:
    answer = await sidecar.fetch("GET", "/v1/orders/none")
    assert (answer.status, json.loads(answer.body)) == (404, {"code": 5, "message": "no such örder", "details": []})
    answer = await sidecar.fetch("GET", "/v1/orders/none/events")
    assert (answer.status, json.loads(answer.body)["message"]) == (403, "no")
    assert (await sidecar.fetch("GET", "/v1/nothing")).status == 404


async def test_a_read_that_is_unavailable_is_tried_again(sidecar: Sidecar, shop: tuple[Shop, str]) -> None:
    shop[0].metadata.clear()
    answer = await sidecar.fetch("GET", f"/v1/orders/{FLAKY}")
    assert (answer.status, len(shop[0].metadata)) == (200, 2)


async def test_a_stream_is_lines_of_json(sidecar: Sidecar) -> None:
    answer = await sidecar.fetch("GET", "/v1/orders/7/events")
    assert answer.get("content-type") == "application/x-ndjson"
    assert [json.loads(line) for line in answer.body.splitlines()] == [
        {"id": "7"}, {"id": "7", "total": "1"}, {"id": "7", "total": "2"},
    ]  # fmt: skip
    answer = await sidecar.fetch("GET", "/v1/orders/half/events")
    *_, last = answer.body.splitlines()
    assert json.loads(last) == {"error": {"code": 15, "message": "lost", "details": []}}


async def test_a_stream_both_ways_is_a_websocket(sidecar: Sidecar) -> None:
    async with sidecar.client() as client:
        await client.send(ws.handshake("/chat/r") + Frame(ws.TEXT, b'{"text": "a"}', masked=True).encode())
        assert (await client.response()).status == 101
        got = await asyncio.wait_for(ws.read_frame(client.reader), 60)
        assert json.loads(got.payload) == {"text": "a", "room": "r", "number": "9007199254740993"}
        await client.send(Frame(ws.TEXT, b"{}", masked=True).encode() + Frame(ws.TEXT, b"", masked=True).encode())
        assert json.loads((await ws.read_frame(client.reader)).payload)["room"] == "r"
        assert await ws.read_frame(client.reader) == Frame(ws.CLOSE, b"\x03\xe8"), "the service ends after the client"
        await client.send(Frame(ws.CLOSE, b"\x03\xe8", masked=True).encode())
        assert await client.is_closed()


async def test_an_error_of_a_websocket_is_its_last_message(sidecar: Sidecar) -> None:
    async with sidecar.client() as client:
        await client.send(ws.handshake("/chat/r") + Frame(ws.TEXT, b'{"text": "fail"}', masked=True).encode())
        assert (await client.response()).status == 101
        error = json.loads((await asyncio.wait_for(ws.read_frame(client.reader), 60)).payload)
        assert error == {"error": {"code": 5, "message": "no such line", "details": []}}
        close = await ws.read_frame(client.reader)
        assert close == Frame(ws.CLOSE, (4005).to_bytes(2, "big") + b"NOT_FOUND: no such line")


async def test_no_client_of_rest_or_grpc_web_names_its_caller_itself(sidecar: Sidecar, shop: tuple[Shop, str]) -> None:
    spoofed = {"x-caller": "root", "x_caller": "root", "x-tenant": "root", "x.tenant": "root", "x-guarded": "1"}
    known = {"authorization": f"Bearer {sign(key(), {'exp': time.time() + 600}).decode()}"}
    call = frame(message_factory.GetMessageClass(POOL.FindMessageTypeByName("shop.Key"))(id="7").SerializeToString())
    web = {"content-type": "application/grpc-web+proto"}
    for _ in range(2):  # the second time the token is known
        seen = len(shop[0].metadata)
        answer = await sidecar.fetch("GET", "/v1/orders/7", **spoofed, **known)
        assert (answer.status, json.loads(answer.body)["id"]) == (200, "7")
        answer = await sidecar.fetch("POST", "/shop.Orders/Get", call, **web, **spoofed, **known)
        assert (answer.status, b"grpc-status: 0" in answer.body) == (200, True)
        told = shop[0].metadata[seen:]
        assert [(each["x-caller"], each["x-tenant"]) for each in told] == [("alice", "acme")] * 2
        assert not any("root" in each.values() for each in told)
    assert (await sidecar.fetch("GET", "/v1/orders/7", **spoofed)).status == 401
    answer = await sidecar.fetch("POST", "/shop.Orders/Get", call, **web, **spoofed)
    assert b"grpc-status: 16" in answer.body
