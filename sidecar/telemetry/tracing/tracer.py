"""A request's place in a trace: decided when it comes, told to each try, recorded when it is over.

Nothing is recorded while a request runs but what its stages note (`Exchange`): spans are made afterwards, and only for
requests that are kept.  The ids of the tries are drawn when they start, since each tells the upstream its own; that of
the server span is drawn when somebody asks.

Sampling follows the caller; new traces are sampled by a ratio of their ids, as OpenTelemetry's TraceIdRatioBased does
it, so that all who see an id agree.

Tail rules keep a request that was not sampled once it has failed, was slow or changed a breaker.  Its headers went
upstream before that was known and said "not sampled", and that stays true: no flag is changed after the fact.  Such a
trace holds the spans of those sidecars on the way whose own tail rules kept it; they fit together, because ids travel
whether or not anyone records.  `sidecar.kept` on the span says why it is there.  What tail rules keep has a limit in
traces a second: in an outage every request fails, and spans cost most then.

A request that is not sampled costs 1.7 us with one try, 2.4 us if it brings a `traceparent`, and 4 us with a
`tracestate` beside it; one that is kept 8 us more for its spans, and 30 us a span in the exporter's thread.
"""

from __future__ import annotations

from collections.abc import Callable
from random import Random
from typing import Any, Final, Literal, Protocol

from sidecar.core.events import TRANSITED
from sidecar.core.exchange import Attempt, Exchange
from sidecar.core.metrics import TELEMETRY_DROPPED, TRACES_KEPT, Meter
from sidecar.core.outcome import Outcome
from sidecar.telemetry.metrics.durations import is_error
from sidecar.telemetry.settings import Sampler
from sidecar.telemetry.spec import KeepSpec
from sidecar.telemetry.tracing.b3 import DEBUG
from sidecar.telemetry.tracing.propagation import Propagation
from sidecar.telemetry.tracing.w3c import RANDOM, SAMPLED

MASK: Final = (1 << 64) - 1
"""The part of a trace id that is compared with the ratio."""
NEVER: Final = float("inf")

Kept = Literal["", "sampled", "error", "slow", "breaker"]
WHYS: Final[tuple[Kept, ...]] = ("sampled", "error", "slow", "breaker")


class Note:
    """Something that happened to a request."""

    __slots__ = ("at", "event", "facts")

    def __init__(self, at: float, event: str, facts: dict[str, Any]) -> None:
        self.at = at
        """`Env.now`."""
        self.event = event
        self.facts = facts


class Trace:
    """Where one request stands; shared by its forks."""

    _span_id = 0
    state = b""
    """The caller's tracestate."""
    kept: Kept = ""
    """Why its spans are recorded; known at the end."""
    notes: list[Note] | None = None
    links: list[Trace] | None = None

    def __init__(self, tracer: Tracer, trace_id: bytes, parent_id: bytes, flags: int) -> None:
        self._tracer = tracer
        self.trace_id = trace_id
        """32 characters of hex."""
        self.parent_id = parent_id
        """16 characters of hex; empty where the trace begins here."""
        self.flags = flags

    @property
    def span_id(self) -> int:
        """Of the server span; drawn when first asked for."""
        if not self._span_id:
            self._span_id = self.draw()
        return self._span_id

    @property
    def is_sampled(self) -> bool:
        return self.flags & SAMPLED != 0

    def draw(self) -> int:
        """A new span id."""
        return self._tracer.getrandbits(64) or 1

    def attempt(self, x: Exchange, attempt: Attempt) -> None:
        """A try is about to start: give it its span id, and tell the upstream."""
        tracer = self._tracer
        attempt.span_id = span_id = tracer.getrandbits(64) or 1
        x.trace_lines = tracer.write(self.trace_id, span_id, self.flags)

    def note(self, event: str, /, **facts: Any) -> None:
        """Something has happened that is worth telling: an event of the span."""
        if self.notes is None:
            self.notes = []
        self.notes.append(Note(self._tracer.now(), event, facts))

    def link(self, other: Trace) -> None:
        """The answer comes from another request's call."""
        if self.links is None:
            self.links = []
        self.links.append(other)

    def __repr__(self) -> str:
        return f"<Trace {self.trace_id.decode()} {'sampled' if self.is_sampled else 'not sampled'}>"


class Sink(Protocol):
    """Where kept requests go (`telemetry.spans`)."""

    def put(self, x: Exchange, trace: Trace, outcome: Outcome, reason: str, seconds: float) -> None: ...


class Tracer:
    """Decides and keeps.  `begin` is called once for each request, `end` once it is over."""

    def __init__(
        self, propagation: Propagation, sink: Sink, now: Callable[[], float], rng: Random, meter: Meter
    ) -> None:
        self._read = propagation.read
        self.write = propagation.write
        self.now = now
        self.getrandbits = rng.getrandbits
        self._sink = sink
        self._counters = {why: meter.counter(TRACES_KEPT, why=why) for why in WHYS}
        self._limited = meter.counter(TELEMETRY_DROPPED, signal="traces", reason="at_most")
        self.retune(Sampler(1.0), None)

    def retune(self, sampler: Sampler, keep: KeepSpec | None) -> None:
        """Take new rules, for requests that come from now on."""
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
        """Find the request's place; takes the caller's trace headers off it."""
        caller = self._read(x)
        if caller is None:
            number = self.getrandbits(128) or 1
            flags = RANDOM | SAMPLED if number & MASK < self._bound else RANDOM
            x.trace = Trace(self, b"%032x" % number, b"", flags)
            return
        trace_id, parent_id, flags, state, is_decided = caller
        if not (trace_id and is_decided and self._is_parent_based):
            trace_id, flags = self._decide(trace_id, flags, is_decided)
        x.trace = trace = Trace(self, trace_id, parent_id, flags)
        if state:
            trace.state = state

    def _decide(self, trace_id: bytes, flags: int, is_decided: bool) -> tuple[bytes, int]:
        """The id and the flags where the caller left something to us, or is not asked."""
        if not trace_id:
            trace_id, flags = b"%032x" % (self.getrandbits(128) or 1), flags | RANDOM
        if not (flags & DEBUG or (is_decided and self._is_parent_based)):
            is_sampled = int(trace_id, 16) & MASK < self._bound
            flags = flags | SAMPLED if is_sampled else flags & ~SAMPLED
        return trace_id, flags

    def end(self, x: Exchange, outcome: Outcome, reason: str, seconds: float) -> None:
        """The request is over: keep it, or forget it."""
        trace: Trace = x.trace
        if trace.flags & SAMPLED:
            trace.kept = "sampled"
        elif self._keeps and (outcome.status >= 500 or reason or seconds > self._slower or trace.notes is not None):
            trace.kept = self._tail(trace, outcome.status, reason, seconds)
        if trace.kept:
            self._counters[trace.kept].value += 1
            self._sink.put(x, trace, outcome, reason, seconds)

    def _tail(self, trace: Trace, status: int, reason: str, seconds: float) -> Kept:
        why: Kept = ""
        if self._errors and is_error(status, reason):
            why = "error"
        elif seconds > self._slower:
            why = "slow"
        elif self._transitions and trace.notes is not None and any(n.event == TRANSITED for n in trace.notes):
            why = "breaker"
        return why if why and self._may_keep() else ""

    def _may_keep(self) -> bool:
        now = self.now()
        self._allowance = min(max(1.0, self._rate), self._allowance + (now - self._allowed_at) * self._rate)
        self._allowed_at = now
        if self._allowance < 1:
            self._limited.value += 1
            return False
        self._allowance -= 1
        return True
