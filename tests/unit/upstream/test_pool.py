"""Tests of one endpoint's pool: connections are reused, bounded, queued for, and discarded."""

from __future__ import annotations

import asyncio
import socket
from collections.abc import Callable
from typing import Any

import pytest

from sidecar.core.outcome import CLIENT_TIMEOUT, Outcome
from sidecar.core.promise import Run
from sidecar.upstream.connection import UpstreamConnection
from sidecar.upstream.spec import UpstreamSpec
from tests.support.loop import settle, virtual
from tests.support.receiver import exchanged
from tests.unit.upstream.back import NEVER, OK, Back, Interims, Sink, get, outcome_of, upload


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
    back.pool.min_queue = 1
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
async def test_waiting_in_line_ends_after_the_time_for_connecting_and_is_nobody_s_fault() -> None:
    back = Back(connections={"max": 1}, connect_timeout="500ms")
    first, second = back.send(get()), back.send(get())
    await asyncio.sleep(1)
    failure = outcome_of(second).failure
    assert failure is not None
    assert (failure.code, failure.origin, failure.sent) == ("overloaded", "gateway", False)
    back.server.write(OK)
    await settle()
    assert outcome_of(first).status == 200
    assert back.pool.describe()["waiting"] == 0


@virtual
async def test_the_time_for_connecting_begins_once_the_task_has_begun() -> None:
    """uvloop runs timers before new tasks.  After a long turn, the timer would cancel a task that counts nothing."""
    back = Back(connect_timeout="1s")
    back.connecting = for_ever

    def timers() -> int:
        handles = asyncio.get_running_loop()._scheduled  # type: ignore[attr-defined]
        return sum(getattr(each._callback, "__name__", "") == "cancel" for each in handles if not each.cancelled())

    run = back.send(get())
    assert (back.pool.opening, timers()) == (1, 0)
    await settle()
    assert (back.pool.opening, timers()) == (1, 1)
    await asyncio.sleep(1.1)
    assert (back.pool.opening, outcome_of(run).reason) == (0, "connect_timeout")


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
async def test_a_connection_made_at_the_very_end_of_the_time_for_connecting_is_not_used() -> None:
    """A loop may report neither the connection to the task that waits for it nor its end to its protocol."""
    back = Back(connect_timeout="500ms")
    connect = back.connect

    async def connect_too_late(protocol: Callable[[], UpstreamConnection]) -> None:
        await connect(protocol)
        await for_ever()

    back.pool.connect = connect_too_late
    run = back.send(get())
    await asyncio.sleep(0.6)
    assert outcome_of(run).reason == "connect_timeout"
    assert back.pool.size == 0
    assert back.server.is_eof


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
    back.pool.min_queue = 1
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
async def test_a_lowered_limit_of_requests_closes_connections_that_are_beyond_it() -> None:
    back = Back()
    for limit in (None, None, None, 2):
        connections = {} if limit is None else {"max_requests": limit}
        back.pool.retune(UpstreamSpec.model_validate({"endpoints": ["http://test:80"], "connections": connections}))
        back.send(get())
        await settle()
        back.server.write(OK)
        await settle()
    assert [peer.requests for peer in back.peers] == [4]
    assert back.pool.describe()["open"] == 0


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


@pytest.mark.parametrize(("method", "connections"), [(b"GET", 1), (b"PUT", 1), (b"POST", 2), (b"PATCH", 2)])
@pytest.mark.parametrize("how", ["its end", "bytes"])
@virtual
async def test_what_may_not_be_sent_twice_never_meets_an_end_that_the_loop_has_not_read(
    how: str, method: bytes, connections: int
) -> None:
    back = Back()
    ours, theirs = socket.socketpair()
    with ours, theirs:
        back.extra["socket"] = ours
        for first in (get(), get(method)):  # an idle connection without input serves every method
            back.send(first)
            await settle()
            back.server.write(OK)
            await settle()
        assert len(back.peers) == 1
        if how == "bytes":
            theirs.send(b"HTTP/1.1 408 Request Timeout\r\n\r\n")
        else:
            theirs.close()
        back.send(get(method))
        await settle()
        assert len(back.peers) == connections
        assert back.peers[0].is_eof is (connections == 2)


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


# ----- requests that end to free their permits


