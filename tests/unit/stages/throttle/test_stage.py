"""Tests of `throttle`: requests against accepts, by criticality, and how it finds out that the upstream is well."""

from __future__ import annotations

from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from sidecar.core import metrics
from sidecar.core.exchange import CRITICAL, DEFAULT, SHEDDABLE
from sidecar.core.outcome import BREAKER_OPEN, CONNECT_FAILURE, UPSTREAM_OVERLOADED, Outcome, failed, grpc_verdict
from sidecar.engine.pipeline import Pipeline
from sidecar.stages.throttle import stage as throttle
from sidecar.stages.throttle.spec import Spec
from sidecar.stages.throttle.stage import Throttle
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


def call(code: int, status: int = 200) -> Outcome:
    """Return the answer to a call of gRPC."""
    outcome = response(status)
    outcome.verdict = grpc_verdict(code)
    return outcome


@pytest.mark.parametrize(
    "answer",
    [
        lambda: failed(CONNECT_FAILURE),
        lambda: response(503),
        lambda: response(429, headers={"retry-after": "1"}),
        lambda: call(8),
        lambda: call(14),
        lambda: call(14, 429),
        lambda: call(14, 503),
    ],
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
    assert world.last.failure is UPSTREAM_OVERLOADED
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


async def test_what_is_less_critical_does_not_pass_because_it_is_rare() -> None:
    world = World(min_calls=100)
    world.answer = lambda: response(503)
    await world.send(400, DEFAULT)
    assert await world.send(90, SHEDDABLE) < 30
    while world.last.failure is None:
        await world.send(1, SHEDDABLE)
    assert world.last.refusal.value is not None
    assert world.last.refusal.value >= 400, "of the default ones"
    world.answer = lambda: response(200)
    assert await world.send(100, CRITICAL) == 100
    await world.send(5000, SHEDDABLE)
    assert await world.send(100, SHEDDABLE) == 100, "its own answers count as soon as there are enough"


@settings(max_examples=200, deadline=None)
@given(
    st.lists(st.tuples(st.integers(0, 2), st.booleans(), st.floats(0, 2)), max_size=200),
    st.sampled_from((1.1, 2, 10)), st.sampled_from((1, 5, 50)), st.sampled_from((0.5, 0.9, 1.0)),
)  # fmt: skip
def test_the_probability_is_that_of_the_formula(
    calls: list[tuple[int, bool, float]], ratio: float, min_calls: int, most: float
) -> None:
    """The model keeps every attempt with its instant, and forgets whole tenths of the window as they leave it."""
    env = make_env()
    block = {"ratio": ratio, "min_calls": min_calls, "max_refused": f"{most:.0%}", "window": "10s"}
    state = Throttle(Spec.model_validate(block), env, {"route": "order"})
    stage: Any = throttle.build(state.spec, context(env, store=Store()))
    stage._throttle = state
    kept: list[tuple[float, int, bool]] = []
    for rank, is_accepted, gap in calls:
        env.advance(gap)
        x = exchange()
        x.criticality = rank
        stage.settle(x, None, response(200 if is_accepted else 503))
        kept.append((env.now(), rank, is_accepted))
    now = env.now()
    kept = [each for each in kept if int(each[0]) > int(now) - 10]
    expected = 0.0
    for rank in range(3):
        own = [is_accepted for _, of, is_accepted in kept if of == rank]
        if len(own) >= min_calls:
            expected = min(most, max(0.0, (len(own) - ratio * sum(own)) / (len(own) + 1)))
        assert state.chance(rank, now) == pytest.approx(expected)


@pytest.mark.parametrize("most", ["90%", "100%"])
async def test_an_upstream_that_fails_for_long_is_still_asked(most: str) -> None:
    world = World(window="30s", max_refused=most)
    world.answer = lambda: response(503)
    asked = []
    for _ in range(300):
        asked.append(await world.send(20))
        world.env.advance(1.0)
    least, greatest = (0.06, 0.14) if most == "90%" else (0.0005, 0.01)
    assert least <= sum(asked[60:]) / (20 * 240) <= greatest


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
    state = world.stage._throttle  # type: ignore[attr-defined]
    for block, stay in (({"mode": "observe", "ratio": 3}, True), ({"window": "1m"}, False)):
        state.retune(Spec.model_validate(block))
        assert (state.chance(DEFAULT, world.env.now()) > 0.5) is stay
