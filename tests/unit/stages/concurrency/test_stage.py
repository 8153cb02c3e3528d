"""Tests of `concurrency`: limit, queue, adaptive limit; permits that cover the body and survive a reload."""

from __future__ import annotations

import asyncio
from typing import Any

import pytest
from pydantic import ValidationError

from sidecar.core import metrics
from sidecar.core.body import Body
from sidecar.core.exchange import CRITICAL, SHEDDABLE, Attempt
from sidecar.core.outcome import OVERLOADED, RESET, TIMEOUT, Outcome
from sidecar.core.promise import Promise, Run
from sidecar.core.stage import Service
from sidecar.engine.pipeline import Pipeline
from sidecar.stages.concurrency import stage as concurrency
from sidecar.stages.concurrency.spec import Spec
from tests.support.clock import FakeEnv, make_env
from tests.support.loop import settle, virtual, virtual_env
from tests.support.service import HANG, ScriptedService, Store, after, context, exchange, response


def service(env: FakeEnv, inner: Any, store: Store | None = None, **block: Any) -> Service:
    spec = Spec.model_validate(block)
    return Pipeline([concurrency.build(spec, context(env, store=store or Store()))], inner)


def active(env: FakeEnv) -> float:
    return env.meter.value(metrics.CONCURRENCY_ACTIVE, route="order")


def start(call: Service, **facts: Any) -> asyncio.Task[Outcome]:
    async def run() -> Outcome:
        return await call(exchange(**facts))

    return asyncio.get_running_loop().create_task(run())


@virtual
async def test_what_is_over_the_cap_is_refused() -> None:
    env = virtual_env()
    call = service(env, ScriptedService(after(1, 200)), max=2)
    first, second = start(call), start(call)
    await settle()
    refused = await call(exchange())
    assert refused.failure is OVERLOADED
    assert (refused.refusal.limit, refused.refusal.value, refused.refusal.retry_after) == (2, 2, 1)
    assert (refused.refusal.policy, refused.refusal.where) == ("concurrency", "policies.yaml:7")
    assert active(env) == 2
    assert (await first).status == (await second).status == 200
    assert active(env) == 0


@pytest.mark.parametrize("block", [{"max": 1}, {"max": 1, "queue": 1}, {"adaptive": {"min": 1, "max": 1}}])
async def test_a_permit_covers_the_body(block: dict[str, Any]) -> None:
    env = make_env()
    bodies = [Body(), Body()]
    call = service(env, ScriptedService(*(response(200, stream=body) for body in bodies)), **block)
    for body, end in zip(bodies, ("finish", "cancel"), strict=True):
        await call(exchange())
        assert active(env) == 1
        getattr(body, end)()
        assert active(env) == 0


@pytest.mark.parametrize("block", [{"max": 1}, {"max": 1, "queue": 1}, {"adaptive": {"min": 1, "max": 1}}])
async def test_failures_cancellation_and_bugs_give_the_permit_back(block: dict[str, Any]) -> None:
    env = make_env()
    call = service(env, ScriptedService(RESET, ZeroDivisionError, HANG), **block)
    await call(exchange())
    with pytest.raises(ZeroDivisionError):
        await call(exchange())
    task = start(call)
    await settle()
    assert active(env) == 1
    task.cancel()
    await settle()
    assert task.cancelled()
    assert active(env) == 0


@virtual
async def test_the_queue_is_served_in_order() -> None:
    env = virtual_env()
    order: list[bytes] = []

    async def inner(x: Any) -> Outcome:
        order.append(x.path)
        await env.sleep(0.01)
        return response(200)

    call = service(env, inner, max=1, queue=3)
    tasks = [start(call, path=f"/{n}") for n in range(4)]
    await settle()
    assert env.meter.value(metrics.QUEUE_LENGTH, route="order") == 3
    outcomes = await asyncio.gather(*tasks)
    assert [outcome.status for outcome in outcomes] == [200] * 4
    assert order == [b"/0", b"/1", b"/2", b"/3"]
    assert active(env) == 0


