"""Tests of `rate_limit`: keys, costs, several limits, refusals, fields, delays, the bounded table, and reloads."""

from __future__ import annotations

import asyncio
from typing import Any

import pytest
from pydantic import ValidationError

from sidecar.core import events, metrics
from sidecar.core.exchange import Caller, Exchange
from sidecar.core.outcome import RATE_LIMITED, Outcome
from sidecar.core.stage import Service
from sidecar.engine.pipeline import Pipeline
from sidecar.leases.rate import OVERFLOW
from sidecar.limits.keys import LONGEST, key_reader, network, shortened
from sidecar.stages.rate_limit import stage as rate_limit
from sidecar.stages.rate_limit.spec import LimitSpec, Spec
from tests.support.clock import FakeEnv, make_env
from tests.support.loop import settle, virtual, virtual_env
from tests.support.service import ScriptedService, Store, context, exchange, response

PER_SECOND: dict[str, Any] = {"name": "burst", "rate": "1/s", "burst": 1}


def service(env: FakeEnv, *limits: dict[str, Any], inner: Any = None, store: Store | None = None, **block: Any) -> Any:
    """Return a pipeline with limits, to which each block adds to `PER_SECOND`."""
    spec = Spec.model_validate({"limits": [PER_SECOND | limit for limit in limits or ({},)], **block})
    stage = rate_limit.build(spec, context(env, store=store or Store()))
    assert stage is not None
    return Pipeline([stage], inner or ScriptedService(200))


async def statuses(call: Service, *requests: Exchange) -> list[int]:
    return [(await call(x)).status for x in requests]


def of(**headers: str) -> Exchange:
    return exchange(headers={name.replace("_", "-"): value for name, value in headers.items()})


async def test_what_is_over_the_limit_is_refused() -> None:
    env = make_env()
    inner = ScriptedService(200)
    call = service(env, inner=inner)
    assert await statuses(call, exchange(), exchange()) == [200, 200]
    refused = await call(exchange())
    assert refused.failure is RATE_LIMITED
    refusal = refused.refusal
    assert (refusal.policy, refusal.where, refusal.limit, refusal.value) == ("rate_limit", "policies.yaml:7", 2, 3)
    assert refusal.retry_after == pytest.approx(1)
    assert refusal.detail == "the limit `burst` is 1 per second, with a burst of 1, for all requests together"
    assert inner.calls == 2
    env.advance(1)
    assert await statuses(call, exchange(), exchange()) == [200, 429]
    assert env.meter.value(metrics.RATE_LIMITED, limit="burst", result="refused", route="order") == 2


@pytest.mark.parametrize(
    ("limit", "requests", "expected"),
    [
        ({"key": "header.X-Tenant"}, [of(x_tenant="a")] * 3 + [of(x_tenant="b")], [200, 200, 429, 200]),
        ({"key": "header.x-tenant"}, [of()] * 3, [200, 200, 429]),
        (
            {"key": "header.x-tenant", "otherwise": "client.address"},
            [exchange(client_address="192.0.2.1")] * 3 + [exchange(client_address="192.0.2.2")],
            [200, 200, 429, 200],
        ),
        (
            {"key": "client.address"},
            [exchange(client_address=f"2001:db8::{number}") for number in (1, 2, 3)]
            + [exchange(client_address="2001:db8:0:1::1")],
            [200, 200, 429, 200],
        ),
        (
            {"key": "client.address"},
            [exchange(client_address=each) for each in ("192.0.2.1", "::ffff:192.0.2.1", "192.0.2.1")],
            [200, 200, 429],
        ),
        (
            {"key": "client.address", "ipv6_prefix": 128},
            [exchange(client_address=f"2001:db8::{number}") for number in (1, 2, 3)],
            [200, 200, 200],
        ),
        (
            {"key": "caller"},
            [exchange(caller=Caller(*each, {})) for each in (("a", "x"), ("a", "x"), ("a", "x"), ("a", "y"))],
            [200, 200, 429, 200],
        ),
        (
            {"key": "caller.claims.tenant"},
            [exchange(caller=Caller("a", "x", {"tenant": each})) for each in ("1", 1, "1", ["1"], None)] + [of()] * 2,
            [200, 200, 429, 200, 200, 200, 429],
        ),
        (
            {"key": "path.id"},
            [exchange(captures={"id": each}) for each in ("1", "1", "1", "2")],
            [200, 200, 429, 200],
        ),
    ],
)
async def test_requests_are_counted_by_their_key(
    limit: dict[str, Any], requests: list[Exchange], expected: list[int]
) -> None:
    assert await statuses(service(make_env(), limit), *requests) == expected


