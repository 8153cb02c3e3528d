"""The laws of `sidecar.core.stage`, for every stage there is: in every state, under every end that a request can have.

A stage that is added to `STAGES` is tested here without a word; settings worth testing besides its defaults go to
`BLOCKS`.
"""

from __future__ import annotations

import asyncio
import inspect
import json
from collections.abc import Callable, Iterator
from functools import partial
from typing import Any, NamedTuple

import pytest

from sidecar.cache.spec import CacheSpec
from sidecar.cache.store import Store as Cache
from sidecar.core import metrics
from sidecar.core.body import OPEN, Body
from sidecar.core.exchange import CRITICAL, DEFAULT, SHEDDABLE, Exchange
from sidecar.core.outcome import (
    ABANDONED,
    BREAKER_OPEN,
    CLIENT_CLOSED,
    CONNECT_FAILURE,
    FAILURES,
    RESET,
    TIMEOUT,
    Outcome,
    failed,
)
from sidecar.core.promise import Promise, Run
from sidecar.core.stage import Service, Stage, stack
from sidecar.stages import STAGES, Entry
from tests.support.clock import FakeEnv, make_env
from tests.support.loop import settle, virtual, virtual_env
from tests.support.service import HANG, ScriptedService, Store, after, context, exchange, response

BLOCKS: dict[str, list[Any]] = {
    "timeout": [{"request": "3s", "attempt": "1s"}, {"request": "off"}],
    "fallback": [[{"response": {"status": 503}}], ["stale", {"upstream": "other"}]],
    "cache": [{}, {"ttl": "30s", "stale_while_revalidate": "10s"}],
    "concurrency": [{"max": 3}, {"max": 2, "queue": 2}, {"adaptive": {"min": 1, "max": 3}, "queue": 1}],
    "transform": [
        {"request": {"headers": {"set": {"x-a": "b"}}}, "response": {"headers": {"remove": ["server"]}}},
        {
            "request": {"path": "/x", "body": {"template": {"a": 1}}},
            "response": {"body": {"wrap": "/data"}, "status": {"5xx": 500}},
        },
    ],
    "hedge": [{"after": "50ms"}],
    "retry": [{}, {"max_attempts": 2}],
    "circuit_breaker": [{}, {"consecutive_failures": 2, "open_for": "1s"}],
    "fault": [
        {"abort": {"status": 503, "share": "30%"}, "reset": {"share": "30%"}},
        {"latency": {"fixed": "50ms", "share": "50%"}},
    ],
}


class Case(NamedTuple):
    """A stage under some settings."""

    entry: Entry
    block: Any

    def spec(self, mode: str = "enforce") -> Any:
        spec = self.entry.spec.model_validate(self.block)
        return spec.model_copy(update={"mode": mode})

    def build(self, env: FakeEnv, store: Store | None = None, mode: str = "enforce") -> Stage:
        resources = {
            ("upstream", "other"): ScriptedService(200),
            ("cache", "default"): Cache("default", CacheSpec(), env),
        }
        ctx = context(env, scope="route", store=store or Store(), resources=resources)
        return self.entry.build(self.spec(mode), ctx)


CASES = [Case(entry, block) for entry in STAGES for block in BLOCKS.get(entry.name, [{}])]


@pytest.fixture(params=CASES, ids=lambda case: f"{case.entry.name}:{case.block}")
def case(request: pytest.FixtureRequest) -> Case:
    found: Case = request.param
    return found


def arriving(env: FakeEnv, **facts: Any) -> Exchange:
    return exchange(arrived=env.now(), **facts)


class Inside:
    """A gate within the stage under test: whatever the stage does, what comes in goes out."""

    def __init__(self) -> None:
        self.open = 0

    def admit(self, x: Exchange) -> object:
        self.open += 1
        return None

    def settle(self, x: Exchange, ticket: object, outcome: Outcome) -> None:
        self.open -= 1


class Pairing:
    """A gate as it is, with its tickets counted."""

    def __init__(self, gate: Any) -> None:
        self.gate = gate
        self.tickets: list[object] = []

    def admit(self, x: Exchange) -> object:
        ticket = self.gate.admit(x)
        assert not inspect.isawaitable(ticket), "a gate never awaits"
        if not isinstance(ticket, Outcome):
            self.tickets.append(ticket)
        return ticket

    def settle(self, x: Exchange, ticket: object, outcome: Outcome) -> None:
        self.tickets.remove(ticket)
        assert self.gate.settle(x, ticket, outcome) is None


def counted(stage: Stage) -> Stage:
    return Pairing(stage) if hasattr(stage, "admit") else stage


def is_at_rest(env: FakeEnv, stage: Stage, inside: Inside) -> None:
    """Nothing is held any more."""
    assert inside.open == 0
    assert not isinstance(stage, Pairing) or stage.tickets == []
    assert env.meter.value(metrics.CONCURRENCY_ACTIVE) == 0
    assert env.meter.value(metrics.QUEUE_LENGTH) == 0


