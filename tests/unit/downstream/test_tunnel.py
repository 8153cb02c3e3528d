"""Tunnels: bytes, backpressure, half-closed sides, idle timeout, and Close frames of the sidecar."""

from __future__ import annotations

import asyncio

import pytest

from chaos.parts.websocket import CLOSE, TEXT, Frame
from sidecar.core.exchange import NEVER, Exchange
from sidecar.core.outcome import Outcome
from sidecar.downstream.websocket import GOING_AWAY, GOING_AWAY_MASKED
from tests.support.loop import settle, virtual
from tests.support.transports import Wire
from tests.unit.downstream.front import HANDSHAKE, Client, Front, Upgraded

HELLO = Frame(TEXT, b"hello").encode()
MASKED = Frame(TEXT, b"hello", masked=True).encode()


class World:
    """Front whose service switches protocols."""

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
async def test_bytes_pass_both_ways() -> None:
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
async def test_bytes_that_came_with_request_and_answer_are_passed_on() -> None:
    world = World(early=HELLO)
    client, server = await world.open(MASKED)
    await settle()
    assert server.received == MASKED
    assert client.rest == HELLO


@virtual
async def test_an_upstream_that_is_closed_already_is_a_failure() -> None:
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
async def test_a_side_that_cannot_take_more_pauses_the_other() -> None:
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
async def test_half_closing_is_passed_on(who: str) -> None:
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


@virtual
async def test_a_client_that_half_closed_before_the_tunnel_was_open_half_closes_the_upstream() -> None:
    world = World()
    ready = asyncio.get_running_loop().create_future()

    async def slow(x: Exchange) -> Outcome:
        await ready
        return await world.service(x)

    world.front.route.service = slow
    world.client.write(HANDSHAKE + MASKED)
    world.client.transport.write_eof()
    await settle()
    ready.set_result(None)
    assert (await world.client.answer()).status == 101
    server = world.upstream.server
    assert (server.received, server.is_eof) == (MASKED, True)
    server.write(HELLO)
    server.transport.close()
    await settle()
    assert world.client.rest == HELLO
    assert world.is_over


@pytest.mark.parametrize("who", ["client", "server"])
@virtual
async def test_a_half_closed_tunnel_lives_while_bytes_pass_and_not_for_ever(who: str) -> None:
    world = World()
    client, server = await world.open()
    first, second = (client, server) if who == "client" else (server, client)
    first.transport.write_eof()
    for _ in range(5):
        await asyncio.sleep(4)
        second.write(HELLO if who == "client" else MASKED)
    await settle()
    assert not first.is_lost
    await asyncio.sleep(9)
    assert first.is_lost
    assert world.is_over


@virtual
async def test_a_half_close_of_a_tunnel_can_count_as_closing() -> None:
    world = World()
    world.front.server.limits = world.front.server.limits.model_copy(update={"half_close_timeout": 0.0})
    world.front.listener.limits = world.front.server.limits
    client, server = await world.open()
    client.transport.write_eof()
    await settle()
    server.transport.close()
    await settle()
    assert world.is_over


@pytest.mark.parametrize("who", ["client", "server"])
@virtual
async def test_a_closed_side_closes_the_other(who: str) -> None:
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
async def test_the_idle_timeout_ends_it_with_close_frames() -> None:
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
async def test_a_tunnel_that_closes_already_is_not_disturbed() -> None:
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
async def test_a_tunnel_opened_while_draining_ends_at_once() -> None:
    world = World()
    world.client.write(HANDSHAKE[:20])
    await settle()
    world.front.listener.drain()
    world.client.write(HANDSHAKE[20:])
    assert (await world.client.answer()).status == 101
    await settle()
    assert world.client.rest == GOING_AWAY


@virtual
async def test_abort_closes_both_sides() -> None:
    world = World()
    client, server = await world.open()
    world.front.server.abort()
    await settle()
    assert client.is_lost
    assert server.is_lost
    assert world.is_over
