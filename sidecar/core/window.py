"""Sliding windows: counts of recent calls in constant time and space, by time or by number of calls.

Rules:

1. A time window has `BUCKETS` buckets and drops one at a time.  The newest is still filling, so the window covers
   between nine and ten tenths of its length.  Resilience4j's buckets last one second, Polly's a tenth of the window.
2. Callers pass the time.  A time before the newest bucket is counted in the newest bucket.
"""

from __future__ import annotations

from typing import Final

FAILED: Final = 1
"""Bit of a failed call."""
SLOW: Final = 2
"""Bit of a slow call."""

BUCKETS: Final = 10
"""Number of buckets of a time window."""


class SlidingCount:
    """Count of events in the last `seconds`.  Counting an event takes one comparison and one increment."""

    __slots__ = ("_buckets", "_ends", "_newest", "_older", "_per_second", "_tick", "seconds")

    def __init__(self, seconds: float) -> None:
        self.seconds = seconds
        self._per_second = BUCKETS / seconds
        self._buckets = [0] * BUCKETS
        """Counts of the older buckets; the entry of the newest one is 0."""
        self._tick = 0
        """Number of the newest bucket since time 0."""
        self._ends = 1.0
        """Number of the next bucket, `_tick + 1`."""
        self._newest = 0
        """Count of the newest bucket."""
        self._older = 0
        """Sum of the counts of the older buckets."""

    def add(self, now: float, number: int = 1) -> None:
        """Count events at the time `now`, in seconds."""
        if now * self._per_second >= self._ends:
            self._advance(now)
        self._newest += number

    def total(self, now: float) -> int:
        """Return the number of events in the window that ends at `now`."""
        if now * self._per_second >= self._ends:
            self._advance(now)
        return self._older + self._newest

    def _advance(self, now: float) -> None:
        """Drop the buckets that have left the window, in at most `BUCKETS` steps."""
        tick, buckets = int(now * self._per_second), self._buckets
        buckets[self._tick % BUCKETS] = self._newest
        self._older += self._newest
        for passed in range(max(self._tick + 1, tick - BUCKETS + 1), tick + 1):
            index = passed % BUCKETS
            self._older -= buckets[index]
            buckets[index] = 0
        self._newest = 0
        self._tick = tick
        self._ends = float(tick + 1)


class Window:
    """Base of the windows: counts recent calls, and the failed and slow ones among them."""

    __slots__ = ()

    def record(self, bits: int, now: float) -> None:
        """Count a call; `bits` has `FAILED`, `SLOW`, both, or neither for a good call."""
        raise NotImplementedError

    def counts(self, now: float) -> tuple[int, int, int]:
        """Return the numbers of all calls, failed calls and slow calls."""
        raise NotImplementedError

    def clear(self) -> None:
        """Reset all counts."""
        raise NotImplementedError


class TimeWindow(Window):
    """Window of the last `seconds`.  A good call updates one counter only."""

    __slots__ = ("_calls", "_failed", "_slow", "seconds")

    def __init__(self, seconds: float) -> None:
        self.seconds = seconds
        self.clear()

    def clear(self) -> None:
        self._calls = SlidingCount(self.seconds)
        self._failed = SlidingCount(self.seconds)
        self._slow = SlidingCount(self.seconds)

    def record(self, bits: int, now: float) -> None:
        calls = self._calls  # inlined `SlidingCount.add`
        if now * calls._per_second >= calls._ends:
            calls._advance(now)
        calls._newest += 1
        if bits:
            if bits & FAILED:
                self._failed.add(now)
            if bits & SLOW:
                self._slow.add(now)

    def counts(self, now: float) -> tuple[int, int, int]:
        return self._calls.total(now), self._failed.total(now), self._slow.total(now)

    def __repr__(self) -> str:
        return f"<TimeWindow {self.seconds:g} s>"


class CountWindow(Window):
    """Window of the last `size` calls: a ring buffer of one byte for each, with running totals."""

    __slots__ = ("_calls", "_failed", "_next", "_ring", "_slow", "size")

    def __init__(self, size: int) -> None:
        self.size = size
        self.clear()

    def clear(self) -> None:
        self._ring = bytearray(self.size)
        self._next = self._calls = self._failed = self._slow = 0

    def record(self, bits: int, now: float) -> None:
        index = self._next
        gone = self._ring[index]
        if gone != bits:
            self._ring[index] = bits
            self._failed += (bits & FAILED) - (gone & FAILED)
            self._slow += (bits >> 1) - (gone >> 1)
        if self._calls < self.size:
            self._calls += 1
        self._next = index + 1 if index + 1 < self.size else 0

    def counts(self, now: float) -> tuple[int, int, int]:
        return self._calls, self._failed, self._slow

    def __repr__(self) -> str:
        return f"<CountWindow {self.size} calls>"
