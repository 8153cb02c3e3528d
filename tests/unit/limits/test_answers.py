"""Tests of costs by the size of the answer: whole and streamed answers, debts, and each place of a count."""

from __future__ import annotations

from typing import Any

import pytest
from pydantic import ValidationError

from sidecar.core import metrics
from sidecar.core.body import Body
from sidecar.core.outcome import CLIENT_CLOSED, Outcome
from sidecar.engine.pipeline import Pipeline
from sidecar.leases.quota import QuotaTable
from sidecar.limits.answers import LONGEST_DEBT
from sidecar.stages.quota import stage as quota
from sidecar.stages.quota.spec import Spec as Quotas
from sidecar.stages.rate_limit import stage as rate_limit
from sidecar.stages.rate_limit.spec import Spec as Limits
from sidecar.store.shared_limits import SharedLimits
from sidecar.store.shared_quotas import InProcessLedger, SharedQuotas
from tests.support.cases import each
from tests.support.loop import run, virtual, virtual_env
from tests.support.service import ScriptedService, Store, context, exchange, response
from tests.unit.store.test_shared_limits import SPEC, FlakyScript

KIB = 1024
COST: dict[str, Any] = {"cost": {"answer_size": "1KiB"}}
PLACES = ("rate_limit", "rate_limit in a store", "quota", "quota in a store")


class World:
    """Route with a limit of 20 in one of the places: 20 at once and 10 a second, or 20 a day."""

    def __init__(self, place: str, *script: Any, **limit: Any) -> None:
        self.env = env = virtual_env()
        self.inner = ScriptedService(*script, env=env)
        self.store: Any = None
        resources: dict[tuple[str, str], Any] = {}
        self.kind, _, where = place.partition(" ")
        if where:
            limit["store"] = "fleet"
        if self.kind == "quota":
            if where:
                ledger = InProcessLedger()
                self.store = resources["quota_store", "fleet"] = SharedQuotas("fleet", SPEC, env, lambda _: ledger)
            block: Any = {"name": "day", "max": 20, "per": "day"} | COST | limit
            self.build: Any = lambda: quota.build(Quotas.model_validate([block]), found)
        else:
            if where:
                self.script = FlakyScript(env)
                self.store = resources["store", "fleet"] = SharedLimits("fleet", SPEC, env, lambda _: self.script)
            block = {"name": "burst", "rate": "10/s", "burst": 19} | COST | limit
            self.build = lambda: rate_limit.build(Limits.model_validate([block]), found)
        found = context(env, store=Store(), resources=resources)
        self.call = Pipeline([self.build()], self.inner)

    async def get(self) -> Outcome:
        """Return the answer, and let what it costs come to the store."""
        outcome = await self.call(exchange())
        await self.env.sleep(0.004)
        return outcome


@each(PLACES)
def test_an_answer_counts_by_its_size_and_may_go_beyond_the_limit(place: str) -> None:
    async def check() -> None:
        world = World(place, response(200, bytes(12 * KIB)))
        assert [(await world.get()).status for _ in range(3)] == [200, 200, 429]
        assert world.inner.calls == 2
        refused = await world.get()
        assert ", in units of 1KiB of answers, for all requests together" in refused.refusal.detail
        if world.kind == "quota":
            assert refused.refusal.retry_after > 1000
        else:
            assert refused.refusal.retry_after == pytest.approx(0.5, abs=0.15)
            await world.env.sleep(0.6)
            assert (await world.get()).status == 200

    run(check())


@each(PLACES)
def test_a_small_answer_and_one_without_a_body_count_as_one(place: str) -> None:
    async def check() -> None:
        world = World(place, *(lambda _, size=size: response(200, bytes(size)) for size in (0, KIB, KIB + 1)))
        found = [(await world.get()).header(b"ratelimit") or b"" for _ in range(4)]
        assert [int(line.split(b"r=")[1].split(b";")[0]) for line in found] == [each * KIB for each in (19, 18, 17, 15)]
        policy = (await world.get()).header(b"ratelimit-policy") or b""
        assert b';q=20480;qu="content-bytes";w=' in policy

    run(check())


@each([(place, end) for place in PLACES for end in ("complete", "broken", "cancelled")])
def test_a_streamed_answer_is_charged_while_it_goes_on_and_as_far_as_it_came(case: tuple[str, str]) -> None:
    place, end = case

    async def check() -> None:
        body = Body()
        world = World(place, lambda _: response(200, stream=body), response(200))
        await world.get()
        body.feed(bytes(10 * KIB))
        await world.env.sleep(1.1)
        body.feed(bytes(40 * KIB))
        assert (await world.get()).status == 200
        await world.env.sleep(1.1)
        assert (await world.get()).status == 429, "it was charged while it went on"
        body.feed(bytes(60 * KIB))
        if end == "complete":
            body.finish()
        elif end == "broken":
            body.fail(CLIENT_CLOSED)
        else:
            body.cancel()
        await world.env.sleep(0.01)
        refused = await world.get()
        assert refused.status == 429
        if world.kind == "rate_limit":  # the first charge was after 1 s, and 101 units came since then
            assert refused.refusal.retry_after == pytest.approx(0.9 + (101 + 1 - 20) / 10 - 1.22, abs=0.1)

    run(check())


