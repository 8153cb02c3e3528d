"""Tests of limits in a store: leases ahead of need, one call for many keys, and what holds while the store is away."""

from __future__ import annotations

import asyncio
import math
from dataclasses import replace
from typing import Any

import pytest

from sidecar.control.state import StateStore
from sidecar.core import events, metrics
from sidecar.core.outcome import RATE_LIMITED
from sidecar.engine.pipeline import Pipeline
from sidecar.stages.rate_limit import stage as rate_limit
from sidecar.stages.rate_limit.spec import Spec
from sidecar.store.exchanges import FIRST_PROBE, LATE
from sidecar.store.in_process import InProcessScript
from sidecar.store.shared_limits import SharedLimits
from sidecar.store.spec import StoreSpec
from tests.support.loop import virtual, virtual_env
from tests.support.service import ScriptedService, Store, context, exchange

LIMIT: dict[str, Any] = {"name": "tenant", "rate": "10/s", "burst": 9, "store": "fleet"}
SPEC = StoreSpec.model_validate({"redis": {"url": "redis://127.0.0.1:1/0", "timeout": "20ms"}})


class FlakyScript(InProcessScript):
    """Store that a test makes refuse, stall, or answer after a delay."""

    def __init__(self, env: Any) -> None:
        super().__init__(env.now)
        self.env = env
        self.fault: Exception | None = None
        self.delay = 0.001
        self.calls: list[int] = []
        """Number of keys of each call."""

    async def run(self, keys: list[str], arguments: list[str]) -> list[Any]:
        self.calls.append(len(keys) - 2)
        await self.env.sleep(self.delay)
        if self.fault is not None:
            raise self.fault
        return await super().run(keys, arguments)


class Fleet:
    """Processes with one limit each, which share a store."""

    def __init__(self, env: Any, processes: int = 1, *others: dict[str, Any], **limit: Any) -> None:
        self.env = env
        self.script = FlakyScript(env)
        self.stores = [SharedLimits("fleet", SPEC, env, lambda _: self.script) for _ in range(processes)]
        self.calls = []
        form = limit.pop("form", "structured")
        spec = Spec.model_validate({"limits": [LIMIT | limit, *others], "fields": form})
        for store in self.stores:
            stage = rate_limit.build(spec, context(env, store=Store(), resources={("store", "fleet"): store}))
            assert stage is not None
            self.calls.append(Pipeline([stage], ScriptedService(200)))

    async def statuses(self, number: int, process: int = 0, **headers: str) -> list[int]:
        requests = [exchange(headers=headers) for _ in range(number)]
        return [each.status for each in await asyncio.gather(*map(self.calls[process], requests))]


@virtual
async def test_requests_wait_for_one_answer_and_later_ones_for_none() -> None:
    fleet = Fleet(virtual_env())
    assert await fleet.statuses(5) == [200] * 5
    assert fleet.script.calls == [1]


@virtual
async def test_a_store_is_called_once_in_each_lease_and_no_request_waits() -> None:
    """Two limits, each with two keys; 1000 requests a second."""
    env = virtual_env()
    roomy = {"rate": "10000/s", "burst": 10000, "key": "header.x-tenant", "lease": "100ms"}
    fleet = Fleet(env, 1, LIMIT | {"name": "other"} | roomy, **roomy)
    began = slow = 0
    for turn in range(2300):
        if turn == 300:
            began = len(fleet.script.calls)
        before = env.now()
        assert await fleet.statuses(1, **{"x-tenant": str(turn % 2)}) == [200]
        slow += turn >= 300 and env.now() > before
        await env.sleep(0.001)
    calls = fleet.script.calls[began:]
    assert len(calls) <= 2 * 12
    assert sum(calls) == 4 * len(calls)
    assert slow == 0


@virtual
async def test_two_processes_share_a_limit() -> None:
    fleet = Fleet(virtual_env(), 2)
    found = await fleet.statuses(6) + await fleet.statuses(6, process=1)
    assert found.count(200) == 10
    refused = await fleet.calls[1](exchange())
    assert refused.failure is RATE_LIMITED
    assert refused.refusal.detail == (
        "the limit `tenant` is 10 per second, with a burst of 9, "
        "for all requests together in all processes that share `fleet`"
    )
    assert 0 < refused.refusal.retry_after <= 0.2
    assert refused.refusal.limit == 10
    assert 10 < refused.refusal.value <= 12


@virtual
async def test_one_call_serves_many_keys() -> None:
    fleet = Fleet(virtual_env(), key="header.x-tenant")
    found = await asyncio.gather(*(fleet.statuses(1, **{"x-tenant": str(number)}) for number in range(100)))
    assert found == [[200]] * 100
    assert fleet.script.calls == [100]


