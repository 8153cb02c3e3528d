"""Tests of gRPC calls in metrics, spans, the access log and the traffic of the live page."""

from __future__ import annotations

import json
from typing import Any

import pytest
from opentelemetry.trace import StatusCode

from sidecar.core.exchange import Attempt, Exchange
from sidecar.core.metrics import ATTEMPT_DURATION, CALL_DURATION, REQUEST_DURATION
from sidecar.core.outcome import BREAKER_OPEN, NO_ROUTE, Outcome, grpc_verdict
from sidecar.telemetry.metrics.durations import AttemptMetrics, CallMetrics, RouteMetrics, are_errors, is_error
from sidecar.telemetry.metrics.registry import Registry
from sidecar.telemetry.metrics.traffic import Traffic
from tests.support.grpc import call
from tests.unit.telemetry.logs.test_access import Bench as Log
from tests.unit.telemetry.metrics.test_durations import labels
from tests.unit.telemetry.metrics.test_traffic import second
from tests.unit.telemetry.tracing.test_spans import Bench as Spans

FAULTS = (2, 4, 13, 14, 15)


def ended(code: int, number: int = 1) -> Attempt:
    attempt = Attempt(number, 1000.0)
    attempt.endpoint, attempt.status, attempt.ended = "http://10.0.0.1:80", 200, 1000.1
    attempt.verdict = grpc_verdict(code)
    return attempt


def answer(code: int) -> Outcome:
    outcome = Outcome(200, [])
    outcome.verdict = grpc_verdict(code)
    return outcome


# ----- metrics


def test_a_status_is_a_label_and_an_error_if_it_is_the_servers_failure() -> None:
    registry = Registry()
    route, attempts = RouteMetrics(registry, {"route": "order"}), AttemptMetrics(registry)
    for code in (0, 5, 14):
        route.record(b"POST", grpc_verdict(code), "", 0.1)
        attempts.record("app", "http://a:80", b"POST", grpc_verdict(code), "", 0.1)
    for name in (REQUEST_DURATION, ATTEMPT_DURATION):
        found = labels(registry, name)
        assert [each["http.response.status_code"] for each in found] == ["200"] * 3
        assert [each.get("rpc.response.status_code") for each in found] == [None, "NOT_FOUND", "UNAVAILABLE"]
        assert [each.get("error.type") for each in found] == [None, None, "UNAVAILABLE"]


def test_calls_are_recorded_by_method() -> None:
    registry = Registry()
    calls = CallMetrics(registry)
    for code, reason in ((0, ""), (14, "breaker_open"), (5, ""), (15, "")):
        x = call()
        x.attempts.append(ended(code))
        calls.record(x, grpc_verdict(code), reason, 0.1)
    found = labels(registry, CALL_DURATION)
    assert {each["rpc.method"] for each in found} == {"shop.Orders/Place"}
    assert {each["rpc.system.name"] for each in found} == {"grpc"}
    assert [(each["rpc.response.status_code"], each.get("error.type")) for each in found] == [
        ("OK", None),
        ("UNAVAILABLE", "breaker_open"),
        ("NOT_FOUND", None),
        ("DATA_LOSS", "DATA_LOSS"),
    ]


def test_methods_that_nobody_has_are_folded() -> None:
    registry = Registry()
    calls = CallMetrics(registry, limit=2)
    for number in range(50):
        x = call(f"/shop.Made/Up{number}")
        calls.record(x, grpc_verdict(14), "breaker_open", 0.1)
        x.attempts.append(ended(12))
        calls.record(x, grpc_verdict(12), "", 0.1)
    assert {each["rpc.method"] for each in labels(registry, CALL_DURATION)} == {"_OTHER"}
    for number in range(5):
        x = call(f"/shop.Orders/Real{number}")
        x.attempts.append(ended(0))
        calls.record(x, 200, "", 0.1)
    known = {each["rpc.method"] for each in labels(registry, CALL_DURATION)}
    assert known == {"_OTHER", "shop.Orders/Real0", "shop.Orders/Real1"}


