"""Faults on real sockets and processes: refused, hanging and reset connections; CPU, memory and descriptors used up."""

from __future__ import annotations

import asyncio
import contextlib
import json
import os
import sys
import time
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import pytest

from chaos.cluster.local import Local
from chaos.parts.pooled_client import Answer, PooledClient

PATIENCE = 60.0
"""Seconds after which a test fails rather than hangs."""
SERVICE: dict[str, Any] = {"workers": 8, "queue": 8, "work": [{"path": "/", "median": 0.001}]}


class Scene:
    """Service and a link in front of it, each in a process of its own."""

    def __init__(self, cluster: Local, address: str, link: str) -> None:
        self.cluster = cluster
        self.address = address
        self.link = link
        self.client = PooledClient()

    async def ask(self, timeout: float = 2.0, *, direct: bool = False) -> Answer:
        address = self.address if direct else self.link
        return await self.client.fetch(address, "GET", "/", "app", {}, timeout=timeout)

    def pid(self, name: str) -> int:
        return self.cluster.processes[name].process.pid


@contextlib.asynccontextmanager
async def scene(directory: Path) -> AsyncIterator[Scene]:
    cluster = Local(directory, lambda _: None, 1, "bare")
    try:
        (address,) = await cluster.start("service", "app", SERVICE)
        (link,) = await cluster.start("link", "link", {"target": address})
        found = Scene(cluster, address, link)
        yield found
        found.client.close()
    finally:
        await cluster.close()


async def test_refuse_hang_and_reset_on_real_sockets(tmp_path: Path) -> None:
    async with scene(tmp_path) as s:
        tell = s.cluster.tell
        assert (await s.ask()).status == 200
        await tell("link", "toxic", id="a", kind="refuse")
        s.client.close()
        assert (await s.ask()).reason == "refused"
        await tell("link", "undo", id="a")
        assert (await s.ask()).status == 200
        await tell("link", "toxic", id="b", kind="reset")
        s.client.close()
        assert (await s.ask()).reason == "reset"
        await tell("link", "undo", id="b")
        assert (await s.ask()).status == 200
        if sys.platform.startswith("linux"):
            await tell("link", "toxic", id="c", kind="backlog")
            s.client.close()
            assert (await s.ask(timeout=0.5)).reason == "timeout"
            await tell("link", "undo", id="c")
            assert (await s.ask()).status == 200


async def test_a_reset_is_one_on_the_wire(tmp_path: Path) -> None:
    """The reader gets an error (RST) instead of an end (FIN)."""
    async with scene(tmp_path) as s:
        await s.cluster.tell("link", "toxic", id="a", kind="reset")
        host, _, port = s.link.partition(":")
        reader, writer = await asyncio.open_connection(host, int(port))
        writer.write(b"GET / HTTP/1.1\r\nhost: app\r\n\r\n")
        with pytest.raises(ConnectionResetError):
            await asyncio.wait_for(reader.read(), PATIENCE)
        writer.close()


async def test_latency_is_added(tmp_path: Path) -> None:
    async with scene(tmp_path) as s:
        await s.ask()
        await s.cluster.tell("link", "toxic", id="a", kind="latency", by=0.2)
        began = time.monotonic()
        assert (await s.ask()).status == 200
        assert time.monotonic() - began > 0.19


async def test_a_killed_process_starts_again_at_its_address(tmp_path: Path) -> None:
    async with scene(tmp_path) as s:
        await s.cluster.end("app", "kill")
        assert (await s.ask(direct=True)).reason == "refused"
        assert await s.cluster.start("service", "app", {**SERVICE, "address": s.address}) == [s.address]
        assert (await s.ask(direct=True)).status == 200


async def test_a_stopped_process_continues(tmp_path: Path) -> None:
    async with scene(tmp_path) as s:
        await s.cluster.end("app", "stop")
        assert (await s.ask(timeout=0.3, direct=True)).reason == "timeout"
        await s.cluster.end("app", "continue")
        assert (await s.ask(direct=True)).status == 200


@pytest.mark.skipif(not Path("/proc/self/statm").exists(), reason="needs /proc")
async def test_leaked_memory_is_given_back(tmp_path: Path) -> None:
    async with scene(tmp_path) as s:
        before = memory(s.pid("app"))
        await s.cluster.tell("app", "inside", id="a", kind="memory", rate=40 * 2**20)
        async with asyncio.timeout(PATIENCE):
            while memory(s.pid("app")) < before + 10 * 2**20:
                await asyncio.sleep(0.05)
        await s.cluster.tell("app", "undo", id="a")
        assert memory(s.pid("app")) < before + 8 * 2**20


@pytest.mark.skipif(not Path("/proc/self/stat").exists(), reason="needs /proc")
async def test_a_burn_uses_the_cpu(tmp_path: Path) -> None:
    async with scene(tmp_path) as s:
        before = cpu(s.pid("app"))
        await s.cluster.tell("app", "inside", id="a", kind="cpu", share=0.5)
        async with asyncio.timeout(PATIENCE):
            while cpu(s.pid("app")) < before + 0.2:
                await asyncio.sleep(0.05)
        await s.cluster.tell("app", "undo", id="a")
        burnt = cpu(s.pid("app"))
        await asyncio.sleep(0.5)
        assert cpu(s.pid("app")) < burnt + 0.1


@pytest.mark.skipif(not Path("/proc/self/fd").exists(), reason="needs /proc")
async def test_a_process_without_descriptors_accepts_nobody(tmp_path: Path) -> None:
    async with scene(tmp_path) as s:
        assert (await s.ask(direct=True)).status == 200
        await s.cluster.tell("app", "inside", id="a", kind="files")
        async with asyncio.timeout(PATIENCE):
            while (await s.ask(timeout=0.5, direct=True)).status != 0:
                s.client.close()
                await asyncio.sleep(0.1)
        await s.cluster.tell("app", "undo", id="a")
        async with asyncio.timeout(PATIENCE):
            while (await s.ask(timeout=0.5, direct=True)).status != 200:
                await asyncio.sleep(0.1)


def memory(pid: int) -> int:
    return int(Path(f"/proc/{pid}/statm").read_text().split()[1]) * os.sysconf("SC_PAGE_SIZE")


def cpu(pid: int) -> float:
    words = Path(f"/proc/{pid}/stat").read_text().rpartition(") ")[2].split()
    return (int(words[11]) + int(words[12])) / os.sysconf("SC_CLK_TCK")


async def test_an_unknown_command_is_refused(tmp_path: Path) -> None:
    from chaos.cluster.base import ClusterError

    async with scene(tmp_path) as s:
        with pytest.raises(ClusterError, match="knows no command dance"):
            await s.cluster.tell("app", "dance")


async def test_names_are_resolved_by_the_scenario(tmp_path: Path) -> None:
    from chaos.cluster.sidecar_process import with_names
    from sidecar.upstream.resolver import LookupFailedError

    async def others(name: str, family: str, is_fresh: bool) -> Any:
        return [(f"{name} {family} {is_fresh}", 7.0)]

    path = tmp_path / "names.json"
    path.write_text(json.dumps({"a.test": {"addresses": ["127.0.0.7"]}, "b.test": {"fail": True, "addresses": []}}))
    ask = with_names(path, others)
    assert list(await ask("a.test", "any", False)) == [("127.0.0.7", 0.0)]
    assert list(await ask("c.test", "ipv4", True)) == [("c.test ipv4 True", 7.0)]
    with pytest.raises(LookupFailedError):
        await ask("b.test", "any", False)
