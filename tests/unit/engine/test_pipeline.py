"""Tests of calls through a pipeline: whatever happens, each ticket is settled once, innermost first."""

from __future__ import annotations

import asyncio
from typing import Any

import pytest

from sidecar.core.body import CANCELLED, Body
from sidecar.core.exchange import Exchange
from sidecar.core.outcome import ABANDONED, CLIENT_CLOSED, OVERLOADED, RESET, Outcome, failed
from sidecar.core.promise import Promise
from sidecar.core.stage import Service, Wait, unbound
from sidecar.engine.pipeline import Call, Pipeline
from tests.support.loop import settle
from tests.support.service import HANG, ScriptedService, exchange, response


class Witness:
    """Gate that records its calls; it refuses with a `verdict` that is an outcome."""

    def __init__(self, name: str, log: list[Any], verdict: object = "ticket") -> None:
        self.name = name
        self.log = log
        self.verdict = verdict

    def admit(self, x: Exchange) -> object:
        self.log.append(f"+{self.name}")
        if isinstance(self.verdict, Exception):
            raise self.verdict
        return self.verdict

    def settle(self, x: Exchange, ticket: object, outcome: Outcome) -> None:
        assert ticket is self.verdict
        self.log.append((f"-{self.name}", outcome))


async def test_an_outcome_passes_all_gates_back() -> None:
    log: list[Any] = []
    ok = response(200)
    call = Pipeline([Witness("a", log), Witness("b", log)], ScriptedService(ok))
    assert await call(exchange()) is ok
    assert log == ["+a", "+b", ("-b", ok), ("-a", ok)]


async def test_a_refusal_settles_only_what_was_admitted() -> None:
    log: list[Any] = []
    refusal = failed(OVERLOADED)
    service = ScriptedService(200)
    call = Pipeline([Witness("a", log), Witness("b", log, refusal), Witness("c", log)], service)
    assert await call(exchange()) is refusal
    assert log == ["+a", "+b", ("-a", refusal)]
    assert service.calls == 0


async def test_none_is_a_ticket_like_any_other() -> None:
    log: list[Any] = []
    ok = response(200)
    await Pipeline([Witness("a", log, None)], ScriptedService(ok))(exchange())
    assert log == ["+a", ("-a", ok)]


async def test_a_bug_inside_abandons_and_escapes() -> None:
    log: list[Any] = []
    with pytest.raises(ZeroDivisionError):
        await Pipeline([Witness("a", log), Witness("b", log)], ScriptedService(ZeroDivisionError))(exchange())
    assert log == ["+a", "+b", ("-b", ABANDONED), ("-a", ABANDONED)]


async def test_a_bug_in_a_gate_abandons_the_gates_before_it() -> None:
    log: list[Any] = []
    call = Pipeline([Witness("a", log), Witness("b", log, KeyError("bug"))], ScriptedService(200))
    with pytest.raises(KeyError):
        await call(exchange())
    assert log == ["+a", "+b", ("-a", ABANDONED)]


async def test_cancellation_abandons_and_escapes() -> None:
    log: list[Any] = []
    task = asyncio.get_running_loop().create_task(Pipeline([Witness("a", log)], ScriptedService(HANG))(exchange()))
    await settle()
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task
    assert log == ["+a", ("-a", ABANDONED)]


@pytest.mark.parametrize(
    ("status", "end", "seen"),
    [
        (200, "finish", "as it stands"),
        (200, "fail", RESET),
        (200, "cancel", CLIENT_CLOSED),
        (503, "finish", "as it stands"),
        (503, "cancel", "as it stands"),
        (503, "fail", RESET),
    ],
)
async def test_a_stream_is_settled_at_its_end(status: int, end: str, seen: object) -> None:
    log: list[Any] = []
    body = Body()
    streaming = response(status, stream=body)
    assert await Pipeline([Witness("a", log), Witness("b", log)], ScriptedService(streaming))(exchange()) is streaming
    assert log == ["+a", "+b"]
    body.fail(RESET) if end == "fail" else getattr(body, end)()
    assert [entry[0] for entry in log[2:]] == ["-b", "-a"]
    for _, outcome in log[2:]:
        assert outcome is streaming if seen == "as it stands" else outcome.failure is seen


async def test_a_stream_that_has_ended_already_is_settled_at_once() -> None:
    log: list[Any] = []
    body = Body()
    body.finish()
    streaming = response(200, stream=body)
    await Pipeline([Witness("a", log)], ScriptedService(streaming))(exchange())
    assert log == ["+a", ("-a", streaming)]


