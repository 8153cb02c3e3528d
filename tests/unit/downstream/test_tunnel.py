"""Two connections joined after 101: bytes, back-pressure, half-closing, silence, and the sidecar's own end."""

from __future__ import annotations

import asyncio

import pytest

from sidecar.core.exchange import NEVER, Exchange
from sidecar.core.outcome import Outcome
from sidecar.downstream.websocket import GOING_AWAY, GOING_AWAY_MASKED
from tests.support.loop import settle, virtual
from tests.support.transports import TransportPair, Wire
from tests.support.websocket import CLOSE, TEXT, Frame
from tests.unit.downstream.front import Client, Front

HANDSHAKE = (
    b"GET / HTTP/1.1\r\nHost: a\r\nConnection: Upgrade\r\nUpgrade: websocket\r\n"
    b"Sec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\n\r\n"
)
HELLO = Frame(TEXT, b"hello").encode()
MASKED = Frame(TEXT, b"hello", masked=True).encode()


class Silent(asyncio.Protocol):
    """Has the upstream's end until it is taken over."""


class Upgraded:
    """The upstream's connection after its 101, with a wire at the other end."""

    def __init__(self, early: bytes = b"") -> None:
        self.server = Wire()
        self.pair = TransportPair(Silent(), self.server)
        self.early = early
        self.closed = 0
        self.is_lost = False

    def take_over(self, protocol: asyncio.Protocol) -> tuple[asyncio.Transport, bytes] | None:
        if self.is_lost:
            return None
        self.pair.left.set_protocol(protocol)
        return self.pair.left, self.early

    def close(self) -> None:
        self.closed += 1
        self.pair.left.close()


class World:
    """A front whose only service switches protocols."""

    def __init__(self, *, early: bytes = b"", idle: float = NEVER) -> None:
        self.upstream = Upgraded(early)
        self.idle = idle
        self.front = Front(self.service)
        self.client = self.front.connect()

    async def service(self, x: Exchange) -> Outcome:
        x.idle_timeout = self.idle
        outcome = Outcome(101, [(b"sec-websocket-accept", b"x")])
        outcome.tunnel = self.upstream
        return outcome

    async def open(self, behind: bytes = b"") -> tuple[Client, Wire]:
        self.client.write(HANDSHAKE + behind)
        answer = await self.client.answer()
        assert (answer.status, answer.get("upgrade"), answer.get("connection")) == (101, "websocket", "Upgrade")
        assert answer.get("sec-websocket-accept") == "x"
        return self.client, self.upstream.server

    @property
    def is_over(self) -> bool:
        return self.front.is_empty and self.upstream.closed > 0 and self.front.bugs == []


@virtual
async def test_bytes_go_both_ways() -> None:
    world = World()
    client, server = await world.open()
    client.write(MASKED * 3)
    server.write(HELLO * 2)
    await settle()
    assert server.received == MASKED * 3
    assert client.rest == HELLO * 2
    assert len(world.front.records) == 1
    assert world.front.server.open_connections == 1


@virtual
async def test_what_came_early_is_not_lost() -> None:
    world = World(early=HELLO)
    client, server = await world.open(MASKED)
    await settle()
    assert server.received == MASKED
    assert client.rest == HELLO


@virtual
async def test_an_upstream_that_is_lost_already_is_a_failure() -> None:
    world = World()
    world.upstream.is_lost = True
    world.client.write(HANDSHAKE)
    answer = await world.client.answer()
    assert (answer.status, answer.get("x-sidecar-reason")) == (502, "reset")


@virtual
async def test_a_client_that_has_left_meanwhile_closes_the_upstream() -> None:
    world = World()
    ready = asyncio.get_running_loop().create_future()

    async def slow(x: Exchange) -> Outcome:
        try:
            await ready
        except asyncio.CancelledError:  # its answer had come already
            return await world.service(x)
        raise AssertionError

    world.front.route.service = slow
    world.client.write(HANDSHAKE)
    await settle()
    world.client.transport.abort()
    await settle()
    assert world.is_over


@virtual
async def test_an_end_that_cannot_take_more_stops_the_other() -> None:
    world = World()
    client, server = await world.open()
    server.transport.pause_reading()
    for _ in range(50):
        client.write(b"x" * 10_000)
        await settle()
    assert client.transport.get_write_buffer_size() > 200_000
    server.transport.resume_reading()
    await settle(200)
    assert len(server.received) == 500_000
    client.transport.pause_reading()
    for _ in range(50):
        server.write(b"x" * 10_000)
        await settle()
    assert server.transport.get_write_buffer_size() > 200_000
    client.transport.resume_reading()
    await settle(200)
    assert len(client.rest) == 500_000


