"""Store in this process, with the interface of the script in Redis: for policy tests and simulations."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from sidecar.leases.rate import OVERFLOW, Ask, RateLessor

MICRO = 1e6
MAX_KEYS = 10_000
"""Keys that are counted one by one; more share one count."""


class InProcessScript:
    """Lessors of all limits of a store, by their keys."""

    def __init__(self, now: Callable[[], float]) -> None:
        self._now = now
        self._lessors: dict[str, RateLessor] = {}

    async def run(self, keys: list[str], arguments: list[str]) -> list[Any]:
        """Return what the script in Redis returns for these keys and arguments."""
        return self.grant(keys, arguments)

    def grant(self, keys: list[str], arguments: list[str]) -> list[Any]:
        """Return the answer of one call."""
        now = self._now()
        answer: list[Any] = [str(now * MICRO), b"here", 1]
        for index, key in enumerate(keys[2:]):
            numbers = [float(each) for each in arguments[4 + 10 * index : 14 + 10 * index]]
            interval, depth, lease, debt = (each / MICRO for each in numbers[:4])
            if len(self._lessors) >= MAX_KEYS and key not in self._lessors:
                key = OVERFLOW
            lessor = self._lessors.setdefault(key, RateLessor(1 / interval, depth / interval, lease, debt=debt))
            least, firm, want, back, stamp, owed = numbers[4:]
            grant = lessor.exchange(Ask(key, least, firm, want, back, stamp / MICRO, owed), now)
            answer += [str(grant.tokens), str(grant.start * MICRO), str(grant.wait * MICRO)]
        return answer

    async def disconnect(self) -> None:
        """Do nothing: there is no connection."""

    async def close(self) -> None:
        """Do nothing: there is no connection."""
