"""Slow clients on streams: the minimum rate, the account of buffered bytes, and what a transport that is full costs."""

from __future__ import annotations

import asyncio
from typing import Any

import pytest

from sidecar.core.body import Body
from sidecar.core.exchange import Exchange
from sidecar.core.outcome import Outcome
from sidecar.downstream.http2.connection import MAX_UNREAD_BYTES
from sidecar.downstream.response_body import PIECE
from sidecar.downstream.slow_clients import START_AFTER
from sidecar.http2 import errors as e
from sidecar.http2 import frames as f
from tests.support.loop import settle, virtual
from tests.unit.downstream.front import Source, Taken, always
from tests.unit.downstream.http2.talk import ECHO, Frames, Talk
from tests.unit.http2.peer import GET, POST, data, headers, setting

ANSWER = always(lambda x: Outcome(200, [], b"x" * 1_000_000))
NO_WINDOW = setting(f.INITIAL_WINDOW_SIZE, 0)
WIDE = f.window_update(0, 2**30)
EVENTS = [(b"content-type", b"text/event-stream")]
GRPC = [(b"content-type", b"application/grpc+proto")]


async def wait_for_ever(x: Exchange) -> Outcome:
    await asyncio.Event().wait()
    raise AssertionError


async def take_for_ever(x: Exchange) -> Outcome:
    if x.stream is not None:
        x.stream.attach(Taken())
    return await wait_for_ever(x)


def streaming(body: Body, fields: list[tuple[bytes, bytes]] | None = None) -> Any:
    return always(lambda x: Outcome(200, fields or [], stream=body))


async def seconds(talk: Frames, count: float, each: bytes = b"", step: float = 1.0) -> float:
    """Write `each` after every step; return the seconds until the first reset or the end, `count` at most."""
    passed = 0.0
    while passed < count:
        await asyncio.sleep(step)
        passed += step
        await talk.feed(each)
        if talk.codes(f.RST_STREAM) or talk.codes(f.GOAWAY) or talk.client.is_closed:
            break
    return passed


# ----- readers


@virtual
async def test_a_stream_without_a_window_ends_after_the_grace() -> None:
    talk = Frames(ANSWER, settings=NO_WINDOW)
    await talk.feed(headers(1, GET))
    assert 5 <= await seconds(talk, 60) <= 7
    assert talk.codes(f.RST_STREAM) == [e.CANCEL]
    assert [record.reason for record in talk.front.records] == ["client_timeout"]
    assert talk.front.listener.slow.buffered == 0
    assert talk.front.listener.slow.behind == {}
    assert not talk.client.is_closed


@virtual
async def test_a_reader_at_the_minimum_rate_goes_on() -> None:
    talk = Frames(ANSWER, settings=NO_WINDOW)
    await talk.feed(WIDE + headers(1, GET))
    assert await seconds(talk, 200, f.window_update(1, 1100)) == 200
    assert len(talk.data(1)) == 200 * 1100
    assert talk.front.records == []


@virtual
async def test_a_reader_at_half_the_rate_ends() -> None:
    talk = Frames(ANSWER, settings=NO_WINDOW)
    await talk.feed(WIDE + headers(1, GET))
    assert 7 < await seconds(talk, 200, f.window_update(1, 512)) <= 40


@virtual
async def test_streams_of_a_connection_share_the_minimum_rate() -> None:
    """Otherwise a hundred downloads over a line of 50 KiB/s would all be given up."""
    talk = Frames(ANSWER, settings=NO_WINDOW)
    numbers = range(1, 21, 2)
    await talk.feed(WIDE, *[headers(number, GET) for number in numbers])
    each = b"".join(f.window_update(number, 150) for number in numbers)
    assert await seconds(talk, 120, each) == 120
    assert 5 <= await seconds(talk, 120, f.window_update(1, 150)) <= 25


@virtual
async def test_the_window_of_the_connection_counts_too() -> None:
    talk = Frames(ANSWER, settings=setting(f.INITIAL_WINDOW_SIZE, 2**30))
    await talk.feed(headers(1, GET))
    assert len(talk.data(1)) == 65535
    assert 5 <= await seconds(talk, 60) <= 25


