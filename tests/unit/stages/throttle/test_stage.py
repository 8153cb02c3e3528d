"""Tests of `throttle`: requests against accepts, by criticality, and how it finds out that the upstream is well."""

from __future__ import annotations

from typing import Any

import pytest

from sidecar.core import metrics
from sidecar.core.exchange import CRITICAL, SHEDDABLE
from sidecar.core.outcome import BREAKER_OPEN, CONNECT_FAILURE, OVERLOADED, Outcome, failed
from sidecar.engine.pipeline import Pipeline
from sidecar.stages.throttle import stage as throttle
from sidecar.stages.throttle.spec import Spec
from tests.support.clock import FakeEnv, make_env
from tests.support.service import ScriptedService, Store, context, exchange, response


class World:
    """Throttle in front of an upstream with one answer."""

    def __init__(self, store: Store | None = None, env: FakeEnv | None = None, **block: Any) -> None:
        self.env = env or make_env()
        self.answer: Any = response(200)
        self.store = store or Store()
        self.inner = ScriptedService(200)
        spec = Spec.model_validate({"min_calls": 10, **block})
        self.stage = throttle.build(spec, context(self.env, store=self.store))
        self.call = Pipeline([self.stage], self.reply)
        self.sent = 0

    async def reply(self, _: Any) -> Outcome:
        self.sent += 1
        return self.answer() if callable(self.answer) else self.answer

    async def send(self, number: int, criticality: int | None = None) -> int:
        """Send requests, and return how many reached the upstream."""
        before = self.sent
        for _ in range(number):
            x = exchange()
            if criticality is not None:
                x.criticality = criticality
            self.last = await self.call(x)
        return self.sent - before


async def test_an_upstream_that_accepts_gets_everything() -> None:
    world = World()
    assert await world.send(500) == 500


@pytest.mark.parametrize(
    "answer",
    [lambda: failed(CONNECT_FAILURE), lambda: response(503), lambda: response(429, headers={"retry-after": "1"})],
)
async def test_an_upstream_that_accepts_nothing_gets_the_rest_of_the_largest_share(answer: Any) -> None:
    world = World()
    world.answer = answer
    await world.send(200)
    assert await world.send(1000) == pytest.approx(100, abs=40)
    world.answer = lambda: response(200)


async def test_a_refusal_says_why() -> None:
    world = World(max_refused="99%")
    world.answer = lambda: response(503)
    await world.send(400)
    while world.last.failure is None:
        await world.send(1)
    assert world.last.failure is OVERLOADED
    assert world.last.refusal.policy == "throttle"
    assert "of the attempts of this criticality are refused" in world.last.refusal.detail
    assert world.env.meter.value(metrics.THROTTLED, route="order") > 300


async def test_an_upstream_that_accepts_half_is_not_throttled() -> None:
    world = World()
    world.answer = lambda: response(200 if world.sent % 2 else 503)
    assert await world.send(400) == 400


async def test_each_criticality_has_its_own_counts() -> None:
    world = World()
    world.answer = lambda: response(503)
    await world.send(200, SHEDDABLE)
    world.answer = lambda: response(200)
    assert await world.send(100, CRITICAL) == 100
    assert await world.send(100, SHEDDABLE) < 50


async def test_a_recovered_upstream_gets_everything_after_a_window() -> None:
    world = World(window="10s")
    world.answer = lambda: response(503)
    await world.send(200)
    world.answer = lambda: response(200)
    for _ in range(30):
        await world.send(10)
        world.env.advance(1.0)
    assert await world.send(100) == 100


@pytest.mark.parametrize("status", [400, 404, 500])
async def test_errors_that_are_no_refusal_are_accepted(status: int) -> None:
    world = World()
    world.answer = lambda: response(status)
    assert await world.send(200) == 200


async def test_refusals_further_in_count_as_nothing() -> None:
    world = World()
    world.answer = lambda: failed(BREAKER_OPEN)
    assert await world.send(200) == 200


async def test_observe_counts_and_sends() -> None:
    world = World(mode="observe")
    world.answer = lambda: response(503)
    assert await world.send(200) == 200
    assert world.env.meter.value(metrics.WOULD_REFUSE, policy="throttle") > 100


async def test_counts_survive_a_reload() -> None:
    world = World()
    world.answer = lambda: response(503)
    await world.send(200)
    after = World(world.store, world.env)
    assert await after.send(200) < 100
    facts = world.stage._throttle.describe()["by_criticality"]["default"]  # type: ignore[attr-defined]
    assert facts["accepts"] < facts["attempts"]
