"""Downstream HTTP/2: each stream is one exchange under the route's policies, recorded once."""

from __future__ import annotations

import asyncio
import gc
from typing import Any

from sidecar.core.body import Body
from sidecar.core.exchange import CRITICALITIES, Exchange
from sidecar.core.outcome import RESET, Outcome, failed
from sidecar.downstream.connection import WORDS
from sidecar.downstream.http2.exchange import StreamExchange
from sidecar.downstream.slow_clients import START_AFTER
from sidecar.http2 import errors as e
from sidecar.http2 import frames as f
from tests.support.loop import settle, virtual
from tests.unit.downstream.front import GET, Front, Source, always
from tests.unit.downstream.http2.talk import ECHO, Frames, Talk
from tests.unit.http2.peer import GET as FIELDS
from tests.unit.http2.peer import POST, data, headers


@virtual
async def test_streams_are_exchanges() -> None:
    talk = Talk(ECHO)
    streams = [await talk.ask(path=b"/%d" % number) for number in range(3)]
    for number, stream in enumerate(streams):
        assert talk.status(stream) == 200
        assert talk.body(stream) == b"hello "
        assert b"x-target: /%d\r\n" % number in talk.fields(stream)
        assert b"date: " in talk.fields(stream)
        assert b"content-length: 6\r\n" in talk.fields(stream)
    assert [record.status for record in talk.front.records] == [200] * 3
    assert talk.front.listener.active == 0


@virtual
async def test_requests_are_read_as_over_http1() -> None:
    seen: list[Exchange] = []

    def answer(x: Exchange) -> Outcome:
        seen.append(x)
        return Outcome(200)

    talk = Talk(always(answer))
    lines = b"X-Forwarded-For: 1.2.3.4\r\nx-a: b\r\ncookie: a=1\r\n"
    stream = await talk.ask(path=b"/a/%2e%2e/b?c=d", lines=lines)
    assert talk.status(stream) == 200
    (x,) = seen
    assert (x.authority, x.path, x.query, x.version) == (b"a.test", b"/b", b"c=d", 20)
    assert x.header(b"x-forwarded-for") is None, "an untrusted client's claim"
    assert (x.header(b"x-a"), x.header(b"cookie")) == (b"b", b"a=1")
    assert b"via: 2.0 sidecar\r\n" in x.forwarding
    assert x.header(b"x-request-id") == x.request_id


@virtual
async def test_a_body_is_collected_and_can_be_sent_again() -> None:
    talk = Talk(ECHO)
    stream = await talk.ask(b"POST", body=b"world")
    assert talk.body(stream) == b"hello world"


@virtual
async def test_a_long_body_streams_and_its_reader_holds_it_up() -> None:
    taken: list[Body] = []

    async def service(x: Exchange) -> Outcome:
        assert x.stream is not None
        taken.append(x.stream)
        await asyncio.Event().wait()
        raise AssertionError

    talk = Talk(service)
    stream = talk.open(b"POST", end=False)
    talk.session.send(stream, b"x" * 1_000_000, True)
    await talk.exchange()
    (body,) = taken
    assert 65536 <= body.received <= 3 * 65536, "what is beyond two windows waits at the client"
    sink = Taken()
    body.attach(sink)
    await talk.exchange()
    await talk.exchange()
    assert len(sink.data) == 1_000_000
    assert sink.is_whole


class Taken:
    """Sink of a body."""

    def __init__(self) -> None:
        self.data = b""
        self.is_whole = False
        self.trailers: Any = None

    def write(self, data: bytes) -> None:
        self.data += data

    def finish(self, trailers: Any) -> None:
        self.is_whole = True
        self.trailers = trailers

    def fail(self, failure: Any) -> None:
        raise AssertionError(failure)


@virtual
async def test_trailers_pass_both_ways() -> None:
    async def service(x: Exchange) -> Outcome:
        assert x.stream is not None
        sink = Taken()
        x.stream.attach(sink)
        answer = Body(Source())
        answer.feed(b"body")
        answer.finish([*sink.trailers, (b"grpc-status", b"0"), (b"content-type", b"x")])
        return Outcome(200, [], stream=answer)

    talk = Talk(service)
    stream = talk.open(b"POST", end=False)
    talk.session.send(stream, b"x", False)
    talk.session.send_trailers(stream, b"x-sum: 1\r\n")
    await talk.exchange()
    assert talk.body(stream) == b"body"
    assert talk.of(stream, "trailers") == [("trailers", stream.id, b"x-sum: 1\r\ngrpc-status: 0\r\n")]


