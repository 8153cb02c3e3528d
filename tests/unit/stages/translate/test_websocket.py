"""Streams of gRPC over WebSockets: a listener and its tunnel in front of the stage, a call of the test behind it."""

from __future__ import annotations

import asyncio
import json
from base64 import b64encode
from hashlib import sha1
from pathlib import Path
from typing import Any, NamedTuple

import pytest

from chaos.parts.websocket import BINARY, CLOSE, PING, PONG, TEXT, Frame
from sidecar.core.body import OPEN, Body
from sidecar.core.exchange import NEVER, Exchange
from sidecar.core.message import Headers
from sidecar.core.outcome import BREAKER_OPEN, CONNECT_FAILURE, RESET, Failure, Outcome, failed
from sidecar.core.promise import Promise
from sidecar.engine.pipeline import Pipeline
from sidecar.grpc.framing import frame
from sidecar.http2 import frames as f
from sidecar.stages.translate import stage as translate
from sidecar.stages.translate.frames import EMPTY_BURST, LONGEST_REASON
from sidecar.stages.translate.spec import Spec
from sidecar.stages.translate.websocket import CLOSE_WITHIN, LONGEST_PEEK, MAX_FRAMES_A_TURN
from tests.support.loop import settle, virtual
from tests.support.service import context
from tests.unit.downstream.front import Client, Front
from tests.unit.downstream.http2.talk import Frames
from tests.unit.http2.peer import data, headers
from tests.unit.stages.translate.chat import DATA
from tests.unit.stages.translate.shop import HEAD, OK, Paused

KEY = "dGhlIHNhbXBsZSBub25jZQ=="
HANDSHAKE = (
    b"GET %b HTTP/1.1\r\nHost: a\r\nConnection: Upgrade\r\nUpgrade: websocket\r\n"
    b"Sec-WebSocket-Version: 13\r\nSec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\n\r\n"
)
LIMIT = 1000


def line(text: str = "", room: str = "") -> bytes:
    parts = [bytes((number << 3 | 2, len(value))) + value.encode() for number, value in ((1, text), (2, room)) if value]
    return b"".join(parts)


class Talked(NamedTuple):
    """Message or frame that the client has got."""

    opcode: int
    payload: bytes

    @property
    def json(self) -> Any:
        return json.loads(self.payload)

    @property
    def code(self) -> int:
        assert self.opcode == CLOSE
        return int.from_bytes(self.payload[:2], "big")


def split(received: bytes) -> list[Talked]:
    """Return the frames in what a server has sent."""
    found = []
    while received:
        size, at = received[1] & 127, 2
        assert received[0] & 0xF0 == 0x80
        assert received[1] < 128
        if size > 125:
            at = 4 if size == 126 else 10
            size = int.from_bytes(received[2:at], "big")
        found.append(Talked(received[0] & 15, received[at : at + size]))
        received = received[at + size :]
    return found


def said(*frames: tuple[int, bytes] | bytes) -> bytes:
    """Return frames of a client; bytes alone are a text message."""
    pairs = [each if isinstance(each, tuple) else (TEXT, each) for each in frames]
    return b"".join(Frame(opcode, payload, masked=True).encode() for opcode, payload in pairs)


