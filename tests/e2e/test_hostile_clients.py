"""Tests of requests that smuggle others past a lenient proxy: 400, a closed connection, and nothing forwarded."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncIterator

import pytest
import pytest_asyncio

from chaos.parts.client import PATIENCE, Client
from chaos.parts.servers import echoing
from tests.e2e.crowd import has_heard, is_only, until
from tests.e2e.world import World, world
from tests.support.process import Sidecar

pytestmark = pytest.mark.asyncio(loop_scope="module")

HEAD = b"POST /echo HTTP/1.1\r\nHost: test\r\n"
ATTACKS = {
    "no host": b"GET /echo HTTP/1.1\r\n\r\n",
    "two hosts": b"GET /echo HTTP/1.1\r\nHost: a\r\nHost: b\r\n\r\n",
    "the same host twice": b"GET /echo HTTP/1.1\r\nHost: a\r\nHost: a\r\n\r\n",
    "host with user information": b"GET /echo HTTP/1.1\r\nHost: user@a\r\n\r\n",
    "two lengths": HEAD + b"Content-Length: 5\r\nContent-Length: 6\r\n\r\nhello!",
    "list of lengths": HEAD + b"Content-Length: 5, 6\r\n\r\nhello!",
    "signed length": HEAD + b"Content-Length: +5\r\n\r\nhello",
    "hexadecimal length": HEAD + b"Content-Length: 0x5\r\n\r\nhello",
    "underscore in length": HEAD + b"Content-Length: 1_0\r\n\r\nhellohello",
    "length and chunked": HEAD + b"Content-Length: 5\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n",
    "chunked not last": HEAD + b"Transfer-Encoding: chunked, gzip\r\n\r\n0\r\n\r\n",
    "chunked twice": HEAD + b"Transfer-Encoding: chunked, chunked\r\n\r\n0\r\n\r\n",
    "chunked in two fields": HEAD + b"Transfer-Encoding: chunked\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n",
    "unknown coding": HEAD + b"Transfer-Encoding: xchunked\r\n\r\n0\r\n\r\n",
    "chunked in quotes": HEAD + b'Transfer-Encoding: "chunked"\r\n\r\n0\r\n\r\n',
    "chunked in HTTP/1.0": b"POST /echo HTTP/1.0\r\nHost: test\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n",
    "space before colon": HEAD + b"Content-Length : 5\r\n\r\nhello",
    "space before the first field": b"GET /echo HTTP/1.1\r\n Host: test\r\n\r\n",
    "folded field": HEAD + b"X: a\r\n b\r\nContent-Length: 0\r\n\r\n",
    "bare LF in head": b"GET /echo HTTP/1.1\nHost: test\n\n",
    "bare LF in a value": HEAD + b"X: a\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n",
    "bare CR in a value": HEAD + b"X: a\rb\r\nContent-Length: 0\r\n\r\n",
    "NUL in a value": HEAD + b"X: a\0b\r\nContent-Length: 0\r\n\r\n",
    "NUL in the target": b"GET /echo\0 HTTP/1.1\r\nHost: test\r\n\r\n",
    "space in the target": b"GET /echo /x HTTP/1.1\r\nHost: test\r\n\r\n",
    "empty field name": HEAD + b": x\r\nContent-Length: 0\r\n\r\n",
    "no colon": HEAD + b"Content-Length\r\n\r\n",
    "two spaces in the request line": b"GET  /echo HTTP/1.1\r\nHost: test\r\n\r\n",
    "version 2.0": b"GET /echo HTTP/2.0\r\nHost: test\r\n\r\n",
    "version of two digits": b"GET /echo HTTP/1.10\r\nHost: test\r\n\r\n",
    "no version": b"GET /echo\r\nHost: test\r\n\r\n",
    "version in lower case": b"GET /echo http/1.1\r\nHost: test\r\n\r\n",
    "method with a colon": b"GE:T /echo HTTP/1.1\r\nHost: test\r\n\r\n",
    "chunk size with a sign": HEAD + b"Transfer-Encoding: chunked\r\n\r\n+5\r\nhello\r\n0\r\n\r\n",
    "chunk size with 0x": HEAD + b"Transfer-Encoding: chunked\r\n\r\n0x5\r\nhello\r\n0\r\n\r\n",
    "chunk size with a space": HEAD + b"Transfer-Encoding: chunked\r\n\r\n 5\r\nhello\r\n0\r\n\r\n",
    "chunk ended by LF": HEAD + b"Transfer-Encoding: chunked\r\n\r\n5\nhello\r\n0\r\n\r\n",
    "chunk data too long": HEAD + b"Transfer-Encoding: chunked\r\n\r\n3\r\nhello\r\n0\r\n\r\n",
    "bare LF in a chunk extension": HEAD + b"Transfer-Encoding: chunked\r\n\r\n5;a\nb\r\nhello\r\n0\r\n\r\n",
    "not HTTP": b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03\r\n\r\n",
}


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def w(tmp_path_factory: pytest.TempPathFactory) -> AsyncIterator[World]:
    limits = {"max_header_bytes": "8KiB", "header_timeout": "300ms", "idle_timeout": "500ms"}
    async with world(tmp_path_factory.mktemp("hostile"), {"echo": echoing}, limits=limits) as running:
        yield running


@pytest.mark.parametrize("name", ATTACKS)
async def test_ambiguous_messages_end_the_connection(w: World, name: str) -> None:
    before = len(w.servers["echo"].requests)
    smuggled = b"GET /echo?smuggled HTTP/1.1\r\nHost: test\r\n\r\n"
    async with Client(w.sidecar.inbound) as client:
        await client.send(ATTACKS[name] + smuggled)
        answer = await client.response()
        assert 400 <= answer.status < 506, answer
        assert answer.get("connection") == "close"
        assert await client.is_closed()
    whole = [seen.target for seen in w.servers["echo"].requests[before:]]
    assert "/echo?smuggled" not in whole


async def test_a_head_beyond_the_limit(w: World) -> None:
    async with Client(w.sidecar.inbound) as client:
        await client.send(b"GET /echo HTTP/1.1\r\nHost: test\r\nX: " + b"x" * 9000 + b"\r\n\r\n")
        assert (await client.response()).status in (400, 431)
        assert await client.is_closed()


async def test_a_dribbled_head_has_a_deadline_as_a_whole(w: World) -> None:
    async with Client(w.sidecar.inbound) as client:
        client.writer.write(b"GET /echo HTTP/1.1\r\nHost: test\r\nX-Very-Slow: ")
        async with asyncio.timeout(PATIENCE):
            while not has_heard(client):  # an endless message
                client.writer.write(b"y")
                await asyncio.sleep(0.05)


async def test_a_silent_connection_is_closed(w: World) -> None:
    async with Client(w.sidecar.inbound) as client:
        assert await client.is_closed()
    async with Client(w.sidecar.inbound) as client:
        assert (await client.request("GET", "/echo")).status == 200
        assert await client.is_closed()


async def test_connections_beyond_the_limit_are_refused_and_come_back(shared: Sidecar) -> None:
    async with world(shared, {"echo": echoing}, limits={"max_connections": 20}) as w:
        clients = [Client(w.sidecar.inbound) for _ in range(30)]
        for client in clients:
            await client.__aenter__()
        answered = 0
        for client in clients:
            with contextlib.suppress(OSError, asyncio.IncompleteReadError):
                answered += (await client.request("GET", "/echo")).status == 200
        for client in clients:
            await client.__aexit__(None, None, None)
        assert answered == 20
        await until(lambda: is_only(w, 0))
        assert (await w.sidecar.fetch("GET", "/echo")).status == 200
