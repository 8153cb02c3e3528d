"""Clients by the hundred: attackers, an ordinary client beside them, and checks that nothing of them is left."""

from __future__ import annotations

import asyncio
import contextlib
import socket
import time
from collections.abc import AsyncIterator, Callable, Iterator
from typing import Any

from chaos.parts.client import Client
from tests.e2e.world import World

MIB = 2**20
LIMITS = {
    "max_connections": 300,
    "max_header_bytes": "8KiB",
    "header_timeout": "1s",
    "body_timeout": "1s",
    "idle_timeout": "2s",
    "half_close_timeout": "1s",
    "drain_timeout": "1s",
}
IDLE = 1.0
"""Seconds without a request after which an ordinary client makes a new connection; half of `idle_timeout`."""
SLOW_CLIENTS = {"grace": "1s"}
LET_GO = 60.0
"""Seconds after which a test fails rather than hangs; connections that `LIMITS` does not close would never close."""


class Ordinary:
    """Ordinary client that sends one request after the other on one connection, and counts the answers."""

    def __init__(self, w: World, target: str = "/echo") -> None:
        self.w = w
        self.target = target
        self.answers = 0
        self._is_leaving = False
        self._task: asyncio.Task[None] | None = None

    async def __aenter__(self) -> Ordinary:
        self._task = asyncio.create_task(self._ask())
        await self.served()
        return self

    async def served(self, count: int = 10) -> None:
        """Wait for so many further answers."""
        wanted = self.answers + count
        await until(lambda: self.answers >= wanted or (self._task is not None and self._task.done()))
        assert self.answers >= wanted, "its connection has ended"

    async def __aexit__(self, *_: object) -> None:
        assert self._task is not None
        self._is_leaving = True
        await self._task

    async def _ask(self) -> None:
        while not self._is_leaving:
            async with self.w.sidecar.client() as client:
                asked = time.monotonic()
                while not self._is_leaving and time.monotonic() - asked < IDLE:  # else this process has been slow
                    asked = time.monotonic()
                    answer = await client.request("GET", self.target)
                    assert answer.status == 200
                    self.answers += 1
                    await asyncio.sleep(0.005)


@contextlib.asynccontextmanager
async def attackers(w: World, count: int) -> AsyncIterator[list[Client]]:
    """Open so many connections."""
    async with contextlib.AsyncExitStack() as stack:
        yield await asyncio.gather(*(stack.enter_async_context(w.sidecar.client()) for _ in range(count)))


@contextlib.contextmanager
def deaf(w: World, count: int) -> Iterator[list[socket.socket]]:
    """Open connections that read no answers, with small receive buffers."""
    host, _, port = w.sidecar.inbound.rpartition(":")
    with contextlib.ExitStack() as stack:
        socks = [stack.enter_context(socket.socket()) for _ in range(count)]
        for sock in socks:
            sock.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
            sock.connect((host, int(port)))
            sock.setblocking(False)
        yield socks


@contextlib.asynccontextmanager
async def dribbling(clients: list[Client], head: bytes, piece: bytes) -> AsyncIterator[None]:
    """Let each client send the head, then a piece every tenth of a second, until it is answered or closed."""

    async def dribble(client: Client) -> None:
        client.writer.write(head)
        while not client.writer.is_closing() and not has_heard(client):
            await asyncio.sleep(0.1)
            client.writer.write(piece)

    tasks = [asyncio.create_task(dribble(client)) for client in clients]
    try:
        yield
    finally:
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)


def has_heard(client: Client) -> bool:
    """True if the client has been answered, or its connection closed."""
    return client.reader.at_eof() or bool(client.reader._buffer)  # type: ignore[attr-defined]


async def until(is_true: Callable[[], Any], within: float = LET_GO) -> None:
    """Wait until a function, or a coroutine function, returns a true value."""
    give_up = time.monotonic() + within
    while True:
        found = is_true()
        if await found if asyncio.iscoroutine(found) else found:
            return
        assert time.monotonic() < give_up, f"not within {within} s"
        await asyncio.sleep(0.02)


async def connections(w: World) -> int:
    count: int = (await w.sidecar.state())["listeners"]["inbound"]["connections"]
    return count


async def is_quiet(w: World) -> bool:
    """True if nothing is left of any client or request."""
    state = await w.sidecar.state()
    endpoints = [one for upstream in state["state"]["endpoints"].values() for one in upstream["endpoints"]]
    pools = [pool for upstream in state["state"]["pools"].values() for pool in upstream["pools"].values()]
    return not (
        state["listeners"]["inbound"]["connections"]
        or any(endpoint["in_flight"] for endpoint in endpoints)
        or any(pool["open"] - pool["idle"] + pool["opening"] + pool["waiting"] for pool in pools)
    )


async def has_files(w: World, at_most: int) -> bool:
    files: float = (await w.sidecar.state())["process"]["files"]
    return files <= at_most


async def is_only(w: World, count: int) -> bool:
    return await connections(w) <= count
