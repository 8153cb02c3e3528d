"""Background refresh of stale entries that were used (RFC 5861 3)."""

from __future__ import annotations

from typing import Final

from sidecar.cache.entry import Entry
from sidecar.cache.fetch import Fetch
from sidecar.cache.fetcher import Fetcher
from sidecar.cache.store import Store
from sidecar.core.env import Env
from sidecar.core.exchange import NEVER, Exchange

MAX_REFRESHES: Final = 256
"""Refreshes of one route in flight, at most; further entries stay stale a little longer."""
REFRESH_SECONDS: Final = 15.0
"""Seconds for a refresh whose request had a caller's deadline, which does not apply to the refresh."""


class Refresher:
    """Refreshes stale entries for one route."""

    __slots__ = ("_env", "_fetcher", "_in_flight", "_store")

    def __init__(self, store: Store, fetcher: Fetcher, env: Env) -> None:
        self._store = store
        self._fetcher = fetcher
        self._env = env
        self._in_flight = 0

    def refresh(self, x: Exchange, key: bytes, entry_key: bytes, entry: Entry) -> None:
        """Start a fetch that replaces the stale `entry`, unless one for its key is in flight or too many are.

        `x` is the request that the entry has answered; `key` is its key, `entry_key` that of the entry.
        """
        if entry_key in self._store.fetches.shared or self._in_flight >= MAX_REFRESHES:
            return
        now = self._env.now()
        twin = x.fork(1, "revalidate")
        twin.method = b"GET"
        allowed = REFRESH_SECONDS if x.deadline == x.caller_deadline != NEVER else x.deadline - x.arrived
        twin.arrived, twin.deadline, twin.caller_deadline = now, now + allowed, NEVER
        twin.attempts = []
        twin.interim = None
        self._in_flight += 1
        fetch = self._store.fetches.start(twin, key, entry_key, entry, now, is_conditional=True)
        self._env.spawn(self._run(fetch))

    async def _run(self, fetch: Fetch) -> None:
        fetch.has_client = False
        try:
            await self._fetcher.run(fetch)
        finally:
            self._in_flight -= 1
