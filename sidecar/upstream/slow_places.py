"""Slow places: limit on the requests of an upstream that are forwarded before their body is complete.

A slow client keeps such a request in flight, with its connection and its permit.  These requests therefore get only a
share of the connections or permits (`connections.slow_share`).  If no place is free, the body is collected first.
"""

from __future__ import annotations

from typing import Any

from sidecar.core.outcome import Failure

Settings = tuple[float, int]
"""Share of the places, and the lowest limit on connections or requests in flight, to which the share applies."""


class SlowPlaces:
    """Places for slow requests of one upstream; there is at least one."""

    __slots__ = ("limit", "taken")

    def __init__(self, settings: Settings) -> None:
        self.taken = 0
        self.retune(settings)

    def retune(self, settings: Settings) -> None:
        """Apply new settings; taken places stay taken."""
        share, limit = settings
        self.limit = max(1, int(share * limit))

    def take(self) -> bool:
        """Take a place; False if none is left."""
        if self.taken >= self.limit:
            return False
        self.taken += 1
        return True

    def release(self, failure: Failure | None = None) -> None:
        """Free a place once the body of its request has ended; `failure` is ignored."""
        self.taken -= 1

    def describe(self) -> dict[str, Any]:
        return {"max": self.limit, "taken": self.taken}
