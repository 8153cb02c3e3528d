"""Laws of `sidecar.core.stage`, tested for every stage: in every state, with every possible end of a request.

A stage that is added to `STAGES` is tested here without further changes, with the `EXAMPLES` of its spec.
"""

from __future__ import annotations

import asyncio
import inspect
import json
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path
from typing import Any, NamedTuple

import pytest
from pydantic import ValidationError

from sidecar.cache.spec import CacheSpec
from sidecar.cache.store import Store as Cache
from sidecar.config.docstrings import attribute_docstrings
from sidecar.config.files import Source
from sidecar.config.load import load
from sidecar.core import metrics
from sidecar.core.body import OPEN, Body
from sidecar.core.exchange import CRITICAL, DEFAULT, SHEDDABLE, Caller, Exchange
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
from sidecar.core.stage import Service, Stage, Wait
from sidecar.engine.pipeline import Pipeline
from sidecar.identity.verdict import Unavailable
from sidecar.routing.match_spec import MatchSpec
from sidecar.routing.rule import Rule
from sidecar.stages import STAGES, StageKind
from sidecar.store.shared_quotas import InProcessLedger, SharedQuotas
from sidecar.store.spec import StoreSpec
from tests.support.clock import FakeEnv, make_env
from tests.support.loop import settle, virtual, virtual_env
from tests.support.service import HANG, ScriptedService, Store, after, context, exchange, response

FILE = Path(__file__).parents[2] / "policies" / "laws.yaml"
"""Policy file of the examples, which name files beside it; it does not exist itself."""


PRODUCERS = ("translate", "aggregate")
"""Blocks that make what is sent upstream or downstream, and so cannot only observe."""


def blocks(kind: StageKind) -> list[Any]:
    """Return the examples of a stage's spec, and an empty block if it needs no key."""
    try:
        kind.spec.model_validate({})
    except ValidationError:
        return list(kind.examples)
    return [*kind.examples, {}]


class Case(NamedTuple):
    """Stage with one of its settings."""

    kind: StageKind
    block: Any

    def spec(self, mode: str = "enforce") -> Any:
        spec = self.kind.spec.model_validate(self.block)
        return spec.model_copy(update={"mode": mode})

    def build(self, env: FakeEnv, store: Store | None = None, mode: str = "enforce") -> Stage:
        resources = {
            ("upstream", "other"): Pipeline([], ScriptedService(200)),
            ("upstream", "app"): Pipeline([], ScriptedService(after(0.02, 200), env=env)),
            ("cache", "default"): Cache("default", CacheSpec(), env),
            ("quota_store", "disk"): SharedQuotas("disk", StoreSpec(file="/disk"), env, lambda _: InProcessLedger()),
            ("identity", "corporate"): Undecided(env),
            ("identity", "partners"): Header(),
            ("route", "order:user"): InnerRoute(env),
            ("route", "other"): InnerRoute(env),
        }
        ctx = context(env, scope="route", where=f"{FILE}:7", store=store or Store(), resources=resources)
        stage = self.kind.build(self.spec(mode), ctx)
        assert stage is not None
        return stage


class InnerRoute:
    """Route of a part, which takes a moment."""

    criticality = DEFAULT
    rule: Any = Rule(MatchSpec(), None)
    route = None
    pick = None

    def __init__(self, env: FakeEnv) -> None:
        answers = [after(0.02, response(200, b'{"id": 7}')), response(200, b"{}"), failed(RESET), response(404)]
        self.pipeline = Pipeline([], ScriptedService(*answers, answers[0], env=env))


class Header:
    """Identity that believes the field x-name."""

    name, scheme, field = "partners", b"ApiKey", b"x-name"

    def authenticate(self, x: Exchange, lines: bytes, lower: bytes, now: float) -> Caller | None:
        value = x.header(b"x-name")
        return None if value is None else Caller(value.decode(), self.name, {}, self.field)


class Undecided:
    """Identity that takes a second to find that it cannot decide."""

    name, scheme, field = "corporate", b"Bearer", b"authorization"

    def __init__(self, env: FakeEnv) -> None:
        self._env = env

    def authenticate(self, x: Exchange, lines: bytes, lower: bytes, now: float) -> Wait | None:
        return None if x.header(b"authorization") is None else Wait(self._wait())

    async def _wait(self) -> Unavailable:
        await self._env.sleep(1.0)
        return Unavailable("nobody knows")


CASES = [Case(kind, block) for kind in STAGES for block in blocks(kind)]


@pytest.fixture(params=CASES, ids=lambda case: f"{case.kind.name}:{case.block}")
def case(request: pytest.FixtureRequest) -> Case:
    found: Case = request.param
    return found


def arriving(env: FakeEnv, **facts: Any) -> Exchange:
    return exchange(headers={"x-name": "alice"}, arrived=env.now(), **facts)


class Inside:
    """Gate inside the stage under test that counts requests: all that enter must leave."""

    def __init__(self) -> None:
        self.open = 0

    def admit(self, x: Exchange) -> object:
        self.open += 1
        return None

    def settle(self, x: Exchange, ticket: object, outcome: Outcome) -> None:
        self.open -= 1


