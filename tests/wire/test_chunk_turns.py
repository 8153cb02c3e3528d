"""Tests of chunks of a byte each: one read holds tens of thousands, and other connections get their turn meanwhile."""

from __future__ import annotations

import asyncio

import pytest

from sidecar.core.exchange import Exchange
from sidecar.core.http1 import CHUNKS_A_TURN, ChunkedDecoder
from sidecar.core.outcome import Outcome
from tests.support.loop import settle, virtual
from tests.unit.downstream.front import GET, Front, Taken
from tests.unit.upstream.back import Back, get, outcome_of

MANY = 70_000
TINY = b"1\r\nx\r\n" * MANY + b"0\r\n\r\n"
POST = b"POST / HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked\r\n\r\n"
ANSWER = b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n"


@pytest.mark.parametrize("whole", [TINY, b"2;a=b\r\nxy\r\n1\r\nz\r\n" * MANY + b"0\r\na: b\r\n\r\n"])
def test_no_call_takes_more_than_a_turn(whole: bytes) -> None:
    decoder = ChunkedDecoder()
    pieces = decoder.feed(whole + b"next")
    calls = [len(pieces)]
    while decoder.is_behind:
        assert not decoder.done
        pieces += (more := decoder.feed(b""))
        calls.append(len(more))
    assert max(calls) <= CHUNKS_A_TURN
    assert decoder.done
    assert (decoder.rest, len(b"".join(pieces))) == (b"next", MANY if whole is TINY else 3 * MANY)


def test_ordinary_chunks_take_one_call() -> None:
    decoder = ChunkedDecoder()
    decoder.feed(b"10\r\n0123456789abcdef\r\n" * CHUNKS_A_TURN)
    assert not decoder.is_behind
    decoder.feed(b"0\r\n\r\n")
    assert decoder.done


@pytest.mark.parametrize("pieces", [1, 2])
@pytest.mark.parametrize("follows", [b"", GET])
@virtual
async def test_other_clients_have_their_turn_while_one_sends_tiny_chunks(pieces: int, follows: bytes) -> None:
    order: list[tuple[str, int]] = []

    async def service(x: Exchange) -> Outcome:
        if x.stream is not None:
            x.stream.attach(Taken())
            while x.stream.received < MANY:
                await asyncio.sleep(0)
            order.append((x.method.decode(), x.stream.received))
        else:
            order.append((x.method.decode(), len(x.body)))
        return Outcome(200)

    front = Front(service)
    hostile, other = front.connect(), front.connect()
    data = POST + TINY + follows
    half = len(data) // pieces
    for at in range(0, len(data), half + 1):
        hostile.write(data[at : at + half + 1])
    other.write(GET)
    for _ in range(200):
        await settle()
    assert order[0] == ("GET", 0), "the other client did not wait for all chunks"
    assert order[1] == ("POST", MANY)
    assert len(order) == (3 if follows else 2)
    assert hostile.received.count(b"HTTP/1.1 200") == len(order) - 1
    assert not front.bugs


@pytest.mark.parametrize("ends", ["open", "eof", "keep"])
@virtual
async def test_other_work_has_its_turn_while_an_upstream_sends_tiny_chunks(ends: str) -> None:
    back = Back()
    run = back.send(get())
    await settle()
    seen: list[int] = []
    body = TINY if ends != "open" else TINY.removesuffix(b"0\r\n\r\n")
    back.server.write(ANSWER + body)
    if ends == "eof":
        back.server.transport.write_eof()
    for _ in range(200):
        await asyncio.sleep(0)
        if run.value is not None and run.value.stream is not None:
            seen.append(run.value.stream.received)
    outcome = outcome_of(run)
    assert outcome.stream is not None
    assert len(set(seen)) > MANY // CHUNKS_A_TURN // 2, "it came in turns"
    assert outcome.stream.received == MANY
    if ends != "open":
        assert len(outcome.stream.whole()) == MANY
    if ends == "keep":
        again = back.send(get())
        await settle()
        back.server.write(b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok")
        await settle()
        assert outcome_of(again).body == b"ok"
        assert len(back.peers) == 1, "the connection is read again"


@pytest.mark.parametrize("reads", [False, True])
@virtual
async def test_a_reader_that_pauses_meanwhile_is_not_overrun(reads: bool) -> None:
    back = Back()
    run = back.send(get())
    await settle()
    back.server.write(ANSWER + TINY)
    await settle(2)
    stream = outcome_of(run).stream
    assert stream is not None
    for _ in range(200):
        await asyncio.sleep(0)
    (connection,) = back.pool.connections
    assert stream.received == MANY
    if reads:
        stream.cancel()
        await settle()
        assert not back.pool.connections or connection.is_idle()
