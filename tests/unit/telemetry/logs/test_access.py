"""Tests of the access log's lines: their members, and that each is one valid line."""

from __future__ import annotations

import json
from typing import Any

import pytest

from sidecar.core.exchange import Attempt, Exchange
from sidecar.core.outcome import BREAKER_OPEN, CONNECT_FAILURE, RESET, Outcome, Refusal, failed
from sidecar.telemetry.logs.access import BATCH_BYTES, FLUSH_SECONDS, AccessLog
from sidecar.telemetry.plain import Masks, Secrets
from tests.support.clock import make_env


class Lines:
    def __init__(self) -> None:
        self.batches: list[bytes] = []

    def write(self, line: bytes) -> bool:
        self.batches.append(line)
        return True


class Route:
    name = "order"


class FakeTrace:
    trace_id = b"0af7651916cd43dd8448eb211c80319c"
    span_id = 0xB7AD6B7169203331
    is_sampled = True
    kept = ""


class Bench:
    def __init__(self, form: Any = "json", successes: float = 1.0) -> None:
        self.env = make_env(3)
        self.lines = Lines()
        self.log = AccessLog(self.lines, self.env)
        self.log.retune(form, successes)

    def record(self, x: Exchange, outcome: Outcome, reason: str | None = None) -> Any:
        self.log.record(x, outcome, outcome.reason if reason is None else reason, 0.0125)
        self.log.flush()
        line = self.lines.batches.pop()
        assert line.endswith(b"\n")
        assert line.count(b"\n") == 1
        return json.loads(line)


def exchange(path: bytes = b"/orders/17", *attempts: Attempt) -> Exchange:
    x = Exchange(b"GET", path, None, b"")
    x.route = Route
    x.authority = b"orders"
    x.client_address = "10.0.0.7"
    x.request_id = b"abc"
    x.attempts += attempts
    return x


def attempt(number: int = 1, status: int = 200, reason: str = "", why: str = "first") -> Attempt:
    a = Attempt(number, 10.0)
    a.endpoint, a.status, a.reason, a.why, a.ended = "http://10.0.0.1:80", status, reason, why, 10.0042
    a.cause = "gone" if reason else ""
    return a


@pytest.mark.parametrize(("version", "protocol"), [(10, "HTTP/1.0"), (11, "HTTP/1.1"), (20, "HTTP/2")])
def test_versions(version: int, protocol: str) -> None:
    x = exchange()
    x.version = version
    assert Bench().record(x, Outcome(200))["protocol"] == protocol


def test_a_success() -> None:
    x = exchange(b"/orders/17", attempt())
    x.query = b"token=secret"
    assert Bench().record(x, Outcome(200, body=b"hello")) == {
        "time": "2025-06-15T15:06:40.000Z",
        "route": "order",
        "method": "GET",
        "host": "orders",
        "path": "/orders/17",
        "protocol": "HTTP/1.1",
        "status": 200,
        "duration_ms": 12.5,
        "client": "10.0.0.7",
        "bytes_in": 0,
        "bytes_out": 5,
        "request_id": "abc",
        "attempts": [{"endpoint": "http://10.0.0.1:80", "status": 200, "duration_ms": 4.2, "why": "first"}],
    }


def test_every_try_with_its_reason_and_the_ids_of_its_spans() -> None:
    second = attempt(2, 200, why="retry:connect_failure")
    second.span_id = 0xAB
    x = exchange(b"/", attempt(1, 0, "connect_failure"), second)
    x.trace, x.cache = FakeTrace, "miss"
    line = Bench().record(x, Outcome(200))
    assert (line["trace_id"], line["span_id"], line["sampled"]) == (
        FakeTrace.trace_id.decode(),
        "b7ad6b7169203331",
        True,
    )
    assert line["cache"] == "miss"
    assert [(a["why"], a.get("reason"), a.get("span_id")) for a in line["attempts"]] == [
        ("first", "connect_failure", None),
        ("retry:connect_failure", None, "00000000000000ab"),
    ]


def test_a_refusal_names_the_policy_and_its_place() -> None:
    refusal = Refusal("circuit_breaker", "policies/a.yaml:12", 'It is "open".')
    line = Bench().record(exchange(), failed(BREAKER_OPEN, refusal))
    assert line["reason"] == "breaker_open"
    assert (line["refused_by"], line["where"], line["detail"]) == (
        "circuit_breaker",
        "policies/a.yaml:12",
        'It is "open".',
    )
    assert "attempts" not in line
    x = exchange()
    x.retry_stopped = "budget"
    assert Bench().record(x, failed(CONNECT_FAILURE, cause="no\nroute"))["retry_stopped"] == "budget"


