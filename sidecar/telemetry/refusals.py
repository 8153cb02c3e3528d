"""The latest refusals, for people: who refused what, why, and which line of which policy file says so.

Under overload refusals come by the thousand and are all alike, so a list of single ones would show one second of one
policy.  Therefore they are folded: one entry for each route, reason and place in the policy files, with the count, the
time and the words of the latest.  Bounded; the entry that was quiet longest makes room.  Only refused requests pay for
it, less than 1 us each.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, Final

from sidecar.core.outcome import Refusal

KEEP: Final = 64


class Entry:
    """Refusals that are alike."""

    __slots__ = ("at", "count", "refusal")

    def __init__(self) -> None:
        self.count = 0
        self.at = 0.0
        self.refusal = Refusal()


class Refusals:
    """What was refused lately."""

    def __init__(self, wall: Callable[[], float], keep: int = KEEP) -> None:
        self._wall = wall
        self._keep = keep
        self._entries: dict[tuple[str, str, str], Entry] = {}

    def note(self, route: str, reason: str, refusal: Refusal) -> None:
        """A request was refused."""
        key = (route, reason, refusal.where)
        entry = self._entries.get(key)
        if entry is None:
            if len(self._entries) >= self._keep:
                del self._entries[min(self._entries, key=lambda known: self._entries[known].at)]
            entry = self._entries[key] = Entry()
        entry.count += 1
        entry.at = self._wall()
        entry.refusal = refusal

    def describe(self) -> list[dict[str, Any]]:
        """The latest first; times are Unix times, and `count` is since the entry came in."""
        newest = sorted(self._entries.items(), key=lambda item: item[1].at, reverse=True)
        return [
            {"at": entry.at, "count": entry.count, "route": route, "reason": reason, **entry.refusal._asdict()}
            for (route, reason, _), entry in newest
        ]

    def __repr__(self) -> str:
        return f"<Refusals {len(self._entries)} of {self._keep} kinds>"
