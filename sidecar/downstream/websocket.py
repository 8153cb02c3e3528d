"""WebSocket frames (RFC 6455 5.2) as they pass: where each ends, and whether a Close frame was among them.

A tunnel that ends needs this to send a Close frame of its own between two frames.  The end of any frame will do, since
a control frame may stand within a fragmented message (5.4).  Only frame headers are read; payloads are not copied.
"""

from __future__ import annotations

from typing import Final

CLOSE: Final = 8
"""Opcode of a Close frame."""
GOING_AWAY: Final = b"\x88\x02\x03\xe9"
"""Close frame with the status 1001 (RFC 6455 7.4.1), as a server sends it."""
GOING_AWAY_MASKED: Final = b"\x88\x82\x00\x00\x00\x00\x03\xe9"
"""The same as a client sends it (5.3): masked, here with zeros."""
EXTENDED: Final = {126: 2, 127: 8}
"""Size in bytes of the length that follows its 7-bit code."""
MAX_HEADER: Final = 14
"""Bytes of the longest frame header."""


class FrameFollower:
    """Frames of one direction."""

    __slots__ = ("_header", "_left", "is_closed")

    def __init__(self) -> None:
        self._header = b""
        """Beginning of a header that is not whole."""
        self._left = 0
        """Bytes of the payload still to come."""
        self.is_closed = False
        """True once a Close frame has passed, which must be the last (5.5.1)."""

    @property
    def is_between(self) -> bool:
        """True if the bytes so far end with a whole frame."""
        return not self._left and not self._header

    def follow(self, data: bytes, *, stop: bool = False) -> int:
        """Follow the next bytes, with `stop` only to the next end of a frame; return how many were followed."""
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
