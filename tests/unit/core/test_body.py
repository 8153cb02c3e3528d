"""Tests of `Body`: every state, backpressure, and sending a request's body again."""

from __future__ import annotations

import gc

import pytest

from sidecar.core.body import BROKEN, CANCELLED, COMPLETE, HIGH_WATER, OPEN, Body
from sidecar.core.message import Headers
from sidecar.core.outcome import CLIENT_CLOSED, RESET, Failure


class Connection:
    """Source that records its calls."""

    def __init__(self) -> None:
        self.paused = False
        self.cancelled = 0

    def pause_body(self) -> None:
        self.paused = True

    def resume_body(self) -> None:
        self.paused = False

    def cancel_body(self) -> None:
        self.cancelled += 1


class Reader:
    """Sink that keeps everything; it asks for a pause at `full_at` bytes."""

    def __init__(self, body: Body | None = None, full_at: int | None = None) -> None:
        self.body = body
        self.full_at = full_at
        self.data = b""
        self.trailers: Headers | None = None
        self.failure: Failure | None = None

    def write(self, data: bytes) -> None:
        self.data += data
        if self.body is not None and self.full_at is not None and len(self.data) >= self.full_at:
            self.body.pause()

    def finish(self, trailers: Headers) -> None:
        assert self.trailers is None
        self.trailers = trailers

    def fail(self, failure: Failure) -> None:
        assert self.failure is None
        self.failure = failure


def closings(body: Body) -> list[Failure | None]:
    seen: list[Failure | None] = []
    body.on_close(seen.append)
    return seen


def test_pieces_go_straight_to_the_sink() -> None:
    body, reader = Body(), Reader()
    closed = closings(body)
    body.attach(reader)
    body.feed(b"a")
    assert reader.data == b"a"
    body.feed(b"b")
    body.finish([(b"x-sum", b"1")])
    assert (reader.data, reader.trailers, closed, body.state) == (b"ab", [(b"x-sum", b"1")], [None], COMPLETE)


def test_what_came_before_the_sink_is_kept_for_it() -> None:
    body, reader = Body(), Reader()
    body.feed(b"a")
    body.feed(b"b")
    body.finish()
    body.attach(reader)
    assert (reader.data, reader.trailers) == (b"ab", [])


def test_a_whole_body_can_be_taken_at_once() -> None:
    body = Body(length=2)
    body.feed(b"a")
    body.feed(b"b")
    body.finish()
    assert body.whole() == b"ab"
    assert repr(body) == "<Body whole 2/2>"


def test_a_break_reaches_the_sink_and_the_listeners_once() -> None:
    body, reader = Body(), Reader()
    closed = closings(body)
    body.attach(reader)
    body.feed(b"a")
    body.fail(RESET)
    body.fail(RESET)
    body.finish()
    body.cancel()
    assert (reader.failure, reader.trailers, closed, body.state) == (RESET, None, [RESET], BROKEN)
    assert closings(body) == [RESET]


def test_a_break_before_the_sink_comes_after_the_kept_pieces() -> None:
    body, reader = Body(), Reader()
    body.feed(b"a")
    body.fail(RESET)
    body.attach(reader)
    assert (reader.data, reader.failure) == (b"a", RESET)


def test_cancelling_tells_the_source_once_and_the_sink_nothing() -> None:
    source, reader = Connection(), Reader()
    body = Body(source)
    closed = closings(body)
    body.attach(reader)
    body.cancel()
    body.cancel()
    body.feed(b"late")
    body.finish()
    assert (source.cancelled, closed, body.state) == (1, [CLIENT_CLOSED], CANCELLED)
    assert (reader.data, reader.trailers, reader.failure) == (b"", None, None)
    assert closings(body) == [CLIENT_CLOSED]


def test_cancelling_a_whole_body_only_lets_go_of_it() -> None:
    source = Connection()
    body = Body(source)
    body.feed(b"a")
    body.finish()
    body.cancel()
    assert (source.cancelled, body.state, body.is_replayable) == (0, COMPLETE, False)
    assert closings(body) == [None]


def test_a_cancelled_body_is_not_replayable() -> None:
    body = Body()
    body.record(100)
    body.feed(b"a")
    body.cancel()
    assert not body.is_replayable


