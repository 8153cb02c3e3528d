"""Rotel, an independent OTLP receiver (https://rotel.dev), to check the sidecar's exports.

    async with Rotel() as rotel: ...        # rotel.grpc, rotel.http; `await rotel.spans(3)`

`sidecar.demo.shop.collector.missing` returns the reason where it cannot be used.
"""

from __future__ import annotations

import asyncio
import re
import socket
from types import TracebackType

from sidecar.demo.shop.collector import ESCAPES, command
from sidecar.process.children import tied_to_parent

PATIENCE = 60.0
"""Seconds after which a test fails rather than hangs."""
SPAN = re.compile(r"^Span #\d+$")
FACT = re.compile(r"^\s+(Trace ID|Parent ID|ID|Name|Kind|Status code)\s*: ?(.*)$")


def free_port() -> int:
    with socket.socket() as sock:
        sock.bind(("127.0.0.1", 0))
        port: int = sock.getsockname()[1]
        return port


class Rotel:
    """Rotel process and its output, which reports all received data."""

    def __init__(self) -> None:
        self.grpc = f"http://127.0.0.1:{free_port()}"
        self.http = f"http://127.0.0.1:{free_port()}"
        self.lines: list[str] = []
        self._process: asyncio.subprocess.Process | None = None
        self._listening: asyncio.Task[None] | None = None
        self._news = asyncio.Event()

    async def __aenter__(self) -> Rotel:
        argv = command(self.grpc.removeprefix("http://"), self.http.removeprefix("http://"), "detailed")
        self._process = await asyncio.create_subprocess_exec(
            *argv, stdout=asyncio.subprocess.PIPE, stderr=asyncio.subprocess.STDOUT, preexec_fn=tied_to_parent()
        )
        self._listening = asyncio.create_task(self._listen())
        await self._until(lambda: any("Starting Rotel" in line for line in self.lines))
        await asyncio.sleep(0.2)  # it prints this line before it listens
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        assert self._process is not None
        self._process.kill()
        await self._process.wait()
        assert self._listening is not None
        await self._listening

    async def spans(self, count: int) -> list[dict[str, str]]:
        """Return the facts of each span, once there are that many."""
        await self._until(lambda: len(self._read()) >= count)
        return self._read()

    def _read(self) -> list[dict[str, str]]:
        found: list[dict[str, str]] = []
        for line in self.lines:
            if SPAN.match(line):
                found.append({})
            elif found and (fact := FACT.match(line)):
                found[-1].setdefault(fact[1], fact[2])
        return found

    async def _until(self, is_so: object) -> None:
        assert callable(is_so)
        async with asyncio.timeout(PATIENCE):
            while not is_so():
                self._news.clear()
                await self._news.wait()

    async def _listen(self) -> None:
        assert self._process is not None
        assert self._process.stdout is not None
        async for raw in self._process.stdout:
            self.lines.append(ESCAPES.sub("", raw.decode(errors="replace")).rstrip())
            self._news.set()
