"""Tests of `Promise` and `Run`: value, end, cancellation, and their use with Tasks and Futures."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable
from typing import Any

import pytest

from sidecar.core.promise import Promise, Run
from tests.support.loop import settle


class Ends:
    """Collector of the results of runs."""

    def __init__(self) -> None:
        self.seen: list[Any] = []

    def __call__(self, run: Run[Any]) -> None:
        self.seen.append(run.value if run.error is None else type(run.error))


async def wait(awaitable: Awaitable[Any]) -> Any:
    return await awaitable


async def test_a_run_ends_before_its_constructor_returns_if_nothing_waits() -> None:
    async def at_once() -> str:
        return "ok"

    ends = Ends()
    run = Run(at_once(), ends)
    assert (ends.seen, run.value) == (["ok"], "ok")


async def test_resolving_continues_the_waiter_at_once() -> None:
    ends = Ends()
    promise: Promise[int] = Promise()
    Run(wait(promise), ends)
    assert ends.seen == []
    promise.resolve(7)
    assert ends.seen == [7]


async def test_the_first_value_wins() -> None:
    ends = Ends()
    promise: Promise[int] = Promise()
    promise.resolve(1)
    promise.resolve(2)
    Run(wait(promise), ends)
    assert ends.seen == [1]
    assert not promise.cancel()


async def test_a_promise_resolved_inside_another_continues_in_depth() -> None:
    first: Promise[str] = Promise()
    second: Promise[str] = Promise()
    order: list[str] = []

    async def inner() -> None:
        order.append(await first)
        second.resolve("second")
        order.append("inner goes on")

    async def outer() -> None:
        order.append(await second)

    ends = Ends()
    Run(inner(), ends)
    Run(outer(), ends)
    first.resolve("first")
    assert order == ["first", "second", "inner goes on"]


async def test_a_bug_is_told_and_does_not_reach_the_resolver() -> None:
    async def buggy(promise: Promise[int]) -> None:
        await promise
        raise ZeroDivisionError

    ends = Ends()
    promise: Promise[int] = Promise()
    Run(buggy(promise), ends)
    promise.resolve(1)
    assert ends.seen == [ZeroDivisionError]


async def test_an_exit_of_the_process_is_told_and_goes_on() -> None:
    async def leaving() -> None:
        raise SystemExit

    ends = Ends()
    with pytest.raises(SystemExit):
        Run(leaving(), ends)
    assert ends.seen == [SystemExit]


async def test_cancelling_a_run_throws_where_it_waits_and_tells_the_promise() -> None:
    told: list[str] = []
    promise: Promise[int] = Promise(on_cancel=lambda: told.append("cancelled"))
    seen: list[str] = []

    async def waiter() -> None:
        try:
            await promise
        finally:
            seen.extend(told)

    ends = Ends()
    run = Run(waiter(), ends)
    run.cancel()
    assert ends.seen == [asyncio.CancelledError]
    assert seen == ["cancelled"], "the promise is told before the waiter"
    promise.resolve(3)
    assert ends.seen == [asyncio.CancelledError]


async def test_a_run_that_ended_cannot_be_cancelled() -> None:
    ends = Ends()
    promise: Promise[int] = Promise()
    run = Run(wait(promise), ends)
    promise.resolve(1)
    run.cancel()
    assert ends.seen == [1]


async def test_a_coroutine_that_survives_its_cancellation_goes_on() -> None:
    first: Promise[int] = Promise()
    second: Promise[int] = Promise()

    async def stubborn() -> int:
        try:
            return await first
        except asyncio.CancelledError:
            return await second

    ends = Ends()
    run = Run(stubborn(), ends)
    run.cancel()
    assert ends.seen == []
    second.resolve(5)
    assert ends.seen == [5]


async def test_cancelling_from_within_strikes_at_the_next_wait() -> None:
    gate: Promise[int] = Promise()
    never: Promise[int] = Promise()
    runs: list[Run[Any]] = []
    reached: list[str] = []

    async def suicidal() -> None:
        await gate
        runs[0].cancel()
        reached.append("goes on to its next wait")
        await never

    ends = Ends()
    runs.append(Run(suicidal(), ends))
    gate.resolve(1)
    assert (reached, ends.seen) == (["goes on to its next wait"], [asyncio.CancelledError])


async def test_cancelling_from_within_at_the_very_end_is_without_effect() -> None:
    gate: Promise[int] = Promise()
    runs: list[Run[Any]] = []

    async def ending() -> str:
        await gate
        runs[0].cancel()
        return "done"

    ends = Ends()
    runs.append(Run(ending(), ends))
    gate.resolve(1)
    assert ends.seen == ["done"]


async def test_a_run_waits_for_futures_and_tasks() -> None:
    loop = asyncio.get_running_loop()
    future: asyncio.Future[int] = loop.create_future()
    ends = Ends()
    Run(wait(future), ends)
    Run(wait(loop.create_task(wait(future))), ends)
    future.set_result(4)
    await settle()
    assert ends.seen == [4, 4]


async def test_a_futures_exception_reaches_the_coroutine() -> None:
    future: asyncio.Future[int] = asyncio.get_running_loop().create_future()
    ends = Ends()
    Run(wait(future), ends)
    future.set_exception(KeyError("x"))
    await settle()
    assert ends.seen == [KeyError]


async def test_cancelling_a_run_cancels_the_task_it_waits_for() -> None:
    task = asyncio.get_running_loop().create_task(asyncio.sleep(1000))
    ends = Ends()
    run = Run(wait(task), ends)
    await settle(1)
    run.cancel()
    await settle()
    assert task.cancelled()
    assert ends.seen == [asyncio.CancelledError]


async def test_cancelling_right_after_the_future_was_done_still_cancels() -> None:
    future: asyncio.Future[int] = asyncio.get_running_loop().create_future()
    ends = Ends()
    run = Run(wait(future), ends)
    future.set_result(1)
    run.cancel()  # the run has not been continued yet
    await settle()
    assert ends.seen == [asyncio.CancelledError]


async def test_a_bare_yield_lets_the_loop_turn() -> None:
    order: list[str] = []

    async def polite() -> None:
        order.append("before")
        await asyncio.sleep(0)
        order.append("after")

    ends = Ends()
    Run(polite(), ends)
    order.append("loop")
    await settle(2)
    assert order == ["before", "loop", "after"]


async def test_cancelling_during_a_bare_yield_strikes_there() -> None:
    ends = Ends()
    run = Run(wait(asyncio.sleep(0)), ends)
    run.cancel()
    await settle(2)
    assert ends.seen == [asyncio.CancelledError]


async def test_a_foreign_awaitable_is_a_bug_of_the_coroutine() -> None:
    class Odd:
        def __await__(self) -> Any:
            yield "what is this?"

    cleaned: list[bool] = []

    async def odd() -> None:
        try:
            await Odd()
        finally:
            cleaned.append(True)

    ends = Ends()
    Run(odd(), ends)
    assert ends.seen == [RuntimeError]
    assert cleaned == [True]


async def test_a_task_can_wait_for_a_promise() -> None:
    promise: Promise[int] = Promise()
    task = asyncio.get_running_loop().create_task(wait(promise))
    await settle(1)
    promise.resolve(9)
    assert await task == 9
    assert await promise == 9, "one that is resolved gives its value again"


async def test_cancelling_a_task_that_waits_for_a_promise() -> None:
    told: list[bool] = []
    promise: Promise[int] = Promise(on_cancel=lambda: told.append(True))
    task = asyncio.get_running_loop().create_task(wait(promise))
    await settle(1)
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task
    assert told == [True]


def test_the_result_of_a_pending_promise_is_an_error() -> None:
    with pytest.raises(asyncio.InvalidStateError):
        Promise().result()
