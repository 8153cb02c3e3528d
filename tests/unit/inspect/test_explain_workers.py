"""Tests of `sidecar explain` for several workers: the scope of each limit."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from click.testing import CliRunner

from sidecar.commands import main

POLICIES = """version: 1
listeners: {{inbound: {{address: "127.0.0.1:0"}}}}
process: {{workers: {workers}}}
upstreams: {{app: {{endpoints: ["http://app:80"], concurrency: {{max: 30}}}}}}
routes:
  - name: order
    match: {{path: /}}
    upstream: app
    circuit_breaker: {{}}
    pacing: {{}}
    throttle: {{}}
    concurrency: {{adaptive: {{min: 4, max: 40}}}}
    rate_limit:
      - {{name: paced, rate: 10/s, burst: 20, delay: {{max: 50ms}}}}
      - {{name: counted, rate: 10/s, burst: 2}}
    quota:
      - {{name: day, max: 100, per: day}}
      - {{name: kept, max: 100, per: day, store: disk}}
stores: {{disk: {{file: /var/lib/quotas.db}}}}
"""


def explained(directory: Path, workers: int, *options: str) -> str:
    path = directory / "p.yaml"
    path.write_text(POLICIES.format(workers=workers))
    return CliRunner().invoke(main, ["explain", *options, str(path), "GET", "/"]).stdout


@pytest.mark.parametrize(
    "sentence",
    [
        "4 workers serve; a connection stays with one of them",
        "rate_limit: `paced` is divided into 4 even parts, since it has a `delay`",
        "rate_limit: `counted` has one count for all workers",
        "concurrency: each worker has its own adaptive limit",
        "concurrency: one limit for all workers; a queue has 4 even parts",
        "circuit_breaker: each worker counts for itself; what one opens or closes is told to all",
        "quota: `day` is counted in each of 4 workers, since it has no `store`",
        "quota: `kept` has one count for all processes that share `disk`",
        "retry_budget: one for all workers",
        "throttle: each worker has its own counts",
        "pacing: each worker has its own rate",
    ],
)
def test_the_scope_of_each_limit_is_told(tmp_path: Path, sentence: str) -> None:
    assert f"    {sentence}\n" in explained(tmp_path, 4)


def test_nothing_is_said_about_one_worker(tmp_path: Path) -> None:
    assert "workers" not in explained(tmp_path, 1)


@pytest.mark.parametrize("workers", [1, 4])
def test_the_document_has_the_scope_of_each_limit(tmp_path: Path, workers: int) -> None:
    taken = json.loads(explained(tmp_path, workers, "--json"))["route"]
    assert taken["workers"] == workers
    found = {(each["policy"], each["name"]): each["shared_by"] for each in taken["scopes"]}
    assert found["rate_limit", "paced"] == found["quota", "day"] == found["connections", None] == "process"
    assert found["rate_limit", "counted"] == found["circuit_breaker", None] == "workers"
    assert found["quota", "kept"] == "fleet"
    assert [each["shared_by"] for each in taken["scopes"] if each["policy"] == "concurrency"] == ["process", "workers"]
