"""Refusals of requests: counters, and the latest refusals in groups for `/state` and the live page.

Under overload there are many equal refusals, so a list of single ones would show only one policy.  Refusals are grouped
by route, reason and place in the policy files.  A group has its count, and the time and the text of its latest refusal.
The number of groups is bounded; a new group replaces the one that was quiet longest.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, Final

from sidecar.core.metrics import REFUSALS, WOULD_REFUSE, Counter, Meter
from sidecar.core.outcome import Refusal
from sidecar.telemetry.metrics.registry import Registry

MAX_GROUPS: Final = 64
"""Most groups of refusals."""


class RefusalGroup:
    """Refusals of one route for one reason at one place in the policy files."""

    __slots__ = ("at", "count", "refusal", "total")

    def __init__(self, total: Counter) -> None:
        self.total = total
        """Counter in the metrics, which outlives the group."""
        self.count = 0
        """Number of refusals since the group was made."""
        self.at = 0.0
        """Unix time of the latest refusal."""
        self.refusal = Refusal()
        """Latest refusal."""


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
        """Return the groups as JSON-ready values, latest first."""
        newest = sorted(self._groups.items(), key=lambda item: item[1].at, reverse=True)
        return [
            {"at": group.at, "count": group.count, "route": route, "reason": reason, **group.refusal._asdict()}
            for (route, reason, _), group in newest
        ]

    def __repr__(self) -> str:
        return f"<Refusals {len(self._groups)} of {self._keep} groups>"


def observed(registry: Registry) -> list[dict[str, Any]]:
    """Return what policies under `mode: observe` would have refused, by their route or upstream, most first.

    An observed candidate is the route `ROUTE@candidate`.
    """
    found: list[dict[str, Any]] = []
    for labels, counter in registry.instruments(WOULD_REFUSE):
        facts = dict(labels)
        if count := getattr(counter, "value", 0):
            found.append(
                {"owner": facts.get("route") or facts.get("upstream", ""), "policy": facts["policy"], "count": count}
            )
    return sorted(found, key=lambda each: -each["count"])[:MAX_GROUPS]
