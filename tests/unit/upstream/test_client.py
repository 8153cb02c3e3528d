"""Tests of one attempt at one endpoint: recorded, settled, and repeated only if the upstream has not seen it."""

from __future__ import annotations

import asyncio
import gc
import weakref
from collections.abc import Callable
from typing import Any

import pytest

from sidecar.core.exchange import Exchange
from sidecar.core.outcome import BREAKER_OPEN, CLIENT_CLOSED, Outcome, failed
from sidecar.upstream.client import Upstream
from sidecar.upstream.endpoint import Endpoint
from tests.support.loop import settle, virtual
from tests.unit.upstream.back import OK, Back, Sink, get, outcome_of, start, upload


async def warm(back: Back, upstream: Upstream) -> None:
    """Leave one idle connection that has been used."""
    run = start(upstream, get())
    await settle()
    back.server.write(OK)
    await settle()
    assert outcome_of(run).status == 200


@virtual
async def test_a_try_is_recorded() -> None:
    back = Back()
    upstream = back.upstream()
    endpoint = upstream.endpoints.members[0]
    x = get()
    run = start(upstream, x)
    await asyncio.sleep(0.5)
    assert endpoint.in_flight == 1
    back.server.write(OK)
    await settle()
    assert outcome_of(run).status == 200
    (attempt,) = x.attempts
    assert (attempt.upstream, attempt.endpoint, attempt.status, attempt.reason) == ("test", "http://test:80", 200, "")
    assert attempt.ended - attempt.started == pytest.approx(0.5)
    assert endpoint.in_flight == 0


@virtual
async def test_a_body_belongs_to_the_try() -> None:
    back = Back()
    upstream = back.upstream()
    endpoint = upstream.endpoints.members[0]
    x = get()
    run = start(upstream, x)
    await settle()
    back.server.write(b"HTTP/1.1 200 OK\r\nContent-Length: 10\r\n\r\nhello")
    await settle()
    sink = Sink(outcome_of(run))
    await asyncio.sleep(0.5)
    assert (endpoint.in_flight, x.attempts[0].ended) == (1, 0.0)
    back.server.transport.abort()
    await settle()
    assert sink.failure is not None
    assert (endpoint.in_flight, x.attempts[0].reason) == (0, "reset")
    assert x.attempts[0].ended - x.attempts[0].answered == pytest.approx(0.5)


@pytest.mark.parametrize("method", [b"GET", b"HEAD", b"OPTIONS", b"PUT", b"DELETE"])
@virtual
async def test_a_stale_connection_is_replaced_at_once(method: bytes) -> None:
    back = Back()
    upstream = back.upstream()
    await warm(back, upstream)
    x = get(method)
    run = start(upstream, x)
    await settle()
    back.server.transport.abort()
    await settle()
    assert len(back.peers) == 2
    back.server.write(b"HTTP/1.1 200 OK\r\nContent-Length: 0\r\n\r\n")
    await settle()
    assert outcome_of(run).status == 200
    assert len(x.attempts) == 1
    assert upstream.endpoints.members[0].in_flight == 0


@virtual
async def test_a_fresh_connection_that_closes_too_is_not_replaced_again() -> None:
    back = Back()
    upstream = back.upstream()
    await warm(back, upstream)
    run = start(upstream, get())
    await settle()
    for _ in range(2):
        back.server.transport.abort()
        await settle()
    assert outcome_of(run).reason == "reset"
    assert len(back.peers) == 2


@pytest.mark.parametrize("method", [b"POST", b"PATCH", b"PURGE"])
@virtual
async def test_what_may_not_be_repeated_is_never_sent_twice(method: bytes) -> None:
    back = Back()
    upstream = back.upstream()
    await warm(back, upstream)
    run = start(upstream, get(method))
    await settle()
    back.server.transport.abort()
    await settle()
    outcome = outcome_of(run)
    assert outcome.failure is not None
    assert (outcome.reason, outcome.failure.sent) == ("reset", True)
    assert len(back.peers) == 1


