"""Answers to authenticated callers: each has its own, unless the policy shares them and RFC 9111 3.5 allows it."""

from __future__ import annotations

from typing import Any

import pytest

from sidecar.core.exchange import Caller, Exchange
from sidecar.core.outcome import Outcome
from tests.unit.stages.cache.world import World, is_hit, reply

MAX_AGE = reply(Cache_Control="max-age=60")


def caller(name: str = "alice", credential: bytes = b"authorization", **claims: Any) -> Caller:
    return Caller(name, "corporate", {"sub": name, **claims}, credential)


async def get(world: World, who: Caller | None, path: str = "/a", **headers: str) -> Outcome:
    x = world.request("GET", path, **headers)
    x.caller = who
    return await world.service(x)


def greeting(x: Exchange) -> Outcome:
    """Answer with the caller's name."""
    return reply(200, b"" if x.caller is None else x.caller.id.encode(), Cache_Control="max-age=60")(x)


async def test_each_caller_has_answers_of_its_own() -> None:
    world = World(greeting, has_callers=True)
    for who in ("alice", "bob", ""):
        for number in range(2):
            headers = {"Authorization": f"Bearer {who}{number}"} if who else {}
            found = await get(world, caller(who) if who else None, **headers)
            assert found.body == who.encode()
            assert is_hit(found) == (number == 1)
    assert world.calls == 3


async def test_callers_with_other_claims_share_nothing_but_renewed_tokens_do() -> None:
    world = World(MAX_AGE, has_callers=True)
    await get(world, caller(scope="admin", exp=1, jti="a"), Authorization="Bearer a")
    assert is_hit(await get(world, caller(scope="admin", exp=2, jti="b"), Authorization="Bearer b"))
    assert not is_hit(await get(world, caller(scope="read", exp=2), Authorization="Bearer c"))
    assert not is_hit(await get(world, Caller("alice", "other", {"sub": "alice", "scope": "admin"}), X="y"))


async def test_a_write_invalidates_the_answers_of_all_callers() -> None:
    world = World(MAX_AGE, has_callers=True)
    for who in ("alice", "bob"):
        await get(world, caller(who), Authorization=f"Bearer {who}")
    await world.ask("PUT", "/a")
    for who in ("alice", "bob"):
        assert not is_hit(await get(world, caller(who), Authorization=f"Bearer {who}"))


@pytest.mark.parametrize("control", ["public, max-age=60", "s-maxage=60", "must-revalidate, max-age=60"])
async def test_shared_answers_are_those_that_the_rfc_allows(control: str) -> None:
    world = World(reply(Cache_Control=control), has_callers=True, shared=True)
    await get(world, caller("alice"), Authorization="Bearer a")
    assert is_hit(await get(world, caller("bob"), Authorization="Bearer b"))


@pytest.mark.parametrize("credential", [b"authorization", b"x-key", b""])
async def test_other_answers_are_not_shared_whatever_the_credential_was_and_whether_it_goes_on(
    credential: bytes,
) -> None:
    world = World(MAX_AGE, has_callers=True, shared=True, ttl="60s")
    await get(world, caller("alice", credential))
    assert not is_hit(await get(world, caller("bob", credential)))
    assert world.calls == 2


@pytest.mark.parametrize(
    ("credential", "headers", "is_stored"),
    [
        (b"authorization", {"Authorization": "Bearer a"}, True),
        (b"x-api-key", {"X_Api_Key": "k"}, True),
        (b"", {}, True),
        (b"", {"Authorization": "Basic x"}, False),
        (b"x-api-key", {"X_Api_Key": "k", "Authorization": "Basic x"}, False),
    ],
)
async def test_only_the_credential_of_the_caller_may_be_stored_for(
    credential: bytes, headers: dict[str, str], is_stored: bool
) -> None:
    world = World(MAX_AGE, has_callers=True)
    for expected in (False, is_stored):
        assert is_hit(await get(world, caller(credential=credential), **headers)) == expected


async def test_another_credential_needs_an_answer_that_says_how_it_is_shared() -> None:
    world = World(reply(), has_callers=True, ttl="60s")
    for headers, is_stored in (({"Authorization": "Bearer a"}, True), ({"Cookie": "session=1"}, False)):
        for expected in (False, is_stored):
            found = await get(world, caller(credential=b"authorization"), f"/{len(headers)}{is_stored}", **headers)
            assert is_hit(found) == expected


async def test_private_and_no_store_hold_for_callers_too() -> None:
    for control in ("private, max-age=60", "no-store"):
        world = World(reply(Cache_Control=control), has_callers=True)
        for _ in range(2):
            assert not is_hit(await get(world, caller(), Authorization="Bearer a"))
    world = World(MAX_AGE, has_callers=True)
    for _ in range(2):
        assert not is_hit(await get(world, caller(), Cache_Control="no-store"))


@pytest.mark.parametrize("when", [{}, {"when": "request.path == '/a'"}])
async def test_a_request_whose_refusal_was_only_observed_passes_by_the_cache(when: dict[str, str]) -> None:
    world = World(MAX_AGE, has_callers=True, **when)
    await get(world, None)
    assert is_hit(await get(world, None))
    x = world.request("GET", "/a", Authorization="Bearer forged")
    x.is_unverified = True
    found = await world.service(x)
    assert found.header(b"cache-status") is None
    x = world.request("PUT", "/a")
    x.is_unverified = True
    await world.service(x)
    assert not is_hit(await get(world, None)), "an unverified write invalidates all the same"


async def test_a_route_without_authentication_keeps_its_keys() -> None:
    from sidecar.cache.rfc.key import KeyRule

    assert KeyRule("r").is_plain
    assert KeyRule("r").digest != KeyRule("r", per_caller=True).digest
    world = World(MAX_AGE)
    x = world.request()
    assert KeyRule("r", per_caller=True).key(x).count(b" ") == 1
