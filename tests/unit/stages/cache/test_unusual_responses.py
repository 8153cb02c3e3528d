"""Tests of unusual responses: the stored copy and single-flight survive them, and only complete bodies are stored."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from typing import Any

import pytest

from sidecar.cache.spec import CacheSpec
from sidecar.cache.store import Store
from sidecar.core.body import Body
from sidecar.core.exchange import Exchange
from sidecar.core.outcome import PROTOCOL, RESET, TIMEOUT, Failure, Outcome
from tests.support.clock import make_env
from tests.support.loop import settle, virtual, virtual_env
from tests.support.service import after
from tests.unit.stages.cache.world import World, is_hit, reply, said

FRESH = reply(Cache_Control="max-age=60")
FRESH_LINES = b"cache-control: max-age=60\r\n"
Breaks = Callable[[Body], None]


def streamed(body: Body, lines: bytes = FRESH_LINES, status: int = 200) -> Callable[[Exchange], Outcome]:
    """Return an answer whose body is still to come."""
    return lambda x: Outcome(status, stream=body, lines=lines)


async def aged(*script: Any, first: Any = FRESH, seconds: float = 61, **block: Any) -> World:
    """Return a world with a stale answer, and a script of the answers after it."""
    world = World(first, *script, **{"stale_if_error": "5m", **block})
    await world.get()
    world.env.advance(seconds)
    return world


UNUSUAL = [201, 206, 302, 303, 307, 400, 405, 406, 407, 408, 411, 412, 413, 414, 415, 416, 417, 418, 421, 422, 424, 425,
       426, 428, 429, 431, 444, 499, 501, 505, 507, 508, 511, 520, 599]  # fmt: skip


class TestTheStaleCopy:
    """Stale copy: it answers for the next failure, whatever answers came in between."""

    @pytest.mark.parametrize("control", [None, "no-store", "private", "no-cache"])
    @pytest.mark.parametrize("status", UNUSUAL)
    async def test_an_answer_that_is_not_about_the_resource_leaves_it(self, status: int, control: str | None) -> None:
        unusual = reply(status, b"unusual", **({} if control is None else {"Cache_Control": control}))
        world = await aged(unusual, RESET)
        assert (await world.get()).body == b"unusual"
        answer = await world.get()
        assert (answer.status, answer.body, is_hit(answer)) == (200, b"body", True)

    @pytest.mark.parametrize("status", [s for s in UNUSUAL if s >= 400])
    async def test_even_one_that_could_be_stored(self, status: int) -> None:
        world = await aged(reply(status, b"unusual", Cache_Control="max-age=600"), RESET)
        assert (await world.get()).body == b"unusual"
        assert (await world.get()).body == b"body"

    @pytest.mark.parametrize("status", [405, 414, 501])
    async def test_or_that_the_policy_would_store(self, status: int) -> None:
        world = await aged(reply(status, b"unusual"), RESET, ttl="30s")
        await world.get()
        assert (await world.get()).body == b"body"

    @pytest.mark.parametrize("status", [200, 203, 301, 308, 404, 410, 451, 401, 403])
    async def test_one_that_is_about_the_resource_replaces_it(self, status: int) -> None:
        world = await aged(reply(status, b"new", Cache_Control="no-store"), RESET)
        await world.get()
        assert (await world.get()).status == 502

    @pytest.mark.parametrize("control", ["no-store", "no-cache", "no-store, max-age=0", "private"])
    @pytest.mark.parametrize("name", ["Authorization", "Cookie", "X_Api_Key"])
    @pytest.mark.parametrize("status", [401, 403])
    async def test_a_client_that_may_not_have_it_leaves_it_to_others(
        self, status: int, name: str, control: str
    ) -> None:
        world = await aged(reply(status, b"", Cache_Control=control), RESET)
        await world.get(**{name: "wrong"})
        assert (await world.get()).body == b"body"

    @pytest.mark.parametrize(("name", "block"), [
        ("Authorization", {}), ("Cookie", {"ttl": "30s"}), ("X_Api_Key", {"heuristic": "10%"}),
    ])  # fmt: skip
    async def test_so_does_an_answer_to_one_user(self, name: str, block: dict[str, Any]) -> None:
        world = await aged(reply(200, b"mine", Date="Mon, 01 Jan 2024 00:00:00 GMT"), RESET, **block)
        assert (await world.get(**{name: "one"})).body == b"mine"
        assert (await world.get()).body == b"body"

    @pytest.mark.parametrize("name", ["Authorization", "Cookie"])
    async def test_and_a_validation_for_one_user(self, name: str) -> None:
        first = reply(ETag='"a"', Cache_Control="stale-if-error=600")
        world = await aged(reply(304, b"", ETag='"a"'), RESET, first=first, ttl="30s")
        assert (await world.get(**{name: "one"})).status == 200
        assert (await world.get()).body == b"body"

    @pytest.mark.parametrize("name", ["Authorization", "Cookie"])
    @pytest.mark.parametrize("control", ["private", "no-store", "private, max-age=60"])
    @pytest.mark.parametrize("status", [200, 304, 404])
    async def test_and_one_that_is_only_for_its_user(self, status: int, control: str, name: str) -> None:
        first = reply(ETag='"a"', Cache_Control="stale-if-error=600")
        mine = reply(status, b"" if status == 304 else b"mine", ETag='"a"', Cache_Control=control)
        world = await aged(mine, RESET, first=first, ttl="30s")
        await world.get(**{name: "one"})
        assert (await world.get()).body == b"body"

    @pytest.mark.parametrize("name", ["Authorization", "Cookie"])
    @pytest.mark.parametrize("fields", [{"ETag": '"b"'}, {"ETag": '"a"', "Cache_Control": "private"}, {}])
    async def test_and_one_users_head(self, fields: dict[str, str], name: str) -> None:
        first = reply(ETag='"a"', Cache_Control="stale-if-error=600")
        world = await aged(reply(200, b"", **fields), RESET, first=first, ttl="30s")
        await world.ask("HEAD", **{name: "one"})
        assert (await world.get()).body == b"body"

    async def test_and_a_cookie_for_one_client(self) -> None:
        world = await aged(reply(200, b"mine", Cache_Control="max-age=60", Set_Cookie="a=b"), RESET)
        assert (await world.get()).body == b"mine"
        assert (await world.get()).body == b"body"

    @pytest.mark.parametrize("breaks", [
        lambda body: body.fail(RESET), lambda body: body.fail(TIMEOUT), lambda body: body.fail(PROTOCOL),
        lambda body: body.finish(),
    ])  # fmt: skip
    async def test_a_body_that_breaks_off_leaves_it(self, breaks: Breaks) -> None:
        body = Body(length=10)
        world = await aged(streamed(body), RESET)
        await world.get()
        body.feed(b"half")
        breaks(body)
        answer = await world.get()
        assert (answer.body, is_hit(answer)) == (b"body", True)

    @pytest.mark.parametrize(
        "lines", [b"", b"cache-control: no-store\r\n", b"vary: *\r\n", b"cache-control: private\r\n"]
    )
    async def test_so_does_one_that_would_not_be_stored(self, lines: bytes) -> None:
        body = Body(length=10)
        world = await aged(streamed(body, lines), RESET)
        await world.get()
        body.feed(b"half")
        body.fail(RESET)
        assert (await world.get()).body == b"body"

    async def test_one_that_comes_whole_replaces_it(self) -> None:
        body = Body()
        world = await aged(streamed(body, b"cache-control: no-store\r\n"), RESET)
        await world.get()
        body.feed(b"whole")
        body.finish()
        assert (await world.get()).status == 502

    @pytest.mark.parametrize("is_whole", [True, False])
    async def test_one_that_grows_too_long_replaces_it_once_it_is_whole(self, is_whole: bool) -> None:
        body = Body()
        world = await aged(streamed(body), RESET, max_body="100B")
        await world.get()
        body.feed(b"x" * 101)
        if is_whole:
            body.finish()
        else:
            body.fail(RESET)
        assert (await world.get()).status == (502 if is_whole else 200)

    @virtual
    async def test_a_refresh_in_the_background_leaves_it_too(self) -> None:
        world = World(FRESH, 429, RESET, env=virtual_env(), stale_if_error="5m", stale_while_revalidate="10s")
        await world.get()
        await asyncio.sleep(65)
        await world.get()
        await settle()
        await asyncio.sleep(10)
        assert ((await world.get()).body, world.calls) == (b"body", 3)

    async def test_a_body_for_which_there_is_no_room_now_leaves_it(self) -> None:
        env = make_env()
        store = Store("default", CacheSpec.model_validate({"memory": {"max_size": "64KiB"}}), env)
        body = Body()
        world = World(FRESH, streamed(body), RESET, env=env, store=store, stale_if_error="5m")
        await world.get()
        env.advance(61)
        await world.get()
        assert store.budget.reserve(60_000)
        body.feed(b"x" * 10_000)
        assert (await world.get()).body == b"body"
        assert not store.fetches.uncacheable

    async def test_a_head_with_another_length_makes_it_stale_and_leaves_it(self) -> None:
        world = World(FRESH, reply(200, b"", Content_Length="0"), RESET, stale_if_error="5m")
        await world.get()
        await world.ask("HEAD", Cache_Control="no-cache")
        answer = await world.get()
        assert (answer.body, said(answer)) == (b"body", b"sidecar; hit; ttl=0; detail=reset")


class TestSingleFlight:
    """Single-flight: it continues for a key after an answer that says nothing about the next one."""

    @staticmethod
    async def calls_of_ten(*unusual: Any) -> int:
        """Return the calls of ten simultaneous clients, after these answers to one client."""
        world = World(*unusual, after(1, FRESH), env=virtual_env())
        for _ in unusual:
            await world.get()
        before = world.calls
        await asyncio.gather(*(world.get() for _ in range(10)))
        return world.calls - before

    @virtual
    @pytest.mark.parametrize("status", [400, 408, 421, 425, 429, 431, 500, 503])
    async def test_after_an_unusual_status(self, status: int) -> None:
        assert await self.calls_of_ten(status, reply(status, b"", Cache_Control="no-store")) == 1

    @virtual
    @pytest.mark.parametrize("failure", [RESET, TIMEOUT])
    async def test_after_a_failure(self, failure: Failure) -> None:
        assert await self.calls_of_ten(failure) == 1

    @virtual
    async def test_after_a_body_that_broke_off(self) -> None:
        body = Body()
        world = World(streamed(body), after(1, FRESH), env=virtual_env())
        await world.get()
        body.feed(b"half")
        body.fail(RESET)
        await asyncio.gather(*(world.get() for _ in range(10)))
        assert world.calls == 2

    @virtual
    async def test_after_a_write_during_a_fetch(self) -> None:
        def slow(x: Exchange) -> Any:
            return FRESH(x) if x.method == b"PUT" else after(1, FRESH)

        world = World(slow, env=virtual_env())
        fetching = asyncio.ensure_future(world.get())
        await settle()
        await world.ask("PUT")
        await fetching
        before = world.calls
        await asyncio.gather(*(world.get() for _ in range(10)))
        assert world.calls - before == 1

    @virtual
    async def test_not_after_an_answer_that_is_never_stored(self) -> None:
        assert await self.calls_of_ten(reply(Cache_Control="no-store")) == 10


class TestWhole:
    """Stored bodies are complete."""

    LINES = b"cache-control: max-age=60\r\ncontent-location: /a\r\n"

    async def test_a_streamed_answer_to_a_post(self) -> None:
        body = Body()
        world = World(streamed(body, self.LINES), FRESH)
        answer = await world.ask("POST")
        assert not is_hit(await world.get()), "its body is still to come"
        world.store.purge_everything()
        body.feed(b"pos")
        body.feed(b"ted")
        body.finish()
        assert answer.stream is not None
        assert answer.stream.whole() == b"posted"
        assert (await world.get()).body == b"body", "purged in between"

    async def test_it_is_stored_with_its_body(self) -> None:
        body = Body(length=6)
        world = World(streamed(body, self.LINES), 500)
        answer = await world.ask("POST")
        body.feed(b"pos")
        body.feed(b"ted")
        body.finish()
        hit = await world.get()
        assert (hit.body, is_hit(hit)) == (b"posted", True)
        assert answer.stream is not None
        assert answer.stream.whole() == b"posted"

    @pytest.mark.parametrize("breaks", [lambda body: body.fail(RESET), lambda body: body.finish()])
    async def test_it_is_not_stored_in_part(self, breaks: Breaks) -> None:
        body = Body(length=6)
        world = World(streamed(body, self.LINES), FRESH)
        await world.ask("POST")
        body.feed(b"pos")
        breaks(body)
        assert (await world.get()).body == b"body"

    async def test_nor_if_it_is_too_long(self) -> None:
        body = Body()
        world = World(streamed(body, self.LINES), FRESH, max_body="100B")
        await world.ask("POST")
        body.feed(b"x" * 101)
        body.finish()
        assert (await world.get()).body == b"body"

    @pytest.mark.parametrize("status", [201, 202, 204, 205, 301, 303])
    async def test_only_the_content_of_a_200_is_that_of_a_get(self, status: int) -> None:
        world = World(reply(status, b"", Cache_Control="max-age=60", Content_Location="/a"), FRESH)
        await world.ask("POST")
        answer = await world.get()
        assert (answer.status, answer.body, is_hit(answer)) == (200, b"body", False)

    @virtual
    async def test_a_post_that_a_write_has_overtaken_is_not_stored(self) -> None:
        def answers(x: Exchange) -> Any:
            old = reply(200, b"old", Cache_Control="max-age=60", Content_Location="/a")
            return after(1, old) if x.method == b"POST" else reply(200, b"new", Cache_Control="max-age=60")(x)

        world = World(answers, env=virtual_env())
        posting = asyncio.ensure_future(world.ask("POST"))
        await settle()
        await world.ask("PUT")
        await posting
        assert (await world.get()).body == b"new"

    @virtual
    async def test_no_one_joins_a_fetch_from_before_a_write(self) -> None:
        bodies = iter((Body(), Body()))

        def answers(x: Exchange) -> Any:
            return FRESH(x) if x.method == b"PUT" else Outcome(200, stream=next(bodies), lines=FRESH_LINES)

        world = World(answers, env=virtual_env())
        first = await world.get()
        assert first.stream is not None
        await world.ask("PUT")
        second = await world.get()
        assert not said(second).endswith(b"collapsed")
        assert world.calls == 3

    @virtual
    async def test_nor_while_its_head_is_still_awaited(self) -> None:
        version = 1

        def answers(x: Exchange) -> Any:
            nonlocal version
            if x.method == b"PUT":
                version = 2
                return FRESH(x)
            return after(1, reply(200, b"version %d" % version, Cache_Control="max-age=60"))

        world = World(answers, env=virtual_env())
        before = [asyncio.ensure_future(world.get()) for _ in range(3)]
        await settle()
        await world.ask("PUT")
        later = await asyncio.gather(*(world.get() for _ in range(3)))
        assert {answer.body for answer in later} == {b"version 2"}
        assert [(await answer).status for answer in before] == [200] * 3
        assert world.calls == 3, "those who had waited joined the new fetch"
        assert len(world.store.fetches) == 0
        assert (await world.get()).body == b"version 2"

    async def test_a_head_does_not_bring_back_what_was_purged_meanwhile(self) -> None:
        def answers(x: Exchange) -> Any:
            if x.method == b"HEAD":
                world.store.purge_everything()
                return reply(200, b"", Cache_Control="max-age=60")(x)
            return FRESH(x)

        world = World(answers)
        await world.get()
        await world.ask("HEAD", Cache_Control="no-cache")
        assert not is_hit(await world.get())