@virtual
async def test_requests_beyond_the_table_are_counted_and_warned_of() -> None:
    env = virtual_env()
    fleet = Fleet(env, key="header.x-tenant", max_keys=2)
    for number in range(4):
        assert await fleet.statuses(1, **{"x-tenant": str(number)}) == [200]
    assert env.meter.value(metrics.RATE_LIMIT_OVERFLOW, limit="tenant") >= 2
    assert [facts["keys"] for name, facts in env.events if name == events.RATE_LIMIT_FULL] == [3]


@virtual
async def test_requests_beyond_the_table_of_the_fair_share_are_counted_too() -> None:
    env = virtual_env()
    fleet = Fleet(env, key="header.x-tenant", max_keys=2)
    fleet.script.fault = ConnectionRefusedError("refused")
    await fleet.statuses(1, **{"x-tenant": "0"})
    await env.sleep(2.0)
    before = env.meter.value(metrics.RATE_LIMIT_OVERFLOW, limit="tenant")
    for number in range(4):
        assert await fleet.statuses(1, **{"x-tenant": str(number)}) == [200]
    assert env.meter.value(metrics.RATE_LIMIT_OVERFLOW, limit="tenant") - before == 2


@virtual
async def test_a_limit_of_this_process_that_refuses_gives_the_tokens_back() -> None:
    fleet = Fleet(virtual_env(), 1, {"name": "own", "rate": "1/s", "burst": 1})
    assert sorted(await fleet.statuses(8)) == [200] * 2 + [429] * 6
    (limit,) = fleet.stores[0].limits.values()
    (lease,) = limit.lessee.leases.values()
    assert lease.taken == 2


@virtual
async def test_responses_state_what_the_fleet_has_left() -> None:
    fleet = Fleet(virtual_env())
    outcome = await fleet.calls[0](exchange())
    assert outcome.header(b"ratelimit") == b'"tenant";r=9;t=1'
    assert outcome.header(b"ratelimit-policy") == b'"tenant";q=10;w=1'


@pytest.mark.parametrize(("policy", "admitted"), [("process", 5), ("allow", 12), ("deny", 0)])
def test_a_store_that_refuses_leaves_what_the_policy_says(policy: str, admitted: int) -> None:
    """With `process` it is half: two processes were seen, and half a second fills the bucket of a share."""

    @virtual
    async def run() -> None:
        env = virtual_env()
        fleet = Fleet(env, on_store_failure=policy)
        fleet.stores[0].members = 2
        fleet.script.fault = ConnectionRefusedError("refused")
        await fleet.statuses(1)
        fleet.stores[0].members = 2
        await env.sleep(2.0)
        assert (await fleet.statuses(12)).count(200) == admitted
        assert env.meter.value(metrics.RATE_LIMIT_STORELESS, limit="tenant") == 13
        assert env.meter.value(metrics.STORE_UP, store="fleet") == 0

    run()


@virtual
async def test_a_stalled_store_holds_requests_once_and_no_longer_than_its_timeout() -> None:
    env = virtual_env()
    fleet = Fleet(env, on_store_failure="deny")
    fleet.script.delay = 5.0
    began = env.now()
    assert await fleet.statuses(3) == [429] * 3
    assert env.now() - began == pytest.approx(0.02, abs=0.001)
    assert await fleet.statuses(3) == [429] * 3
    assert env.now() - began == pytest.approx(0.02, abs=0.001)
    assert fleet.stores[0].last_error == "TimeoutError: no answer within 0.02 s"


@virtual
async def test_requests_admitted_without_the_store_wait_only_until_it_is_late() -> None:
    env = virtual_env()
    fleet = Fleet(env, on_store_failure="allow")
    fleet.script.delay = 5.0
    began = env.now()
    assert await fleet.statuses(3) == [200] * 3
    assert env.now() - began == pytest.approx(LATE)
    assert await fleet.statuses(3) == [200] * 3
    assert env.now() - began == pytest.approx(LATE)


@virtual
async def test_requests_of_a_key_in_use_do_not_wait_for_a_stalled_store() -> None:
    env = virtual_env()
    fleet = Fleet(env, rate="10000/s", burst=10000, lease="100ms")
    slow = 0
    for turn in range(1500):
        if turn == 1000:
            fleet.script.delay = 5.0
        before = env.now()
        assert await fleet.statuses(1) == [200]
        slow += turn >= 1000 and env.now() > before
        await env.sleep(0.001)
    assert not fleet.stores[0].is_up
    assert slow == 0
    assert env.meter.value(metrics.RATE_LIMIT_STORELESS, limit="tenant") > 350


