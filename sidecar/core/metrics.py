"""Instruments, and the table of every metric: name, unit and help text.

A stage gets its instruments from the `Meter` of its `Env` when it is built.  Recording then changes an attribute or a
list item.  OpenTelemetry's own instruments are slower, because their attributes cannot be bound in advance.
`telemetry/metrics/` and `telemetry/export/` publish the values.
"""

from __future__ import annotations

from bisect import bisect_left
from collections.abc import Callable
from itertools import pairwise
from math import ceil
from typing import Final, NamedTuple, Protocol

SECONDS: Final[tuple[float, ...]] = (0.005, 0.01, 0.025, 0.05, 0.075, 0.1, 0.25, 0.5, 0.75, 1.0, 2.5, 5.0, 7.5, 10.0)
"""Upper bounds of the exported buckets in seconds, as the OpenTelemetry HTTP conventions advise them."""

TICKS: Final = 200_000
"""Ticks in a second; durations are counted in whole ticks."""
GROWTH: Final = 1.06
"""Largest ratio of a bucket's upper bound to its lower bound.  It bounds the error of percentiles."""
LONGEST: Final = 1000 * TICKS
"""Last upper bound in ticks; longer durations share one bucket."""


def _ladder() -> tuple[int, ...]:
    """Return the upper bounds of all buckets in ticks; those of `SECONDS` are among them."""
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
"""Upper bounds of all buckets in seconds (inclusive); those of `SECONDS` are among them."""
_EXPORTED: Final = [0, *(BOUNDS_TICKS.index(round(bound * TICKS)) + 1 for bound in SECONDS), len(BOUNDS) + 1]
"""Index at which each exported bucket begins, and the end of the last."""
TABLED: Final = 65_536
"""Length of `BUCKETS_BY_TICK`: a duration of fewer ticks is looked up there."""
BUCKETS_BY_TICK: Final = bytes(bisect_left(BOUNDS_TICKS, ticks) for ticks in range(TABLED))
"""Index of the bucket of each duration below `TABLED` ticks."""


def bucket_index(seconds: float) -> int:
    """Return the index of the bucket of a duration in `Histogram.counts`.

    Most durations are looked up in a table: on the request path a bisection of so many bounds is slower.
    """
    ticks = ceil(seconds * TICKS)
    return BUCKETS_BY_TICK[ticks] if 0 <= ticks < TABLED else bisect_left(BOUNDS_TICKS, ticks)


class Counter:
    """Counter: a number that only grows.  Hot paths write `counter.value += 1` instead of calling `add`."""

    __slots__ = ("value",)

    def __init__(self) -> None:
        self.value = 0

    def add(self, amount: int = 1) -> None:
        """Increase the counter."""
        self.value += amount


class Exemplar(NamedTuple):
    """Example of a recorded value, with the trace of its request."""

    value: float
    """Duration in seconds."""
    wall: float
    """Unix time of the recording in seconds."""
    trace_id: bytes
    """Trace ID, 32 hex digits."""
    span_id: int
    """ID of the server span, 64 bits."""


class Histogram:
    """Histogram of durations: counts by upper bound (inclusive), and their sum.

    The internal buckets are narrow, so that percentiles are accurate.  Collectors get the few buckets of `SECONDS`,
    because each bucket is a series of its own in Prometheus.
    """

    __slots__ = ("counts", "exemplars", "total")

    def __init__(self) -> None:
        self.counts = [0] * (len(BOUNDS) + 1)
        """Count of each bucket of `BOUNDS`; the last one counts durations above all bounds."""
        self.total = 0.0
        """Sum of all durations in seconds."""
        self.exemplars: dict[int, Exemplar] | None = None
        """Latest exemplar of each bucket of `SECONDS`, by its index; None before the first."""

    def record(self, seconds: float) -> None:
        """Count a duration."""
        ticks, counts = ceil(seconds * TICKS), self.counts
        bucket = BUCKETS_BY_TICK[ticks] if 0 <= ticks < TABLED else bucket_index(seconds)
        counts[bucket] = counts[bucket] + 1  # mypyc compiles `+=` on a list item to a slower addition of objects
        self.total += seconds

    def exported(self) -> tuple[int, ...]:
        """Return the count of each bucket of `SECONDS`; the last one counts durations above all bounds."""
        counts = self.counts
        return tuple([sum(counts[low:high]) for low, high in pairwise(_EXPORTED)])


class Meter(Protocol):
    """Source of instruments.  Equal names and labels give the same instrument; the number of series is bounded."""

    def counter(self, name: str, /, **labels: str) -> Counter:
        """Return the counter with this name and these labels."""

    def histogram(self, name: str, /, **labels: str) -> Histogram:
        """Return the histogram with this name and these labels."""

    def gauge(self, name: str, read: Callable[[], float], /, **labels: str) -> None:
        """Register a gauge, in place of one with the same name and labels; each collection calls `read`."""


