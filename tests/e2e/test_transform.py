"""Tests of `transform` on real sockets: request, answer, and bodies that are refused."""

from __future__ import annotations

import asyncio
import gzip
import json
from contextlib import AbstractAsyncContextManager
from typing import Any

import pytest

from chaos.parts.client import PATIENCE, Client
from chaos.parts.http import Message
from chaos.parts.servers import Connection
from tests.e2e.crowd import until
from tests.e2e.world import World, world
from tests.support.process import Sidecar

pytestmark = pytest.mark.asyncio(loop_scope="module")

TRANSFORM = {
    "request": {
        "path_prefix": {"/app": "/internal"},
        "host": "app.internal",
        "headers": {"set": {"x-id": "{query.id}", "x-user": "{header.x-who}"}, "remove": ["cookie"]},
        "query": {"remove": ["debug"]},
        "max_body": "64KiB",
        "body": {"rename": {"/qty": "quantity"}, "remove": ["/password"]},
    },
    "response": {
        "headers": {"set": {"x-served-by": "{upstream}"}},
        "max_body": "64KiB",
        "body": {"unwrap": "/data"},
    },
}


async def answer(connection: Connection, request: Message) -> None:
    """Answer with JSON that describes the request; as the request says, chunked, encoded or long."""
    data = {"data": {"body": request.body.decode("latin-1")}, "links": []}
    body = json.dumps(data).encode()
    fields = b'content-type: application/json\r\netag: "1"\r\nlocation: http://app.internal/internal/7\r\n'
    if "gzip" in request.target:
        body = gzip.compress(body)
        fields += b"content-encoding: gzip\r\n"
    if "long" in request.target:
        body = json.dumps({"data": "x" * 200_000}).encode()
    if "chunked" in request.target:
        await connection.send(b"HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\n%b\r\n" % fields)
        for at in range(0, len(body), 7):
            piece = body[at : at + 7]
            await connection.send(b"%x\r\n%b\r\n" % (len(piece), piece))
            await asyncio.sleep(0.001)
        await connection.send(b"0\r\n\r\n")
        return
    await connection.send(b"HTTP/1.1 200 OK\r\ncontent-length: %d\r\n%b\r\n" % (len(body), fields) + body)


def served(shared: Sidecar, transform: Any = TRANSFORM) -> AbstractAsyncContextManager[World]:
    return world(shared, {"app": answer}, routes={"app": {"transform": transform}})


def seen(w: World) -> Message:
    return w.servers["app"].requests[-1]


async def test_both_ways(shared: Sidecar) -> None:
    async with served(shared) as w:
        sent = b'{"id": 12345678901234567890123, "qty": 1.0, "password": "x"}'
        fields = {"content_type": "application/json", "cookie": "a=b", "x_who": "ada"}
        got = await w.sidecar.fetch("POST", "/app/orders?id=7&debug=1", sent, **fields)
        request = seen(w)
        assert request.target == "/internal/orders?id=7"
        assert (request.get("host"), request.get("cookie"), request.get("x-id")) == ("app.internal", "", "7")
        assert request.body == b'{"id":12345678901234567890123,"quantity":1.0}'
        assert request.get("content-length") == str(len(request.body))
        assert (got.status, got.get("x-served-by"), got.get("etag")) == (200, "app", 'W/"1"')
        assert json.loads(got.body) == {"body": request.body.decode()}
        assert got.get("location").endswith("/app/7")
        assert "app.internal" not in got.get("location")


@pytest.mark.parametrize("form", ["gzip", "chunked", "gzip-chunked"])
async def test_bodies_in_every_form(shared: Sidecar, form: str) -> None:
    async with served(shared) as w:
        got = await w.sidecar.fetch("GET", f"/app/{form}", accept_encoding="zstd, gzip")
        assert seen(w).get("accept-encoding") == "gzip"
        body = gzip.decompress(got.body) if "gzip" in form else got.body
        assert json.loads(body) == {"body": ""}
        assert got.get("content-length") == str(len(got.body))


async def test_a_request_body_that_dribbles_in_chunks(shared: Sidecar) -> None:
    async with served(shared) as w, w.sidecar.client() as client:
        head = (
            b"POST /app/x HTTP/1.1\r\nhost: a\r\ncontent-type: application/json\r\ntransfer-encoding: chunked\r\n\r\n"
        )
        await client.send(head)
        for piece in (b'{"qty', b'": ', b"3}"):
            await client.send(b"%x\r\n%b\r\n" % (len(piece), piece))
            await asyncio.sleep(0.01)
        await client.send(b"0\r\n\r\n")
        assert (await client.response()).status == 200
        assert seen(w).body == b'{"quantity":3}'
        assert (await client.request("GET", "/app/y")).status == 200, "the connection goes on"


