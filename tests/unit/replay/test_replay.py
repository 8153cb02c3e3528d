"""Tests of replays: fitted upstreams, numbers, verdicts, the command and its documents."""

from __future__ import annotations

import json
import random
from pathlib import Path

import pytest
from click.testing import CliRunner, Result

from sidecar.commands import main
from sidecar.config.files import Source
from sidecar.config.load import load
from sidecar.core.exchange import NEVER
from sidecar.replay.fit import Fitted
from sidecar.replay.record import Record, Request, Try
from sidecar.replay.run import replay
from sidecar.replay.tally import percentile
from sidecar.replay.world import run_world
from tests.unit.replay.truth import POLICIES, A, B, Truth, logged, policies, recorded, traffic

IDENTITY = (
    'identities: {id: {jwt: {issuer: "https://id.example", audiences: [a], algorithms: [ES256], '
    'keys: {url: "https://id.example/k"}}}}\n'
)
PLAIN = "timeout: {request: 3s}"
RETRIES = "timeout: {request: 3s}, retry: {max_attempts: 3}"


def record_of(tries: list[Try]) -> Record:
    record = Record()
    record.requests = [Request(a.at, "GET", "", "/", "", "", "orders", a.status, a.reason, a.seconds) for a in tries]
    record.tries = [[a] for a in tries]
    return record


def drawn(
    record: Record, at: float, endpoint: str = A, *, count: int = 200, is_again: bool = False
) -> list[tuple[float, int, str]]:
    rng, fitted = random.Random(1), Fitted(record)
    return [
        fitted.draw("orders", endpoint, at, rng, is_again=is_again, is_new=False, in_flight=0) for _ in range(count)
    ]


def test_attempts_of_the_same_time_see_the_same_state() -> None:
    tries = [Try(A, n / 20, 0.01, 503 if 200 <= n < 400 else 200) for n in range(600)]
    assert {status for _, status, _ in drawn(record_of(tries), 15.5)} == {503}
    assert {status for _, status, _ in drawn(record_of(tries), 5.5)} == {200}


def test_endpoints_behave_each_in_its_own_way_and_a_new_one_like_all() -> None:
    tries = [Try((A, B)[n % 2], n / 40, 0.01, (200, 503)[n % 2]) for n in range(400)]
    assert {status for _, status, _ in drawn(record_of(tries), 3.0, A)} == {200}
    assert {status for _, status, _ in drawn(record_of(tries), 3.0, B)} == {503}
    assert {status for _, status, _ in drawn(record_of(tries), 3.0, "http://app-3:80")} == {200, 503}


def test_retries_are_drawn_from_recorded_retries_of_that_time() -> None:
    tries = [Try(A, n / 40, 0.01, 200 if n % 2 else 500, "", n % 2 == 0) for n in range(400)]
    assert {status for _, status, _ in drawn(record_of(tries), 3.0, is_again=True)} == {500}


def test_what_was_cut_off_takes_longer() -> None:
    cut = [Try(A, n / 40, 0.5, 0, "timeout") for n in range(100)]
    slower = [Try(A, n / 40, 0.8, 200) for n in range(100)]
    assert {seconds for seconds, _, _ in drawn(record_of(cut + slower), 1.0)} == {0.8}
    assert {seconds for seconds, _, _ in drawn(record_of(cut), 1.0)} == {NEVER}


def test_each_attempt_of_a_window_is_drawn_once_before_any_again() -> None:
    tries = [Try(A, n / 40, n / 1000, 200) for n in range(40)]
    assert sorted(seconds for seconds, _, _ in drawn(record_of(tries), 0.5, count=40)) == [n / 1000 for n in range(40)]


def test_an_empty_record_answers() -> None:
    assert drawn(Record(), 1.0, count=1) == [(0.0, 200, "")]


def test_refused_connections_are_refused_at_the_recorded_share() -> None:
    tries = [Try(A, n / 40, 0.001, 0, "connect_failure") if n % 2 else Try(A, n / 40, 0.01, 200) for n in range(400)]
    fitted, rng = Fitted(record_of(tries)), random.Random(1)
    assert 150 < sum(bool(fitted.refuses(A, 3.0, rng)) for _ in range(400)) < 250
    answers = [fitted.draw("orders", A, 3.0, rng, is_again=False, is_new=True, in_flight=0) for _ in range(50)]
    assert {answer.status for answer in answers} == {200}


def test_a_replay_of_the_same_seed_is_the_same() -> None:
    old, new = policies(PLAIN), policies(RETRIES)
    record = recorded(old, Truth(errors=0.1), traffic(300, 30.0))
    assert replay(old, new, record, [1]) == replay(old, new, record, [1])
    assert replay(old, new, record, [1]).new != replay(old, new, record, [2]).new


