"""A part of an aggregated answer that streams, in a real process: a body of many MiB arrives whole in little memory."""

from __future__ import annotations

import asyncio
import hashlib
from pathlib import Path

import pytest

from chaos.parts.http import Message, read_head, response
from chaos.parts.servers import Connection, Server
from tests.e2e.test_http2 import CURL, has_http2
from tests.support.process import Sidecar, policies

MIB = 2**20
PIECE = b'"0123456789", ' * 4681
PIECES = 500
SIZE = len(PIECE) * PIECES
ALLOWED = 10 * MIB
"""Memory for the request: a third of the body, for buffers of the process and of the event loop."""


async def app(connection: Connection, request: Message) -> None:
    """Answer the long part as fast as it is read, and the short one at once."""
    if request.target != "/long":
        await connection.send(response(200, b'{"id": 7}'))
        return
    await connection.send(
        b"HTTP/1.1 200 OK\r\nContent-Type: application/json\r\nContent-Length: %d\r\n\r\n[" % (SIZE + 3)
    )
    for _ in range(PIECES):
        await connection.send(PIECE)
    await connection.send(b"1]")


@pytest.mark.skipif(not has_http2(), reason="there is no curl that speaks HTTP/2")
async def test_a_long_part_streams_in_little_memory_over_both_protocols(tmp_path: Path) -> None:
    parts = {
        "long": {"upstream": "app", "path": "/long", "stream": True},
        "short": {"upstream": "app", "path": "/short", "required": True},
    }
    async with Server(app) as server:
        route = {"name": "page", "match": {"path": "/page"}, "aggregate": {"parts": parts}}
        policy = policies(upstreams={"app": {"endpoints": [server.url]}}, routes=[route])
        async with Sidecar(policy, tmp_path) as sidecar:
            expected = hashlib.sha256(b'{"long":[' + PIECE * PIECES + b'1],"short":{"id": 7}}').hexdigest()
            idle = sidecar.memory()
            highest, digest = 0, hashlib.sha256()
            async with sidecar.client() as client:
                await client.send(b"GET /page HTTP/1.1\r\nHost: test\r\n\r\n")
                left = int((await read_head(client.reader)).get("content-length"))
                assert left > SIZE
                while left:
                    data = await asyncio.wait_for(client.reader.read(MIB), 60)
                    assert data, f"it ended {left} bytes early"
                    digest.update(data)
                    left -= len(data)
                    highest = max(highest, sidecar.memory())
            assert digest.hexdigest() == expected
            url = f"http://{sidecar.inbound}/page"
            curl = await asyncio.create_subprocess_exec(
                CURL, "--silent", "--fail", "--http2-prior-knowledge", url, stdout=asyncio.subprocess.PIPE
            )
            assert curl.stdout is not None
            digest = hashlib.sha256()
            while data := await asyncio.wait_for(curl.stdout.read(MIB), 60):
                digest.update(data)
                highest = max(highest, sidecar.memory())
            assert await curl.wait() == 0
            assert digest.hexdigest() == expected
            assert highest - idle < ALLOWED
