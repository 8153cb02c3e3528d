"""Tests of `quota`: counts by key and window, several quotas, refusals, fields, observation, reloads and stores."""

from __future__ import annotations

import asyncio
from dataclasses import replace
from typing import Any

import pytest
from pydantic import ValidationError

from sidecar.control.state import StateStore
from sidecar.core import events, metrics
from sidecar.core.exchange import Exchange
from sidecar.core.outcome import RATE_LIMITED, Outcome
from sidecar.engine.pipeline import Pipeline
from sidecar.stages.quota import stage as quota
from sidecar.stages.quota.spec import Spec
from sidecar.stages.quota.windows import Windows
from sidecar.store.shared_quotas import InProcessLedger, SharedQuotas
from sidecar.store.spec import StoreSpec
from tests.support.cases import each
from tests.support.clock import FakeEnv, make_env
from tests.support.loop import run, virtual, virtual_env
from tests.support.service import ScriptedService, Store, context, exchange, response

DAY: dict[str, Any] = {"name": "day", "max": 2, "per": "day"}
SPEC = StoreSpec.model_validate({"redis": {"url": "redis://127.0.0.1:1/0", "timeout": "20ms"}})


def service(env: FakeEnv, *quotas: dict[str, Any], inner: Any = None, store: Store | None = None, **block: Any) -> Any:
    """Return a pipeline with quotas, to which each block adds to `DAY`."""
    spec = Spec.model_validate({"quotas": [DAY | each for each in quotas or ({},)], **block})
    return arriving(
        env, Pipeline([quota.build(spec, context(env, store=store or Store()))], inner or ScriptedService(200))
    )


def arriving(env: FakeEnv, pipeline: Pipeline) -> Any:
    """Return a function that runs a request which arrives at the present instant."""

    async def call(x: Exchange) -> Outcome:
        x.arrived = env.now()
        return await pipeline(x)

    return call


async def statuses(call: Any, number: int, **headers: str) -> list[int]:
    return [(await call(exchange(headers=headers))).status for _ in range(number)]


def to_end(env: FakeEnv, per: str = "day") -> float:
    found = Windows(per, "00:00", "UTC")
    found.find(env.wall())
    return found.end - env.wall()


async def test_what_is_beyond_the_quota_is_refused_until_the_window_ends() -> None:
    env = make_env()
    inner = ScriptedService(200)
    call = service(env, inner=inner)
    assert await statuses(call, 2) == [200, 200]
    refused = await call(exchange())
    assert refused.failure is RATE_LIMITED
    refusal = refused.refusal
    assert (refusal.policy, refusal.where, refusal.limit, refusal.value) == ("quota", "policies.yaml:7", 2, 3)
    assert refusal.retry_after == pytest.approx(to_end(env))
    assert refusal.detail == "the quota `day` is 2 per day, from 00:00 in UTC, for all requests together"
    assert inner.calls == 2
    assert env.meter.value(metrics.QUOTA_EXCEEDED, limit="day", result="refused", route="order") == 1
    env.advance(to_end(env) - 1)
    assert await statuses(call, 1) == [429]
    env.advance(1)
    assert await statuses(call, 3) == [200, 200, 429]


async def test_each_key_has_a_count_of_its_own() -> None:
    call = service(make_env(), {"key": "header.x-tenant", "otherwise": "client.address"})
    assert await statuses(call, 3, **{"x-tenant": "a"}) == [200, 200, 429]
    assert await statuses(call, 2, **{"x-tenant": "b"}) == [200, 200]
    assert await statuses(call, 3) == [200, 200, 429]


async def test_a_request_that_one_quota_refuses_counts_for_none() -> None:
    call = service(make_env(), {"name": "month", "max": 3, "per": "month"}, {"key": "header.x-tenant"})
    assert await statuses(call, 4, **{"x-tenant": "a"}) == [200, 200, 429, 429]
    assert await statuses(call, 2, **{"x-tenant": "b"}) == [200, 429]


async def test_responses_state_the_quota() -> None:
    env = make_env()
    call = service(env, inner=ScriptedService(response(200, headers={"x": "y"})))
    outcome = await call(exchange())
    assert outcome.header(b"ratelimit") == b'"day";r=1;t=%d' % to_end(env)
    assert outcome.header(b"ratelimit-policy") == b'"day";q=2;w=86400'
    assert outcome.header(b"x") == b"y"
    await call(exchange())
    refused = await call(exchange())
    assert refused.header(b"ratelimit") == b'"day";r=0;t=%d' % to_end(env)


