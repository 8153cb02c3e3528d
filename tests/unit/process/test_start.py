"""Tests of the first steps of a process: standard streams that are closed, and signals that come too early."""

from __future__ import annotations

import os
import subprocess
import sys

STEPS = """
import os, signal, sys
from sidecar.process.start import prepare_process
prepare_process()
for number in (signal.SIGHUP, signal.SIGUSR2):
    os.kill(os.getpid(), number)
names = [os.readlink(f"/proc/self/fd/{stream}") for stream in range(3)]
os.write(int(sys.argv[1]), " ".join(names).encode())
"""


def close_streams() -> None:
    for stream in (0, 2):
        os.close(stream)


def test_closed_streams_are_opened_and_early_signals_ignored() -> None:
    reading, writing = os.pipe()
    with os.fdopen(reading) as report:
        command = [sys.executable, "-c", STEPS, str(writing)]
        done = subprocess.run(
            command, stdout=subprocess.PIPE, pass_fds=[writing], preexec_fn=close_streams, check=False
        )
        os.close(writing)
        first, second, third = report.read().split()
    assert (done.returncode, first, third) == (0, os.devnull, os.devnull)
    assert second.startswith("pipe:"), "what is open stays"
