"""Parts of a run on the virtual loop, without the rest of it."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from typing import Any

from chaos.cluster.virtual import VirtualLoop
from chaos.parts.client import Answer, Client
from chaos.parts.link import Link
from chaos.parts.part import Row, World
from chaos.parts.service import Service


def play(scene: Callable[[], Awaitable[None]]) -> None:
    """Run a scene in virtual time."""

    async def main() -> None:
        await scene()

    with asyncio.Runner(loop_factory=VirtualLoop) as runner:
        runner.run(main())


class Stage:
    """A service, a link in front of it, and a client."""

    def __init__(self, seed: str = "1") -> None:
        loop = asyncio.get_running_loop()
        self.rows: list[Row] = []
        self.world = World(loop.time, seed, self.rows.append, asyncio.sleep, is_virtual=True)
        self.client = Client()
        self.service: Service
        self.link: Link
        self.address = ""

    async def set(self, workers: int = 10, queue: int = 10, time: float = 0.01, body: int = 64, **spec: Any) -> Stage:
        work = [{"path": "/", "median": time, "body": body}]
        self.service = Service("app", {"workers": workers, "queue": queue, "work": work, **spec}, self.world)
        (target,) = await self.service.start()
        self.link = Link("app-link", {"target": target}, self.world)
        (self.address,) = await self.link.start()
        return self

    async def ask(
        self, path: str = "/", timeout: float = 5.0, method: str = "GET", **fields: str
    ) -> tuple[Answer, float]:
        """One request through the link, and the seconds that it took."""
        now = asyncio.get_running_loop().time
        began = now()
        answer = await self.client.fetch(self.address, method, path, "app", fields, timeout=timeout)
        return answer, now() - began

    async def toxic(self, kind: str, **how: Any) -> None:
        await self.link.do("toxic", id="fault", kind=kind, **how)

    async def undo(self) -> None:
        await self.link.do("undo", id="fault")

    async def strike(self, _kind: str, **how: Any) -> None:
        await self.service.do("answer", id="fault", kind=_kind, **how)

    async def close(self) -> None:
        self.client.close()
        await self.link.stop()
        await self.service.stop()
