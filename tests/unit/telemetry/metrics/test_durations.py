"""Tests of durations of requests and attempts: their labels, also with hostile peers."""

from __future__ import annotations

from sidecar.core.metrics import ATTEMPT_DURATION, REQUEST_DURATION, SERIES_DROPPED
from sidecar.telemetry.metrics.durations import AttemptMetrics, RouteMetrics
from sidecar.telemetry.metrics.registry import Registry, Series


def series(registry: Registry, name: str) -> list[Series]:
    return [s for metric in registry.collect() if metric.name == name for s in metric.series]


def labels(registry: Registry, name: str = REQUEST_DURATION) -> list[dict[str, str]]:
    return [dict(s.labels) for s in series(registry, name)]


def route(registry: Registry, limit: int = 64) -> RouteMetrics:
    return RouteMetrics(registry, {"route": "order", "http.route": "/orders/{id}"}, limit)


def test_a_request_is_recorded_with_the_conventions_attributes() -> None:
    registry = Registry()
    metrics = route(registry)
    metrics.record(b"GET", 200, "", 0.02)
    metrics.record(b"GET", 200, "", 0.04)
    (only,) = series(registry, REQUEST_DURATION)
    assert dict(only.labels) == {
        "route": "order",
        "http.route": "/orders/{id}",
        "http.request.method": "GET",
        "http.response.status_code": "200",
    }
    assert only.value == 0.02 + 0.04
    assert only.counts[2:4] == (1, 1)


def test_requests_over_http2_have_series_of_their_own() -> None:
    registry = Registry()
    metrics = route(registry)
    metrics.record(b"GET", 200, "", 0.02)
    metrics.of_http2().record(b"GET", 200, "", 0.02)
    metrics.of_http2().record(b"GET", 200, "", 0.02)
    assert [
        (sum(s.counts), dict(s.labels).get("network.protocol.version")) for s in series(registry, REQUEST_DURATION)
    ] == [
        (1, None),
        (2, "2"),
    ]


def test_error_type_is_the_reason_or_the_status_of_an_error() -> None:
    registry = Registry()
    metrics = route(registry)
    for status, reason in ((503, "breaker_open"), (503, ""), (404, ""), (499, "client_closed")):
        metrics.record(b"GET", status, reason, 0.1)
    assert [each.get("error.type") for each in labels(registry)] == ["breaker_open", "503", None, "client_closed"]
    attempts = AttemptMetrics(registry)
    attempts.record("payments", "http://p:80", b"GET", 404, "", 0.1)
    attempts.record("payments", "http://p:80", b"GET", 0, "connect_failure", 0.1)
    first, second = labels(registry, ATTEMPT_DURATION)
    assert first["error.type"] == "404"
    assert second["error.type"] == "connect_failure"
    assert "http.response.status_code" not in second
    assert (second["upstream"], second["server.address"]) == ("payments", "http://p:80")


def test_what_differs_in_one_thing_from_the_request_before_is_counted_apart() -> None:
    registry = Registry()
    metrics, attempts = route(registry), AttemptMetrics(registry)
    kinds = ((b"GET", 200, ""), (b"PUT", 200, ""), (b"GET", 201, ""), (b"GET", 200, "reset"))
    order = (0, 0, 1, 0, 2, 0, 3, 0, 3, 2, 1)
    for number in order:
        metrics.record(*kinds[number], 0.1)
        attempts.record("orders", "http://a:80", *kinds[number], 0.1)
    counts = [5, 2, 2, 2]
    assert [sum(s.counts) for s in series(registry, REQUEST_DURATION)] == counts
    assert [sum(s.counts) for s in series(registry, ATTEMPT_DURATION)] == counts


def test_two_upstreams_may_share_an_endpoint() -> None:
    registry = Registry()
    attempts = AttemptMetrics(registry)
    for upstream, endpoint in (("one", "a"), ("two", "a"), ("one", "a"), ("one", "b"), ("two", "a"), ("one", "a")):
        attempts.record(upstream, endpoint, b"GET", 200, "", 0.1)
    found = {}
    for each in series(registry, ATTEMPT_DURATION):
        named = dict(each.labels)
        found[named["upstream"], named["server.address"]] = sum(each.counts)
    assert found == {("one", "a"): 3, ("two", "a"): 2, ("one", "b"): 1}


def test_unknown_methods_and_statuses_are_folded() -> None:
    registry = Registry()
    metrics = route(registry)
    for i in range(500):
        metrics.record(b"M%d" % i, 200, "", 0.1)
    metrics.record(b"get", 200, "", 0.1)
    assert [each["http.request.method"] for each in labels(registry)] == ["_OTHER"]
    registry = Registry()
    metrics = route(registry)
    for status in (299, 288, 999, 700):
        metrics.record(b"GET", status, "", 0.1)
    assert [each.get("http.response.status_code") for each in labels(registry)] == ["200", None]


def test_a_route_cannot_take_more_than_its_share() -> None:
    registry = Registry()
    metrics = route(registry, limit=4)
    for method in (b"GET", b"PUT", b"POST", b"HEAD", b"DELETE"):
        for status in (200, 201, 404, 503):
            metrics.record(method, status, "", 0.1)
    found = labels(registry)
    assert len(found) == 7
    assert [e["http.response.status_code"] for e in found if e["http.request.method"] == "_OTHER"] == [
        "200",
        "400",
        "500",
    ]
    assert sum(sum(s.counts) for s in series(registry, REQUEST_DURATION)) == 20
    assert series(registry, SERIES_DROPPED) == []


def test_tries_at_too_many_endpoints_fold_by_upstream() -> None:
    registry = Registry()
    attempts = AttemptMetrics(registry, limit=2)
    for i in range(5):
        attempts.record("payments", f"http://10.0.0.{i}:80", b"GET", 200, "", 0.1)
    assert [each["server.address"] for each in labels(registry, ATTEMPT_DURATION)] == [
        "http://10.0.0.0:80",
        "http://10.0.0.1:80",
        "other",
    ]


def test_an_endpoint_that_is_gone_takes_its_series_with_it() -> None:
    registry = Registry()
    attempts = AttemptMetrics(registry)
    attempts.record("payments", "a", b"GET", 200, "", 0.1)
    attempts.record("payments", "b", b"GET", 200, "", 0.1)
    attempts.retire("payments", "a")
    assert [each["server.address"] for each in labels(registry, ATTEMPT_DURATION)] == ["b"]
    attempts.record("payments", "a", b"GET", 200, "", 0.1)
    assert [sum(s.counts) for s in series(registry, ATTEMPT_DURATION)] == [1, 1]
