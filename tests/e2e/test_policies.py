"""Tests of policies under real load.

Hedges and their budget, adaptive limits, priorities, breakers and checks of single endpoints, injected faults, commands
of an operator, and every block in `mode: observe`."""

from __future__ import annotations

import asyncio
import contextlib
import json
import re
from collections import Counter
from collections.abc import AsyncIterator
from typing import Any

import pytest

from chaos.parts.client import Client, fetch
from chaos.parts.http import Message
from chaos.parts.servers import Behaviour, Connection, Server, after, answering, echoing, sequence, silent
from tests.e2e.crowd import until
from tests.e2e.world import World, world
from tests.support.process import Sidecar, policies

pytestmark = pytest.mark.asyncio(loop_scope="module")

SLOW = after(0.4, answering(200, b"slow"))


class Switch:
    """Server whose behaviour a test can replace."""

    def __init__(self, behave: Behaviour) -> None:
        self.behave = behave

    async def __call__(self, connection: Connection, request: Message) -> None:
        await self.behave(connection, request)


async def metric(sidecar: Sidecar, name: str, **labels: str) -> float:
    """Return the sum of the series of `/metrics` that have these labels; 0 without any."""
    page = (await sidecar.ask("/metrics")).body.decode()
    total = 0.0
    for labelled, value in re.findall(rf"^{name}{{(.*)}} (\S+)$", page, re.MULTILINE):
        if labels.items() <= dict(re.findall(r'(\w+)="([^"]*)"', labelled)).items():
            total += float(value)
    return total


async def counts(sidecar: Sidecar, name: str, **labels: str) -> None:
    """Wait until a counter is no longer 0; the page is rendered once a second."""

    async def does() -> bool:
        return await metric(sidecar, name, **labels) >= 1

    await until(does)


async def is_observed(sidecar: Sidecar, policy: str) -> None:
    await counts(sidecar, "sidecar_observed_refusals_total", policy=policy)


@contextlib.asynccontextmanager
async def load(w: World, target: str, clients: int, **fields: str) -> AsyncIterator[list[Message]]:
    """Run so many clients that send requests without pause; yield the answers so far."""
    answers: list[Message] = []
    stop = asyncio.Event()

    async def ask() -> None:
        async with Client(w.sidecar.inbound) as client:
            while not stop.is_set():
                answers.append(await client.request("GET", target, **fields))
                if answers[-1].status >= 500:
                    await asyncio.sleep(0.02)

    tasks = [asyncio.create_task(ask()) for _ in range(clients)]
    try:
        yield answers
    finally:
        stop.set()
        await asyncio.gather(*tasks)


# ----- hedging


async def test_the_loser_of_a_hedge_is_cancelled(shared: Sidecar) -> None:
    routes = {"app": {"hedge": {"after": "50ms"}, "timeout": {"request": "60s"}}}
    async with world(shared, {"app": sequence(silent, echoing)}, routes=routes) as w:
        assert (await w.sidecar.fetch("GET", "/app")).status == 200
        silenced, answered = w.servers["app"].connections
        await until(lambda: not silenced.is_open)
        assert answered.is_open
        assert [request.get("x-sidecar-attempt") for request in w.servers["app"].requests] == ["1", "2"]
        await counts(w.sidecar, "sidecar_hedges_total", result="won")


async def test_hedges_stop_when_the_budget_is_spent(shared: Sidecar) -> None:
    upstreams = {"app": {"retry_budget": {"ratio": "10%", "min_per_second": 0.1, "window": "10s"}}}
    routes = {"app": {"hedge": {"after": "20ms"}, "timeout": {"request": "60s"}}}
    async with world(shared, {"app": after(0.1, answering())}, routes=routes, upstreams=upstreams) as w:
        answers = await asyncio.gather(*(w.sidecar.fetch("GET", "/app") for _ in range(40)))
        assert {answer.status for answer in answers} == {200}
        assert 40 < len(w.servers["app"].requests) <= 40 + 4 + 1


