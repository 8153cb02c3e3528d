"""WebSocket frames (RFC 6455 5.2): finds their ends, and the Close frame, in a stream of bytes.

The sidecar ends a tunnel with a Close frame between two frames.  It may follow any frame, because control frames are
allowed within a fragmented message (5.4).  Only frame headers are parsed; payloads are not copied.
"""

from __future__ import annotations

from typing import Final

CLOSE: Final = 8
"""Opcode of a Close frame."""
GOING_AWAY: Final = b"\x88\x02\x03\xe9"
"""Close frame of a server with status 1001 (RFC 6455 7.4.1)."""
GOING_AWAY_MASKED: Final = b"\x88\x82\x00\x00\x00\x00\x03\xe9"
"""Close frame of a client with status 1001, masked with zeros (RFC 6455 5.3)."""
EXTENDED: Final = {126: 2, 127: 8}
"""Size of the extended payload length in bytes, by the 7-bit length."""
MAX_HEADER: Final = 14
"""Longest frame header in bytes."""


class FrameFollower:
    """Incremental parser of the frame headers of one direction."""

    __slots__ = ("_header", "_left", "is_closed")

    def __init__(self) -> None:
        self._header = b""
        """Bytes of an incomplete header; empty without one."""
        self._left = 0
        """Bytes of the payload that have yet to arrive."""
        self.is_closed = False
        """True once a Close frame has begun; no frame may follow it (5.5.1)."""

    @property
    def is_between(self) -> bool:
        """True if the bytes so far end at the end of a frame."""
        return not self._left and not self._header

    def follow(self, data: bytes, *, stop: bool = False) -> int:
        """Parse the next bytes and return their number; with `stop`, parse only to the end of the current frame."""
        position, size = 0, len(data)
        while True:
            if self._left:
                step = min(self._left, size - position)
                self._left -= step
                position += step
            if position == size or (stop and not self._header):
                return position
            known = len(self._header)
            header = self._header + data[position : position + MAX_HEADER - known]
            header_size = 2
            if len(header) >= 2:
                code = header[1] & 127
                extended = EXTENDED.get(code, 0)
                header_size = 2 + extended + (4 if header[1] & 128 else 0)
            if len(header) < header_size:
                self._header = header
                return size
            self._header = b""
            self._left = int.from_bytes(header[2 : 2 + extended], "big") if extended else code
            position += header_size - known
            if header[0] & 15 == CLOSE:
                self.is_closed = True
