"""Instruments, and the table of every metric: name, unit and help text.

A stage asks the `Meter` of its `Env` for an instrument once, when it is built.  To record is to change an attribute or
a list member.  OpenTelemetry's own instruments are dear and cannot be bound in advance; what is counted here leaves by
`telemetry/metrics/` and `telemetry/export/`.
"""

from __future__ import annotations

from bisect import bisect_left
from collections.abc import Callable
from itertools import pairwise
from math import ceil
from typing import Final, NamedTuple, Protocol

SECONDS: Final[tuple[float, ...]] = (0.005, 0.01, 0.025, 0.05, 0.075, 0.1, 0.25, 0.5, 0.75, 1.0, 2.5, 5.0, 7.5, 10.0)
"""Upper bounds of exported buckets in seconds, as the OpenTelemetry HTTP conventions advise them."""

TICKS: Final = 200_000
"""Ticks in a second; durations are counted in whole ticks of 5 us."""
GROWTH: Final = 1.06
"""Largest ratio of a bucket's bounds.  The middle of a bucket is at most 3 % from every value in it."""
LONGEST: Final = 1000 * TICKS
"""Ticks of the last bound; longer durations share one bucket."""


def _ladder() -> tuple[int, ...]:
    """Return the upper bounds of buckets in ticks, those of `SECONDS` among them."""
    fixed = {round(bound * TICKS) for bound in SECONDS}
    bounds: list[int] = []
    bound = 0
    while bound < LONGEST:
        following = max(bound + 1, int(bound * GROWTH))
        bound = min((each for each in fixed if bound < each < following), default=min(following, LONGEST))
        bounds.append(bound)
    return tuple(bounds)


BOUNDS_TICKS: Final = _ladder()
BOUNDS: Final = tuple(ticks / TICKS for ticks in BOUNDS_TICKS)
"""Upper bounds of the buckets that are counted, in seconds (inclusive); those of `SECONDS` are among them."""
_EXPORTED: Final = [0, *(BOUNDS_TICKS.index(round(bound * TICKS)) + 1 for bound in SECONDS), len(BOUNDS) + 1]
TABLED: Final = 65_536
"""Durations of fewer ticks find their bucket in a table."""
PLACES: Final = bytes(bisect_left(BOUNDS_TICKS, ticks) for ticks in range(TABLED))
"""Bucket of each duration below `TABLED` ticks."""


def place(seconds: float) -> int:
    """Return the index in `Histogram.counts` of a duration.

    An integer and a table, since bisection through so many bounds would cost the request path more.
    """
    ticks = ceil(seconds * TICKS)
    return PLACES[ticks] if 0 <= ticks < TABLED else bisect_left(BOUNDS_TICKS, ticks)


class Counter:
    """Number that only grows.  On a hot path write `counter.value += 1`."""

    __slots__ = ("value",)

    def __init__(self) -> None:
        self.value = 0

    def add(self, amount: int = 1) -> None:
        self.value += amount


class Exemplar(NamedTuple):
    """Recorded value with the trace of its request."""

    value: float
    wall: float
    """Unix time of the record."""
    trace_id: bytes
    """32 characters of hex."""
    span_id: int


class Histogram:
    """Counts of durations by upper bound (inclusive), with their sum.

    Buckets are fine enough for percentiles that are right within 3 % (5 us below 0.1 ms).  Collectors get the few
    buckets of `SECONDS`, since each bucket is a series of its own to Prometheus.
    """

    __slots__ = ("counts", "exemplars", "total")

    def __init__(self) -> None:
        self.counts = [0] * (len(BOUNDS) + 1)
        """Counts by the buckets of `BOUNDS`; the last one is of durations beyond every bound."""
        self.total = 0.0
        self.exemplars: dict[int, Exemplar] | None = None
        """Latest exemplar of each bucket of `SECONDS`, by its index; None where there has been none."""

    def record(self, seconds: float) -> None:
        """Count a duration."""
        ticks, counts = ceil(seconds * TICKS), self.counts
        bucket = PLACES[ticks] if 0 <= ticks < TABLED else place(seconds)
        counts[bucket] = counts[bucket] + 1  # `+=` adds objects where this is compiled, and not numbers
        self.total += seconds

    def exported(self) -> tuple[int, ...]:
        """Return the counts by the buckets of `SECONDS`; the last one is of durations beyond every bound."""
        counts = self.counts
        return tuple([sum(counts[low:high]) for low, high in pairwise(_EXPORTED)])


