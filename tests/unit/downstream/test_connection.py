"""A client's connection: requests and answers one after the other, whole or not at all."""

from __future__ import annotations

import asyncio
from types import SimpleNamespace
from typing import Any

import pytest

from sidecar.core import metrics
from sidecar.core.exchange import Exchange
from sidecar.core.outcome import BREAKER_OPEN, RESET, Outcome, Refusal, failed
from tests.support.loop import settle, virtual
from tests.support.service import HANG, ScriptedService, after
from tests.unit.downstream.front import CLOSE, GET, Front, always, streamed

OK = always(lambda x: Outcome(200, [(b"x-target", x.target)], b"hello"))


@virtual
async def test_requests_share_a_connection() -> None:
    front = Front(OK)
    client = front.connect()
    for _ in range(3):
        client.write(GET)
        answer = await client.answer()
        assert (answer.status, answer.body, answer.get("connection")) == (200, b"hello", "")
        assert answer.get("date").endswith("GMT")
    assert [record.status for record in front.records] == [200] * 3
    client.transport.close()
    await settle()
    assert front.is_empty


@virtual
async def test_a_client_that_wants_to_close_is_closed() -> None:
    front = Front(OK)
    client = front.connect()
    client.write(CLOSE + GET)
    assert (await client.answer()).get("connection") == "close"
    await settle()
    assert client.is_eof
    assert len(front.records) == 1, "what follows is not read"
    assert front.is_empty


@pytest.mark.parametrize(
    ("lines", "connection"),
    [(b"", "close"), (b"Connection: keep-alive\r\n", "keep-alive"), (b"Connection: close\r\n", "close")],
)
@virtual
async def test_http_1_0(lines: bytes, connection: str) -> None:
    front = Front(OK)
    client = front.connect()
    client.write(b"GET / HTTP/1.0\r\n" + lines + b"\r\n")
    answer = await client.answer()
    assert (answer.start, answer.get("connection")) == ("HTTP/1.1 200 OK", connection)
    await settle()
    assert client.is_eof == (connection == "close")


@virtual
async def test_pipelined_requests_are_answered_in_order_and_once() -> None:
    delays = {b"/0": 1.0, b"/1": 0.0, b"/2": 0.5}
    seen: list[bytes] = []

    async def service(x: Exchange) -> Outcome:
        seen.append(x.target)
        if delay := delays.get(x.target, 0.0):
            await asyncio.sleep(0)  # a future of the loop, as well as a promise
            await front.env.sleep(delay)
        return Outcome(200, [(b"x-target", x.target)])

    front = Front(service)
    client = front.connect()
    client.write(b"".join(b"GET /%d HTTP/1.1\r\nHost: a\r\n\r\n" % number for number in range(100)))
    await settle()
    assert seen == [b"/0"]
    await asyncio.sleep(2)
    assert [(await client.answer()).get("x-target") for _ in range(100)] == [f"/{number}" for number in range(100)]
    assert client.rest == b""
    assert len(seen) == len(front.records) == 100


@virtual
async def test_what_is_pipelined_waits_in_little_memory() -> None:
    service = ScriptedService(HANG)
    front = Front(service, {"max_header_bytes": "8KiB"})
    client = front.connect()
    for _ in range(100):
        client.write(GET * 1000)
        await settle(2)
    assert len(client.connection._buffer) < 8 * 1024 + 64 * 1024
    assert not client.pair.right.is_reading()
    assert service.calls == 1


@virtual
async def test_a_flood_of_pipelined_requests_is_read_as_fast_as_it_is_answered() -> None:
    async def service(x: Exchange) -> Outcome:
        await front.env.sleep(0.001)
        return Outcome(204)

    front = Front(service, {"max_header_bytes": "8KiB"})
    client = front.connect()
    most = 0
    for _ in range(20):
        client.write(GET * 100)
    while len(front.records) < 2000:
        await asyncio.sleep(0.01)
        most = max(most, len(client.connection._buffer))
    assert most < 16 * 1024
    await settle()
    assert client.received.count(b"HTTP/1.1 204") == 2000


