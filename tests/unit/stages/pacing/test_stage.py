"""Tests of `pacing`: what asks for less, waits and refusals within bounds, all callers together, and observation."""

from __future__ import annotations

import asyncio
from typing import Any

import pytest

from sidecar.core import events, metrics
from sidecar.core.exchange import CRITICAL, SHEDDABLE
from sidecar.core.outcome import CONNECT_FAILURE, UPSTREAM_OVERLOADED, Outcome, failed, grpc_verdict
from sidecar.engine.pipeline import Pipeline
from sidecar.stages.pacing import stage as pacing
from sidecar.stages.pacing.spec import Spec
from tests.support.clock import FakeEnv, make_env
from tests.support.loop import virtual, virtual_env
from tests.support.service import Store, context, exchange, response

THEN = "Mon, 01 Jan 2035 00:00:00 GMT"
"""Date of an upstream whose clock is years ahead."""
HOUR_LATER = "Mon, 01 Jan 2035 01:00:00 GMT"


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


def call(code: int, status: int = 200, **headers: str) -> Outcome:
    """Return the answer to a call of gRPC."""
    outcome = response(status, headers={"grpc-status": str(code), **headers} if status == 200 else headers)
    outcome.verdict = grpc_verdict(code)
    return outcome


def exhausted(**headers: str) -> Outcome:
    return call(8, **headers)


def pushed_back(milliseconds: str, code: int = 14) -> Outcome:
    return call(code, **{"grpc-retry-pushback-ms": milliseconds})


@pytest.mark.parametrize(
    ("answer", "is_slower"),
    [
        (lambda: response(429), True),
        (lambda: response(503, headers={"retry-after": "1"}), True),
        (exhausted, True),
        (lambda: pushed_back("100"), True),
        (lambda: call(14, 429), True),
        (lambda: call(14, 503, **{"retry-after": "1"}), True),
        (lambda: response(503), False),
        (lambda: response(500), False),
        (lambda: call(14), False),
        (lambda: call(14, 503), False),
        (lambda: pushed_back("-1"), False),
        (lambda: pushed_back("100", code=13), False),
        (lambda: failed(CONNECT_FAILURE), False),
    ],
)
async def test_answers_that_ask_for_less_slow_down_and_failures_do_not(answer: Any, is_slower: bool) -> None:
    world = World()
    await world.warm(answer)
    assert world.rate == (pytest.approx(70, rel=0.1) if is_slower else None)
    assert world.env.meter.value(metrics.PACING_RATE) == pytest.approx(world.rate or 0, abs=0.001)
    assert [name for name, _ in world.env.events] == ([events.PACING_BEGAN] if is_slower else [])