@virtual
async def test_marks_of_trailers_pass_both_ways() -> None:
    async def service(x: Exchange) -> Outcome:
        assert x.stream is not None
        x.stream.attach(sink := Taken())
        assert sink.is_whole
        assert x.sensitive == {b"x-sum"}
        answer = Body(Source())
        answer.sensitive = frozenset((b"x-late",))  # as the upstream does
        answer.feed(b"body")
        answer.finish([(b"x-late", b"1"), (b"x-open", b"2")])
        return Outcome(200, [], stream=answer)

    talk = Frames(service)
    marked = f.frame(f.HEADERS, f.END_HEADERS | f.END_STREAM, 1, b"\x10\x05x-sum\x011")
    await talk.feed(headers(1, POST, False), data(1, b"x"), marked)
    *_, trailers = [frame for frame in talk.got if frame.kind == f.HEADERS]
    assert trailers.payload[:8] == b"\x10\x06x-late"
    assert trailers.payload[10:11] == b"\x40", "the other is not marked"


@virtual
async def test_a_long_answer_waits_for_the_clients_window() -> None:
    talk = Talk(always(lambda x: Outcome(200, [], b"x" * 1_000_000)))
    stream = talk.open()
    talk.session.pause(stream)
    await talk.exchange()
    assert len(talk.body(stream)) == 65535
    assert talk.front.records == []
    talk.session.resume(stream)
    await talk.exchange()
    await talk.exchange()
    assert talk.body(stream) == b"x" * 1_000_000
    assert [record.status for record in talk.front.records] == [200]


@virtual
async def test_a_streamed_answer_pauses_its_source() -> None:
    source = Source()
    answer = Body(source)
    talk = Talk(always(lambda x: Outcome(200, [], stream=answer)), slow_clients={"buffer": "32KiB"})
    stream = talk.open()
    talk.session.pause(stream)
    await talk.exchange()
    for _ in range(5):
        answer.feed(b"x" * 20_000)
    await talk.exchange()
    assert answer._paused
    talk.session.resume(stream)
    await talk.exchange()
    assert not answer._paused
    answer.finish()
    await talk.exchange()
    assert len(talk.body(stream)) == 100_000
    assert talk.front.records[0].reason == ""


@virtual
async def test_an_answer_that_breaks_off_resets_its_stream() -> None:
    answer = Body(Source())
    talk = Talk(always(lambda x: Outcome(200, [], stream=answer)))
    stream = await talk.ask()
    answer.feed(b"part")
    answer.fail(RESET)
    await talk.exchange()
    assert talk.of(stream, "reset") == [("reset", stream.id, e.INTERNAL_ERROR)]
    assert talk.front.records[0].reason == "reset"
    assert talk.status(await talk.ask()) == 200, "the connection lives"


@virtual
async def test_failures_are_problem_documents() -> None:
    talk = Talk(always(lambda x: failed(RESET)))
    stream = await talk.ask()
    assert talk.status(stream) == 502
    assert b"application/problem+json" in talk.fields(stream)
    assert b'"urn:sidecar:problem:reset"' in talk.body(stream)


@virtual
async def test_a_client_that_resets_a_stream_cancels_its_call() -> None:
    """haproxy#172."""
    cancelled = []

    async def service(x: Exchange) -> Outcome:
        try:
            await asyncio.Event().wait()
        except asyncio.CancelledError:
            cancelled.append(x)
            raise
        raise AssertionError

    talk = Talk(service)
    stream = await talk.ask()
    assert talk.front.listener.active == 1
    talk.session.reset(stream, e.CANCEL)
    await talk.exchange()
    assert len(cancelled) == 1
    assert [record.reason for record in talk.front.records] == ["client_closed"]
    talk.open()
    await talk.exchange()
    talk.client.transport.close()
    await settle()
    assert len(cancelled) == 2
    assert talk.front.is_empty


