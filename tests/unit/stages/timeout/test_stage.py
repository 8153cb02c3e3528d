"""Tests of `timeout`: deadlines, refusals, and `mode: observe`."""

from __future__ import annotations

import asyncio
from typing import Any

import pytest
from pydantic import ValidationError

from sidecar.core import metrics
from sidecar.core.exchange import NEVER, Attempt, Exchange
from sidecar.core.outcome import ABANDONED, DEADLINE, TIMEOUT, Outcome, failed
from sidecar.core.stage import Gate
from sidecar.stages.timeout import stage as timeout
from sidecar.stages.timeout.spec import Spec
from tests.support.clock import FakeEnv, make_env
from tests.support.loop import settle, virtual
from tests.support.proxy import HANDSHAKE, Proxy, Service
from tests.support.service import context, exchange, response


def gate(env: FakeEnv, **block: Any) -> Gate:
    return timeout.build(Spec.model_validate(block), context(env))


def arriving(env: FakeEnv, **facts: Any) -> Exchange:
    return exchange(arrived=env.now(), **facts)


def test_it_stamps_what_is_due() -> None:
    env = make_env()
    x = arriving(env)
    assert not isinstance(gate(env, request="3s", attempt="1s", idle="5s").admit(x), Outcome)
    assert (x.deadline, x.attempt_timeout, x.idle_timeout) == (env.now() + 3, 1, 5)


def test_the_built_in_defaults() -> None:
    env = make_env()
    x = arriving(env)
    gate(env).admit(x)
    assert (x.deadline - x.arrived, x.attempt_timeout, x.idle_timeout) == (15, NEVER, NEVER)


POLICIES = """version: 1
listeners: {inbound: {address: "127.0.0.1:0"}}
upstreams: {u: {endpoints: ["http://a:80"]}}
routes: [{name: r, match: {path_prefix: /}, upstream: u BLOCK}]
"""


@pytest.mark.parametrize("framing", ["Content-Length: 4", "Transfer-Encoding: chunked"])
@pytest.mark.parametrize("block", ["", ", timeout: {request: off}", ", timeout: {request: 1h}", ", timeout: off"])
@virtual
async def test_a_block_ends_no_silence_that_it_does_not_name(block: str, framing: str) -> None:
    """A stream that may be silent without a block may also be silent with `request: off`, meant for streams."""
    is_chunked = "chunked" in framing
    head = f"HTTP/1.1 200 OK\r\n{framing}\r\n\r\n".encode()
    service = Service(head + (b"2\r\nhi\r\n" if is_chunked else b"hi"))
    proxy = Proxy(POLICIES.replace(" BLOCK", block), service)
    client = proxy.send()
    await asyncio.sleep(600)
    service.connections[0].write(b"2\r\nyo\r\n0\r\n\r\n" if is_chunked else b"yo")
    assert (await client.answer()).body == b"hiyo"


@virtual
async def test_nor_that_of_a_websocket() -> None:
    switch = (
        b"HTTP/1.1 101 Switching Protocols\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n"
        b"Sec-WebSocket-Accept: s3pPLMBiTxaQ9kYGzzhZRbK+xOo=\r\n\r\n"
    )
    proxy = Proxy(POLICIES.replace(" BLOCK", ", timeout: {request: off}"), service := Service(switch))
    client = proxy.connect()
    client.write(HANDSHAKE)
    await asyncio.sleep(600)
    service.connections[0].write(b"\x81\x02hi")
    await settle()
    assert client.received.endswith(b"\x81\x02hi")


def test_the_time_counts_from_the_first_byte() -> None:
    env = make_env()
    x = exchange(arrived=env.now() - 2)
    gate(env, request="3s").admit(x)
    assert x.deadline == env.now() + 1


@pytest.mark.parametrize(("came_in", "left"), [(1.0, 1.0), (9.0, 3.0)])
def test_the_earlier_of_two_deadlines_holds(came_in: float, left: float) -> None:
    env = make_env()
    x = arriving(env, deadline=env.now() + came_in)
    gate(env, request="3s").admit(x)
    assert x.deadline == env.now() + left


def test_off_sets_no_limit() -> None:
    env = make_env()
    x = arriving(env)
    gate(env, request="off", idle="off").admit(x)
    assert (x.deadline, x.idle_timeout) == (NEVER, NEVER)


