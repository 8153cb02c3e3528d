"""HPACK: the vectors of RFC 7541 Appendix C, its errors, and what is bounded."""

from __future__ import annotations

from collections.abc import Callable

import pytest
from hypothesis import given
from hypothesis import strategies as st

from sidecar.core.message import SECRETS
from sidecar.http2 import huffman
from sidecar.http2.errors import COMPRESSION_ERROR, ConnectionFault
from sidecar.http2.heads import request_of
from sidecar.http2.hpack import (
    LONGEST_LIST,
    REMEMBERED,
    TABLE_SIZE,
    UNINDEXED,
    Decoder,
    Encoder,
    encode_integer,
    never_index,
)
from sidecar.http2.limits import Limits
from tests.support.cases import each

REQUEST = [(b":method", b"GET"), (b":scheme", b"http"), (b":path", b"/"), (b":authority", b"www.example.com")]
REQUESTS = [
    REQUEST,
    [*REQUEST, (b"cache-control", b"no-cache")],
    [
        (b":method", b"GET"),
        (b":scheme", b"https"),
        (b":path", b"/index.html"),
        (b":authority", b"www.example.com"),
        (b"custom-key", b"custom-value"),
    ],
]
DATES = (b"Mon, 21 Oct 2013 20:13:21 GMT", b"Mon, 21 Oct 2013 20:13:22 GMT")
PLACE = (b"location", b"https://www.example.com")
PRIVATE = (b"cache-control", b"private")
COOKIE = b"foo=ASDJKHQKBZXOQWEOPIUAXQWEOIU; max-age=3600; version=1"
RESPONSES = [
    [(b":status", b"302"), PRIVATE, (b"date", DATES[0]), PLACE],
    [(b":status", b"307"), PRIVATE, (b"date", DATES[0]), PLACE],
    [
        (b":status", b"200"),
        PRIVATE,
        (b"date", DATES[1]),
        PLACE,
        (b"content-encoding", b"gzip"),
        (b"set-cookie", COOKIE),
    ],
]
VECTORS = [
    ("C.2.1", 0, ["400a637573746f6d2d6b65790d637573746f6d2d686561646572"], [[(b"custom-key", b"custom-header")]], [55]),
    ("C.2.2", 0, ["040c2f73616d706c652f70617468"], [[(b":path", b"/sample/path")]], [0]),
    ("C.2.3", 0, ["100870617373776f726406736563726574"], [[(b"password", b"secret")]], [0]),
    ("C.2.4", 0, ["82"], [[(b":method", b"GET")]], [0]),
    (
        "C.3",
        0,
        [
            "828684410f7777772e6578616d706c652e636f6d",
            "828684be58086e6f2d6361636865",
            "828785bf400a637573746f6d2d6b65790c637573746f6d2d76616c7565",
        ],
        REQUESTS,
        [57, 110, 164],
    ),
    (
        "C.4",
        0,
        [
            "828684418cf1e3c2e5f23a6ba0ab90f4ff",
            "828684be5886a8eb10649cbf",
            "828785bf408825a849e95ba97d7f8925a849e95bb8e8b4bf",
        ],
        REQUESTS,
        [57, 110, 164],
    ),
    (
        "C.5",
        256,
        [
            "4803333032580770726976617465611d4d6f6e2c203231204f637420323031332032303a31333a323120474d546e17"
            "68747470733a2f2f7777772e6578616d706c652e636f6d",
            "4803333037c1c0bf",
            "88c1611d4d6f6e2c203231204f637420323031332032303a31333a323220474d54c05a04677a69707738666f6f3d41"
            "53444a4b48514b425a584f5157454f50495541585157454f49553b206d61782d6167653d333630303b20766572736"
            "96f6e3d31",
        ],
        RESPONSES,
        [222, 222, 215],
    ),
    (
        "C.6",
        256,
        [
            "488264025885aec3771a4b6196d07abe941054d444a8200595040b8166e082a62d1bff6e919d29ad171863c78f0b97"
            "c8e9ae82ae43d3",
            "4883640effc1c0bf",
            "88c16196d07abe941054d444a8200595040b8166e084a62d1bffc05a839bd9ab77ad94e7821dd7f2e6c7b335dfdfcd"
            "5b3960d5af27087f3672c1ab270fb5291f9587316065c003ed4ee5b1063d5007",
        ],
        RESPONSES,
        [222, 222, 215],
    ),
]