@pytest.mark.parametrize("part", [b"HTTP/1.1 2", b"HTTP/1.1 103 Early Hints\r\nLink: </a>\r\n\r\n"])
@virtual
async def test_an_answer_that_has_begun_is_never_repeated(part: bytes) -> None:
    back = Back()
    upstream = back.upstream()
    await warm(back, upstream)
    run = start(upstream, get())
    await settle()
    back.server.write(part)
    await settle()
    back.server.transport.abort()
    await settle()
    assert outcome_of(run).reason == "reset"
    assert len(back.peers) == 1


@virtual
async def test_a_body_that_was_kept_is_sent_again() -> None:
    back = Back()
    upstream = back.upstream()
    await warm(back, upstream)
    x, body, _ = upload(10, b"PUT")
    body.record(1000)
    run = start(upstream, x)
    await settle()
    body.feed(b"hello")
    await settle()
    back.server.transport.abort()
    await settle()
    body.feed(b"world")
    body.finish()
    await settle()
    assert back.server.received.endswith(b"\r\n\r\nhelloworld")
    back.server.write(OK)
    await settle()
    assert outcome_of(run).status == 200


@virtual
async def test_a_body_that_was_not_kept_is_not() -> None:
    back = Back()
    upstream = back.upstream()
    await warm(back, upstream)
    x, body, _ = upload(10, b"PUT")
    run = start(upstream, x)
    await settle()
    body.feed(b"hello")
    await settle()
    back.server.transport.abort()
    await settle()
    assert outcome_of(run).reason == "reset"
    assert len(back.peers) == 1


@virtual
async def test_a_body_that_has_broken_off_already_ends_its_attempt_at_once() -> None:
    back = Back()
    upstream = back.upstream()
    start(upstream, get())
    await settle()
    back.server.write(OK)
    await settle()
    x, body, _ = upload(10)
    body.fail(CLIENT_CLOSED)
    outcome = outcome_of(start(upstream, x))
    assert outcome.failure is CLIENT_CLOSED
    assert [attempt.reason for attempt in x.attempts] == ["client_closed"]
    assert upstream.endpoints.members[0].in_flight == 0


@virtual
async def test_no_try_begins_when_no_time_is_left() -> None:
    back = Back()
    upstream = back.upstream()
    for facts in ({"deadline": back.env.now()}, {"deadline": back.env.now() - 1}):
        outcome = outcome_of(start(upstream, get(**facts)))
        assert outcome.reason == "timeout"
        assert outcome.failure is not None
        assert not outcome.failure.sent
    await settle()
    assert back.peers == []


@pytest.mark.parametrize(("deadline", "attempt"), [(2.0, 9.0), (9.0, 2.0), (2.0, float("inf"))])
@virtual
async def test_the_shorter_of_two_timeouts(deadline: float, attempt: float) -> None:
    back = Back()
    upstream = back.upstream()
    x = get(deadline=back.env.now() + deadline, attempt_timeout=attempt, timeout_header=b"x-request-timeout-ms")
    run = start(upstream, x)
    await asyncio.sleep(1.9)
    assert run.value is None
    assert b"\r\nx-request-timeout-ms: 2000\r\n" in back.server.received
    await asyncio.sleep(0.2)
    assert outcome_of(run).reason == "timeout"
    assert upstream.endpoints.members[0].in_flight == 0


@pytest.mark.parametrize("moment", ["connecting", "waiting", "body"])
@virtual
async def test_a_request_that_is_cancelled_leaves_nothing_behind(moment: str) -> None:
    back = Back()
    upstream = back.upstream()
    endpoint = upstream.endpoints.members[0]

    async def for_ever() -> None:
        await asyncio.get_running_loop().create_future()

    if moment == "connecting":
        back.connecting = for_ever
    x = get()
    run = start(upstream, x)
    await settle()
    if moment == "body":
        back.server.write(b"HTTP/1.1 200 OK\r\nContent-Length: 10\r\n\r\nhello")
        await settle()
        stream = outcome_of(run).stream
        assert stream is not None
        stream.cancel()
    else:
        run.cancel()
        assert isinstance(run.error, asyncio.CancelledError)
    await asyncio.sleep(2)
    assert endpoint.in_flight == 0
    assert x.attempts[0].reason == "client_closed"
    assert back.deadlines.entries == set()
    assert back.pool.describe() | {"opened": 0} == {
        "max": 256, "open": 0, "idle": 0, "opening": 0, "waiting": 0, "opened": 0,
    }  # fmt: skip


