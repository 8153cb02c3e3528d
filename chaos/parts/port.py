"""A listening port that can also refuse, or hang as one whose backlog is full does.

Hanging, for real: a socket that listens with the smallest backlog and accepts nobody, filled up by connections of our
own; the kernel then drops further SYNs, and whoever connects waits.  It works on Linux without privileges.
"""

from __future__ import annotations

import asyncio
import contextlib
import socket
from collections.abc import Callable
from typing import Any, Protocol

BACKLOG = 512
FILLING = 4
"""Connections that fill a backlog of none."""


class Port(Protocol):
    """One address of a link."""

    async def open(self) -> str:
        """Listen, on the same port as before; the address."""

    async def close(self) -> None:
        """Refuse."""

    async def hang(self) -> None:
        """Let whoever connects wait."""


def make_port(factory: Callable[[], asyncio.Protocol], host: str) -> Port:
    """A port of the running loop: one of its own if it has such, else a real one of the address `host`."""
    own: Callable[..., Port] | None = getattr(asyncio.get_running_loop(), "make_port", None)
    return RealPort(factory, host) if own is None else own(factory)


class RealPort:
    """With sockets."""

    def __init__(self, factory: Callable[[], asyncio.Protocol], host: str) -> None:
        self.factory = factory
        self.host = host
        self.number = 0
        self.server: asyncio.Server | None = None
        self.sockets: list[socket.socket] = []

    async def open(self) -> str:
        self._unhang()
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
        self._unhang()
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
                filler.connect((self.host, self.number))  # 0.0.0.0 is this machine
            self.sockets.append(filler)

    def _unhang(self) -> None:
        while self.sockets:
            self.sockets.pop().close()
