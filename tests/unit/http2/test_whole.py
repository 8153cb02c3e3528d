"""Messages that are whole in one read, and those that are sent at once."""

from __future__ import annotations

import random

import pytest

from sidecar.http2 import errors as e
from sidecar.http2 import frames as f
from sidecar.http2.hpack import Decoder, Encoder
from sidecar.http2.limits import Limits
from tests.unit.http2.peer import OK, POST, Peer, data, headers, setting

LONG = b"x-long: " + b"v" * 700 + b"\r\n"
END = [(b"grpc-status", b"0")]


def calling(settings: bytes | None = None) -> tuple[Peer, object]:
    """Return a client that joins content, and its stream, on which a request was sent."""
    peer = Peer(is_client=True, settings=settings)
    peer.session.joins_content = True
    stream = peer.open(b"POST")
    peer.sent()
    return peer, stream


def test_a_response_that_is_whole_in_one_read_comes_with_its_head() -> None:
    peer, stream = calling()

    peer.feed(headers(1, OK, end=False), data(1, b"hi"), headers(1, END))

    assert peer.handler.kinds() == ["head"]
    assert peer.events[0][3]
    assert (stream.content, stream.ending.lines) == (b"hi", b"grpc-status: 0\r\n")
    assert not peer.session.streams


@pytest.mark.parametrize(
    ("head", "rest", "kinds"),
    [
        (OK, [data(1, b"hi")], ["head", "data"]),
        (OK, [data(1, b"hi"), headers(1, END)[:-1]], ["head", "data"]),
        (OK, [data(1, b""), headers(1, END)], ["head", "trailers"]),
        (OK, [data(1, b"hi"), data(1, b"ho"), headers(1, END)], ["head", "data", "trailers"]),
        (OK, [data(1, b"hi"), headers(1, END, end=False)], ["head", "data", "reset"]),
        (OK, [data(1, b"hi"), headers(1, [(b":path", b"/")])], ["head", "data", "reset"]),
        (OK, [data(1, b"hi"), headers(1, [(b"Upper", b"1")])], ["head", "data", "reset"]),
        (OK, [f.frame(f.DATA, f.PADDED, 1, b"\x01hi\x00"), headers(1, END)], ["head", "data", "trailers"]),
        ([*OK, (b"content-length", b"3")], [data(1, b"hi"), headers(1, END)], ["head", "data", "reset"]),
        ([(b":status", b"204")], [data(1, b"hi"), headers(1, END)], ["head", "reset"]),
    ],
)
def test_other_responses_come_piece_by_piece(
    head: list[tuple[bytes, bytes]], rest: list[bytes], kinds: list[str]
) -> None:
    peer, stream = calling()

    peer.feed(headers(1, head, end=False), *rest)

    assert peer.handler.kinds() == kinds
    assert (stream.content, stream.ending) == (None, None)
    assert peer.session.fault is None


def test_content_beyond_the_windows_is_judged_by_itself() -> None:
    peer, stream = calling()
    stream.credit = 1
    peer.feed(headers(1, OK, end=False), data(1, b"hi"), headers(1, END))
    assert peer.handler.kinds() == ["head", "reset"]
    assert peer.events[1][2] == e.FLOW_CONTROL_ERROR

    peer, stream = calling()
    peer.session._credit = 1  # type: ignore[attr-defined]
    peer.feed(headers(1, OK, end=False), data(1, b"hi"), headers(1, END))
    assert peer.session.fault is not None
    assert peer.session.fault.code == e.FLOW_CONTROL_ERROR


def test_windows_are_given_back_for_whole_messages() -> None:
    peer = Peer(limits=Limits(connection_window=65535))
    peer.session.joins_content = True
    sent = []
    for number in range(1, 11, 2):
        sent += peer.feed(headers(number, POST, end=False), data(number, b"x" * 16384, end=True))
    updates = [frame for frame in sent if frame.kind == f.WINDOW_UPDATE]
    assert [(frame.stream, int.from_bytes(frame.payload, "big")) for frame in updates] == [(0, 2 * 16384)] * 2