async def test_separate_fields_are_those_of_the_quota_with_the_least_left() -> None:
    call = service(make_env(), {}, {"name": "month", "max": 100, "per": "month"}, fields="separate")
    outcome = await call(exchange())
    assert outcome.header(b"ratelimit-limit") == b"2"
    assert outcome.header(b"ratelimit-remaining") == b"1"


async def test_a_cost_that_is_a_template_counts() -> None:
    call = service(make_env(), {"max": 10, "cost": "{query.rows}"})
    assert [(await call(exchange(query=b"rows=" + rows))).status for rows in (b"6", b"5", b"4", b"x")] == [
        200,
        429,
        200,
        429,
    ]


async def test_observe_counts_and_refuses_nothing() -> None:
    env = make_env()
    call = service(env, {"mode": "observe"}, mode="enforce")
    assert await statuses(call, 5) == [200] * 5
    assert env.meter.value(metrics.QUOTA_EXCEEDED, result="observed") == 3
    assert env.meter.value(metrics.WOULD_REFUSE, policy="quota", route="order") == 3


def test_quotas_of_an_observed_block_are_observed_ones() -> None:
    store = Store()
    for mode in ("observe", "enforce"):
        quota.build(Spec.model_validate({"quotas": [DAY], "mode": mode}), context(store=store))
        assert [each.describe()["mode"] for each in store.objects.values()] == [mode]


async def test_a_request_over_two_observed_quotas_is_one_that_would_have_been_refused() -> None:
    env = make_env()
    call = service(env, {"name": "a"}, {"name": "b"}, mode="observe")
    assert await statuses(call, 5) == [200] * 5
    assert env.meter.value(metrics.WOULD_REFUSE, policy="quota", route="order") == 3
    assert [env.meter.value(metrics.QUOTA_EXCEEDED, limit=name, result="observed") for name in "ab"] == [3, 3]


async def test_keys_beyond_the_table_share_one_count_and_reset_nobody() -> None:
    env = make_env()
    call = service(env, {"key": "header.x-tenant", "max_keys": 1})
    assert await statuses(call, 2, **{"x-tenant": "a"}) == [200, 200]
    found = [(await statuses(call, 1, **{"x-tenant": f"flood {number}"}))[0] for number in range(20)]
    assert found == [200, 200, *[429] * 18]
    assert await statuses(call, 1, **{"x-tenant": "a"}) == [429]
    assert env.meter.value(metrics.QUOTA_OVERFLOW, limit="day") == 20
    assert env.meter.value(metrics.QUOTA_KEYS, limit="day") == 1, "no more than `max_keys`"
    assert [name for name, _ in env.events] == [events.QUOTA_FULL]
    refused = await call(exchange(headers={"x-tenant": "flood"}))
    assert "beyond the 1 that are counted one by one" in refused.refusal.detail


@pytest.mark.parametrize("is_tried", [True, False])
async def test_observed_quotas_count_together_as_enforced_ones(is_tried: bool) -> None:
    env = make_env()
    mode = {"mode": "observe"} if is_tried else {}
    call = service(env, {"name": "all", "max": 5}, {"name": "each", "key": "header.x-tenant"}, **mode)
    await statuses(call, 20, **{"x-tenant": "a"})
    for tenant in "bcdef":
        await statuses(call, 1, **{"x-tenant": tenant})
    result = "observed" if is_tried else "refused"
    counted = {name: env.meter.value(metrics.QUOTA_EXCEEDED, limit=name, result=result) for name in ("each", "all")}
    assert counted == {"each": 18, "all": 2}
    await statuses(call, 1, **{"x-tenant": "a"})
    assert env.meter.value(metrics.WOULD_REFUSE, policy="quota") == (21 if is_tried else 0), "two quotas, once"


async def test_an_enforced_quota_counts_what_an_observed_one_only_would_have_refused() -> None:
    call = service(make_env(), {"name": "tried", "max": 1, "mode": "observe"}, {"name": "kept", "max": 3})
    assert await statuses(call, 4) == [200] * 3 + [429]