@virtual
async def test_an_early_answer_stops_the_upload() -> None:
    talk = Talk(always(lambda x: Outcome(413, [], b"no")))
    stream = talk.open(b"POST", end=False)
    talk.session.send(stream, b"x" * 70_000, False)
    await talk.exchange()
    assert talk.status(stream) == 413
    assert talk.body(stream) == b"no"
    assert talk.of(stream, "reset") == [("reset", stream.id, e.NO_ERROR)]


@virtual
async def test_a_body_beyond_the_limit_is_refused() -> None:
    talk = Talk(ECHO, {"max_body": "10B"})
    stream = await talk.ask(b"POST", body=b"x" * 11)
    assert talk.status(stream) == 413
    said = await talk.ask(b"POST", lines=b"content-length: 11\r\n", body=b"x" * 11)
    assert talk.status(said) == 413


@virtual
async def test_a_body_that_does_not_come_is_answered_408() -> None:
    cancelled = []

    async def service(x: Exchange) -> Outcome:
        try:
            await asyncio.Event().wait()
        except asyncio.CancelledError:
            cancelled.append(x)
            raise
        raise AssertionError

    talk = Talk(service, {"body_timeout": "5s"})
    stream = talk.open(b"POST", end=False)
    talk.session.send(stream, b"x", False)
    await talk.exchange()
    await asyncio.sleep(START_AFTER + 7)
    await talk.exchange()
    assert talk.status(stream) == 408
    assert len(cancelled) == 1
    assert talk.front.listener.active == 0
    assert [record.status for record in talk.front.records] == [408]


@virtual
async def test_an_answer_that_is_not_taken_is_reset() -> None:
    talk = Talk(always(lambda x: Outcome(200, [], b"x" * 1_000_000)))
    stream = talk.open()
    talk.session.pause(stream)
    await talk.exchange()
    await asyncio.sleep(7)
    await talk.exchange()
    assert talk.of(stream, "reset") == [("reset", stream.id, e.CANCEL)]
    assert [record.reason for record in talk.front.records] == ["client_timeout"]


@virtual
async def test_what_is_too_much_or_malformed() -> None:
    talk = Talk(ECHO)
    large = await talk.ask(lines=b"x: %b\r\n" % (b"v" * 33_000))
    assert talk.status(large) == 431
    bad = await talk.ask(path=b"no-slash")
    assert talk.of(bad, "reset") == [("reset", bad.id, e.PROTOCOL_ERROR)]
    assert talk.status(await talk.ask()) == 200


@virtual
async def test_idle_connections_are_closed_and_silent_ones_too() -> None:
    talk = Talk(ECHO, {"idle_timeout": "5s"})
    await talk.ask()
    await asyncio.sleep(10)
    await talk.exchange()
    assert talk.front.is_empty
    assert ("goaway", 1, e.NO_ERROR) in talk.handler.events
    silent = Talk(ECHO, {"header_timeout": "5s"})
    silent.client.write(f.PREFACE)
    await asyncio.sleep(10)
    assert silent.front.is_empty


@virtual
async def test_a_drain_loses_no_call() -> None:
    released = asyncio.Event()

    async def service(x: Exchange) -> Outcome:
        await released.wait()
        return Outcome(200, [], b"late")

    talk = Talk(service)
    one = await talk.ask()
    talk.front.listener.drain()
    await talk.exchange()
    released.set()
    await talk.exchange()
    assert talk.body(one) == b"late"
    await asyncio.sleep(2)
    await talk.exchange()
    assert talk.front.is_empty


@virtual
async def test_http1_is_spoken_beside_it() -> None:
    talk = Talk(ECHO)
    talk.client.write(GET)
    assert (await talk.client.answer()).status == 200


@virtual
async def test_the_preface_may_come_in_pieces() -> None:
    talk = Talk(ECHO)
    stream = talk.open()
    sent = talk.session.take_output()
    for at in range(len(sent)):
        talk.client.write(sent[at : at + 1])
        await settle()
    await talk.exchange()
    assert talk.status(stream) == 200


