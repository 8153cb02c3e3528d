"""Attacks on a running sidecar that others use: they are served, memory stays bounded, and every attacker is
disconnected within its deadline, without any remains."""

from __future__ import annotations

import asyncio
import contextlib
import socket
import struct
from collections.abc import AsyncIterator

import pytest
import pytest_asyncio

from chaos.parts.http import request
from chaos.parts.servers import answering, echoing, silent
from tests.e2e.crowd import (
    LET_GO,
    LIMITS,
    MIB,
    SLOW_CLIENTS,
    Ordinary,
    attackers,
    connections,
    deaf,
    dribbling,
    has_files,
    has_heard,
    is_only,
    is_quiet,
    until,
)
from tests.e2e.world import World, world

pytestmark = pytest.mark.asyncio(loop_scope="module")

SMALL = request("GET", "/echo")


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def w(tmp_path_factory: pytest.TempPathFactory) -> AsyncIterator[World]:
    servers = {"echo": echoing, "large": answering(body=bytes(16 * MIB)), "silent": silent}
    upstreams = {name: {"connections": {"idle_timeout": "1s"}} for name in servers}
    listeners = {"inbound": {"address": "127.0.0.1:0", "slow_clients": SLOW_CLIENTS}}
    place = tmp_path_factory.mktemp("attacks")
    async with world(place, servers, limits=LIMITS, listeners=listeners, upstreams=upstreams) as running:
        yield running


async def test_a_flood_of_connections(w: World) -> None:
    before = w.sidecar.memory()
    async with Ordinary(w) as ordinary, attackers(w, 500) as flood:
        await until(lambda: sum(map(has_heard, flood)) >= 200)
        assert await connections(w) <= 300
        assert (await w.sidecar.ask("/readyz")).status == 200
        await ordinary.served()
    assert w.sidecar.memory() - before < 16 * MIB
    assert (await w.sidecar.fetch("GET", "/echo")).status == 200
    await until(lambda: is_quiet(w))


async def test_200_slow_heads_beside_ordinary_load(w: World) -> None:
    async with Ordinary(w) as ordinary, attackers(w, 200) as slow, dribbling(slow, SMALL[:-2], b"x"):
        await ordinary.served()
        await until(lambda: all(map(has_heard, slow)))


async def test_slow_bodies(w: World) -> None:
    """Bodies of both framings at once, because all of them wait for the same allowance."""
    framings = (b"content-length: 1000000", b"transfer-encoding: chunked")
    heads = [b"POST /echo HTTP/1.1\r\nHost: test\r\n%b\r\n\r\n" % framing for framing in framings]

    async def answers_to(head: bytes) -> set[bytes]:
        async with attackers(w, 30) as slow, dribbling(slow, head, b"1\r\nx\r\n"):
            return set(await asyncio.gather(*(asyncio.wait_for(each.reader.read(15), LET_GO) for each in slow)))

    for answers in await asyncio.gather(*map(answers_to, heads)):
        assert answers <= {b"HTTP/1.1 408 Re", b""}
    await until(lambda: is_quiet(w))


async def test_slow_readers(w: World) -> None:
    before = w.sidecar.memory()
    async with Ordinary(w) as ordinary:
        with deaf(w, 20) as slow:
            for sock in slow:
                sock.sendall(request("GET", "/large"))
            await asyncio.sleep(0.7)
            assert w.sidecar.memory() - before < 20 * MIB, "a connection holds no more than a few buffers"
            await ordinary.served()
            await until(lambda: is_only(w, 1))
    await until(lambda: is_quiet(w))


@pytest.mark.parametrize("target", ["/echo", "/nothing-is-here"])
async def test_pipelined_requests_whose_answers_nobody_reads(w: World, target: str) -> None:
    before = w.sidecar.memory()
    block = request("GET", target) * 2000
    async with Ordinary(w) as ordinary:
        with deaf(w, 20) as flood:
            for _ in range(200):
                for sock in flood:
                    with contextlib.suppress(OSError):
                        sock.send(block)
                await asyncio.sleep(0.01)
            await ordinary.served()
            assert w.sidecar.memory() - before < 24 * MIB
    await until(lambda: is_quiet(w))


async def test_a_flood_of_headers(w: World) -> None:
    head = b"GET /echo HTTP/1.1\r\nHost: test\r\n"
    before = w.sidecar.memory()
    async with Ordinary(w) as ordinary, attackers(w, 50) as clients:
        for client in clients:  # as many as the limits take
            await client.send(head + b"a:%b\r\n" % (b"b" * 27) * 250 + b"\r\n")
        answers = await asyncio.gather(*(client.response() for client in clients))
        assert {answer.status for answer in answers} == {200}
        for client in clients:
            with contextlib.suppress(OSError):
                await client.send(head + b"a:b\r\n" * 20_000)
        answers = await asyncio.gather(*(client.response() for client in clients))
        assert {answer.status for answer in answers} == {431}
        await ordinary.served()
    assert w.sidecar.memory() - before < 16 * MIB


@pytest.mark.parametrize("how", ["half-closed", "reset"])
async def test_clients_that_are_gone(w: World, how: str) -> None:
    asked = len(w.servers["silent"].requests)
    async with attackers(w, 100) as clients:
        for number, client in enumerate(clients):
            pieces = (request("GET", "/silent"), request("POST", "/silent", b"x" * 1000)[:-500], SMALL[:20], b"")
            await client.send(pieces[number % 4])
        await until(lambda: len(w.servers["silent"].requests) - asked >= 25)  # a short body is buffered first
        for client in clients:
            if how == "half-closed":
                client.writer.write_eof()
            else:
                sock = client.writer.get_extra_info("socket")
                sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
                client.writer.transport.abort()
        await until(lambda: is_quiet(w))
    assert await w.servers["silent"].are_clients_gone(), "what nobody waits for is called off"


async def test_nothing_remains(w: World) -> None:
    await until(lambda: is_quiet(w))
    await until(lambda: has_files(w, 25))
    assert not w.sidecar.said("bug")
