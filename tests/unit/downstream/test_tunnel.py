"""Tests of tunnels: bytes, backpressure, half-closed sides, idle timeout, and Close frames of the sidecar."""

from __future__ import annotations

import asyncio
import json
from collections.abc import Callable
from typing import Any, cast

import pytest

from chaos.parts.websocket import CLOSE, TEXT, Frame
from sidecar.core import metrics
from sidecar.core.exchange import NEVER, Exchange
from sidecar.core.outcome import Outcome
from sidecar.downstream.listener import Limits
from sidecar.downstream.tunnel import Tunnel
from sidecar.downstream.websocket import GOING_AWAY, GOING_AWAY_MASKED
from sidecar.engine.pipeline import Pipeline
from sidecar.telemetry.logs.access import as_json, word
from tests.support.loop import settle, virtual
from tests.support.proxy import Proxy, Service, ServiceConnection
from tests.support.transports import Wire
from tests.unit.downstream.front import HANDSHAKE, Client, Front, Upgraded

HELLO = Frame(TEXT, b"hello").encode()
MASKED = Frame(TEXT, b"hello", masked=True).encode()

POLICIES = """version: 1
listeners: {inbound: {address: "127.0.0.1:0"}}
upstreams: {u: {endpoints: ["http://a:80"] UPSTREAM}}
routes: [{name: r, match: {path_prefix: /}, upstream: u BLOCK}]
"""
SWITCH = (
    b"HTTP/1.1 101 Switching Protocols\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n"
    b"Sec-WebSocket-Accept: s3pPLMBiTxaQ9kYGzzhZRbK+xOo=\r\n\r\n"
)


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
    assert world.front.records == [], "it is recorded at its end"
    assert world.front.server.open_connections == world.front.listener.active == 1


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
        except asyncio.CancelledError:  # its answer had arrived already
            return await world.service(x)
        raise AssertionError

    world.front.route.pipeline = Pipeline([], slow)
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

    world.front.route.pipeline = Pipeline([], slow)
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
async def test_a_half_closed_tunnel_stays_open_while_bytes_pass_and_not_for_ever(who: str) -> None:
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


@pytest.mark.parametrize("who", ["client", "server"])
@virtual
async def test_a_silent_tunnel_with_a_half_closed_side_ends_with_a_close_frame_to_that_side_alone(who: str) -> None:
    world = World()
    client, server = await world.open()
    first = client if who == "client" else server
    first.transport.write_eof()
    await settle()
    tunnel = cast("Tunnel", next(iter(world.front.listener.connections)))
    side = tunnel._server if who == "client" else tunnel._client
    written: list[bytes] = []
    side.transport.write = written.append  # type: ignore[union-attr,method-assign]  # the loops raise after write_eof
    await asyncio.sleep(11)
    assert first.received.endswith(GOING_AWAY if who == "client" else GOING_AWAY_MASKED)
    assert written == []
    await asyncio.sleep(5)
    assert world.is_over


@virtual
async def test_a_half_close_of_a_tunnel_can_count_as_closing() -> None:
    world = World()
    world.front.server.limits = world.front.server.limits.model_copy(update={"half_close_timeout": 0.0})
    world.front.listener.limits = Limits(world.front.server.limits)
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


# ----- the end of a session


class Session:
    """Proxy with a WebSocket session through it."""

    def __init__(self, block: str = "", upstream: str = "") -> None:
        self.service = Service(SWITCH)
        self.proxy = Proxy(POLICIES.replace(" BLOCK", block).replace(" UPSTREAM", upstream), self.service)
        self.client = self.proxy.connect()

    async def open(self, seconds: float = 30) -> ServiceConnection:
        """Complete the handshake, and send bytes in both directions for so many seconds."""
        self.client.write(HANDSHAKE)
        await settle(20)
        server = self.service.connections[-1]
        assert b" 101 " in self.client.received
        self.client.write(MASKED * 3)
        await asyncio.sleep(seconds)
        server.write(HELLO)
        await settle(20)
        return server

    @property
    def line(self) -> dict[str, Any]:
        """Return the line of the session in the access log."""
        assert self.proxy.bugs == []
        ((x, outcome, reason, seconds),) = self.proxy.records
        line: dict[str, Any] = json.loads(as_json(b"t", x, outcome, reason, seconds, word))
        return line


def close(session: Session, server: ServiceConnection) -> None:
    session.client.transport.write_eof()
    server.transport.close()


def close_by_server(session: Session, server: ServiceConnection) -> None:
    server.transport.write_eof()
    session.client.transport.close()


def reset(session: Session, server: ServiceConnection) -> None:
    session.client.transport.abort()


