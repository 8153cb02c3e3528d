"""Adaptive concurrency limit: Gradient2 of Netflix's concurrency-limits, with a guard against drift.

A limit is right when one more request in flight makes the others wait.  After each window of samples the limit follows
the ratio of the latency in the long run to that of the window:

    gradient = clamp(tolerance * long / short, 0.5, 1)
    limit    = 0.8 * limit + 0.2 * (limit * gradient + queue)

Rules that the published algorithm does not have:

1. A crowded window, with half of the permits or more in use, teaches the long run only that things are faster.
2. If a cut of the limit by a fifth does not bring the latency down, the present latency becomes the long run.
3. A window with a drop (a timeout, a 503 or 429 of the upstream) cuts by a tenth, whatever the latency (AIMD).

The limit never probes.  `docs/design/concurrency.md` has the reasons.
"""

from __future__ import annotations

from typing import Any, Final

INITIAL: Final = 20
"""Limit at the start."""
TOLERANCE: Final = 1.5
"""Ratio of the latency to the long run up to which the limit may rise."""
QUEUE: Final = 4.0
"""Permits by which the limit rises, before smoothing."""
SMOOTHING: Final = 0.2
"""Weight of the newest window."""
LONG: Final = 600
"""Windows over which the long run is averaged."""
WARM_UP: Final = 10
"""Windows of which the long run is the plain mean at first."""
BACKOFF: Final = 0.9
"""Factor of the limit after a window with a drop."""
MIN_SAMPLES: Final = 10
"""Samples of the shortest window."""
MIN_WINDOW: Final = 0.1
"""Seconds of the shortest window; one lasts twice the latency if that is more."""
MAX_WINDOW: Final = 1.0
"""Seconds of the longest window."""
CUT: Final = 0.8
"""Factor of a cut of the limit that ought to show in the latency."""
UNMOVED: Final = 0.9
"""Share of the latency before the cut that shows that it did not."""


class Gradient:
    """Adaptive limit, and what it has learnt."""

    __slots__ = (
        "_count",
        "_crowd",
        "_drops",
        "_ends",
        "_peak",
        "_sum",
        "_windows",
        "highest",
        "limit",
        "long",
        "lowest",
    )

    def __init__(self, lowest: int, highest: int) -> None:
        self.lowest = lowest
        self.highest = highest
        self.limit = float(min(max(INITIAL, lowest), highest))
        """Permits, with a fraction."""
        self.long = 0.0
        """Seconds of latency in the long run."""
        self._windows = 0
        self._peak = (0.0, 0.0)
        """Highest latency since it is beyond the tolerance, after the limit at that time."""
        self._ends = 0.0
        self._count = self._drops = self._crowd = 0
        self._sum = 0.0

    def retune(self, lowest: int, highest: int) -> None:
        """Take new bounds; what was learnt stays."""
        self.lowest = lowest
        self.highest = highest
        self.limit = min(max(self.limit, lowest), highest)

    def sample(self, now: float, latency: float, active: int) -> bool:
        """Learn a latency in seconds, while `active` permits were in use.  True if the limit may have changed."""
        self._sum += latency
        return self._add(now, active)

    def drop(self, now: float, active: int) -> bool:
        """Learn of a timeout or of an overloaded upstream.  True if the limit may have changed."""
        self._drops += 1
        return self._add(now, active)

    def _add(self, now: float, active: int) -> bool:
        self._count += 1
        if active > self._crowd:
            self._crowd = active
        if now < self._ends or self._count < MIN_SAMPLES:
            return False
        answered = self._count - self._drops
        short = self._sum / answered if answered else 0.0
        self._update(short, self._crowd >= self.limit / 2)
        self._begin(now, short)
        return True

    def _begin(self, now: float, latency: float) -> None:
        self._count = self._drops = self._crowd = 0
        self._sum = 0.0
        self._ends = now + min(max(2 * latency, MIN_WINDOW), MAX_WINDOW)

    def _update(self, short: float, is_crowded: bool) -> None:
        if short:
            self._learn(short, is_crowded)
        if self._drops:
            wanted = self.limit * BACKOFF
        elif is_crowded:
            gradient = min(max(TOLERANCE * self.long / short, 0.5), 1.0) if short else 1.0
            wanted = self.limit + SMOOTHING * (self.limit * (gradient - 1) + QUEUE)
        else:
            return
        self.limit = min(max(wanted, self.lowest), self.highest)

    def _learn(self, short: float, is_crowded: bool) -> None:
        self._windows += 1
        if self._windows <= WARM_UP:
            self.long += (short - self.long) / self._windows
        elif short < self.long or not is_crowded:
            self.long += (short - self.long) * 2 / (LONG + 1)
        if self.long > 2 * short:
            self.long *= 0.95
        limit, latency = self._peak
        if short <= TOLERANCE * self.long:
            self._peak = (0.0, 0.0)
        elif short > latency:
            self._peak = (self.limit, short)
        elif self.limit <= limit * CUT:
            if short > latency * UNMOVED:
                self.long = short
            self._peak = (self.limit, short)

    def describe(self) -> dict[str, Any]:
        """Return the limit and what it has learnt, JSON-ready."""
        return {"limit": int(self.limit), "long_run_latency": self.long}
