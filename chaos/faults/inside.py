"""Faults in a service's process: its CPU burnt, its memory leaking, its file descriptors used up.

All are bounded.  A burn takes turns with the service, and a leak ends at `LARGEST_LEAK`.  Before descriptors are used
up, this process's limit on them is lowered.
"""

from __future__ import annotations

import asyncio
import os
from collections.abc import Callable, Coroutine
from typing import TYPE_CHECKING, Any, Final

if TYPE_CHECKING:
    from chaos.parts.service import Service

SLICE: Final = 0.05
"""Seconds of one turn of a burn."""
LARGEST_LEAK: Final = 64 * 2**20
"""Bytes that all leaks may take."""
SPARE: Final = 8
"""Descriptors beyond those in use that the lowered limit allows; they are taken too."""


def descriptors() -> int:
    """Return the number of descriptors of this process; a guess if the system has no /proc."""
    return len(os.listdir("/proc/self/fd")) if os.path.isdir("/proc/self/fd") else 64


class Inside:
    """Faults of one process.

    - `tasks`: faults in force.
    - `leaked`, `files`: memory and descriptors that were taken; `limits`: limit on descriptors before.
    """

    def __init__(self, service: Service) -> None:
        self.service = service
        self.tasks: dict[str, asyncio.Task[None]] = {}
        self.leaked: list[bytearray] = []
        self.files: list[int] = []
        self.limits: tuple[int, int] | None = None
        self._hold: asyncio.Event | None = None

    def begin(self, id: str, kind: str, **how: Any) -> None:
        """Begin a fault: `cpu` (share of a core), `memory` (rate in bytes a second) or `files`."""
        faults: dict[str, Callable[..., Coroutine[Any, Any, None]]] = {
            "cpu": self._burn,
            "memory": self._leak,
            "files": self._exhaust,
        }
        if kind not in faults:
            raise ValueError(f"a service has no fault inside called {kind}")
        self.tasks[id] = asyncio.get_running_loop().create_task(faults[kind](**how))

    def undo(self, id: str) -> None:
        """End a fault; with the last one everything taken is given back."""
        task = self.tasks.pop(id, None)
        if task is not None:
            task.cancel()
        if not self.tasks:
            self.undo_all()

    def undo_all(self) -> None:
        """End all faults and give everything back."""
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
        """Wait while the process is frozen, or its CPU burnt on the virtual loop."""
        while self._hold is not None:
            await self._hold.wait()

    def freeze(self, frozen: bool) -> None:
        """Freeze the process, or let it continue; for the virtual loop."""
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
            await self.service.env.stall(SLICE * share)
            self._release()
            await asyncio.sleep(SLICE * (1 - share))

    async def _leak(self, rate: int) -> None:
        leaked = 0
        while leaked < LARGEST_LEAK:
            await asyncio.sleep(0.1)
            if not self.service.env.is_virtual:
                self.leaked.append(bytearray(int(rate * 0.1)))
            leaked += int(rate * 0.1)

    async def _exhaust(self) -> None:
        server: Any = self.service.server
        if self.service.env.is_virtual:
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
            await asyncio.sleep(0.05)  # descriptors that the service gives back are taken too
