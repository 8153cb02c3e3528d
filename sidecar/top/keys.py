"""Keys of a terminal: `q` ends the program like Ctrl-C.

A thread reads the keys, because the main thread blocks while it reads the stream.  For `q` it sends SIGINT to the main
thread, because only a signal ends a blocking read.
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
    """Return a context in which `q` on a terminal raises `KeyboardInterrupt`; it restores the terminal's settings."""
    if termios is None or not sys.stdin.isatty():
        yield
        return
    fd = sys.stdin.fileno()
    before = termios.tcgetattr(fd)
    handler = signal.signal(signal.SIGINT, signal.default_int_handler)  # a parent may have made it ignored
    tty.setcbreak(fd)
    threading.Thread(target=_watch, args=(fd,), name="keys", daemon=True).start()
    try:
        yield
    finally:
        termios.tcsetattr(fd, termios.TCSADRAIN, before)
        signal.signal(signal.SIGINT, handler)


def _watch(fd: int) -> None:
    """Read keys, and send SIGINT to the main thread for `q`; run in a thread."""
    main = threading.main_thread().ident
    while key := os.read(fd, 1):
        if key in QUIT and main is not None:
            signal.pthread_kill(main, signal.SIGINT)
            return
