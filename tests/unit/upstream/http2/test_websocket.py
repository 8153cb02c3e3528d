"""WebSockets to upstreams of HTTP/2 (RFC 8441): the handshake, the bytes of both directions, and the end."""

from __future__ import annotations

import asyncio
from base64 import b64encode
from hashlib import sha1
from typing import Any

from sidecar.core.body import OPEN
from sidecar.core.exchange import Exchange
from sidecar.core.outcome import PROTOCOL, RESET, STALE_CONNECTION, TIMEOUT, Outcome
from sidecar.core.promise import Run
from sidecar.http2 import errors as e
from sidecar.http2.limits import Limits
from sidecar.http2.stream import Stream
from sidecar.upstream.http2.websocket import CLOSE_WITHIN
from tests.support.loop import settle, virtual
from tests.support.transports import Wire
from tests.unit.upstream.back import get, outcome_of, start
from tests.unit.upstream.http2.back import StreamBack

KEY = b"dGhlIHNhbXBsZSBub25jZQ=="
ACCEPT = b64encode(sha1(KEY + b"258EAFA5-E914-47DA-95CA-C5AB0DC85B11").digest())


class Side(Wire):
    """Server's side of a tunnel."""

    def __init__(self) -> None:
        super().__init__()
        self.is_full = False
        self.link: Any = None

    def eof_received(self) -> bool:
        self.is_eof = True
        return not self.is_lost

    def pause_writing(self) -> None:
        self.is_full = True

    def resume_writing(self) -> None:
        self.is_full = False


class World:
    """Upstream whose server serves the extended CONNECT, and a handshake under way."""

    def __init__(self, allows: bool = True, **facts: Any) -> None:
        self.back = StreamBack(Limits(frame_burst=1e9, reset_burst=1e9, allows_connect=allows))
        self.upstream = self.back.upstream()
        self.x = get(upgrade=b"websocket", authority=b"a.test", query=b"b=c", **facts)
        self.x.headers = [(b"sec-websocket-key", KEY), (b"Sec-WebSocket-Version", b"13"), (b"x-id", b"7")]
        self.run: Run[Outcome] = start(self.upstream, self.x)
        self.side = Side()

    @property
    def stream(self) -> Stream:
        return self.back.server.asked[-1]

    async def open(self, early: bytes = b"", lines: bytes = b"sec-websocket-protocol: chat\r\n") -> None:
        await settle(20)
        server = self.back.server
        server.session.respond(self.stream, 200, lines, False)
        if early:
            server.session.send(self.stream, early, False)
        server.flush()
        await settle()
        outcome = outcome_of(self.run)
        assert outcome.status == 101
        assert outcome.tunnel is not None
        self.outcome = outcome
        taken = outcome.tunnel.take_over(self.side)
        assert taken is not None
        self.link, first = taken
        assert first == early

    def end(self) -> None:
        """End the session as the tunnel does."""
        assert self.outcome.stream is not None
        self.outcome.stream.finish()


@virtual
async def test_the_handshake_is_an_extended_connect() -> None:
    world = World()
    await world.open()
    head = world.back.server.heads[world.stream.id]
    assert (head.method, head.protocol, head.scheme, head.authority, head.path) == (
        b"CONNECT", b"websocket", b"http", b"a.test", b"/?b=c",
    )  # fmt: skip
    assert b"sec-websocket-version: 13\r\nx-id: 7\r\n" in head.lines
    assert b"sec-websocket-key" not in head.lines
    fields = dict(world.outcome.headers)
    assert (fields[b"sec-websocket-accept"], fields[b"sec-websocket-protocol"]) == (ACCEPT, b"chat")


@virtual
async def test_an_accept_value_of_the_peer_is_not_passed_on() -> None:
    world = World()
    await world.open(lines=b"sec-websocket-accept: mine\r\n")
    assert [value for name, value in world.outcome.headers if name == b"sec-websocket-accept"] == [ACCEPT]


