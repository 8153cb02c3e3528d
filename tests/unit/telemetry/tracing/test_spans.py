"""Tests of the spans of a completed request: special cases (`tests/e2e/test_tracing.py` has the ordinary ones)."""

from __future__ import annotations

import random
from types import SimpleNamespace
from typing import Any

import pytest
from opentelemetry.sdk.resources import Resource
from opentelemetry.sdk.trace import ReadableSpan, SpanLimits
from opentelemetry.sdk.util.instrumentation import InstrumentationScope
from opentelemetry.trace import SpanKind, StatusCode

from sidecar.core.exchange import Attempt, Exchange
from sidecar.core.outcome import BREAKER_OPEN, CLIENT_CLOSED, RESET, Outcome, Refusal, failed
from sidecar.telemetry.export.scrub import scrub_query, split_authority
from sidecar.telemetry.tracing.propagation import Propagation
from sidecar.telemetry.tracing.spans import SpanMaker
from sidecar.telemetry.tracing.tracer import Tracer
from tests.support.clock import WALL, make_env


class Outbox:
    def __init__(self, room: int = 100) -> None:
        self.room = room
        self.spans: list[ReadableSpan] = []

    def admit(self, count: int) -> bool:
        return count <= self.room

    def put(self, spans: list[ReadableSpan]) -> None:
        self.spans = spans


class Bench:
    def __init__(self, outbox: Outbox | None = None, limits: SpanLimits | None = None) -> None:
        self.env = make_env()
        self.outbox = outbox or Outbox()
        scope = InstrumentationScope("sidecar")
        maker = SpanMaker(self.outbox, Resource({}), scope, self.env.now, self.env.wall, limits)
        self.tracer = Tracer(Propagation(["w3c"]), maker, self.env.now, random.Random(1), self.env.meter)

    def exchange(self, method: bytes = b"GET", *attempts: Attempt) -> Exchange:
        x = Exchange(method, b"/orders/17", None, b"")
        x.route = SimpleNamespace(name="order", upstream="app", template="/orders/{id}", policies=())
        x.arrived = self.env.now()
        self.tracer.begin(x)
        for attempt in attempts:
            x.attempts.append(attempt)
            x.trace.attempt(x, attempt)
        return x

    def spans(self, x: Exchange, outcome: Outcome, reason: str | None = None) -> list[ReadableSpan]:
        self.tracer.end(x, outcome, outcome.reason if reason is None else reason, 0.5)
        return self.outbox.spans

    def server(self, x: Exchange, outcome: Outcome, reason: str | None = None) -> Any:
        return self.spans(x, outcome, reason)[-1]


def attempt(number: int, status: int = 200, why: str = "first", endpoint: str = "http://10.0.0.1:80") -> Attempt:
    a = Attempt(number, 1000.1)
    a.endpoint, a.status, a.why, a.ended = endpoint, status, why, 1000.2
    return a


def test_times_are_those_of_the_wall() -> None:
    bench = Bench()
    client, server = bench.spans(bench.exchange(b"GET", attempt(1)), Outcome(200))
    assert (server.kind, client.kind) == (SpanKind.SERVER, SpanKind.CLIENT)
    assert abs(server.start_time - WALL * 1e9) < 1e4
    assert abs(server.end_time - (WALL + 0.5) * 1e9) < 1e4
    assert abs(client.start_time - (WALL + 0.1) * 1e9) < 1e4
    assert abs(client.end_time - (WALL + 0.2) * 1e9) < 1e4


@pytest.mark.parametrize(
    ("outcome", "reason", "is_error", "kind"),
    [
        (Outcome(200), "", False, None),
        (Outcome(404), "", False, None),
        (Outcome(500), "", True, "500"),
        (failed(RESET), None, True, "reset"),
        (Outcome(200), RESET.code, True, "reset"),
        (failed(CLIENT_CLOSED), None, False, "client_closed"),
    ],
)
def test_the_status_of_a_request(outcome: Outcome, reason: str | None, is_error: bool, kind: str | None) -> None:
    bench = Bench()
    span = bench.server(bench.exchange(), outcome, reason)
    assert (span.status.status_code is StatusCode.ERROR) is is_error
    assert span.attributes.get("error.type") == kind


@pytest.mark.parametrize(("status", "is_error"), [(200, False), (302, False), (404, True), (503, True)])
def test_the_status_of_a_try(status: int, is_error: bool) -> None:
    bench = Bench()
    span = bench.spans(bench.exchange(b"GET", attempt(1, status)), Outcome(status))[0]
    assert (span.status.status_code is StatusCode.ERROR) is is_error
    assert span.attributes is not None
    assert span.attributes.get("error.type") == (str(status) if is_error else None)


def test_a_method_that_nobody_knows_makes_no_name() -> None:
    bench = Bench()
    client, server = bench.spans(bench.exchange(b"BREW", attempt(1)), Outcome(200))
    assert (server.name, client.name) == ("HTTP /orders/{id}", "HTTP")
    assert server.attributes is not None
    assert server.attributes["http.request.method"] == "_OTHER"
    assert server.attributes["http.request.method_original"] == "BREW"


@pytest.mark.parametrize(("version", "shown"), [(10, "1.0"), (11, "1.1"), (20, "2")])
def test_the_version_of_http(version: int, shown: str) -> None:
    bench = Bench()
    x = bench.exchange()
    x.version = version
    assert bench.server(x, Outcome(200)).attributes["network.protocol.version"] == shown