class Answering(Witness):
    """Stage that may replace the outcome, at once or after a wait."""

    def __init__(self, name: str, log: list[Any], reply: Any = None) -> None:
        super().__init__(name, log)
        self.reply = reply

    def answer(self, x: Exchange, ticket: object, outcome: Outcome) -> Outcome | Wait:
        self.log.append((f"<{self.name}", outcome))
        if isinstance(self.reply, BaseException):
            raise self.reply
        if callable(self.reply):
            return Wait(self.reply(x, outcome))
        return outcome if self.reply is None else self.reply


class Again(Answering):
    """Stage that runs its inner pipeline once more."""

    def __init__(self, name: str, log: list[Any]) -> None:
        super().__init__(name, log, self.again)
        self.inner: Service = unbound

    async def again(self, x: Exchange, outcome: Outcome) -> Outcome:
        outcome.discard()
        return await self.inner(x)


async def test_each_stage_answers_and_is_settled_on_the_way_out() -> None:
    log: list[Any] = []
    ok, other = response(200), response(201)
    stages = [Witness("a", log), Answering("b", log, other), Witness("c", log)]
    assert await Pipeline(stages, ScriptedService(ok))(exchange()) is other
    assert log == ["+a", "+b", "+c", ("-c", ok), ("<b", ok), ("-b", other), ("-a", other)]


async def test_a_stage_that_has_answered_a_request_answers_no_outcome() -> None:
    log: list[Any] = []
    refusal = failed(OVERLOADED)
    own = Answering("b", log)
    own.verdict = refusal
    assert await Pipeline([Answering("a", log), own], ScriptedService(200))(exchange()) is refusal
    assert log == ["+a", "+b", ("<a", refusal), ("-a", refusal)]


async def test_each_run_has_tickets_of_its_own() -> None:
    log: list[Any] = []
    bad, good = response(503), response(200)
    stages = [Witness("a", log), Again("b", log), Witness("c", log)]
    assert await Pipeline(stages, ScriptedService(bad, good))(exchange()) is good
    assert log == ["+a", "+b", "+c", ("-c", bad), ("<b", bad), "+c", ("-c", good), ("-b", good), ("-a", good)]


async def test_a_body_that_is_thrown_away_settles_its_run_first() -> None:
    log: list[Any] = []
    bad, good = response(503, stream=Body()), response(200, stream=Body())
    stages = [Witness("a", log), Again("b", log), Witness("c", log)]
    assert await Pipeline(stages, ScriptedService(bad, good))(exchange()) is good
    assert log == ["+a", "+b", "+c", ("<b", bad), ("-c", bad), "+c"]
    assert good.stream is not None
    good.stream.finish()
    assert [entry[0] for entry in log[6:]] == ["-c", "-b", "-a"]


@pytest.mark.parametrize("where", ["admit", "promise", "answer"])
async def test_a_stage_may_take_time(where: str) -> None:
    log: list[Any] = []
    gate: Promise[Any] = Promise()

    async def later(*_: Any) -> Any:
        return await gate

    ok = response(200)
    slow = Answering("b", log, later if where == "answer" else None)
    if where != "answer":
        slow.admit = lambda x: Wait(later() if where == "admit" else gate)  # type: ignore[method-assign]
    ends: list[Call] = []
    call = Call(Pipeline([Witness("a", log), slow, Witness("c", log)], ScriptedService(ok)), exchange(), ends.append)
    call.start()
    assert ends == []
    gate.resolve(ok if where == "answer" else "ticket")
    assert ends == [call]
    assert call.value is ok
    assert log[-3:] == [("<b", ok), ("-b", ok), ("-a", ok)]


@pytest.mark.parametrize("found", ["ticket", "outcome"])
@pytest.mark.parametrize("where", ["admit", "answer"])
async def test_what_comes_in_spite_of_a_cancellation_is_given_back(where: str, found: str) -> None:
    log: list[Any] = []
    gate: Promise[None] = Promise()
    given, late = response(200, stream=Body()), response(201, stream=Body())

    async def stubborn(*_: Any) -> Any:
        try:
            await gate
        except asyncio.CancelledError:
            return "ticket" if found == "ticket" and where == "admit" else late

    slow = Answering("b", log, stubborn if where == "answer" else None)
    if where == "admit":
        slow.admit = lambda x: Wait(stubborn())  # type: ignore[method-assign]
    ends: list[Call] = []
    call = Call(Pipeline([Witness("a", log), slow], ScriptedService(given)), exchange(), ends.append)
    call.start()
    call.cancel()
    assert ends == [call]
    assert isinstance(call.error, asyncio.CancelledError)
    assert log[-1] == ("-a", ABANDONED)
    assert (("-b", ABANDONED) in log) == (where == "answer" or found == "ticket")
    for outcome in (given, late):
        assert outcome.stream is not None
    assert where == "admit" or given.stream.state == CANCELLED  # type: ignore[union-attr]
    assert (found == "ticket" and where == "admit") or late.stream.state == CANCELLED  # type: ignore[union-attr]


