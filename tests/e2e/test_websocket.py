"""Tests of WebSocket through the sidecar: both directions, pings, close codes, and refused handshakes."""

from __future__ import annotations

import asyncio
import signal
from collections.abc import AsyncIterator
from pathlib import Path

import pytest
import pytest_asyncio

from chaos.parts import websocket as ws
from chaos.parts.http import Message
from chaos.parts.servers import Connection, answering
from chaos.parts.websocket import Frame
from tests.e2e.world import World, world

pytestmark = pytest.mark.asyncio(loop_scope="module")


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def w(tmp_path_factory: pytest.TempPathFactory) -> AsyncIterator[World]:
    routes = {"brief": {"timeout": {"request": "1s"}}}
    servers = {"ws": ws.echo, "brief": ws.echo, "plain": answering(403, b"no")}
    async with world(tmp_path_factory.mktemp("websocket"), servers, routes=routes) as running:
        yield running


async def test_messages_go_both_ways_unchanged(w: World) -> None:
    async with w.sidecar.client() as client:
        await client.send(ws.handshake("/ws"))
        answer = await client.response()
        assert answer.status == 101
        assert answer.get("sec-websocket-accept") == ws.accept(ws.KEY)
        assert answer.get("upgrade").lower() == "websocket"
        frames = [
            Frame(ws.TEXT, "grüß".encode()),
            Frame(ws.BINARY, bytes(range(256)) * 300),
            Frame(ws.TEXT, b"part", final=False),
            Frame(0, b"two"),
        ]
        await client.send(b"".join(frame._replace(masked=True).encode() for frame in frames))
        assert [await asyncio.wait_for(ws.read_frame(client.reader), 60) for _ in frames] == frames
        await client.send(Frame(ws.PING, b"?", masked=True).encode())
        assert await ws.read_frame(client.reader) == Frame(ws.PONG, b"?")
        await client.send(Frame(ws.CLOSE, b"\x0f\xa1bye", masked=True).encode())
        assert await ws.read_frame(client.reader) == Frame(ws.CLOSE, b"\x0f\xa1bye"), "close code 4001 and reason"
        assert await client.is_closed()


async def test_it_outlives_the_timeout_of_the_handshake(w: World) -> None:
    async with w.sidecar.client() as client:
        await client.send(ws.handshake("/brief"))
        assert (await client.response()).status == 101
        await asyncio.sleep(1.2)
        await client.send(Frame(ws.TEXT, b"still there", masked=True).encode())
        assert (await asyncio.wait_for(ws.read_frame(client.reader), 60)).payload == b"still there"


async def test_what_comes_with_the_handshake_is_not_lost(w: World) -> None:
    async with w.sidecar.client() as client:
        await client.send(ws.handshake("/ws") + Frame(ws.TEXT, b"early", masked=True).encode())
        assert (await client.response()).status == 101
        assert (await asyncio.wait_for(ws.read_frame(client.reader), 60)).payload == b"early"


async def test_a_client_that_leaves_takes_the_upstream_connection_along(w: World) -> None:
    async with w.sidecar.client() as client:
        await client.send(ws.handshake("/ws"))
        await client.response()
    assert await w.servers["ws"].are_clients_gone()


async def test_a_refused_handshake_is_an_ordinary_answer(w: World) -> None:
    async with w.sidecar.client() as client:
        await client.send(ws.handshake("/plain"))
        answer = await client.response()
        assert (answer.status, answer.body) == (403, b"no")


async def test_drain_says_goodbye_on_both_sides(tmp_path: Path) -> None:
    heard: list[Frame] = []

    async def listening(connection: Connection, request: Message) -> None:
        accept = ws.accept(request.get("sec-websocket-key")).encode()
        await connection.send(
            b"HTTP/1.1 101 Switching Protocols\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n"
            b"Sec-WebSocket-Accept: " + accept + b"\r\n\r\n"
        )  # fmt: skip
        heard.append(await ws.read_frame(connection.reader))
        await connection.send(Frame(ws.CLOSE, b"\x03\xe9").encode())

    async with world(tmp_path, {"ws": listening}) as own, own.sidecar.client() as client:
        await client.send(ws.handshake("/ws"))
        assert (await client.response()).status == 101
        own.sidecar.signal(signal.SIGTERM)
        frame = await asyncio.wait_for(ws.read_frame(client.reader), 60)
        assert frame == Frame(ws.CLOSE, b"\x03\xe9")
        await client.send(Frame(ws.CLOSE, b"\x03\xe9", masked=True).encode())
        assert await client.is_closed()
        assert await asyncio.wait_for(own.sidecar.wait(), 60) == 0
    assert heard == [Frame(ws.CLOSE, b"\x03\xe9", masked=True)]
