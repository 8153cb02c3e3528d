"""Tests of endpoints from the name service, in virtual time."""

from __future__ import annotations

import asyncio
import math
import socket
from typing import Any

from sidecar.core import events
from sidecar.upstream.discovery.discovery import Discovery
from sidecar.upstream.discovery.names import AddressSource, ask_loop
from sidecar.upstream.discovery.spec import DiscoverSpec
from sidecar.upstream.endpoint import EndpointSet
from sidecar.upstream.resolver import Answer
from sidecar.upstream.spec import UpstreamSpec
from tests.support.loop import virtual, virtual_env


class Bench:
    """Upstream whose name resolves to `answer`."""

    def __init__(self, **settings: Any) -> None:
        self.env = virtual_env()
        discover = {"dns": "app.svc", "port": 8080, "interval": "10s", "keep_for": "60s", **settings}
        self.spec = UpstreamSpec.model_validate({"discover": discover})
        self.set = EndpointSet("app", self.spec, self.env)
        self.answer: list[str] | OSError = []
        self.ttl = math.inf
        self.asked: list[tuple[str, float]] = []
        assert self.spec.discover is not None
        self.discovery = Discovery(self.set, self.spec.discover, self.env, self.make)

    def make(self, spec: DiscoverSpec) -> AddressSource:
        self.source = AddressSource(spec, self.resolve)
        return self.source

    async def look_up(self) -> None:
        await self.source.look_up(self.discovery)

    async def resolve(self, name: str) -> Answer:
        self.asked.append((name, self.env.now()))
        await asyncio.sleep(0)
        if isinstance(self.answer, OSError):
            raise self.answer
        return Answer(tuple(self.answer), self.ttl)

    @property
    def urls(self) -> list[str]:
        return [endpoint.url for endpoint in self.set.members]


FAILURE = socket.gaierror(socket.EAI_AGAIN, "Temporary failure in name resolution")


@virtual
async def test_each_address_is_an_endpoint_and_the_order_of_the_answer_says_nothing() -> None:
    bench = Bench()
    bench.answer = ["10.0.0.10", "2001:db8::1", "10.0.0.9"]
    await bench.look_up()
    assert bench.urls == ["http://10.0.0.9:8080", "http://10.0.0.10:8080", "http://[2001:db8::1]:8080"]
    before = bench.set.members
    bench.answer.reverse()
    await bench.look_up()
    assert bench.set.members is before
    assert len(bench.env.emitted(events.DISCOVERY_CHANGED)) == 1


@virtual
async def test_addresses_come_and_go_and_those_that_stay_keep_their_standing() -> None:
    bench = Bench()
    bench.answer = ["10.0.0.1", "10.0.0.2"]
    await bench.look_up()
    stays = bench.set.members[1]
    stays.in_flight = 7
    bench.answer = ["10.0.0.2", "10.0.0.3"]
    await bench.look_up()
    assert bench.set.members[0] is stays
    event = bench.env.emitted(events.DISCOVERY_CHANGED)[-1]
    assert event["added"] == ["http://10.0.0.3:8080"]
    assert event["removed"] == ["http://10.0.0.1:8080"]


@virtual
async def test_the_last_good_addresses_are_kept_for_a_while() -> None:
    bench = Bench()
    bench.answer = ["10.0.0.1"]
    bench.discovery.start()
    await asyncio.sleep(1)
    bench.answer = FAILURE
    await asyncio.sleep(50)
    assert bench.urls == ["http://10.0.0.1:8080"]
    (event,) = bench.env.emitted(events.DISCOVERY_FAILED)
    assert "temporary failure" in event["reason"]
    assert event["kept"] == 1
    assert "temporary failure" in bench.discovery.describe()["problem"]
    bench.answer = []
    await asyncio.sleep(30)
    assert bench.urls == [], "after keep_for they may be somebody else's"
    bench.answer = ["10.0.0.2"]
    await asyncio.sleep(2)
    assert bench.urls == ["http://10.0.0.2:8080"], "with nothing at all it asks each second"
    assert bench.discovery.describe()["problem"] == ""
    bench.discovery.retire()


@virtual
async def test_it_asks_at_jittered_intervals_until_retired() -> None:
    bench = Bench()
    bench.answer = FAILURE
    bench.discovery.start()
    await asyncio.sleep(10)
    assert 9 <= len(bench.asked) <= 12, "each second as long as there is nothing"
    assert bench.discovery.describe()["resolved_ago"] is None
    bench.answer = ["10.0.0.1"]
    await asyncio.sleep(2)
    assert bench.discovery.describe()["resolved_ago"] is not None
    bench.asked.clear()
    await asyncio.sleep(100)
    assert 9 <= len(bench.asked) <= 12
    bench.discovery.retire()
    await asyncio.sleep(0)
    assert len(asyncio.all_tasks()) == 1
    assert bench.urls == ["http://10.0.0.1:8080"]


@virtual
async def test_the_number_is_bounded() -> None:
    bench = Bench(max_endpoints=2)
    bench.answer = [f"10.0.0.{n}" for n in range(1, 9)]
    await bench.look_up()
    assert len(bench.urls) == 2
    (event,) = bench.env.emitted(events.DISCOVERY_CHANGED)
    assert (event["found"], event["used"]) == (8, 2)


@virtual
async def test_another_name_is_asked_at_once_and_the_endpoints_stay_until_it_answers() -> None:
    bench = Bench()
    bench.answer = ["10.0.0.1"]
    bench.discovery.start()
    await asyncio.sleep(1)
    bench.answer = FAILURE
    assert bench.spec.discover is not None
    bench.discovery.retune(bench.spec.discover.model_copy(update={"dns": "other.svc"}))
    await asyncio.sleep(1)
    assert bench.asked[-1][0] == "other.svc"
    assert bench.urls == ["http://10.0.0.1:8080"]
    bench.answer = ["10.0.0.2"]
    await asyncio.sleep(20)
    assert bench.urls == ["http://10.0.0.2:8080"]
    bench.discovery.retire()


@virtual
async def test_records_that_expire_are_looked_up_sooner() -> None:
    bench = Bench()
    bench.answer, bench.ttl = ["10.0.0.1"], 2.0
    bench.discovery.start()
    await asyncio.sleep(1)
    bench.answer = ["10.0.0.2"]
    await asyncio.sleep(2)
    assert bench.urls == ["http://10.0.0.2:8080"]
    bench.ttl = 3600.0
    await asyncio.sleep(30)
    assert 5 <= len(bench.asked) <= 6
    bench.discovery.retire()


async def test_a_loop_looks_up_by_itself_where_nothing_else_does() -> None:
    assert await ask_loop("127.0.0.1") == Answer(("127.0.0.1",), math.inf)
    assert {"127.0.0.1", "::1"} & {*(await ask_loop("localhost")).addresses}
