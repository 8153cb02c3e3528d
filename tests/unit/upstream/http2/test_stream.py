"""One exchange on a stream: its request, its response, and what breaks it off."""

from __future__ import annotations

import asyncio
import gc

import pytest

from sidecar.core.exchange import NEVER, Exchange
from sidecar.core.outcome import CLIENT_CLOSED, CLIENT_TIMEOUT, PROTOCOL, RESET, SHORT_DEADLINE, SLOW_READER, TIMEOUT
from sidecar.http2 import errors as e
from sidecar.http2 import frames as f
from sidecar.http2.limits import Limits
from sidecar.upstream.http2.connection import WINDOW
from sidecar.upstream.http2.stream import UpstreamStream
from tests.support.loop import settle, virtual
from tests.unit.http2.peer import OK, data, headers
from tests.unit.upstream.back import Interims, Sink, get, outcome_of, start, upload
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
    """haproxy#172."""
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


# ----- responses


@pytest.mark.parametrize(
    ("method", "status", "lines", "passed"),
    [
        (b"HEAD", 200, b"content-length: 7\r\n", b"7"),
        (b"GET", 304, b"content-length: 7\r\n", b"7"),
        (b"GET", 204, b"content-length: 0\r\n", None),
        (b"HEAD", 200, b"", None),
    ],
)
@virtual
async def test_an_answer_without_a_body(method: bytes, status: int, lines: bytes, passed: bytes | None) -> None:
    back = StreamBack()
    run = start(back.upstream(), get(method))
    await settle()
    back.server.answer(back.server.asked[0], status=status, lines=lines)
    await settle()
    outcome = outcome_of(run)
    assert (outcome.status, outcome.body, outcome.stream) == (status, b"", None)
    assert outcome.header(b"content-length") == passed
    assert back.connection.active == 0


@virtual
async def test_fields_of_one_hop_and_dates() -> None:
    back = StreamBack()
    upstream = back.upstream()
    for lines, date in ((b"date: now\r\n", b"now"), (b"date: a\r\ndate: b\r\n", None)):
        run = start(upstream, get())
        await settle()
        back.server.answer(back.asked[-1], lines=lines + b"proxy-authenticate: x\r\nx-a: b\r\n")
        await settle()
        outcome = outcome_of(run)
        assert outcome.header(b"proxy-authenticate") is None
        assert outcome.header(b"x-a") == b"b"
        dates = [value for name, value in outcome.headers if name == b"date"]
        assert len(dates) == 1
        assert date is None or dates == [date]


MALFORMED = {
    "upper case": [(b"X-A", b"b")],
    "line break": [(b"x-a", b"b\r\nset-cookie: c=d")],
    "nul": [(b"x-a", b"b\x00")],
    "space before": [(b"x-a", b" b")],
    "connection": [(b"connection", b"close")],
    "transfer-encoding": [(b"transfer-encoding", b"chunked")],
    "upgrade": [(b"upgrade", b"websocket")],
    "late pseudo-header": [(b"x-a", b"b"), (b":status", b"200")],
    "two statuses": [(b":status", b"404")],
    "request's pseudo-header": [(b":path", b"/")],
    "unknown pseudo-header": [(b":x", b"y")],
    "two lengths": [(b"content-length", b"1"), (b"content-length", b"2")],
    "length that is none": [(b"content-length", b"+1")],
    "te": [(b"te", b"gzip")],
    "empty name": [(b"", b"x")],
}


@pytest.mark.parametrize("kind", MALFORMED)
@virtual
async def test_a_malformed_head_never_reaches_a_client(kind: str) -> None:
    back = StreamBack()
    upstream = back.upstream()
    run, other = start(upstream, get()), start(upstream, get())
    await settle()
    stream, second = back.server.asked
    back.server.say(headers(stream.id, [*OK, *MALFORMED[kind]]))
    await settle()
    outcome = outcome_of(run)
    assert outcome.failure is PROTOCOL, outcome.cause
    assert back.server.resets == [(stream.id, e.PROTOCOL_ERROR)]
    back.server.answer(second, b"fine")
    await settle()
    assert outcome_of(other).body == b"fine", "the others go on"


