"""Deadlines: a periodic sweep that expires late exchanges and requests waiting for a connection.

An entry in a set costs less than a timer for each request.  The sweep runs only while there are entries.  `TICK` is the
granularity of all timeouts towards upstreams.
"""

from __future__ import annotations

from typing import Final, Protocol

from sidecar.core import events
from sidecar.core.env import Env

TICK: Final = 0.01
"""Seconds between two sweeps."""


class Expiring(Protocol):
    """Object with a deadline."""

    @property
    def expires(self) -> float:
        """Deadline (`Env.now`) after which the sweep calls `expire`."""

    def expire(self, now: float) -> None:
        """End the exchange or the waiting, and leave the sweep."""


class Deadlines:
    """Entries with a deadline; the sweep expires each at the first tick after it."""

    __slots__ = ("_env", "entries", "is_ticking")

    def __init__(self, env: Env) -> None:
        self.entries: set[Expiring] = set()
        """Entries that the sweep checks."""
        self._env = env
        self.is_ticking = False
        """True while the sweep runs."""

    def add(self, entry: Expiring) -> None:
        """Add an entry, and start the sweep if it does not run."""
        self.entries.add(entry)
        if not self.is_ticking:
            self.start()

    def start(self) -> None:
        """Start the sweep.  It ends by itself once there are no entries."""
        self.is_ticking = True
        self._env.call_later(TICK, self._tick)

    def discard(self, entry: Expiring) -> None:
        """Remove an entry, if it is there."""
        self.entries.discard(entry)

    def _tick(self) -> None:
        """Expire the entries whose deadline has passed, and schedule the next tick if any are left."""
        now = self._env.now()
        due = [entry for entry in self.entries if entry.expires <= now]
        for entry in sorted(due, key=lambda entry: entry.expires):  # sorted, so that simulations are reproducible
            try:
                if entry in self.entries and entry.expires <= now:  # an earlier `expire` may have ended it
                    entry.expire(now)
            except Exception as error:  # a bug in one entry must not stop the sweep
                self.entries.discard(entry)
                self._env.emit(events.BUG, where=repr(entry), error=error)
        if self.entries:
            self._env.call_later(TICK, self._tick)
        else:
            self.is_ticking = False
