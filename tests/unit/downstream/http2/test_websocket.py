"""WebSockets over HTTP/2 (RFC 8441): the handshake of HTTP/1.1 that an extended CONNECT becomes, and its tunnel."""

from __future__ import annotations

import asyncio
import re
from base64 import b64decode, b64encode
from hashlib import sha1

from chaos.parts.websocket import TEXT, Frame
from sidecar.core.exchange import NEVER, Exchange
from sidecar.core.outcome import RESET as BROKEN
from sidecar.core.outcome import Outcome, failed
from sidecar.downstream.websocket import GOING_AWAY, GOING_AWAY_MASKED
from sidecar.http2 import errors as e
from sidecar.http2 import frames as f
from sidecar.http2.hpack import Decoder
from tests.support.cases import each
from tests.support.loop import settle, virtual
from tests.support.proxy import Proxy, Service, ServiceConnection
from tests.unit.downstream.front import Upgraded
from tests.unit.downstream.http2.talk import Frames
from tests.unit.http2.peer import GET, data, headers

CONNECT = [
    (b":method", b"CONNECT"), (b":protocol", b"websocket"), (b":scheme", b"http"), (b":authority", b"a.test"),
    (b":path", b"/chat"), (b"sec-websocket-version", b"13"), (b"sec-websocket-protocol", b"chat"),
]  # fmt: skip
HELLO = Frame(TEXT, b"hello").encode()
MASKED = Frame(TEXT, b"hello", masked=True).encode()


class World:
    """Listener whose route switches protocols, and a client with a WebSocket on stream 1."""

    def __init__(self, *, early: bytes = b"", idle: float = NEVER) -> None:
        self.upstream = Upgraded(early)
        self.idle = idle
        self.seen: list[Exchange] = []
        self.gate = asyncio.Event()
        self.gate.set()
        self.talk = Frames(self.service)

    async def service(self, x: Exchange) -> Outcome:
        self.seen.append(x)
        await self.gate.wait()
        x.idle_timeout = self.idle
        outcome = Outcome(101, [(b"sec-websocket-accept", b"x"), (b"sec-websocket-protocol", b"chat")])
        outcome.tunnel = self.upstream
        return outcome

    async def open(self) -> None:
        await self.talk.feed(headers(1, CONNECT, False))
        assert self.fields()[b":status"] == b"200"

    def fields(self, number: int = 1) -> dict[bytes, bytes]:
        """Return the fields of the response on a stream; all blocks before must be of that stream."""
        decoder = Decoder(1 << 16, 100)
        blocks = [frame for frame in self.talk.got if frame.kind == f.HEADERS]
        found = [decoder.decode(frame.payload).fields for frame in blocks]
        (fields,) = [each for each, frame in zip(found, blocks, strict=True) if frame.stream == number]
        return {field.name: field.value for field in fields}

    @property
    def server(self) -> bytes:
        return bytes(self.upstream.server.received)


@virtual
async def test_a_connect_is_the_handshake_of_http1() -> None:
    world = World()
    await world.open()
    (x,) = world.seen
    assert (x.method, x.path, x.upgrade, x.version, x.stream) == (b"GET", b"/chat", b"websocket", 20, None)
    key = x.header(b"sec-websocket-key")
    assert key is not None
    assert len(b64decode(key, validate=True)) == 16
    assert x.header(b"sec-websocket-version") == b"13"
    assert b"sec-websocket-accept" not in world.fields()
    assert world.fields()[b"sec-websocket-protocol"] == b"chat"
    first = next(frame for frame in world.talk.got if frame.kind == f.SETTINGS)
    assert b"\0\x08\0\0\0\1" in first.payload, "SETTINGS_ENABLE_CONNECT_PROTOCOL"


@virtual
async def test_a_key_of_the_client_is_not_passed_on() -> None:
    world = World()
    await world.talk.feed(headers(1, [*CONNECT, (b"sec-websocket-key", b"mine")], False))
    assert [name for name, _ in world.seen[0].headers].count(b"sec-websocket-key") == 1
    assert world.seen[0].header(b"sec-websocket-key") != b"mine"


