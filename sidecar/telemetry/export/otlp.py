"""The way out: OpenTelemetry's exporters, watched, and the bounded queue of spans before them.

A collector that is dead, slow or confused must not be felt:

- Exporting happens in threads of the SDK's (`BatchSpanProcessor`) and of ours (`otlp_metrics`).  The loop only appends.
- What waits is bounded by us, by whole requests: one goes in with all its spans or is dropped and counted.  The SDK's
  own bound would throw out single spans of older ones, and log each time.
- The first failure is told as an event, with what the SDK logged about it, and so is the first success after it with
  what was lost in between.  The retries in between are silent; counters tell the rest.
- At the end what waits is sent, for a bounded time; the SDK alone would wait 30 s for a dead collector.

Only the exporter that is configured is imported: gRPC costs 11 MiB and a tenth of a second more than HTTP.
"""

from __future__ import annotations

import logging
import os
import threading
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

from opentelemetry.proto.collector.trace.v1.trace_service_pb2 import ExportTraceServiceRequest
from opentelemetry.sdk.resources import OTELResourceDetector, Resource
from opentelemetry.sdk.trace import ReadableSpan
from opentelemetry.sdk.trace.export import BatchSpanProcessor, ConsoleSpanExporter, SpanExporter, SpanExportResult

from sidecar.core import events
from sidecar.core.pace import give_way
from sidecar.telemetry.settings import Settings, Target

LIBRARY: Final = "opentelemetry"
LONGEST: Final = 500
"""Characters of a cause."""
STEP: Final = 4
"""Spans that are encoded in one go."""

if TYPE_CHECKING:
    from sidecar.telemetry.export.otlp_http import Request


def resource(service: str, version: str, instance: str) -> Resource:
    """Who we are.  `OTEL_SERVICE_NAME` and `OTEL_RESOURCE_ATTRIBUTES` have the last word."""
    own = {
        "service.name": service,
        "service.instance.id": instance,
        "telemetry.distro.name": "sidecar",
        "telemetry.distro.version": version,
    }
    return Resource.create(own).merge(OTELResourceDetector().detect())


class LastWords(logging.Handler):
    """Keeps the last two things that OpenTelemetry's code logged in each thread: the cause of an export that fails,
    and that it has been given up."""

    def __init__(self) -> None:
        super().__init__(logging.DEBUG)
        self._local = threading.local()

    def emit(self, record: logging.LogRecord) -> None:
        try:
            text = record.getMessage()
        except Exception:  # arguments that do not fit the format
            text = str(record.msg)
        self._local.texts = [*self._texts()[-1:], text[:LONGEST]]

    def take(self) -> str:
        """What this thread logged last, and forget it."""
        texts, self._local.texts = self._texts(), []
        return "; ".join(texts)

    def _texts(self) -> list[str]:
        texts: list[str] = getattr(self._local, "texts", [])
        return texts


WORDS: Final = LastWords()


def listen(level: str) -> None:
    """Have the library's log for ourselves: it may not go to standard error by the way of `logging`'s last resort."""
    logger = logging.getLogger(LIBRARY)
    logger.setLevel(level)
    if WORDS not in logger.handlers:
        logger.addHandler(WORDS)
    logger.propagate = False


class Watch:
    """How the exports of one signal go.  `attempt` is called in the exporting thread."""

    def __init__(self, signal: str, endpoint: str, tell: Callable[..., None]) -> None:
        """`tell(event, **attributes)` may be called from any thread."""
        self._signal = signal
        self._endpoint = endpoint
        self._tell = tell
        self.exported = 0
        self.failed = 0
        """Items that no collector took."""
        self._lost: int | None = None
        """Items lost since exports began to fail; None while they do not."""

    def attempt(self, export: Callable[[], bool], items: int) -> bool:
        """Make one export, and take note of how it went."""
        try:
            is_ok = export()
            cause = WORDS.take()
        except Exception as error:  # a bug of an exporter is a failed export
            is_ok, cause = False, repr(error)
        if is_ok:
            self.exported += items
            lost, self._lost = self._lost, None
            if lost is not None:
                self._tell(events.EXPORT_RESTORED, signal=self._signal, endpoint=self._endpoint, lost=lost)
        else:
            self.failed += items
            if self._lost is None:
                self._lost = 0
                self._tell(events.EXPORT_FAILED, signal=self._signal, endpoint=self._endpoint, cause=cause)
            self._lost += items
        return is_ok

    @property
    def is_failing(self) -> bool:
        return self._lost is not None


class Unhurried(list[ReadableSpan]):
    """Spans whose reader (an exporter that encodes them, some 50 us each) pauses after every few, unless more wait."""

    def __init__(self, spans: Sequence[ReadableSpan], is_late: Callable[[], bool]) -> None:
        super().__init__(spans)
        self._is_late = is_late

    def __iter__(self) -> Iterator[ReadableSpan]:
        for number, span in enumerate(super().__iter__(), 1):
            yield span
            if number % STEP == 0 and not self._is_late():
                give_way()


