"""Response heads of an upstream: lines to pass on, framing of the body, and whether the connection is kept.  No I/O."""

from __future__ import annotations

from base64 import b64encode
from collections.abc import Callable
from hashlib import sha1
from typing import Final

from sidecar.core.exchange import Exchange
from sidecar.core.http1 import CHUNKED, Invalid, body_length
from sidecar.core.message import HOP_BY_HOP, Selection, get, parse_fields, tokens, write_http_date

CONNECTION_FIELDS: Final = Selection(HOP_BY_HOP | {b"content-length", b"date"})
"""Fields that are read here; all others are passed on."""
KNOWN_OPTIONS: Final = {b"close", b"keep-alive", b"upgrade", b""}
"""Connection options that name no further field to drop."""
UPGRADE_FIELDS: Final = Selection(HOP_BY_HOP | {b"content-length", b"sec-websocket-accept"})
"""Fields of a 101 that are read here."""
WEBSOCKET_GUID: Final = b"258EAFA5-E914-47DA-95CA-C5AB0DC85B11"
"""RFC 6455 1.3."""


def read_response(
    data: bytes, start: int, end: int, version: int, wall: Callable[[], float]
) -> tuple[bytes, int | None, bool]:
    """Read a final response head, whose field lines are `data[start:end]`.

    Returns the lines to pass on, the length of the body (bytes, `CHUNKED`, or None if nothing says it), and True if the
    peer keeps the connection open.  A missing Date is added (RFC 9110 6.6.1).  Raises `Invalid`.

    Chunks of an HTTP/1.0 peer are read, and its connection is closed after them (RFC 9112 6.1).  The client gets a
    framing of the sidecar's own, so no two recipients can differ on where the body ends.
    """
    lines, special, _ = CONNECTION_FIELDS.take(data, start, end)
    length = body_length(special, 11)
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
        if named - KNOWN_OPTIONS:
            lines = b"".join([b"%b: %b\r\n" % field for field in parse_fields(lines) if field[0] not in named])
    if version != 11 and length == CHUNKED:
        keep = False
    return lines + b"date: %b\r\n" % (date or write_http_date(wall())), length, keep


def read_interim(data: bytes, start: int, end: int) -> bytes:
    """Return the lines of an interim response to pass on."""
    return CONNECTION_FIELDS.take(data, start, end)[0]


def read_required_upgrade(data: bytes, start: int, end: int) -> bytes:
    """Return the lines of a 426 that name what is required (RFC 9110 15.5.22), although they are of one connection."""
    protocols = [value for name, value in CONNECTION_FIELDS.take(data, start, end)[1] if name == b"upgrade" and value]
    return b"upgrade: %b\r\nconnection: Upgrade\r\n" % b", ".join(protocols) if protocols else b""


def read_upgrade(x: Exchange, data: bytes, start: int, end: int) -> bytes:
    """Return the lines of a 101 to pass on.  Raises `Invalid` unless it answers this handshake (RFC 6455 4.1)."""
    lines, fields, _ = UPGRADE_FIELDS.take(data, start, end)
    if x.upgrade is None or x.upgrade not in tokens(fields, b"upgrade"):
        raise Invalid("101 Switching Protocols to what was not asked for")
    key = x.header(b"sec-websocket-key")
    accept = get(fields, b"sec-websocket-accept")
    if key is None or accept != b64encode(sha1(key + WEBSOCKET_GUID, usedforsecurity=False).digest()):
        raise Invalid("Sec-WebSocket-Accept does not answer the key that was sent")
    return lines + b"sec-websocket-accept: %b\r\n" % accept