@virtual
async def test_bytes_pass_both_ways_and_early_ones_wait() -> None:
    world = World(early=HELLO)
    world.gate.clear()
    await world.talk.feed(headers(1, CONNECT, False), data(1, MASKED))
    world.gate.set()
    await settle()
    await world.talk.feed(data(1, MASKED))
    assert world.server == MASKED * 2
    world.upstream.server.write(HELLO)
    await settle()
    await world.talk.feed()
    assert world.talk.data(1) == HELLO * 2
    assert world.talk.front.records == []
    assert world.talk.front.listener.active == 1


@virtual
async def test_the_server_ends_a_session() -> None:
    world = World()
    await world.open()
    world.upstream.server.transport.close()
    await settle()
    await world.talk.feed()
    last = [frame for frame in world.talk.got if frame.kind == f.DATA][-1]
    assert last.flags & f.END_STREAM
    await world.talk.feed(data(1, b"", True))
    await settle()
    assert world.upstream.closed
    assert [(record.status, record.reason) for record in world.talk.front.records] == [(101, "")]
    assert world.talk.front.listener.active == 0


@virtual
async def test_the_client_ends_a_session() -> None:
    world = World()
    await world.open()
    await world.talk.feed(data(1, MASKED, True))
    assert world.server == MASKED
    assert world.upstream.server.is_eof
    world.upstream.server.write(HELLO)
    world.upstream.server.transport.close()
    await settle()
    await world.talk.feed()
    assert world.talk.data(1) == HELLO, "a half-closed session goes on"
    assert [record.reason for record in world.talk.front.records] == [""]


@virtual
async def test_a_reset_is_a_reset_on_either_side() -> None:
    world = World()
    await world.open()
    await world.talk.feed(f.rst_stream(1, e.CANCEL))
    await settle()
    assert world.upstream.closed
    assert [record.reason for record in world.talk.front.records] == ["client_closed"]
    other = World()
    await other.open()
    other.upstream.server.transport.abort()
    await settle()
    await other.talk.feed()
    assert other.talk.front.listener.active == 0
    assert [record.reason for record in other.talk.front.records] == ["reset"]


@virtual
async def test_backpressure_passes_both_ways() -> None:
    world = World()
    await world.open()
    world.upstream.server.write(b"x" * 200_000)
    await settle()
    await world.talk.feed()
    assert len(world.talk.data(1)) == 65535
    assert not world.upstream.pair.left.is_reading(), "the client gives no window"
    await world.talk.feed(f.window_update(0, 1 << 20), f.window_update(1, 1 << 20))
    assert len(world.talk.data(1)) == 200_000
    assert world.upstream.pair.left.is_reading()
    world.upstream.server.transport.pause_reading()
    for _ in range(12):
        await world.talk.feed(data(1, b"x" * 10_000))
    given = sum(
        int.from_bytes(frame.payload, "big")
        for frame in world.talk.got
        if (frame.kind, frame.stream) == (f.WINDOW_UPDATE, 1)
    )
    assert given <= 120_000 - 32_768, "the server does not read"


@virtual
async def test_a_silent_session_ends_with_close_frames() -> None:
    world = World(idle=30.0)
    await world.open()
    await world.talk.feed(data(1, MASKED))
    await asyncio.sleep(33)
    await world.talk.feed()
    assert world.talk.data(1) == GOING_AWAY
    assert world.server == MASKED + GOING_AWAY_MASKED
    await asyncio.sleep(5)
    await world.talk.feed()
    assert world.talk.front.listener.active == 0
    assert len(world.talk.front.records) == 1


@virtual
async def test_a_drain_ends_sessions_between_frames_and_a_lost_connection_at_once() -> None:
    world = World()
    await world.open()
    world.talk.front.listener.drain()
    await world.talk.feed()
    assert world.talk.data(1) == GOING_AWAY
    await asyncio.sleep(6)
    await settle()
    assert world.talk.front.is_empty
    lost = World()
    await lost.open()
    lost.talk.client.transport.abort()
    await settle()
    assert lost.upstream.closed
    assert [record.reason for record in lost.talk.front.records] == ["client_closed"]
    assert lost.talk.front.is_empty


