"""Export of metrics over OTLP: the registry's metrics as `MetricsData` for the SDK's exporter.

Rules:

1. The SDK's instruments are not used, because recording with them is slow.  At each interval the registry is copied on
   the loop, with a turn of the loop after each metric.  A thread builds, encodes and sends the data.
2. While an export is in progress, the next one is skipped.  Counts are cumulative, so only resolution is lost.
3. With `delta` temporality, a value is the increase since the last export that the collector accepted.  With
   `lowmemory` that does not hold for observed values such as CPU time.
4. Labels become attributes with the types of the conventions: a status is a number, and the URL of an endpoint becomes
   an address and a port.  Histograms include their exemplars.
"""

from __future__ import annotations

import math
import queue
import threading
from collections.abc import Iterator, Mapping, Sequence
from functools import partial
from typing import TYPE_CHECKING, Any, Final

from opentelemetry.proto.collector.metrics.v1.metrics_service_pb2 import ExportMetricsServiceRequest
from opentelemetry.sdk.metrics import Exemplar as SdkExemplar
from opentelemetry.sdk.metrics.export import (
    AggregationTemporality,
    ConsoleMetricExporter,
    Gauge,
    Histogram,
    HistogramDataPoint,
    MetricExporter,
    MetricExportResult,
    MetricsData,
    NumberDataPoint,
    ResourceMetrics,
    ScopeMetrics,
    Sum,
)
from opentelemetry.sdk.metrics.export import (
    Metric as SdkMetric,
)
from opentelemetry.sdk.resources import Resource
from opentelemetry.sdk.util.instrumentation import InstrumentationScope

from sidecar.core.env import Env
from sidecar.telemetry.export.otlp import ExportWatch, grpc_options, http_options
from sidecar.telemetry.export.scrub import split_authority
from sidecar.telemetry.metrics.registry import Labels, Metric, Registry, Series
from sidecar.telemetry.settings import Target, Temporality

if TYPE_CHECKING:
    from sidecar.telemetry.export.otlp_http import LookUp

NANO: Final = 1_000_000_000
STATUS: Final = "http.response.status_code"
ADDRESS: Final = "server.address"
OBSERVED: Final = "process."
"""Prefix of observed metrics, which the SDK would call observable instruments."""

Key = tuple[str, Labels]


class MetricsBuilder:
    """Builder of the exporter's data; keeps the last export to compute differences."""

    def __init__(
        self, resource: Resource, scope: InstrumentationScope, temporality: Temporality, started: float
    ) -> None:
        """`started` is the Unix time at which all counts were zero."""
        self._resource = resource
        self._scope = scope
        self._temporality = temporality
        self._started = started
        self._sent: dict[Key, Series] = {}
        self._sent_at = started

    def build(self, metrics: Sequence[Metric], wall: float) -> MetricsData:
        """Return the data of all metrics; `wall` is the Unix time of their values."""
        found = [self._metric(metric, wall) for metric in metrics if metric.series]
        scope = ScopeMetrics(self._scope, found, self._scope.schema_url or "")
        return MetricsData([ResourceMetrics(self._resource, [scope], self._resource.schema_url)])

    def set_baseline(self, metrics: Sequence[Metric], wall: float) -> None:
        """Make these metrics the base of later differences, because the collector has accepted them."""
        if self._temporality != "cumulative":
            self._sent = {(metric.name, series.labels): series for metric in metrics for series in metric.series}
            self._sent_at = wall

    def _is_delta(self, metric: Metric) -> bool:
        """True if the values of a metric are sent as differences."""
        if self._temporality == "lowmemory":
            return not metric.name.startswith(OBSERVED)
        return self._temporality == "delta"

    def _metric(self, metric: Metric, wall: float) -> SdkMetric:
        """Return a metric as data of the SDK."""
        is_delta = metric.kind != "gauge" and self._is_delta(metric)
        temporality = AggregationTemporality.DELTA if is_delta else AggregationTemporality.CUMULATIVE
        start = int((self._sent_at if is_delta else self._started) * NANO)
        points = list(self._points(metric, is_delta, start, int(wall * NANO)))
        data: Any
        if metric.kind == "histogram":
            data = Histogram(points, temporality)
        elif metric.kind == "counter":
            data = Sum(points, temporality, is_monotonic=True)
        else:
            data = Gauge(points)
        return SdkMetric(metric.name, metric.help, metric.unit, data)

    def _points(self, metric: Metric, is_delta: bool, start: int, time: int) -> Iterator[Any]:
        """Yield the data points of a metric, without values that are NaN."""
        for series in metric.series:
            before = self._sent.get((metric.name, series.labels)) if is_delta else None
            value, counts = series.value, series.counts
            if before is not None and sum(before.counts) <= sum(counts) and before.value <= value:
                value, counts = value - before.value, tuple(a - b for a, b in zip(counts, before.counts, strict=True))
            if math.isnan(value):
                continue
            attributes = typed(series.labels)
            if metric.kind == "histogram":
                yield HistogramDataPoint(
                    attributes, start, time, sum(counts), value, counts, series.bounds,
                    None, None,  # type: ignore[arg-type]  # no extremes: the protocol has them as optional
                    [
                        SdkExemplar({}, e.value, int(e.wall * NANO), e.span_id, int(e.trace_id, 16))
                        for e in series.exemplars.values()
                    ],
                )  # fmt: skip
            else:
                yield NumberDataPoint(attributes, start, time, value)


