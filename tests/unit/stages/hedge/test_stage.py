"""Tests of hedging in virtual time: under a task as in tests, and under a `Run` as in production."""

from __future__ import annotations

import asyncio
import gc
from collections.abc import Callable
from typing import Any

import pytest
from pydantic import ValidationError

from sidecar.core import events, metrics
from sidecar.core.body import Body
from sidecar.core.exchange import Exchange
from sidecar.core.outcome import CONNECT_FAILURE, RESET, Outcome
from sidecar.core.promise import Promise, Run
from sidecar.engine.pipeline import Pipeline
from sidecar.stages.hedge import stage as hedge
from sidecar.stages.hedge.spec import Spec
from tests.support.loop import settle, virtual, virtual_env
from tests.support.service import HANG, ScriptedBudget, ScriptedService, after, context, exchange, response


class Bench:
    """Hedge stage over a script, on the running virtual loop."""

    def __init__(self, *script: Any, tokens: float = 100, **keys: Any) -> None:
        self.env = virtual_env()
        self.budget = ScriptedBudget(tokens)
        self.service = ScriptedService(*script)
        spec = Spec.model_validate({"after": "200ms", **keys})
        ctx = context(self.env, resources={("retry_budget", "app"): self.budget})
        self.call = Pipeline([hedge.build(spec, ctx)], self.service)

    async def run(self, method: str = "GET", **facts: Any) -> tuple[Outcome, float]:
        """Return the answer, and the seconds that it took."""
        began = self.env.now()
        return await self.call(exchange(method, **facts)), round(self.env.now() - began, 6)

    def hedges(self, result: str) -> float:
        return self.env.meter.value(metrics.HEDGES, route="order", result=result)


@virtual
async def test_an_answer_in_time_is_the_only_try() -> None:
    bench = Bench(after(0.1, 200))
    outcome, took = await bench.run()
    assert (outcome.status, took, bench.service.calls) == (200, 0.1, 1)
    assert (bench.budget.deposits, bench.budget.withdrawals) == (1, 0)


@virtual
async def test_an_answer_at_once_leaves_the_queue_at_once() -> None:
    bench = Bench(200)
    for _ in range(5):
        outcome, took = await bench.run()
        assert (outcome.status, took) == (200, 0)
    gc.collect()
    assert [found for found in gc.get_objects() if type(found) is hedge.Race] == []


@virtual
async def test_a_slow_first_is_overtaken_and_called_off() -> None:
    bench = Bench(after(5, response(200, b"slow")), after(0.1, response(200, b"hedge")))
    outcome, took = await bench.run()
    assert (outcome.body, took) == (b"hedge", 0.3)
    await settle()
    assert (bench.service.cancelled, bench.service.active) == (1, 0)
    first, second = bench.service.exchanges
    assert (first.is_hedge, second.is_hedge, second.attempt, second.why) == (False, True, 2, "hedge")
    assert (bench.hedges("won"), bench.hedges("lost")) == (1, 0)
    assert bench.budget.withdrawals == 1


@virtual
async def test_a_first_that_comes_in_the_end_calls_the_hedge_off() -> None:
    bench = Bench(after(0.3, response(200, b"first")), HANG)
    outcome, took = await bench.run()
    assert (outcome.body, took) == (b"first", 0.3)
    await settle()
    assert (bench.service.cancelled, bench.service.active) == (1, 0)
    assert (bench.hedges("won"), bench.hedges("lost")) == (0, 1)


@virtual
async def test_a_failure_before_its_time_is_not_hedged() -> None:
    bench = Bench(after(0.1, RESET), 200)
    outcome, _ = await bench.run()
    assert (outcome.failure, bench.service.calls) == (RESET, 1)


@virtual
async def test_a_first_that_fails_waits_for_the_hedge() -> None:
    bench = Bench(after(0.3, RESET), after(0.5, 200))
    outcome, took = await bench.run()
    assert (outcome.status, took) == (200, 0.7)
    assert bench.hedges("won") == 1


@virtual
async def test_a_hedge_that_fails_waits_for_the_first() -> None:
    bench = Bench(after(1, 200), CONNECT_FAILURE)
    outcome, took = await bench.run()
    assert (outcome.status, took) == (200, 1)


@pytest.mark.parametrize(
    ("first", "second", "expected"),
    [(RESET, 503, 503), (503, RESET, 503), (RESET, CONNECT_FAILURE, 502), (500, 503, 500), (429, RESET, 429)],
)
@virtual
async def test_if_all_fail_a_response_is_better_than_none_and_the_earlier_than_the_later(
    first: Any, second: Any, expected: int
) -> None:
    bench = Bench(after(0.3, first), after(0.5, second))
    outcome, took = await bench.run()
    assert (outcome.status, took) == (expected, 0.7)
    if first is RESET and second is CONNECT_FAILURE:
        assert outcome.failure is RESET