def test_without_a_route_and_without_tracing_the_callers_trace_is_named_all_the_same() -> None:
    x = Exchange(b"GET", b"/", None, b"traceparent: 00-%b-b7ad6b7169203331-01\r\n" % FakeTrace.trace_id)
    line = Bench().record(x, Outcome(404), "no_route")
    assert (line["route"], line["trace_id"]) == ("", FakeTrace.trace_id.decode())
    x = Exchange(b"GET", b"/", None, b'traceparent: "nonsense\r\n')
    assert "trace_id" not in Bench().record(x, Outcome(404), "no_route")


@pytest.mark.parametrize("path", [b'/"', b"/\\", b"/\xff\x00\x1b[2J", b"/" + b'"' * 50])
def test_what_a_peer_sends_cannot_break_the_line(path: bytes) -> None:
    x = exchange(path)
    x.request_id, x.client_address = b'"}\\', 'unknown"\n'
    line = Bench().record(x, Outcome(200))
    assert line["path"] == path.decode("latin-1")
    assert line["client"] == 'unknown"\n'
    Bench("text").log.record(x, Outcome(200), "", 0.1)


def test_successes_are_sampled_and_all_else_is_not() -> None:
    bench = Bench(successes=0.1)
    for _ in range(1000):
        bench.log.record(exchange(b"/", attempt()), Outcome(200), "", 0.01)
    bench.log.flush()
    written = b"".join(bench.lines.batches).count(b"\n")
    assert 60 < written < 140
    bench = Bench(successes=0.0)
    bench.log.record(exchange(b"/", attempt()), Outcome(404), "", 0.01)
    assert bench.log._batch == []
    kept = exchange()
    kept.trace = type("Kept", (FakeTrace,), {"kept": "slow"})
    assert bench.record(kept, Outcome(200))
    assert bench.record(exchange(b"/", attempt(), attempt(2)), Outcome(200))
    assert bench.record(exchange(), Outcome(502))
    assert bench.record(exchange(b"/", attempt()), Outcome(200), RESET.code)


def test_lines_are_handed_over_in_batches() -> None:
    bench = Bench()
    bench.log.record(exchange(), Outcome(200), "", 0.01)
    bench.log.record(exchange(), Outcome(200), "", 0.01)
    assert bench.lines.batches == []
    bench.env.advance(FLUSH_SECONDS)
    assert [batch.count(b"\n") for batch in bench.lines.batches] == [2]
    while len(bench.lines.batches) == 1:
        bench.log.record(exchange(), Outcome(200), "", 0.01)
    assert len(bench.lines.batches[1]) >= BATCH_BYTES
    bench.env.advance(FLUSH_SECONDS)
    assert len(bench.lines.batches) == 2


def test_text_for_people() -> None:
    bench = Bench("text")
    x = exchange(b"/orders/17", attempt(1, 0, "reset"), attempt(2, 503))
    x.trace, x.cache = FakeTrace, "miss"
    bench.log.record(x, failed(BREAKER_OPEN, Refusal("circuit_breaker", "a.yaml:1")), "breaker_open", 0.0125)
    bench.log.flush()
    assert bench.lines.batches[0].decode() == (
        "15:06:40.000 503 GET /orders/17 12.5ms route=order cache=miss reason=breaker_open "
        "refused_by=circuit_breaker(a.yaml:1) http://10.0.0.1:80=reset/4.2ms http://10.0.0.1:80=503/4.2ms "
        "trace=0af7651916cd43dd8448eb211c80319c\n"
    )


def test_an_endpoint_that_a_variable_names_is_shown_by_it() -> None:
    for form, shown in (("json", b'"endpoint":"${APP}"'), ("text", b" ${APP}=200/")):
        bench = Bench(form)
        secrets = Secrets()
        bench.log = AccessLog(bench.lines, bench.env, secrets.text)
        bench.log.retune(form, 1.0)  # type: ignore[arg-type]
        bench.log.record(exchange(b"/", attempt()), Outcome(200), "", 0.01)
        secrets.mask(Masks({"http://10.0.0.1:80": "${APP}"}))
        bench.log.retune(form, 1.0)  # type: ignore[arg-type]
        bench.log.record(exchange(b"/", attempt()), failed(RESET, cause="http://10.0.0.1:80 is gone"), "reset", 0.01)
        bench.log.record(exchange(b"/", attempt()), Outcome(200), "", 0.01)
        bench.log.flush()
        before, *after = b"".join(bench.lines.batches).splitlines()
        assert b"10.0.0.1" in before
        assert len(after) == 2
        assert all(shown in line and b"10.0.0.1" not in line for line in after)
