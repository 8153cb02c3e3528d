"""WebSocket frames at a server, without I/O: messages from a client's bytes, and frames to send (RFC 6455 5).

Rules:

1. A client's frames are masked (5.1).  No extension is agreed, so reserved bits and opcodes are errors (5.2).
2. Control frames are whole and have at most 125 bytes of payload (5.5).  Lengths have as few bytes as possible.
3. Fragments are joined to one message (5.4).  Its limit holds for all of them, and for an announced length.
4. Control frames and fragments without content are bounded by a rate, because they cost time and bring nothing.
"""

from __future__ import annotations

from typing import Final

from sidecar.core.body import add_piece
from sidecar.http2.limits import Bucket

CONTINUATION: Final = 0
TEXT: Final = 1
BINARY: Final = 2
CLOSE: Final = 8
PING: Final = 9
PONG: Final = 10
OPCODES: Final = frozenset((CONTINUATION, TEXT, BINARY, CLOSE, PING, PONG))
NORMAL: Final = 1000
PROTOCOL_ERROR: Final = 1002
UNSUPPORTED: Final = 1003
NO_CODE: Final = 1005
"""Code that stands for a Close frame without one; it is never sent."""
INVALID_PAYLOAD: Final = 1007
POLICY_VIOLATION: Final = 1008
TOO_BIG: Final = 1009
LONGEST_CONTROL: Final = 125
"""Bytes of the longest payload of a control frame."""
LONGEST_REASON: Final = LONGEST_CONTROL - 2
EMPTY_BURST: Final = 500.0
"""Frames without content that may come at once."""
EMPTY_RATE: Final = 20.0
"""Frames without content a second that may come for ever."""


class FrameError(ValueError):
    """Raised for bytes that break the protocol, with the code of the Close frame that answers them."""

    def __init__(self, code: int, text: str) -> None:
        super().__init__(text)
        self.code = code


class ClientFrames:
    """Reader of a client's frames.  It holds one incomplete message at most."""

    __slots__ = ("_data", "_empty", "_kind", "_limit", "_pieces", "_size")

    def __init__(self, limit: int) -> None:
        """`limit` is that of one message, in bytes."""
        self._limit = limit
        self._data = bytearray()
        """Bytes of frames that are not complete."""
        self._kind = 0
        """Opcode of the message whose fragments arrive; 0 between messages."""
        self._pieces: list[bytes] = []
        self._size = 0
        """Bytes in them."""
        self._empty = Bucket(EMPTY_BURST, EMPTY_RATE)

    def feed(self, data: bytes) -> None:
        """Add bytes of the client."""
        self._data += data

    def take(self, now: float) -> tuple[int, bytes] | None:
        """Return opcode and payload of the next message or control frame; None before it is complete.

        `now` is an instant in seconds.  Raises `FrameError`.
        """
        while True:
            frame = self._take_frame()
            if frame is None:
                return None
            opcode, payload, is_final = frame
            if (opcode >= CLOSE or not (payload or is_final)) and self._empty.charge(1.0, now):
                raise FrameError(POLICY_VIOLATION, "too many frames without content")
            if opcode >= CLOSE:
                return opcode, payload
            if opcode != CONTINUATION:
                if is_final:
                    return opcode, payload
                self._kind = opcode
            add_piece(self._pieces, payload)
            self._size += len(payload)
            if is_final:
                kind, whole = self._kind, b"".join(self._pieces)
                self._kind = self._size = 0
                self._pieces = []
                return kind, whole

    def _take_frame(self) -> tuple[int, bytes, bool] | None:
        """Return opcode, payload and finality of the next frame; None before it is complete."""
        data = self._data
        if len(data) < 2:
            return None
        first, second = data[0], data[1]
        opcode, is_final, length = first & 15, first >= 0x80, second & 0x7F
        if first & 0x70 or opcode not in OPCODES:
            raise FrameError(PROTOCOL_ERROR, "a frame has a reserved bit or opcode")
        if second < 0x80:
            raise FrameError(PROTOCOL_ERROR, "a frame is not masked")
        if opcode >= CLOSE and (length > LONGEST_CONTROL or not is_final):
            raise FrameError(PROTOCOL_ERROR, "a control frame is fragmented or too long")
        if opcode < CLOSE and (opcode == CONTINUATION) != (self._kind != 0):
            raise FrameError(PROTOCOL_ERROR, "a message begins within another, or continues none")
        at = 2
        if length > LONGEST_CONTROL:
            least = LONGEST_CONTROL + 1 if length == LONGEST_CONTROL + 1 else 1 << 16
            at = 4 if length == LONGEST_CONTROL + 1 else 10
            if len(data) < at:
                return None
            length = int.from_bytes(data[2:at], "big")
            if length < least:
                raise FrameError(PROTOCOL_ERROR, "a length is not encoded in the fewest bytes")
        if opcode < CLOSE and self._size + length > self._limit:
            raise FrameError(TOO_BIG, f"a message is larger than {self._limit} bytes")
        end = at + 4 + length
        if len(data) < end:
            return None
        payload = unmask(bytes(data[at + 4 : end]), bytes(data[at : at + 4]))
        del data[:end]
        return opcode, payload, is_final


def unmask(data: bytes, key: bytes) -> bytes:
    """Return a payload without its mask, or with it (RFC 6455 5.3)."""
    size = len(data)
    mask = (key * (size // 4 + 1))[:size]
    return (int.from_bytes(data, "big") ^ int.from_bytes(mask, "big")).to_bytes(size, "big")


def encode_frame(opcode: int, payload: bytes) -> bytes:
    """Return a whole message or a control frame of a server."""
    size = len(payload)
    if size <= LONGEST_CONTROL:
        return bytes((0x80 | opcode, size)) + payload
    if size < 1 << 16:
        return bytes((0x80 | opcode, 126)) + size.to_bytes(2, "big") + payload
    return bytes((0x80 | opcode, 127)) + size.to_bytes(8, "big") + payload


def encode_close(code: int, reason: str = "") -> bytes:
    """Return a Close frame; a reason that is too long is cut off between two characters."""
    if code == NO_CODE:
        return encode_frame(CLOSE, b"")
    text = reason.encode("utf-8", "replace")[:LONGEST_REASON].decode("utf-8", "ignore").encode()
    return encode_frame(CLOSE, code.to_bytes(2, "big") + text)


def parse_close(payload: bytes) -> int:
    """Return the code of a Close frame, `NO_CODE` without one.  Raises `FrameError` (RFC 6455 5.5.1, 7.4)."""
    if not payload:
        return NO_CODE
    code = int.from_bytes(payload[:2], "big")
    if len(payload) < 2 or not (1000 <= code <= 1014 or 3000 <= code <= 4999) or code in (1004, 1005, 1006):
        raise FrameError(PROTOCOL_ERROR, "a Close frame has no valid code")
    try:
        payload[2:].decode()
    except UnicodeDecodeError:
        raise FrameError(INVALID_PAYLOAD, "the reason of a Close frame is not UTF-8") from None
    return code