def large(size: int = 10**6) -> bytes:
    """Return the head and the beginning of a long answer."""
    return b"HTTP/1.1 200 OK\r\nContent-Length: %d\r\n\r\n" % size + b"x" * 100


@virtual
async def test_who_waits_for_its_reader_gives_way_to_who_waits_in_line() -> None:
    back = Back(connections={"max": 2})
    first, second = back.send(get()), back.send(get())
    await settle()
    for peer in back.peers:
        peer.write(large())
    await settle()
    sinks = [Sink(first.value), Sink(second.value)]
    await asyncio.sleep(1)
    sinks[1].stream.pause()
    await asyncio.sleep(1)
    sinks[0].stream.pause()
    third = back.send(get())
    await settle()
    failure = sinks[1].failure
    assert failure is not None, "it has waited longest"
    assert (failure.code, failure.origin) == ("client_timeout", "client")
    assert back.peers[1].is_lost
    await settle()
    back.server.write(OK)
    await settle()
    assert outcome_of(third).status == 200
    assert sinks[0].failure is None, "nobody else waits"


@virtual
async def test_the_line_of_a_small_pool_has_room_for_a_crowd_and_an_end() -> None:
    back = Back(connections={"max": 2}, connect_timeout="1s")
    runs = [back.send(get()) for _ in range(600)]
    await settle()
    refused = [run for run in runs if outcome_of_failure(run)]
    assert len(refused) == 600 - 2 - 64
    assert {outcome_of_failure(run) for run in refused} == {"overloaded"}
    await asyncio.sleep(1.1)
    assert [outcome_of_failure(run) for run in runs[2:]] == ["overloaded"] * 598, "nobody waits for ever"
    assert back.pool.describe()["waiting"] == 0


@virtual
async def test_a_normal_request_gets_through_a_crowd_of_slow_readers_that_come_back_at_once() -> None:
    back = Back(connections={"max": 4})
    loop = asyncio.get_running_loop()

    async def attack() -> None:
        while True:
            acquired = back.pool.take(get(), back.env.now()) or await back.pool.open(NEVER)
            if not isinstance(acquired, UpstreamConnection):
                await asyncio.sleep(0.005)
                continue
            outcome = await exchanged(acquired, get(), NEVER, back.env.now())
            assert outcome.stream is not None
            outcome.stream.pause()
            ended = loop.create_future()
            outcome.stream.on_close(ended.set_result)
            await ended

    async def serve() -> None:
        """Answer the requests so far: normal ones completely, the others with bodies that are not read."""
        while True:
            await asyncio.sleep(0.02)
            for peer in back.peers:
                if not peer.is_lost and peer.received:
                    peer.write(OK if peer.received.startswith(b"OPTIONS") else large())
                    peer.received.clear()

    tasks = [loop.create_task(attack()) for _ in range(50)] + [loop.create_task(serve())]
    await asyncio.sleep(1)
    for _ in range(20):
        began = loop.time()
        assert (await one(back, b"OPTIONS")).status == 200
        assert loop.time() - began < 1
        await asyncio.sleep(0.1)
    for task in tasks:
        task.cancel()


@virtual
async def test_a_full_queue_ends_an_exchange_that_waits_for_its_reader_before_it_refuses() -> None:
    back = Back(connections={"max": 1})
    run = back.send(get())
    await settle()
    back.peers[0].write(large())
    await settle()
    Sink(run.value).stream.pause()
    waiting = [back.send(get()) for _ in range(64)]
    await asyncio.sleep(0.004)
    assert outcome_of_failure(back.send(get())) == "overloaded", "the reader has waited for no moment yet"
    await asyncio.sleep(0.002)
    late = back.send(get())
    await settle()
    assert len(back.peers) == 2, "the first in the queue has the connection"
    assert not any(run.value for run in (*waiting, late))


@virtual
async def test_the_rest_of_a_crowd_has_no_more_patience_than_its_beginning() -> None:
    back = Back(connections={"max": 1}, connect_timeout="5s")
    loop = asyncio.get_running_loop()
    runs = [back.send(get()) for _ in range(33)]
    began = loop.time()
    for number in range(33):
        while len(back.peers) <= number:
            await asyncio.sleep(0.001)
        back.peers[number].write(large())
        await settle()
        Sink(runs[number].value).stream.pause()
    assert loop.time() - began < 1, "each waits for a 32nd of the patience; the last ones would have had all of it"