@virtual
async def test_what_is_admitted_while_the_store_is_late_is_told_to_it() -> None:
    """In the long run the rate holds, although each answer comes after the tokens have been used up."""
    env = virtual_env()
    fleet = Fleet(env, 3, rate="200/s", burst=20, lease="50ms")
    fleet.script.delay = 0.018
    admitted: list[float] = []

    async def load(process: int) -> None:
        while env.now() < until:
            if await fleet.statuses(1, process) == [200]:
                admitted.append(env.now())
            await env.sleep(0.004)

    began, until = env.now(), env.now() + 10.0
    await asyncio.gather(*map(load, range(3)))
    assert env.meter.value(metrics.STORE_ERRORS, store="fleet") == 0
    steady = sum(1 for at in admitted if at > began + 1)
    assert 0.85 * 200 * 9 <= steady <= 1.05 * 200 * 9
    most = max(sum(1 for at in admitted if start < at <= start + 1) for start in admitted)
    assert most <= 1.2 * (200 + 20)


@virtual
async def test_a_request_without_a_fair_share_waits_for_the_late_answer() -> None:
    env = virtual_env()
    fleet = Fleet(env)
    fleet.script.delay = 0.015
    began = env.now()
    assert await fleet.statuses(5) == [200] * 5
    assert env.now() - began == pytest.approx(0.015)


@virtual
async def test_responses_state_the_fair_share_while_the_store_is_away() -> None:
    env = virtual_env()
    fleet = Fleet(env)
    fleet.script.fault = ConnectionRefusedError("refused")
    fleet.stores[0].members = 2
    await fleet.statuses(1)
    await env.sleep(2.0)
    fleet.stores[0].members = 2
    found = [await fleet.calls[0](exchange()) for _ in range(6)]
    assert [each.header(b"ratelimit") for each in found] == [
        b'"tenant";r=4;t=1', b'"tenant";r=3;t=1', b'"tenant";r=2;t=1', b'"tenant";r=1;t=1', b'"tenant";r=0;t=1',
        b'"tenant";r=0;t=1',
    ]  # fmt: skip
    assert found[-1].status == 429


@virtual
async def test_a_store_that_is_back_is_used_again() -> None:
    env = virtual_env()
    fleet = Fleet(env)
    fleet.script.fault = OSError("gone")
    await fleet.statuses(1)
    fleet.script.fault = None
    await env.sleep(2 * FIRST_PROBE)
    assert fleet.stores[0].is_up
    assert [each for each, _ in env.events] == [events.STORE_DOWN, events.STORE_UP]
    assert await fleet.statuses(10) == [200] * 10


@virtual
async def test_observed_requests_do_not_wait_for_the_store() -> None:
    env = virtual_env()
    fleet = Fleet(env, mode="observe")
    fleet.script.delay = 0.01
    began = env.now()
    assert await fleet.statuses(20) == [200] * 20
    assert env.now() == began
    await env.sleep(0.05)
    await fleet.statuses(20)
    await env.sleep(0.05)
    assert await fleet.statuses(20) == [200] * 20
    assert env.meter.value(metrics.RATE_LIMITED, result="observed") > 10


@virtual
async def test_a_waiting_client_that_leaves_takes_nothing_from_the_others() -> None:
    env = virtual_env()
    fleet = Fleet(env)
    fleet.script.delay = 0.01
    leaving = asyncio.ensure_future(fleet.calls[0](exchange()))
    staying = asyncio.ensure_future(fleet.calls[0](exchange()))
    await env.sleep(0.005)
    leaving.cancel()
    assert (await staying).status == 200


@virtual
async def test_a_new_rate_holds_for_requests_that_find_a_lease() -> None:
    """A reload builds the stage before the limit is retuned."""
    env = virtual_env()
    script = FlakyScript(env)
    shared = SharedLimits("fleet", SPEC, env, lambda _: script)
    states = StateStore()
    for block in (LIMIT, LIMIT | {"rate": "100/s", "burst": 99}):
        lease_of_states = states.lease()
        found = context(env, resources={("store", "fleet"): shared})
        found = replace(found, obtain=lease_of_states.obtain)
        stage = rate_limit.build(Spec.model_validate([block]), found)
        states.commit(lease_of_states)
    assert stage is not None
    (limit,) = shared.limits.values()
    call = Pipeline([stage], ScriptedService(200))
    assert [(await call(exchange())).status for _ in range(3)] == [200] * 3
    await env.sleep(0.03)
    (lease,) = limit.lessee.leases.values()
    lease.tat, lease.low, lease.end, lease.expires = env.now(), env.now() + 1, env.now() + 1, env.now() + 1
    before_tat = lease.tat
    await call(exchange())
    assert lease.tat - before_tat == pytest.approx(0.01)