@pytest.mark.parametrize("who", ["client", "server"])
@virtual
async def test_half_closing_goes_through(who: str) -> None:
    world = World()
    client, server = await world.open()
    first, second = (client, server) if who == "client" else (server, client)
    first.transport.write_eof()
    await settle()
    assert second.is_eof
    second.write(HELLO)
    await settle()
    assert first.received.endswith(HELLO)
    second.transport.write_eof()
    await settle()
    assert world.is_over


@pytest.mark.parametrize("who", ["client", "server"])
@virtual
async def test_a_lost_end_closes_the_other(who: str) -> None:
    world = World()
    client, server = await world.open()
    first, second = (client, server) if who == "client" else (server, client)
    first.transport.abort()
    await settle()
    assert second.is_eof
    second.transport.close()
    await settle()
    assert world.is_over


@virtual
async def test_silence_ends_it_politely() -> None:
    world = World(idle=10)
    client, server = await world.open()
    for _ in range(3):
        await asyncio.sleep(8)
        client.write(MASKED)
        await asyncio.sleep(8)
        server.write(HELLO)
    await settle()
    assert not client.is_eof
    await asyncio.sleep(12)
    assert client.rest.endswith(GOING_AWAY)
    assert server.received.endswith(GOING_AWAY_MASKED)
    await asyncio.sleep(5)
    assert client.is_lost
    assert world.is_over


@virtual
async def test_drain_closes_between_frames_and_waits_for_the_answers() -> None:
    world = World()
    client, server = await world.open()
    client.write(MASKED)
    server.write(HELLO[:3])
    await settle()
    world.front.listener.drain()
    await settle()
    assert server.received == MASKED + GOING_AWAY_MASKED, "told at once"
    assert client.rest == HELLO[:3], "there is a frame to end first"
    server.write(HELLO[3:] + HELLO)
    await settle()
    assert client.rest == HELLO + GOING_AWAY, "and nothing after that"
    client.write(MASKED + Frame(CLOSE, b"\x03\xe9", masked=True).encode())
    server.write(Frame(CLOSE, b"\x03\xe9").encode())
    await settle()
    assert client.is_eof
    assert server.is_eof
    assert server.received == MASKED + GOING_AWAY_MASKED
    client.transport.close()
    server.transport.close()
    await settle()
    assert world.is_over


@virtual
async def test_drain_does_not_wait_for_ever() -> None:
    world = World()
    client, _ = await world.open()
    assert await world.front.server.drain(10) == 0
    assert client.rest == GOING_AWAY
    assert world.front.is_empty


@virtual
async def test_drain_in_the_middle_of_a_frame_that_never_ends() -> None:
    world = World()
    client, server = await world.open()
    client.write(MASKED[:4])
    await settle()
    assert await world.front.server.drain(10) == 0
    await settle()
    assert client.is_lost
    assert server.received == MASKED[:4]
    assert world.front.is_empty


@virtual
async def test_a_conversation_that_is_closing_already_is_left_to_end() -> None:
    world = World()
    client, server = await world.open()
    goodbye = Frame(CLOSE, b"\x03\xe8", masked=True).encode()
    client.write(goodbye)
    await settle()
    world.front.listener.drain()
    await settle()
    assert server.received == goodbye
    server.write(Frame(CLOSE, b"\x03\xe8").encode())
    server.transport.close()
    await settle()
    assert client.rest == Frame(CLOSE, b"\x03\xe8").encode()
    assert client.is_eof
    client.transport.close()
    await settle()
    assert world.is_over


@virtual
async def test_a_handshake_while_draining_is_told_at_once() -> None:
    world = World()
    world.client.write(HANDSHAKE[:20])
    await settle()
    world.front.listener.drain()
    world.client.write(HANDSHAKE[20:])
    assert (await world.client.answer()).status == 101
    await settle()
    assert world.client.rest == GOING_AWAY


@virtual
async def test_abort_cuts_both_ends() -> None:
    world = World()
    client, server = await world.open()
    world.front.server.abort()
    await settle()
    assert client.is_lost
    assert server.is_lost
    assert world.is_over
