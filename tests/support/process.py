"""`sidecar run` in a process of its own, on ports that the system chooses.

    policy = policies(upstreams={"app": {"endpoints": [server.url]}}, routes=[{"name": "all", ...}])
    async with Sidecar(policy, tmp_path) as sidecar:
        answer = await sidecar.fetch("GET", "/")

The policies are a dict, written as JSON, which is YAML; or text.  Leaving the context stops the process and checks that
it ended cleanly and reported no bug.  The process is forked (`tests.support.forked`), unless a test names a program
or its environment needs the start of an interpreter.
"""

from __future__ import annotations

import asyncio
import contextlib
import json
import os
import signal
import sys
from collections.abc import AsyncIterator, Mapping
from pathlib import Path
from types import TracebackType
from typing import Any, Final

from chaos.parts.client import Client, fetch
from chaos.parts.http import Message
from sidecar.process.children import tied_to_parent
from tests.support.files import replace
from tests.support.forked import ForkedProcess, can_fork

LOOP: Final = os.environ.get("TEST_LOOP", "uvloop")
"""Event loop of the sidecars: `asyncio`, or `uvloop` where it is installed."""
WITHOUT_UVLOOP: Final = Path(__file__).with_name("without_uvloop")

PATIENCE = 60.0
"""Seconds after which a test fails rather than hangs."""
COMMAND = Path(sys.executable).with_name("sidecar")
LINE: Final = 2**20
"""Bytes of the longest line of its output."""


def restore_sigint() -> None:
    """Restore SIGINT in a child process: a shell makes background commands ignore it."""
    signal.signal(signal.SIGINT, signal.SIG_DFL)


def policies(**sections: Any) -> dict[str, Any]:
    """Return policies with an inbound and an admin listener on free ports and the given sections."""
    return {
        "version": 1,
        "service": "test",
        "listeners": {"inbound": {"address": "127.0.0.1:0"}},
        "admin": {"address": "127.0.0.1:0"},
        **sections,
    }


def route(name: str, upstream: str | None = None, **blocks: Any) -> dict[str, Any]:
    """Return a route for all paths under `/name`, by default to the upstream of the same name."""
    return {"name": name, "match": {"path_prefix": f"/{name}"}, "upstream": upstream or name, **blocks}


NOTHING = policies()
"""Policies without routes and upstreams."""


def without_uvloop() -> dict[str, str]:
    """Return the environment in which a sidecar runs on asyncio's own loop although uvloop is installed."""
    return {"PYTHONPATH": os.pathsep.join([str(WITHOUT_UVLOOP), *filter(None, [os.environ.get("PYTHONPATH")])])}


