"""Is the event loop held up?  A timer that measures how late it runs, and the one setting of the collector that helps.

Whatever blocks the loop (a slow callback, the garbage collector, a starved CPU) delays every request alike and shows in
no stage's own numbers.  Ten timers a second cost 30 us of CPU a second.  A stall of `THRESHOLD` + `INTERVAL` or longer
is always seen, a shorter one when the timer falls due early in it; the histogram of the lag shows a busy loop before it
stalls.
"""

from __future__ import annotations

import gc
import sys
from typing import Any, Final

from sidecar.core.env import Env, Handle
from sidecar.core.events import LOOP_STALLED
from sidecar.core.metrics import LOOP_LAG, LOOP_STALLS

INTERVAL: Final = 0.1
THRESHOLD: Final = 0.1
SWITCH: Final = 0.00005
"""Seconds."""
OLD: Final = 50
"""Collections of the middle generation before one of all."""


class StallWatch:
    """Counts stalls, remembers the longest, and tells of each (`LOOP_STALLED`)."""

    def __init__(self, env: Env, interval: float = INTERVAL, threshold: float = THRESHOLD) -> None:
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
        """Watch from now on."""
        if self._timer is None:
            self._arm()

    def stop(self) -> None:
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None

    def describe(self) -> dict[str, Any]:
        """`stalls`, `longest_seconds` and `last`, a Unix time, None where there was none."""
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


def share_interpreter() -> None:
    """Let no thread keep the loop waiting for the interpreter for long.

    Policies are read in a thread.  By default that thread would give the interpreter up only after 5 ms, and each turn
    of the loop would wait so long for it.  With 200 reloads in 20 s under full load p99 is 1.15 to 1.57 times that
    without at 0.2 ms, and 0.99 to 1.18 times at 0.05 ms; shorter ones gain nothing (`python -m bench.reload`).
    Switching costs nothing while there is nobody to switch to.
    """
    sys.setswitchinterval(SWITCH)


def freeze_startup() -> None:
    """Take what the imports made out of the garbage collector's sight.  Call it before policies are compiled.

    50 000 objects of modules and classes live as long as the process.  A full collection walks them in 8 to 10 ms, and
    nothing else runs meanwhile; once they are frozen it takes 0.1 ms.  What is frozen is never collected: called later,
    it would make a reload leak the first snapshot.

    Of the thresholds only the oldest generation's is raised, to five times its default: a full cache has some 100 000
    objects that live long, and walking them about once a second made p99 23 ms where every answer is stored; now it is
    5.  Requests leave no cycles behind, so little waits for it.  Collections of the young take 0.01 us of a request
    (measured with 5 000 requests in flight).
    """
    gc.collect()
    gc.freeze()
    gc.set_threshold(*gc.get_threshold()[:2], OLD)
