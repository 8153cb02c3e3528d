"""Tests of limits that workers share: the supervisor's state, and the stages with limits in each worker."""

from __future__ import annotations

import asyncio
import random
from typing import Any

from sidecar.core import events
from sidecar.core.exchange import Exchange
from sidecar.core.outcome import RATE_LIMITED, Outcome
from sidecar.engine.pipeline import Pipeline
from sidecar.process.workers.link import SHORT_TICK, TICK_SECONDS
from sidecar.process.workers.sharing import Sharing
from sidecar.stages.concurrency import stage as concurrency
from sidecar.stages.concurrency.spec import Spec as ConcurrencySpec
from sidecar.stages.rate_limit import stage as rate_limit
from sidecar.stages.rate_limit.spec import Spec
from sidecar.upstream.budget import RetryBudget
from sidecar.upstream.spec import RetryBudgetSpec
from tests.support.loop import virtual, virtual_env
from tests.support.service import ScriptedService, Store, context, exchange
from tests.support.workers import Crew

LIMIT: dict[str, Any] = {"name": "tenant", "rate": "10/s", "burst": 9}


class Limited:
    """Workers with one rate limit."""

    def __init__(self, workers: int, **limit: Any) -> None:
        self.env = virtual_env()
        self.crew = Crew(self.env, workers)
        self.spec = Spec.model_validate([LIMIT | limit])
        self.stores = [Store() for _ in range(workers)]
        self.calls = [self._build(number) for number in range(workers)]
        self.admitted: list[float] = []

    def _build(self, number: int) -> Pipeline:
        stage = rate_limit.build(self.spec, context(self.crew.env_of(number), store=self.stores[number]))
        assert stage is not None
        return Pipeline([stage], ScriptedService(200))

    def restart(self, number: int) -> None:
        """Kill a worker, and start its successor."""
        self.crew.restart(number)
        self.stores[number] = Store()
        self.calls[number] = self._build(number)

    async def ask(self, worker: int) -> Any:
        outcome = await self.calls[worker](exchange())
        if outcome.status == 200:
            self.admitted.append(self.env.now())
        return outcome

    async def statuses(self, worker: int, number: int) -> list[int]:
        return [each.status for each in await asyncio.gather(*(self.ask(worker) for _ in range(number)))]

    async def load(self, worker: int, rate: float, seconds: float) -> None:
        """Send requests at an even pace."""
        async with asyncio.TaskGroup() as group:
            for _ in range(int(rate * seconds)):
                group.create_task(self.ask(worker))
                await self.env.sleep(1 / rate)

    def most_in_a_second(self) -> int:
        return max(sum(1 for at in self.admitted if start < at <= start + 1) for start in self.admitted)


@virtual
async def test_two_workers_have_one_count() -> None:
    workers = Limited(2)
    found = await workers.statuses(0, 6) + await workers.statuses(1, 6)
    assert found.count(200) == 10
    refused = await workers.ask(1)
    assert refused.failure is RATE_LIMITED
    assert refused.refusal.detail == (
        "the limit `tenant` is 10 per second, with a burst of 9, for all requests together in all workers"
    )
    (state,) = (state for key, state in workers.stores[0].objects.items() if key[0] == "rate_limit")
    assert state.describe()["shared_by"] == "workers"


@virtual
async def test_a_limit_is_used_and_never_exceeded_while_workers_are_killed() -> None:
    workers = Limited(3, rate="200/s", burst=19)
    began = workers.env.now()

    async def kill() -> None:
        for turn in range(10):
            await workers.env.sleep(0.25)
            workers.restart(turn % 3)

    await asyncio.gather(workers.load(0, 300, 3), workers.load(1, 60, 3), workers.load(2, 5, 3), kill())
    assert workers.most_in_a_second() <= 20 + 200 * 1.1, "capacity, one second and one lease"
    in_steady_state = [at for at in workers.admitted if at > began + 0.5]
    assert len(in_steady_state) > 0.75 * 200 * 2.5, "tokens of dead workers come back with their leases"


