"""Tests of quotas in a real Redis: its script, restarts, and Redis stalled, emptied, full, failed over, with TLS."""

from __future__ import annotations

import asyncio
from collections.abc import Iterator
from pathlib import Path
from random import Random
from typing import Any

import pytest

from sidecar.engine.pipeline import Pipeline
from sidecar.leases.quota import QuotaAsk, QuotaTable
from sidecar.leases.rate import OVERFLOW
from sidecar.stages.quota import stage as quota
from sidecar.stages.quota.spec import Spec
from sidecar.stages.rate_limit import stage as rate_limit
from sidecar.stages.rate_limit.spec import Spec as Limits
from sidecar.store.shared_limits import SharedLimits
from sidecar.store.shared_quotas import Order, SharedQuotas
from sidecar.store.spec import RedisSpec, StoreSpec
from tests.support.authority import Authority
from tests.support.clock import FakeEnv, remembering
from tests.support.redis import SERVER, Redis, Switch, replicated
from tests.support.service import ScriptedService, Store, context, exchange

pytest.importorskip("redis")
from sidecar.store.quota_script import RedisLedger

pytestmark = pytest.mark.skipif(SERVER is None, reason="there is no redis-server here")
DAY = 86_400.0


@pytest.fixture
def redis(tmp_path: Path) -> Iterator[Redis]:
    server = Redis(tmp_path)
    yield server
    server.kill()


class Process:
    """Quota or rate limit of 10 requests, in one process."""

    def __init__(
        self, url: str, kind: str = "quota", *, timeout: str = "10s", names: Any = None, **settings: Any
    ) -> None:
        self.env: FakeEnv = remembering(asyncio.get_running_loop(), seed=None, names=names)
        store = StoreSpec.model_validate({"redis": {"url": url, "timeout": timeout}})
        stage: Any
        if kind == "quota":
            self.store: Any = SharedQuotas("fleet", store, self.env)
            block = Spec.model_validate([{"name": "day", "max": 10, "per": "day", "store": "fleet", **settings}])
            resources = {("quota_store", "fleet"): self.store}
            stage = quota.build(block, context(self.env, store=Store(), resources=resources))
        else:
            self.store = SharedLimits("fleet", store, self.env)
            limit = {"name": "tenant", "rate": "1/m", "burst": 9, "store": "fleet", **settings}
            limits = Limits.model_validate([limit])
            resources = {("store", "fleet"): self.store}
            stage = rate_limit.build(limits, context(self.env, store=Store(), resources=resources))
        self.call = Pipeline([stage], ScriptedService(200))

    async def admitted(self, number: int) -> int:
        found = await asyncio.gather(*(self.call(exchange()) for _ in range(number)))
        return sum(each.status == 200 for each in found)

    async def until(self, is_up: bool) -> None:
        for _ in range(1000):
            if self.store.is_up == is_up:
                return
            await asyncio.sleep(0.02)
        raise AssertionError(f"the store is still {'down' if is_up else 'up'}: {self.store.last_error}")

    async def close(self) -> None:
        if isinstance(self.store, SharedQuotas):
            await self.store.give_back()
        else:
            self.store.retire()
            await self.store._counts.close()


async def test_the_script_grants_what_its_model_grants(redis: Redis) -> None:
    ledger = RedisLedger(RedisSpec.model_validate({"url": redis.url, "timeout": "10s"}), None, lambda: 0.0)
    rng, table, granted = Random(7), QuotaTable(50.0, 3), 0
    for _ in range(400):
        firm = rng.choice((0.0, 0.0, 1.0, 2.5))
        want = firm + rng.choice((0.0, 1.0, 10.0))
        back, owed, known = rng.choice((0.0, 1.0, 3.0)), rng.choice((0.0, 0.0, 0.5)), rng.choice((0.0, 4.0))
        key = rng.choice(("a", "b", "c", "d", "e", OVERFLOW))
        ask = QuotaAsk(key, 0.0, firm, want, back, owed, known)
        _, (found,) = await ledger.exchange("me", [Order("q", 50.0, 3, DAY, ask)])
        expected = table.grant(ask)
        assert found == pytest.approx(expected)
        granted += found.units > 0
    assert granted > 50
    await ledger.close()


