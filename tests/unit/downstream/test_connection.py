"""Tests of downstream connections: order of requests and answers, pipelining, disconnects, bugs, and phases."""

from __future__ import annotations

import asyncio
import contextlib
import inspect
import re
from itertools import product
from types import SimpleNamespace
from typing import Any, NoReturn

import pytest

from sidecar.core import metrics
from sidecar.core.body import OPEN, Body
from sidecar.core.exchange import Exchange
from sidecar.core.outcome import BREAKER_OPEN, RESET, Outcome, Refusal, failed
from sidecar.core.stage import Wait
from sidecar.downstream import connection
from sidecar.downstream.connection import MAX_REQUESTS_A_TURN, PHASES, TRANSITIONS, DownstreamConnection
from sidecar.downstream.slow_clients import START_AFTER
from sidecar.engine.pipeline import Pipeline
from tests.support.loop import settle, virtual
from tests.support.service import HANG, ScriptedService, after
from tests.unit.downstream.front import CLOSE, GET, HANDSHAKE, Front, Taken, Upgraded, always, streamed
from tests.unit.downstream.phases import IS_COMPILED, SEEN, TABLE, Transition
from tests.wire.pipe import Pipe

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
async def test_connection_close_closes_after_the_answer() -> None:
    front = Front(OK)
    client = front.connect()
    client.write(CLOSE + GET)
    assert (await client.answer()).get("connection") == "close"
    await settle()
    assert client.is_eof
    assert len(front.records) == 1, "the request behind it is not read"
    assert front.is_empty


@virtual
async def test_a_connection_keeps_nothing_of_what_is_over() -> None:
    front = Front(OK)
    for request in (GET, CLOSE):
        connected, pipe = DownstreamConnection(front.listener), Pipe()
        connected.connection_made(pipe)
        connected.data_received(request)
        assert (connected._call, connected._exchange, connected._outcome) == (None, None, None)
    assert pipe.closed
    connected.data_received(b"x" * 1000)
    assert connected._buffer == b"", "bytes after the last answer are discarded"


@pytest.mark.parametrize(
    ("lines", "connection"),
    [(b"", "close"), (b"Connection: keep-alive\r\n", "keep-alive"), (b"Connection: close\r\n", "close")],
)
@virtual
async def test_http_1_0_is_kept_open_on_request(lines: bytes, connection: str) -> None:
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
            await asyncio.sleep(0)  # waits for the loop as well as for a promise
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
async def test_pipelined_requests_wait_in_bounded_memory() -> None:
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
async def test_pipelined_requests_are_read_as_fast_as_they_are_answered() -> None:
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


@virtual
async def test_a_turn_of_the_loop_answers_a_bounded_number_of_pipelined_requests() -> None:
    front = Front(OK)
    flood, other = front.connect(), front.connect()
    flood.write(GET * 2000)
    other.write(GET)
    before, most = 0, 0
    while len(front.records) < 2001:
        await asyncio.sleep(0)
        before, most = len(front.records), max(most, len(front.records) - before)
        if before >= 200:
            assert b"hello" in other.received, "another client is answered meanwhile"
    assert most <= 2 * MAX_REQUESTS_A_TURN <= 64


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
    for leave, late, patience in (
        ("abort", 0, 0),
        ("close", 2, 0),
        ("write_eof", 2, 0),
        ("close", 0, 6),
        ("write_eof", 0, 6),
    ):
        client = front.connect()
        client.write(GET)
        await settle()
        await asyncio.sleep(late)
        assert service.active == 1
        getattr(client.transport, leave)()
        await settle()
        await asyncio.sleep(patience)
        assert service.active == 0
    assert service.cancelled == 5
    assert [record.reason for record in front.records] == ["client_closed"] * 5
    assert front.is_empty


POST = b"POST / HTTP/1.1\r\nHost: a\r\nContent-Length: 5\r\n\r\n"


def after_a_second(outcome: Any = None) -> Any:
    async def service(x: Exchange) -> Outcome:
        if x.stream is not None:
            x.stream.attach(Taken())
        await asyncio.sleep(1)
        return outcome() if outcome else Outcome(200, [(b"x-target", x.target)], b"hello")

    return service