async def test_a_post_is_not_hedged(shared: Sidecar) -> None:
    routes = {"app": {"hedge": {"after": "20ms"}, "timeout": {"request": "60s"}}}
    async with world(shared, {"app": after(0.1, echoing)}, routes=routes) as w:
        assert (await w.sidecar.fetch("POST", "/app", b"pay")).status == 200
        assert len(w.servers["app"].requests) == 1


# ----- concurrency


def served(answers: list[Message]) -> int:
    return sum(answer.status == 200 for answer in answers)


async def test_an_adaptive_limit_follows_what_the_service_can_do(shared: Sidecar) -> None:
    """The service serves eight requests at a time and queues others; the limit must keep that queue short."""
    room = asyncio.Semaphore(8)
    waiting = most = 0

    async def limited(connection: Connection, request: Message) -> None:
        nonlocal waiting, most
        waiting += 1
        most = max(most, waiting)
        async with room:
            await asyncio.sleep(0.02)
        waiting -= 1
        await connection.send(b"HTTP/1.1 200 OK\r\nContent-Length: 0\r\n\r\n")

    routes = {"app": {"concurrency": {"adaptive": {"min": 2, "max": 200}}}}
    async with world(shared, {"app": limited}, routes=routes) as w:
        async with load(w, "/app", 4) as alone:
            await until(lambda: len(alone) > 200)
        assert {answer.status for answer in alone} == {200}, "no probe of its own ever causes a refusal"
        async with load(w, "/app", 60) as crowd:
            await until(lambda: served(crowd) > 600)
            most = 0
            await until(lambda: served(crowd) > 800)
        limit = await metric(w.sidecar, "sidecar_concurrency_limit", route="app")
        statuses = Counter(answer.status for answer in crowd)
        assert statuses[503] > 0
        assert {answer.get("x-sidecar-reason") for answer in crowd if answer.status == 503} == {"overloaded"}
        assert most <= 40, f"{most} of 60 got through; the limit is {limit}"
        assert limit < 40


async def test_under_pressure_the_sheddable_go_first_and_the_critical_last(shared: Sidecar) -> None:
    wait = "3s"  # so long that no request is refused for its waiting time, even on a busy machine
    routes = {"app": {"concurrency": {"max": 10, "queue": 10, "queue_timeout": wait}}}
    trusting = {"inbound": {"address": "127.0.0.1:0", "trusted_proxies": ["127.0.0.1"]}}
    async with contextlib.AsyncExitStack() as s:
        w = await s.enter_async_context(
            world(shared, {"app": after(0.02, answering())}, routes=routes, listeners=trusting)
        )
        answers = {
            rank: await s.enter_async_context(load(w, "/app", 12, x_criticality=rank))
            for rank in ("critical", "default", "sheddable")
        }
        await until(lambda: all(len(found) > 100 for found in answers.values()))
        refused = {rank: sum(a.status == 503 for a in found) / len(found) for rank, found in answers.items()}
        assert refused["critical"] == 0 < refused["default"] < refused["sheddable"], refused
    assert w.servers["app"].requests[0].get("x-criticality") in answers, "it travels on"


# ----- endpoints


async def test_each_endpoint_has_a_breaker_of_its_own(shared: Sidecar) -> None:
    async with Server(answering(500)) as sick, Server(answering()) as well:
        breaker = {"per": "endpoint", "consecutive_failures": 3, "open_for": "30s"}
        upstreams = {"app": {"endpoints": [sick.url, well.url], "circuit_breaker": breaker}}
        async with world(shared, {}, upstreams=upstreams) as w:
            statuses = [(await w.sidecar.fetch("GET", "/app")).status for _ in range(40)]
            assert statuses.count(500) == 3
            assert statuses[-20:] == [200] * 20
            assert len(sick.requests) == 3
            (transition,) = w.sidecar.said("breaker.transition")
            assert sick.address in transition["breaker"]
            states = (await w.sidecar.state())["state"]["breaker"]
            assert sorted(state["state"] for name, state in states.items() if "127" in name) == ["closed", "open"]


