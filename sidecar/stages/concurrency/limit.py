"""Adaptive concurrency limit: Gradient2 of Netflix's concurrency-limits, with a guard against drift.

After each window of samples the limit follows the ratio of the long-run latency to the latency of the window:

    gradient = clamp(tolerance * long / short, 0.5, 1)
    limit    = 0.8 * limit + 0.2 * (limit * gradient + queue)

Rules that the published algorithm does not have:

1. A crowded window, with half of the permits or more in use, can only lower the long-run latency.
2. If a cut of the limit by a fifth does not bring the latency down, the present latency becomes the long-run latency.
3. A window with a drop (a timeout, a 503 or 429 of the upstream) cuts by a tenth, whatever the latency (AIMD).

The limit never probes.  `docs/design/concurrency.md` has the reasons.
"""

from __future__ import annotations

from typing import Any, Final

INITIAL: Final = 20
"""Limit at the start."""
TOLERANCE: Final = 1.5
"""Ratio of the latency to the long-run latency up to which the limit may rise."""
QUEUE: Final = 4.0
"""Permits by which the limit rises in a window, before smoothing."""
SMOOTHING: Final = 0.2
"""Weight of the newest window."""
LONG: Final = 600
"""Windows over which the long-run latency is averaged."""
WARM_UP: Final = 10
"""Windows at the start whose plain mean is the long-run latency."""
BACKOFF: Final = 0.9
"""Factor of the limit after a window with a drop."""
MIN_SAMPLES: Final = 10
"""Samples of the shortest window."""
MIN_WINDOW: Final = 0.1
"""Seconds of the shortest window; a window lasts twice the latency if that is longer."""
MAX_WINDOW: Final = 1.0
"""Seconds of the longest window."""
CUT: Final = 0.8
"""Factor of a cut of the limit that should lower the latency."""
UNMOVED: Final = 0.9
"""Share of the former latency; a latency above it after a cut was not lowered by the cut."""


class Gradient:
    """Adaptive limit, and the latencies that it has learnt."""

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
        """Limit in permits, with a fraction."""
        self.long = 0.0
        """Long-run latency in seconds."""
        self._windows = 0
        self._peak = (0.0, 0.0)
        """Limit and latency at the highest latency since it exceeded the tolerance."""
        self._ends = 0.0
        self._count = self._drops = self._crowd = 0
        self._sum = 0.0

    def retune(self, lowest: int, highest: int) -> None:
        """Apply new bounds; learnt latencies stay."""
        self.lowest = lowest
        self.highest = highest
        self.limit = min(max(self.limit, lowest), highest)

    def sample(self, now: float, latency: float, active: int) -> bool:
        """Learn a latency in seconds, with `active` permits in use.  Returns True if the limit may have changed."""
        self._sum += latency
        return self._count_sample(now, active)

    def drop(self, now: float, active: int) -> bool:
        """Learn of a timeout or of an overloaded upstream.  Returns True if the limit may have changed."""
        self._drops += 1
        return self._count_sample(now, active)

    def _count_sample(self, now: float, active: int) -> bool:
        """Count a sample or a drop, and end the window if it is due; True if it has ended."""
        self._count += 1
        if active > self._crowd:
            self._crowd = active
        if now < self._ends or self._count < MIN_SAMPLES:
            return False
        answered = self._count - self._drops
        short = self._sum / answered if answered else 0.0
        self._update_limit(short, self._crowd >= self.limit / 2)
        self._begin_window(now, short)
        return True

    def _begin_window(self, now: float, latency: float) -> None:
        """Begin a window that fits responses of this latency."""
        self._count = self._drops = self._crowd = 0
        self._sum = 0.0
        self._ends = now + min(max(2 * latency, MIN_WINDOW), MAX_WINDOW)

    def _update_limit(self, short: float, is_crowded: bool) -> None:
        """Set the limit after a window; `short` is its mean latency, 0.0 without a sample."""
        if short:
            self._learn_latency(short, is_crowded)
        if self._drops:
            wanted = self.limit * BACKOFF
        elif is_crowded:
            gradient = min(max(TOLERANCE * self.long / short, 0.5), 1.0) if short else 1.0
            wanted = self.limit + SMOOTHING * (self.limit * (gradient - 1) + QUEUE)
        else:
            return
        self.limit = min(max(wanted, self.lowest), self.highest)

    def _learn_latency(self, short: float, is_crowded: bool) -> None:
        """Update the long-run latency by rules 1 and 2."""
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
        """Return limit and latencies as JSON-ready values."""
        return {"limit": int(self.limit), "long_run_latency": self.long}
