"""Tests of load balancing in a whole proxy in virtual time: what the attempts of real requests teach and avoid."""

from __future__ import annotations

import asyncio
from collections import Counter

import pytest

from tests.support.backends import HANG, RESET, Answer, Services, answer
from tests.support.cases import each
from tests.support.loop import settle, virtual
from tests.support.proxy import Proxy

NAMES = ("a", "b", "c")
OK = answer(b"ok")


def policies(load_balancing: str, route: str = "", upstream: str = "") -> str:
    """Return policies with an upstream of three endpoints."""
    urls = ", ".join(f'"http://{name}:80"' for name in NAMES)
    return f"""version: 1
listeners: {{inbound: {{address: "127.0.0.1:0"}}}}
upstreams:
  app: {{endpoints: [{urls}], load_balancing: {load_balancing}{upstream}}}
routes:
  - {{name: r, match: {{path_prefix: /}}, upstream: app{route}}}
"""


class Bench:
    """Proxy in front of three endpoints."""

    def __init__(self, text: str, **answers: Answer) -> None:
        self.services = Services({f"{name}/": answers.get(name, OK) for name in NAMES})
        self.proxy = Proxy(text, self.services)

    async def send(self, number: int, every: float = 0.01) -> Counter[str]:
        """Send requests at a steady pace, and return how many each endpoint has got."""
        before = len(self.services.seen)
        clients = []
        for _ in range(number):
            clients.append(self.proxy.send())
            await asyncio.sleep(every)
        await asyncio.sleep(3.0)
        for client in clients:
            client.transport.close()
        await settle()
        assert self.proxy.bugs == []
        return Counter(seen[0] for seen in self.services.seen[before:])


@pytest.mark.parametrize(
    ("said", "most"),
    [
        (OK._replace(after=0.2), 0.12),
        (answer(b"", 429), 0.15),
        (answer(b"", 503, retry_after="1"), 0.15),
        (answer(b"", 500), 0.15),
        (RESET, 0.15),
    ],
    ids=["slow", "429", "503 with Retry-After", "500", "reset"],
)
@virtual
async def test_latency_spares_an_endpoint_that_is_slow_or_asks_for_less(said: Answer, most: float) -> None:
    quick = OK._replace(after=0.01)
    bench = Bench(policies("latency"), a=quick, b=quick, c=said)
    got = await bench.send(600)
    assert 1 <= got["c"] < most * 600, got
    assert got["a"] > 0.3 * 600, got
    assert got["b"] > 0.3 * 600, got


@virtual
async def test_requests_in_flight_count_before_the_latency_is_known() -> None:
    """A burst arrives before any answer, and the endpoints share it."""
    late = OK._replace(after=0.5)
    bench = Bench(policies("latency"), a=late, b=late, c=late)
    await bench.send(30)
    got = await bench.send(90, every=0.0001)
    assert all(20 <= number <= 40 for number in got.values()), got


RETRY = ", retry: {max_attempts: 2, on: [reset], backoff: {base: 1ms, max: 1ms}}"
HEDGE = ", hedge: {after: 50ms, max_extra: 1}"
BUDGET = ", retry_budget: {ratio: 100%}"


@pytest.mark.parametrize(("route", "bad"), [(RETRY, RESET), (HEDGE, HANG)], ids=["retry", "hedge"])
@virtual
async def test_a_further_attempt_avoids_the_one_just_tried_and_takes_no_turn(route: str, bad: Answer) -> None:
    bench = Bench(policies("round_robin", route, BUDGET), b=bad)
    got = await bench.send(90)
    firsts, further = Counter[str](), Counter[str]()
    for x, outcome, _, _ in bench.proxy.records:
        assert outcome.status == 200
        first, *others = x.attempts
        firsts[first.endpoint] += 1
        for other in others:
            assert other.endpoint != first.endpoint
            further[other.endpoint] += 1
    assert set(firsts.values()) == {30}, "first attempts are exactly in turn"
    assert further == {"http://a:80": 15, "http://c:80": 15}
    assert got == {"a": 45, "b": 30, "c": 45}


@each(["least_request", "latency", "random", "{hash: {}}"])
def test_a_further_attempt_never_meets_the_one_just_tried(load_balancing: str) -> None:
    @virtual
    async def run() -> None:
        for route, bad in ((RETRY, RESET), (HEDGE, HANG)):
            bench = Bench(policies(load_balancing, route, BUDGET), b=bad)
            await bench.send(60)
            assert bench.proxy.records
            for x, outcome, _, _ in bench.proxy.records:
                assert outcome.status == 200
                assert len({attempt.endpoint for attempt in x.attempts}) == len(x.attempts)

    run()
