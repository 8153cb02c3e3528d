"""Connection of many streams: what was never sent is repeated, its end, its silence, and its own resets."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from typing import Any

import pytest

from sidecar.core.exchange import Exchange
from sidecar.core.outcome import RESET, STALE_CONNECTION, TIMEOUT, Outcome
from sidecar.http2 import errors as e
from sidecar.http2 import frames as f
from sidecar.http2.limits import Limits
from sidecar.http2.session import FIRST_GOAWAY
from sidecar.upstream.http2.connection import DEAD_AFTER, RESET_BURST
from tests.support.loop import settle, virtual
from tests.unit.http2.peer import OK, headers, split
from tests.unit.upstream.back import Sink, get, outcome_of, start, upload
from tests.unit.upstream.http2.back import Http2Server, StreamBack


class CountingGate:
    """Breaker of an endpoint that counts what it is told."""

    def __init__(self) -> None:
        self.admitted = 0
        self.settled: list[str] = []

    def admit(self, x: Exchange) -> object:
        self.admitted += 1
        return None

    def settle(self, x: Exchange, ticket: object, outcome: Outcome) -> None:
        self.settled.append(outcome.reason)


def answer_all(back: StreamBack) -> None:
    for server in back.servers:
        for stream in server.asked:
            if not server.transport.is_closing():
                server.answer(stream, b"x")


# ----- never sent


def refuse(server: Http2Server) -> None:
    server.reset(server.asked[0], e.REFUSED_STREAM)


def go_away(server: Http2Server) -> None:
    server.say(f.goaway(0, e.NO_ERROR))


@pytest.mark.parametrize("way", [refuse, go_away])
@pytest.mark.parametrize("body", [b"", b"hello"])
@pytest.mark.parametrize("method", [b"GET", b"POST", b"PURGE"])
@virtual
async def test_what_was_not_processed_is_repeated_at_once(
    method: bytes, body: bytes, way: Callable[[Http2Server], None]
) -> None:
    back = StreamBack()
    gate = CountingGate()
    upstream = back.upstream(lambda endpoint: gate)  # type: ignore[arg-type, return-value]
    x = get(method, body=body)
    run = start(upstream, x)
    await settle()
    way(back.server)
    await settle(20)
    assert len(back.servers) == 2
    (stream,) = back.server.asked
    assert back.server.bodies[stream.id] == body
    back.server.answer(stream, b"x")
    await settle()
    assert outcome_of(run).status == 200
    assert len(x.attempts) == 1
    assert (gate.admitted, gate.settled) == (1, [""])
    assert upstream.endpoints.members[0].in_flight == 0


@virtual
async def test_what_was_not_processed_twice_fails_without_having_been_sent() -> None:
    back = StreamBack()
    run = start(back.upstream(), get(b"POST"))
    await settle()
    for _ in range(2):
        refuse(back.server)
        await settle(20)
    outcome = outcome_of(run)
    assert outcome.failure is STALE_CONNECTION
    assert not outcome.failure.sent


@virtual
async def test_a_streamed_body_is_repeated_as_long_as_it_is_recorded() -> None:
    back = StreamBack()
    upstream = back.upstream()
    x, body, _ = upload()
    run = start(upstream, x)
    await settle()
    body.feed(b"x" * 1000)
    await settle()
    go_away(back.server)
    await settle(20)
    body.feed(b"y")
    body.finish()
    await settle()
    (stream,) = back.server.asked
    assert back.server.bodies[stream.id] == b"x" * 1000 + b"y"
    back.server.answer(stream)
    await settle()
    assert outcome_of(run).status == 200


@virtual
async def test_a_long_body_cannot_be_repeated() -> None:
    back = StreamBack(Limits(window=1 << 20))
    x, body, _ = upload()
    run = start(back.upstream(), x)
    await settle()
    body.feed(b"x" * 100_000)
    await settle()
    go_away(back.server)
    await settle(20)
    assert outcome_of(run).failure is STALE_CONNECTION
    assert len(back.servers) == 1


@virtual
async def test_a_connection_that_refuses_gets_no_more_until_a_stream_has_ended() -> None:
    back = StreamBack()
    upstream = back.upstream()
    runs = [start(upstream, get()) for _ in range(2)]
    await settle()
    first = back.server
    first.reset(first.asked[1], e.REFUSED_STREAM)
    await settle(20)
    runs.append(start(upstream, get()))
    await settle()
    assert [len(server.asked) for server in back.servers] == [2, 2]
    first.answer(first.asked[0], b"x")
    await settle()
    runs.append(start(upstream, get()))
    await settle()
    assert [len(server.asked) for server in back.servers] == [3, 2]
    answer_all(back)
    await settle()
    assert {outcome_of(run).status for run in runs} == {200}


@virtual
async def test_a_head_that_was_never_written_is_repeated() -> None:
    back = StreamBack()
    upstream = back.upstream()
    run = start(upstream, get(b"POST"))
    await settle()
    first = back.server
    first.transport.abort()
    late = start(upstream, get(b"POST"))  # its head is written in the next turn, when the connection is lost
    await settle(20)
    assert outcome_of(run).failure is RESET, "it may have been processed"
    assert len(first.asked) == 1
    back.server.answer(back.server.asked[0])
    await settle()
    assert outcome_of(late).status == 200


@pytest.mark.parametrize(("method", "is_repeated"), [(b"GET", True), (b"PUT", True), (b"POST", False)])
@virtual
async def test_a_connection_that_had_been_closed_is_stale_for_what_may_be_repeated(
    method: bytes, is_repeated: bool
) -> None:
    back = StreamBack()
    upstream = back.upstream()
    start(upstream, get())
    await settle()
    answer_all(back)
    await asyncio.sleep(1)
    back.server.is_deaf = True
    run = start(upstream, get(method))
    await asyncio.sleep(0.01)
    back.server.transport.abort()
    await settle(20)
    if not is_repeated:
        assert outcome_of(run).failure is RESET
        return
    assert len(back.servers) == 2
    back.server.answer(back.server.asked[0])
    await settle()
    assert outcome_of(run).status == 200


@virtual
async def test_a_lost_connection_breaks_what_has_begun() -> None:
    back = StreamBack()
    upstream = back.upstream()
    one, two = start(upstream, get()), start(upstream, get())
    await settle()
    back.server.answer(back.server.asked[0], b"x", end=False)
    await settle()
    sink = Sink(outcome_of(one))
    back.server.transport.abort()
    await settle()
    assert sink.failure is RESET
    assert outcome_of(two).failure is RESET
    assert "connection reset" in outcome_of(two).cause
    assert back.pool.size == 0
    assert not back.pool.deadlines.entries


# ----- GOAWAY


@virtual
async def test_a_goaway_in_two_steps_loses_nothing() -> None:
    back = StreamBack()
    upstream = back.upstream()
    runs = [start(upstream, get(b"POST"))]
    await settle()
    first = back.server
    first.say(f.goaway(FIRST_GOAWAY, e.NO_ERROR))
    await settle()
    assert back.pool.describe()["draining"] == 1
    runs.append(start(upstream, get(b"POST")))
    await settle(20)
    assert [len(server.asked) for server in back.servers] == [1, 1], "no new streams"
    first.say(f.goaway(1, e.NO_ERROR))
    await settle()
    first.answer(first.asked[0], b"x")
    await settle()
    assert outcome_of(runs[0]).body == b"x"
    assert first.is_eof, "it is closed once its streams have ended"
    answer_all(back)
    await settle()
    assert outcome_of(runs[1]).status == 200
    assert len(back.pool.carriers) == 1


@virtual
async def test_a_goaway_without_an_error_is_no_failure_of_its_endpoint() -> None:
    """nginx#1431."""
    back = StreamBack(ejection={"consecutive_failures": 1, "min_healthy": 0})
    upstream = back.upstream()
    for last in (0, 1):
        runs = [start(upstream, get(b"POST")) for _ in range(3)]
        await settle(20)
        first = back.server
        first.say(f.goaway(last, e.NO_ERROR))
        await settle(20)
        answer_all(back)
        await settle(20)
        assert [outcome_of(run).status for run in runs] == [200] * 3
    (endpoint,) = upstream.endpoints.members
    assert (endpoint.is_up, endpoint.failures) == (True, 0)


