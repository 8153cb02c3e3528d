"""Tests of the metrics page with a strict parser."""

from __future__ import annotations

import math

import pytest

from sidecar.core import metrics
from sidecar.core.metrics import METRICS, PROCESS_CPU, PROCESS_MEMORY, Description, Exemplar
from sidecar.telemetry.metrics import process
from sidecar.telemetry.metrics.durations import RouteMetrics
from sidecar.telemetry.metrics.prometheus import PIECE, Page, number, render, wants_openmetrics
from sidecar.telemetry.metrics.registry import Metric, Registry, Series
from tests.support.clock import FakeClock, make_env
from tests.support.loop import settle, virtual
from tests.unit.telemetry.metrics.exposition import Family, read


def page(registry: Registry) -> dict[str, Family]:
    return read("".join(piece for metric in registry.collect() for piece in render(metric)))


def test_names_have_underscores_units_and_suffixes() -> None:
    registry = Registry()
    registry.counter(metrics.RETRIES, route="order", why="retry:503").value = 3
    registry.gauge(metrics.BREAKER_STATE, lambda: 2.0, name="upstream:payments")
    registry.gauge(PROCESS_MEMORY, lambda: 4096.0)
    registry.total(PROCESS_CPU, lambda: 0.25)
    registry.histogram(metrics.REQUEST_DURATION, **{"http.route": "/orders/{id}"}).record(0.3)
    registry.counter("no.help.9")
    found = page(registry)
    assert found["sidecar_retries_total"].samples == {("", frozenset({("route", "order"), ("why", "retry:503")})): 3}
    assert found["sidecar_breaker_state"].samples == {("", frozenset({("name", "upstream:payments")})): 2}
    assert found["process_memory_usage_bytes"].samples == {("", frozenset()): 4096}
    assert found["process_cpu_time_seconds_total"].samples == {("", frozenset()): 0.25}
    histogram = found["http_server_request_duration_seconds"]
    assert histogram.samples["_sum", frozenset({("http_route", "/orders/{id}")})] == 0.3
    assert histogram.samples["_bucket", frozenset({("http_route", "/orders/{id}"), ("le", "0.25")})] == 0
    assert histogram.samples["_bucket", frozenset({("http_route", "/orders/{id}"), ("le", "0.5")})] == 1
    assert histogram.help
    assert found["no_help_9_total"].help == ""


def test_values_and_help_are_escaped() -> None:
    nasty = 'a"b\\c\nd,e}f{g="h" é'
    registry = Registry()
    registry.counter("x", path=nasty, other="ok")
    ((_, labels),) = page(registry)["x_total"].samples
    assert dict(labels) == {"path": nasty, "other": "ok"}
    metric = Metric("y", "gauge", "", "two\nlines \\ here", [Series((), 1.0)])
    assert read("".join(render(metric)))["y"].help == "two\nlines \\ here"


@pytest.mark.parametrize(
    ("value", "text"),
    [
        (1, "1"),
        (2.0, "2"),
        (0.005, "0.005"),
        (1e21, "1" + "0" * 21),
        (1e-9, "1e-09"),
        (-0.5, "-0.5"),
        (math.inf, "+Inf"),
        (-math.inf, "-Inf"),
        (math.nan, "NaN"),
    ],
)
def test_numbers(value: float, text: str) -> None:
    assert number(value) == text


def test_a_metric_without_series_is_not_shown() -> None:
    registry = Registry()
    with registry.owned("gone"):
        registry.counter("x")
    registry.retire("gone")
    assert page(registry) == {}


def test_long_metrics_come_in_pieces() -> None:
    registry = Registry()
    for i in range(2 * PIECE + 1):
        RouteMetrics(registry, {"route": f"r{i}"}).record(b"GET", 200, "", 0.1)
    (metric,) = registry.collect()
    pieces = list(render(metric))
    assert len(pieces) == 3
    assert sum(suffix == "_count" for suffix, _ in read("".join(pieces)).popitem()[1].samples) == 2 * PIECE + 1


