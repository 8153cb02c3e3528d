"""Tests of stale answers: RFC 5861, RFC 9111 4.2.4, and the order of substitutes when the upstream fails."""

from __future__ import annotations

import asyncio
from typing import Any

import pytest

from sidecar.core import metrics
from sidecar.core.body import CANCELLED, Body
from sidecar.core.outcome import (
    BREAKER_OPEN,
    CLIENT_CLOSED,
    CONNECT_FAILURE,
    DEADLINE,
    OVERLOADED,
    RESET,
    TIMEOUT,
    Outcome,
)
from sidecar.engine.pipeline import Pipeline
from sidecar.stages.fallback import stage as fallback
from tests.support.loop import settle, virtual, virtual_env
from tests.support.service import HANG, after, context
from tests.unit.stages.cache.world import World, is_hit, reply, said

FRESH = reply(Cache_Control="max-age=60")
NEW = reply(200, b"new", Cache_Control="max-age=60")
FAILURES = [RESET, TIMEOUT, CONNECT_FAILURE, BREAKER_OPEN, OVERLOADED, DEADLINE, 500, 502, 503, 504]


async def aged(*script: Any, seconds: float = 61, first: Any = FRESH, **block: Any) -> World:
    """Return a world with an answer of that age."""
    world = World(first, *script, **block)
    await world.get()
    world.env.advance(seconds)
    return world


class TestIfError:
    """RFC 5861 4: stale-if-error."""

    @pytest.mark.parametrize("failing", FAILURES)
    async def test_it_stands_in(self, failing: Any) -> None:
        world = await aged(failing, stale_if_error="5m")
        answer = await world.get()
        reason = f"status-{failing}" if isinstance(failing, int) else failing.code.replace("_", "-")
        assert (answer.status, answer.body, answer.failure, answer.header(b"age")) == (200, b"body", None, b"61")
        assert said(answer) == f"sidecar; hit; ttl=-1; detail={reason}".encode()

    @pytest.mark.parametrize("status", [400, 404, 410, 501])
    async def test_other_statuses_are_answers(self, status: int) -> None:
        world = await aged(status, stale_if_error="5m")
        assert (await world.get()).status == status

    async def test_a_client_that_left_is_no_error(self) -> None:
        world = await aged(CLIENT_CLOSED, stale_if_error="5m")
        assert (await world.get()).failure is CLIENT_CLOSED

    async def test_it_ends(self) -> None:
        world = await aged(503, stale_if_error="5m", seconds=360)
        assert (await world.get()).status == 503

    async def test_the_answers_own_word_wins(self) -> None:
        first = reply(Cache_Control="max-age=60, stale-if-error=10")
        assert is_hit(await (await aged(503, first=first, stale_if_error="5m", seconds=69)).get())
        assert (await (await aged(503, first=first, stale_if_error="5m", seconds=71)).get()).status == 503
        assert is_hit(await (await aged(503, first=first, seconds=69)).get())

    @pytest.mark.parametrize("word", ["must-revalidate", "proxy-revalidate", "no-cache", "s-maxage=60"])
    @pytest.mark.parametrize("failing", [RESET, 503])
    async def test_9111_4_2_4_never_where_it_is_forbidden(self, word: str, failing: Any) -> None:
        first = reply(Cache_Control=f"max-age=60, {word}, stale-if-error=100", ETag='"a"')
        world = await aged(failing, first=first, stale_if_error="5m")
        x = world.request()
        assert (await world.service(x)).status in (502, 503)
        assert x.stale is None

    async def test_what_the_request_says(self) -> None:
        world = await aged(503)
        assert (await world.get()).status == 503
        assert is_hit(await world.get(Cache_Control="stale-if-error=10"))
        world = await aged(503, stale_if_error="5m")
        assert (await world.get(Cache_Control="no-cache")).status == 503
        assert is_hit(await world.get(Cache_Control="max-age=0"))

    async def test_an_error_that_may_be_stored_does_not_replace_what_stands_in(self) -> None:
        world = await aged(reply(503, b"sorry", Cache_Control="max-age=600"), stale_if_error="5m")
        for _ in range(2):
            assert (await world.get()).body == b"body"
        assert world.calls == 3

    async def test_the_body_of_the_error_is_cancelled(self) -> None:
        stream = Body()
        world = await aged(lambda x: Outcome(503, stream=stream), stale_if_error="5m")
        assert is_hit(await world.get())
        assert stream.state == CANCELLED

    async def test_validation_that_fails(self) -> None:
        first = reply(Cache_Control="max-age=60", ETag='"a"')
        world = await aged(503, first=first, stale_if_error="5m")
        assert is_hit(await world.get())
        assert world.sent(b"if-none-match") == b'"a"'

    async def test_a_head_gets_the_error(self) -> None:
        world = await aged(503, stale_if_error="5m")
        assert (await world.ask("HEAD")).status == 503

    async def test_an_open_breaker_is_not_waited_for(self) -> None:
        world = await aged(BREAKER_OPEN, stale_if_error="5m")
        assert is_hit(await world.get())
        assert world.env.sleeps == []

    @virtual
    async def test_all_who_wait_get_it(self) -> None:
        world = World(FRESH, after(1, RESET), env=virtual_env(), stale_if_error="5m")
        await world.get()
        await asyncio.sleep(61)
        answers = await asyncio.gather(*(world.get() for _ in range(100)))
        assert ({answer.body for answer in answers}, world.calls) == ({b"body"}, 2)