def endings() -> Iterator[Callable[[], Any]]:
    """Everything that an inner service can come to."""
    for failure in FAILURES.values():
        yield partial(failed, failure)
    for status in (200, 204, 404, 429, 500, 503):
        yield partial(response, status)
    yield partial(response, 503, headers={"retry-after": "1"})


async def call_quietly(service: Service, x: Exchange) -> Outcome:
    outcome = await service(x)
    assert isinstance(outcome, Outcome)
    return outcome


@virtual
async def test_every_ending_is_an_outcome_and_leaves_nothing_behind(case: Case) -> None:
    env, inside = virtual_env(), Inside()
    stage = counted(case.build(env))
    script = [make() for _ in range(4) for make in endings()]
    service = stack([stage, inside], ScriptedService(*script))
    for method in ("GET", "POST"):
        for _ in range(len(script) // 2):
            await call_quietly(service, arriving(env, method=method))
            await env.sleep(0.01)
    await env.sleep(60)
    is_at_rest(env, stage, inside)


@virtual
async def test_a_crowd_leaves_nothing_behind(case: Case) -> None:
    env, inside = virtual_env(), Inside()
    stage = counted(case.build(env))
    service = stack([stage, inside], ScriptedService(*[after(0.02, make()) for make in endings()]))
    ranks = (CRITICAL, DEFAULT, SHEDDABLE)
    await asyncio.gather(*(call_quietly(service, arriving(env, criticality=ranks[n % 3])) for n in range(30)))
    await env.sleep(60)
    is_at_rest(env, stage, inside)


@virtual
async def test_cancellation_comes_out_at_any_time_and_leaves_nothing_behind(case: Case) -> None:
    env, inside = virtual_env(), Inside()
    stage = counted(case.build(env))
    service = stack([stage, inside], ScriptedService(after(0.03, RESET), HANG, after(0.03, 503), HANG))
    loop = asyncio.get_running_loop()
    for patience in (0, 0.001, 0.02, 0.06, 0.09, 0.2):
        tasks = [loop.create_task(call_quietly(service, arriving(env))) for _ in range(5)]
        await env.sleep(patience)
        for task in tasks:
            task.cancel()
        await asyncio.wait(tasks)
        assert all(task.cancelled() or task.exception() is None for task in tasks)
        await settle()
        is_at_rest(env, stage, inside)


@virtual
async def test_a_bug_comes_out_and_leaves_nothing_behind(case: Case) -> None:
    env, inside = virtual_env(), Inside()
    stage = counted(case.build(env))
    if case.entry.name == "fault":
        case = case._replace(block={"abort": {"share": "0%"}})
        stage = counted(case.build(env))
    service = stack([stage, inside], ScriptedService(ZeroDivisionError, KeyError("bug"), 200))
    for bug in (ZeroDivisionError, KeyError):
        with pytest.raises(bug):
            await service(arriving(env))
    assert (await service(arriving(env))).status == 200, "a bug is nobody's failure"
    await env.sleep(60)
    is_at_rest(env, stage, inside)


@pytest.mark.parametrize("end", ["finish", "fail", "cancel"])
@virtual
async def test_a_stream_is_settled_at_its_end(case: Case, end: str) -> None:
    env, inside = virtual_env(), Inside()
    stage = counted(case.build(env))
    bodies: list[Body] = []

    def stream(status: int) -> Callable[[Exchange], Outcome]:
        def answer(_: Exchange) -> Outcome:
            bodies.append(Body())
            return response(status, stream=bodies[-1])

        return answer

    service = stack([stage, inside], ScriptedService(*[stream(status) for status in (200, 503, 200, 404, 503, 503)]))
    for _ in range(6):
        outcome = await service(arriving(env))
        held = [body for body in bodies if body.state == OPEN]
        if outcome.stream in bodies or outcome.stream is None:
            assert held in ([], [outcome.stream]), "no stream stays open but the one that is handed out"
        else:
            assert held == [bodies[-1]], "or the one that it is copied from"
        assert inside.open == len(held)
        if held and isinstance(stage, Pairing):
            assert len(stage.tickets) == 1
        for body in held:
            if end == "cancel" and outcome.stream is not None:
                outcome.stream.cancel()
            if body.state == OPEN:  # a cache reads on when its client leaves
                body.fail(RESET) if end == "fail" else body.finish()
        is_at_rest(env, stage, inside)
        await env.sleep(0.5)


def mutes(outcome: Outcome) -> bool:
    return outcome.header(b"x-sidecar-fallback") is None and outcome.header(b"x-sidecar-reason") is None


@virtual
async def test_observing_lets_everything_pass(case: Case) -> None:
    env, inside = virtual_env(), Inside()
    stage = counted(case.build(env, mode="observe"))
    answers = [make() for _ in range(5) for make in endings()]
    inner = ScriptedService(*[after(0.02, answer) for answer in answers])
    service = stack([stage, inside], inner)
    began = env.now()
    outcomes = await asyncio.gather(*(service(arriving(env)) for _ in answers))
    assert [id(outcome) for outcome in outcomes] == [id(answer) for answer in answers]
    assert all(mutes(outcome) for outcome in outcomes)
    assert inner.calls == len(answers)
    assert env.now() - began == pytest.approx(0.02), "and nothing waits"
    is_at_rest(env, stage, inside)


async def test_a_stage_needs_no_task(case: Case) -> None:
    env, inside = make_env(), Inside()
    stage = counted(case.build(env))
    gate: Promise[Outcome] = Promise()

    async def inner(_: Exchange) -> Outcome:
        return await gate

    ends: list[Run[Outcome]] = []
    assert asyncio.current_task() is not None
    asyncio.get_running_loop().call_soon(lambda: Run(stack([stage, inside], inner)(arriving(env)), ends.append))
    await settle()
    gate.resolve(response(200))
    for _ in range(10):
        await settle()
        env.advance(1)
    assert [run.error for run in ends] == [None]
    is_at_rest(env, stage, inside)


def test_settling_never_raises(case: Case) -> None:
    env = make_env()
    gate: Any = case.build(env)
    if not hasattr(gate, "admit"):
        return
    for outcome in [ABANDONED, *(make() for make in endings())]:
        for repeat in range(3):
            x = arriving(env)
            ticket = gate.admit(x)
            if not isinstance(ticket, Outcome):
                env.advance(0.5 * repeat)
                gate.settle(x, ticket, outcome)
            env.advance(20)


@virtual
async def test_refusals_say_who_refused(case: Case) -> None:
    env = virtual_env()
    held: list[Body] = []

    def answer(_: Exchange) -> Outcome:
        held.append(Body())
        return response(200, stream=held[-1]) if len(held) < 4 else failed(RESET)

    service = stack([case.build(env)], ScriptedService(answer))
    for _ in range(30):
        outcome = await service(arriving(env))
        if outcome.failure is not None and outcome.failure.origin == "gateway":
            assert outcome.refusal.policy == case.entry.name
            assert outcome.refusal.where == "policies.yaml:7"
            assert outcome.refusal.detail
            assert not outcome.is_judged


@virtual
async def test_a_reload_keeps_what_is_held_and_what_was_learnt(case: Case) -> None:
    env, store, inside = virtual_env(), Store(), Inside()
    before = counted(case.build(env, store))
    old = stack([before, inside], ScriptedService(after(0.5, 200)))
    under_way = asyncio.get_running_loop().create_task(call_quietly(old, arriving(env)))
    await settle()
    keys = set(store.objects)
    states = {key: id(state) for key, state in store.objects.items()}
    renewed = stack([counted(case.build(env, store, mode="observe")), inside], ScriptedService(200))
    assert set(store.objects) == keys
    assert {key: id(state) for key, state in store.objects.items()} == states
    await renewed(arriving(env))
    await under_way
    for state in store.objects.values():
        assert json.loads(json.dumps(state.describe(), allow_nan=False))
    await env.sleep(60)
    is_at_rest(env, before, inside)


@pytest.mark.parametrize("entry", STAGES, ids=lambda entry: entry.name)
def test_a_block_documents_its_keys(entry: Entry) -> None:
    spec = entry.spec
    assert spec.__doc__
    undocumented = [name for name, field in spec.model_fields.items() if not field.description]
    assert [name for name in undocumented if name not in UNDOCUMENTED] == []
    assert spec.model_json_schema()


UNDOCUMENTED = ("latency", "abort", "reset", "slow_calls", "half_open", "backoff", "retry_after")
"""Keys whose value is a block of its own, with a docstring of its own."""


@pytest.mark.parametrize("failure", [CONNECT_FAILURE, RESET, TIMEOUT, BREAKER_OPEN, CLIENT_CLOSED])
@virtual
async def test_all_stages_together(failure: Any) -> None:
    env, inside, store = virtual_env(), Inside(), Store()
    for choice in range(2):
        cases = [
            Case(entry, blocks[min(choice, len(blocks) - 1)])
            for entry in STAGES
            for blocks in [BLOCKS.get(entry.name, [{}])]
        ]
        stages = [counted(case.build(env, store)) for case in cases]
        service = stack([*stages, inside], ScriptedService(failure, after(0.1, 200), HANG, 503, 200))
        tasks = [asyncio.get_running_loop().create_task(call_quietly(service, arriving(env))) for _ in range(20)]
        await env.sleep(5)
        for task in tasks:
            task.cancel()
        await asyncio.wait(tasks)
        await env.sleep(60)
        for stage in stages:
            is_at_rest(env, stage, inside)
