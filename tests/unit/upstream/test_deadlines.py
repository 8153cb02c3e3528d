"""Tests of the sweep: late entries, by how much, and a bug in one entry, which does not end the sweep."""

from __future__ import annotations

import asyncio

from sidecar.upstream.deadlines import TICK, Deadlines
from tests.support.loop import virtual, virtual_env


class Entry:
    """Entry of the sweep with a deadline."""

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
    assert not deadlines.is_ticking
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
