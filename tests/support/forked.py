"""Processes of `sidecar` that are forked once the modules are imported, which else take most of the time of a start.

The entry point, arguments, environment, exit code, signals and standard streams are those of a process that a shell
starts; `tests.support.fork_server` has the rules.  Tests of the start itself start the program (`COMMAND`).
"""

from __future__ import annotations

import asyncio
import contextlib
import json
import os
import signal
import socket
import subprocess
import sys
from collections.abc import Mapping, Sequence
from functools import cache
from pathlib import Path
from typing import Final

from sidecar.process.children import tied_to_parent

ROOT: Final = Path(__file__).parents[2]
CAN_FORK: Final = sys.platform.startswith("linux")
"""True where the server runs; elsewhere, libraries of the system have threads of their own or refuse to be forked."""
INTERPRETER: Final = ("PYTHON", "LD_", "MALLOC_")
"""First letters of variables that only a start of the interpreter reads."""


PROGRAM: Final = """#!{python} -IS
import json, os, signal, socket, sys
passed_on = {{signal.SIGINT, signal.SIGTERM, signal.SIGHUP}}
signal.pthread_sigmask(signal.SIG_BLOCK, passed_on)
channel = socket.socket(fileno={channel})
reading, writing = os.pipe()
text = json.dumps(dict(argv=["sidecar", *sys.argv[1:]], env=dict(os.environ), directory=os.getcwd()))
socket.send_fds(channel, [text.encode()], [0, 1, 2, writing])
os.close(writing)
report = open(reading)
pid = int(report.readline())
for number in passed_on:
    signal.signal(number, lambda number, _: os.kill(pid, number))
signal.pthread_sigmask(signal.SIG_UNBLOCK, passed_on)
code = int(report.readline())
os._exit(code if code >= 0 else 128 - code)
"""
"""Program that has a command forked, passes signals on, and ends with its exit code."""


class ForkServer:
    """Fork server of this process.

    - `channel`: connection to the server.
    """

    def __init__(self) -> None:
        self.channel, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        with theirs:
            self._process = subprocess.Popen(
                [sys.executable, "-m", "tests.support.fork_server", str(theirs.fileno())],
                cwd=ROOT, stdin=subprocess.DEVNULL, stdout=subprocess.DEVNULL, pass_fds=[theirs.fileno()],
                preexec_fn=tied_to_parent(),
            )  # fmt: skip

    def write_command(self, path: Path) -> None:
        """Write an executable that runs `sidecar` in a fork, with its own arguments, environment and streams.

        It needs the descriptor `channel` of this process under the same number.
        """
        path.write_text(PROGRAM.format(python=sys.executable, channel=self.channel.fileno()))
        path.chmod(0o755)

    def start(self, argv: Sequence[str], env: Mapping[str, str], stdout: int, stderr: int, report: int) -> None:
        """Start a command; the descriptor `report` gets a line with its PID, and one with its exit code at its end."""
        text = json.dumps({"argv": argv, "env": dict(env), "directory": os.getcwd()})
        stdin = os.open(os.devnull, os.O_RDONLY)
        try:
            socket.send_fds(self.channel, [text.encode()], [stdin, stdout, stderr, report])
        finally:
            os.close(stdin)

    def close(self) -> None:
        """End the server, and with it each process that it has forked."""
        self.channel.close()
        self._process.terminate()  # a command of `write_command` that still runs has the channel too
        self._process.wait()


@cache
def fork_server() -> ForkServer:
    """Return the server, which is started at the first use."""
    return ForkServer()


def close_server() -> None:
    """End the server if it was started."""
    if fork_server.cache_info().currsize:
        fork_server().close()
        fork_server.cache_clear()


def can_fork(env: Mapping[str, str]) -> bool:
    """True if a forked process is like one that is started with this environment."""
    names = {name for name in {**env, **os.environ} if name.startswith(INTERPRETER)}
    return CAN_FORK and all(env.get(name) == os.environ.get(name) for name in names)


class ForkedProcess:
    """Forked `sidecar`, with what tests use of `asyncio.subprocess.Process`."""

    def __init__(self) -> None:
        self.pid = 0
        self.returncode: int | None = None
        self.stdout: asyncio.StreamReader
        self.stderr: asyncio.StreamReader
        self._ending: asyncio.Task[int]

    @classmethod
    async def start(cls, argv: Sequence[str], env: Mapping[str, str], limit: int) -> ForkedProcess:
        """Start a command; `limit`: bytes of its longest line."""
        process = cls()
        pipes = [os.pipe() for _ in range(3)]
        try:
            fork_server().start(argv, env, *(writing for _, writing in pipes))
        finally:
            for _, writing in pipes:
                os.close(writing)
        process.stdout, process.stderr, report = [await _reader(reading, limit) for reading, _ in pipes]
        process.pid = await _number(report)
        process._ending = asyncio.create_task(process._end(report))
        return process

    async def _end(self, report: asyncio.StreamReader) -> int:
        code = await _number(report)
        await report.read()  # its end, so that no loop closes before the pipe
        self.returncode = code
        return code

    async def wait(self) -> int:
        return await asyncio.shield(self._ending)

    def send_signal(self, number: int) -> None:
        if self.returncode is None:
            with contextlib.suppress(ProcessLookupError):
                os.kill(self.pid, number)

    def kill(self) -> None:
        self.send_signal(signal.SIGKILL)


async def _number(report: asyncio.StreamReader) -> int:
    line = await report.readline()
    assert line, "the fork server has ended"
    return int(line)


async def _reader(handle: int, limit: int) -> asyncio.StreamReader:
    """Return a reader of a pipe."""
    reader = asyncio.StreamReader(limit=limit)
    pipe = os.fdopen(handle, "rb", buffering=0)
    await asyncio.get_running_loop().connect_read_pipe(lambda: asyncio.StreamReaderProtocol(reader), pipe)
    return reader


def run_all(commands: Sequence[Sequence[str | Path]]) -> list[subprocess.CompletedProcess[str]]:
    """Run `sidecar` once with each list of arguments, one after the other."""

    async def run(arguments: list[str]) -> subprocess.CompletedProcess[str]:
        process = await ForkedProcess.start(["sidecar", *arguments], os.environ, 2**16)
        async with asyncio.timeout(60):
            out, err = await asyncio.gather(process.stdout.read(), process.stderr.read())
            return subprocess.CompletedProcess(arguments, await process.wait(), out.decode(), err.decode())

    async def all_of_them() -> list[subprocess.CompletedProcess[str]]:
        return [await run([str(argument) for argument in arguments]) for arguments in commands]

    return asyncio.run(all_of_them())