@virtual
async def test_an_endless_answer_has_no_minimum_rate() -> None:
    body = Body(Source())
    talk = Frames(streaming(body, EVENTS), settings=NO_WINDOW)
    await talk.feed(headers(1, GET))
    body.feed(b"data: 1\n\n")
    assert 59 <= await seconds(talk, 90, f.ping(bytes(8))) <= 62
    assert talk.codes(f.RST_STREAM) == [e.CANCEL]


@virtual
async def test_time_of_a_slow_upstream_is_not_the_clients() -> None:
    body = Body(Source())
    talk = Frames(streaming(body))
    await talk.feed(headers(1, GET))
    for _ in range(20):
        body.feed(b"x")
        assert await seconds(talk, 25, f.ping(bytes(8)), step=25) == 25
    body.finish()
    await talk.feed()
    assert len(talk.data(1)) == 20


# ----- the buffer and the account


@virtual
async def test_an_answer_that_fits_is_read_in_advance() -> None:
    source = Source()
    body = Body(source, 200_000)
    talk = Frames(streaming(body), settings=NO_WINDOW)
    await talk.feed(headers(1, GET))
    for _ in range(10):
        body.feed(b"x" * 20_000)
    body.finish()
    await talk.feed()
    assert source.said == [], "the upstream is free"
    assert talk.front.listener.slow.buffered == 200_000
    await talk.feed(f.window_update(1, 65535) + WIDE)
    assert talk.front.listener.slow.buffered == 200_000 - 65535
    await talk.feed(f.window_update(1, 200_000))
    assert len(talk.data(1)) == 200_000
    assert talk.front.listener.slow.buffered == 0
    assert [record.status for record in talk.front.records] == [200]


@virtual
async def test_an_answer_that_does_not_fit_pauses_its_source_at_once() -> None:
    source = Source()
    body = Body(source, 400_000)
    talk = Frames(streaming(body), settings=NO_WINDOW)
    await talk.feed(headers(1, GET))
    body.feed(b"x" * 20_000)
    await talk.feed()
    assert source.said == ["pause"]
    await talk.feed(f.window_update(1, 20_000))
    assert source.said == ["pause", "resume"]


@virtual
async def test_a_full_account_stops_reading_in_advance_and_an_overdraft_ends_the_longest_behind() -> None:
    sources, bodies = [], []

    def answer(x: Exchange) -> Outcome:
        sources.append(Source())
        bodies.append(Body(sources[-1]))
        return Outcome(200, [], stream=bodies[-1])

    talk = Frames(always(answer), slow_clients={"buffer_total": "100KiB", "grace": "60s"}, settings=NO_WINDOW)
    await talk.feed(headers(1, GET), headers(3, GET), headers(5, GET))
    bodies[0].feed(b"x" * 60_000)
    assert sources[0].said == []
    bodies[1].feed(b"x" * 60_000)
    assert sources[1].said == ["pause"]
    await asyncio.sleep(2)
    bodies[2].feed(b"x" * 60_000)
    await talk.feed()
    assert [(frame.stream, frame.code) for frame in talk.got if frame.kind == f.RST_STREAM] == [(1, e.CANCEL)]
    assert "cancel" in sources[0].said
    assert talk.front.listener.slow.buffered == 120_000
    talk.client.transport.abort()
    await settle()
    assert talk.front.is_empty


@virtual
async def test_a_stored_answer_waits_where_it_is_stored() -> None:
    talk = Frames(ANSWER, settings=NO_WINDOW)
    await talk.feed(WIDE + headers(1, GET))
    assert talk.front.listener.slow.buffered == PIECE
    for _ in range(20):
        await talk.feed(f.window_update(1, 65535))
        assert talk.front.listener.slow.buffered <= PIECE
    assert talk.data(1) == b"x" * 1_000_000
    assert [record.status for record in talk.front.records] == [200]


@virtual
async def test_memory_is_in_proportion_to_the_streams() -> None:
    """A client that uploads to a route that takes nothing fills one window for each stream."""
    talk = Talk(wait_for_ever, slow_clients={"buffer_total": "1GiB"})
    streams = [talk.open(b"POST", end=False) for _ in range(20)]
    for stream in streams:
        talk.session.send(stream, b"x" * 1_000_000, True)
    for _ in range(3):
        await talk.exchange()
    held = sum(1_000_000 - stream.unsent for stream in streams)
    assert held <= 20 * 3 * 65536


