"""Tests of the metrics of an aggregated answer: its parts are requests of their own routes."""

from __future__ import annotations

import json
from typing import Any

import pytest

from sidecar.core.exchange import Attempt, Exchange, Part, RequestMetrics
from sidecar.core.outcome import RATE_LIMITED, Outcome, Refusal, failed
from sidecar.telemetry.logs.access import MOST_PARTS, as_json, as_text
from sidecar.telemetry.metrics.registry import Registry
from sidecar.telemetry.recorder import Recorder
from sidecar.telemetry.refusals import Refusals
from tests.support.service import exchange, response
from tests.unit.telemetry.tracing.test_spans import Bench, attempt


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


def test_refusals_of_parts_are_told_with_their_routes() -> None:
    registry = Registry()
    refusals = Refusals(lambda: 0.0, registry)
    x, y = exchange(), exchange(path="/part")
    x.route, y.route = Route(), Route()
    part = Part("user", y, "failed", 1.0)
    part.outcome, part.ended = failed(RATE_LIMITED, Refusal("rate_limit", "p.yaml:9", "too many")), 1.0
    x.parts = [part]
    Recorder(registry, refusals, lambda: 9.0, lambda: 0.0).record(x, response(200), "", 1.5)
    told = refusals.describe()
    assert [(each["route"], each["reason"], each["policy"]) for each in told] == [("r", "rate_limited", "rate_limit")]


def aggregated(bench: Bench) -> Exchange:
    """Return a request with three parts, one of which has parts of its own."""
    x = bench.exchange(b"GET")
    user = bench.exchange(b"GET", attempt(1, 503), attempt(2, why="retry:503"))
    deep, inner = bench.exchange(b"GET", attempt(1)), bench.exchange(b"GET")
    for each in (user, deep, inner):
        each.trace = x.trace
        each.is_inner = True
    parts = [
        Part("user", user, "ok", 1000.05),
        Part("all", inner, "stale", 1000.1),
        Part("score", None, "skipped", 1000.2),
    ]
    parts[1].reason, parts[2].reason, parts[0].outcome = "timeout", "needs", Outcome(200)
    inner.parts = [Part("deep[3]", deep, "ok", 1000.1)]
    for each in (*parts, *inner.parts):
        each.ended = 1000.3
    x.parts = parts
    return x


def test_parts_have_spans_between_the_request_and_its_attempts() -> None:
    bench = Bench()
    spans: list[Any] = bench.spans(aggregated(bench), Outcome(200))
    by_id = {span.context.span_id: span for span in spans}
    names = [(span.name, by_id[span.parent.span_id].name if span.parent else "") for span in spans]
    whole = "GET /orders/{id}"
    assert names == [
        ("GET", "part user"), ("GET", "part user"), ("part user", whole),
        ("GET", "part deep"), ("part deep", "part all"), ("part all", whole),
        ("part score", whole), (whole, ""),
    ]  # fmt: skip
    assert len({span.context.trace_id for span in spans}) == 1
    told = {span.attributes["sidecar.part"]: span.attributes for span in spans if "sidecar.part" in span.attributes}
    assert told["user"]["sidecar.part.result"] == "ok"
    assert told["user"]["http.response.status_code"] == 200
    assert (told["all"]["sidecar.part.result"], told["all"]["error.type"]) == ("stale", "timeout")
    assert "deep[3]" in told


@pytest.mark.parametrize(("room", "spans"), [(7, 0), (8, 8)])
def test_the_spans_of_parts_count_for_the_room(room: int, spans: int) -> None:
    bench = Bench()
    bench.outbox.room = room
    assert len(bench.spans(aggregated(bench), Outcome(200))) == spans


def test_the_access_log_has_the_parts() -> None:
    bench = Bench()
    x = aggregated(bench)
    line = json.loads(as_json(b"t", x, Outcome(200), "", 0.5, str.encode))
    assert line["parts"] == [
        {"name": "user", "result": "ok", "duration_ms": 250.0, "endpoint": "http://10.0.0.1:80", "attempts": 2},
        {"name": "all", "result": "stale", "duration_ms": 200.0, "reason": "timeout"},
        {"name": "score", "result": "skipped", "duration_ms": 100.0, "reason": "needs"},
    ]
    text = as_text(b"2026-01-01T00:00:00.000Z", x, Outcome(200), "", 0.5, str.encode).decode()
    assert "user=ok/250.0ms all=timeout/200.0ms score=needs/100.0ms" in text


def test_a_long_list_is_cut_in_the_access_log() -> None:
    x = exchange()
    x.parts = [Part(f"items[{number}]", None, "ok", 1.0) for number in range(1000)]
    line = json.loads(as_json(b"t", x, Outcome(200), "", 0.5, str.encode))
    assert (len(line["parts"]), line["more_parts"]) == (MOST_PARTS, 1000 - MOST_PARTS)
    assert as_text(b"2026-01-01T00:00:00.000Z", x, Outcome(200), "", 0.5, str.encode).count(b"items[") == MOST_PARTS
