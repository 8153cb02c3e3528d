"""Tests of a body that several readers and the store receive."""

from __future__ import annotations

from sidecar.cache.tee import STORED, UNSTORED, ByteBudget, Tee
from sidecar.core.body import Body
from sidecar.core.message import Headers
from sidecar.core.outcome import RESET, Failure


class Upstream:
    """Source that records its calls."""

    def __init__(self) -> None:
        self.log: list[str] = []

    def pause_body(self) -> None:
        self.log.append("pause")

    def resume_body(self) -> None:
        self.log.append("resume")

    def cancel_body(self) -> None:
        self.log.append("cancel")


class Client:
    """Sink that collects a body."""

    def __init__(self, body: Body) -> None:
        self.data = b""
        self.end: object = None
        body.attach(self)

    def write(self, data: bytes) -> None:
        self.data += data

    def finish(self, trailers: Headers) -> None:
        self.end = trailers

    def fail(self, failure: Failure) -> None:
        self.end = failure


class Kept:
    """Tee of ten bytes, and the bodies that it passed to the store."""

    def __init__(self, length: int | None = None, limit: int = 10, budget: int = 1000) -> None:
        self.upstream = Upstream()
        self.body = Body(self.upstream, length)
        self.budget = ByteBudget(budget)
        self.whole: list[bytes | None] = []
        self.tee = Tee(self.body, limit, self.budget, self.whole.append)


def test_every_reader_gets_the_whole_body() -> None:
    kept = Kept()
    first = kept.tee.reader()
    kept.body.feed(b"ab")
    kept.tee.start()
    kept.body.feed(b"cd")
    second = Client(kept.tee.reader())
    kept.body.feed(b"ef")
    assert kept.budget.used == 6
    kept.body.finish([(b"t", b"1")])
    assert Client(first).data == second.data == b"abcdef"
    assert second.end == [(b"t", b"1")]
    assert (kept.whole, kept.tee.state, kept.budget.used) == ([b"abcdef"], STORED, 0)


def test_a_body_is_stored_before_readers_see_its_end() -> None:
    kept = Kept()
    seen: list[list[bytes | None]] = []
    kept.tee.reader().on_close(lambda _: seen.append(list(kept.whole)))
    kept.tee.start()
    kept.body.feed(b"a")
    kept.body.finish()
    assert seen == [[b"a"]]


def test_a_body_that_breaks_off_is_not_stored() -> None:
    kept = Kept()
    client = Client(kept.tee.reader())
    kept.tee.start()
    kept.body.feed(b"ab")
    kept.body.fail(RESET)
    assert (kept.whole, kept.tee.state, client.end, kept.budget.used) == ([None], UNSTORED, RESET, 0)


def test_a_body_shorter_than_announced_is_not_stored() -> None:
    kept = Kept(length=5)
    kept.tee.start()
    kept.body.feed(b"ab")
    kept.body.finish()
    assert kept.whole == [None]


def test_a_body_beyond_the_limit_becomes_a_stream() -> None:
    kept = Kept()
    client = Client(kept.tee.reader())
    kept.tee.start()
    kept.body.feed(b"12345678")
    kept.body.feed(b"901")
    assert (kept.whole, kept.tee.is_open, kept.budget.used) == ([None], False, 0)
    kept.body.feed(b"2")
    kept.body.finish()
    assert client.data == b"123456789012"
    assert kept.whole == [None]


def test_a_body_beyond_the_budget_is_not_stored() -> None:
    kept = Kept(budget=5)
    kept.tee.start()
    kept.body.feed(b"123")
    kept.body.feed(b"456")
    assert (kept.whole, kept.budget.used) == ([None], 0)


def test_a_slow_reader_does_not_pause_a_buffered_body() -> None:
    kept = Kept()
    slow = kept.tee.reader()
    kept.tee.start()
    slow.pause()
    kept.body.feed(b"ab")
    assert "pause" not in kept.upstream.log


def test_the_slowest_reader_paces_an_unstored_body() -> None:
    kept = Kept()
    slow, fast = kept.tee.reader(), kept.tee.reader()
    kept.tee.start()
    slow.pause()
    kept.body.feed(b"x" * 11)
    assert kept.upstream.log == ["pause"]
    fast.pause()
    fast.resume()
    assert kept.upstream.log == ["pause"]
    slow.resume()
    assert kept.upstream.log == ["pause", "resume"]


def test_a_paused_reader_that_leaves_resumes_the_body() -> None:
    kept = Kept()
    slow, other = kept.tee.reader(), Client(kept.tee.reader())
    kept.tee.start()
    slow.pause()
    kept.body.feed(b"x" * 11)
    slow.cancel()
    assert kept.upstream.log == ["pause", "resume"]
    kept.body.feed(b"y")
    assert other.data == b"x" * 11 + b"y"


def test_a_body_without_readers_is_still_stored() -> None:
    kept = Kept()
    only = kept.tee.reader()
    kept.tee.start()
    kept.body.feed(b"ab")
    only.cancel()
    kept.body.feed(b"cd")
    kept.body.finish()
    assert kept.whole == [b"abcd"]


def test_an_unstored_body_without_readers_is_cancelled() -> None:
    kept = Kept()
    only = kept.tee.reader()
    kept.tee.start()
    kept.body.feed(b"x" * 11)
    only.cancel()
    assert kept.upstream.log == ["cancel"]


def test_a_body_without_readers_is_cancelled_at_the_limit() -> None:
    kept = Kept()
    only = kept.tee.reader()
    kept.tee.start()
    only.cancel()
    kept.body.feed(b"x" * 11)
    assert kept.upstream.log == ["cancel"]
