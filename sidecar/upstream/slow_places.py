"""Places of an upstream for requests that are sent on before their body is here.

Such a request keeps a connection, and a permit where requests in flight are limited, for as long as its client likes to
take.  So they get a share of the places (`connections.slow_share`); with none left, a body is collected first.
"""

from __future__ import annotations

from typing import Any

from sidecar.core.outcome import Failure

Settings = tuple[float, int]
"""The share, and the lowest limit on connections or requests in flight that it is taken of."""


class SlowPlaces:
    """Places of one upstream; at least one."""

    __slots__ = ("limit", "taken")

    def __init__(self, settings: Settings) -> None:
        self.taken = 0
        self.retune(settings)

    def retune(self, settings: Settings) -> None:
        share, limit = settings
        self.limit = max(1, int(share * limit))

    def take(self) -> bool:
        """Take a place; False if none is left."""
        if self.taken >= self.limit:
            return False
        self.taken += 1
        return True

    def release(self, failure: Failure | None = None) -> None:
        """Give a place back.  Its body has ended; how does not matter."""
        self.taken -= 1

    def describe(self) -> dict[str, Any]:
        return {"max": self.limit, "taken": self.taken}
