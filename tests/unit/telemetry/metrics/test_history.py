"""Tests of the history: what a period has, its bound, and texts from elsewhere."""

from __future__ import annotations

import asyncio
import json
from typing import Any

import pytest

from sidecar.cache.refreshes import Refreshes
from sidecar.core import metrics
from sidecar.core.metrics import bucket_index
from sidecar.telemetry.metrics import history as subject
from sidecar.telemetry.metrics.durations import AttemptMetrics, RouteMetrics
from sidecar.telemetry.metrics.history import History
from sidecar.telemetry.metrics.period import read_history
from sidecar.telemetry.metrics.registry import Registry


class World:
    """Registry with a route and an upstream, and its history."""

    def __init__(self, most_bytes: int = 10_000) -> None:
        self.registry = Registry()
        self.route = RouteMetrics(self.registry, {"route": "order"})
        self.attempts = AttemptMetrics(self.registry)
        self.history = History(self.registry, most_bytes)
        self.turns = 0

    def attempt(self, status: int, reason: str = "", seconds: float = 0.02, endpoint: str = "http://app-1") -> None:
        self.attempts.record("app", endpoint, b"GET", status, reason, seconds)

    async def turn(self) -> None:
        self.turns += 1
        await asyncio.sleep(0)

    async def end(self, wall: float = 60.0) -> dict[str, Any]:
        await self.history.end_period(wall, 60.0, self.turn)
        period: dict[str, Any] = json.loads(self.history.ring[-1])
        return period


async def test_a_period_has_what_was_added_since_the_last_one() -> None:
    world = World()
    world.route.record(b"GET", 200, "", 0.02)
    assert (await world.end())["routes"] == {"order": {"good": [bucket_index(0.02), 1]}}
    assert await world.end(120.0) == {"at": 120.0, "seconds": 60.0}
    world.route.record(b"GET", 404, "", 0.02)
    world.route.record(b"POST", 200, "", 0.001)
    assert (await world.end())["routes"]["order"]["good"] == [bucket_index(0.001), 1, bucket_index(0.02), 1]


async def test_failures_are_those_of_the_upstream_alone() -> None:
    world = World()
    for status, reason in ((503, ""), (0, "timeout"), (0, "connect_failure"), (200, "reset")):
        world.attempt(status, reason)
    for reason in ("client_closed", "client_timeout", "rate_limited", "forbidden"):
        world.attempt(0, reason)
    assert (await world.end())["upstreams"]["app"] == {"failed": 4, "timeouts": 1}


async def test_endpoints_of_an_upstream_are_summed_and_a_gone_one_subtracts_nothing() -> None:
    world = World()
    for endpoint in ("http://app-1", "http://app-2"):
        world.attempt(200, endpoint=endpoint)
    assert (await world.end())["upstreams"]["app"]["good"][1] == 2
    world.attempts.retire("app", "http://app-1")
    world.attempt(200, endpoint="http://app-2")
    assert (await world.end())["upstreams"]["app"]["good"][1] == 1
    world.attempt(200)
    assert (await world.end())["upstreams"]["app"]["good"][1] == 1


async def test_repetitions_look_ups_and_openings() -> None:
    world = World()
    counter = world.registry.counter
    counter(metrics.RETRIES, route="order", reason="503").add(3)
    counter(metrics.HEDGES, route="order", result="lost").add(2)
    counter(metrics.HEDGES, route="order", result="budget").add(9)
    counter(metrics.CACHE_LOOKUPS, route="order", result="hit", mode="enforce").add(7)
    counter(metrics.CACHE_LOOKUPS, route="order", result="hit", mode="observe").add(2)
    counter(metrics.BREAKER_TRANSITIONS, breaker="upstream:app", to="open").add()
    counter(metrics.BREAKER_TRANSITIONS, breaker="upstream:app", to="closed").add()
    period = await world.end()
    assert period["routes"] == {"order": {"again": 5, "lookups": {"hit": 9}}}
    assert period["opened"] == {"upstream:app": 1}


