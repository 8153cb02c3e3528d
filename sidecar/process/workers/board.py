"""Board: memory that the supervisor and all workers share, with one row of numbers for each worker.

Each cell has one writer, the worker of the row.  After a worker's death, the supervisor writes its row.  Readers need
no lock, because a cell is one aligned machine word.

The rows answer two questions that are asked for each new connection, without a message: how many connections has each
worker, and does it run?
"""

from __future__ import annotations

import mmap
import os
from typing import Final

BEAT: Final = 0
"""Cell with the instant of the worker's last turn, in nanoseconds of the monotonic clock; 0 while it takes nothing."""
OPEN: Final = 1
"""Cell with the number of open client connections."""
TAKEN: Final = 2
"""Cell with the number of connections that other workers have handed over to it."""
HANDED: Final = 3
"""First of the cells with the numbers of connections that it has handed over, one cell for each worker."""
WORD: Final = 8
"""Bytes of a cell."""


class Board:
    """Rows of all workers."""

    def __init__(self, handle: int, workers: int) -> None:
        """Map the memory behind a descriptor, which stays open; `workers` is the number of rows."""
        self.handle = handle
        self.workers = workers
        self._width = HANDED + workers
        self._memory = mmap.mmap(handle, workers * self._width * WORD)
        self._cells = memoryview(self._memory).cast("q")

    @classmethod
    def make(cls, workers: int) -> Board:
        """Return a board in new memory."""
        handle = os.memfd_create("workers")
        os.ftruncate(handle, workers * (HANDED + workers) * WORD)
        return cls(handle, workers)

    def get(self, worker: int, cell: int) -> int:
        """Return a cell of a worker's row; workers count from 0."""
        return self._cells[worker * self._width + cell]

    def set(self, worker: int, cell: int, value: int) -> None:
        """Set a cell of a worker's row."""
        self._cells[worker * self._width + cell] = value

    def add(self, worker: int, cell: int, value: int = 1) -> None:
        """Add to a cell of a worker's row."""
        self._cells[worker * self._width + cell] += value

    def on_their_way(self, worker: int) -> int:
        """Return the number of connections that others have handed over to a worker, and that it has not taken yet."""
        handed = sum(self.get(other, HANDED + worker) for other in range(self.workers))
        return max(0, handed - self.get(worker, TAKEN))

    def load(self, worker: int) -> int:
        """Return the connections of a worker, with those on their way to it."""
        return self.get(worker, OPEN) + self.on_their_way(worker)

    def is_alive(self, worker: int, now: float, patience: float) -> bool:
        """True if a worker takes connections, and has made a turn within `patience` seconds before `now`."""
        beat = self.get(worker, BEAT)
        return beat > 0 and now - beat / 1e9 <= patience

    @property
    def connections(self) -> int:
        """Number of open client connections of all workers."""
        return sum(self.get(worker, OPEN) for worker in range(self.workers))

    def leave(self, worker: int) -> None:
        """Empty the row of a dead worker; connections that are handed over stay counted."""
        self.set(worker, BEAT, 0)
        self.set(worker, OPEN, 0)

    def close(self) -> None:
        """Unmap the memory and close its descriptor."""
        self._cells.release()
        self._memory.close()
        os.close(self.handle)
