"""One upstream connection: a request out, an answer in, and whether it may be used again."""

from __future__ import annotations

import asyncio

import pytest

from sidecar.core.exchange import Exchange
from tests.support.loop import settle, virtual
from tests.unit.upstream.back import OK, Back, Sink, outcome_of, upload

STREAM = b"HTTP/1.1 200 OK\r\nContent-Length: 10\r\n\r\n"
CHUNKED = b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n"


def get(method: bytes = b"GET") -> Exchange:
    x = Exchange(method, b"/a", [(b"x", b"y")])
    x.authority = b"example"
    return x


@virtual
async def test_a_request_and_its_answer() -> None:
    back = Back()
    run = back.send(get())
    await settle()
    assert back.server.received.startswith(b"GET /a HTTP/1.1\r\nhost: example\r\nx: y\r\n")
    assert back.server.received.endswith(b"x-sidecar-attempt: 1\r\n\r\n")
    back.server.write(OK)
    await settle()
    outcome = outcome_of(run)
    assert (outcome.status, outcome.body, outcome.stream) == (200, b"hi", None)
    assert back.pool.describe()["idle"] == 1
    assert back.deadlines.entries == set()


@virtual
async def test_a_host_for_a_client_that_named_none() -> None:
    back = Back()
    back.send(Exchange(b"GET", b"/", []))
    await settle()
    assert b"\r\nhost: test:80\r\n" in back.server.received


@virtual
async def test_one_connection_serves_many() -> None:
    back = Back()
    for number in range(5):
        run = back.send(get(b"POST" if number % 2 else b"GET"))
        await settle()
        back.server.write(OK)
        await settle()
        assert outcome_of(run).status == 200
    assert len(back.peers) == 1
    assert back.server.requests == 5


@virtual
async def test_the_connection_is_back_before_the_waiter_runs() -> None:
    back = Back()
    idle: list[int] = []

    async def twice() -> None:
        for _ in range(2):
            connection = back.pool.take(get(), back.env.now()) or await back.pool.open(float("inf"))
            await connection.exchange(get(), float("inf"), 0)  # type: ignore[union-attr]
            idle.append(len(back.pool.idle))

    task = asyncio.ensure_future(twice())
    for _ in range(2):
        await settle()
        back.server.write(OK)
        await settle()
    await task
    assert idle == [1, 1]
    assert len(back.peers) == 1


@virtual
async def test_a_long_answer_is_pushed_on_as_it_arrives() -> None:
    back = Back()
    run = back.send(get())
    await settle()
    back.server.write(STREAM + b"hello")
    await settle()
    sink = Sink(outcome_of(run))
    assert (bytes(sink.data), sink.stream.length, sink.is_whole) == (b"hello", 10, False)
    back.server.write(b"world")
    await settle()
    assert (bytes(sink.data), sink.is_whole) == (b"helloworld", True)
    assert back.pool.describe()["idle"] == 1


@virtual
async def test_the_trailers_of_an_answer() -> None:
    back = Back()
    x = get()
    x.accepts_trailers = True
    run = back.send(x)
    await settle()
    assert b"connection: te\r\nte: trailers\r\n" in back.server.received
    back.server.write(CHUNKED + b"5\r\nhello\r\n0\r\nX-Sum: 1\r\n\r\n")
    await settle()
    sink = Sink(outcome_of(run))
    assert (bytes(sink.data), sink.trailers) == (b"hello", [(b"x-sum", b"1")])
    assert back.pool.describe()["idle"] == 1


@virtual
async def test_more_than_was_promised_is_cut_off() -> None:
    back = Back()
    run = back.send(get())
    await settle()
    back.server.write(STREAM + b"hello")
    await settle()
    sink = Sink(outcome_of(run))
    back.server.write(b"worldHTTP/1.1 200 OK\r\n")
    await settle()
    assert (bytes(sink.data), sink.is_whole) == (b"helloworld", True)
    assert back.pool.describe()["open"] == 0
    assert back.server.is_eof


@virtual
async def test_a_peer_that_speaks_unasked_is_dropped() -> None:
    back = Back()
    back.send(get())
    await settle()
    back.server.write(OK)
    await settle()
    back.server.write(b"HTTP/1.1 408 Request Timeout\r\nConnection: close\r\n\r\n")
    await settle()
    assert back.pool.describe()["open"] == 0
    run = back.send(get())
    await settle()
    back.server.write(OK)
    await settle()
    assert outcome_of(run).status == 200
    assert len(back.peers) == 2


