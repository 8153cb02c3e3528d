"""Network of a virtual loop: who listens where, and what names resolve to.

A connection is made by asking `accept` for the protocol at an address.  By default that is the listener there; policy
tests replace it by their scripted upstreams.
"""

from __future__ import annotations

import asyncio
import errno
import os
from collections.abc import Awaitable, Callable
from typing import Any, Final

from sidecar.simulation.transport import Address, MemoryTransport, join

FIRST_PORT: Final = 20_001
"""Port that the first listener gets which asks for port 0; the next one gets the next."""

Accept = Callable[[Address], Awaitable[asyncio.BaseProtocol]]
"""Return the protocol at the far end of a new connection.  Raises `OSError` where the connection is refused."""
Resolve = Callable[[str], tuple[float, list[str]]]
"""Return how many seconds a look-up of a name takes and the addresses it finds.  Raises `OSError` for an unknown
name."""


class Network:
    """Listeners and names of one loop.

    - `accept`: finds the far end of each new connection.
    - `resolve`: finds the addresses of a name; None where each name is its own address.
    """

    def __init__(self, loop: asyncio.AbstractEventLoop) -> None:
        self._loop = loop
        self._listeners: dict[Address, VirtualServer] = {}
        self._next_port = FIRST_PORT
        self.accept: Accept = self._accept
        self.resolve: Resolve | None = None

    async def connect(
        self, protocol_factory: Callable[[], asyncio.BaseProtocol], address: Address
    ) -> tuple[MemoryTransport, asyncio.BaseProtocol]:
        """Connect to an address.  Raises `OSError` where the connection is refused."""
        far = await self.accept(address)
        near = protocol_factory()
        return join(self._loop, near, far, address), near

    def listen(
        self, protocol_factory: Callable[[], asyncio.BaseProtocol], address: tuple[str, int], *, accepts: bool = True
    ) -> VirtualServer:
        """Listen at an address; port 0 takes a free one.  Raises `OSError` where somebody listens already."""
        host, port = address
        address = (host, port or self.free_port())
        if address in self._listeners:
            raise _error(errno.EADDRINUSE)
        server = self._listeners[address] = VirtualServer(self, protocol_factory, address)
        if not accepts:
            server.hang()
        return server

    def forget(self, server: VirtualServer) -> None:
        """Refuse connections to the address of a server that has closed."""
        if self._listeners.get(server.address) is server:
            del self._listeners[server.address]

    def free_port(self) -> int:
        """Return a port that no listener of this network had."""
        port, self._next_port = self._next_port, self._next_port + 1
        return port

    def socket(self, *_: Any) -> VirtualSocket:
        """Return a listening socket to be, in place of `socket.socket(family, type)`."""
        return VirtualSocket(self)

    async def look_up(self, host: str) -> list[str]:
        """Return the addresses of a host; an address is its own."""
        seconds, found = (0.0, [host]) if self.resolve is None or host[:1].isdigit() else self.resolve(host)
        await asyncio.sleep(seconds)
        return found

    async def _accept(self, address: Address) -> asyncio.BaseProtocol:
        while (server := self._listeners.get(address)) is not None and server.is_hanging:
            await server.wait()
        await asyncio.sleep(0)  # a connect takes a turn of the loop at least
        if server is None:
            raise _error(errno.ECONNREFUSED)
        return server.protocol_factory()


class VirtualServer:
    """Listener at one address, with what is used of `asyncio.Server`.

    While it hangs, connecting to it waits: as with a listener whose backlog is full or whose process is stopped.
    """

    def __init__(
        self, network: Network, protocol_factory: Callable[[], asyncio.BaseProtocol], address: tuple[str, int]
    ) -> None:
        self.protocol_factory = protocol_factory
        self.address = address
        self._network = network
        self._waiting: list[asyncio.Future[None]] | None = None

    @property
    def sockets(self) -> list[VirtualServer]:
        return [self]

    def getsockname(self) -> tuple[str, int]:
        return self.address

    async def start_serving(self) -> None:
        self.resume()

    def close(self) -> None:
        self._network.forget(self)
        self.resume()

    @property
    def is_hanging(self) -> bool:
        """True while nobody is accepted."""
        return self._waiting is not None

    def hang(self) -> None:
        """Accept nobody until `resume`."""
        self._waiting = self._waiting or []

    def resume(self) -> None:
        """Accept again, first those who wait."""
        waiting, self._waiting = self._waiting or [], None
        for future in waiting:
            if not future.done():
                future.set_result(None)

    async def wait(self) -> None:
        """Wait until it accepts again or has closed."""
        assert self._waiting is not None
        future: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        self._waiting.append(future)
        await future


class VirtualSocket:
    """Listening socket before a server takes it: keeps the address to which it was bound.

    Has what `sidecar.downstream.sockets` uses of `socket.socket`.
    """

    def __init__(self, network: Network) -> None:
        self._network = network
        self._address = ("", 0)

    def setsockopt(self, *_: int) -> None:
        """Do nothing: a virtual socket has no options."""

    def setblocking(self, flag: bool) -> None:
        """Do nothing: a virtual socket never blocks."""

    def bind(self, address: tuple[str, int]) -> None:
        host, port = address[:2]
        self._address = (host, port or self._network.free_port())

    def listen(self, backlog: int) -> None:
        """Do nothing: the server that takes this socket listens."""

    def getsockname(self) -> tuple[str, int]:
        return self._address

    def dup(self) -> VirtualSocket:
        return self

    def close(self) -> None:
        """Do nothing: the address belongs to the server."""


def _error(number: int) -> OSError:
    return OSError(number, os.strerror(number))