@pytest.mark.parametrize("names", [("hour", "month"), ("month", "hour")])
async def test_the_refusal_names_the_quota_whose_window_ends_last(names: tuple[str, str]) -> None:
    env = make_env()
    call = service(env, *({"name": name, "per": name, "max": 2} for name in names))
    assert await statuses(call, 2) == [200, 200]
    refused = await call(exchange())
    assert "`month` is 2 per month" in refused.refusal.detail
    assert refused.refusal.retry_after == pytest.approx(to_end(env, "month"))
    env.advance(to_end(env, "month"))
    assert await statuses(call, 3) == [200, 200, 429], "what was refused counted for none"


@pytest.mark.parametrize(("change", "expected"), [({"max": 3}, [200, 429]), ({"key": "client.address"}, [200, 200])])
async def test_counts_survive_a_reload_but_not_another_key(change: dict[str, Any], expected: list[int]) -> None:
    env, states = make_env(), StateStore()

    def call_of(**settings: Any) -> Any:
        lease = states.lease()
        spec = Spec.model_validate([DAY | settings])
        built = quota.build(spec, replace(context(env), obtain=lease.obtain))
        states.commit(lease)
        return arriving(env, Pipeline([built], ScriptedService(200)))

    assert await statuses(call_of(), 3) == [200, 200, 429]
    assert await statuses(call_of(**change), 2) == expected


async def test_the_state_is_that_of_the_current_window() -> None:
    env, store = make_env(), Store()
    call = service(env, {"key": "header.x-tenant"}, store=store)
    (state,) = store.objects.values()
    assert (state.describe()["keys"], state.describe()["ends"]) == (0, env.wall() + to_end(env))
    await statuses(call, 1, **{"x-tenant": "a"})
    assert (state.describe()["keys"], env.meter.value(metrics.QUOTA_KEYS)) == (1, 1)
    env.advance(to_end(env))
    assert env.meter.value(metrics.QUOTA_KEYS) == 0
    assert (state.describe()["keys"], state.describe()["ends"]) == (0, env.wall() + 86_400)


async def test_a_clock_that_steps_back_over_the_start_resets_nothing() -> None:
    env = make_env()
    wall = [env.wall() + to_end(env) + 1]
    call = service(replace(env, wall=lambda: wall[0]))
    assert await statuses(call, 2) == [200, 200]
    for step in (-600, -3000, 3600):
        wall[0] += step
        env.advance(1)
        assert await statuses(call, 1) == [429]
    wall[0] += 86_400
    env.advance(1)
    assert await statuses(call, 1) == [200]


async def test_the_wall_clock_is_read_once_a_second() -> None:
    env, reads = make_env(), [0]

    def wall() -> float:
        reads[0] += 1
        return env.wall()

    call = service(replace(env, wall=wall), {"max": 10_000})
    for _ in range(5):
        assert await statuses(call, 100) == [200] * 100
        env.advance(1)
    assert reads[0] == 5
    outcome = await call(exchange())
    assert outcome.header(b"ratelimit") == b'"day";r=9499;t=%d' % to_end(env)


@pytest.mark.parametrize("key", ["none", "client.address"])
async def test_routes_of_an_upstream_count_together_also_from_a_new_window_on(key: str) -> None:
    env, store = make_env(), Store()
    one, other = [service(env, {"max": 3, "key": key}, store=store) for _ in range(2)]
    for _ in range(3):
        assert await statuses(one, 2) + await statuses(other, 2) == [200, 200, 200, 429]
        env.advance(to_end(env))


async def test_a_window_that_another_route_has_begun_is_not_counted_in_the_last_one() -> None:
    env, store = make_env(), Store()
    walls = [env.wall()]
    one, other = [service(replace(env, wall=lambda: walls[0]), store=store) for _ in range(2)]
    assert await statuses(one, 1) == [200]
    walls[0] += to_end(env) + 1
    assert await statuses(other, 2) == [200, 200]
    assert await statuses(one, 1) == [429], "the clock was set ahead less than a second ago"


