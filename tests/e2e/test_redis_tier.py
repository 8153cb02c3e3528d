"""Tests of the shared tier with a real Redis: shared fills and purges; Redis killed, stalled, full, or corrupt."""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncIterator, Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from sidecar.cache import redis_tier as tier
from sidecar.cache.codec import Record, encode
from sidecar.cache.spec import CacheSpec
from sidecar.cache.store import Store
from sidecar.core import events, metrics
from sidecar.core.outcome import Outcome
from tests.support.authority import Authority
from tests.support.clock import FakeEnv, remembering
from tests.support.loop import others_done
from tests.support.redis import SERVER, Redis, Switch, replicated
from tests.unit.stages.cache.world import World, is_hit, reply, said

pytest.importorskip("redis")
pytestmark = pytest.mark.skipif(SERVER is None, reason="there is no redis-server here")
FRESH = reply(Cache_Control="max-age=60")


@pytest.fixture
def redis(tmp_path: Path) -> Iterator[Redis]:
    server = Redis(tmp_path)
    yield server
    server.kill()


@pytest.fixture(autouse=True)
def quick(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(tier, "SYNC_EVERY", 0.05)


def real_env(names: Any = None) -> FakeEnv:
    return remembering(asyncio.get_running_loop(), seed=None, names=names)


Make = Callable[..., World]


@pytest.fixture
async def sidecar() -> AsyncIterator[Make]:
    """Yield a function that makes sidecars, which are closed at the end."""
    stores: list[Store] = []

    def make(
        url: str, *script: Any, timeout: str = "30s", memory: str = "64MiB", names: Any = None, **block: Any
    ) -> World:
        env = real_env(names)
        spec = {"memory": {"max_size": memory}, "redis": {"url": url, "timeout": timeout}}
        store = Store("shared", CacheSpec.model_validate(spec), env)
        stores.append(store)
        return World(*script, env=env, store=store, **block)

    yield make
    for store in stores:
        store.close()
    await others_done()


def memory_of(world: World) -> int:
    return len(world.store.memory)


@pytest.fixture
def loads(monkeypatch: pytest.MonkeyPatch) -> list[Any]:
    """Return the look-ups of Redis so far."""
    found: list[Any] = []
    load = tier.RedisTier._load
    monkeypatch.setattr(tier.RedisTier, "_load", lambda self, *args: (found.append(args), load(self, *args))[1])
    return found


async def eventually(condition: Callable[[], bool], seconds: float = 60.0) -> None:
    until = time.monotonic() + seconds  # a test fails rather than hangs
    while not condition():
        assert time.monotonic() < until, "it did not happen"
        await asyncio.sleep(0.01)


async def written(world: World) -> None:
    """Wait until no write to Redis is in flight."""
    assert world.store.shared is not None
    await asyncio.sleep(0)
    await eventually(lambda: not world.store.shared._in_flight)


async def listening(world: World) -> None:
    """Wait until a sidecar knows its position in the stream of purges; it does not receive earlier ones."""
    tier = world.store.shared
    assert tier is not None
    await eventually(lambda: bool(tier._seen))


async def test_two_sidecars_share_a_fill(redis: Redis, sidecar: Make) -> None:
    one, other = sidecar(redis.url, FRESH), sidecar(redis.url, 500)
    await one.get()
    await written(one)
    answer = await other.get()
    assert (answer.status, answer.body, other.calls) == (200, b"body", 0)
    assert said(answer).startswith(b"sidecar; hit; ttl=")
    assert said(answer).endswith(b"; detail=redis")
    assert not said(await other.get()).endswith(b"redis"), "now it is in memory"


async def test_a_thousand_requests_ask_redis_once(redis: Redis, sidecar: Make, loads: list[Any]) -> None:
    one, other = sidecar(redis.url, FRESH), sidecar(redis.url, 500)
    await one.get()
    await written(one)
    loads.clear()
    answers = await asyncio.gather(*(other.get() for _ in range(1000)))
    assert ({answer.body for answer in answers}, len(loads), other.calls) == ({b"body"}, 1, 0)


async def test_variants_are_shared(redis: Redis, sidecar: Make) -> None:
    def by_foo(x: Any) -> Outcome:
        return reply(200, x.header(b"foo") or b"", Cache_Control="max-age=60", Vary="Foo")(x)

    one, other = sidecar(redis.url, by_foo), sidecar(redis.url, by_foo)
    for value in ("1", "2"):
        await one.get(Foo=value)
    await written(one)
    for value in ("1", "2"):
        assert (await other.get(Foo=value)).body == value.encode()
    assert other.calls == 0
    await other.get(Foo="3")
    assert other.calls == 1


async def test_a_stale_answer_is_validated_by_the_other(redis: Redis, sidecar: Make) -> None:
    one = sidecar(redis.url, reply(Cache_Control="max-age=0", ETag='"a"'))
    other = sidecar(redis.url, reply(304, b"", ETag='"a"', Cache_Control="max-age=60"))
    await one.get()
    await written(one)
    assert (await other.get()).body == b"body"
    assert other.sent(b"if-none-match") == b'"a"'


PURGES: list[Callable[[World], Any]] = [
    lambda world: world.store.purge_uri("http://orders/a"),
    lambda world: world.store.purge_prefix("http://orders/"),
    lambda world: world.store.purge_tag("t"),
    lambda world: world.store.purge_everything(),
]


@pytest.mark.parametrize("purge", PURGES)
async def test_a_purge_is_seen_by_all(redis: Redis, sidecar: Make, purge: Callable[[World], Any]) -> None:
    fresh = reply(Cache_Control="max-age=60", Cache_Tag="t")
    one, other, third = (sidecar(redis.url, fresh) for _ in range(3))
    await one.get()
    await written(one)
    await other.get()
    assert (memory_of(other), other.calls) == (1, 0)
    await listening(other)
    purge(one)
    await written(one)
    await third.get()
    assert third.calls == 1, "what lies in Redis is not believed any more"
    await eventually(lambda: memory_of(other) == 0)


async def test_a_write_is_seen_by_all(redis: Redis, sidecar: Make) -> None:
    one, other = sidecar(redis.url, FRESH), sidecar(redis.url, FRESH)
    await one.get()
    await written(one)
    await other.get()
    await listening(other)
    await one.ask("PUT")
    await eventually(lambda: memory_of(other) == 0)
    assert not is_hit(await other.get())


async def test_an_answer_fetched_during_a_purge_elsewhere_is_invalid(redis: Redis, sidecar: Make) -> None:
    asked, may_answer = asyncio.Event(), asyncio.Event()

    async def held(x: Any) -> Outcome:
        asked.set()
        await may_answer.wait()
        return FRESH(x)

    one, slow, third = sidecar(redis.url, FRESH), sidecar(redis.url, held), sidecar(redis.url, FRESH)
    task = asyncio.ensure_future(slow.get())
    await asked.wait()
    await one.ask("DELETE")
    await written(one)
    may_answer.set()
    await task
    await written(slow)
    await third.get()
    assert third.calls == 1


async def test_missed_purges_clear_the_memory(redis: Redis, sidecar: Make, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(tier, "STREAM_LENGTH", 5)
    one, other = sidecar(redis.url, FRESH), sidecar(redis.url, FRESH)
    await one.get()
    await written(one)
    await other.get()
    mine, theirs = one.store.shared, other.store.shared
    assert mine is not None
    assert theirs is not None
    await written(other)
    theirs._timer.cancel()
    await theirs._sync()
    assert memory_of(other) == 1
    for number in range(6):
        await mine._purge("tag", b"%d" % number)
    await theirs._sync()
    assert memory_of(other) == 0


async def test_a_dead_redis_is_asked_once(sidecar: Make, loads: list[Any]) -> None:
    world = sidecar("redis://127.0.0.1:1/0", FRESH)
    for number in range(100):
        assert (await world.get(f"/{number}")).status == 200
    assert len(loads) <= 1
    assert is_hit(await world.get("/0"))
    assert world.env.emitted(events.CACHE_TIER_DOWN)[0]["cache"] == "shared"
    shown = world.store.describe()["redis"]
    assert (shown["up"], shown["errors"] > 0) == (False, True)
    assert world.env.meter.value(metrics.CACHE_TIER_UP, cache="shared") == 0


async def test_a_killed_redis_is_used_again(redis: Redis, sidecar: Make, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(tier, "SLOWEST_PROBE", 0.2)
    world, other = sidecar(redis.url, FRESH), sidecar(redis.url, FRESH)
    await world.get()
    await written(world)
    redis.kill()
    for number in range(50):
        assert (await world.get(f"/{number}")).status == 200
    assert (await other.get("/0")).status == 200
    await eventually(lambda: not world.store.describe()["redis"]["up"] and not other.store.describe()["redis"]["up"])
    world.store.purge_uri("http://orders/a")
    redis.start()
    await eventually(lambda: world.store.describe()["redis"]["up"] and other.store.describe()["redis"]["up"])
    assert world.env.emitted(events.CACHE_TIER_UP) == [{"cache": "shared"}]
    await world.get("/new")
    await written(world)
    assert is_hit(await other.get("/new"))


async def test_a_stalled_redis_is_asked_by_those_who_come_together_and_no_more(
    redis: Redis, sidecar: Make, loads: list[Any]
) -> None:
    world = sidecar(redis.url, FRESH, timeout="100ms")
    await world.get()
    await written(world)
    with redis.stalled():
        answers = await asyncio.gather(*(world.get(f"/{number}") for number in range(50)))
        loads.clear()
        answers += [await world.get(f"/x{number}") for number in range(50)]
        assert not loads
    assert {answer.status for answer in answers} == {200}


async def test_a_client_that_leaves_is_no_fault_of_redis(redis: Redis, sidecar: Make) -> None:
    world = sidecar(redis.url, FRESH, timeout="60s")
    await listening(world)
    with redis.stalled():
        task = asyncio.ensure_future(world.get())
        await asyncio.sleep(0.05)
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task
    assert world.store.describe()["redis"]["up"]


async def test_a_full_redis_still_answers(tmp_path: Path, sidecar: Make) -> None:
    full = Redis(tmp_path, "--maxmemory", "1mb", "--maxmemory-policy", "noeviction")
    try:
        world = sidecar(full.url, reply(200, b"x" * 100_000, Cache_Control="max-age=60"))
        for number in range(30):
            assert (await world.get(f"/{number}")).status == 200
            await written(world)
        shown = world.store.describe()["redis"]
        assert shown["up"]
        assert "maxmemory" in shown["last_error"]
        assert is_hit(await world.get("/29"))
    finally:
        full.kill()


@pytest.mark.parametrize("lie", ["noise", "other", "list", "old"])
async def test_wrong_records_in_redis_are_misses(redis: Redis, sidecar: Make, lie: str) -> None:
    one, other = sidecar(redis.url, FRESH), sidecar(redis.url, FRESH)
    await one.get()
    await one.get("/evil")
    await written(one)
    assert one.store.shared is not None
    client = one.store.shared._client.client
    keys = {key.rpartition(b"/")[2]: key for key in await client.keys("sidecar:shared:e:*")}
    stored = await client.get(keys[b"a"])
    if lie == "noise":
        await client.set(keys[b"a"], stored[:20] + b"X" + stored[21:])
    elif lie == "other":
        await client.set(keys[b"a"], await client.get(keys[b"evil"]))
    elif lie == "list":
        await client.delete(keys[b"a"])
        await client.lpush(keys[b"a"], "x")
    else:
        entry = one.store.memory.hottest(9)[0]
        await client.set(keys[b"a"], encode(Record(entry, b"9/9"), one.env.now(), one.env.wall()))
    assert (await other.get()).status == 200
    assert other.calls == 1
    assert other.store.describe()["redis"]["up"]


@pytest.mark.parametrize("kind", ["e:", "u:", "g", "p"])
async def test_of_a_huge_value_no_more_is_read_than_memory_would_keep(redis: Redis, sidecar: Make, kind: str) -> None:
    world = sidecar(redis.url, FRESH, FRESH, memory="1MiB")
    assert world.store.shared is not None
    client = world.store.shared._client.client
    await world.get()
    await written(world)
    (key,) = await client.keys("sidecar:shared:e:*")
    huge = key if kind == "e:" else b"sidecar:shared:" + (kind.encode() if kind in "gp" else b"u:http://orders/a")
    await client.set(huge, b"1" * 2**25)
    sent = (await client.info("stats"))["total_net_output_bytes"]
    other = sidecar(redis.url, FRESH, memory="1MiB")
    assert (await other.get()).status == 200
    assert other.calls == 1, "it is a miss"
    assert (await client.info("stats"))["total_net_output_bytes"] - sent < 2**19
    shown = other.store.describe()["redis"]
    assert shown["up"]
    assert ("longer than" in shown["last_error"], shown["errors"]) == ((True, 1) if kind == "e:" else (False, 0))


@pytest.mark.parametrize("kind", ["string", "list"])
async def test_of_a_huge_prefix_no_more_is_read_than_a_uri_can_have(redis: Redis, sidecar: Make, kind: str) -> None:
    world, other = sidecar(redis.url, FRESH), sidecar(redis.url, FRESH)
    assert world.store.shared is not None
    client = world.store.shared._client.client
    await world.get()
    await written(world)
    await client.set("sidecar:shared:p", b"1")
    prefix = "sidecar:shared:x:1"
    await (client.set(prefix, b"h" * 2**25) if kind == "string" else client.lpush(prefix, "h"))
    sent = (await client.info("stats"))["total_net_output_bytes"]
    assert is_hit(await other.get()) is (kind == "string"), "a prefix that no URI has is none of this one's"
    assert (await client.info("stats"))["total_net_output_bytes"] - sent < 2**19
    assert other.store.describe()["redis"]["up"]


async def test_a_reload_changes_the_redis(redis: Redis, sidecar: Make) -> None:
    world = sidecar("redis://127.0.0.1:1/0", FRESH)
    await world.get()
    world.store.retune(CacheSpec.model_validate({"redis": {"url": redis.url, "timeout": "30s"}}))
    await world.get("/b")
    await written(world)
    other = sidecar(redis.url, 500)
    assert is_hit(await other.get("/b"))
    world.store.retune(CacheSpec())
    assert world.store.describe()["redis"] is None


async def test_a_user_with_few_rights_over_tls(tmp_path: Path, sidecar: Make, monkeypatch: pytest.MonkeyPatch) -> None:
    """The certificate is for the name of the URL, which the resolver of the sidecar looks up."""
    authority = Authority(tmp_path / "tls")
    rights = ["~sidecar:*", "+select", "+multi", "+exec", "+getrange", "+psetex", "+set", "+del", "+eval", "+incr"]
    rights += ["+expire", "+xadd", "+xread", "+xrevrange"]
    users = ["--user", "cache", "on", ">a secret", *rights, "--user", "default", "off"]
    redis = Redis(tmp_path, *users, tls={**authority.sign("store.example"), "ca": authority.ca_file})
    try:
        url, names = "rediss://cache:a%20secret@store.example:6379/1", Switch(redis.port)
        stranger = sidecar(url, FRESH, names=names)
        assert (await stranger.get()).status == 200
        await eventually(lambda: not stranger.store.describe()["redis"]["up"])
        assert "certificate verify failed" in stranger.store.describe()["redis"]["last_error"].lower()
        monkeypatch.setenv("SSL_CERT_FILE", authority.ca_file)
        fresh = reply(Cache_Control="max-age=60", Cache_Tag="t")
        world, other = sidecar(url, fresh, names=names), sidecar(url, fresh, names=names)
        await world.get()
        await written(world)
        assert is_hit(await other.get())
        await listening(other)
        for purge in PURGES:
            purge(world)
        await written(world)
        await eventually(lambda: memory_of(other) == 0)
        assert [each.store.describe()["redis"]["errors"] for each in (world, other)] == [0, 0]
        elsewhere = sidecar(url.replace("store.", "other."), FRESH, names=names)
        await elsewhere.get()
        await eventually(lambda: not elsewhere.store.describe()["redis"]["up"])
        assert "hostname mismatch" in elsewhere.store.describe()["redis"]["last_error"].lower()
    finally:
        redis.kill()


async def test_after_a_failover_the_replica_is_used(
    tmp_path: Path, redis: Redis, sidecar: Make, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(tier, "SLOWEST_PROBE", 0.2)
    assert redis.command("CONFIG", "SET", "repl-diskless-sync-delay", "0") == "+OK"
    (tmp_path / "replica").mkdir()
    replica = Redis(tmp_path / "replica", "--replicaof", "127.0.0.1", str(redis.port))
    try:
        await replicated(replica)
        names = Switch(redis.port)
        world = sidecar("redis://store.example:6379/0", FRESH, names=names)
        await world.get("/before")
        await written(world)
        assert redis.command("WAIT", "1", "10000") == ":1"
        redis.kill()
        names.ports[0] = replica.port
        assert (await world.get("/during")).status == 200
        await eventually(lambda: not world.store.describe()["redis"]["up"])
        replica.command("REPLICAOF", "NO", "ONE")
        await eventually(lambda: bool(world.store.describe()["redis"]["up"]))
        await world.get("/after")
        await written(world)
        other = sidecar("redis://store.example:6379/0", FRESH, names=names)
        assert is_hit(await other.get("/after"))
    finally:
        replica.kill()


async def test_a_redis_that_refuses_writes_is_away(
    tmp_path: Path, sidecar: Make, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A Redis that cannot save itself takes no purge, so nobody should use the answers in it."""
    monkeypatch.setattr(tier, "SLOWEST_PROBE", 0.2)
    place = tmp_path / "data"
    place.mkdir()
    redis = Redis(place, "--save", "3600 1000")
    try:
        world = sidecar(redis.url, FRESH)
        await world.get()
        await written(world)
        place.rmdir()
        assert redis.command("BGSAVE") == "+Background saving started"
        await eventually(lambda: redis.command("DEL", "none").startswith("-MISCONF"))
        world.store.purge_uri("http://orders/a")
        await eventually(lambda: bool(world.env.emitted(events.CACHE_TIER_DOWN)))
        assert "MISCONF" in world.env.emitted(events.CACHE_TIER_DOWN)[0]["error"]
        assert not world.env.emitted(events.CACHE_TIER_UP)
        assert redis.command("CONFIG", "SET", "stop-writes-on-bgsave-error", "no") == "+OK"
        await eventually(lambda: bool(world.store.describe()["redis"]["up"]))
        other = sidecar(redis.url, FRESH)
        assert not is_hit(await other.get())
    finally:
        redis.kill()
