"""Memory of content that comes in pieces of a few bytes: an object for each would take many times their size."""

from __future__ import annotations

import tracemalloc
from collections.abc import Callable
from types import SimpleNamespace

import pytest

from sidecar.core.body import Body
from sidecar.grpc.framing import PREFIX, MessageReader
from sidecar.http2 import frames as f
from sidecar.http2.frames import FrameReader
from tests.unit.http2.peer import GET, Peer, headers, setting

SIZE = 16_000
"""Bytes of the content."""
SINK = SimpleNamespace(write=lambda data: None, finish=lambda trailers: None, fail=lambda failure: None)


def buffered() -> Callable[[bytes], object]:
    return Body().feed


def recorded() -> Callable[[bytes], object]:
    body = Body()
    body.record(SIZE)
    body.attach(SINK)  # type: ignore[arg-type]
    return body.feed


def without_a_window() -> Callable[[bytes], object]:
    peer = Peer(settings=setting(f.INITIAL_WINDOW_SIZE, 0))
    peer.feed(headers(1, GET))
    stream = peer.handler.streams[1]
    peer.session.respond(stream, 200, b"", False)
    return lambda data: peer.session.send(stream, data, False)


def within_a_message() -> Callable[[bytes], object]:
    reader = MessageReader()
    reader.feed(PREFIX.pack(0, 2 * SIZE))
    return reader.feed


def within_a_frame() -> Callable[[bytes], object]:
    reader = FrameReader()
    reader.feed(f.frame_head(f.DATA, 0, 1, 16384))
    reader.advance()
    return reader.feed


@pytest.mark.parametrize("place", [buffered, recorded, without_a_window, within_a_message, within_a_frame])
def test_small_pieces_take_little_more_than_their_bytes(place: Callable[[], Callable[[bytes], object]]) -> None:
    feed = place()
    tracemalloc.start()
    try:
        before = tracemalloc.get_traced_memory()[0]
        for number in range(SIZE // 2):
            feed(b"%02d" % (number % 100))
        kept = tracemalloc.get_traced_memory()[0] - before
    finally:
        tracemalloc.stop()
    assert SIZE < kept < 2 * SIZE
