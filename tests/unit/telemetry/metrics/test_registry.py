"""Tests of the registry: identity, bounds, ownership, and copies for exporters."""

from __future__ import annotations

import math

import pytest

from sidecar.core import metrics
from sidecar.core.metrics import Meter
from sidecar.telemetry.metrics.registry import Metric, Registry


def find(registry: Registry, name: str) -> Metric:
    return next(metric for metric in registry.collect() if metric.name == name)


def values(registry: Registry, name: str) -> dict[tuple[str, ...], float]:
    return {
        tuple(value for _, value in s.labels): s.value for m in registry.collect() if m.name == name for s in m.series
    }


def test_the_same_name_and_labels_give_the_same_instrument() -> None:
    registry = Registry()
    meter: Meter = registry
    assert meter.counter("a", x="1", y="2") is meter.counter("a", y="2", x="1")
    assert meter.counter("a", x="1", y="2") is not meter.counter("a", x="1", y="3")
    assert meter.histogram("h") is meter.histogram("h")


def test_a_name_has_one_kind() -> None:
    registry = Registry()
    registry.counter("a")
    with pytest.raises(ValueError, match="the metric a is a counter and cannot be a gauge too"):
        registry.gauge("a", lambda: 1.0)


def test_what_exceeds_the_bound_is_folded_and_counted() -> None:
    registry = Registry(limit=3)
    held = [registry.counter("a", path=str(i)) for i in range(10)]
    for counter in held:
        counter.value += 1
    assert values(registry, "a") == {("0",): 1, ("1",): 1, ("2",): 1, ("other",): 7}
    assert values(registry, metrics.SERIES_DROPPED) == {("a",): 7}
    assert registry.counter("a", path="1") is held[1], "those that were there before keep their own"


def test_a_gauge_beyond_the_bound_is_left_out_and_one_within_can_be_replaced() -> None:
    registry = Registry(limit=2)
    for i in range(4):
        registry.gauge("g", lambda i=i: i, n=str(i))  # type: ignore[misc]
    registry.gauge("g", lambda: 7.0, n="0")
    assert values(registry, "g") == {("0",): 7, ("1",): 1}
    assert values(registry, metrics.SERIES_DROPPED) == {("g",): 2}


def test_the_count_of_folded_series_is_bounded_itself() -> None:
    registry = Registry(limit=2)
    for name in "abcd":
        for i in range(3):
            registry.counter(name, n=str(i))
    assert len(find(registry, metrics.SERIES_DROPPED).series) == 3
    assert sum(values(registry, metrics.SERIES_DROPPED).values()) == 4


def test_a_gauge_that_fails_reads_nan() -> None:
    registry = Registry()
    registry.gauge("g", lambda: 1 / 0)
    assert math.isnan(values(registry, "g")[()])


def test_a_total_is_a_counter_kept_elsewhere() -> None:
    registry = Registry()
    registry.total("cpu", lambda: 1.5)
    assert find(registry, "cpu").kind == "counter"
    assert values(registry, "cpu") == {(): 1.5}


def test_series_are_retired_with_their_owner() -> None:
    registry = Registry()
    registry.counter("a", n="global")
    with registry.owned(("pool", "p1")):
        registry.gauge("g", lambda: 1.0, pool="p1")
        registry.counter("a", n="p1")
        with registry.owned(("breaker", "b")):
            registry.counter("a", n="b")
        registry.histogram("h", pool="p1")
    registry.counter("a", n="later")
    registry.retire(("pool", "p1"))
    assert values(registry, "a") == {("global",): 0, ("b",): 0, ("later",): 0}
    assert values(registry, "g") == values(registry, "h") == {}
    registry.retire(("pool", "unknown"))


def test_a_successor_takes_the_series_over() -> None:
    registry = Registry()
    with registry.owned("old"):
        registry.gauge("g", lambda: 1.0, pool="p")
        registry.counter("a", pool="p")
        registry.counter("b", pool="p").value = 5
    with registry.owned("new"):
        registry.gauge("g", lambda: 2.0, pool="p")
        registry.counter("a", pool="p")
    registry.counter("b", pool="p")
    registry.retire("old")
    assert values(registry, "g") == {("p",): 2}
    assert values(registry, "a") == {("p",): 0}
    assert values(registry, "b") == {("p",): 5}, "who asks without an owner keeps it for good"


def test_a_successor_that_is_given_up_leaves_things_as_they_were() -> None:
    registry = Registry()
    with registry.owned("running"):
        registry.gauge("g", lambda: 1.0, pool="p")
        registry.counter("a", pool="p").value = 3
    with registry.owned("abandoned"):
        registry.gauge("g", lambda: 2.0, pool="p")
        registry.counter("a", pool="p")
    assert values(registry, "g") == {("p",): 2}
    registry.retire("abandoned")
    assert values(registry, "g") == {("p",): 1}
    assert values(registry, "a") == {("p",): 3}


def test_the_bound_is_free_again_after_retirement() -> None:
    registry = Registry(limit=1)
    for i in range(3):
        with registry.owned(i):
            registry.counter("a", n=str(i))
        registry.retire(i)
    assert values(registry, metrics.SERIES_DROPPED) == {}


def test_what_is_collected_is_a_copy() -> None:
    registry = Registry()
    histogram = registry.histogram("h", route="r")
    histogram.record(0.02)
    before = find(registry, "h")
    histogram.record(99)
    (series,) = before.series
    assert series.labels == (("route", "r"),)
    assert series.value == 0.02
    assert series.counts == (0, 0, 1, *(0,) * 12)
    assert series.bounds == metrics.SECONDS
    assert find(registry, "h").series[0].counts[-1] == 1


def test_metrics_come_sorted_with_unit_and_help() -> None:
    registry = Registry()
    registry.counter("z")
    registry.histogram(metrics.REQUEST_DURATION)
    assert [metric.name for metric in registry.collect()] == [metrics.REQUEST_DURATION, "z"]
    metric = find(registry, metrics.REQUEST_DURATION)
    assert (metric.unit, metric.kind) == ("s", "histogram")
    assert metric.help
