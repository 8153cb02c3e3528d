"""Lines to a file descriptor, off the event loop: a bounded queue and a thread that writes.

A pipe that nobody reads, a terminal on hold or a full disk holds up the thread, never the loop: what exceeds the bound
is dropped and counted.  The bound is kept without a lock: the loop alone counts what was queued, the thread alone what
was taken off, and the difference is what waits.
"""

from __future__ import annotations

import os
import queue
import select
import threading
from typing import Final

MAX_BYTES: Final = 1024 * 1024
BATCH: Final = 64 * 1024
RETRY: Final = 1.0
"""Seconds to wait for room on a descriptor that does not block."""


class LineWriter:
    """Writes lines in order.  `write` is for one thread only, the loop's."""

    def __init__(self, fd: int, max_bytes: int = MAX_BYTES) -> None:
        self._fd = fd
        self._max = max_bytes
        self._queue: queue.SimpleQueue[bytes | None] = queue.SimpleQueue()
        self._queued = 0  # bytes, counted by the loop
        self._taken = 0  # bytes, counted by the thread
        self._refused = 0  # lines, counted by the loop
        self._failed = 0  # lines, counted by the thread
        self._closed = False
        self._thread = threading.Thread(target=self._run, name="log", daemon=True)
        self._thread.start()

    @property
    def dropped(self) -> int:
        """Lines that were never written: the queue was full, or writing failed."""
        return self._refused + self._failed

    @property
    def waiting(self) -> int:
        """Bytes that wait to be written."""
        return self._queued - self._taken

    def write(self, line: bytes) -> bool:
        """Queue a line, or several, with their line feeds; False where there is no room and they were dropped."""
        if self._closed or self._queued - self._taken + len(line) > self._max:
            self._refused += line.count(b"\n")
            return False
        self._queued += len(line)
        self._queue.put(line)
        return True

    def close(self, timeout: float = 1.0) -> bool:
        """Write what waits, for at most that many seconds of real time; False where that was not enough."""
        if not self._closed:
            self._closed = True
            self._queue.put(None)
        self._thread.join(timeout)
        return not self._thread.is_alive()

    def _run(self) -> None:
        ended = False
        while not ended:
            batch: list[bytes] = []
            size = 0
            line = self._queue.get()
            while line is not None:
                batch.append(line)
                size += len(line)
                if size >= BATCH:
                    break
                try:
                    line = self._queue.get_nowait()
                except queue.Empty:
                    break
            ended = line is None
            data = b"".join(batch)
            try:
                self._write(data)
            except OSError:  # nobody is there to be told; the count tells
                self._failed += data.count(b"\n")
            self._taken += size

    def _write(self, data: bytes) -> None:
        view = memoryview(data)
        while view:
            try:
                view = view[os.write(self._fd, view) :]
            except BlockingIOError:  # whoever shares the descriptor made it non-blocking
                select.select([], [self._fd], [], RETRY)