def asked(peer: Peer) -> object:
    """Return the stream of a request."""
    peer.feed(headers(1, POST))
    return peer.handler.streams[1]


def test_an_answer_that_is_sent_at_once_is_the_one_that_is_sent_in_pieces() -> None:
    one, other = Peer(), Peer()
    first, second = asked(one), asked(other)
    assert one.session.answer(first, 200, LONG, b"hi", b"grpc-status: 0\r\n")
    other.session.respond(second, 200, LONG, False)
    other.session.send(second, b"hi", False)
    other.session.send_trailers(second, b"grpc-status: 0\r\n")

    assert (sent := one.sent()) == other.sent()
    assert [frame.kind for frame in sent] == [f.HEADERS, f.DATA, f.HEADERS]
    assert not one.session.streams
    assert not one.session.answer(first, 200, b"", b"hi", b"grpc-status: 0\r\n")


@pytest.mark.parametrize("place", ["stream", "connection", "transport", "size", "nothing"])
def test_an_answer_that_has_to_wait_is_not_sent_at_once(place: str) -> None:
    peer = Peer(settings=setting(f.INITIAL_WINDOW_SIZE, 1) if place == "stream" else None)
    stream = asked(peer)
    if place == "connection":
        peer.session._window = 1  # type: ignore[attr-defined]
    if place == "transport":
        peer.session.pause_writing()
    content = {"size": b"x" * 16385, "nothing": b""}.get(place, b"hi")
    assert not peer.session.answer(stream, 200, b"", content, b"grpc-status: 0\r\n")
    assert not peer.sent()
    assert not stream.has_sent_head


@pytest.mark.parametrize("window", [65535, 1])
def test_a_request_is_sent_with_its_content(window: int) -> None:
    peer = Peer(is_client=True, settings=setting(f.INITIAL_WINDOW_SIZE, window))
    peer.session.open(b"POST", b"http", b"a", b"/", LONG, False, content=b"hi")
    sent = peer.sent()
    assert [frame.kind for frame in sent] == [f.HEADERS, f.DATA]
    assert (b"x-long", b"v" * 700) in peer.fields(sent[0])
    assert (sent[1].payload, sent[1].flags) == (b"hi"[:window], f.END_STREAM if window > 1 else 0)


def lines_of(decoder: Decoder, block: bytes) -> bytes:
    return b"".join([b"%b: %b\r\n" % (field.name, field.value) for field in decoder.decode(block).fields])


@pytest.mark.parametrize("seed", range(5))
def test_what_is_remembered_of_heads_is_right_while_the_table_changes(seed: int) -> None:
    rng = random.Random(seed)
    encoder, decoder = Encoder(), Decoder(1 << 20, 1000)
    befores = [b"", b"a: b\r\n", b"c: d\r\n"]
    for number in range(100):
        path, before, after = rng.choice([b"/a", b"/b"]), rng.choice(befores), rng.choice([b"", b"via: x\r\n"])
        own = rng.choice([b"grpc-timeout: 1S\r\n", b"x: %d\r\n" % rng.randrange(3)])
        block = encoder.encode_request(b"POST", b"http", b"h", path, own, b"%d" % number, (before, after))
        pseudo = b":method: POST\r\n:scheme: http\r\n:authority: h\r\n:path: %b\r\n" % path
        assert lines_of(decoder, block) == b"%b%bx-request-id: %d\r\n%b%b" % (pseudo, before, number, own, after)
        status, lines = rng.choice([200, 201, 503]), b"y: %d\r\n" % rng.randrange(2)
        ending = rng.choice([b"grpc-status: 0\r\n", b"z: %d\r\n" % rng.randrange(2)])
        blocks = encoder.encode_answer(status, lines, ending)
        assert [lines_of(decoder, each) for each in blocks] == [b":status: %d\r\n%b" % (status, lines), ending]
