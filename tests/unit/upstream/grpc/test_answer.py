"""Tests of the verdict on a gRPC answer: from its head, from its trailers, or from what is missing."""

from __future__ import annotations

import asyncio

import pytest

from sidecar.core.body import Body
from sidecar.core.exchange import Exchange
from sidecar.core.message import get, get_all
from sidecar.core.outcome import RESET, STATUS_TO_COME, Outcome
from sidecar.core.stage import outcome_to_settle
from sidecar.downstream.grpc.answers import as_grpc
from tests.support.grpc import HEAD, call, judged, streaming, trailers, trailers_only, whole
from tests.support.loop import settle, virtual
from tests.unit.upstream.back import Back, outcome_of, start

VERDICTS = {0: 200, 2: 602, 4: 604, 13: 613, 14: 614, 15: 615} | {n: n for n in (1, 3, 5, 6, 7, 8, 9, 10, 11, 12, 16)}


@pytest.mark.parametrize("code", range(17))
def test_the_status_is_the_verdict_wherever_it_stands(code: int) -> None:
    assert trailers_only(code).verdict == VERDICTS[code]
    assert whole(code).verdict == VERDICTS[code]
    body = Body()
    outcome = streaming(body)
    assert outcome.verdict == STATUS_TO_COME
    body.feed(b"message")
    body.finish(trailers(code))
    assert outcome_to_settle(outcome, None).verdict == VERDICTS[code]


def test_trailers_only_without_a_content_type_are_of_grpc() -> None:
    """grpclib 0.4."""
    outcome = judged(Outcome(200, trailers(12)))
    assert (outcome.verdict, outcome.header(b"content-type")) == (12, b"application/grpc")
    assert as_grpc(outcome) is outcome
    assert (
        get(as_grpc(judged(Outcome(200, [(b"content-type", b"text/html"), *trailers(0)]))).headers, b"grpc-status")
        == b"2"
    )


def test_a_copy_of_the_outcome_has_the_late_verdict_too() -> None:
    body = Body()
    streaming(body)
    copy = Outcome(200, list(HEAD), stream=body)
    body.finish(trailers(14))
    assert outcome_to_settle(copy, None).verdict == 614


def test_an_answer_that_breaks_off_has_the_verdict_of_its_failure() -> None:
    body = Body()
    outcome = streaming(body)
    body.fail(RESET)
    assert outcome_to_settle(outcome, RESET).failure is RESET


def test_an_answer_without_a_status_is_unknown_and_says_so() -> None:
    body = Body()
    outcome = streaming(body)
    body.finish([(b"x-other", b"1")])
    assert outcome_to_settle(outcome, None).verdict == 602
    assert get(body.trailers, b"grpc-status") == b"2"
    assert get(body.trailers, b"x-other") == b"1"


def test_a_whole_answer_without_trailers_is_unknown_and_says_so() -> None:
    outcome = judged(Outcome(200, list(HEAD), b"content"))
    assert outcome.verdict == 602
    assert outcome.stream is not None
    assert outcome.stream.whole() == b"content"
    assert get(outcome.stream.trailers, b"grpc-status") == b"2"


def test_a_status_before_the_content_counts_only_without_one_behind_it() -> None:
    """A client reads the trailers: what is in the head of an answer with content decides nothing."""
    for late, verdict, code in ((14, 614, b"14"), (None, 602, b"2"), (0, 200, b"0")):
        body = Body()
        outcome = judged(Outcome(200, [*HEAD, *trailers(2)], stream=body))
        assert outcome.verdict == STATUS_TO_COME
        assert outcome.header(b"grpc-status") is None
        body.feed(b"message")
        body.finish([] if late is None else trailers(late))
        assert outcome_to_settle(outcome, None).verdict == verdict
        assert get_all(body.trailers, b"grpc-status") == [code]


def test_a_status_in_the_head_of_a_whole_answer_moves_behind_its_content() -> None:
    outcome = judged(Outcome(200, [*HEAD, *trailers(0)], b"content"))
    assert outcome.verdict == 200
    assert outcome.header(b"grpc-status") is None
    assert outcome.stream is not None
    assert outcome.stream.whole() == b"content"
    assert get(outcome.stream.trailers, b"grpc-status") == b"0"


