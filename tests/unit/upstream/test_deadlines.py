"""The sweep: who is late, by how much, and that one bug does not end it for all."""

from __future__ import annotations

import asyncio

import pytest

from sidecar.core.exchange import Exchange
from sidecar.upstream.deadlines import TICK, Deadlines
from tests.support.loop import settle, virtual, virtual_env
from tests.unit.upstream.back import OK, Back, Sink, outcome_of, upload


class Entry:
    """Something with a deadline."""

    def __init__(self, deadlines: Deadlines, expires: float) -> None:
        self.deadlines = deadlines
        self.expires = expires
        self.expired: list[float] = []
        deadlines.add(self)

    def expire(self, now: float) -> None:
        self.deadlines.discard(self)
        self.expired.append(now)


@virtual
async def test_each_expires_within_a_tick_of_its_time() -> None:
    env = virtual_env()
    deadlines = Deadlines(env)
    start = env.now()
    entries = [Entry(deadlines, start + after) for after in (0.5, 0.123, 2.0, float("inf"))]
    await asyncio.sleep(3)
    for entry, after in zip(entries, (0.5, 0.123, 2.0), strict=False):
        assert len(entry.expired) == 1
        assert start + after <= entry.expired[0] <= start + after + TICK * 1.01
    assert entries[3].expired == []
    deadlines.discard(entries[3])


@virtual
async def test_no_tick_while_nothing_is_in_flight() -> None:
    env = virtual_env()
    deadlines = Deadlines(env)
    entry = Entry(deadlines, float("inf"))
    deadlines.discard(entry)
    await asyncio.sleep(1)
    assert not deadlines._ticking
    late = Entry(deadlines, env.now() + 1)
    await asyncio.sleep(2)
    assert len(late.expired) == 1


@virtual
async def test_a_bug_in_one_does_not_end_it_for_the_others() -> None:
    env = virtual_env()
    deadlines = Deadlines(env)

    class Broken(Entry):
        def expire(self, now: float) -> None:
            raise ValueError

    Broken(deadlines, env.now() + 1)
    others = [Entry(deadlines, env.now() + after) for after in (1, 2)]
    await asyncio.sleep(3)
    assert [len(entry.expired) for entry in others] == [1, 1]
    assert len(env.emitted("bug")) == 1
    assert deadlines.entries == set()


@virtual
async def test_one_that_was_ended_by_the_one_before_is_left_alone() -> None:
    env = virtual_env()
    deadlines = Deadlines(env)
    entries: list[Entry] = []

    class Loving(Entry):
        def expire(self, now: float) -> None:
            super().expire(now)
            for entry in entries:
                deadlines.discard(entry)

    entries += [Loving(deadlines, env.now() + 1) for _ in range(5)]
    await asyncio.sleep(2)
    assert sum(len(entry.expired) for entry in entries) == 1


def get() -> Exchange:
    return Exchange(b"GET", b"/", [])


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


@virtual
async def test_a_client_that_does_not_send_its_body_is_to_blame() -> None:
    back = Back()
    x, body, _ = upload(100)
    run = back.send(x, back.env.now() + 2)
    await settle()
    body.feed(b"x")
    await asyncio.sleep(3)
    assert outcome_of(run).reason == "client_timeout"


@virtual
async def test_an_upstream_that_does_not_take_the_body_is_to_blame() -> None:
    back = Back()
    x, body, _ = upload(1_000_000)
    run = back.send(x, back.env.now() + 2)
    await settle()
    back.server.transport.pause_reading()
    body.feed(b"x" * 200_000)
    await asyncio.sleep(3)
    assert outcome_of(run).reason == "timeout"


@virtual
async def test_an_upstream_that_does_not_say_100_is_not_to_blame_but_its_answer_is_due() -> None:
    back = Back()
    x, body, _ = upload(5, expects_continue=True)
    run = back.send(x, back.env.now() + 3)
    await asyncio.sleep(1.5)
    body.feed(b"hello")
    body.finish()
    await asyncio.sleep(2)
    assert outcome_of(run).reason == "timeout"
