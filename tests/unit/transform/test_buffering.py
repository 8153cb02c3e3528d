from __future__ import annotations

import asyncio

import pytest

from sidecar.core.body import HIGH_WATER, Body
from sidecar.core.message import Headers
from sidecar.core.outcome import RESET, Failure
from sidecar.core.promise import Run
from sidecar.transform.buffering import collect


class Wire:
    """Source that records its calls."""

    def __init__(self) -> None:
        self.paused = False
        self.cancelled = False

    def pause_body(self) -> None:
        self.paused = True

    def resume_body(self) -> None:
        self.paused = False

    def cancel_body(self) -> None:
        self.cancelled = True


class Reader:
    def __init__(self) -> None:
        self.data = b""
        self.end: object = None

    def write(self, data: bytes) -> None:
        self.data += data

    def finish(self, trailers: Headers) -> None:
        self.end = trailers

    def fail(self, failure: Failure) -> None:
        self.end = failure


def collecting(body: Body, limit: int = 10) -> Run[bytes | Body | Failure]:
    return Run(collect(body, limit), lambda _: None)


def test_a_body_that_has_arrived_is_collected_at_once() -> None:
    body = Body()
    body.feed(b"ab")
    body.feed(b"c")
    body.finish()
    assert collecting(body).value == b"abc"


def test_a_collector_is_resumed_after_all_others_at_the_bodys_end() -> None:
    body, seen = Body(), []
    body.on_close(lambda failure: seen.append("settled"))
    run = Run(collect(body, 10), lambda _: seen.append("collected"))
    for piece in (b"a", b"", b"bc"):
        body.feed(piece)
    assert seen == []
    body.finish([(b"x", b"y")])
    assert run.value == b"abc"
    assert seen == ["settled", "collected"]


def test_a_body_that_breaks_off_gives_its_failure() -> None:
    body = Body()
    run = collecting(body)
    body.feed(b"ab")
    body.fail(RESET)
    assert run.value is RESET
    assert collecting(body).value is RESET


def test_a_body_announced_beyond_the_limit_is_not_read() -> None:
    body = Body(length=11)
    assert collecting(body).value is body
    body.feed(b"abc")
    assert body.is_replayable


def test_a_body_beyond_the_limit_is_passed_on_whole() -> None:
    wire = Wire()
    body = Body(wire)
    run = collecting(body)
    body.feed(b"12345")
    assert run.value is None
    body.feed(b"67890x")
    rest = run.value
    assert isinstance(rest, Body)
    body.feed(b"y" * HIGH_WATER)
    assert wire.paused, "what nobody reads holds the sender up"
    reader = Reader()
    rest.attach(reader)
    assert not wire.paused
    body.feed(b"z")
    body.finish([(b"t", b"1")])
    assert reader.data == b"1234567890x" + b"y" * HIGH_WATER + b"z"
    assert reader.end == [(b"t", b"1")]


def test_a_passed_on_body_can_fail_and_be_cancelled() -> None:
    body = Body(Wire())
    body.feed(b"x" * 11)
    rest = collecting(body).value
    assert isinstance(rest, Body)
    reader = Reader()
    rest.attach(reader)
    body.fail(RESET)
    assert reader.end is RESET

    wire = Wire()
    body = Body(wire)
    body.feed(b"x" * 11)
    rest = collecting(body).value
    assert isinstance(rest, Body)
    rest.cancel()
    assert wire.cancelled


def test_cancelling_the_collection_cancels_the_body() -> None:
    wire = Wire()
    body = Body(wire)
    run = collecting(body)
    run.cancel()
    assert isinstance(run.error, asyncio.CancelledError)
    assert wire.cancelled


@pytest.mark.parametrize("size", [9, 10, 11])
def test_a_body_of_exactly_the_limit_is_collected(size: int) -> None:
    body = Body()
    body.feed(b"x" * size)
    body.finish()
    assert (collecting(body).value == b"x" * size) is (size <= 10)
