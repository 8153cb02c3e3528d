"""Tests of recommendations from figures of a sidecar: the values that a log suggests, and what figures cannot tell."""

from __future__ import annotations

import json
import random
from pathlib import Path

import pytest
from click.testing import CliRunner, Result

from sidecar.commands import main
from sidecar.config.files import Source
from sidecar.config.load import load
from sidecar.config.spec import PolicySpec
from sidecar.core import metrics
from sidecar.lint.facts import Policies
from sidecar.replay.advice import Advice, advise
from sidecar.replay.evidence import LogOrigin, Origin
from sidecar.replay.figures import FiguresOrigin
from sidecar.replay.record import Record, Try
from sidecar.telemetry.metrics.durations import AttemptMetrics, RouteMetrics
from sidecar.telemetry.metrics.history import PERIOD, History
from sidecar.telemetry.metrics.period import HistoryDocument, read_history
from sidecar.telemetry.metrics.registry import Registry
from tests.unit.replay.truth import POLICIES, A, B, Truth, policies, traffic

GOOD = Truth(errors=0.01)


def made(truth: Truth, limit: float, tries: int) -> Record:
    """Return the record of requests to known upstreams, with a timeout and a number of attempts."""
    rng = random.Random(5)
    record = Record()
    record.has_attempts = True
    for request in traffic(3900, 30.0):
        found: list[Try] = []
        at = request.at
        for number in range(tries):
            endpoint = (A, B)[rng.randrange(2)]
            answer = truth.draw("orders", endpoint, at, rng, is_again=number > 0, is_new=False, in_flight=0)
            is_late = answer.seconds > limit
            took = min(answer.seconds, limit)
            late = ("timeout", 0) if is_late else ("", answer.status)
            found.append(Try(endpoint, at, took, late[1], late[0], number > 0))
            at += took
            if found[-1].status == 200:
                break
        last = found[-1]
        record.requests.append(request._replace(status=last.status or 504, reason=last.reason, seconds=at - request.at))
        record.tries.append(found)
    return record


async def history_of(record: Record) -> History:
    """Return the history that the attempts of a record leave in a sidecar."""
    registry = Registry()
    route, attempts = RouteMetrics(registry, {"route": "orders"}), AttemptMetrics(registry)
    again = registry.counter(metrics.RETRIES, route="orders", reason="503")
    active = 0
    registry.gauge(metrics.CONCURRENCY_ACTIVE, lambda: active, upstream="app")
    history = History(registry, 10**7)
    steps = [(a.at, 1, a) for tries in record.tries for a in tries]
    steps += [(a.at + a.seconds, -1, a) for tries in record.tries for a in tries]
    end, second = PERIOD, 0

    async def turn() -> None:
        """Wait for nothing."""

    for at, step, a in sorted(steps, key=lambda each: each[:2]):
        while at >= end:
            await history.end_period(end, PERIOD, turn)
            end += PERIOD
        active += step
        if int(at) > second:
            second = int(at)
            history.watch()
        if step < 0:
            attempts.record("app", a.endpoint, b"GET", a.status, a.reason, a.seconds)
            again.value += a.is_again
    for request in record.requests:
        route.record(b"GET", request.status, request.reason, request.seconds)
    await history.end_period(end, PERIOD, turn)
    return history


async def usual(found: list[HistoryDocument] = []) -> HistoryDocument:  # noqa: B006 - made once for all tests
    """Return the history of good times."""
    if not found:
        found.append(read_history((await history_of(made(GOOD, 10.0, 1))).document()))
    return found[0]


def advised(origin: Origin) -> dict[str, Advice]:
    return {each.place: each for each in advise(origin)}


CASES = {
    "a long timeout": ("timeout: {request: 10s, attempt: 5s}", GOOD, "", 5.0, 1, "routes.orders.timeout.attempt"),
    "no timeout": ("timeout: {request: 10s}", GOOD, "", 10.0, 1, "routes.orders.timeout.attempt"),
    "a short timeout": (
        "timeout: {request: 10s, attempt: 60ms}", Truth(slow=0.02, slow_seconds=0.03), "", 0.06, 1,
        "routes.orders.timeout.attempt",
    ),
    "a late hedge": (
        "timeout: {request: 10s, attempt: 500ms}, hedge: {after: 400ms}", GOOD, "", 0.5, 1, "routes.orders.hedge.after",
    ),
    "a nervous breaker": (
        "timeout: {request: 1s}", Truth(errors=0.06, down=[(A, 30.0, 50.0), (B, 30.0, 50.0)]),
        "circuit_breaker: {failure_rate: 10%, min_calls: 10, window: 10s}", 1.0, 1,
        "upstreams.app.circuit_breaker.failure_rate",
    ),
    "a distant limit": (
        "timeout: {request: 1s}", GOOD, "concurrency: {max: 5000}", 1.0, 1, "upstreams.app.concurrency.max",
    ),
    "an idle budget": (
        "timeout: {request: 1s}, retry: {max_attempts: 2}", GOOD, "retry_budget: {ratio: 60%}", 1.0, 2,
        "upstreams.app.retry_budget.ratio",
    ),
}  # fmt: skip


