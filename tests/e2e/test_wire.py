"""Tests of common mistakes of services and clients on the wire, through a real process: passed or refused."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator

import pytest
import pytest_asyncio

from chaos.parts.http import Message, response
from chaos.parts.servers import Behaviour, Connection, saying
from tests.e2e.world import World, world

pytestmark = pytest.mark.asyncio(loop_scope="module")

OK = b"HTTP/1.1 200 OK\r\nContent-Length: 5\r\n\r\nhello"
HINTS = b"HTTP/1.1 103 Early Hints\r\nLink: </a>\r\n\r\n"


async def goodbye(connection: Connection, _: Message) -> None:
    """Answer the first request of a connection; close it at each further one, as after an idle timeout."""
    if connection.served == 1:
        await connection.send(response(200, str(connection.number).encode()))
    else:
        await connection.send(response(408, b"late", [("Connection", "close")]))
        await connection.close()


async def redirecting(connection: Connection, _: Message) -> None:
    """Redirect the client to this server's own address."""
    host, port = connection.writer.get_extra_info("sockname")
    await connection.send(response(302, b"", [("Location", f"http://{host}:{port}/login?a=b")]))


def hinting() -> Behaviour:
    async def behave(connection: Connection, request: Message) -> None:
        await connection.send(HINTS + (OK if request.method != "HEAD" else OK[:-5]))

    return behave


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def w(tmp_path_factory: pytest.TempPathFactory) -> AsyncIterator[World]:
    servers = {
        "ok": saying(OK),
        "old": saying(
            b"HTTP/1.0 200 OK\r\nTransfer-Encoding: chunked\r\nConnection: keep-alive\r\n\r\n5\r\nhello\r\n0\r\n\r\n"
        ),
        "empty": saying(b"\r\n\r\n" + OK, close=True),
        "trailing": saying(OK + b"\r\n"),
        "lf": saying(OK.replace(b"\r\n", b"\n")),
        "odd": saying(OK.replace(b"200 OK", b"999 Request Denied")),
        "required": saying(
            b"HTTP/1.1 426 Upgrade Required\r\nUpgrade: websocket\r\nConnection: Upgrade\r\nContent-Length: 0\r\n\r\n"
        ),
        "goodbye": goodbye,
        "around": redirecting,
        "home": redirecting,
        "hints": hinting(),
    }
    routes = {"home": {"transform": {"response": {"addresses": "always"}}}}
    async with world(tmp_path_factory.mktemp("wire"), servers, routes=routes) as running:
        yield running


@pytest.mark.parametrize("name", ["ok", "old", "empty"])
async def test_what_is_passed(w: World, name: str) -> None:
    for _ in range(3):
        answer = await w.sidecar.fetch("GET", f"/{name}")
        assert (answer.status, answer.body) == (200, b"hello")
        assert not answer.get("transfer-encoding") or name == "old"
    assert len(w.servers[name].connections) == (1 if name == "ok" else 3), "the framing of these is not trusted"


@pytest.mark.parametrize(("name", "says"), [("lf", b"HTTP"), ("odd", b"999")])
async def test_what_is_refused(w: World, name: str, says: bytes) -> None:
    answer = await w.sidecar.fetch("GET", f"/{name}")
    assert (answer.status, answer.get("x-sidecar-reason")) == (502, "protocol_error")
    assert says in answer.body


async def test_an_empty_line_behind_an_answer_costs_its_connection(w: World) -> None:
    for _ in range(5):
        assert (await w.sidecar.fetch("GET", "/trailing")).body == b"hello"


async def test_a_408_that_crosses_a_request(w: World) -> None:
    answers = [await w.sidecar.fetch("GET", "/goodbye") for _ in range(6)]
    assert [answer.status for answer in answers] == [200] * 6
    assert (await w.sidecar.fetch("POST", "/goodbye")).status == 408, "a POST is not sent twice"


async def test_a_426_keeps_its_upgrade(w: World) -> None:
    answer = await w.sidecar.fetch("GET", "/required")
    assert (answer.status, answer.get("upgrade")) == (426, "websocket")
    assert "upgrade" in answer.get("connection").lower()


async def test_addresses_of_the_endpoint(w: World) -> None:
    around, home = [await w.sidecar.fetch("GET", target) for target in ("/around", "/home")]
    assert around.get("location") == f"{w.servers['around'].url}/login?a=b"
    assert home.get("location").endswith("/login?a=b")
    assert w.servers["home"].address not in home.get("location")


async def test_hints_to_a_head(w: World) -> None:
    async with w.sidecar.client() as client:
        assert (await client.request("HEAD", "/hints")).status == 200
        assert (await client.request("GET", "/hints")).status == 103
        assert (await client.response("GET")).status == 200


async def test_half_closed_clients(w: World) -> None:
    async with w.sidecar.client() as client:
        await client.send(b"GET /ok HTTP/1.1\r\nHost: a\r\n\r\n" * 2)
        client.writer.write_eof()
        received = await asyncio.wait_for(client.reader.read(-1), 60)
    assert received.count(b"hello") == 2


@pytest.mark.parametrize(
    ("head", "status"),
    [
        (b"GET /ok?" + b"a&" * 3000 + b" HTTP/1.1\r\nHost: a\r\n", 414),
        (b"GET /ok HTTP/1.1\r\nHost: a\r\n" + b"a:\r\n" * 300, 431),
        (b"GET /ok HTTP/1.1\r\nHost: a\r\nAccept: " + b"a," * 3000 + b"\r\n", 431),
        (b"OPTIONS * HTTP/1.1\r\nHost: a\r\nHost: b\r\n", 400),
        (b"OPTIONS / HTTP/1.1\r\nHost: a\r\nMax-Forwards: 0\r\nContent-Length: x\r\n", 400),
    ],
)
async def test_heads_that_are_refused_as_a_whole(w: World, head: bytes, status: int) -> None:
    async with w.sidecar.client() as client:
        await client.send(head + b"\r\n")
        assert (await client.response("GET")).status == status
