"""Export of spans: a bounded queue in front of OpenTelemetry's exporters, with reports on failures.

Rules, so that a dead, slow or faulty collector does not disturb requests:

1. Exports run in threads: those of the SDK (`BatchSpanProcessor`) and that of `otlp_metrics`.  The loop only appends.
2. The queue takes whole requests: a request is queued with all its spans, or dropped and counted.  The SDK's own bound
   would drop single spans of older requests, and log each time.
3. The first failure is an event with the message of the SDK.  The first success after it is an event with the number of
   lost items.  Failures in between are only counted.
4. When the process ends, queued spans are sent within a bounded time; the SDK alone would wait long for a dead
   collector.
5. Only the configured exporter is imported: gRPC needs much more memory and start-up time than HTTP.
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
from sidecar.telemetry.settings import Settings, Target

LIBRARY: Final = "opentelemetry"
"""Name of OpenTelemetry's logger."""
MAX_CAUSE: Final = 500
"""Most characters of a log message that becomes a cause."""
STEP: Final = 4
"""Number of spans that are encoded between two pauses."""

if TYPE_CHECKING:
    from sidecar.telemetry.export.otlp_http import LookUp, Request


def resource(service: str, version: str, instance: str) -> Resource:
    """Return the resource of this process; `OTEL_SERVICE_NAME` and `OTEL_RESOURCE_ATTRIBUTES` override attributes."""
    own = {
        "service.name": service,
        "service.instance.id": instance,
        "telemetry.distro.name": "sidecar",
        "telemetry.distro.version": version,
    }
    return Resource.create(own).merge(OTELResourceDetector().detect())


class LibraryMessages(logging.Handler):
    """Logging handler that keeps the last two messages of OpenTelemetry in each thread.

    For a failed export, these are its cause, and the message that the library gives up.
    """

    def __init__(self) -> None:
        super().__init__(logging.DEBUG)
        self._local = threading.local()

    def emit(self, record: logging.LogRecord) -> None:
        try:
            text = record.getMessage()
        except Exception:  # arguments that do not fit the format
            text = str(record.msg)
        self._local.texts = [*self._texts()[-1:], text[:MAX_CAUSE]]

    def take(self) -> str:
        """Return the messages of the calling thread, and remove them."""
        texts, self._local.texts = self._texts(), []
        return "; ".join(texts)

    def _texts(self) -> list[str]:
        """Return the messages of the calling thread."""
        texts: list[str] = getattr(self._local, "texts", [])
        return texts


MESSAGES: Final = LibraryMessages()


def listen(level: str) -> None:
    """Collect the library's log records from a level on; `logging` would print them on standard error."""
    logger = logging.getLogger(LIBRARY)
    logger.setLevel(level)
    if MESSAGES not in logger.handlers:
        logger.addHandler(MESSAGES)
    logger.propagate = False


class ExportWatch:
    """Counter of the exports of one signal, which reports when they begin to fail and when they work again."""

    def __init__(self, signal: str, endpoint: str, emit: Callable[..., None]) -> None:
        """`emit(event, **attributes)` may be called from any thread."""
        self._signal = signal
        self._endpoint = endpoint
        self._emit = emit
        self.exported = 0
        """Number of items that the collector accepted."""
        self.failed = 0
        """Number of items that were lost."""
        self._lost: int | None = None
        """Number of items lost since exports began to fail; None while they succeed."""

    def run_export(self, export: Callable[[], bool], items: int) -> bool:
        """Run `export`, which sends `items` items; count them, and report a change.  True if they were accepted."""
        try:
            is_ok = export()
            cause = MESSAGES.take()
        except Exception as error:  # a bug in an exporter counts as a failed export
            is_ok, cause = False, repr(error)
        if is_ok:
            self.exported += items
            lost, self._lost = self._lost, None
            if lost is not None:
                self._emit(events.EXPORT_RESTORED, signal=self._signal, endpoint=self._endpoint, lost=lost)
        else:
            self.failed += items
            if self._lost is None:
                self._lost = 0
                self._emit(events.EXPORT_FAILED, signal=self._signal, endpoint=self._endpoint, cause=cause)
            self._lost += items
        return is_ok


class PacedSpans(list[ReadableSpan]):
    """List of spans whose iteration pauses after every `STEP` spans, unless the export is late.

    The exporter iterates while it encodes, so the loop gets the interpreter in between.
    """

    def __init__(self, spans: Sequence[ReadableSpan], pause: Callable[[], object], is_late: Callable[[], bool]) -> None:
        super().__init__(spans)
        self._pause = pause
        self._is_late = is_late

    def __iter__(self) -> Iterator[ReadableSpan]:
        for number, span in enumerate(super().__iter__(), 1):
            yield span
            if number % STEP == 0 and not self._is_late():
                self._pause()