class Service:
    """Service behind the stage: takes the messages of a call, and answers when the test says so."""

    def __init__(self) -> None:
        self.xs: list[Exchange] = []
        self.outcome: Promise[Outcome] = Promise(self.cancel)
        self.takes = True
        """False if the call does not get a stream at the upstream."""
        self.data = b""
        self.is_full_at = 0
        """Bytes at which the upstream takes no more; 0 without a limit."""
        self.end: Any = None
        self.body = Body(Paused())
        self.is_cancelled = False

    async def __call__(self, x: Exchange) -> Outcome:
        self.xs.append(x)
        if x.stream is not None and self.takes:
            x.stream.record(1000)
            x.stream.attach(self)
        return await self.outcome

    def cancel(self) -> None:
        self.is_cancelled = True

    def write(self, data: bytes) -> None:
        self.data += data
        stream = self.xs[0].stream
        if self.is_full_at and len(self.data) >= self.is_full_at and stream is not None:
            stream.pause()

    def finish(self, trailers: Headers) -> None:
        self.end = "whole"

    def fail(self, failure: Failure) -> None:
        self.end = failure

    def answer(self, *messages: bytes) -> None:
        self.outcome.resolve(Outcome(200, list(HEAD), stream=self.body))
        for message in messages:
            self.body.feed(frame(message))

    def trail(self, code: int = 0, text: str = "", **more: bytes) -> None:
        fields = [(name.replace("_", "-").encode(), value) for name, value in more.items()]
        self.body.finish([(b"grpc-status", b"%d" % code), (b"grpc-message", text.encode()), *fields])


class World:
    """Listener with the stage, and a client whose handshake was answered."""

    def __init__(self, folder: Path, **more: Any) -> None:
        (folder / "chat.binpb").write_bytes(DATA)
        self.service = Service()
        self.front = Front(self.run)
        self.allowed: set[bytes] = set()
        spec = {"descriptors": "chat.binpb", "services": ["chat.Chat"], "streams": "websocket", "max_body": f"{LIMIT}B"}
        ctx = context(
            self.front.env,
            where=f"{folder}/policies.yaml:7",
            resources={("origins", "order"): self.allowed.__contains__},
        )
        self.pipeline = Pipeline([translate.build(Spec.model_validate({"grpc": {**spec, **more}}), ctx)], self.service)
        self.client: Client = self.front.connect()
        self.idle = NEVER

    async def run(self, x: Exchange) -> Outcome:
        x.idle_timeout = self.idle
        x.deadline = x.arrived + 5.0
        x.attempt_timeout = 1.0
        return await self.pipeline(x)

    async def ask(self, target: str = "/chat/r", *lines: str, upgrade: bool = True, early: bytes = b"") -> Any:
        """Return the answer to a handshake."""
        head = [f"GET {target} HTTP/1.1", "Host: a.test", *lines]
        if upgrade:
            head += ["Connection: Upgrade", "Upgrade: websocket", f"Sec-WebSocket-Key: {KEY}"]
            if "Sec-WebSocket-Version: 12" not in lines:
                head.append("Sec-WebSocket-Version: 13")
        self.client.write("\r\n".join(head).encode() + b"\r\n\r\n" + early)
        return await self.client.answer()

    async def open(self, target: str = "/chat/r", *lines: str, early: bytes = b"") -> None:
        answer = await self.ask(target, *lines, early=early)
        assert answer.status == 101, answer
        await settle()

    async def say(self, *frames: tuple[int, bytes] | bytes) -> None:
        self.client.write(said(*frames))
        await settle()

    async def heard(self) -> list[Talked]:
        await settle()
        return split(self.client.rest)

    async def is_over(self) -> bool:
        await settle()
        return self.client.is_closed and self.front.is_empty


def cases(table: dict[str, Any]) -> list[Any]:
    return [pytest.param(*(each if isinstance(each, tuple) else (each,)), id=name) for name, each in table.items()]


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    return tmp_path