def test_several_statuses_are_none() -> None:
    """One client would read the first, another one the last."""
    only = judged(Outcome(200, [*HEAD, *trailers(0), *trailers(14)]))
    assert (only.verdict, get_all(only.headers, b"grpc-status")) == (602, [b"2"])
    body = Body()
    outcome = streaming(body)
    body.feed(b"message")
    body.finish([*trailers(0), *trailers(14), (b"x-other", b"1")])
    assert outcome_to_settle(outcome, None).verdict == 602
    assert get_all(body.trailers, b"grpc-status") == [b"2"]
    assert get(body.trailers, b"x-other") == b"1"


@pytest.mark.parametrize(("status", "verdict"), [(503, 614), (404, 12), (401, 16), (500, 602), (200, 602), (413, 602)])
def test_an_answer_of_http_counts_as_clients_take_it(status: int, verdict: int) -> None:
    assert judged(Outcome(status, [(b"content-type", b"text/html")], b"page")).verdict == verdict


def test_a_deadline_of_the_caller_is_not_charged_to_the_upstream() -> None:
    outcome = Outcome(200, [*HEAD, *trailers(4)])
    assert judged(outcome, had_little_time=True).verdict == 4
    body = Body()
    outcome = judged(Outcome(200, list(HEAD), stream=body), had_little_time=True)
    body.finish(trailers(4))
    assert outcome_to_settle(outcome, None).verdict == 4
    assert judged(Outcome(200, [*HEAD, *trailers(14)]), had_little_time=True).verdict == 614


async def attempted(back: Back, x: Exchange, answer: bytes) -> Outcome:
    run = start(back.upstream(), x)
    await settle()
    back.server.write(answer)
    await settle()
    return outcome_of(run)


UNAVAILABLE = b"HTTP/1.1 200 OK\r\ncontent-type: application/grpc\r\ngrpc-status: 14\r\ncontent-length: 0\r\n\r\n"
LATE = b"HTTP/1.1 200 OK\r\ncontent-type: application/grpc\r\ngrpc-status: 4\r\ncontent-length: 0\r\n\r\n"


@virtual
async def test_an_attempt_at_a_call_is_judged_by_its_status() -> None:
    back, x = Back(), call()
    outcome = await attempted(back, x, UNAVAILABLE)
    assert outcome.verdict == 614
    (attempt,) = x.attempts
    assert (attempt.status, attempt.verdict, attempt.reason) == (200, 614, "")


@virtual
async def test_an_attempt_that_is_no_call_is_not() -> None:
    back = Back()
    x = call()
    x.is_grpc = False
    assert (await attempted(back, x, UNAVAILABLE)).verdict == 200


@pytest.mark.parametrize(("seconds", "verdict"), [(0.1, 4), (5.0, 604)])
@virtual
async def test_the_callers_deadline_decides_who_is_late(seconds: float, verdict: int) -> None:
    back = Back()
    now = back.env.now()
    x = call(deadline=now + seconds, caller_deadline=now + seconds)
    run = start(back.upstream(), x)
    await asyncio.sleep(seconds * 0.9)
    back.server.write(LATE)
    await settle()
    assert outcome_of(run).verdict == verdict


@virtual
async def test_the_rest_of_the_deadline_goes_on_from_the_start_of_the_attempt() -> None:
    """envoy#12578: not from the end of the upload."""
    back = Back()
    now = back.env.now()
    body = Body()
    x = call(deadline=now + 2, caller_deadline=now + 2, attempt_timeout=0.5, stream=body)
    start(back.upstream(), x)
    await settle()
    assert b"grpc-timeout: 500m\r\n" in bytes(back.server.received)
    await asyncio.sleep(0.4)
    body.feed(b"late")
    body.finish()
    await asyncio.sleep(0.11)
    (attempt,) = x.attempts
    assert attempt.ended - attempt.started == pytest.approx(0.5, abs=0.01), "the upload does not prolong the attempt"
