"""A loop whose time and network are virtual: whole scenarios run on it in one thread, as fast as the code allows.

Where the loop would wait for its next timer, the clock jumps there.  `create_server` and `create_connection` join
protocols in memory, with the manners of TCP: order, flow control, ends and resets, a refused connect where nobody
listens.  Nothing here is random and no time of the machine is looked at, so a run is a function of its seed.
"""

from __future__ import annotations

import asyncio
import selectors
import socket
from collections import deque
from collections.abc import Callable, Iterable
from typing import Any

HIGH_WATER = 64 * 1024
FIRST_PORT = 20_000


class Clock(selectors.SelectSelector):
    """Moves time instead of waiting; real files are never looked at."""

    def __init__(self) -> None:
        super().__init__()
        self.time = 1000.0

    def select(self, timeout: float | None = None) -> list[tuple[selectors.SelectorKey, int]]:
        if timeout is None:
            raise RuntimeError("nothing on the virtual loop can ever happen again")
        if timeout > 0:
            self.time += timeout
        return []


class VirtualServer:
    """A listener."""

    def __init__(self, loop: VirtualLoop, factory: Callable[[], asyncio.Protocol], address: tuple[str, int]) -> None:
        self.loop = loop
        self.factory = factory
        self.address = address
        self.waiting: list[asyncio.Future[None]] | None = None

    @property
    def sockets(self) -> list[VirtualServer]:
        """As of asyncio's servers: what knows its name."""
        return [self]

    def getsockname(self) -> tuple[str, int]:
        return self.address

    async def start_serving(self) -> None:
        self.resume()

    def close(self) -> None:
        if self.loop.servers.get(self.address) is self:
            del self.loop.servers[self.address]
        self.resume()

    def hang(self) -> None:
        """Accept nobody until `resume`: whoever connects waits."""
        self.waiting = self.waiting or []

    def resume(self) -> None:
        waiting, self.waiting = self.waiting or [], None
        for future in waiting:
            if not future.done():
                future.set_result(None)


class VirtualTransport(asyncio.Transport):
    """One end of a connection."""

    def __init__(self, loop: VirtualLoop, protocol: asyncio.Protocol, peername: tuple[str, int]) -> None:
        super().__init__({"peername": peername})
        self.loop = loop
        self.protocol = protocol
        self.peer: VirtualTransport
        self.closing = self.lost = False
        self.way: deque[bytes | None] = deque()
        """What is on its way to the peer; None stands for the end."""
        self.size = 0
        self.scheduled = False
        self.reading = True
        self.paused = False
        self.high, self.low = HIGH_WATER, HIGH_WATER // 4

    def write(self, data: bytes | bytearray | memoryview) -> None:
        if self.closing or not data:
            return
        self.way.append(bytes(data))
        self.size += len(data)
        if self.size > self.high and not self.paused:
            self.paused = True
            self.protocol.pause_writing()
        self._schedule()

    def writelines(self, list_of_data: Iterable[Any]) -> None:
        self.write(b"".join(list_of_data))

    def can_write_eof(self) -> bool:
        return True

    def write_eof(self) -> None:
        if not self.closing:
            self.way.append(None)
            self._schedule()

    def get_write_buffer_size(self) -> int:
        return self.size

    def get_write_buffer_limits(self) -> tuple[int, int]:
        return self.low, self.high

    def set_write_buffer_limits(self, high: int | None = None, low: int | None = None) -> None:
        self.high = HIGH_WATER if high is None else high
        self.low = self.high // 4 if low is None else low

    def pause_reading(self) -> None:
        self.reading = False

    def resume_reading(self) -> None:
        self.reading = True
        self.peer._schedule()

    def is_reading(self) -> bool:
        return self.reading and not self.closing

    def is_closing(self) -> bool:
        return self.closing

    def set_protocol(self, protocol: asyncio.BaseProtocol) -> None:
        assert isinstance(protocol, asyncio.Protocol)
        self.protocol = protocol

    def get_protocol(self) -> asyncio.BaseProtocol:
        return self.protocol

    def close(self) -> None:
        if not self.closing:
            self.way.append(None)
            self.closing = True
            self.loop.call_soon(self._lose, None)
            self._schedule()
            self.peer._schedule()

    def abort(self) -> None:
        """Reset: what is on its way is lost, and the peer learns of it."""
        if self.lost:
            return
        self.closing = True
        self.way.clear()
        self.size = 0
        self.loop.call_soon(self._lose, None)
        self.loop.call_soon(self.peer._lose, ConnectionResetError(104, "Connection reset by peer"))

    def _schedule(self) -> None:
        if not self.scheduled and self.way and (self.peer.reading or self.peer.closing):
            self.scheduled = True
            self.loop.call_soon(self._deliver)

    def _deliver(self) -> None:
        self.scheduled = False
        peer = self.peer
        while self.way and (peer.reading or peer.closing):
            piece = self.way.popleft()
            if piece is None:
                if not peer.closing and not peer.protocol.eof_received():
                    peer.close()
                continue
            self.size -= len(piece)
            if peer.lost:
                self._lose(ConnectionResetError(104, "Connection reset by peer"))
                return
            if not peer.closing:
                peer.protocol.data_received(piece)
        if self.paused and self.size <= self.low and not self.lost:
            self.paused = False
            self.protocol.resume_writing()

    def _lose(self, error: Exception | None) -> None:
        if not self.lost:
            self.lost = self.closing = True
            if error is not None:
                self.way.clear()
            self.protocol.connection_lost(error)


