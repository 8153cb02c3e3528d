"""Clock that never steps, made of the wall clock of a store and the monotonic clocks of those who ask it.

Each process says how much time has passed since its last exchange.  The store's clock has been read since then, so it
cannot have advanced by more.  A step forward is cut to that time, and a step back counts as no time.  A process that
asks for the first time cannot tell; the store's clock is believed then.
"""

from __future__ import annotations


class StoreClock:
    """Instants of the clock; 0 is the first."""

    __slots__ = ("_now", "_seen")

    def __init__(self) -> None:
        self._now = 0.0
        self._seen: float | None = None
        """Time of the store's clock at the last exchange; None before the first."""

    def advance(self, wall: float, elapsed: float) -> float:
        """Return the instant of an exchange, at a time of the store's clock, `elapsed` seconds after the asker's last.

        `elapsed` is infinite for the first exchange of a process.
        """
        if self._seen is not None:
            self._now += max(0.0, min(wall - self._seen, elapsed))
        self._seen = wall
        return self._now