async def test_active_checks_take_an_endpoint_out_and_back(shared: Sidecar) -> None:
    sick = Switch(answering())
    async with Server(sick) as first, Server(answering()) as second:
        check = {"path": "/health", "interval": "50ms", "timeout": "30s", "unhealthy_after": 2, "healthy_after": 2}
        upstreams = {"app": {"endpoints": [first.url, second.url], "health_check": check}}
        async with world(shared, {}, upstreams=upstreams) as w:

            async def reached() -> set[bool]:
                first.requests.clear()
                for _ in range(30):
                    assert (await w.sidecar.fetch("GET", "/app")).status == 200
                return {request.target == "/app" for request in first.requests}

            assert True in await reached()
            sick.behave = answering(503)
            out = await w.sidecar.until("endpoint.health")
            assert (out["endpoint"], out["healthy"], out["reason"]) == (first.url, False, "status 503")
            assert True not in await reached()
            sick.behave = answering()
            back = await w.sidecar.until("endpoint.health", 2)
            assert (back["endpoint"], back["healthy"]) == (first.url, True)
            assert True in await reached()


async def test_an_endpoint_that_fails_requests_is_ejected(shared: Sidecar) -> None:
    async with Server(answering(500)) as sick, Server(answering()) as well:
        ejection = {"consecutive_failures": 3, "eject_for": "5m"}
        upstreams = {"app": {"endpoints": [sick.url, well.url], "ejection": ejection}}
        async with world(shared, {}, upstreams=upstreams) as w:
            statuses = [(await w.sidecar.fetch("GET", "/app")).status for _ in range(60)]  # each endpoint at random
            assert statuses.count(500) == 3, "the third fault is the last"
            assert (await w.sidecar.until("endpoint.ejected"))["endpoint"] == sick.url


async def test_an_ejected_endpoint_that_is_well_again_is_restored(shared: Sidecar) -> None:
    sick = Switch(answering(500))
    async with Server(sick) as first, Server(answering()) as second:
        ejection = {"consecutive_failures": 3, "eject_for": "200ms"}
        upstreams = {"app": {"endpoints": [first.url, second.url], "ejection": ejection}}
        async with world(shared, {}, upstreams=upstreams) as w, load(w, "/app", 1):
            assert (await w.sidecar.until("endpoint.ejected"))["endpoint"] == first.url
            sick.behave = answering()
            assert (await w.sidecar.until("endpoint.restored"))["endpoint"] == first.url
            seen = len(first.requests)
            await until(lambda: len(first.requests) > seen)


# ----- faults


async def test_injected_faults_are_like_real_ones(shared: Sidecar) -> None:
    always = {"share": "100%"}
    routes: dict[str, dict[str, Any]] = {
        "slow": {"fault": {"latency": {"fixed": "300ms", **always}}},
        "late": {"fault": {"latency": {"fixed": "5s", **always}}, "timeout": {"request": "200ms"}},
        "bad": {"fault": {"abort": {"status": 418, **always}}},
        "gone": {"fault": {"reset": always}, "retry": {"max_attempts": 3, "backoff": {"base": "1ms"}}},
        "some": {"fault": {"abort": {"status": 503, "share": "50%"}}},
    }
    async with world(shared, dict.fromkeys(routes, echoing), routes=routes) as w:
        clock = asyncio.get_running_loop().time
        began = clock()
        assert (await w.sidecar.fetch("GET", "/slow")).status == 200
        assert clock() - began > 0.29
        answer = await w.sidecar.fetch("GET", "/late")
        assert (answer.status, answer.get("x-sidecar-reason")) == (504, "timeout")
        answer = await w.sidecar.fetch("GET", "/bad")
        assert (answer.status, answer.get("x-sidecar-reason")) == (418, "fault_injected")
        answer = await w.sidecar.fetch("GET", "/gone")
        assert (answer.status, json.loads(answer.body)["attempts"]) == (502, 3)
        statuses = Counter([(await w.sidecar.fetch("GET", "/some")).status for _ in range(60)])
        assert set(statuses) == {200, 503}
        assert [len(w.servers[name].requests) for name in ("late", "bad", "gone")] == [0, 0, 0]


# ----- limits that answers set