@pytest.mark.parametrize("split", [None, 1], ids=["at once", "byte by byte"])
@pytest.mark.parametrize(
    ("sent", "answers"),
    [
        (GET, 1),
        (b"GET / HTTP/1.0\r\n\r\n", 1),
        (POST + b"hello", 1),
        (b"POST / HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked\r\n\r\n5\r\nhello\r\n0\r\n\r\n", 1),
        (GET * 3, 3),
        (GET * 3 + GET[:9], 3),
        (GET + POST + b"hell", 1),
        (GET + b"\r", 1),
        (GET + b"\r\n", 1),
        (GET[:-1], 0),
        (POST + b"hell", 0),
        (b"", 0),
    ],
)
@virtual
async def test_a_half_closed_client_gets_its_answers_and_then_the_close(
    sent: bytes, answers: int, split: int | None
) -> None:
    front = Front(after_a_second())
    client = front.connect()
    client.transport.split = split
    client.write(sent)
    client.transport.write_eof()
    await asyncio.sleep(answers + 0.5)
    for _ in range(answers):
        assert (await client.answer()).body == b"hello"
    assert (client.rest, client.is_eof) == (b"", True)
    await settle()
    assert front.is_empty
    assert front.bugs == []


@virtual
async def test_many_pipelined_requests_of_a_half_closed_client_are_all_answered() -> None:
    front = Front(OK)
    client = front.connect()
    client.write(GET * (3 * MAX_REQUESTS_A_TURN))
    client.transport.write_eof()
    await asyncio.sleep(1)
    assert client.received.count(b"hello") == 3 * MAX_REQUESTS_A_TURN
    assert (client.is_eof, front.is_empty) == (True, True)


@virtual
async def test_a_half_closed_client_gets_its_answer_although_it_reads_late() -> None:
    front = Front(after_a_second(lambda: Outcome(200, body=b"x" * 300_000)))
    client = front.connect()
    client.transport.pause_reading()
    client.write(GET * 2)
    client.transport.write_eof()
    await asyncio.sleep(4)
    client.transport.resume_reading()
    await asyncio.sleep(4)
    assert [len((await client.answer()).body) for _ in range(2)] == [300_000] * 2
    assert (client.is_eof, front.is_empty) == (True, True)


@virtual
async def test_a_stream_goes_on_for_a_half_closed_client_while_bytes_move() -> None:
    outcome, body, source = streamed()
    front = Front(always(lambda x: outcome))
    client = front.connect()
    client.write(GET)
    client.transport.write_eof()
    for _ in range(5):
        await asyncio.sleep(4)
        body.feed(b"x")
        await settle()
    assert (client.received.count(b"x\r\n"), client.is_lost) == (5, False)
    await asyncio.sleep(11)
    assert (client.is_lost, source.said, front.is_empty) == (True, ["cancel"], True), "silence ends it"
    assert [record.reason for record in front.records] == ["client_closed"]


@virtual
async def test_a_client_that_has_left_its_stream_ends_it() -> None:
    outcome, body, source = streamed()
    front = Front(always(lambda x: outcome))
    for late, cancelled in ((0.0, False), (2.0, True)):
        outcome, body, source = streamed()
        client = front.connect()
        client.write(GET)
        await settle()
        await asyncio.sleep(late)
        client.transport.close()
        await settle()
        assert (source.said == ["cancel"]) == cancelled
        body.feed(b"x")
        await settle()
        assert source.said == ["cancel"]
    assert front.is_empty


@virtual
async def test_a_half_close_can_count_as_leaving() -> None:
    service = ScriptedService(HANG)
    front = Front(service, {"half_close_timeout": "0s"})
    client = front.connect()
    client.write(GET)
    client.transport.write_eof()
    await settle()
    assert (client.is_eof, service.cancelled, front.is_empty) == (True, 1, True)


@virtual
async def test_pipelined_requests_of_a_client_that_has_left_do_not_go_on_for_ever() -> None:
    front = Front(after_a_second())
    client = front.connect()
    client.write(GET * 100)
    client.transport.write_eof()
    await asyncio.sleep(8)
    assert (client.is_lost, front.is_empty, len(front.records) < 8) == (True, True, True)


@virtual
async def test_a_run_that_others_need_goes_on_without_its_client() -> None:
    outcome, _, source = streamed()
    service = ScriptedService(after(1, outcome))
    front = Front(service)
    client = front.connect()
    client.write(GET)
    await settle()
    service.exchanges[0].shared_fetch = SimpleNamespace(detach_client=lambda run: True)
    client.transport.abort()
    await settle()
    assert ([record.reason for record in front.records], service.active) == (["client_closed"], 1)
    assert front.is_empty
    await asyncio.sleep(1)
    assert (service.active, service.cancelled, source.said) == (0, 0, ["cancel"])
    assert (len(front.records), front.bugs) == (1, [])