@pytest.mark.parametrize(
    ("block", "message"),
    [
        ({"name": "day", "max": 1, "per": "day"}, "is a list of quotas; begin this one with a dash"),
        ([DAY, DAY], "has two quotas with the name `day`; rename one"),
        ([DAY | {"time_zone": "Mars/Olympus"}], "is no time zone that this machine knows"),
        ([DAY | {"time_zone": "europe/berlin"}], "did you mean `Europe/Berlin`"),
        ([DAY | {"time_zone": "Berlin"}], "did you mean `Europe/Berlin`"),
        ([DAY | {"time_zone": "utc"}], "did you mean `UTC`"),
        ([DAY | {"resets": "24:00"}], 'is no time of the day; write it with hours from 00 to 23, such as "06:00"'),
        ([DAY | {"resets": 6}], "is no time of the day"),
        ([DAY | {"cost": 2.5}], "has a cost of 2.5, which a quota of 2 never lets through; make max at least 3"),
        ([DAY | {"per": "hour", "resets": "06:00"}], "a quota per hour ends with the hour"),
        ([DAY | {"on_store_failure": "deny"}], "has `on_store_failure`, but no `store`"),
        ([], "at least 1 item"),
    ],
)
def test_wrong_blocks_are_refused(block: Any, message: str) -> None:
    with pytest.raises(ValidationError, match=message):
        Spec.model_validate(block)


class FlakyLedger(InProcessLedger):
    """Store that a test makes refuse or stall."""

    def __init__(self, env: Any) -> None:
        super().__init__()
        self.env = env
        self.fault: Exception | None = None
        self.delay = 0.001
        self.members = 1
        self.calls: list[int] = []

    async def exchange(self, me: str, orders: Any) -> Any:
        self.calls.append(len(orders))
        await self.env.sleep(self.delay)
        if self.fault is not None:
            raise self.fault
        _, answers = await super().exchange(me, orders)
        return self.members, answers


class Fleet:
    """Processes with one quota each, which share a store."""

    def __init__(self, env: Any, processes: int = 1, **settings: Any) -> None:
        self.env = env
        self.ledger = FlakyLedger(env)
        self.stores = [SharedQuotas("fleet", SPEC, env, lambda _: self.ledger) for _ in range(processes)]
        spec = Spec.model_validate([{"name": "day", "max": 10, "per": "day", "store": "fleet", **settings}])
        self.calls = [
            Pipeline(
                [quota.build(spec, context(env, store=Store(), resources={("quota_store", "fleet"): store}))],
                ScriptedService(200),
            )
            for store in self.stores
        ]

    async def statuses(self, number: int, process: int = 0, **headers: str) -> list[int]:
        requests = [exchange(headers=headers) for _ in range(number)]
        return [each.status for each in await asyncio.gather(*map(self.calls[process], requests))]


@virtual
async def test_processes_share_a_quota_and_a_refusal_says_so() -> None:
    fleet = Fleet(virtual_env(), 2)
    found = await fleet.statuses(6) + await fleet.statuses(6, process=1)
    assert found.count(200) == 10
    assert fleet.ledger.calls[0] == 1, "one call for all that wait"
    refused = await fleet.calls[0](exchange())
    assert refused.refusal.value == 11
    assert refused.header(b"ratelimit-policy") == b'"day";q=10;w=86400'


@virtual
async def test_a_new_process_finds_the_quota_used() -> None:
    fleet = Fleet(virtual_env(), 2)
    assert (await fleet.statuses(10)).count(200) == 10
    assert await fleet.statuses(3, process=1) == [429] * 3


@virtual
async def test_requests_within_a_lease_ask_nobody() -> None:
    fleet = Fleet(virtual_env(), max=10_000)
    assert await fleet.statuses(1) == [200]
    calls = len(fleet.ledger.calls)
    assert await fleet.statuses(3) == [200] * 3
    assert len(fleet.ledger.calls) == calls


@pytest.mark.parametrize(("policy", "admitted"), [("process", 2), ("allow", 12), ("deny", 0)])
def test_while_the_store_is_away_the_policy_holds_and_debts_are_told(policy: str, admitted: int) -> None:
    """With `process` it is a share: two processes divide the five that were left."""

    @virtual
    async def run() -> None:
        env = virtual_env()
        fleet = Fleet(env, on_store_failure=policy)
        fleet.ledger.members = 2
        assert (await fleet.statuses(5)).count(200) == 5
        fleet.ledger.fault = ConnectionRefusedError("refused")
        found = await fleet.statuses(12)
        assert found.count(200) == admitted
        assert not fleet.stores[0].is_up
        assert env.meter.value(metrics.QUOTA_STORELESS, limit="day") == 12
        assert env.meter.value(metrics.STORE_UP, store="fleet:quotas") == 0
        if policy != "allow":
            refused = await fleet.calls[0](exchange())
            assert "the store `fleet` is away, and this process" in refused.refusal.detail
        fleet.ledger.fault = None
        await env.sleep(1.0)
        assert fleet.stores[0].is_up
        (table,) = fleet.ledger._tables.values()
        assert table.used[""] == 5 + admitted

    run()