@virtual
async def test_messages_go_both_ways(folder: Path) -> None:
    world = World(folder)
    answer = await world.ask("/chat/r%31", "X-Id: 7", "Sec-WebSocket-Protocol: a, json")
    assert answer.status == 101
    accept = b64encode(sha1(f"{KEY}258EAFA5-E914-47DA-95CA-C5AB0DC85B11".encode()).digest()).decode()
    assert (answer.get("sec-websocket-accept"), answer.get("sec-websocket-protocol")) == (accept, "json")
    service = world.service
    (x,) = service.xs
    assert (x.method, x.path, x.query, x.upgrade, x.is_grpc) == (b"POST", b"/chat.Chat/Talk", None, None, True)
    assert x.header(b"x-id") == b"7"
    assert not [name for name, _ in x.headers if name.startswith(b"sec-websocket-")]
    await world.say(b'{"text": "a"}', b'{"text":"\xc3\xa4","number":"1"}')
    assert service.data == frame(line("a") + line(room="r1")) + frame(b"\x0a\x02\xc3\xa4\x18\x01" + line(room="r1"))
    service.answer(line("b"), line("c", "d"))
    assert await world.heard() == [(TEXT, b'{"text":"b"}'), (TEXT, b'{"text":"c","room":"d"}')]
    await world.say(b"{}", b"")
    assert service.end == "whole"
    service.body.feed(frame(b""))
    service.trail()
    assert (await world.heard())[2:] == [(TEXT, b"{}"), (CLOSE, b"\x03\xe8")]
    assert not await world.is_over()
    await world.say((CLOSE, b"\x03\xe8"))
    assert await world.is_over()
    assert [(each.method, each.status, each.reason) for each in world.front.records] == [(b"GET", 101, "")]
    assert not service.is_cancelled


@virtual
async def test_the_time_of_a_session_is_not_that_of_its_handshake(folder: Path) -> None:
    world = World(folder)
    await world.open("/chat/r", "X-Request-Timeout-Ms: 60000")
    (x,) = world.service.xs
    assert x.deadline == x.caller_deadline == x.arrived + 60
    assert (x.attempt_timeout, x.idle_timeout) == (NEVER, NEVER)


@virtual
async def test_messages_with_the_handshake_are_not_lost(folder: Path) -> None:
    world = World(folder)
    await world.open(early=said(b'{"text":"a"}', b""))
    assert (world.service.data, world.service.end) == (frame(line("a", "r")), "whole")


@virtual
async def test_a_client_that_does_not_answer_a_close_frame_is_closed(folder: Path) -> None:
    world = World(folder)
    await world.open()
    world.service.answer()
    world.service.trail()
    await asyncio.sleep(CLOSE_WITHIN - 0.1)
    assert not await world.is_over()
    await asyncio.sleep(0.2)
    assert await world.is_over()


@virtual
async def test_an_error_is_the_last_message_and_the_code_of_the_close_frame(folder: Path) -> None:
    world = World(folder)
    await world.open()
    world.service.answer(line("a"))
    world.service.trail(5, "no %C3%B6 " + "x" * 200)
    first, last, close = await world.heard()
    text = "no ö " + "x" * 200
    assert first.payload == b'{"text":"a"}'
    assert last.json == {"error": {"code": 5, "message": text, "details": []}}
    assert close.code == 4005
    reason = close.payload[2:].decode()
    assert f"NOT_FOUND: {text}".startswith(reason)
    assert LONGEST_REASON - 3 < len(close.payload[2:]) <= LONGEST_REASON


@virtual
async def test_the_status_of_a_call_is_the_verdict_on_its_session(folder: Path) -> None:
    for code, result, verdict in ((0, "ok", 101), (5, "not_found", 5), (14, "unavailable", 614)):
        world = World(folder)
        await world.open()
        await world.say(b'{"text":"a"}')
        world.service.answer(line("a"), line("b"))
        world.service.trail(code)
        await world.heard()
        await world.say((CLOSE, b"\x03\xe8"))
        assert await world.is_over()
        count = world.front.env.meter.value
        assert count("sidecar.websocket.messages", route="order", direction="received") == 1
        assert count("sidecar.websocket.messages", route="order", direction="sent") == 2
        assert count("sidecar.websocket.sessions", route="order") == 1
        assert count("sidecar.websocket.sessions", route="order", result=result) == 1
        assert [(each.status, each.verdict) for each in world.front.records] == [(101, verdict)]


@virtual
async def test_a_session_that_its_client_ends_is_not_charged_to_the_call(folder: Path) -> None:
    for sent, result in ((said((CLOSE, b"\x03\xe8")), "client_closed"), (b"\x81\x01a", "client_error")):
        world = World(folder)
        await world.open()
        world.client.write(sent)
        await world.heard()
        assert world.front.env.meter.value("sidecar.websocket.sessions", result=result) == 1
        world.client.transport.close()
        assert await world.is_over()
        assert [each.verdict for each in world.front.records] == [101]