@virtual
async def test_an_answer_after_the_client_has_left_is_cancelled() -> None:
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
async def test_a_bug_while_answering_closes_the_connection_and_is_reported() -> None:
    front = Front(always(Outcome(999)))
    client = front.connect()
    client.write(GET)
    await settle()
    assert client.is_lost
    assert len(front.bugs) == 1
    assert front.is_empty


@virtual
async def test_a_bug_while_recording_closes_the_connection_and_is_reported() -> None:
    def record(*_: object) -> None:
        raise Bug

    front = Front(OK)
    front.listener.recorder = record
    client = front.connect()
    client.write(GET)
    await settle()
    assert client.is_lost
    assert len(front.bugs) == 1
    assert front.is_empty


@virtual
async def test_interim_responses_are_passed_on_but_not_to_http_1_0() -> None:
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
async def test_a_head_request_gets_no_interim_response_but_the_one_that_it_has_asked_for() -> None:
    async def service(x: Exchange) -> Outcome:
        assert x.interim is not None
        x.method = b"GET"  # as after a transform
        for status in (100, 102, 103):
            x.interim(status, b"")
        return Outcome(200)

    front = Front(service)
    client = front.connect()
    client.write(b"HEAD" + GET[3:])
    assert (await client.answer("HEAD")).status == 100
    assert (await client.answer("HEAD")).status == 200
    assert client.rest == b""


@virtual
async def test_interim_responses_after_the_answer_has_begun_are_dropped() -> None:
    outcome, body, _ = streamed()
    service = ScriptedService(outcome)
    front = Front(service)
    client = front.connect()
    client.write(GET)
    await settle()
    interim = service.exchanges[0].interim
    assert interim is not None
    interim(103, b"link: x\r\n")
    body.feed(b"hello")
    body.finish()
    interim(103, b"link: x\r\n")
    assert (await client.answer()).body == b"hello"
    assert client.rest == b""


@virtual
async def test_an_invalid_head_gets_one_answer_and_the_close() -> None:
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
async def test_a_head_is_limited() -> None:
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
async def test_a_broken_request_whose_call_does_not_end_is_cut_off() -> None:
    class Stubborn:
        def admit(self, x: Exchange) -> Wait:
            return Wait(self.wait())

        async def wait(self) -> NoReturn:
            while True:
                with contextlib.suppress(asyncio.CancelledError):
                    await front.env.future()

    front = Front(OK, {"body_timeout": "5s"})
    front.route.pipeline = Pipeline([Stubborn()], OK)
    client = front.connect()
    client.write(CHUNKED % b"")
    await asyncio.sleep(START_AFTER)
    client.write(b"xyz\r\n")
    await asyncio.sleep(4)
    assert not client.is_lost
    await asyncio.sleep(3)
    assert client.is_lost
    assert front.is_empty


# ----- phases


class PathService:
    """Service that behaves as the path of a request says."""

    def __init__(self) -> None:
        self.calls = 0
        self.body: Body | None = None
        """Body of the last streamed answer."""
        self.upstream: Upgraded | None = None

    async def __call__(self, x: Exchange) -> Outcome:
        self.calls += 1
        if x.path == b"/wait":
            await asyncio.sleep(1)
        elif x.path == b"/hang":
            await asyncio.get_running_loop().create_future()
        elif x.path == b"/stream":
            outcome, self.body, _ = streamed()
            return outcome
        elif x.path == b"/read" and x.stream is not None:
            x.stream.attach(Taken())
            ended = asyncio.get_running_loop().create_future()
            x.stream.on_close(lambda failure: ended.done() or ended.set_result(failure))
            failure = await ended
            return Outcome(200) if failure is None else failed(failure)
        elif x.path == b"/switch":
            self.upstream = Upgraded()
            outcome = Outcome(101)
            outcome.tunnel = self.upstream
            return outcome
        return Outcome(200, body=b"hello")


