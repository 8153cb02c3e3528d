"""A part in a process of its own: `python -m chaos.cluster.node KIND NAME`, told what to do by lines of JSON on stdin.

The first line is `{"spec": ..., "seed": ...}`; every further one `{"id": n, "do": command, ...}`.  On stdout go
`{"ready": [addresses]}`, `{"done": n}` (or `{"failed": n, "why": ...}`) and rows in batches, `{"rows": [...]}`.
It ends when stdin does, and so with whoever started it.
"""

from __future__ import annotations

import asyncio
import json
import sys
import time
from typing import Any

from chaos.parts.link import Link
from chaos.parts.load import Load
from chaos.parts.part import Part, Row, World
from chaos.parts.service import Service
from chaos.parts.store import Store

FLUSH_EVERY = 0.1
MOST_ROWS = 50_000
"""Rows that wait for the reader; beyond that they are dropped, which the reader is told."""


def make_part(kind: str, name: str, spec: dict[str, Any], world: World) -> Part:
    """The part of a kind."""
    if kind == "service":
        return Service(name, spec, world)
    if kind == "load":
        return Load(spec, world)
    if kind == "link":
        return Link(name, spec, world)
    if kind == "store":
        return Store(name, spec, world)
    raise ValueError(f"there is no part of the kind {kind}")


async def burn(seconds: float) -> None:
    """Keep the only thread of this process busy."""
    until = time.perf_counter() + seconds
    while time.perf_counter() < until:
        pass


class Node:
    """The process."""

    def __init__(self) -> None:
        self.rows: list[Row] = []
        self.dropped = 0

    def report(self, row: Row) -> None:
        if len(self.rows) < MOST_ROWS:
            self.rows.append(row)
        else:
            self.dropped += 1

    def say(self, **what: Any) -> None:
        sys.stdout.write(json.dumps(what) + "\n")
        sys.stdout.flush()

    def flush(self) -> None:
        if self.rows or self.dropped:
            rows, self.rows = self.rows, []
            dropped, self.dropped = self.dropped, 0
            self.say(rows=rows, dropped=dropped)

    async def live(self, kind: str, name: str) -> None:
        loop = asyncio.get_running_loop()
        reader = asyncio.StreamReader(limit=2**22)
        await loop.connect_read_pipe(lambda: asyncio.StreamReaderProtocol(reader), sys.stdin)
        first = json.loads(await reader.readline())
        world = World(time.monotonic, f"{first['seed']}:{name}", self.report, burn)
        part = make_part(kind, name, first["spec"], world)
        self.say(ready=await part.start())
        flushing = loop.create_task(self._flush())
        running: set[asyncio.Task[None]] = set()
        try:
            while line := await reader.readline():
                task = loop.create_task(self._do(part, json.loads(line)))
                running.add(task)
                task.add_done_callback(running.discard)
        finally:
            flushing.cancel()
            await part.stop()

    async def _do(self, part: Part, command: dict[str, Any]) -> None:
        number, name = command.pop("id"), command.pop("do")
        try:
            if name == "flush":
                self.flush()
            else:
                await part.do(name, **command.get("with", {}))
        except Exception as error:
            self.say(failed=number, why=f"{type(error).__name__}: {error}")
        else:
            self.say(done=number)

    async def _flush(self) -> None:
        while True:
            await asyncio.sleep(FLUSH_EVERY)
            self.flush()


def main() -> None:
    try:
        import uvloop

        factory: Any = uvloop.new_event_loop
    except ImportError:
        factory = None
    with asyncio.Runner(loop_factory=factory) as runner:
        runner.run(Node().live(*sys.argv[1:3]))


if __name__ == "__main__":
    main()
