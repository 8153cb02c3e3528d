"""`guard` and `stack`: whatever happens, what was admitted is settled once, innermost first."""

from __future__ import annotations

import asyncio
from typing import Any

import pytest

from sidecar.core.body import Body
from sidecar.core.exchange import Exchange
from sidecar.core.outcome import ABANDONED, CLIENT_CLOSED, OVERLOADED, RESET, Outcome, failed
from sidecar.core.stage import Service, guard, stack
from tests.support.loop import settle
from tests.support.service import HANG, ScriptedService, exchange, response


class Witness:
    """A gate that writes down what it sees; a `verdict` that is an outcome refuses."""

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
    call = guard([Witness("a", log), Witness("b", log)], ScriptedService(ok))
    assert await call(exchange()) is ok
    assert log == ["+a", "+b", ("-b", ok), ("-a", ok)]


async def test_a_refusal_settles_only_what_was_admitted() -> None:
    log: list[Any] = []
    refusal = failed(OVERLOADED)
    service = ScriptedService(200)
    call = guard([Witness("a", log), Witness("b", log, refusal), Witness("c", log)], service)
    assert await call(exchange()) is refusal
    assert log == ["+a", "+b", ("-a", refusal)]
    assert service.calls == 0


async def test_none_is_a_ticket_like_any_other() -> None:
    log: list[Any] = []
    ok = response(200)
    await guard([Witness("a", log, None)], ScriptedService(ok))(exchange())
    assert log == ["+a", ("-a", ok)]


async def test_a_bug_inside_abandons_and_escapes() -> None:
    log: list[Any] = []
    with pytest.raises(ZeroDivisionError):
        await guard([Witness("a", log), Witness("b", log)], ScriptedService(ZeroDivisionError))(exchange())
    assert log == ["+a", "+b", ("-b", ABANDONED), ("-a", ABANDONED)]


async def test_a_bug_in_a_gate_abandons_the_gates_before_it() -> None:
    log: list[Any] = []
    call = guard([Witness("a", log), Witness("b", log, KeyError("bug"))], ScriptedService(200))
    with pytest.raises(KeyError):
        await call(exchange())
    assert log == ["+a", "+b", ("-a", ABANDONED)]


async def test_cancellation_abandons_and_escapes() -> None:
    log: list[Any] = []
    task = asyncio.get_running_loop().create_task(guard([Witness("a", log)], ScriptedService(HANG))(exchange()))
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
    assert await guard([Witness("a", log), Witness("b", log)], ScriptedService(streaming))(exchange()) is streaming
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
    await guard([Witness("a", log)], ScriptedService(streaming))(exchange())
    assert log == ["+a", ("-a", streaming)]


async def test_stages_are_stacked_outermost_first() -> None:
    log: list[Any] = []

    def layer(name: str) -> Any:
        def wrap(inner: Service) -> Service:
            async def call(x: Exchange) -> Outcome:
                log.append(f"+{name}")
                outcome = await inner(x)
                log.append(f"-{name}")
                return outcome

            return call

        return wrap

    ok = response(200)
    stages = [Witness("a", log), Witness("b", log), layer("c"), layer("d"), Witness("e", log)]
    assert await stack(stages, ScriptedService(ok))(exchange()) is ok
    assert log == ["+a", "+b", "+c", "+d", "+e", ("-e", ok), "-d", "-c", ("-b", ok), ("-a", ok)]


async def test_no_stages_are_no_cost() -> None:
    service = ScriptedService(200)
    assert stack([], service) is service
