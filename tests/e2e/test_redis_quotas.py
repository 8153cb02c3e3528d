"""Tests of quotas in a real Redis: its script, restarts, and Redis stalled, emptied, full, failed over, with TLS."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from random import Random

import pytest

from sidecar.leases.quota import QuotaAsk, QuotaTable
from sidecar.leases.rate import OVERFLOW
from sidecar.store.shared_quotas import Order
from sidecar.store.spec import RedisSpec
from tests.support.authority import Authority
from tests.support.redis import SERVER, Limited, Redis, Switch, replicated

pytest.importorskip("redis")
from sidecar.store.quota_script import RedisLedger

pytestmark = pytest.mark.skipif(SERVER is None, reason="there is no redis-server here")
DAY = 86_400.0


@pytest.fixture
def redis(tmp_path: Path) -> Iterator[Redis]:
    server = Redis(tmp_path)
    yield server
    server.kill()


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
    first = Limited(redis.url, "quota", max=1000)
    assert await first.admitted(6) == 6
    await first.close()
    second, third = Limited(redis.url, "quota", max=8), Limited(redis.url, "quota", max=8)
    assert await second.admitted(1) + await third.admitted(5) == 2
    await second.close()
    await third.close()


async def test_a_redis_that_was_emptied_learns_the_counts_again(redis: Redis) -> None:
    process = Limited(redis.url, "quota")
    assert await process.admitted(7) == 7
    assert redis.command("FLUSHALL") == "+OK"
    assert await process.admitted(7) == 3
    await process.close()


async def test_a_redis_that_was_emptied_believes_the_process_that_knows_most(redis: Redis) -> None:
    first, second = Limited(redis.url, "quota"), Limited(redis.url, "quota")
    assert await first.admitted(1) + await second.admitted(6) == 7
    assert redis.command("FLUSHALL") == "+OK"
    assert await first.admitted(1) + await second.admitted(9) + await first.admitted(9) <= 4
    await first.close()
    await second.close()


async def test_a_full_redis_counts_quotas(tmp_path: Path) -> None:
    redis = Redis(tmp_path, "--maxmemory", "1mb")
    try:
        process = Limited(redis.url, "quota")
        assert await process.admitted(12) == 10
        assert process.store.is_up
        await process.close()
    finally:
        redis.kill()


@pytest.mark.parametrize("kind", ["quota", "rate_limit"])
async def test_a_redis_that_speaks_no_resp3(tmp_path: Path, kind: str) -> None:
    """With RESP3 a connection takes two more round trips, and the server may change its timeouts and its address."""
    redis = Redis(tmp_path, "--rename-command", "HELLO", "''")
    try:
        process = Limited(redis.url, kind)
        assert await process.admitted(12) == 10
        assert process.store.last_error == ""
        await process.close()
    finally:
        redis.kill()


@pytest.mark.parametrize("kind", ["quota", "rate_limit"])
async def test_processes_of_a_stalled_redis_admit_their_shares_and_no_more(redis: Redis, kind: str) -> None:
    """Nothing waits beyond the timeout, and what was admitted meanwhile is told afterwards."""
    processes = [Limited(redis.url, kind) for _ in range(2)]
    assert [await each.admitted(1) for each in processes] == [1, 1]
    assert await processes[0].admitted(1) == 1
    with redis.stalled(), processes[0].impatient(), processes[1].impatient():
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
        process = Limited("redis://store.example:6379/0", kind, names=names, on_store_failure="deny")
        assert await process.admitted(6) == 6
        assert int(redis.command("WAIT", "1", "10000").removeprefix(":")) == 1
        redis.kill()
        names.ports[0] = replica.port
        await process.admitted(1)
        await process.until(is_up=False)
        replica.command("REPLICAOF", "NO", "ONE")
        await process.until(is_up=True)
        assert 1 <= await process.admitted(20) + 6 <= 10
        other = Limited("redis://store.example:6379/0", kind, names=names)
        assert await other.admitted(20) == 0
        await process.close()
        await other.close()
    finally:
        replica.kill()


@pytest.mark.parametrize("kind", ["quota", "rate_limit"])
async def test_a_user_with_few_rights_over_tls(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, kind: str) -> None:
    authority = Authority(tmp_path / "tls")
    rights = ["~sidecar:*", "+evalsha", "+eval", "+del", "+time", "+hmget", "+hset", "+hget", "+hlen", "+zadd"]
    rights += ["+zremrangebyscore", "+pexpire", "+zcard", "+get", "+set", "+select"]
    users = ["--user", "limits", "on", ">a secret", *rights, "--user", "default", "off"]
    redis = Redis(tmp_path, *users, tls={**authority.sign("store.example"), "ca": authority.ca_file})
    try:
        url, names = "rediss://limits:a%20secret@store.example:6379/1", Switch(redis.port)
        stranger = Limited(url, kind, names=names, on_store_failure="deny")
        assert await stranger.admitted(1) == 0
        assert "certificate verify failed" in stranger.store.last_error.lower()
        await stranger.close()
        monkeypatch.setenv("SSL_CERT_FILE", authority.ca_file)
        process = Limited(url, kind, names=names)
        assert await process.admitted(12) == 10
        assert process.store.last_error == ""
        await process.close()
        elsewhere = Limited(url.replace("store.", "other."), kind, names=names, on_store_failure="deny")
        assert await elsewhere.admitted(1) == 0
        assert "hostname mismatch" in elsewhere.store.last_error.lower()
        await elsewhere.close()
    finally:
        redis.kill()
