"""Floods: each ends after a bounded number of frames, and none of their well-behaved likenesses ends ever."""

from __future__ import annotations

from collections.abc import Callable
from typing import NamedTuple

from sidecar.http2 import errors as e
from sidecar.http2 import frames as f
from sidecar.http2.limits import MAX_UNREAD, Bucket, Limits
from tests.support.cases import each
from tests.unit.http2.peer import GET, POST, Peer, data, headers, setting

BLOCK_START = f.frame(f.HEADERS, 0, 1, b"\x82")
MOST = 1100
"""Frames after which every flood has ended."""


def opened(number: int) -> int:
    return 2 * number + 1


class Flood(NamedTuple):
    name: str
    start: bytes
    frames: Callable[[int], bytes]
    """The frames number 0, 1, 2 and so on."""
    most: int = MOST


FLOODS = [
    Flood("rapid reset", b"", lambda n: headers(opened(n), POST, False) + f.rst_stream(opened(n), e.CANCEL), 210),
    Flood("made reset: no window", b"", lambda n: headers(opened(n), POST, False) + f.window_update(opened(n), 0), 210),
    Flood("made reset: after the end", b"", lambda n: headers(opened(n), GET) + data(opened(n), b"x"), 210),
    Flood("made reset: malformed", b"", lambda n: headers(opened(n), GET[1:]), 210),
    Flood("made reset: priority", b"",
          lambda n: headers(opened(n), POST, False) + f.frame(f.PRIORITY, 0, opened(n), b""), 210),
    Flood("made reset: length", b"",
          lambda n: headers(opened(n), [*POST, (b"content-length", b"1")], False) + data(opened(n), b"xx"), 210),
    Flood("refused streams", b"", lambda n: headers(opened(n), POST, False)),
    Flood("SETTINGS", b"", lambda n: setting(4, 65535 + n % 2), 110),
    Flood("empty SETTINGS", b"", lambda n: f.settings([]), 110),
    Flood("acknowledgements", b"", lambda n: f.SETTINGS_ACK),
    Flood("PING", b"", lambda n: f.ping(bytes(8))),
    Flood("answers to PING", b"", lambda n: f.ping(bytes(8), is_ack=True)),
    Flood("empty DATA", headers(1, POST, False), lambda n: data(1, b"")),
    Flood("DATA of padding", headers(1, POST, False), lambda n: f.frame(f.DATA, 8, 1, b"\x05" + bytes(5))),
    Flood("empty CONTINUATION", BLOCK_START, lambda n: f.frame(f.CONTINUATION, 0, 1, b"")),
    Flood("CONTINUATION of a byte", BLOCK_START, lambda n: f.frame(f.CONTINUATION, 0, 1, b"\x82")),
    Flood("long CONTINUATION", BLOCK_START, lambda n: f.frame(f.CONTINUATION, 0, 1, b"\x82" * 16384), 10),
    Flood("WINDOW_UPDATE of the connection", b"", lambda n: f.window_update(0, 1)),
    Flood("WINDOW_UPDATE of a stream", headers(1, POST, False), lambda n: f.window_update(1, 1)),
    Flood("WINDOW_UPDATE of closed streams", headers(1, POST, False) + f.rst_stream(1, 8),
          lambda n: f.window_update(1, 1)),
    Flood("RST_STREAM of closed streams", headers(1, POST, False) + f.rst_stream(1, 8), lambda n: f.rst_stream(1, 8)),
    Flood("PRIORITY", b"", lambda n: f.frame(f.PRIORITY, 0, opened(n), b"\0\0\0\0\x10")),
    Flood("unknown frames", b"", lambda n: f.frame(0x42, 0, 0, b"")),
    Flood("long unknown frames", b"", lambda n: f.frame(0x42, 0, 0, bytes(16384)), 70),
    Flood("GOAWAY", b"", lambda n: f.goaway(0, 0)),
    Flood("heads that are too large", headers(1, POST, False) + f.rst_stream(1, 8),
          lambda n: headers(opened(n + 1), [*GET, *[(b"x", b"v" * 9000)] * 8]), 110),
]  # fmt: skip


@each(FLOODS)
def test_floods_end_soon(flood: Flood) -> None:
    peer = Peer()
    peer.feed(flood.start)
    for number in range(flood.most):
        peer.feed(flood.frames(number))
        if peer.session.fault is not None:
            break
    assert peer.session.fault is not None, flood.name
    assert peer.session.fault.code == e.ENHANCE_YOUR_CALM


