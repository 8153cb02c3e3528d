"""Limits of an HTTP/2 connection: what is announced to the peer, what is allowed, and at which rates.

Rules:

1. Rates, not totals: a `Bucket` fills with what a peer costs and empties with time and with useful work, so a
   long connection is never mistaken for an attack.
2. Resets that a peer provokes count like its own: both make a request that was begun for nothing.
3. Control frames have a price; each DATA frame that is worth it pays for the window updates that it causes.
"""

from __future__ import annotations

from typing import Final

WINDOW: Final = 65535
"""Initial flow-control window (RFC 9113 6.9.2)."""
MAX_WINDOW: Final = 2**31 - 1
MAX_FRAME: Final = 16384
"""Bytes of the longest frame payload, ours and the peer's (RFC 9113 6.5.2)."""
MAX_STREAMS: Final = 100
"""Streams that we open on a connection at most, whatever the peer allows."""
MAX_UNREAD: Final = 1000
"""Answers to control frames that wait for a peer that does not read."""
REMEMBERED_RESETS: Final = 256
"""Streams that we have reset whose late frames are known as such."""


class Limits:
    """Limits of the connections of one listener or pool."""

    __slots__ = (
        "allows_connect", "connection_window", "frame_burst", "frame_rate", "max_fields", "max_head",
        "max_list_members", "max_query_parameters", "max_streams", "reset_burst", "reset_rate", "window",
    )  # fmt: skip

    def __init__(
        self,
        *,
        max_streams: int = 100,
        window: int = WINDOW,
        connection_window: int = 1 << 20,
        max_head: int = 64 * 1024,
        max_fields: int = 256,
        max_list_members: int = 1024,
        max_query_parameters: int = 512,
        allows_connect: bool = False,
        reset_burst: float = 200.0,
        reset_rate: float = 20.0,
        frame_burst: float = 1000.0,
        frame_rate: float = 100.0,
    ) -> None:
        self.max_streams = max_streams
        """Streams that the peer may have open."""
        self.window = window
        """Bytes that the peer may send on a stream before they are taken."""
        self.connection_window = connection_window
        """Bytes that the peer may send on all streams before we have read them."""
        self.max_head = max_head
        """Bytes of a list of fields, with 32 for each (SETTINGS_MAX_HEADER_LIST_SIZE)."""
        self.max_fields = max_fields
        self.max_list_members = max_list_members
        self.max_query_parameters = max_query_parameters
        self.allows_connect = allows_connect
        """True if an extended CONNECT (RFC 8441) is served."""
        self.reset_burst = reset_burst
        """Streams that may be reset at once before the connection ends."""
        self.reset_rate = reset_rate
        """Streams a second that may be reset for ever."""
        self.frame_burst = frame_burst
        """Frames of no use that may come at once before the connection ends."""
        self.frame_rate = frame_rate
        """Frames of no use a second that may come for ever."""

    @property
    def max_block(self) -> int:
        """Bytes of the longest header block that is decoded, which a client may have answered with 431."""
        return 2 * self.max_head

    @property
    def max_continuations(self) -> int:
        """CONTINUATION frames of one header block."""
        return 4 + self.max_block // 1024


class Bucket:
    """Leaky bucket: filled by what a peer costs, emptied by time and by useful work."""

    __slots__ = ("_at", "_burst", "_rate", "level")

    def __init__(self, burst: float, rate: float) -> None:
        self._burst = burst
        self._rate = rate
        self._at = 0.0
        """Instant at which the level was right."""
        self.level = 0.0

    def charge(self, cost: float, now: float) -> bool:
        """Add a cost; return True if that is more than the bucket holds."""
        if now > self._at:
            self.level = max(0.0, self.level - (now - self._at) * self._rate)
            self._at = now
        self.level += cost
        return self.level > self._burst

    def pay(self, amount: float) -> None:
        """Take off what useful work is worth."""
        level = self.level - amount
        self.level = level if level > 0.0 else 0.0