class WatchedExporter(SpanExporter):
    """A span exporter with an eye on it.  `taken` counts the spans that have left the queue."""

    def __init__(self, inner: SpanExporter, watch: Watch, is_late: Callable[[], bool] = lambda: True) -> None:
        self._inner = inner
        self._watch = watch
        self._is_late = is_late
        self.taken = 0

    def export(self, spans: Sequence[ReadableSpan]) -> SpanExportResult:
        spans = Unhurried(spans, self._is_late)
        ok = self._watch.attempt(lambda: self._inner.export(spans) is SpanExportResult.SUCCESS, len(spans))
        self.taken += len(spans)
        return SpanExportResult.SUCCESS if ok else SpanExportResult.FAILURE

    def shutdown(self) -> None:
        self._inner.shutdown()


class SpanQueue:
    """Spans on their way out (`spans.Outbox`).  `put` is for the loop's thread alone."""

    def __init__(self, settings: Settings, target: Target, tell: Callable[..., None]) -> None:
        self.watch = Watch("traces", target.endpoint, tell)
        self._exporter = WatchedExporter(span_exporter(target), self.watch, lambda: self.waiting > 2 * settings.batch)
        self._limit = settings.queue
        self._processor = BatchSpanProcessor(
            self._exporter,
            max_queue_size=settings.queue,
            schedule_delay_millis=settings.delay * 1000,
            max_export_batch_size=settings.batch,
        )
        self._queued = 0
        self.dropped = 0
        """Spans for which there was no room."""

    @property
    def waiting(self) -> int:
        """Spans in the queue and in the export under way."""
        return self._queued - self._exporter.taken

    def admit(self, count: int) -> bool:
        """Is there room for so many?  Asked before they are made, so that a collector that stalls costs nothing."""
        if self._queued - self._exporter.taken + count <= self._limit:
            return True
        self.dropped += count
        return False

    def put(self, spans: list[ReadableSpan]) -> None:
        """Queue the spans of a request."""
        self._queued += len(spans)
        for span in spans:
            self._processor.on_end(span)

    def close(self) -> threading.Thread:
        """Send what waits; the thread that sees to it ends when that is done or given up."""
        thread = threading.Thread(target=self._processor.shutdown, name="otlp-close", daemon=True)
        thread.start()
        return thread


def span_exporter(target: Target) -> SpanExporter:
    """The exporter of a target.  Raises `OSError` and `ValueError` for certificates that cannot be used."""
    if target.kind == "console":
        return ConsoleSpanExporter()
    if target.kind == "grpc":
        options = grpc_options(target)
        from opentelemetry.exporter.otlp.proto.grpc.trace_exporter import OTLPSpanExporter as Grpc

        return Grpc(**options)
    from opentelemetry.exporter.otlp.proto.http.trace_exporter import OTLPSpanExporter as Http

    return Http(**http_options(target, ExportTraceServiceRequest))


def grpc_options(target: Target) -> dict[str, Any]:
    """The settings as the gRPC exporters take them.  Called before those are imported: gRPC reads, once, how much it is
    to write to standard error, past every logger and for each connection that fails."""
    os.environ.setdefault("GRPC_VERBOSITY", "NONE")
    import grpc  # type: ignore[import-untyped]

    tls = target.tls
    credentials = None
    if not target.is_plain:
        read = {name: Path(file).read_bytes() for name, file in tls.model_dump().items() if file}
        credentials = grpc.ssl_channel_credentials(read.get("ca"), read.get("key"), read.get("cert"))
    return {
        "endpoint": target.endpoint,
        "insecure": target.is_plain,
        "credentials": credentials,
        "headers": dict(target.headers),
        "timeout": target.timeout,
        "compression": grpc.Compression.Gzip if target.compression == "gzip" else grpc.Compression.NoCompression,
    }


def http_options(target: Target, message: type[Request]) -> dict[str, Any]:
    """The settings as the HTTP exporters take them."""
    from opentelemetry.exporter.otlp.proto.http import Compression

    from sidecar.telemetry.export.otlp_http import JsonSession, Session

    tls = target.tls
    for file in (tls.ca, tls.cert, tls.key):
        if file and not target.is_plain:
            Path(file).read_bytes()  # now, and not when nobody looks
    is_json, gzipped = target.kind == "json", target.compression == "gzip"
    return {
        "session": JsonSession(message, gzipped=gzipped) if is_json else Session(),
        "endpoint": target.endpoint,
        "certificate_file": tls.ca,
        "client_certificate_file": tls.cert,
        "client_key_file": tls.key,
        "headers": dict(target.headers),
        "timeout": target.timeout,
        "compression": Compression.Gzip if gzipped and not is_json else Compression.NoCompression,
    }
