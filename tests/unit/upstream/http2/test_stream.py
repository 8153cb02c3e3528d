"""One exchange on a stream: its request, its response, and what breaks it off."""

from __future__ import annotations

from sidecar.core.exchange import Exchange
from sidecar.http2 import errors as e
from tests.support.loop import settle, virtual
from tests.unit.upstream.back import Sink, get, outcome_of, start, upload
from tests.unit.upstream.http2.back import StreamBack


@virtual
async def test_a_request_and_its_answer() -> None:
    back = StreamBack()
    x = Exchange(b"GET", b"/a", [], lines=b"")
    x.parsed, x.raw = None, b"X-A: 1\r\nCookie: a=b\r\n"
    x.query, x.authority, x.forwarding = b"b=c", b"a.test", b"via: 1.1 sidecar\r\n"
    run = start(back.upstream(), x)
    await settle()
    server = back.server
    (stream,) = server.asked
    head = server.heads[stream.id]
    assert (head.method, head.scheme, head.authority, head.path) == (b"GET", b"http", b"a.test", b"/a?b=c")
    assert head.lines == b"host: a.test\r\nx-a: 1\r\nvia: 1.1 sidecar\r\nx-sidecar-attempt: 1\r\ncookie: a=b\r\n"
    assert stream.id in server.ended
    server.answer(stream, b"hello", lines=b"content-length: 5\r\nx-b: 2\r\n")
    await settle()
    outcome = outcome_of(run)
    assert (outcome.status, outcome.body, outcome.stream) == (200, b"hello", None)
    assert outcome.header(b"x-b") == b"2"
    assert outcome.header(b"date") is not None
    assert outcome.header(b"content-length") is None, "framing is the other side's"
    assert back.connection.active == 0
    (attempt,) = x.attempts
    assert (attempt.status, attempt.reason) == (200, "")


@virtual
async def test_many_exchanges_share_a_connection() -> None:
    back = StreamBack()
    upstream = back.upstream()
    runs = [start(upstream, get()) for _ in range(5)]
    await settle()
    assert len(back.servers) == 1, "openers are coalesced"
    for number, stream in reversed(list(enumerate(back.server.asked))):
        back.server.answer(stream, b"%d" % number)
    await settle()
    assert [outcome_of(run).body for run in runs] == [b"0", b"1", b"2", b"3", b"4"]


@virtual
async def test_a_body_is_sent_and_its_trailers() -> None:
    back = StreamBack()
    x = get(b"POST", body=b"hello")
    run = start(back.upstream(), x)
    await settle()
    (stream,) = back.server.asked
    assert back.server.bodies[stream.id] == b"hello"
    assert stream.id in back.server.ended
    assert b"content-length: 5\r\n" in back.server.heads[stream.id].lines
    back.server.answer(stream)
    await settle()
    assert outcome_of(run).status == 200


@virtual
async def test_an_answer_streams() -> None:
    back = StreamBack()
    run = start(back.upstream(), get())
    await settle()
    (stream,) = back.server.asked
    back.server.answer(stream, b"hel", end=False)
    await settle()
    sink = Sink(outcome_of(run))
    back.server.send(stream, b"lo")
    await settle()
    assert (sink.data, sink.is_whole) == (b"hello", False)
    back.server.trail(stream, b"x-sum: 1\r\n")
    await settle()
    assert sink.trailers == [(b"x-sum", b"1")]


@virtual
async def test_an_answer_that_is_whole_in_one_read_is_delivered_whole_with_its_trailers() -> None:
    back = StreamBack()
    run = start(back.upstream(), get())
    await settle()
    (stream,) = back.server.asked
    back.server.is_corked = True
    back.server.answer(stream, b"hello", end=False)
    back.server.trail(stream, b"grpc-status: 0\r\n")
    back.server.is_corked = False
    back.server.flush()
    await settle()
    outcome = outcome_of(run)
    assert outcome.stream is not None
    assert outcome.stream.trailers == [(b"grpc-status", b"0")]
    assert outcome.stream.whole() == b"hello"
    assert outcome.stream.failure is None


@virtual
async def test_a_request_body_streams() -> None:
    back = StreamBack()
    x, body, source = upload()
    run = start(back.upstream(), x)
    await settle()
    (stream,) = back.server.asked
    body.feed(b"hel")
    await settle()
    assert back.server.bodies[stream.id] == b"hel"
    body.feed(b"lo")
    body.finish([(b"x-sum", b"1")])
    await settle()
    assert back.server.bodies[stream.id] == b"hello"
    assert back.server.trailers[stream.id] == b"x-sum: 1\r\n"
    back.server.answer(stream)
    await settle()
    assert outcome_of(run).status == 200
    assert source.said == []


@virtual
async def test_a_cancelled_exchange_resets_its_stream_alone() -> None:
    back = StreamBack()
    upstream = back.upstream()
    runs = [start(upstream, get()) for _ in range(2)]
    await settle()
    one, two = back.server.asked
    runs[0].cancel()
    await settle()
    assert back.server.resets == [(one.id, e.CANCEL)]
    back.server.answer(two)
    await settle()
    assert outcome_of(runs[1]).status == 200
