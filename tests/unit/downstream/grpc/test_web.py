"""Tests of gRPC-Web at a listener, over HTTP/1.1 and HTTP/2: calls of gRPC go in, answers come back in its form."""

from __future__ import annotations

import struct
from base64 import b64decode, b64encode
from typing import Any

import pytest

from chaos.parts.http import Message
from sidecar.core.body import OPEN, Body
from sidecar.core.exchange import Exchange
from sidecar.core.outcome import BREAKER_OPEN, RESET, Outcome, Refusal, failed
from sidecar.downstream.grpc.web import _Encoding, translating
from sidecar.grpc.framing import frame
from tests.support.grpc import call as grpc_call
from tests.support.grpc import streaming, trailers, trailers_only, whole
from tests.support.loop import settle, virtual
from tests.unit.downstream.front import Front, Service, Source, Taken, always
from tests.unit.downstream.http2.talk import Talk

BINARY = "application/grpc-web+proto"
TEXT = "application/grpc-web-text+proto"


def web(service: Service) -> Front:
    front = Front(service)
    translate(front)
    return front


def translate(front: Front) -> None:
    """Do what a listener with `grpc_web: true` does when it gets its routes."""
    front.listener.match = translating(lambda _: front.route)


def post(body: bytes, kind: str, *lines: str, chunked: bool = False) -> bytes:
    framing = "transfer-encoding: chunked" if chunked else f"content-length: {len(body)}"
    head = "\r\n".join(
        ["POST /shop.Orders/Place HTTP/1.1", "host: a", f"content-type: {kind}", framing, "x-grpc-web: 1", *lines]
    )
    return head.encode() + b"\r\n\r\n" + body


async def ask(front: Front, request: bytes) -> Message:
    client = front.connect()
    client.write(request)
    await settle()
    return await client.answer("POST")


def frames(body: bytes) -> list[tuple[int, bytes]]:
    found = []
    while body:
        flags, length = struct.unpack(">BI", body[:5])
        found.append((flags, body[5 : 5 + length]))
        body = body[5 + length :]
    return found


def unpadded(text: bytes) -> bytes:
    """Return the octets of pieces of Base64 that are each padded."""
    return b"".join(b64decode(text[at : at + 4]) for at in range(0, len(text), 4))


def end(code: int, **more: str) -> tuple[int, bytes]:
    return 0x80, b"".join(b"%b: %b\r\n" % field for field in trailers(code, **more))


@virtual
async def test_a_binary_call_becomes_one_of_grpc() -> None:
    seen: list[Exchange] = []

    def answer(x: Exchange) -> Outcome:
        seen.append(x)
        return whole(0, frame(b"placed"))

    message = await ask(web(always(answer)), post(frame(b"order"), BINARY, "grpc-timeout: 2S", "x-user: 7"))
    (x,) = seen
    assert (x.is_grpc, x.grpc_timeout, x.accepts_trailers, x.body) == (True, True, True, frame(b"order"))
    assert x.header(b"content-type") == b"application/grpc+proto"
    assert (x.header(b"x-grpc-web"), x.header(b"x-user")) == (None, b"7")
    assert x.deadline < 1e9
    assert message.status == 200
    assert message.get("content-type") == "application/grpc-web"
    assert frames(message.body) == [(0, b"placed"), end(0)]


@pytest.mark.parametrize("chunked", [False, True])
@virtual
async def test_a_text_call_is_decoded_and_its_answer_encoded(chunked: bool) -> None:
    bodies: list[bytes] = []

    async def service(x: Exchange) -> Outcome:
        if x.stream is None:
            bodies.append(x.body)
        else:
            sink = Taken()
            x.stream.attach(sink)
            await settle()
            bodies.append(bytes(sink.data))
        return whole(0, frame(b"placed"))

    text = b64encode(frame(b"or")) + b64encode(frame(b"der"))
    body = b"".join(b"1\r\n%b\r\n" % text[at : at + 1] for at in range(len(text))) + b"0\r\n\r\n" if chunked else text
    message = await ask(web(service), post(body, TEXT, chunked=chunked))
    assert bodies == [frame(b"or") + frame(b"der")]
    assert message.get("content-type") == "application/grpc-web-text"
    assert frames(unpadded(message.body)) == [(0, b"placed"), end(0)]


