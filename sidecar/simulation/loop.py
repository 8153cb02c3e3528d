"""A loop that never waits: where it would block until the next timer, its clock jumps there."""

from __future__ import annotations

import asyncio
import selectors

START = 1.0
"""Seconds; small, so that sums of a few of them come out even."""


class VirtualSelector(selectors.SelectSelector):
    """Moves the loop's clock instead of waiting."""

    def __init__(self, patience: float) -> None:
        """`patience`: seconds of real time for which a loop without timers waits for a worker thread before it calls
        that a deadlock; 0 where there are none, so that real files need not be looked at."""
        super().__init__()
        self.patience = patience
        self.time = START

    def select(self, timeout: float | None = None) -> list[tuple[selectors.SelectorKey, int]]:
        ready = super().select(self.patience if timeout is None else 0) if self.patience else []
        if not ready:
            if timeout is None:
                raise RuntimeError("deadlock: nothing on the virtual loop can ever happen again")
            self.time += max(0.0, timeout)
        return ready


class VirtualLoop(asyncio.SelectorEventLoop):
    """A loop whose `time()` is virtual.  Not for real sockets: it would jump past them."""

    def __init__(self, patience: float = 0.0) -> None:
        self.clock = VirtualSelector(patience)
        super().__init__(self.clock)

    def time(self) -> float:
        return self.clock.time
