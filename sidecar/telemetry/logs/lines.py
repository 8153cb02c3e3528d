"""Writer of lines to a file descriptor: a bounded queue, and a thread that empties it.

A pipe that nobody reads, a stopped terminal or a full disk blocks the thread, never the event loop.  Lines beyond the
bound are dropped and counted.  The bound needs no lock: only the loop counts queued bytes, only the thread counts
written bytes, and the difference is what waits.
"""

from __future__ import annotations

import os
import queue
import select
import threading
from typing import Final, Protocol

MAX_BYTES: Final = 1024 * 1024
"""Most bytes that wait to be written."""
BATCH_BYTES: Final = 64 * 1024
"""Size from which on a batch is written."""
RETRY_SECONDS: Final = 1.0
"""Longest wait until a non-blocking descriptor accepts more."""


class Lines(Protocol):
    """Destination of lines, such as `LineWriter`."""

    @property
    def dropped(self) -> int:
        """Number of lines that were never written."""

    @property
    def waiting(self) -> int:
        """Number of bytes that wait to be written."""

    def write(self, line: bytes) -> bool:
        """Queue a line; False if it was dropped."""

    def close(self) -> bool:
        """Write all queued lines and stop; False if that took too long."""


class LineWriter:
    """Writer of lines in their order; only the loop's thread may call `write`."""

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
        """Number of lines that were never written: the queue was full, or writing failed."""
        return self._refused + self._failed

    @property
    def waiting(self) -> int:
        """Number of bytes that wait to be written."""
        return self._queued - self._taken

    def write(self, line: bytes) -> bool:
        """Queue one or several lines with their line feeds; False if they were dropped for lack of room."""
        if self._closed or self._queued - self._taken + len(line) > self._max:
            self._refused += line.count(b"\n")
            return False
        self._queued += len(line)
        self._queue.put(line)
        return True

    def close(self, timeout: float = 1.0) -> bool:
        """Write all queued lines and stop; False if that took longer than `timeout` seconds of real time."""
        if not self._closed:
            self._closed = True
            self._queue.put(None)
        self._thread.join(timeout)
        return not self._thread.is_alive()

    def _run(self) -> None:
        """Write queued lines in batches, until the queue ends; run in the thread."""
        ended = False
        while not ended:
            batch: list[bytes] = []
            size = 0
            line = self._queue.get()
            while line is not None:
                batch.append(line)
                size += len(line)
                if size >= BATCH_BYTES:
                    break
                try:
                    line = self._queue.get_nowait()
                except queue.Empty:
                    break
            ended = line is None
            data = b"".join(batch)
            try:
                self._write(data)
            except OSError:  # the log itself cannot be written, so the failure is only counted
                self._failed += data.count(b"\n")
            self._taken += size

    def _write(self, data: bytes) -> None:
        """Write all bytes, waiting for a non-blocking descriptor if needed."""
        view = memoryview(data)
        while view:
            try:
                view = view[os.write(self._fd, view) :]
            except BlockingIOError:  # another process that shares the descriptor has made it non-blocking
                select.select([], [self._fd], [], RETRY_SECONDS)