class WatchedExporter(SpanExporter):
    """Span exporter that counts its exports and pauses while encoding."""

    def __init__(
        self, inner: SpanExporter, watch: ExportWatch, pause: Callable[[], object], is_late: Callable[[], bool]
    ) -> None:
        self._inner = inner
        self._watch = watch
        self._pause = pause
        self._is_late = is_late
        self.taken = 0
        """Number of spans that have left the queue."""

    def export(self, spans: Sequence[ReadableSpan]) -> SpanExportResult:
        spans = PacedSpans(spans, self._pause, self._is_late)
        ok = self._watch.run_export(lambda: self._inner.export(spans) is SpanExportResult.SUCCESS, len(spans))
        self.taken += len(spans)
        return SpanExportResult.SUCCESS if ok else SpanExportResult.FAILURE

    def shutdown(self) -> None:
        self._inner.shutdown()


class SpanQueue:
    """Bounded queue of spans that wait to be exported; only the loop's thread may call `put`."""

    def __init__(
        self,
        settings: Settings,
        target: Target,
        emit: Callable[..., None],
        pause: Callable[[], object],
        look_up: LookUp | None = None,
    ) -> None:
        """Make a queue for a target.

        - `emit(event, **attributes)`: may be called from any thread.
        - `pause`: pauses the exporting thread, so that the loop gets the interpreter.
        - `look_up`: looks up the collector's name; by default the system does.
        """
        self.watch = ExportWatch("traces", target.endpoint, emit)
        self._exporter = WatchedExporter(
            span_exporter(target, look_up), self.watch, pause, lambda: self.waiting > 2 * settings.batch
        )
        self._limit = settings.queue
        self._processor = BatchSpanProcessor(
            self._exporter,
            max_queue_size=settings.queue,
            schedule_delay_millis=settings.delay * 1000,
            max_export_batch_size=settings.batch,
        )
        self._queued = 0
        self.dropped = 0
        """Number of spans for which there was no room."""

    @property
    def waiting(self) -> int:
        """Number of spans in the queue and in the export in progress."""
        return self._queued - self._exporter.taken

    def admit(self, count: int) -> bool:
        """True if there is room for `count` spans; otherwise they count as dropped.  Call it before making them."""
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
        """Start sending all queued spans, and return the thread that sends them, which ends after that."""
        thread = threading.Thread(target=self._processor.shutdown, name="otlp-close", daemon=True)
        thread.start()
        return thread


def span_exporter(target: Target, look_up: LookUp | None = None) -> SpanExporter:
    """Return the exporter of a target.  Raises `OSError` or `ValueError` for certificates that cannot be used."""
    if target.kind == "console":
        return ConsoleSpanExporter()
    if target.kind == "grpc":
        options = grpc_options(target)
        from opentelemetry.exporter.otlp.proto.grpc.trace_exporter import OTLPSpanExporter as Grpc

        return Grpc(**options)
    from opentelemetry.exporter.otlp.proto.http.trace_exporter import OTLPSpanExporter as Http

    return Http(**http_options(target, ExportTraceServiceRequest, look_up))


def grpc_options(target: Target) -> dict[str, Any]:
    """Return the arguments for a gRPC exporter.

    Call it before the exporter is imported: gRPC reads its verbosity only once, and would write a line to standard
    error for each failed connection.
    """
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


def http_options(target: Target, message: type[Request], look_up: LookUp | None = None) -> dict[str, Any]:
    """Return the arguments for an HTTP exporter."""
    from opentelemetry.exporter.otlp.proto.http import Compression

    from sidecar.telemetry.export.otlp_http import JsonSession, Session

    tls = target.tls
    for file in (tls.ca, tls.cert, tls.key):
        if file and not target.is_plain:
            Path(file).read_bytes()  # so that an unreadable file is reported now, not by the first export
    is_json, gzipped = target.kind == "json", target.compression == "gzip"
    return {
        "session": JsonSession(message, look_up, gzipped=gzipped) if is_json else Session(look_up),
        "endpoint": target.endpoint,
        "certificate_file": tls.ca,
        "client_certificate_file": tls.cert,
        "client_key_file": tls.key,
        "headers": dict(target.headers),
        "timeout": target.timeout,
        "compression": Compression.Gzip if gzipped and not is_json else Compression.NoCompression,
    }