@pytest.mark.parametrize("is_early", [True, False], ids=["before it waits", "while it waits"])
async def test_a_cancelled_call_cancels_the_promise_that_a_stage_waits_for(is_early: bool) -> None:
    log: list[Any] = []
    gate: Promise[Any] = Promise(lambda: log.append("cancelled"))
    slow = Answering("b", log)

    def admit(_: Exchange) -> Wait:
        if is_early:
            call.cancel()
        return Wait(gate)

    slow.admit = admit  # type: ignore[method-assign]
    ends: list[Call] = []
    call = Call(Pipeline([Witness("a", log), slow], ScriptedService(200)), exchange(), ends.append)
    call.start()
    call.cancel()
    assert ends == [call]
    assert isinstance(call.error, asyncio.CancelledError)
    assert log == ["+a", "cancelled", ("-a", ABANDONED)]
    gate.resolve(response(200))
    assert ends == [call]


async def test_a_bug_in_an_answer_gives_the_outcome_up() -> None:
    log: list[Any] = []
    streaming = response(200, stream=Body())
    stages = [Witness("a", log), Answering("b", log, KeyError("bug")), Witness("c", log)]
    with pytest.raises(KeyError):
        await Pipeline(stages, ScriptedService(streaming))(exchange())
    assert [entry[0] for entry in log[3:]] == ["<b", "-c", "-b", "-a"]
    assert log[-1] == ("-a", ABANDONED)
    assert streaming.stream is not None
    assert streaming.stream.state == CANCELLED


class Superseding(Answering):
    supersedes = True


@pytest.mark.parametrize("at", ["terminal", "admit", "promise", "answer"])
async def test_an_outcome_can_supersede_what_runs_behind_a_stage(at: str) -> None:
    log: list[Any] = []
    calls: list[Any] = []
    gate: Promise[Any] = Promise()

    async def wait(*_: Any) -> Any:
        return await gate

    race = Superseding("b", log)
    race.verdict = race
    admit = race.admit

    def admitted(x: Exchange) -> object:
        calls.append(x.call)
        return admit(x)

    race.admit = admitted  # type: ignore[method-assign]
    slow = Answering("c", log, wait if at == "answer" else None)
    if at in ("admit", "promise"):
        slow.admit = lambda x: Wait(wait() if at == "admit" else gate)  # type: ignore[method-assign]
    service = ScriptedService(HANG if at == "terminal" else response(503))
    ends: list[Call] = []
    call = Call(Pipeline([Witness("a", log), race, slow], service), exchange(), ends.append)
    call.start()
    assert calls == [call]
    winner = response(200)
    call.supersede(race, winner)
    await settle()
    assert ends == [call]
    assert call.value is winner
    assert log[-3:] == [("<b", winner), ("-b", winner), ("-a", winner)]
    assert (("-c", ABANDONED) in log) == (at not in ("admit", "promise"))
    assert service.active == 0
    gate.resolve(response(201, stream=Body()))
    assert ends == [call]
    assert call.x.call is None


async def test_a_call_that_is_cancelled_while_it_runs_stops_where_it_waits() -> None:
    log: list[Any] = []
    ends: list[Call] = []

    class Leaving(Witness):
        def admit(self, x: Exchange) -> object:
            call.cancel()
            return super().admit(x)

    service = ScriptedService(HANG)
    call = Call(Pipeline([Leaving("a", log)], service), exchange(), ends.append)
    call.start()
    await settle()
    assert ends == [call]
    assert log == ["+a", ("-a", ABANDONED)]
    assert service.active == 0


async def test_an_outcome_that_is_there_at_once_ends_the_call_at_once() -> None:
    ends: list[Call] = []
    call = Call(Pipeline([], ScriptedService(200)), exchange(), ends.append)
    call.start()
    assert ends == [call]
    call.cancel()
    assert ends == [call]
