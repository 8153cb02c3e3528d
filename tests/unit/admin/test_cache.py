"""Tests of `GET /cache` and `POST /cache/purge` on the admin listener."""

from __future__ import annotations

from typing import Any

import pytest

from sidecar.cache.spec import CacheSpec
from sidecar.cache.store import Store
from tests.support.clock import make_env
from tests.unit.admin.test_app import World, problem, world
from tests.unit.stages.cache.world import World as CacheWorld
from tests.unit.stages.cache.world import reply

__all__ = ["world"]


async def filled(world: World, *names: str) -> list[CacheWorld]:
    """Register caches with three answers each; they exist as long as the returned worlds."""
    caches = []
    for name in names:
        env = make_env()
        cache = CacheWorld(
            reply(Cache_Control="max-age=60", Cache_Tag="One"), env=env, store=Store(name, CacheSpec(), env)
        )
        for path in ("/a", "/b/1", "/b/2"):
            await cache.get(path)
        world.states["cache", name] = cache.store
        caches.append(cache)
    return caches


async def test_what_they_hold(world: World) -> None:
    await filled(world, "default", "small")
    facts = await (await world.get("/cache")).json()
    assert facts.keys() == {"default", "small"}
    assert facts["small"]["entries"] == 3
    assert facts["small"]["lookups"]["order"]["miss"] == 3


@pytest.mark.parametrize(
    ("query", "count"),
    [
        ("url=http://orders/a", 1), ("prefix=http://orders/b/", 2), ("tag=one", 3), ("everything=true", 3),
        ("url=http://orders/none", 0),
    ],
)  # fmt: skip
async def test_a_purge_says_how_many_went(world: World, query: str, count: int) -> None:
    alive = await filled(world, "default", "small")
    answer = await (await world.post(f"/cache/purge?{query}&cache=small")).json()
    assert answer == {"purged": {"small": count}}
    answer = await (await world.post(f"/cache/purge?{query}")).json()
    assert answer == {"purged": {"default": count, "small": 0}}
    assert len(alive) == 2


@pytest.mark.parametrize(
    ("query", "status", "detail"),
    [
        ("", 400, "say what to purge"),
        ("?url=http://a/&tag=b", 400, "say what to purge"),
        ("?tag=b&cash=small", 400, "say what to purge"),
        ("?tag=", 400, "tag is empty"),
        ("?everything=1", 400, "everything must be true"),
        ("?url=/a", 400, "is not an absolute URI; write it such as"),
        ("?tag=b&cache=smal", 404, "there is no cache 'smal'; did you mean 'small'?"),
    ],
)
async def test_a_wrong_purge_is_told_what_is_right(world: World, query: str, status: int, detail: str) -> None:
    await filled(world, "small")
    document: dict[str, Any] = await problem(await world.post(f"/cache/purge{query}"), status)
    assert detail in document["detail"]


async def test_other_sites_cannot_purge(world: World) -> None:
    await filled(world, "small")
    await problem(await world.post("/cache/purge?everything=true", Origin="http://evil.example"), 403)
    assert (await (await world.get("/cache")).json())["small"]["entries"] == 3