def reset_by_server(session: Session, server: ServiceConnection) -> None:
    server.transport.abort()


ENDS = {close: None, close_by_server: None, reset: "client_closed", reset_by_server: "reset"}


@pytest.mark.parametrize("end", ENDS)
@virtual
async def test_a_session_is_logged_at_its_end(end: Callable[[Session, ServiceConnection], None]) -> None:
    session = Session()
    server = await session.open()
    assert session.proxy.records == []
    end(session, server)
    await settle(20)
    line = session.line
    assert (line["status"], line.get("reason")) == (101, ENDS[end])
    assert (line["bytes_in"], line["bytes_out"]) == (3 * len(MASKED), len(HELLO))
    assert line["duration_ms"] == pytest.approx(30_000, abs=10)
    (attempt,) = line["attempts"]
    assert (attempt["status"], attempt["duration_ms"]) == (101, pytest.approx(30_000, abs=10))


@virtual
async def test_the_line_of_a_silent_session_says_what_ended_it() -> None:
    session = Session(", timeout: {request: off, idle: 10s}")
    await session.open(5)
    await asyncio.sleep(30)
    line = session.line
    assert (line["refused_by"], line["detail"]) == ("timeout", "No bytes passed in either direction for 10 s.")
    assert "reason" not in line, "silence is no error"


@virtual
async def test_drained_and_aborted_sessions_are_logged() -> None:
    for is_patient in (True, False):
        session = Session()
        await session.open()
        if is_patient:
            await session.proxy.server.drain(10)
        else:
            session.proxy.server.abort()
        await settle(20)
        assert session.line["bytes_in"] == 3 * len(MASKED)


LIMITS = [
    (", concurrency: {max: 1}", ""),
    (", concurrency: {max: 1, queue: 5, queue_timeout: 100ms}", ""),
    (", concurrency: {adaptive: {min: 1, max: 1}}", ""),
    ("", ", concurrency: {max: 1}"),
]


@pytest.mark.parametrize(("block", "upstream"), LIMITS)
@pytest.mark.parametrize("end", ENDS)
@virtual
async def test_a_session_holds_its_permit(
    block: str, upstream: str, end: Callable[[Session, ServiceConnection], None]
) -> None:
    session = Session(block, upstream)
    server = await session.open()
    refused = await session.proxy.get()
    assert (refused.status, refused.get("x-sidecar-reason")) == (503, "overloaded")
    end(session, server)
    await settle(20)
    session.service.answer = b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nhi"
    assert (await session.proxy.get()).status == 200
    (limit,) = session.proxy.state("concurrency").values()
    assert limit["active"] == 0


@virtual
async def test_a_session_that_never_begins_holds_none() -> None:
    """The client disconnects during the handshake."""
    session = Session(", concurrency: {max: 1}")
    session.service.after = 1.0
    session.client.write(HANDSHAKE)
    await asyncio.sleep(0.5)
    session.client.transport.abort()
    await asyncio.sleep(2)
    (limit,) = session.proxy.state("concurrency").values()
    assert limit["active"] == 0


@virtual
async def test_a_session_counts_as_in_flight_at_its_endpoint() -> None:
    session = Session()
    server = await session.open()
    (upstream,) = session.proxy.state("endpoints").values()
    assert upstream["endpoints"][0]["in_flight"] == 1
    close(session, server)
    await settle(20)
    (upstream,) = session.proxy.state("endpoints").values()
    assert upstream["endpoints"][0]["in_flight"] == 0


@virtual
async def test_a_session_that_is_a_probe_closes_the_breaker() -> None:
    """The breaker judges the handshake, without waiting for the session's end."""
    breaker = "circuit_breaker: {consecutive_failures: 1, open_for: 1s, jitter: 0%, half_open: {probes: 1, ramp: 0s}}"
    session = Session(", " + breaker)
    session.service.answer = b"HTTP/1.1 500 Oh\r\nContent-Length: 0\r\n\r\n"
    assert (await session.proxy.get()).status == 500
    assert set(session.proxy.breakers().values()) == {"open"}
    session.service.answer = SWITCH
    await asyncio.sleep(1.1)
    await session.open(20)
    session.service.answer = b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nhi"
    assert (await session.proxy.get()).status == 200
    assert set(session.proxy.breakers().values()) == {"closed"}


@virtual
async def test_a_session_is_not_late_by_an_observed_timeout() -> None:
    session = Session(", timeout: {request: 1s, mode: observe}")
    server = await session.open()
    close(session, server)
    await settle(20)
    assert session.proxy.env.meter.value(metrics.WOULD_REFUSE, policy="timeout") == 0
