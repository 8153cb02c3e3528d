"""Process under callgrind (https://valgrind.org/docs/manual/cl-manual.html), and counts read from its dumps.

The simulated caches are named on the command line: by default callgrind takes those of the processor that it runs on.
Counts are of all threads, in user space. A system call counts as the instructions that make it.
"""

from __future__ import annotations

import re
import shutil
import subprocess
from collections.abc import Mapping, Sequence
from pathlib import Path
from types import TracebackType
from typing import Final, NamedTuple

from bench import machine

CACHES: Final = ("--I1=32768,8,64", "--D1=32768,8,64", "--LL=8388608,16,64")
"""Simulated caches: size in bytes, associativity and line size in bytes, as in most servers' processors.  A way of L1
is as large as a page, so that the address of code in memory does not change which lines compete."""
PATIENCE: Final = 60.0
"""Seconds for a command to the process."""

INVOKE: Final = 10
"""Milliseconds after which vgdb interrupts a system call of the process."""


class Counts(NamedTuple):
    """Counts of events in a part of a run."""

    instructions: float
    l1i: float
    """Misses of the instruction cache."""
    l1d: float
    """Misses of the data cache, reads and writes."""

    def __truediv__(self, number: float) -> Counts:
        return Counts(*(value / number for value in self))


def parse(dump: str) -> Counts:
    """Return the totals of a dump; raises `ValueError` where it has none, or lacks the simulation of the caches.

    The format is https://valgrind.org/docs/manual/cl-format.html: `events:` names the columns, `totals:` sums them.
    Zeros at the end of a line are left out.
    """
    names, totals = (re.search(rf"^{key}:(.*)$", dump, re.MULTILINE) for key in ("events", "totals"))
    if names is None or totals is None:
        raise ValueError("callgrind's dump has no line `events:` or no line `totals:`; it may be cut off")
    columns = names[1].split()
    values = [*map(int, totals[1].split())]
    found = dict(zip(columns, values + [0] * (len(columns) - len(values)), strict=True))
    try:
        return Counts(found["Ir"], found["I1mr"], found["D1mr"] + found["D1mw"])
    except KeyError as error:
        raise ValueError(f"callgrind's dump does not count {error}; it needs --cache-sim=yes") from None


def find() -> str | None:
    """Return the path of valgrind, None where it is not installed."""
    return shutil.which("valgrind")


def version() -> str:
    """Return valgrind's version, such as `valgrind-3.19.0`."""
    return machine.first_line(["valgrind", "--version"])


class Callgrind:
    """Process under callgrind: `with Callgrind(argv, env, directory) as process: ...`

    The process runs without instrumentation, which is much faster, until `instrument` is called.
    """

    def __init__(self, argv: Sequence[str], env: Mapping[str, str], directory: Path) -> None:
        self.log = directory / "output"
        """File that takes what the process prints."""
        self._pipes = f"--vgdb-prefix={directory / 'vgdb'}"
        self._dumps = directory / "dump"
        self._number = 0
        options = ["--cache-sim=yes", *CACHES, "--instr-atstart=no", "--trace-children=no", "--dump-line=no"]
        self._process = machine.spawn(
            ["valgrind", "--tool=callgrind", f"--callgrind-out-file={self._dumps}", self._pipes, *options, *argv],
            None,
            self.log,
            dict(env),
        )

    def __enter__(self) -> Callgrind:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._process.kill()  # a drain would take long
        self._process.wait()

    @property
    def has_ended(self) -> bool:
        """True once the process has ended by itself."""
        return self._process.poll() is not None

    def instrument(self) -> None:
        """Count from now on.  The simulated caches are empty at first."""
        self._command("instrumentation on")

    def take(self) -> Counts:
        """Return the counts since the last call.  The dump stays in the directory, as `dump.N`."""
        self._command("dump")
        self._number += 1
        return parse(self._dumps.with_name(f"{self._dumps.name}.{self._number}").read_text())

    def _command(self, command: str) -> None:
        argv = ["vgdb", f"--pid={self._process.pid}", self._pipes, f"--max-invoke-ms={INVOKE}", *command.split()]
        done = subprocess.run(argv, capture_output=True, text=True, timeout=PATIENCE, check=False)
        if done.returncode:
            raise RuntimeError(f"vgdb {command}: {(done.stderr or done.stdout).strip()[-1000:]}")