@virtual
async def test_waiting_ends_with_the_queue_timeout() -> None:
    env = virtual_env()
    inner = ScriptedService(after(1, 200))
    call = service(env, inner, max=1, queue=5, queue_timeout="50ms")
    first = start(call)
    await settle()
    began = env.now()
    refused = await call(exchange())
    assert refused.failure is OVERLOADED
    assert env.now() - began == pytest.approx(0.05)
    await first
    assert inner.calls == 1


@virtual
async def test_a_full_queue_refuses_at_once() -> None:
    env = virtual_env()
    call = service(env, ScriptedService(after(1, 200)), max=1, queue=1, queue_timeout="10s")
    tasks = [start(call), start(call)]
    await settle()
    began = env.now()
    refused = await call(exchange())
    assert (refused.failure, env.now()) == (OVERLOADED, began)
    assert "all 1 places" in refused.refusal.detail
    await asyncio.gather(*tasks)


@virtual
async def test_the_critical_take_the_place_of_the_sheddable() -> None:
    env = virtual_env()
    call = service(env, ScriptedService(after(1, 200)), max=1, queue=1, queue_timeout="10s")
    first = start(call)
    await settle()
    sheddable = start(call, criticality=SHEDDABLE)
    await settle()
    critical = start(call, criticality=CRITICAL)
    shed = await sheddable
    assert shed.failure is OVERLOADED
    assert "higher criticality" in shed.refusal.detail
    assert (await critical).status == (await first).status == 200


@virtual
async def test_no_place_for_what_cannot_finish_in_time() -> None:
    env = virtual_env()
    call = service(env, ScriptedService(after(1, 200)), max=1, queue=5, queue_timeout="10s")
    assert (await call(exchange())).status == 200  # the limit learns that an answer takes a second
    first = start(call)
    await settle()
    began = env.now()
    refused = await call(exchange(deadline=began + 1.5))
    assert (refused.failure, env.now()) == (OVERLOADED, began)
    assert "too short" in refused.refusal.detail
    assert (await call(exchange(deadline=began + 2.5))).status == 200
    await first


@virtual
async def test_a_waiter_is_given_up_when_only_an_answer_would_still_fit() -> None:
    env = virtual_env()
    inner = ScriptedService(after(0.1, 200), after(5, 200), 200)
    call = service(env, inner, max=1, queue=5, queue_timeout="10s")
    await call(exchange())
    first = start(call)
    await settle()
    began = env.now()
    refused = await call(exchange(deadline=began + 1))
    assert refused.failure is OVERLOADED
    assert env.now() - began == pytest.approx(0.9)
    await first


@virtual
async def test_a_cancelled_waiter_gives_up_its_place() -> None:
    env = virtual_env()
    inner = ScriptedService(after(1, 200))
    call = service(env, inner, max=1, queue=5, queue_timeout="10s")
    first, second, third = start(call), start(call), start(call)
    await settle()
    second.cancel()
    await asyncio.wait([second])
    assert second.cancelled()
    assert (await first).status == (await third).status == 200
    assert (inner.calls, active(env)) == (2, 0)


@virtual
async def test_a_waiter_cancelled_just_after_it_got_its_permit_gives_that_back() -> None:
    env = virtual_env()
    gate: Promise[Outcome] = Promise()

    async def inner(x: Any) -> Outcome:
        return await gate if x.path == b"/first" else response(200)

    call = service(env, inner, max=1, queue=5, queue_timeout="10s")
    first, second = start(call, path="/first"), start(call)
    await settle()
    first.add_done_callback(lambda _: second.cancel())  # the permit is passed on before the loop can run its new holder
    gate.resolve(response(200))
    await asyncio.wait([first, second])
    assert active(env) == 0
    assert (await call(exchange())).status == 200


async def test_in_a_run_the_permit_is_handed_on_in_the_same_turn() -> None:
    env = make_env()
    gates: list[Promise[Outcome]] = []
    ends: list[Any] = []

    async def inner(_: Any) -> Outcome:
        gates.append(Promise())
        return await gates[-1]

    call = service(env, inner, max=1, queue=1)
    for _ in range(2):
        Run(call(exchange()), ends.append)
    assert len(gates) == 1
    gates[0].resolve(response(200))
    assert (len(gates), len(ends)) == (2, 1)
    gates[1].resolve(response(200))
    assert (len(ends), active(env)) == (2, 0)


