"""Tests of retry, breaker, deadline, fallback and concurrency, seen from outside."""

from __future__ import annotations

import asyncio
import json
from typing import Any

import pytest

from chaos.parts.client import fetch
from chaos.parts.servers import (
    Server,
    after,
    answering,
    closing,
    closing_idle,
    closing_on_reuse,
    echoing,
    refusing,
    reset,
    sequence,
    silent,
)
from tests.e2e.world import world
from tests.support.process import Sidecar

pytestmark = pytest.mark.asyncio(loop_scope="module")

RETRY = {"retry": {"max_attempts": 3, "on": ["connect_failure", "reset", "timeout", 503], "backoff": {"base": "5ms"}}}


@pytest.mark.parametrize("fault", [reset, closing, answering(503), silent], ids=["reset", "closing", "503", "silent"])
async def test_a_safe_request_is_tried_again(shared: Sidecar, fault: object) -> None:
    servers = {"app": sequence(fault, fault, answering())}  # type: ignore[arg-type]
    timeout = {"request": "60s", "attempt": "1s" if fault is silent else "off"}
    routes = {"app": {**RETRY, "timeout": timeout}}
    async with world(shared, servers, routes=routes) as w:
        answer = await w.sidecar.fetch("GET", "/app")
        assert (answer.status, answer.body) == (200, b"ok")
        seen = w.servers["app"].requests
        assert [request.get("x-sidecar-attempt") for request in seen] == ["1", "2", "3"] or [
            request.get("x-sidecar-attempt") for request in seen
        ] == ["", "2", "3"]
        assert len({request.get("x-request-id") for request in seen}) == 1


async def test_a_post_is_not_repeated_once_it_has_gone_out(shared: Sidecar) -> None:
    async with world(shared, {"app": sequence(reset, answering())}, routes={"app": RETRY}) as w:
        answer = await w.sidecar.fetch("POST", "/app", b"pay")
        assert (answer.status, answer.get("x-sidecar-reason")) == (502, "reset")
        assert len(w.servers["app"].requests) == 1
        assert (await w.sidecar.fetch("POST", "/app", b"pay")).status == 200


async def test_a_post_with_an_idempotency_key_is_repeated_with_its_body(shared: Sidecar) -> None:
    async with world(shared, {"app": sequence(reset, echoing)}, routes={"app": RETRY}) as w:
        answer = await w.sidecar.fetch("POST", "/app", b"pay", idempotency_key="7")
        assert (answer.status, answer.body) == (200, b"pay")
        assert [request.body for request in w.servers["app"].requests] == [b"pay", b"pay"]


async def test_what_never_left_is_always_tried_elsewhere(shared: Sidecar) -> None:
    async with refusing() as port, Server(echoing) as alive:
        upstreams = {"app": {"endpoints": [f"http://127.0.0.1:{port}", alive.url]}}
        async with world(shared, {}, upstreams=upstreams, routes={"app": RETRY}) as w:
            answers = [await w.sidecar.fetch("POST", "/app", b"pay") for _ in range(6)]
            assert {answer.status for answer in answers} == {200}


@pytest.mark.parametrize("behaviour", [closing_idle(answering()), closing_on_reuse(answering())], ids=["idle", "reuse"])
async def test_a_connection_that_the_upstream_has_closed_costs_no_request(shared: Sidecar, behaviour: object) -> None:
    async with world(shared, {"app": behaviour}) as w, w.sidecar.client() as client:  # type: ignore[dict-item]
        assert [(await client.request("GET", "/app")).status for _ in range(4)] == [200] * 4


async def test_retries_stop_when_the_budget_is_spent(shared: Sidecar) -> None:
    upstreams = {"app": {"retry_budget": {"ratio": "10%", "min_per_second": 1, "window": "10s"}}}
    async with world(shared, {"app": answering(503)}, routes={"app": RETRY}, upstreams=upstreams) as w:
        for _ in range(60):
            assert (await w.sidecar.fetch("GET", "/app")).status == 503
        assert 60 < len(w.servers["app"].requests) <= 60 + 6 + 10 + 3