@pytest.mark.parametrize(
    ("kind", "accept", "expected"),
    [
        (BINARY, "application/grpc-web-text", True),
        (TEXT, "application/grpc-web+proto", False),
        (TEXT, "*/*", True),
        (BINARY, "*/*", False),
    ],
)
@virtual
async def test_the_answer_has_the_form_that_is_accepted(kind: str, accept: str, expected: bool) -> None:
    body = b64encode(frame(b"x")) if kind is TEXT else frame(b"x")
    message = await ask(web(always(lambda _: whole(0))), post(body, kind, f"accept: {accept}"))
    assert message.get("content-type").startswith("application/grpc-web-text") is expected
    assert frames(unpadded(message.body) if expected else message.body) == [end(0)]


@virtual
async def test_an_answer_of_trailers_only_has_its_status_in_the_body() -> None:
    """traefik#13842: the last frame must not be lost, nor be empty."""
    front = web(always(lambda _: trailers_only(5, grpc_message="no such order", x_kept="1")))
    message = await ask(front, post(frame(b"x"), BINARY))
    assert frames(message.body) == [(0x80, b"grpc-status: 5\r\ngrpc-message: no such order\r\n")]
    assert (message.get("grpc-status"), message.get("x-kept")) == ("", "1")
    assert front.records[0].verdict == 5


@virtual
async def test_server_streams_flow_and_end_with_their_status() -> None:
    body = Body(Source())
    front = web(always(lambda _: streaming(body)))
    client = front.connect()
    client.write(post(b64encode(frame(b"x")), TEXT))
    await settle()
    for text in (b"one", b"two"):
        body.feed(frame(text))
        await settle()
        assert b64encode(frame(text)) in bytes(client.received)
    body.finish(trailers(13, grpc_message="late"))
    message = await client.answer("POST")
    assert frames(unpadded(message.body)) == [(0, b"one"), (0, b"two"), end(13, grpc_message="late")]
    assert front.records[0].verdict == 613


@virtual
async def test_a_stream_that_breaks_off_ends_with_a_status() -> None:
    body = Body(Source())
    front = web(always(lambda _: streaming(body)))
    client = front.connect()
    client.write(post(frame(b"x"), BINARY))
    await settle()
    body.feed(frame(b"one"))
    body.fail(RESET)
    message = await client.answer("POST")
    first, (flags, last) = frames(message.body)
    assert (first, flags) == ((0, b"one"), 0x80)
    assert last.startswith(b"grpc-status: 14\r\n")
    assert b"x-sidecar-reason: reset\r\n" in last
    assert front.records[0].verdict == 614


@pytest.mark.parametrize("kind", [BINARY, TEXT])
@virtual
async def test_refusals_have_the_same_form(kind: str) -> None:
    body = b64encode(frame(b"x")) if kind is TEXT else frame(b"x")
    refusal = Refusal("circuit_breaker", detail="Open.", retry_after=0.5)
    message = await ask(web(always(lambda _: failed(BREAKER_OPEN, refusal))), post(body, kind))
    found = frames(unpadded(message.body) if kind is TEXT else message.body)
    expected = b"grpc-status: 14\r\ngrpc-message: The circuit breaker is open: Open.\r\ngrpc-retry-pushback-ms: 500\r\n"
    assert found == [(0x80, expected)]
    assert (message.status, message.get("x-sidecar-reason")) == (200, "breaker_open")
    assert message.get("content-type") == kind


@virtual
async def test_a_call_without_a_route_has_the_same_form() -> None:
    front = web(always(lambda _: whole(0)))
    front.listener.match = translating(lambda _: None)
    message = await ask(front, post(frame(b"x"), BINARY))
    ((_, last),) = frames(message.body)
    assert last.startswith(b"grpc-status: 12\r\n")


@pytest.mark.parametrize("chunked", [False, True])
@virtual
async def test_a_text_that_is_no_base64_is_refused(chunked: bool) -> None:
    async def service(x: Exchange) -> Outcome:
        assert x.stream is not None
        sink = Taken()
        x.stream.attach(sink)
        await settle()
        assert sink.failure is not None
        return failed(sink.failure)

    body = b"4\r\nAA!A\r\n0\r\n\r\n" if chunked else b"AA!A"
    message = await ask(web(service), post(body, TEXT, chunked=chunked))
    ((_, last),) = frames(unpadded(message.body))
    assert last.startswith(b"grpc-status: 13\r\n")


