"""Tests of reading access logs: formats, bad lines, bounds, what is left out."""

from __future__ import annotations

import itertools
import json
from collections import Counter
from pathlib import Path
from typing import Any

import pytest

from sidecar.lint.facts import Policies
from sidecar.replay.advice import advise
from sidecar.replay.evidence import LogOrigin
from sidecar.replay.fit import Fitted
from sidecar.replay.formats import detect, parser, read_log, read_nginx
from sidecar.replay.limits import limits
from sidecar.replay.record import LONGEST_LINE, Record, Unreadable, read
from tests.support.cases import each
from tests.unit.replay.truth import Truth, policies, recorded, traffic

OWN = {
    "time": "2026-01-31T12:00:03.000Z", "route": "orders", "method": "GET", "host": "shop", "path": "/orders/1",
    "status": 200, "duration_ms": 1000.0, "client": "10.0.0.1", "caller": "ann",
    "attempts": [
        {"endpoint": "http://a:80", "status": 503, "duration_ms": 100.0, "why": "first"},
        {"endpoint": "http://b:80", "status": 200, "duration_ms": 400.0, "why": "retry:503"},
    ],
}  # fmt: skip
NGINX = '10.0.0.1 - - [31/Jan/2026:12:00:03 +0000] "GET /orders/1?x=1 HTTP/1.1" 200 12 "-" "curl/8"'
ENVOY = (
    '[2026-01-31T12:00:02.000Z] "GET /orders/1?x=1 HTTP/1.1" 200 - 0 12 1000 990 "-" "curl/8" "id" "shop" "10.1.0.1:80"'
)
ISTIO = (
    '[2026-01-31T12:00:02.000Z] "GET /orders/1 HTTP/1.1" 503 UF,URX upstream_reset{} - "-" 0 91 '
    '25 - "-" "curl/8" "id-1" "shop" "10.1.0.1:80" outbound|80||shop - 10.0.0.1:80 10.0.0.2:5000 - default'
)


def own(**members: object) -> bytes:
    return json.dumps({**OWN, **members}).encode()


def record(*lines: bytes | str, most: int = 100) -> Record:
    encoded = [line if isinstance(line, bytes) else line.encode() for line in lines]
    return read(encoded, parser(detect(encoded[0])), most)


def test_a_line_of_the_sidecar_has_its_attempts_with_their_times() -> None:
    found = record(own())
    (request,), (tries,) = found.requests, found.tries
    assert (request.at, request.route, request.path, request.caller) == (0.0, "orders", "/orders/1", "ann")
    assert [(a.endpoint, a.status, a.is_again) for a in tries] == [
        ("http://a:80", 503, False),
        ("http://b:80", 200, True),
    ]
    assert [round(a.at, 3) for a in tries] == [0.0, 0.6]
    assert found.has_attempts


@each(
    [
        (
            NGINX + " rt=1.000 urt=0.100, 0.400 us=503, 200 ua=10.1.0.1:80, 10.1.0.2:80",
            [(503, 0.1, ""), (200, 0.4, "")],
        ),
        (
            NGINX + ' rt=1.000 urt="0.100, 0.400" us="502, 200" ua="10.1.0.1:80, 10.1.0.2:80"',
            [(0, 0.1, "reset"), (200, 0.4, "")],
        ),
        (NGINX + " 1.000 0.400", [(200, 0.4, "")]),
        (ENVOY, [(200, 0.99, "")]),
        (ISTIO, [(0, 0.025, "connect_failure")]),
        (ENVOY.replace("200 -", "504 UT").replace("1000 990", "1000 -"), [(0, 1.0, "timeout")]),
        (ENVOY.replace("200 -", "429 RL"), []),
    ]
)
def test_logs_of_other_proxies_have_attempts(case: tuple[str, list[tuple[int, float, str]]]) -> None:
    line, attempts = case
    found = record(line)
    assert found.requests[0].path == "/orders/1"
    assert [(a.status, round(a.seconds, 3), a.reason) for a in found.tries[0]] == attempts


def test_json_of_envoy() -> None:
    found = record(
        json.dumps(
            {
                "start_time": "2026-01-31T12:00:02.000Z", "method": "GET", "path": "/orders/1?x", "response_code": 200,
                "response_flags": "-", "duration": 30, "upstream_service_time": "28", "authority": "shop",
                "upstream_host": "10.1.0.1:80", "downstream_remote_address": "10.0.0.2:5000",
            }
        )
    )  # fmt: skip
    (request,), ((a,),) = found.requests, found.tries
    assert (request.host, request.client, request.path) == ("shop", "10.0.0.2", "/orders/1")
    assert (a.endpoint, a.seconds) == ("http://10.1.0.1:80", 0.028)