@virtual
async def test_further_hedges_come_one_by_one() -> None:
    bench = Bench(HANG, HANG, after(0.05, 200), max_extra=2)
    _, took = await bench.run()
    assert (took, bench.service.calls) == (0.45, 3)
    await settle()
    assert (bench.service.cancelled, bench.service.active) == (2, 0)
    assert [x.attempt for x in bench.service.exchanges] == [1, 2, 3]
    assert (bench.hedges("won"), bench.hedges("lost")) == (1, 1)


@virtual
async def test_no_more_hedges_once_the_first_has_failed() -> None:
    bench = Bench(after(0.3, RESET), after(1, 503), 200, max_extra=3)
    outcome, took = await bench.run()
    assert (outcome.status, took, bench.service.calls) == (503, 1.2, 2)


@pytest.mark.parametrize(
    "facts",
    [{"method": "POST"}, {"method": "PUT"}, {"stream": Body()}, {"marked_attempt": 2}, {"upgrade": b"websocket"}],
)
@virtual
async def test_what_is_never_hedged(facts: dict[str, Any]) -> None:
    bench = Bench(after(1, 200), 200)
    _, took = await bench.run(**facts)
    assert (took, bench.service.calls, bench.budget.deposits) == (1, 1, 0)


@virtual
async def test_a_method_may_be_named() -> None:
    bench = Bench(HANG, 200, methods=["PUT"])
    assert (await bench.run("PUT"))[1] == 0.2


@virtual
async def test_a_spent_budget_starts_nothing() -> None:
    bench = Bench(after(1, 200), 200, tokens=0)
    _, took = await bench.run()
    assert (took, bench.service.calls, bench.hedges("budget")) == (1, 1, 1)


@virtual
async def test_no_hedge_starts_that_cannot_finish() -> None:
    bench = Bench(after(0.1, 200))
    for _ in range(200):
        await bench.run()
    bench.service.script[:] = [after(1, 200)]
    await bench.run(deadline=bench.env.now() + 0.29)
    assert (bench.hedges("deadline"), bench.budget.withdrawals) == (1, 0)
    await bench.run(deadline=bench.env.now() + 0.5)
    assert bench.budget.withdrawals == 1


@virtual
async def test_observe_counts_and_starts_nothing() -> None:
    bench = Bench(after(1, 200), 200, mode="observe")
    _, took = await bench.run()
    assert (took, bench.service.calls, bench.budget.withdrawals) == (1, 1, 0)
    assert bench.env.meter.value(metrics.WOULD_REFUSE, policy="hedge", route="order") == 1


@virtual
async def test_cancelling_the_request_cancels_every_try() -> None:
    bench = Bench(HANG)
    task = asyncio.create_task(bench.run())
    await asyncio.sleep(1)
    assert bench.service.active == 2
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task
    await settle()
    assert (bench.service.cancelled, bench.service.active) == (2, 0)
    assert bench.hedges("lost") == 1


@virtual
async def test_cancelling_while_a_failed_first_waits_for_its_hedge() -> None:
    stream = Body()
    bench = Bench(after(0.3, response(503, stream=stream)), HANG)
    task = asyncio.create_task(bench.run())
    await asyncio.sleep(1)
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task
    await settle()
    assert bench.service.active == 0
    assert "cancelled" in repr(stream)


@virtual
async def test_the_streams_of_losers_are_cancelled() -> None:
    lost, won = Body(), Body()
    bench = Bench(after(0.3, response(503, stream=lost)), after(0.5, response(200, stream=won)))
    outcome, _ = await bench.run()
    assert outcome.stream is won
    assert "cancelled" in repr(lost)
    assert "open" in repr(won)


@virtual
async def test_a_loser_that_cannot_be_called_off_has_its_stream_cancelled() -> None:
    late = Body()

    async def stubborn(x: Exchange) -> Outcome:
        if x.is_hedge:
            return response(200, b"hedge")
        try:
            await asyncio.sleep(5)
        except asyncio.CancelledError:
            return response(200, stream=late)
        raise AssertionError

    bench = Bench()
    stage = hedge.build(Spec.model_validate({"after": "200ms"}), context(bench.env))
    outcome = await Pipeline([stage], stubborn)(exchange())
    assert outcome.body == b"hedge"
    assert "cancelled" in repr(late)