@virtual
async def test_a_goaway_a_second_under_load_loses_no_call() -> None:
    back = StreamBack()
    upstream = back.upstream()
    runs = []
    seen: list[tuple[int, int]] = []
    for second in range(5):
        runs += [start(upstream, get(b"POST", body=b"%d" % number)) for number in range(40)]
        await settle(20)
        server = back.server
        last = server.asked[-1].id - 2 * 15  # fifteen of them were not seen
        server.say(f.goaway(last, e.NO_ERROR))
        await settle(20)
        for stream in server.asked:
            if stream.id <= last:
                seen.append((second, stream.id))
                server.answer(stream, b"x")
        await settle(20)
    answer_all(back)
    await settle(20)
    assert [outcome_of(run).status for run in runs] == [200] * 200
    assert len(back.servers) == 6


@virtual
async def test_connections_that_go_away_make_room_for_others() -> None:
    back = StreamBack(connections={"max": 1})
    upstream = back.upstream()
    runs = []
    for _ in range(2):
        runs.append(start(upstream, get()))
        await settle(20)
        back.server.say(f.goaway(FIRST_GOAWAY, e.NO_ERROR))
        await settle()
    runs.append(start(upstream, get()))
    await settle(20)
    assert len(back.servers) == 2, "up to as many again"
    back.servers[0].answer(back.servers[0].asked[0])
    await settle(20)
    assert len(back.servers) == 3
    answer_all(back)
    await settle()
    assert {outcome_of(run).status for run in runs} == {200}


