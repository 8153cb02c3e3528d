"""Session of a reader: a directory, shells, and ports that no other test has.

- `sidecar`, `chaos` and `python` are those of this checkout and of the interpreter that runs the tests.  `sidecar` is
  forked where that is possible (`tests.support.forked`).
- Every port that a page names on loopback is replaced by a free one, in files, commands and outputs alike.
- Whatever a session has started ends with it.
"""

from __future__ import annotations

import contextlib
import os
import re
import secrets
import signal
import socket
import subprocess
import sys
import time
from contextlib import suppress
from pathlib import Path
from types import TracebackType
from typing import Final, Self

from tests.docs.pages import ROOT, Block
from tests.support.forked import CAN_FORK, fork_server

FIRST_PORT: Final = 10_000
LAST_PORT: Final = 32_000
ADDRESS: Final = re.compile(r"(?:(?<=127\.0\.0\.1:)|(?<=--port ))\d{4,5}\b")
PATIENCE: Final = 60.0
"""Seconds that a block may take: a busy machine is slow, and only a command that hangs gets there."""
LINKED: Final = ("policies", "chaos", "deploy", "docs", "requirements")


class Session:
    """Shells in one directory."""

    def __init__(self, directory: Path, *, as_written: bool = False) -> None:
        """`as_written`: ports are those that the page names."""
        self.directory = directory
        self._as_written = as_written
        self._ports: dict[str, str] = {}
        self._background: list[subprocess.Popen[bytes]] = []
        self._state = directory / ".state"
        for name in LINKED:
            (directory / name).symlink_to(ROOT / name)
        tools = directory / ".tools"
        tools.mkdir()
        for name, run in (("sidecar", "-m sidecar"), ("chaos", "-m chaos.cli"), ("python", ""), ("python3", "")):
            (tools / name).write_text(f'#!/bin/sh\nexec "{sys.executable}" {run} "$@"\n')
            (tools / name).chmod(0o755)
        self._handles: tuple[int, ...] = ()
        """Descriptors that commands need."""
        if CAN_FORK:
            fork_server().write_command(tools / "sidecar")
            self._handles = (fork_server().channel.fileno(),)
        self._environ = {
            **os.environ, "PATH": f"{tools}:{os.environ['PATH']}", "PYTHONPATH": str(ROOT), "COLUMNS": "120",
        }  # fmt: skip

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: type[BaseException] | BaseException | TracebackType | None) -> None:
        for process in self._background:
            with contextlib.suppress(ProcessLookupError):  # one that has ended by itself, as a page may ask for
                os.killpg(process.pid, signal.SIGTERM)
        for process in self._background:
            try:
                process.wait(10)
            except subprocess.TimeoutExpired:
                with contextlib.suppress(ProcessLookupError):
                    os.killpg(process.pid, signal.SIGKILL)
                process.wait()

    def here(self, text: str) -> str:
        """Return a text with ports of this session."""
        return ADDRESS.sub(lambda found: self._port(found[0]), text)

    def _port(self, named: str) -> str:
        if self._as_written:
            return named
        if named not in self._ports:
            self._ports[named] = str(_free_port())
        return self._ports[named]

    def write(self, block: Block) -> None:
        """Write the file that a block is."""
        assert block.title is not None
        self._where().joinpath(block.title).write_text(self.here(block.text))

    def run(self, text: str) -> str:
        """Run commands after those before them, in the directory where these ended; return all that they print."""
        script = f'cd "{self._where()}" || exit\n{self.here(text)}\n__code=$?\npwd > "{self._state}"\nexit $__code\n'
        done = subprocess.run(
            ["bash", "-c", script],
            env=self._environ, capture_output=True, text=True, timeout=PATIENCE, check=False, pass_fds=self._handles,
        )  # fmt: skip
        assert done.returncode == 0, f"{text}\nexit code {done.returncode}\n{done.stdout}{done.stderr}"
        return done.stdout + done.stderr

    def begin(self, text: str, wanted: str) -> None:
        """Run commands that go on, until they have printed each line of `wanted`."""
        output = self.directory / f".output{len(self._background)}"
        with output.open("wb") as file:
            script = f'cd "{self._where()}" || exit\n{self.here(text)}'
            process = subprocess.Popen(
                ["bash", "-c", script],
                env=self._environ, stdout=file, stderr=file, start_new_session=True, pass_fds=self._handles,
            )  # fmt: skip
        self._background.append(process)
        end = time.monotonic() + PATIENCE
        while missing := [line for line in self.here(wanted).splitlines() if line not in output.read_text()]:
            assert process.poll() is None, f"{text}\nhas ended\n{output.read_text()}"
            assert time.monotonic() < end, f"{text}\ndid not print {missing}\n{output.read_text()}"
            time.sleep(0.05)

    def _where(self) -> Path:
        return Path(self._state.read_text().strip()) if self._state.exists() else self.directory


def differs(printed: str, wanted: str, mark: str) -> str | None:
    """Return what is printed if it is not what a page shows, else None."""
    if mark in ("loosely", "until"):
        missing = [line for line in wanted.splitlines() if line.strip() not in printed]
        return f"{missing} not in\n{printed}" if missing else None
    found, shown = printed.strip().splitlines(), wanted.strip().splitlines()
    if mark == "roughly":
        number = re.compile(r" *\d+(?:\.\d+)?")
        found, shown = ([number.sub("0", line) for line in lines] for lines in (found, shown))
    return None if found == shown else f"printed\n{printed}\ninstead of\n{wanted}"


def _free_port() -> int:
    """Return a free port that the kernel gives to no other socket meanwhile: it takes theirs from 32768 on."""
    while True:
        port = FIRST_PORT + secrets.randbelow(LAST_PORT - FIRST_PORT)
        with socket.socket() as free, suppress(OSError):
            free.bind(("127.0.0.1", port))
            return port
