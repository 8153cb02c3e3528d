"""Sequences of frames made by chance, in both roles: what they do does not depend on how their bytes are cut.

The laws are those of `tests.fuzz.session`, which starts from bytes; these sequences get deeper into a connection.
"""

from __future__ import annotations

import random

from sidecar.http2 import frames as f
from tests.fuzz.session import check
from tests.support.cases import each
from tests.unit.http2.peer import GET, OK, POST, literal

FIELDS = [
    (b"x-a", b"b"), (b"content-length", b"3"), (b"content-length", b"0"), (b"te", b"trailers"), (b"cookie", b"a=b"),
    (b"host", b"a.test"), (b"X", b"y"), (b"x", b"v" * 900), (b"transfer-encoding", b"chunked"), (b":path", b"/x"),
]  # fmt: skip
HEAD = [(b":method", b"HEAD"), *GET[1:]]
CONNECT = [(b":method", b"CONNECT"), (b":protocol", b"websocket"), *GET[1:]]
STATUSES = (b"200", b"200", b"204", b"304", b"100", b"103", b"404", b"101")
INDEXED_GET = b"\x82\x86\x84\x41\x06a.test"
PADDED = 0x08
SEQUENCES = 40
"""Number of sequences of each case."""


def block(chance: random.Random, is_client: bool) -> bytes:
    """Return a header block that may be malformed."""
    start = [(b":status", chance.choice(STATUSES))] if is_client else chance.choice([GET, POST, GET, HEAD, CONNECT])
    if chance.random() < 0.15:
        start = []
    more = [chance.choice(FIELDS) for _ in range(chance.choice([0, 0, 1, 1, 2, 6]))]
    out = literal([*start, *more])
    if chance.random() < 0.3:
        out = b"\x88" if is_client else INDEXED_GET + literal(more)
    if chance.random() < 0.1:
        out += bytes((chance.choice([0xBE, 0xBF, 0xC0, 0x20, 0x3F, 0x40]),))
    return out


def headers(chance: random.Random, stream: int, is_client: bool) -> bytes:
    flags = f.END_STREAM if chance.random() < 0.4 else 0
    data = block(chance, is_client)
    kind = chance.random()
    if kind < 0.2:
        cut = chance.randrange(len(data) + 1)
        between = f.ping(bytes(8)) if chance.random() < 0.1 else b""
        rest = f.frame(f.CONTINUATION, f.END_HEADERS, stream, data[cut:])
        return f.frame(f.HEADERS, flags, stream, data[:cut]) + between + rest
    if kind < 0.35:
        return f.frame(f.HEADERS, flags | f.END_HEADERS | PADDED, stream, b"\x03" + data + bytes(3))
    return f.frame(f.HEADERS, flags | f.END_HEADERS, stream, data)


def content(chance: random.Random, stream: int) -> bytes:
    flags = f.END_STREAM if chance.random() < 0.3 else 0
    data = b"x" * chance.choice([0, 1, 1, 1, 2, 3, 3, 300])
    if chance.random() < 0.1:
        return f.frame(f.DATA, flags | PADDED, stream, b"\x02" + data + bytes(2))
    return f.frame(f.DATA, flags, stream, data)


def other(chance: random.Random, stream: int) -> bytes:
    """Return a frame without content."""
    return chance.choice(
        [
            f.rst_stream(stream, chance.choice([0, 7, 8])),
            f.window_update(stream, chance.choice([0, 1, 10, 65535, 2**31 - 1])),
            f.settings([(chance.choice([1, 3, 4, 4, 5, 8]), chance.choice([0, 1, 2, 100, 65535, 16384, 2**31 - 1]))]),
            f.ping(bytes(8)),
            f.goaway(chance.choice([0, 1, 3, 2**31 - 1]), chance.choice([0, 2])),
            f.SETTINGS_ACK,
            f.frame(chance.choice([2, 5, 9, 16, 77]), 0, stream, bytes(chance.choice([0, 4, 5, 8]))),
        ]
    )


def opening(chance: random.Random, stream: int, is_client: bool) -> bytes:
    """Return a valid head whose content follows."""
    length = chance.choice([[], [], [(b"content-length", b"3")]])
    return f.frame(f.HEADERS, f.END_HEADERS, stream, literal([*(OK if is_client else POST), *length]))


def sequence(chance: random.Random, is_client: bool) -> bytes:
    out = b"".join([opening(chance, stream, is_client) for stream in (1, 3) if chance.random() < 0.6])
    for _ in range(chance.randint(1, 14)):
        stream = chance.choice([1, 1, 1, 3, 3, 5, 7, 9, 2, 0])
        kind = chance.random()
        if kind < 0.35:
            out += headers(chance, stream, is_client)
        else:
            out += content(chance, stream) if kind < 0.7 else other(chance, stream)
    return out


@each([False, True])
def test_how_frames_are_cut_changes_nothing(is_client: bool) -> None:
    for number in range(SEQUENCES):
        chance = random.Random(number)
        cuts = chance.randrange(128) << 1
        check(bytes((cuts | is_client,)) + sequence(chance, is_client))