@virtual
async def test_an_idle_connection_that_goes_away_is_closed() -> None:
    back = StreamBack()
    upstream = back.upstream()
    start(upstream, get())
    await settle()
    answer_all(back)
    await settle()
    back.server.say(f.goaway(1, e.NO_ERROR))
    await settle()
    assert back.server.is_eof
    assert back.pool.size == 0


@virtual
async def test_the_reason_of_a_goaway_is_told() -> None:
    back = StreamBack()
    run = start(back.upstream(), get())
    await settle()
    back.server.say(f.goaway(1, e.ENHANCE_YOUR_CALM))
    await settle()
    back.server.transport.close()
    await settle()
    assert outcome_of(run).failure is RESET
    assert outcome_of(run).cause == "the peer went away: ENHANCE_YOUR_CALM"


# ----- silence


def pings(server: Http2Server) -> int:
    data = bytes(server.received).removeprefix(f.PREFACE)
    return len([frame for frame in split(data) if frame.kind == f.PING and not frame.flags & f.ACK])


@virtual
async def test_a_connection_that_is_silent_gets_a_ping_and_no_more_streams() -> None:
    back = StreamBack()
    upstream = back.upstream()
    run = start(upstream, get(attempt_timeout=2.0))
    await settle()
    hole = back.server
    hole.is_deaf = True
    await asyncio.sleep(0.45)
    assert pings(hole) == 0
    await asyncio.sleep(0.1)
    assert pings(hole) == 1, "after a quarter of the attempt"
    early = start(upstream, get(attempt_timeout=2.0))
    await asyncio.sleep(0.5)
    other = start(upstream, get(attempt_timeout=2.0))
    await settle(20)
    assert len(back.servers) == 2, "found within one attempt"
    back.server.answer(back.server.asked[0], b"x")
    await settle()
    assert outcome_of(other).status == 200
    await asyncio.sleep(2)
    assert outcome_of(run).failure is TIMEOUT
    assert outcome_of(early).failure is TIMEOUT
    await settle()
    assert hole.is_lost, "closed once its streams have ended"
    assert len(back.pool.carriers) == 1


