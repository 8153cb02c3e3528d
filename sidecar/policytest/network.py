"""Connections in memory, and a loop on which `create_connection` makes them."""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import Awaitable, Callable
from typing import Any

from sidecar.policytest.virtual import VirtualLoop

Address = tuple[str, int | None]
"""Host and port, or the path of a Unix socket and None."""
Accept = Callable[[Address], Awaitable[asyncio.Protocol]]
"""Who is at the other end of a new connection; raises `OSError` where nobody is."""


class MemoryTransport(asyncio.Transport):
    """One end of a connection.  What is written arrives in a later turn of the loop, in order."""

    def __init__(self, loop: asyncio.AbstractEventLoop, protocol: asyncio.Protocol, peer_address: str) -> None:
        super().__init__({"peername": (peer_address, 0)})
        self.protocol = protocol
        self.peer: MemoryTransport
        self._loop = loop
        self._way: deque[bytes | None] = deque()
        """What is on its way to the peer; None stands for the end."""
        self._reading = True
        self._closing = False
        self._lost = False

    def write(self, data: bytes | bytearray | memoryview[Any]) -> None:
        if not self._closing and data:
            self._send(bytes(data))

    def write_eof(self) -> None:
        if not self._closing:
            self._send(None)

    def can_write_eof(self) -> bool:
        return True

    def is_closing(self) -> bool:
        return self._closing

    def is_reading(self) -> bool:
        return self._reading

    def pause_reading(self) -> None:
        self._reading = False

    def resume_reading(self) -> None:
        self._reading = True
        self._loop.call_soon(self.peer._deliver)

    def set_protocol(self, protocol: asyncio.BaseProtocol) -> None:
        assert isinstance(protocol, asyncio.Protocol)
        self.protocol = protocol

    def get_protocol(self) -> asyncio.Protocol:
        return self.protocol

    def close(self) -> None:
        if not self._closing:
            self._send(None)
            self._closing = True
            self._loop.call_soon(self._lose, None)

    def abort(self) -> None:
        if not self._lost:
            self._closing = True
            self._way.clear()
            self._loop.call_soon(self._lose, None)
            self._loop.call_soon(self.peer._lose, ConnectionResetError(104, "Connection reset by peer"))

    def _send(self, piece: bytes | None) -> None:
        self._way.append(piece)
        self._loop.call_soon(self._deliver)

    def _deliver(self) -> None:
        peer = self.peer
        while self._way and peer._reading and not peer._lost:
            piece = self._way.popleft()
            if piece is not None:
                if not peer._closing:
                    peer.protocol.data_received(piece)
            elif not peer._closing and not peer.protocol.eof_received():
                peer.close()

    def _lose(self, error: Exception | None) -> None:
        if not self._lost:
            self._lost = self._closing = True
            self.protocol.connection_lost(error)


def join(loop: asyncio.AbstractEventLoop, near: asyncio.Protocol, far: asyncio.Protocol) -> None:
    """Connect two protocols; the far one learns of it first."""
    one, two = MemoryTransport(loop, near, "192.0.2.1"), MemoryTransport(loop, far, "192.0.2.2")
    one.peer, two.peer = two, one
    far.connection_made(two)
    near.connection_made(one)


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
        join(self, near, far)
        return None, near