@virtual
async def test_the_whole_rate_is_used_whatever_the_spread() -> None:
    workers = Limited(4, rate="200/s", burst=19)
    began = workers.env.now()
    await asyncio.gather(*(workers.load(number, rate, 4) for number, rate in enumerate((400, 100, 20, 1))))
    steady = sum(1 for at in workers.admitted if at > began + 1)
    assert 0.95 * 600 <= steady <= 1.05 * 600


@virtual
async def test_without_an_answer_each_worker_has_its_share() -> None:
    workers = Limited(2, rate="40/s", burst=1)
    await workers.statuses(0, 1)
    workers.crew.is_stalled = True
    began = workers.env.now()
    await asyncio.gather(workers.load(0, 100, 3), workers.load(1, 100, 3))
    late = sum(1 for at in workers.admitted if at > began + 1)
    assert 0.8 * 80 <= late <= 80 + 2, "two seconds of the rate, whole"
    assert events.STORE_DOWN in [name for name, _ in workers.env.events]
    refused = [each for each in [await workers.ask(0) for _ in range(9)] if each.status == 429]
    assert refused[0].refusal.detail.endswith("their supervisor is away, and this process has a fair share of it")
    workers.crew.is_stalled = False
    await workers.env.sleep(6)
    assert events.STORE_UP in [name for name, _ in workers.env.events]
    assert (await workers.statuses(0, 1)) == [200]


@virtual
async def test_a_limit_with_a_delay_is_divided() -> None:
    workers = Limited(2, rate="10/s", burst=9, delay={"max": "50ms"})
    found = await workers.statuses(0, 8)
    assert found.count(200) == 5, "half of the capacity"
    refused = await workers.ask(0)
    assert "for all requests together, in even parts for 2 workers; " in refused.refusal.detail
    began = workers.env.now()
    await workers.load(0, 100, 2)
    assert sum(1 for at in workers.admitted if at > began) <= 11, "half of the rate"


@virtual
async def test_a_cost_above_a_workers_part_still_passes() -> None:
    workers = Limited(4, rate="10/s", burst=3, cost=3, delay={"max": "10ms"})
    assert await workers.statuses(0, 1) == [200]


class Capped:
    """Workers with one concurrency limit of 20, which look at their leases as processes do."""

    def __init__(self, seconds: float, **limit: Any) -> None:
        """`seconds` is the time that each request takes."""
        self.limit = {"max": 20} | limit
        self.env = virtual_env()
        self.crew = Crew(self.env, 2)
        self.messages = 0
        """Messages to the supervisor."""
        receive = self.crew.sharing.receive

        def count(worker: int, message: list[Any]) -> bool:
            self.messages += 1
            return receive(worker, message)

        self.crew.sharing.receive = count  # type: ignore[method-assign]
        self.calls = [self._build(number, seconds) for number in range(2)]
        for number in range(2):
            self._look(number)

    def _build(self, number: int, seconds: float) -> Pipeline:
        async def work(x: Exchange) -> Outcome:
            await self.env.sleep(seconds)
            return Outcome(200)

        ctx = context(self.crew.env_of(number), store=Store(), resources={"reclaim": lambda *_: False})
        stage = concurrency.build(ConcurrencySpec.model_validate(self.limit), ctx)
        return Pipeline([stage], work)

    def _look(self, number: int) -> None:
        pause = SHORT_TICK if self.crew.links[number].look() else TICK_SECONDS
        self.env.call_later(pause, self._look, number)

    async def ask(self, worker: int, after: float = 0.0) -> int:
        await self.env.sleep(after)
        return (await self.calls[worker](exchange())).status


@virtual
async def test_as_many_requests_as_are_allowed_pass_whichever_workers_they_reach() -> None:
    workers, rng = Capped(0.05), random.Random(1)
    for turn in range(60):
        first = rng.randint(0, 20)
        statuses = await asyncio.gather(
            *(workers.ask(0 if number < first else 1, 0.004 * rng.random()) for number in range(20))
        )
        assert statuses == [200] * 20, f"turn {turn}, {first} at the first worker"
        await workers.env.sleep(rng.choice((0.0, 0.02, 0.3)))


