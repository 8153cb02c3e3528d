"""Tests of request bodies: buffered, streamed, paused, late, too large, and cut short."""

from __future__ import annotations

import asyncio

import pytest

from sidecar.core.exchange import Exchange
from sidecar.core.outcome import CLIENT_CLOSED, Outcome, failed
from sidecar.core.promise import Promise
from sidecar.downstream.slow_clients import START_AFTER
from tests.support.loop import settle, virtual
from tests.support.service import HANG, ScriptedService
from tests.unit.downstream.front import GET, Front, Taken, always, post, streamed

CHUNKED = b"POST / HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked\r\n\r\n"
LONG = b"x" * 100_000
"""Body that is too long to be buffered whole."""
OK = always(lambda x: Outcome(200))


class Reader:
    """Service that reads the body and answers with it."""

    def __init__(self, *, at_once: bool = True) -> None:
        self.taken: list[Taken] = []
        self.exchanges: list[Exchange] = []
        self.at_once = at_once

    async def __call__(self, x: Exchange) -> Outcome:
        self.exchanges.append(x)
        taken = Taken()
        self.taken.append(taken)
        if x.stream is None:
            return Outcome(200, body=x.body)
        ended = asyncio.get_running_loop().create_future()
        if self.at_once:
            x.stream.attach(taken)
        x.stream.on_close(lambda failure: ended.done() or ended.set_result(failure))
        failure = await ended
        return Outcome(200, body=bytes(taken.data)) if failure is None else failed(failure)


@virtual
async def test_bodies_that_arrive_with_their_heads_are_whole() -> None:
    reader = Reader()
    front = Front(reader)
    client = front.connect()
    client.write(post(b"one") + CHUNKED + b"1\r\nt\r\n2\r\nwo\r\n0\r\n\r\n" + post(b"three") + GET)
    assert [(await client.answer()).body for _ in range(4)] == [b"one", b"two", b"three", b""]
    assert all(x.stream is None for x in reader.exchanges)


@pytest.mark.parametrize("split", [1, 7, 50])
@virtual
async def test_bodies_that_come_in_pieces(split: int) -> None:
    front = Front(Reader())
    client = front.connect()
    client.pair.left.split = split
    client.write(post(b"one" * 10) + CHUNKED + b"1\r\nt\r\n2\r\nwo\r\n0\r\n\r\n" + post(b"three") + GET)
    await asyncio.sleep(1)
    assert [(await client.answer()).body for _ in range(4)] == [b"one" * 10, b"two", b"three", b""]
    assert not client.is_closed


@pytest.mark.parametrize("split", [None, 1])
@virtual
async def test_the_trailers_of_a_request(split: int | None) -> None:
    reader = Reader()
    front = Front(reader)
    client = front.connect()
    client.pair.left.split = split
    client.write(CHUNKED + b"5\r\nhello\r\n0\r\nX-Sum: 1\r\n\r\n" + GET)
    await asyncio.sleep(1)
    assert (await client.answer()).body == b"hello"
    assert (await client.answer()).status == 200
    stream = reader.exchanges[0].stream
    assert stream is not None
    assert stream.trailers == [(b"x-sum", b"1")]


@virtual
async def test_a_client_that_waits_for_100_gets_it_once() -> None:
    async def service(x: Exchange) -> Outcome:
        assert x.expects_continue
        assert x.interim is not None
        x.interim(100, b"")
        return await reader(x)

    reader = Reader()
    front = Front(service)
    client = front.connect()
    client.write(post(b"hello", b"Expect: 100-continue", sent=0))
    assert (await client.answer()).status == 100
    client.write(b"hello")
    assert (await client.answer()).body == b"hello"
    assert client.rest == b""


@virtual
async def test_a_client_that_does_not_wait_for_100_gets_none() -> None:
    reader = Reader()
    front = Front(reader)
    client = front.connect()
    client.write(post(b"hello", b"Expect: 100-continue") + post(b"hello", b"Expect: 100-continue", sent=2))
    await settle()
    client.write(b"llo" + post(LONG, b"Expect: 100-continue", sent=2))
    await asyncio.sleep(START_AFTER)
    client.write(LONG[2:])
    assert [len((await client.answer()).body) for _ in range(3)] == [5, 5, len(LONG)]
    assert [x.expects_continue for x in reader.exchanges] == [True, False, False]
    assert reader.exchanges[2].stream is not None


