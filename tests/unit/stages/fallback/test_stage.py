"""Tests of `fallback`: its conditions, its answers, and the end of the answer that it replaces."""

from __future__ import annotations

import asyncio
import json
from typing import Any

import pytest
from pydantic import ValidationError

from sidecar.core import metrics
from sidecar.core.body import CANCELLED, OPEN, Body
from sidecar.core.outcome import (
    BREAKER_OPEN,
    CLIENT_CLOSED,
    CONNECT_FAILURE,
    CONNECT_TIMEOUT,
    DEADLINE,
    OVERLOADED,
    RATE_LIMITED,
    RESET,
    TIMEOUT,
    Failure,
    Refusal,
    failed,
)
from sidecar.core.stage import Service
from sidecar.engine.pipeline import Pipeline
from sidecar.stages.fallback import stage as fallback
from sidecar.stages.fallback.spec import Spec
from tests.support.clock import FakeEnv, make_env
from tests.support.loop import settle
from tests.support.service import HANG, ScriptedService, context, exchange, response

SORRY = {"response": {"status": 503, "json": {"error": "unavailable"}}}


def service(inner: Any, block: Any, env: FakeEnv | None = None, **upstreams: ScriptedService) -> Service:
    resources = {("upstream", name): other for name, other in upstreams.items()}
    ctx = context(env or make_env(), resources=resources)
    return Pipeline([fallback.build(Spec.model_validate(block), ctx)], inner)


@pytest.mark.parametrize(
    "failing",
    [CONNECT_FAILURE, CONNECT_TIMEOUT, RESET, TIMEOUT, DEADLINE, BREAKER_OPEN, OVERLOADED, 500, 503, 504],
)
async def test_failures_are_replaced(failing: Any) -> None:
    env = make_env()
    outcome = await service(ScriptedService(failing), [SORRY], env)(exchange())
    assert (outcome.status, outcome.failure, json.loads(outcome.body)) == (503, None, {"error": "unavailable"})
    assert outcome.header(b"x-sidecar-fallback") == b"response"
    assert outcome.header(b"content-type") == b"application/json"
    reason = failing.code.encode() if isinstance(failing, Failure) else None
    assert outcome.header(b"x-sidecar-reason") == reason
    assert env.meter.value(metrics.FALLBACKS, route="order", step="response") == 1


@pytest.mark.parametrize("fine", [200, 404, 429, CLIENT_CLOSED])
async def test_other_outcomes_pass(fine: Any) -> None:
    outcome = await service(ScriptedService(fine), [SORRY])(exchange())
    assert outcome.header(b"x-sidecar-fallback") is None


async def test_the_conditions_can_be_chosen() -> None:
    block = {"steps": [SORRY], "on": [404, "breaker_open"]}
    call = service(ScriptedService(404, BREAKER_OPEN, 503, RESET), block)
    marks = [(await call(exchange())).header(b"x-sidecar-fallback") for _ in range(4)]
    assert marks == [b"response", b"response", None, None]


async def test_templates_fill_the_response() -> None:
    refused = failed(BREAKER_OPEN, Refusal("circuit_breaker", retry_after=4.2))
    block = [
        {
            "response": {
                "status": 503,
                "headers": {"Retry-After": "{breaker.retry_after}", "x-id": "{request.id}"},
                "body": "{route} is off",
            }
        }
    ]
    call = service(ScriptedService(refused, RESET), block)
    x = exchange(request_id=b"r-1\r\n")
    outcome = await call(x)
    assert outcome.header(b"retry-after") == b"5"
    assert (outcome.header(b"x-id"), outcome.body) == (b"r-1", b"order is off")
    assert outcome.header(b"content-type") == b"text/plain; charset=utf-8"
    assert x.refused_by == "circuit_breaker"
    assert (await call(x)).header(b"retry-after") is None, "no time is known"


async def test_another_upstream_stands_in() -> None:
    env = make_env()
    broken = Body()
    other = ScriptedService(response(200, b"from the other"))
    call = service(ScriptedService(response(503, stream=broken)), [{"upstream": "ro"}, SORRY], env, ro=other)
    outcome = await call(exchange(avoid=frozenset({"a"}), attempt=3))
    assert (outcome.body, outcome.header(b"x-sidecar-fallback")) == (b"from the other", b"upstream")
    assert broken.state == CANCELLED
    assert (other.exchanges[0].why, other.exchanges[0].attempt, other.exchanges[0].avoid) == (
        "fallback",
        1,
        frozenset(),
    )
    assert env.meter.value(metrics.FALLBACKS, step="upstream:ro") == 1


async def test_if_the_other_upstream_fails_too_the_next_step_is_taken() -> None:
    theirs = Body()
    call = service(
        ScriptedService(RESET), [{"upstream": "ro"}, SORRY], ro=ScriptedService(response(500, stream=theirs))
    )
    assert (await call(exchange())).header(b"x-sidecar-fallback") == b"response"
    assert theirs.state == CANCELLED


@pytest.mark.parametrize("refusing", [RATE_LIMITED, TIMEOUT, BREAKER_OPEN])
async def test_a_failure_of_the_other_upstream_is_no_answer_although_it_is_not_named(refusing: Failure) -> None:
    """Such as the refusal of a limit that stands under it."""
    other = ScriptedService(failed(refusing))
    block: dict[str, Any] = {"steps": [{"upstream": "spare"}], "on": [503]}
    outcome = await service(ScriptedService(503), block, spare=other)(exchange())
    assert (outcome.status, outcome.failure, outcome.header(b"x-sidecar-fallback")) == (503, None, None)
    block["steps"].append({"response": {"status": 299}})
    outcome = await service(ScriptedService(503), block, spare=other)(exchange())
    assert (outcome.status, outcome.header(b"x-sidecar-fallback")) == (299, b"response")