async def test_a_quota_outlives_its_processes_and_what_they_did_not_use_comes_back(redis: Redis) -> None:
    first = Process(redis.url, max=1000)
    assert await first.admitted(6) == 6
    await first.close()
    second, third = Process(redis.url, max=8), Process(redis.url, max=8)
    assert await second.admitted(1) + await third.admitted(5) == 2
    await second.close()
    await third.close()


async def test_a_redis_that_was_emptied_learns_the_counts_again(redis: Redis) -> None:
    process = Process(redis.url)
    assert await process.admitted(7) == 7
    assert redis.command("FLUSHALL") == "+OK"
    assert await process.admitted(7) == 3
    await process.close()


async def test_a_full_redis_counts_quotas(tmp_path: Path) -> None:
    redis = Redis(tmp_path, "--maxmemory", "1mb")
    try:
        process = Process(redis.url)
        assert await process.admitted(12) == 10
        assert process.store.is_up
        await process.close()
    finally:
        redis.kill()


@pytest.mark.parametrize("kind", ["quota", "rate_limit"])
async def test_processes_of_a_stalled_redis_admit_their_shares_and_no_more(redis: Redis, kind: str) -> None:
    """Nothing waits beyond the timeout, and what was admitted meanwhile is told afterwards."""
    processes = [Process(redis.url, kind, timeout="200ms") for _ in range(2)]
    assert [await each.admitted(1) for each in processes] == [1, 1]
    await asyncio.sleep(0.05)
    assert await processes[0].admitted(1) == 1
    with redis.stalled():
        admitted = sum([await each.admitted(20) for each in processes])
        again = sum([await each.admitted(20) for each in processes])
        assert not any(each.store.is_up for each in processes)
    assert admitted + again <= 10, "as many as were left, and for a rate its burst in shares"
    for each in processes:
        await each.until(is_up=True)
    assert 3 + admitted + again + await processes[0].admitted(20) <= 10 + (kind == "rate_limit") * 10
    for each in processes:
        await each.close()


@pytest.mark.parametrize("kind", ["quota", "rate_limit"])
async def test_after_a_failover_the_replica_goes_on_with_the_counts(tmp_path: Path, redis: Redis, kind: str) -> None:
    assert redis.command("CONFIG", "SET", "repl-diskless-sync-delay", "0") == "+OK"
    (tmp_path / "replica").mkdir()
    replica = Redis(tmp_path / "replica", "--replicaof", "127.0.0.1", str(redis.port))
    try:
        await replicated(replica)
        names = Switch(redis.port)
        process = Process("redis://store.example:6379/0", kind, names=names, on_store_failure="deny")
        assert await process.admitted(6) == 6
        assert int(redis.command("WAIT", "1", "10000").removeprefix(":")) == 1
        redis.kill()
        names.ports[0] = replica.port
        await process.admitted(1)
        await process.until(is_up=False)
        replica.command("REPLICAOF", "NO", "ONE")
        await process.until(is_up=True)
        assert 1 <= await process.admitted(20) + 6 <= 10
        other = Process("redis://store.example:6379/0", kind, names=names)
        assert await other.admitted(20) == 0
        await process.close()
        await other.close()
    finally:
        replica.kill()


@pytest.mark.parametrize("kind", ["quota", "rate_limit"])
async def test_a_user_with_few_rights_over_tls(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, kind: str) -> None:
    authority = Authority(tmp_path / "tls")
    rights = ["~sidecar:*", "+evalsha", "+eval", "+del", "+time", "+hmget", "+hset", "+hget", "+hlen", "+zadd"]
    rights += ["+zremrangebyscore", "+pexpire", "+zcard", "+get", "+set", "+select", "+client", "+hello", "+auth"]
    users = ["--user", "limits", "on", ">a secret", *rights, "--user", "default", "off"]
    redis = Redis(tmp_path, *users, tls={**authority.sign("127.0.0.1"), "ca": authority.ca_file})
    try:
        url = redis.url.replace("rediss://", "rediss://limits:a%20secret@")
        stranger = Process(url, kind, on_store_failure="deny")
        assert await stranger.admitted(1) == 0
        assert "certificate verify failed" in stranger.store.last_error.lower()
        await stranger.close()
        monkeypatch.setenv("SSL_CERT_FILE", authority.ca_file)
        process = Process(url, kind)
        assert await process.admitted(12) == 10
        assert process.store.last_error == ""
        await process.close()
    finally:
        redis.kill()
