"""Tests of inner exchanges: one report at the end, a whole body within its limits, nothing after a cancellation."""

from __future__ import annotations

from typing import Any

import pytest

from sidecar.core.body import CANCELLED, Body
from sidecar.core.exchange import Exchange
from sidecar.core.outcome import ANSWER_TOO_LARGE, CONNECT_FAILURE, INTERNAL, PROTOCOL, RESET, Outcome
from sidecar.core.stage import Wait
from sidecar.engine.inner import Allowance, InnerExchange
from sidecar.engine.pipeline import Pipeline
from tests.support.loop import settle
from tests.support.service import HANG, ScriptedService, exchange, response


class Settled:
    """Stage that records with which outcome and when it was settled."""

    def __init__(self, log: list[Any]) -> None:
        self.log = log

    def admit(self, x: Exchange) -> object:
        return None

    def settle(self, x: Exchange, ticket: object, outcome: Outcome) -> None:
        self.log.append(outcome.label)


class Begun:
    """Inner exchange through one stage and a scripted service."""

    def __init__(self, *script: Any, limit: int = 100, **more: Any) -> None:
        self.log: list[Any] = []
        self.service = ScriptedService(*script)
        pipeline = Pipeline([Settled(self.log)], self.service)
        self.inner = InnerExchange(pipeline, exchange(), limit, self.log.append, **more)
        self.inner.start()

    @property
    def outcome(self) -> Outcome:
        assert self.inner.value is not None
        return self.inner.value


async def test_an_answer_at_once_is_reported_within_the_start() -> None:
    begun = Begun(response(200, b"hi"))
    assert begun.log == ["200", begun.inner]
    assert (begun.outcome.body, begun.inner.size) == (b"hi", 2)


async def test_a_failure_is_an_outcome() -> None:
    begun = Begun(CONNECT_FAILURE)
    assert begun.outcome.failure is CONNECT_FAILURE
    assert begun.log == ["connect_failure", begun.inner]


async def test_a_body_is_collected_and_reported_after_all_stages_have_settled() -> None:
    body = Body()
    begun = Begun(response(200, stream=body))
    body.feed(b"a")
    body.feed(b"bc")
    assert begun.log == []
    body.finish()
    assert begun.log == ["200", begun.inner]
    assert (begun.outcome.body, begun.outcome.stream) == (b"abc", None)


async def test_a_body_that_had_arrived_is_collected_at_once() -> None:
    body = Body()
    body.feed(b"abc")
    body.finish()
    assert Begun(response(200, stream=body)).outcome.body == b"abc"


async def test_a_body_that_breaks_off_is_a_failure() -> None:
    body = Body()
    begun = Begun(response(200, stream=body))
    body.feed(b"a")
    body.fail(RESET, "gone")
    assert (begun.outcome.failure, begun.outcome.cause) == (RESET, "gone")
    assert begun.log == ["reset", begun.inner]


@pytest.mark.parametrize("length", [None, 101])
async def test_a_body_beyond_the_limit_is_cancelled(length: int | None) -> None:
    body = Body(length=length)
    begun = Begun(response(200, stream=body))
    if length is None:
        body.feed(b"x" * 100)
        assert begun.log == []
        body.feed(b"x")
    assert body.state == CANCELLED
    assert begun.outcome.failure is ANSWER_TOO_LARGE
    assert begun.log[1:] == [begun.inner]


async def test_a_whole_body_beyond_the_limit_is_refused() -> None:
    assert Begun(response(200, b"x" * 101)).outcome.failure is ANSWER_TOO_LARGE
    assert Begun(response(200, b"x" * 100)).outcome.failure is None


async def test_several_share_an_allowance() -> None:
    allowance = Allowance(150)
    bodies = [Body(), Body()]
    first, second = (Begun(response(200, stream=body), allowance=allowance) for body in bodies)
    for body in bodies:
        body.feed(b"x" * 70)
    bodies[0].feed(b"x" * 20)
    assert first.outcome.failure is ANSWER_TOO_LARGE
    assert second.log == []


async def test_a_discarded_body_is_read_to_its_end_and_not_kept() -> None:
    body = Body(length=200)
    begun = Begun(response(200, stream=body), discards=True)
    body.feed(b"x" * 200)
    body.finish()
    assert begun.log == ["200", begun.inner]
    assert (begun.outcome.body, begun.inner.size) == (b"", 200)


async def test_a_bug_is_reported_as_a_failure() -> None:
    begun = Begun(ZeroDivisionError)
    assert begun.outcome.failure is INTERNAL
    assert isinstance(begun.inner.error, ZeroDivisionError)


async def test_a_switch_of_protocols_is_a_failure() -> None:
    class Tunnel:
        closed = False

        def close(self) -> None:
            self.closed = True

    outcome = response(101)
    outcome.tunnel = tunnel = Tunnel()  # type: ignore[assignment]
    assert Begun(outcome).outcome.failure is PROTOCOL
    assert tunnel.closed


async def test_nothing_is_reported_after_a_cancellation() -> None:
    begun = Begun(HANG)
    begun.inner.give_up()
    await settle()
    assert (begun.service.cancelled, begun.log) == (1, ["client_closed"])


async def test_a_body_is_cancelled_with_its_exchange() -> None:
    body = Body()
    begun = Begun(response(200, stream=body))
    begun.inner.give_up()
    assert body.state == CANCELLED
    assert begun.log == ["client_closed"]
    begun.inner.give_up()


async def test_a_fetch_that_others_wait_for_goes_on_without_it() -> None:
    class Fetch:
        def detach_client(self, call: Any) -> bool:
            return True

    body = Body()

    class Shares:
        inner: Any = None

        def admit(self, x: Exchange) -> object:
            x.shared_fetch = Fetch()
            return Wait(self._later(x))

        async def _later(self, x: Exchange) -> Outcome:
            await settle()
            return response(200, stream=body)

    log: list[Any] = []
    inner = InnerExchange(Pipeline([Shares()], ScriptedService(200)), exchange(), 100, log.append)
    inner.start()
    inner.give_up()
    await settle()
    await settle()
    assert log == []
    assert body.state == CANCELLED, "what nobody reads is given up"


def test_an_inner_request_is_made_on_behalf_of_another() -> None:
    x = exchange(
        "POST", "/page", {"x-a": "1"}, authority=b"shop", client_address="192.0.2.1", request_id=b"7", deadline=9.0,
        criticality=2, body=b"upload", attempts=[1],
    )  # fmt: skip
    inner = x.make_inner(b"GET", b"/users/1", b"a=b", b"x-a: 1\r\n", 5.0, 8.0)
    assert (inner.method, inner.target, inner.lines) == (b"GET", b"/users/1?a=b", b"x-a: 1\r\n")
    assert (inner.authority, inner.client_address, inner.request_id, inner.criticality) == (
        b"shop",
        "192.0.2.1",
        b"7",
        2,
    )
    assert (inner.arrived, inner.deadline, inner.caller_deadline) == (5.0, 8.0, 8.0)
    assert (inner.body, inner.attempts, inner.interim, inner.is_inner) == (b"", [], None, True)