@pytest.mark.parametrize("block", [{"max": 1}, {"max": 1, "queue": 1}, {"adaptive": {"min": 1, "max": 1}}])
async def test_observing_refuses_nobody(block: dict[str, Any]) -> None:
    env = make_env()
    bodies = [Body() for _ in range(3)]
    inner = ScriptedService(*(response(200, stream=body) for body in bodies))
    call = service(env, inner, mode="observe", **block)
    for _ in bodies:
        assert (await call(exchange())).status == 200
    places = block.get("queue", 0)
    assert env.meter.value(metrics.WOULD_REFUSE, policy="concurrency", route="order") == 2 - places
    for body in bodies:
        body.finish()
    assert active(env) == 0


async def test_the_count_survives_a_reload() -> None:
    env, store = make_env(), Store()
    body = Body()
    before = service(env, ScriptedService(response(200, stream=body)), store, max=1)
    await before(exchange())
    after_reload = service(env, ScriptedService(200), store, max=2, queue=1)
    assert (await after_reload(exchange())).status == 200
    narrowed = service(env, ScriptedService(200), store, max=1)
    assert (await narrowed(exchange())).failure is OVERLOADED
    body.finish()
    assert (await narrowed(exchange())).status == 200
    assert active(env) == 0


async def test_a_block_under_an_upstream_is_shared_by_its_routes() -> None:
    env, store = make_env(), Store()
    spec = Spec(max=1)
    body = Body()
    one, two = (
        Pipeline(
            [concurrency.build(spec, context(env, route=route, scope="upstream", store=store))],
            ScriptedService(response(200, stream=body)),
        )
        for route in ("a", "b")
    )
    await one(exchange())
    assert (await two(exchange())).failure is OVERLOADED
    assert env.meter.value(metrics.CONCURRENCY_ACTIVE, upstream="app") == 1
    assert list(store.objects) == [("concurrency", "upstream", "app")]
    assert store.objects["concurrency", "upstream", "app"].describe()["active"] == 1


@virtual
async def test_the_adaptive_limit_falls_when_the_upstream_times_out() -> None:
    env = virtual_env()
    call = service(env, ScriptedService(after(0.01, TIMEOUT)), adaptive={"min": 2, "max": 100})
    assert env.meter.value(metrics.CONCURRENCY_LIMIT, route="order") == 20
    for _ in range(30):
        await asyncio.gather(*(start(call) for _ in range(10)))
        await env.sleep(0.1)
    assert env.meter.value(metrics.CONCURRENCY_LIMIT, route="order") < 10


@virtual
async def test_the_adaptive_limit_rises_while_latency_holds() -> None:
    env, store = virtual_env(), Store()
    call = service(env, ScriptedService(after(0.01, 200)), store, adaptive={"min": 2, "max": 100}, max=50)
    for _ in range(600):
        await asyncio.gather(*(start(call) for _ in range(int(env.meter.value(metrics.CONCURRENCY_LIMIT)))))
    assert env.meter.value(metrics.CONCURRENCY_LIMIT, route="order") == 50
    state = store.objects["concurrency", "route", "order"].describe()
    assert state["adaptive"]["limit"] == 50
    assert state["typical_latency"] == pytest.approx(0.01)


@virtual
async def test_what_needed_a_retry_teaches_nothing() -> None:
    env, store = virtual_env(), Store()

    async def retried(x: Any) -> Outcome:
        x.attempts.extend([Attempt(1, 0), Attempt(2, 0)])
        await env.sleep(1)
        return response(200)

    call = service(env, retried, store, adaptive={})
    await call(exchange())
    assert store.objects["concurrency", "route", "order"].describe()["typical_latency"] == 0


