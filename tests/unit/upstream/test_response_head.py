"""Tests of response heads: lines that are passed on, framing, and keep-alive."""

from __future__ import annotations

import pytest

from sidecar.core.exchange import Exchange
from sidecar.core.http1 import CHUNKED, Invalid
from sidecar.upstream.response_head import read_interim, read_response, read_upgrade

DATE = b"date: Thu, 01 Jan 1970 00:00:00 GMT\r\n"


def read(lines: bytes, version: int = 11) -> tuple[bytes, int | None, bool]:
    """Read field lines as those of a final response, with a wall clock of 0."""
    return read_response(lines, 0, len(lines), version, lambda: 0.0)


@pytest.mark.parametrize(
    ("lines", "passed"),
    [
        (b"X-A: b\r\n", b"X-A: b\r\n" + DATE),
        (b"Date: then\r\nX-A: b\r\n", b"Date: then\r\nX-A: b\r\n"),
        (b"DATE:then\r\nConnection: x-a\r\nX-A: b\r\n", b"date: then\r\n"),
        (b"Date:\r\nX-A: b\r\n", b"x-a: b\r\n" + DATE),
        (b"Date: then\r\nX-A: b\r\ndate: now\r\n", b"x-a: b\r\n" + DATE),
        (b"Date: then\r\nConnection: date\r\n", DATE),
        (b"Content-Length: 3\r\nX-A: b\r\n", b"X-A: b\r\n" + DATE),
        (b"Keep-Alive: timeout=5\r\nX-A: b\r\nProxy-Connection: x\r\n", b"X-A: b\r\n" + DATE),
        (b"Connection: x-hop\r\nX-Hop: 1\r\nX-A: b\r\n", b"x-a: b\r\n" + DATE),
        (b"Connection: close, X-Hop , upgrade\r\nx-hop: 1\r\nX-A: b\r\n", b"x-a: b\r\n" + DATE),
        (b"Connection: close\r\nX-A: b\r\n", b"X-A: b\r\n" + DATE),
    ],
)
def test_the_lines_that_are_passed_on(lines: bytes, passed: bytes) -> None:
    assert read(lines)[0] == passed


@pytest.mark.parametrize(
    ("lines", "length"),
    [(b"X: y\r\n", None), (b"Content-Length: 3\r\n", 3), (b"Transfer-Encoding: chunked\r\n", CHUNKED)],
)
def test_the_length_of_the_body(lines: bytes, length: int | None) -> None:
    assert read(lines)[1] == length


@pytest.mark.parametrize("lines", [b"Content-Length: x\r\n", b"Content-Length: 3\r\nContent-Length: 4\r\n"])
def test_a_length_that_is_none_is_invalid(lines: bytes) -> None:
    with pytest.raises(Invalid):
        read(lines)


@pytest.mark.parametrize(
    ("version", "connection", "is_kept"),
    [
        (11, b"", True),
        (11, b"close", False),
        (11, b"Close, x", False),
        (11, b"keep-alive", True),
        (10, b"", False),
        (10, b"Keep-Alive", True),
        (10, b"keep-alive, close", False),
    ],
)
def test_whether_the_connection_is_kept(version: int, connection: bytes, is_kept: bool) -> None:
    lines = b"Connection: %b\r\n" % connection if connection else b"X: y\r\n"
    assert read(lines, version)[2] is is_kept


def test_an_interim_response_loses_the_fields_of_the_connection() -> None:
    lines = b"Link: </a>\r\nConnection: x\r\nContent-Length: 0\r\n"
    assert read_interim(lines, 0, len(lines)) == b"Link: </a>\r\n"


ACCEPTED = (
    b"Upgrade: websocket\r\nConnection: Upgrade\r\nSec-WebSocket-Accept: s3pPLMBiTxaQ9kYGzzhZRbK+xOo=\r\nX: y\r\n"
)


def handshake(upgrade: bytes | None = b"websocket") -> Exchange:
    """Return the handshake of RFC 6455 1.3."""
    x = Exchange(b"GET", b"/", [(b"sec-websocket-key", b"dGhlIHNhbXBsZSBub25jZQ==")])
    x.upgrade = upgrade
    return x


def test_an_upgrade_is_passed_on_with_its_accept() -> None:
    lines = read_upgrade(handshake(), ACCEPTED, 0, len(ACCEPTED))
    assert lines == b"X: y\r\nsec-websocket-accept: s3pPLMBiTxaQ9kYGzzhZRbK+xOo=\r\n"


@pytest.mark.parametrize(
    ("x", "lines", "says"),
    [
        (handshake(None), ACCEPTED, "without a request to upgrade"),
        (handshake(), ACCEPTED.replace(b"websocket", b"h2c"), "without a request to upgrade"),
        (handshake(), ACCEPTED.replace(b"s3pPL", b"S3pPL"), "does not answer the key"),
        (handshake(), ACCEPTED.replace(b"Sec-WebSocket-Accept", b"X"), "does not answer the key"),
    ],
)
def test_an_upgrade_that_does_not_answer_the_handshake(x: Exchange, lines: bytes, says: str) -> None:
    with pytest.raises(Invalid, match=says):
        read_upgrade(x, lines, 0, len(lines))
