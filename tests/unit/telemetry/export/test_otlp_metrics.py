"""Tests of the registry as OTLP metrics."""

from __future__ import annotations

from typing import Any

import pytest
from opentelemetry.exporter.otlp.proto.common.metrics_encoder import encode_metrics
from opentelemetry.sdk.metrics.export import AggregationTemporality
from opentelemetry.sdk.resources import Resource
from opentelemetry.sdk.util.instrumentation import InstrumentationScope

from sidecar.core import metrics
from sidecar.core.metrics import Exemplar
from sidecar.telemetry.export.otlp_metrics import MetricsBuilder
from sidecar.telemetry.metrics.durations import AttemptMetrics, RouteMetrics
from sidecar.telemetry.metrics.registry import Registry
from sidecar.telemetry.settings import Temporality

TRACE = b"0af7651916cd43dd8448eb211c80319c"


class Bench:
    def __init__(self, temporality: Temporality = "cumulative") -> None:
        self.registry = Registry()
        self.builder = MetricsBuilder(
            Resource({"service.name": "orders"}), InstrumentationScope("sidecar"), temporality, 100.0
        )
        self.routes = RouteMetrics(self.registry, {"route": "order", "http.route": "/orders/{id}"})

    def collect(self, wall: float) -> dict[str, Any]:
        """Return the metrics by name, and mark their export as successful."""
        metrics = list(self.registry.collect())
        data = self.builder.build(metrics, wall)
        assert encode_metrics(data).ByteSize()
        self.builder.set_baseline(metrics, wall)
        (resource,) = data.resource_metrics
        (scope,) = resource.scope_metrics
        return {metric.name: metric for metric in scope.metrics}


def test_a_histogram_with_typed_attributes_and_exemplars() -> None:
    bench = Bench()
    bench.routes.record(b"GET", 200, "", 0.02)
    bench.routes.record(b"GET", 200, "", 20.0)
    bench.routes.exemplify(b"GET", 200, "", Exemplar(0.02, 123.5, TRACE, 0xAB))
    metric = bench.collect(200.0)[metrics.REQUEST_DURATION]
    (point,) = metric.data.data_points
    assert (metric.unit, point.count, point.sum) == ("s", 2, 20.02)
    assert (point.start_time_unix_nano, point.time_unix_nano) == (100 * 10**9, 200 * 10**9)
    assert (sum(point.bucket_counts), point.bucket_counts[2], point.bucket_counts[-1]) == (2, 1, 1)
    assert len(point.bucket_counts) == len(point.explicit_bounds) + 1
    assert point.attributes == {
        "route": "order", "http.route": "/orders/{id}", "http.request.method": "GET", "http.response.status_code": 200,
    }  # fmt: skip
    (exemplar,) = point.exemplars
    assert (exemplar.value, exemplar.trace_id, exemplar.span_id) == (0.02, int(TRACE, 16), 0xAB)


def test_an_endpoint_becomes_an_address_and_a_port() -> None:
    bench = Bench()
    attempts = AttemptMetrics(bench.registry)
    attempts.record("app", "http://10.0.0.1:8080", b"GET", 200, "", 0.1)
    attempts.record("app", "https://[::1]", b"GET", 200, "", 0.1)
    points = bench.collect(200.0)[metrics.ATTEMPT_DURATION].data.data_points
    assert [(p.attributes["server.address"], p.attributes["server.port"]) for p in points] == [
        ("10.0.0.1", 8080), ("::1", 443),
    ]  # fmt: skip


def test_counters_and_gauges() -> None:
    bench = Bench()
    bench.registry.counter(metrics.BUGS, where="here").add(3)
    bench.registry.gauge(metrics.LOOP_LAG, lambda: 0.5)
    bench.registry.gauge(metrics.QUEUE_LENGTH, lambda: 1 / 0)
    found = bench.collect(200.0)
    (bugs,) = found[metrics.BUGS].data.data_points
    assert (bugs.value, bugs.attributes, found[metrics.BUGS].data.is_monotonic) == (3, {"where": "here"}, True)
    assert found[metrics.LOOP_LAG].data.data_points[0].value == 0.5
    assert found[metrics.QUEUE_LENGTH].data.data_points == [], "a reading that fails is no point"


@pytest.mark.parametrize("temporality", ["delta", "lowmemory"])
def test_differences(temporality: Temporality) -> None:
    bench = Bench(temporality)
    counter = bench.registry.counter(metrics.BUGS)
    bench.registry.total("process.cpu.time", lambda: 5.0)
    counter.add(3)
    bench.routes.record(b"GET", 200, "", 0.02)
    bench.collect(200.0)
    counter.add(4)
    bench.routes.record(b"GET", 200, "", 0.5)
    found = bench.collect(300.0)
    (bugs,) = found[metrics.BUGS].data.data_points
    assert (bugs.value, bugs.start_time_unix_nano) == (4, 200 * 10**9)
    assert found[metrics.BUGS].data.aggregation_temporality is AggregationTemporality.DELTA
    (duration,) = found[metrics.REQUEST_DURATION].data.data_points
    assert (duration.count, duration.sum) == (1, 0.5)
    cpu = found["process.cpu.time"].data.data_points[0].value
    assert cpu == (0.0 if temporality == "delta" else 5.0)


def test_differences_count_from_the_last_export_that_was_taken() -> None:
    bench = Bench("delta")
    counter = bench.registry.counter(metrics.BUGS)
    bench.collect(200.0)
    counter.add(3)
    bench.builder.build(list(bench.registry.collect()), 300.0)  # the export failed
    counter.add(1)
    (bugs,) = bench.collect(400.0)[metrics.BUGS].data.data_points
    assert (bugs.value, bugs.start_time_unix_nano) == (4, 200 * 10**9)