@pytest.mark.parametrize("status", [b"99", b"600", b"abc", b"101", b"2000", b""])
@virtual
async def test_a_status_that_is_none(status: bytes) -> None:
    back = StreamBack()
    run = start(back.upstream(), get())
    await settle()
    back.server.say(headers(back.server.asked[0].id, [(b":status", status)]))
    await settle()
    assert outcome_of(run).failure is PROTOCOL


@pytest.mark.parametrize(
    "content", [[data(1, b"12", True)], [data(1, b"1234", True)], [data(1, b"1234")], [headers(1, [(b"a", b"b")])]]
)
@virtual
async def test_content_that_contradicts_its_length(content: list[bytes]) -> None:
    back = StreamBack()
    run = start(back.upstream(), get())
    await settle()
    back.server.say(headers(1, [*OK, (b"content-length", b"3")], end=False), *content)
    await settle()
    assert outcome_of(run).failure is PROTOCOL


@virtual
async def test_content_that_contradicts_its_length_later_breaks_the_body() -> None:
    back = StreamBack()
    run = start(back.upstream(), get())
    await settle()
    back.server.say(headers(1, [*OK, (b"content-length", b"9")], end=False), data(1, b"123"))
    await settle()
    sink = Sink(outcome_of(run))
    back.server.say(data(1, b"4", True))
    await settle()
    assert (sink.failure, sink.is_whole) == (PROTOCOL, False)
    assert sink.stream.cause


@virtual
async def test_a_trailer_that_is_malformed_breaks_the_body() -> None:
    back = StreamBack()
    run = start(back.upstream(), get())
    await settle()
    back.server.say(headers(1, OK, end=False))
    await settle()
    sink = Sink(outcome_of(run))
    back.server.say(data(1, b"123"), headers(1, [(b":status", b"200")]))
    await settle()
    assert (bytes(sink.data), sink.failure) == (b"123", PROTOCOL)


@virtual
async def test_trailers_of_twelve_kilobytes() -> None:
    back = StreamBack()
    run = start(back.upstream(), get())
    await settle()
    (stream,) = back.server.asked
    back.server.answer(stream, b"x", end=False)
    back.server.trail(stream, b"".join(b"x-%d: %b\r\n" % (number, b"v" * 1200) for number in range(10)))
    await settle()
    outcome = outcome_of(run)
    assert outcome.stream is not None
    sink = Sink(outcome)
    assert sink.trailers == [(b"x-%d" % number, b"v" * 1200) for number in range(10)]


@virtual
async def test_interim_answers_are_passed_on() -> None:
    back = StreamBack()
    interims = Interims()
    run = start(back.upstream(), get(interim=interims))
    await settle()
    (stream,) = back.server.asked
    back.server.session.respond(stream, 103, b"link: </a>\r\n", False)
    back.server.answer(stream, b"x")
    await settle()
    assert interims.said == [(103, b"link: </a>\r\n")]
    assert outcome_of(run).body == b"x"


@virtual
async def test_interim_answers_without_end_are_malformed() -> None:
    back = StreamBack()
    interims = Interims()
    run = start(back.upstream(), get(interim=interims))
    await settle()
    back.server.say(*[headers(1, [(b":status", b"103")], end=False)] * 17)
    await settle()
    assert outcome_of(run).failure is PROTOCOL
    assert len(interims.said) == 16


@virtual
async def test_a_body_is_held_back_for_its_100() -> None:
    back = StreamBack()
    interims = Interims()
    x, body, _ = upload(5, expects_continue=True, interim=interims)
    run = start(back.upstream(), x)
    await settle()
    (stream,) = back.server.asked
    assert b"expect: 100-continue\r\n" in back.server.heads[stream.id].lines
    body.feed(b"hello")
    await settle()
    assert back.server.bodies[stream.id] == b""
    back.server.session.respond(stream, 100, b"", False)
    back.server.flush()
    await settle()
    assert interims.said == [(100, b"")]
    body.finish()
    await settle()
    assert back.server.bodies[stream.id] == b"hello"
    back.server.answer(stream)
    await settle()
    assert outcome_of(run).status == 200