def test_one_that_matched_no_route_has_none_in_its_name() -> None:
    bench = Bench()
    x = bench.exchange()
    x.route = None
    assert bench.server(x, Outcome(404)).name == "GET"


def test_a_refusal_and_a_cache_are_events() -> None:
    bench = Bench()
    x = bench.exchange()
    x.cache, x.refused_by, x.retry_stopped = "miss", "", "budget"
    refusal = Refusal("circuit_breaker", "a.yaml:7", "It is open.", limit=5, retry_after=2.5)
    span = bench.server(x, failed(BREAKER_OPEN, refusal))
    cached, refused = span.events
    assert (cached.name, dict(cached.attributes)) == ("cache.decided", {"sidecar.cache": "miss"})
    assert refused.name == "policy.refused"
    assert dict(refused.attributes) == {
        "sidecar.policy": "circuit_breaker", "sidecar.where": "a.yaml:7", "sidecar.detail": "It is open.",
        "sidecar.limit": 5, "sidecar.retry_after": 2.5, "sidecar.reason": "breaker_open",
    }  # fmt: skip
    assert span.attributes["sidecar.refused_by"] == "circuit_breaker"
    assert span.attributes["sidecar.retry.stopped"] == "budget"
    assert span.status.description == "It is open."


def test_an_answer_that_anothers_call_brought_links_to_that_one() -> None:
    bench = Bench()
    leader, follower = bench.exchange(), bench.exchange()
    follower.trace.link(leader.trace)
    (link,) = bench.server(follower, Outcome(200)).links
    leading = bench.server(leader, Outcome(200))
    assert (link.context.trace_id, link.context.span_id) == (leading.context.trace_id, leading.context.span_id)
    assert dict(link.attributes) == {"sidecar.link": "coalesced"}


def test_what_a_breaker_did_is_on_the_try_that_it_did_it_to() -> None:
    bench = Bench()
    x = bench.exchange(b"GET", attempt(1), attempt(2, why="retry:503"))
    x.route.policies = ("circuit_breaker",)
    x.trace.note("breaker.probed", breaker="app", attempt=2)
    x.trace.note("retry.scheduled", attempt=2, reason="503", waited=0.1, tokens=7.5)
    first, second = (span.attributes for span in bench.spans(x, Outcome(200))[:2])
    assert first is not None
    assert second is not None
    assert (first["sidecar.breaker.state"], second["sidecar.breaker.state"]) == ("closed", "half_open")
    assert "sidecar.retry_budget.tokens" not in first
    assert second["sidecar.retry_budget.tokens"] == 7.5
    assert second["http.request.resend_count"] == 1


def test_where_there_is_no_room_nothing_is_made() -> None:
    bench = Bench(Outbox(room=1))
    assert bench.spans(bench.exchange(b"GET", attempt(1)), Outcome(200)) == []


def test_limits_of_the_environment_are_kept() -> None:
    bench = Bench(limits=SpanLimits(max_span_attributes=3, max_span_attribute_length=2, max_events=0))
    x = bench.exchange()
    x.cache = "miss"
    span = bench.server(x, Outcome(200))
    assert len(span.attributes) == 3
    assert span.dropped_attributes > 0
    assert all(len(value) <= 2 for value in span.attributes.values() if isinstance(value, str))
    assert len(span.events) == 0


def test_limits_of_events_and_links_are_kept() -> None:
    bench = Bench(limits=SpanLimits(max_event_attributes=1, max_link_attributes=0, max_attribute_length=3))
    x = bench.exchange()
    x.trace.note("retry.scheduled", why="because", tokens=2)
    x.trace.link(bench.exchange().trace)
    span = bench.server(x, Outcome(200))
    (event,) = span.events
    assert len(event.attributes) == 1
    assert all(len(value) <= 3 for value in event.attributes.values() if isinstance(value, str))
    (link,) = span.links
    assert len(link.attributes) == 0


@pytest.mark.parametrize(
    ("query", "shown"),
    [
        ("", ""),
        ("page=2&sort=asc", "page=2&sort=asc"),
        ("token=abc&page=2", "token=REDACTED&page=2"),
        ("X-Goog-Signature=abc&Password=&sig=1", "X-Goog-Signature=REDACTED&Password=&sig=REDACTED"),
        ("api_key=def", "api_key=REDACTED"),
        ("api%5Fkey=def&%61pi_key=x", "api%5Fkey=REDACTED&%61pi_key=REDACTED"),  # is read as api_key too
        ("api%2Dkey=def&%zz=1&pa%67e=2", "api%2Dkey=REDACTED&%zz=1&pa%67e=2"),
        ("a=b=c&=d&&e", "a=b=c&=d&&e"),
    ],
)
def test_secrets_of_a_query(query: str, shown: str) -> None:
    assert scrub_query(query) == shown


@pytest.mark.parametrize(
    ("authority", "is_tls", "split"),
    [
        ("orders", False, ("orders", 80)),
        ("orders", True, ("orders", 443)),
        ("orders:8080", True, ("orders", 8080)),
        ("[::1]:8080", False, ("::1", 8080)),
        ("[::1]", True, ("::1", 443)),
        ("orders:", False, ("orders", 80)),
    ],
)
def test_host_and_port(authority: str, is_tls: bool, split: tuple[str, int]) -> None:
    assert split_authority(authority, is_tls) == split
