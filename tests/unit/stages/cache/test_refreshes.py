"""Tests of the counts of refreshed answers: whether they had changed, how old they were, and what is not counted."""

from __future__ import annotations

import asyncio
from typing import Any

import pytest

from sidecar.core import metrics
from sidecar.core.body import Body
from sidecar.core.exchange import Exchange
from sidecar.core.outcome import Outcome
from tests.support.loop import settle, virtual, virtual_env
from tests.support.service import after
from tests.unit.stages.cache.test_coalescing import Client
from tests.unit.stages.cache.world import World, reply

ETAG = reply(ETag='"a"')


def streamed(content: bytes) -> Any:
    """Return a function that makes a response whose body arrives after its head."""

    def make(x: Exchange) -> Outcome:
        body = Body()
        body.feed(content)
        body.finish()
        return Outcome(200, stream=body, lines=b"")

    return make


def counted(world: World, route: str = "order") -> dict[tuple[str, str], tuple[int, int]]:
    """Return number and age of the refreshed answers by result and by what states their lifetime."""
    found = {}
    for result in ("changed", "unchanged"):
        for lifetime in ("policy", "answer"):
            labels = {"route": route, "result": result, "lifetime": lifetime}
            number, age = (
                int(world.env.meter.value(name, **labels) or 0)
                for name in (metrics.CACHE_REFRESHES, metrics.CACHE_REFRESHED_AGE)
            )
            if number or age:
                found[result, lifetime] = (number, age)
    return found


CASES = {
    "another body": ([reply(), reply(200, b"new")], {"ttl": "1m"}, {("changed", "policy"): (1, 90)}),
    "the same body": ([reply(), reply()], {"ttl": "1m"}, {("unchanged", "policy"): (1, 90)}),
    "the same body with another tag": ([ETAG, reply(ETag='"b"')], {"ttl": "1m"}, {("unchanged", "policy"): (1, 90)}),
    "a 304": ([ETAG, reply(304, b"", ETag='"a"')], {"ttl": "1m"}, {("unchanged", "policy"): (1, 90)}),
    "another status": ([reply(), reply(404)], {"ttl": "1m"}, {("changed", "policy"): (1, 90)}),
    "a lifetime of its own": (
        [reply(Cache_Control="max-age=60"), reply(200, b"new", Cache_Control="max-age=60")],
        {"ttl": "1h"},
        {("changed", "answer"): (1, 90)},
    ),
    "a validation each time": (
        [reply(Cache_Control="no-cache", ETag='"a"'), reply(304, b"", Cache_Control="no-cache", ETag='"a"')],
        {"ttl": "1h"},
        {("unchanged", "answer"): (1, 90)},
    ),
    "an age of its own": (
        [reply(Age="20"), reply(200, b"new", Age="50")], {"ttl": "1m"}, {("changed", "policy"): (1, 60)},
    ),
    "no lifetime at all": ([ETAG, reply(304, b"", ETag='"a"')], {}, {("unchanged", "policy"): (1, 90)}),
    "a stream that changed": ([reply(), streamed(b"new")], {"ttl": "1m"}, {("changed", "policy"): (1, 90)}),
    "a stream that did not": ([reply(), streamed(b"body")], {"ttl": "1m"}, {("unchanged", "policy"): (1, 90)}),
    "a hit": ([reply()], {"ttl": "1h"}, {}),
    "a failure": ([reply(), 503], {"ttl": "1m"}, {}),
    "a response that is not stored": ([reply(), reply(Cache_Control="no-store")], {"ttl": "1m"}, {}),
    "a response that was forgotten": ([reply(), reply(200, b"new")], {"ttl": "10s", "keep": "10s"}, {}),
}  # fmt: skip


@pytest.mark.parametrize("name", CASES)
async def test_refreshed_answers_are_counted(name: str) -> None:
    script, block, expected = CASES[name]
    world = World(*script, **block)
    await world.get()
    world.env.advance(90)
    answer = await world.get()
    if answer.stream is not None:
        Client(answer)
    await settle()
    assert counted(world) == expected


async def test_fractions_of_seconds_are_not_lost() -> None:
    world = World(*[reply()] * 11, ttl="100ms")
    for _ in range(11):
        await world.get()
        world.env.advance(0.25)
    assert counted(world) == {("unchanged", "policy"): (10, 2)}


@virtual
async def test_of_several_fetches_at_once_one_is_counted() -> None:
    new = after(1, reply(200, b"new"))
    world = World(reply(), new, new, new, env=virtual_env(), ttl="1m", coalesce={"max_waiters": 0})
    await world.get()
    await asyncio.sleep(90)
    await asyncio.gather(*(world.get() for _ in range(3)))
    assert world.calls == 4
    assert counted(world) == {("changed", "policy"): (1, 90)}


async def test_a_cache_that_only_observes_counts_too() -> None:
    world = World(reply(), reply(200, b"new"), ttl="1m", mode="observe")
    await world.get()
    world.env.advance(90)
    await world.get()
    assert counted(world) == {("changed", "policy"): (1, 90)}
