"""Tests of the process's settings of the interpreter."""

from __future__ import annotations

import gc
import os
import subprocess
import sys
import time

import pytest

from sidecar.process import interpreter
from sidecar.process.interpreter import OLD, freeze_startup, prepare_imports, yield_interpreter


def test_what_startup_made_is_out_of_the_collectors_sight(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PYDANTIC_DISABLE_PLUGINS", "as it was")
    before, thresholds = gc.get_freeze_count(), gc.get_threshold()
    try:
        prepare_imports()
        made: list[list[object]] = [[] for _ in range(2000)]
        assert not gc.isenabled(), "nothing is collected while modules are imported"
        freeze_startup()
        assert gc.isenabled()
        assert gc.get_freeze_count() >= before + len(made)
        assert not any(each is made for each in gc.get_objects())
        assert gc.get_threshold() == (*thresholds[:2], OLD)
    finally:
        gc.enable()
        gc.unfreeze()
        gc.set_threshold(*thresholds)


FORKS = """
import asyncio, gc, os
from sidecar.process.children import tied_to_parent
from sidecar.process.interpreter import prepare_imports
prepare_imports()
import grpc

async def call(channel):
    for _ in range(20):
        try:
            await channel.unary_unary("/a/b")(b"x")
        except grpc.RpcError:
            pass

async def main():
    server = grpc.aio.server()
    port = server.add_insecure_port("127.0.0.1:0")
    await server.start()
    async with grpc.aio.insecure_channel(f"127.0.0.1:{port}") as channel:
        await channel.channel_ready()
        for _ in range(40):
            calls = asyncio.create_task(call(channel))
            await asyncio.sleep(0.002)
            process = await asyncio.create_subprocess_exec("true", preexec_fn=tied_to_parent())
            assert await process.wait() == 0
            await calls
    await server.stop(None)

asyncio.run(main())
"""


def test_processes_can_be_started_while_grpc_is_at_work() -> None:
    env = {name: value for name, value in os.environ.items() if name != "GRPC_ENABLE_FORK_SUPPORT"}
    done = subprocess.run([sys.executable, "-c", FORKS], env=env, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr[-2000:]


def test_a_thread_pauses(monkeypatch: pytest.MonkeyPatch) -> None:
    slept: list[float] = []
    monkeypatch.setattr(time, "sleep", slept.append)
    yield_interpreter()
    assert slept == [interpreter.PAUSE_SECONDS]