@virtual
async def test_the_page_is_kept_for_a_second_and_yields_between_its_pieces() -> None:
    import asyncio

    clock = FakeClock()
    turns = 0

    async def sleep(_: float) -> None:
        nonlocal turns
        turns += 1
        await settle(1)

    registry = Registry()
    counter = registry.counter("x")
    registry.counter("y")
    page = Page(registry, clock.time, sleep)
    first, shared = await asyncio.gather(page.text(), page.text())
    assert first is shared
    assert turns == 2
    counter.value = 1
    clock.advance(0.9)
    assert await page.text() is first
    clock.advance(0.2)
    assert b"x_total 1\n" in await page.text()


def test_the_process_shows_itself() -> None:
    registry = Registry()
    process.observe(registry, lambda: 12.5)
    found = page(registry)
    values = {name: next(iter(family.samples.values())) for name, family in found.items()}
    assert values["process_uptime_seconds"] == 12.5
    assert values["process_memory_usage_bytes"] > 1e6
    assert values["process_unix_file_descriptor_count"] >= 3
    assert values["process_cpu_time_seconds_total"] > 0


def test_where_there_is_no_proc_the_process_is_unknown(monkeypatch: pytest.MonkeyPatch) -> None:
    def missing(*_: object) -> None:
        raise FileNotFoundError

    monkeypatch.setattr("builtins.open", missing)
    monkeypatch.setattr("os.stat", missing)
    memory, files = process.memory(), process.files()
    monkeypatch.undo()
    assert math.isnan(memory)
    assert math.isnan(files)


OPENMETRICS_PAGE = """\
# TYPE sidecar_bugs counter
# HELP sidecar_bugs Bugs of the sidecar that were caught.
sidecar_bugs_total{where="a\\"b"} 1
# TYPE test_seconds histogram
# UNIT test_seconds seconds
test_seconds_bucket{le="0.005"} 0
test_seconds_bucket{le="0.01"} 0
test_seconds_bucket{le="0.025"} 0
test_seconds_bucket{le="0.05"} 0
test_seconds_bucket{le="0.075"} 0
test_seconds_bucket{le="0.1"} 0
test_seconds_bucket{le="0.25"} 1 # {trace_id="0af7651916cd43dd8448eb211c80319c",span_id="00000000000000ab"} 0.25 123.500
test_seconds_bucket{le="0.5"} 1
test_seconds_bucket{le="0.75"} 1
test_seconds_bucket{le="1.0"} 1
test_seconds_bucket{le="2.5"} 1
test_seconds_bucket{le="5.0"} 1
test_seconds_bucket{le="7.5"} 1
test_seconds_bucket{le="10.0"} 1
test_seconds_bucket{le="+Inf"} 2
test_seconds_sum 2000.25
test_seconds_count 2
# EOF
"""


async def test_openmetrics_with_exemplars(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(METRICS, "test", Description("s", ""))
    registry = Registry()
    registry.counter("sidecar.bugs", where='a"b').add()
    histogram = registry.histogram("test")
    histogram.record(0.25)
    histogram.record(2000.0)
    histogram.exemplars = {6: Exemplar(0.25, 123.5, b"0af7651916cd43dd8448eb211c80319c", 0xAB)}
    env = make_env()
    page = Page(registry, env.now, env.sleep)
    assert (await page.text(openmetrics=True)).decode() == OPENMETRICS_PAGE
    plain = (await page.text()).decode()
    assert 'test_seconds_bucket{le="1"} 1\n' in plain
    assert "#" not in plain.replace("# HELP", "").replace("# TYPE", "")


@pytest.mark.parametrize(
    ("accept", "wants"),
    [
        ("application/openmetrics-text;version=1.0.0;q=0.6,text/plain;version=0.0.4;q=0.5,*/*;q=0.1", True),
        ("Application/OpenMetrics-Text; version=0.0.1", True),
        ("text/plain, application/openmetrics-text;q=0", False),
        ("text/plain;version=0.0.4", False),
        ("*/*", False),
        ("", False),
    ],
)
def test_openmetrics_is_for_who_asks_for_it(accept: str, wants: bool) -> None:
    assert wants_openmetrics(accept) is wants