def decoder(max_size: int = 65536, max_fields: int = 256) -> Decoder:
    return Decoder(max_size, max_fields)


def pairs(decoder: Decoder, block: bytes) -> list[tuple[bytes, bytes]]:
    return [(field.name, field.value) for field in decoder.decode(block).fields]


@each(VECTORS)
def test_vectors_of_appendix_c(vector: tuple) -> None:
    _, size, blocks, wanted, sizes = vector
    reader = decoder()
    if size:
        reader.decode(encode_integer(0x20, 0x1F, size))
    for block, fields, table in zip(blocks, wanted, sizes, strict=True):
        assert pairs(reader, bytes.fromhex(block)) == fields
        assert reader.table_size == table


@each([(5, 10, "0a"), (5, 1337, "1f9a0a"), (8, 42, "2a")])
def test_integers_of_appendix_c1(case: tuple[int, int, str]) -> None:
    bits, value, wanted = case
    assert encode_integer(0, (1 << bits) - 1, value).hex() == wanted


def test_requests_are_encoded_as_in_appendix_c4() -> None:
    """All but :path, which is not inserted here."""
    encoder = Encoder()
    coded = [encoder.encode(request[:4], b"".join(b"%b: %b\r\n" % f for f in request[4:])) for request in REQUESTS]
    assert [block.hex() for block in coded] == VECTORS[5][2]


@each(
    [
        ("index 0", "80"),
        ("index beyond the tables", "be"),
        ("name beyond the tables", "7f00"),
        ("integer without an end", "ff8080808080808000"),
        ("integer cut off", "ff"),
        ("string cut off", "4005616263"),
        ("no value", "400161"),
        ("nothing after the prefix", "40"),
        ("EOS in a string", "400184ffffffff"),
        ("padding of a whole byte", "40016182ffff"),
        ("padding of zeros", "4001618118"),
        ("size above the limit", "3fe21f"),
        ("size after a field", "8220"),
    ]
)
def test_errors_end_the_connection(case: tuple[str, str]) -> None:
    with pytest.raises(ConnectionFault) as caught:
        decoder().decode(bytes.fromhex(case[1]))
    assert caught.value.code == COMPRESSION_ERROR


@given(st.binary(max_size=200))
def test_huffman_gives_back_what_it_took(text: bytes) -> None:
    assert huffman.decode(huffman.encode(text)) == text


def test_an_evicted_entry_is_gone_also_for_blocks_that_were_remembered() -> None:
    reader = decoder()
    reader.decode(bytes.fromhex(VECTORS[0][2][0]))
    assert pairs(reader, b"\xbe") == pairs(reader, b"\xbe") == [(b"custom-key", b"custom-header")]
    reader.decode(b"\x20")
    with pytest.raises(ConnectionFault):
        reader.decode(b"\xbe")


def test_a_name_may_be_of_an_entry_that_its_own_insertion_evicts() -> None:
    """RFC 7541 4.4."""
    reader = decoder()
    reader.decode(encode_integer(0x20, 0x1F, 60))
    reader.decode(b"\x40\x0acustom-key\x05value")
    assert pairs(reader, b"\x7e\x06value2") == [(b"custom-key", b"value2")] == pairs(reader, b"\xbe")


def test_a_field_larger_than_the_table_empties_it() -> None:
    reader = decoder()
    reader.decode(b"\x40\x01a\x01b")
    reader.decode(b"\x40\x01c" + encode_integer(0, 0x7F, 5000) + b"v" * 5000)
    assert reader.table_size == 0


def test_a_bomb_is_walked_and_not_kept() -> None:
    reader = decoder(max_size=16384)
    reader.decode(b"\x40\x01a" + encode_integer(0, 0x7F, 4000) + b"v" * 4000)
    block = reader.decode(b"\xbe" * 60000)
    assert block.is_too_large
    assert sum(field.size for field in block.fields) <= 16384


