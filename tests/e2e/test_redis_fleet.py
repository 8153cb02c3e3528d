"""Real processes that share one limit in a real Redis: the total holds, with skewed load, a kill and a restart."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.support.fleet_process import Decisions, Processes
from tests.support.redis import SERVER, Redis

pytest.importorskip("redis")
pytestmark = pytest.mark.skipif(SERVER is None, reason="there is no redis-server here")
RATE = 300
BURST = 30
LEASE = 0.1
LIMIT = {"rate": f"{RATE}/s", "burst": BURST, "lease": "100ms"}
DEMANDS = (480.0, 240.0, 120.0, 60.0)
"""Requests a second of each process: three times the limit together."""


def alone_admitted(found: Decisions, start: float) -> int:
    """Return how many of the requests one process without leases would have admitted, from an instant on."""
    admitted, tat = 0, 0.0
    for at in sorted(found.admitted + found.refused):
        if max(tat, at) + 1 / RATE <= at + (1 + BURST) / RATE:
            tat = max(tat, at) + 1 / RATE
            admitted += at >= start
    return admitted


def most_in_a_second(admitted: list[float]) -> int:
    most = first = 0
    for index, at in enumerate(admitted):
        while admitted[first] <= at - 1.0:
            first += 1
        most = max(most, index - first + 1)
    return most


def test_four_processes_share_one_limit_and_so_they_do_after_a_kill_and_a_restart(tmp_path: Path) -> None:
    """Judged by the instants of the decisions themselves.

    What a slow machine lets lapse is allowed for: leases whose process does not come to its turn in time.
    """
    redis = Redis(tmp_path)
    try:
        with Processes(redis.url, LIMIT, tmp_path) as processes:
            for demand in DEMANDS:
                processes.start(demand)
            processes.until_admitted(2 * RATE)
            processes.kill(0)
            processes.start(DEMANDS[0])
            processes.until_admitted(4 * RATE)
            found = processes.decisions()
    finally:
        redis.kill()
    assert most_in_a_second(found.admitted) <= 1.2 * (RATE + 1 + BURST)
    start, end = found.admitted[0] + 1.0, found.admitted[-1]
    steady = sum(at >= start for at in found.admitted)
    assert steady <= 1.05 * RATE * (end - start) + 1 + BURST
    allowance = RATE * (LEASE + found.late)  # the killed process had a lease
    assert steady >= 0.95 * alone_admitted(found, start) - allowance
