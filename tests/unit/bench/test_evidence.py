"""Tests of the work of `lint` and of a replay: counted in calls at two sizes, and linear in routes and in requests."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest

from bench.evidence import cpu, log, policies, replay, spec_of
from sidecar.config.load import load
from sidecar.lint.run import find, lint
from sidecar.lint.traffic import RouteTraffic, TrafficSpec
from sidecar.replay.fit import Fitted
from sidecar.replay.formats import read_sidecar
from sidecar.replay.record import read
from sidecar.replay.world import run_world
from tests.support.work import grows_with

Work = Callable[[], object]


def linting(routes: int) -> Work:
    """Prepare `lint` with the traffic of each route."""
    sources = policies(routes)
    loaded = load(sources, {})
    each = RouteTraffic.model_validate({"rate": "5/s", "errors": "0.5%", "latency": {"p50": "40ms", "p99": "400ms"}})
    traffic = TrafficSpec.model_validate({"routes": {f"r{n}": each for n in range(routes)}})
    return lambda: lint(loaded, sources, traffic)


def test_work_of_lint_is_linear_in_the_routes() -> None:
    assert not grows_with(linting, 25)


@pytest.mark.parametrize("rate", [None, 50.0], ids=["in one minute", "at one rate"])
def test_work_of_a_replay_is_linear_in_the_requests(rate: float | None) -> None:
    spec = spec_of(policies(4))

    def replaying(requests: int) -> Work:
        lines = [line.encode() for line in log(requests, 4, rate or requests / 60)]

        def run() -> None:
            record = read(lines, read_sidecar)
            assert len(record.requests) == requests
            fitted = Fitted(record)
            assert run_world(spec, record.requests, fitted, 1, fitted.endpoints).requests == requests

        return run

    assert not grows_with(replaying, 60)


def test_the_bench_works(tmp_path: Path) -> None:
    path = tmp_path / "access.jsonl"
    path.write_text("".join(f"{line}\n" for line in log(300, 3)))
    numbers = replay(path, spec_of(policies(3)))
    assert (numbers.requests, numbers.unmatched, numbers.bugs) == (300, 0, 0)
    assert numbers.retries > 0
    assert cpu(lambda: list(find(spec_of(policies(3))))) >= 0