class Session:
    """Connection to a `PathService`, and the steps that a test takes on it."""

    def __init__(self, limits: dict[str, Any] | None = None) -> None:
        self.service = PathService()
        self.front = Front(self.service, limits)
        self.client = self.front.connect()

    async def take(self, step: bytes | float | str) -> None:
        """Write bytes, wait some seconds, or carry out a named step."""
        transport, body = self.client.transport, self.service.body
        if isinstance(step, bytes):
            self.client.write(step)
        elif isinstance(step, float):
            await asyncio.sleep(step)
        elif step in ("abort", "close", "write_eof", "pause_reading", "resume_reading"):
            getattr(transport, step)()
        elif step == "drain":
            self.front.listener.drain()
        elif step == "cut off":
            self.front.server.abort()
            self.front.server.start()
        elif step == "connect":
            self.front.connect()
        elif step == "connect to HTTP/2 alone":
            self.front.listener.speaks_http1 = False
            self.front.connect()
        elif body is not None and body.state == OPEN:
            assert step in ("feed", "flood", "finish", "fail")
            if step == "feed":
                body.feed(b"hello")
            elif step == "flood":
                body.feed(b"x" * 200_000)
            elif step == "finish":
                body.finish()
            else:
                body.fail(RESET)
        await settle()


def get(path: bytes) -> bytes:
    return b"GET %b HTTP/1.1\r\nHost: a\r\n\r\n" % path


CHUNKED = b"POST /%b HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked\r\n\r\n"
INVALID = b"\x16\x03\x01\r\n"

WAYS: dict[Transition, tuple[bytes | float | str, ...]] = {
    ("NEW", "IDLE"): (),
    ("NEW", "CLOSING"): ("connect",),
    ("IDLE", "READING_HEAD"): (GET[:9],),
    ("IDLE", "CLOSING"): ("drain",),
    ("IDLE", "SWITCHED"): ("connect to HTTP/2 alone",),
    ("IDLE", "CLOSED"): ("close",),
    ("READING_HEAD", "IDLE"): (b"\r", b"\n"),
    ("READING_HEAD", "SERVING"): (get(b"/hang"),),
    ("READING_HEAD", "ANSWERING"): (INVALID,),
    ("READING_HEAD", "COLLECTING"): (CHUNKED % b"hang",),
    ("COLLECTING", "SERVING"): (CHUNKED % b"hang", 0.3),
    ("COLLECTING", "ANSWERING"): (CHUNKED % b"hang", INVALID),
    ("COLLECTING", "CLOSED"): (CHUNKED % b"hang", "abort"),
    ("READING_HEAD", "SWITCHED"): (b"PRI * HTTP/2.0\r\n", b"\r\n"),
    ("READING_HEAD", "CLOSED"): (GET[:9], "write_eof"),
    ("SERVING", "ANSWERING"): (get(b"/stream"),),
    ("SERVING", "SWITCHED"): (HANDSHAKE.replace(b"/ ", b"/switch "),),
    ("SERVING", "ABANDONED"): (get(b"/hang"), "abort"),
    ("ANSWERING", "IDLE"): (get(b"/stream"), "feed", "finish"),
    ("ANSWERING", "READING_HEAD"): (get(b"/stream") + GET[:9], "finish"),
    ("ANSWERING", "CLOSING"): (get(b"/stream"), "fail"),
    ("ANSWERING", "CLOSED"): (get(b"/stream"), "abort"),
    ("CLOSING", "LINGERING"): (GET, INVALID),
    ("CLOSING", "CLOSED"): (CLOSE,),
    ("ABANDONED", "CLOSED"): (get(b"/wait"), "abort"),
}
"""Shortest way to each transition; the last step makes it."""

interpreted_only = pytest.mark.skipif(IS_COMPILED, reason="a compiled module has no docstring, its class no subclasses")


@interpreted_only
def test_every_transition_says_when_it_is_made() -> None:
    source = inspect.getsource(connection)
    table = source[source.index("TRANSITIONS: Final") : source.index("}\n", source.index("TRANSITIONS: Final"))]
    assert len(re.findall(r"^        [A-Z_]+,  # \S", table, re.MULTILINE)) == len(TABLE)
    assert set(TRANSITIONS) == set(range(len(PHASES)))
    assert [getattr(connection, name) for name in PHASES] == list(range(len(PHASES)))


@interpreted_only
@pytest.mark.parametrize("transition", sorted(TABLE), ids="-".join)
@virtual
async def test_every_transition_of_the_table_is_made(transition: Transition) -> None:
    session = Session({"max_connections": 2 if transition == ("IDLE", "SWITCHED") else 1})
    for step in WAYS[transition]:
        assert transition not in SEEN
        await session.take(step)
    assert transition in SEEN