def test_an_hpack_bomb_costs_no_memory_and_ends() -> None:
    peer = Peer()
    value = b"v" * 3900
    peer.feed(headers(1, GET))
    from sidecar.http2.hpack import Encoder, encode_integer

    insert = b"\x40\x01x" + encode_integer(0, 0x7F, len(value)) + value
    first = Encoder().encode(GET[:1], b"") + insert
    peer.feed(f.frame(f.HEADERS, 5, 3, first))
    for number in range(5, 500, 2):
        peer.feed(f.frame(f.HEADERS, 5, number, b"\x82" + b"\xbe" * 16000))
        if peer.session.fault is not None:
            break
    assert peer.session.fault is not None
    assert peer.session.fault.code == e.ENHANCE_YOUR_CALM
    assert number < 250


def test_dribbled_windows_are_no_useful_work() -> None:
    """A peer that takes a byte at a time makes a frame of each (CVE-2019-9511)."""
    peer = Peer(settings=setting(f.INITIAL_WINDOW_SIZE, 0))
    peer.feed(headers(1, GET))
    stream = peer.handler.streams[1]
    peer.session.respond(stream, 200, b"", False)
    peer.session.send(stream, b"x" * 60000, True)
    for _ in range(MOST):
        peer.feed(f.window_update(1, 1))
    assert peer.session.fault is not None


def test_answers_to_a_peer_that_does_not_read_are_bounded() -> None:
    peer = Peer(limits=Limits(frame_burst=1e9))
    peer.session.pause_writing()
    for _ in range(MAX_UNREAD + 10):
        peer.session.receive(f.ping(bytes(8)), peer.now)
    assert peer.session.fault is not None


# ----- well-behaved peers


def correct_calls(peer: Peer, number: int) -> None:
    peer.feed(headers(opened(number), GET))
    stream = peer.handler.streams.pop(opened(number))
    peer.session.respond(stream, 200, b"", False)
    peer.session.send(stream, b"x" * 1000, True)
    peer.feed(f.window_update(0, 1000), f.ping(bytes(8)) if number % 10 == 0 else b"")


def correct_cancels(peer: Peer, number: int) -> None:
    """Every third call is cancelled."""
    for at in range(2):
        correct_calls(peer, 3 * number + at)
    last = opened(3 * number + 2)
    peer.feed(headers(last, GET), f.rst_stream(last, e.CANCEL))


def correct_download(peer: Peer, number: int) -> None:
    """One stream for ever, with an update of both windows for each frame."""
    if number == 0:
        peer.feed(headers(1, GET))
        peer.session.respond(peer.handler.streams[1], 200, b"", False)
    peer.session.send(peer.handler.streams[1], b"x" * 8192, False)
    peer.feed(f.window_update(0, 8192), f.window_update(1, 8192))


def correct_messages(peer: Peer, number: int) -> None:
    """Small messages both ways."""
    if number == 0:
        peer.feed(headers(1, POST, False))
        peer.session.respond(peer.handler.streams[1], 200, b"", False)
    peer.feed(data(1, b"hello"))
    peer.session.send(peer.handler.streams[1], b"hello", False)
    peer.feed(f.window_update(0, 5), f.window_update(1, 5))


def correct_keepalive(peer: Peer, number: int) -> None:
    peer.now += 1.0
    peer.feed(f.ping(bytes(8)))


def occasional_cancels(peer: Peer, number: int) -> None:
    """Ten cancelled calls a second and nothing else."""
    peer.now += 0.1
    peer.feed(headers(opened(number), GET), f.rst_stream(opened(number), e.CANCEL))


@each([correct_calls, correct_cancels, correct_download, correct_messages, correct_keepalive, occasional_cancels])
def test_correct_peers_live_long(peer_of: Callable[[Peer, int], None]) -> None:
    peer = Peer()
    for number in range(5000):
        peer_of(peer, number)
        peer.events.clear()
    assert peer.session.fault is None, peer.session.fault


def test_a_bucket_empties_with_time_and_work() -> None:
    bucket = Bucket(10, 1)
    assert not bucket.charge(10, 0.0)
    assert bucket.charge(1, 0.0)
    assert not bucket.charge(1, 5.0)
    bucket.pay(100)
    assert bucket.level == 0.0
