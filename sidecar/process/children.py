"""Child processes that end with their parent.

A child gets a session of its own, so that Ctrl-C in the terminal reaches only the parent, which stops its children in
order.  On Linux the kernel sends a child SIGTERM if its parent dies without having stopped it (`PR_SET_PDEATHSIG`).  On
other systems, the children of a killed parent stay.
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
"""Option of prctl(2): the signal that a process gets when its parent dies."""


def start(argv: Sequence[str], log: Path, env: Mapping[str, str] | None = None) -> subprocess.Popen[bytes]:
    """Start a program, and append its output to `log`; `env` is added to the environment of this process."""
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
    """Send SIGTERM to a child, and SIGKILL after `grace` seconds; return its exit code.

    The exit code is negative if a signal ended the child.
    """
    if process.poll() is None:
        process.terminate()
        try:
            process.wait(grace)
        except subprocess.TimeoutExpired:
            process.kill()
    return process.wait()


def is_free(host: str, port: int) -> bool:
    """True if a server can listen on the TCP port."""
    with socket.socket() as probe:
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            probe.bind((host, port))
        except OSError:
            return False
    return True


def tied_to_parent() -> Callable[[], None] | None:
    """Return a `preexec_fn` that makes a child end with its parent; None on systems other than Linux."""
    if not sys.platform.startswith("linux"):
        return None
    libc = ctypes.CDLL(None, use_errno=True)
    parent = os.getpid()

    def tie() -> None:
        """Ask the kernel for the signal; runs in the child, before its program."""
        libc.prctl(PR_SET_PDEATHSIG, signal.SIGTERM)
        if os.getppid() != parent:  # the parent died between the fork and the call
            os._exit(1)

    return tie
