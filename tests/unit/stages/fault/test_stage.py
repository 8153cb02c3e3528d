"""Tests of `fault`: injected faults look like those of an upstream, in the share and order that the seed gives."""

from __future__ import annotations

from typing import Any

import pytest
from pydantic import ValidationError

from sidecar.core import metrics
from sidecar.core.outcome import RESET, TIMEOUT
from sidecar.core.stage import Service
from sidecar.engine.pipeline import Pipeline
from sidecar.stages.fault import stage as fault
from sidecar.stages.fault.spec import Spec
from tests.support.clock import FakeEnv, make_env
from tests.support.service import ScriptedService, context, exchange


def service(env: FakeEnv, inner: Any, **block: Any) -> Service:
    return Pipeline([fault.build(Spec.model_validate(block), context(env))], inner)


async def test_an_abort_is_an_answer_that_breakers_learn_from() -> None:
    env, inner = make_env(), ScriptedService(200)
    x = exchange(attempt=2, why="retry:503")
    outcome = await service(env, inner, abort={"status": 503, "share": "100%"})(x)
    assert (outcome.status, outcome.failure) == (503, None)
    assert outcome.header(b"x-sidecar-reason") == b"fault_injected"
    assert inner.calls == 0
    (attempt,) = x.attempts
    assert (attempt.endpoint, attempt.number, attempt.why, attempt.status) == ("fault", 2, "retry:503", 503)
    assert env.meter.value(metrics.FAULTS, route="order", kind="abort") == 1


async def test_a_reset_is_an_upstream_that_hung_up() -> None:
    env = make_env()
    x = exchange()
    outcome = await service(env, ScriptedService(200), reset={"share": "100%"})(x)
    assert (outcome.failure, RESET.origin, x.attempts[0].reason) == (RESET, "upstream", "reset")
    assert env.meter.value(metrics.FAULTS, kind="reset") == 1


async def test_a_fixed_latency_comes_before_the_upstream() -> None:
    env, inner = make_env(), ScriptedService(200)
    x = exchange(attempt_timeout=1.0)
    outcome = await service(env, inner, latency={"fixed": "200ms", "share": "100%"})(x)
    assert (outcome.status, env.sleeps) == (200, [0.2])
    assert inner.exchanges[0].attempt_timeout == pytest.approx(0.8), "the try has so much left"
    assert x.attempt_timeout == 1, "the next try has it all"
    assert x.attempts is inner.exchanges[0].attempts


async def test_a_latency_is_drawn_evenly() -> None:
    env = make_env()
    call = service(env, ScriptedService(200), latency={"uniform": {"min": "100ms", "max": "300ms"}, "share": "100%"})
    for _ in range(500):
        await call(exchange())
    assert len(env.sleeps) == 500
    assert 0.1 <= min(env.sleeps) < 0.105
    assert 0.295 < max(env.sleeps) <= 0.3
    assert sum(env.sleeps) / 500 == pytest.approx(0.2, rel=0.05)


@pytest.mark.parametrize("limit", ["attempt_timeout", "deadline"])
async def test_a_latency_that_outlasts_the_try_ends_it_as_a_timeout(limit: str) -> None:
    env, inner = make_env(), ScriptedService(200)
    x = exchange()
    setattr(x, limit, 0.5 + (env.now() if limit == "deadline" else 0))
    outcome = await service(env, inner, latency={"fixed": "2s", "share": "100%"})(x)
    assert (outcome.failure, env.sleeps, inner.calls) == (TIMEOUT, [0.5], 0)
    assert x.attempts[0].ended - x.attempts[0].started == 0.5


async def test_shares_are_kept_and_a_seed_repeats_itself() -> None:
    async def run(seed: int) -> list[int]:
        env = make_env(seed)
        call = service(env, ScriptedService(200), abort={"status": 418, "share": "20%"}, reset={"share": "10%"})
        return [(await call(exchange())).status for _ in range(2000)]

    statuses = await run(1)
    assert statuses == await run(1) != await run(2)
    assert statuses.count(502) / 2000 == pytest.approx(0.1, abs=0.02)
    assert statuses.count(418) / 2000 == pytest.approx(0.18, abs=0.02), "of those that were not reset"


async def test_nothing_strikes_at_a_share_of_nothing() -> None:
    env, inner = make_env(), ScriptedService(200)
    x = exchange()
    call = service(env, inner, latency={"fixed": "1s", "share": "0%"}, abort={"share": "0%"}, reset={"share": "0%"})
    assert (await call(x)).status == 200
    assert inner.exchanges == [x]


async def test_observing_only_counts() -> None:
    env, inner = make_env(), ScriptedService(200)
    call = service(env, inner, abort={"share": "100%"}, latency={"fixed": "1s", "share": "100%"}, mode="observe")
    assert (await call(exchange())).status == 200
    assert (env.sleeps, env.meter.value(metrics.FAULTS)) == ([], 0)
    assert env.meter.value(metrics.WOULD_REFUSE, policy="fault") == 1


@pytest.mark.parametrize(
    "block",
    [
        {},
        {"latency": {"share": "10%"}},
        {"latency": {"fixed": "1s", "uniform": {"min": "1s", "max": "2s"}, "share": "10%"}},
        {"latency": {"uniform": {"min": "3s", "max": "2s"}, "share": "10%"}},
        {"abort": {"status": 99, "share": "10%"}},
        {"abort": {"status": 500}},
        {"reset": {}},
    ],
)
def test_what_is_not_a_fault(block: dict[str, Any]) -> None:
    with pytest.raises(ValidationError):
        Spec.model_validate(block)
