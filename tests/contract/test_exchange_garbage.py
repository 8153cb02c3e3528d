"""Tests that exchanges of every kind, over both versions, leave no reference cycle, however they end.

Cycles are freed late, and freeing many at once is a pause of the event loop.
"""

from __future__ import annotations

import asyncio
import gc
import re
from base64 import b64encode
from collections import Counter
from collections.abc import Awaitable, Callable, Iterator
from hashlib import sha1
from pathlib import Path

import pytest

from chaos.parts.websocket import CLOSE, TEXT, Frame
from sidecar.http2.errors import CANCEL, INTERNAL_ERROR, REFUSED_STREAM
from sidecar.simulation.transport import Address
from sidecar.stages.translate.websocket import GUID
from tests.support.loop import settle, virtual
from tests.support.proxy import Client
from tests.support.streams import CALL, MESSAGE, StreamProxy, until
from tests.support.transports import Wire

DESCRIPTORS = Path(__file__).parents[2] / "policies" / "proto" / "shop.binpb"
POLICIES = f"""version: 1
listeners: {{inbound: {{address: "127.0.0.1:8080", grpc_web: true, slow_clients: {{buffer: 1B}}}}}}
limits: {{max_body: 1MiB}}
caches: {{default: {{memory: {{max_size: 1MiB}}}}}}
upstreams:
  streams: {{endpoints: ["http://10.0.0.1:80"], protocol: http2}}
  plain: {{endpoints: ["http://10.0.0.2:80"]}}
defaults: {{timeout: {{request: 5s}}}}
routes:
  - {{name: plain, match: {{path_prefix: /plain}}, upstream: plain}}
  - {{name: streams, match: {{path_prefix: /}}, upstream: streams}}
  - {{name: short, match: {{path_prefix: /short}}, upstream: streams, timeout: {{request: 20ms}}}}
  - {{name: hedged, match: {{path_prefix: /hedged}}, upstream: streams, hedge: {{after: 5ms}}}}
  - name: retried
    match: {{path_prefix: /retried}}
    upstream: streams
    retry: {{max_attempts: 2, on: [503, unavailable], methods: [GET, POST], backoff: {{base: 1ms}}}}
  - {{name: replaced, match: {{path_prefix: /replaced}}, upstream: streams, fallback: [{{response: {{status: 200}}}}]}}
  - {{name: cached, match: {{path_prefix: /cached}}, upstream: streams, cache: {{ttl: 1m}}}}
  - name: refused
    match: {{path_prefix: /refused}}
    upstream: streams
    fault: {{abort: {{status: 503, share: 100%}}}}
  - name: rest
    match: {{path_prefix: /v1}}
    upstream: streams
    translate: {{grpc: {{descriptors: {DESCRIPTORS}, services: [shop.Orders]}}}}
  - name: chat
    match: {{path: "/v1/shops/{{shop}}/chat"}}
    upstream: streams
    translate: {{grpc: {{descriptors: {DESCRIPTORS}, services: [shop.Support], streams: websocket}}}}
"""
GOOD = b"grpc-status: 0\r\n"
ORDER = b"\x00\x00\x00\x00\x02\x10\x01"
CHUNKED = b"Host: a\r\nTE: trailers\r\nConnection: TE\r\nTransfer-Encoding: chunked\r\n\r\n"
PIECE = b"11170\r\n%b\r\n" % (b"x" * 0x11170)
"""Chunk that is too long to be collected before the upstream is asked."""
HANDSHAKE = (
    b"Host: a\r\nConnection: Upgrade\r\nUpgrade: websocket\r\nSec-WebSocket-Version: 13\r\n"
    b"Sec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\n\r\n"
)
SOCKET = b"sec-websocket-version: 13\r\n"
TIMES = 5
"""Exchanges of a kind that are looked at; before them comes one for what is made once."""


class World(StreamProxy):
    """Proxy with clients of both versions, an upstream of HTTP/2, and one of HTTP/1.1."""

    def __init__(self) -> None:
        super().__init__(POLICIES)
        self.plain: list[Wire] = []
        """Connections to the upstream of HTTP/1.1."""
        self.old: Client | None = None
        """Kept connection of a client of HTTP/1.1."""
        self.seen = b""
        """Bytes that this upstream has got last."""
        self.answered = 0
        self._accept_streams = self.proxy.loop.network.accept
        self.proxy.loop.network.accept = self._accept

    async def _accept(self, address: Address) -> asyncio.BaseProtocol:
        if address[0] == "10.0.0.1":
            return await self._accept_streams(address)
        self.plain.append(wire := Wire())
        return wire

    async def next(self):  # type: ignore[no-untyped-def]
        """Return the request that the upstream of HTTP/2 gets next."""
        self.answered += 1
        return (await self.asked(self.answered))[-1]

    async def got(self, end: bytes) -> Wire:
        """Return the connection of the upstream of HTTP/1.1 that has got bytes which end so."""

        def look() -> Wire | None:
            return next((wire for wire in self.plain if wire.received.endswith(end)), None)

        wire: Wire = await until(look)
        self.seen = bytes(wire.received)
        wire.received.clear()
        return wire

    def kept(self) -> Client:
        """Return the connection of the client of HTTP/1.1, without what it has received."""
        if self.old is None:
            self.old = self.proxy.connect()
        self.old.received.clear()
        return self.old