@virtual
async def test_http_1_0_has_no_100() -> None:
    reader = Reader()
    front = Front(reader)
    client = front.connect()
    client.write(b"POST / HTTP/1.0\r\nContent-Length: 5\r\nExpect: 100-continue\r\n\r\n")
    await settle()
    client.write(b"hello")
    assert (await client.answer()).body == b"hello"
    assert not reader.exchanges[0].expects_continue


@virtual
async def test_a_body_that_is_not_taken_pauses_the_client_without_a_deadline() -> None:
    reader = Reader(at_once=False)
    front = Front(reader, {"body_timeout": "5s"})
    client = front.connect()
    client.pair.left.split = 16 * 1024
    client.write(post(b"x" * 1_000_000))
    await asyncio.sleep(60)
    stream = reader.exchanges[0].stream
    assert stream is not None
    assert stream.received < 200_000
    assert not client.pair.right.is_reading()
    stream.attach(reader.taken[0])
    await settle(100)
    assert len((await client.answer()).body) == 1_000_000


@virtual
async def test_a_body_that_ends_while_it_is_paused_does_not_stop_the_next_request() -> None:
    reader = Reader(at_once=False)
    front = Front(reader)
    client = front.connect()
    client.write(post(b"x" * 100_000, sent=10))
    await asyncio.sleep(START_AFTER)
    client.write(b"x" * 99_990)  # more than a body buffers, and its end
    await settle()
    stream = reader.exchanges[0].stream
    assert stream is not None
    assert stream.received == 100_000
    stream.attach(reader.taken[0])
    assert (await client.answer()).status == 200
    client.write(GET)
    assert (await client.answer()).status == 200


@virtual
async def test_reading_resumes_for_a_large_body_behind_pipelined_requests() -> None:
    reader = Reader()
    front = Front(reader, {"max_header_bytes": "1KiB"})
    client = front.connect()
    client.write(GET * 20 + post(b"x" * 300_000) + GET * 20)
    await asyncio.sleep(1)
    bodies = [(await client.answer()).body for _ in range(41)]
    assert sum(map(len, bodies)) == 300_000


@pytest.mark.parametrize(("head", "is_sent_on"), [(post(b"x", sent=0), 0), (post(LONG, sent=0), 1), (CHUNKED, 1)])
@virtual
async def test_a_body_that_does_not_come_is_answered_408(head: bytes, is_sent_on: int) -> None:
    service = ScriptedService(HANG)
    front = Front(service, {"body_timeout": "5s"})
    client = front.connect()
    client.write(head)
    await asyncio.sleep(4)
    assert service.active == front.places.taken == is_sent_on
    await asyncio.sleep(3)
    answer = await client.answer()
    assert (answer.status, answer.get("connection"), answer.get("x-sidecar-reason")) == (408, "close", "client_timeout")
    assert service.active == front.places.taken == 0
    assert front.records[0].reason == "client_timeout"


@virtual
async def test_a_body_below_the_least_rate_is_answered_408() -> None:
    front = Front(Reader(), {"body_timeout": "5s"})
    client = front.connect()
    client.write(post(b"x" * 10_000, sent=10))
    for _ in range(100):
        client.write(b"x" * 100)
        await asyncio.sleep(1)
        if client.is_closed:
            break
    answer = await client.answer()
    assert answer.status == 408
    assert "did not arrive in time" in answer.body.decode()
    assert 5 <= front.records[0].seconds <= 7


@virtual
async def test_a_slow_body_at_a_fair_rate_arrives() -> None:
    front = Front(Reader(), {"body_timeout": "5s"})
    client = front.connect()
    client.write(post(b"x" * 100_000, sent=0))
    for _ in range(50):
        client.write(b"x" * 2000)
        await asyncio.sleep(1.5)
    assert (await client.answer()).status == 200


@virtual
async def test_a_fast_start_does_not_extend_the_timeout() -> None:
    front = Front(Reader(), {"body_timeout": "5s"})
    client = front.connect()
    client.write(post(b"x" * 2_000_000, sent=1_000_000))
    await asyncio.sleep(8)
    assert (await client.answer()).status == 408


@pytest.mark.parametrize(
    "pieces",
    [
        [post(b"x" * 2000)],
        [post(b"x" * 2000, sent=0)],
        [CHUNKED + b"7d0\r\n" + b"x" * 2000 + b"\r\n0\r\n\r\n"],
        [CHUNKED, b"7d0\r\n", b"x" * 2000, b"\r\n0\r\n\r\n"],
        [CHUNKED, *[b"100\r\n" + b"x" * 256 + b"\r\n"] * 8],
    ],
)
@virtual
async def test_a_body_has_a_limit(pieces: list[bytes]) -> None:
    service = ScriptedService(HANG)
    front = Front(service, {"max_body": "1KiB"})
    client = front.connect()
    for piece in pieces:
        client.write(piece)
        await settle()
    answer = await client.answer()
    assert (answer.status, answer.get("connection")) == (413, "close")
    assert "1024 bytes" in answer.body.decode()
    assert service.active == 0
    client.transport.close()
    await settle()
    assert front.is_empty


