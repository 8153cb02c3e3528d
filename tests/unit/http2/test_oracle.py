"""Ours against independent implementations: HPACK against `hpack`, sessions against `h2`."""

from __future__ import annotations

import random

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from sidecar.http2 import frames as f
from sidecar.http2 import huffman
from sidecar.http2.errors import ConnectionFault
from sidecar.http2.hpack import STATIC_TABLE, Decoder, Encoder
from sidecar.http2.limits import Limits
from sidecar.http2.session import Session
from tests.unit.http2.peer import Recorder

hpack = pytest.importorskip("hpack", reason="the oracle is not installed")
config = pytest.importorskip("h2.config", reason="the oracle is not installed")
connection = pytest.importorskip("h2.connection")
events = pytest.importorskip("h2.events")

NAMES = [b":path", b":status", b"accept", b"x-a", b"x-b", b"cookie", b"authorization", b"content-type", b"x-request-id"]
VALUES = [b"", b"/", b"200", b"1", b"gzip, deflate", b"\x80\xff", b"v" * 70, b"w" * 900, b"\x00\n"]


def test_the_tables_are_those_of_hpack() -> None:
    from hpack.huffman_constants import REQUEST_CODES, REQUEST_CODES_LENGTH
    from hpack.table import HeaderTable

    assert list(zip(REQUEST_CODES, REQUEST_CODES_LENGTH, strict=True)) == huffman.CODES
    assert HeaderTable.STATIC_TABLE == STATIC_TABLE


def theirs_of(decoder: object, block: bytes) -> list[tuple[bytes, bytes]] | None:
    try:
        return [(bytes(name), bytes(value)) for name, value in decoder.decode(block, raw=True)]  # type: ignore[attr-defined]
    except (hpack.HPACKError, UnicodeDecodeError):
        return None


def ours_of(decoder: Decoder, block: bytes) -> list[tuple[bytes, bytes]] | None:
    try:
        return [(field.name, field.value) for field in decoder.decode(block).fields]
    except ConnectionFault:
        return None


def their_decoder() -> object:
    decoder = hpack.Decoder(max_header_list_size=1 << 24)
    decoder.max_allowed_table_size = 4096
    return decoder


@pytest.mark.parametrize("seed", range(20))
def test_blocks_of_hpack_decode_as_they_were(seed: int) -> None:
    rng = random.Random(seed)
    encoder, decoder = hpack.Encoder(), Decoder(1 << 20, 1000)
    for _ in range(200):
        fields = [(rng.choice(NAMES), rng.choice(VALUES)) for _ in range(rng.randrange(8))]
        if rng.random() < 0.05:
            encoder.header_table_size = rng.choice([0, 64, 200, 4096])
        sensitive = rng.random() < 0.1
        coded = [hpack.NeverIndexedHeaderTuple(*pair) for pair in fields] if sensitive else fields
        block = encoder.encode(coded, huffman=rng.random() < 0.5)
        assert ours_of(decoder, block) == fields


@pytest.mark.parametrize("seed", range(20))
def test_our_blocks_decode_at_hpack(seed: int) -> None:
    rng = random.Random(seed)
    encoder, decoder = Encoder(), their_decoder()
    names = [name for name in NAMES if name[:1] != b":"]
    for _ in range(200):
        fields = [(rng.choice(names), rng.choice(VALUES[:-1])) for _ in range(rng.randrange(8))]
        if rng.random() < 0.05:
            encoder.resize(rng.choice([0, 64, 200, 4096, 65536]))
        lines = b"".join(b"%b: %b\r\n" % pair for pair in fields)
        assert theirs_of(decoder, encoder.encode([(b":status", b"200")], lines)) == [(b":status", b"200"), *fields]


def mutated(rng: random.Random, block: bytes) -> bytes:
    at = rng.randrange(len(block) + 1)
    kind = rng.randrange(3)
    if kind == 0:
        return block[:at] + bytes((rng.randrange(256),)) + block[at + 1 :]
    if kind == 1:
        return block[:at] + bytes((rng.randrange(256),)) + block[at:]
    return block[:at]