@virtual
async def test_an_error_before_the_handshake_is_one_of_http(folder: Path) -> None:
    world = World(folder)
    world.service.takes = False
    world.service.outcome.resolve(failed(BREAKER_OPEN))
    answer = await world.ask()
    assert (answer.status, answer.get("x-sidecar-reason")) == (503, "breaker_open")
    world = World(folder)
    world.service.takes = False
    world.service.outcome.resolve(Outcome(200, [*HEAD, (b"grpc-status", b"12"), (b"grpc-message", b"no")]))
    answer = await world.ask()
    assert (answer.status, json.loads(answer.body)) == (501, {"code": 12, "message": "no", "details": []})


@virtual
async def test_an_answer_of_another_status_is_an_error(folder: Path) -> None:
    world = World(folder)
    world.service.takes = False
    world.service.outcome.resolve(Outcome(503, list(HEAD), stream=world.service.body))
    answer = await world.ask()
    assert (answer.status, json.loads(answer.body)["detail"]) == (502, "The answer is HTTP 503 and not gRPC.")
    assert world.service.body.state != OPEN


@virtual
async def test_a_call_that_fails_later_is_an_error_of_the_session(folder: Path) -> None:
    for outcome, code, message in (
        (failed(CONNECT_FAILURE), 14, CONNECT_FAILURE.title),
        (failed(RESET, cause="secret"), 14, RESET.title),
        (Outcome(503, [(b"content-type", b"text/html")], b"no"), 14, "The answer is HTTP 503 and not gRPC."),
        (Outcome(200, [(b"content-type", b"text/html")], b"no"), 13, "The answer is HTTP 200 and not gRPC."),
        (Outcome(200, [*HEAD, (b"grpc-status", b"7"), (b"grpc-message", b"no")]), 7, "no"),
        (Outcome(200, list(HEAD)), 13, None),
    ):
        world = World(folder)
        await world.open()
        world.service.outcome.resolve(outcome)
        last, close = await world.heard()
        assert (last.json["error"]["code"], close.code) == (code, 4000 + code)
        assert message is None or last.json["error"]["message"] == message


@virtual
async def test_an_answer_that_breaks_off_is_an_error(folder: Path) -> None:
    world = World(folder)
    await world.open()
    world.service.answer(line("a"))
    world.service.body.fail(RESET, "secret")
    _, last, close = await world.heard()
    assert (last.json["error"]["message"], close.code) == (RESET.title, 4014)


@virtual
async def test_an_answer_that_cannot_be_translated_is_an_error(folder: Path) -> None:
    for pieces, trailers, text in (
        ([frame(b"\xff")], OK, None),
        ([frame(b"", 1)], OK, "compressed"),
        ([frame(bytes(LIMIT + 1))], OK, "too large"),
        ([frame(line("a"))[:-1]], OK, "cut off"),
        ([], [], "no grpc-status"),
    ):
        world = World(folder)
        await world.open()
        world.service.answer()
        for piece in pieces:
            world.service.body.feed(piece)
        world.service.body.finish(list(trailers))
        last, close = await world.heard()
        assert close.code == 4013
        assert text is None or text in last.json["error"]["message"]


@virtual
async def test_an_answer_of_one_message_has_one(folder: Path) -> None:
    for count, code in ((0, 4013), (1, 1000), (2, 4013)):
        world = World(folder)
        await world.open("/post/r?text=x")
        await world.say(b'{"number": 5}', b"")
        assert world.service.data == frame(b"\x18\x05" + line("x", "r"))
        world.service.answer(*[line("a")] * count)
        world.service.trail()
        assert (await world.heard())[-1].code == code