@virtual
async def test_a_client_that_leaves_before_the_switch() -> None:
    world = World()
    world.gate.clear()
    await world.talk.feed(headers(1, CONNECT, False), data(1, b"x", True))
    assert [record.reason for record in world.talk.front.records] == ["client_closed"]


@each([200, 204])
@virtual
async def test_an_answer_that_would_be_taken_for_a_switch_is_a_failure(status: int) -> None:
    async def service(x: Exchange) -> Outcome:
        return Outcome(status, [], b"<html>" if status == 200 else b"")

    world = World()
    world.talk = Frames(service)
    await world.talk.feed(headers(1, CONNECT, False))
    assert world.fields()[b":status"] == b"502"
    assert world.fields()[b"x-sidecar-reason"] == b"protocol_error"


@virtual
async def test_other_answers_pass() -> None:
    async def service(x: Exchange) -> Outcome:
        return Outcome(403, [(b"upgrade", b"websocket"), (b"connection", b"upgrade")], b"no")

    world = World()
    world.talk = Frames(service)
    await world.talk.feed(headers(1, CONNECT, False))
    assert world.fields()[b":status"] == b"403"
    assert b"upgrade" not in world.fields()
    assert world.talk.data(1) == b"no"


@virtual
async def test_an_upstream_that_is_closed_already_is_a_failure() -> None:
    world = World()
    world.upstream.is_lost = True
    await world.talk.feed(headers(1, CONNECT, False))
    assert world.fields()[b":status"] == b"502"
    failing = World()
    failing.talk = Frames(lambda x: fail(x))
    await failing.talk.feed(headers(1, CONNECT, False))
    assert failing.fields()[b":status"] == b"502"


async def fail(x: Exchange) -> Outcome:
    return failed(BROKEN)


@virtual
async def test_what_is_no_websocket_is_refused() -> None:
    world = World()
    other = [(name, b"connect-udp" if name == b":protocol" else value) for name, value in CONNECT]
    await world.talk.feed(headers(1, other, False))
    assert world.fields()[b":status"] == b"501"
    ended = World()
    await ended.talk.feed(headers(1, CONNECT))
    assert ended.fields()[b":status"] == b"400"
    assert world.seen == ended.seen == []


@virtual
async def test_other_streams_of_the_connection_go_on() -> None:
    world = World()
    await world.open()
    await world.talk.feed(headers(3, GET), data(1, MASKED))
    assert world.server == MASKED
    assert len(world.seen) == 2


class Switching(Service):
    """WebSocket server that echoes what it reads."""

    async def accept(self, address: tuple[str, int | None]) -> asyncio.BaseProtocol:
        return Echo(self)


class Echo(ServiceConnection):
    def data_received(self, data: bytes) -> None:
        key = re.search(rb"sec-websocket-key: (\S+)\r\n", data)
        if key is None:
            self.write(data)
            return
        accept = b64encode(sha1(key[1] + b"258EAFA5-E914-47DA-95CA-C5AB0DC85B11", usedforsecurity=False).digest())
        assert b"GET /chat HTTP/1.1\r\n" in data
        assert b"upgrade: websocket\r\n" in data
        self.write(
            b"HTTP/1.1 101 Switching Protocols\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n"
            b"Sec-WebSocket-Accept: %b\r\n\r\n" % accept
        )


POLICIES = """version: 1
listeners: {inbound: {address: "127.0.0.1:0"}}
upstreams: {u: {endpoints: ["http://a:80"]}}
routes: [{name: r, match: {path_prefix: /}, upstream: u, concurrency: {max: 2}}]
"""


@virtual
async def test_a_server_of_http1_sees_an_ordinary_handshake() -> None:
    proxy = Proxy(POLICIES, Switching())
    client = proxy.connect()
    client.write(f.PREFACE + f.settings([]) + f.SETTINGS_ACK + headers(1, CONNECT, False) + data(1, MASKED))
    await settle(20)
    assert MASKED in bytes(client.received)
    client.transport.close()
    await settle(20)
    ((x, outcome, _reason, _),) = proxy.records
    assert (outcome.status, len(x.attempts), x.attempts[0].status) == (101, 1, 101)
    assert x.stream is not None
    assert (x.stream.received, outcome.stream.received) == (len(MASKED), len(MASKED))
    assert proxy.bugs == []