def test_what_counts_as_an_error() -> None:
    assert [code for code in range(17) if is_error(grpc_verdict(code), "")] == list(FAULTS)
    assert not is_error(grpc_verdict(12), "no_route")
    assert is_error(grpc_verdict(14), "breaker_open")
    assert not are_errors({"rpc.response.status_code": "UNIMPLEMENTED", "error.type": "no_route"})
    assert are_errors({"rpc.response.status_code": "INTERNAL", "error.type": "INTERNAL"})


def test_the_error_share_of_the_page_counts_statuses() -> None:
    registry = Registry()
    traffic, route = Traffic(registry), RouteMetrics(registry, {"route": "order"})
    for code in range(17):
        route.record(b"POST", grpc_verdict(code), "", 0.001)
    route.record(b"POST", grpc_verdict(NO_ROUTE.grpc), NO_ROUTE.code, 0.001)
    assert second(traffic)["order"][0] == len(FAULTS)


# ----- spans


def traced(code: int, reason: str = "") -> tuple[Any, Any]:
    bench = Spans()
    x = bench.exchange(b"POST", ended(code))
    x.path, x.is_grpc = b"/shop.Orders/Place", True
    client, server = bench.spans(x, answer(code), reason)
    return client, server


@pytest.mark.parametrize(("code", "is_error", "kind"), [(0, False, None), (5, False, None), (14, True, "unavailable")])
def test_the_server_span_of_a_call(code: int, is_error: bool, kind: str | None) -> None:
    _, server = traced(code)
    assert server.name == "shop.Orders/Place"
    found = server.attributes
    assert (found["rpc.system"], found["rpc.service"], found["rpc.method"]) == ("grpc", "shop.Orders", "Place")
    assert (found["rpc.grpc.status_code"], found.get("error.type")) == (code, kind)
    assert (server.status.status_code is StatusCode.ERROR) is is_error


@pytest.mark.parametrize(("code", "kind"), [(0, None), (5, "not_found"), (14, "unavailable")])
def test_the_span_of_an_attempt_at_a_call(code: int, kind: str | None) -> None:
    client, _ = traced(code)
    found = client.attributes
    assert (client.name, found["rpc.grpc.status_code"], found.get("error.type")) == ("shop.Orders/Place", code, kind)
    assert (client.status.status_code is StatusCode.ERROR) is (code > 0)


def test_a_refused_call_has_its_reason() -> None:
    bench = Spans()
    x = bench.exchange(b"POST")
    x.path, x.is_grpc = b"/shop.Orders/Place", True
    outcome = answer(BREAKER_OPEN.grpc)
    server = bench.server(x, outcome, "breaker_open")
    assert (server.attributes["rpc.grpc.status_code"], server.attributes["error.type"]) == (14, "breaker_open")


# ----- access log


def logged(x: Exchange) -> Exchange:
    x.authority, x.client_address, x.request_id = b"orders", "10.0.0.7", b"abc"
    return x


def test_a_line_has_the_status_of_the_call_and_of_each_attempt() -> None:
    x = logged(call())
    x.attempts += [ended(14), ended(0, 2)]
    line = Log().record(x, answer(0))
    assert (line["status"], line["grpc_status"]) == (200, 0)
    assert [(each["status"], each["grpc_status"]) for each in line["attempts"]] == [(200, 14), (200, 0)]
    plain = logged(call())
    plain.is_grpc = False
    assert "grpc_status" not in json.dumps(Log().record(plain, Outcome(200)))


def test_attempts_of_a_request_that_becomes_a_call_have_the_status_of_the_call() -> None:
    x = logged(call())
    x.is_grpc = False
    x.attempts += [ended(14)]
    (attempt,) = Log().record(x, Outcome(503))["attempts"]
    assert attempt["grpc_status"] == 14


def test_a_line_of_text_has_it_too() -> None:
    bench = Log("text")
    bench.log.record(logged(call()), answer(5), "", 0.01)
    bench.log.flush()
    assert b" grpc_status=5" in bench.lines.batches.pop()


def test_a_bad_status_is_no_success_that_sampling_may_drop() -> None:
    bench = Log(successes=0.0)
    bench.log.record(logged(call()), answer(0), "", 0.01)
    bench.log.flush()
    assert bench.lines.batches == []
    bench.record(logged(call()), answer(13))