@each(
    [
        (b"{", "is not JSON"),
        (b"[1]", "is not in Envoy's default format"),
        (b'{"time": "x"}', "lacks `time` or `duration_ms`"),
        (own(time="yesterday"), "time: `yesterday` is not a time"),
        (own(duration_ms=-1), "duration_ms: is not a number"),
        (own(duration_ms=True), "duration_ms: is not a number"),
        (own(attempts=[1]), "attempts: is not a list of objects"),
        (NGINX.encode(), "has no time of the request; add `rt=$request_time"),
        (b"hello", "is not in the format `combined`"),
        (NGINX.replace("Jan", "Foo").encode() + b" rt=1.0", "is not $time_local"),
        (NGINX.replace("GET /", "/").encode() + b" rt=1.0", "has no method and target"),
    ]
)
def test_an_unreadable_line_says_what_would_be_right(case: tuple[bytes, str]) -> None:
    line, message = case
    with pytest.raises(Unreadable) as error:
        parser(detect(line))(line)
    assert message in str(error.value)


def test_unreadable_lines_are_counted_and_the_first_are_named() -> None:
    found = record(own(), *[b"{"] * 9, own())
    assert (len(found.requests), found.unreadable, len(found.named)) == (2, 9, 5)
    assert found.named[0].startswith("log:2: is not JSON")


def test_memory_is_bounded() -> None:
    found = record(*[own()] * 7, most=5)
    assert (len(found.requests), found.beyond) == (5, 2)
    many = own(attempts=OWN["attempts"] * 40)  # type: ignore[operator]
    assert len(record(many).tries[0]) == 16


def test_a_long_line_is_unreadable_and_the_next_one_is_read(tmp_path: Path) -> None:
    path = tmp_path / "access.jsonl"
    path.write_bytes(own() + b"\n" + b"x" * (3 * LONGEST_LINE) + b"\n" + own() + b"\n")
    found = read_log(str(path))
    assert (len(found.requests), found.unreadable) == (2, 1)


@each(
    [
        ({"refused_by": "authenticate", "status": 401}, "credentials"),
        ({"grpc_status": 0}, "gRPC"),
        ({"parts": []}, "aggregated"),
        ({"status": 101}, "WebSocket"),
        ({"route": ""}, "without a route"),
    ]
)
def test_requests_that_cannot_be_replayed_are_counted(case: tuple[Any, str]) -> None:
    members, reason = case
    found = record(own(**members), own(suppressed=3))
    assert len(found.requests) == 1
    assert found.suppressed == 3
    ((why, count),) = found.skipped.items()
    assert reason in why
    assert count == 1


def nginx_lines(count: int, rate: int) -> list[bytes]:
    """Return lines of nginx, in whole seconds, of calls that take 40 ms and of failures that take 2 ms."""
    line = '10.0.0.1 - - [30/Nov/2026:18:{:02}:{:02} +0000] "GET /a HTTP/1.1" {} 2 "-" "-" rt={} urt={} us={} ua=a:80\n'
    found = []
    for number in range(count):
        at, (status, took) = number // rate, (503, "0.002") if number % 10 == 3 else (200, "0.040")
        found.append(line.format(at // 60, at % 60, status, took, took, status).encode())
    return found


def test_requests_of_a_log_with_whole_seconds_are_spread_over_them() -> None:
    found = read(nginx_lines(3000, 50), read_nginx)
    assert found.has_whole_seconds
    gaps = [later.at - earlier.at for earlier, later in itertools.pairwise(found.requests)]
    assert max(gaps) < 0.07, "not all of a second at one instant"
    ends = [request.at + request.seconds for request in found.requests]
    assert max(Counter(map(int, ends)).values()) <= 51
    fitted = Fitted(found)
    assert (fitted.curves, fitted.failures) == ({}, {}), "nothing depends on load because of the spreading"
    assert any("whole seconds" in each for each in limits(found, 0))
    facts = Policies(policies("timeout: {request: 1s}", "concurrency: {max: 5000}"))
    found.requests = [request._replace(route="orders") for request in found.requests]
    origin = LogOrigin(facts, found)
    assert not any("concurrency" in each.place for each in advise(origin))
    assert any("limits of concurrency" in each for each in origin.unknown())


def test_a_log_with_milliseconds_is_not_spread() -> None:
    stamp = b" msec=%d.%03d"
    lines = enumerate(nginx_lines(100, 50))
    exact = [line.rstrip() + stamp % (1_795_000_000 + n // 50, n % 50 * 20) for n, line in lines]
    found = read(exact, read_nginx)
    assert not found.has_whole_seconds
    assert found.requests[1].at + found.requests[1].seconds == pytest.approx(0.02 + found.requests[0].seconds, abs=1e-6)
    assert not recorded(policies("timeout: {request: 3s}"), Truth(), traffic(50, 80.0)).has_whole_seconds
