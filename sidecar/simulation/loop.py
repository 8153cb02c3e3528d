"""Event loop with virtual time: its clock jumps to the next timer instead of waiting for it.

Rules:

1. `time()` and `wall()` change only by such jumps, so code between two awaits takes no time.
2. Connections, listeners and names are those of `network`.  Do not use real sockets: the clock would not wait for them.
3. A loop without timers and callbacks raises `RuntimeError` instead of blocking for ever.
"""

from __future__ import annotations

import asyncio
import selectors
import socket
from collections.abc import Callable
from typing import Any, Final

from sidecar.simulation.network import Network

START: Final = 1.0
"""Time of a new loop in seconds; small, so that sums of short durations have no rounding errors."""
EPOCH: Final = 1_750_000_000.0
"""Unix time of a new loop in seconds."""


class VirtualSelector(selectors.SelectSelector):
    """Selector that advances a clock instead of waiting."""

    def __init__(self, patience: float) -> None:
        super().__init__()
        self.time = START
        self._patience = patience
        self.has_patience = patience > 0
        """True if worker threads may wake the loop."""

    def select(self, timeout: float | None = None) -> list[tuple[selectors.SelectorKey, int]]:
        # Real file descriptors are polled only if worker threads may wake the loop: polling is a system call.
        ready = super().select(self._patience if timeout is None else 0) if self._patience else []
        if not ready:
            if timeout is None:
                raise RuntimeError("deadlock: the virtual loop has no timers and no callbacks, and still waits")
            self.time += max(0.0, timeout)
        return ready


class VirtualLoop(asyncio.SelectorEventLoop):
    """Event loop with a virtual clock and a virtual network.

    `patience`: seconds of real time for which a loop without timers waits for a worker thread; 0 if no threads are
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

    def run_in_executor(self, executor: Any, function: Callable[..., Any], *args: Any) -> asyncio.Future[Any]:  # type: ignore[override]
        """Run a function: in a worker thread if the loop waits for such, else at once."""
        if self._clock.has_patience:
            return super().run_in_executor(executor, function, *args)
        future = self.create_future()
        try:
            future.set_result(function(*args))
        except Exception as error:
            future.set_exception(error)
        return future

    async def shutdown_default_executor(self, timeout: float | None = None) -> None:
        """Wait for the worker threads, without a timeout: threads take real time, in which no virtual time passes."""
        await super().shutdown_default_executor()

    # These support only the arguments that the sidecar and the parts of a scenario use.

    async def create_connection(  # type: ignore[override]
        self,
        protocol_factory: Callable[[], asyncio.BaseProtocol],
        host: str = "",
        port: int = 0,
        *,
        ssl: Any = None,
        sock: Any = None,
        **_: Any,
    ) -> Any:
        if sock is not None:
            return await self.network.connect(protocol_factory, sock.peer)
        return await self.network.connect(protocol_factory, (host, port), is_tls=ssl is not None)

    async def sock_connect(self, sock: Any, address: Any) -> None:
        """Note the address; the connection is made by `create_connection`."""
        sock.peer = address

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
