"""An adaptive concurrency limit: Gradient2 of Netflix's concurrency-limits, with a guard against drift.  Pure.

A limit is right when one more request in flight makes the others wait.  Once a window of samples the limit follows the
ratio of the latency in the long run to that of the window:

    gradient = clamp(tolerance * long / short, 0.5, 1)
    limit    = 0.8 * limit + 0.2 * (limit * gradient + queue)

so it rises by a little while latency stays within the tolerance and falls, by a tenth of itself at most, when it does
not.  As published: tolerance 1.5, queue 4, smoothing 0.2, the long run an exponential average over 600 windows, quick
recovery (5 % a window) of a long-run figure more than twice the present one, and no change while fewer than half of the
permits are in use, for then the latency says nothing about the limit.

It never probes: Envoy's controller lowers the limit to 3 to measure the bare latency and so causes 503s itself
(envoy#46532, #18152).  The published algorithm pays for that with drift: under a lasting overload the average learns
the overload and the limit doubles every few minutes.  So here

- a crowded window (half of the permits or more in use) teaches the long run only that things are *faster*;
- a service that has really become slower is told from a queue by the limit's own cuts: where a cut by a fifth has not
  brought the latency down, waiting was not the reason, and the present latency is taken over at once.

A window with a drop (a timeout, a 503 or 429 of the upstream) cuts by a tenth whatever the latency: AIMD's rule.
"""

from __future__ import annotations

from typing import Any, Final

INITIAL: Final = 20
TOLERANCE: Final = 1.5
QUEUE: Final = 4.0
SMOOTHING: Final = 0.2
LONG: Final = 600
"""Windows over which the long run is averaged."""
WARM_UP: Final = 10
"""Windows of which it is the plain mean at first."""
BACKOFF: Final = 0.9
MIN_SAMPLES: Final = 10
MIN_WINDOW: Final = 0.1
"""Seconds; a window lasts twice the latency if that is more."""
MAX_WINDOW: Final = 1.0
CUT: Final = 0.8
"""A cut of the limit that ought to show in the latency, and the share of the latency that shows that it did not."""
UNMOVED: Final = 0.9


class Gradient:
    """The limit, and what it learns from."""

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
        self.long = 0.0
        """Seconds: the latency to expect where nobody waits."""
        self._windows = 0
        self._peak = (0.0, 0.0)
        """Since the latency is beyond the tolerance: the limit at its highest, and the highest."""
        self._ends = 0.0
        self._count = self._drops = self._crowd = 0
        self._sum = 0.0

    def retune(self, lowest: int, highest: int) -> None:
        """New bounds; what was learnt stays."""
        self.lowest = lowest
        self.highest = highest
        self.limit = min(max(self.limit, lowest), highest)

    def sample(self, now: float, latency: float, active: int) -> bool:
        """A request was answered in `latency` seconds while `active` held permits.  True if the limit may differ."""
        self._sum += latency
        return self._add(now, active)

    def drop(self, now: float, active: int) -> bool:
        """A request has timed out or was turned away for overload."""
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
        return {"limit": int(self.limit), "long_run_latency": self.long}
