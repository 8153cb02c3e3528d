"""Tracing, export and access log, as policies configure them.

Rules:

1. The first policies decide the destinations; later policies change sampling, tail rules and the access log.
2. An unconfigured part adds nothing to the request path, and its modules are not imported.  By default, requests that
   fail or are refused are logged; the first of them imports the access log.
3. A part that cannot be set up, for example without its certificate, is reported and left out.  The sidecar serves
   requests nevertheless.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import CancelledError
from threading import Thread
from typing import TYPE_CHECKING, Any, Final, Literal

from sidecar.core import events, metrics
from sidecar.core.env import Env, NameResolver
from sidecar.core.exchange import Exchange
from sidecar.core.outcome import Outcome
from sidecar.telemetry.logs.lines import Lines, LineWriter
from sidecar.telemetry.metrics.registry import Registry
from sidecar.telemetry.plain import Secrets
from sidecar.telemetry.recorder import Recorder

if TYPE_CHECKING:
    from sidecar.telemetry.export.otlp import SpanQueue
    from sidecar.telemetry.export.otlp_metrics import MetricsExport
    from sidecar.telemetry.logs.access import AccessLog
    from sidecar.telemetry.settings import Settings
    from sidecar.telemetry.spec import AccessLogSpec, SamplingSpec, TelemetrySpec
    from sidecar.telemetry.tracing.tracer import Tracer

STDOUT: Final = 1
"""File descriptor of standard output."""
POLL_SECONDS: Final = 0.02
"""Pause between two checks for the end of exports, when the process ends."""
LOOK_UP_SECONDS: Final = 5.0
"""Longest wait of an exporting thread for a name look-up."""
PREFIX: Final = "OTEL_"
"""Prefix of OpenTelemetry's standard variables."""


