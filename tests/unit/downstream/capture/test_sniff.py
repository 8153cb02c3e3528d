"""Tests of sniffing: the protocol of a connection by its first bytes, byte by byte."""

from __future__ import annotations

import ssl

import pytest

from sidecar.downstream.capture.sniff import (
    HTTP1,
    HTTP2,
    MOST_BYTES,
    PLAIN,
    PREFACE,
    TLS,
    Sniffed,
    guess,
    sniff,
)


def hello(name: str | None = "db.example.com") -> bytes:
    """Return the first bytes of a TLS client."""
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    context.check_hostname = False
    out = ssl.MemoryBIO()
    client = context.wrap_bio(ssl.MemoryBIO(), out, server_hostname=name)
    with pytest.raises(ssl.SSLWantReadError):
        client.do_handshake()
    return out.read()


def in_records(data: bytes, size: int) -> bytes:
    """Return a record of a handshake cut into several."""
    content = data[5:]
    pieces = [content[at : at + size] for at in range(0, len(content), size)]
    return b"".join(data[:3] + len(piece).to_bytes(2, "big") + piece for piece in pieces)


KNOWN = [
    (b"GET / HTTP/1.1\r\n", Sniffed(HTTP1)),
    (b"GET / HTTP/1.0\n", Sniffed(HTTP1)),
    (b"VERSION-CONTROL /a HTTP/1.1\r\n", Sniffed(HTTP1)),
    (b"CONNECT a:443 HTTP/1.1\r\n", Sniffed(HTTP1)),
    (PREFACE, Sniffed(HTTP2)),
    (hello(), Sniffed(TLS, "db.example.com")),
    (hello("DB.Example.Com"), Sniffed(TLS, "db.example.com")),
    (hello(None), Sniffed(TLS)),
    (in_records(hello(), 1), Sniffed(TLS, "db.example.com")),
    (in_records(hello(), 100), Sniffed(TLS, "db.example.com")),
]


@pytest.mark.parametrize(("data", "found"), KNOWN, ids=range(len(KNOWN)))
def test_a_protocol_is_known_with_its_last_byte(data: bytes, found: Sniffed) -> None:
    for end in range(len(data)):
        assert sniff(data[:end]) is None, data[:end]
    assert sniff(data) == found
    assert sniff(data + b"\x00more") == found


@pytest.mark.parametrize(
    ("data", "size"),
    [
        (b"EHLO mail.example.com\r\n", 23),
        (b"*1\r\n$4\r\nPING\r\n", 1),
        (b"PING\r\n", 5),
        (b"get / HTTP/1.1\r\n", 1),
        (b"GET / HTTP/2.0\r\n", 16),
        (b"GET  / HTTP/1.1\r\n", 17),
        (b"PRI * HTTP/2.0\r\n\r\nXX", 19),
        (b"SSH-2.0-OpenSSH\r\n", 5),
        (b"\x00\x00\x00\x10", 1),
        (b"\x16\x02", 2),
        (b"\x16\x03\x01\x00\x00", 5),
        (b"\x16\x03\x01\xff\xff", 5),
        (b"\x16\x03\x01\x00\x04\x02\x00\x00\x00", 6),
        (b"\x16\x03\x01\x00\x05\x01\x00\x00\x01\x00", 10),
        (hello()[:3] + (4).to_bytes(2, "big") + hello()[5:9] + b"\x17", 10),
    ],
    ids=range(15),
)
def test_other_protocols_are_tcp_with_the_first_byte_that_tells(data: bytes, size: int) -> None:
    for end in range(size):
        assert sniff(data[:end]) is None, data[:end]
    assert sniff(data[:size]) == PLAIN


@pytest.mark.parametrize(
    "data",
    [b"GET /" + b"a" * MOST_BYTES, in_records(b"\x16\x03\x01\x00\x00\x01\xff\xff\xff" + b"a" * MOST_BYTES, 9000)],
    ids=["http1", "tls"],
)
def test_the_bytes_are_bounded(data: bytes) -> None:
    assert sniff(data[: MOST_BYTES - 1]) is None
    assert sniff(data[:MOST_BYTES]) == PLAIN


def test_a_hello_that_is_cut_or_changed_anywhere_is_never_an_error() -> None:
    whole = hello()
    for at in range(len(whole)):
        for octet in (0, 1, 255):
            assert sniff(whole[:at] + bytes([octet]) + whole[at + 1 :]) in (
                None, PLAIN, Sniffed(TLS), Sniffed(TLS, "db.example.com"),
            ) or at > 5  # fmt: skip


def test_a_name_that_is_no_host_name_is_no_name() -> None:
    data = hello().replace(b"db.example.com", b"db.exa\x00ple.com")
    assert sniff(data) == Sniffed(TLS)


@pytest.mark.parametrize(
    ("data", "found"),
    [
        (b"", PLAIN),
        (b"GET", PLAIN),
        (b"GET ", PLAIN),
        (b"GET /", Sniffed(HTTP1)),
        (b"POST http://a/b", Sniffed(HTTP1)),
        (b"GET /a HTTP/1", Sniffed(HTTP1)),
        (b"CONNECT a:4", Sniffed(HTTP1)),
        (b"HELO a", PLAIN),
        (b"PRI * HTTP", PLAIN),
        (b"PRI * HTTP/2.0", Sniffed(HTTP2)),
        (hello()[:50], PLAIN),
        (hello(), Sniffed(TLS, "db.example.com")),
    ],
    ids=range(12),
)
def test_what_has_come_in_time_decides(data: bytes, found: Sniffed) -> None:
    assert guess(data) == found
