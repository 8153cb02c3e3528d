"""Tests of the load: arrivals, changes of the rate, and latency from the instant at which a request was due."""

from __future__ import annotations

import asyncio
import random
from collections import Counter
from itertools import pairwise
from typing import Any

import pytest

from chaos.parts.load import Change, Class, Load, arrivals, rate_at
from tests.unit.chaos.linked_service import LinkedService, part_env, play


def spec(**how: Any) -> Class:
    return Class(**{"name": "c", "to": "app", "path": "/", "rate": 100.0, **how})


def test_constant_arrivals_are_evenly_apart() -> None:
    times = list(arrivals(spec(arrivals="constant"), 10, random.Random(1)))
    assert len(times) == pytest.approx(1000, abs=2)
    assert {round(b - a, 6) for a, b in pairwise(times)} == {0.01}


def test_poisson_arrivals_have_their_rate_and_spread() -> None:
    times = list(arrivals(spec(), 200, random.Random(1)))
    assert len(times) == pytest.approx(20_000, rel=0.03)
    gaps = [b - a for a, b in pairwise(times)]
    average = sum(gaps) / len(gaps)
    variance = sum((gap - average) ** 2 for gap in gaps) / len(gaps)
    assert variance**0.5 == pytest.approx(average, rel=0.05)  # as in an exponential distribution


@pytest.mark.parametrize("kind", ["poisson", "constant"])
def test_a_rate_that_changes(kind: str) -> None:
    changing = spec(arrivals=kind, changes=(Change(10, 300), Change(20, 100, over=10)))
    counts = Counter(int(at // 10) for at in arrivals(changing, 40, random.Random(1)))
    assert [counts[n] for n in range(4)] == pytest.approx([1000, 3000, 2000, 1000], rel=0.08)
    assert rate_at(changing, 25) == 200


def test_latency_counts_from_when_a_request_was_due() -> None:
    async def scene() -> None:
        linked = await LinkedService().set(workers=1, queue=1000, time=0.1)
        rows: list[Any] = []
        env = part_env(report=rows.append)
        load = Load({"classes": [{"name": "c", "to": "app", "path": "/", "rate": 20, "arrivals": "constant"}]}, env)
        await load.start()
        start = asyncio.get_running_loop().time() + 1
        await load.do("run", targets={"app": [linked.address]}, at=start, seconds=2.0)
        await load.do("wait", grace=20)
        seconds = [row[3] for row in rows]
        assert len(seconds) == pytest.approx(40, abs=1)  # twice the service's capacity: each waits longer than the last
        assert seconds == sorted(seconds)
        assert max(seconds) == pytest.approx(2.0, abs=0.15)
        await load.stop()
        await linked.close()

    play(scene)


def test_users_retry_and_are_one_row() -> None:
    async def scene() -> None:
        linked = await LinkedService().set()
        await linked.strike("status", first=1, per_request=True)
        rows: list[Any] = []
        env = part_env(report=rows.append)
        load = Load({"classes": [{"name": "c", "to": "app", "path": "/", "rate": 10, "retries": 2}]}, env)
        await load.do("run", targets={"app": [linked.address]}, at=env.now(), seconds=2.0)
        await load.do("wait", grace=20)
        assert {(row[4], row[6]) for row in rows} == {(200, 2)}
        await load.stop()
        await linked.close()

    play(scene)


def test_keys_are_popular_in_their_order() -> None:
    async def scene() -> None:
        linked = await LinkedService().set()
        env = part_env()
        load = Load({"classes": [{"name": "c", "to": "app", "path": "/k/{key}", "rate": 100, "keys": 50}]}, env)
        await load.do("run", targets={"app": [linked.address]}, at=env.now(), seconds=10.0)
        await load.do("wait", grace=20)
        counts = Counter(row[2] for row in linked.rows if row[0] == "call")
        assert counts["/k/0"] > counts["/k/4"] > counts.get("/k/40", 0)
        await load.stop()
        await linked.close()

    play(scene)