@virtual
async def test_an_answer_of_http_has_the_status_that_clients_take_it_for() -> None:
    page = Outcome(503, [(b"content-type", b"text/html")], b"<html>")
    message = await ask(web(always(lambda _: page)), post(frame(b"x"), BINARY))
    ((flags, last),) = frames(message.body)
    assert (message.status, flags) == (200, 0x80)
    assert last.startswith(b"grpc-status: 14\r\n")


@virtual
async def test_over_http2() -> None:
    talk = Talk(always(lambda _: whole(0, frame(b"placed"))))
    translate(talk.front)
    lines = b"content-type: application/grpc-web+proto\r\n"
    stream = await talk.ask(b"POST", b"/shop.Orders/Place", lines, frame(b"x"))
    assert frames(talk.body(stream)) == [(0, b"placed"), end(0)]
    assert talk.of(stream, "trailers") == []


@virtual
async def test_over_http2_errors_have_the_same_form() -> None:
    talk = Talk(always(lambda _: failed(RESET)))
    translate(talk.front)
    lines = b"content-type: application/grpc-web+proto\r\n"
    stream = await talk.ask(b"POST", b"/shop.Orders/Place", lines, frame(b"x"))
    ((_, last),) = frames(talk.body(stream))
    assert last.startswith(b"grpc-status: 14\r\n")


@virtual
async def test_a_slow_reader_holds_the_upstream_up_and_one_that_leaves_cancels_it() -> None:
    source = Source()
    body = Body(source)
    front = web(always(lambda _: streaming(body)))
    client = front.connect()
    client.write(post(frame(b"x"), BINARY))
    await settle()
    client.transport.abort()
    await settle()
    assert source.said == ["cancel"]
    assert body.state != OPEN


@virtual
async def test_other_requests_are_left_alone() -> None:
    seen: list[Any] = []
    front = web(always(lambda x: seen.append(x) or Outcome(200)))
    client = front.connect()
    client.write(b"GET / HTTP/1.1\r\nhost: a\r\ncontent-type: application/grpc-web\r\n\r\n")
    await settle()
    client.write(post(b"{}", "application/json"))
    await settle()
    assert [(x.is_grpc, x.web, x.route is front.route) for x in seen] == [(False, b"", True)] * 2
    assert grpc_call().web == b""


def test_a_body_that_nobody_takes_holds_its_source_up() -> None:
    source = Source()
    body = Body(source)
    target = _Encoding(body, True).target
    body.feed(b"x" * 70_000)
    assert source.said == ["pause"]
    target.attach(Taken())
    assert source.said == ["pause", "resume"]
    target.cancel()
    assert source.said == ["pause", "resume", "cancel"]


FORGED = struct.pack(">BI", 0x80, 16) + b"grpc-status: 0\r\n"


@virtual
async def test_trailers_that_an_upstream_forges_in_its_body_are_not_passed_on() -> None:
    message = await ask(web(always(lambda x: whole(7, frame(b"a") + FORGED))), post(frame(b""), BINARY))
    ((flags, fields),) = frames(message.body)
    assert (flags, b"grpc-status: 13" in fields, b"grpc-status: 0" in fields) == (0x80, True, False)
    for kind in (BINARY, TEXT):
        body = Body(Source())
        outcome = streaming(body)
        client = web(always(outcome)).connect()
        client.write(post(frame(b"") if kind == BINARY else b64encode(frame(b"")), kind))
        await settle()
        body.feed(frame(b"a") + FORGED[:3])
        body.feed(FORGED[3:] + frame(b"b"))
        assert body.failure is not None
        assert body.failure.origin == "upstream"
        message = await client.answer("POST")
        found = frames(message.body if kind == BINARY else unpadded(message.body))
        assert found[0] == (0, b"a")
        assert [flags for flags, _ in found] == [0, 0x80]
        assert b"grpc-status: 13" in found[1][1]


