"""Tests of leases from a real Redis: the script against its model, Redis killed, stalled, emptied, full, with users."""

from __future__ import annotations

import asyncio
from collections.abc import Iterator
from pathlib import Path
from random import Random
from typing import Any

import pytest

from sidecar.core import events
from sidecar.leases.rate import Ask, RateLessor
from sidecar.store.script import LEASES
from sidecar.store.spec import RedisSpec
from tests.support.redis import SERVER, Limited, Redis
from tests.support.service import exchange

pytest.importorskip("redis")
from sidecar.store.redis import RedisScript

pytestmark = pytest.mark.skipif(SERVER is None, reason="there is no redis-server here")


@pytest.fixture
def redis(tmp_path: Path) -> Iterator[Redis]:
    server = Redis(tmp_path)
    yield server
    server.kill()


def process_of(redis: Redis, url: str = "", **limit: Any) -> Limited:
    """Return a limit of 10 requests at once and 1 a minute, in one process."""
    return Limited(url or redis.url, "rate_limit", **limit)


async def test_the_script_grants_what_its_model_grants(redis: Redis) -> None:
    """Random asks at random instants; the clock of Redis is replaced by an argument."""
    text = LEASES.replace("redis.call('time')", "{0, tonumber(ARGV[#ARGV])}")
    script = RedisScript(RedisSpec.model_validate({"url": redis.url, "timeout": "10s"}), text, None)
    rng, wall = Random(7), 1_000_000.0
    lessor = RateLessor(50.0, 10.0, 0.1, debt=0.3)
    stamps = [0.0]
    compared = 0
    for _ in range(400):
        wall += round(rng.choice((0.0, 1000.0, 8000.0, 60_000.0)) * rng.random())
        firm = rng.choice((0.0, 0.0, 1.0, 3.0))
        want = max(firm, rng.choice((0.0, 1.0, 6.0, 20.0)))
        stamp = rng.choice(stamps)
        back = rng.choice((0.0, 1.0, 2.0)) if stamp else 0.0
        least = min(firm, 1.0)
        owed = rng.choice((0.0,) * 30 + (1.0, 7.5, 20.0))
        numbers = (20_000.0, 200_000.0, 100_000.0, 300_000.0, least, firm, want, back, stamp, owed)
        arguments = ["-1", "me", "", "epoch", *(f"{each:.17g}" for each in numbers), str(wall)]
        found = await script.run(["c", "p", "key"], arguments)
        grant = lessor.exchange(Ask("key", least, firm, want, back, stamp / 1e6, owed), wall / 1e6)
        assert float(found[0]) == wall
        assert float(found[3]) == pytest.approx(grant.tokens, abs=1e-6)
        assert float(found[4]) / 1e6 == pytest.approx(grant.start, abs=1e-6)
        assert float(found[5]) / 1e6 == pytest.approx(grant.wait, abs=1e-6)
        if grant.tokens:
            compared += 1
            stamps = [*stamps[-3:], wall]
    assert compared > 50
    await script.close()


async def test_processes_share_a_limit_and_a_new_one_finds_it_used(redis: Redis) -> None:
    first, second = process_of(redis), process_of(redis)
    assert await first.admitted(6) + await second.admitted(8) == 10
    third = process_of(redis)
    assert await third.admitted(3) == 0
    for each in (first, second, third):
        await each.close()


async def test_a_limit_holds_while_redis_is_gone_and_an_emptied_redis_grants_no_burst(
    redis: Redis,
) -> None:
    process = process_of(redis)
    assert await process.admitted(4) == 4
    redis.kill()
    await process.store._counts.disconnect()
    assert await process.admitted(20) <= 6
    await process.until(is_up=False)
    assert await process.admitted(20) == 0
    redis.start()
    await process.until(is_up=True)
    assert await process.admitted(20) == 0
    assert [name for name, _ in process.env.events] == [events.STORE_DOWN, events.STORE_UP]
    await process.close()


async def test_a_stalled_redis_holds_no_request_beyond_its_timeout(redis: Redis) -> None:
    process = process_of(redis, on_store_failure="deny", key="header.x-tenant")
    assert await process.admitted(1) == 1
    with redis.stalled(), process.impatient():
        found = await asyncio.gather(*(process.call(exchange(headers={"x-tenant": str(n)})) for n in range(20)))
        assert [each.status for each in found] == [429] * 20
        assert not process.store.is_up
        assert "within 0.2 s" in process.store.last_error
    await process.until(is_up=True)
    await process.close()


@pytest.mark.parametrize("write", [("SET", "garbage"), ("RPUSH", "1"), ("SET", "''")])
async def test_a_value_that_is_no_count_is_replaced(redis: Redis, write: tuple[str, str]) -> None:
    url = redis.url.removesuffix("1") + "0"
    command, value = write
    process = process_of(redis, url, key="header.x-tenant")
    (name,) = process.store.limits
    redis.command(command, f"sidecar:limits:{name}:bad", value)
    for tenant in ("good", "bad"):
        found = await asyncio.gather(*(process.call(exchange(headers={"x-tenant": tenant})) for _ in range(12)))
        assert sum(each.status == 200 for each in found) == 10
    assert process.store.last_error == ""
    await process.close()


async def test_a_full_redis_grants_leases(tmp_path: Path) -> None:
    redis = Redis(tmp_path, "--maxmemory", "1mb")
    try:
        process = process_of(redis)
        assert await process.admitted(12) == 10
        assert process.store.is_up
        await process.close()
    finally:
        redis.kill()


async def test_a_user_of_an_access_list_needs_only_these_commands(tmp_path: Path) -> None:
    rights = ["~sidecar:*", "+evalsha", "+eval", "+del", "+time", "+hmget", "+hset", "+zadd", "+zremrangebyscore"]
    rights += ["+pexpire", "+zcard", "+get", "+set", "+select"]
    redis = Redis(tmp_path, "--user", "limits", "on", ">a secret", *rights, "--user", "default", "off")
    try:
        process = process_of(redis, redis.url.replace("redis://", "redis://limits:a%20secret@"))
        assert await process.admitted(12) == 10
        assert process.store.last_error == ""
        await process.close()
        wrong = process_of(redis, redis.url.replace("redis://", "redis://limits:wrong@"), on_store_failure="deny")
        assert await wrong.admitted(1) == 0
        assert "invalid username-password" in wrong.store.last_error
        await wrong.close()
    finally:
        redis.kill()
