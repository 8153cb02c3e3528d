"""Sums over all workers: metrics and the state of the process.  No I/O.

Rules:

1. A worker sends what has changed in its counters and histograms.  The sums never fall, also if a worker dies.
   Counts that only dead workers have had are dropped after `KEPT_SECONDS`: what they count may no longer exist, such as
   a route that a reload has removed.
2. Gauges are values of living workers.  They are summed, except those that tell the same thing in each worker
   (`ALIKE`): of these the highest counts, or the least (`LEAST`).
3. In the state, counts are summed by name (`SUMMED`).  Of other numbers the highest counts, of states the worst, and
   of other values the first.  A store is up if it is in all workers (`IN_ALL`).
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from math import isnan
from typing import Any, Final

from sidecar.core import metrics
from sidecar.core.metrics import BOUNDS, Counter, Histogram
from sidecar.telemetry.metrics.registry import Labels, Registry

ALIKE: Final = {
    metrics.BREAKER_STATE, metrics.BREAKER_OBSERVED, metrics.BUDGET_OBSERVED, metrics.DISCOVERY_STALE,
    metrics.ENDPOINT_UP, metrics.IDENTITY_KEYS, metrics.IDENTITY_KEYS_AGE, metrics.PROCESS_UPTIME,
    metrics.ROLLOUT_SHARE,
}  # fmt: skip
"""Gauges that are not summed."""
LEAST: Final = {metrics.CACHE_TIER_UP, metrics.CERTIFICATE_LEFT, metrics.CREDENTIAL_LEFT, metrics.STORE_UP}
"""Gauges whose least value counts."""
NOT_TAKEN: Final = {metrics.RELOADS, metrics.POLICIES_REJECTED}
"""Metrics that the supervisor has of its own."""
KEPT_SECONDS: Final = 3600.0
"""Seconds for which the counts are kept that only dead workers have had."""
SUMMED: Final = frozenset((
    "accepts", "active", "answers", "asked_for_less", "attempts", "bypass", "bytes", "calls", "coalesced", "compared",
    "connections", "count", "cpu_seconds", "critical", "default", "delayed", "differences", "draining", "entries",
    "errors", "evictions", "exchanges", "failed", "files", "filling", "filling_bytes", "first_attempts", "hit", "hits",
    "idle", "in_flight", "keys", "leased", "lists", "lookups", "max_bytes", "max_streams", "miss", "observed", "open",
    "opened", "opening", "overflowed", "purged", "refused", "requests", "rescued", "retries", "revalidated",
    "rss_bytes", "sent_per_second", "sheddable", "slow", "slow_client_bytes", "stale", "stalls", "storeless", "streams",
    "taken", "tasks", "tokens", "waiting", "watches",
))  # fmt: skip
"""Names of counts in the state, and of their bounds if each worker has its own."""
GROUPS: Final = {"differences", "lookups"}
"""Names of groups of counts, whose members may have any name."""
ALIKE_COUNTS: Final = {("state.identity", "keys")}
"""Parts of the state with names of counts that are the same in each worker."""
IN_ALL: Final = frozenset(("store_up", "up"))
"""Names of truth values in the state that hold if they do in all workers."""
NAMES: Final = (("url",), ("name",), ("uri",), ("route", "reason", "where"), ("owner", "policy"))
"""Members by which objects in lists are the same in each worker."""
SEVERITY: Final = ("closed", "up", "failing", "half_open", "on_trial", "ejected", "unhealthy", "open")
"""States of breakers and endpoints, the worst last."""

Change = list[Any]
"""Change of one series as JSON-ready values: `[name, kind, labels, value]`."""


class Changes:
    """Changes of a registry since they were last taken."""

    def __init__(self, registry: Registry) -> None:
        self._registry = registry
        self._before: dict[tuple[str, Labels], Any] = {}

    def take(self) -> list[Change]:
        """Return the changes: of a counter the difference, of a gauge the value, None for a series that has ended.

        The value of a histogram is the difference of its sum, then index and difference of each changed bucket.
        """
        changes: list[Change] = []
        before, self._before = self._before, {}
        for name, kind in self._registry.kinds():
            if name in NOT_TAKEN:
                continue
            for labels, instrument in self._registry.instruments(name):
                known = before.pop((name, labels), None)
                if isinstance(instrument, Histogram):
                    now: Any = (instrument.total, tuple(instrument.counts))
                    value = None if now == known else _difference(now, known)
                else:
                    now = instrument.value if isinstance(instrument, Counter) else _read(instrument)
                    value = None if now == known else now - (known or 0) if kind == "counter" else now
                self._before[name, labels] = now
                if value is not None:
                    changes.append([name, kind, [list(label) for label in labels], value])
        changes += [[name, "", [list(label) for label in labels], None] for name, labels in before]
        return changes


def _difference(now: tuple[float, tuple[int, ...]], before: tuple[float, tuple[int, ...]] | None) -> list[float]:
    """Return the change of a histogram: of its sum, then index and difference of each changed bucket."""
    total, counts = before or (0.0, (0,) * len(now[1]))
    value: list[float] = [now[0] - total]
    for index, (new, old) in enumerate(zip(now[1], counts, strict=True)):
        if new != old:
            value += (index, new - old)
    return value


def _read(instrument: Any) -> float:
    """Return the value of a gauge, which may be infinite; 0 if it cannot be read or is no number."""
    try:
        value = float(instrument())
    except Exception:  # one failing value must not make the others fail
        return 0.0
    return 0.0 if isnan(value) else value


class Totals:
    """Sums of the workers' metrics, as instruments of the supervisor's registry."""

    def __init__(self, registry: Registry, now: Callable[[], float]) -> None:
        self._registry = registry
        self._now = now
        self._gauges: dict[tuple[str, Labels], dict[int, float]] = {}
        """Values of gauges by worker."""
        self._totals: dict[tuple[str, Labels], list[float]] = {}
        """Sums of counters that count no whole numbers, such as CPU time: each a list of one number."""
        self._instruments: dict[tuple[str, Labels], Counter | Histogram] = {}
        """Counters and histograms by series."""
        self._owners: dict[tuple[str, Labels], set[int]] = {}
        """Living workers that have a series."""
        self._left: dict[tuple[str, Labels], float] = {}
        """Instants since which no living worker has a series."""

    def apply(self, worker: int, changes: Iterable[Change]) -> None:
        """Add the changes of a worker."""
        for name, kind, pairs, value in changes:
            labels: Labels = tuple((key, text) for key, text in pairs)
            key = (name, labels)
            if value is None:
                self._retire(worker, key)
                continue
            self._owners.setdefault(key, set()).add(worker)
            self._left.pop(key, None)
            with self._registry.owned(key):
                if kind == "gauge":
                    self._set_gauge(worker, key, value)
                elif kind == "histogram":
                    self._add(self._instrument(key, self._registry.histogram), value)
                elif isinstance(value, float):
                    self._add_total(key, value)
                else:
                    self._instrument(key, self._registry.counter).value += value

    def leave(self, worker: int) -> None:
        """Drop the gauges of a dead worker; its counts stay."""
        for key in [key for key, owners in self._owners.items() if worker in owners]:
            if key in self._gauges:
                self._retire(worker, key)
                continue
            owners = self._owners[key]
            owners.discard(worker)
            if not owners:
                self._left[key] = self._now()

    def look(self) -> None:
        """Drop counts that only dead workers have had.  Called about once a second."""
        until = self._now() - KEPT_SECONDS
        while self._left and self._left[key := next(iter(self._left))] <= until:
            self._drop(key)

    def _retire(self, worker: int, key: tuple[str, Labels]) -> None:
        """Drop a series once no worker has it."""
        owners = self._owners.get(key, set())
        owners.discard(worker)
        self._gauges.get(key, {}).pop(worker, None)
        if not owners:
            self._drop(key)

    def _drop(self, key: tuple[str, Labels]) -> None:
        """Drop a series."""
        self._owners.pop(key, None)
        self._left.pop(key, None)
        self._gauges.pop(key, None)
        self._totals.pop(key, None)
        self._instruments.pop(key, None)
        self._registry.retire(key)

    def _instrument(self, key: tuple[str, Labels], make: Callable[..., Any]) -> Any:
        """Return the instrument of a series, made once: the registry counts each series that is beyond its bound."""
        found = self._instruments.get(key)
        if found is None:
            name, labels = key
            found = self._instruments[key] = make(name, **dict(labels))
        return found

    def _set_gauge(self, worker: int, key: tuple[str, Labels], value: float) -> None:
        values = self._gauges.get(key)
        if values is None:
            values = self._gauges[key] = {}
            name, labels = key
            self._registry.gauge(name, lambda: _joined(name, values), **dict(labels))
        values[worker] = value

    def _add_total(self, key: tuple[str, Labels], value: float) -> None:
        """Add to a counter that is no `Counter`: a compiled one takes whole numbers alone."""
        total = self._totals.get(key)
        if total is None:
            total = self._totals[key] = [0.0]
            name, labels = key
            self._registry.total(name, lambda: total[0], **dict(labels))
        total[0] += value

    @staticmethod
    def _add(histogram: Histogram, value: list[Any]) -> None:
        histogram.total += value[0]
        for index, count in zip(value[1::2], value[2::2], strict=True):
            if 0 <= index <= len(BOUNDS):
                histogram.counts[index] += count


def _joined(name: str, values: dict[int, float]) -> float:
    """Return the value of a gauge for all workers."""
    if name in LEAST:
        return min(values.values(), default=0.0)
    return max(values.values(), default=0.0) if name in ALIKE else sum(values.values())


def join_parts(found: Iterable[Iterable[tuple[str, Any]]]) -> Iterator[tuple[str, Any]]:
    """Yield the parts of the state (`sidecar.admin.view.parts`) of all workers together."""
    parts: dict[str, list[Any]] = {}
    for each in found:
        for name, value in each:
            parts.setdefault(name, []).append(value)
    for name, values in parts.items():
        if name == "events":
            events = sorted((event for value in values for event in value), key=lambda event: str(event.get("time")))
            yield name, events
        else:
            yield name, join(values, part=name)


def join(values: list[Any], name: str = "", part: str = "") -> Any:
    """Return one JSON value for those of all workers; `name` is the member that has it, in a part of the state."""
    first = values[0]
    if all(isinstance(value, dict) for value in values):
        keys = dict.fromkeys(key for value in values for key in value)
        names = {key: name if name in GROUPS else key for key in keys}
        return {key: join([value[key] for value in values if key in value], names[key], part) for key in keys}
    if all(isinstance(value, list) for value in values):
        return _join_lists(values)
    if name in SUMMED and (part, name) not in ALIKE_COUNTS and all(type(value) in (int, float) for value in values):
        return sum(values)
    if name == "state" and all(value in SEVERITY for value in values):
        return max(values, key=SEVERITY.index)
    if all(type(value) in (int, float) for value in values):
        return max(values)
    if name in IN_ALL:
        return all(values)
    if name == "last_error":
        return next(filter(None, values), first)
    return first


def _join_lists(values: list[list[Any]]) -> list[Any]:
    """Return one list: objects with the same name are joined, other lists are those of the first worker."""
    for names in NAMES:
        if all(isinstance(item, dict) and item.keys() >= set(names) for value in values for item in value):
            found: dict[tuple[Any, ...], list[Any]] = {}
            for value in values:
                for item in value:
                    found.setdefault(tuple(str(item[name]) for name in names), []).append(item)
            return [join(items) for items in found.values()]
    return max(values, key=len)
