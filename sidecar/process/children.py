"""Child processes that do not outlive their starter.

A child gets a session of its own, so that Ctrl-C in the terminal reaches only the starter, which stops its children in
order.  On Linux the kernel sends a child SIGTERM if its starter dies without having stopped it (`PR_SET_PDEATHSIG`).
Elsewhere a killed starter leaves its children behind.
"""

from __future__ import annotations

import ctypes
import os
import signal
import socket
import subprocess
import sys
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Final

PR_SET_PDEATHSIG: Final = 1


def start(argv: Sequence[str], log: Path, env: Mapping[str, str] | None = None) -> subprocess.Popen[bytes]:
    """Start a program with its output appended to `log`; `env` is added to the environment."""
    with log.open("ab") as output:
        return subprocess.Popen(
            argv,
            stdin=subprocess.DEVNULL,
            stdout=output,
            stderr=subprocess.STDOUT,
            env={**os.environ, "PYTHONUNBUFFERED": "1", **(env or {})},
            start_new_session=True,
            preexec_fn=tied_to_parent(),
        )


def stop(process: subprocess.Popen[bytes], grace: float) -> int:
    """Ask a child to end, and kill it after `grace` seconds.

    Returns its exit code, negative for the signal that ended it.
    """
    if process.poll() is None:
        process.terminate()
        try:
            process.wait(grace)
        except subprocess.TimeoutExpired:
            process.kill()
    return process.wait()


def is_free(host: str, port: int) -> bool:
    """True if a server can listen there."""
    with socket.socket() as probe:
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            probe.bind((host, port))
        except OSError:
            return False
    return True


def tied_to_parent() -> Callable[[], None] | None:
    """Return what a child runs before its program, so that it ends with its parent; None where that is impossible."""
    if not sys.platform.startswith("linux"):
        return None
    libc = ctypes.CDLL(None, use_errno=True)
    parent = os.getpid()

    def tie() -> None:
        libc.prctl(PR_SET_PDEATHSIG, signal.SIGTERM)
        if os.getppid() != parent:  # the parent died between the fork and the call
            os._exit(1)

    return tie
