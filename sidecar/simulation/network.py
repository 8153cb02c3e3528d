"""Network of a virtual loop: listeners by address, and name look-ups.

To connect, `Network.accept` returns the protocol at the far end.  By default that is the listener at the address;
policy tests replace `accept` by their scripted upstreams.
"""

from __future__ import annotations

import asyncio
import errno
import os
from collections.abc import Awaitable, Callable
from typing import Any, Final

from sidecar.simulation.transport import Address, MemoryTransport, join

FIRST_PORT: Final = 20_001
"""Port of the first listener that asks for port 0; each further one gets the next port."""

Accept = Callable[[Address], Awaitable[asyncio.BaseProtocol]]
"""Function that returns the protocol at the far end of a new connection; raises `OSError` for a refused one."""
Select = Callable[[Address], str]
"""Function that returns the protocol that a TLS server selects by ALPN, such as `h2`; empty for none."""
Resolve = Callable[[str], tuple[float, list[str]]]
"""Function that returns the duration of a name look-up in seconds and the addresses; raises `OSError` for an unknown
name."""


class Network:
    """Listeners and names of one loop.

    - `accept`: returns the far end of each new connection.
    - `select`: selects a protocol by ALPN for each new connection with TLS, which is not encrypted; None for none.
    - `resolve`: looks up a name; None if each name is its own address.
    """

    def __init__(self, loop: asyncio.AbstractEventLoop) -> None:
        self._loop = loop
        self._listeners: dict[Address, VirtualServer] = {}
        self._next_port = FIRST_PORT
        self.accept: Accept = self._accept
        self.select: Select | None = None
        self.resolve: Resolve | None = None

    async def connect(
        self, protocol_factory: Callable[[], asyncio.BaseProtocol], address: Address, *, is_tls: bool = False
    ) -> tuple[MemoryTransport, asyncio.BaseProtocol]:
        """Connect to an address.  Raises `OSError` if the connection is refused."""
        far = await self.accept(address)
        near = protocol_factory()
        selected = self.select(address) if is_tls and self.select is not None else ""
        extra = {"ssl_object": VirtualTls(selected)} if selected else None
        return join(self._loop, near, far, address, extra=extra), near

    def listen(
        self, protocol_factory: Callable[[], asyncio.BaseProtocol], address: tuple[str, int], *, accepts: bool = True
    ) -> VirtualServer:
        """Listen at an address; port 0 takes a free one.  Raises `OSError` if the address is in use.

        `accepts`: False for a server that hangs until `start_serving`.
        """
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
        """Return a port that was never used on this network."""
        port, self._next_port = self._next_port, self._next_port + 1
        return port

    def socket(self, *_: Any) -> VirtualSocket:
        """Return a new socket for a listener, in place of `socket.socket(family, type)`."""
        return VirtualSocket(self)

    async def look_up(self, host: str) -> list[str]:
        """Return the addresses of a host; an IP address is returned as it is."""
        seconds, found = (0.0, [host]) if self.resolve is None or host[:1].isdigit() else self.resolve(host)
        await asyncio.sleep(seconds)
        return found

    async def _accept(self, address: Address) -> asyncio.BaseProtocol:
        """Return the protocol of the listener at an address; wait while it hangs."""
        while (server := self._listeners.get(address)) is not None and server.is_hanging:
            await server.wait()
        await asyncio.sleep(0)  # as on a real loop, connecting takes at least one turn
        if server is None:
            raise _error(errno.ECONNREFUSED)
        return server.protocol_factory()


class VirtualTls:
    """Result of a handshake, with the part of `ssl.SSLObject` that tells the protocol."""

    def __init__(self, selected: str) -> None:
        self._selected = selected

    def selected_alpn_protocol(self) -> str:
        return self._selected


class VirtualServer:
    """Listener at one address, with the part of `asyncio.Server` that the sidecar uses.

    While the server hangs, connecting to it waits, as with a full backlog or a stopped process.
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
        """True while no connection is accepted."""
        return self._waiting is not None

    def hang(self) -> None:
        """Accept no connection until `resume`."""
        self._waiting = self._waiting or []

    def resume(self) -> None:
        """Accept connections again, waiting ones first."""
        waiting, self._waiting = self._waiting or [], None
        for future in waiting:
            if not future.done():
                future.set_result(None)

    async def wait(self) -> None:
        """Wait until the server accepts connections again or is closed."""
        assert self._waiting is not None
        future: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        self._waiting.append(future)
        await future


class VirtualSocket:
    """Bound socket that a server has not taken over yet; keeps its address.

    Supports the methods of `socket.socket` that `sidecar.downstream.sockets` uses.
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