@virtual
async def test_a_server_stream_needs_no_message(folder: Path) -> None:
    world = World(folder)
    world.service.answer(line("a"))
    await world.open("/hear/r?number=3")
    (x,) = world.service.xs
    assert (x.stream, x.body) == (None, frame(b"\x18\x03" + line(room="r")))
    assert await world.heard() == [(TEXT, b'{"text":"a"}')]
    await world.say(b"{}")
    assert (await world.heard())[-1].code == 4003
    assert world.service.body.state != OPEN


@virtual
async def test_the_handshake_of_a_silent_server_stream_waits_for_a_second(folder: Path) -> None:
    world = World(folder)
    world.client.write(HANDSHAKE % b"/hear/r")
    await asyncio.sleep(LONGEST_PEEK - 0.1)
    assert not world.client.received
    await asyncio.sleep(0.2)
    assert world.client.received.startswith(b"HTTP/1.1 101 ")
    world = World(folder)
    world.service.outcome.resolve(Outcome(200, [*HEAD, (b"grpc-status", b"7")]))
    assert (await world.ask("/hear/r")).status == 403


@virtual
async def test_one_message_is_the_request_of_a_server_stream(folder: Path) -> None:
    world = World(folder)
    await world.open("/find")
    await world.say(b'{"text":"a"}')
    assert (world.service.data, world.service.end) == (frame(line("a")), "whole")
    await world.say(b'{"text":"b"}')
    assert [each.opcode for each in await world.heard()] == [TEXT, CLOSE]


@virtual
async def test_a_stream_of_http_bodies_is_one_of_bytes(folder: Path) -> None:
    world = World(folder)
    await world.open("/films")
    await world.say((BINARY, b"\xff\0"), (TEXT, b"t"))
    assert world.service.data == frame(b"\x12\x02\xff\0") + frame(b"\x12\x01t")
    world.service.answer(b"\x12\x02\xfe\0")
    world.service.trail(13, "no")
    first, last, close = await world.heard()
    assert first == (BINARY, b"\xfe\0")
    assert (last.opcode, last.json["error"]["code"], close.code) == (TEXT, 13, 4013)


@pytest.mark.parametrize(("message", "code", "words"), cases({
    "not JSON": (b"{", 4003, "body"),
    "a type that does not fit": (b'{"text": 5}', 4003, "body's text"),
    "an unknown name": (b'{"more": 5}', 4003, "more"),
    "binary": ((BINARY, b"{}"), 1003, "JSON"),
    "text that is not UTF-8": (b'{"text":"\xff"}', 1007, "UTF-8"),
    "too long": (b'"%b"' % (b"x" * LIMIT), 1009, str(LIMIT)),
}))  # fmt: skip
@virtual
async def test_messages_that_do_not_fit(message: Any, code: int, words: str, tmp_path: Path) -> None:
    world = World(tmp_path)
    await world.open()
    await world.say(b"{}", message)
    *errors, close = await world.heard()
    assert (close.code, words in close.payload[2:].decode()) == (code, True)
    assert [error.json["error"]["code"] for error in errors] == ([3] if code > 4000 else [])
    assert (world.service.data, world.service.is_cancelled) == (frame(line(room="r")), True)
    await world.say((CLOSE, b""))
    assert await world.is_over()


@pytest.mark.parametrize("sent", cases({
    "no mask": Frame(TEXT, b"{}").encode(),
    "a reserved bit": b"\xc1\x80\0\0\0\0",
    "an unknown opcode": b"\x83\x80\0\0\0\0",
    "a fragmented ping": b"\x09\x80\0\0\0\0",
    "a long ping": Frame(PING, bytes(126), masked=True).encode(),
    "a continuation of nothing": b"\x80\x80\0\0\0\0",
    "a message within another": b"\x01\x80\0\0\0\0\x81\x80\0\0\0\0",
    "a length with too many bytes": b"\x81\xfe\0\x02\0\0\0\0{}",
    "a length with far too many bytes": b"\x81\xff" + (126).to_bytes(8, "big"),
    "a code that is none": said((CLOSE, b"\x03\xee")),
    "half a code": said((CLOSE, b"\x03")),
}))  # fmt: skip
@virtual
async def test_bytes_that_are_no_websocket(sent: bytes, tmp_path: Path) -> None:
    world = World(tmp_path)
    await world.open()
    world.client.write(sent + said(b"{}"))
    assert [each.code for each in await world.heard()] == [1002]
    assert (world.service.data, world.service.is_cancelled, await world.is_over()) == (b"", True, True)