class Meter(Protocol):
    """Source of instruments: the same name and labels give the same one, within a bound on their number."""

    def counter(self, name: str, /, **labels: str) -> Counter:
        """Return a counter."""

    def histogram(self, name: str, /, **labels: str) -> Histogram:
        """Return a histogram."""

    def gauge(self, name: str, read: Callable[[], float], /, **labels: str) -> None:
        """Register a gauge; `read` is called at each collection.  One of the same identity is replaced."""


# ----- every metric that the process has


class Description(NamedTuple):
    """Unit and help text of a metric."""

    unit: str
    """Unit by UCUM."""
    help: str
    """One sentence."""


METRICS: Final[dict[str, Description]] = {}
"""Every metric by its name, which has dots as OpenTelemetry spells it; the Prometheus page has underscores."""


def metric(name: str, unit: str, help: str) -> str:
    """Declare a metric and return its name."""
    METRICS[name] = Description(unit, help)
    return name


REQUEST_DURATION: Final = metric(
    "http.server.request.duration", "s", "Requests by route: from the first byte to the last byte of the answer."
)
ATTEMPT_DURATION: Final = metric(
    "http.client.request.duration", "s", "Attempts by endpoint: from taking a connection to the end of the answer."
)
REQUESTS_ACTIVE: Final = metric("http.server.active_requests", "{request}", "Requests in flight.")
REFUSALS: Final = metric(
    "sidecar.refusals", "{request}", "Requests that a policy refused, those that a fallback then answered included."
)
RETRIES: Final = metric("sidecar.retries", "{attempt}", "Attempts after the first.")
RETRIES_DENIED: Final = metric("sidecar.retries.denied", "{attempt}", "Retries that were due and not made, by reason.")
HEDGES: Final = metric("sidecar.hedges", "{attempt}", "Second attempts that were started beside a slow first.")
FALLBACKS: Final = metric("sidecar.fallbacks", "{request}", "Requests that a fallback answered.")
FAULTS: Final = metric("sidecar.faults.injected", "{fault}", "Faults that a policy injected.")
WOULD_REFUSE: Final = metric(
    "sidecar.observed.refusals", "{request}", "Requests that policies under `mode: observe` would have refused."
)
BUDGET_TOKENS: Final = metric("sidecar.retry_budget.tokens", "{token}", "Retries left in the upstream's budget.")
BUDGET_OBSERVED: Final = metric(
    "sidecar.retry_budget.observed", "", "1 while a retry budget refuses nothing: `mode: observe`."
)
BREAKER_STATE: Final = metric("sidecar.breaker.state", "", "0 closed, 1 half-open, 2 open.")
BREAKER_OBSERVED: Final = metric("sidecar.breaker.observed", "", "1 while a breaker refuses nothing: `mode: observe`.")
BREAKER_TRANSITIONS: Final = metric("sidecar.breaker.transitions", "{transition}", "Changes of a breaker's state.")
CONCURRENCY_ACTIVE: Final = metric("sidecar.concurrency.active", "{request}", "Requests that hold a permit.")
CONCURRENCY_LIMIT: Final = metric("sidecar.concurrency.limit", "{request}", "Permits in all.")
QUEUE_LENGTH: Final = metric("sidecar.queue.length", "{request}", "Requests that wait for a permit.")
ENDPOINT_UP: Final = metric("sidecar.endpoint.up", "", "Endpoints of an upstream, by state.")
EJECTIONS: Final = metric("sidecar.endpoint.ejections", "{ejection}", "Endpoints that were ejected.")
PANIC_PICKS: Final = metric(
    "sidecar.endpoint.panic_picks", "{request}", "Requests for which no healthy endpoint was left to pick."
)
POOL_CONNECTIONS: Final = metric(
    "sidecar.upstream.connections", "{connection}", "Connections to an upstream, by state."
)
CONNECTIONS: Final = metric("sidecar.downstream.connections", "{connection}", "Connections of clients.")
SLOW_CLIENT_BYTES: Final = metric("sidecar.downstream.slow_clients", "By", "Bytes that are buffered for slow clients.")
RELOADS: Final = metric("sidecar.reloads", "{reload}", "Reloads, by result.")
POLICIES_REJECTED: Final = metric(
    "sidecar.policies.rejected", "", "1 while the policy files on the disk are not in force, else 0."
)
LOOP_STALLS: Final = metric("sidecar.loop.stalls", "{stall}", "Stalls of the event loop.")
BUGS: Final = metric("sidecar.bugs", "{error}", "Bugs of the sidecar that were caught.")
SERIES_DROPPED: Final = metric(
    "sidecar.metrics.series_folded", "{series}", "Series that were folded into `other`, by metric."
)
LOOP_TASKS: Final = metric("sidecar.loop.tasks", "{task}", "Tasks of the event loop.")
LOOP_LAG: Final = metric("sidecar.loop.lag", "s", "Delay with which the event loop runs its timers.")
LOG_DROPPED: Final = metric("sidecar.log.dropped", "{line}", "Log lines that were dropped because nobody read them.")
LOG_SUPPRESSED: Final = metric(
    "sidecar.log.suppressed", "{line}", "Lines of the access log beyond its bound (`at_most`)."
)
TELEMETRY_DROPPED: Final = metric(
    "sidecar.telemetry.dropped", "{item}", "Spans, and collections of metrics, that were lost, by reason."
)
TELEMETRY_EXPORTED: Final = metric(
    "sidecar.telemetry.exported", "{item}", "Spans, and collections of metrics, that a collector took."
)
TRACES_KEPT: Final = metric("sidecar.traces.kept", "{trace}", "Requests whose spans were kept, by reason.")
TRANSFORM_SKIPPED: Final = metric(
    "sidecar.transform.skipped", "{message}", "Bodies that passed without a transformation, by reason."
)
CACHE_LOOKUPS: Final = metric("sidecar.cache.lookups", "{request}", "Requests that met a cache, by what it did.")
CACHE_FILLS: Final = metric("sidecar.cache.fills", "{request}", "Fetches that a cache made from the upstream.")
CACHE_WAITERS: Final = metric("sidecar.cache.waiters", "{request}", "Requests that wait for another request's fetch.")
CACHE_BYTES: Final = metric("sidecar.cache.size", "By", "Bytes that a store holds.")
CACHE_ENTRIES: Final = metric("sidecar.cache.entries", "{entry}", "Answers that a store holds.")
CACHE_EVICTIONS: Final = metric("sidecar.cache.evictions", "{entry}", "Answers that made room for others.")
CACHE_PURGED: Final = metric("sidecar.cache.purged", "{entry}", "Answers that were purged or invalidated.")
CACHE_TIER_ERRORS: Final = metric(
    "sidecar.cache.tier_errors", "{error}", "Operations at which a store's second tier failed."
)
PROCESS_MEMORY: Final = metric("process.memory.usage", "By", "Resident memory.")
PROCESS_CPU: Final = metric("process.cpu.time", "s", "CPU time used.")
PROCESS_FILES: Final = metric("process.unix.file_descriptor.count", "{file_descriptor}", "Open file descriptors.")
PROCESS_UPTIME: Final = metric("process.uptime", "s", "Time since the start.")