@pytest.mark.parametrize("seed", range(20))
def test_broken_blocks_are_judged_as_hpack_does(seed: int) -> None:
    """Until the first that either calls broken: the connection ends there."""
    rng = random.Random(1000 + seed)
    for _ in range(60):
        encoder, ours, theirs = hpack.Encoder(), Decoder(1 << 24, 100_000), their_decoder()
        for _ in range(20):
            fields = [(rng.choice(NAMES), rng.choice(VALUES)) for _ in range(rng.randrange(1, 6))]
            block = encoder.encode(fields, huffman=rng.random() < 0.5)
            if rng.random() < 0.3:
                block = mutated(rng, block)
            found = ours_of(ours, block)
            assert found == theirs_of(theirs, block), block.hex()
            if found is None:
                break


@given(st.binary(max_size=60))
def test_huffman_judges_as_hpack_does(data: bytes) -> None:
    from hpack.huffman_table import decode_huffman

    try:
        theirs = bytes(decode_huffman(data))
    except hpack.HPACKDecodingError:
        theirs = None
    if data:
        assert huffman.decode(data) == theirs
    assert huffman.encode(data) == hpack.huffman.HuffmanEncoder(*codes()).encode(data)


def codes() -> tuple[list[int], list[int]]:
    from hpack.huffman_constants import REQUEST_CODES, REQUEST_CODES_LENGTH

    return REQUEST_CODES, REQUEST_CODES_LENGTH


class Echo(Recorder):
    """Service that sends back what it gets, with trailers."""

    session: Session

    def on_head(self, stream, head, is_end):
        super().on_head(stream, head, is_end)
        self.session.respond(stream, 200, b"x-path: %b\r\n" % head.path, False)
        if is_end:
            self.session.send_trailers(stream, b"x-end: 1\r\n")

    def on_data(self, stream, data, is_end):
        self.session.send(stream, data, False)
        if is_end:
            self.session.send_trailers(stream, b"x-end: 1\r\n")

    def on_trailers(self, stream, head):
        self.session.send_trailers(stream, head.lines)


def joined(found: list[object], kind: type, stream: int) -> bytes:
    return b"".join(event.data for event in found if isinstance(event, kind) and event.stream_id == stream)  # type: ignore[attr-defined]


@settings(deadline=None, max_examples=15)
@given(
    bodies=st.lists(st.integers(0, 100_000), min_size=1, max_size=4),
    window=st.sampled_from([5000, 65535, 200_000]),
    cut=st.sampled_from([500, 9001, 40_000]),
    trailers=st.booleans(),
)
def test_a_server_serves_h2(bodies: list[int], window: int, cut: int, trailers: bool) -> None:
    handler = Echo()
    handler.session = session = Session(handler, Limits(), False)
    client = connection.H2Connection(config.H2Configuration(client_side=True, header_encoding=None))
    client.initiate_connection()
    client.update_settings({f.INITIAL_WINDOW_SIZE: window})
    wanted, left, found = {}, {}, []
    for at, size in enumerate(bodies):
        number = client.get_next_available_stream_id()
        content = bytes((at,)) * size
        head = [(b":method", b"POST"), (b":scheme", b"http"), (b":authority", b"a.test"), (b":path", b"/%d" % at)]
        client.send_headers(number, head)
        wanted[number] = left[number] = content
    for _ in range(100_000):
        for number, content in list(left.items()):
            room = min(client.local_flow_control_window(number), client.max_outbound_frame_size)
            piece = content[:room]
            if piece:
                client.send_data(number, piece)
            left[number] = content = content[len(piece) :]
            if not content:
                del left[number]
                if trailers:
                    client.send_headers(number, [(b"x-late", b"1")], end_stream=True)
                else:
                    client.end_stream(number)
        sent = client.data_to_send()
        for at in range(0, len(sent), cut):
            session.receive(sent[at : at + cut], 0.0)
        assert session.fault is None
        back = b"".join(iter(session.take_output, b""))
        if not sent and not back:
            break
        for event in client.receive_data(back):
            found.append(event)
            if isinstance(event, events.DataReceived):
                client.acknowledge_received_data(event.flow_controlled_length, event.stream_id)
    for number, content in wanted.items():
        assert joined(found, events.DataReceived, number) == content
    ended = {event.stream_id for event in found if isinstance(event, events.StreamEnded)}
    assert ended == set(wanted)
    assert not session.streams