class Sidecar:
    """Sidecar process, its addresses and its output."""

    def __init__(
        self,
        policy: dict[str, Any] | str,
        directory: Path,
        env: Mapping[str, str] | None = None,
        path: Path | None = None,
        *,
        command: Path | None = None,
    ) -> None:
        """`path`: what to run instead of a file with the policy; `command`: program to start, instead of a fork."""
        self.path = directory / "policies.yaml"
        self._run = path or self.path
        self._first = policy
        self.write(policy)
        self.events: list[dict[str, Any]] = []
        """Events: the JSON lines of its standard error."""
        self.noise: list[str] = []
        """Other lines of its standard error."""
        self.output: list[str] = []
        """Lines of its standard output: the access log."""
        self.inbound = ""
        self.admin = ""
        self.listeners: dict[str, str] = {}
        self._env = {**os.environ, **(without_uvloop() if LOOP == "asyncio" else {}), **(env or {})}
        self._command = command
        self._process: asyncio.subprocess.Process | ForkedProcess | None = None
        self._listening: list[asyncio.Task[None]] = []
        self._ready = asyncio.Event()
        self._news = asyncio.Event()

    # ----- start and end

    async def __aenter__(self) -> Sidecar:
        command = [str(self._command or COMMAND), "run", str(self._run)]
        if self._command is None and can_fork(self._env):
            self._process = await ForkedProcess.start(command, self._env, LINE)
        else:
            pipe = asyncio.subprocess.PIPE
            self._process = await asyncio.create_subprocess_exec(
                *command, stdout=pipe, stderr=pipe, env=self._env, preexec_fn=tied_to_parent(), limit=LINE
            )
        assert self._process.stdout is not None
        assert self._process.stderr is not None
        self._listening = [
            asyncio.create_task(self._drain(self._process.stdout)),
            asyncio.create_task(self._listen(self._process.stderr)),
        ]
        ready = asyncio.create_task(self._ready.wait())
        ended = asyncio.create_task(self._process.wait())
        await asyncio.wait((ready, ended), timeout=PATIENCE, return_when=asyncio.FIRST_COMPLETED)
        ready.cancel()
        ended.cancel()
        await asyncio.gather(ready, ended, return_exceptions=True)
        if not self._ready.is_set():
            code = await self.kill()
            raise AssertionError(f"the sidecar did not get ready; exit code {code}\n{self.log()}")
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        try:
            code = await self.stop()
        except TimeoutError:
            code = await self.kill()
            if error is None:
                raise AssertionError(f"the sidecar did not end within {PATIENCE} s\n{self.log()}") from None
        if error is None:
            assert code == 0, f"exit code {code}\n{self.log()}"
            assert not self.said("bug"), self.log()
        else:
            error.add_note(f"the sidecar's log:\n{self.log()}")

    @property
    def pid(self) -> int:
        assert self._process is not None
        return self._process.pid

    @property
    def is_running(self) -> bool:
        return self._process is not None and self._process.returncode is None

    def signal(self, number: int) -> None:
        assert self._process is not None
        self._process.send_signal(number)

    async def wait(self) -> int:
        """Return the exit code once the process has ended."""
        assert self._process is not None
        code = await asyncio.wait_for(self._process.wait(), PATIENCE)
        await asyncio.gather(*self._listening)
        return code

    async def stop(self) -> int:
        """Let the process drain and end; return the exit code."""
        if self.is_running:
            self.signal(signal.SIGTERM)
        return await self.wait()

    async def kill(self) -> int:
        assert self._process is not None
        with contextlib.suppress(ProcessLookupError):
            self._process.kill()
        return await self.wait()

    # ----- requests and policies

    async def fetch(self, method: str, target: str, body: bytes = b"", **fields: str) -> Message:
        """Send one request through the sidecar, on a new connection."""
        return await fetch(self.inbound, method, target, body, **fields)

    def client(self) -> Client:
        """Return a client for the inbound listener."""
        return Client(self.inbound)

    async def ask(self, target: str, method: str = "GET") -> Message:
        """Send one request to the admin listener."""
        return await fetch(self.admin, method, target)

    async def state(self) -> dict[str, Any]:
        state: dict[str, Any] = json.loads((await self.ask("/state")).body)
        return state

    def write(self, policy: dict[str, Any] | str) -> None:
        """Replace the policy file."""
        replace(self.path, policy if isinstance(policy, str) else json.dumps(policy, indent=2))

    @contextlib.asynccontextmanager
    async def under(self, policy: dict[str, Any]) -> AsyncIterator[Sidecar]:
        """Put policies in force inside the block, with no events and output so far; at its end restore the first ones.

        State of a policy ends with it, so the first policies should have no routes.
        """
        await self._take(policy)
        try:
            yield self
            assert not self.said("bug"), self.log()
        finally:
            await self._take(self._first)

    async def _take(self, policy: dict[str, Any] | str) -> None:
        self.events.clear()
        self.write(policy)
        answer = await self.ask("/reload", "POST")
        assert answer.status == 200, answer.body
        await self.until("reload.applied")

    def said(self, event: str) -> list[dict[str, Any]]:
        """Return the events of that name so far.  The first policies count as a `reload.applied` too."""
        return [line for line in self.events if line.get("event") == event]

    async def until(self, event: str, count: int = 1) -> dict[str, Any]:
        """Return the count-th event of that name, once it has been logged."""
        async with asyncio.timeout(PATIENCE):
            while len(found := self.said(event)) < count:
                self._news.clear()
                await self._news.wait()
        return found[count - 1]

    async def printed(self, count: int) -> list[str]:
        """Return the standard output, once it has that many lines."""
        async with asyncio.timeout(PATIENCE):
            while len(self.output) < count:
                self._news.clear()
                await self._news.wait()
        return self.output

    def log(self) -> str:
        """Return the last lines of standard error."""
        return "\n".join([*self.noise[-40:], *map(json.dumps, self.events[-20:])])

    def memory(self) -> int:
        """Return the resident bytes of the process, without those of files that it has mapped, such as libraries."""
        status = Path(f"/proc/{self.pid}/status").read_text()
        return int(status.partition("\nRssAnon:")[2].split()[0]) * 1024

    # ----- listening

    async def _drain(self, stream: asyncio.StreamReader) -> None:
        async for raw in stream:
            self.output.append(raw.decode(errors="replace").rstrip())
            self._news.set()

    async def _listen(self, stream: asyncio.StreamReader) -> None:
        async for raw in stream:
            line = raw.decode(errors="replace").rstrip()
            try:
                event = json.loads(line)
            except ValueError:
                event = None
            if not isinstance(event, dict):
                self.noise.append(line)
                continue
            event = {**event, **event.get("attributes", {})}
            self.events.append(event)
            self._news.set()
            if event.get("event") == "ready":
                self.listeners = event["listeners"]
                self.inbound = self.listeners.get("inbound", "")
                self.admin = event["admin"]
                self._ready.set()
