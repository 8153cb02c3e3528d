"""Tests of what HTTP/1.1 demands of a proxy between a well-behaved client and a well-behaved service."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator

import pytest
import pytest_asyncio

from chaos.parts.client import Client
from chaos.parts.http import Message, request, response
from chaos.parts.servers import Connection, answering, close_delimited, dribbling, echoing, interim, saying
from tests.e2e.world import World, world

pytestmark = pytest.mark.asyncio(loop_scope="module")

CHUNKED_HEAD = b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\nTrailer: x-sum\r\n\r\n"
CHUNKED = CHUNKED_HEAD + b"5\r\nhello\r\n6\r\n world\r\n0\r\nX-Sum: 11\r\n\r\n"
HOPS = [("Connection", "x-secret"), ("X-Secret", "1"), ("Keep-Alive", "timeout=5"), ("X-Kept", "2")]


async def counting(connection: Connection, message: Message) -> None:
    """Answer with the number of the connection."""
    await connection.send(response(200, str(connection.number).encode()))


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def w(tmp_path_factory: pytest.TempPathFactory) -> AsyncIterator[World]:
    servers = {
        "echo": echoing,
        "count": counting,
        "chunked": saying(CHUNKED),
        "closing": close_delimited,
        "dribble": dribbling(b"hello"),
        "interim": interim,
        "empty": answering(204, b""),
        "unmodified": saying(b'HTTP/1.1 304 Not Modified\r\nETag: "1"\r\nContent-Length: 100\r\n\r\n'),
        "old": saying(b"HTTP/1.0 200 OK\r\nContent-Length: 5\r\n\r\nhello", close=True),
        "hops": answering(200, b"", HOPS),
        "cookies": answering(200, b"", [("Set-Cookie", "a=1"), ("Set-Cookie", "b=2")]),
    }  # fmt: skip
    async with world(tmp_path_factory.mktemp("proxying"), servers) as running:
        yield running


@pytest.mark.parametrize("method", ["GET", "POST", "PUT", "PATCH", "DELETE", "OPTIONS", "PROPFIND"])
async def test_method_target_and_body_go_through(w: World, method: str) -> None:
    body = b"" if method in ("GET", "DELETE", "OPTIONS") else b"x" * 1000
    answer = await w.sidecar.fetch(method, "/echo/a%2Fb?c=d&e", body)
    assert (answer.status, answer.body) == (200, body)
    assert (answer.get("x-method"), answer.get("x-target")) == (method, "/echo/a%2Fb?c=d&e")


async def test_head_has_the_fields_of_get_and_no_body(w: World) -> None:
    async with w.sidecar.client() as client:
        head = await client.request("HEAD", "/echo")
        after = await client.request("GET", "/echo")
    assert (head.status, head.body) == (200, b"")
    assert (after.status, after.get("x-method")) == (200, "GET")


async def test_the_upstream_is_told_who_asked(w: World) -> None:
    await w.sidecar.fetch("GET", "/echo", host="shop.example", x_forwarded_for="6.6.6.6", x_forwarded_proto="gopher")
    seen = w.servers["echo"].requests[-1]
    assert seen.get_all("host") == ["shop.example"]
    assert seen.get_all("x-forwarded-for") == ["127.0.0.1"], "a client that is not trusted is not believed"
    assert seen.get_all("x-forwarded-proto") == ["http"]
    assert "sidecar" in seen.get("via")
    assert seen.get("x-request-id")


async def test_a_request_id_that_came_in_is_kept(w: World) -> None:
    await w.sidecar.fetch("GET", "/echo", x_request_id="abc-123")
    assert w.servers["echo"].requests[-1].get_all("x-request-id") == ["abc-123"]


async def test_hop_by_hop_fields_stay_on_their_hop(w: World) -> None:
    await w.sidecar.fetch(
        "GET", "/echo", connection="x-mine, keep-alive", x_mine="1", keep_alive="3", te="gzip", x_kept="2"
    )
    seen = w.servers["echo"].requests[-1]
    assert [seen.get(name) for name in ("x-mine", "keep-alive", "te", "x-kept")] == ["", "", "", "2"]
    answer = await w.sidecar.fetch("GET", "/hops")
    assert [answer.get(name) for name in ("x-secret", "keep-alive", "x-kept")] == ["", "", "2"]


async def test_repeated_fields_stay_apart(w: World) -> None:
    assert (await w.sidecar.fetch("GET", "/cookies")).get_all("set-cookie") == ["a=1", "b=2"]


async def test_connections_are_kept_on_both_sides(w: World) -> None:
    async with w.sidecar.client() as client:
        answers = [await client.request("GET", "/count") for _ in range(5)]
    assert {answer.body for answer in answers} == {b"1"}


async def test_connection_close_is_honoured(w: World) -> None:
    async with w.sidecar.client() as client:
        answer = await client.request("GET", "/echo", connection="close")
        assert answer.get("connection") == "close"
        assert await client.is_closed()


async def test_pipelined_requests_are_answered_in_order(w: World) -> None:
    async with w.sidecar.client() as client:
        await client.send(
            b"".join(request("GET", f"/{name}?{n}") for n, name in enumerate(("dribble", "echo", "echo")))
        )
        answers = [await client.response() for _ in range(3)]
    assert [answer.body for answer in answers] == [b"hello", b"", b""]
    assert [answer.get("x-target") for answer in answers[1:]] == ["/echo?1", "/echo?2"]


async def test_a_chunked_request_arrives_whole(w: World) -> None:
    async with w.sidecar.client() as client:
        await client.send(b"POST /echo HTTP/1.1\r\nHost: test\r\nTransfer-Encoding: chunked\r\n\r\n5\r\nhello\r\n")
        await asyncio.sleep(0.02)
        await client.send(b"6;ext=1\r\n world\r\n0\r\nX-Trailer: 1\r\n\r\n")
        answer = await client.response()
        again = await client.request("GET", "/echo?next")
    assert answer.body == b"hello world"
    assert again.get("x-target") == "/echo?next"


@pytest.mark.parametrize(
    ("name", "body"), [("chunked", b"hello world"), ("closing", b"hello world"), ("dribble", b"hello")]
)
async def test_every_framing_of_a_response_arrives_whole(w: World, name: str, body: bytes) -> None:
    async with w.sidecar.client() as client:
        for _ in range(2):
            answer = await client.request("GET", f"/{name}")
            assert (answer.status, answer.body) == (200, body)


@pytest.mark.parametrize(("name", "status"), [("empty", 204), ("unmodified", 304)])
async def test_a_response_without_body_ends_with_its_head(w: World, name: str, status: int) -> None:
    async with w.sidecar.client() as client:
        first = await client.request("GET", f"/{name}")
        second = await client.request("GET", "/echo?next")
    assert first.status == status
    assert second.get("x-target") == "/echo?next"


async def test_an_interim_response_does_not_stand_for_the_final_one(w: World) -> None:
    async with w.sidecar.client() as client:
        answer = await client.request("GET", "/interim")
        if answer.status == 103:
            answer = await client.response()
        assert (answer.status, answer.body) == (200, b"hello")
        assert (await client.request("GET", "/echo")).status == 200


async def test_expect_100_continue(w: World) -> None:
    async with w.sidecar.client() as client:
        await client.send(b"PUT /echo HTTP/1.1\r\nHost: test\r\nContent-Length: 5\r\nExpect: 100-continue\r\n\r\n")
        assert (await client.response("PUT")).status == 100
        await client.send(b"hello")
        answer = await client.response("PUT")
    assert (answer.status, answer.body) == (200, b"hello")


async def test_http_1_0_on_either_side(w: World) -> None:
    async with w.sidecar.client() as client:
        await client.send(b"GET /chunked HTTP/1.0\r\n\r\n")
        answer = await client.response()
        assert (answer.status, answer.body, answer.chunks) == (200, b"hello world", 0)
        assert await client.is_closed()
    assert (await w.sidecar.fetch("GET", "/old")).body == b"hello"


async def test_an_absolute_target_names_the_host(w: World) -> None:
    await w.sidecar.fetch("GET", "http://shop.example/echo?x", host="other.example")
    seen = w.servers["echo"].requests[-1]
    assert (seen.target, seen.get("host")) == ("/echo?x", "shop.example")


async def test_what_no_route_takes(w: World) -> None:
    answer = await w.sidecar.fetch("GET", "/nowhere")
    assert (answer.status, answer.get("x-sidecar-reason")) == (404, "no_route")
    assert answer.get("content-type") == "application/problem+json"


async def test_connect_is_refused(w: World) -> None:
    async with Client(w.sidecar.inbound) as client:
        await client.send(b"CONNECT example.com:443 HTTP/1.1\r\nHost: example.com:443\r\n\r\n")
        assert (await client.response()).status >= 400