@pytest.mark.parametrize(
    ("cost", "query", "admitted"),
    [(2, b"", 3), (1.5, b"", 4), ("{query.n}", b"n=2", 3), ("{query.n}", b"n=99", 1), ("{query.n}", b"n=-5", 6),
     ("{query.n}", b"n=nan", 6), ("{query.n}", b"n=many", 6), ("{query.n}", b"", 6)],
)  # fmt: skip
async def test_a_request_may_count_as_several(cost: Any, query: bytes, admitted: int) -> None:
    call = service(make_env(), {"burst": 5, "cost": cost})
    assert (await statuses(call, *[exchange(query=query)] * 8)).count(200) == admitted


async def test_no_key_can_be_that_of_another_client() -> None:
    """A field with the address of another client is counted apart from the requests of that client."""
    call = service(make_env(), {"key": "header.x-tenant", "otherwise": "client.address"})
    assert await statuses(call, *[of(x_tenant="192.0.2.1")] * 3) == [200, 200, 429]
    assert await statuses(call, exchange(client_address="192.0.2.1")) == [200]


async def test_no_claim_can_be_the_key_of_another_client() -> None:
    """A claim may contain a NUL, with which the keys of `otherwise` begin, and that of all keys beyond the table."""
    call = service(make_env(), {"key": "caller.claims.tenant", "otherwise": "client.address", "max_keys": 3})
    hostile = [exchange(caller=Caller("a", "x", {"tenant": each})) for each in ("\0=192.0.2.1", OVERFLOW)]
    assert await statuses(call, *hostile * 3) == [200] * 4 + [429] * 2
    assert await statuses(call, exchange(client_address="192.0.2.1"), exchange(client_address="192.0.2.2")) == [200] * 2


async def test_a_request_that_one_limit_refuses_counts_for_none() -> None:
    env = make_env()
    call = service(env, {"name": "wide", "burst": 9}, {"name": "narrow", "key": "header.x-tenant", "burst": 0})
    assert await statuses(call, *[of(x_tenant="a")] * 20) == [200] + [429] * 19
    others = [of(x_tenant=f"{number}") for number in range(10)]
    assert await statuses(call, *others) == [200] * 9 + [429]
    refused = await call(of(x_tenant="0"))
    assert "`wide`" in refused.refusal.detail or "`narrow`" in refused.refusal.detail


async def test_the_refusal_names_the_limit_that_lasts_longest() -> None:
    call = service(make_env(), {"name": "short", "burst": 0}, {"name": "long", "rate": "1/m", "burst": 0})
    assert (await call(exchange())).status == 200
    refused = await call(exchange())
    assert "`long` is 1 per minute" in refused.refusal.detail
    assert refused.refusal.retry_after == pytest.approx(60)


# ----- fields


def field(outcome: Outcome, name: bytes) -> bytes | None:
    return outcome.joined(name)