class VirtualPort:
    """A port that can refuse and hang (`chaos.parts.port.Port`)."""

    def __init__(self, loop: VirtualLoop, factory: Callable[[], asyncio.Protocol]) -> None:
        self.loop = loop
        self.factory = factory
        self.number = 0
        self.server: VirtualServer | None = None

    async def open(self) -> str:
        if self.server is not None:
            self.server.close()
        self.server = await self.loop.create_server(self.factory, "127.0.0.1", self.number)
        self.number = self.server.address[1]
        return f"127.0.0.1:{self.number}"

    async def close(self) -> None:
        if self.server is not None:
            self.server.close()
            self.server = None

    async def hang(self) -> None:
        if self.server is not None:
            self.server.hang()


class VirtualLoop(asyncio.SelectorEventLoop):
    """The loop."""

    def __init__(self) -> None:
        self.clock = Clock()
        super().__init__(self.clock)
        self.servers: dict[tuple[str, int], VirtualServer] = {}
        self.names: Callable[[str], tuple[float, list[str]]] | None = None
        """How long a look-up takes and what it finds; OSError where it finds nothing."""
        self.ports = FIRST_PORT

    def time(self) -> float:
        return self.clock.time

    def make_port(self, factory: Callable[[], asyncio.Protocol]) -> VirtualPort:
        return VirtualPort(self, factory)

    async def create_server(  # type: ignore[override]  # of all the ways to call it, those that we use
        self,
        factory: Any,
        host: Any = None,
        port: Any = None,
        *,
        sock: Any = None,
        start_serving: bool = True,
        **_: Any,
    ) -> Any:
        if sock is not None:  # one that the caller has bound: only its name counts here
            host, port = sock.getsockname()[:2]
            sock.close()
        elif not port:
            self.ports += 1
            port = self.ports
        if (host, port) in self.servers:
            raise OSError(98, "Address already in use")
        server = self.servers[host, port] = VirtualServer(self, factory, (host, port))
        if not start_serving:
            server.hang()
        return server

    async def create_connection(self, factory: Any, host: Any = None, port: Any = None, **_: Any) -> Any:  # type: ignore[override]
        while (server := self.servers.get((host, port))) is not None and server.waiting is not None:
            future = self.create_future()
            server.waiting.append(future)
            await future
        await asyncio.sleep(0)
        if server is None:
            raise ConnectionRefusedError(111, f"Connect call failed ('{host}', {port})")
        self.ports += 1
        protocol, other = factory(), server.factory()
        near, far = VirtualTransport(self, protocol, (host, port)), VirtualTransport(self, other, (host, self.ports))
        near.peer, far.peer = far, near
        other.connection_made(far)
        protocol.connection_made(near)
        return near, protocol

    async def getaddrinfo(self, host: Any, port: Any, **_: Any) -> Any:
        delay, addresses = (0.0, [host]) if self.names is None or host[:1].isdigit() else self.names(host)
        await asyncio.sleep(delay)
        return [(socket.AF_INET, socket.SOCK_STREAM, 6, "", (address, port)) for address in addresses]