@virtual
async def test_an_announced_length_beyond_the_limit_is_not_awaited(folder: Path) -> None:
    world = World(folder)
    await world.open()
    world.client.write(b"\x81\xff" + (1 << 40).to_bytes(8, "big"))
    assert [each.code for each in await world.heard()] == [1009]


@virtual
async def test_fragments_are_joined_within_the_limit(folder: Path) -> None:
    world = World(folder)
    await world.open()
    pieces = [b'{"te', b"", b'xt":"', b"a", b'"}']
    frames = [Frame(0 if at else TEXT, piece, at == 4, True).encode() for at, piece in enumerate(pieces)]
    for byte in Frame(PING, b"?", masked=True).encode().join(frames):
        world.client.write(bytes((byte,)))
    assert await world.heard() == [(PONG, b"?")] * 4
    assert world.service.data == frame(line("a", "r"))
    await world.say(b"{}")
    world.client.write(Frame(TEXT, b"x" * LIMIT, False, True).encode() + Frame(0, b"x", False, True).encode())
    assert (await world.heard())[-1].code == 1009


@virtual
async def test_pings_and_empty_fragments_are_bounded_by_a_rate(folder: Path) -> None:
    for one in (said((PING, b"")), said((PONG, b"")), Frame(0, b"", False, True).encode()):
        world = World(folder)
        await world.open()
        world.client.write(Frame(TEXT, b"x", False, True).encode())
        for _ in range(int(EMPTY_BURST)):
            world.client.write(one)
        await settle()
        assert not world.service.is_cancelled
        world.client.write(one)
        assert (await world.heard())[-1].code == 1008


@virtual
async def test_a_long_session_of_pings_is_not_cut_off(folder: Path) -> None:
    world = World(folder)
    await world.open()
    for _ in range(200):
        await world.say(*[(PING, b"?")] * 15)
        await asyncio.sleep(1)
    assert {each.opcode for each in await world.heard()} == {PONG}


@virtual
async def test_a_close_frame_cancels_the_call(folder: Path) -> None:
    for payload in (b"", b"\x03\xe8", b"\x0f\xa1bye"):
        world = World(folder)
        await world.open()
        await world.say((CLOSE, payload), b"{}")
        assert await world.heard() == [(CLOSE, payload[:2])]
        assert (world.service.is_cancelled, await world.is_over()) == (True, True)


@virtual
async def test_a_client_that_leaves_cancels_the_call(folder: Path) -> None:
    world = World(folder)
    await world.open()
    world.service.answer(line("a"))
    world.client.transport.close()
    await settle()
    assert world.service.body.failure is not None
    assert world.service.body.failure.origin == "client"
    assert world.front.is_empty
    world = World(folder)
    await world.open()
    world.client.transport.close()
    await settle()
    assert (world.service.is_cancelled, world.front.is_empty) == (True, True)


@virtual
async def test_a_client_that_leaves_before_the_handshake_cancels_the_call(folder: Path) -> None:
    world = World(folder)
    world.service.takes = False
    world.client.write(HANDSHAKE % b"/chat/r")
    await settle()
    world.client.transport.abort()
    await settle()
    assert (world.service.is_cancelled, world.front.is_empty) == (True, True)
    assert world.service.xs[0].stream is not None
    assert world.service.xs[0].stream.state != OPEN


@virtual
async def test_a_client_is_read_as_fast_as_the_upstream_takes_messages(folder: Path) -> None:
    world = World(folder)
    await world.open()
    stream = world.service.xs[0].stream
    assert stream is not None
    stream.pause()
    await world.say(b'{"text":"a"}')
    assert world.service.data == b""
    assert not world.client.pair.right.is_reading()
    stream.resume()
    await settle()
    assert world.service.data == frame(line("a", "r"))
    assert world.client.pair.right.is_reading()


