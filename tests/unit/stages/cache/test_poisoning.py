"""Tests of poisoning: answers that a shared cache must not store, clients that must not get them, and bounds."""

from __future__ import annotations

import asyncio
from typing import Any

import pytest

from sidecar.cache.fetch import MAX_UNCACHEABLE
from sidecar.cache.rfc.storing import CREDENTIALS
from sidecar.cache.spec import CacheSpec
from sidecar.cache.store import SHRINK_BY, SHRINK_EVERY, Store
from sidecar.core.exchange import Exchange
from sidecar.core.message import fold
from sidecar.core.outcome import RESET, Outcome
from tests.support.clock import make_env, remembering
from tests.support.loop import virtual
from tests.unit.downstream.front import Front
from tests.unit.stages.cache.world import World, is_hit, reply, said

FRESH = reply(Cache_Control="max-age=60")


def echo(x: Exchange) -> Outcome:
    """Answer as an upstream that reflects a field."""
    return reply(200, x.header(b"x-forwarded-host") or b"home", Cache_Control="max-age=60")(x)


async def test_a_field_can_be_made_part_of_the_key() -> None:
    world = World(echo, key={"headers": ["X-Forwarded-Host"]})
    assert (await world.get(X_Forwarded_Host="evil")).body == b"evil"
    assert (await world.get()).body == b"home"


def as_a_variable(x: Exchange) -> bytes:
    """Return X-Tenant as CGI and WSGI servers read it: from the last field that becomes the same variable."""
    found = [value for name, value in x.headers if fold(name) == b"x-tenant"]
    return found[-1] if found else b"nobody"


@pytest.mark.parametrize("twin", ["X_Tenant", "x.tenant", "X_TENANT", "x~tenant", "X-Tenant"])
@pytest.mark.parametrize("how", ["key", "vary", "key and vary", "odd key"])
@pytest.mark.parametrize("said", [b"", b"X-Tenant: two\r\n"])
@virtual
async def test_a_twin_of_a_field_that_answers_differ_by_is_a_difference_too(how: str, twin: str, said: bytes) -> None:
    fields = {"Vary": "X-Tenant"} if "vary" in how else {}
    keyed = ["x_tenant"] if how == "odd key" else ["x-tenant"] if "key" in how else []
    world = World(
        lambda x: reply(200, as_a_variable(x), Cache_Control="max-age=60", **fields)(x),
        env=remembering(asyncio.get_running_loop()),
        key={"headers": keyed},
    )
    client = Front(world.service).connect()
    asked = {b"%b: one\r\n" % twin.encode(): b"one", b"%b: uno\r\n" % twin.encode(): b"uno"}
    asked[b"X-Tenant_: a\r\nXTenant: b\r\n"] = asked[b""] = b"two" if said else b"nobody"
    for calls in (3, 3):  # the second time all answers are stored
        for lines, expected in asked.items():
            client.write(b"GET /a HTTP/1.1\r\nHost: a\r\n%b%b\r\n" % (said, lines))
            assert (await client.answer()).body == expected
        assert world.calls == calls


async def test_a_cookie_is_not_given_to_another_client() -> None:
    world = World(reply(Cache_Control="max-age=60", Set_Cookie="session=1"))
    await world.get()
    assert not is_hit(await world.get())
    world = World(reply(Cache_Control="max-age=60", Set_Cookie="session=1"), set_cookie="store")
    await world.get()
    assert (await world.get()).header(b"set-cookie") == b"session=1"


def of_its_caller(x: Exchange) -> Outcome:
    """Answer as an upstream that identifies its callers by any field, without cache directives."""
    return Outcome(200, None, x.lines + x.forwarding, lines=LAST_MODIFIED)


LAST_MODIFIED = b"last-modified: Mon, 01 Jan 2001 00:00:00 GMT\r\n"
FRESHENED: list[dict[str, Any]] = [{"ttl": "30s"}, {"heuristic": "10%"}]


