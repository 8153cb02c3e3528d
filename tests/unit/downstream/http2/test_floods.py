"""Floods against a listener: each is cut off after a bounded number of frames, bytes and calls of the upstream."""

from __future__ import annotations

import asyncio

from chaos.parts.floods import FLOODS, Flood, frame, get, opened, post
from sidecar.core.exchange import Exchange
from sidecar.core.message import Headers
from sidecar.core.outcome import Failure, Outcome
from sidecar.downstream.http2.connection import Http2Connection
from sidecar.http2 import errors as e
from sidecar.http2 import frames as f
from tests.support.cases import each
from tests.support.loop import settle, virtual
from tests.unit.downstream.http2.talk import Frames

STRIDE = 10
"""Steps of a flood that arrive together."""
MOST_BYTES = 2 * 2**20
"""Bytes that a client can send as a flood."""
MOST_CALLS = 320
"""Requests that a flood can begin: the burst of resets, and the streams that may be open."""
MOST_BACK = 256 * 1024
"""Bytes that we send in return."""


class Counted:
    """Client of a flood, and what it has cost until it was cut off."""

    def __init__(self) -> None:
        self.calls = self.active = self.sent = 0
        self.talk = Frames(self.serve)

    async def serve(self, x: Exchange) -> Outcome:
        self.calls += 1
        self.active += 1
        try:
            await asyncio.Event().wait()
        finally:
            self.active -= 1
        raise AssertionError

    async def run(self, flood: Flood) -> int:
        """Send a flood until the connection ends; return the number of its steps."""
        if flood.is_silent:
            await self.talk.feed()
            self.talk.client.transport.pause_reading()
        await self.send(flood.start)
        for step in range(0, flood.most + STRIDE, STRIDE):
            await self.send(b"".join([flood.frames(step + at) for at in range(STRIDE)]))
            if self.is_over:
                return step
        return flood.most + STRIDE

    async def send(self, piece: bytes) -> None:
        self.sent += len(piece)
        await self.talk.feed(piece)

    @property
    def is_over(self) -> bool:
        """True once nothing more is read."""
        return not any(isinstance(each, Http2Connection) for each in self.talk.front.listener.connections)


@each(list(FLOODS))
@virtual
async def test_floods_are_cut_off(flood: Flood) -> None:
    counted = Counted()
    steps = await counted.run(flood)
    assert steps <= flood.most, "it goes on"
    assert counted.sent <= MOST_BYTES, counted.sent
    assert counted.calls <= MOST_CALLS, counted.calls
    assert len(counted.talk.client.received) <= MOST_BACK
    assert flood.is_silent or counted.talk.codes(f.GOAWAY)[-1:] == [flood.code]
    await settle()
    assert counted.active == 0, "what it has begun is cancelled"
    await asyncio.sleep(30 if flood.is_silent else 5)
    assert counted.talk.front.is_empty
    assert counted.talk.front.bugs == []


@virtual
async def test_a_window_that_stays_closed_costs_little_and_not_for_long() -> None:
    talk = Frames(settings=f.settings([(f.INITIAL_WINDOW_SIZE, 0)]))
    await talk.feed(*[get(number) for number in range(300)])
    assert talk.front.listener.active == 100
    assert len([code for code in talk.codes(f.RST_STREAM) if code == e.REFUSED_STREAM]) == 200
    await asyncio.sleep(7)
    await talk.feed()
    assert talk.front.listener.active == 0
    assert talk.front.listener.slow.buffered == 0


@virtual
async def test_rates_and_not_totals_are_bounded() -> None:
    """A client that does a little of everything, between useful requests, goes on for hours."""

    async def serve(x: Exchange) -> Outcome:
        return Outcome(200, [], b"hello")

    talk = Frames(serve)
    for number in range(2000):
        await talk.feed(
            get(number)
            + frame(f.PING, 0, 0, bytes(8))
            + f.window_update(0, 100)
            + frame(f.PRIORITY, 0, opened(number), bytes(4) + b"\x10")
        )
        if number % 20 == 0:
            await talk.feed(f.settings([(f.INITIAL_WINDOW_SIZE, 65535)]))
        await asyncio.sleep(0.05)
        talk.got.clear()
    assert talk.codes(f.GOAWAY) == []
    assert talk.front.server.open_connections == 1


DRIBBLE = frame(f.DATA, 0, 1, b"x") * 5000
"""Content of one read, a byte in each frame: ten times as many bytes as arrive."""


class Pieces:
    """Sink that takes a body, and counts its pieces."""

    def __init__(self) -> None:
        self.sizes: list[int] = []

    def write(self, data: bytes) -> None:
        self.sizes.append(len(data))

    def finish(self, trailers: Headers) -> None: ...

    def fail(self, failure: Failure) -> None: ...


@virtual
async def test_content_of_a_byte_a_frame_is_joined_and_is_no_flood() -> None:
    sink = Pieces()

    async def serve(x: Exchange) -> Outcome:
        assert x.stream is not None
        x.stream.attach(sink)
        await asyncio.Event().wait()
        raise AssertionError

    talk = Frames(serve)
    await talk.feed(post(0))
    for _ in range(20):
        await talk.feed(DRIBBLE)
    assert sink.sizes == [5000] * 20, "one piece a read"
    assert len(talk.got) < 10, "and few window updates"
    assert talk.codes(f.GOAWAY) == []


@virtual
async def test_content_of_a_byte_a_frame_that_nobody_takes_ends_with_the_window() -> None:
    counted = Counted()
    await counted.send(post(0))
    for _ in range(40):
        await counted.send(DRIBBLE)
        if counted.is_over:
            break
    assert counted.sent <= MOST_BYTES
    assert counted.talk.codes(f.RST_STREAM) == [e.FLOW_CONTROL_ERROR]
    assert counted.talk.codes(f.GOAWAY) == [e.ENHANCE_YOUR_CALM]
    await settle()
    assert counted.active == 0
    await asyncio.sleep(5)
    assert counted.talk.front.is_empty
