"""Network of a virtual loop: listeners by address, and name look-ups.

To connect, `Network.accept` returns the protocol at the far end.  By default that is the listener at the address;
policy tests replace `accept` by their scripted upstreams.
"""

from __future__ import annotations

import asyncio
import errno
import os
import socket
import struct
from collections.abc import Awaitable, Callable
from typing import Any, Final

from sidecar.simulation.transport import Address, MemoryTransport, join

FIRST_PORT: Final = 20_001
"""Port of the first listener that asks for port 0; each further one gets the next port."""

REDIRECTING: Final = "127.0.0.2"
"""Host of the addresses whose connections are redirected."""

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
    - `redirects`: by address, the listener that gets the connections, and the address that it learns as their original.
    """

    def __init__(self, loop: asyncio.AbstractEventLoop) -> None:
        self._loop = loop
        self._listeners: dict[Address, VirtualServer] = {}
        self._next_port = FIRST_PORT
        self.accept: Accept = self._accept
        self.select: Select | None = None
        self.resolve: Resolve | None = None
        self.redirects: dict[Address, tuple[Address, tuple[str, int]]] = {}

    async def connect(
        self, protocol_factory: Callable[[], asyncio.BaseProtocol], address: Address, *, is_tls: bool = False
    ) -> tuple[MemoryTransport, asyncio.BaseProtocol]:
        """Connect to an address.  Raises `OSError` if the connection is refused."""
        listener, original = self.redirects.get(address, (address, None))
        far = await self.accept(listener)
        near = protocol_factory()
        selected = self.select(address) if is_tls and self.select is not None else ""
        extra = {"ssl_object": VirtualTls(selected)} if selected else None
        far_extra = None if original is None else {"socket": RedirectedSocket(original)}
        return join(self._loop, near, far, original or address, extra=extra, far_extra=far_extra), near

    def redirect(self, address: tuple[str, int], listener: tuple[str, int]) -> tuple[str, int]:
        """Return a new address: connections to it reach a listener as if they were redirected from `address`."""
        alias = (REDIRECTING, self.free_port())
        self.redirects[alias] = (listener, address)
        return alias

    async def open_socket(self, host: str, port: int) -> VirtualSocket:
        """Return a socket for a connection, in place of `sidecar.downstream.capture.capture.open_socket`."""
        opened = VirtualSocket(self)
        opened.bind((host, 0))
        return opened

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


class RedirectedSocket:
    """Accepted socket of a redirected connection, which knows the original destination (`SO_ORIGINAL_DST`).

    Supports the methods of `socket.socket` that the sidecar uses for such connections.
    """

    family = socket.AF_INET

    def __init__(self, original: tuple[str, int]) -> None:
        self._original = original

    def getsockopt(self, *_: int) -> bytes:
        """Return the original destination as a `sockaddr_in`."""
        host, port = self._original
        return struct.pack("!2xH4s8x", port, socket.inet_aton(host))

    def setsockopt(self, *_: Any) -> None:
        """Do nothing: a virtual socket has no options."""

    def fileno(self) -> int:
        """Return -1: a virtual socket has no descriptor."""
        return -1


class VirtualSocket:
    """Bound socket that neither a server nor a connection has taken over yet; keeps its address.

    Supports the methods of `socket.socket` that `sidecar.downstream.sockets` uses.

    - `peer`: address that `VirtualLoop.sock_connect` was called with; None before.
    """

    def __init__(self, network: Network) -> None:
        self.peer: Address | None = None
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
