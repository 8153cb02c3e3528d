"""Tests that the shared tier serves nothing outdated: after purges, writes and a failover, and with a full Redis."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncIterator, Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from sidecar.cache import redis_tier as tier
from sidecar.cache.redis_tier import RedisTier
from sidecar.cache.spec import CacheSpec
from sidecar.core import events
from sidecar.core.exchange import Exchange
from sidecar.core.outcome import Outcome
from tests.e2e.test_redis_tier import (
    FRESH,
    PURGES,
    SERVER,
    Make,
    Redis,
    eventually,
    listening,
    memory_of,
    quick,
    redis,
    sidecar,
    written,
)
from tests.unit.stages.cache.world import World, is_hit, reply

pytest.importorskip("redis")
pytestmark = pytest.mark.skipif(SERVER is None, reason="there is no redis-server here")
__all__ = ["quick", "redis", "sidecar"]  # fixtures
KINDS = ["uri", "prefix", "tag", "everything"]
TAGGED = reply(Cache_Control="max-age=60", Cache_Tag="t")


class Versions:
    """Upstream whose resource has versions: each write makes a new one."""

    def __init__(self) -> None:
        self.version = 1

    def __call__(self, x: Exchange) -> Outcome:
        if x.method == b"PUT":
            self.version += 1
        return reply(200, b"version %d" % self.version, Cache_Control="max-age=60", Cache_Tag="t")(x)


def tier_of(world: World) -> RedisTier:
    assert world.store.shared is not None
    return world.store.shared


async def prefixed(world: World, count: int = 1) -> None:
    """Purge prefixes that match no answer of these tests."""
    for number in range(count):
        world.store.purge_prefix(f"http://elsewhere/{number}")
    await written(world)


class TestPurges:
    @pytest.mark.parametrize("purge", PURGES, ids=KINDS)
    async def test_it_holds_for_the_next_request(
        self, redis: Redis, sidecar: Make, purge: Callable[[World], Any]
    ) -> None:
        origin = Versions()
        world = sidecar(redis.url, origin)
        for number in range(30):
            await world.get(f"/{number}")
        await written(world)
        for number in range(30):
            origin.version += 1
            if purge is PURGES[0]:
                world.store.purge_uri(f"http://orders/{number}")
            else:
                purge(world)
            assert (await world.get(f"/{number}")).body == b"version %d" % origin.version

    @pytest.mark.parametrize("purge", PURGES, ids=KINDS)
    async def test_it_holds_for_others_as_soon_as_redis_has_it(
        self, redis: Redis, sidecar: Make, purge: Callable[[World], Any], monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setattr(tier, "SYNC_EVERY", 3600.0)  # one that reads the purge late stores no answer of that moment
        one, *others = (sidecar(redis.url, TAGGED) for _ in range(4))
        await one.get()
        await written(one)
        purge(one)
        await written(one)
        await eventually(lambda: not tier_of(one)._unpublished)
        for other in others[:1]:
            await other.get()
            assert other.calls == 1
            await written(other)
        await others[1].get()
        assert others[1].calls == 0, "what was stored after the purge holds"

    @pytest.mark.parametrize("purge", PURGES, ids=KINDS)
    async def test_it_covers_an_answer_that_is_on_its_way_elsewhere(
        self, redis: Redis, sidecar: Make, purge: Callable[[World], Any], monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setattr(tier, "SYNC_EVERY", 3600.0)  # no sidecar reads the purge in time
        asked, may_answer = asyncio.Event(), asyncio.Event()

        async def answer_when_told(x: Exchange) -> Outcome:
            asked.set()
            await may_answer.wait()
            return TAGGED(x)

        one, slow, third = sidecar(redis.url, TAGGED), sidecar(redis.url, answer_when_told), sidecar(redis.url, TAGGED)
        task = asyncio.ensure_future(slow.get())
        await asked.wait()
        purge(one)
        await written(one)
        may_answer.set()
        await task
        await written(slow)
        await third.get()
        assert third.calls == 1

    @pytest.mark.parametrize("purge", PURGES, ids=KINDS)
    async def test_it_reaches_one_that_has_just_started(
        self, redis: Redis, sidecar: Make, purge: Callable[[World], Any]
    ) -> None:
        one = sidecar(redis.url, TAGGED)
        await one.get()
        await written(one)
        other = sidecar(redis.url, TAGGED)
        tier_of(other)._timer.cancel()  # the look-up comes before its first read of the stream
        await other.get()
        assert (memory_of(other), other.calls) == (1, 0)
        purge(one)
        await written(one)
        await tier_of(other)._sync()
        assert memory_of(other) == 0

    async def test_a_prefix_spares_the_rest(self, redis: Redis, sidecar: Make) -> None:
        one, other = sidecar(redis.url, FRESH), sidecar(redis.url, 500)
        await one.get("/a")
        await one.get("/b")
        await written(one)
        one.store.purge_prefix("http://orders/b")
        await prefixed(one, 5)
        assert is_hit(await other.get("/a"))
        assert (await other.get("/b")).status == 500

    async def test_too_many_prefixes_to_tell(
        self, redis: Redis, sidecar: Make, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setattr(tier, "MAX_PREFIXES", 3)
        one, other = sidecar(redis.url, FRESH), sidecar(redis.url, FRESH)
        await one.get("/a")
        await written(one)
        await prefixed(one, 4)
        assert not is_hit(await other.get("/a"))

    async def test_a_prefix_that_redis_has_lost_covers_everything(self, redis: Redis, sidecar: Make) -> None:
        one, other = sidecar(redis.url, FRESH), sidecar(redis.url, FRESH)
        await one.get("/a")
        await written(one)
        await prefixed(one)
        client = tier_of(one)._client.client
        assert await client.delete(tier_of(one)._client.build_key("x:1")) == 1
        assert not is_hit(await other.get("/a"))

    @pytest.mark.parametrize("count", [b"9" * 5000, b"x", b"-1", b"3"])
    async def test_a_counter_that_makes_no_sense(self, redis: Redis, sidecar: Make, count: bytes) -> None:
        one, other = sidecar(redis.url, FRESH), sidecar(redis.url, FRESH)
        await one.get()
        await written(one)
        await tier_of(one)._client.client.set(tier_of(one)._client.build_key("p"), count)
        assert (await other.get()).status == 200
        assert (other.calls, other.store.describe()["redis"]["up"]) == (1 if count.isdigit() else 0, True)

    async def test_one_that_is_asked_for_again_is_published_again(
        self, redis: Redis, sidecar: Make, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        world = sidecar(redis.url, FRESH)
        await listening(world)
        published: list[bytes] = []
        purge = RedisTier._purge

        async def slow(self: RedisTier, kind: str, value: bytes) -> None:
            published.append(value)
            await purge(self, kind, value)
            if len(published) == 1:
                world.store.purge_uri("http://orders/a")

        monkeypatch.setattr(RedisTier, "_purge", slow)
        world.store.purge_uri("http://orders/a")
        await written(world)
        assert published == [b"http://orders/a"] * 2

    async def test_a_storm_is_published_once(
        self, redis: Redis, sidecar: Make, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        world = sidecar(redis.url, FRESH)
        await listening(world)
        published: list[bytes] = []
        purge = RedisTier._purge
        monkeypatch.setattr(
            RedisTier, "_purge", lambda self, kind, value: (published.append(value), purge(self, kind, value))[1]
        )
        for number in range(200):
            world.store.purge_uri(f"http://orders/{number}")
        await written(world)
        assert len(published) == 200

    async def test_a_reload_loses_none(self, redis: Redis, sidecar: Make) -> None:
        one, other = sidecar(redis.url, FRESH), sidecar(redis.url, FRESH)
        await one.get()
        await written(one)
        one.store.retune(CacheSpec.model_validate({"redis": {"url": "redis://127.0.0.1:1/1"}}))
        one.store.purge_uri("http://orders/a")
        one.store.retune(CacheSpec.model_validate({"redis": {"url": redis.url, "timeout": "30s"}}))
        await listening(one)
        await written(one)
        assert not is_hit(await other.get())

    @pytest.mark.parametrize("fields", [{"kind": "no such", "what": "x"}, {"x": "y"}, {"kind": b"\xff", "by": b"\xff"}])
    async def test_one_that_cannot_be_read_is_one_of_everything(
        self, redis: Redis, sidecar: Make, fields: dict[str, Any]
    ) -> None:
        world = sidecar(redis.url, FRESH)
        await world.get()
        await listening(world)
        await tier_of(world)._client.client.xadd(tier_of(world)._stream, fields)
        await eventually(lambda: memory_of(world) == 0)
        assert world.store.describe()["redis"]["errors"] == 0


class TestLookUps:
    @staticmethod
    @contextlib.contextmanager
    def paused(monkeypatch: pytest.MonkeyPatch) -> Iterator[tuple[asyncio.Event, asyncio.Event]]:
        """Pause look-ups in Redis before their result is used: each sets the first event and waits for the second."""
        found, may_go = asyncio.Event(), asyncio.Event()
        load = RedisTier._load

        async def load_and_wait(self: RedisTier, *args: Any) -> Any:
            result = await load(self, *args)
            found.set()
            await may_go.wait()
            return result

        with monkeypatch.context() as patch:
            patch.setattr(RedisTier, "_load", load_and_wait)
            yield found, may_go

    @pytest.mark.parametrize("by", ["write", *KINDS])
    async def test_what_is_changed_meanwhile_is_not_taken(
        self, redis: Redis, sidecar: Make, monkeypatch: pytest.MonkeyPatch, by: str
    ) -> None:
        origin = Versions()
        one, other = sidecar(redis.url, origin), sidecar(redis.url, origin)
        await one.get()
        await written(one)
        with self.paused(monkeypatch) as (found, may_go):
            reading = asyncio.ensure_future(other.get())
            await found.wait()
            if by == "write":
                await other.ask("PUT")
            else:
                origin.version += 1
                PURGES[KINDS.index(by)](other)
            may_go.set()
            assert (await reading).body == b"version 2"
        answer = await other.get()
        assert (answer.body, is_hit(answer)) == (b"version 2", True)
        assert len(other.store.fetches) == 0

    async def test_nor_a_variant(self, redis: Redis, sidecar: Make, monkeypatch: pytest.MonkeyPatch) -> None:
        def by_foo(x: Exchange) -> Outcome:
            return reply(200, b"%d" % version, Cache_Control="max-age=60", Vary="Foo")(x)

        version = 1
        one, other = sidecar(redis.url, by_foo), sidecar(redis.url, by_foo)
        await one.get(Foo="1")
        await written(one)
        with self.paused(monkeypatch) as (found, may_go):
            reading = asyncio.ensure_future(other.get(Foo="1"))
            await found.wait()
            version = 2
            await other.ask("PUT")
            may_go.set()
            assert (await reading).body == b"2"
        assert (await other.get(Foo="1")).body == b"2"

    @pytest.mark.parametrize("control", ["no-cache", "max-age=0", "min-fresh=600"])
    async def test_a_client_that_wants_a_newer_answer_gets_it(self, redis: Redis, sidecar: Make, control: str) -> None:
        origin = Versions()
        one, other = sidecar(redis.url, origin), sidecar(redis.url, origin)
        await one.get()
        await written(one)
        origin.version = 2
        assert (await other.get(Cache_Control=control)).body == b"version 2"

    async def test_variants_by_other_fields_than_ours(self, redis: Redis, sidecar: Make) -> None:
        def by(name: str) -> Callable[[Exchange], Outcome]:
            return lambda x: reply(200, x.header(name.lower().encode()) or b"", Cache_Control="max-age=60", Vary=name)(
                x
            )

        one, other = sidecar(redis.url, by("Foo")), sidecar(redis.url, by("Bar"))
        await other.get(Bar="1")
        await written(other)
        await one.get(Foo="a", Bar="1")
        await written(one)
        assert (await other.get(Foo="b", Bar="2")).body == b"2"
        for bar in ("1", "2"):
            answer = await other.get(Foo="b", Bar=bar)
            assert answer.body == bar.encode()


@pytest.fixture
def full(tmp_path: Path) -> Iterator[Redis]:
    server = Redis(tmp_path, "--maxmemory", "2mb", "--maxmemory-policy", "noeviction")
    yield server
    server.kill()


class TestFull:
    """Redis that refuses further writes."""

    @staticmethod
    async def fill(world: World) -> None:
        client = tier_of(world)._client.client
        await client.config_set("maxmemory", "1")
        with pytest.raises(Exception, match="maxmemory"):
            await client.set("x", "y")

    @pytest.mark.parametrize("purge", PURGES, ids=KINDS)
    async def test_a_purge_reaches_everybody(self, full: Redis, sidecar: Make, purge: Callable[[World], Any]) -> None:
        one, other, third = (sidecar(full.url, TAGGED) for _ in range(3))
        await one.get()
        await written(one)
        await other.get()
        await listening(other)
        await self.fill(one)
        purge(one)
        await written(one)
        await third.get()
        assert (third.calls, one.store.describe()["redis"]["up"]) == (1, True)
        assert not tier_of(one)._unpublished
        await eventually(lambda: memory_of(other) == 0)

    async def test_a_write_reaches_everybody(self, full: Redis, sidecar: Make) -> None:
        origin = Versions()
        one, other = sidecar(full.url, origin), sidecar(full.url, origin)
        await one.get()
        await written(one)
        await self.fill(one)
        await one.ask("PUT")
        await written(one)
        assert (await other.get()).body == b"version 2"


class Address:
    """Address that leads to the current primary, as a name, a virtual address or a load balancer does.

    Open connections keep their server.
    """

    def __init__(self, server: Redis) -> None:
        self.server = server
        self.connections = 0
        self._pipes: set[asyncio.Task[None]] = set()

    async def __aenter__(self) -> Address:
        self._listener = await asyncio.start_server(self._connect, "127.0.0.1", 0)
        self.url = f"redis://127.0.0.1:{self._listener.sockets[0].getsockname()[1]}/1"
        return self

    async def __aexit__(self, *_: object) -> None:
        self._listener.close()
        for pipe in self._pipes:
            pipe.cancel()
        await asyncio.gather(*self._pipes, return_exceptions=True)

    async def _connect(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self.connections += 1
        theirs, ours = await asyncio.open_connection("127.0.0.1", self.server.port)
        for source, sink in ((reader, ours), (theirs, writer)):
            self._pipes.add(asyncio.ensure_future(self._pipe(source, sink)))

    @staticmethod
    async def _pipe(source: asyncio.StreamReader, sink: asyncio.StreamWriter) -> None:
        try:
            with contextlib.suppress(OSError):
                while data := await source.read(65536):
                    sink.write(data)
                    await sink.drain()
        finally:
            sink.close()


@pytest.fixture
async def pair(tmp_path: Path) -> AsyncIterator[tuple[Redis, Redis]]:
    """Yield a primary and its replica."""
    places = [tmp_path / name for name in ("primary", "replica")]
    for place in places:
        place.mkdir()
    primary = Redis(places[0], "--repl-diskless-sync-delay", "0")  # otherwise it waits for more replicas
    replica = Redis(places[1], "--replicaof", "127.0.0.1", str(primary.port))
    yield primary, replica
    for server in (primary, replica):
        server.kill()


class TestFailover:
    """Failover: the replica takes over, and the old primary becomes its replica and keeps its connections."""

    @staticmethod
    async def tell(server: Redis, *command: Any) -> Any:
        import redis.asyncio

        client = redis.asyncio.Redis(port=server.port)
        try:
            return await client.execute_command(*command)
        finally:
            await client.aclose()

    async def fail_over(self, address: Address, primary: Redis, replica: Redis) -> None:
        for _ in range(3000):
            info = await self.tell(replica, "INFO", "replication")
            if info["master_link_status"] == "up":
                break
            await asyncio.sleep(0.02)
        else:
            raise AssertionError("the replica did not follow")
        await self.tell(replica, "REPLICAOF", "NO", "ONE")
        await self.tell(primary, "REPLICAOF", "127.0.0.1", replica.port)
        address.server = replica

    @pytest.mark.parametrize("by", ["fill", "write", *KINDS])
    async def test_the_new_primary_is_found(
        self, pair: tuple[Redis, Redis], sidecar: Make, monkeypatch: pytest.MonkeyPatch, by: str
    ) -> None:
        monkeypatch.setattr(tier, "SLOWEST_PROBE", 0.2)
        async with Address(pair[0]) as address:
            world = sidecar(address.url, TAGGED)
            await world.get()
            await listening(world)
            await written(world)
            await self.fail_over(address, *pair)
            if by == "fill":
                await world.get("/b")
            elif by == "write":
                await world.ask("PUT")
            else:
                PURGES[KINDS.index(by)](world)
            await eventually(lambda: bool(world.env.emitted(events.CACHE_TIER_DOWN)))
            error = world.env.emitted(events.CACHE_TIER_DOWN)[0]["error"]
            assert "readonly" in error.lower(), "later probes may meet others"
            await eventually(lambda: bool(world.env.emitted(events.CACHE_TIER_UP)))
            await eventually(lambda: not tier_of(world)._unpublished)
            await world.get("/new")
            await written(world)
            other = sidecar(pair[1].url, TAGGED)
            assert is_hit(await other.get("/new")), "it was written to the new primary"
            if by != "fill":
                await other.get()
                assert other.calls == 1, "the purge has reached it"
            world.store.close()

    async def test_a_replica_counts_as_away(
        self, pair: tuple[Redis, Redis], sidecar: Make, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setattr(tier, "SLOWEST_PROBE", 0.1)
        world = sidecar(pair[1].url, FRESH)
        await world.get()
        await eventually(lambda: not world.store.describe()["redis"]["up"])
        errors = world.store.describe()["redis"]["errors"]
        await eventually(lambda: world.store.describe()["redis"]["errors"] > errors + 3)
        assert not world.env.emitted(events.CACHE_TIER_UP)
        assert is_hit(await world.get())
