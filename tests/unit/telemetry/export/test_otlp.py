"""Tests of the queue of spans and the watch over exports: bounds, counts, and events."""

from __future__ import annotations

import logging
import threading
from collections.abc import Iterator, Sequence
from typing import Any

import pytest
from opentelemetry.sdk.resources import Resource
from opentelemetry.sdk.trace import ReadableSpan
from opentelemetry.sdk.trace.export import SpanExporter, SpanExportResult
from opentelemetry.trace import SpanContext, TraceFlags

from sidecar.core import events
from sidecar.telemetry.export import otlp as export
from sidecar.telemetry.export.otlp import LIBRARY, MESSAGES, ExportWatch, SpanQueue, listen, resource
from sidecar.telemetry.settings import Settings, Target


class Exporter(SpanExporter):
    """Exporter that waits until the test releases it, and returns the result that the test sets."""

    def __init__(self) -> None:
        self.gate = threading.Event()
        self.result = SpanExportResult.SUCCESS
        self.batches: list[int] = []

    def export(self, spans: Sequence[ReadableSpan]) -> SpanExportResult:
        self.gate.wait(10)
        self.batches.append(len(spans))
        return self.result


@pytest.fixture
def exporter(monkeypatch: pytest.MonkeyPatch) -> Exporter:
    exporter = Exporter()
    monkeypatch.setattr(export, "span_exporter", lambda target, look_up: exporter)
    return exporter


@pytest.fixture
def told() -> list[tuple[str, dict[str, Any]]]:
    return []


@pytest.fixture
def queue(exporter: Exporter, told: list[tuple[str, dict[str, Any]]]) -> Iterator[SpanQueue]:
    settings = Settings(queue=10, batch=4, delay=0.01)
    queue = SpanQueue(
        settings, Target("http", "http://c"), lambda event, **facts: told.append((event, facts)), lambda: None
    )
    yield queue
    exporter.gate.set()
    queue.close().join(60)


def spans(count: int) -> list[ReadableSpan]:
    context = SpanContext(1, 2, False, TraceFlags(1))
    return [ReadableSpan("GET", context, resource=Resource({})) for _ in range(count)]


def test_a_stalled_collector_costs_spans_by_whole_requests_and_no_memory(queue: SpanQueue, exporter: Exporter) -> None:
    for _ in range(1000):
        if queue.admit(3):
            queue.put(spans(3))
    assert queue.waiting == 9, "three requests of three spans; a fourth does not fit into ten"
    assert queue.dropped == 3000 - 9
    exporter.gate.set()
    queue.close().join(60)
    assert sum(exporter.batches) == 9
    assert queue.waiting == 0
    assert queue.watch.exported == 9


def test_what_fails_is_counted(queue: SpanQueue, exporter: Exporter, told: list[tuple[str, dict[str, Any]]]) -> None:
    exporter.result = SpanExportResult.FAILURE
    exporter.gate.set()
    queue.put(spans(2))
    queue.close().join(60)
    assert (queue.watch.failed, queue.watch.exported, queue.waiting) == (2, 0, 0)
    assert [event for event, _ in told] == [events.EXPORT_FAILED]


def test_only_the_first_failure_and_the_first_success_after_it_are_told() -> None:
    told: list[tuple[str, dict[str, Any]]] = []
    watch = ExportWatch("traces", "http://c", lambda event, **facts: told.append((event, facts)))
    listen("WARNING")

    def fail() -> bool:
        logging.getLogger(f"{LIBRARY}.exporter").error("connection %s", "refused")
        return False

    assert watch.run_export(lambda: True, 1)
    for _ in range(5):
        assert not watch.run_export(fail, 2)
    assert watch.run_export(lambda: True, 3)
    assert watch.run_export(lambda: True, 3)
    assert told == [
        (events.EXPORT_FAILED, {"signal": "traces", "endpoint": "http://c", "cause": "connection refused"}),
        (events.EXPORT_RESTORED, {"signal": "traces", "endpoint": "http://c", "lost": 10}),
    ]
    assert (watch.exported, watch.failed) == (7, 10)


def test_an_exporter_that_raises_is_one_that_fails() -> None:
    watch = ExportWatch("traces", "", lambda event, **facts: None)
    assert not watch.run_export(lambda: bool(1 / 0), 1)


def test_the_library_does_not_write_to_standard_error(capfd: pytest.CaptureFixture[str]) -> None:
    listen("WARNING")
    logging.getLogger(f"{LIBRARY}.sdk").error("what happens")
    assert MESSAGES.take() == "what happens"
    MESSAGES.handle(logging.LogRecord(LIBRARY, logging.ERROR, "", 0, "what %s %s", ("happens",), None))
    assert MESSAGES.take() == "what %s %s"
    assert MESSAGES.take() == ""
    assert capfd.readouterr() == ("", "")


def test_who_we_are_and_who_has_the_last_word(monkeypatch: pytest.MonkeyPatch) -> None:
    found = resource("orders", "1.0", "id").attributes
    assert found["service.name"] == "orders"
    assert found["service.instance.id"] == "id"
    assert found["telemetry.sdk.name"] == "opentelemetry"
    monkeypatch.setenv("OTEL_SERVICE_NAME", "named")
    monkeypatch.setenv("OTEL_RESOURCE_ATTRIBUTES", "service.name=no,service.instance.id=mine,a=b%20c")
    found = resource("orders", "1.0", "id").attributes
    assert (found["service.name"], found["service.instance.id"], found["a"]) == ("named", "mine", "b c")