@virtual
async def test_bugs() -> None:
    bench = Bench(after(0.1, ZeroDivisionError))
    with pytest.raises(ZeroDivisionError):
        await bench.run()
    bench = Bench(after(1, 200), ZeroDivisionError)
    outcome, took = await bench.run()
    assert (outcome.status, took) == (200, 1)
    assert len(bench.env.emitted(events.BUG)) == 1
    bench = Bench(after(1, ZeroDivisionError), HANG)
    with pytest.raises(ZeroDivisionError):
        await bench.run()
    await settle()
    assert bench.service.active == 0


@virtual
async def test_an_answered_request_leaves_nothing_behind_a_slow_one() -> None:
    """State that is kept until a hedge is due would grow with the request rate times `after`."""
    bench = Bench(HANG, *[after(0.001, 200)] * 50)
    slow = asyncio.create_task(bench.run())
    await settle()
    for _ in range(50):
        await bench.run()
    waiting = [found for found in gc.get_objects() if type(found) is hedge.Race and found._stage.env is bench.env]
    assert len(waiting) == 1
    slow.cancel()


@virtual
async def test_one_timer_watches_over_all() -> None:
    bench = Bench(*[after(0.05, 200)] * 300, after(0.3, 200))
    timers: list[float] = []
    call_later = bench.env.call_later

    def counted(seconds: float, *rest: Any) -> Any:
        timers.append(seconds)
        return call_later(seconds, *rest)

    bench.env.call_later = counted  # type: ignore[assignment]
    for _ in range(30):
        await asyncio.gather(*(bench.run() for _ in range(10)))
    assert len(timers) <= 11  # of 300 requests
    await asyncio.sleep(1)
    before = len(timers)
    await asyncio.sleep(100)
    assert len(timers) == before


# ----- under a Run, with an upstream that resolves promises, as in production


class Upstream:
    """Service whose answers the test gives by hand."""

    def __init__(self) -> None:
        self.pending: list[Promise[Outcome]] = []
        self.cancelled: list[int] = []

    async def __call__(self, x: Exchange) -> Outcome:
        number = len(self.pending)
        self.pending.append(Promise(lambda: self.cancelled.append(number)))
        return await self.pending[number]


def start(bench: Bench, upstream: Upstream, **keys: Any) -> tuple[Run[Outcome], list[Run[Outcome]]]:
    spec = Spec.model_validate({"after": "200ms", **keys})
    ctx = context(bench.env, resources={("retry_budget", "app"): bench.budget})
    ended: list[Run[Outcome]] = []
    done: Callable[[Run[Outcome]], None] = ended.append
    return Run(Pipeline([hedge.build(spec, ctx)], upstream)(exchange()), done), ended


@pytest.mark.parametrize("winner", [0, 1, 2])
@virtual
async def test_under_a_run_the_answer_comes_in_the_same_turn(winner: int) -> None:
    bench, upstream = Bench(), Upstream()
    run, ended = start(bench, upstream, max_extra=2)
    await asyncio.sleep(0.5)
    assert len(upstream.pending) == 3
    upstream.pending[winner].resolve(response(200, str(winner).encode()))
    assert ended == [run]
    assert run.value is not None
    assert run.value.body == str(winner).encode()
    assert sorted(upstream.cancelled) == [n for n in range(3) if n != winner]


@virtual
async def test_under_a_run_cancelling_cancels_every_try_in_the_same_turn() -> None:
    bench, upstream = Bench(), Upstream()
    run, ended = start(bench, upstream)
    await asyncio.sleep(0.3)
    run.cancel()
    assert ended == [run]
    assert isinstance(run.error, asyncio.CancelledError)
    assert sorted(upstream.cancelled) == [0, 1]


@virtual
async def test_under_a_run_failures_wait_and_the_last_decides() -> None:
    bench, upstream = Bench(), Upstream()
    run, ended = start(bench, upstream)
    await asyncio.sleep(0.3)
    upstream.pending[0].resolve(response(503))
    assert ended == []
    upstream.pending[1].resolve(response(500))
    assert ended == [run]
    assert run.value is not None
    assert run.value.status == 503


@virtual
async def test_a_hedge_that_is_answered_at_once_wins_from_within_the_timer() -> None:
    bench = Bench()
    pending: Promise[Outcome] = Promise()

    async def service(x: Exchange) -> Outcome:
        return response(200) if x.is_hedge else await pending

    ended: list[Run[Outcome]] = []
    run = Run(Pipeline([hedge.build(Spec(after="200ms"), context(bench.env))], service)(exchange()), ended.append)  # type: ignore[arg-type]
    await asyncio.sleep(0.25)
    assert ended == [run]
    assert run.value is not None


def test_rubbish_is_refused() -> None:
    for keys in ({}, {"after": 0.2}, {"after": "1s", "max_extra": 0}, {"after": "1s", "methods": []}):
        with pytest.raises(ValidationError):
            Spec.model_validate(keys)