@virtual
async def test_a_stalled_store_holds_requests_once_and_no_longer_than_its_timeout() -> None:
    env = virtual_env()
    fleet = Fleet(env, on_store_failure="allow")
    fleet.ledger.delay = 5.0
    began = env.now()
    assert await fleet.statuses(3) + await fleet.statuses(3) == [200] * 6
    assert env.now() - began == pytest.approx(0.02, abs=0.001)


@virtual
async def test_observed_requests_do_not_wait_for_the_store() -> None:
    env = virtual_env()
    fleet = Fleet(env, mode="observe")
    fleet.ledger.delay = 0.01
    began = env.now()
    assert await fleet.statuses(20) == [200] * 20
    assert env.now() == began
    await env.sleep(0.1)
    assert await fleet.statuses(20) == [200] * 20
    assert env.meter.value(metrics.QUOTA_EXCEEDED, result="observed") > 0


@each((0.5, 3.0, 12.0, 60.0))
def test_an_observed_quota_in_a_store_counts_what_an_enforced_one_refuses(gap: float) -> None:
    """Also for a caller who comes so seldom that each request finds no units in the process."""

    async def counted(mode: str) -> tuple[float, float]:
        env = virtual_env()
        fleet = Fleet(env, mode=mode, key="header.x-tenant")
        for _ in range(30):
            await env.sleep(gap)
            await fleet.statuses(1, **{"x-tenant": "a"})
        await env.sleep(1.0)
        (table,) = fleet.ledger._tables.values()
        result = "observed" if mode == "observe" else "refused"
        return env.meter.value(metrics.QUOTA_EXCEEDED, result=result), table.used["a"]

    assert run(counted("observe")) == run(counted("enforce")) == (20, 10)


@virtual
async def test_observed_quotas_in_a_store_count_together() -> None:
    env = virtual_env()
    fleet = Fleet(env, mode="observe")
    spec = Spec.model_validate({
        "mode": "observe",
        "quotas": [
            {"name": "all", "max": 5, "per": "day", "store": "fleet"},
            {"name": "each", "max": 2, "per": "day", "store": "fleet", "key": "header.x-tenant"},
        ],
    })  # fmt: skip
    resources = {("quota_store", "fleet"): fleet.stores[0]}
    call = Pipeline([quota.build(spec, context(env, store=Store(), resources=resources))], ScriptedService(200))
    for tenant in "aaaaaabcdef":
        await call(exchange(headers={"x-tenant": tenant}))
        await env.sleep(0.1)
    counted = {name: env.meter.value(metrics.QUOTA_EXCEEDED, limit=name, result="observed") for name in ("all", "each")}
    assert counted == {"all": 2, "each": 4}


@virtual
async def test_a_process_that_ends_gives_its_units_back_and_sends_nothing_more() -> None:
    env = virtual_env()
    fleet = Fleet(env, max=10_000)
    await fleet.statuses(3)
    await fleet.stores[0].give_back()
    (table,) = fleet.ledger._tables.values()
    assert table.used == {"": 3.0}
    calls = len(fleet.ledger.calls)
    await env.sleep(60.0)
    assert len(fleet.ledger.calls) == calls


@virtual
async def test_a_process_that_ends_waits_no_longer_than_a_call_for_a_stalled_store() -> None:
    env = virtual_env()
    fleet = Fleet(env, max=10_000)
    await fleet.statuses(3)
    fleet.ledger.delay = 3600.0
    began = env.now()
    await fleet.stores[0].give_back()
    assert env.now() - began == pytest.approx(0.02, abs=0.001)
    assert fleet.stores[0].last_error == "TimeoutError: no answer within 0.02 s"


@virtual
async def test_a_quota_that_is_taken_out_gives_its_units_back() -> None:
    env = virtual_env()
    fleet = Fleet(env, max=10_000)
    await fleet.statuses(3)
    (shared,) = fleet.stores[0].limits.values()
    shared.retire()
    await env.sleep(0.1)
    assert fleet.stores[0].limits == {}
    (table,) = fleet.ledger._tables.values()
    assert table.used == {"": 3.0}