@virtual
async def test_an_answer_to_a_ping_keeps_the_connection() -> None:
    back = StreamBack()
    upstream = back.upstream()
    run = start(upstream, get(attempt_timeout=2.0))
    await asyncio.sleep(1.8)
    assert 1 <= pings(back.server) <= 2
    other = start(upstream, get(attempt_timeout=2.0))
    await settle()
    assert len(back.servers) == 1
    answer_all(back)
    await settle()
    assert outcome_of(run).status == outcome_of(other).status == 200


@virtual
async def test_silence_is_worth_two_pings() -> None:
    back = StreamBack()
    start(back.upstream(), get(attempt_timeout=200.0))
    await asyncio.sleep(190)
    assert pings(back.server) == 2, "servers of gRPC end connections that send more without data in between"


@virtual
async def test_an_idle_connection_gets_no_ping() -> None:
    back = StreamBack()
    upstream = back.upstream()
    start(upstream, get(attempt_timeout=1.0))
    await settle()
    answer_all(back)
    await asyncio.sleep(30)
    assert pings(back.server) == 0
    assert not back.pool.deadlines.entries


@virtual
async def test_a_busy_connection_gets_no_ping() -> None:
    back = StreamBack()
    run = start(back.upstream(), get(attempt_timeout=2.0))
    await settle()
    (stream,) = back.server.asked
    back.server.answer(stream, b"x", end=False)
    await settle()
    sink = Sink(outcome_of(run))
    for _ in range(15):
        await asyncio.sleep(0.1)
        back.server.send(stream, b"x")
    assert pings(back.server) == 0
    assert len(sink.data) >= 15


@virtual
async def test_a_connection_that_speaks_again_is_used_again() -> None:
    back = StreamBack()
    upstream = back.upstream()
    run = start(upstream, get(attempt_timeout=4.0))
    await settle()
    back.server.is_deaf = True
    await asyncio.sleep(2.1)
    assert back.pool.describe()["draining"] == 1
    back.server.is_deaf = False
    back.server.answer(back.server.asked[0], b"x")
    await settle()
    assert outcome_of(run).status == 200
    other = start(upstream, get())
    await settle()
    assert len(back.servers) == 1
    answer_all(back)
    await settle()
    assert outcome_of(other).status == 200


@virtual
async def test_streams_without_a_deadline_end_with_a_dead_connection() -> None:
    back = StreamBack()
    upstream = back.upstream()
    run = start(upstream, get())
    await settle()
    back.server.answer(back.server.asked[0], b"x", end=False)
    await settle()
    sink = Sink(outcome_of(run))
    back.server.is_deaf = True
    await asyncio.sleep(DEAD_AFTER + 12)
    assert sink.failure is RESET
    assert sink.stream.cause.startswith("no answer to a PING for 30")
    assert back.pool.size == 0


@virtual
async def test_an_attempt_that_times_out_in_silence_leaves_the_connection() -> None:
    back = StreamBack()
    upstream = back.upstream()
    start(upstream, get(attempt_timeout=1000.0))
    await asyncio.sleep(100)  # the PINGs of this silence are used up
    assert pings(back.server) == 2
    back.server.is_deaf = True
    run = start(upstream, get(attempt_timeout=1.0))
    await asyncio.sleep(1.1)
    assert outcome_of(run).failure is TIMEOUT
    run = start(upstream, get(attempt_timeout=1.0))
    await settle(20)
    assert len(back.servers) == 2
    back.server.answer(back.server.asked[0])
    await settle()
    assert outcome_of(run).status == 200


# ----- resets of our own