@virtual
async def test_messages_with_the_handshake_hold_a_client_back_too(folder: Path) -> None:
    world = World(folder)
    world.service.is_full_at = 1
    await world.open(early=said(b"{}"))
    assert not world.client.pair.right.is_reading()


@virtual
async def test_the_upstream_is_read_as_fast_as_the_client_reads(folder: Path) -> None:
    world = World(folder)
    await world.open()
    world.service.answer()
    await settle()
    source = world.service.body.source
    assert isinstance(source, Paused)
    world.client.transport.pause_reading()
    while not source.is_paused:
        world.service.body.feed(frame(line("a" * 100)) * 100)
        await settle()
    assert world.service.body.received < 1 << 20
    await world.say((PING, b"1"), (PING, b"2"))
    world.client.transport.resume_reading()
    await settle()
    assert not source.is_paused
    assert [each.payload for each in await world.heard() if each.opcode == PONG] == [b"2"]


@virtual
async def test_a_read_of_many_messages_is_taken_in_turns(folder: Path) -> None:
    world = World(folder)
    await world.open()
    sizes: list[int] = []
    world.front.env.call_later(0, lambda: sizes.append(len(world.service.data)))
    one = frame(line(room="r"))
    world.client.write(said(*[b"{}"] * 10 * MAX_FRAMES_A_TURN))
    while len(world.service.data) < 10 * MAX_FRAMES_A_TURN * len(one):
        before = len(world.service.data)
        await asyncio.sleep(0)
        assert len(world.service.data) - before <= MAX_FRAMES_A_TURN * len(one)
    await settle()
    assert world.client.pair.right.is_reading()


@pytest.mark.parametrize(("asked", "status", "words"), cases({
    "no version": (("/chat/r", "Sec-WebSocket-Version: 12"), 400, "Sec-WebSocket-Version must be 13."),
    "an unknown path": (("/nothing",), 404, "No method of the route's services is bound to the path."),
    "a method without a stream": (("/lines/r",), 400, "an upgrade, which the method does not have"),
    "a parameter that does not fit": (("/hear/r?number=x",), 400, "The query parameter number"),
    "a parameter beside a message": (("/chat/r?number=1",), 400, "The query parameter number"),
    "a page of another host": (("/chat/r", "Origin: http://b.test"), 403, "Pages of this origin"),
    "a sandboxed page": (("/chat/r", "Origin: null"), 403, "Pages of this origin"),
    "two origins": (("/chat/r", "Origin: http://a.test", "Origin: http://b.test"), 403, "Pages of this origin"),
}))  # fmt: skip
@virtual
async def test_handshakes_that_are_refused(asked: tuple[str, ...], status: int, words: str, tmp_path: Path) -> None:
    world = World(tmp_path)
    answer = await world.ask(*asked)
    assert (answer.status, words in json.loads(answer.body)["detail"]) == (status, True)
    assert world.service.xs == []


@virtual
async def test_a_key_that_is_none_is_refused(folder: Path) -> None:
    world = World(folder)
    head = b"GET /chat/r HTTP/1.1\r\nHost: a\r\nConnection: Upgrade\r\nUpgrade: websocket\r\n"
    world.client.write(head + b"Sec-WebSocket-Key: dGhl\r\nSec-WebSocket-Version: 13\r\n\r\n")
    assert (await world.client.answer()).status == 400


@virtual
async def test_pages_of_the_own_host_and_of_allowed_origins_open_a_websocket(folder: Path) -> None:
    for origin in ("https://a.test", "http://A.test", "https://shop.example"):
        world = World(folder)
        world.allowed.add(b"https://shop.example")
        await world.open("/chat/r", f"Origin: {origin}")