@virtual
async def test_a_connection_that_cannot_be_made_is_no_try_that_was_sent() -> None:
    back = Back()
    upstream = back.upstream()

    async def refuse() -> None:
        raise ConnectionRefusedError(111, "Connection refused")

    back.connecting = refuse
    run = start(upstream, get(b"POST"))
    await settle()
    outcome = outcome_of(run)
    assert (outcome.reason, outcome.status) == ("connect_failure", 502)
    assert outcome.failure is not None
    assert not outcome.failure.sent
    assert upstream.endpoints.members[0].in_flight == 0


class Ticket:
    """Ticket of a gate."""


class Breaker:
    """Gate of one endpoint, which records the outcomes that it settles."""

    def __init__(self, endpoint: Endpoint) -> None:
        self.endpoint = endpoint
        self.refuses = False
        self.settled: list[tuple[Any, Any, str, int]] = []

    def would_admit(self) -> bool:
        return True

    def admit(self, x: Exchange) -> object:
        return failed(BREAKER_OPEN) if self.refuses else Ticket()

    def settle(self, x: Exchange, ticket: object, outcome: Outcome) -> None:
        self.settled.append((x, weakref.ref(ticket), outcome.reason, outcome.status))


@pytest.fixture
def guarded() -> Callable[[], tuple[Back, Upstream, list[Breaker]]]:
    """Return a function that makes an upstream whose endpoint has a breaker of its own, on a virtual loop."""

    def make() -> tuple[Back, Upstream, list[Breaker]]:
        back, breakers = Back(), []

        def gate(endpoint: Endpoint) -> Breaker:
            breakers.append(Breaker(endpoint))
            return breakers[-1]

        return back, back.upstream(gate), breakers

    return make


Guarded = Callable[[], tuple[Back, Upstream, list[Breaker]]]


@virtual
async def test_the_breaker_of_an_endpoint_is_settled_once(guarded: Guarded) -> None:
    back, upstream, breakers = guarded()
    for _ in range(2):
        x = get()
        run = start(upstream, x)
        await settle()
        back.server.write(OK)
        await settle()
        assert outcome_of(run).status == 200
        assert breakers[0].settled.pop()[0] is x
    (breaker,) = breakers
    assert breaker.endpoint is upstream.endpoints.members[0]
    assert breaker.settled == []


@virtual
async def test_the_breaker_of_an_endpoint_sees_a_body_that_breaks_off(guarded: Guarded) -> None:
    back, upstream, breakers = guarded()
    run = start(upstream, get())
    await settle()
    back.server.write(b"HTTP/1.1 200 OK\r\nContent-Length: 10\r\n\r\nhello")
    await settle()
    Sink(outcome_of(run))
    assert breakers[0].settled == []
    back.server.transport.abort()
    await settle()
    assert [settled[2:] for settled in breakers[0].settled] == [("reset", 502)]


@virtual
async def test_the_refusal_of_an_endpoints_breaker_is_no_attempt(guarded: Guarded) -> None:
    back, upstream, breakers = guarded()
    await warm(back, upstream)
    breakers[0].refuses = True
    x = get()
    assert outcome_of(start(upstream, x)).reason == "breaker_open"
    assert x.attempts == []
    assert upstream.endpoints.members[0].in_flight == 0
    assert len(breakers[0].settled) == 1


@virtual
async def test_a_settled_attempt_leaves_no_cycle_to_the_garbage_collector(guarded: Guarded) -> None:
    back, upstream, breakers = guarded()
    gc.disable()
    try:
        run = start(upstream, get())
        await settle()
        back.server.write(OK)
        await settle()
        assert outcome_of(run).status == 200
        _, ticket, *_ = breakers[0].settled.pop()
        del run
        assert ticket() is None
    finally:
        gc.enable()
