"""Tests in virtual time, on a `VirtualLoop` of `sidecar.simulation`.

`run(coroutine)` runs one on a fresh loop; `@virtual` makes a test of an `async def` that way; `virtual_env()` gives the
`FakeEnv` of the running virtual loop.
"""

from __future__ import annotations

import asyncio
import functools
from collections.abc import Callable, Coroutine
from typing import Any, TypeVar

from sidecar.simulation.loop import VirtualLoop
from tests.support.clock import FakeEnv, remembering

T = TypeVar("T")
THREADS = 60.0
"""Seconds of real time for which a loop without timers waits for a worker thread; after them it reports a deadlock."""


def run(coroutine: Coroutine[Any, Any, T]) -> T:
    """Run a coroutine on a fresh virtual loop and close the loop; tasks that still run are cancelled."""
    with asyncio.Runner(loop_factory=lambda: VirtualLoop(THREADS)) as runner:
        return runner.run(coroutine)


def virtual(test: Callable[..., Coroutine[Any, Any, None]]) -> Callable[..., None]:
    """Make a test of an `async def`, in virtual time."""

    @functools.wraps(test)
    def wrapper(*args: Any, **kwargs: Any) -> None:
        run(test(*args, **kwargs))

    return wrapper


def virtual_env(loop: asyncio.AbstractEventLoop | None = None, *, seed: int = 0) -> FakeEnv:
    """Return an env on a loop, by default the running one."""
    return remembering(loop or asyncio.get_running_loop(), seed=seed)


async def settle(turns: int = 5) -> None:
    """Let the loop turn a few times, so that all ready callbacks have run."""
    for _ in range(turns):
        await asyncio.sleep(0)


async def others_done(patience: float = 60.0) -> None:
    """Wait until all other tasks of the loop have ended, such as those that close connections in the background."""
    if others := asyncio.all_tasks() - {asyncio.current_task()}:
        _, left = await asyncio.wait(others, timeout=patience)
        assert not left, left
