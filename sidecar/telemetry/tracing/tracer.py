"""Traces of requests: begun on arrival, passed on with each attempt, kept or discarded at the end.

Rules:

1. While a request runs, only the notes of its stages are recorded.  Spans are made afterwards, and only for kept
   requests.  The span id of an attempt is drawn when it starts, because the upstream gets it; that of the server span
   only when it is needed.
2. Sampling follows the caller.  New traces are sampled by a ratio of their ids, as OpenTelemetry's TraceIdRatioBased
   does, so that all services decide alike.
3. Tail rules keep requests that were not sampled but failed, were slow or changed a breaker.  The upstream was told
   "not sampled", so such a trace has only spans of sidecars whose tail rules kept it.  They fit together, because ids
   are always passed on.  `sidecar.kept` is the reason for which a span was kept.
4. The rate of traces that tail rules keep is bounded, because in an outage every request fails.
"""

from __future__ import annotations

from binascii import hexlify
from collections.abc import Callable
from random import Random
from typing import Any, Final, Literal, Protocol

from sidecar.core.events import TRANSITED
from sidecar.core.exchange import NEVER, Attempt, Exchange, RequestTrace
from sidecar.core.metrics import TELEMETRY_DROPPED, TRACES_KEPT, Meter
from sidecar.core.outcome import Outcome
from sidecar.telemetry.metrics.durations import is_error
from sidecar.telemetry.settings import Sampler
from sidecar.telemetry.spec import KeepSpec
from sidecar.telemetry.tracing.b3 import DEBUG
from sidecar.telemetry.tracing.propagation import Propagation
from sidecar.telemetry.tracing.w3c import RANDOM, SAMPLED

MASK: Final = (1 << 64) - 1
"""Mask for the bits of a trace id that are compared with the ratio."""

Kept = Literal["", "sampled", "error", "slow", "breaker"]
"""Reason for which a trace is kept; empty if it is not kept."""
REASONS: Final[tuple[Kept, ...]] = ("sampled", "error", "slow", "breaker")


class Note:
    """Event of a request that a stage has noted."""

    __slots__ = ("at", "event", "facts")

    def __init__(self, at: float, event: str, facts: dict[str, Any]) -> None:
        self.at = at
        """Time by `Env.now`."""
        self.event = event
        self.facts = facts


class Trace:
    """Trace of one request, shared by its forked exchanges."""

    _span_id = 0
    state = b""
    """Tracestate of the caller."""
    kept: Kept = ""
    """Reason for which its spans are recorded; set at the end of the request."""
    notes: list[Note] | None = None
    """Events in their order; None if there are none."""
    links: list[RequestTrace] | None = None
    """Traces of requests whose fetch answered this one; None if there are none."""

    def __init__(self, tracer: Tracer, trace_id: bytes, parent_id: bytes, flags: int) -> None:
        self._tracer = tracer
        self.trace_id = trace_id
        """Trace id, 32 characters of hex."""
        self.parent_id = parent_id
        """Span id of the caller, 16 characters of hex; empty if the trace begins here."""
        self.flags = flags
        """Flags of W3C and `b3.DEBUG`."""

    @property
    def span_id(self) -> int:
        """Span id of the server span; drawn at the first access."""
        if not self._span_id:
            self._span_id = self.draw()
        return self._span_id

    @property
    def is_sampled(self) -> bool:
        """True if the trace headers of its attempts say "sampled"."""
        return self.flags & SAMPLED != 0

    def draw(self) -> int:
        """Return a new span id."""
        return self._tracer.getrandbits(64) or 1

    def attempt(self, x: Exchange, attempt: Attempt) -> None:
        """Set the span id of an attempt that is about to start, and its trace headers in the exchange."""
        tracer = self._tracer
        attempt.span_id = span_id = tracer.getrandbits(64) or 1
        x.trace_lines = tracer.write(self.trace_id, span_id, self.flags)

    def note(self, event: str, /, **facts: Any) -> None:
        """Record an event for the server span."""
        if self.notes is None:
            self.notes = []
        self.notes.append(Note(self._tracer.now(), event, facts))

    def link(self, other: RequestTrace) -> None:
        """Add a link to the trace of the request whose fetch has answered this one."""
        if self.links is None:
            self.links = []
        self.links.append(other)

    def __repr__(self) -> str:
        return f"<Trace {self.trace_id.decode()} {'sampled' if self.is_sampled else 'not sampled'}>"


