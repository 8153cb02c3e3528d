"""Processes that send requests against one limit in Redis, each a fork of one program that has imported all modules.

    with Processes(url, LIMIT, directory) as processes:
        first = processes.start(600.0)
        ...
        processes.kill(first)
        judged = processes.decisions()

Each process notes the instants of its decisions, by the monotonic clock of the machine, exactly as the limit has read
it.  So a slow machine cannot change what they say.  It also notes how late its timers and the answers of Redis were.
"""

from __future__ import annotations

import asyncio
import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any, Final, NamedTuple

TICK: Final = 0.005
"""Seconds between two batches of requests."""
LATE: Final = 0.02
"""Seconds of lateness that are noted."""


class Decisions(NamedTuple):
    """Decisions of all processes, ascending."""

    admitted: list[float]
    refused: list[float]
    late: float
    """Seconds by which timers and answers were late, of all processes together."""


class Processes:
    """The program, and its forks."""

    def __init__(self, url: str, limit: dict[str, Any], directory: Path) -> None:
        self._directory = directory
        self._pids: list[int] = []
        arguments = [url, json.dumps(limit), str(directory)]
        self._program = subprocess.Popen(
            [sys.executable, "-P", "-m", __name__, *arguments], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
        )

    def __enter__(self) -> Processes:
        return self

    def start(self, demand: float) -> int:
        """Start a process that sends so many requests a second; return its number."""
        assert self._program.stdin is not None
        assert self._program.stdout is not None
        self._program.stdin.write(f"{len(self._pids)} {demand}\n")
        self._program.stdin.flush()
        self._pids.append(int(self._program.stdout.readline()))
        return len(self._pids) - 1

    def kill(self, number: int) -> None:
        """Kill a process at once."""
        os.kill(self._pids[number], signal.SIGKILL)

    def decisions(self) -> Decisions:
        """Return what all processes have noted so far."""
        found: dict[str, list[float]] = {"admitted": [], "refused": [], "late": []}
        for file in self._directory.glob("*.decisions"):
            for line in file.read_text().splitlines(keepends=True):
                if line.endswith("\n"):
                    kind, _, number = line.partition(" ")
                    found[kind].append(float(number))
        return Decisions(sorted(found["admitted"]), sorted(found["refused"]), sum(found["late"]))

    def until_admitted(self, number: int) -> None:
        """Wait until so many requests have been admitted; a test fails rather than hangs."""
        until = time.monotonic() + 120
        while len(self.decisions().admitted) < number:
            assert time.monotonic() < until, "too few requests were admitted"
            time.sleep(0.1)

    def __exit__(self, *_: object) -> None:
        assert self._program.stdin is not None
        assert self._program.stdout is not None
        self._program.stdin.close()
        self._program.wait(60)
        self._program.stdout.close()


def main() -> None:
    """Fork a process for each line of the input, and kill all at its end."""
    import tests.support.redis  # the forks have it

    assert tests.support.redis
    signal.signal(signal.SIGCHLD, signal.SIG_IGN)
    url, limit, directory = sys.argv[1], json.loads(sys.argv[2]), Path(sys.argv[3])
    children = []
    for line in sys.stdin:
        number, demand = line.split()
        child = os.fork()
        if child == 0:
            file = os.open(directory / f"{number}.decisions", os.O_WRONLY | os.O_CREAT | os.O_APPEND)
            asyncio.run(send(url, limit, float(demand), file))
        children.append(child)
        print(child, flush=True)
    for child in children:
        try:
            os.kill(child, signal.SIGKILL)
        except ProcessLookupError:  # the test has killed it, and the kernel has reaped it
            continue


async def send(url: str, limit: dict[str, Any], demand: float, file: int) -> None:
    """Send requests for ever."""
    from sidecar.engine.pipeline import Pipeline
    from sidecar.stages.rate_limit import stage as rate_limit
    from sidecar.stages.rate_limit.spec import Spec
    from sidecar.store.shared_limits import SharedLimits
    from sidecar.store.spec import StoreSpec
    from tests.support.clock import remembering
    from tests.support.service import Store, context, exchange, response

    loop = asyncio.get_running_loop()
    env = remembering(loop, seed=None)
    read = loop.time()

    def now() -> float:
        nonlocal read
        read = loop.time()
        return read

    def note(kind: str, number: float) -> None:
        os.write(file, f"{kind} {number!r}\n".encode())

    async def serve(_: Any) -> Any:
        note("admitted", read)  # the stage has read the clock in this same turn of the loop
        return response(200)

    env.now = now
    store = SharedLimits("fleet", StoreSpec.model_validate({"redis": {"url": url, "timeout": "10s"}}), env)
    run = store._counts.run

    async def timed(*arguments: Any) -> Any:
        began = loop.time()
        try:
            return await run(*arguments)
        finally:
            if (passed := loop.time() - began) > LATE:
                note("late", passed)

    store._counts.run = timed  # type: ignore[method-assign]
    stage = rate_limit.build(
        Spec.model_validate([{"name": "all", "store": "fleet"} | limit]),
        context(env, store=Store(), resources={("store", "fleet"): store}),
    )
    assert stage is not None
    call = Pipeline([stage], serve)

    async def ask() -> None:
        if (await call(exchange())).status != 200:
            note("refused", loop.time())

    tasks: set[asyncio.Task[None]] = set()
    sent, began = 0, loop.time()
    while True:
        due = int((loop.time() - began) * demand)
        for _ in range(min(due - sent, 100)):
            task = loop.create_task(ask())
            tasks.add(task)
            task.add_done_callback(tasks.discard)
        sent = due
        before = loop.time()
        await asyncio.sleep(TICK)
        if (passed := loop.time() - before - TICK) > LATE:
            note("late", passed)


if __name__ == "__main__":
    main()
