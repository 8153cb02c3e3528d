"""Tests of recommendations: values from a log of known upstreams, their evidence, and the edited files."""

from __future__ import annotations

import json
import subprocess
from pathlib import Path

import pytest
from click.testing import CliRunner, Result

from sidecar.commands import main
from sidecar.lint.facts import Policies
from sidecar.replay.advice import Advice, advise
from sidecar.replay.evidence import LogOrigin
from sidecar.replay.record import Record
from tests.unit.replay.truth import POLICIES, A, B, Truth, logged, policies, recorded, traffic

GOOD = Truth(errors=0.01)


def record_of(route: str, truth: Truth = GOOD, *, upstream: str = "", count: int = 2000, rate: float = 50.0) -> Record:
    return recorded(policies(route, upstream), truth, traffic(count, rate))


def advised(route: str, truth: Truth = GOOD, *, upstream: str = "", count: int = 2000) -> dict[str, Advice]:
    record = record_of(route, truth, upstream=upstream, count=count)
    origin = LogOrigin(Policies(policies(route, upstream)), record)
    return {each.place: each for each in advise(origin)}


def test_a_timeout_far_above_the_slowest_answers_is_lowered_to_their_percentile() -> None:
    found = advised("timeout: {request: 10s, attempt: 5s}")["routes.orders.timeout.attempt"]
    assert found.old == "5s"
    assert found.new.endswith("ms")
    assert "of 19" in found.why, "1980 of 2000 answers were good"
    assert "this would cut off" in found.why


def test_no_timeout_at_all_is_told_as_well() -> None:
    assert advised("timeout: {request: 10s}")["routes.orders.timeout.attempt"].old == ""


def test_a_timeout_that_cuts_off_good_answers_is_raised() -> None:
    found = advised("timeout: {request: 10s, attempt: 60ms}", Truth(slow=0.02, slow_seconds=0.03))
    assert found["routes.orders.timeout.attempt"].new == "120ms"
    assert "were cut off at 60ms" in found["routes.orders.timeout.attempt"].why


def test_a_hanging_upstream_is_no_reason_for_a_longer_timeout() -> None:
    truth = Truth(hangs=[(A, 10.0, 20.0), (B, 10.0, 20.0)])
    assert "routes.orders.timeout.attempt" not in advised("timeout: {request: 10s, attempt: 1s}", truth)


def test_the_time_of_a_request_has_room_for_all_attempts() -> None:
    found = advised("timeout: {request: 300ms, attempt: 250ms}, retry: {max_attempts: 3}")
    assert found["routes.orders.timeout.request"].old == "300ms"


def test_a_hedge_goes_where_the_tail_begins() -> None:
    found = advised("timeout: {request: 10s, attempt: 500ms}, hedge: {after: 400ms}")["routes.orders.hedge.after"]
    assert found.why.startswith("95% of ")
    assert float(found.new.removesuffix("ms")) < 200


def test_a_breaker_that_opens_on_noise_gets_a_higher_rate_in_spite_of_an_incident_in_the_log() -> None:
    truth = Truth(errors=0.06, down=[(A, 20.0, 30.0), (B, 20.0, 30.0)])
    breaker = "circuit_breaker: {failure_rate: 10%, min_calls: 10, window: 10s}"
    found = advised("timeout: {request: 1s}", truth, upstream=breaker)["upstreams.app.circuit_breaker.failure_rate"]
    assert found.old == "10%"
    assert found.new in ("20%", "30%")


def test_a_limit_far_from_the_calls_in_flight() -> None:
    found = advised("timeout: {request: 1s}", upstream="concurrency: {max: 5000}")["upstreams.app.concurrency.max"]
    assert 2 <= int(found.new) <= 60


def test_a_budget_that_nobody_needs() -> None:
    found = advised("timeout: {request: 1s}, retry: {max_attempts: 2}", upstream="retry_budget: {ratio: 60%}")
    assert found["upstreams.app.retry_budget.ratio"].new in ("5%", "10%")


def test_values_that_agree_with_the_log_and_too_few_calls_say_nothing() -> None:
    assert advised("timeout: {request: 10s, attempt: 5s}", count=60) == {}
    first = advised("timeout: {request: 10s, attempt: 5s}")["routes.orders.timeout.attempt"]
    assert advised(f"timeout: {{request: 10s, attempt: {first.new}}}") == {}


# ----- the command