class Counted:
    """Stage whose tickets are counted."""

    def __init__(self, stage: Any) -> None:
        self.stage = stage
        self.tickets: list[object] = []
        self.supersedes = getattr(stage, "supersedes", False)

    def admit(self, x: Exchange) -> object:
        return self._take(self.stage.admit(x))

    def _take(self, found: object) -> object:
        assert not inspect.isawaitable(found), "who needs time says `Wait`"
        if isinstance(found, Wait):
            return Wait(self._await(found))
        if not isinstance(found, Outcome):
            self.tickets.append(found)
        return found

    async def _await(self, wait: Wait) -> object:
        found = await wait.awaited
        assert not isinstance(found, Wait)
        return self._take(found)

    def answer(self, x: Exchange, ticket: object, outcome: Outcome) -> object:
        assert ticket in self.tickets
        return self.stage.answer(x, ticket, outcome) if hasattr(self.stage, "answer") else outcome

    def settle(self, x: Exchange, ticket: object, outcome: Outcome) -> None:
        self.tickets.remove(ticket)
        if hasattr(self.stage, "settle"):
            assert self.stage.settle(x, ticket, outcome) is None


class CountedAgain(Counted):
    """Stage with an inner pipeline whose tickets are counted."""

    @property
    def inner(self) -> Any:
        return self.stage.inner

    @inner.setter
    def inner(self, inner: Any) -> None:
        self.stage.inner = inner


def counted(stage: Stage) -> Counted:
    return CountedAgain(stage) if hasattr(stage, "inner") else Counted(stage)


def is_at_rest(env: FakeEnv, stage: Stage, inside: Inside) -> None:
    """Assert that the stage and those inside it hold nothing."""
    assert inside.open == 0
    assert not isinstance(stage, Counted) or stage.tickets == []
    assert env.meter.value(metrics.CONCURRENCY_ACTIVE) == 0
    assert env.meter.value(metrics.QUEUE_LENGTH) == 0


def endings() -> Iterator[Callable[[], Any]]:
    """Yield every possible result of an inner service."""
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
    service = Pipeline([stage, inside], ScriptedService(*script))
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
    service = Pipeline([stage, inside], ScriptedService(*[after(0.02, make()) for make in endings()]))
    ranks = (CRITICAL, DEFAULT, SHEDDABLE)
    await asyncio.gather(*(call_quietly(service, arriving(env, criticality=ranks[n % 3])) for n in range(30)))
    await env.sleep(60)
    is_at_rest(env, stage, inside)


@virtual
async def test_cancellation_comes_out_at_any_time_and_leaves_nothing_behind(case: Case) -> None:
    env, inside = virtual_env(), Inside()
    stage = counted(case.build(env))
    service = Pipeline([stage, inside], ScriptedService(after(0.03, RESET), HANG, after(0.03, 503), HANG))
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
    """Each request that reaches the inner service raises; a stage may answer or refuse some itself."""
    env, inside = virtual_env(), Inside()
    stage = counted(case.build(env))
    inner = ScriptedService(ZeroDivisionError, KeyError("bug"), 200)
    service = Pipeline([stage, inside], inner)
    for _ in range(30):
        calls, outcome = inner.calls, None
        try:
            outcome = await service(arriving(env))
        except (ZeroDivisionError, KeyError):
            assert inner.calls <= 2
        else:
            assert inner.calls == calls or outcome.status == 200, "a bug is nobody's failure"
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

    service = Pipeline([stage, inside], ScriptedService(*[stream(status) for status in (200, 503, 200, 404, 503, 503)]))
    for _ in range(6):
        outcome = await service(arriving(env))
        opened = [body for body in bodies if body.state == OPEN]
        if outcome.stream in bodies or outcome.stream is None:
            assert opened in ([], [outcome.stream]), "no stream stays open but the one that is handed out"
        else:
            assert opened == [bodies[-1]], "or the one that it is copied from"
        assert inside.open == len(opened)
        if opened and outcome.stream in opened:
            assert len(stage.tickets) <= 1
        for body in opened:
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
    if case.kind.name in PRODUCERS:
        with pytest.raises(ValidationError, match="takes no `mode: observe`"):
            case.kind.spec.model_validate({**case.block, "mode": "observe"})
        return
    env, inside = virtual_env(), Inside()
    stage = counted(case.build(env, mode="observe"))
    answers = [make() for _ in range(5) for make in endings()]
    inner = ScriptedService(*[after(0.02, answer) for answer in answers])
    service = Pipeline([stage, inside], inner)
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
    asyncio.get_running_loop().call_soon(lambda: Run(Pipeline([stage, inside], inner)(arriving(env)), ends.append))
    await settle()
    gate.resolve(response(200))
    for _ in range(10):
        await settle()
        env.advance(1)
    assert [run.error for run in ends] == [None]
    is_at_rest(env, stage, inside)


