"""Cluster of real processes on loopback.

1. Each part is a `chaos.cluster.node`, each sidecar a `sidecar run` with its policy files in a directory of its own.
2. The system chooses the ports.
3. No process outlives the run: a node ends with its stdin, on Linux the kernel ties all to this process
   (`sidecar.process.children`), and `close` kills what does not end by itself.
"""

from __future__ import annotations

import asyncio
import contextlib
import json
import os
import shutil
import signal
import sys
import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any, Final

from chaos.cluster.base import Addresses, ClusterError
from chaos.parts.part import Row
from chaos.peers import envoy
from sidecar.config.files import Source
from sidecar.demo import examples
from sidecar.process.children import tied_to_parent

READY_WITHIN: Final = 20.0
"""Seconds within which a process must be ready."""
ANSWER_WITHIN: Final = 10.0
"""Seconds within which a process must carry out a command."""
DRAIN_WITHIN: Final = 10.0
"""Seconds within which a sidecar must drain; then it is killed."""
PAGE: Final = os.sysconf("SC_PAGE_SIZE")
SIGNALS: Final = {"stop": signal.SIGSTOP, "continue": signal.SIGCONT}
ROOT: Final = Path(__file__).parents[2]


class ChildProcess:
    """Child process; each line that it writes goes to `on_line`.

    - `tail`: its last lines, for messages.
    """

    def __init__(self, name: str, argv: Sequence[str], env: Mapping[str, str], on_line: Callable[[str], None]) -> None:
        self.name = name
        self.argv = argv
        self.env = env
        self.on_line = on_line
        self.tail: list[str] = []
        self.process: asyncio.subprocess.Process
        self.reading: list[asyncio.Task[None]] = []

    async def start(self) -> None:
        pipe = asyncio.subprocess.PIPE
        self.process = await asyncio.create_subprocess_exec(
            *self.argv, stdin=pipe, stdout=pipe, stderr=pipe, cwd=ROOT, env={**os.environ, **self.env},
            start_new_session=True, preexec_fn=tied_to_parent(), limit=2**24,
        )  # fmt: skip
        for stream in (self.process.stdout, self.process.stderr):
            assert stream is not None
            self.reading.append(asyncio.create_task(self._read(stream)))

    async def _read(self, stream: asyncio.StreamReader) -> None:
        while line := await stream.readline():
            text = line.decode(errors="replace").rstrip()
            if not text.startswith('{"rows"'):
                self.tail = [*self.tail[-30:], text[:2000]]
            self.on_line(text)

    @property
    def is_running(self) -> bool:
        return self.process.returncode is None

    def send(self, **message: Any) -> None:
        """Write a message to its stdin."""
        assert self.process.stdin is not None
        self.process.stdin.write(json.dumps(message).encode() + b"\n")

    def signal(self, number: int) -> None:
        if self.is_running:
            with contextlib.suppress(ProcessLookupError):
                self.process.send_signal(number)

    async def end(self, grace: float) -> None:
        """Ask the process to end, and kill it after `grace` seconds; with 0 kill it at once."""
        if self.is_running:
            self.signal(signal.SIGCONT)
            self.signal(signal.SIGTERM if grace else signal.SIGKILL)
        try:
            await asyncio.wait_for(self.process.wait(), max(grace, 1.0))
        except TimeoutError:
            self.signal(signal.SIGKILL)
            await self.process.wait()
        await asyncio.wait(self.reading, timeout=2.0)
        for task in self.reading:
            task.cancel()

    def memory(self) -> tuple[int, int]:
        """Return resident bytes and the number of descriptors; zeros if the system has no /proc."""
        try:
            pages = int(Path(f"/proc/{self.process.pid}/statm").read_text().split()[1])
            return pages * PAGE, len(os.listdir(f"/proc/{self.process.pid}/fd"))
        except (OSError, IndexError):
            return 0, 0