@virtual
async def test_a_status_never_stands_within_a_message() -> None:
    message = await ask(web(always(lambda x: whole(0, frame(b"abc")[:-1]))), post(frame(b""), BINARY))
    ((flags, fields),) = frames(message.body)
    assert (flags, b"grpc-status: 13" in fields) == (0x80, True)
    ends: list[Any] = [lambda body: body.finish(trailers(0)), lambda body: body.fail(RESET)]
    for end_of in ends:
        body = Body(Source())
        outcome = streaming(body)
        front = web(always(outcome))
        client = front.connect()
        client.write(post(frame(b""), BINARY))
        await settle()
        body.feed(frame(b"abc")[:-1])
        end_of(body)
        await settle()
        assert b"grpc-status" not in client.received
        assert client.is_closed, "the answer breaks off"
        assert [record.reason for record in front.records] != [""]


@virtual
async def test_a_head_that_is_too_large_has_its_status_too() -> None:
    """Also if only its beginning was read, as far as that tells what it is."""
    long = "x: " + 33_000 * "v"
    query = post(b"", BINARY).replace(b"/Place", b"/Place?" + b"aaa&" * 1200)
    for request in (post(b"", BINARY, long), post(b"", TEXT, long)[:-9], query):
        front = Front(always(lambda x: Outcome(200)), listener={"grpc_web": True})
        translate(front)
        message = await ask(front, request)
        is_text = TEXT.encode() in request
        ((flags, fields),) = frames(unpadded(message.body) if is_text else message.body)
        assert (message.status, flags, b"grpc-status: 8\r\n" in fields) == (200, 0x80, True)
        assert [record.status for record in front.records] == [200]
    for request in (post(b"", BINARY, long), query):
        assert (await ask(Front(always(Outcome(200))), request)).status in (414, 431), "without `grpc_web`"
    front = Front(always(lambda x: Outcome(200)), listener={"grpc_web": True})
    assert (await ask(front, post(b"", BINARY, "broken"))).status == 400, "what is malformed is no call"
    assert (await ask(front, post(b"", "text/plain", long))).status == 431


@virtual
async def test_a_body_that_becomes_too_large_has_its_status_too() -> None:
    front = Front(always(lambda x: Outcome(200)), {"max_body": "10B"}, listener={"grpc_web": True})
    translate(front)
    client = front.connect()
    client.write(post(b"", BINARY, chunked=True) + b"6\r\nabcdef\r\n")
    await settle()
    client.write(b"6\r\nabcdef\r\n")
    await settle()
    message = await client.answer("POST")
    ((flags, fields),) = frames(message.body)
    assert (message.status, flags, b"grpc-status: 8\r\n" in fields) == (200, 0x80, True)


@virtual
async def test_what_is_refused_before_it_has_a_route_has_its_status_too() -> None:
    front = Front(always(lambda x: Outcome(200)), {"max_body": "10B"}, listener={"grpc_web": True})
    translate(front)
    message = await ask(front, post(bytes(11), BINARY))
    ((flags, fields),) = frames(message.body)
    assert (message.status, flags, b"grpc-status: 8\r\n" in fields) == (200, 0x80, True)
    talk = Talk(always(lambda x: Outcome(200)), {"max_body": "10B"}, grpc_web=True)
    translate(talk.front)
    kind = f"content-type: {BINARY}\r\n".encode()
    for lines in (kind + b"content-length: 11\r\n", kind + b"x: %b\r\n" % bytes(33_000).replace(b"\0", b"v")):
        stream = talk.open(b"POST", b"/shop.Orders/Place", lines, end=False)
        await talk.exchange()
        assert talk.status(stream) == 200
        ((flags, fields),) = frames(talk.body(stream))
        assert (flags, b"grpc-status: 8\r\n" in fields) == (0x80, True)


@virtual
async def test_a_head_that_is_too_large_is_answered_by_trailers_only() -> None:
    talk = Talk(always(lambda x: Outcome(200)))
    stream = await talk.ask(
        b"POST", b"/shop.Orders/Place", b"content-type: application/grpc\r\nx: %b\r\n" % (b"v" * 33_000)
    )
    assert talk.status(stream) == 200
    assert b"grpc-status: 8\r\n" in talk.fields(stream)
    assert b"content-type: application/grpc\r\n" in talk.fields(stream)
    many = await talk.ask(b"POST", b"/a/" + b"?a" + b"&a" * 600, b"content-type: application/grpc\r\n")
    assert (talk.status(many), b"grpc-status" in talk.fields(many)) == (200, True)
