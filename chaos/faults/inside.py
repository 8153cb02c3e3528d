"""Faults within a service's process: its CPU burnt, its memory leaking, its file descriptors used up.

All are bounded: a burn takes turns with the service, a leak ends at `LARGEST_LEAK`, and the limit on descriptors is
lowered for this process alone before they are taken.
"""

from __future__ import annotations

import asyncio
import os
from collections.abc import Callable, Coroutine
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from chaos.parts.service import Service

SLICE = 0.05
"""Seconds: one turn of a burn."""
LARGEST_LEAK = 64 * 2**20
SPARE = 8
"""Descriptors above those in use when it begins; they are taken too."""


def descriptors() -> int:
    """How many this process has; a guess where the system does not tell."""
    return len(os.listdir("/proc/self/fd")) if os.path.isdir("/proc/self/fd") else 64


class Inside:
    """What is wrong in one process."""

    def __init__(self, service: Service) -> None:
        self.service = service
        self.tasks: dict[str, asyncio.Task[None]] = {}
        self.leaked: list[bytearray] = []
        self.files: list[int] = []
        self.limits: tuple[int, int] | None = None
        self._hold: asyncio.Event | None = None

    def begin(self, id: str, kind: str, **how: Any) -> None:
        """`cpu` (share), `memory` (rate in bytes/s), `files`."""
        faults: dict[str, Callable[..., Coroutine[Any, Any, None]]] = {
            "cpu": self._burn,
            "memory": self._leak,
            "files": self._exhaust,
        }
        if kind not in faults:
            raise ValueError(f"nothing inside of a service is called {kind}")
        self.tasks[id] = asyncio.get_running_loop().create_task(faults[kind](**how))

    def undo(self, id: str) -> None:
        task = self.tasks.pop(id, None)
        if task is not None:
            task.cancel()
        if not self.tasks:
            self.undo_all()

    def undo_all(self) -> None:
        for task in self.tasks.values():
            task.cancel()
        self.tasks.clear()
        self.leaked.clear()
        while self.files:
            os.close(self.files.pop())
        if self.limits is not None:
            import resource

            resource.setrlimit(resource.RLIMIT_NOFILE, self.limits)
            self.limits = None
        self._release()

    async def wait(self) -> None:
        """Until the process has time again: what a burn is on the virtual loop."""
        while self._hold is not None:
            await self._hold.wait()

    def freeze(self, frozen: bool) -> None:
        """Nothing goes on until it is not frozen any more."""
        if frozen:
            self._hold = self._hold or asyncio.Event()
        else:
            self._release()

    def _release(self) -> None:
        if self._hold is not None:
            self._hold.set()
            self._hold = None

    async def _burn(self, share: float) -> None:
        while True:
            self._hold = asyncio.Event()
            await self.service.world.stall(SLICE * share)
            self._release()
            await asyncio.sleep(SLICE * (1 - share))

    async def _leak(self, rate: int) -> None:
        leaked = 0
        while leaked < LARGEST_LEAK:
            await asyncio.sleep(0.1)
            if not self.service.world.is_virtual:
                self.leaked.append(bytearray(int(rate * 0.1)))
            leaked += int(rate * 0.1)

    async def _exhaust(self) -> None:
        server: Any = self.service.server
        if self.service.world.is_virtual:
            server.hang()
            try:
                await asyncio.Event().wait()
            finally:
                server.resume()
        import resource

        used = descriptors()
        self.limits = resource.getrlimit(resource.RLIMIT_NOFILE)
        resource.setrlimit(resource.RLIMIT_NOFILE, (used + SPARE, self.limits[1]))
        while True:
            try:
                while len(self.files) < used + SPARE:
                    self.files.append(os.open(os.devnull, os.O_RDONLY))
            except OSError:
                pass
            await asyncio.sleep(0.05)  # what others give back is taken too