@virtual
async def test_a_retired_store_sends_nothing_more() -> None:
    env = virtual_env()
    fleet = Fleet(env, on_store_failure="allow")
    fleet.script.delay = 0.01
    waiting = asyncio.ensure_future(fleet.calls[0](exchange()))
    await env.sleep(0.005)
    fleet.stores[0].retire()
    assert (await waiting).status == 200
    calls = len(fleet.script.calls)
    await env.sleep(30.0)
    assert len(fleet.script.calls) == calls


@virtual
async def test_a_limit_that_is_replaced_under_its_name_stays_in_the_store() -> None:
    fleet = Fleet(virtual_env())
    (old,) = fleet.stores[0].limits.values()
    new = type(old)(fleet.stores[0], old.name, 1.0, 1.0, 0.1, 10)
    old.retire()
    assert fleet.stores[0].limits == {new.name: new}


def test_a_store_in_process_counts_further_keys_together(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("sidecar.store.in_process.MAX_KEYS", 2)
    script = InProcessScript(lambda: 5.0)
    numbers = ["1000000", "2000000", "100000", "0", "2", "2", "2", "0", "0", "0"]
    tokens = [script.grant(["c", "p", key], ["-1", "me", "", "e", *numbers])[3] for key in "abcd"]
    assert tokens == ["2.0", "2.0", "2.0", "0.0"]


@virtual
async def test_a_key_within_its_rate_is_not_refused_when_the_store_goes_away() -> None:
    env = virtual_env()
    fleet = Fleet(env, key="header.x-tenant", rate="10/s", burst=4)
    statuses = {"quiet": list[int](), "loud": list[int](), "rare": list[int]()}
    for turn in range(400):
        if turn == 200:
            fleet.script.fault = ConnectionRefusedError("refused")
        statuses["loud"] += await fleet.statuses(2, **{"x-tenant": "loud"})
        if turn % 15 == 0:
            statuses["quiet"] += await fleet.statuses(1, **{"x-tenant": "quiet"})
        if turn % 110 == 50:
            statuses["rare"] += await fleet.statuses(1, **{"x-tenant": "rare"})
        await env.sleep(0.01)
    assert set(statuses["quiet"]) == set(statuses["rare"]) == {200}
    assert statuses["loud"].count(200) <= 10 * 4 + 5 + 1, "a key that has used its limit up begins with nothing"


@virtual
async def test_outages_in_a_row_give_no_bursts() -> None:
    env = virtual_env()
    fleet = Fleet(env, rate="10/s", burst=40)
    began, admitted = env.now(), 0
    for turn in range(1000):
        fleet.script.fault = ConnectionRefusedError("refused") if turn % 200 < 100 else None
        admitted += (await fleet.statuses(1)).count(200)
        await env.sleep(0.01)
    assert admitted <= 10 * (env.now() - began) + 41 + 2 * 5, "five outages, each with one request of an unknown key"


@virtual
async def test_slow_requests_are_observed_too() -> None:
    env = virtual_env()
    fleet = Fleet(env, mode="observe", rate="1/m", burst=0)
    for _ in range(40):
        assert await fleet.statuses(1) == [200]
        await env.sleep(0.5)
    assert env.meter.value(metrics.RATE_LIMITED, limit="tenant", result="observed") == 39
    assert env.meter.value(metrics.WOULD_REFUSE, policy="rate_limit") == 39


@virtual
async def test_a_request_over_two_observed_limits_would_have_been_refused_once() -> None:
    env = virtual_env()
    other = LIMIT | {"name": "other", "mode": "observe", "burst": 1}
    fleet = Fleet(env, 1, other, mode="observe", burst=1)
    assert await fleet.statuses(6) == [200] * 6
    await env.sleep(1.0)
    assert env.meter.value(metrics.WOULD_REFUSE, policy="rate_limit") == 4
    assert env.meter.value(metrics.RATE_LIMITED, limit="tenant", result="observed") == 4
    assert env.meter.value(metrics.RATE_LIMITED, limit="other", result="observed") == 4


@virtual
async def test_a_refusal_states_its_time_as_retry_after_does() -> None:
    fleet = Fleet(virtual_env(), rate="1/m", burst=1)
    await fleet.statuses(2)
    for _ in range(2):
        refused = await fleet.calls[0](exchange())
        seconds = math.ceil(refused.refusal.retry_after)
        assert 50 < seconds <= 60
        assert refused.header(b"ratelimit") == b'"tenant";r=0;t=%d' % seconds


@virtual
async def test_the_separate_fields_are_those_of_the_limit_with_the_least_left() -> None:
    fleet = Fleet(
        virtual_env(), 1, LIMIT | {"name": "small", "burst": 4}, {"name": "own", "rate": "10/s", "burst": 2},
        form="separate",
    )  # fmt: skip
    outcome = await fleet.calls[0](exchange())
    assert [value for name, value in outcome.headers if name == b"ratelimit-remaining"] == [b"2"]
