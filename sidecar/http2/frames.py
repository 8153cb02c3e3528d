"""Frames (RFC 9113 4 and 6): their bounded reader, and the functions that write them.  No I/O.

The reader checks what a frame's head alone says: its length, whether it may stand on its stream, and the order that
header blocks demand.  It does so before the payload arrives, so nothing is kept for a frame that is refused.
"""

from __future__ import annotations

from collections.abc import Callable
from struct import Struct
from typing import Final

from sidecar.core.body import add_piece
from sidecar.http2.errors import FRAME_SIZE_ERROR, PROTOCOL_ERROR, ConnectionFault
from sidecar.http2.limits import MAX_FRAME, MAX_WINDOW

DATA: Final = 0
HEADERS: Final = 1
PRIORITY: Final = 2
RST_STREAM: Final = 3
SETTINGS: Final = 4
PUSH_PROMISE: Final = 5
PING: Final = 6
GOAWAY: Final = 7
WINDOW_UPDATE: Final = 8
CONTINUATION: Final = 9
NAMES: Final = (
    "DATA", "HEADERS", "PRIORITY", "RST_STREAM", "SETTINGS", "PUSH_PROMISE", "PING", "GOAWAY", "WINDOW_UPDATE",
    "CONTINUATION",
)  # fmt: skip
"""Names of the types, by number."""
END_STREAM: Final = 0x01
ACK: Final = 0x01
END_HEADERS: Final = 0x04
LAST_HEADERS: Final = END_HEADERS | END_STREAM
PADDED: Final = 0x08
PRIORITIZED: Final = 0x20
HEAD: Final = 9
"""Bytes of a frame's head."""
_NUMBERS: Final = Struct(">BHBBL")
PACK: Final = _NUMBERS.pack
"""Function that writes such a head: highest bits of the length, the others, type, flags, stream."""
UNPACK: Final[Callable[[bytes, int], tuple[int, int, int, int, int]]] = _NUMBERS.unpack_from
"""Function that reads these five numbers."""
PREFACE: Final = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n"

HEADER_TABLE_SIZE: Final = 1
ENABLE_PUSH: Final = 2
MAX_CONCURRENT_STREAMS: Final = 3
INITIAL_WINDOW_SIZE: Final = 4
MAX_FRAME_SIZE: Final = 5
MAX_HEADER_LIST_SIZE: Final = 6
ENABLE_CONNECT_PROTOCOL: Final = 8
"""RFC 8441 3."""
NO_RFC7540_PRIORITIES: Final = 9
"""RFC 9218 2.1."""
MAX_SETTINGS: Final = 32
"""Settings in one frame."""

LENGTHS: Final = {PRIORITY: 5, RST_STREAM: 4, PING: 8, WINDOW_UPDATE: 4}
"""Payload bytes of the types that have one length only; another one for PRIORITY is an error of its stream alone."""
ON_STREAMS: Final = frozenset((DATA, HEADERS, PRIORITY, RST_STREAM, PUSH_PROMISE, CONTINUATION))
ON_CONNECTION: Final = frozenset((SETTINGS, PING, GOAWAY))
"""Types that stand on streams only, and on the connection (stream 0) only."""


