"""Recorder of requests that have ended.

Metrics are always recorded.  Failures are logged unless policies turn that off.  Spans and the access log of all
requests are optional.  The recorder never makes a request fail.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING, Final

from sidecar.core.exchange import Attempt, Exchange, Part, RequestMetrics
from sidecar.core.metrics import Exemplar
from sidecar.core.outcome import Outcome
from sidecar.telemetry.metrics.durations import AttemptMetrics, CallMetrics, RouteMetrics
from sidecar.telemetry.metrics.registry import Registry
from sidecar.telemetry.refusals import Refusals

if TYPE_CHECKING:
    from sidecar.telemetry.logs.access import AccessLog
    from sidecar.telemetry.settings import ExemplarFilter
    from sidecar.telemetry.tracing.tracer import Tracer

HTTP2: Final = 20
"""Version of exchanges over HTTP/2."""


class Recorder:
    """Recorder of exchanges; one for the process."""

    def __init__(
        self, registry: Registry, refusals: Refusals, now: Callable[[], float], wall: Callable[[], float]
    ) -> None:
        self._now = now
        self._wall = wall
        self._refusals = refusals
        self._attempts = AttemptMetrics(registry)
        self._calls = CallMetrics(registry)
        self._unrouted = {
            scheme: RouteMetrics(registry, {"route": "", "http.route": "", "url.scheme": scheme.decode()})
            for scheme in (b"http", b"https")
        }
        self.tracer: Tracer | None = None
        """Tracer; None while no request is traced."""
        self.access: AccessLog | None = None
        """Access log of all requests; None if there is none."""
        self.failures: Callable[[Exchange, Outcome, str, float], None] | None = None
        """Logs a request that failed or was refused; None if `access` does that, or if it is off."""
        self.exemplars: ExemplarFilter = "trace_based"
        """Rule for the requests that become exemplars of the duration histograms."""

    def record(self, x: Exchange, outcome: Outcome, reason: str, seconds: float) -> None:
        """Record an exchange that has ended.

        `reason` is the code of its failure, empty if it has none.  `seconds` is the duration of the whole exchange.
        """
        metrics: RequestMetrics = self._unrouted[x.scheme] if x.route is None else x.route.metrics
        if x.version == HTTP2:
            metrics = metrics.of_http2()
        metrics.record(x.method, outcome.verdict, reason, seconds)
        if x.is_grpc:
            self._calls.record(x, outcome.verdict, reason, seconds)
        if reason or outcome.verdict >= 500 or x.replaced is not None:
            self._record_failure(x, outcome, reason, seconds)
        for a in x.attempts:
            if not a.ended:
                self._end_attempt(a, outcome, reason)
            verdict = a.verdict or a.status
            self._attempts.record(a.upstream, a.endpoint, x.method, verdict, a.reason, a.ended - a.started)
        if x.parts is not None:
            self._record_parts(x.parts, outcome, reason)
        trace = x.trace
        if trace is not None and self.tracer is not None:
            self.tracer.end(x, outcome, reason, seconds)
            if (trace.kept and self.exemplars == "trace_based") or self.exemplars == "always_on":
                exemplar = Exemplar(seconds, self._wall(), trace.trace_id, trace.span_id)
                metrics.exemplify(x.method, outcome.verdict, reason, exemplar)
        if self.access is not None:
            self.access.record(x, outcome, reason, seconds)

    def _record_failure(self, x: Exchange, outcome: Outcome, reason: str, seconds: float) -> None:
        """Record a request that failed or was refused, even if a fallback answered it."""
        first = x.replaced or outcome
        if first.failure is not None and first.failure.origin == "gateway":
            self._refusals.note("" if x.route is None else x.route.name, first.failure.code, first.refusal)
        if self.failures is not None:
            self.failures(x, outcome, reason, seconds)

    def _record_parts(self, parts: list[Part], whole: Outcome, reason: str) -> None:
        """Record the requests and attempts of an aggregated answer's parts, each under the route of the part."""
        for part in parts:
            x = part.x
            if x is None or x.route is None:
                continue
            found, verdict, why = part.outcome, 0, reason
            if found is not None:
                verdict, failure = found.verdict, found.failure
                why = "" if failure is None else failure.code
                if failure is not None and failure.origin == "gateway":
                    self._refusals.note(x.route.name, why, found.refusal)
            x.route.metrics.record(x.method, verdict, why, part.ended - part.started)
            for a in x.attempts:
                if not a.ended:
                    self._end_attempt(a, whole, why)
                self._attempts.record(
                    a.upstream, a.endpoint, x.method, a.verdict or a.status, a.reason, a.ended - a.started
                )
            if x.parts is not None:
                self._record_parts(x.parts, whole, why)

    def _end_attempt(self, attempt: Attempt, outcome: Outcome, reason: str) -> None:
        """Set the end of an attempt that goes on for other requests, such as the fetch of a cache."""
        attempt.ended = self._now()
        attempt.status, attempt.verdict = outcome.status, outcome.verdict
        attempt.reason = reason