@settings(deadline=None, max_examples=15)
@given(
    bodies=st.lists(st.integers(0, 100_000), min_size=1, max_size=4),
    window=st.sampled_from([5000, 65535, 200_000]),
    cut=st.sampled_from([500, 9001, 40_000]),
)
def test_a_client_is_served_by_h2(bodies: list[int], window: int, cut: int) -> None:
    handler = Recorder()
    session = Session(handler, Limits(), True)
    server = connection.H2Connection(config.H2Configuration(client_side=False, header_encoding=None))
    server.initiate_connection()
    server.update_settings({f.INITIAL_WINDOW_SIZE: window})
    session.receive(server.data_to_send(), 0.0)
    wanted = {}
    for at, size in enumerate(bodies):
        content = bytes((at,)) * size
        stream = session.open(b"POST", b"http", b"a.test", b"/%d" % at, b"x-a: b\r\n", False)
        session.send(stream, content, True)
        wanted[stream.id] = content
    got: dict[int, bytes] = dict.fromkeys(wanted, b"")
    for _ in range(100_000):
        sent = b"".join(iter(session.take_output, b""))
        for event in server.receive_data(sent):
            if isinstance(event, events.DataReceived):
                got[event.stream_id] += event.data
                server.acknowledge_received_data(event.flow_controlled_length, event.stream_id)
            elif isinstance(event, events.StreamEnded):
                server.send_headers(
                    event.stream_id, [(b":status", b"200"), (b"x-size", b"%d" % len(got[event.stream_id]))]
                )
                server.send_data(event.stream_id, b"done", end_stream=True)
        back = server.data_to_send()
        if not sent and not back:
            break
        for at in range(0, len(back), cut):
            session.receive(back[at : at + cut], 0.0)
        assert session.fault is None
    assert got == wanted
    whole = [event[1] for event in handler.events if event[0] == "data" and event[3]]
    assert sorted(whole) == sorted(wanted)
    assert not session.streams


@pytest.mark.parametrize("seed", range(10))
def test_our_remembered_groups_decode_at_hpack(seed: int) -> None:
    """Requests, responses and trailers whose lines come again, between others that change the table."""
    rng = random.Random(2000 + seed)
    encoder, decoder = Encoder(), their_decoder()
    names = [name for name in NAMES if name[:1] != b":"]
    groups = [[(rng.choice(names), rng.choice(VALUES[:-1])) for _ in range(rng.randrange(1, 5))] for _ in range(5)]
    for number in range(300):
        if rng.random() < 0.03:
            encoder.resize(rng.choice([0, 64, 200, 4096]))
        if rng.random() < 0.05:
            groups[rng.randrange(len(groups))] = [(b"x-%d" % number, b"new")]
        before, own, after = (rng.choice(groups) for _ in range(3))
        lines = [b"".join(b"%b: %b\r\n" % pair for pair in group) for group in (before, own, after)]
        kind = rng.randrange(3)
        if kind == 0:
            pseudo = [
                (b":method", b"GET"),
                (b":scheme", b"http"),
                (b":authority", b"a"),
                (b":path", rng.choice([b"/", b"/x"])),
            ]
            block = encoder.encode_request(
                *(value for _, value in pseudo), lines[1], b"%d" % number, (lines[0], lines[2])
            )
            expected = [*pseudo, *before, (b"x-request-id", b"%d" % number), *own, *after]
        elif kind == 1:
            status = rng.choice([200, 418])
            block, expected = encoder.encode_response(status, lines[0]), [(b":status", b"%d" % status), *before]
        else:
            block, expected = encoder.encode_trailers(lines[0]), before
        assert theirs_of(decoder, block) == expected