class Sink(Protocol):
    """Receiver of kept requests (`spans.SpanMaker`)."""

    def put(self, x: Exchange, trace: Trace, outcome: Outcome, reason: str, seconds: float) -> None:
        """Take a request that has ended and is kept."""


class Tracer:
    """Sampler and keeper of traces: `begin` is called when a request arrives, `end` when it has ended."""

    def __init__(
        self, propagation: Propagation, sink: Sink, now: Callable[[], float], rng: Random, meter: Meter
    ) -> None:
        self._read = propagation.read
        self.write = propagation.write
        self.now = now
        self.getrandbits = rng.getrandbits
        self._sink = sink
        self._counters = {why: meter.counter(TRACES_KEPT, why=why) for why in REASONS}
        self._limited = meter.counter(TELEMETRY_DROPPED, signal="traces", reason="at_most")
        self.retune(Sampler(1.0), None)

    def retune(self, sampler: Sampler, keep: KeepSpec | None) -> None:
        """Put new rules in force; without `keep` there are no tail rules."""
        self._bound = round(sampler.ratio * (MASK + 1))
        self._is_parent_based = sampler.is_parent_based
        self._keeps = keep is not None
        self._errors = keep is not None and keep.errors
        self._transitions = keep is not None and keep.breaker_transitions
        self._slower = NEVER if keep is None or keep.slower_than is None else keep.slower_than
        self._rate = 0.0 if keep is None else keep.at_most
        self._allowance = max(1.0, self._rate)
        self._allowed_at = self.now()

    def begin(self, x: Exchange) -> None:
        """Begin a trace for a request, or join the caller's; its trace headers are removed from the request."""
        caller = self._read(x)
        if caller is None:
            number = self.getrandbits(128) or 1
            flags = RANDOM | SAMPLED if number & MASK < self._bound else RANDOM
            x.trace = Trace(self, hexlify(number.to_bytes(16, "big")), b"", flags)
            return
        trace_id, parent_id, flags, state, is_decided = caller
        if not (trace_id and is_decided and self._is_parent_based):
            trace_id, flags = self._decide(trace_id, flags, is_decided)
        x.trace = trace = Trace(self, trace_id, parent_id, flags)
        if state:
            trace.state = state

    def _decide(self, trace_id: bytes, flags: int, is_decided: bool) -> tuple[bytes, int]:
        """Return trace id and flags for a caller without an id, without a decision, or whose decision is ignored."""
        if not trace_id:
            trace_id, flags = b"%032x" % (self.getrandbits(128) or 1), flags | RANDOM
        if not (flags & DEBUG or (is_decided and self._is_parent_based)):
            is_sampled = int(trace_id, 16) & MASK < self._bound
            flags = flags | SAMPLED if is_sampled else flags & ~SAMPLED
        return trace_id, flags

    def end(self, x: Exchange, outcome: Outcome, reason: str, seconds: float) -> None:
        """Keep or discard the trace of a request that has ended."""
        trace = x.trace
        assert isinstance(trace, Trace)
        if trace.flags & SAMPLED:
            trace.kept = "sampled"
        elif self._keeps and (outcome.verdict >= 500 or reason or seconds > self._slower or trace.notes is not None):
            trace.kept = self._tail(trace, outcome.verdict, reason, seconds)
        if trace.kept:
            self._counters[trace.kept].value += 1
            self._sink.put(x, trace, outcome, reason, seconds)

    def _tail(self, trace: Trace, status: int, reason: str, seconds: float) -> Kept:
        """Return the reason of the tail rules to keep a trace; empty if there is none, or the rate is exceeded."""
        why: Kept = ""
        if self._errors and is_error(status, reason):
            why = "error"
        elif seconds > self._slower:
            why = "slow"
        elif self._transitions and trace.notes is not None and any(n.event == TRANSITED for n in trace.notes):
            why = "breaker"
        return why if why and self._may_keep() else ""

    def _may_keep(self) -> bool:
        """True if the rate allows one more trace; takes its share."""
        now = self.now()
        self._allowance = min(max(1.0, self._rate), self._allowance + (now - self._allowed_at) * self._rate)
        self._allowed_at = now
        if self._allowance < 1:
            self._limited.value += 1
            return False
        self._allowance -= 1
        return True
