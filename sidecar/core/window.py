"""Counting the recent past in constant time and space: by number of calls, or by time.

A time window is ten buckets, the running one included: it looks back between nine and ten tenths of its length, and
leaves a bucket behind at a time instead of call by call.  Resilience4j's buckets are a second each, Polly's a tenth.
Clocks are handed in as numbers; one that stands still or runs backwards counts into the newest bucket.
"""

from __future__ import annotations

from typing import Final, Protocol

FAILED: Final = 1
SLOW: Final = 2
"""What a call was, as bits: a call can be both, and 0 is a good one."""

BUCKETS: Final = 10


class SlidingCount:
    """How many in the last `seconds`."""

    __slots__ = ("_buckets", "_per_second", "_sum", "_tick", "seconds")

    def __init__(self, seconds: float) -> None:
        self.seconds = seconds
        self._per_second = BUCKETS / seconds
        self._buckets = [0] * BUCKETS
        self._tick = 0
        self._sum = 0

    def add(self, now: float) -> None:
        """One more."""
        tick = int(now * self._per_second)
        if tick > self._tick:
            self._advance(tick)
        self._buckets[self._tick % BUCKETS] += 1
        self._sum += 1

    def total(self, now: float) -> int:
        """The count as of now."""
        tick = int(now * self._per_second)
        if tick > self._tick:
            self._advance(tick)
        return self._sum

    def _advance(self, tick: int) -> None:
        """Leave behind what is older than the window; at most ten steps however long nothing happened."""
        for passed in range(max(self._tick + 1, tick - BUCKETS + 1), tick + 1):
            index = passed % BUCKETS
            self._sum -= self._buckets[index]
            self._buckets[index] = 0
        self._tick = tick


class Window(Protocol):
    """Recent calls, and how many of them failed or were slow."""

    def record(self, bits: int, now: float) -> None: ...
    def counts(self, now: float) -> tuple[int, int, int]:
        """Calls, failed ones, slow ones."""

    def clear(self) -> None: ...


class TimeWindow:
    """The calls of the last `seconds`.  A good call touches one counter."""

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


class CountWindow:
    """The last `size` calls: a ring of one byte each, with running totals."""

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