@pytest.mark.parametrize("name", CASES)
async def test_figures_suggest_what_a_log_suggests(name: str) -> None:
    route, truth, upstream, limit, tries, place = CASES[name]
    spec, record = policies(route, upstream), made(truth, limit, tries)
    figures = FiguresOrigin(Policies(spec), read_history((await history_of(record)).document()))
    log, found = advised(LogOrigin(Policies(spec), record)), advised(figures)
    assert log.keys() == found.keys()
    assert log[place].old == found[place].old
    assert found[place].why
    old, new = (number(each[place].new) for each in (log, found))
    assert new == pytest.approx(old, rel=0.15 if "timeout" in place or "hedge" in place else 1.0)


def number(text: str) -> float:
    """Return a suggested value as a number, in milliseconds if it is a time."""
    return float(text.removesuffix("ms").removesuffix("%"))


# ----- what figures cannot tell

TWO = """
version: 1
listeners: {inbound: {address: "127.0.0.1:0"}}
upstreams: {app: {endpoints: ["http://app-1:80"]%s}}
routes:
  - {name: orders, match: {path: /orders}, upstream: app, timeout: {request: 10s}%s}
  - {name: others, match: {path: /others}, upstream: app, timeout: {request: 10s}}
"""


def spec_of(upstream: str = "", route: str = "") -> PolicySpec:
    loaded = load([Source("p.yaml", (TWO % (upstream, route)).encode())], {})
    assert loaded.spec is not None, list(map(str, loaded.problems))
    return loaded.spec


@pytest.mark.parametrize(
    ("upstream", "route", "is_told"),
    [
        ("", "", True),
        ("", ", retry: {max_attempts: 2}", False),
        ("", ", hedge: {after: 100ms}", False),
        ("", ", cache: {ttl: 1s}", False),
        ("", ", fallback: [{response: {status: 503}}]", False),
        ("", ", concurrency: {max: 9, queue: 9, queue_timeout: 1s}", False),
        ("", ", concurrency: {max: 9}", True),
        (", concurrency: {max: 9, queue: 9, queue_timeout: 1s}", "", False),
        ("", ", rate_limit: [{name: all, rate: 9/s, delay: {max: 1s}}]", False),
    ],
)
async def test_a_request_tells_of_an_attempt_only_if_it_is_nothing_else(
    upstream: str, route: str, is_told: bool
) -> None:
    origin = FiguresOrigin(Policies(spec_of(upstream, route)), await usual())
    assert ("routes.orders.timeout.attempt" in advised(origin)) == is_told
    assert any("orders" in each and "--log" in each for each in origin.unknown()) != is_told


# ----- the command


def run(*options: str) -> Result:
    return CliRunner().invoke(main, ["recommend", "p.yaml", *options])


async def test_the_command_reads_a_history(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    route = "timeout: {request: 10s, attempt: 5s}, retry: {max_attempts: 2}"
    (tmp_path / "p.yaml").write_text(POLICIES % (", retry_budget: {ratio: 60%}", f", {route}"))
    (tmp_path / "history.json").write_bytes((await history_of(made(GOOD, 5.0, 2))).document())
    monkeypatch.chdir(tmp_path)
    result = run("--history", "history.json", "--write", "values.patch")
    assert result.exit_code == 0, result.output
    assert result.output.startswith("3900 requests in 180 s\n")
    assert "p.yaml:6: routes.orders.timeout.attempt: 5s -> " in result.output
    assert "replay: " not in result.output
    assert "What the figures cannot tell:" in result.output
    assert "- effects of the values: " in result.output
    assert "timeout: {request: 10s, attempt: " in (tmp_path / "values.patch").read_text()
    document = json.loads(run("--history", "history.json", "--json").output)
    assert (document["origin"], document["before"], document["after"]) == ("figures", None, None)
    assert document["suggestions"][0]["replayed"] is None


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ((), "say where the evidence comes from: --log, --admin or --history"),
        (("--admin", "x", "--history", "y"), "cannot stand beside --admin"),
        (("--log", "none", "--history", "none"), "none: No such file"),
        (("--history", "none", "--format", "nginx"), "is that of a log; add --log"),
        (("--history", "none"), "none: No such file"),
        (("--history", "p.yaml"), "p.yaml: is no history of this version: Invalid JSON"),
        (("--admin", "nonsense:x"), "nonsense:x"),
        (("--admin", "unix:/run/admin.sock"), "is a Unix socket"),
        (("--admin", "127.0.0.1:1"), "no admin listener answers"),
    ],
)
def test_a_history_that_cannot_be_read(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, options: tuple[str, ...], message: str
) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "p.yaml").write_text(POLICIES % ("", ""))
    result = run(*options)
    assert result.exit_code != 0
    assert message in result.output
