"""Limits and budgets of several workers while workers are killed again and again, with real processes."""

from __future__ import annotations

import asyncio
import os
import signal
from pathlib import Path
from typing import Any, Final

import pytest

from tests.support.process import PATIENCE, Sidecar, policies, route

pytestmark = pytest.mark.asyncio(loop_scope="module")

KILLS: Final = int(os.environ.get("TEST_KILLS", "3"))
"""Workers that are killed, one after the other; `tests/unit/process/workers` kills many in virtual time."""
PERMITS = 4
RATE, BURST = 40, 9
FLOOR, WINDOW = 2, 10
"""Retries a second of the budget, and its window in seconds."""


class Counted:
    """Requests of all upstream connections.  Those for permits are answered once all permits are in use."""

    def __init__(self) -> None:
        self.counts: dict[str, int] = {}
        """Requests by path."""
        self.busy: set[Counting] = set()
        """Connections with a request that holds a permit."""
        self.most = 0
        self.full = asyncio.Event()
        """Set each time that all permits are in use."""
        self.is_over = False
        """True to answer every request at once."""

    def begin(self, connection: Counting) -> None:
        """Take a request that holds a permit, unless its connection was lost meanwhile."""
        if connection.transport.is_closing():
            return
        self.busy.add(connection)
        self.most = max(self.most, len(self.busy))
        if len(self.busy) >= PERMITS:
            self.full.set()
            self.answer()
        elif self.is_over:
            self.answer()

    def answer(self) -> None:
        busy, self.busy = self.busy, set()
        for connection in busy:
            connection.answer(b"200 OK")


class Counting(asyncio.Protocol):
    """Upstream connection that counts its requests."""

    def __init__(self, counted: Counted) -> None:
        self._counted = counted
        self.transport: Any = None

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self.transport = transport

    def data_received(self, data: bytes) -> None:
        kind = data.split(b" ", 2)[1].decode().strip("/")
        counted = self._counted
        counted.counts[kind] = counted.counts.get(kind, 0) + 1
        if kind == "permits":  # after the ends of connections that the same turn of the loop reports
            asyncio.get_running_loop().call_soon(counted.begin, self)
        else:
            self.answer(b"503 Busy" if kind == "retries" else b"200 OK")

    def answer(self, status: bytes) -> None:
        self.transport.write(b"HTTP/1.1 " + status + b"\r\ncontent-length: 0\r\n\r\n")

    def connection_lost(self, exc: Exception | None) -> None:
        self._counted.busy.discard(self)


async def test_limits_and_budgets_hold_while_workers_are_killed(tmp_path: Path) -> None:
    loop, counted = asyncio.get_running_loop(), Counted()
    server = await loop.create_server(lambda: Counting(counted), "127.0.0.1", 0)
    url = f"http://127.0.0.1:{server.sockets[0].getsockname()[1]}"
    rules = policies(
        process={"workers": 2},
        upstreams={
            "permits": {"endpoints": [url], "concurrency": {"max": PERMITS}},
            "rate": {"endpoints": [url]},
            "retries": {
                "endpoints": [url],
                "ejection": "off",
                "retry_budget": {"ratio": "10%", "min_per_second": FLOOR, "window": f"{WINDOW}s"},
            },
        },
        routes=[
            route("permits"),
            route("rate", rate_limit=[{"name": "all", "rate": f"{RATE}/s", "burst": BURST}]),
            route("retries", retry={"max_attempts": 3, "on": [503], "backoff": {"base": "1ms", "max": "1ms"}}),
        ],
    )
    is_over = False
    sent: dict[str, int] = {"permits": 0, "rate": 0, "retries": 0}

    async def load(sidecar: Sidecar, kind: str, pause: float) -> None:
        while not is_over:
            sent[kind] += 1
            try:
                await sidecar.fetch("GET", f"/{kind}")
            except (OSError, EOFError, ValueError):
                """The worker of this connection was killed."""
            await asyncio.sleep(pause)

    async with Sidecar(rules, tmp_path) as sidecar:
        began = loop.time()
        async with asyncio.TaskGroup() as group:
            for kind, clients, pause in (("permits", 8, 0.01), ("rate", 2, 0.01), ("retries", 2, 0.01)):
                for _ in range(clients):
                    group.create_task(load(sidecar, kind, pause))
            for turn in range(KILLS):
                await sidecar.until("worker.ready", turn + 2)  # the other one serves
                os.kill(sidecar.said("worker.ready")[turn]["pid"], signal.SIGKILL)
                await sidecar.until("worker.ended", turn + 1)
                counted.full.clear()
                async with asyncio.timeout(PATIENCE):
                    await counted.full.wait()  # the permits of the dead worker are in use again
            is_over = counted.is_over = True
            counted.answer()
        seconds = loop.time() - began
        assert [ended["cause"] for ended in sidecar.said("worker.ended")] == ["signal SIGKILL"] * KILLS
    server.close()
    assert counted.most == PERMITS
    assert counted.counts["rate"] <= 1 + BURST + RATE * (seconds + 0.1)
    first = sent["retries"]
    windows = seconds / WINDOW + 1
    assert first > 2 * KILLS, "the other worker serves"
    assert 0 < counted.counts["retries"] - first <= FLOOR * WINDOW * windows + 0.1 * first
