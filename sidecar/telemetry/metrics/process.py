"""Memory, CPU time and open files of the process; NaN for values from /proc on systems without it."""

from __future__ import annotations

import os
from collections.abc import Callable
from typing import Final

from sidecar.core.metrics import PROCESS_CPU, PROCESS_FILES, PROCESS_MEMORY, PROCESS_UPTIME
from sidecar.telemetry.metrics.registry import Registry

UNKNOWN: Final = float("nan")


def memory() -> float:
    """Return the resident memory in bytes."""
    try:
        with open("/proc/self/statm", "rb") as file:
            return float(file.read().split()[1]) * os.sysconf("SC_PAGE_SIZE")
    except OSError:
        return UNKNOWN


def cpu() -> float:
    """Return the CPU time of the process in seconds, user and system together."""
    times = os.times()
    return times.user + times.system


def files() -> float:
    """Return the number of open file descriptors.

    Linux 6.2 and later report it as the size of /proc/self/fd; for older ones, the directory is listed.
    """
    try:
        return float(os.stat("/proc/self/fd").st_size or len(os.listdir("/proc/self/fd")) - 1)
    except OSError:
        return UNKNOWN


def observe(registry: Registry, uptime: Callable[[], float]) -> None:
    """Register the metrics of the process; `uptime` returns the seconds since its start."""
    registry.gauge(PROCESS_MEMORY, memory)
    registry.gauge(PROCESS_FILES, files)
    registry.gauge(PROCESS_UPTIME, uptime)
    registry.total(PROCESS_CPU, cpu)