def test_what_is_remembered_is_bounded() -> None:
    reader = decoder()
    for number in range(10 * REMEMBERED):
        reader.decode(b"\x00\x01a\x04%04d" % number)
        coded = huffman.encode(b"%03d" % number)
        reader.decode(b"\x00\x01a" + bytes((0x80 | len(coded),)) + coded)
    assert len(reader._blocks) <= REMEMBERED  # type: ignore[attr-defined]
    assert len(reader._strings) <= REMEMBERED  # type: ignore[attr-defined]


def test_blocks_that_are_short_but_stand_for_many_bytes_are_not_remembered() -> None:
    reader = decoder()
    reader.decode(b"\x40\x01a" + encode_integer(0, 0x7F, 4000) + b"v" * 4000)
    for number in range(1, REMEMBERED):
        head = request_of(reader.decode(b"\x82\x86\x84\x01\x01h" + b"\xbe" * 15 + b"\x85" * number), Limits())
        assert head.error or head.lines
    kept = sum(field.size for block in reader._blocks.values() for field in block.fields)  # type: ignore[attr-defined]
    assert kept <= REMEMBERED * LONGEST_LIST


def test_marks_of_never_indexed_fields_are_kept() -> None:
    block = decoder().decode(bytes.fromhex(VECTORS[2][2][0]))
    assert block.sensitive == {b"password"}
    coded = Encoder().encode([], b"password: secret\r\n", block.sensitive)
    assert coded[0] & 0xF0 == 0x10


@each([b"authorization: Basic eA==\r\n", b"Cookie: a=b\r\n", b"set-cookie: a=b\r\n", b"x-api-key: k\r\n"])
def test_secrets_are_never_indexed(line: bytes) -> None:
    encoder = Encoder()
    assert encoder.encode([], line) == encoder.encode([], line)
    assert encoder.encode([], line)[0] & 0xF0 == 0x10
    assert encoder.table_size == 0


def test_a_mark_holds_for_its_field_alone_and_for_pseudo_headers_too() -> None:
    encoder = Encoder()
    lines = b"X-A: 1\r\nx-b: 2\r\n"
    encoder.encode([(b":path", b"/")], lines)
    indexed = encoder.encode([(b":path", b"/")], lines)
    marked = encoder.encode([(b":path", b"/")], lines, frozenset((b"x-a", b":path")))
    assert marked == b"\x14\x01/" + b"\x10\x03x-a\x011" + indexed[-1:]
    assert encoder.encode([(b":path", b"/")], lines) == indexed, "and for its message alone"


def test_names_of_credentials_in_a_policy_are_never_indexed() -> None:
    encoder = Encoder()
    try:
        never_index([b"x-partner-key"])
        assert encoder.encode([], b"X-Partner-Key: k\r\n")[0] & 0xF0 == 0x10
        assert encoder.encode([], b"X-Partner-Key: k\r\n")[0] & 0xF0 == 0x10
        assert encoder.table_size == 0
    finally:
        UNINDEXED.discard(b"x-partner-key")


LINES = b"x-partner-key: k\r\n"


@each(
    [
        lambda encoder: encoder.encode([], LINES),
        lambda encoder: encoder.encode_request(b"GET", b"http", b"a.test", b"/", LINES),
        lambda encoder: encoder.encode_request(b"GET", b"http", b"a.test", b"/", b"", b"", (LINES, b"")),
        lambda encoder: encoder.encode_response(200, LINES),
        lambda encoder: encoder.encode_trailers(LINES),
    ]
)
def test_names_that_are_added_hold_for_encoders_that_are_in_use(encode: Callable[[Encoder], bytes]) -> None:
    encoder, reader = Encoder(), decoder()
    for _ in range(3):  # the second is remembered, the third comes from memory
        reader.decode(encode(encoder))
    assert b"k" not in encode(encoder), "the field is in the table"
    try:
        never_index([b"x-partner-key"])
        coded = encode(encoder)
        assert coded.endswith(b"\x01k")
        assert reader.decode(coded).fields[-1].value == b"k"
    finally:
        UNINDEXED.discard(b"x-partner-key")


