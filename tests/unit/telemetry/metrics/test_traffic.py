"""Tests of traffic by second, read from the histograms of the metrics."""

from __future__ import annotations

import json
from typing import Any

from sidecar.core.metrics import bucket_index
from sidecar.core.outcome import Refusal
from sidecar.telemetry.metrics.durations import RouteMetrics
from sidecar.telemetry.metrics.registry import Registry
from sidecar.telemetry.metrics.traffic import Traffic
from sidecar.telemetry.refusals import Refusals


def second(traffic: Traffic) -> dict[str, Any]:
    _, routes = json.loads(traffic.sample(17.5))
    return dict(routes)


def test_a_second_is_what_was_counted_since_the_last() -> None:
    registry = Registry()
    traffic, order = Traffic(registry), RouteMetrics(registry, {"route": "order"})
    order.record(b"GET", 200, "", 0.001)
    order.record(b"GET", 503, "", 0.3)
    order.record(b"POST", 200, "", 99.0)
    assert second(traffic) == {"order": [1, 0, bucket_index(0.001), 1, bucket_index(0.3), 1, bucket_index(99.0), 1]}
    assert second(traffic) == {}, "an idle route takes no room"
    order.record(b"GET", 200, "", 0.001)
    assert second(traffic) == {"order": [0, 0, bucket_index(0.001), 1]}


def test_errors_are_those_of_servers() -> None:
    registry = Registry()
    traffic, order = Traffic(registry), RouteMetrics(registry, {"route": "order"})
    for status, reason in ((404, ""), (429, "rate_limited"), (499, "client_closed"), (500, ""), (504, "timeout")):
        order.record(b"GET", status, reason, 0.001)
    assert second(traffic)["order"][0] == 2


def test_a_route_that_is_made_anew_begins_at_zero() -> None:
    registry = Registry()
    traffic = Traffic(registry)
    for count in (5, 2):
        with registry.owned("route"):
            metrics = RouteMetrics(registry, {"route": "order"})
        with registry.owned("route"):
            for _ in range(count):
                metrics.record(b"GET", 200, "", 0.001)
        assert second(traffic) == {"order": [0, 0, bucket_index(0.001), count]}
        registry.retire("route")
        assert second(traffic) == {}


def test_it_is_bounded() -> None:
    traffic = Traffic(Registry(), keep=3)
    for _ in range(10):
        traffic.sample(0)
    assert len(traffic.ring) == 3


def test_refusals_that_are_alike_are_counted_together() -> None:
    now = 0.0
    refusals = Refusals(lambda: now, Registry(), keep=2)
    for now in range(5):
        refusals.note("order", "overloaded", Refusal("concurrency", "a.yaml:3", f"{now} in flight"))
    now = 5
    refusals.note("order", "breaker_open", Refusal("circuit_breaker", "a.yaml:9"))
    assert [(r["reason"], r["count"], r["at"], r["where"]) for r in refusals.describe()] == [
        ("breaker_open", 1, 5, "a.yaml:9"),
        ("overloaded", 5, 4, "a.yaml:3"),
    ]
    assert refusals.describe()[1]["detail"] == "4 in flight", "the latest words"
    now = 6
    refusals.note("", "no_route", Refusal())
    assert [r["reason"] for r in refusals.describe()] == ["no_route", "breaker_open"], "the quietest made room"