@pytest.mark.parametrize("part", [b"", b"HTTP/1.1 2", STREAM[:-2], CHUNKED[:-1]])
@pytest.mark.parametrize("how", ["close", "abort"])
@virtual
async def test_an_answer_that_ends_in_its_head_is_a_reset(part: bytes, how: str) -> None:
    back = Back()
    run = back.send(get())
    await settle()
    back.server.write(part)
    await settle()
    getattr(back.server.transport, how)()
    await settle()
    assert outcome_of(run).reason == "reset"
    assert back.pool.describe()["open"] == 0


@pytest.mark.parametrize("head", [STREAM + b"hello", CHUNKED + b"5\r\nhello\r\n", CHUNKED + b"5\r\nhello\r\n0\r\n"])
@pytest.mark.parametrize("how", ["close", "abort"])
@virtual
async def test_an_answer_that_ends_in_its_body_is_broken(head: bytes, how: str) -> None:
    back = Back()
    run = back.send(get())
    await settle()
    back.server.write(head)
    await settle()
    sink = Sink(outcome_of(run))
    getattr(back.server.transport, how)()
    await settle()
    assert not sink.is_whole
    assert sink.failure is not None
    assert sink.failure.code == "reset"


@virtual
async def test_up_to_the_close() -> None:
    for how, is_whole in (("close", True), ("abort", False)):
        back = Back()
        run = back.send(get())
        await settle()
        back.server.write(b"HTTP/1.0 200 OK\r\n\r\nhello")
        await settle()
        sink = Sink(outcome_of(run))
        getattr(back.server.transport, how)()
        await settle()
        assert (bytes(sink.data), sink.is_whole) == (b"hello", is_whole)
        assert back.pool.describe()["open"] == 0


@virtual
async def test_a_chunk_that_is_none_breaks_the_body() -> None:
    back = Back()
    run = back.send(get())
    await settle()
    back.server.write(CHUNKED + b"5\r\nhello\r\n")
    await settle()
    sink = Sink(outcome_of(run))
    back.server.write(b"xyz\r\n")
    await settle()
    assert sink.failure is not None
    assert sink.failure.code == "protocol_error"
    assert back.server.is_lost


@virtual
async def test_a_reader_that_cannot_take_more_stops_the_upstream() -> None:
    back = Back()
    run = back.send(get())
    await settle()
    back.server.write(b"HTTP/1.1 200 OK\r\nContent-Length: 400000\r\n\r\n")
    await settle()
    sink = Sink(outcome_of(run))
    sink.stream.pause()
    back.server.write(b"x" * 399_999)
    await settle()
    assert back.server.transport.get_write_buffer_size() > 300_000
    sink.stream.resume()
    await settle()
    assert len(sink.data) == 399_999
    sink.stream.pause()
    back.server.write(b"x")
    sink.stream.resume()
    await settle()
    assert sink.is_whole


@virtual
async def test_a_connection_whose_last_piece_was_held_reads_the_next_answer() -> None:
    back = Back()
    run = back.send(get())
    await settle()
    back.server.write(STREAM)
    await settle()
    sink = Sink(outcome_of(run))

    def write(data: bytes) -> None:
        sink.stream.pause()

    sink.write = write  # type: ignore[method-assign]
    back.server.write(b"helloworld")
    await settle()
    assert sink.is_whole
    again = back.send(get())
    await settle()
    back.server.write(OK)
    await settle()
    assert outcome_of(again).status == 200
    assert len(back.peers) == 1


@virtual
async def test_an_old_body_cannot_touch_the_next_exchange() -> None:
    back = Back()
    run = back.send(get())
    await settle()
    back.server.write(STREAM + b"hello")
    await settle()
    old = Sink(outcome_of(run))
    back.server.write(b"world")
    await settle()
    again = back.send(get())
    await settle()
    old.stream.pause()
    old.stream.cancel()
    old.stream.resume()
    back.server.write(OK)
    await settle()
    assert outcome_of(again).status == 200


@virtual
async def test_an_answer_that_nobody_wants_ends_the_connection() -> None:
    back = Back()
    run = back.send(get())
    await settle()
    back.server.write(STREAM + b"hello")
    await settle()
    stream = outcome_of(run).stream
    assert stream is not None
    stream.cancel()
    await settle()
    assert back.server.is_lost
    assert back.pool.describe()["open"] == 0
    assert back.deadlines.entries == set()


@virtual
async def test_a_cancelled_exchange_ends_the_connection() -> None:
    back = Back()
    run = back.send(get())
    await settle()
    run.cancel()
    assert isinstance(run.error, asyncio.CancelledError)
    await settle()
    assert back.server.is_lost
    assert back.pool.describe()["open"] == 0
    assert back.deadlines.entries == set()


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
    from sidecar.core.outcome import CLIENT_CLOSED

    back = Back()
    x, body, _ = upload(10)
    run = back.send(x)
    await settle()
    body.feed(b"hello")
    body.fail(CLIENT_CLOSED)
    await settle()
    assert outcome_of(run).reason == "client_closed"
    assert back.server.is_lost