# ----- resets


@pytest.mark.parametrize("code", [e.NO_ERROR, e.CANCEL, e.INTERNAL_ERROR, e.REFUSED_STREAM])
@pytest.mark.parametrize("is_at_once", [True, False])
@virtual
async def test_a_reset_after_a_whole_answer_keeps_the_answer(code: int, is_at_once: bool) -> None:
    """envoy#38206."""
    back = StreamBack()
    x, body, _ = upload()
    run = start(back.upstream(), x)
    await settle()
    (stream,) = back.server.asked
    answer = headers(stream.id, OK, end=False), data(stream.id, b"early", True)
    if is_at_once:
        back.server.say(*answer, f.rst_stream(stream.id, code))
    else:
        back.server.say(*answer)
        back.server.say(f.rst_stream(stream.id, code))
    await settle()
    outcome = outcome_of(run)
    assert (outcome.status, outcome.body) == (200, b"early")
    body.feed(b"more")
    body.finish()
    await settle()
    assert back.connection.active == 0
    assert len(back.servers) == 1


@virtual
async def test_an_early_answer_stops_the_upload() -> None:
    back = StreamBack()
    x, body, _ = upload()
    run = start(back.upstream(), x)
    await settle()
    (stream,) = back.server.asked
    body.feed(b"hello")
    await settle()
    back.server.answer(stream, b"no", status=413)
    await settle()
    assert outcome_of(run).status == 413
    assert back.server.resets == [(stream.id, e.CANCEL)]
    body.feed(b"more")
    await settle()
    assert back.server.bodies[stream.id] == b"hello"


@pytest.mark.parametrize("code", [e.NO_ERROR, e.CANCEL, e.INTERNAL_ERROR, e.ENHANCE_YOUR_CALM, e.HTTP_1_1_REQUIRED, 99])
@virtual
async def test_a_reset_before_the_end_is_the_upstreams(code: int) -> None:
    back = StreamBack()
    upstream = back.upstream()
    run, streaming = start(upstream, get()), start(upstream, get())
    await settle()
    one, two = back.server.asked
    back.server.answer(two, b"x", end=False)
    back.server.reset(one, code)
    await settle()
    outcome = outcome_of(run)
    assert outcome.failure is RESET
    assert e.name_of(code) in outcome.cause
    sink = Sink(outcome_of(streaming))
    back.server.reset(two, code)
    await settle()
    assert sink.failure is RESET


# ----- flow control


@virtual
async def test_a_reader_that_cannot_take_more_stops_its_stream_alone() -> None:
    back = StreamBack()
    upstream = back.upstream()
    slow, quick = start(upstream, get()), start(upstream, get())
    await settle()
    one, two = back.server.asked
    back.server.answer(one, b"x" * 3_000_000)
    await settle(50)
    outcome = outcome_of(slow)
    assert outcome.stream is not None
    assert outcome.stream.received <= WINDOW
    back.server.answer(two, b"y" * 3_000_000)
    await settle(50)
    sink = Sink(outcome_of(quick))
    await settle(200)
    assert (len(sink.data), sink.is_whole) == (3_000_000, True), "the connection's window is not held up"
    assert outcome.stream.received <= WINDOW
    late = Sink(outcome)
    await settle(200)
    assert (len(late.data), late.is_whole) == (3_000_000, True)


@virtual
async def test_a_peer_that_cannot_take_more_stops_the_client() -> None:
    back = StreamBack(Limits(window=65535, connection_window=65535))
    x, body, source = upload()
    run = start(back.upstream(), x)
    await settle()
    (stream,) = back.server.asked
    back.server.session.pause(stream)
    for _ in range(20):
        body.feed(b"x" * 16384)
        await settle()
        if source.said:
            break
    assert source.said == ["pause"]
    assert body.received <= 65535 + 2 * 16384
    assert back.pool.carriers_in_use()[0].blocked_since == NEVER, "the client is not to blame"
    back.server.session.resume(stream)
    back.server.flush()
    await settle()
    assert source.said == ["pause", "resume"]
    body.finish()
    await settle()
    assert len(back.server.bodies[stream.id]) == body.received
    back.server.answer(stream)
    await settle()
    assert outcome_of(run).status == 200