def test_settling_never_raises(case: Case) -> None:
    env = make_env()
    stage: Any = case.build(env)
    if not hasattr(stage, "settle"):
        return
    for outcome in [ABANDONED, *(make() for make in endings())]:
        for repeat in range(3):
            x = arriving(env)
            ticket = stage.admit(x)
            if isinstance(ticket, Wait):
                ticket.close()
            elif not isinstance(ticket, Outcome):
                env.advance(0.5 * repeat)
                stage.settle(x, ticket, outcome)
            env.advance(20)


@virtual
async def test_refusals_say_who_refused(case: Case) -> None:
    env = virtual_env()
    opened: list[Body] = []

    def answer(_: Exchange) -> Outcome:
        opened.append(Body())
        return response(200, stream=opened[-1]) if len(opened) < 4 else failed(RESET)

    service = Pipeline([case.build(env)], ScriptedService(answer))
    for _ in range(30):
        outcome = await service(arriving(env))
        if outcome.failure is not None and outcome.failure.origin == "gateway":
            assert outcome.refusal.policy == case.kind.name
            assert outcome.refusal.where == f"{FILE}:7"
            assert outcome.refusal.detail
            assert (outcome.refusal.limit is None) == (outcome.refusal.value is None)


@virtual
async def test_a_reload_keeps_what_is_held_and_what_was_learnt(case: Case) -> None:
    env, store, inside = virtual_env(), Store(), Inside()
    before = counted(case.build(env, store))
    old = Pipeline([before, inside], ScriptedService(after(0.5, 200)))
    under_way = asyncio.get_running_loop().create_task(call_quietly(old, arriving(env)))
    await settle()
    keys = set(store.objects)
    states = {key: id(state) for key, state in store.objects.items()}
    renewed = Pipeline([counted(case.build(env, store, mode="observe")), inside], ScriptedService(200))
    assert set(store.objects) == keys
    assert {key: id(state) for key, state in store.objects.items()} == states
    await renewed(arriving(env))
    await under_way
    for state in store.objects.values():
        assert json.loads(json.dumps(state.describe(), allow_nan=False))
    await env.sleep(60)
    is_at_rest(env, before, inside)


@pytest.mark.parametrize("kind", STAGES, ids=lambda kind: kind.name)
def test_a_block_documents_its_keys(kind: StageKind) -> None:
    spec = kind.spec
    assert spec.__doc__
    undocumented = spec.model_fields.keys() - attribute_docstrings(spec).keys()
    assert [name for name in undocumented if name not in UNDOCUMENTED] == []
    assert spec.model_json_schema()


UNDOCUMENTED = ("latency", "abort", "reset", "slow_calls", "half_open", "backoff", "retry_after")
"""Keys whose value is a block with a docstring of its own."""


@pytest.mark.parametrize("failure", [CONNECT_FAILURE, RESET, TIMEOUT, BREAKER_OPEN, CLIENT_CLOSED])
@virtual
async def test_all_stages_together(failure: Any) -> None:
    env, inside, store = virtual_env(), Inside(), Store()
    for choice in range(2):
        cases = [Case(kind, found[min(choice, len(found) - 1)]) for kind in STAGES for found in [blocks(kind)]]
        stages = [counted(case.build(env, store)) for case in cases]
        service = Pipeline([*stages, inside], ScriptedService(failure, after(0.1, 200), HANG, 503, 200))
        tasks = [asyncio.get_running_loop().create_task(call_quietly(service, arriving(env))) for _ in range(20)]
        await env.sleep(5)
        for task in tasks:
            task.cancel()
        await asyncio.wait(tasks)
        await env.sleep(60)
        for stage in stages:
            is_at_rest(env, stage, inside)


@pytest.mark.parametrize("kind", STAGES, ids=lambda kind: kind.name)
def test_examples_are_what_a_policy_file_may_say(kind: StageKind) -> None:
    assert kind.examples, "the reference shows them"
    upstreams = {name: {"endpoints": ["http://127.0.0.1:1"], "protocol": "http2"} for name in ("app", "other")}
    routes = [
        {
            "name": f"route-{number}",
            "match": {"path_prefix": f"/v{number + 1}"},
            "upstream": "app",
            "cache": {},
            kind.name: block,
        }
        for number, block in enumerate(kind.examples)
    ]
    if kind.name == "aggregate":
        for route in routes:
            del route["upstream"]
    routes.append({"name": "other", "match": {"path": "/other"}, "upstream": "other"})
    listeners = {"inbound": {"address": "127.0.0.1:0"}}
    document = {"version": 1, "listeners": listeners, "upstreams": upstreams, "routes": routes}
    if kind.name == "quota":
        document |= {"service": "orders", "stores": {"disk": {"file": "/var/lib/sidecar/quotas.db"}}}
    if kind.name == "authenticate":
        routes[-1]["authenticate"] = "off"
        jwt = {"issuer": "https://id.example", "audiences": ["orders"]}
        document["identities"] = {"corporate": {"jwt": jwt}, "partners": {"api_key": {"file": "/etc/keys.yaml"}}}
    loaded = load([Source(str(FILE), json.dumps(document).encode())], {})
    assert [str(problem) for problem in (*loaded.problems, *loaded.warnings)] == []
