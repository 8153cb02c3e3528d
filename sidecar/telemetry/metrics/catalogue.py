"""What each metric is: its unit (UCUM, as OpenTelemetry writes them) and one sentence.

The Prometheus page takes HELP and the unit suffix from here, OTLP the description.  A metric that is not listed works
all the same, without a description and a unit.
"""

from __future__ import annotations

from typing import Final, NamedTuple

from sidecar.core import events


class Description(NamedTuple):
    unit: str
    help: str


PROCESS_MEMORY: Final = "process.memory.usage"
PROCESS_CPU: Final = "process.cpu.time"
PROCESS_FILES: Final = "process.unix.file_descriptor.count"
PROCESS_UPTIME: Final = "process.uptime"

METRICS: Final[dict[str, Description]] = {
    events.REQUEST_DURATION: Description(
        "s", "Requests by route: from the first byte of one to the last of its answer."
    ),
    events.ATTEMPT_DURATION: Description("s", "Tries by endpoint: from taking a connection to the end of the answer."),
    events.REQUESTS_ACTIVE: Description("{request}", "Requests in flight."),
    events.REFUSALS: Description("{request}", "Requests that a policy refused."),
    events.RETRIES: Description("{attempt}", "Tries after the first."),
    events.RETRIES_DENIED: Description("{attempt}", "Retries that were due and not made, by what stood in their way."),
    events.HEDGES: Description("{attempt}", "Second tries that were started beside a slow first."),
    events.FALLBACKS: Description("{request}", "Requests that a fallback answered."),
    events.FAULTS: Description("{fault}", "Faults that a policy injected."),
    events.TRANSFORM_SKIPPED: Description("{message}", "Bodies that passed as they were, by why."),
    events.WOULD_REFUSE: Description("{request}", "What policies under `mode: observe` would have refused."),
    events.BUDGET_TOKENS: Description("{token}", "Retries that the upstream's budget has left."),
    events.BREAKER_STATE: Description("", "0 closed, 1 half-open, 2 open."),
    events.BREAKER_TRANSITIONS: Description("{transition}", "Changes of a breaker's state."),
    events.CONCURRENCY_ACTIVE: Description("{request}", "Requests that hold a permit."),
    events.CONCURRENCY_LIMIT: Description("{request}", "Permits there are."),
    events.QUEUE_LENGTH: Description("{request}", "Requests that wait for a permit."),
    events.ENDPOINT_UP: Description("", "Endpoints of an upstream, by state."),
    events.EJECTIONS: Description("{ejection}", "Endpoints that were ejected."),
    events.PANIC_PICKS: Description("{request}", "Requests for which no healthy endpoint was left to pick."),
    events.POOL_CONNECTIONS: Description("{connection}", "Connections to an upstream, by what they do."),
    events.CONNECTIONS: Description("{connection}", "Connections of clients."),
    events.RELOADS: Description("{reload}", "Reloads by their result."),
    events.LOOP_STALLS: Description("{stall}", "Times at which the event loop was held up."),
    events.LOOP_TASKS: Description("{task}", "Tasks of the event loop: what runs beside the requests."),
    events.LOOP_LAG: Description("s", "How late the event loop runs its timers."),
    events.LOG_DROPPED: Description("{line}", "Log lines that were dropped because nobody took them."),
    events.CACHE_LOOKUPS: Description("{request}", "Requests that met a cache, by what it did."),
    events.CACHE_FILLS: Description("{request}", "Calls upstream that a cache made."),
    events.CACHE_WAITERS: Description("{request}", "Requests that wait for another one's call."),
    events.CACHE_BYTES: Description("By", "What a store holds."),
    events.CACHE_ENTRIES: Description("{entry}", "Answers that a store holds."),
    events.CACHE_EVICTIONS: Description("{entry}", "Answers that made room for others."),
    events.CACHE_PURGED: Description("{entry}", "Answers that were purged or invalidated."),
    events.CACHE_TIER_ERRORS: Description("{error}", "Operations at which a store's second tier failed."),
    events.TELEMETRY_EXPORTED: Description("{item}", "Spans, and collections of metrics, that a collector took."),
    events.TELEMETRY_DROPPED: Description("{item}", "Spans, and collections of metrics, that were lost, and why."),
    events.TRACES_KEPT: Description("{trace}", "Requests whose spans were kept, by why."),
    events.BUGS: Description("{error}", "Errors of the sidecar's own."),
    events.SERIES_DROPPED: Description("{series}", "Series that were folded into `other`, by metric."),
    PROCESS_MEMORY: Description("By", "Resident memory."),
    PROCESS_CPU: Description("s", "CPU time used."),
    PROCESS_FILES: Description("{file_descriptor}", "Open file descriptors."),
    PROCESS_UPTIME: Description("s", "Time since the start."),
}