class Interim:
    """Notes what the client is told before the answer."""

    def __init__(self) -> None:
        self.said: list[tuple[int, bytes]] = []

    def __call__(self, status: int, lines: bytes) -> None:
        self.said.append((status, lines))


@virtual
async def test_the_body_is_held_back_until_100() -> None:
    back = Back()
    interim = Interim()
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
    interim = Interim()
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


@virtual
async def test_an_answer_instead_of_100_spares_the_body() -> None:
    back = Back()
    interim = Interim()
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
async def test_hints_are_passed_on() -> None:
    back = Back()
    interim = Interim()
    x = get()
    x.interim = interim
    run = back.send(x)
    await settle()
    back.server.write(b"HTTP/1.1 103 Early Hints\r\nLink: </a>\r\nConnection: x\r\n\r\n")
    await settle()
    assert interim.said == [(103, b"Link: </a>\r\n")]
    back.server.write(OK)
    await settle()
    assert outcome_of(run).status == 200


@virtual
async def test_a_connection_that_had_been_closed_is_stale_for_what_may_be_repeated() -> None:
    for method, sent in ((b"GET", False), (b"PUT", False), (b"POST", True)):
        back = Back()
        back.send(get())
        await settle()
        back.server.write(OK)
        await settle()
        run = back.send(get(method))
        await settle()
        back.server.transport.abort()
        await settle()
        failure = outcome_of(run).failure
        assert failure is not None
        assert (failure.code, failure.sent) == ("reset", sent)


@virtual
async def test_a_fresh_connection_that_closes_is_not_stale() -> None:
    back = Back()
    run = back.send(get())
    await settle()
    back.server.transport.close()
    await settle()
    failure = outcome_of(run).failure
    assert failure is not None
    assert failure.sent


UPGRADE = (
    b"HTTP/1.1 101 Switching Protocols\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n"
    b"Sec-WebSocket-Accept: s3pPLMBiTxaQ9kYGzzhZRbK+xOo=\r\nSec-WebSocket-Protocol: p\r\n\r\n"
)


def handshake() -> Exchange:
    x = Exchange(b"GET", b"/", [(b"sec-websocket-key", b"dGhlIHNhbXBsZSBub25jZQ==")])
    x.upgrade = b"websocket"
    return x


@virtual
async def test_an_upgraded_connection_is_taken_over() -> None:
    from tests.support.transports import Wire

    back = Back()
    run = back.send(handshake())
    await settle()
    assert b"\r\nconnection: Upgrade\r\nupgrade: websocket\r\n" in back.server.received
    back.server.write(UPGRADE + b"early")
    await settle()
    back.server.write(b"more")
    await settle()
    outcome = outcome_of(run)
    assert outcome.status == 101
    assert dict(outcome.headers)[b"sec-websocket-protocol"] == b"p"
    assert outcome.tunnel is not None
    end = Wire()
    taken = outcome.tunnel.take_over(end)
    assert taken is not None
    assert taken[1] == b"early"
    await settle()
    assert end.received == b"more"
    assert back.pool.describe()["open"] == 1
    outcome.tunnel.close()
    assert back.pool.describe()["open"] == 0


@virtual
async def test_an_upgraded_connection_that_nobody_takes_over_is_closed_at_the_deadline() -> None:
    back = Back()
    run = back.send(handshake(), back.env.now() + 3)
    await settle()
    back.server.write(UPGRADE)
    await asyncio.sleep(4)
    assert outcome_of(run).status == 101
    assert back.server.is_lost
    assert back.pool.describe()["open"] == 0
    assert outcome_of(run).tunnel.take_over(asyncio.Protocol()) is None  # type: ignore[union-attr]


@pytest.mark.parametrize(
    "answer",
    [
        UPGRADE.replace(b"s3pPL", b"S3pPL"),
        UPGRADE.replace(b"Sec-WebSocket-Accept", b"X"),
        UPGRADE.replace(b"websocket", b"h2c"),
        UPGRADE.replace(b"Upgrade: websocket\r\n", b""),
    ],
)
@virtual
async def test_a_handshake_that_is_answered_wrongly(answer: bytes) -> None:
    back = Back()
    run = back.send(handshake())
    await settle()
    back.server.write(answer)
    await settle()
    assert outcome_of(run).reason == "protocol_error"
    assert back.server.is_lost


@virtual
async def test_a_handshake_that_is_refused_is_an_answer() -> None:
    back = Back()
    run = back.send(handshake())
    await settle()
    back.server.write(b"HTTP/1.1 403 Forbidden\r\nContent-Length: 0\r\n\r\n")
    await settle()
    assert outcome_of(run).status == 403
    assert back.pool.describe()["idle"] == 1