def test_nothing_left_is_a_refusal() -> None:
    env = make_env()
    refused = gate(env, request="3s").admit(exchange(arrived=env.now() - 3, body=b"late"))
    assert isinstance(refused, Outcome)
    assert refused.failure is DEADLINE
    assert (refused.status, refused.refusal.policy, refused.refusal.where) == (504, "timeout", "policies.yaml:7")
    assert (refused.refusal.limit, refused.refusal.value) == (3, 3)
    assert "this route allows 3 s" in refused.refusal.detail
    refused = gate(env, request="3s").admit(arriving(env, deadline=env.now()))
    assert isinstance(refused, Outcome)
    assert "the caller allows 0 s" in refused.refusal.detail


def test_observing_stamps_nothing_and_counts_what_is_late() -> None:
    env = make_env()
    observer = gate(env, request="3s", attempt="1s", mode="observe")

    def observe(seconds: float, outcome: Outcome, *tries: float) -> float:
        before = env.meter.value(metrics.WOULD_REFUSE, policy="timeout", route="order")
        x = arriving(env)
        ticket = observer.admit(x)
        assert (x.deadline, x.attempt_timeout, x.idle_timeout) == (NEVER, NEVER, NEVER)
        for number, duration in enumerate(tries, 1):
            x.attempts.append(Attempt(number, env.now()))
            x.attempts[-1].ended = env.now() + duration
        env.advance(seconds)
        observer.settle(x, ticket, outcome)
        return env.meter.value(metrics.WOULD_REFUSE, policy="timeout", route="order") - before

    assert observe(2, response(200)) == 0
    assert observe(4, response(200)) == 1
    assert observe(2, response(200), 0.1, 1.5) == 1
    assert observe(4, ABANDONED) == 0, "a client that left tells nothing"
    assert not isinstance(observer.admit(exchange(arrived=env.now() - 9)), Outcome)


@pytest.mark.parametrize("block", [{"request": 3}, {"request": "0s"}, {"attempt": "fast"}, {"total": "3s"}])
def test_what_is_not_a_timeout(block: dict[str, Any]) -> None:
    with pytest.raises(ValidationError):
        Spec.model_validate(block)


def test_another_header_brings_the_time_left_and_takes_it_upstream() -> None:
    env = make_env()
    x = arriving(env, headers={"x-deadline-ms": "250"})
    gate(env, request="3s", header="x-deadline-ms").admit(x)
    assert x.deadline == env.now() + 0.25
    assert x.timeout_header == b"x-deadline-ms"
    assert x.header(b"x-deadline-ms") is None


def test_off_tells_the_upstream_nothing() -> None:
    env = make_env()
    x = arriving(env)
    gate(env, header="off").admit(x)
    assert x.timeout_header == b""


@pytest.mark.parametrize(
    ("seconds", "incoming", "limit", "says"),
    [
        (1, NEVER, 1, "this route allows 1 s for one attempt"),
        (3, NEVER, 3, "this route allows 3 s in all"),
        (2, 2, 2, "the caller allows 2 s in all"),
    ],
)
def test_a_timeout_says_whose_it_was(seconds: float, incoming: float, limit: float, says: str) -> None:
    env = make_env()
    stage = gate(env, request="3s", attempt="1s")
    x = arriving(env, deadline=env.now() + incoming)
    ticket = stage.admit(x)
    env.advance(seconds)
    outcome = failed(TIMEOUT, cause="no complete response in time")
    stage.settle(x, ticket, outcome)
    refusal = outcome.refusal
    assert (refusal.policy, refusal.where) == ("timeout", "policies.yaml:7")
    assert (refusal.limit, refusal.value) == (limit, pytest.approx(seconds))
    assert refusal.detail == f"no complete response in time: {says}"


@pytest.mark.parametrize(("floor", "said", "allowed"), [(0.1, b"5", 0.1), (0.1, b"300", 0.3), (0.0, b"5", 0.005)])
def test_a_deadline_in_a_field_of_another_name_has_the_same_floor(floor: float, said: bytes, allowed: float) -> None:
    env = make_env()
    x = exchange("GET", "/", {"x-deadline-ms": said.decode(), "X_Deadline_Ms": "1", "a": "b"})
    x.arrived, x.min_deadline = env.now(), floor
    assert gate(env, request="2s", header="X-Deadline-Ms").admit(x) is None
    assert x.deadline - x.arrived == pytest.approx(allowed)
    assert x.headers == [(b"a", b"b")], "neither it nor its twin goes on"