@virtual
async def test_a_listener_of_http1_alone_refuses_the_preface() -> None:
    front = Front(ECHO, listener={"protocols": ["http1"]})
    client = front.connect()
    client.write(f.PREFACE)
    assert (await client.answer()).status == 505


@virtual
async def test_a_listener_of_http2_alone_refuses_http1() -> None:
    talk = Talk(ECHO, protocols=["http2"])
    stream = await talk.ask()
    assert talk.status(stream) == 200
    for sent in (GET, b"P" + GET, b"\x16\x03\x01"):
        client = talk.front.connect()
        client.write(sent)
        answer = await client.answer()
        assert answer.status == 505
        assert answer.get("connection") == "close"
        client.transport.close()
        await settle()
    assert len(talk.front.listener.connections) == 1


@virtual
async def test_silence_on_a_listener_of_http2_alone_ends() -> None:
    front = Front(ECHO, {"header_timeout": "5s"}, listener={"protocols": ["http2"]})
    front.connect()
    await asyncio.sleep(12)
    assert front.is_empty


@virtual
async def test_a_flood_ends_the_connection_and_its_calls() -> None:
    cancelled = []

    async def service(x: Exchange) -> Outcome:
        try:
            await asyncio.Event().wait()
        except asyncio.CancelledError:
            cancelled.append(x)
            raise
        raise AssertionError

    talk = Talk(service)
    await talk.ask()
    talk.client.write(f.ping(bytes(8)) * 2000)
    await talk.exchange()
    await settle()
    assert talk.handler.events[-1][0] == "goaway"
    assert talk.handler.events[-1][2] == e.ENHANCE_YOUR_CALM
    assert len(cancelled) == 1
    assert [record.reason for record in talk.front.records] == ["client_closed"]
    await asyncio.sleep(10)
    assert talk.front.is_empty


@virtual
async def test_interim_answers_pass() -> None:
    async def service(x: Exchange) -> Outcome:
        assert x.interim is not None
        x.interim(103, b"link: x\r\n")
        return Outcome(204)

    talk = Talk(service)
    stream = await talk.ask()
    assert talk.of(stream, "interim") == [("interim", stream.id, 103)]
    assert talk.status(stream) == 204


@virtual
async def test_a_bug_is_answered_500() -> None:
    async def service(x: Exchange) -> Outcome:
        raise ZeroDivisionError

    talk = Talk(service)
    assert talk.status(await talk.ask()) == 500
    assert len(talk.front.bugs) == 1
    assert talk.status(await talk.ask(b"HEAD")) == 500


@virtual
async def test_no_place_for_a_slow_request_is_an_answer() -> None:
    talk = Talk(ECHO)
    while talk.front.places.take():
        pass
    stream = talk.open(b"POST", end=False)
    talk.session.send(stream, b"x" * 60_000, False)
    await talk.exchange()
    await asyncio.sleep(10)
    talk.session.send(stream, b"x" * 10_000, False)
    await talk.exchange()
    assert talk.of(stream, "head") == [], "it waits for a place"
    await asyncio.sleep(7)
    await talk.exchange()
    assert talk.status(stream) == 503
    assert talk.front.listener.slow.buffered == 0


@virtual
async def test_a_head_that_dribbles_in_ends_the_connection() -> None:
    talk = Talk(ECHO, {"header_timeout": "5s", "idle_timeout": "60s"})
    await talk.ask()
    talk.client.write(f.frame_head(f.HEADERS, 5, 3, 1000))
    for _ in range(20):
        talk.client.write(b"x")
        await asyncio.sleep(0.5)
    await talk.exchange()
    assert talk.handler.events[-1] == ("goaway", 1, e.ENHANCE_YOUR_CALM)
    await asyncio.sleep(10)
    assert talk.front.is_empty


@virtual
async def test_frames_that_are_cut_by_reads_are_no_dribble() -> None:
    talk = Talk(ECHO, {"body_timeout": "5s"})
    await talk.ask()
    for _ in range(20):
        talk.client.write(f.ping(bytes(8))[:5])
        await asyncio.sleep(0.5)
        talk.client.write(f.ping(bytes(8))[5:])
    assert talk.connection.serving == 0