async def test_a_request_that_is_a_retry_already_is_not_multiplied(shared: Sidecar) -> None:
    async with world(shared, {"app": answering(503)}, routes={"app": RETRY}) as w:
        await w.sidecar.fetch("GET", "/app", x_sidecar_attempt="2")
        assert len(w.servers["app"].requests) == 1


async def test_an_open_breaker_answers_at_once_and_leaves_the_upstream_alone(shared: Sidecar) -> None:
    servers = {"app": sequence(*[answering(500)] * 3, answering())}
    routes = {"app": {"circuit_breaker": {"consecutive_failures": 3, "open_for": "2s", "jitter": "0%"}}}
    async with world(shared, servers, routes=routes) as w:
        assert [(await w.sidecar.fetch("GET", "/app")).status for _ in range(3)] == [500] * 3
        async with w.sidecar.client() as client:
            answer = await client.request("GET", "/app")
            assert (answer.status, answer.get("x-sidecar-reason")) == (503, "breaker_open")
            assert int(answer.get("retry-after")) >= 1
            document = json.loads(answer.body)
            assert document["policy"] == "circuit_breaker"
            assert document["route"] == "app"
            while (answer := await client.request("GET", "/app")).status == 503:
                assert len(w.servers["app"].requests) == 3
                await asyncio.sleep(0.05)
            assert answer.status == 200


async def test_the_time_left_travels_and_an_incoming_one_shortens_ours(shared: Sidecar) -> None:
    routes = {"app": {"timeout": {"request": "300s"}}}
    async with world(shared, {"app": sequence(answering(), silent)}, routes=routes) as w:
        await w.sidecar.fetch("GET", "/app")
        assert 200_000 < int(w.servers["app"].requests[0].get("x-request-timeout-ms")) <= 300_000
        answer = await w.sidecar.fetch("GET", "/app", x_request_timeout_ms="150")
        assert (answer.status, answer.get("x-sidecar-reason")) == (504, "timeout")


async def test_a_fallback_stands_in(shared: Sidecar) -> None:
    routes: dict[str, dict[str, Any]] = {
        "static": {"fallback": [{"response": {"status": 200, "json": {"items": []}}}]},
        "other": {"fallback": [{"upstream": "spare"}]},
    }
    servers = {"static": reset, "other": reset, "spare": echoing}
    async with world(shared, servers, routes=routes) as w:
        answer = await w.sidecar.fetch("GET", "/static")
        assert (answer.status, json.loads(answer.body)) == (200, {"items": []})
        answer = await w.sidecar.fetch("GET", "/other?x")
        assert (answer.status, answer.get("x-target")) == (200, "/other?x")


async def test_a_full_bulkhead_refuses_and_its_queue_waits(shared: Sidecar) -> None:
    routes = {"app": {"concurrency": {"max": 2, "queue": 2, "queue_timeout": "60s"}}}
    async with world(shared, {"app": after(0.2, answering())}, routes=routes) as w:
        answers = await asyncio.gather(*(fetch(w.sidecar.inbound, "GET", "/app") for _ in range(8)))
        assert sorted(answer.status for answer in answers) == [200] * 4 + [503] * 4
        assert {answer.get("x-sidecar-reason") for answer in answers if answer.status == 503} == {"overloaded"}


async def test_hedging_takes_the_faster_answer(shared: Sidecar) -> None:
    routes = {"app": {"hedge": {"after": "50ms"}, "timeout": {"request": "60s"}}}
    async with world(
        shared, {"app": sequence(after(50.0, answering(200, b"slow")), answering(200, b"fast"))}, routes=routes
    ) as w:
        answer = await w.sidecar.fetch("GET", "/app")
        assert (answer.status, answer.body) == (200, b"fast")
        assert len(w.servers["app"].requests) == 2


async def test_observe_mode_lets_everything_pass(shared: Sidecar) -> None:
    routes = {"app": {"circuit_breaker": {"consecutive_failures": 2, "open_for": "5s", "mode": "observe"}}}
    async with world(shared, {"app": answering(500)}, routes=routes) as w:
        assert {(await w.sidecar.fetch("GET", "/app")).status for _ in range(6)} == {500}
        assert len(w.servers["app"].requests) == 6