@virtual
async def test_resets_are_bounded_by_a_rate() -> None:
    back = StreamBack()
    upstream = back.upstream()
    burst = int(RESET_BURST)
    for _ in range(10):
        runs = [start(upstream, get(attempt_timeout=60.0)) for _ in range(30)]
        await settle()
        for run in runs:
            run.cancel()
        await settle()
    resets = [reset for server in back.servers for reset in server.resets]
    assert burst <= len(resets) <= burst * len(back.servers)
    first = back.servers[0]
    assert len(first.resets) == burst
    assert len(first.session.streams) == 100, "streams that nobody waits for keep their places"
    await asyncio.sleep(10)
    assert burst + 100 <= len(first.resets) <= burst + 210, "and are reset as the rate allows"
    assert not first.session.streams


@virtual
async def test_streams_that_run_their_course_pay_for_resets() -> None:
    back = StreamBack()
    upstream = back.upstream()
    for _ in range(100):
        cancelled, whole = [start(upstream, get()) for _ in range(3)], [start(upstream, get()) for _ in range(3)]
        await settle()
        for stream in back.server.asked[-3:]:
            back.server.answer(stream)
        for run in cancelled:
            run.cancel()
        await settle()
        assert {outcome_of(run).status for run in whole} == {200}
    assert len(back.server.resets) == 300
    assert len(back.servers) == 1


# ----- the transport


@virtual
async def test_nothing_is_handed_to_a_full_transport() -> None:
    back = StreamBack(Limits(window=1 << 20, connection_window=1 << 20))
    upstream = back.upstream()
    big = start(upstream, get(b"POST", body=b"x" * 900_000))
    await settle(2)
    server = back.server
    server.transport.pause_reading()
    await settle(20)
    assert back.connection.transport.get_write_buffer_size() <= 2 * 256 * 1024
    small = start(upstream, get(b"POST"))
    await settle()
    server.transport.abort()
    await settle(20)
    assert outcome_of(big).failure is RESET
    assert len(back.servers) == 2
    back.server.answer(back.server.asked[0])
    await settle()
    assert outcome_of(small).status == 200, "it had not been sent"


@pytest.mark.parametrize("size", [1, 7, 100])
@virtual
async def test_bytes_may_arrive_in_any_pieces(size: int) -> None:
    back = StreamBack()
    upstream = back.upstream()
    runs = [start(upstream, get()) for _ in range(3)]
    await settle()
    back.server.transport.split = size
    for stream in back.server.asked:
        back.server.say(headers(stream.id, [*OK, (b"x-a", b"b" * 50)], end=False))
        back.server.send(stream, b"hello", True)
    await settle(1000)
    outcomes = [outcome_of(run) for run in runs]
    assert {outcome.header(b"x-a") for outcome in outcomes} == {b"b" * 50}
    for outcome in outcomes:
        assert (outcome.stream.whole() if outcome.stream else outcome.body) == b"hello"


@virtual
async def test_a_bug_ends_the_connection_and_is_reported() -> None:
    back = StreamBack()
    upstream = back.upstream()

    def interim(status: int, lines: bytes) -> None:
        raise ZeroDivisionError

    run = start(upstream, get(interim=interim))
    await settle()
    back.server.say(headers(1, [(b":status", b"103")], end=False))
    await settle()
    assert outcome_of(run).reason == "internal_error"
    assert [event for event, _ in emitted(back)] == ["bug"]
    assert back.pool.size == 0


def emitted(back: StreamBack) -> list[tuple[str, Any]]:
    return list(back.env.events)


@virtual
async def test_short_deadlines_of_callers_leave_no_connection() -> None:
    back = StreamBack()
    upstream = back.upstream()
    for _ in range(20):
        now = back.env.now()
        start(upstream, get(attempt_timeout=2.0, deadline=now + 0.005, caller_deadline=now + 0.005))
        await asyncio.sleep(0.03)
    assert len(back.servers) == 1
    assert back.pool.describe()["draining"] == 0
