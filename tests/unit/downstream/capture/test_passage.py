"""Tests of passages in virtual time: sniffing, timeouts, bounds and ends."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from typing import Any

import pytest

from sidecar.downstream.capture.connection import CapturedConnection
from sidecar.downstream.capture.destination import Destination
from sidecar.downstream.capture.passage import Passage
from sidecar.downstream.connection import DownstreamConnection
from sidecar.downstream.http2.connection import Http2Connection
from tests.support.cases import each
from tests.support.loop import settle, virtual
from tests.support.transports import TransportPair, Wire
from tests.unit.downstream.front import Front, always

DESTINATION = Destination("10.0.0.9", 25)
SETTINGS = {
    "sniff_timeout": "200ms", "connect_timeout": "3s", "idle_timeout": "60s", "max_passages": 2,
}  # fmt: skip


class World:
    """Listener for redirected connections, and one server that takes all of them."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.front = Front(always(Any), listener={"original_destination": True, "capture": SETTINGS})
        capture = self.front.listener.capture
        assert capture is not None
        self.capture = capture
        capture.read_destination = lambda _: DESTINATION
        self.servers: list[Wire] = []
        self.delay = 0.0

        async def dial(passage: Passage) -> None:
            await asyncio.sleep(self.delay)
            server = Wire()
            self.servers.append(server)
            TransportPair(server, passage._server)

        monkeypatch.setattr(Passage, "_dial", dial)

    def connect(self) -> Wire:
        client = Wire()
        TransportPair(client, CapturedConnection(self.front.listener, self.capture))
        return client

    def refused(self) -> list[str]:
        return [each["reason"] for each in self.front.env.emitted("capture.refused")]

    def ended(self) -> list[str | None]:
        return [each.get("reason") for each in self.front.env.emitted("capture.ended")]


@virtual
async def test_a_silent_client_passes_after_the_sniff_timeout(monkeypatch: pytest.MonkeyPatch) -> None:
    world = World(monkeypatch)
    client = world.connect()
    await asyncio.sleep(0.19)
    assert world.servers == []
    await asyncio.sleep(0.02)
    world.servers[0].write(b"220 hello\r\n")
    await settle()
    assert bytes(client.received) == b"220 hello\r\n"
    client.transport.write_eof()
    await settle()
    assert world.servers[0].is_eof
    world.servers[0].write(b"221 bye\r\n")
    world.servers[0].transport.close()
    await settle()
    assert bytes(client.received) == b"220 hello\r\n221 bye\r\n"
    client.transport.close()
    await settle()
    assert world.ended() == [None]
    assert (world.capture.passages, world.capture.received.value) == (0, 20)
    assert not world.front.listener.connections


@virtual
async def test_a_passage_ends_after_the_idle_timeout_and_bytes_restart_it(monkeypatch: pytest.MonkeyPatch) -> None:
    world = World(monkeypatch)
    client = world.connect()
    client.write(b"\x00binary")
    await asyncio.sleep(50)
    client.write(b"more")
    await asyncio.sleep(50)
    assert bytes(world.servers[0].received) == b"\x00binarymore"
    assert world.capture.passages == 1
    await asyncio.sleep(12)
    assert world.ended() == ["idle"]
    assert (client.is_lost, world.servers[0].is_lost, world.capture.passages) == (True, True, 0)


@virtual
async def test_a_destination_that_does_not_answer_is_given_up(monkeypatch: pytest.MonkeyPatch) -> None:
    world = World(monkeypatch)
    world.delay = 100
    client = world.connect()
    client.write(b"\x00")
    await asyncio.sleep(2.9)
    assert not client.is_lost
    await asyncio.sleep(1.2)
    assert client.is_lost
    (refused,) = world.front.env.emitted("capture.refused")
    assert (refused["reason"], refused["cause"]) == ("connect", "takes longer than capture.connect_timeout, 3 s")
    assert (world.ended(), world.capture.passages) == (["connect"], 0)