class TestLastResort:
    """Stale answers of `fallback: [stale]`, beyond `stale_if_error`."""

    async def ladder(self, world: World, **headers: str) -> Outcome:
        ctx = context(world.env)
        block = fallback.Spec.model_validate(["stale", {"response": {"status": 503, "json": {}}}])
        layer = fallback.build(block, ctx)
        return await Pipeline([layer], world.service)(world.request(**headers))

    async def test_it_has_whatever_is_left(self) -> None:
        world = await aged(RESET, seconds=3000, keep="1h")
        answer = await self.ladder(world)
        assert (answer.status, answer.body, answer.header(b"x-sidecar-fallback")) == (200, b"body", b"stale")
        assert said(answer) == b"sidecar; hit; ttl=-2940; detail=fallback"

    async def test_but_not_for_ever(self) -> None:
        world = await aged(RESET, seconds=3661, keep="1h")
        assert (await self.ladder(world)).status == 503

    async def test_nor_against_the_clients_wish(self) -> None:
        world = await aged(RESET)
        assert (await self.ladder(world, Cache_Control="no-cache")).status == 503

    async def test_it_answers_conditions_too(self) -> None:
        world = await aged(RESET, first=reply(Cache_Control="max-age=60", ETag='"a"'))
        assert (await self.ladder(world, If_None_Match='"a"')).status == 304


class TestWhileRevalidate:
    """RFC 5861 3: stale-while-revalidate."""

    def world(self, *script: Any, **block: Any) -> World:
        return World(*script, env=virtual_env(), stale_while_revalidate="10s", **block)

    @virtual
    async def test_it_is_served_and_one_call_goes_out(self) -> None:
        world = self.world(FRESH, after(1, NEW))
        await world.get()
        await asyncio.sleep(65)
        answers = [await world.get() for _ in range(50)]
        assert {(answer.body, said(answer)) for answer in answers} == {(b"body", b"sidecar; hit; ttl=-5")}
        await asyncio.sleep(2)
        assert ((await world.get()).body, world.calls) == (b"new", 2)
        assert len(world.store.fetches) == 0

    @virtual
    async def test_it_validates(self) -> None:
        world = self.world(reply(Cache_Control="max-age=60", ETag='"a"'), reply(304, b"", ETag='"a"'))
        await world.get(If_None_Match='"mine"', Cache_Control="max-age=99")
        await asyncio.sleep(65)
        await world.get(If_None_Match='"mine"')
        await settle()
        assert world.sent(b"if-none-match") == b'"a"'
        assert said(await world.get()) == b"sidecar; hit; ttl=60"

    @virtual
    async def test_beyond_the_window_the_request_waits(self) -> None:
        world = self.world(FRESH, after(1, NEW))
        await world.get()
        await asyncio.sleep(71)
        assert (await world.get()).body == b"new"

    @virtual
    async def test_a_head_sets_off_a_get(self) -> None:
        world = self.world(FRESH, NEW)
        await world.get()
        await asyncio.sleep(65)
        await world.ask("HEAD")
        await settle()
        assert world.upstream.exchanges[-1].method == b"GET"
        assert (await world.get()).body == b"new"

    @virtual
    async def test_a_failure_leaves_what_there_is(self) -> None:
        world = self.world(FRESH, RESET)
        await world.get()
        await asyncio.sleep(65)
        await world.get()
        await settle()
        assert (await world.get()).body == b"body"

    @virtual
    async def test_a_long_answer_that_is_not_stored_is_cancelled(self) -> None:
        stream = Body(length=10**9)
        world = self.world(FRESH, lambda x: Outcome(200, stream=stream, lines=b"cache-control: max-age=60\r\n"))
        await world.get()
        await asyncio.sleep(65)
        await world.get()
        await settle()
        assert stream.state == CANCELLED
        assert len(world.store.fetches) == 0

    @virtual
    async def test_a_streamed_answer_is_stored(self) -> None:
        stream = Body()
        world = self.world(FRESH, lambda x: Outcome(200, stream=stream, lines=b"cache-control: max-age=60\r\n"))
        await world.get()
        await asyncio.sleep(65)
        await world.get()
        await settle()
        stream.feed(b"new")
        stream.finish()
        assert (await world.get()).body == b"new"

    @virtual
    async def test_it_has_the_time_of_a_whole_request_and_attempts_of_its_own(self) -> None:
        world = self.world(FRESH, NEW)
        await world.get()
        await asyncio.sleep(65)
        x = world.request()
        x.arrived, x.deadline = world.env.now() - 4, world.env.now() + 1
        await world.service(x)
        await settle()
        twin = world.upstream.exchanges[-1]
        assert twin.deadline - world.env.now() == 5
        assert twin.attempts is not x.attempts

    @virtual
    async def test_refreshes_are_bounded(self) -> None:
        world = self.world(*[FRESH] * 300, HANG)
        for number in range(300):
            await world.get(f"/{number}")
        await asyncio.sleep(65)
        for number in range(300):
            assert is_hit(await world.get(f"/{number}"))
        await settle()
        assert world.calls == 300 + 256


async def test_results_are_counted_by_kind() -> None:
    world = await aged(503, stale_if_error="5m")
    await world.get()
    await world.ask("POST")
    counted = {
        result: world.env.meter.value(metrics.CACHE_LOOKUPS, result=result, route="order")
        for result in ("hit", "miss", "stale", "bypass")
    }
    assert counted == {"hit": 0, "miss": 1, "stale": 1, "bypass": 1}
    assert world.store.describe()["lookups"]["order"]["stale"] == 1
