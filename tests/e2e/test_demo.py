"""Tests of `sidecar demo`: the trial passes, a port in use is named, and no process is left."""

from __future__ import annotations

import asyncio
import os
import random
import shutil
import signal
import socket
import sys
import tomllib
from pathlib import Path

import pytest

from sidecar.demo.shop import CALLS
from sidecar.demo.trial import Ports
from sidecar.process.children import is_free
from tests.support.process import restore_sigint

PATIENCE = 120.0
"""Seconds after which a test fails rather than hangs."""
ROOT = Path(__file__).parents[2]


def free_ports(count: int) -> list[dict[str, str]]:
    """Return environments for so many demos, each with six free ports in a row, below those of connections."""
    while True:
        first = random.randrange(20000, 30000)
        if all(is_free("127.0.0.1", first + n) for n in range(6 * count)):
            return [
                {"DEMO_PORT": str(start), "DEMO_ADMIN_PORT": str(start + 1), "DEMO_SERVICE_PORT": str(start + 2)}
                for start in range(first, first + 6 * count, 6)
            ]


async def demo(env: dict[str, str], place: Path = ROOT) -> asyncio.subprocess.Process:
    return await asyncio.create_subprocess_exec(
        sys.executable, "-m", "sidecar", "demo",
        cwd=place, env={**os.environ, "PYTHONUNBUFFERED": "1", **env},
        stdout=asyncio.subprocess.PIPE, stderr=asyncio.subprocess.STDOUT, preexec_fn=restore_sigint,
    )  # fmt: skip


def install(place: Path) -> None:
    """Copy the files of a wheel, so that the demo runs without the checkout."""
    wheel = tomllib.loads((ROOT / "pyproject.toml").read_text())["tool"]["hatch"]["build"]["targets"]["wheel"]
    shutil.copytree(ROOT / "sidecar", place / "sidecar", ignore=shutil.ignore_patterns("__pycache__"))
    for source, target in wheel["force-include"].items():
        path = place / target
        path.parent.mkdir(exist_ok=True)
        (shutil.copytree if (ROOT / source).is_dir() else shutil.copy)(ROOT / source, path)


async def test_every_policy_does_as_it_says_in_a_checkout_and_installed(tmp_path: Path) -> None:
    """Both demos run at once, because each waits for much of its time."""
    install(tmp_path)
    assert {path.stem for path in (tmp_path / "sidecar/demo/policies/shop").glob("*.yaml")} >= set(CALLS)

    async def check(env: dict[str, str], place: Path) -> None:
        process = await demo({**env, "DEMO_ONCE": "1", "PYTHONPATH": str(place)}, place)
        output, _ = await asyncio.wait_for(process.communicate(), PATIENCE)
        assert process.returncode == 0, output.decode()
        assert "EXPECTED" not in output.decode()

    await asyncio.gather(*map(check, free_ports(2), (ROOT, tmp_path)))


async def test_a_taken_port_is_named_with_a_way_out() -> None:
    (env,) = free_ports(1)
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", int(env["DEMO_PORT"])))
        taken.listen()
        process = await demo(env)
        output, _ = await asyncio.wait_for(process.communicate(), PATIENCE)
    assert process.returncode == 1
    assert f"port {env['DEMO_PORT']} is in use" in output.decode()
    assert f"DEMO_PORT={int(env['DEMO_PORT']) + 1000} sidecar demo" in output.decode()


@pytest.mark.skipif(not sys.platform.startswith("linux"), reason="only Linux tells a child that its parent was killed")
async def test_nothing_stays_behind() -> None:
    """One demo for each signal that ends it; they run at once, because each waits for much of its time."""
    signals = (signal.SIGINT, signal.SIGTERM, signal.SIGKILL)
    await asyncio.gather(*map(end_demo, signals, free_ports(len(signals))))


async def end_demo(how: signal.Signals, env: dict[str, str]) -> None:
    """Start a demo, end it by a signal, and wait until nothing listens on its ports."""
    process = await demo(env)
    assert process.stdout is not None
    said = b""
    while b"Ctrl-C" not in said:
        line = await asyncio.wait_for(process.stdout.readline(), PATIENCE)
        said += line
        assert line, f"it ended:\n{said.decode()}"
    process.send_signal(how)
    assert await asyncio.wait_for(process.wait(), PATIENCE) == (-how if how == signal.SIGKILL else 0)
    await process.stdout.read()
    ports = [port for _, port in Ports.of(lambda name, default: env.get(name, default)).all()]
    async with asyncio.timeout(PATIENCE):
        for port in ports:
            while await is_listened_on(port):
                await asyncio.sleep(0.05)


async def is_listened_on(port: int) -> bool:
    try:
        _, writer = await asyncio.open_connection("127.0.0.1", port)
    except OSError:
        return False
    writer.transport.abort()
    return True
