"""Deadlines of everything in flight upstream, kept as numbers and swept on a tick.

Arming a timer for each request costs several times an entry in a set.  The sweep runs only while something is in
flight.  `TICK` is therefore the granularity of every timeout.
"""

from __future__ import annotations

from typing import Final, Protocol

from sidecar.core import events
from sidecar.core.env import Env

TICK: Final = 0.01
"""Seconds between two sweeps."""


class Expiring(Protocol):
    """An object with a deadline."""

    @property
    def expires(self) -> float:
        """Instant (`Env.now`) from which `expire` is due."""

    def expire(self, now: float) -> None:
        """End what has run out of time, and leave the sweep."""


class Deadlines:
    """Entries in flight, each expired at the first tick after its deadline."""

    __slots__ = ("_env", "_is_ticking", "entries")

    def __init__(self, env: Env) -> None:
        self.entries: set[Expiring] = set()
        self._env = env
        self._is_ticking = False

    def add(self, entry: Expiring) -> None:
        """Watch an entry until it is discarded."""
        self.entries.add(entry)
        if not self._is_ticking:
            self._is_ticking = True
            self._env.call_later(TICK, self._tick)

    def discard(self, entry: Expiring) -> None:
        """Watch an entry no longer; without effect if it is not watched."""
        self.entries.discard(entry)

    def _tick(self) -> None:
        now = self._env.now()
        due = [entry for entry in self.entries if entry.expires <= now]
        for entry in sorted(due, key=lambda entry: entry.expires):  # in order, so that a simulated run can be repeated
            try:
                if entry in self.entries and entry.expires <= now:  # the one before may have ended it
                    entry.expire(now)
            except Exception as error:  # a bug must not end the deadlines of all others
                self.entries.discard(entry)
                self._env.emit(events.BUG, where=repr(entry), error=error)
        if self.entries:
            self._env.call_later(TICK, self._tick)
        else:
            self._is_ticking = False