@virtual
async def test_a_length_in_the_answer_is_ignored() -> None:
    """RFC 9110 9.3.6."""
    for length in (b"0", b"3"):
        world = World()
        await world.open(b"early", b"content-length: %b\r\nx-a: 1\r\n" % length)
        assert world.outcome.header(b"x-a") == b"1"
        assert world.outcome.header(b"content-length") is None
        world.back.server.send(world.stream, b"more than it says")
        await settle()
        assert world.side.received == b"more than it says"


@virtual
async def test_a_peer_without_the_setting_is_not_asked() -> None:
    world = World(allows=False)
    await settle(20)
    assert outcome_of(world.run).refusal.policy == "protocol"
    assert world.back.server.asked == []
    assert world.back.pool.streams == 0


@virtual
async def test_bytes_pass_both_ways_and_early_ones_wait() -> None:
    world = World()
    await world.open(early=b"early")
    world.link.write(b"hello")
    world.back.server.session.send(world.stream, b"there", False)
    world.back.server.flush()
    await settle()
    assert world.back.server.bodies[world.stream.id] == b"hello"
    assert world.side.received == b"there"


@virtual
async def test_a_refused_handshake_is_an_ordinary_response() -> None:
    world = World()
    await settle(20)
    world.back.server.answer(world.stream, b"no", 403)
    await settle()
    outcome = outcome_of(world.run)
    assert (outcome.status, outcome.body, outcome.tunnel) == (403, b"no", None)
    assert world.back.pool.streams == 0


@virtual
async def test_a_stream_that_ends_with_its_handshake_is_a_fault() -> None:
    world = World()
    await settle(20)
    world.back.server.answer(world.stream)
    await settle()
    assert outcome_of(world.run).failure is PROTOCOL
    assert world.back.pool.streams == 0


@virtual
async def test_a_handshake_that_is_reset_or_late() -> None:
    world = World()
    await settle(20)
    world.back.server.reset(world.stream, e.CANCEL)
    await settle()
    assert outcome_of(world.run).failure is RESET
    world = World(deadline=0.0)
    world = World(attempt_timeout=1.0)
    await asyncio.sleep(2)
    assert outcome_of(world.run).failure is TIMEOUT
    await settle()
    assert world.back.server.resets == [(world.stream.id, e.CANCEL)]


@virtual
async def test_a_refused_stream_is_repeated_at_once() -> None:
    world = World()
    await settle(20)
    first = world.back.server
    first.reset(world.stream, e.REFUSED_STREAM)
    await settle(20)
    assert world.run.value is None
    assert world.back.server is not first
    await world.open()


@virtual
async def test_the_client_is_read_as_fast_as_the_peer_takes_it() -> None:
    world = World()
    await world.open()
    world.back.server.session.pause(world.stream)
    while not world.side.is_full:
        world.link.write(bytes(10_000))
        await settle()
    assert len(world.back.server.bodies[world.stream.id]) < 100_000
    world.back.server.session.resume(world.stream)
    world.back.server.flush()
    await settle()
    assert not world.side.is_full


@virtual
async def test_the_peer_is_read_as_fast_as_the_client_takes_it() -> None:
    world = World()
    await world.open()
    world.link.pause_reading()
    for _ in range(100):
        world.back.server.session.send(world.stream, bytes(10_000), False)
        world.back.server.flush()
        await settle()
    assert len(world.side.received) < 300_000
    world.link.resume_reading()
    await settle(200)
    assert len(world.side.received) == 1_000_000


@virtual
async def test_an_end_of_the_peer_is_a_half_close() -> None:
    world = World()
    await world.open()
    world.back.server.session.send(world.stream, b"bye", True)
    world.back.server.flush()
    await settle()
    assert (world.side.received, world.side.is_eof, world.side.is_lost) == (b"bye", True, False)
    world.link.write(b"still here")
    world.link.close()
    await settle()
    assert world.back.server.bodies[world.stream.id] == b"still here"
    assert (world.side.is_lost, world.side.error, world.back.pool.streams) == (True, None, 0)
    assert world.back.server.resets == []