# ----- senders


@virtual
async def test_a_body_that_stops_is_late_after_the_grace() -> None:
    talk = Frames(wait_for_ever)
    await talk.feed(headers(1, POST, False), data(1, b"x"))
    await asyncio.sleep(4)
    assert talk.front.records == []
    await asyncio.sleep(3)
    await talk.feed()
    assert [(record.status, record.reason) for record in talk.front.records] == [(408, "client_timeout")]
    assert talk.front.listener.slow.buffered == 0


@virtual
async def test_a_sender_at_the_minimum_rate_goes_on() -> None:
    talk = Frames(take_for_ever)
    await talk.feed(headers(1, POST, False))
    assert await seconds(talk, 100, data(1, b"x" * 1100)) == 100
    assert 5 <= await seconds(talk, 60, data(1, b"x" * 100)) <= 40


@virtual
async def test_time_of_a_route_that_takes_nothing_is_not_the_clients() -> None:
    talk = Frames(wait_for_ever)
    await talk.feed(headers(1, POST, False), *[data(1, b"x" * 16384)] * 4)
    assert await seconds(talk, 60, f.ping(bytes(8)), step=10) == 60


@virtual
async def test_grpc_begins_at_once_and_has_no_minimum_rate() -> None:
    body = Body(Source())
    seen: list[Exchange] = []

    def answer(x: Exchange) -> Outcome:
        seen.append(x)
        assert x.stream is not None
        x.stream.attach(sink)
        return Outcome(200, GRPC, stream=body)

    sink = Sink()
    talk = Frames(always(answer))
    await talk.feed(headers(1, [*POST, *GRPC], False))
    assert len(seen) == 1
    body.feed(b"first")
    await talk.feed()
    assert talk.data(1) == b"first", "the answer has begun before the request has ended"
    for number in range(10):
        assert await seconds(talk, 25, f.ping(bytes(8)), step=25) == 25, "both sides are silent"
        await talk.feed(data(1, b"%d" % number))
    assert bytes(sink.data) == b"0123456789"
    await talk.feed(data(1, b"", True))
    assert sink.is_whole
    body.finish([(b"grpc-status", b"0")])
    await talk.feed()
    assert [record.reason for record in talk.front.records] == [""]


class Sink:
    """Sink of a request's body."""

    def __init__(self) -> None:
        self.data = bytearray()
        self.is_whole = False

    def write(self, data: bytes) -> None:
        self.data += data

    def finish(self, trailers: Any) -> None:
        self.is_whole = True

    def fail(self, failure: Any) -> None:
        raise AssertionError(failure)


@virtual
async def test_collected_bodies_are_in_the_account() -> None:
    talk = Frames(ECHO, slow_clients={"buffer_total": "40KiB", "grace": "60s"})
    long = [*POST, (b"content-length", b"60000")]
    await talk.feed(headers(1, long, False), data(1, b"x" * 15_000))
    assert talk.front.listener.slow.buffered == 15_000
    await asyncio.sleep(2)
    await talk.feed(headers(3, long, False), data(3, b"x" * 15_000))
    assert talk.front.listener.slow.buffered == 30_000
    await talk.feed(data(1, b"x" * 15_000))
    assert [record.status for record in talk.front.records] == [503], "it was slow, and the account is full"
    assert talk.front.listener.slow.buffered == 15_000
    await talk.feed(f.rst_stream(3, e.CANCEL))
    assert talk.front.listener.slow.buffered == 0


@virtual
async def test_a_short_body_is_collected_however_long_it_takes() -> None:
    calls = 0

    def answer(x: Exchange) -> Outcome:
        nonlocal calls
        calls += 1
        return Outcome(200, [], x.body)

    talk = Frames(always(answer))
    await talk.feed(headers(1, [*POST, (b"content-length", b"4000")], False))
    assert await seconds(talk, 3, data(1, b"x" * 1000)) == 3
    assert calls == 0
    await talk.feed(data(1, b"x" * 1000, True))
    assert len(talk.data(1)) == 4000


