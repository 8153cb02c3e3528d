"""Tests of streamed request bodies: framing, flow control, expectations, and the side that caused a delay."""

from __future__ import annotations

import asyncio

import pytest

from sidecar.core.outcome import CLIENT_CLOSED
from tests.support.loop import settle, virtual
from tests.unit.upstream.back import OK, Back, Interims, Sink, get, outcome_of, upload

CHUNKED = b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n"


@virtual
async def test_a_body_with_a_length_goes_out_as_it_comes() -> None:
    back = Back()
    x, body, _ = upload(10)
    run = back.send(x)
    body.feed(b"hello")
    await settle()
    assert b"\r\ncontent-length: 10\r\n" in back.server.received
    assert back.server.received.endswith(b"\r\n\r\nhello")
    body.feed(b"world")
    body.finish()
    await settle()
    assert back.server.received.endswith(b"\r\n\r\nhelloworld")
    back.server.write(OK)
    await settle()
    assert outcome_of(run).status == 200
    assert back.pool.describe()["idle"] == 1


@virtual
async def test_a_body_without_a_length_goes_out_in_chunks() -> None:
    back = Back()
    x, body, _ = upload()
    back.send(x)
    await settle()
    body.feed(b"hello")
    body.finish([(b"x-sum", b"1"), (b"x-forwarded-for", b"evil"), (b"transfer-encoding", b"chunked")])
    await settle()
    assert back.server.received.endswith(b"\r\n\r\n5\r\nhello\r\n0\r\nx-sum: 1\r\n\r\n")


@virtual
async def test_an_upstream_that_does_not_take_the_body_stops_its_source() -> None:
    back = Back()
    x, body, source = upload(1_000_000)
    back.send(x)
    await settle()
    back.server.transport.pause_reading()
    body.feed(b"x" * 100_000)
    assert source.said == ["pause"]
    back.server.transport.resume_reading()
    await settle()
    assert source.said == ["pause", "resume"]


@virtual
async def test_an_early_answer_ends_the_connection_and_lets_go_of_the_body() -> None:
    back = Back()
    x, body, _ = upload(10)
    run = back.send(x)
    await settle()
    body.feed(b"hello")
    back.server.write(b"HTTP/1.1 413 Content Too Large\r\nContent-Length: 0\r\n\r\n")
    await settle()
    assert outcome_of(run).status == 413
    assert back.pool.describe()["open"] == 0
    body.feed(b"world")
    body.finish()
    await settle()
    assert not back.server.received.endswith(b"world")


@virtual
async def test_an_answer_may_begin_before_the_request_has_ended() -> None:
    back = Back()
    x, body, _ = upload()
    run = back.send(x)
    await settle()
    back.server.write(CHUNKED + b"5\r\nHELLO\r\n")
    await settle()
    sink = Sink(outcome_of(run))
    body.feed(b"hello")
    await settle()
    assert back.server.received.endswith(b"5\r\nhello\r\n")
    body.finish()
    back.server.write(b"0\r\n\r\n")
    await settle()
    assert sink.is_whole
    assert back.pool.describe()["idle"] == 1


@virtual
async def test_a_body_that_breaks_off_breaks_the_request() -> None:
    back = Back()
    x, body, _ = upload(10)
    run = back.send(x)
    await settle()
    body.feed(b"hello")
    body.fail(CLIENT_CLOSED)
    await settle()
    assert outcome_of(run).reason == "client_closed"
    assert back.server.is_lost


@virtual
async def test_the_body_is_held_back_until_100() -> None:
    back = Back()
    interim = Interims()
    x, body, _ = upload(5, expects_continue=True, interim=interim)
    run = back.send(x)
    body.feed(b"hello")
    body.finish()
    await settle()
    assert b"\r\nexpect: 100-continue\r\n" in back.server.received
    assert back.server.received.endswith(b"\r\n\r\n")
    back.server.write(b"HTTP/1.1 100 Continue\r\nX: y\r\n\r\n")
    await settle()
    assert interim.said == [(100, b"X: y\r\n")]
    assert back.server.received.endswith(b"\r\n\r\nhello")
    back.server.write(b"HTTP/1.1 100 Continue\r\n\r\n" + OK)
    await settle()
    assert outcome_of(run).status == 200
    assert len(interim.said) == 1
    await asyncio.sleep(2)
    assert len(interim.said) == 1
    assert back.server.received.count(b"hello") == 1


@virtual
async def test_the_body_is_not_held_back_for_ever() -> None:
    back = Back()
    interim = Interims()
    x, body, _ = upload(5, expects_continue=True, interim=interim)
    run = back.send(x)
    await asyncio.sleep(0.9)
    assert interim.said == []
    await asyncio.sleep(0.2)
    assert interim.said == [(100, b"")]
    body.feed(b"hello")
    body.finish()
    await settle()
    assert back.server.received.endswith(b"\r\n\r\nhello")
    back.server.write(OK)
    await settle()
    assert outcome_of(run).status == 200


@pytest.mark.parametrize("size", [1, 100_000])
@pytest.mark.parametrize("says_100", [True, False])
@virtual
async def test_a_body_that_was_held_back_waits_for_an_upstream_that_takes_no_more(says_100: bool, size: int) -> None:
    back = Back()
    back.send(get())
    await settle()
    back.server.write(OK)
    await settle()
    back.server.transport.pause_reading()
    x, body, source = upload(size + 5, expects_continue=True)
    x.headers.append((b"x-long", b"x" * 100_000))
    back.send(x)
    await settle()
    body.feed(b"x" * size)
    if says_100:
        back.server.write(b"HTTP/1.1 100 Continue\r\n\r\n")
    await asyncio.sleep(0.5 if says_100 else 1.5)
    assert source.said[-1:] == ["pause"]
    back.server.transport.resume_reading()
    await settle()
    assert source.said[-1:] == ["resume"]
    body.feed(b"hello")
    await settle()
    assert back.server.received.endswith(b"xhello")


@virtual
async def test_an_answer_instead_of_100_spares_the_body() -> None:
    back = Back()
    interim = Interims()
    x, *_ = upload(5, expects_continue=True, interim=interim)
    run = back.send(x)
    await settle()
    back.server.write(b"HTTP/1.1 401 Unauthorized\r\nContent-Length: 0\r\n\r\n")
    await settle()
    assert outcome_of(run).status == 401
    assert back.server.is_eof, "it would take what comes next for the body"
    await asyncio.sleep(2)
    assert interim.said == []
    assert not back.server.received.endswith(b"hello")


@virtual
async def test_a_client_that_does_not_send_its_body_is_to_blame() -> None:
    back = Back()
    x, body, _ = upload(100)
    run = back.send(x, back.env.now() + 2)
    await settle()
    body.feed(b"x")
    await asyncio.sleep(3)
    assert outcome_of(run).reason == "client_timeout"


@virtual
async def test_an_upstream_that_does_not_take_the_body_is_to_blame() -> None:
    back = Back()
    x, body, _ = upload(1_000_000)
    run = back.send(x, back.env.now() + 2)
    await settle()
    back.server.transport.pause_reading()
    body.feed(b"x" * 200_000)
    await asyncio.sleep(3)
    assert outcome_of(run).reason == "timeout"


@virtual
async def test_an_upstream_that_does_not_say_100_is_not_to_blame_but_its_answer_is_due() -> None:
    back = Back()
    x, body, _ = upload(5, expects_continue=True)
    run = back.send(x, back.env.now() + 3)
    await asyncio.sleep(1.5)
    body.feed(b"hello")
    body.finish()
    await asyncio.sleep(2)
    assert outcome_of(run).reason == "timeout"
