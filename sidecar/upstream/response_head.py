"""Parser of response heads: lines to forward, length of the body, and persistence of the connection.  No I/O."""

from __future__ import annotations

import re
from base64 import b64encode
from collections.abc import Callable
from hashlib import sha1
from typing import Final

from sidecar.core.exchange import Exchange
from sidecar.core.http1 import CHUNKED, LONG_HEAD, Invalid, body_length, has_few_parts
from sidecar.core.message import (
    BLOCKS,
    HOP_BY_HOP,
    LINE,
    LINES,
    Selection,
    get,
    get_all,
    is_cacheable,
    parse_fields,
    tokens,
    write_http_date,
)

CONNECTION_FIELDS: Final = Selection(HOP_BY_HOP | {b"content-length"}, frozenset((b"date",)))
"""Selection of fields: takes those that this module reads, and notes Date.  All others are forwarded."""
KNOWN_OPTIONS: Final = {b"close", b"keep-alive", b"upgrade", b""}
"""Connection options that name no other field to drop."""
UPGRADE_FIELDS: Final = Selection(HOP_BY_HOP | {b"content-length", b"sec-websocket-accept"})
"""Selection of fields that this module reads in a 101."""
MAX_HEAD_BYTES: Final = 64 * 1024
"""Longest response head in bytes."""
UPGRADE_REQUIRED: Final = 426
STATUS_LINE: Final = re.compile(rb"HTTP/1\.1 ([2-5]\d\d)(?: [\t\x20-\x7e\x80-\xff]*+)?")
"""Status line of a final HTTP/1.1 response, with its status."""
STATUSES: Final[dict[bytes, int]] = {}
"""Cached statuses by status line."""
DATE: Final = -3
"""Meaning of a Date field."""
DROPPED: Final = -4
"""Meaning of a line that is dropped."""
CLOSES: Final = -5
"""Meaning of `Connection: close`."""
UNUSUAL: Final = -6
"""Meaning of a line that only the grammar can parse or reject."""
WEBSOCKET_GUID: Final = b"258EAFA5-E914-47DA-95CA-C5AB0DC85B11"
"""GUID of the WebSocket handshake (RFC 6455 1.3)."""


ResponseHead = tuple[int, int, bytes, int | None, bool]
"""Parts of a head: status, end of the head, lines to forward, length of the body (bytes, `CHUNKED`, or None if no field
states it), and True if the connection is persistent."""


HEADS: Final[dict[bytes, ResponseHead]] = {}
"""Parts of short heads with a Date, cached by head: a resource may have the same head for the second of its Date.

A head is cached once all its lines are, so none is that has a secret or was made for one message.
"""


def take_response(data: bytes, wall: Callable[[], float]) -> ResponseHead | None:
    """Return the parts of a common head: complete, final, HTTP/1.1, valid, and not long.  Return None for any other.

    This is faster than the grammar (`parse_response`, `read_response`), because heads and lines that were seen before
    are not checked again.  For a common head both give the same result.  `wall` returns the Unix time for a missing
    Date.
    """
    head, mark, _ = data.partition(b"\r\n\r\n")
    if not mark:
        return None
    found = HEADS.get(head)
    if found is not None:
        return found
    end = len(head)
    if end > MAX_HEAD_BYTES:
        return None
    lines = head.split(b"\r\n")
    line = lines.pop(0)
    status = STATUSES.get(line) or _read_status(line)
    if not status or (end > LONG_HEAD and not has_few_parts(data, len(line) + 2, end, len(lines))):
        return None
    length: int | None = None
    is_kept = True
    has_date = False
    misses = MEANINGS.misses
    dropped: list[bytes] = []
    for text in lines:
        meaning = MEANINGS[text]
        if meaning is None:
            continue
        if meaning == DATE:
            if has_date:
                return None
            has_date = True
            continue
        dropped.append(text)
        if meaning >= CHUNKED:
            if length is not None:
                return None
            length = meaning
        elif meaning == CLOSES:
            is_kept = False
        elif meaning == UNUSUAL:
            return None
    for text in dropped:
        lines.remove(text)
    lines.append(b"" if has_date else b"date: %b\r\n" % write_http_date(wall()))
    found = status, end + 4, b"\r\n".join(lines), length, is_kept
    if has_date and misses == MEANINGS.misses and end <= LONG_HEAD:
        if len(HEADS) >= BLOCKS:
            HEADS.clear()
        HEADS[head] = found
    return found


def _reader() -> Callable[[bytes, Callable[[], float]], ResponseHead | None]:
    """Return the fastest parser of common heads: the one in C if it is built, else `take_response`."""
    try:
        from sidecar.engine.head import take_response as compiled
    except ModuleNotFoundError:
        return take_response
    return compiled


read_ordinary: Final = _reader()


def _read_status(line: bytes) -> int:
    """Return the status of a status line and cache it; 0 if the head is not a common one."""
    match = STATUS_LINE.fullmatch(line)
    if match is None:
        return 0
    status = int(match[1])
    if status == UPGRADE_REQUIRED:
        return 0
    if len(line) <= LINE:
        if len(STATUSES) >= LINES:
            STATUSES.clear()
        STATUSES[line] = status
    return status


