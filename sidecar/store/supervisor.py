"""Rate limits whose counts are in the supervisor of several workers, with the interface of the script in Redis.

The supervisor has one lessor for each limit; it keeps the settings, which workers declare.  So the limits survive a
worker's death and a reload.  An answer takes no longer than a turn of the supervisor's loop, unless the machine is
overloaded; while there is none, a worker has its fair share of each limit.
"""

from __future__ import annotations

from typing import Any, Final

from sidecar.core.env import Env, Workers
from sidecar.store.shared_limits import PREFIX, SharedLimit, SharedLimits
from sidecar.store.spec import StoreSpec

SUPERVISOR: Final = "(supervisor)"
"""Name of the store among those of the policies, which have no brackets."""
TIMEOUT: Final = 0.25
"""Longest wait of a request for the supervisor, in seconds."""
END: Final = "\0"
"""Last character of the names of limits; neither names nor keys have it before the colon between them."""
NUMBERS: Final = 10
"""Arguments of the script for each ask: `SETTINGS` of the limit, then the numbers that change."""
SETTINGS: Final = 4
"""Arguments of each ask that the supervisor knows: the worker has declared them."""


class SupervisorScript:
    """Exchange of one worker with its supervisor."""

    def __init__(self, workers: Workers) -> None:
        self._workers = workers

    async def run(self, keys: list[str], arguments: list[str]) -> list[Any]:
        """Return what the script in Redis returns for these keys and arguments."""
        asks: list[list[Any]] = []
        for index, text in enumerate(keys[2:]):
            name, _, key = text.removeprefix(PREFIX).partition(f"{END}:")
            at = 4 + NUMBERS * index
            asks.append([name + END, key, *map(float, arguments[at + SETTINGS : at + NUMBERS])])
        now, grants = await self._workers.lease_rates(asks)
        answer: list[Any] = [now, b"supervisor", self._workers.count]
        for tokens, start, wait in grants:
            answer += [tokens, start * 1e6, wait * 1e6]
        return answer

    async def disconnect(self) -> None:
        """Do nothing: the channel stays."""

    async def close(self) -> None:
        """Do nothing: the channel stays."""


class WorkerLimit(SharedLimit):
    """Limit that all workers share; the supervisor knows its settings."""

    def __init__(
        self, store: SharedLimits, name: str, rate: float, capacity: float, lease: float, max_keys: int,
        debt: float, workers: Workers,
    ) -> None:  # fmt: skip
        super().__init__(store, name + END, rate, capacity, lease, max_keys, debt)
        self._workers = workers
        workers.declare_rate(self.name, rate, capacity, lease, max_keys, debt)

    def retune(self, rate: float, capacity: float, lease: float, max_keys: int, debt: float = 0.0) -> None:
        """Apply other settings; leases of the old ones are given up."""
        super().retune(rate, capacity, lease, max_keys, debt)
        self._workers.declare_rate(self.name, rate, capacity, lease, max_keys, debt)

    def retire(self) -> None:
        """Remove the limit from the store and from the supervisor."""
        super().retire()
        self._workers.end_rate(self.name)


def supervisor_store(env: Env, workers: Workers) -> SharedLimits:
    """Return the store of the supervisor, for this worker."""
    store = SharedLimits(
        SUPERVISOR, StoreSpec.model_construct(redis=None), env, lambda _: SupervisorScript(workers), TIMEOUT
    )
    store.members = workers.count  # known without an answer
    return store
