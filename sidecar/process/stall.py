"""Watch over the event loop: a timer that measures how late it runs.

Whatever blocks the loop (a slow callback, the garbage collector, a starved CPU) delays every request alike and shows in
no stage's own numbers.  A stall of `THRESHOLD_SECONDS` + `INTERVAL_SECONDS` or longer is always seen, a shorter one
when the timer falls due early in it.  The histogram of the lag shows a busy loop before it stalls.
"""

from __future__ import annotations

from typing import Any, Final

from sidecar.core.env import Env, Handle
from sidecar.core.events import LOOP_STALLED
from sidecar.core.metrics import LOOP_LAG, LOOP_STALLS

INTERVAL_SECONDS: Final = 0.1
THRESHOLD_SECONDS: Final = 0.1


class StallWatch:
    """Timer that counts stalls of the loop and emits `LOOP_STALLED` for each."""

    def __init__(self, env: Env, interval: float = INTERVAL_SECONDS, threshold: float = THRESHOLD_SECONDS) -> None:
        self._env = env
        self._interval = interval
        self._threshold = threshold
        self._due = 0.0
        self._timer: Handle | None = None
        self._stalls = env.meter.counter(LOOP_STALLS)
        self._lag = env.meter.histogram(LOOP_LAG)
        self._longest = 0.0
        self._last: float | None = None

    def start(self) -> None:
        """Begin to watch; without effect while it does."""
        if self._timer is None:
            self._arm()

    def stop(self) -> None:
        """Stop watching."""
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None

    def describe(self) -> dict[str, Any]:
        """Return `stalls`, `longest_seconds` and `last`, a Unix time or None, as JSON-ready values."""
        return {"stalls": self._stalls.value, "longest_seconds": round(self._longest, 3), "last": self._last}

    def _arm(self) -> None:
        self._due = self._env.now() + self._interval
        self._timer = self._env.call_later(self._interval, self._tick)

    def _tick(self) -> None:
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
