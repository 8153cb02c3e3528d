"""The connections of one endpoint: reused, bounded, waited for in line, and given up."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from typing import Any

import pytest

from sidecar.core.outcome import Outcome
from sidecar.upstream.connection import UpstreamConnection
from tests.support.loop import settle, virtual
from tests.unit.upstream.back import NEVER, OK, Back, get, outcome_of


async def for_ever() -> None:
    await asyncio.get_running_loop().create_future()


@virtual
async def test_the_one_used_last_is_taken_first() -> None:
    back = Back()
    runs = [back.send(get()) for _ in range(3)]
    await settle()
    for peer in back.peers:
        peer.write(OK)
        await settle()
    assert all(outcome_of(run).status == 200 for run in runs)
    back.send(get())
    await settle()
    assert [peer.requests for peer in back.peers] == [1, 1, 2]


@virtual
async def test_idle_connections_age_out() -> None:
    back = Back(connections={"idle_timeout": "10s"})
    runs = [back.send(get()) for _ in range(3)]
    await settle()
    for peer in back.peers:
        peer.write(OK)
    await settle()
    assert all(run.value for run in runs)
    await asyncio.sleep(25)
    assert back.pool.describe()["open"] == 0
    assert all(peer.is_eof for peer in back.peers)


@virtual
async def test_a_connection_that_is_too_old_is_not_taken() -> None:
    back = Back(connections={"idle_timeout": "10s"})
    for wait in (0.0, 9.0):
        await asyncio.sleep(wait)
        back.send(get())
        await settle()
        back.server.write(OK)
        await settle()
    assert len(back.peers) == 1
    await asyncio.sleep(10.5)
    back.send(get())
    await settle()
    assert len(back.peers) == 2


@virtual
async def test_a_limit_and_a_line() -> None:
    back = Back(connections={"max": 2}, connect_timeout="5s")
    runs = [back.send(get()) for _ in range(5)]
    await settle()
    assert len(back.peers) == 2
    assert outcome_of(runs[4]).reason == "overloaded"
    refusal = outcome_of(runs[4]).refusal
    assert (refusal.limit, refusal.value) == (2, 4)
    for peer in back.peers:
        peer.write(OK)
    await settle()
    assert [peer.requests for peer in back.peers] == [2, 2]
    for peer in back.peers:
        peer.write(OK)
    await settle()
    assert [outcome_of(run).status for run in runs[:4]] == [200] * 4
    assert back.pool.describe() == {"max": 2, "open": 2, "idle": 2, "opening": 0, "waiting": 0, "opened": 2}


@virtual
async def test_waiting_in_line_is_part_of_connecting() -> None:
    back = Back(connections={"max": 1}, connect_timeout="500ms")
    first, second = back.send(get()), back.send(get())
    await asyncio.sleep(1)
    assert outcome_of(second).reason == "connect_timeout"
    back.server.write(OK)
    await settle()
    assert outcome_of(first).status == 200
    assert back.pool.describe()["waiting"] == 0


@virtual
async def test_a_connection_that_breaks_makes_room_for_the_first_in_line() -> None:
    back = Back(connections={"max": 1})
    first, second = back.send(get()), back.send(get())
    await settle()
    back.server.transport.abort()
    await settle()
    assert outcome_of(first).reason == "reset"
    back.server.write(OK)
    await settle()
    assert outcome_of(second).status == 200
    assert len(back.peers) == 2


@virtual
async def test_connecting_has_a_timeout() -> None:
    back = Back(connect_timeout="500ms")
    back.connecting = for_ever
    run = back.send(get())
    await asyncio.sleep(0.4)
    assert run.value is None
    await asyncio.sleep(0.2)
    assert outcome_of(run).reason == "connect_timeout"
    assert back.pool.describe()["opening"] == 0
    assert back.deadlines.entries == set()


@virtual
async def test_the_deadline_of_a_request_may_be_shorter_than_connecting() -> None:
    back = Back(connect_timeout="10s")
    slow = asyncio.get_running_loop().create_future()

    async def wait() -> None:
        await slow

    back.connecting = wait
    run = back.send(get(), back.env.now() + 0.3)
    await asyncio.sleep(0.5)
    assert outcome_of(run).reason == "connect_timeout"
    slow.set_result(None)
    await settle()
    assert back.pool.describe()["idle"] == 1, "the connection will serve another"


@pytest.mark.parametrize(
    ("error", "cause"),
    [(ConnectionRefusedError(111, "refused"), "connection refused"), (OSError(-2, "Name not known"), "name not known")],
)
@virtual
async def test_connecting_fails(error: OSError, cause: str) -> None:
    back = Back(connections={"max": 1})

    async def fail() -> None:
        await asyncio.sleep(0.1)
        raise error

    back.connecting = fail
    runs = [back.send(get()) for _ in range(2)]
    await asyncio.sleep(1)
    for run in runs:
        outcome = outcome_of(run)
        assert outcome.reason == "connect_failure"
        assert cause in outcome.cause
        assert outcome.failure is not None
        assert not outcome.failure.sent


@virtual
async def test_a_run_that_is_cancelled_while_connecting_leaves_the_connection_to_another() -> None:
    back = Back(connections={"max": 1})
    opened = asyncio.get_running_loop().create_future()

    async def wait() -> None:
        await opened

    back.connecting = wait
    first, second, third = (back.send(get()) for _ in range(3))
    assert outcome_of(third).reason == "overloaded"
    await settle()
    first.cancel()
    assert isinstance(first.error, asyncio.CancelledError)
    opened.set_result(None)
    await settle()
    back.server.write(OK)
    await settle()
    assert outcome_of(second).status == 200
    assert len(back.peers) == 1


@virtual
async def test_a_run_that_is_cancelled_in_line_leaves_it() -> None:
    back = Back(connections={"max": 1})
    first, second = back.send(get()), back.send(get())
    await settle()
    second.cancel()
    assert back.pool.describe()["waiting"] == 0
    back.server.write(OK)
    await settle()
    assert outcome_of(first).status == 200
    assert back.pool.describe()["idle"] == 1
    assert back.deadlines.entries == set()


@virtual
async def test_a_connection_is_spent_after_so_many_requests() -> None:
    back = Back(connections={"max": 1, "max_requests": 2})
    runs = [back.send(get())]
    for _ in range(5):
        await settle()
        runs.append(back.send(get()))
        back.server.write(OK)
        await settle()
    assert [peer.requests for peer in back.peers] == [2, 2, 2]
    assert back.pool.describe()["open"] <= 1


@virtual
async def test_a_peer_that_closes_an_idle_connection() -> None:
    back = Back()
    back.send(get())
    await settle()
    back.server.write(OK)
    await settle()
    back.server.transport.close()
    await settle()
    assert back.pool.describe()["open"] == 0
    run = back.send(get(b"POST"))
    await settle()
    back.server.write(OK)
    await settle()
    assert outcome_of(run).status == 200


@virtual
async def test_a_retired_pool_keeps_nothing() -> None:
    back = Back()
    idle, busy = back.send(get()), back.send(get())
    await settle()
    back.peers[0].write(OK)
    await settle()
    back.pool.retire()
    await settle()
    assert back.peers[0].is_eof
    back.peers[1].write(OK)
    await settle()
    assert outcome_of(idle).status == outcome_of(busy).status == 200
    assert back.peers[1].is_eof
    assert back.pool.describe()["open"] == 0


@virtual
async def test_a_smaller_limit_is_reached_as_connections_come_back() -> None:
    back = Back(connections={"max": 3})
    runs = [back.send(get()) for _ in range(3)]
    await settle()
    back.pool.max_size = 1
    for peer in back.peers:
        peer.write(OK)
    await settle()
    assert all(outcome_of(run).status == 200 for run in runs)
    assert back.pool.describe()["open"] == 1


@virtual
async def test_a_connection_that_the_upstream_has_not_read_empty_is_not_used_again() -> None:
    back = Back()
    back.send(get())
    await settle()
    back.server.write(OK)
    await settle()
    back.server.transport.pause_reading()
    x = get(b"PUT")
    x.body = b"x" * 200_000
    run = back.send(x)
    await settle()
    back.server.write(OK)
    await settle()
    assert outcome_of(run).status == 200
    assert back.pool.describe()["open"] == 0


# ----- requests that run in a task, which learns of its connection or its answer one turn of the loop later


async def one(back: Back, method: bytes = b"GET", **facts: Any) -> Outcome:
    """Carry one exchange over the pool."""
    connection = back.pool.take(get(), back.env.now()) or await back.pool.open(NEVER)
    assert isinstance(connection, UpstreamConnection)
    return await connection.exchange(get(method, **facts), NEVER, back.env.now())


async def until(promise_is_resolved: Callable[[], bool]) -> None:
    """Let the loop turn until it is so, and not one turn longer."""
    while not promise_is_resolved():
        await asyncio.sleep(0)


@virtual
async def test_a_connection_that_a_cancelled_request_never_took_is_kept() -> None:
    back = Back()
    task = asyncio.create_task(one(back))
    await until(lambda: back.pool.describe()["opened"] == 1)
    task.cancel()
    await settle()
    assert task.cancelled()
    assert (back.pool.describe()["open"], back.pool.describe()["idle"]) == (1, 1)
    run = back.send(get())
    await settle()
    back.server.write(OK)
    await settle()
    assert outcome_of(run).status == 200
    assert len(back.peers) == 1


@virtual
async def test_or_serves_the_next_in_the_queue() -> None:
    back = Back(connections={"max": 1})
    task = asyncio.create_task(one(back))
    await until(lambda: back.pool.describe()["opened"] == 1)
    run = back.send(get())
    task.cancel()
    await settle()
    back.server.write(OK)
    await settle()
    assert outcome_of(run).status == 200


@virtual
async def test_a_connection_that_is_lost_before_its_request_has_learnt_of_it_fails_no_request() -> None:
    back = Back()
    upstream = back.upstream()
    task = asyncio.create_task(upstream.service(get()))
    await until(lambda: back.pool.describe()["opened"] == 1)
    (connection,) = back.pool.connections
    connection.connection_lost(ConnectionResetError())
    await settle()
    assert len(back.peers) == 2
    back.server.write(OK)
    assert (await task).status == 200
    assert back.env.emitted("bug") == []


@pytest.mark.parametrize(
    "answer",
    [
        b"HTTP/1.1 200 OK\r\nContent-Length: 9\r\n\r\nhi",
        b"HTTP/1.1 101 Switching Protocols\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n"
        b"Sec-WebSocket-Accept: s3pPLMBiTxaQ9kYGzzhZRbK+xOo=\r\n\r\n",
    ],
)
@virtual
async def test_an_answer_that_a_cancelled_request_never_took_is_discarded(answer: bytes) -> None:
    back = Back()
    key = [(b"sec-websocket-key", b"dGhlIHNhbXBsZSBub25jZQ==")]
    task = asyncio.create_task(one(back, upgrade=b"websocket" if b"101" in answer else None, headers=key))
    await settle()
    (connection,) = back.pool.connections
    connection.data_received(answer)
    assert ("switched" if b"101" in answer else "reading body") in repr(connection)
    task.cancel()
    await settle()
    assert task.cancelled()
    assert back.pool.describe()["open"] == 0