async def test_responses_state_the_limit() -> None:
    env = make_env()
    call = service(env, {"burst": 9}, inner=ScriptedService(lambda _: Outcome(200, lines=b"x-a: 1\r\n")))
    first = await call(exchange())
    assert first.lines == b'x-a: 1\r\nratelimit: "burst";r=9;t=1\r\nratelimit-policy: "burst";q=10;w=10\r\n'
    assert field(await call(exchange()), b"ratelimit") == b'"burst";r=8;t=2'
    await statuses(call, *[exchange()] * 8)
    refused = await call(exchange())
    assert refused.status == 429
    assert field(refused, b"ratelimit") == b'"burst";r=0;t=1', "no later than Retry-After"
    assert field(refused, b"ratelimit-policy") == b'"burst";q=10;w=10'
    env.advance(0.5)
    assert field(await call(exchange()), b"ratelimit") == b'"burst";r=0;t=1'
    env.advance(0.5)
    assert field(await call(exchange()), b"ratelimit") == b'"burst";r=0;t=10', "all of it is there in ten seconds"
    env.advance(100)
    assert field(await call(exchange()), b"ratelimit") == b'"burst";r=9;t=1'


async def test_several_limits_are_members_of_one_list_beside_those_of_the_service() -> None:
    inner = ScriptedService(lambda _: response(200, headers={"RateLimit": '"theirs";r=5;t=1'}))
    call = service(make_env(), {"name": "a"}, {"name": "b", "burst": 5}, {"name": "c", "mode": "observe"}, inner=inner)
    found = await call(exchange())
    assert field(found, b"ratelimit") == b'"theirs";r=5;t=1, "a";r=1;t=1, "b";r=5;t=1'
    assert field(found, b"ratelimit-policy") == b'"a";q=2;w=2, "b";q=6;w=6'


async def test_separate_fields_are_those_of_the_limit_with_the_least_left() -> None:
    inner = ScriptedService(lambda _: response(200, headers={"RateLimit-Limit": "7", "x-a": "1"}))
    call = service(make_env(), {"name": "a", "burst": 3}, {"name": "b"}, inner=inner, fields="separate")
    found = await call(exchange())
    expected = [(b"x-a", b"1"), (b"ratelimit-limit", b"2"), (b"ratelimit-remaining", b"1"), (b"ratelimit-reset", b"1")]
    assert found.headers == expected


@pytest.mark.parametrize(
    ("theirs", "limit", "remaining"),
    [
        ({"RateLimit-Remaining": "0", "RateLimit-Reset": "9"}, None, "0"),
        ({"RateLimit-Limit": "5", "RateLimit-Remaining": "3"}, "10", "2"),
        ({"RateLimit-Reset": "9"}, "10", "2"),
        ({"RateLimit-Remaining": "many"}, "10", "2"),
        ({"RateLimit-Remaining": "9" * 5000}, "10", "2"),
        ({"RateLimit-Remaining": "0", "Age": "30"}, "10", "2"),
    ],
)
async def test_separate_fields_of_the_service_stay_if_it_has_less_left(
    theirs: dict[str, str], limit: str | None, remaining: str
) -> None:
    inner = ScriptedService(lambda _: response(200, headers=theirs))
    call = service(make_env(), {"burst": 9, "cost": 8}, inner=inner, fields="separate")
    fields = (await call(exchange())).headers
    assert [value.decode() for name, value in fields if name == b"ratelimit-remaining"] == [remaining]
    assert [value.decode() for name, value in fields if name == b"ratelimit-limit"] == ([limit] if limit else [])
    assert len([name for name, _ in fields if name == b"ratelimit-reset"]) == 1


async def test_numbers_are_no_larger_than_structured_fields_have_them() -> None:
    """RFC 9651 3.3.1: 15 digits."""
    call = service(make_env(), {"burst": 1_000_000, "rate": "0.001/h", "cost": {"answer_size": "1GiB"}})
    found = await call(exchange())
    assert field(found, b"ratelimit") == b'"burst";r=999999999999999;t=3600001'
    policy = field(found, b"ratelimit-policy") or b""
    assert policy.startswith(b'"burst";q=999999999999999;qu="content-bytes";w=36')