@virtual
async def test_a_stream_of_requests_without_a_websocket_is_426(folder: Path) -> None:
    world = World(folder)
    answer = await world.ask("/chat/r", upgrade=False)
    assert (answer.status, answer.get("upgrade")) == (426, "websocket")
    world.client.write(b"POST /chat/r HTTP/1.1\r\nHost: a\r\nContent-Length: 0\r\n\r\n")
    assert (await world.client.answer()).status == 426


@virtual
async def test_a_server_stream_without_a_websocket_has_lines(folder: Path) -> None:
    world = World(folder)
    world.service.answer(line("a"), line("b"))
    world.service.trail()
    answer = await world.ask("/hear/r", upgrade=False)
    assert (answer.get("content-type"), answer.body) == ("application/x-ndjson", b'{"text":"a"}\n{"text":"b"}\n')


@virtual
async def test_an_idle_session_and_a_drain_end_with_a_close_frame(folder: Path) -> None:
    world = World(folder)
    world.idle = 3.0
    await world.open()
    await asyncio.sleep(2)
    await world.say(b"{}")
    await asyncio.sleep(2)
    assert await world.heard() == []
    await asyncio.sleep(2)
    assert [each.code for each in await world.heard()] == [1001]
    assert world.service.is_cancelled
    world = World(folder)
    await world.open()
    for connection in list(world.front.listener.connections):
        connection.drain()
    assert [each.code for each in await world.heard()] == [1001]
    await world.say((CLOSE, b"\x03\xe9"))
    assert (world.service.is_cancelled, await world.is_over()) == (True, True)


@virtual
async def test_it_works_over_an_extended_connect(folder: Path) -> None:
    world = World(folder)
    talk = Frames(world.run)
    connect = [
        (b":method", b"CONNECT"), (b":protocol", b"websocket"), (b":scheme", b"http"), (b":authority", b"a.test"),
        (b":path", b"/chat/r"), (b"sec-websocket-version", b"13"),
    ]  # fmt: skip
    await talk.feed(headers(1, connect, False), data(1, said(b'{"text":"a"}')))
    assert world.service.data == frame(line("a", "r"))
    world.service.answer(line("b"))
    await settle()
    await talk.feed(data(1, said(b"")))
    assert world.service.end == "whole"
    world.service.trail(5, "no")
    await settle()
    await talk.feed()
    first, last, close = split(talk.data(1))
    assert (first.json, last.json["error"]["code"], close.code) == ({"text": "b"}, 5, 4005)
    await talk.feed(data(1, said((CLOSE, b"\x03\xe8"))))
    await settle()
    await talk.feed()
    assert [each for each in talk.got if each.kind == f.DATA][-1].flags & f.END_STREAM
    assert [(each.status, each.reason) for each in talk.front.records] == [(101, "")]


@virtual
async def test_a_bug_further_in_is_reported_and_a_cancellation_ends_the_session(folder: Path) -> None:
    for error, bugs in ((ValueError("bug"), 1), (asyncio.CancelledError(), 0)):
        world = World(folder)
        gate = asyncio.Event()

        async def break_down(
            x: Exchange, error: BaseException = error, gate: asyncio.Event = gate, service: Service = world.service
        ) -> Outcome:
            if gate.is_set():
                raise error
            assert x.stream is not None
            service.xs.append(x)
            x.stream.attach(service)
            await gate.wait()
            raise error

        world.pipeline = Pipeline([_stage(world, folder)], break_down)
        await world.open()
        gate.set()
        await settle(20)
        assert (await world.heard())[-1].code == 4013
        await world.say((CLOSE, b""))
        client, world.client = world.client, world.front.connect()
        assert (await world.ask()).status == 500
        assert (len(world.front.bugs), client.is_closed) == (2 * bugs, True)


def _stage(world: World, folder: Path) -> Any:
    spec = {"descriptors": "chat.binpb", "services": ["chat.Chat"], "streams": "websocket"}
    return translate.build(Spec.model_validate({"grpc": spec}), context(world.front.env, where=f"{folder}/p.yaml:7"))
