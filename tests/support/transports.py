"""`TransportPair`: two asyncio transports joined in memory, with the flow control and the manners of a TCP connection.

    pair = TransportPair(client_protocol, server_protocol)
    pair.left.split = 1            # what left writes arrives a byte at a time, each in a turn of its own
    pair.left.delay = 0.05         # and takes this long (in the loop's time)

Whatever a side has written is in `written`.  What the peer has not read (it paused) counts against the writer's high
water mark, so `pause_writing` and `resume_writing` come as on a socket.
"""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import Iterable
from typing import Any

HIGH_WATER = 64 * 1024


class MemoryTransport(asyncio.Transport):
    """One end."""

    def __init__(self, protocol: asyncio.BaseProtocol, extra: dict[str, Any] | None = None) -> None:
        super().__init__(extra)
        self.protocol = protocol
        self.peer: MemoryTransport
        self.loop = asyncio.get_running_loop()
        self.written = bytearray()
        """All that this side has written."""
        self.writes = 0
        """Number of write calls: system calls, on a socket."""
        self.split: int | None = None
        self.delay = 0.0
        self.closing = False
        self.lost = False
        self._sent_eof = False
        self._way: deque[bytes | None] = deque()
        """What is on its way to the peer; None stands for the end."""
        self._size = 0
        self._scheduled = False
        self._reading = True
        self._paused = False
        self._high, self._low = HIGH_WATER, HIGH_WATER // 4

    # ----- writing

    def write(self, data: bytes | bytearray | memoryview) -> None:
        self.writes += 1
        if self.lost or self._sent_eof or not data:
            return
        data = bytes(data)
        self.written += data
        step = self.split or len(data)
        self._way.extend(data[i : i + step] for i in range(0, len(data), step))
        self._size += len(data)
        if self._size > self._high and not self._paused:
            self._paused = True
            self.protocol.pause_writing()
        self._schedule()

    def writelines(self, list_of_data: Iterable[Any]) -> None:
        self.write(b"".join(list_of_data))

    def write_eof(self) -> None:
        if not self._sent_eof and not self.lost:
            self._sent_eof = True
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

    def pause_reading(self) -> None:
        self._reading = False

    def resume_reading(self) -> None:
        self._reading = True
        self.peer._schedule()

    def is_reading(self) -> bool:
        return self._reading and not self.closing

    # ----- the way to the peer

    def _schedule(self) -> None:
        if not self._scheduled and self._way and (self.peer._reading or self.peer.closing):
            self._scheduled = True
            if self.delay:
                self.loop.call_later(self.delay, self._deliver)
            else:
                self.loop.call_soon(self._deliver)

    def _deliver(self) -> None:
        self._scheduled = False
        if not self._way or not (self.peer._reading or self.peer.closing):
            return
        piece = self._way.popleft()
        if piece is None:
            self.peer._end()
        else:
            self._size -= len(piece)
            if self.peer.lost:
                self._lose(ConnectionResetError(104, "Connection reset by peer"))
            elif not self.peer.closing:
                self.peer._receive(piece)
            if self._paused and self._size <= self._low and not self.lost:
                self._paused = False
                self.protocol.resume_writing()
            if self.closing and self._size <= self._high:
                self._lose(None)
        self._schedule()

    def _receive(self, data: bytes) -> None:
        protocol = self.protocol
        if isinstance(protocol, asyncio.BufferedProtocol):
            while data:
                buffer = memoryview(protocol.get_buffer(len(data)))
                size = min(len(buffer), len(data))
                buffer[:size] = data[:size]
                protocol.buffer_updated(size)
                data = data[size:]
        else:
            assert isinstance(protocol, asyncio.Protocol)
            protocol.data_received(data)

    def _end(self) -> None:
        """The peer has sent its last byte."""
        if not self.closing and not self.protocol.eof_received():  # type: ignore[attr-defined]
            self.close()

    # ----- the end

    def is_closing(self) -> bool:
        return self.closing

    def close(self) -> None:
        """Send what is left, then the end; the connection is lost as soon as the rest fits the peer's socket buffer."""
        if not self.closing:
            self.write_eof()
            self.closing = True
            if self._size <= self._high:
                self.loop.call_soon(self._lose, None)
            self.peer._schedule()  # what the peer still sends goes nowhere, even if this side had paused

    def abort(self) -> None:
        """Reset: what is on its way is lost, and the peer learns of it."""
        self.break_off(None)

    def break_off(self, error: Exception | None) -> None:
        """The connection breaks; this side is told `error`, the other one of a reset."""
        self.closing = True
        self._way.clear()
        self._size = 0
        self.loop.call_soon(self._lose, error)
        self.loop.call_soon(self.peer._lose, ConnectionResetError(104, "Connection reset by peer"))

    def _lose(self, error: Exception | None) -> None:
        if not self.lost:
            self.lost = self.closing = True
            if error is not None:
                self._way.clear()
            self.protocol.connection_lost(error)

    def set_protocol(self, protocol: asyncio.BaseProtocol) -> None:
        self.protocol = protocol

    def get_protocol(self) -> asyncio.BaseProtocol:
        return self.protocol


class TransportPair:
    """Two protocols, connected.  Both have been told so (`connection_made`) when the constructor returns."""

    def __init__(
        self,
        left: asyncio.BaseProtocol,
        right: asyncio.BaseProtocol,
        *,
        extra: dict[str, Any] | None = None,
    ) -> None:
        self.left = MemoryTransport(left, {"peername": ("192.0.2.1", 40000), **(extra or {})})
        self.right = MemoryTransport(right, {"peername": ("192.0.2.2", 80), **(extra or {})})
        self.left.peer, self.right.peer = self.right, self.left
        right.connection_made(self.right)
        left.connection_made(self.left)


class Wire(asyncio.Protocol):
    """The plain end of a pair for a test: collects what arrives and writes what it is told."""

    def __init__(self) -> None:
        self.received = bytearray()
        self.is_eof = False
        self.is_lost = False
        self.error: Exception | None = None
        self.transport: MemoryTransport

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        assert isinstance(transport, MemoryTransport)
        self.transport = transport

    def data_received(self, data: bytes) -> None:
        self.received += data

    def eof_received(self) -> bool:
        self.is_eof = True
        return True

    def connection_lost(self, exc: Exception | None) -> None:
        self.is_lost = True
        self.error = exc

    def write(self, data: bytes) -> None:
        self.transport.write(data)
