"""`VirtualLoop`: an asyncio loop that never waits.  Where it would block until the next timer, its clock jumps there.

`run(coroutine)` runs one on a fresh loop; `@virtual` makes a test of an `async def` that way; `virtual_env()` gives the
`FakeEnv` of the running virtual loop.  Not for real sockets: it would jump past them.
"""

from __future__ import annotations

import asyncio
import functools
import random
from collections.abc import Callable, Coroutine
from typing import Any, TypeVar

from sidecar.simulation import loop as loops
from tests.support.clock import FakeEnv, assemble

T = TypeVar("T")
THREADS = 2.0
"""Seconds of real time for which a loop without timers waits for a worker thread before it calls that a deadlock."""


class VirtualLoop(loops.VirtualLoop):
    """That of the policy tests, with time for worker threads."""

    def __init__(self) -> None:
        super().__init__(patience=THREADS)


def run(coroutine: Coroutine[Any, Any, T]) -> T:
    """Run a coroutine on a fresh virtual loop and close it; what it left running is cancelled."""
    with asyncio.Runner(loop_factory=VirtualLoop) as runner:
        return runner.run(coroutine)


def virtual(test: Callable[..., Coroutine[Any, Any, None]]) -> Callable[..., None]:
    """Make a test of an `async def`, in virtual time."""

    @functools.wraps(test)
    def wrapper(*args: Any, **kwargs: Any) -> None:
        run(test(*args, **kwargs))

    return wrapper


def virtual_env(loop: asyncio.AbstractEventLoop | None = None, *, seed: int = 0) -> FakeEnv:
    """An env on a loop, by default the running one."""
    loop = loop or asyncio.get_running_loop()
    return assemble(loop.time, asyncio.sleep, loop.call_later, random.Random(seed))


async def settle(turns: int = 5) -> None:
    """Let the loop turn a few times, so that what is ready has run."""
    for _ in range(turns):
        await asyncio.sleep(0)
