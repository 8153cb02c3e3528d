"""Tests of one upstream connection: request, answer, reuse, and phases."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Iterable
from itertools import pairwise
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from sidecar.core.body import Body
from sidecar.core.exchange import Exchange
from sidecar.core.outcome import Outcome
from sidecar.core.promise import Run
from sidecar.engine.pipeline import Pipeline
from sidecar.upstream import connection as module
from sidecar.upstream.connection import UpstreamConnection
from tests.support.loop import run, settle, virtual
from tests.support.receiver import exchanged
from tests.support.transports import TransportPair, Wire
from tests.unit.upstream.back import OK, Back, Interims, Peer, Sink, outcome_of, upload
from tests.unit.upstream.phases import NAMES, Phases, allowed, is_observable

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
            assert isinstance(connection, UpstreamConnection)
            await exchanged(connection, get(), float("inf"), 0)
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


GOODBYE = b"HTTP/1.1 408 Request Timeout\r\nContent-Length: 4\r\nConnection: close\r\n\r\nlate"


@pytest.mark.parametrize(
    ("method", "goodbye", "is_repeated"),
    [
        (b"GET", GOODBYE, True),
        (b"DELETE", GOODBYE, True),
        (b"POST", GOODBYE, False),
        (b"GET", GOODBYE.replace(b"1.1", b"1.0").replace(b"Connection: close\r\n", b""), True),
        (b"GET", GOODBYE.replace(b"Connection: close\r\n", b""), False),
        (b"GET", GOODBYE.replace(b"408", b"503"), False),
        (b"GET", b"HTTP/1.1 103 Early Hints\r\n\r\n" + GOODBYE, False),
    ],
)
@pytest.mark.parametrize("is_split", [False, True])
@virtual
async def test_a_408_that_ends_the_idle_time_is_no_answer(
    method: bytes, goodbye: bytes, is_repeated: bool, is_split: bool
) -> None:
    back = Back()
    upstream = back.upstream()
    run = Run(Pipeline([], upstream)(get()), lambda run: None)
    await settle()
    back.server.write(OK)
    await settle()
    run = Run(Pipeline([], upstream)(get(method)), lambda run: None)
    await settle()
    for piece in (goodbye[:20], goodbye[20:]) if is_split else (goodbye,):
        back.server.write(piece)
        await settle()
    assert len(back.peers) == (2 if is_repeated else 1)
    if is_repeated:
        back.server.write(GOODBYE)
        await settle()
    assert outcome_of(run).status in (408, 503), "one on a fresh connection is an answer"
    assert len(back.peers) <= 2


@virtual
async def test_an_upload_that_cannot_be_repeated_gets_its_408() -> None:
    back = Back()
    upstream = back.upstream()
    Run(Pipeline([], upstream)(get()), lambda run: None)
    await settle()
    back.server.write(OK)
    await settle()
    x, *_ = upload(10, method=b"PUT")
    run = Run(Pipeline([], upstream)(x), lambda run: None)
    assert x.stream is not None
    x.stream.feed(b"hello")
    await settle()
    back.server.write(GOODBYE)
    await settle()
    assert outcome_of(run).status == 408


@virtual
async def test_empty_lines_before_a_later_answer_are_malformed() -> None:
    back = Back()
    back.send(get())
    await settle()
    back.server.write(OK)
    await settle()
    run = back.send(get())
    await settle()
    back.server.write(b"\r\n" + OK)
    await settle()
    assert outcome_of(run).reason == "protocol_error"
    assert back.pool.describe()["open"] == 0


@pytest.mark.parametrize(
    ("lines", "passed"),
    [
        (b"Upgrade: websocket\r\nConnection: Upgrade\r\n", b"websocket"),
        (b"Upgrade: HTTP/3.0\r\nUpgrade: websocket\r\n", b"HTTP/3.0, websocket"),
        (b"Connection: close\r\n", None),
    ],
)
@virtual
async def test_a_426_says_what_it_requires(lines: bytes, passed: bytes | None) -> None:
    for status in (b"426", b"400"):
        back = Back()
        run = back.send(get())
        await settle()
        back.server.write(b"HTTP/1.1 %b No\r\nContent-Length: 0\r\nX: y\r\n%b\r\n" % (status, lines))
        await settle()
        outcome = outcome_of(run)
        expected = passed if status == b"426" else None
        assert outcome.header(b"upgrade") == expected
        assert outcome.header(b"connection") == (expected and b"Upgrade")
        assert outcome.header(b"x") == b"y"


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
async def test_a_connection_whose_piece_at_was_held_reads_the_next_answer() -> None:
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
async def test_hints_are_passed_on() -> None:
    back = Back()
    interim = Interims()
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
async def test_a_reused_connection_that_has_given_a_hint_is_not_stale() -> None:
    back = Back()
    back.send(get())
    await settle()
    back.server.write(OK)
    await settle()
    run = back.send(get())
    await settle()
    back.server.write(b"HTTP/1.1 103 Early Hints\r\nLink: </a>\r\n\r\n")
    await settle()
    back.server.transport.abort()
    await settle()
    failure = outcome_of(run).failure
    assert failure is not None
    assert (failure.code, failure.sent) == ("reset", True)


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


@pytest.mark.parametrize("part", [b"", b"HTTP/1.1 200 OK\r\nX: y"])
@virtual
async def test_an_answer_that_does_not_come_is_a_timeout(part: bytes) -> None:
    back = Back()
    run = back.send(get(), back.env.now() + 2)
    await settle()
    back.server.write(part)
    await asyncio.sleep(1.9)
    assert run.value is None
    await asyncio.sleep(0.2)
    assert outcome_of(run).reason == "timeout"
    assert back.server.is_lost


@virtual
async def test_a_head_that_is_dribbled_has_a_deadline_as_a_whole() -> None:
    back = Back()
    run = back.send(get(), back.env.now() + 2)
    await settle()
    for byte in OK:
        back.server.write(bytes((byte,)))
        await asyncio.sleep(0.1)
        if run.value is not None:
            break
    assert outcome_of(run).reason == "timeout"


@virtual
async def test_a_body_has_a_deadline_as_a_whole() -> None:
    back = Back()
    x = get()
    x.idle_timeout = 1.0
    run = back.send(x, back.env.now() + 5)
    await settle()
    back.server.write(b"HTTP/1.1 200 OK\r\nContent-Length: 1000\r\n\r\n")
    await settle()
    sink = Sink(outcome_of(run))
    for _ in range(20):
        back.server.write(b"x")
        await asyncio.sleep(0.5)
    assert sink.failure is not None
    assert sink.failure.code == "timeout"
    assert 9 <= len(sink.data) <= 11


@virtual
async def test_a_pause_between_two_pieces_has_a_limit() -> None:
    back = Back()
    x = get()
    x.idle_timeout = 1.0
    run = back.send(x)
    await settle()
    back.server.write(b"HTTP/1.1 200 OK\r\nContent-Length: 1000\r\n\r\n")
    await settle()
    sink = Sink(outcome_of(run))
    for _ in range(5):
        back.server.write(b"x")
        await asyncio.sleep(0.9)
    assert sink.failure is None
    await asyncio.sleep(0.3)
    assert sink.failure is not None
    assert sink.failure.code == "timeout"


@virtual
async def test_a_reader_that_is_slow_is_not_the_upstreams_fault() -> None:
    back = Back()
    x = get()
    x.idle_timeout = 1.0
    run = back.send(x)
    await settle()
    back.server.write(b"HTTP/1.1 200 OK\r\nContent-Length: 1000\r\n\r\n")
    await settle()
    sink = Sink(outcome_of(run))
    sink.stream.pause()
    await asyncio.sleep(10)
    assert sink.failure is None
    sink.stream.resume()
    await asyncio.sleep(0.9)
    back.server.write(b"x" * 1000)
    await settle()
    assert sink.is_whole


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
async def test_an_upgraded_connection_that_was_closed_is_not_taken_over() -> None:
    back = Back()
    run = back.send(handshake())
    await settle()
    back.server.write(UPGRADE)
    await settle()
    tunnel = outcome_of(run).tunnel
    assert tunnel is not None
    tunnel.close()
    assert tunnel.take_over(asyncio.Protocol()) is None, "the transport is not lost yet"
    await settle()
    assert back.server.is_eof


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


# ----- phases


class Play:
    """Endpoint and the exchanges of a scenario, driven step by step."""

    def __init__(self, **spec: Any) -> None:
        self.back = Back(**spec)
        self.runs: list[Run[Outcome]] = []
        self.sinks: list[Sink] = []
        self.bodies: list[Body] = []
        self.tunnels: list[Any] = []

    @property
    def server(self) -> Peer | None:
        return self.back.peers[-1] if self.back.peers else None

    def ask(self, x: Exchange | None = None) -> None:
        """Send a request that has 10 s."""
        self.runs.append(self.back.send(x or get(), self.back.env.now() + 10))

    def upload(self) -> None:
        """Send a request whose body is still arriving."""
        x, body, _ = upload(10)
        self.bodies.append(body)
        self.ask(x)

    def say(self, data: bytes) -> None:
        """Let the server of the newest connection write."""
        if self.server is not None and not self.server.is_lost:
            self.server.write(data)

    def end(self, how: str) -> None:
        """Let the server `close` or `abort` the newest connection."""
        if self.server is not None:
            getattr(self.server.transport, how)()

    def leave(self) -> None:
        """Send a request and abandon it at once."""
        self.ask()
        self.cancel()

    def take(self) -> None:
        """Read the bodies of all outcomes so far, and take over switched connections."""
        for sent in self.runs:
            outcome = sent.value
            if outcome is None:
                continue
            if outcome.stream is not None and all(sink.stream is not outcome.stream for sink in self.sinks):
                self.sinks.append(Sink(outcome))
            if outcome.tunnel is not None and outcome.tunnel not in self.tunnels:
                outcome.tunnel.take_over(TunnelEnd(outcome.tunnel))
                self.tunnels.append(outcome.tunnel)

    def cancel(self) -> None:
        """Abandon all exchanges and every body."""
        for sent in self.runs:
            if sent.value is None and sent.error is None:
                sent.cancel()
            elif sent.value is not None and sent.value.stream is not None:
                sent.value.stream.cancel()


class TunnelEnd(Wire):
    """Owner of a switched connection, which closes it when it is lost, as a tunnel does."""

    def __init__(self, tunnel: Any) -> None:
        super().__init__()
        self.tunnel = tunnel

    def eof_received(self) -> bool:
        return False

    def connection_lost(self, exc: Exception | None) -> None:
        super().connection_lost(exc)
        self.tunnel.close()


Step = Callable[[Play], Any]
ASK: Step = Play.ask
UPLOAD: Step = Play.upload
TAKE: Step = Play.take
CANCEL: Step = Play.cancel
LEAVE: Step = Play.leave
CLOSE: Step = lambda play: play.end("close")  # noqa: E731 - as the others
ABORT: Step = lambda play: play.end("abort")  # noqa: E731
UPGRADED: Step = lambda play: play.ask(handshake())  # noqa: E731
RETIRE: Step = lambda play: play.back.pool.retire()  # noqa: E731


def say(data: bytes) -> Step:
    return lambda play: play.say(data)


def wait(seconds: float) -> Step:
    return lambda play: asyncio.sleep(seconds)


def feed(size: int) -> Step:
    """Step: feed bytes of the newest upload; the tenth byte is its last."""

    def step(play: Play) -> None:
        if play.bodies and (body := play.bodies[-1]).received + size <= 10:
            body.feed(b"x" * size)
            if body.received == 10:
                body.finish()

    return step


def hurried(idle_timeout: float) -> Step:
    """Step: send a request that allows so many seconds between two pieces of a body."""

    def step(play: Play) -> None:
        x = get()
        x.idle_timeout = idle_timeout
        play.ask(x)

    return step


async def perform(play: Play, steps: Iterable[Step]) -> None:
    for step in steps:
        done = step(play)
        if done is not None:
            await done
        await settle()


EARLY = b"HTTP/1.1 413 Content Too Large\r\nContent-Length: 0\r\n\r\n"
HINTS = b"HTTP/1.1 103 Early Hints\r\nLink: </a>\r\n\r\n"
LAST = b"HTTP/1.1 200 OK\r\nConnection: close\r\nContent-Length: 2\r\n\r\nhi"
UNTIL_THE_END = b"HTTP/1.1 200 OK\r\nConnection: close\r\n\r\nhello"
HALF = STREAM + b"hello"

SCENARIOS: dict[str, tuple[str, list[Step]]] = {
    "nobody waits once it is connected": ("IDLE", [LEAVE]),
    "an answer in one piece": ("IDLE AWAITING_HEAD IDLE", [ASK, say(OK)]),
    "one answer after the other": ("IDLE AWAITING_HEAD IDLE AWAITING_HEAD IDLE", [ASK, say(OK), ASK, say(OK)]),
    "a head in pieces": ("IDLE AWAITING_HEAD IDLE", [ASK, say(OK[:9]), say(OK[9:30]), say(OK[30:])]),
    "interim responses": ("IDLE AWAITING_HEAD IDLE", [ASK, say(HINTS), say(HINTS + OK)]),
    "too many interim responses": ("IDLE AWAITING_HEAD CLOSED", [ASK, say(HINTS * 17)]),
    "an answer in pieces": ("IDLE AWAITING_HEAD READING_BODY IDLE", [ASK, say(HALF), TAKE, say(b"world")]),
    "an answer in chunks": (
        "IDLE AWAITING_HEAD READING_BODY IDLE",
        [ASK, say(CHUNKED), TAKE, say(b"5\r\nhello\r\n"), say(b"0\r\n\r\n")],
    ),
    "the last answer": ("IDLE AWAITING_HEAD CLOSED", [ASK, say(LAST)]),
    "an answer that ends with the connection": (
        "IDLE AWAITING_HEAD READING_BODY CLOSED",
        [ASK, say(UNTIL_THE_END), TAKE, CLOSE],
    ),
    "more than the answer": ("IDLE AWAITING_HEAD CLOSED", [ASK, say(OK + b"x")]),
    "more than the body": ("IDLE AWAITING_HEAD READING_BODY CLOSED", [ASK, say(HALF), TAKE, say(b"worldx")]),
    "no HTTP": ("IDLE AWAITING_HEAD CLOSED", [ASK, say(b"SSH-2.0-x\r\n\r\n")]),
    "no chunk": ("IDLE AWAITING_HEAD READING_BODY CLOSED", [ASK, say(CHUNKED), TAKE, say(b"x\r\n")]),
    "no chunk, with the head": ("IDLE AWAITING_HEAD READING_BODY CLOSED", [ASK, say(CHUNKED + b"x\r\n")]),
    "an upload": ("IDLE AWAITING_HEAD IDLE", [UPLOAD, feed(5), feed(5), say(OK)]),
    "an early answer to an upload": ("IDLE AWAITING_HEAD CLOSED", [UPLOAD, feed(5), say(EARLY), feed(5)]),
    "an early head, the upload ends first": (
        "IDLE AWAITING_HEAD READING_BODY IDLE",
        [UPLOAD, say(HALF), TAKE, feed(10), say(b"world")],
    ),
    "an early head, the answer ends first": (
        "IDLE AWAITING_HEAD READING_BODY CLOSED",
        [UPLOAD, say(HALF), TAKE, say(b"world"), feed(10)],
    ),
    "given up before the head": ("IDLE AWAITING_HEAD CLOSED", [ASK, CANCEL]),
    "given up in the head": ("IDLE AWAITING_HEAD CLOSED", [ASK, say(OK[:9]), CANCEL]),
    "given up in the body": ("IDLE AWAITING_HEAD READING_BODY CLOSED", [ASK, say(HALF), TAKE, CANCEL]),
    "closed before the head": ("IDLE AWAITING_HEAD CLOSED", [ASK, CLOSE]),
    "reset before the head": ("IDLE AWAITING_HEAD CLOSED", [ASK, ABORT]),
    "reset in the body": ("IDLE AWAITING_HEAD READING_BODY CLOSED", [ASK, say(HALF), TAKE, ABORT]),
    "no head in time": ("IDLE AWAITING_HEAD CLOSED", [ASK, wait(11)]),
    "no upload in time": ("IDLE AWAITING_HEAD CLOSED", [UPLOAD, feed(5), wait(11)]),
    "no body in time": ("IDLE AWAITING_HEAD READING_BODY CLOSED", [ASK, say(HALF), TAKE, wait(11)]),
    "too long a pause in the body": (
        "IDLE AWAITING_HEAD READING_BODY CLOSED",
        [hurried(1.0), say(HALF), TAKE, wait(2)],
    ),
    "idle, closed by the peer": ("IDLE AWAITING_HEAD IDLE CLOSED", [ASK, say(OK), CLOSE]),
    "idle, reset by the peer": ("IDLE AWAITING_HEAD IDLE CLOSED", [ASK, say(OK), ABORT]),
    "idle, the peer speaks": ("IDLE AWAITING_HEAD IDLE CLOSED", [ASK, say(OK), say(EARLY)]),
    "idle for too long": ("IDLE AWAITING_HEAD IDLE CLOSED", [ASK, say(OK), wait(61)]),
    "idle, the endpoint goes": ("IDLE AWAITING_HEAD IDLE CLOSED", [ASK, say(OK), RETIRE]),
    "busy, the endpoint goes": ("IDLE AWAITING_HEAD IDLE CLOSED", [ASK, RETIRE, say(OK)]),
    "an upgrade": ("IDLE AWAITING_HEAD SWITCHED", [UPGRADED, say(UPGRADE), TAKE, say(b"frames"), wait(11)]),
    "an upgrade, closed by the peer": ("IDLE AWAITING_HEAD SWITCHED CLOSED", [UPGRADED, say(UPGRADE), TAKE, CLOSE]),
    "an upgrade that nobody takes over": ("IDLE AWAITING_HEAD SWITCHED CLOSED", [UPGRADED, say(UPGRADE), wait(11)]),
    "an upgrade that is lost before": ("IDLE AWAITING_HEAD SWITCHED CLOSED", [UPGRADED, say(UPGRADE), ABORT, TAKE]),
    "an upgrade nobody asked for": ("IDLE AWAITING_HEAD CLOSED", [ASK, say(UPGRADE)]),
    "an upgrade that is refused": ("IDLE AWAITING_HEAD IDLE", [UPGRADED, say(OK)]),
}
"""Names of scenarios, with the phases of the first connection after CONNECTING, and the steps."""


@pytest.mark.parametrize("name", SCENARIOS)
def test_the_phases_of(name: str, phases: Phases | None) -> None:
    expected, steps = SCENARIOS[name]

    async def scenario() -> None:
        play = Play()
        await perform(play, steps)
        if phases is not None:
            assert phases.paths[0] == ["CONNECTING", *expected.split()]
        assert {entry for entry in play.back.deadlines.entries if isinstance(entry, UpstreamConnection)} == set()
        assert play.back.pool.count("active") == (1 if expected.endswith("SWITCHED") else 0)

    run(scenario())


@virtual
async def test_a_connection_that_is_lost_before_it_is_used(phases: Phases | None) -> None:
    back = Back()

    async def connect(protocol: Callable[[], UpstreamConnection]) -> None:
        peer = Peer()
        peer.pair = TransportPair(protocol(), peer)
        peer.transport.abort()
        await settle()

    back.pool.connect = connect
    sent = back.send(get())
    await settle(10)
    assert outcome_of(sent).reason == "connect_failure"
    assert phases is None or phases.paths == [["CONNECTING", "IDLE", "CLOSED"]]


@pytest.mark.skipif(not is_observable, reason="the phases of a compiled connection cannot be observed")
def test_each_row_of_the_table_of_phases_is_taken() -> None:
    assert [vars(module)[name] for name in NAMES] == list(range(len(NAMES)))
    paths = [["CONNECTING", *path.split()] for path, _ in SCENARIOS.values()]
    assert {pair for path in paths for pair in pairwise(path)} == allowed()


SPECIAL_STATUSES: list[Step] = [
    ASK, UPLOAD, UPGRADED, hurried(1.0), LEAVE, TAKE, CANCEL, CLOSE, ABORT, RETIRE, feed(3), feed(10), wait(0.5),
    wait(11), say(OK), say(OK[:9]), say(OK[9:]), say(HALF), say(b"world"), say(CHUNKED), say(b"5\r\nhello\r\n"),
    say(b"0\r\n\r\n"), say(HINTS), say(EARLY), say(LAST), say(UNTIL_THE_END), say(UPGRADE), say(b"\r\n"),
    say(b"x" * 70_000),
]  # fmt: skip
"""Steps that a random test takes in any order, most of which are no useful sequence."""


@given(st.lists(st.sampled_from(SPECIAL_STATUSES), max_size=12), st.integers(1, 3))
def test_no_traffic_leaves_the_table_or_a_connection_behind(steps: list[Step], limit: int) -> None:
    async def scenario() -> None:
        play = Play(connections={"max": limit})
        await perform(play, steps)
        pool = play.back.pool
        assert all(connection.is_idle() for connection in pool.idle)
        assert not any(connection.is_idle() for connection in pool.connections - set(pool.idle))
        await perform(play, [TAKE, CANCEL, wait(11)])
        for tunnel in play.tunnels:
            tunnel.close()
        await settle()
        assert pool.count("active") == 0
        assert play.back.deadlines.entries == set()
        assert all(sent.value is not None or sent.error is not None for sent in play.runs)

    run(scenario())


# ----- bodies where there may be none

EVIL = b"HTTP/1.1 200 OK\r\nContent-Length: 4\r\n\r\nevil"
BODILESS = {
    "204": (b"DELETE", b"HTTP/1.1 204 No Content\r\n"),
    "HEAD": (b"HEAD", b"HTTP/1.1 200 OK\r\n"),
    "HEAD of an error": (b"HEAD", b"HTTP/1.1 404 Not Found\r\n"),
    "304": (b"GET", b"HTTP/1.1 304 Not Modified\r\n"),
}


@pytest.mark.parametrize("framing", [b"Content-Length: 39\r\n", b"Transfer-Encoding: chunked\r\n"])
@pytest.mark.parametrize("kind", BODILESS)
@virtual
async def test_an_answer_without_the_body_that_it_announces_ends_its_connection(kind: str, framing: bytes) -> None:
    method, head = BODILESS[kind]
    back = Back()
    first = back.send(get(method))
    await settle()
    back.server.write(head + framing + b"\r\n")
    await settle()
    assert outcome_of(first).failure is None
    second = back.send(get())
    await asyncio.sleep(0.05)
    back.peers[0].write(EVIL)
    await settle()
    assert second.value is None
    back.server.write(OK)
    await settle()
    assert (outcome_of(second).body, len(back.peers)) == (b"hi", 2)
    assert back.peers[0].is_eof


@pytest.mark.parametrize("kind", ["204", "HEAD", "HEAD of an error"])
@pytest.mark.parametrize("length", [b"", b"Content-Length: 0\r\n"])
@virtual
async def test_nor_does_a_body_that_nothing_announces_become_the_next_answer(kind: str, length: bytes) -> None:
    method, head = BODILESS[kind]
    back = Back()
    first = back.send(get(method))
    await settle()
    back.server.write(head + length + b"\r\n")
    await settle()
    assert outcome_of(first).failure is None
    second = back.send(get())
    await asyncio.sleep(0.05)
    back.peers[0].write(EVIL)
    await settle()
    assert second.value is None
    back.server.write(OK)
    await settle()
    assert (outcome_of(second).body, len(back.peers)) == (b"hi", 2)
    await asyncio.sleep(1)
    assert back.peers[0].is_eof
    assert back.pool.describe()["open"] == 1


@pytest.mark.parametrize("kind", ["204", "HEAD"])
@virtual
async def test_a_connection_that_stays_silent_is_used_again(kind: str) -> None:
    method, head = BODILESS[kind]
    back = Back()
    for _ in range(5):
        run = back.send(get(method))
        await settle()
        back.server.write(head + b"\r\n")
        await settle()
        assert outcome_of(run).failure is None
        await asyncio.sleep(0.2)
    assert len(back.peers) == 1
    assert back.pool.describe()["idle"] == 1


@virtual
async def test_nobody_waits_for_silence() -> None:
    """In a full pool a connection that may be dead is replaced by a fresh one."""
    back = Back(connections={"max": 1})
    runs = [back.send(get(b"DELETE")) for _ in range(2)]
    await settle()
    back.server.write(BODILESS["204"][1] + b"\r\n")
    await settle()
    assert len(back.peers) == 2
    back.server.write(BODILESS["204"][1] + b"\r\n")
    await settle()
    assert [outcome_of(run).status for run in runs] == [204, 204]
    third = back.send(get())
    await settle()
    back.server.write(OK)
    await settle()
    assert outcome_of(third).body == b"hi"
