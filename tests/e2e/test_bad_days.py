"""Trouble of the whole process: no free descriptors, endless reloads, a clock that jumps, a blocked event loop."""

from __future__ import annotations

import asyncio
import contextlib
import resource
import signal
import sys
from collections.abc import AsyncIterator
from email.utils import parsedate_to_datetime
from pathlib import Path

import pytest
import pytest_asyncio

from chaos.parts.http import request
from chaos.parts.servers import after, answering, echoing
from tests.e2e.crowd import LIMITS, Ordinary, attackers, is_quiet, until
from tests.e2e.world import World, world

pytestmark = pytest.mark.asyncio(loop_scope="module")

SHIFTED = """#!{python}
import signal, time
real, offset = time.time, [0.0]
time.time = lambda: real() + offset[0]
for number, seconds in ((signal.SIGUSR1, 86400.0), (signal.SIGRTMIN, -2 * 86400.0)):
    signal.signal(number, lambda *_, seconds=seconds: offset.__setitem__(0, offset[0] + seconds))
from sidecar.commands import main
main()
"""
"""Program that runs the sidecar under a wall clock; one signal moves it a day forward, another one two days back."""


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def w(tmp_path_factory: pytest.TempPathFactory) -> AsyncIterator[World]:
    directory = tmp_path_factory.mktemp("bad-days")
    command = directory / "sidecar"
    command.write_text(SHIFTED.format(python=sys.executable))
    command.chmod(0o755)
    servers = {"echo": echoing, "slow": after(1.0, answering())}
    patient = {"timeout": {"request": "3s"}}
    async with world(directory, servers, command=command, limits=LIMITS, defaults=patient) as running:
        yield running


async def test_no_descriptors_left(tmp_path: Path) -> None:
    async with world(tmp_path, {"echo": echoing}, limits={**LIMITS, "max_connections": 10_000}) as w:
        files = int((await w.sidecar.state())["process"]["files"])
        resource.prlimit(w.sidecar.pid, resource.RLIMIT_NOFILE, (files + 40, files + 40))
        async with Ordinary(w) as ordinary:
            async with attackers(w, 200):
                before = waits(w.sidecar.pid)
                await ordinary.served(20)
                assert waits(w.sidecar.pid) > before, "it does not spin"
                assert (await w.sidecar.ask("/readyz")).status == 200
            await until(lambda: is_answering(w))
            await ordinary.served()
        await until(lambda: is_quiet(w))


def waits(pid: int) -> int:
    """Return how often the main thread of a process has gone to sleep (voluntary context switches)."""
    status = Path(f"/proc/{pid}/status").read_text()
    return int(status.partition("\nvoluntary_ctxt_switches:")[2].split()[0])


async def is_answering(w: World) -> bool:
    with contextlib.suppress(OSError, asyncio.IncompleteReadError):
        return (await w.sidecar.ask("/readyz")).status == (await w.sidecar.fetch("GET", "/echo")).status == 200
    return False


async def test_a_storm_of_reloads(w: World) -> None:
    policy = w.sidecar.path.read_text()
    async with Ordinary(w) as ordinary:
        for number in range(20):
            good = policy.replace('"idle_timeout": "2s"', f'"idle_timeout": "2.{number}s"')
            w.sidecar.write(good if number % 2 else "version: 1\nbroken: [")
            results = await asyncio.gather(*(w.sidecar.ask("/reload", "POST") for _ in range(5)))
            assert {answer.status for answer in results} == {200 if number % 2 else 422}
            await ordinary.served(1)
    w.sidecar.write(policy)
    assert (await w.sidecar.ask("/reload", "POST")).status == 200
    assert len((await w.sidecar.state())["reloads"]) <= 100


async def test_a_loop_that_stands_still_is_counted(w: World) -> None:
    before = (await w.sidecar.state())["loop"]["stalls"]
    w.sidecar.signal(signal.SIGSTOP)
    await asyncio.sleep(0.4)
    w.sidecar.signal(signal.SIGCONT)
    while (loop := (await w.sidecar.state())["loop"])["stalls"] == before:
        await asyncio.sleep(0.02)
    assert loop["longest_seconds"] >= 0.2
    assert (await w.sidecar.fetch("GET", "/echo")).status == 200


@pytest.mark.parametrize("jump", [signal.SIGUSR1, signal.SIGRTMIN], ids=["a day forward", "two days back"])
async def test_the_wall_clock_jumps(w: World, jump: signal.Signals) -> None:
    async with w.sidecar.client() as idle, w.sidecar.client() as busy, Ordinary(w) as ordinary:
        before = parsedate_to_datetime((await idle.request("GET", "/echo")).get("date"))
        asked = len(w.servers["slow"].requests)
        await busy.send(request("GET", "/slow"))
        await until(lambda: len(w.servers["slow"].requests) > asked)
        w.sidecar.signal(jump)
        assert (await busy.response()).status == 200
        after = await idle.request("GET", "/echo")
        assert after.status == 200
        moved = abs((parsedate_to_datetime(after.get("date")) - before).total_seconds())
        assert moved > 80_000, "dates follow the wall clock"
        await ordinary.served()
    state = await w.sidecar.state()
    assert 0 < state["uptime_seconds"] < 40_000, "it does not"
    assert not w.sidecar.said("bug")
