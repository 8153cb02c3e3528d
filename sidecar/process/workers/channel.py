"""Channel between the supervisor and a worker: messages over one Unix stream socket.

A message is a JSON array, whose first item is its kind, after four bytes with its length.  The kernel closes the socket
with the process, so the end of the channel is the end of the peer.
"""

from __future__ import annotations

import asyncio
import json
from collections.abc import Callable
from typing import Any, Final, cast

LENGTH_BYTES: Final = 4
"""Bytes of the length before each message."""
MAX_BYTES: Final = 64 * 2**20
"""Longest message; a longer one can only be a bug."""
MAX_UNSENT: Final = 128 * 2**20
"""Most unsent bytes; a peer that reads nothing for so long is given up."""


class Channel(asyncio.Protocol):
    """One end of a channel."""

    def __init__(self, received: Callable[[list[Any]], None], ended: Callable[[], None]) -> None:
        """`received(message)` gets each message; `ended()` is called once, when the peer is gone."""
        self._received = received
        self._ended = ended
        self._transport: asyncio.Transport | None = None
        self._buffer = bytearray()

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._transport = cast("asyncio.Transport", transport)

    def data_received(self, data: bytes) -> None:
        buffer = self._buffer
        buffer += data
        at = 0
        while len(buffer) - at >= LENGTH_BYTES:
            begin = at + LENGTH_BYTES
            size = int.from_bytes(buffer[at:begin], "big")
            if size > MAX_BYTES:
                self.close()
                return
            if len(buffer) < begin + size:
                break
            message = json.loads(buffer[begin : begin + size])
            at = begin + size
            self._received(message)
        if at:
            del buffer[:at]

    def connection_lost(self, exc: Exception | None) -> None:
        self._transport = None
        self._ended()

    def send(self, *message: Any) -> None:
        """Send a message; it is dropped if the peer is gone."""
        transport = self._transport
        if transport is None:
            return
        text = json.dumps(message, separators=(",", ":")).encode()
        transport.write(len(text).to_bytes(LENGTH_BYTES, "big") + text)
        if transport.get_write_buffer_size() > MAX_UNSENT:
            transport.abort()

    def close(self) -> None:
        """Close the channel."""
        if self._transport is not None:
            self._transport.close()

    @property
    def is_open(self) -> bool:
        """True until the peer is gone or the channel is closed."""
        return self._transport is not None
