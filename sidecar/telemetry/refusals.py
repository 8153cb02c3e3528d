"""Refusals: their count by route, policy and reason, and the latest of them for people, with the line that says so.

Under overload refusals come by the thousand and are all alike, so a list of single ones would show one second of one
policy.  They are grouped by route, reason and place in the policy files.  A group keeps its count, and the time and the
text of its latest refusal.  The number of groups is bounded; the one that was quiet longest makes room.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, Final

from sidecar.core.metrics import REFUSALS, Counter, Meter
from sidecar.core.outcome import Refusal

MAX_GROUPS: Final = 64


class RefusalGroup:
    """Refusals of one route for one reason at one place in the policy files."""

    __slots__ = ("at", "count", "refusal", "total")

    def __init__(self, total: Counter) -> None:
        self.total = total
        """Counter of the metrics, which outlives the group."""
        self.count = 0
        self.at = 0.0
        """Unix time of the latest."""
        self.refusal = Refusal()
        """The latest."""


class Refusals:
    """Groups of refusals, by route, reason and place."""

    def __init__(self, wall: Callable[[], float], meter: Meter, keep: int = MAX_GROUPS) -> None:
        self._wall = wall
        self._meter = meter
        self._keep = keep
        self._groups: dict[tuple[str, str, str], RefusalGroup] = {}

    def note(self, route: str, reason: str, refusal: Refusal) -> None:
        """Count a refused request."""
        key = (route, reason, refusal.where)
        group = self._groups.get(key)
        if group is None:
            if len(self._groups) >= self._keep:
                del self._groups[min(self._groups, key=lambda known: self._groups[known].at)]
            total = self._meter.counter(REFUSALS, route=route, policy=refusal.policy, reason=reason)
            group = self._groups[key] = RefusalGroup(total)
        group.count += 1
        group.total.value += 1
        group.at = self._wall()
        group.refusal = refusal

    def describe(self) -> list[dict[str, Any]]:
        """Return the groups as JSON-ready values, the latest first; `count` is since the group was made."""
        newest = sorted(self._groups.items(), key=lambda item: item[1].at, reverse=True)
        return [
            {"at": group.at, "count": group.count, "route": route, "reason": reason, **group.refusal._asdict()}
            for (route, reason, _), group in newest
        ]

    def __repr__(self) -> str:
        return f"<Refusals {len(self._groups)} of {self._keep} groups>"