async def test_fields_are_added_to_a_copy_of_a_shared_list() -> None:
    shared = [(b"x-a", b"1")]
    call = service(make_env(), inner=ScriptedService(lambda _: Outcome(200, shared)))
    assert field(await call(exchange()), b"ratelimit") is not None
    assert shared == [(b"x-a", b"1")]


async def test_fields_may_be_off() -> None:
    call = service(make_env(), fields="off")
    found = [await call(exchange()) for _ in range(3)]
    assert [each.headers for each in found] == [[], [], []]
    assert found[-1].status == 429


# ----- observe, and delays


async def test_an_observed_limit_counts_no_request_that_would_only_have_waited() -> None:
    env = make_env()
    call = service(env, {"rate": "10/s", "delay": {"max": "250ms"}, "mode": "observe"})
    assert await statuses(call, *[exchange()] * 6) == [200] * 6
    assert env.meter.value(metrics.RATE_LIMITED, result="observed") == 2
    assert env.meter.value(metrics.RATE_LIMITED, result="delayed") == 0


async def test_an_observed_limit_counts_as_an_enforced_one() -> None:
    env = make_env()
    call = service(env, {"mode": "observe"})
    found = [await call(exchange()) for _ in range(5)]
    assert [each.status for each in found] == [200] * 5
    assert env.meter.value(metrics.WOULD_REFUSE, policy="rate_limit", route="order") == 3
    assert env.meter.value(metrics.RATE_LIMITED, result="observed") == 3
    assert all(field(each, b"ratelimit") is None for each in found)


def test_limits_of_an_observed_block_are_observed_ones() -> None:
    store = Store()
    for mode in ("observe", "enforce"):
        rate_limit.build(Spec.model_validate({"limits": [PER_SECOND], "mode": mode}), context(store=store))
        assert [each.describe()["mode"] for each in store.objects.values()] == [mode]


@pytest.mark.parametrize("is_tried", [True, False])
async def test_observed_limits_count_together_as_enforced_ones(is_tried: bool) -> None:
    """A request that one of them would have refused counts for none of them, and once for the block."""
    env = make_env()
    mode = {"mode": "observe"} if is_tried else {}
    call = service(env, {"name": "each", "key": "client.address"}, {"name": "all", "burst": 4}, **mode)
    await statuses(call, *[exchange(client_address="192.0.2.1")] * 20)
    await statuses(call, *[exchange(client_address=f"192.0.2.{number}") for number in range(2, 7)])
    result = "observed" if is_tried else "refused"
    counted = {name: env.meter.value(metrics.RATE_LIMITED, limit=name, result=result) for name in ("each", "all")}
    assert counted == {"each": 18, "all": 2}
    assert env.meter.value(metrics.WOULD_REFUSE, policy="rate_limit") == (20 if is_tried else 0)
    await statuses(call, exchange(client_address="192.0.2.1"))
    assert env.meter.value(metrics.WOULD_REFUSE, policy="rate_limit") == (21 if is_tried else 0), "two limits, once"


async def test_an_enforced_limit_counts_what_an_observed_one_only_would_have_refused() -> None:
    call = service(make_env(), {"name": "tried", "burst": 0, "mode": "observe"}, {"name": "kept", "burst": 2})
    assert await statuses(call, *[exchange()] * 4) == [200] * 3 + [429]


def start(call: Service, **facts: Any) -> asyncio.Task[Outcome]:
    async def run() -> Outcome:
        return await call(exchange(**facts))

    return asyncio.get_running_loop().create_task(run())


@virtual
async def test_a_delayed_request_waits_for_its_turn() -> None:
    env = virtual_env()
    began = env.now()
    ends: list[float] = []

    def inner(_: Exchange) -> Outcome:
        ends.append(round(env.now() - began, 3))
        return response(200)

    call = service(env, {"rate": "10/s", "delay": {"max": "250ms"}}, inner=ScriptedService(inner))
    tasks = [start(call) for _ in range(6)]
    found = [await task for task in tasks]
    assert [each.status for each in found] == [200] * 4 + [429] * 2
    assert found[-1].refusal is not None
    assert found[-1].refusal.detail.endswith("for all requests together; its turn comes later than in 250ms")
    assert ends == [0, 0, 0.1, 0.2]
    assert env.meter.value(metrics.RATE_LIMITED, result="delayed") == 2


