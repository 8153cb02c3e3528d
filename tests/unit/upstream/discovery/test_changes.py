"""Tests of endpoints that come and go under load, in virtual time: no request reaches one that has left."""

from __future__ import annotations

import asyncio
import random
from collections import Counter, defaultdict
from typing import Any

import pytest

from sidecar.core.outcome import ABANDONED, ENDPOINT_LEFT, Outcome
from sidecar.core.promise import Run
from sidecar.simulation.loop import VirtualLoop
from sidecar.upstream.client import Upstream
from sidecar.upstream.endpoint import Endpoint, Target
from sidecar.upstream.spec import UpstreamSpec
from tests.support.loop import settle, virtual, virtual_env
from tests.support.service import Store
from tests.unit.upstream.back import OK, get, outcome_of, start

HOST = "10.0.0.{}"


class Served(asyncio.Protocol):
    """Far end of a connection, which answers each request after a time."""

    def __init__(self, host: str, fleet: Fleet) -> None:
        self.host = host
        self.fleet = fleet

    def connection_made(self, transport: Any) -> None:
        self.transport = transport

    def data_received(self, data: bytes) -> None:
        loop = asyncio.get_running_loop()
        self.fleet.received.append((loop.time(), self.host))
        loop.call_later(self.fleet.seconds, self.answer)

    def answer(self) -> None:
        if not self.transport.is_closing():
            self.transport.write(OK)


class Fleet:
    """Upstream with endpoints that come and go, and the servers behind it."""

    def __init__(self, gate: Any = None, **spec: Any) -> None:
        loop: Any = asyncio.get_running_loop()
        assert isinstance(loop, VirtualLoop)
        loop.network.accept = self.accept
        self.rng = random.Random(3)
        self.received: list[tuple[float, str]] = []
        """Time and host of each request that has arrived."""
        self.left: dict[str, float] = {}
        """Time at which each host left; hosts that are there are missing."""
        self.seconds = 0.05
        """Time that an answer takes."""
        self.connect_seconds = 0.0
        """Longest time that a connection takes."""
        self.env = virtual_env()
        self.spec = UpstreamSpec.model_validate({"discover": {"kubernetes": {"service": "orders"}}, **spec})
        self.upstream = Upstream("orders", self.spec, self.env, Store().obtain, endpoint_gate=gate)

    async def accept(self, address: Any) -> asyncio.BaseProtocol:
        await asyncio.sleep(self.connect_seconds * self.rng.random())
        return Served(address[0], self)

    def assign(self, *hosts: str) -> None:
        """Let these hosts be the endpoints."""
        _, removed = self.upstream.endpoints.assign([Target(f"http://{host}:80") for host in hosts])
        for url in removed:
            self.left[url[7:-3]] = self.env.now()
        for host in hosts:
            self.left.pop(host, None)


@virtual
async def test_no_request_reaches_an_endpoint_that_left_more_than_a_second_ago() -> None:
    fleet = Fleet(connections={"max": 1}, connect_timeout="3s", ejection={})
    fleet.connect_seconds = 2.5
    hosts = [HOST.format(n) for n in range(100)]
    here = hosts[:50]
    fleet.assign(*here)
    runs: list[Run[Outcome]] = []
    gone: list[tuple[float, str]] = []
    for _ in range(500):
        here.remove(fleet.rng.choice(here))
        here.append(fleet.rng.choice([host for host in hosts if host not in here]))
        fleet.assign(*here)
        for _ in range(4):
            x = get()
            x.deadline = fleet.env.now() + 5
            runs.append(start(fleet.upstream, x))
        before = len(fleet.received)
        await asyncio.sleep(0.02)
        now = fleet.env.now()
        gone += [(now - fleet.left[host], host) for _, host in fleet.received[before:] if host in fleet.left]
    await asyncio.sleep(10)
    assert len(fleet.received) > 1000
    assert [late for late in gone if late[0] > 1.0] == []
    statuses = {outcome_of(run).status for run in runs}
    assert statuses <= {200, 503, 504}
    assert sum(outcome_of(run).status == 200 for run in runs) > len(runs) / 2
    assert {each.in_flight for each in fleet.upstream.endpoints.members} == {0}
    assert {each.url for each in fleet.upstream.pools.by_endpoint} <= {f"http://{host}:80" for host in here}


@virtual
async def test_requests_that_wait_for_an_endpoint_that_leaves_go_to_another_one() -> None:
    fleet = Fleet(connections={"max": 1}, connect_timeout="5s")
    fleet.seconds = 1.0
    fleet.assign("10.0.0.1")
    first, waiting = start(fleet.upstream, get()), start(fleet.upstream, x := get())
    await settle()
    fleet.assign("10.0.0.2")
    await asyncio.sleep(3)
    assert outcome_of(first).status == outcome_of(waiting).status == 200, "what is in flight is completed"
    assert [host for _, host in fleet.received] == ["10.0.0.1", "10.0.0.2"]
    assert [attempt.endpoint for attempt in x.attempts] == ["http://10.0.0.2:80"]
    assert fleet.upstream.endpoints.members[0].in_flight == 0


