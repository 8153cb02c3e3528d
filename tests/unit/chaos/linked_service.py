"""Parts of a run on the virtual loop, without a whole run."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from typing import Any

from chaos.parts.link import Link
from chaos.parts.part import PartEnv, Row
from chaos.parts.pooled_client import Answer, PooledClient
from chaos.parts.service import Service
from sidecar.simulation.loop import VirtualLoop


def play(scene: Callable[[], Awaitable[None]]) -> None:
    """Run a scene in virtual time."""

    async def main() -> None:
        await scene()

    with asyncio.Runner(loop_factory=VirtualLoop) as runner:
        runner.run(main())


def part_env(seed: str = "1", report: Callable[[Row], None] = lambda _: None) -> PartEnv:
    """Return the surroundings of a part on the running virtual loop."""
    return PartEnv(asyncio.get_running_loop().time, seed, report, asyncio.sleep, is_virtual=True)


class LinkedService:
    """Service, a link in front of it, and a client."""

    def __init__(self, seed: str = "1") -> None:
        self.rows: list[Row] = []
        self.env = part_env(seed, self.rows.append)
        self.client = PooledClient()
        self.service: Service
        self.link: Link
        self.address = ""

    async def set(
        self, workers: int = 10, queue: int = 10, time: float = 0.01, body: int = 64, **spec: Any
    ) -> LinkedService:
        work = [{"path": "/", "median": time, "body": body}]
        self.service = Service("app", {"workers": workers, "queue": queue, "work": work, **spec}, self.env)
        (target,) = await self.service.start()
        self.link = Link("app-link", {"target": target}, self.env)
        (self.address,) = await self.link.start()
        return self

    async def ask(
        self, path: str = "/", timeout: float = 5.0, method: str = "GET", **fields: str
    ) -> tuple[Answer, float]:
        """Send one request through the link; return the answer and the seconds that it took.

        The method `CALL` stands for a call of gRPC.
        """
        now = asyncio.get_running_loop().time
        began = now()
        how = (
            ("POST", path, "app", fields, b"x", timeout)
            if method == "CALL"
            else (method, path, "app", fields, b"", timeout)
        )
        answer = await self.client.fetch(self.address, *how, is_call=method == "CALL", tcp=self.service.tcp)
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