@virtual
async def test_a_close_ends_the_stream_and_resets_one_that_the_peer_leaves_open() -> None:
    world = World()
    await world.open()
    world.link.write(b"bye")
    world.link.close()
    await settle()
    server = world.back.server
    assert (server.bodies[world.stream.id], world.stream.can_receive) == (b"bye", False)
    assert (world.side.is_lost, server.resets, world.back.pool.streams) == (True, [], 1)
    server.session.send(world.stream, b"too late", False)
    server.flush()
    await asyncio.sleep(CLOSE_WITHIN + 0.1)
    assert world.side.received == b""
    assert server.resets == [(world.stream.id, e.CANCEL)]
    assert world.back.pool.streams == 0


@virtual
async def test_an_abort_is_a_reset() -> None:
    world = World()
    await world.open()
    world.link.abort()
    await settle()
    assert (world.side.is_lost, world.back.server.resets) == (True, [(world.stream.id, e.CANCEL)])


@virtual
async def test_a_reset_and_a_lost_connection_end_the_session() -> None:
    world = World()
    await world.open()
    world.back.server.reset(world.stream, e.CANCEL)
    await settle()
    assert isinstance(world.side.error, ConnectionResetError)
    assert world.back.pool.streams == 0
    world = World()
    await world.open()
    world.back.server.pair.left.abort()
    world.back.server.pair.right.abort()
    await settle()
    assert isinstance(world.side.error, ConnectionResetError)
    world = World()
    await world.open()
    world.back.server.say(b"\0\0\0\x99\0\0\0\0\0" * 1, b"\0\0\1\x06\0\0\0\0\0!")
    await settle()
    assert isinstance(world.side.error, ConnectionResetError)


@virtual
async def test_a_session_that_nobody_takes_is_reset() -> None:
    world = World()
    await settle(20)
    world.back.server.session.respond(world.stream, 200, b"", False)
    world.back.server.flush()
    await settle()
    outcome_of(world.run).discard()
    await settle()
    assert world.back.server.resets == [(world.stream.id, e.CANCEL)]
    assert outcome_of(world.run).tunnel.take_over(world.side) is None  # type: ignore[union-attr]


@virtual
async def test_a_session_outlives_the_deadline_of_its_handshake_and_shares_its_connection() -> None:
    world = World(attempt_timeout=1.0)
    await world.open()
    other = start(world.upstream, get())
    await asyncio.sleep(3)
    world.back.server.answer(world.back.server.asked[-1])
    await settle()
    assert len(world.back.servers) == 1
    assert not world.side.is_lost
    assert world.outcome.stream is not None
    assert world.outcome.stream.state == OPEN
    assert other.value is not None


@virtual
async def test_waiters_get_their_streams_in_turn() -> None:
    limits = Limits(max_streams=1, frame_burst=1e9, reset_burst=1e9, allows_connect=True)
    back = StreamBack(limits, connections={"max": 1})
    upstream = back.upstream()
    first = start(upstream, get())
    x: Exchange = get(upgrade=b"websocket")
    x.headers = [(b"sec-websocket-key", KEY)]
    second, third = start(upstream, x), start(upstream, x)
    await settle(20)
    assert len(back.server.asked) == 1
    third.cancel()
    back.server.answer(back.server.asked[0])
    await settle(20)
    assert first.value is not None
    assert [stream.user is None or stream.id for stream in back.server.asked][1:] != []
    back.server.answer(back.server.asked[-1], status=403)
    await settle(20)
    assert outcome_of(second).status == 403
    assert (len(back.server.asked), back.pool.streams, STALE_CONNECTION.sent) == (2, 0, False)