@virtual
async def test_a_connection_that_is_being_opened_is_not_used_once_its_endpoint_has_left() -> None:
    fleet = Fleet(connect_timeout="5s")
    fleet.connect_seconds = 4.0
    fleet.assign("10.0.0.1")
    run = start(fleet.upstream, get())
    await settle()
    fleet.assign("10.0.0.2")
    await asyncio.sleep(10)
    assert outcome_of(run).status == 200
    assert [host for _, host in fleet.received] == ["10.0.0.2"]


@virtual
async def test_without_another_endpoint_the_request_is_refused() -> None:
    fleet = Fleet(connections={"max": 1})
    fleet.seconds = 0.5
    fleet.assign("10.0.0.1")
    start(fleet.upstream, get())
    waiting = start(fleet.upstream, get())
    await settle()
    fleet.assign()
    await asyncio.sleep(1)
    assert outcome_of(waiting).failure is ENDPOINT_LEFT


class CountingGate:
    """Breaker of an endpoint that counts its tickets."""

    def __init__(self) -> None:
        self.open = 0
        self.outcomes: list[Outcome] = []

    def admit(self, x: Any) -> object:
        self.open += 1
        return self

    def settle(self, x: Any, ticket: object, outcome: Outcome) -> None:
        assert ticket is self
        self.open -= 1
        self.outcomes.append(outcome)


@virtual
async def test_breakers_of_endpoints_that_left_are_forgotten_and_owe_nothing() -> None:
    gates: dict[str, CountingGate] = defaultdict(CountingGate)
    fleet = Fleet(gate=lambda endpoint: gates[endpoint.url], connections={"max": 1})
    fleet.seconds = 0.5
    fleet.assign("10.0.0.1")
    start(fleet.upstream, get())
    start(fleet.upstream, get())
    await settle()
    fleet.assign("10.0.0.2")
    await asyncio.sleep(2)
    assert [gate.open for gate in gates.values()] == [0, 0]
    assert gates["http://10.0.0.1:80"].outcomes[0] is ABANDONED
    for number in range(3, 60):
        fleet.assign(HOST.format(number), HOST.format(number + 100))
        start(fleet.upstream, get())
        await asyncio.sleep(1)
    assert len(gates) > 50
    assert len(fleet.upstream._gates) <= 5


@virtual
async def test_http2_requests_that_wait_go_elsewhere_too() -> None:
    fleet = Fleet(connect_timeout="5s", protocol="http2")
    fleet.connect_seconds = 4.0
    fleet.assign("10.0.0.1")
    x = get()
    start(fleet.upstream, x)
    await settle()
    fleet.assign("10.0.0.2")
    await settle()
    assert [attempt.endpoint for attempt in x.attempts] == ["http://10.0.0.2:80"]
    assert [each.in_flight for each in fleet.upstream.endpoints.members] == [1]


@virtual
async def test_endpoints_that_stay_keep_connections_and_ejection() -> None:
    fleet = Fleet(ejection={"consecutive_failures": 1})
    fleet.assign("10.0.0.1", "10.0.0.2", "10.0.0.3")
    for endpoint in fleet.upstream.endpoints.members:
        fleet.upstream.pools.of(endpoint)
    first, second, _ = fleet.upstream.endpoints.members
    second.eject(fleet.env.now(), fleet.env.now() + 10)
    pool = fleet.upstream.pools.of(second)
    fleet.assign("10.0.0.4", "10.0.0.2")
    stays: Endpoint = fleet.upstream.endpoints.members[1]
    assert stays is second
    assert stays.state == "ejected"
    assert fleet.upstream.pools.of(stays) is pool
    assert first not in fleet.upstream.pools.by_endpoint
    fleet.assign("10.0.0.1", "10.0.0.2")
    assert fleet.upstream.endpoints.members[0] is not first


def targets(*tiers: tuple[int, int]) -> list[Target]:
    """Return that many endpoints of each tier."""
    return [Target(f"http://10.0.{tier % 256}.{n}:80", tier) for tier, size in tiers for n in range(size)]


@pytest.mark.parametrize("kind", ["round_robin", "least_request", "latency", "random", {"hash": {"header": "x-user"}}])
@pytest.mark.parametrize("weights", [(1, 2, 7), (1, 20, 700), (0, 5, 15)])
def test_weights_are_shares_of_the_requests(weights: tuple[int, ...], kind: Any) -> None:
    from tests.unit.upstream.balancing.test_balancer import Bench

    bench = Bench(1, kind, endpoints=None, discover={"srv": "_http._tcp.app"})
    bench.set.assign([Target(f"http://10.0.0.{n}:80", 0, weight) for n, weight in enumerate(weights)])
    picked = [bench.pick(headers={"x-user": f"user {n}"}) for n in range(2000)]
    found = Counter(bench.set.members.index(each) for each in picked if each is not None)
    total = sum([max(1, weight) for weight in weights])
    for n, weight in enumerate(weights):
        assert found[n] / 2000 == pytest.approx(max(1, weight) / total, abs=0.06)
    assert bench.set.preferred == bench.set.members, "weights repeat no endpoint"
    bench.set.assign([Target(each.url) for each in bench.set.members])
    assert not bench.set.is_weighted