@pytest.mark.parametrize(("method", "status"), [("HEAD", 200), ("GET", 204), ("GET", 304)])
@virtual
async def test_answers_without_a_body(method: str, status: int) -> None:
    outcome, _, source = streamed(5, status)
    outcomes = [Outcome(status, body=b"hello"), outcome]
    front = Front(always(lambda x: outcomes.pop(0)))
    client = front.connect()
    for _ in range(2):
        client.write(method.encode() + GET[3:])
        answer = await client.answer(method)
        assert (answer.status, client.rest) == (status, b"")
        assert answer.get("transfer-encoding") == ""
    assert source.said == ["cancel"]
    assert not client.is_closed


@virtual
async def test_a_body_of_known_length_is_passed_on_as_it_comes() -> None:
    outcome, body, _ = streamed(10)
    front = Front(always(outcome))
    client = front.connect()
    client.write(GET)
    await settle()
    body.feed(b"hello")
    await settle()
    assert client.received.endswith(b"content-length: 10\r\n\r\nhello")
    body.feed(b"world")
    body.finish()
    assert (await client.answer()).body == b"helloworld"
    assert front.records[0].reason == ""
    client.write(CLOSE)
    await settle()


@virtual
async def test_a_body_of_unknown_length_comes_in_chunks() -> None:
    outcome, body, _ = streamed()
    front = Front(always(outcome))
    client = front.connect()
    client.write(GET)
    await settle()
    body.feed(b"hello")
    body.feed(b"")
    body.feed(b"world")
    body.finish([(b"x-sum", b"1")])
    answer = await client.answer()
    assert (answer.body, answer.chunks, answer.trailers) == (b"helloworld", 2, [])
    assert not client.is_closed


@virtual
async def test_trailers_go_to_a_client_that_takes_them() -> None:
    outcome, body, _ = streamed()
    front = Front(always(outcome))
    client = front.connect()
    client.write(b"GET / HTTP/1.1\r\nHost: a\r\nTE: trailers\r\n\r\n")
    await settle()
    body.feed(b"hello")
    body.finish([(b"x-sum", b"1"), (b"content-length", b"9"), (b"set-cookie", b"a=b")])
    assert (await client.answer()).trailers == [("x-sum", "1")]


@virtual
async def test_http_1_0_gets_a_body_of_unknown_length_up_to_the_close() -> None:
    outcome, body, _ = streamed()
    front = Front(always(outcome))
    client = front.connect()
    client.write(b"GET / HTTP/1.0\r\nConnection: keep-alive\r\n\r\n")
    await settle()
    body.feed(b"hello")
    await settle()
    assert not client.is_eof
    body.finish()
    answer = await client.answer()
    assert (answer.body, answer.get("connection"), answer.get("transfer-encoding")) == (b"hello", "close", "")
    assert client.is_eof
    assert client.error is None


@pytest.mark.parametrize(("length", "request_line"), [(10, b"1.1"), (None, b"1.1"), (10, b"1.0"), (None, b"1.0")])
@virtual
async def test_a_body_that_breaks_off_is_never_seen_as_whole(length: int | None, request_line: bytes) -> None:
    outcome, body, _ = streamed(length)
    front = Front(always(outcome))
    client = front.connect()
    client.write(b"GET / HTTP/%b\r\nHost: a\r\n\r\n" % request_line)
    await settle()
    body.feed(b"hello")
    await settle()
    body.fail(RESET)
    await settle()
    if length is None and request_line == b"1.0":
        assert isinstance(client.error, ConnectionResetError)
    else:
        assert client.is_eof
        assert client.received.endswith(b"\r\n\r\nhello" if length else b"\r\n\r\n5\r\nhello\r\n")
    assert [(record.status, record.reason) for record in front.records] == [(200, "reset")]
    client.transport.close()
    await settle()
    assert front.is_empty