@virtual
async def test_no_more_wait_in_all_queues_together_than_the_limit_says() -> None:
    workers = Capped(1.0, queue=10, queue_timeout="5s")
    statuses = await asyncio.gather(*(workers.ask(number % 2, 0.0001 * number) for number in range(60)))
    assert statuses.count(200) == 20 + 10


@virtual
async def test_refusals_cost_few_messages() -> None:
    workers = Capped(60.0)
    held = [asyncio.ensure_future(workers.ask(0)) for _ in range(20)]
    await workers.env.sleep(1.0)
    before = workers.messages
    statuses = await asyncio.gather(*(workers.ask(1, number / 10_000) for number in range(10_000)))
    assert statuses == [503] * 10_000
    assert workers.messages - before < 500, "not one for each of the requests of a second"
    assert [each.done() for each in held] == [False] * 20
    for each in held:
        each.cancel()


@virtual
async def test_a_worker_may_retry_at_once_what_its_own_requests_have_earned() -> None:
    env = virtual_env()
    crew = Crew(env, 4)
    spec = RetryBudgetSpec.model_validate({"ratio": "20%", "min_per_second": 4, "window": "10s"})
    budgets = [RetryBudget(spec, crew.env_of(number), "app") for number in range(4)]
    for turn in range(30):
        budgets[0].deposit(env.now())
        if turn % 10 == 9:
            await env.sleep(0.1)
            for link in crew.links:
                link.look()
    await env.sleep(0.1)
    spent = sum(budgets[0].withdraw() for _ in range(40))
    assert spent >= 12, "three quarters of an even part of 40 and a fifth of 30 first attempts"
    for _ in range(10):
        await env.sleep(0.1)
        spent += sum(budget.withdraw() for budget in budgets for _ in range(40))
    assert spent == 46, "in all no more than the budget, and no less"


def test_a_limit_outlives_its_workers_and_ends_with_the_policies() -> None:
    sent: list[tuple[int, list[Any]]] = []
    sharing = Sharing(2, lambda worker, *message: sent.append((worker, list(message))), lambda: 5.0)

    def grant() -> float:
        sharing.receive(0, ["rates", 1, [["limit", "key", 1.0, 3.0, 3.0, 0.0, 0.0]]])
        worker, (kind, number, now, [(tokens, _start, _wait)]) = sent.pop()
        assert (worker, kind, number, now) == (0, "grants", 1, 5.0)
        return float(tokens)

    for worker in (0, 1):
        sharing.receive(worker, ["rate", "limit", 1.0, 4.0, 0.1, 100, 0.0])
    assert grant() == 3
    for worker in (0, 1):
        sharing.leave(worker)
    sharing.receive(0, ["rate", "limit", 1.0, 4.0, 0.1, 100, 0.0])
    assert grant() == 1, "the successors of dead workers have the count"
    sharing.receive(0, ["unlease", "limit"])
    assert grant() == 0, "no running worker has it any more"
    sharing.receive(0, ["rate", "limit", 1.0, 4.0, 0.1, 100, 0.0])
    assert grant() == 3, "a new limit of the same name"
    assert not sharing.receive(0, ["hello", 1])


def test_a_limit_that_only_dead_workers_had_ends_once_their_successors_have_declared_theirs() -> None:
    sharing = Sharing(2, lambda *_: None, lambda: 5.0)
    for worker in (0, 1):
        sharing.receive(worker, ["permits", "concurrency:old", 4])
    sharing.leave(0)
    sharing.receive(0, ["permits", "concurrency:new", 4])
    sharing.settle(0)
    assert set(sharing.describe("concurrency")) == {"old", "new"}, "the other worker still has it"
    sharing.receive(1, ["unlease", "concurrency:old"])
    assert set(sharing.describe("concurrency")) == {"new"}
    for worker in (0, 1):
        sharing.leave(worker)
    for worker in (0, 1):
        sharing.receive(worker, ["permits", "concurrency:third", 4])
        sharing.settle(worker)
    assert set(sharing.describe("concurrency")) == {"third"}