@virtual
async def test_the_state_shows_connections_and_streams() -> None:
    async def service(x: Exchange) -> Outcome:
        await asyncio.Event().wait()
        raise AssertionError

    talk = Talk(service)
    await talk.ask()
    await talk.ask()
    talk.front.connect()
    shown = talk.front.server.describe()["test"]
    assert shown["http2"] == {"connections": 1, "streams": 2}
    assert shown["connections"] == 2


@virtual
async def test_the_criticality_of_a_stranger_only_lowers_the_routes() -> None:
    seen: list[Exchange] = []

    def answer(x: Exchange) -> Outcome:
        seen.append(x)
        return Outcome(200)

    talk = Talk(always(answer))
    await talk.ask(lines=b"x-criticality: sheddable\r\n")
    await talk.ask(lines=b"x-criticality: critical\r\n")
    own = talk.front.route.criticality
    assert [x.criticality for x in seen] == [CRITICALITIES["sheddable"], own]
    assert [x.header(b"x-criticality") for x in seen] == [b"sheddable", WORDS[own]]


@virtual
async def test_requests_leave_nothing_for_the_garbage_collector() -> None:
    talk = Talk(ECHO)
    await talk.ask()
    gc.collect()
    gc.disable()
    try:
        for _ in range(10):
            await talk.ask()
            await talk.ask(b"POST", body=b"world")
            talk.handler.events.clear()
            talk.handler.streams.clear()
        gc.set_debug(gc.DEBUG_SAVEALL)
        gc.collect()
        assert [type(each).__name__ for each in gc.garbage if isinstance(each, Exchange | StreamExchange)] == []
    finally:
        gc.set_debug(0)
        gc.garbage.clear()
        gc.enable()


@virtual
async def test_a_drain_has_two_steps() -> None:
    """RFC 9113 6.8: requests that are under way when the first GOAWAY is sent are served, later ones are not."""
    gate = asyncio.Event()

    async def service(x: Exchange) -> Outcome:
        await gate.wait()
        return Outcome(200, [], b"late")

    talk = Frames(service)
    await talk.feed(headers(1, FIELDS))
    talk.front.listener.drain()
    first, ping = (await talk.feed())[-2:]
    assert (first.kind, first.payload[:4]) == (f.GOAWAY, b"\x7f\xff\xff\xff")
    assert (ping.kind, ping.flags) == (f.PING, 0)
    (second,) = await talk.feed(headers(3, FIELDS) + f.ping(ping.payload, is_ack=True))
    assert (second.kind, second.payload) == (f.GOAWAY, (3).to_bytes(4, "big") + bytes(4))
    assert await talk.feed(headers(5, FIELDS)) == []
    gate.set()
    await talk.feed()
    assert talk.data(1) == talk.data(3) == b"late"
    assert talk.data(5) == b""
    assert talk.client.is_eof
    assert [record.status for record in talk.front.records] == [200, 200]


@virtual
async def test_a_drain_does_not_wait_for_a_silent_client() -> None:
    talk = Frames(ECHO)
    await talk.feed(headers(1, POST, False))
    talk.front.listener.drain()
    await asyncio.sleep(1.1)
    await talk.feed()
    assert [frame.payload[:4] for frame in talk.got if frame.kind == f.GOAWAY] == [b"\x7f\xff\xff\xff", b"\0\0\0\1"]


@virtual
async def test_marks_of_never_indexed_fields_pass_both_ways() -> None:
    seen: list[frozenset[bytes]] = []

    async def service(x: Exchange) -> Outcome:
        seen.append(x.sensitive)
        outcome = Outcome(200, [(b"x-secret", b"2"), (b"x-open", b"3")], b"body")
        outcome.sensitive = frozenset((b"x-secret",))
        return outcome

    talk = Talk(service)
    talk.session.open(
        b"GET", b"http", b"a.test", b"/?token=1", b"x-secret: 1\r\ncookie: a=b\r\n", True,
        frozenset((b":path", b"x-secret")),
    )  # fmt: skip
    await talk.exchange()
    await talk.ask()
    assert seen == [{b":path", b"x-secret"}, frozenset()]
    heads = [event[2] for event in talk.handler.events if event[0] == "head"]
    assert [head.sensitive for head in heads] == [{b"x-secret"}] * 2
