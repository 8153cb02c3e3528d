"""Event loop of virtual time: where it would block until the next timer, its clock jumps there.

Rules:

1. `time()` and `wall()` move only by such jumps, so code between two awaits takes no time.
2. Connections, listeners and names are those of `network`; a real socket on this loop would be jumped past.
3. A loop on which nothing can happen any more raises `RuntimeError` instead of blocking for ever.
"""

from __future__ import annotations

import asyncio
import selectors
import socket
from collections.abc import Callable
from typing import Any, Final

from sidecar.simulation.network import Network

START: Final = 1.0
"""Seconds on the clock of a new loop; small, so that sums of a few durations come out even."""
EPOCH: Final = 1_750_000_000.0
"""Unix time at which a new loop begins."""


class VirtualSelector(selectors.SelectSelector):
    """Selector that moves a clock instead of waiting."""

    def __init__(self, patience: float) -> None:
        super().__init__()
        self.time = START
        self._patience = patience

    def select(self, timeout: float | None = None) -> list[tuple[selectors.SelectorKey, int]]:
        # Real files are looked at only where worker threads may wake the loop: each look is a system call.
        ready = super().select(self._patience if timeout is None else 0) if self._patience else []
        if not ready:
            if timeout is None:
                raise RuntimeError("deadlock: nothing on the virtual loop can ever happen again")
            self.time += max(0.0, timeout)
        return ready


class VirtualLoop(asyncio.SelectorEventLoop):
    """Event loop with a virtual clock and a virtual network.

    `patience`: seconds of real time for which a loop without timers waits for a worker thread; 0 where no thread is
    used.
    """

    def __init__(self, patience: float = 0.0) -> None:
        self._clock = VirtualSelector(patience)
        super().__init__(self._clock)
        self.network = Network(self)

    def time(self) -> float:
        return self._clock.time

    def wall(self) -> float:
        """Return the Unix time, in seconds."""
        return EPOCH + self._clock.time - START

    # Of the many ways to call these four, those that the sidecar and the parts of a scenario use.

    async def create_connection(  # type: ignore[override]
        self, protocol_factory: Callable[[], asyncio.BaseProtocol], host: str, port: int, **_: Any
    ) -> Any:
        return await self.network.connect(protocol_factory, (host, port))

    async def create_unix_connection(  # type: ignore[override]
        self, protocol_factory: Callable[[], asyncio.BaseProtocol], path: str, **_: Any
    ) -> Any:
        return await self.network.connect(protocol_factory, (path, None))

    async def create_server(  # type: ignore[override]
        self,
        protocol_factory: Callable[[], asyncio.BaseProtocol],
        host: str | None = None,
        port: int = 0,
        *,
        sock: Any = None,
        start_serving: bool = True,
        **_: Any,
    ) -> Any:
        address = (host or "127.0.0.1", port) if sock is None else sock.getsockname()[:2]
        return self.network.listen(protocol_factory, address, accepts=start_serving)

    async def getaddrinfo(self, host: Any, port: Any, **_: Any) -> Any:
        addresses = await self.network.look_up(host)
        return [(socket.AF_INET, socket.SOCK_STREAM, socket.IPPROTO_TCP, "", (each, port)) for each in addresses]