@each(["rate_limit", "rate_limit in a store"])
def test_no_key_is_in_debt_for_more_than_an_hour(place: str) -> None:
    async def check() -> None:
        world = World(place, response(200, bytes(2_000 * KIB)), rate="10/m")
        assert [(await world.get()).status for _ in range(2)] == [200, 429]
        assert (await world.get()).refusal.retry_after == pytest.approx(LONGEST_DEBT, rel=0.01)
        await world.env.sleep(LONGEST_DEBT + 10)
        assert (await world.get()).status == 200

    run(check())


@each(["rate_limit", "rate_limit in a store"])
def test_an_hour_of_debt_begins_with_the_answer_and_not_with_the_next_request(place: str) -> None:
    async def check() -> None:
        world = World(place, response(200, bytes(2_000 * KIB)), rate="10/m")
        assert (await world.get()).status == 200
        await world.env.sleep(LONGEST_DEBT + 10)
        assert (await world.get()).status == 200

    run(check())


@each(PLACES)
def test_observed_limits_charge_what_they_would_have_admitted(place: str) -> None:
    async def check() -> None:
        world = World(place, response(200, bytes(30 * KIB)), mode="observe")
        if "store" in place:
            await world.get()
            await world.env.sleep(5.0)  # an observed request does not wait for the lease of a new key
        assert [(await world.get()).status for _ in range(4)] == [200] * 4
        name = metrics.QUOTA_EXCEEDED if world.kind == "quota" else metrics.RATE_LIMITED
        assert world.env.meter.value(name, result="observed") >= 1

    run(check())


@virtual
async def test_a_store_that_is_away_is_told_of_what_was_owed() -> None:
    world = World("rate_limit in a store", response(200, bytes(10 * KIB)))
    await world.get()
    world.script.fault = OSError("gone")
    (limit,) = world.store.limits.values()
    limit.lessee.charge("", 50.0, world.env.now())
    await world.env.sleep(0.05)
    assert not world.store.is_up
    world.script.fault = None
    await world.env.sleep(0.5)
    assert world.store.is_up
    assert (await world.get()).status == 429


@virtual
async def test_a_share_without_the_store_is_charged_too() -> None:
    world = World("rate_limit in a store", response(200, bytes(30 * KIB)))
    world.script.fault = OSError("gone")
    await world.get()
    await world.env.sleep(10.0)
    assert not world.store.is_up
    assert [(await world.get()).status for _ in range(2)] == [200, 429]


@virtual
async def test_other_processes_feel_what_one_owes() -> None:
    world = World("rate_limit in a store", response(200, bytes(30 * KIB)))
    other = World.__new__(World)
    other.env, other.inner = world.env, ScriptedService(200)
    store = SharedLimits("fleet", SPEC, world.env, lambda _: world.script)
    spec = Limits.model_validate([{"name": "burst", "rate": "10/s", "burst": 19, "store": "fleet"} | COST])
    stage = rate_limit.build(spec, context(world.env, store=Store(), resources={("store", "fleet"): store}))
    assert stage is not None
    other.call = Pipeline([stage], other.inner)
    assert (await world.get()).status == 200
    assert (await other.get()).status == 429


@virtual
async def test_fields_of_the_old_form_are_of_the_tightest_limit() -> None:
    blocks: dict[str, Any] = {
        "limits": [
            {"name": "a", "rate": "10/s", "burst": 19} | COST, {"name": "b", "rate": "10/s", "burst": 4}
        ], "fields": "separate",
    }  # fmt: skip
    stage = rate_limit.build(Limits.model_validate(blocks), context(virtual_env(), store=Store()))
    assert stage is not None
    outcome = await Pipeline([stage], ScriptedService(response(200, b"x", {"ratelimit-limit": "7"})))(exchange())
    assert outcome.header(b"ratelimit-limit") == b"5"


def test_a_charge_of_a_key_beyond_the_table_counts_with_the_others() -> None:
    table = QuotaTable(10.0, 1)
    assert table.take("a", 1.0)
    table.charge("b", 3.0)
    assert table.left(table.locate("c")) == 7.0


@each(
    [
        ({"answer_size": 5}, "64KiB"),
        ({"answer_size": "0B"}, "greater than or equal to 1"),
        ({"answers": "1KiB"}, "answers"),
        ({}, "answer_size"),
        (["1KiB"], "is no cost; write a number, a template such as {query.limit}, or {answer_size: 64KiB}"),
        (True, "is no cost"),
    ]
)
def test_what_is_no_cost_is_an_error(case: tuple[Any, str]) -> None:
    cost, text = case
    with pytest.raises(ValidationError) as caught:
        Limits.model_validate([{"name": "a", "rate": "1/s", "cost": cost}])
    assert text in str(caught.value)