async def test_what_one_route_is_told_slows_all_of_its_upstream_and_no_other(shared: Sidecar) -> None:
    """The rate is one in an hour: one attempt has its turn at once, and the next an hour later."""
    told = answering(429, b"slower", [("ratelimit", '"minute";r=9;t=60'), ("ratelimit", '"day";t=3600;r=0')])
    async with Server(told) as app, Server(answering(429)) as other:
        pacing = {"ahead": True, "min_rate": "1/h", "max_wait": "10m", "max_hold": "1h"}
        strict = {"circuit_breaker": {"consecutive_failures": 1}, "ejection": {"consecutive_failures": 1}}
        upstreams = {
            "app": {"endpoints": [app.url], "pacing": pacing, **strict},
            "other": {"endpoints": [other.url]},
        }
        routes: list[dict[str, Any]] = [
            {"name": "a", "match": {"path": "/a"}, "upstream": "app"},
            {"name": "b", "match": {"path": "/b"}, "upstream": "app", "retry": {"on": [429, 503]}},
            {"name": "c", "match": {"path": "/c"}, "upstream": "other", "pacing": {"mode": "observe"}},
        ]
        policy = policies(upstreams=upstreams, routes=routes)
        async with shared.under(policy) as sidecar:
            assert [(await sidecar.fetch("GET", "/a")).status for _ in range(2)] == [429, 429]
            for target in ("/a", "/b"):
                answer = await sidecar.fetch("GET", target)
                assert (answer.status, answer.get("x-sidecar-reason")) == (503, "overloaded")
                assert 3500 < int(answer.get("retry-after") or "") <= 3600
                problem = json.loads(answer.body)
                assert (problem["policy"], problem["title"]) == (
                    "pacing",
                    "The upstream accepts fewer requests at present",
                )
            assert {(await sidecar.fetch("GET", "/c")).status for _ in range(5)} == {429}, "another upstream"
            assert len(app.requests) == 2
            state = (await sidecar.state())["state"]
            assert state["pacing"]["upstream:app"] | {"sent_per_second": 0} == {
                "mode": "enforce", "rate": 0.0002778, "sent_per_second": 0, "waiting": 0, "delayed": 0, "refused": 2,
                "asked_for_less": 2,
            }  # fmt: skip
            assert state["breaker"]["upstream:app"]["state"] == "closed", "pressure is no failure"
            assert {each["state"] for each in state["endpoints"]["app"]["endpoints"]} == {"up"}
            upstreams["app"]["pacing"] = {**pacing, "mode": "observe"}
            sidecar.write(policies(upstreams=upstreams, routes=routes))
            assert (await sidecar.ask("/reload", "POST")).status == 200
            assert (await sidecar.fetch("GET", "/a")).status == 429
            await is_observed(sidecar, "pacing")
            assert (await sidecar.state())["state"]["pacing"]["upstream:app"]["asked_for_less"] == 3


async def test_a_throttle_refuses_a_share_and_critical_requests_last(shared: Sidecar) -> None:
    app = Switch(answering(503))
    throttle = {"throttle": {"min_calls": 50, "window": "10m", "max_refused": "99%"}}
    async with world(shared, {"app": app}, routes={"app": throttle}) as w:
        for _ in range(100):
            await w.sidecar.fetch("GET", "/app")
        seen = len(w.servers["app"].requests)
        assert seen < 70
        app.behave = answering(200)
        answers = [await w.sidecar.fetch("GET", "/app", x_criticality="sheddable") for _ in range(40)]
        assert sum(answer.status == 503 for answer in answers) > 30, "what is less critical is no better off"
        answers = [await w.sidecar.fetch("GET", "/app", x_criticality="critical") for _ in range(20)]
        assert any(answer.status == 503 for answer in answers), "a client that is not trusted cannot raise it"
        assert json.loads(next(a for a in answers if a.status == 503).body)["policy"] == "throttle"
        counts = (await w.sidecar.state())["state"]["throttle"]["route:app"]["by_criticality"]
        assert counts["critical"]["attempts"] == 0


# ----- mode: observe