def test_retries_that_rescued_and_that_did_not_are_told_apart() -> None:
    spec, requests = (
        policies(RETRIES),
        traffic(300, 10.0),
    )
    some = run_world(spec, requests, Truth(errors=0.1), 1)
    assert some.retries > 0
    assert some.rescued > some.not_rescued
    none = run_world(spec, requests, Truth(errors=1.0), 1)
    assert none.rescued == 0
    assert none.not_rescued > 0


def test_hedges_that_rescued() -> None:
    found = run_world(policies("timeout: {request: 3s}, hedge: {after: 150ms}"), traffic(300, 30.0), Truth(slow=0.1), 1)
    assert 0 < found.rescued <= found.hedges


def test_cache_and_breakers_are_counted() -> None:
    found = run_world(policies("cache: {ttl: 5s}"), traffic(300, 30.0), Truth(), 1)
    assert found.hit_ratio is not None
    assert found.hit_ratio > 0.5
    assert found.load < 0.5
    opened = run_world(policies("circuit_breaker: {open_for: 2s}"), traffic(300, 30.0), Truth(errors=1.0), 1)
    assert opened.opened >= 2
    assert opened.refused > 100
    assert opened.bugs == 0


def test_percentiles_are_values_of_the_run() -> None:
    assert percentile([], 0.5) == 0.0
    assert percentile([1.0, 2.0, 3.0], 0.5) == 2.0
    assert percentile([float(n) for n in range(1, 101)], 0.99) == 99.0


def test_routes_with_credentials_are_replayed_without_them() -> None:
    text = POLICIES % (
        "",
        ", authenticate: {any_of: [id]}, rate_limit: [{name: each, key: caller, rate: 5/s, burst: 5}]",
    )
    text += IDENTITY
    loaded = load([Source("p.yaml", text.encode())], {})
    if loaded.spec is None:
        pytest.fail("\n".join(map(str, loaded.problems)))
    requests = [each._replace(caller="ann" if n % 2 else "bob") for n, each in enumerate(traffic(200, 40.0))]
    found = run_world(loaded.spec, requests, Truth(), 1)
    assert (found.bugs, found.unmatched) == (0, 0)
    assert 0 < found.refused < 200


# ----- the command


@pytest.fixture
def log(tmp_path: Path) -> Path:
    """Return a directory with two policy files and a log of the first."""
    (tmp_path / "old.yaml").write_text(POLICIES % ("", f", {PLAIN}"))
    (tmp_path / "new.yaml").write_text(POLICIES % ("", f", {RETRIES}"))
    lines = logged(policies(PLAIN), Truth(errors=0.1), traffic(200, 30.0), 1)[1]
    (tmp_path / "access.jsonl").write_bytes(b"".join(lines) + b"not JSON\n")
    return tmp_path


def run(log: Path, old: str, new: str, *options: str, name: str = "access.jsonl") -> Result:
    arguments = ["replay", str(log / old), str(log / new), "--log", str(log / name), "--seeds", "1", *options]
    return CliRunner().invoke(main, arguments)


def test_the_command_prints_both_sides_and_what_the_log_cannot_tell(log: Path) -> None:
    result = run(log, "old.yaml", "new.yaml", "--html", str(log / "page.html"))
    assert result.exit_code == 0, result.output
    assert "the new policies are better" in result.output
    assert "access.jsonl:201: is not JSON" in result.output
    assert "the log shows no latency and no failures that depend on load" in result.output
    page = (log / "page.html").read_text()
    assert "<h1>the new policies are better</h1>" in page
    assert "http://" not in page


def test_the_command_fails_if_the_new_policies_exceed_a_bound(log: Path) -> None:
    result = run(log, "new.yaml", "old.yaml", "--json")
    found = json.loads(result.output)
    assert (result.exit_code, found["ok"], found["better"]) == (1, False, "old")
    assert found["failures"][0].startswith("availability drops by ")
    assert found["unreadable"]["lines"] == 1
    assert run(log, "new.yaml", "old.yaml", "--max-drop", "50").exit_code == 0
    result = run(log, "old.yaml", "new.yaml", "--max-load", "1.01", "--max-p99", "0.1")
    assert result.exit_code == 1
    assert "load on the upstreams is" in result.output
    assert "p99 is" in result.output


@pytest.mark.parametrize(
    ("name", "message"),
    [("none.jsonl", "name an access log"), ("old.yaml", "has no requests to replay")],
)
def test_a_log_that_cannot_be_used_is_named(log: Path, name: str, message: str) -> None:
    result = run(log, "old.yaml", "new.yaml", name=name)
    assert result.exit_code == 1
    assert message in result.output


def test_a_log_of_another_service_is_refused(log: Path) -> None:
    (log / "new.yaml").write_text(
        (POLICIES % ("", "")).replace("name: orders,", "name: orders, match: {path: /other},")
    )
    result = run(log, "old.yaml", "new.yaml")
    assert result.exit_code == 1
    assert "no request has a route in the policies" in result.output