async def test_a_client_that_waits_to_be_asked_is_asked(shared: Sidecar) -> None:
    async with served(shared) as w, w.sidecar.client() as client:
        fields = b"content-type: application/json\r\nexpect: 100-continue\r\ncontent-length: 9\r\n"
        await client.send(b"POST /app/x HTTP/1.1\r\nhost: a\r\n%b\r\n" % fields)
        assert (await asyncio.wait_for(client.reader.readuntil(b"\r\n\r\n"), PATIENCE)).startswith(b"HTTP/1.1 100")
        await client.send(b'{"qty":3}')
        assert (await client.response()).status == 200
        assert seen(w).body == b'{"quantity":3}'


async def test_what_is_too_long_is_refused_or_streams_on(shared: Sidecar) -> None:
    async with served(shared) as w:
        long = json.dumps({"a": "x" * 100_000}).encode()
        refused = await w.sidecar.fetch("POST", "/app/x", long, content_type="application/json")
        assert (refused.status, w.servers["app"].requests) == (413, [])
        assert json.loads(refused.body)["policy"] == "transform"
        failed = await w.sidecar.fetch("GET", "/app/long")
        assert (failed.status, failed.get("x-sidecar-reason")) == (502, "transform_failed")
    lenient = {way: {**TRANSFORM[way], "on_error": "pass"} for way in ("request", "response")}
    async with served(shared, lenient) as w:
        got = await w.sidecar.fetch("POST", "/app/long", long, content_type="application/json")
        assert seen(w).body == long
        assert json.loads(got.body) == {"data": "x" * 200_000}
        assert got.get("etag") == '"1"'


@pytest.mark.parametrize(
    "target",
    ["/app/..%2fadmin", "/app/%2e%2e/%2e%2e/admin", "/app/%252e%252e%252fadmin", "/app/..;/admin", "/app/x%00"],
)
async def test_no_path_climbs_out(shared: Sidecar, target: str) -> None:
    async with served(shared) as w:
        got = await w.sidecar.fetch("GET", target)
        asked = [request.target for request in w.servers["app"].requests]
        assert got.status in (400, 404) or all(each.startswith("/internal/") for each in asked)
        assert not any("admin" in each and ".." in each for each in asked)


@pytest.mark.parametrize("value", ["7%0d%0ax-admin:%20true", "7%0Ax-admin:true", "7%0d%0a%0d%0aGET%20/%20HTTP/1.1"])
async def test_no_value_becomes_a_field_or_a_request(shared: Sidecar, value: str) -> None:
    async with served(shared) as w:
        assert (await w.sidecar.fetch("GET", f"/app/x?id={value}")).status == 200
        assert len(w.servers["app"].requests) == 1
        assert seen(w).get("x-admin") == ""
        assert seen(w).get("x-id").startswith("7")


async def test_a_bomb_and_a_deep_document_cost_one_answer(shared: Sidecar) -> None:
    async with served(shared) as w:
        bomb = gzip.compress(b'{"a":"' + b"0" * 20_000_000 + b'"}')
        fields = {"content_type": "application/json", "content_encoding": "gzip"}
        assert (await w.sidecar.fetch("POST", "/app/x", bomb, **fields)).status == 413
        deep = b"[" * 30_000 + b"]" * 30_000
        got = await w.sidecar.fetch("POST", "/app/x", deep, content_type="application/json")
        assert (got.status, w.servers["app"].requests) == (400, [])
        assert (await w.sidecar.fetch("GET", "/app/x")).status == 200


async def test_nothing_touched_nothing_read(shared: Sidecar) -> None:
    """A body of another type is streamed upstream before its end has arrived."""
    async with served(shared) as w, w.sidecar.client() as client:
        assert isinstance(client, Client)
        head = b"POST /app/x HTTP/1.1\r\nhost: a\r\ncontent-type: text/plain\r\ntransfer-encoding: chunked\r\n\r\n"
        await client.send(head + b"5\r\n01234\r\n")
        await until(lambda: len(w.servers["app"].connections) == 1)
        await client.send(b"5\r\n56789\r\n0\r\n\r\n")
        assert (await client.response()).status == 200
        assert seen(w).body == b"0123456789"