def typed(labels: Labels) -> Mapping[str, str | int]:
    """Return labels as attributes with the types of the conventions."""
    found: dict[str, str | int] = dict(labels)
    status = found.get(STATUS)
    if isinstance(status, str) and status.isdigit():
        found[STATUS] = int(status)
    scheme, separator, authority = str(found.get(ADDRESS, "")).partition("://")
    if separator and not authority.startswith("/"):
        found[ADDRESS], found["server.port"] = split_authority(authority, scheme == "https")
    return found


class MetricsExport:
    """Export of the registry's metrics every `interval` seconds, and once more at the end."""

    def __init__(
        self,
        env: Env,
        registry: Registry,
        builder: MetricsBuilder,
        target: Target,
        watch: ExportWatch,
        interval: float,
        look_up: LookUp | None = None,
    ) -> None:
        """`look_up` looks up the collector's name; by default the system does."""
        self._env = env
        self._registry = registry
        self._builder = builder
        self._exporter = metric_exporter(target, look_up)
        self._timeout = target.timeout
        self.watch = watch
        self._interval = interval
        self._work: queue.SimpleQueue[tuple[list[Metric], float] | None] = queue.SimpleQueue()
        self._given = 0
        self._done = 0
        self._thread = threading.Thread(target=self._run, name="otlp-metrics", daemon=True)
        self._thread.start()

    async def run(self) -> None:
        """Collect and send metrics at each interval, until cancelled."""
        while True:
            await self._env.sleep(self._interval)
            if self._given == self._done:
                metrics = []
                for metric in self._registry.collect():
                    metrics.append(metric)
                    await self._env.sleep(0)
                self._enqueue(metrics)

    def _enqueue(self, metrics: list[Metric]) -> None:
        """Pass copied metrics to the thread."""
        self._given += 1
        self._work.put((metrics, self._env.wall()))

    def close(self) -> threading.Thread:
        """Start the last export, and return the thread, which ends after it."""
        if self._given == self._done:
            self._enqueue(list(self._registry.collect()))
        self._work.put(None)
        return self._thread

    def _run(self) -> None:
        """Send each copy of the metrics, until the queue ends; run in the thread."""
        while (work := self._work.get()) is not None:
            metrics, wall = work
            if self.watch.run_export(partial(self._export, metrics, wall), 1):
                self._builder.set_baseline(metrics, wall)
            self._done += 1
        self._exporter.shutdown()

    def _export(self, metrics: list[Metric], wall: float) -> bool:
        """Build and send the data; True if the collector accepted it."""
        data = self._builder.build(metrics, wall)
        return self._exporter.export(data, timeout_millis=self._timeout * 1000) is MetricExportResult.SUCCESS


def metric_exporter(target: Target, look_up: LookUp | None = None) -> MetricExporter:
    """Return the exporter of a target.  Raises `OSError` or `ValueError` for certificates that cannot be used."""
    if target.kind == "console":
        return ConsoleMetricExporter()
    if target.kind == "grpc":
        options = grpc_options(target)
        from opentelemetry.exporter.otlp.proto.grpc.metric_exporter import OTLPMetricExporter as Grpc

        return Grpc(**options)
    from opentelemetry.exporter.otlp.proto.http.metric_exporter import OTLPMetricExporter as Http

    return Http(**http_options(target, ExportMetricsServiceRequest, look_up))
