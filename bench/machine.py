"""Facts of the machine and its processes: cores, pinning, CPU and memory used, versions."""

from __future__ import annotations

import ctypes
import os
import platform
import random
import shutil
import signal
import socket
import subprocess
import sys
import sysconfig
import time
from collections.abc import Sequence
from contextlib import suppress
from pathlib import Path
from typing import Final

from sidecar.process.children import PR_SET_PDEATHSIG, tied_to_parent

PAGE: Final = os.sysconf("SC_PAGE_SIZE")


def cores() -> tuple[int, int]:
    """Return the core of the proxies and that of load and upstream; the same one on a machine with one core."""
    allowed = sorted(os.sched_getaffinity(0))
    return allowed[0], allowed[-1]


def pinned(argv: Sequence[str], core: int) -> list[str]:
    """Return the command, pinned to a core if `taskset` (util-linux) is installed."""
    taskset = shutil.which("taskset")
    return [taskset, "-c", str(core), *argv] if taskset else list(argv)


def spawn(
    argv: Sequence[str], core: int | None, log: Path, env: dict[str, str] | None = None
) -> subprocess.Popen[bytes]:
    """Start a server on a core (None: any core); its output goes to `log`."""
    with log.open("ab") as output:
        return subprocess.Popen(
            argv if core is None else pinned(argv, core),
            stdin=subprocess.DEVNULL,
            stdout=output,
            stderr=subprocess.STDOUT,
            env={**os.environ, **(env or {})},
            start_new_session=True,
            preexec_fn=tied_to_parent(),
        )


def end_with_parent() -> None:
    """Have the kernel end this process when its parent ends; Linux only."""
    ctypes.CDLL(None).prctl(PR_SET_PDEATHSIG, signal.SIGTERM)


def end(process: subprocess.Popen[bytes]) -> None:
    """End a server by SIGTERM, and by SIGKILL if it does not end."""
    if process.poll() is None:
        process.send_signal(signal.SIGTERM)
        try:
            process.wait(5)
        except subprocess.TimeoutExpired:
            process.kill()
    process.wait()


def cpu_clock(pid: int) -> int:
    """Return the id of the clock of a process's CPU time (`clock_getcpuclockid(3)`)."""
    return (~pid << 3) | 2


def cpu_seconds(pid: int) -> float:
    """Return the user and system time of a process with all its threads, in seconds."""
    return time.clock_gettime(cpu_clock(pid))


def resident_bytes(pid: int) -> int:
    """Return the resident bytes of a process."""
    return int(Path(f"/proc/{pid}/statm").read_text().split()[1]) * PAGE


def free_port() -> int:
    """Return a free port outside the range from which the kernel takes ports of outgoing connections."""
    first = int(Path("/proc/sys/net/ipv4/ip_local_port_range").read_text().split()[0])
    while True:
        port = random.randrange(max(1024, first // 2), first)
        with socket.socket() as sock, suppress(OSError):
            sock.bind(("127.0.0.1", port))
            return port


def first_line(argv: Sequence[str]) -> str:
    """Return the first line that a program prints, such as its version; empty if it cannot be run."""
    try:
        done = subprocess.run(argv, capture_output=True, text=True, timeout=10, check=False)
    except (OSError, subprocess.TimeoutExpired):
        return ""
    return next((line.strip() for line in (done.stdout + done.stderr).splitlines() if line.strip()), "")


def interpreter() -> str:
    """Return the version of this Python and its optimisations: profile-guided and link-time ones make it much
    faster."""
    arguments = sysconfig.get_config_var("CONFIG_ARGS") or ""
    built = [word for word in ("--enable-optimizations", "--with-lto", "--with-pydebug") if word in arguments]
    if built:
        how = f"built with {' '.join(built)}"
    elif sys.base_prefix == "/usr":  # Debian applies both without saying so in these arguments
        how = f"the system's own build, {platform.freedesktop_os_release().get('PRETTY_NAME', 'unknown system')}"
    else:
        how = "built without --enable-optimizations"
    return f"{platform.python_implementation()} {platform.python_version()}, {how}"


def hardware() -> str:
    """Return processor, number of cores and kernel."""
    names = (
        line.partition(":")[2].strip()
        for line in Path("/proc/cpuinfo").read_text().splitlines()
        if "model name" in line
    )
    count = len(os.sched_getaffinity(0))
    return f"{next(names, platform.machine())}, {count} cores, {platform.system()} {platform.release()}"
