"""Store of the figures of the last hours: what values of policies are suggested from (`sidecar recommend --admin`).

A period of `PERIOD` seconds is the difference between two readings of existing metrics, so requests do no extra work.
Rules:

1. A period is kept as the JSON text that is sent and written: durations of good answers as `[bucket, count, ...]` of
   the buckets of `BOUNDS`, and counts.  Routes and upstreams without traffic are left out.
2. The texts together have a bound in bytes.  Beyond it the oldest periods are dropped.
3. A reading is done in pieces with a turn of the loop after each, because there may be thousands of series.
"""

from __future__ import annotations

import json
from collections import deque
from collections.abc import Awaitable, Callable, Iterable
from typing import TYPE_CHECKING, Any, Final

from sidecar.core import metrics
from sidecar.core.metrics import BOUNDS, Counter, Histogram
from sidecar.core.outcome import FAILURES, TIMEOUT
from sidecar.telemetry.metrics.durations import are_errors
from sidecar.telemetry.metrics.registry import Labels, Registry

if TYPE_CHECKING:
    from sidecar.telemetry.metrics.period import Period

PERIOD: Final = 60.0
"""Length of a period in seconds."""
PIECE: Final = 50
"""Series that are read in one turn of the loop."""


class History:
    """Ring of periods; `watch` is called every second, `end_period` every `PERIOD` seconds."""

    def __init__(self, registry: Registry, most_bytes: int) -> None:
        self._registry = registry
        self.most_bytes = most_bytes
        """Most bytes of all periods together."""
        self._before: dict[tuple[str, Labels], tuple[Any, Any]] = {}
        """Each instrument with its value at the end of the last period."""
        self._active: dict[str, int] = {}
        self._tokens: dict[str, float] = {}
        self.ring: deque[bytes] = deque()
        """Periods as JSON, oldest first."""
        self.bytes = 0
        """Length of all periods together."""

    def watch(self) -> None:
        """Take note of permits and tokens, whose values between two readings no metric tells."""
        for labels, read in self._registry.instruments(metrics.CONCURRENCY_ACTIVE):
            name, now = ":".join(labels[0]) if labels else "", _value(read)
            if now > self._active.get(name, 0):
                self._active[name] = int(now)
        for labels, read in self._registry.instruments(metrics.BUDGET_TOKENS):
            name, left = dict(labels).get("upstream", ""), _value(read)
            if left < self._tokens.get(name, float("inf")):
                self._tokens[name] = left

    async def end_period(self, wall: float, seconds: float, turn: Callable[[], Awaitable[None]]) -> None:
        """End a period at the Unix time `wall`; `turn` waits for the next turn of the loop."""
        before, self._before = self._before, {}
        routes: dict[str, dict[str, Any]] = {}
        upstreams: dict[str, dict[str, Any]] = {}
        opened: dict[str, int] = {}
        number = 0
        for name in (
            metrics.REQUEST_DURATION, metrics.ATTEMPT_DURATION, metrics.RETRIES, metrics.HEDGES, metrics.CACHE_LOOKUPS,
            metrics.BREAKER_TRANSITIONS, metrics.CACHE_REFRESHES, metrics.CACHE_REFRESHED_AGE,
        ):  # fmt: skip
            for pairs, instrument in list(self._registry.instruments(name)):
                number += 1
                if number % PIECE == 0:
                    await turn()
                labels = dict(pairs)
                known = before.get((name, pairs))
                last = known[1] if known is not None and known[0] is instrument else None
                if isinstance(instrument, Histogram):
                    is_route = name == metrics.REQUEST_DURATION
                    owners, owner = (routes, labels.get("route", "")) if is_route else (upstreams, labels["upstream"])
                    if last == instrument.counts:
                        self._before[name, pairs] = (instrument, last)
                        continue
                    counts = list(instrument.counts)
                    self._before[name, pairs] = (instrument, counts)
                    _add(owners.setdefault(owner, {}), labels, counts, last)
                elif isinstance(instrument, Counter):
                    value = instrument.value
                    self._before[name, pairs] = (instrument, value)
                    if not (added := value - (last or 0)):
                        continue
                    if name == metrics.BREAKER_TRANSITIONS:
                        if labels.get("to") == "open":
                            opened[labels["breaker"]] = added
                        continue
                    sums = routes.setdefault(labels.get("route", ""), {})
                    if name == metrics.CACHE_LOOKUPS:
                        lookups, result = sums.setdefault("lookups", {}), labels["result"]
                        lookups[result] = lookups.get(result, 0) + added
                    elif name in (metrics.CACHE_REFRESHES, metrics.CACHE_REFRESHED_AGE):
                        refreshed = sums.setdefault("refreshes", {}).setdefault(labels["lifetime"], {})
                        refreshed.setdefault(labels["result"], [0, 0])[name == metrics.CACHE_REFRESHED_AGE] += added
                    elif name == metrics.RETRIES or labels.get("result") in ("won", "lost"):
                        sums["again"] = sums.get("again", 0) + added
        found = {
            "at": round(wall, 3), "seconds": round(seconds, 3), "routes": _finished(routes),
            "upstreams": _finished(upstreams), "active": self._active, "opened": opened, "tokens": self._tokens,
        }  # fmt: skip
        self._active, self._tokens = {}, {}
        self.add(json.dumps({key: value for key, value in found.items() if value}, separators=(",", ":")).encode())

    def add(self, text: bytes) -> None:
        """Add a period, and drop the oldest ones beyond the bound."""
        self.ring.append(text)
        self.bytes += len(text)
        while self.bytes > self.most_bytes:
            self.bytes -= len(self.ring.popleft())

    def document(self) -> bytes:
        """Return the document of all periods (`period.HistoryDocument`)."""
        bounds = json.dumps(BOUNDS, separators=(",", ":")).encode()
        return b'{"version":1,"bounds":%b,"periods":[%b]}\n' % (bounds, b",".join(self.ring))

    def restore(self, periods: Iterable[Period]) -> None:
        """Put periods of an earlier process before those of this one."""
        own = list(self.ring)
        self.ring.clear()
        self.bytes = 0
        for each in periods:
            self.add(each.model_dump_json(exclude_defaults=True).encode())
        for text in own:
            self.add(text)


def _value(instrument: Any) -> float:
    """Return the value of a gauge; 0 if it cannot be read."""
    try:
        value = float(instrument())
    except Exception:  # one failing value must not make the others fail
        return 0.0
    return value if 0 <= value < float("inf") else 0.0


def _add(sums: dict[str, Any], labels: dict[str, str], counts: list[int], last: list[int] | None) -> None:
    """Add the growth of a series to the sums of its route or upstream."""
    growth = counts if last is None else [now - then for now, then in zip(counts, last, strict=True)]
    failure = FAILURES.get(labels.get("error.type", ""))
    if failure is not None:
        if failure.origin != "upstream":
            return
        if failure.code == TIMEOUT.code:
            sums["timeouts"] = sums.get("timeouts", 0) + sum(growth)
    elif not are_errors(labels):
        good = sums.setdefault("good", {})
        for bucket, count in enumerate(growth):
            if count:
                good[bucket] = good.get(bucket, 0) + count
        return
    sums["failed"] = sums.get("failed", 0) + sum(growth)


def _finished(owners: dict[str, dict[str, Any]]) -> dict[str, dict[str, Any]]:
    """Return the sums with flat lists of buckets."""
    found = {}
    for name, sums in owners.items():
        if (good := sums.get("good")) is not None:
            sums["good"] = [number for pair in sorted(good.items()) for number in pair]
        if sums:
            found[name] = sums
    return found