class Local:
    """Cluster of processes.

    - `directory`: directory of the policy files.
    - `report`: receiver of the rows of all parts.
    - `max_memory`: bytes that a process may grow to.
    - `waiting`: commands without a response yet, by number.
    - `ready`: addresses that each process reports once it is ready.
    """

    is_simulated = False

    def __init__(
        self, directory: Path, report: Callable[[Row], None], seed: int, arm: str, max_memory: int = 2**40
    ) -> None:
        self.directory = directory
        self.report = report
        self.seed = seed
        self.arm = arm
        self.max_memory = max_memory
        self.processes: dict[str, ChildProcess] = {}
        self.sidecars: dict[str, ChildProcess] = {}
        self.waiting: dict[int, asyncio.Future[None]] = {}
        self.ready: dict[str, asyncio.Future[Any]] = {}
        self.count = 0

    def now(self) -> float:
        return time.monotonic()

    async def sleep(self, seconds: float) -> None:
        await asyncio.sleep(seconds)

    def _python(
        self, name: str, argv: Sequence[str], env: Mapping[str, str], on_line: Callable[[str], None]
    ) -> ChildProcess:
        """Return a process that runs a module of this package."""
        return ChildProcess(name, [sys.executable, *argv], env, on_line)

    def _path_for_part(self, path: Path) -> str:
        """Return the path of a file as the part's process sees it."""
        return str(path)

    # ----- parts

    async def start(self, kind: str, name: str, spec: dict[str, Any]) -> list[str]:
        argv = ["-m", "chaos.cluster.node", kind, name]
        process = self._python(name, argv, {}, lambda text: self._on_part(name, text))
        self.ready[name] = asyncio.get_running_loop().create_future()
        await process.start()
        self.processes[name] = process
        process.send(spec=spec, seed=self.seed)
        addresses: list[str] = await self._until_ready(process)
        return addresses

    async def _until_ready(self, process: ChildProcess) -> Any:
        future = self.ready[process.name]
        ended = asyncio.create_task(process.process.wait())
        await asyncio.wait((future, ended), timeout=READY_WITHIN, return_when=asyncio.FIRST_COMPLETED)
        ended.cancel()
        if not future.done():
            await process.end(0)
            raise ClusterError(f"{process.name} was not ready in time:\n" + "\n".join(process.tail))
        return future.result()

    def _on_part(self, name: str, text: str) -> None:
        message = _mapping(text)
        if "rows" in message:
            for row in message["rows"]:
                self.report(tuple(row))
            if dropped := message.get("dropped"):
                self.report(("note", f"{name}: {dropped} rows were lost"))
        elif "ready" in message:
            if not self.ready[name].done():
                self.ready[name].set_result(message["ready"])
        elif (number := message.get("done", message.get("failed"))) is not None:
            future = self.waiting.pop(number, None)
            if future is not None and not future.done():
                if "failed" in message:
                    future.set_exception(ClusterError(f"{name}: {message['why']}"))
                else:
                    future.set_result(None)

    async def tell(self, name: str, command: str, **arguments: Any) -> None:
        process = self.processes[name]
        if not process.is_running:
            return  # a fault has killed it
        self.count += 1
        future = self.waiting[self.count] = asyncio.get_running_loop().create_future()
        process.send(id=self.count, do=command, **{"with": arguments})
        try:
            await asyncio.wait_for(future, arguments.get("grace", 0) + ANSWER_WITHIN)
        except TimeoutError:
            self.waiting.pop(self.count, None)
            if process.is_running:
                raise ClusterError(f"{name} did not answer `{command}` in time:\n" + "\n".join(process.tail)) from None

    # ----- sidecars

    async def start_sidecar(self, name: str, sources: Sequence[Source], env: Mapping[str, str]) -> Addresses:
        directory = self.directory / name
        directory.mkdir(parents=True, exist_ok=True)
        self._write(directory, sources)
        if self.arm == "envoy":
            return await self._start_envoy(name, directory, env)
        argv = [
            "-m",
            "chaos.cluster.sidecar_process",
            self._path_for_part(directory),
            self._path_for_part(self.directory / "names.json"),
        ]
        state = self.directory / f"{name}-state"
        state.mkdir(exist_ok=True)
        env = {"STATE": self._path_for_part(state), **env}
        process = self._python(name, argv, env, lambda text: self._on_sidecar(name, text))
        self.ready[name] = asyncio.get_running_loop().create_future()
        await process.start()
        self.sidecars[name] = process
        said = await self._until_ready(process)
        return Addresses(said["listeners"].get("inbound", ""), said["listeners"].get("outbound", ""), said["admin"])

    async def _start_envoy(self, name: str, directory: Path, env: Mapping[str, str]) -> Addresses:
        peer = envoy.prepare(directory, env)
        process = ChildProcess(name, peer.argv, {}, lambda _: None)
        await process.start()
        self.sidecars[name] = process
        for gap in peer.gaps:
            self.report(("note", f"envoy: {gap}"))
        give_up = self.now() + READY_WITHIN
        while not await envoy.is_ready(peer.addresses.admin):
            if self.now() > give_up or not process.is_running:
                await process.end(0)
                raise ClusterError(f"{name} (envoy) was not ready in time:\n" + "\n".join(process.tail))
            await asyncio.sleep(0.05)
        return peer.addresses

    def _write(self, directory: Path, sources: Sequence[Source]) -> None:
        fresh = directory.with_name(directory.name + ".new")
        shutil.rmtree(fresh, ignore_errors=True)
        fresh.mkdir()
        for source in sources:
            (fresh / Path(source.name).name).write_bytes(source.text)
        for old in directory.glob("*.yaml"):
            if not (fresh / old.name).exists():
                old.unlink()
        for new in fresh.glob("*.yaml"):
            new.replace(directory / new.name)

    async def push(self, name: str, sources: Sequence[Source]) -> None:
        self._write(self.directory / name, sources)

    def _on_sidecar(self, name: str, text: str) -> None:
        event = _mapping(text)
        if "event" not in event:
            return
        if event["event"] == "ready" and not self.ready[name].done():
            self.ready[name].set_result(event)
        facts = {key: value for key, value in event.items() if key not in ("event", "time")}
        self.report(("event", self.now(), name, event["event"], facts))

    def redirected(self, name: str, addresses: Sequence[str]) -> list[str]:
        """Return the addresses as they are: the kernel redirects the connections."""
        return list(addresses)

    def examples(self) -> str:
        return str(examples.find(""))

    def names(self, table: dict[str, Any]) -> None:
        path = self.directory / "names.json"
        path.with_suffix(".new").write_text(json.dumps(table))
        path.with_suffix(".new").replace(path)

    # ----- ends

    async def end(self, name: str, how: str) -> None:
        process = self.sidecars.get(name) or self.processes[name]
        if how in SIGNALS:
            process.signal(SIGNALS[how])
        elif how == "kill_worker":
            for pid in first_workers(process.process.pid):
                with contextlib.suppress(ProcessLookupError):
                    os.kill(pid, signal.SIGKILL)
        else:
            await process.end(DRAIN_WITHIN if how == "drain" else 0)

    def sample(self) -> None:
        for name, process in (*self.sidecars.items(), *self.processes.items()):
            if not process.is_running:
                continue
            memory, sockets = process.memory()
            if memory > self.max_memory:
                raise ClusterError(f"{name} has grown to {memory / 2**20:.0f} MiB, more than the guard allows")
            if name in self.sidecars:
                self.report(("sample", name, self.now(), 0, 0, sockets, memory))

    async def close(self) -> None:
        for process in self.processes.values():
            if process.process.stdin is not None:
                process.process.stdin.close()
        everyone = [*self.sidecars.values(), *self.processes.values()]
        await asyncio.gather(*(process.end(3.0) for process in everyone))


def first_workers(supervisor: int) -> list[int]:
    """Return the process of the first worker of a supervisor; none between two starts, and without /proc."""
    found = []
    with contextlib.suppress(OSError):
        for pid in Path(f"/proc/{supervisor}/task/{supervisor}/children").read_text().split():
            environ = Path(f"/proc/{pid}/environ").read_bytes().split(b"\0")
            if any(each.startswith(b'SIDECAR_WORKER={"number": 0,') for each in environ):
                found.append(int(pid))
    return found


def _mapping(text: str) -> dict[str, Any]:
    """Return a line of JSON as a mapping, empty for any other line."""
    try:
        value = json.loads(text)
    except ValueError:
        return {}
    return value if isinstance(value, dict) else {}