class TestCredentials:
    """Answers to requests with credentials get no freshness by the policy."""

    @pytest.mark.parametrize("block", FRESHENED)
    @pytest.mark.parametrize("name", [*CREDENTIALS, "Authorization", "X-USER-ID", "Cookie"])
    async def test_the_answer_to_one_user_is_not_given_to_another(self, name: str, block: dict[str, Any]) -> None:
        world = World(of_its_caller, **block)
        await world.get(**{name: "one"})
        assert len(world.store.memory) == 0
        for other in ({name: "other"}, {name: "other", "Cache-Control": "max-stale"}, {}):
            answer = await world.get(**other)
            assert (is_hit(answer), b"one" in answer.body) == (False, False)
        assert is_hit(await world.get(**{name: "other"})), "what came without a credential is everybody's"

    @pytest.mark.parametrize("block", FRESHENED)
    async def test_a_field_that_the_sidecar_vouches_for_is_one_too(self, block: dict[str, Any]) -> None:
        world = World(of_its_caller, **block)
        x = world.request()
        x.forwarding = b"via: 1.1 sidecar\r\nX-Forwarded-Client-Cert: By=one\r\n"
        await world.service(x)
        assert b"one" not in (await world.get()).body

    @pytest.mark.parametrize("name", [b"X_Api_Key", b"x.api.key", b"Private.Token", b"x_access-TOKEN"])
    @pytest.mark.parametrize("keyed", [[], ["X-Api-Key", "private-token", "x-access-token"]])
    async def test_a_name_with_another_separator_is_the_same_to_many_services(
        self, name: bytes, keyed: list[str]
    ) -> None:
        world = World(lambda x: Outcome(200, None, x.lines), ttl="30s", key={"headers": keyed})
        x = world.request()
        x.lines = name + b": one\r\n"
        await world.service(x)
        assert b"one" not in (await world.get()).body

    async def test_who_waits_for_the_answer_of_another_does_not_get_it(self) -> None:
        async def slow(x: Exchange) -> Outcome:
            await asyncio.sleep(0)
            return of_its_caller(x)

        world = World(slow, ttl="30s")
        users = [{"X_Api_Key": f"user{number}"} for number in range(5)]
        answers = await asyncio.gather(*(world.get(**user) for user in users))
        for number, answer in enumerate(answers):
            assert answer.body == b"x-api-key: user%d\r\n" % number

    async def test_the_last_resort_is_no_users_answer_either(self) -> None:
        world = World(lambda x: Outcome(200, None, b"one", lines=b'etag: "a"\r\n'), RESET)
        await world.get(Cookie="user=one")
        x = world.request()
        await world.service(x)
        assert x.stale is None

    @pytest.mark.parametrize("say", ["max-age=60", "public", "s-maxage=9", "public, max-age=60"])
    async def test_what_the_answer_says_itself_holds(self, say: str) -> None:
        world = World(reply(Cache_Control=say), ttl="30s")
        await world.get(Cookie="a=b", X_Api_Key="a")
        assert is_hit(await world.get(Cookie="c=d"))

    async def test_what_is_to_be_validated_each_time_is_stored(self) -> None:
        world = World(reply(Cache_Control="no-cache", ETag='"a"'), reply(304, b"", ETag='"a"'), ttl="30s")
        await world.get(Cookie="a=b")
        assert (await world.get(Cookie="c=d")).status == 200
        assert world.sent(b"if-none-match") == b'"a"'

    async def test_the_policy_names_them(self) -> None:
        world = World(of_its_caller, ttl="30s", credentials=["X-Tenant"])
        await world.get(X_Tenant="one")
        await world.get(Cookie="a=b")
        assert is_hit(await world.get(X_Tenant="other"))
        world = World(of_its_caller, ttl="30s", credentials=[])
        await world.get(Cookie="a=b")
        assert is_hit(await world.get())

    async def test_a_credential_in_the_key_keeps_the_users_apart(self) -> None:
        world = World(of_its_caller, ttl="30s", key={"headers": ["X-Api-Key"]})
        for user in (b"one", b"two"):
            for hit in (False, True):
                answer = await world.get(X_Api_Key=user.decode())
                assert (answer.body, is_hit(answer)) == (b"x-api-key: " + user + b"\r\n", hit)
        await world.get(X_Api_Key="three", Cookie="a=b")
        assert not is_hit(await world.get(X_Api_Key="three")), "the cookie is not in the key"

    async def test_in_observation_too(self) -> None:
        world = World(of_its_caller, ttl="30s", mode="observe")
        await world.get(X_Api_Key="one")
        assert len(world.store.memory) == 0


async def test_a_cache_is_made_smaller_in_steps() -> None:
    env = make_env()
    world = World(FRESH, store=Store("default", CacheSpec(), env), env=env)
    count = 3 * SHRINK_BY
    for number in range(count):
        await world.get(f"/{number}")
    world.store.retune(CacheSpec.model_validate({"memory": {"max_size": "64KiB"}}))
    assert len(world.store.memory) == count - SHRINK_BY
    env.advance(SHRINK_EVERY)
    assert len(world.store.memory) == count - 2 * SHRINK_BY
    env.advance(10 * SHRINK_EVERY)
    assert 0 < world.store.memory.bytes <= 65536


async def test_an_ignored_parameter_is_ignored_in_the_key_alone() -> None:
    world = World(FRESH, key={"ignore_query": ["utm_*"]})
    await world.get("/a?utm_source=x&id=1")
    assert world.upstream.exchanges[-1].query == b"utm_source=x&id=1"
    assert is_hit(await world.get("/a?id=1"))
    assert not is_hit(await world.get("/a?id=2"))


async def test_keys_cannot_be_made_to_collide() -> None:
    world = World(lambda x: reply(200, x.target, Cache_Control="max-age=60", Vary="Foo")(x), key={"headers": ["bar"]})
    seen = set()
    for path in ("/a", "/a%20b", "/a%01"):
        for foo in ("", "1", "\\1"):
            for bar in ("", "x", "x http://orders/a"):
                answer = await world.get(path, Foo=foo, Bar=bar)
                assert not is_hit(answer)
                seen.add((answer.body, foo, bar))
    assert len(seen) == 27


