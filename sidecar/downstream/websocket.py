"""WebSocket frames (RFC 6455 5.2) as they pass: where one ends, and whether the conversation has been closed.

Only frame headers are looked at, payloads are skipped, nothing is copied: what it is for is that a Close frame of ours
can stand between two frames, when the sidecar stops.  A control frame may stand within a fragmented message (5.4), so
any end of a frame will do.
"""

from __future__ import annotations

from typing import Final

CLOSE: Final = 8
GOING_AWAY: Final = b"\x88\x02\x03\xe9"
"""A Close frame with the status 1001 (RFC 6455 7.4.1), as a server sends it."""
GOING_AWAY_MASKED: Final = b"\x88\x82\x00\x00\x00\x00\x03\xe9"
"""The same as a client sends it (5.3): masked, and a mask of zeros is one too."""

EXTENDED: Final = {126: 2, 127: 8}
"""Bytes of the length that follow its code."""
MAX_HEAD: Final = 14


class FrameFollower:
    """Follows one direction."""

    __slots__ = ("_head", "_left", "is_closed")

    def __init__(self) -> None:
        self._head = b""
        """The beginning of a frame's header."""
        self._left = 0
        """Bytes of the payload that are still to come."""
        self.is_closed = False
        """Has a Close frame passed?  Nothing may follow it (5.5.1)."""

    @property
    def is_between(self) -> bool:
        """Does what has passed end with a frame?"""
        return not self._left and not self._head

    def follow(self, data: bytes, *, stop: bool = False) -> int:
        """Take the next bytes, with `stop` no further than to the next end of a frame; returns how many were taken."""
        position, size = 0, len(data)
        while True:
            if self._left:
                step = min(self._left, size - position)
                self._left -= step
                position += step
            if position == size or (stop and not self._head):
                return position
            known = len(self._head)
            head = self._head + data[position : position + MAX_HEAD - known]
            wanted = 2
            if len(head) >= 2:
                code = head[1] & 127
                extended = EXTENDED.get(code, 0)
                wanted = 2 + extended + (4 if head[1] & 128 else 0)
            if len(head) < wanted:
                self._head = head
                return size
            self._head = b""
            self._left = int.from_bytes(head[2 : 2 + extended], "big") if extended else code
            position += wanted - known
            if head[0] & 15 == CLOSE:
                self.is_closed = True