@pytest.mark.parametrize(
    ("answer", "hold"),
    [
        (lambda: response(429, headers={"retry-after": "3"}), 3),
        (lambda: response(429, headers={"retry-after": "3000"}), 10),
        (lambda: response(429, headers={"retry-after": "9" * 400}), 10),
        (lambda: response(429, headers={"retry-after": "-3"}), 0),
        (lambda: response(429, headers={"retry-after": "1.5"}), 0),
        (lambda: response(429, headers={"retry-after": "1.5", "ratelimit": '"a";r=0;t=4'}), 4),
        (lambda: response(429, headers={"retry-after": "0", "ratelimit": '"a";r=0;t=4'}), 0),
        (lambda: response(429, headers={"retry-after": HOUR_LATER, "date": THEN}), 10),
        (lambda: response(429, headers={"retry-after": "Fri, 31 Dec 1999 23:59:59 GMT"}), 0),
        (lambda: response(429, headers={"retry-after": "Fri, 31 Dec 9999 23:59:59 GMT"}), 10),
        (lambda: response(429, headers={"retry-after": "Mon, 01 Jan 2035 00:00:05 GMT", "date": THEN}), 5),
        (lambda: response(429, headers={"retry-after": "Mon, 41 Jan 2035 00:00:05 GMT"}), 0),
        (lambda: response(429, headers={"ratelimit": '"a";r=5;t=9, "b";r=0;t=4'}), 4),
        (lambda: response(429, headers={"ratelimit": '"a";r=0;t=3, "b";r=0;t=4'}), 4),
        (lambda: response(429, headers={"ratelimit": '"a";t=4;pk=:aGk=:;r=0'}), 4),
        (lambda: response(429, headers={"ratelimit": '"a;r=0;t=9";r=1;t=4'}), 0),
        (lambda: response(429, headers={"ratelimit": f'"a";r=0;t={"9" * 15}'}), 10),
        (lambda: response(429, headers={"ratelimit": '"a";r=0'}), 0),
        (lambda: response(429, headers={"ratelimit": '"a";r=0.5;t=4'}), 0),
        (lambda: response(429, headers={"ratelimit": "nonsense;;r=;t="}), 0),
        (lambda: response(429, headers={"ratelimit": "limit=10, remaining=0, reset=4"}), 0),
        (lambda: response(429, headers={"ratelimit": '"a";r=0;t=4' + "," * 1000}), 0),
        (lambda: response(429, headers=[(b"ratelimit", b'"a";r=9;t=9'), (b"ratelimit", b'"b";r=0;t=4')]), 4),
        (lambda: exhausted(**{"grpc-retry-pushback-ms": "2500"}), 2.5),
        (lambda: exhausted(**{"grpc-retry-pushback-ms": "-1"}), 0),
        (lambda: exhausted(**{"grpc-retry-pushback-ms": "soon", "retry-after": "3"}), 3),
        (lambda: call(14, 429, **{"retry-after": "3"}), 3),
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
    assert refused.failure is UPSTREAM_OVERLOADED
    assert refused.refusal.policy == "pacing"
    assert refused.refusal.retry_after == pytest.approx(1, abs=0.5)
    assert "the upstream `app` has asked for less load, and gets 1.4 attempts per second; the turn" in (
        refused.refusal.detail
    )
    assert (refused.refusal.limit, refused.refusal.value) == (0, pytest.approx(refused.refusal.retry_after, rel=0.01))
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
    assert found[-1].refusal.detail.endswith("; 5 wait already")
    assert (found[-1].refusal.limit, found[-1].refusal.value) == (5, 5)
    assert world.env.now() - began == pytest.approx(0.5, abs=0.01)
    assert world.stage._pacer.waiting == 0


@virtual
async def test_an_attempt_does_not_wait_beyond_its_deadline() -> None:
    world = World(virtual_env(), max_wait="10s", min_rate="1/s")
    world.answer = lambda: response(429)
    await world.call(exchange())
    await world.call(exchange())
    x = exchange(deadline=world.env.now() + 0.5)
    refused = await world.call(x)
    assert refused.failure is UPSTREAM_OVERLOADED
    assert refused.refusal.detail.endswith(", after its deadline")


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


@virtual
async def test_an_attempt_that_waited_while_the_rate_fell_lowers_it_no_further() -> None:
    world = World(virtual_env(), max_wait="1s", min_rate="1/s")
    for _ in range(10):
        await world.call(exchange())
        await world.env.sleep(0.1)
    world.answer = lambda: response(429)
    await world.call(exchange())
    await world.call(exchange())
    waiting = [asyncio.ensure_future(world.call(exchange())) for _ in range(2)]
    await world.env.sleep(0)
    assert world.stage._pacer.waiting == 2
    pacer = world.stage._pacer
    pacer.press(world.env.now(), world.env.now(), 0.0)
    rate = world.rate
    world.answer = lambda: response(429)
    await asyncio.gather(*waiting)
    assert world.rate == rate
    await world.env.sleep(1)
    await world.call(exchange())
    assert world.stage._pacer.pace.rate < rate


@virtual
async def test_sheddable_attempts_leave_the_turns_to_others() -> None:
    world = World(virtual_env(), max_wait="1040ms", min_rate="10/s")
    world.answer = lambda: response(429)
    await world.call(exchange())
    world.answer = lambda: response(200)

    async def send(number: int, criticality: int | None) -> int:
        found = []
        for _ in range(number):
            x = exchange()
            if criticality is not None:
                x.criticality = criticality
            found.append(asyncio.ensure_future(world.call(x)))
        await world.env.sleep(0)
        sent = sum(not each.done() or each.result().status == 200 for each in found)
        tasks.extend(found)
        return sent

    tasks: list[asyncio.Task[Outcome]] = []
    assert await send(20, SHEDDABLE) == 6
    assert await send(20, CRITICAL) == 5
    assert await send(20, SHEDDABLE) == await send(20, None) == 0
    await asyncio.gather(*tasks)


@virtual
async def test_a_hedge_waits_for_no_turn() -> None:
    world = World(virtual_env(), max_wait="10s", min_rate="10/s")
    world.answer = lambda: response(429)
    await world.call(exchange())
    x = exchange()
    x.is_hedge = True
    assert (await world.call(x)).status == 429, "its turn is now"
    twin = x.fork(1, "hedge")
    assert (await world.call(twin)).failure is UPSTREAM_OVERLOADED
    assert (await world.call(exchange())).status == 429


async def test_failures_of_the_upstream_do_not_raise_the_rate() -> None:
    for answer, is_raised in (
        (lambda: response(200), True),
        (lambda: response(404), True),
        (lambda: response(500), False),
        (lambda: response(503), False),
        (lambda: call(14), False),
        (lambda: failed(CONNECT_FAILURE), False),
    ):
        world = World()
        await world.warm(lambda: response(429))
        rate, world.answer = world.rate, answer
        for _ in range(100):
            world.env.advance(0.05)
            await world.call(exchange())
        assert (world.rate != rate) is is_raised, answer()


async def test_the_limit_of_an_upstream_without_requests_ends() -> None:
    world = World()
    await world.warm(lambda: response(429))
    world.env.advance(61)
    assert world.rate is None
    assert world.env.meter.value(metrics.PACING_RATE) == 0
    await world.call(exchange())
    assert [name for name, _ in world.env.events] == [events.PACING_BEGAN, events.PACING_ENDED]
    await world.warm(lambda: response(429))
    world.env.advance(61)
    await world.warm(lambda: response(429))
    assert [name for name, _ in world.env.events[2:]] == [
        events.PACING_BEGAN, events.PACING_ENDED, events.PACING_BEGAN
    ]  # fmt: skip


async def test_a_reload_shortens_a_hold() -> None:
    world = World(max_hold="1h")
    await world.warm(lambda: response(429, headers={"retry-after": "3600"}))
    pacer = world.stage._pacer
    pacer.retune(Spec.model_validate({"max_hold": "10s"}))
    assert pacer.pace._held_until - world.env.now() == pytest.approx(10)


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
    assert world.env.meter.value(metrics.PACED) == 0


async def test_observe_counts_those_beyond_the_places() -> None:
    for waiting, expected in ((5, 4), (100, 0)):
        world = World(mode="observe", max_wait="10s", min_rate="10/s", waiting=waiting)
        world.answer = lambda: response(429)
        await world.call(exchange())
        for _ in range(10):
            assert (await world.call(exchange())).status == 429
        assert world.env.meter.value(metrics.WOULD_REFUSE, policy="pacing", route="order") == expected


async def test_observe_counts_no_delays() -> None:
    world = World(mode="observe", max_wait="10s")
    await world.warm(lambda: response(429), rate=1.0)
    for _ in range(5):
        await world.call(exchange())
    assert world.env.meter.value(metrics.WOULD_REFUSE, policy="pacing", route="order") == 0
    assert world.env.meter.value(metrics.PACED) == 0


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


@pytest.mark.parametrize(
    ("fields", "rate"),
    [
        (['"day";t=10;r=50'], 5.0),
        (['"second";r=100;t=1', '"day";r=50;t=10'], 5.0),
        (['"day";r=0;t=10'], 1.0),
        ([f'"day";r=0;t={"9" * 15}'], 1.0),
        (['"day";r=50;t=0'], None),
        (['"day";r=-5;t=10'], None),
        (['"day";r=5;t=-10'], None),
        (['"day";r=5'], None),
        (['"day";r=5;t=1', "day=5"], None),
        (["100;r=5;t=1"], 5.0),
        ([""], None),
    ],
)
async def test_the_limit_that_allows_least_counts(fields: list[str], rate: float | None) -> None:
    world = World(ahead=True, max_hold="10s")
    world.answer = lambda: response(200, headers=[(b"ratelimit", each.encode()) for each in fields])
    await world.call(exchange())
    assert world.rate == rate
    world.env.advance(10)
    assert world.rate is None, "for `max_hold` at most"