@virtual
async def test_few_requests_wait_and_none_beyond_its_deadline() -> None:
    env = virtual_env()
    call = service(env, {"burst": 0, "delay": {"max": "1h", "waiting": 2}})
    tasks = [start(call) for _ in range(4)]
    late = start(call, deadline=env.now() + 0.5)
    await settle()
    assert [task.done() for task in tasks] == [True, False, False, True]
    assert (await late).status == (await tasks[3]).status == 429
    refusals = [(await task).refusal for task in (late, tasks[3])]
    assert [each.detail.partition("; ")[2] for each in refusals if each is not None] == [
        "its turn comes after its deadline", "too many wait already",
    ]  # fmt: skip
    tasks[1].cancel()
    assert (await tasks[2]).status == 200
    assert tasks[1].cancelled()
    assert (await start(call)).status == 200, "waiting places are given back"


# ----- the table of keys


async def test_keys_beyond_the_table_share_one_count() -> None:
    env = make_env()
    call = service(env, {"key": "header.x-tenant", "max_keys": 2})
    assert await statuses(call, of(x_tenant="a"), of(x_tenant="a"), of(x_tenant="b")) == [200, 200, 200]
    flood = await statuses(call, *[of(x_tenant=f"flood-{number}") for number in range(10)])
    assert flood == [200, 200] + [429] * 8
    assert await statuses(call, of(x_tenant="a"), of(x_tenant="b")) == [429, 200], "and known keys keep theirs"
    assert env.meter.value(metrics.RATE_LIMIT_OVERFLOW, limit="burst") == 10
    assert env.meter.value(metrics.RATE_LIMIT_KEYS, limit="burst") == 2
    warnings = [each for each in env.events if each[0] == events.RATE_LIMIT_FULL]
    assert len(warnings) == 1
    refused = await call(of(x_tenant="flood"))
    assert "for all header.x-tenant beyond the 2 that are counted one by one" in refused.refusal.detail


async def test_a_table_is_full_only_while_keys_find_no_place() -> None:
    """Keys that say nothing any more are evicted for others, and need not be told of."""
    env, store = make_env(), Store()
    call = service(env, {"key": "header.x-tenant", "max_keys": 2}, store=store)
    (state,) = store.objects.values()
    await statuses(call, of(x_tenant="a"), of(x_tenant="b"))
    assert (state.describe()["keys"], state.describe()["is_full"]) == (2, False)
    await statuses(call, of(x_tenant="c"))
    assert state.describe()["is_full"]
    env.advance(59)
    assert state.describe()["is_full"]
    env.advance(2)
    await statuses(call, of(x_tenant="d"))
    assert (state.describe()["keys"], state.describe()["is_full"]) == (1, False)


@pytest.mark.parametrize("claim", ["\0=192.0.2.1", "\0overflow", "a\0"])
async def test_no_claim_is_the_key_of_another_client(claim: str) -> None:
    """JSON may contain a NUL, with which keys of the sidecar's own begin."""
    limit = {"key": "caller.claims.tenant", "otherwise": "client.address", "max_keys": 2}
    call = service(make_env(), limit)
    assert await statuses(call, *[exchange(caller=Caller("a", "x", {"tenant": claim}))] * 3) == [200, 200, 429]
    assert await statuses(call, exchange(client_address="192.0.2.1"), of()) == [200, 200]


def test_long_keys_are_stored_as_digests() -> None:
    long = "x" * 10_000
    assert len(shortened(long)) <= LONGEST
    assert shortened(long) != shortened(f"{long}y")
    assert shortened("short") == "short"
    read = key_reader(LimitSpec.model_validate(PER_SECOND | {"key": "header.x-tenant"}))
    assert len(read(of(x_tenant=long))) <= LONGEST
    assert network("fe80::1%eth0", 64) == network("fe80::2", 64)
    assert network("a:b", 64) == "a:b"


