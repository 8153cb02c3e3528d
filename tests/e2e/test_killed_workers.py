"""Limits and budgets of several workers while workers are killed again and again, with real processes."""

from __future__ import annotations

import asyncio
import os
import signal
from pathlib import Path
from typing import Any

import pytest

from tests.support.process import Sidecar, policies, route

pytestmark = pytest.mark.asyncio(loop_scope="module")

KILLS = 10
PERMITS = 4
RATE, BURST = 40, 9
FLOOR, WINDOW = 2, 10
"""Retries a second of the budget, and its window in seconds."""


class Counting(asyncio.Protocol):
    """Upstream connection that counts its requests by path, and those in flight."""

    def __init__(self, counted: Counted) -> None:
        self._counted = counted
        self._is_busy = False
        self._transport: Any = None

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._transport = transport

    def data_received(self, data: bytes) -> None:
        kind = data.split(b" ", 2)[1].decode().strip("/")
        counted = self._counted
        counted.counts[kind] = counted.counts.get(kind, 0) + 1
        if kind != "permits":
            self._answer(b"503 Busy" if kind == "retries" else b"200 OK")
            return
        self._is_busy = True
        counted.in_flight += 1
        counted.most = max(counted.most, counted.in_flight)
        asyncio.get_running_loop().call_later(0.02, self._finish)

    def _finish(self) -> None:
        if self._is_busy:
            self._is_busy = False
            self._counted.in_flight -= 1
            self._answer(b"200 OK")

    def _answer(self, status: bytes) -> None:
        self._transport.write(b"HTTP/1.1 " + status + b"\r\ncontent-length: 0\r\n\r\n")

    def connection_lost(self, exc: Exception | None) -> None:
        if self._is_busy:
            self._is_busy = False
            self._counted.in_flight -= 1


class Counted:
    """Counts of all connections."""

    def __init__(self) -> None:
        self.counts: dict[str, int] = {}
        self.in_flight = self.most = 0


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
            is_over = True
        seconds = loop.time() - began
        assert [ended["cause"] for ended in sidecar.said("worker.ended")] == ["signal SIGKILL"] * KILLS
    server.close()
    assert 1 < counted.most <= PERMITS
    assert counted.counts["rate"] <= 1 + BURST + RATE * (seconds + 0.1)
    first = sent["retries"]
    windows = seconds / WINDOW + 1
    assert first > 2 * KILLS, "the other worker serves"
    assert 0 < counted.counts["retries"] - first <= FLOOR * WINDOW * windows + 0.1 * first
