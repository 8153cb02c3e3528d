"""Generic cell rate algorithm (ITU-T I.371, virtual scheduling) for many keys, in a bounded table.

Rules:

1. Each key has a theoretical arrival time (TAT): the instant at which the next request would come at the even pace.  A
   request conforms if its TAT, moved by the interval of one request, is at most `depth` seconds ahead of the clock.
2. A key whose TAT has passed says nothing that a new key does not say.  Only such keys are evicted, so no flood of
   keys can reset the count of another.  While all keys are in use, new ones share the count of `OVERFLOW`.
3. Eviction looks at a fixed number of keys for each new one, so its time is bounded.
4. Where counts were lost, each key had an empty bucket at that time (`full_at`).
5. A clock that steps back leaves no key further ahead than the algorithm itself could have put it.
6. What a request costs beyond what it was admitted with (`owe`) moves the TAT on, by `max_debt` at most.

No I/O and no clock: the caller passes the instant.
"""

from __future__ import annotations

from collections import deque
from math import inf
from typing import Final

OVERFLOW: Final = "\0overflow"
"""Key that all keys beyond the table share; no field and no path contains a NUL."""
LOOKS: Final = 8
"""Keys that are examined for eviction when a new key comes to a full table."""
TOLERANCE: Final = 1e-9
"""Seconds by which sums of intervals may exceed the depth, because of rounding."""


class Bucket:
    """Count of one key."""

    __slots__ = ("tat",)

    def __init__(self, tat: float) -> None:
        self.tat = tat
        """Theoretical arrival time; infinite for the empty key once the table has forgotten it."""


class Gcra:
    """Limit of one rate and capacity for each of many keys."""

    __slots__ = ("_order", "buckets", "capacity", "depth", "full_at", "interval", "max_debt", "max_delay", "max_keys")

    def __init__(self, rate: float, capacity: float, max_keys: int, max_delay: float = 0.0) -> None:
        """`rate` is in requests per second; `capacity` is the number of requests that may come at once."""
        self.buckets: dict[str, Bucket] = {}
        """Counts by key."""
        self.full_at = -inf
        """Instant at which the bucket of a key that is not in the table is full, if nothing is taken from it."""
        self.max_debt = 0.0
        """Seconds that the TAT of a key may be beyond its depth."""
        self._order: deque[str] = deque()
        """Keys in the order in which they were added or last examined, without `OVERFLOW`."""
        self.retune(rate, capacity, max_keys, max_delay)

    def retune(self, rate: float, capacity: float, max_keys: int, max_delay: float) -> None:
        """Apply other settings; the counts stay."""
        self.interval = 1.0 / rate
        """Seconds between two requests at the even pace."""
        self.capacity = capacity
        """Requests that may come at once after a pause."""
        self.depth = capacity / rate + TOLERANCE
        """Seconds that the TAT of a key may be ahead of the clock."""
        self.max_keys = max_keys
        """Most keys in the table."""
        self.max_delay = max_delay
        """Seconds for which a request that does not conform may wait."""

    @property
    def keys(self) -> int:
        """Number of keys in the table."""
        return len(self._order)

    def clear(self) -> None:
        """Forget all counts."""
        if (bucket := self.buckets.get("")) is not None:
            bucket.tat = inf  # a limit without a key holds it, and looks for a new one
        self.buckets.clear()
        self._order.clear()

    def locate(self, key: str, now: float) -> str:
        """Return the key to count a request under: `key` itself, or `OVERFLOW` if the table has no place for it."""
        if key in self.buckets or len(self._order) < self.max_keys:
            return key
        self._evict(now)
        return key if len(self._order) < self.max_keys else OVERFLOW

    def arrival(self, key: str, now: float) -> float:
        """Return the TAT of a key, but no instant that has passed."""
        bucket = self.buckets.get(key)
        if bucket is None:
            return max(now, self.full_at)
        if bucket.tat < now:
            return now
        furthest = self._furthest(now)
        if bucket.tat > furthest:
            bucket.tat = furthest  # stored, since a refusal stores nothing
        return bucket.tat

    def _furthest(self, now: float) -> float:
        """Return the instant that no TAT may be beyond."""
        return now + self.depth + self.max_delay + self.max_debt

    def delay(self, tat: float, now: float) -> float:
        """Return the seconds until a request conforms that moves the TAT to `tat`; 0 or less if it conforms now."""
        return tat - self.depth - now

    def charge(self, key: str, tat: float) -> None:
        """Set the TAT of a key that `locate` has returned."""
        bucket = self.buckets.get(key)
        if bucket is not None:
            bucket.tat = tat
            return
        self.buckets[key] = Bucket(tat)
        if key != OVERFLOW:
            self._order.append(key)

    def owe(self, key: str, cost: float, now: float) -> None:
        """Count more for a request that was admitted, whatever is left."""
        key = self.locate(key, now)
        self.charge(key, min(self.arrival(key, now) + cost * self.interval, self._furthest(now)))

    def remaining(self, ahead: float) -> int:
        """Return the number of requests that conform at once while the TAT is so many seconds ahead of the clock."""
        left = (self.depth - ahead) / self.interval
        return int(left) if left > 0 else 0

    def _evict(self, now: float) -> None:
        """Evict keys whose TAT has passed, among those that were not examined for the longest time."""
        order, buckets = self._order, self.buckets
        for _ in range(min(LOOKS, len(order))):
            key = order.popleft()
            if buckets[key].tat <= now:
                del buckets[key]
            else:
                order.append(key)