class FrameReader:
    """Reader of a connection's frames: one after the other, from bytes as they arrive.

    After `advance` has returned True the attributes tell of the frame, whose payload is `data[start:end]`.
    """

    __slots__ = (
        "_missing",
        "_pieces",
        "_position",
        "block",
        "data",
        "end",
        "flags",
        "kind",
        "start",
        "stream",
        "trailers",
    )

    def __init__(self) -> None:
        self.data = b""
        self.kind = 0
        self.flags = 0
        self.stream = 0
        self.start = 0
        self.end = 0
        self._position = 0
        self._pieces: list[bytes] = []
        """Bytes of a frame that is not whole."""
        self._missing = 0
        """Bytes that it needs before it can be looked at again."""
        self.block = 0
        """Stream whose header block is not at its end; 0 if there is none."""
        self.trailers: bytes | None = None
        """Header block behind the content that was taken last; None if that was the end."""

    @property
    def is_within_frame(self) -> bool:
        """True while a part of a frame waits for the rest."""
        return self._missing > 0

    def feed(self, data: bytes) -> None:
        """Take the next bytes; the frames that were whole must have been read."""
        if self._pieces or self._missing:
            add_piece(self._pieces, data)
            self._missing -= len(data)
            if self._missing > 0:
                return
            data = b"".join(self._pieces)
            self._pieces = []
            self._missing = 0
        self.data = data
        self._position = 0

    def skip(self, size: int) -> None:
        """Leave out bytes at the beginning, which are no frame."""
        self._position += size

    def advance(self) -> bool:
        """Go to the next frame; return False if it is not whole.  Raises `ConnectionFault`."""
        data, at = self.data, self._position
        left = len(data) - at - HEAD
        if left < 0:
            return self._wait(-left)
        high, length, kind, flags, stream = UNPACK(data, at)
        stream &= MAX_WINDOW  # the first bit is reserved
        self.kind, self.flags, self.stream = kind, flags, stream
        if kind > HEADERS or length > MAX_FRAME or high or not stream or self.block:
            length |= high << 16
            self._check(kind, stream, length)
        if length > left:
            return self._wait(length - left)
        self.start = at = at + HEAD
        self.end = self._position = at + length
        if kind in (HEADERS, CONTINUATION):
            self.block = 0 if flags & END_HEADERS else stream
        return True

    def take_content(self, stream: int, most: int, expected: int, has_trailers: bool) -> bytes | None:
        """Go over the rest of a message and return its content, if that is whole, in one DATA of the stream.

        DATA is the last frame, or with `has_trailers` it may have content and trailers behind it (`trailers`).  None,
        and no step, for any other frames, for more than `most` bytes, for padding, and for another number of bytes than
        `expected` unless that is negative.
        """
        data, at = self.data, self._position + HEAD
        left = len(data) - at
        if left < 0:
            return None
        high, length, kind, flags, number = UNPACK(data, at - HEAD)
        if kind != DATA or number != stream or high or length > left or length > most or length > MAX_FRAME:
            return None
        if length != expected >= 0:
            return None
        end = at + length
        if flags == END_STREAM:
            self.trailers = None
            self._position = end
            return data[at:end]
        if flags or not has_trailers or not length or left - length < HEAD:
            return None
        left -= length + HEAD
        high, length, kind, flags, number = UNPACK(data, end)
        if kind != HEADERS or flags != LAST_HEADERS or number != stream or high or length > left or length > MAX_FRAME:
            return None
        start = end + HEAD
        self._position = start + length
        self.trailers = data[start : start + length]
        return data[at:end]

    def _wait(self, missing: int) -> bool:
        """Keep the beginning of a frame until the missing bytes are here."""
        if self._position < len(self.data):
            self._pieces = [self.data[self._position :]]
            self._missing = missing
        self.data = b""
        self._position = 0
        return False

    def _check(self, kind: int, stream: int, length: int) -> None:
        """Raise `ConnectionFault` for a frame whose head is not allowed."""
        if length > MAX_FRAME:
            raise ConnectionFault(FRAME_SIZE_ERROR, "a frame is longer than was allowed")
        if self.block:
            if kind != CONTINUATION or stream != self.block:
                raise ConnectionFault(PROTOCOL_ERROR, "a header block is interrupted")
        elif kind == CONTINUATION:
            raise ConnectionFault(PROTOCOL_ERROR, "CONTINUATION continues nothing")
        if (stream == 0 and kind in ON_STREAMS) or (stream and kind in ON_CONNECTION):
            raise ConnectionFault(PROTOCOL_ERROR, f"{NAMES[kind]} on stream {stream}")
        wanted = LENGTHS.get(kind, length)
        if (length != wanted and kind != PRIORITY) or (kind == GOAWAY and length < 8):
            raise ConnectionFault(FRAME_SIZE_ERROR, f"{NAMES[kind]} has {length} bytes")
        if kind == SETTINGS and (length % 6 or (length and self.flags & ACK)):
            raise ConnectionFault(FRAME_SIZE_ERROR, "SETTINGS is not a list of settings")

    def payload(self) -> tuple[int, int]:
        """Return where the payload of a DATA or HEADERS frame begins and ends without padding and priority.

        Raises `ConnectionFault` (RFC 9113 6.1 and 6.2).
        """
        start, end = self.start, self.end
        if self.flags & PADDED:
            if start == end:
                raise ConnectionFault(FRAME_SIZE_ERROR, "a padded frame has no length of its padding")
            end -= self.data[start]
            start += 1
        if self.kind == HEADERS and self.flags & PRIORITIZED:
            if self.end - start < 5:
                raise ConnectionFault(FRAME_SIZE_ERROR, "HEADERS ends within its priority")
            start += 5
        if start > end:
            raise ConnectionFault(PROTOCOL_ERROR, "padding is longer than its frame")
        return start, end

    def number(self, offset: int) -> int:
        """Return the 32 bits of the payload at `offset`."""
        at = self.start + offset
        data = self.data
        return data[at] << 24 | data[at + 1] << 16 | data[at + 2] << 8 | data[at + 3]


def frame_head(kind: int, flags: int, stream: int, size: int) -> bytes:
    """Return the head of a frame whose payload has `size` bytes."""
    return PACK(size >> 16, size & 0xFFFF, kind, flags, stream)


def frame(kind: int, flags: int, stream: int, payload: bytes) -> bytes:
    """Return a frame."""
    return frame_head(kind, flags, stream, len(payload)) + payload


def header_frames(stream: int, block: bytes, is_end: bool) -> bytes:
    """Return a header block as HEADERS, and CONTINUATION where it is long."""
    flags = END_STREAM if is_end else 0
    size = len(block)
    if size <= MAX_FRAME:
        return frame_head(HEADERS, flags | END_HEADERS, stream, size) + block
    out = [frame(HEADERS, flags, stream, block[:MAX_FRAME])]
    for at in range(MAX_FRAME, size, MAX_FRAME):
        is_last = at + MAX_FRAME >= size
        out.append(frame(CONTINUATION, END_HEADERS if is_last else 0, stream, block[at : at + MAX_FRAME]))
    return b"".join(out)


def rst_stream(stream: int, code: int) -> bytes:
    return frame(RST_STREAM, 0, stream, code.to_bytes(4, "big"))


def window_update(stream: int, step: int) -> bytes:
    return frame(WINDOW_UPDATE, 0, stream, step.to_bytes(4, "big"))


def settings(values: list[tuple[int, int]]) -> bytes:
    return frame(SETTINGS, 0, 0, b"".join([key.to_bytes(2, "big") + value.to_bytes(4, "big") for key, value in values]))


SETTINGS_ACK: Final = frame(SETTINGS, ACK, 0, b"")


def ping(payload: bytes, is_ack: bool = False) -> bytes:
    return frame(PING, ACK if is_ack else 0, 0, payload)


def goaway(last: int, code: int, text: bytes = b"") -> bytes:
    return frame(GOAWAY, 0, 0, last.to_bytes(4, "big") + code.to_bytes(4, "big") + text)