# ----- deadlines and blame


@virtual
async def test_an_answer_that_does_not_come_is_a_timeout() -> None:
    back = StreamBack()
    upstream = back.upstream()
    run = start(upstream, get(attempt_timeout=2.0))
    await settle()
    await asyncio.sleep(2.1)
    assert outcome_of(run).failure is TIMEOUT
    (stream,) = back.server.asked
    assert back.server.resets == [(stream.id, e.CANCEL)]
    run = start(upstream, get(attempt_timeout=2.0))
    await settle()
    assert len(back.servers) == 1, "its answers to PINGs show that it is not dead"
    back.server.answer(back.server.asked[-1])
    await settle()
    assert outcome_of(run).status == 200


@virtual
async def test_a_callers_short_deadline_is_not_the_upstreams_fault() -> None:
    back = StreamBack()
    upstream = back.upstream()
    now = back.env.now()
    run = start(upstream, get(attempt_timeout=2.0, deadline=now + 0.1, caller_deadline=now + 0.1))
    await asyncio.sleep(0.2)
    assert outcome_of(run).failure is SHORT_DEADLINE
    (stream,) = back.server.asked
    assert back.server.resets == [], "one attempt goes on, to learn how long an answer takes"
    await asyncio.sleep(0.2)
    back.server.answer(stream, b"x" * 100)
    await settle()
    assert back.pool.times.usual == pytest.approx(0.4, abs=0.05)
    assert back.pool.times.continued is None
    assert back.connection.active == 0


@virtual
async def test_a_body_that_stalls_is_a_timeout() -> None:
    back = StreamBack()
    run = start(back.upstream(), get(attempt_timeout=60.0, idle_timeout=1.0))
    await settle()
    (stream,) = back.server.asked
    back.server.answer(stream, b"x", end=False)
    await settle()
    sink = Sink(outcome_of(run))
    await asyncio.sleep(0.9)
    back.server.send(stream, b"y")
    await asyncio.sleep(0.9)
    assert sink.failure is None
    await asyncio.sleep(0.2)
    assert sink.failure is TIMEOUT


@virtual
async def test_a_reader_that_is_slow_is_not_the_upstreams_fault() -> None:
    back = StreamBack()
    x = get(attempt_timeout=5.0, idle_timeout=1.0)
    run = start(back.upstream(), x)
    await settle()
    (stream,) = back.server.asked
    back.server.answer(stream, b"x" * 1_000_000)
    await settle(50)
    body = outcome_of(run).stream
    assert body is not None
    (carrier,) = back.pool.carriers_in_use()
    assert carrier.blocked_since < NEVER
    await asyncio.sleep(6)
    assert body.failure is SLOW_READER
    assert x.attempts[0].reason == "client_timeout"
    assert back.server.resets == [(stream.id, e.CANCEL)]


@virtual
async def test_a_client_that_stops_sending_is_not_the_upstreams_fault() -> None:
    back = StreamBack()
    x, body, _ = upload(attempt_timeout=2.0)
    run = start(back.upstream(), x)
    await settle()
    body.feed(b"x")
    await asyncio.sleep(2.1)
    assert outcome_of(run).failure is CLIENT_TIMEOUT


@virtual
async def test_a_peer_that_gives_up_a_slow_client_is_not_to_blame() -> None:
    back = StreamBack()
    upstream = back.upstream()
    x, body, _ = upload(attempt_timeout=60.0)
    run = start(upstream, x)
    await settle()
    body.feed(b"x")
    await asyncio.sleep(5)
    back.server.reset(back.server.asked[0], e.CANCEL)
    await settle()
    assert outcome_of(run).failure is CLIENT_TIMEOUT
    assert upstream.endpoints.members[0].failures == 0