# ----- the table of metrics


class Description(NamedTuple):
    """Unit and help text of a metric."""

    unit: str
    """Unit in the notation of UCUM; empty for a number without one."""
    help: str
    """Description in one sentence."""


METRICS: Final[dict[str, Description]] = {}
"""Description of each metric by its OpenTelemetry name, with dots; Prometheus names have underscores instead."""


def metric(name: str, unit: str, help: str) -> str:
    """Declare a metric and return its name."""
    METRICS[name] = Description(unit, help)
    return name


REQUEST_DURATION: Final = metric(
    "http.server.request.duration", "s", "Duration of requests: from their first byte to the last byte of the response."
)
ATTEMPT_DURATION: Final = metric(
    "http.client.request.duration", "s", "Duration of attempts: from taking a connection to the end of the response."
)
CALL_DURATION: Final = metric(
    "rpc.server.call.duration", "s", "Duration of gRPC calls: from the first byte of the call to its status."
)
REQUESTS_ACTIVE: Final = metric("http.server.active_requests", "{request}", "Requests in flight.")
REFUSALS: Final = metric(
    "sidecar.refusals", "{request}", "Requests that a policy refused, even if a fallback then answered them."
)
RETRIES: Final = metric("sidecar.retries", "{attempt}", "Attempts after the first.")
RETRIES_DENIED: Final = metric("sidecar.retries.denied", "{attempt}", "Retries that were due but not made, by reason.")
REPEATED_REQUESTS: Final = metric(
    "sidecar.repeated_requests", "{request}", "Requests with retries or hedges, by whether one of these answered well."
)
HEDGES: Final = metric("sidecar.hedges", "{attempt}", "Second attempts that were started beside a slow first attempt.")
WEBSOCKET_MESSAGES: Final = metric(
    "sidecar.websocket.messages", "{message}", "Messages of WebSockets that `translate` serves, by their direction."
)
WEBSOCKET_SESSIONS: Final = metric(
    "sidecar.websocket.sessions", "{session}", "WebSockets that `translate` has served to their end, by their result."
)
FALLBACKS: Final = metric("sidecar.fallbacks", "{request}", "Requests that a fallback answered.")
AGGREGATE_PARTS: Final = metric("sidecar.aggregate.parts", "{part}", "Parts of aggregated answers, by result.")
PREFLIGHTS: Final = metric(
    "sidecar.cors.preflights", "{request}", "CORS preflights, by what a browser takes as their result."
)
FAULTS: Final = metric("sidecar.faults.injected", "{fault}", "Faults that a policy injected.")
WOULD_REFUSE: Final = metric(
    "sidecar.observed.refusals", "{request}", "Requests that policies under `mode: observe` would have refused."
)
BUDGET_TOKENS: Final = metric("sidecar.retry_budget.tokens", "{token}", "Retries left in the upstream's budget.")
BUDGET_OBSERVED: Final = metric(
    "sidecar.retry_budget.observed", "", "1 if the retry budget has `mode: observe` and denies no retry, else 0."
)
BREAKER_STATE: Final = metric("sidecar.breaker.state", "", "State of a circuit breaker: 0 closed, 1 half-open, 2 open.")
BREAKER_OBSERVED: Final = metric(
    "sidecar.breaker.observed", "", "1 if the circuit breaker has `mode: observe` and refuses no request, else 0."
)
BREAKER_TRANSITIONS: Final = metric(
    "sidecar.breaker.transitions", "{transition}", "Changes of a circuit breaker's state."
)
CONCURRENCY_ACTIVE: Final = metric("sidecar.concurrency.active", "{request}", "Requests that hold a permit.")
CONCURRENCY_LIMIT: Final = metric("sidecar.concurrency.limit", "{request}", "Number of permits, free ones included.")
RATE_LIMITED: Final = metric(
    "sidecar.rate_limit.requests", "{request}", "Requests over a rate limit: refused, delayed, or only observed."
)
RATE_LIMIT_KEYS: Final = metric("sidecar.rate_limit.keys", "{key}", "Keys that a rate limit counts one by one.")
RATE_LIMIT_OVERFLOW: Final = metric(
    "sidecar.rate_limit.overflow", "{request}", "Requests counted together because all keys of a rate limit are in use."
)
QUOTA_EXCEEDED: Final = metric(
    "sidecar.quota.requests", "{request}", "Requests beyond a quota: refused, or only observed."
)
QUOTA_KEYS: Final = metric("sidecar.quota.keys", "{key}", "Keys of a quota that this process counts, or has leased.")
QUOTA_OVERFLOW: Final = metric(
    "sidecar.quota.overflow", "{request}", "Requests counted together because all keys of a quota are in use."
)
QUOTA_STORELESS: Final = metric(
    "sidecar.quota.storeless", "{request}", "Requests that a quota decided without its store."
)
THROTTLED: Final = metric("sidecar.throttle.refused", "{attempt}", "Attempts that a throttle refused.")
PACED: Final = metric(
    "sidecar.pacing.attempts", "{attempt}", "Attempts that were delayed or refused because the upstream asked for less."
)
PACING_PRESSURE: Final = metric("sidecar.pacing.pressure", "{answer}", "Answers that asked for less load.")
PACING_RATE: Final = metric(
    "sidecar.pacing.rate",
    "{attempt}/s",
    "Attempts per second that pacing sends at most, or would under `mode: observe`; 0 without a limit.",
)
STORE_CALLS: Final = metric("sidecar.store.calls", "{call}", "Calls of a store that several processes share.")
STORE_ERRORS: Final = metric("sidecar.store.errors", "{error}", "Calls of a store that failed.")
STORE_UP: Final = metric("sidecar.store.up", "", "1 if a store is in use, 0 while its breaker is open.")
RATE_LIMIT_STORELESS: Final = metric(
    "sidecar.rate_limit.storeless", "{request}", "Requests that a rate limit decided without its store."
)
ROLLOUT_SHARE: Final = metric(
    "sidecar.rollout.share", "1", "Share of a route's requests that an arm gets, from 0 to 1."
)
ROLLOUT_RETURNS: Final = metric("sidecar.rollout.returns", "{return}", "Candidates that were taken back.")
MIRRORED: Final = metric(
    "sidecar.mirror.requests", "{request}", "Requests that were due for a copy, by what became of it."
)
QUEUE_LENGTH: Final = metric("sidecar.queue.length", "{request}", "Requests that wait for a permit.")
ENDPOINT_UP: Final = metric("sidecar.endpoint.up", "", "Endpoints of an upstream, by state.")
EJECTIONS: Final = metric("sidecar.endpoint.ejections", "{ejection}", "Endpoints that were ejected.")
PANIC_PICKS: Final = metric(
    "sidecar.endpoint.panic_picks", "{request}", "Requests for which no healthy endpoint was available."
)
DISCOVERY_UPDATES: Final = metric(
    "sidecar.discovery.updates", "{update}", "Answers of the source of an upstream's endpoints, by result."
)
DISCOVERY_STALE: Final = metric(
    "sidecar.discovery.stale", "s", "Time since the source of an upstream's endpoints went away; 0 if it is there."
)
POOL_CONNECTIONS: Final = metric(
    "sidecar.upstream.connections", "{connection}", "Connections to an upstream, by state."
)
POOL_STREAMS: Final = metric(
    "sidecar.upstream.streams", "{stream}", "Open streams on HTTP/2 connections to an upstream."
)
CONNECTIONS: Final = metric("sidecar.downstream.connections", "{connection}", "Open connections of clients.")
CAPTURED: Final = metric(
    "sidecar.capture.connections", "{connection}", "Redirected connections, by protocol and by where they went."
)
CAPTURE_FAILURES: Final = metric(
    "sidecar.capture.failures",
    "{connection}",
    "Redirected connections that were closed without a destination, by reason.",
)
CAPTURE_BYTES: Final = metric("sidecar.capture.traffic", "By", "Bytes that redirected connections passed on as TCP.")
CAPTURE_PASSAGES: Final = metric(
    "sidecar.capture.passages", "{connection}", "Open redirected connections that pass as TCP."
)
SLOW_CLIENT_BYTES: Final = metric("sidecar.downstream.slow_clients", "By", "Bytes that are buffered for slow clients.")
RELOADS: Final = metric("sidecar.reloads", "{reload}", "Reloads, by result.")
POLICIES_REJECTED: Final = metric(
    "sidecar.policies.rejected", "", "1 while the policy files on disk are invalid and older ones in force, else 0."
)
LOOP_STALLS: Final = metric("sidecar.loop.stalls", "{stall}", "Stalls of the event loop.")
BUGS: Final = metric("sidecar.bugs", "{error}", "Bugs of the sidecar that were caught.")
SERIES_DROPPED: Final = metric(
    "sidecar.metrics.series_folded", "{series}", "Series beyond the bound that were merged into `other`, by metric."
)
LOOP_TASKS: Final = metric("sidecar.loop.tasks", "{task}", "Tasks of the event loop.")
LOOP_LAG: Final = metric("sidecar.loop.lag", "s", "Delay with which the event loop runs its timers.")
LOG_DROPPED: Final = metric(
    "sidecar.log.dropped", "{line}", "Log lines that were dropped because their reader fell behind."
)
LOG_SUPPRESSED: Final = metric(
    "sidecar.log.suppressed", "{line}", "Access log lines that were suppressed because of `at_most`."
)
TELEMETRY_DROPPED: Final = metric(
    "sidecar.telemetry.dropped", "{item}", "Spans and metric collections that were dropped, by reason."
)
TELEMETRY_EXPORTED: Final = metric(
    "sidecar.telemetry.exported", "{item}", "Spans and metric collections that a collector accepted."
)
TRACES_KEPT: Final = metric("sidecar.traces.kept", "{trace}", "Requests whose spans were kept, by reason.")
TRANSFORM_SKIPPED: Final = metric(
    "sidecar.transform.skipped", "{message}", "Bodies that were forwarded without their transformation, by reason."
)
CACHE_LOOKUPS: Final = metric("sidecar.cache.lookups", "{request}", "Look-ups in a cache, by result.")
CACHE_FILLS: Final = metric("sidecar.cache.fills", "{request}", "Fetches of a cache from the upstream.")
CACHE_REFRESHES: Final = metric(
    "sidecar.cache.refreshes",
    "{response}",
    "Stored responses that were fetched anew, by whether they had changed and by what states their lifetime.",
)
CACHE_REFRESHED_AGE: Final = metric(
    "sidecar.cache.refreshes.age", "s", "Age of these responses together, each in the moment of its refresh."
)
CACHE_WAITERS: Final = metric("sidecar.cache.waiters", "{request}", "Requests that wait for another request's fetch.")
CACHE_BYTES: Final = metric("sidecar.cache.size", "By", "Bytes in a store.")
CACHE_ENTRIES: Final = metric("sidecar.cache.entries", "{entry}", "Responses in a store.")
CACHE_EVICTIONS: Final = metric("sidecar.cache.evictions", "{entry}", "Responses that were evicted to make room.")
CACHE_PURGED: Final = metric("sidecar.cache.purged", "{entry}", "Responses that were purged or invalidated.")
CACHE_TIER_UP: Final = metric(
    "sidecar.cache.tier_up",
    "",
    "1 if a store's second tier is in use or there is none, 0 while its breaker is open.",
)
CACHE_TIER_ERRORS: Final = metric("sidecar.cache.tier_errors", "{error}", "Failed operations of a store's second tier.")
AUTHENTICATIONS: Final = metric(
    "sidecar.authentications", "{request}", "Credentials that an identity has judged, by result."
)
IDENTITY_FETCHES: Final = metric("sidecar.identity.fetches", "{fetch}", "Fetches of an issuer's keys, by result.")
IDENTITY_KEYS: Final = metric("sidecar.identity.keys", "{key}", "Keys that verify the tokens of an identity.")
IDENTITY_KEYS_AGE: Final = metric(
    "sidecar.identity.keys.age", "s", "Time since the keys of an identity were fetched; 0 without keys."
)
IDENTITY_TOKENS: Final = metric(
    "sidecar.identity.tokens", "{token}", "Accepted tokens that are not verified again for the time being."
)
VERIFICATIONS_DENIED: Final = metric(
    "sidecar.verifications.denied", "{request}", "Requests whose new tokens were not verified, to save CPU."
)
CREDENTIAL_FETCHES: Final = metric(
    "sidecar.credentials.fetches", "{fetch}", "Fetches of a token for an upstream, by result."
)
CREDENTIAL_LEFT: Final = metric(
    "sidecar.credentials.left", "s", "Time until the token for an upstream ends; 0 without a token."
)
CERTIFICATE_LEFT: Final = metric(
    "sidecar.certificates.left", "s",
    "Time until the first file of a TLS block (certificate, authorities, revocation lists) expires; negative then.",
)  # fmt: skip
CREDENTIAL_REJECTIONS: Final = metric(
    "sidecar.credentials.rejections", "{request}", "Answers of an upstream that reject the credentials of the sidecar."
)
PROCESS_MEMORY: Final = metric("process.memory.usage", "By", "Resident memory.")
PROCESS_CPU: Final = metric("process.cpu.time", "s", "CPU time used.")
PROCESS_FILES: Final = metric("process.unix.file_descriptor.count", "{file_descriptor}", "Open file descriptors.")
WORKERS_READY: Final = metric("sidecar.workers.ready", "{worker}", "Workers that serve, of a sidecar with several.")
WORKER_STARTS: Final = metric("sidecar.workers.starts", "{start}", "Starts of workers.")
PROCESS_UPTIME: Final = metric("process.uptime", "s", "Time since the start of the process.")