# ----- reloads


async def test_counts_survive_a_reload() -> None:
    env, store = make_env(), Store()
    assert await statuses(service(env, {"burst": 2}, store=store), *[exchange()] * 3) == [200] * 3
    assert await statuses(service(env, {"burst": 2}, store=store), exchange()) == [429]
    assert await statuses(service(env, {"burst": 4}, store=store), *[exchange()] * 3) == [200, 200, 429]
    state = store.objects["rate_limit", "route", "order", "burst"].describe()
    assert (state["limit"], state["keys"], state["refused"]) == ("1 per second, with a burst of 4", 1, 2)
    assert state["shared_by"] == "process"
    changed = service(env, {"burst": 4, "key": "client.address"}, store=store)
    assert await statuses(changed, exchange(client_address="")) == [200], "counts by another key say nothing"


async def test_limits_for_misses_are_a_stage_of_their_own() -> None:
    limits = [PER_SECOND | {"name": "hits"}, PER_SECOND | {"name": "misses", "count": "misses", "burst": 0}]
    spec, store = Spec.model_validate(limits), Store()
    outer, inner = (build(spec, context(store=store)) for build in (rate_limit.build, rate_limit.build_inside))
    assert outer is not None
    assert inner is not None
    assert await statuses(Pipeline([outer, inner], ScriptedService(200)), *[exchange()] * 2) == [200, 429]
    only = Spec.model_validate(limits[1:])
    assert rate_limit.build(only, context()) is None
    assert rate_limit.build_inside(Spec.model_validate(limits[:1]), context()) is None


# ----- the spec


@pytest.mark.parametrize(
    ("block", "message"),
    [
        ({"name": "a", "rate": "1/s"}, "is a list of limits"),
        ([PER_SECOND, PER_SECOND], "two limits with the name `burst`"),
        ([PER_SECOND | {"key": "caller.name"}], "is not a key; write client.address, caller"),
        ([PER_SECOND | {"key": "cookie.a"}], "is not a key"),
        ([PER_SECOND | {"cost": 3}], "never lets through; make burst at least 2"),
        ([PER_SECOND | {"cost": 0}], "more than zero"),
        ([PER_SECOND | {"cost": "5"}], "write a number such as 5"),
        ([PER_SECOND | {"cost": "{query}"}], "unknown"),
        ([PER_SECOND | {"rate": 5}], "is not a rate"),
        ([PER_SECOND | {"name": 'a"b'}], "is no name of a limit; write up to 63 letters, digits"),
        ([PER_SECOND | {"name": "a\n"}], "is no name of a limit"),
        ([PER_SECOND | {"rate": "0.0001/h"}], "is not between 0.001/h and 1000000000/s"),
        ([PER_SECOND | {"rate": "9" * 400 + "/s"}], "is not between"),
        ([PER_SECOND | {"cost": {"answer_size": "9" * 400 + "B"}}], "is too large for a size"),
    ],
)
def test_a_wrong_block_is_refused(block: Any, message: str) -> None:
    with pytest.raises(ValidationError, match=message):
        Spec.model_validate(block)


@pytest.mark.parametrize(
    ("rate", "words"),
    [("100/s", "100 per second, with a burst of 100"), ("90/m", "1.5 per second, with a burst of 2"),
     ("30/m", "30 per minute, with a burst of 1"), ("10/h", "10 per hour, with a burst of 1"),
     ("0.5/h", "0.5 per hour, with a burst of 1"),
     ("1234567/s", "1234567 per second, with a burst of 1234567")],
)  # fmt: skip
def test_a_limit_tells_its_rate_and_burst(rate: str, words: str) -> None:
    assert LimitSpec.model_validate({"name": "a", "rate": rate}).words == words