async def test_if_nothing_stands_in_the_first_answer_is_untouched() -> None:
    env = make_env()
    first = response(503, stream=Body())
    call = service(ScriptedService(first), ["stale", {"upstream": "ro"}], env, ro=ScriptedService(RESET))
    assert await call(exchange()) is first
    assert first.stream is not None
    assert first.stream.state == OPEN
    assert env.meter.value(metrics.FALLBACKS) == 0


@pytest.mark.parametrize(
    ("method", "headers", "failing", "asked"),
    [
        ("POST", {}, CONNECT_FAILURE, True),
        ("POST", {}, BREAKER_OPEN, True),
        ("POST", {}, RESET, False),
        ("POST", {}, 503, False),
        ("POST", {"idempotency-key": "7"}, RESET, True),
        ("PUT", {}, TIMEOUT, True),
    ],
)
async def test_nothing_is_done_twice(method: str, headers: dict[str, str], failing: Any, asked: bool) -> None:
    other = ScriptedService(200)
    call = service(ScriptedService(failing), [{"upstream": "ro"}, SORRY], ro=other)
    await call(exchange(method, "/", headers))
    assert (other.calls == 1) is asked


async def test_a_body_is_sent_again_if_it_is_still_whole() -> None:
    class Sink:
        data = b""

        def write(self, data: bytes) -> None:
            self.data += data

        def finish(self, trailers: Any) -> None: ...

        def fail(self, failure: Failure) -> None: ...

    def reading(status: int, sink: Sink) -> Any:
        def read(x: Any) -> int:
            x.stream.attach(sink)
            return status

        return read

    for size, limit, status in ((3, "10B", 200), (30, "10B", 503)):
        first, second = Sink(), Sink()
        block = {"steps": [{"upstream": "ro"}], "max_body": limit}
        call = service(ScriptedService(reading(503, first)), block, ro=ScriptedService(reading(200, second)))
        stream = Body()
        stream.feed(b"x" * size)
        assert (await call(exchange("PUT", stream=stream))).status == status
        assert first.data == b"x" * size
        assert second.data == (b"x" * size if status == 200 else b"")


async def test_no_other_upstream_when_the_time_is_over() -> None:
    env, other = make_env(), ScriptedService(200)
    call = service(ScriptedService(TIMEOUT), [{"upstream": "ro"}, SORRY], env, ro=other)
    assert (await call(exchange(deadline=env.now()))).header(b"x-sidecar-fallback") == b"response"
    assert other.calls == 0


async def test_what_the_cache_left_stands_in() -> None:
    env = make_env()
    call = service(ScriptedService(RESET), ["stale", SORRY], env)
    outcome = await call(exchange(stale=lambda: response(200, b"old", {"age": "99"})))
    assert (outcome.body, outcome.header(b"x-sidecar-fallback")) == (b"old", b"stale")
    outcome = await call(exchange(stale=lambda: None))
    assert outcome.header(b"x-sidecar-fallback") == b"response"


async def test_leaving_while_the_other_upstream_is_asked_frees_the_first_answer() -> None:
    body = Body()
    call = service(ScriptedService(response(503, stream=body)), [{"upstream": "ro"}], ro=ScriptedService(HANG))
    task = asyncio.get_running_loop().create_task(call(exchange()))
    await settle()
    task.cancel()
    await settle()
    assert task.cancelled()
    assert body.state == CANCELLED


async def test_observing_only_counts() -> None:
    env = make_env()
    outcome = await service(ScriptedService(503), {"steps": [SORRY], "mode": "observe"}, env)(exchange())
    assert outcome.header(b"x-sidecar-fallback") is None
    assert env.meter.value(metrics.WOULD_REFUSE, policy="fallback", route="order") == 1


@pytest.mark.parametrize(
    ("block", "remedy"),
    [
        ([], "at least 1"),
        (["old"], "is not a step; write stale"),
        ([{}], "must be one step"),
        ([{"upstream": "a", "response": {"status": 500}}], "must be one step"),
        ([{"response": {"status": 700}}], "599"),
        ([{"response": {"status": 503, "json": 1, "body": "x"}}], "both json and body"),
        ([{"response": {"status": 204, "body": "x"}}], "cannot have"),
        ([{"response": {"status": 503, "body": "{rout}"}}], "did you mean {route}"),
        ([{"response": {"status": 503, "json": {"a": ["{rout}"]}}}], "did you mean {route}"),
        ([{"response": {"status": 503, "headers": {"x": "{rout}"}}}], "did you mean {route}"),
        ([{"response": {"status": 503, "headers": {"a b": "x"}}}], "not the name of a header field"),
        ([{"response": {"status": 503, "headers": {"x": "a\nb"}}}], "control character"),
        ([{"response": {"status": 503, "headers": {"Content-Length": "1"}}}], "sets itself"),
        ({"steps": [SORRY], "on": ["sometimes"]}, "is not a condition"),
        ({"steps": [SORRY], "of": []}, "Extra inputs"),
        ({"response": {"status": 503}}, "begin this one with a dash: `- response: ...`"),
    ],
)
def test_what_is_not_a_fallback(block: Any, remedy: str) -> None:
    with pytest.raises(ValidationError, match=remedy):
        Spec.model_validate(block)


def test_the_schema_takes_both_forms() -> None:
    schema = Spec.model_json_schema()
    assert [form.get("type") for form in schema["anyOf"]] == ["array", "object"]