@virtual
async def test_the_sweep_after_a_long_turn_of_the_loop_finds_no_attempt_that_has_not_begun(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """A task that is cancelled before it has begun would leave the passage and its client for ever."""
    world, begin, opened = World(monkeypatch), Passage.open, []

    def open_and_look(passage: Passage, *arguments: Any, **more: Any) -> None:
        begin(passage, *arguments, **more)
        opened.append((passage, passage.expires))

    monkeypatch.setattr(Passage, "open", open_and_look)
    world.delay = 2
    world.connect().write(b"\x00")
    await settle()
    ((passage, expires),) = opened
    assert (expires, passage.expires) == (float("inf"), pytest.approx(world.front.env.now() + 3))


@virtual
async def test_a_client_that_leaves_ends_the_attempt_to_connect(monkeypatch: pytest.MonkeyPatch) -> None:
    world = World(monkeypatch)
    world.delay = 2
    client = world.connect()
    client.write(b"\x00")
    await settle()
    client.transport.abort()
    await settle()
    assert (world.capture.passages, world.servers, world.refused()) == (0, [], [])


@virtual
async def test_passages_beyond_the_limit_are_reset_and_counted(monkeypatch: pytest.MonkeyPatch) -> None:
    world = World(monkeypatch)
    clients = [world.connect() for _ in range(3)]
    for client in clients:
        client.write(b"\x00")
        await settle()
    assert [client.is_lost for client in clients] == [False, False, True]
    assert (world.refused(), world.capture.passages) == (["too_many"], 2)
    clients[0].transport.abort()
    await settle()
    assert world.servers[0].is_lost
    world.connect().write(b"\x00")
    await settle()
    assert (world.refused(), world.capture.passages) == (["too_many"], 2)


@virtual
async def test_a_server_that_does_not_read_stops_the_reading_of_its_client(monkeypatch: pytest.MonkeyPatch) -> None:
    world = World(monkeypatch)
    client = world.connect()
    client.write(b"\x00")
    await settle()
    world.servers[0].transport.pause_reading()
    for _ in range(100):
        client.write(b"x" * 16_384)
        await settle()
    (passage,) = world.front.listener.connections
    assert isinstance(passage, Passage)
    held = passage._client.passed
    assert held < 500_000
    world.servers[0].transport.resume_reading()
    await settle(500)
    assert len(world.servers[0].received) == 1 + 100 * 16_384


@virtual
async def test_a_server_of_plain_tcp_that_fails_ends_its_own_passage_only(monkeypatch: pytest.MonkeyPatch) -> None:
    world = World(monkeypatch)
    clients = [world.connect() for _ in range(2)]
    for client in clients:
        client.write(b"\x00")
        await settle()
    world.servers[0].transport.abort()
    for connection in [*world.front.listener.connections]:
        connection.drain()
    await settle()
    assert [client.is_lost for client in clients] == [True, False]
    clients[1].write(b"still")
    world.servers[1].write(b"answered")
    await settle()
    assert bytes(world.servers[1].received) == b"\x00still"
    assert bytes(clients[1].received) == b"answered"
    assert (world.ended(), world.capture.passages) == (["server_reset"], 1)


REQUEST = b"GET /a HTTP/1.1\r\nHost: a.test\r\n\r\n"
PREFACE = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n"


@each([
    ("http1", lambda client, server: client.write(REQUEST)),
    ("http2", lambda client, server: client.write(PREFACE)),
    ("", lambda client, server: client.write(b"\x00binary")),
    ("", lambda client, server: client.write(b"GE")),
    ("", lambda client, server: client.transport.write_eof()),
    ("", lambda client, server: server.write(b"220 hello\r\n")),
])  # fmt: skip
def test_a_silent_client_that_asks_by_http_before_its_server_has_spoken_goes_to_the_routes(
    case: tuple[str, Callable[[Wire, Wire], None]],
) -> None:
    @virtual
    async def play() -> None:
        with pytest.MonkeyPatch.context() as monkeypatch:
            world = World(monkeypatch)
            client = world.connect()
            await asyncio.sleep(1)
            case[1](client, world.servers[0])
            await settle()
            (connection,) = world.front.listener.connections
            assert isinstance(connection, DownstreamConnection | Http2Connection) is bool(case[0])
            client.write(REQUEST)
            await settle()
            meter = world.front.env.meter
            assert meter.value("sidecar.capture.connections", to="routes") == bool(case[0])
            assert world.ended() == (["routes"] if case[0] else [])
            assert world.servers[0].is_lost is bool(case[0])
            assert (world.capture.passages, world.capture.own) == (int(not case[0]), set())
            if case[0]:
                assert not world.servers[0].received

    play()


@virtual
async def test_a_silent_client_stays_where_it_is_while_the_listener_drains(monkeypatch: pytest.MonkeyPatch) -> None:
    world = World(monkeypatch)
    client = world.connect()
    await asyncio.sleep(1)
    world.front.listener.is_draining = True
    client.write(REQUEST)
    await settle()
    assert bytes(world.servers[0].received) == REQUEST