@virtual
async def test_a_client_that_does_not_read_stops_the_source() -> None:
    outcome, body, source = streamed()
    front = Front(always(outcome))
    client = front.connect()
    client.write(GET)
    await settle()
    client.transport.pause_reading()
    body.feed(b"x" * 100_000)
    assert source.said == ["pause"]
    client.transport.resume_reading()
    await settle()
    assert source.said == ["pause", "resume"]
    body.finish()
    assert len((await client.answer()).body) == 100_000


@virtual
async def test_a_client_that_does_not_read_is_dropped_in_the_end() -> None:
    outcome, body, source = streamed()
    front = Front(always(outcome), {"body_timeout": "5s"})
    client = front.connect()
    client.write(GET)
    await settle()
    client.transport.pause_reading()
    body.feed(b"x" * 102_400)
    await asyncio.sleep(4)
    assert not client.is_lost
    await asyncio.sleep(3)
    assert isinstance(client.error, ConnectionResetError)
    assert source.said == ["pause", "cancel"]
    assert (front.records[0].reason, front.is_empty) == ("client_closed", True)


@pytest.mark.parametrize("drains", [False, True])
@virtual
async def test_a_slow_reader_gets_the_whole_of_a_last_answer(drains: bool) -> None:
    front = Front(always(lambda x: Outcome(200, body=b"x" * 300_000)), {"body_timeout": "5s"})
    client = front.connect()
    client.transport.pause_reading()
    if drains:
        client.write(GET[:9])
        await settle()
        front.listener.drain()
    client.write(GET[9:] if drains else CLOSE)
    client.pair.right.split = 1000
    for _ in range(400):
        await asyncio.sleep(0.5)
        client.transport.resume_reading()
        await asyncio.sleep(0)
        client.transport.pause_reading()
        if front.is_empty:
            break
    client.transport.resume_reading()
    await settle(500)
    assert len((await client.answer()).body) == 300_000
    client.transport.close()
    await settle()
    assert front.is_empty


@virtual
async def test_pipelined_requests_wait_for_a_client_that_does_not_read() -> None:
    calls = 0

    async def service(x: Exchange) -> Outcome:
        nonlocal calls
        calls += 1
        return Outcome(200, body=b"x" * 30_000)

    front = Front(service)
    client = front.connect()
    client.transport.pause_reading()
    client.write(GET * 50)
    await asyncio.sleep(1)
    assert calls < 10
    client.transport.resume_reading()
    await asyncio.sleep(1)
    assert calls == 50
    assert [len((await client.answer()).body) for _ in range(50)] == [30_000] * 50


@virtual
async def test_a_client_that_leaves_cancels_its_run() -> None:
    service = ScriptedService(HANG)
    front = Front(service)
    for leave in ("abort", "close", "write_eof"):
        client = front.connect()
        client.write(GET)
        await settle()
        assert service.active == 1
        getattr(client.transport, leave)()
        await settle()
        assert service.active == 0
    assert service.cancelled == 3
    assert [record.reason for record in front.records] == ["client_closed"] * 3
    assert front.is_empty


@virtual
async def test_a_run_goes_on_without_its_client_where_others_need_it() -> None:
    outcome, _, source = streamed()
    service = ScriptedService(after(1, outcome))
    front = Front(service)
    client = front.connect()
    client.write(GET)
    await settle()
    service.exchanges[0].errand = SimpleNamespace(go_on=lambda run: True)
    client.transport.abort()
    await settle()
    assert ([record.reason for record in front.records], service.active) == (["client_closed"], 1)
    assert front.is_empty
    await asyncio.sleep(1)
    assert (service.active, service.cancelled, source.said) == (0, 0, ["cancel"])
    assert (len(front.records), front.bugs) == (1, [])


@virtual
async def test_a_client_that_leaves_during_the_body_cancels_it() -> None:
    outcome, body, source = streamed()
    front = Front(always(outcome))
    client = front.connect()
    client.write(GET)
    await settle()
    body.feed(b"x")
    await settle()
    client.transport.abort()
    await settle()
    assert source.said == ["cancel"]
    assert (front.records[0].reason, front.is_empty) == ("client_closed", True)