def test_marks_hold_beside_groups_that_are_remembered() -> None:
    encoder, steady = Encoder(), (b"x-a: 1\r\n", b"x-b: 2\r\n")
    request = b"GET", b"http", b"a.test", b"/", b"x-c: 3\r\n", b"id", steady
    for _ in range(3):  # the second block is remembered, the third comes from memory
        remembered = encoder.encode_request(*request)
    size = encoder.table_size
    marks = frozenset((b":path", b":authority", b"x-a", b"x-b", b"x-c", b"x-request-id"))
    block = decoder().decode(encoder.encode_request(*request, marks))
    assert block.sensitive == marks
    assert [field.value for field in block.fields] == [b"GET", b"http", b"a.test", b"/", b"1", b"id", b"3", b"2"]
    assert encoder.table_size == size
    assert encoder.encode_request(*request) == remembered


@each([b"authorization: Bearer t-0\r\n", b"X-Partner-Key: t-0\r\n", b"etag: t-0\r\n", b"x-request-id: t-0\r\n"])
def test_groups_with_a_secret_are_not_remembered(line: bytes) -> None:
    encoder, reader = Encoder(), decoder()
    name = line[: line.find(b":")].lower()
    try:
        UNINDEXED.add(name)
        for _ in range(3):
            blocks = [
                encoder.encode_request(b"GET", b"http", b"a.test", b"/", line, b"", (b"x-a: 1\r\n" + line, line)),
                encoder.encode_request(b"GET", b"http", b"a.test", b"/", b"", b"t-0"),
                encoder.encode_response(200, line),
                encoder.encode_trailers(line),
            ]
            for block in blocks:
                reader.decode(block)
            memories = encoder._lines, encoder._parts, encoder._latest, encoder._pseudo, encoder._numbers  # type: ignore[attr-defined]
            assert b"t-0" not in repr(memories).encode()
        assert blocks[3][0] & 0xF0 == 0x10
        if name == b"x-request-id":
            assert blocks[1][-4 - len(name) - 2] & 0xF0 == 0x10
    finally:
        if name not in SECRETS:
            UNINDEXED.discard(name)


def test_fields_of_a_connection_are_not_encoded() -> None:
    lines = b"Host: a\r\nConnection: close\r\nKeep-Alive: 5\r\nTransfer-Encoding: chunked\r\nUpgrade: x\r\nVia: b\r\n"
    assert pairs(decoder(), Encoder().encode([], lines)) == [(b"via", b"b")]


def test_a_smaller_table_of_the_peer_is_told_it() -> None:
    encoder, reader = Encoder(), decoder()
    reader.decode(encoder.encode([], b"x-a: 1\r\nx-b: 2\r\n"))
    encoder.resize(0)
    encoder.resize(100)
    block = encoder.encode([], b"x-c: 3\r\n")
    assert block.startswith(b"\x20\x3f\x45")
    assert pairs(reader, block) == [(b"x-c", b"3")]
    assert reader.table_size == encoder.table_size == 36
    encoder.resize(1 << 20)
    reader.decode(encoder.encode([], b"x-d: 4\r\n"))
    assert encoder._limit == TABLE_SIZE  # type: ignore[attr-defined]


NAMES = st.sampled_from([b"x-a", b"x-b", b"date", b"cookie", b"accept", b"x-long", b"vary", b"etag"])
VALUES = st.one_of(st.sampled_from([b"", b"1", b"gzip", b"v" * 300, b"w" * 600]), st.binary(max_size=8).map(bytes.hex))
LISTS = st.lists(st.tuples(NAMES, VALUES.map(lambda v: v.encode() if isinstance(v, str) else v)), max_size=12)


@given(st.lists(st.tuples(LISTS, st.one_of(st.none(), st.integers(0, 5000))), max_size=30))
def test_what_is_encoded_decodes_to_the_same(messages: list) -> None:
    encoder, reader = Encoder(), decoder()
    for fields, size in messages:
        if size is not None:
            encoder.resize(size)
        block = encoder.encode([(b":status", b"200")], b"".join(b"%b: %b\r\n" % field for field in fields))
        assert pairs(reader, block) == [(b":status", b"200"), *fields]
        assert reader.table_size == encoder.table_size