def test_without_a_sink_the_source_is_paused_at_the_high_water_mark() -> None:
    source = Connection()
    body = Body(source)
    body.feed(b"x" * (HIGH_WATER - 1))
    assert not source.paused
    body.feed(b"x")
    assert source.paused
    body.attach(Reader())
    assert not source.paused


def test_the_sinks_pause_is_passed_on_to_the_source() -> None:
    source = Connection()
    body = Body(source)
    body.attach(Reader(body, full_at=2))
    body.feed(b"a")
    assert not source.paused
    body.feed(b"b")
    assert source.paused
    body.resume()
    assert not source.paused


def test_a_sink_that_is_full_at_once_keeps_the_source_paused() -> None:
    source = Connection()
    body = Body(source)
    body.feed(b"x" * HIGH_WATER)
    body.attach(Reader(body, full_at=1))
    assert source.paused, "or the peer's bytes would pile up behind a slow reader"
    body.resume()
    assert not source.paused


def test_nobody_resumes_a_source_that_has_ended() -> None:
    source = Connection()
    body = Body(source)
    body.feed(b"x" * HIGH_WATER)
    body.finish()
    body.attach(Reader())
    assert source.paused, "it belongs to the next message by now"


def test_a_sink_that_leaves_while_it_is_fed_hears_no_more() -> None:
    body = Body()

    class Leaving(Reader):
        def write(self, data: bytes) -> None:
            super().write(data)
            body.detach()

    reader = Leaving()
    body.feed(b"a")
    body.finish()
    body.attach(reader)
    assert (reader.data, reader.trailers) == (b"a", None)


def test_a_recorded_body_is_sent_again_from_its_start() -> None:
    body, first, second = Body(), Reader(), Reader()
    body.record(100)
    body.feed(b"a")
    body.attach(first)
    body.feed(b"b")
    assert body.is_replayable
    body.rewind()
    body.feed(b"c")
    body.attach(second)
    body.finish()
    assert (first.data, second.data, first.trailers, second.trailers) == (b"ab", b"abc", None, [])
    body.rewind()
    third = Reader()
    body.attach(third)
    assert (third.data, third.trailers) == (b"abc", [])


def test_a_body_that_was_never_sent_is_replayable_without_a_record() -> None:
    body, reader = Body(), Reader()
    body.feed(b"a")
    assert body.is_replayable
    body.rewind()
    body.attach(reader)
    assert not body.is_replayable
    assert reader.data == b"a"


def test_a_body_longer_than_the_limit_is_not_kept() -> None:
    body = Body()
    body.record(3)
    body.attach(Reader())
    body.feed(b"abc")
    assert body.is_replayable
    body.feed(b"d")
    assert not body.is_replayable


def test_a_body_known_to_be_longer_is_not_recorded_at_all() -> None:
    body = Body(length=4)
    body.record(3)
    body.attach(Reader())
    body.feed(b"a")
    assert not body.is_replayable


def test_the_larger_limit_wins() -> None:
    body = Body()
    body.record(1)
    body.record(3)
    body.record(2)
    body.attach(Reader())
    body.feed(b"abc")
    assert body.is_replayable


def test_recording_too_late_records_nothing() -> None:
    body = Body()
    body.attach(Reader())
    body.feed(b"a")
    body.record(100)
    assert not body.is_replayable
    body.detach()
    body.record(100)
    assert not body.is_replayable


def test_rewinding_lets_a_paused_source_go_on() -> None:
    source = Connection()
    body = Body(source)
    body.record(100)
    body.attach(Reader(body, full_at=1))
    body.feed(b"a")
    assert source.paused
    body.rewind()
    assert not source.paused
    assert body.state == OPEN


@pytest.mark.parametrize("is_attached_first", [True, False], ids=["attached first", "attached last"])
@pytest.mark.parametrize("is_complete", [True, False], ids=["complete", "broken"])
def test_a_body_that_has_ended_refers_to_neither_end(is_attached_first: bool, is_complete: bool) -> None:
    """The sink refers to the body, so only the garbage collector would free the two."""
    source, reader = Connection(), Reader()
    body = Body(source)
    if is_attached_first:
        body.attach(reader)
    if is_complete:
        body.finish()
    else:
        body.fail(RESET)
    if not is_attached_first:
        body.attach(reader)
    assert reader.trailers is not None or reader.failure is not None
    assert not {id(source), id(reader)} & set(map(id, gc.get_referents(body)))
