"""Test of `sidecar demo shop`: one order goes through six sidecars."""

from __future__ import annotations

import asyncio
import os
import re
import shutil
import socket
import sys
from pathlib import Path

from sidecar.demo.shop.collector import obstacle

ROOT = Path(__file__).parents[2]


def free_range(count: int) -> int:
    """Return the first of so many free ports in a row."""
    for start in range(20000 + os.getpid() % 5000, 60000, count):
        sockets = []
        try:
            for port in range(start, start + count):
                sockets.append(socket.create_server(("127.0.0.1", port)))  # noqa: PERF401 - those bound before a failure stay known
        except OSError:
            continue
        finally:
            for sock in sockets:
                sock.close()
        return start
    raise AssertionError("no free ports")


async def test_an_order_goes_through_all_of_them() -> None:
    process = await asyncio.create_subprocess_exec(
        sys.executable, "-m", "sidecar", "demo", "shop",
        cwd=ROOT, env={**os.environ, "SHOP_ONCE": "1", "SHOP_PORT": str(free_range(27))},
        stdout=asyncio.subprocess.PIPE, stderr=asyncio.subprocess.STDOUT,
    )  # fmt: skip
    output, _ = await asyncio.wait_for(process.communicate(), 120)
    assert process.returncode == 0, output.decode()
    text = output.decode()
    assert "through six sidecars: 200" in text
    assert "of the gRPC service, as JSON: 200" in text
    assert "made of three services: 200" in text
    assert ("without Redis" in text) is (shutil.which("redis-server") is None)
    if obstacle():
        assert f"without a collector: {obstacle()}" in text
    else:
        spans = int(re.findall(r"the collector has received (\d+) spans", text)[0])
        assert spans >= 2 * 9, "two each: web in and out, orders in and out three times, inventory, payments, prices"