@pytest.mark.parametrize(
    "block", [{}, {"max": 0}, {"queue": 5}, {"adaptive": {"min": 5, "max": 4}}, {"max": 1, "queue": -1}]
)
def test_what_is_not_a_limit(block: dict[str, Any]) -> None:
    with pytest.raises(ValidationError):
        Spec.model_validate(block)


# ----- requests that end to free their permits


class Holders:
    """Requests with a permit, some of which wait for their own clients."""

    def __init__(self, *, blocked: int) -> None:
        self.bodies = [Body() for _ in range(blocked)]
        self.asked: list[str] = []
        self.crowds: list[tuple[int, int]] = []
        """Numbers of waiting requests and of permits, for each call of `reclaim`."""

    def reclaim(self, route: str, waiting: int, places: int) -> bool:
        self.asked.append(route)
        self.crowds.append((waiting, places))
        if not self.bodies:
            return False
        self.bodies.pop(0).fail(RESET)
        return True


def crowded(env: FakeEnv, holders: Holders, *, scope: str = "route", **block: Any) -> Service:
    """Return a service whose first answers are the bodies of the holders, and all others whole."""
    script = [response(200, stream=body) for body in holders.bodies] + [response(200)] * 4
    ctx = context(env, scope=scope, resources={("reclaim", "app"): holders.reclaim})
    return Pipeline([concurrency.build(Spec.model_validate(block), ctx)], ScriptedService(*script))


@pytest.mark.parametrize("block", [{"max": 2}, {"max": 2, "queue": 1}, {"adaptive": {"min": 1, "max": 2}}])
@pytest.mark.parametrize(("scope", "asked"), [("route", "order"), ("upstream", "")])
@virtual
async def test_who_waits_for_its_client_gives_its_permit_up(block: dict[str, Any], scope: str, asked: str) -> None:
    holders = Holders(blocked=2)
    call = crowded(virtual_env(), holders, scope=scope, **block)
    for _ in range(2):
        await call(exchange())
    assert (await call(exchange())).status == 200
    assert (holders.asked, len(holders.bodies)) == ([asked], 1), "one is enough"


@virtual
async def test_who_is_in_the_queue_gets_the_permit_of_one_that_begins_to_wait_for_its_client() -> None:
    holders = Holders(blocked=1)
    call = crowded(virtual_env(), holders, max=1, queue=1, queue_timeout="1s")
    await call(exchange())
    bodies, holders.bodies = holders.bodies, []
    second = start(call)
    await asyncio.sleep(0.5)
    assert not second.done()
    holders.bodies = bodies
    await asyncio.sleep(0.06)
    assert (await second).status == 200
    looks = len(holders.asked)
    await asyncio.sleep(1)
    assert len(holders.asked) == looks, "nobody waits any more"


@virtual
async def test_the_more_requests_wait_the_more_often_one_that_gives_way_is_looked_for() -> None:
    holders = Holders(blocked=1)
    call = crowded(virtual_env(), holders, max=1, queue=10, queue_timeout="1s")
    await call(exchange())
    holders.bodies.clear()
    crowd = [start(call) for _ in range(10)]
    await asyncio.sleep(0.06)
    holders.crowds.clear()
    await asyncio.sleep(0.05)
    assert len(holders.crowds) == 10
    assert set(holders.crowds) == {(10, 1)}
    await asyncio.sleep(1)
    assert all(request.done() for request in crowd)


@virtual
async def test_a_crowd_of_refused_requests_looks_for_one_that_gives_way_now_and_then_only() -> None:
    holders = Holders(blocked=1)
    call = crowded(virtual_env(), holders, max=1)
    await call(exchange())
    bodies, holders.bodies = holders.bodies, []
    for _ in range(5):
        assert (await call(exchange())).failure is OVERLOADED
    assert len(holders.asked) == 1
    holders.bodies = bodies
    await asyncio.sleep(0.05)
    assert (await call(exchange())).status == 200


@virtual
async def test_nobody_gives_way_where_the_limit_is_only_observed() -> None:
    holders = Holders(blocked=1)
    call = crowded(virtual_env(), holders, max=1, mode="observe")
    for _ in range(2):
        assert (await call(exchange())).status == 200
    assert holders.asked == []