async def test_refreshed_answers() -> None:
    world = World()
    refreshes = Refreshes(world.registry, "order")
    for age in (60.5, 90.5):
        refreshes.count(age, is_changed=True, is_stated=False)
    refreshes.count(30.0, is_changed=False, is_stated=True)
    expected = {"policy": {"changed": [2, 151]}, "answer": {"unchanged": [1, 30]}}
    assert (await world.end())["routes"] == {"order": {"refreshes": expected}}
    assert "routes" not in await world.end()
    found = read_history(world.history.document()).periods[0].routes["order"].refreshes
    assert (found["policy"].changed, found["answer"].unchanged) == ((2, 151), (1, 30))


async def test_permits_and_tokens_are_extremes_of_the_readings() -> None:
    world = World()
    values = {"active": 0.0, "tokens": 10.0}

    def broken() -> float:
        raise RuntimeError

    world.registry.gauge(metrics.CONCURRENCY_ACTIVE, lambda: values["active"], upstream="app")
    world.registry.gauge(metrics.CONCURRENCY_ACTIVE, broken, route="order")
    world.registry.gauge(metrics.BUDGET_TOKENS, lambda: values["tokens"], upstream="app")
    for active, tokens in ((3.0, 4.5), (7.0, 0.5), (1.0, 9.0)):
        values |= {"active": active, "tokens": tokens}
        world.history.watch()
    period = await world.end()
    assert (period["active"], period["tokens"]) == ({"upstream:app": 7}, {"app": 0.5})
    world.history.watch()
    assert (await world.end())["active"] == {"upstream:app": 1}


async def test_the_oldest_periods_go_beyond_the_bound() -> None:
    world = World(most_bytes=100)
    for wall in range(50):
        await world.end(float(wall))
        assert world.history.bytes == sum(map(len, world.history.ring)) <= 100
    assert json.loads(world.history.ring[0])["at"] > 40
    assert json.loads(world.history.document())["periods"][-1]["at"] == 49


async def test_many_series_are_read_in_several_turns() -> None:
    world = World()
    for number in range(3 * subject.PIECE):
        world.registry.counter(metrics.RETRIES, route=f"r{number}", reason="503").add()
    await world.end()
    assert world.turns == 3


async def test_the_document_is_read_back_and_put_before_new_periods() -> None:
    world = World()
    world.route.record(b"GET", 200, "", 0.02)
    world.attempt(503)
    await world.end(60.0)
    found = read_history(world.history.document())
    assert found.periods[0].upstreams["app"].failed == 1
    later = World()
    await later.end(120.0)
    later.history.restore(found.periods)
    assert [json.loads(each)["at"] for each in later.history.ring] == [60.0, 120.0]
    assert later.history.ring[0] == world.history.ring[0]
    assert later.history.bytes == sum(map(len, later.history.ring))


@pytest.mark.parametrize(
    ("old", "new", "message"),
    [
        (b'"version":1', b'"version":2', "version: "),
        (b'"version":1', b"", "Invalid JSON"),
        (b"[5e-06,", b"[6e-06,", "bounds: Value error, are those of another version"),
        (b'"at":60.0', b'"at":"now"', "periods.0.at: "),
        (b'"at":60.0', b'"at":-1', "periods.0.at: "),
        (b'"at":60.0', b'"at":NaN', ""),
        (b'"failed":1', b'"failed":1.5', "periods.0.upstreams.app.failed: "),
        (b'"failed":1', b'"good":[1]', "periods.0.upstreams.app.good: Value error, is no list of buckets"),
        (b'"failed":1', b'"good":[9999,1]', "periods.0.upstreams.app.good: Value error, is no list of buckets"),
        (b'"failed":1', b'"more":1', "periods.0.upstreams.app.more: "),
        (b"]}\n", b"]", "Invalid JSON"),
    ],
)
async def test_a_text_that_is_no_history_is_told_on_one_line(old: bytes, new: bytes, message: str) -> None:
    world = World()
    world.attempt(503)
    await world.end()
    text = world.history.document()
    assert old in text
    with pytest.raises(ValueError, match=f"^{message}[^\n]*$"):
        read_history(text.replace(old, new))
