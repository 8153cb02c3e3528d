"""A response head as what it says: the lines that go on, the framing of its body, and whether the connection stays.
No I/O."""

from __future__ import annotations

from base64 import b64encode
from collections.abc import Callable
from hashlib import sha1
from typing import Final

from sidecar.core.exchange import Exchange
from sidecar.core.headers import HOP_BY_HOP, get, tokens, write_http_date
from sidecar.core.http1 import Invalid, body_length
from sidecar.core.message import Selection, parse_fields

SPECIAL: Final = Selection(HOP_BY_HOP | {b"content-length", b"date"})
"""Fields that are read here; all others pass."""
ORDINARY: Final = {b"close", b"keep-alive", b"upgrade", b""}
"""What `Connection` mostly names: options, and fields that are hop-by-hop anyway."""
UPGRADE: Final = Selection(HOP_BY_HOP | {b"content-length", b"sec-websocket-accept"})
WEBSOCKET_GUID: Final = b"258EAFA5-E914-47DA-95CA-C5AB0DC85B11"
"""RFC 6455 1.3."""


def read_response(
    data: bytes, start: int, end: int, version: int, wall: Callable[[], float]
) -> tuple[bytes, int | None, bool]:
    """Lines to pass on, length of the body (bytes, `CHUNKED`, None where nothing says it), and whether the peer keeps
    the connection open.  `data[start:end]` are its field lines; a missing Date is added (RFC 9110 6.6.1)."""
    lines, special, _ = SPECIAL.take(data, start, end)
    length = body_length(special, version)
    keep = version == 11
    date = b""
    named: set[bytes] | None = None
    for name, value in special:
        if name == b"connection":
            named = (named or set()).union(token.strip(b" \t").lower() for token in value.split(b","))
        elif name == b"date":
            date = value
    if named is not None:
        keep = b"close" not in named and (keep or b"keep-alive" in named)
        if named - ORDINARY:
            lines = b"".join([b"%b: %b\r\n" % field for field in parse_fields(lines) if field[0] not in named])
    return lines + b"date: %b\r\n" % (date or write_http_date(wall())), length, keep


def read_interim(data: bytes, start: int, end: int) -> bytes:
    """The lines of an interim response that go on."""
    return SPECIAL.take(data, start, end)[0]


def read_upgrade(x: Exchange, data: bytes, start: int, end: int) -> bytes:
    """The lines of a 101 that go on.  Raises `Invalid` where it is not the answer to a handshake of ours (RFC 6455
    4.1)."""
    lines, fields, _ = UPGRADE.take(data, start, end)
    if x.upgrade is None or x.upgrade not in tokens(fields, b"upgrade"):
        raise Invalid("101 Switching Protocols to what was not asked for")
    key = x.header(b"sec-websocket-key")
    accept = get(fields, b"sec-websocket-accept")
    if key is None or accept != b64encode(sha1(key + WEBSOCKET_GUID, usedforsecurity=False).digest()):
        raise Invalid("Sec-WebSocket-Accept does not answer the key that was sent")
    return lines + b"sec-websocket-accept: %b\r\n" % accept
