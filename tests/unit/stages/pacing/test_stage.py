"""Tests of `pacing`: what asks for less, waits and refusals within bounds, all callers together, and observation."""

from __future__ import annotations

import asyncio
from typing import Any

import pytest

from sidecar.core import events, metrics
from sidecar.core.outcome import CONNECT_FAILURE, OVERLOADED, Outcome, failed, grpc_verdict
from sidecar.engine.pipeline import Pipeline
from sidecar.stages.pacing import stage as pacing
from sidecar.stages.pacing.spec import Spec
from tests.support.clock import FakeEnv, make_env
from tests.support.loop import virtual, virtual_env
from tests.support.service import Store, context, exchange, response


class World:
    """Pacing in front of an upstream with one answer."""

    def __init__(self, env: FakeEnv | None = None, store: Store | None = None, **block: Any) -> None:
        self.env = env or make_env()
        self.answer: Any = lambda: response(200)
        self.spec = Spec.model_validate(block)
        self.store = store or Store()
        self.stage: Any = pacing.build(self.spec, context(self.env, store=self.store))
        self.call = Pipeline([self.stage], self.reply)
        self.sent = 0

    async def reply(self, _: Any) -> Outcome:
        self.sent += 1
        outcome: Outcome = self.answer()
        return outcome

    async def warm(self, answer: Any, rate: float = 100.0) -> None:
        """Send for a second at a rate, then get one answer."""
        for _ in range(int(rate)):
            await self.call(exchange())
            self.env.advance(1 / rate)
        self.answer = answer
        await self.call(exchange())
        self.answer = lambda: response(200)

    @property
    def rate(self) -> float | None:
        found: float | None = self.stage._pacer.describe()["rate"]
        return found


def exhausted(**headers: str) -> Outcome:
    outcome = response(200, headers={"grpc-status": "8", **headers})
    outcome.verdict = grpc_verdict(8)
    return outcome


@pytest.mark.parametrize(
    ("answer", "is_slower"),
    [
        (lambda: response(429), True),
        (lambda: response(503, headers={"retry-after": "1"}), True),
        (exhausted, True),
        (lambda: response(503), False),
        (lambda: response(500), False),
        (lambda: failed(CONNECT_FAILURE), False),
    ],
)
async def test_answers_that_ask_for_less_slow_down_and_failures_do_not(answer: Any, is_slower: bool) -> None:
    world = World()
    await world.warm(answer)
    assert world.rate == (pytest.approx(70, rel=0.1) if is_slower else None)
    assert [name for name, _ in world.env.events] == ([events.PACING_BEGAN] if is_slower else [])


@pytest.mark.parametrize(
    ("answer", "hold"),
    [
        (lambda: response(429, headers={"retry-after": "3"}), 3),
        (lambda: response(429, headers={"retry-after": "3000"}), 10),
        (lambda: response(429, headers={"ratelimit": '"a";r=5;t=9, "b";r=0;t=4'}), 4),
        (lambda: response(429, headers={"ratelimit": "nonsense;;r=;t="}), 0),
        (lambda: exhausted(**{"grpc-retry-pushback-ms": "2500"}), 2.5),
        (lambda: response(429), 0),
    ],
)
async def test_the_upstream_says_for_how_long(answer: Any, hold: float) -> None:
    world = World(max_hold="10s")
    await world.warm(answer)
    pace = world.stage._pacer.pace
    assert pace._held_until - world.env.now() == pytest.approx(hold)


async def test_an_attempt_that_would_wait_too_long_is_refused() -> None:
    world = World(max_wait="0s", min_rate="1/s")
    await world.warm(lambda: response(429), rate=1.0)
    assert (await world.call(exchange())).status == 200
    refused = await world.call(exchange())
    assert refused.failure is OVERLOADED
    assert refused.refusal.policy == "pacing"
    assert refused.refusal.retry_after == pytest.approx(1, abs=0.5)
    assert "the upstream `app` has asked for less load" in refused.refusal.detail
    assert world.env.meter.value(metrics.PACED, result="refused", route="order") == 1


@virtual
async def test_attempts_wait_for_their_turn_and_no_more_than_may_wait() -> None:
    world = World(virtual_env(), max_wait="10s", waiting=5, min_rate="10/s")
    world.answer = lambda: response(429)
    await world.call(exchange())
    world.answer = lambda: response(200)
    began = world.env.now()
    found = await asyncio.gather(*(world.call(exchange()) for _ in range(10)))
    assert sorted(each.status for each in found) == [200] * 6 + [503] * 4
    assert world.env.now() - began == pytest.approx(0.5, abs=0.01)
    assert world.stage._pacer.waiting == 0


@virtual
async def test_an_attempt_does_not_wait_beyond_its_deadline() -> None:
    world = World(virtual_env(), max_wait="10s", min_rate="1/s")
    world.answer = lambda: response(429)
    await world.call(exchange())
    await world.call(exchange())
    x = exchange(deadline=world.env.now() + 0.5)
    assert (await world.call(x)).failure is OVERLOADED


@virtual
async def test_a_client_that_leaves_while_it_waits_leaves_nothing_behind() -> None:
    world = World(virtual_env(), max_wait="10s", min_rate="1/s")
    world.answer = lambda: response(429)
    await world.call(exchange())
    await world.call(exchange())
    waiting = asyncio.ensure_future(world.call(exchange()))
    await world.env.sleep(0.01)
    assert world.stage._pacer.waiting == 1
    waiting.cancel()
    await asyncio.gather(waiting, return_exceptions=True)
    assert world.stage._pacer.waiting == 0


async def test_all_callers_share_the_rate_and_a_reload_keeps_it() -> None:
    world = World()
    await world.warm(lambda: response(429))
    other = World(world.env, world.store)
    assert other.rate == world.rate


async def test_observe_sends_all_and_counts() -> None:
    world = World(mode="observe", max_wait="0s")
    await world.warm(lambda: response(429), rate=1.0)
    sent = world.sent
    for _ in range(10):
        assert (await world.call(exchange())).status == 200
    assert world.sent == sent + 10
    assert world.env.meter.value(metrics.WOULD_REFUSE, policy="pacing", route="order") >= 9


async def test_observe_delays_nothing_and_its_rate_is_not_that_of_enforcement() -> None:
    world = World(mode="observe", max_wait="1s")
    await world.warm(lambda: response(429), rate=10.0)
    for _ in range(5):
        await world.call(exchange())
    assert world.env.meter.value(metrics.PACED, result="delayed") == 0
    ((name, facts),) = world.env.events
    assert (name, facts["mode"]) == (events.PACING_BEGAN, "observe")
    assert world.rate is not None
    enforced = World(world.env, world.store)
    assert enforced.rate is None
    assert world.env.events[-1][0] == events.PACING_ENDED
    await enforced.warm(lambda: response(429), rate=10.0)
    assert enforced.rate is not None
    assert World(world.env, world.store, mode="observe").rate == enforced.rate


async def test_what_remains_is_spread_only_if_the_policy_says_so() -> None:
    for ahead in (True, False):
        world = World(ahead=ahead)
        world.answer = lambda: response(200, headers={"ratelimit": '"day";r=50;t=10'})
        await world.call(exchange())
        assert world.rate == (5.0 if ahead else None)
