"""Keys of a terminal: `q` ends the program as Ctrl-C does, while it waits for the stream.

A thread reads the keys, since reading the stream blocks.  It sends the main thread the signal of Ctrl-C: only a signal
ends a read that blocks.
"""

from __future__ import annotations

import os
import signal
import sys
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Final

try:
    import termios
    import tty
except ImportError:  # a system without POSIX terminals: Ctrl-C ends the program there
    termios = None  # type: ignore[assignment]

QUIT: Final = b"qQ"


@contextmanager
def quit_key() -> Iterator[None]:
    """Watch for `q` on standard input, if that is a terminal; its settings come back in the end."""
    if termios is None or not sys.stdin.isatty():
        yield
        return
    fd = sys.stdin.fileno()
    before = termios.tcgetattr(fd)
    tty.setcbreak(fd)
    threading.Thread(target=_watch, args=(fd,), name="keys", daemon=True).start()
    try:
        yield
    finally:
        termios.tcsetattr(fd, termios.TCSADRAIN, before)


def _watch(fd: int) -> None:
    main = threading.main_thread().ident
    while key := os.read(fd, 1):
        if key in QUIT and main is not None:
            signal.pthread_kill(main, signal.SIGINT)
            return
