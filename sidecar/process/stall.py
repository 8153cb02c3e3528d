"""Detection of event-loop stalls: a timer that measures how late it runs.

A blocked loop (a slow callback, the garbage collector, too little CPU) delays every request, and no metric of a stage
shows it.  A stall of at least `THRESHOLD_SECONDS` + `INTERVAL_SECONDS` is always detected.  A shorter one is detected
if the timer falls due early in it.  The histogram of the lag shows a busy loop before it stalls.
"""

from __future__ import annotations

from typing import Any, Final

from sidecar.core.env import Env, TimerHandle
from sidecar.core.events import LOOP_STALLED
from sidecar.core.metrics import LOOP_LAG, LOOP_STALLS

INTERVAL_SECONDS: Final = 0.1
"""Interval of the timer."""
THRESHOLD_SECONDS: Final = 0.1
"""Delay of the timer from which on it is a stall."""


class StallWatch:
    """Timer that counts stalls of the loop and emits `LOOP_STALLED` for each."""

    def __init__(self, env: Env, interval: float = INTERVAL_SECONDS, threshold: float = THRESHOLD_SECONDS) -> None:
        self._env = env
        self._interval = interval
        self._threshold = threshold
        self._due = 0.0
        self._timer: TimerHandle | None = None
        self._stalls = env.meter.counter(LOOP_STALLS)
        self._lag = env.meter.histogram(LOOP_LAG)
        self._longest = 0.0
        self._last: float | None = None

    def start(self) -> None:
        """Start the timer; no effect if it runs already."""
        if self._timer is None:
            self._arm()

    def stop(self) -> None:
        """Stop the timer."""
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None

    def describe(self) -> dict[str, Any]:
        """Return the number of stalls, the longest in seconds, and the Unix time of the last (None: no stall)."""
        return {"stalls": self._stalls.value, "longest_seconds": round(self._longest, 3), "last": self._last}

    def _arm(self) -> None:
        """Schedule the next tick."""
        self._due = self._env.now() + self._interval
        self._timer = self._env.call_later(self._interval, self._tick)

    def _tick(self) -> None:
        """Record the delay of the timer, and report a stall."""
        late = max(0.0, self._env.now() - self._due)
        self._lag.record(late)
        if late >= self._threshold:
            self._stalls.value += 1
            self._longest = max(self._longest, late)
            self._last = self._env.wall()
            self._env.emit(LOOP_STALLED, seconds=round(late, 3))
        self._arm()

    def __repr__(self) -> str:
        return f"<StallWatch {self._stalls.value} stalls, the longest {self._longest:.3f} s>"
