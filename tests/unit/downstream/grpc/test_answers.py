"""Tests of gRPC calls at a listener: recognised by their head, refused with a status, ended with trailers."""

from __future__ import annotations

from collections.abc import Callable

import pytest

from sidecar.core.body import Body
from sidecar.core.exchange import Exchange
from sidecar.core.outcome import (
    BREAKER_OPEN,
    CONNECT_FAILURE,
    NO_ENDPOINT,
    OVERLOADED,
    RATE_LIMITED,
    RESET,
    SHORT_DEADLINE,
    SLOW_READER,
    TIMEOUT,
    Failure,
    Outcome,
    Refusal,
    failed,
)
from sidecar.grpc.framing import frame
from sidecar.grpc.status import decode_message
from sidecar.http2.stream import Stream
from sidecar.upstream.grpc.answer import read_status
from tests.support.loop import settle, virtual
from tests.unit.downstream.front import Source, always
from tests.unit.downstream.http2.talk import Talk

CALL = b"content-type: application/grpc+proto\r\nte: trailers\r\n"
HEAD = [(b"content-type", b"application/grpc")]


def fields(talk: Talk, stream: Stream) -> dict[bytes, bytes]:
    """Return the fields of an answer's head."""
    return dict(line.split(b": ", 1) for line in talk.fields(stream).split(b"\r\n") if line)


def trailers(talk: Talk, stream: Stream) -> dict[bytes, bytes]:
    ((_, _, lines),) = talk.of(stream, "trailers")
    return dict(line.split(b": ", 1) for line in lines.split(b"\r\n") if line)


async def call(outcome: Outcome | Callable[[Exchange], Outcome], lines: bytes = CALL) -> tuple[Talk, Stream]:
    talk = Talk(always(outcome if callable(outcome) else lambda _: outcome))
    return talk, await talk.ask(b"POST", b"/shop.Orders/Place", lines, frame(b"order"))


@pytest.mark.parametrize(
    ("method", "lines", "expected"),
    [
        (b"POST", CALL, True),
        (b"POST", b"Content-Type: application/grpc\r\n", True),
        (b"POST", b"content-type: application/grpc-web+proto\r\n", False),
        (b"POST", b"content-type: application/json\r\nx-content-type: application/grpc\r\n", False),
        (b"POST", b"", False),
        (b"GET", CALL, False),
    ],
)
@virtual
async def test_a_call_is_known_by_its_head(method: bytes, lines: bytes, expected: bool) -> None:
    seen: list[Exchange] = []

    def answer(x: Exchange) -> Outcome:
        seen.append(x)
        return Outcome(200, list(HEAD))

    talk = Talk(always(answer))
    for _ in range(2):  # the second head is the remembered one
        await talk.ask(method, b"/shop.Orders/Place", lines)
    assert [x.is_grpc for x in seen] == [expected] * 2
    assert [x.grpc_timeout for x in seen] == [expected] * 2


@virtual
async def test_a_calls_deadline_and_its_earlier_attempts_are_read() -> None:
    seen: list[Exchange] = []

    def answer(x: Exchange) -> Outcome:
        seen.append(x)
        return Outcome(200, list(HEAD))

    await call(answer, CALL + b"grpc-timeout: 2S\r\ngrpc-previous-rpc-attempts: 2\r\n")
    (x,) = seen
    assert x.deadline - x.arrived == pytest.approx(2)
    assert (x.deadline, x.marked_attempt) == (x.caller_deadline, 2)


@pytest.mark.parametrize(
    ("failure", "refusal", "code"),
    [
        (BREAKER_OPEN, Refusal("circuit_breaker"), 14),
        (NO_ENDPOINT, Refusal("endpoints"), 14),
        (CONNECT_FAILURE, Refusal(), 14),
        (RESET, Refusal(), 14),
        (TIMEOUT, Refusal(), 4),
        (SHORT_DEADLINE, Refusal("timeout"), 4),
        (OVERLOADED, Refusal("slow_clients"), 14),
        (OVERLOADED, Refusal("concurrency"), 8),
    ],
)
@virtual
async def test_refusals_and_failures_are_trailers_only(failure: Failure, refusal: Refusal, code: int) -> None:
    talk, stream = await call(failed(failure, refusal, "why — 100%"))
    found = fields(talk, stream)
    ((_, _, head, is_end),) = talk.of(stream, "head")
    assert (head.status, is_end) == (200, True)
    assert (found[b"content-type"], found[b"grpc-status"]) == (b"application/grpc", b"%d" % code)
    assert decode_message(found[b"grpc-message"]) == f"{failure.title}: why — 100%"
    assert found[b"x-sidecar-reason"] == failure.code.encode()
    assert b"content-length" not in found
    (record,) = talk.front.records
    assert (record.status, record.reason, record.verdict % 600) == (200, failure.code, code)


@virtual
async def test_a_refusal_says_when_to_come_back() -> None:
    talk, stream = await call(failed(BREAKER_OPEN, Refusal("circuit_breaker", detail="It is open.", retry_after=1.2)))
    found = fields(talk, stream)
    assert found[b"grpc-retry-pushback-ms"] == b"1200"
    assert found[b"grpc-message"] == b"The circuit breaker is open: It is open."