@virtual
async def test_a_run_that_answers_after_the_client_has_left_is_cleaned_up() -> None:
    outcome, _, source = streamed()

    async def stubborn(x: Exchange) -> Outcome:
        try:
            await front.env.future()
        except asyncio.CancelledError:
            return outcome
        raise AssertionError

    front = Front(stubborn)
    client = front.connect()
    client.write(GET)
    await settle()
    client.transport.abort()
    await settle()
    assert source.said == ["cancel"]
    assert front.is_empty


@virtual
async def test_a_failure_is_answered_with_a_problem_document() -> None:
    refusal = Refusal("circuit_breaker", "p.yaml:7", "Open since 3 s.", limit=0.5, value=0.75, retry_after=2.1)
    front = Front(always(lambda x: failed(BREAKER_OPEN, refusal)))
    client = front.connect()
    client.write(GET)
    answer = await client.answer()
    assert (answer.status, answer.get("content-type")) == (503, "application/problem+json")
    assert (answer.get("x-sidecar-reason"), answer.get("retry-after")) == ("breaker_open", "3")
    assert not client.is_closed


class Bug(Exception):
    pass


@virtual
async def test_a_bug_in_a_stage_answers_500_and_is_reported() -> None:
    front = Front(ScriptedService(Bug("oh")))
    client = front.connect()
    client.write(GET * 2)
    assert [(await client.answer()).status for _ in range(2)] == [500, 500]
    assert [type(bug["error"]) for bug in front.bugs] == [Bug, Bug]
    assert [record.reason for record in front.records] == ["internal_error"] * 2


@virtual
async def test_a_bug_in_the_router_answers_500_and_is_reported() -> None:
    def match(x: Exchange) -> Any:
        raise Bug

    front = Front(OK)
    front.listener.match = match
    client = front.connect()
    client.write(GET)
    assert (await client.answer()).status == 500
    assert len(front.bugs) == 1


@virtual
async def test_a_bug_while_answering_ends_the_connection_and_is_reported() -> None:
    front = Front(always(Outcome(999)))
    client = front.connect()
    client.write(GET)
    await settle()
    assert client.is_lost
    assert len(front.bugs) == 1
    assert front.is_empty


@virtual
async def test_a_bug_while_recording_ends_the_connection_and_is_reported() -> None:
    def record(*_: object) -> None:
        raise Bug

    front = Front(OK)
    front.server.recorder = record
    client = front.connect()
    client.write(GET)
    await settle()
    assert client.is_lost
    assert len(front.bugs) == 1
    assert front.is_empty


@virtual
async def test_interim_answers_are_passed_on_but_not_to_http_1_0() -> None:
    async def service(x: Exchange) -> Outcome:
        assert x.interim is not None
        x.interim(103, b"link: x\r\n")
        return Outcome(200)

    front = Front(service)
    client = front.connect()
    client.write(GET)
    hint = await client.answer()
    assert (hint.status, hint.get("link")) == (103, "x")
    assert (await client.answer()).status == 200
    client.write(b"GET / HTTP/1.0\r\n\r\n")
    assert (await client.answer()).status == 200


@virtual
async def test_what_is_not_http_gets_one_answer() -> None:
    front = Front(OK)
    client = front.connect()
    client.write(GET + b"GET / HTTP/1.1\r\n\r\n" + GET)
    assert (await client.answer()).status == 200
    answer = await client.answer()
    assert (answer.status, answer.get("connection"), answer.get("x-sidecar-reason")) == (400, "close", "bad_request")
    assert (client.rest, client.is_eof) == (b"", True)
    client.transport.close()
    await settle()
    assert front.is_empty
    assert front.env.meter.value(metrics.REFUSALS, policy="http") == 1


@virtual
async def test_a_head_has_a_limit() -> None:
    front = Front(OK, {"max_header_bytes": "1KiB"})
    for data in (
        b"GET / HTTP/1.1\r\nHost: a\r\nX: " + b"y" * 2000,
        b"GET /" + b"a" * 2000,
        GET[:-2] + b"X:y\r\n" * 300,
    ):
        client = front.connect()
        client.write(data)
        answer = await client.answer()
        assert (answer.status, answer.get("connection")) == (431, "close")


