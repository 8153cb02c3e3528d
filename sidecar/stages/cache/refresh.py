"""Stale answers that were used are fetched anew in the background (RFC 5861 3)."""

from __future__ import annotations

from typing import Final

from sidecar.cache.entry import Entry
from sidecar.cache.fill import Flight
from sidecar.cache.intake import Intake
from sidecar.cache.store import Store
from sidecar.core.env import Env
from sidecar.core.exchange import Exchange

MAX_REFRESHES: Final = 256
"""Answers of one route that are on their way at once; beyond it others stay stale a little longer."""


class Refresher:
    """Makes the calls of one route."""

    __slots__ = ("_env", "_intake", "_refreshes", "_store")

    def __init__(self, store: Store, intake: Intake, env: Env) -> None:
        self._store = store
        self._intake = intake
        self._env = env
        self._refreshes = 0

    def refresh(self, x: Exchange, key: bytes, slot: bytes, entry: Entry) -> None:
        """Fetch a new answer to what `x` asked for, unless somebody does."""
        if slot in self._store.flights.open or self._refreshes >= MAX_REFRESHES:
            return
        now = self._env.now()
        twin = x.fork(1, "revalidate")
        twin.method = b"GET"
        twin.arrived, twin.deadline = now, now + (x.deadline - x.arrived)
        twin.attempts = []
        twin.interim = None
        self._refreshes += 1
        flight = self._store.flights.start(twin, key, slot, entry, now, is_conditional=True)
        self._env.spawn(self._refreshed(flight))

    async def _refreshed(self, flight: Flight) -> None:
        flight.is_led = False
        try:
            await self._intake.bring(flight)
        finally:
            self._refreshes -= 1
