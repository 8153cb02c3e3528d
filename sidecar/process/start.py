"""First steps of `sidecar run`, before its modules are imported: standard streams and signals."""

from __future__ import annotations

import os
import signal
from typing import Final

STREAMS: Final = (0, 1, 2)
"""Descriptors of standard input, output and error."""
LATER: Final = (signal.SIGHUP, signal.SIGUSR2)
"""Signals that end a process which has no handler for them."""


def prepare_process() -> None:
    """Open the standard streams that are closed, and ignore signals that need a process which serves.

    Without the first, a socket would get the number of a stream, and log lines would be written into it.  Without the
    second, a reload that is asked for during the start would end the process.
    """
    for stream in STREAMS:
        try:
            os.fstat(stream)
        except OSError:
            os.set_inheritable(os.open(os.devnull, os.O_RDWR), True)  # the lowest free number is that of the stream
    for number in LATER:
        signal.signal(number, signal.SIG_IGN)