@virtual
async def test_a_body_of_unknown_length_starts_early() -> None:
    talk = Frames(always(lambda x: Outcome(200, [], b"early")))
    await talk.feed(headers(1, POST, False), data(1, b"x"))
    assert talk.data(1) == b""
    await asyncio.sleep(START_AFTER + 0.01)
    await talk.feed()
    assert talk.data(1) == b"early"
    assert talk.codes(f.RST_STREAM) == [e.NO_ERROR]


# ----- transports that are full


@virtual
async def test_a_client_that_does_not_read_is_reset_after_the_grace() -> None:
    talk = Frames(ANSWER, settings=setting(f.INITIAL_WINDOW_SIZE, 2**30))
    talk.client.transport.pause_reading()
    await talk.feed(WIDE + headers(1, GET))
    assert talk.front.listener.slow.buffered > 0
    await asyncio.sleep(7)
    assert talk.front.is_empty
    assert [record.reason for record in talk.front.records] == ["client_timeout"]


@virtual
async def test_a_client_of_endless_answers_that_does_not_read_has_longer() -> None:
    body = Body(Source())
    talk = Frames(streaming(body, EVENTS), settings=setting(f.INITIAL_WINDOW_SIZE, 2**30))
    talk.client.transport.pause_reading()
    await talk.feed(WIDE + headers(1, GET))
    body.feed(b"x" * 100_000)
    await asyncio.sleep(30)
    assert talk.front.records == []
    await asyncio.sleep(40)
    assert [record.reason for record in talk.front.records] == ["client_timeout"]
    assert talk.front.is_empty


@virtual
async def test_answers_without_content_do_not_fill_the_transport_of_a_client_that_does_not_read() -> None:
    value = b"v" * 5000
    talk = Frames(always(lambda x: Outcome(204, [(b"x", value)])))
    talk.client.transport.pause_reading()
    for number in range(1, 1001, 2):
        await talk.feed(headers(number, GET))
    transport = talk.client.pair.right
    assert transport.get_write_buffer_size() <= MAX_UNREAD_BYTES + 6000
    assert not transport.is_reading()
    talk.client.transport.resume_reading()
    await settle()
    await talk.feed()
    assert transport.is_reading()
    assert len([frame for frame in talk.got if frame.kind == f.HEADERS]) == 500


# ----- clients that are gone


@virtual
async def test_a_silent_client_is_asked_only_while_streams_are_open() -> None:
    talk = Frames(wait_for_ever)
    await asyncio.sleep(50)
    assert [frame for frame in await talk.feed() if frame.kind == f.PING] == []
    await talk.feed(headers(1, GET))
    await asyncio.sleep(33)
    (ping,) = [frame for frame in await talk.feed() if frame.kind == f.PING]
    await talk.feed(f.ping(ping.payload, is_ack=True))
    await asyncio.sleep(29)
    assert talk.front.listener.active == 1
    await asyncio.sleep(25)
    await talk.feed()
    assert talk.codes(f.GOAWAY) == [e.NO_ERROR]
    assert [record.reason for record in talk.front.records] == ["client_closed"]
    await asyncio.sleep(10)
    assert talk.front.is_empty


# ----- one write


@virtual
async def test_what_one_read_or_one_turn_causes_is_written_once(monkeypatch: pytest.MonkeyPatch) -> None:
    bodies: list[Body] = []

    def answer(x: Exchange) -> Outcome:
        if x.path == b"/stored":
            return Outcome(200, [], b"hello")
        bodies.append(Body(Source()))
        return Outcome(200, [], stream=bodies[-1])

    talk = Frames(always(answer))
    await talk.feed()
    writes: list[bytes] = []
    transport = talk.client.pair.right
    write = transport.write
    monkeypatch.setattr(transport, "write", lambda sent: (writes.append(sent), write(sent)))
    stored = [*GET[:3], (b":path", b"/stored")]
    await talk.feed(headers(1, stored) + headers(3, stored))
    assert len(writes) == 1, "two whole answers"
    writes.clear()
    await talk.feed(headers(5, GET) + headers(7, GET))
    writes.clear()
    for body in bodies:
        body.feed(b"some")
        body.feed(b"more")
        body.finish([(b"x-sum", b"1")])
    await talk.feed()
    assert len(writes) == 1, "two bodies with their trailers"
    assert talk.data(5) == talk.data(7) == b"somemore"