@virtual
async def test_an_exchange_that_waits_for_its_client_yields_its_place() -> None:
    back = StreamBack()
    upstream = back.upstream()
    x, body, _ = upload(attempt_timeout=60.0)
    run = start(upstream, x)
    await settle()
    body.feed(b"x")
    await asyncio.sleep(1)
    assert upstream.reclaim()
    await settle()
    assert outcome_of(run).failure is CLIENT_TIMEOUT
    assert not upstream.reclaim()


@virtual
async def test_a_request_whose_body_breaks_off() -> None:
    back = StreamBack()
    x, body, _ = upload()
    run = start(back.upstream(), x)
    await settle()
    body.feed(b"x")
    body.fail(CLIENT_CLOSED)
    await settle()
    assert outcome_of(run).failure is CLIENT_CLOSED
    assert back.server.resets == [(1, e.CANCEL)]


@virtual
async def test_an_answer_that_nobody_wants_resets_its_stream() -> None:
    back = StreamBack()
    upstream = back.upstream()
    run = start(upstream, get())
    await settle()
    back.server.answer(back.server.asked[0], b"x", end=False)
    await settle()
    outcome_of(run).discard()
    await settle()
    assert back.server.resets == [(1, e.CANCEL)]
    assert upstream.endpoints.members[0].in_flight == 0


@virtual
async def test_nothing_is_left_of_an_exchange() -> None:
    back = StreamBack()
    upstream = back.upstream()
    gc.collect()
    run = start(upstream, get())
    await settle()
    back.server.answer(back.server.asked[0], b"x")
    await settle()
    assert outcome_of(run).body == b"x"
    assert not back.pool.deadlines.entries
    assert not [each for each in gc.get_objects() if isinstance(each, UpstreamStream)], "no cycle keeps it"


@pytest.mark.parametrize(
    ("lines", "is_passed"),
    [
        (b"".join(b"x-%d: %b\r\n" % (number, b"v" * 280) for number in range(200)), True),
        (b"".join(b"x-%d: a\r\n" % number for number in range(300)), False),
        (b"x-a: %b\r\n" % (b"a," * 2000), True),
        (b"x-a: %b\r\n" % (b"a," * 3000), False),
        (b"x-a: %b\r\n" % (b"a" * 80_000), False),
    ],
    ids=["60 KiB", "300 fields", "2000 members", "3000 members", "80 KiB"],
)
@virtual
async def test_limits_of_a_head_are_those_of_http1(lines: bytes, is_passed: bool) -> None:
    back = StreamBack()
    run = start(back.upstream(), get())
    await settle()
    back.server.answer(back.server.asked[0], b"x", lines=lines)
    await settle(50)
    outcome = outcome_of(run)
    assert outcome.failure is (None if is_passed else PROTOCOL), outcome.cause


@virtual
async def test_marks_of_never_indexed_fields_pass_both_ways() -> None:
    back = StreamBack()
    x = get(sensitive=frozenset((b":path", b"x-secret")))
    x.headers = [(b"x-secret", b"1"), (b"x-open", b"2")]
    run = start(back.upstream(), x)
    await settle()
    server = back.server
    (stream,) = server.asked
    assert server.heads[stream.id].sensitive == {b":path", b"x-secret"}
    server.session.respond(stream, 200, b"x-other: 1\r\nset-cookie: a=b\r\n", True, frozenset((b"x-other",)))
    server.flush()
    await settle()
    assert outcome_of(run).sensitive == {b"x-other"}


@virtual
async def test_marks_of_trailers_pass_both_ways() -> None:
    back = StreamBack()
    x, body, _ = upload()
    run = start(back.upstream(), x)
    await settle()
    (stream,) = back.server.asked
    x.sensitive = frozenset((b"x-sum",))
    body.feed(b"hello")
    body.finish([(b"x-sum", b"1"), (b"x-open", b"2")])
    await settle()
    assert back.server.marks[stream.id] == {b"x-sum"}
    back.server.answer(stream, b"body", end=False)
    await settle()
    answer = outcome_of(run).stream
    assert answer is not None
    back.server.trail(stream, b"x-late: 1\r\nx-open: 2\r\n", frozenset((b"x-late",)))
    await settle()
    assert answer.sensitive == {b"x-late"}