@virtual
async def test_connections_have_a_limit() -> None:
    front = Front(OK, {"max_connections": 2})
    first, second, third = front.connect(), front.connect(), front.connect()
    answer = await third.answer()
    assert (answer.status, answer.get("x-sidecar-reason"), answer.get("retry-after")) == (503, "overloaded", "1")
    await settle()
    assert third.is_eof
    first.transport.close()
    await settle()
    fourth = front.connect()
    fourth.write(GET)
    assert (await fourth.answer()).status == 200
    second.transport.close()
    fourth.transport.close()
    await settle()
    assert front.is_empty


@pytest.mark.parametrize(
    ("head", "status", "allow"),
    [
        (b"OPTIONS * HTTP/1.1\r\nHost: a\r\n", 200, True),
        (b"OPTIONS http://a HTTP/1.1\r\nHost: a\r\n", 200, True),
        (b"OPTIONS / HTTP/1.1\r\nHost: a\r\nMax-Forwards: 0\r\n", 200, True),
        (b"TRACE / HTTP/1.1\r\nHost: a\r\nMax-Forwards: 0\r\n", 405, True),
        (b"GET / HTTP/1.1\r\nHost: a\r\nMax-Forwards: 0\r\n", 418, False),
        (b"OPTIONS / HTTP/1.1\r\nHost: a\r\nMax-Forwards: 1\r\n", 418, False),
        (b"TRACE / HTTP/1.1\r\nHost: a\r\n", 418, False),
    ],
)
@virtual
async def test_who_is_the_last_hop(head: bytes, status: int, allow: bool) -> None:
    front = Front(always(lambda x: Outcome(418)))
    front.listener.match = lambda x: None if x.path == b"*" else front.route  # type: ignore[assignment,return-value]
    client = front.connect()
    client.write(head + b"\r\n")
    answer = await client.answer()
    assert (answer.status, bool(answer.get("allow"))) == (status, allow)
    assert front.bugs == []


@virtual
async def test_a_request_that_goes_no_further_does_not_let_its_body_become_another() -> None:
    front = Front(OK)
    client = front.connect()
    client.write(b"OPTIONS / HTTP/1.1\r\nHost: a\r\nMax-Forwards: 0\r\nContent-Length: 99\r\n\r\n" + GET)
    assert (await client.answer()).status == 200
    await settle()
    assert (client.rest, client.is_eof) == (b"", True)


@virtual
async def test_drain_closes_what_is_idle_and_lets_the_rest_end() -> None:
    front = Front(ScriptedService(after(1, 200)))
    idle, busy, late = front.connect(), front.connect(), front.connect()
    busy.write(GET)
    late.write(GET[:10])
    await settle()
    front.listener.drain()
    await settle()
    assert idle.is_eof
    assert not busy.is_eof
    late.write(GET[10:])
    await asyncio.sleep(1.5)
    for client in (busy, late):
        answer = await client.answer()
        assert (answer.status, answer.get("connection"), client.is_eof) == (200, "close", True)
        client.transport.close()
    await settle()
    assert front.is_empty


@virtual
async def test_drain_cuts_off_what_does_not_end() -> None:
    front = Front(ScriptedService(HANG))
    client = front.connect()
    client.write(GET)
    await settle()
    assert await front.server.drain(3.0) == 1
    await settle()
    assert client.is_lost
    assert front.is_empty


@virtual
async def test_a_silent_client_is_closed() -> None:
    front = Front(OK, {"header_timeout": "3s", "idle_timeout": "10s"})
    silent, slow, idle = front.connect(), front.connect(), front.connect()
    idle.write(GET)
    for byte in GET[:-2]:
        slow.write(bytes((byte,)))
        await asyncio.sleep(0.2)
        if slow.is_closed:
            break
    assert silent.is_eof
    assert (await slow.answer()).status == 408
    assert (await idle.answer()).status == 200
    assert not idle.is_eof
    await asyncio.sleep(10)
    assert idle.is_eof
    assert idle.rest == b""