async def test_two_routes_with_one_store_do_not_share_answers() -> None:
    one = World(reply(200, b"one", Cache_Control="max-age=60"))
    other = World(reply(200, b"other", Cache_Control="max-age=60"), env=one.env, store=one.store, route="other")
    assert (await one.get()).body == b"one"
    assert (await other.get()).body == b"other"


async def test_a_changed_key_rule_starts_afresh_and_an_unchanged_one_goes_on() -> None:
    before = World(FRESH)
    await before.get()
    same = World(FRESH, env=before.env, store=before.store, ttl="99s")
    assert is_hit(await same.get())
    changed = World(FRESH, env=before.env, store=before.store, key={"headers": ["foo"]})
    assert not is_hit(await changed.get())


async def test_marks_of_uncacheable_keys_are_bounded() -> None:
    store = Store("default", CacheSpec(), make_env())
    for number in range(MAX_UNCACHEABLE + 10):
        store.fetches.mark_uncacheable(b"%d" % number, 0.0)
    assert len(store.fetches.uncacheable) == MAX_UNCACHEABLE
    assert not store.fetches.is_uncacheable(b"0", 1.0)
    assert store.fetches.is_uncacheable(b"%d" % (MAX_UNCACHEABLE + 9), 59.9)
    assert not store.fetches.is_uncacheable(b"%d" % (MAX_UNCACHEABLE + 9), 60.0)


@pytest.mark.parametrize("size", [0, 200_000])
async def test_what_is_too_large_for_the_store_is_passed_on(size: int) -> None:
    env = make_env()
    spec = CacheSpec.model_validate({"memory": {"max_size": "128KiB"}})
    world = World(reply(200, b"x" * size, Cache_Control="max-age=60"), env=env, store=Store("default", spec, env))
    assert len((await world.get()).body) == size
    assert is_hit(await world.get()) is (size == 0)


@pytest.mark.parametrize(("size", "stored"), [(100, True), (101, False)])
async def test_what_is_longer_than_the_policy_allows_is_passed_on(size: int, stored: bool) -> None:
    world = World(reply(200, b"x" * size, Cache_Control="max-age=60"), max_body="100B")
    answers = [await world.get(), await world.get()]
    assert [len(answer.body) for answer in answers] == [size, size]
    assert is_hit(answers[1]) is stored
    assert said(answers[0]).endswith(b"stored" if stored else b"detail=too-large")


async def test_a_scan_of_uncacheable_paths_evicts_nothing() -> None:
    world = World(FRESH, reply(Cache_Control="no-store"))
    await world.get()
    for number in range(100):
        await world.get(f"/{number}")
    assert len(world.store.memory) == 1


async def test_purging() -> None:
    world = World(reply(Cache_Control="max-age=60", Cache_Tag="Orders, x", Surrogate_Key="y z"))
    for purge in (
        lambda: world.store.purge_uri("http://ORDERS:80/a"),
        lambda: world.store.purge_prefix("http://orders/"),
        lambda: world.store.purge_tag("orders"),
        lambda: world.store.purge_tag("Z"),
        world.store.purge_everything,
    ):
        await world.get()
        assert is_hit(await world.get())
        assert purge() == 1
        assert not is_hit(await world.get())
    assert world.store.purge_tag("nothing") == 0
    for bad in ("/a", "orders/a", ""):
        with pytest.raises(ValueError, match="write it such as"):
            world.store.purge_uri(bad)
        with pytest.raises(ValueError, match="write it such as"):
            world.store.purge_prefix(bad)


async def test_the_store_describes_itself() -> None:
    world = World(FRESH)
    await world.get()
    await world.get()
    world.env.advance(7)
    shown = world.store.describe()
    assert shown["hottest"] == [
        {
            "uri": "http://orders/a", "hits": 1, "bytes": shown["bytes"], "status": 200, "age": 7, "fresh_for": 53,
        }
    ]  # fmt: skip
    assert (shown["entries"], shown["filling"], shown["redis"]) == (1, 0, None)
    world.store.retune(CacheSpec.model_validate({"memory": {"max_size": "64KiB"}}))
    assert world.store.describe()["max_bytes"] == 65536
    world.store.close()


class TestObserving:
    """Cache in `mode: observe`."""

    async def test_everything_passes_and_is_counted(self) -> None:
        world = World(FRESH, mode="observe")
        for _ in range(3):
            answer = await world.get()
            assert (answer.body, answer.header(b"cache-status")) == (b"body", None)
        assert world.calls == 3
        assert world.store.describe()["lookups"]["order"] == {"hit": 2, "stale": 0, "miss": 1}
        await world.ask("POST")
        await world.get()
        assert world.store.describe()["lookups"]["order"]["miss"] == 2

    async def test_a_head_is_only_passed_on(self) -> None:
        world = World(FRESH, mode="observe")
        await world.ask("HEAD")
        assert len(world.store.memory) == 0

    async def test_an_exception_is_passed_on(self) -> None:
        world = World(ZeroDivisionError, mode="observe")
        with pytest.raises(ZeroDivisionError):
            await world.get()
