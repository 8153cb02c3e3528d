"""Tests of the check of policies for several workers."""

from __future__ import annotations

from sidecar.config.files import Source
from sidecar.config.load import load

POLICIES = """version: 1
listeners: {{inbound: {{address: "127.0.0.1:0"}}}}
process: {{workers: {workers}}}
upstreams: {{app: {{endpoints: ["http://app:80"], concurrency: {{max: 3}}}}}}
routes:
  - name: order
    match: {{path: /}}
    upstream: app
    concurrency: {{max: 8}}
    rate_limit:
      - {{name: paced, rate: 10/s, burst: 2, delay: {{max: 50ms}}}}
      - {{name: counted, rate: 10/s, burst: 2}}
"""


QUOTAS = """    quota:
      - {name: day, max: 100, per: day}
      - {name: kept, max: 100, per: day, store: disk}
stores: {disk: {file: /var/lib/quotas.db}}
"""


def warnings(workers: int, more: str = "") -> list[tuple[str, str]]:
    found = load([Source("p.yaml", (POLICIES.format(workers=workers) + more).encode())], {})
    assert found.problems == []
    return [(each.path, each.message) for each in found.warnings if "workers" in each.message]


def test_limits_smaller_than_the_number_of_workers_are_named() -> None:
    first, second = warnings(4)
    assert first == (
        "upstreams.app.concurrency.max",
        "is less than the number of workers (4), so permits have to move between them; raise it, or lower "
        "process.workers",
    )
    assert second == (
        "routes.order.rate_limit.paced",
        "with a delay is divided among 4 workers, and a burst below 3 leaves each less than a request; raise burst, or "
        "take delay out",
    )


def test_nothing_is_said_about_one_worker_or_few() -> None:
    assert warnings(1) == warnings(2) == []


def test_a_quota_that_each_worker_counts_for_itself_is_named() -> None:
    assert warnings(2, QUOTAS) == [
        (
            "routes.order.quota.day",
            "has no store, so each of 2 workers counts for itself, and up to 2 times 100 requests pass; name a store, "
            "such as a file of this machine",
        )
    ]
    assert warnings(1, QUOTAS) == []
