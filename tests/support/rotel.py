"""Rotel, an independent OTLP receiver (https://rotel.dev), as a second opinion on what we send.

    async with Rotel() as rotel: ...        # rotel.grpc, rotel.http; `await rotel.spans(3)`

It comes as a binary inside the Python package of that name, for some platforms only: `available()` says why not.
"""

from __future__ import annotations

import asyncio
import importlib.util
import re
import socket
import subprocess
from pathlib import Path
from types import TracebackType

from chaos.processes import tied_to_parent

PATIENCE = 15.0
ESCAPES = re.compile(r"\x1b\[[0-9;]*m")
SPAN = re.compile(r"^Span #\d+$")
FACT = re.compile(r"^\s+(Trace ID|Parent ID|ID|Name|Kind|Status code)\s*: ?(.*)$")


def agent() -> Path | None:
    """The binary, where the package is installed."""
    found = importlib.util.find_spec("rotel")
    if found is None or found.origin is None:
        return None
    path = Path(found.origin).with_name("rotel-agent")
    return path if path.exists() else None


def available() -> str:
    """Why it cannot be used; empty where it can."""
    path = agent()
    if path is None:
        return "the package rotel is not installed"
    ran = subprocess.run([path, "start", "--help"], capture_output=True, text=True, timeout=10, check=False)
    return "" if ran.returncode == 0 else ran.stderr.strip()


def free_port() -> int:
    with socket.socket() as sock:
        sock.bind(("127.0.0.1", 0))
        port: int = sock.getsockname()[1]
        return port


class Rotel:
    """The process and what it says it has received."""

    def __init__(self) -> None:
        self.grpc = f"http://127.0.0.1:{free_port()}"
        self.http = f"http://127.0.0.1:{free_port()}"
        self.lines: list[str] = []
        self._process: asyncio.subprocess.Process | None = None
        self._listening: asyncio.Task[None] | None = None
        self._news = asyncio.Event()

    async def __aenter__(self) -> Rotel:
        path = agent()
        assert path is not None
        self._process = await asyncio.create_subprocess_exec(
            path, "start", "--exporter", "blackhole", "--debug-log", "traces", "--debug-log-verbosity", "detailed",
            "--otlp-grpc-endpoint", self.grpc.removeprefix("http://"),
            "--otlp-http-endpoint", self.http.removeprefix("http://"),
            stdout=asyncio.subprocess.PIPE, stderr=asyncio.subprocess.STDOUT, preexec_fn=tied_to_parent(),
        )  # fmt: skip
        self._listening = asyncio.create_task(self._listen())
        await self._until(lambda: any("Starting Rotel" in line for line in self.lines))
        await asyncio.sleep(0.2)  # it says so before it listens
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
        """The facts of each span, once there are that many."""
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
