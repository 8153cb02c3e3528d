"""Tests of endless upstreams, in each part of a message: cut off at once, with bounded memory."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncIterator

import pytest
import pytest_asyncio

from chaos.parts.http import Message
from chaos.parts.servers import Behaviour, Connection, answering
from tests.e2e.world import World, world

pytestmark = pytest.mark.asyncio(loop_scope="module")

OK = b"HTTP/1.1 200 OK\r\n"
CHUNKED = OK + b"Transfer-Encoding: chunked\r\n\r\n"
ENDLESS = {
    "interims": (b"", b"HTTP/1.1 102 Processing\r\n\r\n" * 100),
    "interims-one-by-one": (b"", b"HTTP/1.1 103 Early Hints\r\nLink: </a>\r\n\r\n"),
    "continues": (b"", b"HTTP/1.1 100 Continue\r\n\r\n" * 100),
    "status-line": (b"HTTP/1.1 200 ", b"x" * 10_000),
    "headers": (OK, b"X-Filler: x\r\n" * 1000),
    "header": (OK + b"X-Filler: ", b"x" * 10_000),
    "chunk-size": (CHUNKED, b"0" * 10_000),
    "chunk-extension": (CHUNKED + b"5", b";x" * 5000),
    "chunk-extension-quoted": (CHUNKED + b'5;x="', b"x" * 10_000),
    "trailers": (CHUNKED + b"5\r\nhello\r\n0\r\n", b"X-Filler: x\r\n" * 1000),
    "empty-lines": (b"", b"\r\n" * 5000),
    "spaces": (OK + b"X-Filler:", b" " * 10_000),
}


def endless(head: bytes, piece: bytes) -> Behaviour:
    """Return a behaviour that sends the head, then the piece for ever."""

    async def behave(connection: Connection, request: Message) -> None:
        await connection.send(head)
        while connection.is_open:
            await connection.send(piece)
            await asyncio.sleep(0)

    return behave


async def trickling(connection: Connection, request: Message) -> None:
    """Send a head without end, byte by byte."""
    await connection.send(OK)
    while connection.is_open:
        await connection.send(b"x")
        await asyncio.sleep(0.02)


async def shouting(connection: Connection, request: Message) -> None:
    """Send a long body in an answer that must have none."""
    await connection.send(b"HTTP/1.1 304 Not Modified\r\n\r\n" + b"x" * 1_000_000)


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def w(tmp_path_factory: pytest.TempPathFactory) -> AsyncIterator[World]:
    servers = {name: endless(*pieces) for name, pieces in ENDLESS.items()}
    servers |= {"trickling": trickling, "shouting": shouting, "good": answering()}
    async with world(
        tmp_path_factory.mktemp("endless"), servers, defaults={"timeout": {"request": "2s", "attempt": "1s"}}
    ) as running:
        yield running


@pytest.mark.parametrize("name", [*ENDLESS, "trickling"])
async def test_what_never_ends_is_cut_off(w: World, name: str) -> None:
    before = w.sidecar.memory()
    with contextlib.suppress(asyncio.IncompleteReadError, ConnectionResetError):  # a body is visibly cut short
        async with w.sidecar.client() as client:
            answer = await client.request("GET", f"/{name}")
            for _ in range(20):  # some interim responses may pass
                if answer.status >= 200:
                    break
                answer = await client.response()
        assert answer.status in (502, 504)
        assert answer.get("x-sidecar-reason") in ("protocol_error", "timeout")
    assert await w.servers[name].are_clients_gone()
    assert w.sidecar.memory() - before < 4 * 2**20


async def test_a_body_where_there_is_none_becomes_no_answer(w: World) -> None:
    async with w.sidecar.client() as client:
        for _ in range(3):
            answer = await client.request("GET", "/shouting")
            assert (answer.status, answer.body) == (304, b"")
        assert (await client.request("GET", "/good")).body == b"ok"


async def test_nothing_remains(w: World) -> None:
    assert (await w.sidecar.fetch("GET", "/good")).status == 200
    assert not w.sidecar.said("bug")