@virtual
async def test_a_time_beyond_32_bits_is_the_longest_that_clients_read() -> None:
    """Such as that of a quota per month: clients take a larger number for none."""
    talk, stream = await call(failed(RATE_LIMITED, Refusal("quota", retry_after=30 * 86_400.0)))
    assert fields(talk, stream)[b"grpc-retry-pushback-ms"] == b"2147483647"


@virtual
async def test_details_are_left_out_where_the_listener_says_so() -> None:
    talk = Talk(always(lambda _: failed(RESET, cause="10.0.0.1:99")), problem_details=False)
    stream = await talk.ask(b"POST", b"/a.B/C", CALL)
    assert b"10.0.0.1" not in talk.fields(stream)


@virtual
async def test_a_call_without_a_route_is_unimplemented() -> None:
    talk = Talk(always(lambda _: Outcome(200)))
    talk.front.listener.match = lambda _: None
    stream = await talk.ask(b"POST", b"/shop.Nobody/Place", CALL)
    assert fields(talk, stream)[b"grpc-status"] == b"12"


@virtual
async def test_an_invalid_call_has_a_status_too() -> None:
    talk, stream = await call(Outcome(200), CALL + b"content-length: 1\r\nexpect: something\r\n")
    assert fields(talk, stream)[b"grpc-status"] == b"13"


@virtual
async def test_a_request_that_is_too_large_is_resource_exhausted() -> None:
    talk = Talk(always(lambda _: Outcome(200)), {"max_body": "10B"})
    stream = await talk.ask(b"POST", b"/a.B/C", CALL, b"x" * 20)
    assert fields(talk, stream)[b"grpc-status"] == b"8"


@pytest.mark.parametrize(("status", "code"), [(503, b"14"), (401, b"16"), (404, b"12"), (500, b"2"), (200, b"2")])
@virtual
async def test_an_answer_of_http_becomes_the_status_that_clients_take_it_for(status: int, code: bytes) -> None:
    page = Outcome(status, [(b"content-type", b"text/html"), (b"x-sidecar-fallback", b"response")], b"<html>")
    talk, stream = await call(page)
    found = fields(talk, stream)
    assert (talk.status(stream), found[b"grpc-status"]) == (200, code)
    assert found[b"x-sidecar-fallback"] == b"response"
    assert talk.body(stream) == b""


@virtual
async def test_messages_and_trailers_pass() -> None:
    body = Body()
    body.feed(frame(b"one"))
    body.finish([(b"grpc-status", b"5"), (b"grpc-message", b"no such order"), (b"x-detail-bin", b"AAE=")])
    outcome = Outcome(200, list(HEAD), stream=body)
    read_status(outcome, lambda: False)
    talk, stream = await call(outcome)
    assert talk.body(stream) == frame(b"one")
    assert trailers(talk, stream) == {
        b"grpc-status": b"5",
        b"grpc-message": b"no such order",
        b"x-detail-bin": b"AAE=",
    }
    assert talk.front.records[0].verdict == 5


@virtual
async def test_trailers_of_twelve_kibibytes_pass_whole() -> None:
    """linkerd2#15199."""
    body = Body()
    body.finish([(b"grpc-status", b"13"), (b"grpc-status-details-bin", b"QUJD" * 3072)])
    talk, stream = await call(Outcome(200, list(HEAD), stream=body))
    assert trailers(talk, stream)[b"grpc-status-details-bin"] == b"QUJD" * 3072


@virtual
async def test_an_answer_without_a_status_gets_one() -> None:
    body = Body(Source())
    outcome = Outcome(200, list(HEAD), stream=body)
    read_status(outcome, lambda: False)
    talk, stream = await call(outcome)
    body.feed(frame(b"one"))
    body.finish()
    await talk.exchange()
    assert trailers(talk, stream)[b"grpc-status"] == b"2"
    assert talk.front.records[0].verdict == 602


@pytest.mark.parametrize(("failure", "code"), [(RESET, b"14"), (TIMEOUT, b"4")])
@virtual
async def test_an_answer_that_breaks_off_ends_with_its_status(failure: Failure, code: bytes) -> None:
    body = Body(Source())
    outcome = Outcome(200, list(HEAD), stream=body)
    read_status(outcome, lambda: False)
    talk, stream = await call(outcome)
    body.feed(frame(b"one"))
    body.fail(failure, "closed at byte 8")
    await talk.exchange()
    found = trailers(talk, stream)
    assert (talk.body(stream), found[b"grpc-status"]) == (frame(b"one"), code)
    assert found[b"grpc-message"].endswith(b": closed at byte 8")
    assert found[b"x-sidecar-reason"] == failure.code.encode()
    (record,) = talk.front.records
    assert (record.reason, record.verdict) == (failure.code, 600 + int(code))


@virtual
async def test_an_answer_that_its_reader_gave_up_is_reset() -> None:
    body = Body(Source())
    talk, stream = await call(Outcome(200, list(HEAD), stream=body))
    body.fail(SLOW_READER)
    await talk.exchange()
    assert talk.of(stream, "reset")
    assert talk.of(stream, "trailers") == []


@virtual
async def test_a_cancelled_call_cancels_its_body() -> None:
    source = Source()
    body = Body(source)
    talk, stream = await call(Outcome(200, list(HEAD), stream=body))
    talk.session.reset(stream, 8)
    await talk.exchange()
    await settle()
    assert source.said[-1] == "cancel"
    assert talk.front.records[0].reason == "client_closed"
