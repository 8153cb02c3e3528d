"""A loop whose time and network are virtual: whole scenarios run on it in one thread, as fast as the code allows.

Clock and connections are those of the policy tests (`sidecar.policytest`); what is added here are listeners that can
refuse and hang, and names.  Nothing is random and no time of the machine is looked at, so a run is a function of its
seed.
"""

from __future__ import annotations

import asyncio
import socket
from collections.abc import Callable
from typing import Any

from sidecar.simulation.network import Address, MemoryLoop

FIRST_PORT = 20_000


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


class VirtualLoop(MemoryLoop):
    """The loop."""

    def __init__(self) -> None:
        super().__init__()
        self.servers: dict[Address, VirtualServer] = {}
        self.accept = self._accept
        self.names: Callable[[str], tuple[float, list[str]]] | None = None
        """How long a look-up takes and what it finds; OSError where it finds nothing."""
        self.ports = FIRST_PORT

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

    async def _accept(self, address: Address) -> asyncio.Protocol:
        """Whoever listens there; a connect takes a turn of the loop at least."""
        while (server := self.servers.get(address)) is not None and server.waiting is not None:
            future = self.create_future()
            server.waiting.append(future)
            await future
        await asyncio.sleep(0)
        if server is None:
            raise ConnectionRefusedError(111, f"Connect call failed {address}")
        return server.factory()

    async def getaddrinfo(self, host: Any, port: Any, **_: Any) -> Any:
        delay, addresses = (0.0, [host]) if self.names is None or host[:1].isdigit() else self.names(host)
        await asyncio.sleep(delay)
        return [(socket.AF_INET, socket.SOCK_STREAM, 6, "", (address, port)) for address in addresses]