@virtual
async def test_who_has_waited_a_moment_only_keeps_its_connection() -> None:
    back = Back(connections={"max": 1})
    first = back.send(get())
    await settle()
    back.server.write(large())
    await settle()
    sink = Sink(first.value)
    sink.stream.pause()
    second = back.send(get())
    await asyncio.sleep(0.2)
    sink.stream.resume()
    await asyncio.sleep(0.5)
    assert sink.failure is None
    assert outcome_of_failure(second) == ""
    sink.stream.pause()
    await asyncio.sleep(0.2)
    assert outcome_of_failure(second) == ""
    await asyncio.sleep(0.15)
    assert sink.failure is CLIENT_TIMEOUT


def outcome_of_failure(run: Run[Outcome]) -> str:
    """Return why a run has failed; empty while it has not."""
    return "" if run.value is None else run.value.reason


@virtual
async def test_a_body_that_does_not_come_gives_way() -> None:
    back = Back(connections={"max": 1})
    x, body, _ = upload(1000)
    first = back.send(x)
    await settle()
    for _ in range(5):
        body.feed(b"x")
        await asyncio.sleep(0.2)
    second = back.send(get())
    await asyncio.sleep(0.1)
    assert outcome_of(first).failure is CLIENT_TIMEOUT
    await settle()
    back.server.write(OK)
    await settle()
    assert outcome_of(second).status == 200


@virtual
async def test_a_body_that_trickles_gives_way() -> None:
    back = Back(connections={"max": 1})
    x, body, _ = upload(10**6)
    first = back.send(x)
    await settle()
    body.feed(b"x" * 70_000)
    second = back.send(get())
    for _ in range(5):
        await asyncio.sleep(0.1)
        body.feed(b"x")
    assert outcome_of(first).failure is CLIENT_TIMEOUT
    await settle()
    back.server.write(OK)
    await settle()
    assert outcome_of(second).status == 200


@virtual
async def test_while_others_wait_a_client_is_told_soon_to_go_on() -> None:
    back = Back(connections={"max": 1})
    interims = Interims()
    x, _, _ = upload(1000, expects_continue=True, interim=interims)
    first = back.send(x)
    await settle()
    second = back.send(get())
    await asyncio.sleep(0.4)
    assert interims.said == [(100, b"")]
    assert first.value is None
    await asyncio.sleep(0.3)
    assert outcome_of(first).failure is CLIENT_TIMEOUT, "and gives way if it does not"
    await settle()
    back.server.write(OK)
    await settle()
    assert outcome_of(second).status == 200


@virtual
async def test_a_body_that_comes_in_pieces_at_the_rate_keeps_its_connection() -> None:
    back = Back(connections={"max": 1})
    x, body, _ = upload(10**6)
    first = back.send(x)
    await settle()
    second = back.send(get())
    for _ in range(5):
        body.feed(b"x" * 300)
        await asyncio.sleep(0.2)
    assert first.value is second.value is None


@virtual
async def test_who_waits_for_the_endpoint_never_gives_way() -> None:
    back = Back(connections={"max": 2}, connect_timeout="1s")
    x, body, source = upload(10**6)
    first, second = back.send(x), back.send(get())
    await settle()
    back.peers[0].transport.pause_reading()
    body.feed(b"x" * 500_000)
    assert source.said[-1:] == ["pause"]
    await asyncio.sleep(1)
    third = back.send(get())
    await asyncio.sleep(2)
    assert outcome_of(third).reason == "overloaded"
    assert first.value is second.value is None


# ----- requests that run in a task, which learns of its connection or its answer one turn of the loop later


async def one(back: Back, method: bytes = b"GET", **facts: Any) -> Outcome:
    """Carry one exchange over the pool."""
    connection = back.pool.take(get(), back.env.now()) or await back.pool.open(NEVER)
    assert isinstance(connection, UpstreamConnection)
    return await exchanged(connection, get(method, **facts), NEVER, back.env.now())


async def until(promise_is_resolved: Callable[[], bool]) -> None:
    """Let the loop turn until a condition holds, and not one turn longer."""
    while not promise_is_resolved():
        await asyncio.sleep(0)


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
