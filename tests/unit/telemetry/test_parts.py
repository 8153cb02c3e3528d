"""Tests of the metrics of an aggregated answer: its parts are requests of their own routes."""

from __future__ import annotations

from typing import Any

from sidecar.core.exchange import Attempt, Part, RequestMetrics
from sidecar.telemetry.metrics.registry import Registry
from sidecar.telemetry.recorder import Recorder
from sidecar.telemetry.refusals import Refusals
from tests.support.service import exchange, response


class Route:
    """Route that remembers its records."""

    name = upstream = template = "r"
    policies = ()

    def __init__(self) -> None:
        self.metrics: Any = Seen()


class Seen(RequestMetrics):
    def __init__(self) -> None:
        self.records: list[Any] = []

    def record(self, method: bytes, status: int, reason: str, seconds: float) -> None:
        self.records.append((method, status, reason, seconds))


def test_parts_are_recorded_under_their_routes_with_their_attempts() -> None:
    registry = Registry()
    recorder = Recorder(registry, Refusals(lambda: 0.0, registry), lambda: 9.0, lambda: 0.0)
    outer, inner, x, y = Route(), Route(), exchange(), exchange(path="/part")
    attempt = Attempt(1, 1.0)
    attempt.endpoint, attempt.upstream, attempt.status, attempt.ended = "http://a:80", "users", 503, 2.0
    x.route, y.route, y.attempts = outer, inner, [attempt]
    part = Part("user", y, "failed", 1.0)
    part.outcome, part.ended, part.reason = response(503), 2.0, "503"
    x.parts = [part, Part("skipped", None, "skipped", 1.0)]
    recorder.record(x, response(200), "", 1.5)
    assert outer.metrics.records == [(b"GET", 200, "", 1.5)]
    assert inner.metrics.records == [(b"GET", 503, "", 1.0)]
    assert "users" in repr(recorder._attempts._series)
