"""Tests of response bodies: delimited by length, chunks or close, paused by slow clients, cut short."""

from __future__ import annotations

import asyncio

import pytest

from sidecar.core.exchange import Exchange
from sidecar.core.outcome import RESET, Outcome
from tests.support.loop import settle, virtual
from tests.support.service import ScriptedService, after
from tests.unit.downstream.front import CLOSE, GET, Front, always, streamed

OK = always(lambda x: Outcome(200, [(b"x-target", x.target)], b"hello"))


@virtual
async def test_a_body_of_known_length_is_passed_on_as_it_arrives() -> None:
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
async def test_http_1_0_gets_a_body_of_unknown_length_that_ends_with_the_close() -> None:
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
async def test_a_body_that_breaks_off_does_not_look_whole(length: int | None, request_line: bytes) -> None:
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
async def test_a_client_that_does_not_read_pauses_the_source() -> None:
    outcome, body, source = streamed()
    front = Front(always(outcome))
    client = front.connect()
    client.write(GET)
    await settle()
    client.transport.pause_reading()
    for _ in range(3):
        body.feed(b"x" * 100_000)
        assert front.listener.slow.buffered > 0
    assert source.said == ["pause"], "300 kB are more than is read in advance"
    client.transport.resume_reading()
    await settle()
    assert source.said == ["pause", "resume"]
    assert front.listener.slow.buffered == 0
    body.finish()
    assert len((await client.answer()).body) == 300_000


@virtual
async def test_what_is_read_in_advance_frees_the_source() -> None:
    outcome, body, source = streamed()
    front = Front(always(outcome))
    client = front.connect()
    client.write(GET)
    await settle()
    client.transport.pause_reading()
    body.feed(b"x" * 100_000)
    body.feed(b"x" * 100_000)
    body.finish()
    assert source.said == []
    assert len(front.records) == 1
    await asyncio.sleep(4)
    client.transport.resume_reading()
    await settle()
    assert len((await client.answer()).body) == 200_000
    client.write(GET)
    await settle()
    assert len(front.records) == 2 or not client.is_closed


@virtual
async def test_what_is_read_in_advance_for_all_has_a_bound() -> None:
    sources = []

    async def service(x: Exchange) -> Outcome:
        outcome, body, source = streamed()
        sources.append((body, source))
        return outcome

    front = Front(service, slow_clients={"buffer_total": "400KiB"})
    clients = [front.connect() for _ in range(8)]
    for client in clients:
        client.write(GET)
        await settle()
        client.transport.pause_reading()
    for body, _ in sources:
        body.feed(b"x" * 100_000)
    assert [source.said for _, source in sources].count(["pause"]) >= 3
    assert front.listener.slow.buffered <= 8 * 110_000
    for client in clients:
        client.transport.abort()
    await settle()
    assert front.is_empty


@virtual
async def test_a_client_that_does_not_read_in_time_is_cut_off() -> None:
    outcome, body, source = streamed()
    front = Front(always(outcome))
    client = front.connect()
    client.write(GET)
    await settle()
    client.transport.pause_reading()
    body.feed(b"x" * 302_400)
    await asyncio.sleep(4)
    assert not client.is_lost
    await asyncio.sleep(3)
    assert isinstance(client.error, ConnectionResetError)
    assert source.said == ["pause", "cancel"]
    assert (len(front.records), front.records[0].reason, front.is_empty) == (1, "client_timeout", True)


@virtual
async def test_a_client_that_closes_cancels_the_body() -> None:
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
async def test_an_answer_that_begins_while_its_client_is_behind_is_read_in_advance_up_to_the_bound() -> None:
    outcome, body, source = streamed()
    front = Front(ScriptedService(after(1, outcome)))
    client = front.connect()
    client.write(GET)
    await settle()
    client.connection.pause_writing()
    await asyncio.sleep(1)
    await settle()
    client.transport.pause_reading()
    body.feed(b"x" * 300_000)
    assert source.said == ["pause"]
    client.transport.resume_reading()
    client.connection.resume_writing()
    assert source.said == ["pause", "resume"]
    body.finish()
    assert len((await client.answer()).body) == 300_000
