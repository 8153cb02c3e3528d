"""Sliding windows: recent calls counted in constant time and space, by time or by number.

Rules:

1. A time window has `BUCKETS` buckets, the running one included: it covers between nine and ten tenths of its length
   and drops one bucket at a time.  Resilience4j's buckets are a second each, Polly's a tenth of the window.
2. The clock is handed in as a number.  One that stands still or runs backwards counts into the newest bucket.
"""

from __future__ import annotations

from typing import Final

FAILED: Final = 1
SLOW: Final = 2
"""Bits that describe a call; both may be set, 0 is a good call."""

BUCKETS: Final = 10


class SlidingCount:
    """Count of events in the last `seconds`.  To count one is a comparison and an increment."""

    __slots__ = ("_buckets", "_ends", "_newest", "_older", "_per_second", "_tick", "seconds")

    def __init__(self, seconds: float) -> None:
        self.seconds = seconds
        self._per_second = BUCKETS / seconds
        self._buckets = [0] * BUCKETS
        """Counts of the older buckets; that of the newest one is 0 here."""
        self._tick = 0
        """Number of the newest bucket."""
        self._ends = 1.0
        """Number of the bucket after it."""
        self._newest = 0
        """Count of the newest bucket."""
        self._older = 0
        """Sum of the others."""

    def add(self, now: float) -> None:
        """Count one event."""
        if now * self._per_second >= self._ends:
            self._advance(now)
        self._newest += 1

    def total(self, now: float) -> int:
        """Return the count as of now."""
        if now * self._per_second >= self._ends:
            self._advance(now)
        return self._older + self._newest

    def _advance(self, now: float) -> None:
        """Drop the buckets older than the window; at most `BUCKETS` steps, however long nothing happened."""
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
    """Recent calls, and the numbers of failed and slow ones."""

    __slots__ = ()

    def record(self, bits: int, now: float) -> None:
        """Count a call; `bits` are FAILED and SLOW."""
        raise NotImplementedError

    def counts(self, now: float) -> tuple[int, int, int]:
        """Return the numbers of calls, of failed and of slow ones."""
        raise NotImplementedError

    def clear(self) -> None:
        """Forget all calls."""
        raise NotImplementedError


class TimeWindow(Window):
    """Calls of the last `seconds`.  A good call updates one counter only."""

    __slots__ = ("_calls", "_failed", "_slow", "seconds")

    def __init__(self, seconds: float) -> None:
        self.seconds = seconds
        self.clear()

    def clear(self) -> None:
        self._calls = SlidingCount(self.seconds)
        self._failed = SlidingCount(self.seconds)
        self._slow = SlidingCount(self.seconds)

    def record(self, bits: int, now: float) -> None:
        self._calls.add(now)
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
    """The last `size` calls, in a ring of one byte each with running totals."""

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
