"""Listening port that can also refuse connections, or let them hang as with a full backlog.

A real port hangs with a socket that has the smallest backlog, accepts no connection, and is filled up by connections of
its own.  The kernel then drops further SYNs, so clients wait.  This works on Linux, without privileges.
"""

from __future__ import annotations

import asyncio
import contextlib
import socket
from collections.abc import Callable
from typing import Any, Final, Protocol

from sidecar.simulation.loop import VirtualLoop
from sidecar.simulation.network import Network, VirtualServer

BACKLOG: Final = 512
FILLING: Final = 4
"""Connections that fill a backlog of zero."""


class Port(Protocol):
    """Port of a link."""

    async def open(self) -> str:
        """Listen, on the same port as before, and return the address."""

    async def close(self) -> None:
        """Refuse connections."""

    async def hang(self) -> None:
        """Let new connections hang."""


def make_port(factory: Callable[[], asyncio.Protocol], host: str) -> Port:
    """Return a port of the running loop: a virtual one on a virtual loop, else a real one at the address `host`."""
    loop = asyncio.get_running_loop()
    return VirtualPort(loop.network, factory) if isinstance(loop, VirtualLoop) else RealPort(factory, host)


class VirtualPort:
    """Port of a virtual network."""

    def __init__(self, network: Network, factory: Callable[[], asyncio.Protocol]) -> None:
        self.network = network
        self.factory = factory
        self.number = 0
        self.server: VirtualServer | None = None

    async def open(self) -> str:
        await self.close()
        self.server = self.network.listen(self.factory, ("127.0.0.1", self.number))
        self.number = self.server.address[1]
        return f"127.0.0.1:{self.number}"

    async def close(self) -> None:
        if self.server is not None:
            self.server.close()
            self.server = None

    async def hang(self) -> None:
        if self.server is not None:
            self.server.hang()


class RealPort:
    """Port of this machine.

    - `number`: 0 until the system has chosen one.
    - `sockets`: listener and fillers while it hangs.
    """

    def __init__(self, factory: Callable[[], asyncio.Protocol], host: str) -> None:
        self.factory = factory
        self.host = host
        self.number = 0
        self.server: asyncio.Server | None = None
        self.sockets: list[socket.socket] = []

    async def open(self) -> str:
        self._end_hang()
        loop = asyncio.get_running_loop()
        sock = self._bound()
        self.server = await loop.create_server(self.factory, sock=sock, backlog=BACKLOG)
        return f"{self.host}:{self.number}"

    def _bound(self) -> Any:
        sock = socket.socket()
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        sock.bind((self.host, self.number))
        sock.setblocking(False)
        self.number = sock.getsockname()[1]
        return sock

    async def close(self) -> None:
        self._end_hang()
        if self.server is not None:
            self.server.close()
            self.server = None
            await asyncio.sleep(0.01)  # the loop closes the socket in its next turn

    async def hang(self) -> None:
        await self.close()
        listener = self._bound()
        listener.listen(0)
        self.sockets.append(listener)
        for _ in range(FILLING):
            filler = socket.socket()
            filler.setblocking(False)
            with contextlib.suppress(BlockingIOError):
                filler.connect((self.host, self.number))  # connecting to 0.0.0.0 reaches this machine
            self.sockets.append(filler)

    def _end_hang(self) -> None:
        """Close the hanging listener and the connections that fill its backlog."""
        while self.sockets:
            self.sockets.pop().close()