CONVERSATIONS: dict[str, tuple[bytes | float | str, ...]] = {
    "pipelined": (GET[:9], GET[9:] + get(b"/wait") + GET * 20 + GET[:7], 2.0, GET[7:]),
    "streamed": (get(b"/stream") + GET, "feed", "flood", "finish", GET),
    "broken off": (get(b"/stream"), "feed", "fail"),
    "1.0": (b"GET /stream HTTP/1.0\r\n\r\n", "feed", "finish"),
    "1.0 broken off": (b"GET /stream HTTP/1.0\r\n\r\n", "feed", "fail"),
    "uploaded": (b"POST /read HTTP/1.1\r\nHost: a\r\nContent-Length: 9\r\n\r\n", b"hello", b"worl" + GET, GET),
    "uploaded early": (CHUNKED % b"read", b"5\r\nhello\r\n", 0.5, b"0\r\n\r\n" + GET, GET),
    "uploaded invalid": (CHUNKED % b"read", b"5\r\nhello\r\n", INVALID, GET),
    "uploaded early, invalid": (CHUNKED % b"read", b"5\r\nhello\r\n", 0.5, INVALID, GET),
    "uploaded in vain": (CHUNKED % b"", b"5\r\nhello\r\n", b"0\r\n\r\n" + GET),
    "both ways": (CHUNKED % b"stream", 0.5, b"5\r\nhello\r\n", "feed", b"0\r\n\r\n", "feed", "finish", GET),
    "both ways, invalid": (CHUNKED % b"stream", 0.5, b"5\r\nhello\r\n", "feed", INVALID, "feed", 9.0, "feed"),
    "upgraded": (HANDSHAKE.replace(b"/ ", b"/switch "), b"\x81\x80\x00\x00\x00\x00", 3.0),
    "late": (b"\r\n" + GET[:9], 5.0),
    "last": (CLOSE + GET, 1.0),
    "waiting for ever": (get(b"/hang"), GET, 9.0),
    "empty lines": (b"\r", b"\n\r\n", GET),
}
DISTURBANCES: dict[str, tuple[bytes | float | str, ...]] = {
    "abort": ("abort",),
    "close": ("close",),
    "half close": ("write_eof",),
    "drain": ("drain",),
    "cut off": ("cut off",),
    "silence": (12.0,),
    "garbage": (INVALID,),
    "a client that does not read": ("pause_reading",),
    "a client that reads late": ("pause_reading", GET * 9, 3.0, "resume_reading"),
}


@pytest.mark.parametrize("conversation", CONVERSATIONS)
@virtual
async def test_disturbed_conversations_end_and_keep_to_the_table(conversation: str) -> None:
    steps = CONVERSATIONS[conversation]
    for disturbance, at in product(DISTURBANCES, range(len(steps) + 1)):
        session = Session({"header_timeout": "3s", "body_timeout": "5s", "idle_timeout": "7s"})
        for step in (*steps[:at], *DISTURBANCES[disturbance], *steps[at:]):
            await session.take(step)
        session.client.transport.abort()
        if session.service.upstream is not None:
            session.service.upstream.server.transport.abort()
        await settle()
        front, phase, body = session.front, PHASES[session.client.connection._phase], session.service.body
        case = f"{disturbance} before step {at}: {phase} {front.bugs} {front.records} {SEEN}"
        assert front.is_empty, case
        assert phase in ("CLOSED", "LINGERING", "SWITCHED"), case
        assert front.bugs == [], case
        recorded = sum(1 for record in front.records if record.method)
        starts = [then for phase, then in SEEN if phase == "READING_HEAD" and then in ("COLLECTING", "SERVING")]
        assert recorded == (recorded if IS_COMPILED else len(starts)) >= session.service.calls, case
        assert body is None or body.state != OPEN, case
        assert set(SEEN) <= TABLE, case
        SEEN.clear()


@virtual
async def test_a_request_whose_connection_field_names_others_has_an_id_too() -> None:
    seen: list[Exchange] = []

    def answer(x: Exchange) -> Outcome:
        seen.append(x)
        return Outcome(200)

    front = Front(always(answer))
    client = front.connect()
    client.write(b"GET / HTTP/1.1\r\nHost: a\r\nConnection: x-one\r\nX-One: 1\r\nX-Two: 2\r\n\r\n")
    await settle()
    assert [name for name, _ in seen[0].headers] == [b"x-two", b"x-request-id"]
