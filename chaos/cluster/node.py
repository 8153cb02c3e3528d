"""Part in a process of its own: `python -m chaos.cluster.node KIND NAME`, with commands as lines of JSON on stdin.

- The first line is `{"spec": ..., "seed": ...}`; every further one is `{"id": n, "do": command, "with": {...}}`.
- On stdout go `{"ready": [addresses]}`, `{"done": n}` or `{"failed": n, "why": ...}`, and rows in batches as
  `{"rows": [...]}`.
- The process ends when stdin does, and so with its starter.
"""

from __future__ import annotations

import asyncio
import json
import sys
import time
from typing import Any, Final

from chaos.parts.kinds import make_part
from chaos.parts.part import Part, PartEnv, Row

FLUSH_EVERY: Final = 0.1
"""Seconds between two batches of rows."""
MAX_ROWS: Final = 50_000
"""Rows that wait for the reader; further ones are dropped and counted."""


async def burn(seconds: float) -> None:
    """Keep the only thread of this process busy."""
    until = time.perf_counter() + seconds
    while time.perf_counter() < until:
        pass


class Node:
    """Process of one part.

    - `rows`, `dropped`: rows of the next batch, and how many were dropped since the last.
    """

    def __init__(self) -> None:
        self.rows: list[Row] = []
        self.dropped = 0

    def report(self, row: Row) -> None:
        if len(self.rows) < MAX_ROWS:
            self.rows.append(row)
        else:
            self.dropped += 1

    def send(self, **message: Any) -> None:
        sys.stdout.write(json.dumps(message) + "\n")
        sys.stdout.flush()

    def flush(self) -> None:
        """Send the rows so far."""
        if self.rows or self.dropped:
            rows, self.rows = self.rows, []
            dropped, self.dropped = self.dropped, 0
            self.send(rows=rows, dropped=dropped)

    async def run(self, kind: str, name: str) -> None:
        """Run the part until stdin ends."""
        loop = asyncio.get_running_loop()
        reader = asyncio.StreamReader(limit=2**22)
        await loop.connect_read_pipe(lambda: asyncio.StreamReaderProtocol(reader), sys.stdin)
        first = json.loads(await reader.readline())
        env = PartEnv(time.monotonic, f"{first['seed']}:{name}", self.report, burn)
        part = make_part(kind, name, first["spec"], env)
        self.send(ready=await part.start())
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
            await part.do(name, **command.get("with", {}))
        except Exception as error:
            self.send(failed=number, why=f"{type(error).__name__}: {error}")
        else:
            self.send(done=number)

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
        runner.run(Node().run(*sys.argv[1:3]))


if __name__ == "__main__":
    main()
