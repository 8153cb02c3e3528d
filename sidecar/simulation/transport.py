"""Connections in memory: two transports, each the peer of the other, with the behaviour of TCP.

Rules:

1. Written data arrives in order, in a later turn of the loop.  Pieces that arrive in the same turn arrive one by one.
2. Bytes that the peer has not read count against the writer's high-water mark, so `pause_writing` and
   `resume_writing` are called as for a socket.
3. `close` sends the written data, then the end of the stream; `abort` discards the data and resets the peer.
4. Writing to a closed peer resets the writer.
5. An `asyncio.BufferedProtocol` gets at most as much data at a time as fits into its buffer.
"""

from __future__ import annotations

import asyncio
import errno
import os
from collections import deque
from collections.abc import Iterable, Mapping
from typing import Any, Final, cast

HIGH_WATER: Final = 64 * 1024
"""Unread bytes above which a writer is told to pause."""

NOBODY: Final = asyncio.Protocol()
"""Protocol of a transport that is lost."""
Address = tuple[str, int | None]
"""Host and port, or the path of a Unix socket and None."""


class MemoryTransport(asyncio.Transport):
    """Near or far end of a connection in memory.

    - `peer`: the other end.
    - `split`: largest piece, in bytes, that arrives in one turn of the loop; None for no limit.
    """

    def __init__(
        self,
        loop: asyncio.AbstractEventLoop,
        protocol: asyncio.BaseProtocol,
        peer_address: Address,
        extra: Mapping[str, Any] | None = None,
    ) -> None:
        """`extra` holds further values of `get_extra_info`, beside `peername`."""
        super().__init__({"peername": peer_address, **(extra or {})})
        self.peer: MemoryTransport
        self.split: int | None = None
        self._loop = loop
        self._protocol = cast("asyncio.Protocol", protocol)
        self._way: deque[bytes | None] = deque()
        """Written pieces that the peer has not read; None is the end of the stream."""
        self._size = 0
        """Bytes in `_way`."""
        self._high, self._low = HIGH_WATER, HIGH_WATER // 4
        self._is_scheduled = False
        self._is_reading = True
        self._is_full = False
        """True once the protocol was told to pause writing."""
        self._is_eof_sent = False
        self._is_closing = self._is_lost = False

    # ----- writing

    def write(self, data: bytes | bytearray | memoryview[Any]) -> None:
        if self._is_eof_sent or self._is_lost or not data:
            return
        piece = bytes(data)
        if step := self.split:
            self._way.extend(piece[at : at + step] for at in range(0, len(piece), step))
        else:
            self._way.append(piece)
        self._size += len(piece)
        if self._size > self._high and not self._is_full:
            self._is_full = True
            self._protocol.pause_writing()
        self._schedule()

    def writelines(self, list_of_data: Iterable[Any]) -> None:
        self.write(b"".join(list_of_data))

    def write_eof(self) -> None:
        if not self._is_eof_sent and not self._is_lost:
            self._is_eof_sent = True
            self._way.append(None)
            self._schedule()

    def can_write_eof(self) -> bool:
        return True

    def get_write_buffer_size(self) -> int:
        return self._size

    def get_write_buffer_limits(self) -> tuple[int, int]:
        return self._low, self._high

    def set_write_buffer_limits(self, high: int | None = None, low: int | None = None) -> None:
        self._high = HIGH_WATER if high is None else high
        self._low = self._high // 4 if low is None else low

    # ----- reading

    def is_reading(self) -> bool:
        return self._is_reading and not self._is_closing

    def pause_reading(self) -> None:
        self._is_reading = False

    def resume_reading(self) -> None:
        self._is_reading = True
        self.peer._schedule()

    # ----- the end

    def is_closing(self) -> bool:
        return self._is_closing

    def close(self) -> None:
        if not self._is_closing:
            self.write_eof()
            self._is_closing = True
            if self._size <= self._high:  # a socket's buffer would hold the rest, and it outlives the transport
                self._loop.call_soon(self._lose, None)
            self.peer._schedule()  # data of the peer is discarded from now on, even if reading was paused

    def abort(self) -> None:
        if not self._is_lost:
            self._is_closing = True
            self._way.clear()
            self._size = 0
            self._loop.call_soon(self._lose, None)
            self._loop.call_soon(self.peer._lose, _reset())

    def set_protocol(self, protocol: asyncio.BaseProtocol) -> None:
        self._protocol = cast("asyncio.Protocol", protocol)

    def get_protocol(self) -> asyncio.BaseProtocol:
        return self._protocol

    # ----- delivery to the peer

    def _schedule(self) -> None:
        """Schedule a delivery, if there is data and the peer reads."""
        if self._way and not self._is_scheduled and (self.peer._is_reading or self.peer._is_closing):
            self._is_scheduled = True
            self._loop.call_soon(self._deliver)

    def _deliver(self) -> None:
        """Deliver queued pieces while the peer reads, then resume or close this side if that is due."""
        self._is_scheduled = False
        peer = self.peer
        while self._way and (peer._is_reading or peer._is_closing):
            piece = self._way.popleft()
            if piece is None:
                if not peer._is_closing and not peer._protocol.eof_received():
                    peer.close()
                continue
            self._size -= len(piece)
            if peer._is_lost:
                self._lose(_reset())
                return
            if not peer._is_closing:
                self._hand_over(peer._protocol, piece)
            if self.split:
                self._schedule()
                break
        if self._is_full and self._size <= self._low and not self._is_lost:
            self._is_full = False
            self._protocol.resume_writing()
        if self._is_closing and self._size <= self._high:
            self._lose(None)

    def _hand_over(self, protocol: asyncio.BaseProtocol, piece: bytes) -> None:
        """Give a piece to the peer's protocol; the part that does not fit into its buffer stays queued."""
        if not isinstance(protocol, asyncio.BufferedProtocol):
            cast("asyncio.Protocol", protocol).data_received(piece)
            return
        buffer = memoryview(protocol.get_buffer(len(piece)))
        size = min(len(piece), len(buffer))
        buffer[:size] = piece[:size]
        if size < len(piece):
            self._way.appendleft(piece[size:])
            self._size += len(piece) - size
        protocol.buffer_updated(size)

    def _lose(self, error: Exception | None) -> None:
        """Call `connection_lost` once."""
        if not self._is_lost:
            self._is_lost = self._is_closing = True
            if error is not None:
                self._way.clear()
                self._size = 0
            protocol, self._protocol = self._protocol, NOBODY  # as asyncio's own, which forget it too
            protocol.connection_lost(error)


def join(
    loop: asyncio.AbstractEventLoop,
    near: asyncio.BaseProtocol,
    far: asyncio.BaseProtocol,
    address: Address = ("192.0.2.1", 80),
    near_address: Address = ("192.0.2.2", 40_000),
    extra: Mapping[str, Any] | None = None,
    far_extra: Mapping[str, Any] | None = None,
) -> MemoryTransport:
    """Connect two protocols and return the near end.

    `address` is the far end's, `near_address` the near end's.  `connection_made` of the far end is called first, as
    with a listener that accepts before the client knows.  `extra`: see `MemoryTransport`; `far_extra` holds more values
    of the far end.
    """
    one = MemoryTransport(loop, near, address, extra)
    two = MemoryTransport(loop, far, near_address, {**(extra or {}), **(far_extra or {})})
    one.peer, two.peer = two, one
    far.connection_made(two)
    near.connection_made(one)
    return one


def _reset() -> ConnectionResetError:
    return ConnectionResetError(errno.ECONNRESET, os.strerror(errno.ECONNRESET))
