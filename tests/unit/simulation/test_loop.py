"""Tests of the virtual clock: it jumps to the next timer, waits for threads, and reports a deadlock."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Coroutine
from typing import Any

import pytest

from sidecar.simulation.loop import EPOCH, START, VirtualLoop


def run(coroutine: Coroutine[Any, Any, Any], patience: float = 0.0) -> Any:
    with asyncio.Runner(loop_factory=lambda: VirtualLoop(patience)) as runner:
        return runner.run(coroutine)


def test_the_clock_jumps_to_the_next_timer() -> None:
    async def main() -> list[tuple[float, float]]:
        loop = asyncio.get_running_loop()
        assert isinstance(loop, VirtualLoop)
        read = [(loop.time(), loop.wall())]
        for seconds in (0.5, 3600.0):
            await asyncio.sleep(seconds)
            read.append((loop.time(), loop.wall()))
        return read

    expected = [START, START + 0.5, START + 3600.5]
    assert run(main()) == [(at, EPOCH + at - START) for at in expected]


@pytest.mark.parametrize("patience", [0.0, 0.001])
def test_a_deadlock_is_an_error(patience: float) -> None:
    async def forever() -> None:
        await asyncio.get_running_loop().create_future()

    with pytest.raises(RuntimeError, match="deadlock"):
        run(forever(), patience)


def test_a_loop_with_patience_waits_for_worker_threads() -> None:
    async def main() -> str:
        return await asyncio.to_thread(lambda: time.sleep(0.05) or "done")

    assert run(main(), patience=10.0) == "done"