Kind = Callable[[World], Awaitable[None]]
KINDS: dict[str, Kind] = {}


def kind(test: Kind) -> Kind:
    KINDS[test.__name__] = test
    return test


async def received(client: Wire, end: bytes) -> None:
    await until(lambda: client if client.received.endswith(end) else None)


def accepted(handshake: bytes) -> bytes:
    """Return the answer of an upstream of HTTP/1.1 to a handshake."""
    (key,) = re.findall(rb"sec-websocket-key: *(\S+)", handshake, re.I)
    text = b64encode(sha1(key + GUID, usedforsecurity=False).digest())
    return b"HTTP/1.1 101 Go\r\nConnection: Upgrade\r\nUpgrade: websocket\r\nSec-WebSocket-Accept: %b\r\n\r\n" % text


# ----- clients of HTTP/1.1


@kind
async def http1_whole(world: World) -> None:
    (client := world.kept()).write(b"GET /plain HTTP/1.1\r\nHost: a\r\n\r\n")
    (await world.got(b"\r\n\r\n")).write(b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nhi")
    await received(client, b"hi")


@kind
async def http1_chunked_both_ways(world: World) -> None:
    (client := world.kept()).write(b"POST /plain HTTP/1.1\r\n" + CHUNKED)
    await settle()
    client.write(PIECE)
    await world.got(PIECE)
    client.write(b"0\r\nx-sum: 1\r\n\r\n")
    wire = await world.got(b"0\r\nx-sum: 1\r\n\r\n")
    wire.write(b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n2\r\nhi\r\n")
    await received(client, b"2\r\nhi\r\n")
    wire.write(b"0\r\nx-sum: 2\r\n\r\n")
    await received(client, b"0\r\nx-sum: 2\r\n\r\n")


@kind
async def http1_client_leaves(world: World) -> None:
    client = world.proxy.send(path="/plain")
    (await world.got(b"\r\n\r\n")).write(b"HTTP/1.1 200 OK\r\nContent-Length: 9\r\n\r\nhi")
    await received(client, b"hi")
    client.transport.abort()
    await settle()


@kind
async def http1_upstream_breaks_off(world: World) -> None:
    client = world.proxy.send(path="/plain")
    wire = await world.got(b"\r\n\r\n")
    wire.write(b"HTTP/1.1 200 OK\r\nContent-Length: 9\r\n\r\nhi")
    await received(client, b"hi")
    world.plain.remove(wire)
    wire.transport.abort()
    await until(lambda: client.is_lost or client.is_eof or None)
    client.transport.close()
    await settle()


@kind
async def http1_to_http2(world: World) -> None:
    (client := world.kept()).write(b"POST / HTTP/1.1\r\n" + CHUNKED + PIECE)
    asked = await world.next()
    client.write(b"0\r\n\r\n")
    await asked.end()
    asked.respond(b"")
    asked.send(b"hi")
    await received(client, b"2\r\nhi\r\n")
    asked.trail(b"x-sum: 1\r\n")
    await received(client, b"0\r\nx-sum: 1\r\n\r\n")


@kind
async def http1_websocket(world: World) -> None:
    client = world.proxy.connect()
    client.write(b"GET /plain HTTP/1.1\r\n" + HANDSHAKE)
    wire = await world.got(b"\r\n\r\n")
    wire.write(accepted(world.seen) + b"hello")
    await received(client, b"hello")
    client.write(b"bye")
    await until(lambda: wire if wire.received else None)
    client.transport.close()
    await settle()
    world.plain.remove(wire)
    wire.transport.close()


@kind
async def http1_transcoded_websocket(world: World) -> None:
    client = world.proxy.connect()
    client.write(b"GET /v1/shops/1/chat HTTP/1.1\r\n" + HANDSHAKE)
    asked = await world.next()
    await received(client, b"\r\n\r\n")
    client.write(Frame(TEXT, b'{"text":"a"}', masked=True).encode())
    await until(lambda: asked if asked.body else None)
    asked.respond()
    asked.send(b"\x00\x00\x00\x00\x03\x12\x01b")
    await received(client, b'{"text":"b"}')
    client.write(Frame(TEXT, b"", masked=True).encode())
    await asked.end()
    asked.trail(GOOD)
    await received(client, b"\x03\xe8")
    client.write(Frame(CLOSE, b"\x03\xe8", masked=True).encode())
    await settle()
    client.transport.close()
    await settle()


# ----- clients of HTTP/2


@kind
async def http2_to_http1(world: World) -> None:
    got = world.client.ask(b"POST", b"", b"hi", b"/plain")
    (await world.got(b"hi")).write(b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n2\r\nhi\r\n")
    await got.begin()
    world.plain[-1].write(b"0\r\n\r\n")
    assert (await got.end()).body == b"hi"


@kind
async def http2_websocket(world: World) -> None:
    session = world.client.session
    got = world.client.open_socket(b"/plain", SOCKET)
    wire = await world.got(b"\r\n\r\n")
    wire.write(accepted(world.seen) + b"hello")
    await until(lambda: got if got.body == b"hello" else None)
    session.send(got.stream, b"bye", True)
    world.client.flush()
    await until(lambda: wire if wire.is_eof else None)
    world.plain.remove(wire)
    wire.transport.close()
    await got.end()


@kind
async def http2_websocket_to_http2(world: World) -> None:
    got = world.client.open_socket(b"/", SOCKET)
    asked = await world.next()
    asked.respond(b"")
    asked.send(b"hello")
    await until(lambda: got if got.body == b"hello" else None)
    got.send(b"", is_end=True)
    await asked.end()
    asked.send(b"", is_end=True)
    await got.end()


@kind
async def unary(world: World) -> None:
    got = world.client.ask(b"POST", CALL, MESSAGE)
    (await world.next()).answer(MESSAGE, GOOD)
    assert (await got.end()).trailers == GOOD


@kind
async def streams_both_ways(world: World) -> None:
    got = world.client.ask(b"POST", CALL, MESSAGE, end=False)
    asked = await world.next()
    asked.respond()
    asked.send(MESSAGE)
    await got.begin()
    got.send(MESSAGE, is_end=True)
    await asked.end()
    asked.send(MESSAGE)
    await settle()
    asked.trail(GOOD)
    assert (await got.end()).body == MESSAGE * 2


@kind
async def trailers_only(world: World) -> None:
    got = world.client.ask(b"POST", CALL, MESSAGE)
    (await world.next()).answer(lines=b"content-type: application/grpc\r\ngrpc-status: 5\r\n")
    assert b"grpc-status: 5" in (await got.end()).lines


@kind
async def client_resets(world: World) -> None:
    got = world.client.ask(b"POST", CALL, MESSAGE, end=False)
    asked = await world.next()
    asked.respond()
    asked.send(MESSAGE)
    await got.begin()
    got.reset(CANCEL)
    await asked.end()


@kind
async def client_resets_before_the_answer(world: World) -> None:
    got = world.client.ask(b"POST", CALL, MESSAGE, end=False)
    asked = await world.next()
    got.reset(CANCEL)
    await asked.end()


@kind
async def upstream_resets(world: World) -> None:
    got = world.client.ask(b"POST", CALL, MESSAGE, end=False)
    asked = await world.next()
    asked.respond()
    asked.send(MESSAGE)
    await got.begin()
    asked.reset(INTERNAL_ERROR)
    assert b"grpc-status: 14" in (await got.end()).trailers


@kind
async def upstream_refuses(world: World) -> None:
    got = world.client.ask(b"POST", CALL, MESSAGE)
    (await world.next()).reset(REFUSED_STREAM)
    (await world.next()).answer(MESSAGE, GOOD)
    await got.end()


@kind
async def upstream_breaks_the_protocol(world: World) -> None:
    got = world.client.ask(b"GET", b"")
    (await world.next()).answer(b"hi", lines=b"content-length: 7\r\n")
    assert b"protocol_error" in (await got.end()).lines


@kind
async def deadline(world: World) -> None:
    got = world.client.ask(b"POST", CALL, MESSAGE, b"/short")
    await world.next()
    assert b"grpc-status: 4" in (await got.end()).lines


@kind
async def refused(world: World) -> None:
    await world.client.ask(b"POST", CALL, MESSAGE, b"/refused").end()
    await world.client.ask(b"POST", CALL, MESSAGE, b"/refused", end=False).end()


@kind
async def too_large(world: World) -> None:
    await world.client.ask(b"POST", b"content-length: 9999999\r\n", b"x", end=False).end()


@kind
async def hedge_wins(world: World) -> None:
    got = world.client.ask(b"GET", b"", path=b"/hedged")
    first, second = await world.next(), await world.next()
    second.answer(b"hi")
    assert (await got.end()).body == b"hi"
    await first.end()


@kind
async def hedge_loses(world: World) -> None:
    got = world.client.ask(b"GET", b"", path=b"/hedged")
    first, second = await world.next(), await world.next()
    first.respond(b"")
    await got.begin()
    first.send(b"hi", is_end=True)
    await got.end()
    await second.end()


@kind
async def late_status_is_retried(world: World) -> None:
    got = world.client.ask(b"POST", CALL, MESSAGE, b"/retried")
    first = await world.next()
    first.respond()
    await settle()
    first.trail(b"grpc-status: 14\r\n")
    (await world.next()).answer(MESSAGE, GOOD)
    assert (await got.end()).trailers == GOOD


@kind
async def fallback_answers(world: World) -> None:
    got = world.client.ask(b"GET", b"", path=b"/replaced")
    asked = await world.next()
    asked.reset(INTERNAL_ERROR)
    await got.end()


@kind
async def cache_stores(world: World) -> None:
    path = b"/cached?%d" % world.answered
    got, other = world.client.ask(b"GET", b"", path=path), world.client.ask(b"GET", b"", path=path)
    asked = await world.next()
    asked.respond(b"")
    await got.begin()
    asked.send(b"hi", is_end=True)
    assert ((await got.end()).body, (await other.end()).body) == (b"hi", b"hi")
    assert (await world.client.ask(b"GET", b"", path=path).end()).body == b"hi"


@kind
async def transcoded(world: World) -> None:
    got = world.client.ask(b"GET", b"", path=b"/v1/shops/1/orders/2")
    (await world.next()).answer(ORDER, GOOD)
    assert b"PLACED" in (await got.end()).body


@kind
async def transcoded_error(world: World) -> None:
    got = world.client.ask(b"GET", b"", path=b"/v1/shops/1/orders/2")
    asked = await world.next()
    asked.respond()
    await settle()
    asked.trail(b"grpc-status: 5\r\n")
    assert b'"code":5' in (await got.end()).body
    assert b"400" in (await world.client.ask(b"GET", b"", path=b"/v1/shops/1/orders/2?no=1").end()).body


@kind
async def transcoded_stream(world: World) -> None:
    got = world.client.ask(b"GET", b"", path=b"/v1/shops/1/orders:watch")
    asked = await world.next()
    asked.respond()
    asked.send(ORDER)
    await got.begin()
    asked.trail(GOOD)
    assert b"PLACED" in (await got.end()).body


@kind
async def grpc_web(world: World) -> None:
    for content_type in (b"application/grpc-web", b"application/grpc-web-text"):
        is_text = content_type.endswith(b"text")
        got = world.client.ask(b"POST", b"content-type: %b\r\n" % content_type, b"AAAAAAJoaQ==" if is_text else MESSAGE)
        asked = await world.next()
        asked.respond()
        asked.send(MESSAGE)
        await got.begin()
        asked.trail(GOOD)
        await got.end()


@kind
async def client_breaks_the_protocol(world: World) -> None:
    end = world.connect()
    got = end.ask(b"POST", CALL, MESSAGE, end=False)
    asked = await world.next()
    asked.respond()
    await got.begin()
    end.transport.write(b"\x00\x00\x00\x00\x01\x00\x00\x00\x00")
    await asked.end()
    end.transport.close()
    await settle()


@pytest.fixture(scope="module")
def collector() -> Iterator[None]:
    """Run the garbage collector only on request, and without the objects that exist so far."""
    gc.collect()
    gc.freeze()
    gc.disable()
    yield
    gc.enable()
    gc.unfreeze()


@pytest.mark.parametrize("name", KINDS)
@virtual
async def test_an_exchange_leaves_no_cycle_behind(name: str, collector: None) -> None:
    world = World()
    await KINDS[name](world)
    await settle()
    gc.collect()
    gc.set_debug(gc.DEBUG_SAVEALL)
    try:
        for _ in range(TIMES):
            await KINDS[name](world)
        await settle()
        gc.collect()
        names = [f"{type(each).__module__}.{type(each).__qualname__}" for each in gc.garbage]
        left = Counter(name for name in names if name.startswith("sidecar.") and "simulation" not in name)
    finally:
        gc.set_debug(0)
        gc.garbage.clear()
    assert not left
    assert world.proxy.bugs == []