@pytest.fixture
def place(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Return a directory with policies and a log, which is the working directory too."""
    route = "timeout: {request: 10s, attempt: 5s}, retry: {max_attempts: 2}"
    (tmp_path / "p.yaml").write_text(POLICIES % (", retry_budget: {ratio: 60%}", f", {route}"))
    lines = logged(policies(route), GOOD, traffic(1000, 50.0), 1)[1]
    (tmp_path / "access.jsonl").write_bytes(b"".join(lines))
    monkeypatch.chdir(tmp_path)
    return tmp_path


def run(*options: str) -> Result:
    return CliRunner().invoke(main, ["recommend", "p.yaml", "--log", "access.jsonl", *options])


def test_the_command_says_where_why_and_what_for_and_its_patch_applies(place: Path) -> None:
    result = run("--write", "values.patch")
    assert result.exit_code == 0, result.output
    assert "p.yaml:6: routes.orders.timeout.attempt: 5s -> " in result.output
    assert "p.yaml:4: upstreams.app.retry_budget.ratio: 60% -> 5%" in result.output
    assert result.output.count("    replay: ") == 2
    assert "all together: " in result.output
    assert "- bodies, queries, header fields and claims" in result.output
    subprocess.run(["patch", "-p0", "-i", "values.patch"], check=True, cwd=place, capture_output=True)
    assert "5s" not in (place / "p.yaml").read_text().split("timeout")[1]
    again = run("--seeds", "0")
    assert "the policies agree with the log" in again.output


def test_the_document_has_each_value_and_the_patch(place: Path) -> None:
    found = json.loads(run("--json").output)
    assert [each["path"] for each in found["suggestions"]] == [
        "routes.orders.timeout.attempt",
        "upstreams.app.retry_budget.ratio",
    ]
    assert found["suggestions"][0]["replayed"]["requests"] == 1000
    assert found["patch"].startswith("--- p.yaml\n+++ p.yaml\n")


def test_values_of_a_bundle_are_set_on_the_route(place: Path) -> None:
    text = POLICIES % ("", ", use: [slow]") + "policies: {slow: {timeout: {request: 10s, attempt: 5s}}}\n"
    (place / "p.yaml").write_text(text)
    result = run("--seeds", "0", "--write", "values.patch")
    assert "not in the patch" not in result.output
    assert "use: [slow], timeout: {attempt: " in (place / "values.patch").read_text()


def test_a_log_without_requests(place: Path) -> None:
    (place / "access.jsonl").write_text("")
    result = run()
    assert result.exit_code == 1
    assert "has no requests to replay" in result.output


# ----- logs of other proxies, which do not name routes

TWO = """
version: 1
listeners: {inbound: {address: "127.0.0.1:0"}}
upstreams: {app: {endpoints: ["http://app-1:80"]}}
routes:
  - {name: fast, match: {path: /fast}, upstream: app, timeout: {request: 10s, attempt: 5s}}
  - {name: slow, match: {path: /slow}, upstream: app, timeout: {request: 10s, attempt: 5s}}
"""


@pytest.fixture
def nginx(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Return a directory, the working directory too, with policies of two routes and a log of nginx of both."""
    (tmp_path / "p.yaml").write_text(TWO)
    line = (
        '10.0.0.1 - - [30/Nov/2026:18:00:{:02} +0000] "GET {} HTTP/1.1" 200 2 "-" "-" rt={} urt={} us=200 ua=app-1:80\n'
    )
    with (tmp_path / "access.jsonl").open("w") as file:
        for number in range(1200):
            path, took = ("/fast", "0.010") if number % 2 else ("/slow", "0.800")
            file.write(line.format(number // 30, path, took, took))
    monkeypatch.chdir(tmp_path)
    return tmp_path


def test_requests_of_another_proxy_get_the_routes_of_the_policies(nginx: Path) -> None:
    result = run("--seeds", "0")
    assert "routes.fast.timeout.attempt: 5s -> 20ms" in result.output
    assert "routes.slow.timeout.attempt: 5s -> 1.6s" in result.output


def test_answers_of_one_route_are_not_drawn_for_another(nginx: Path) -> None:
    (nginx / "one.yaml").write_text(TWO.replace("attempt: 5s", "attempt: 100ms", 1))
    result = CliRunner().invoke(
        main, ["replay", "p.yaml", "one.yaml", "--log", "access.jsonl", "--seeds", "1", "--json"]
    )
    numbers = json.loads(result.output)
    assert numbers["new"]["mean"]["goodput"] == numbers["old"]["mean"]["goodput"] == 1.0, "fast answers come in time"


def test_a_log_without_any_route_of_the_policies(nginx: Path) -> None:
    (nginx / "p.yaml").write_text(TWO.replace("/fast", "/a").replace("/slow", "/b"))
    result = run("--seeds", "0")
    assert result.exit_code == 1
    assert "no request has a route in the policies" in result.output