class Meanings(dict[bytes, int | None]):
    """Meanings of field lines, cached by line: a length in bytes, `CHUNKED`, one of the constants above, or None for a
    line that is forwarded without more, as most are."""

    def __init__(self) -> None:
        super().__init__()
        self.misses = 0
        """Number of lines that were not cached."""

    def __missing__(self, text: bytes) -> int | None:
        """Return the meaning of a line that is not cached."""
        self.misses += 1
        line = CONNECTION_FIELDS.decide(text)
        if line is None:
            return UNUSUAL
        meaning: int | None = None
        if line.is_taken:
            meaning = _read_field(*line.field)
        elif line.is_noted:
            meaning = DATE if text[5:].strip(b" \t") else UNUSUAL
        if is_cacheable(text):
            if len(self) >= LINES:
                self.clear()
            self[text] = meaning
        return meaning


MEANINGS: Final = Meanings()


def _read_field(name: bytes, value: bytes) -> int:
    """Return the meaning of a field that `CONNECTION_FIELDS` takes."""
    if name == b"content-length":
        return int(value) if value.isdigit() and len(value) <= 18 else UNUSUAL
    if name == b"transfer-encoding":
        return CHUNKED if value.lower() == b"chunked" else UNUSUAL
    if name == b"connection":
        option = value.lower()
        return CLOSES if option == b"close" else DROPPED if option == b"keep-alive" else UNUSUAL
    return DROPPED


def read_response(
    data: bytes, start: int, end: int, version: int, wall: Callable[[], float]
) -> tuple[bytes, int | None, bool]:
    """Parse the fields `data[start:end]` of a final response head.

    Returns the lines to forward, the length of the body, and True if the connection is persistent, as in
    `ResponseHead`.  The lines have exactly one Date, which is added if missing (RFC 9110 6.6.1).  Raises `Invalid`.

    Chunks of an HTTP/1.0 peer are read, and its connection is then closed (RFC 9112 6.1).  The client gets new framing,
    so different recipients cannot disagree on the end of the body.
    """
    lines, special, has_date = CONNECTION_FIELDS.take(data, start, end)
    length = body_length(special, 11)
    keep = version == 11
    connection = tokens(special, b"connection")
    if connection:
        named = set(connection)
        keep = b"close" not in named and (keep or b"keep-alive" in named)
        if named - KNOWN_OPTIONS:
            lines = b"".join([b"%b: %b\r\n" % field for field in parse_fields(lines) if field[0] not in named])
    if version != 11 and length == CHUNKED:
        keep = False
    if has_date:
        lines, has_date = _keep_one_date(lines)
    if not has_date:
        lines += b"date: %b\r\n" % write_http_date(wall())
    return lines, length, keep


def _keep_one_date(lines: bytes) -> tuple[bytes, bool]:
    """Return the lines without their Dates unless they have exactly one, and True if they have."""
    headers = parse_fields(lines)
    dates = get_all(headers, b"date")
    if len(dates) == 1 and dates[0]:
        return lines, True
    return b"".join([b"%b: %b\r\n" % field for field in headers if field[0] != b"date"]), False


def read_stream_response(lines: bytes) -> tuple[bytes, bool]:
    """Return the lines of an HTTP/2 response that are forwarded, and True if they have a Date.

    `lines` are valid fields without the ones of a connection (`sidecar.http2.heads`).
    """
    passing, _, has_date = CONNECTION_FIELDS.take(lines, 0, len(lines))
    return _keep_one_date(passing) if has_date else (passing, False)


def read_interim(data: bytes, start: int, end: int) -> bytes:
    """Return the lines of an interim response that are forwarded."""
    return CONNECTION_FIELDS.take(data, start, end)[0]


def read_required_upgrade(data: bytes, start: int, end: int) -> bytes:
    """Return the lines of a 426 that state the required protocol (RFC 9110 15.5.22), although they are hop-by-hop."""
    protocols = [value for name, value in CONNECTION_FIELDS.take(data, start, end)[1] if name == b"upgrade" and value]
    return b"upgrade: %b\r\nconnection: Upgrade\r\n" % b", ".join(protocols) if protocols else b""


def read_upgrade(x: Exchange, data: bytes, start: int, end: int) -> bytes:
    """Return the lines of a 101 that are forwarded.

    Raises `Invalid` unless it answers the handshake in `x` (RFC 6455 4.1).
    """
    lines, fields, _ = UPGRADE_FIELDS.take(data, start, end)
    if x.upgrade is None or x.upgrade not in tokens(fields, b"upgrade"):
        raise Invalid("101 Switching Protocols without a request to upgrade")
    key = x.header(b"sec-websocket-key")
    accept = get(fields, b"sec-websocket-accept")
    if key is None or accept != accept_value(key):
        raise Invalid("Sec-WebSocket-Accept does not answer the key that was sent")
    return lines + b"sec-websocket-accept: %b\r\n" % accept


def accept_value(key: bytes) -> bytes:
    """Return the value of Sec-WebSocket-Accept for a key (RFC 6455 4.2.2)."""
    return b64encode(sha1(key + WEBSOCKET_GUID, usedforsecurity=False).digest())
