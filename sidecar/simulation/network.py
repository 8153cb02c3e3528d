"""Connections in memory, and a loop on which `create_connection` makes them.

They have the manners of TCP: order, flow control, ends, resets, and a reset for who writes to somebody who has gone.
Policy tests run on it, and so do the simulated scenarios of `chaos`.
"""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import Awaitable, Callable, Iterable
from typing import Any

from sidecar.simulation.loop import VirtualLoop

HIGH_WATER = 64 * 1024
"""Bytes on their way from which on a writer is told to pause."""

Address = tuple[str, int | None]
"""Host and port, or the path of a Unix socket and None."""
Accept = Callable[[Address], Awaitable[asyncio.Protocol]]
"""Who is at the other end of a new connection; raises `OSError` where nobody is."""


class MemoryTransport(asyncio.Transport):
    """One end of a connection.  What is written arrives in a later turn of the loop, in order."""

    def __init__(self, loop: asyncio.AbstractEventLoop, protocol: asyncio.Protocol, peer_address: Address) -> None:
        super().__init__({"peername": peer_address})
        self.protocol = protocol
        self.peer: MemoryTransport
        self._loop = loop
        self._way: deque[bytes | None] = deque()
        """What is on its way to the peer; None stands for the end."""
        self._size = 0
        self._high, self._low = HIGH_WATER, HIGH_WATER // 4
        self._is_scheduled = False
        self._is_reading = True
        self._is_full = False
        self._is_closing = self._is_lost = False

    def write(self, data: bytes | bytearray | memoryview[Any]) -> None:
        if self._is_closing or not data:
            return
        self._size += len(data)
        self._way.append(bytes(data))
        if self._size > self._high and not self._is_full:
            self._is_full = True
            self.protocol.pause_writing()
        self._schedule()

    def writelines(self, list_of_data: Iterable[Any]) -> None:
        self.write(b"".join(list_of_data))

    def write_eof(self) -> None:
        if not self._is_closing:
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

    def is_closing(self) -> bool:
        return self._is_closing

    def is_reading(self) -> bool:
        return self._is_reading and not self._is_closing

    def pause_reading(self) -> None:
        self._is_reading = False

    def resume_reading(self) -> None:
        self._is_reading = True
        self.peer._schedule()

    def set_protocol(self, protocol: asyncio.BaseProtocol) -> None:
        assert isinstance(protocol, asyncio.Protocol)
        self.protocol = protocol

    def get_protocol(self) -> asyncio.Protocol:
        return self.protocol

    def close(self) -> None:
        if not self._is_closing:
            self._way.append(None)
            self._is_closing = True
            self._loop.call_soon(self._lose, None)
            self._schedule()
            self.peer._schedule()

    def abort(self) -> None:
        """Reset: what is on its way is lost, and the peer learns of it."""
        if not self._is_lost:
            self._is_closing = True
            self._way.clear()
            self._size = 0
            self._loop.call_soon(self._lose, None)
            self._loop.call_soon(self.peer._lose, ConnectionResetError(104, "Connection reset by peer"))

    def _schedule(self) -> None:
        """Once the peer closes, what is sent to it is read and forgotten."""
        if self._way and not self._is_scheduled and (self.peer._is_reading or self.peer._is_closing):
            self._is_scheduled = True
            self._loop.call_soon(self._deliver)

    def _deliver(self) -> None:
        self._is_scheduled = False
        peer = self.peer
        while self._way and (peer._is_reading or peer._is_closing):
            piece = self._way.popleft()
            if piece is None:
                if not peer._is_closing and not peer.protocol.eof_received():
                    peer.close()
                continue
            self._size -= len(piece)
            if peer._is_lost:
                self._lose(ConnectionResetError(104, "Connection reset by peer"))
                return
            if not peer._is_closing:
                peer.protocol.data_received(piece)
        if self._is_full and self._size <= self._low and not self._is_lost:
            self._is_full = False
            self.protocol.resume_writing()

    def _lose(self, error: Exception | None) -> None:
        if not self._is_lost:
            self._is_lost = self._is_closing = True
            if error is not None:
                self._way.clear()
            self.protocol.connection_lost(error)


def join(
    loop: asyncio.AbstractEventLoop, near: asyncio.Protocol, far: asyncio.Protocol, address: Address = ("192.0.2.1", 0)
) -> MemoryTransport:
    """Connect two protocols, the far one at an address; that one learns of it first.  Returns the near end."""
    one, two = MemoryTransport(loop, near, address), MemoryTransport(loop, far, ("192.0.2.2", 0))
    one.peer, two.peer = two, one
    far.connection_made(two)
    near.connection_made(one)
    return one


class MemoryLoop(VirtualLoop):
    """A virtual loop whose connections lead to `accept`."""

    accept: Accept

    async def create_connection(  # type: ignore[override]
        self, protocol_factory: Callable[[], asyncio.Protocol], host: str, port: int, **_: Any
    ) -> Any:
        return await self._connect(protocol_factory, (host, port))

    async def create_unix_connection(  # type: ignore[override]
        self, protocol_factory: Callable[[], asyncio.Protocol], path: str, **_: Any
    ) -> Any:
        return await self._connect(protocol_factory, (path, None))

    async def _connect(self, make: Callable[[], asyncio.Protocol], address: Address) -> Any:
        far = await self.accept(address)
        near = make()
        return join(self, near, far, address), near