@virtual
async def test_a_body_within_the_limit() -> None:
    front = Front(Reader(), {"max_body": "1KiB"})
    client = front.connect()
    client.write(post(b"x" * 1024) + CHUNKED + b"400\r\n" + b"x" * 1024 + b"\r\n0\r\n\r\n")
    assert [len((await client.answer()).body) for _ in range(2)] == [1024, 1024]


@virtual
async def test_an_invalid_body_is_answered_400() -> None:
    reader = Reader()
    front = Front(reader)
    client = front.connect()
    client.write(CHUNKED + b"5\r\nhello\r\n")
    await asyncio.sleep(START_AFTER)
    client.write(b"xyz\r\n" + GET)
    answer = await client.answer()
    assert (answer.status, answer.get("connection")) == (400, "close")
    await settle()
    assert client.rest == b""
    assert reader.taken[0].failure is not None
    assert [record.reason for record in front.records] == ["bad_request"]


@virtual
async def test_an_invalid_body_after_the_answer_has_begun_breaks_that_off() -> None:
    outcome, body, _ = streamed()

    async def service(x: Exchange) -> Outcome:
        assert x.stream is not None
        x.stream.on_close(lambda failure: body.fail(failure or CLIENT_CLOSED))
        return outcome

    front = Front(service)
    client = front.connect()
    client.write(CHUNKED)
    await asyncio.sleep(START_AFTER)
    body.feed(b"hello")
    client.write(b"xyz\r\n")
    await settle()
    assert client.received.endswith(b"5\r\nhello\r\n")
    assert client.is_eof
    client.transport.close()
    await settle()
    assert front.is_empty


@virtual
async def test_a_client_that_closes_breaks_its_body_off() -> None:
    reader = Reader()
    front = Front(reader)
    client = front.connect()
    client.write(post(LONG, sent=10))
    await asyncio.sleep(START_AFTER)
    client.transport.abort()
    await settle()
    assert reader.taken[0].failure is not None
    assert reader.taken[0].failure.code == "client_closed"
    assert front.is_empty


@pytest.mark.parametrize("sent", [10, 100])
@virtual
async def test_an_answer_within_the_call_that_brings_the_last_bytes(sent: int) -> None:
    async def service(x: Exchange) -> Outcome:
        if x.stream is None:
            return Outcome(200)
        ended: Promise[None] = Promise()
        x.stream.on_close(lambda failure: ended.resolve(None))
        await ended
        return Outcome(200, body=b"%d" % x.stream.received)

    front = Front(service)
    client = front.connect()
    client.write(post(LONG, sent=10))
    await asyncio.sleep(START_AFTER)
    client.write(LONG[10:] + (GET * 2)[: sent - 10])
    await settle()
    client.write((GET * 2)[sent - 10 :])
    assert [(await client.answer()).body for _ in range(3)] == [b"100000", b"", b""]


@virtual
async def test_an_early_answer_breaks_off_the_body_that_nobody_reads_any_more() -> None:
    taken = Taken()

    async def service(x: Exchange) -> Outcome:
        assert x.stream is not None
        x.stream.attach(taken)
        return Outcome(413)

    front = Front(service)
    client = front.connect()
    client.write(post(LONG, sent=10))
    await asyncio.sleep(START_AFTER)
    assert (await client.answer()).status == 413
    assert taken.failure is CLIENT_CLOSED


@virtual
async def test_request_and_answer_flow_at_the_same_time() -> None:
    outcome, body, _ = streamed()

    class Echo(Taken):
        def write(self, data: bytes) -> None:
            body.feed(data.upper())

        def finish(self, trailers: object) -> None:
            body.finish()

    async def service(x: Exchange) -> Outcome:
        assert x.stream is not None
        x.stream.attach(Echo())
        return outcome

    front = Front(service)
    client = front.connect()
    client.write(CHUNKED)
    await asyncio.sleep(START_AFTER)
    for _ in range(3):
        client.write(b"5\r\nhello\r\n")
        await settle()
        assert client.received.endswith(b"5\r\nHELLO\r\n")
    client.write(b"0\r\n\r\n")
    answer = await client.answer()
    assert (answer.body, answer.chunks, answer.get("connection")) == (b"HELLO" * 3, 3, "close")