class Telemetry:
    """Tracing, export and access log of the process."""

    def __init__(
        self,
        env: Env,
        registry: Registry,
        recorder: Recorder,
        secrets: Secrets,
        environ: Mapping[str, str],
        version: str,
        submit: Callable[..., Any],
        *,
        pause: Callable[[], object] = lambda: None,
        make_lines: Callable[[], Lines] = lambda: LineWriter(STDOUT),
        form: Literal["json", "text"] = "json",
    ) -> None:
        """Make telemetry without settings.

        - `submit(function)`: runs a function on the loop from any thread, as `loop.call_soon_threadsafe` does.
        - `pause`: called by exporting threads between two pieces of work, so that the loop gets the interpreter.
        - `make_lines`: makes the destination of the access log, at its first line.
        - `form`: format of the access log if policies do not set one.
        """
        self.begin: Callable[[Exchange], None] | None = None
        """Called for each request that arrives; None while no request is traced and trace headers pass unchanged."""
        self.settings: Settings | None = None
        """Settings in force; None until policies or variables configure a part."""
        self._env = env
        self._registry = registry
        self._recorder = recorder
        self._secrets = secrets
        self._environ = environ
        self._version = version
        self._submit = submit
        self._pause = pause
        self._started = env.wall()
        self._tracer: Tracer | None = None
        self._spans: SpanQueue | None = None
        self._metrics: MetricsExport | None = None
        self._sending: Any = None
        self._make_lines = make_lines
        self._form = form
        self._lines: Lines | None = None
        self._log: AccessLog | None = None

    def use(self, spec: TelemetrySpec | None, service: str) -> None:
        """Put the settings of a set of policies in force.  Never raises."""
        if spec is None and self.settings is None and not any(name.startswith(PREFIX) for name in self._environ):
            self._recorder.failures = self._record_failure
            return  # without configuration, no module is imported
        from sidecar.telemetry.settings import resolve_settings
        from sidecar.telemetry.spec import TelemetrySpec

        spec = spec or TelemetrySpec.built_in()
        if self.settings is None:
            self.settings = settings = resolve_settings(spec, service, self._environ)
            for warning in settings.warnings:
                self._env.emit(events.TELEMETRY_SETTINGS, level="warning", problem=warning)
            self._set_up_exports(settings)
        self._tune_tracing(spec.sampling, self.settings)
        self._tune_access(spec.access_log)

    # ----- once

    def _set_up_exports(self, settings: Settings) -> None:
        """Make the exports to the configured destinations; report a failure instead of raising it."""
        targets = [target for target in (settings.traces, settings.metrics) if target is not None]
        if not targets:
            return
        self._secrets.hide([value for target in targets for value in target.headers.values()], "telemetry")
        self._recorder.exemplars = settings.exemplars
        try:
            self._make_exports(settings)
        except Exception as error:  # libraries raise many types for a bad certificate or address
            self._env.emit(events.EXPORT_FAILED, level="error", cause="nothing is exported", error=error)

    def _make_exports(self, settings: Settings) -> None:
        """Make the queue of spans, the tracer and the export of metrics, and register their counters."""
        import uuid

        from opentelemetry.sdk.trace import SpanLimits
        from opentelemetry.sdk.util.instrumentation import InstrumentationScope
        from opentelemetry.semconv.schemas import Schemas

        from sidecar.telemetry.export import otlp as export
        from sidecar.telemetry.export import otlp_metrics
        from sidecar.telemetry.tracing import spans
        from sidecar.telemetry.tracing.propagation import Propagation
        from sidecar.telemetry.tracing.tracer import Tracer

        export.listen(settings.level)
        env, total = self._env, self._registry.total
        look_up = None if env.names is None else look_up_in_thread(env.names, asyncio.get_running_loop())
        resource = export.resource(
            settings.service, self._version, str(uuid.UUID(int=env.rng.getrandbits(128), version=4))
        )
        scope = InstrumentationScope("sidecar", self._version, Schemas.V1_44_0.value)
        if settings.traces is not None:
            queue = self._spans = export.SpanQueue(
                settings, settings.traces, self._emit_from_thread, self._pause, look_up
            )
            limits = SpanLimits() if settings.has_limits else None
            maker = spans.SpanMaker(queue, resource, scope, env.now, env.wall, limits)
            self._tracer = Tracer(Propagation(settings.formats), maker, env.now, env.rng, env.meter)
            total(metrics.TELEMETRY_DROPPED, lambda: queue.dropped, signal="traces", reason="queue_full")
            total(metrics.TELEMETRY_DROPPED, lambda: queue.watch.failed, signal="traces", reason="export_failed")
            total(metrics.TELEMETRY_EXPORTED, lambda: queue.watch.exported, signal="traces")
        if settings.metrics is not None:
            target = settings.metrics
            watch = export.ExportWatch("metrics", target.endpoint, self._emit_from_thread)
            builder = otlp_metrics.MetricsBuilder(resource, scope, settings.temporality, self._started)
            exporter = otlp_metrics.MetricsExport(
                env, self._registry, builder, target, watch, settings.interval, look_up
            )
            self._metrics = exporter
            self._sending = env.spawn(exporter.run())
            total(metrics.TELEMETRY_DROPPED, lambda: watch.failed, signal="metrics", reason="export_failed")
            total(metrics.TELEMETRY_EXPORTED, lambda: watch.exported, signal="metrics")

    def _emit_from_thread(self, event: str, /, **attributes: Any) -> None:
        """Emit an event on the loop, from any thread."""
        try:
            self._submit(lambda: self._env.emit(event, **attributes))
        except RuntimeError:  # the loop is closed, and with it the log
            return

    # ----- with each set of policies

    def _tune_tracing(self, sampling: SamplingSpec | None, settings: Settings) -> None:
        """Put new sampling rules in force."""
        self._recorder.tracer = tracer = self._tracer if sampling is not None else None
        self.begin = None if tracer is None else tracer.begin
        if tracer is not None and sampling is not None:
            from sidecar.telemetry.settings import Sampler

            tracer.retune(settings.sampler or Sampler(sampling.ratio), sampling.keep)

    def _tune_access(self, spec: AccessLogSpec | None) -> None:
        """Put new settings of the access log in force."""
        from sidecar.telemetry.spec import AccessLogSpec

        recorder = self._recorder
        if recorder.access is not None:
            recorder.access.flush()
        if spec == AccessLogSpec.failures():
            recorder.access, recorder.failures = None, self._record_failure
        elif spec is None or spec.format == "off":
            recorder.access = recorder.failures = None
        else:
            recorder.access, recorder.failures = self._open_log(spec), None

    def _open_log(self, spec: AccessLogSpec) -> AccessLog:
        """Return the access log with new settings; make it at the first call."""
        if self._log is None:
            from sidecar.telemetry.logs.access import AccessLog

            lines = self._lines = self._make_lines()
            self._registry.total(metrics.LOG_DROPPED, lambda: lines.dropped, log="access")
            self._log = AccessLog(lines, self._env, self._secrets.text)
        form = spec.format if spec.format != "off" else "json"
        self._log.retune(form, spec.successes, spec.at_most)
        return self._log

    def _record_failure(self, x: Exchange, outcome: Outcome, reason: str, seconds: float) -> None:
        """Log the first request that failed or was refused, and open the access log for the following ones."""
        from sidecar.telemetry.spec import AccessLogSpec

        log = self._open_log(AccessLogSpec.failures(self._form))
        self._recorder.failures = log.record
        log.record(x, outcome, reason, seconds)

    # ----- at the end

    async def close(self, seconds: float = 3.0) -> None:
        """Send queued spans and a last export of metrics for at most `seconds`, write the logs, and stop."""
        if self._sending is not None:
            self._sending.cancel()
        closing: list[Thread] = [part.close() for part in (self._spans, self._metrics) if part is not None]
        until = self._env.now() + seconds
        while any(thread.is_alive() for thread in closing) and self._env.now() < until:
            await self._env.sleep(POLL_SECONDS)
        if any(thread.is_alive() for thread in closing):
            lost = 0 if self._spans is None else self._spans.waiting
            self._env.emit(events.EXPORT_FAILED, cause=f"given up {seconds:g} s after the end", lost=lost)
        if self._log is not None:
            self._log.flush()
        if self._lines is not None:
            self._lines.close()


def look_up_in_thread(names: NameResolver, loop: asyncio.AbstractEventLoop) -> Callable[[str], Sequence[str]]:
    """Return a function by which a thread looks a name up: it waits for a look-up on the loop.  Raises `OSError`."""

    def look_up(name: str) -> Sequence[str]:
        looking = names.look_up(name)
        try:
            return asyncio.run_coroutine_threadsafe(looking, loop).result(LOOK_UP_SECONDS)
        except (RuntimeError, CancelledError) as error:  # the loop is closed, or about to be
            looking.close()
            raise OSError(str(error)) from error

    return look_up
