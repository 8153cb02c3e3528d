"""Tests of streamed bodies: passed on at once, in both directions, at the slower side's pace, in bounded memory."""

from __future__ import annotations

import asyncio
import hashlib
from collections.abc import AsyncIterator

import pytest
import pytest_asyncio

from chaos.parts.client import Client
from chaos.parts.http import Message, read_head, response
from chaos.parts.servers import Behaviour, Connection, Server
from tests.e2e.world import World, world

pytestmark = pytest.mark.asyncio(loop_scope="module")

MIB = 2**20
SIZE = 128 * MIB
ALLOWED = 16 * MIB
PAUSE = 0.0005
"""Seconds between two reads of a slow reader."""
PIECE = bytes(range(256)) * 1024


async def download(connection: Connection, request: Message) -> None:
    """Send `SIZE` bytes as fast as the client reads them."""
    await connection.send(b"HTTP/1.1 200 OK\r\nContent-Length: %d\r\n\r\n" % SIZE)
    for _ in range(SIZE // len(PIECE)):
        await connection.send(PIECE)


async def upload(connection: Connection, request: Message) -> None:
    """Read the body piece by piece, slowly if the path says so, and answer with its digest."""
    digest = hashlib.sha256()
    left = int(request.get("content-length"))
    while left:
        data = await connection.reader.read(min(left, MIB))
        if not data:
            return
        digest.update(data)
        left -= len(data)
        if request.target == "/up/slow":
            await asyncio.sleep(PAUSE)
    await connection.send(response(200, digest.hexdigest().encode()))


class Events:
    """Server-sent events, each sent when the test says so."""

    def __init__(self) -> None:
        self.queue: asyncio.Queue[bytes | None] = asyncio.Queue()

    async def __call__(self, connection: Connection, request: Message) -> None:
        await connection.send(
            b"HTTP/1.1 200 OK\r\nContent-Type: text/event-stream\r\nTransfer-Encoding: chunked\r\n\r\n"
        )
        while (event := await self.queue.get()) is not None:
            data = b"data: %b\n\n" % event
            await connection.send(b"%x\r\n%b\r\n" % (len(data), data))
        await connection.send(b"0\r\n\r\n")


EVENTS = Events()


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def w(tmp_path_factory: pytest.TempPathFactory) -> AsyncIterator[World]:
    servers: dict[str, Behaviour | Server] = {
        "down": download,
        "up": Server(upload, reads_body=False),
        "events": EVENTS,
        "interactive": Server(conversation, reads_body=False),
    }
    async with world(tmp_path_factory.mktemp("streaming"), servers) as running:
        yield running


async def conversation(connection: Connection, request: Message) -> None:
    """Answer the request's chunks one by one, while they arrive."""
    await connection.send(b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n")
    while size := int((await connection.reader.readuntil(b"\r\n")), 16):
        data = await connection.reader.readexactly(size + 2)
        await connection.send(b"%x\r\n%b" % (size, data.upper()))
    await connection.reader.readexactly(2)
    await connection.send(b"0\r\n\r\n")


@pytest.mark.parametrize("pause", [0, PAUSE], ids=["fast", "slow"])
async def test_a_large_download_arrives_whole_in_little_memory(w: World, pause: float) -> None:
    idle = w.sidecar.memory()
    highest, received = 0, 0
    async with w.sidecar.client() as client:
        await client.send(b"GET /down HTTP/1.1\r\nHost: test\r\n\r\n")
        head = await read_head(client.reader)
        assert head.get("content-length") == str(SIZE)
        digest = hashlib.sha256()
        while received < SIZE:
            data = await asyncio.wait_for(client.reader.read(MIB), 60)
            assert data, f"it ended after {received} bytes"
            digest.update(data)
            received += len(data)
            highest = max(highest, w.sidecar.memory())
            await asyncio.sleep(pause)
    assert digest.hexdigest() == hashlib.sha256(PIECE * (SIZE // len(PIECE))).hexdigest()
    assert highest - idle < ALLOWED


@pytest.mark.parametrize("target", ["/up", "/up/slow"])
async def test_a_large_upload_arrives_whole_in_little_memory(w: World, target: str) -> None:
    idle = w.sidecar.memory()
    highest = 0
    async with w.sidecar.client() as client:
        await client.send(b"POST %b HTTP/1.1\r\nHost: test\r\nContent-Length: %d\r\n\r\n" % (target.encode(), SIZE))
        for _ in range(SIZE // len(PIECE)):
            await client.send(PIECE)
            highest = max(highest, w.sidecar.memory())
        answer = await client.response("POST")
    assert answer.body.decode() == hashlib.sha256(PIECE * (SIZE // len(PIECE))).hexdigest()
    assert highest - idle < ALLOWED


async def test_a_client_that_does_not_read_stops_the_upstream(w: World) -> None:
    idle = w.sidecar.memory()
    async with w.sidecar.client() as client:
        await client.send(b"GET /down HTTP/1.1\r\nHost: test\r\n\r\n")
        await asyncio.sleep(0.5)
        assert w.sidecar.memory() - idle < ALLOWED


async def test_events_arrive_one_by_one_without_delay(w: World) -> None:
    async with w.sidecar.client() as client:
        await client.send(b"GET /events HTTP/1.1\r\nHost: test\r\n\r\n")
        for number in range(3):
            EVENTS.queue.put_nowait(b"%d" % number)
            seen = await asyncio.wait_for(client.reader.readuntil(b"data: %d\n\n" % number), 60)
        assert seen
        EVENTS.queue.put_nowait(None)
        await asyncio.wait_for(client.reader.readuntil(b"0\r\n\r\n"), 60)


async def test_request_and_response_flow_at_the_same_time(w: World) -> None:
    async with w.sidecar.client() as client:
        await client.send(b"POST /interactive HTTP/1.1\r\nHost: test\r\nTransfer-Encoding: chunked\r\n\r\n")
        for word in (b"one", b"two", b"three"):
            await client.send(b"%x\r\n%b\r\n" % (len(word), word))
            await asyncio.wait_for(client.reader.readuntil(word.upper()), 60)
        await client.send(b"0\r\n\r\n")
        await asyncio.wait_for(client.reader.readuntil(b"0\r\n\r\n"), 60)


async def test_a_client_that_leaves_stops_the_upstream(w: World) -> None:
    client = Client(w.sidecar.inbound)
    async with client:
        await client.send(b"GET /down HTTP/1.1\r\nHost: test\r\n\r\n")
        await client.reader.read(1000)
    assert await w.servers["down"].are_clients_gone()