OBSERVE: dict[str, tuple[dict[str, Any], Behaviour, int]] = {
    "timeout": ({"timeout": {"request": "50ms"}}, after(0.2, answering()), 200),
    "retry": ({"retry": {"max_attempts": 3}}, answering(503), 503),
    "hedge": ({"hedge": {"after": "30ms"}}, after(0.2, answering()), 200),
    "circuit_breaker": ({"circuit_breaker": {"consecutive_failures": 2}}, answering(500), 500),
    "concurrency": ({"concurrency": {"max": 1}}, after(0.2, answering()), 200),
    "fallback": ({"fallback": {"steps": [{"response": {"status": 200}}]}}, answering(500), 500),
    "fault": ({"fault": {"abort": {"share": "100%"}}}, answering(), 200),
}


@pytest.mark.parametrize("policy", OBSERVE)
async def test_a_block_on_trial_changes_nothing_and_counts(shared: Sidecar, policy: str) -> None:
    block, behave, status = OBSERVE[policy]
    block = {policy: {**block[policy], "mode": "observe"}}
    async with world(shared, {"app": behave}, routes={"app": block}) as w:
        answers = await asyncio.gather(*(fetch(w.sidecar.inbound, "GET", "/app") for _ in range(4)))
        answers.append(await w.sidecar.fetch("GET", "/app"))
        assert [answer.status for answer in answers] == [status] * 5
        assert len(w.servers["app"].requests) == 5
        await is_observed(w.sidecar, policy)


async def test_an_upstream_s_own_policies_can_be_on_trial(shared: Sidecar) -> None:
    trial = {"mode": "observe"}
    async with Server(answering(500)) as sick, Server(answering(500)) as other:
        upstreams = {
            "app": {
                "endpoints": [sick.url, other.url],
                "retry_budget": {"ratio": "1%", "min_per_second": 0.1, **trial},
                "ejection": {"consecutive_failures": 2, **trial},
                "health_check": {"path": "/", "interval": "50ms", **trial},
            }
        }
        routes = {"app": {"retry": {"max_attempts": 2, "on": ["5xx"], "backoff": {"base": "1ms"}}}}
        async with world(shared, {}, upstreams=upstreams, routes=routes) as w:
            await w.sidecar.until("endpoint.health", 2)
            assert {(await w.sidecar.fetch("GET", "/app")).status for _ in range(10)} == {500}
            tries = [r for r in (*sick.requests, *other.requests) if r.target == "/app"]
            assert len(tries) == 20
            for policy in ("retry_budget", "ejection", "health_check"):
                await is_observed(w.sidecar, policy)


# ----- commands of an operator


async def test_breakers_obey_the_operator(shared: Sidecar) -> None:
    breaker = {"circuit_breaker": {"consecutive_failures": 2, "open_for": "30s"}}
    app = Switch(echoing)
    async with world(shared, {"app": app}, routes={"app": breaker}, upstreams={"app": breaker}) as w:
        sidecar = w.sidecar

        async def order(name: str, what: str) -> str:
            answer = await sidecar.ask(f"/breakers/{name}/{what}", "POST")
            assert answer.status == 200, answer.body
            return str(json.loads(answer.body)["state"])

        assert sorted((await sidecar.state())["state"]["breaker"]) == ["route:app", "upstream:app"]
        for name in ("route:app", "upstream:app"):
            assert await order(name, "open") == "open"
            answer = await sidecar.fetch("GET", "/app")
            assert (answer.status, answer.get("x-sidecar-reason")) == (503, "breaker_open")
            assert b"operator" in answer.body, answer.body
            await order(name, "auto")
            assert (await sidecar.fetch("GET", "/app")).status == 200
        app.behave = answering(500)
        for name in ("route:app", "upstream:app"):
            assert await order(name, "close") == "closed"
        assert {(await sidecar.fetch("GET", "/app")).status for _ in range(5)} == {500}, "held closed"
        for name in ("route:app", "upstream:app"):
            await order(name, "auto")
        statuses = [(await sidecar.fetch("GET", "/app")).status for _ in range(4)]
        assert statuses[-1] == 503
        answer = await sidecar.ask("/breakers/route:ap/open", "POST")
        assert answer.status == 404
        assert b"did you mean 'route:app'" in answer.body
        assert (await sidecar.ask("/breakers/route:app/shut", "POST")).status == 404
        assert (await sidecar.ask("/breakers/route:app/open")).status == 405
