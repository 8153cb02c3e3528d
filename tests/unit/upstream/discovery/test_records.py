"""Tests of endpoints from a real name server on loopback: addresses and SRV records, and answers of every bad kind."""

from __future__ import annotations

import asyncio
import random
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from functools import partial
from typing import Any

import pytest

from sidecar.core import events
from sidecar.upstream.client import _make_source
from sidecar.upstream.discovery.discovery import Discovery
from sidecar.upstream.endpoint import EndpointSet
from sidecar.upstream.resolver import system_resolver
from sidecar.upstream.spec import UpstreamSpec
from tests.support.clock import FakeEnv, remembering
from tests.support.names import NameServer

SRV = "_http._tcp.app.test"


class Found:
    """Discovery of an upstream by a name server."""

    def __init__(self, env: FakeEnv, endpoints: EndpointSet, discovery: Discovery) -> None:
        self.env = env
        self.endpoints = endpoints
        self.discovery = discovery

    @property
    def urls(self) -> list[str]:
        return [endpoint.url for endpoint in self.endpoints.members]

    @property
    def problem(self) -> str:
        return self.discovery.problem

    async def until(self, condition: Callable[[], bool]) -> None:
        async with asyncio.timeout(30):
            while not condition():
                await asyncio.sleep(0.01)


@asynccontextmanager
async def found(server: NameServer, ttl: str = "50ms", **discover: Any) -> AsyncIterator[Found]:
    """Return a running discovery whose pauses are at most a quarter of a second; `env.sleeps` has them."""
    loop = asyncio.get_running_loop()
    pauses: list[float] = []

    async def pause(seconds: float) -> None:
        pauses.append(seconds)
        await asyncio.sleep(seconds)

    env = remembering(loop, sleep=pause)
    env.sleeps = pauses
    resolve = {"nameservers": [server.address], "ttl": {"min": ttl}}
    spec = UpstreamSpec.model_validate({"discover": {"interval": "200ms", **discover}, "resolve": resolve})
    names = system_resolver(loop.time, loop.create_task).with_settings(spec.resolve)
    endpoints = EndpointSet("app", spec, env)
    assert spec.discover is not None
    discovery = Discovery(endpoints, spec.discover, env, partial(_make_source, env, names))
    discovery.start()
    try:
        yield Found(env, endpoints, discovery)
    finally:
        discovery.retire()
        names.close()
        await asyncio.sleep(0)


ADDRESSES = {"dns": "app.test", "port": 80}


async def test_records_with_a_time_to_live_of_zero_are_not_asked_for_without_a_pause() -> None:
    async with NameServer({"app.test": ["127.0.0.1"]}, ttl=0) as server:
        async with found(server, ttl="100ms", **ADDRESSES) as app:
            await app.until(lambda: len(app.env.sleeps) >= 3)
            assert server.count("app.test A") >= 3
            assert min(app.env.sleeps) >= 0.1 * 0.9


async def test_a_changed_answer_changes_the_endpoints() -> None:
    async with NameServer({"app.test": ["127.0.0.1"]}, ttl=0) as server, found(server, **ADDRESSES) as app:
        await app.until(lambda: app.urls == ["http://127.0.0.1:80"])
        server.records["app.test"] = ["127.0.0.3", "127.0.0.2"]
        await app.until(lambda: app.urls == ["http://127.0.0.2:80", "http://127.0.0.3:80"])


@pytest.mark.parametrize("kind", ["dns", "srv"])
@pytest.mark.parametrize("fault", ["NXDOMAIN", "SERVFAIL", "REFUSED", "empty", "garbage"])
async def test_no_bad_answer_takes_the_endpoints_away(kind: str, fault: str) -> None:
    settings: dict[str, Any] = ADDRESSES if kind == "dns" else {"srv": SRV}
    async with NameServer({"app.test": ["127.0.0.1"]}, ttl=0) as server:
        server.services[SRV] = [(0, 1, 80, "a.test")]
        async with found(server, **settings) as app:
            await app.until(lambda: len(app.urls) == 1)
            before = app.urls
            if fault == "empty":
                server.records["app.test"] = []
                server.services[SRV] = []
            elif fault == "garbage":
                server.garbage = bytes(random.Random(0).randbytes(80))
            else:
                server.rcode = fault
            if fault != "garbage":  # c-ares waits for a good answer instead, longer than a test should
                await app.until(lambda: bool(app.problem))
                assert len(app.env.emitted(events.DISCOVERY_FAILED)) == 1
            else:
                asked = len(server.asked)
                await app.until(lambda: len(server.asked) > asked)
            assert app.urls == before
            server.rcode = ""
            server.garbage = b""
            server.records["app.test"] = ["127.0.0.2"]
            server.services[SRV] = [(0, 1, 80, "b.test")]
            await app.until(lambda: app.urls != before and not app.problem)


async def test_answers_with_another_id_are_ignored() -> None:
    async with NameServer({"app.test": ["127.0.0.1"]}, ttl=0) as server:
        server.has_strays = True
        async with found(server, **ADDRESSES) as app:
            await app.until(lambda: app.urls == ["http://127.0.0.1:80"])
            assert "192.0.2.66" not in str(app.env.events)


async def test_a_truncated_answer_is_asked_for_over_tcp_and_a_huge_one_is_bounded() -> None:
    many = [f"127.0.{n >> 8}.{n & 255}" for n in range(1, 2001)]
    async with NameServer({"app.test": many}, ttl=0) as server:
        server.services[SRV] = [(0, 1, port, "a-rather-long-name.app.test") for port in range(1, 1001)]
        async with found(server, **ADDRESSES) as app:
            await app.until(lambda: len(app.urls) == 100)
            assert server.over_tcp
            (changed,) = app.env.emitted(events.DISCOVERY_CHANGED)
            assert (changed["found"], changed["used"], len(changed["added"])) == (2000, 100, 20)
        async with found(server, srv=SRV, max_endpoints=7) as app:
            await app.until(lambda: len(app.urls) == 7)


async def test_srv_records_have_ports_priorities_and_weights() -> None:
    async with NameServer({}, ttl=0) as server:
        server.services[SRV] = [(10, 3, 81, "A.app.test"), (10, 1, 82, "b.app.test"), (20, 5, 83, "c.app.test")]
        async with found(server, srv=SRV) as app:
            await app.until(lambda: len(app.urls) == 3)
            first, second = app.endpoints.tiers
            assert [endpoint.url for endpoint in second] == ["http://c.app.test:83"]
            assert sorted((endpoint.port, endpoint.weight) for endpoint in first) == [(81, 3), (82, 1)]
            assert app.endpoints.preferred is first
            assert [endpoint.server_name for endpoint in second] == ["c.app.test"]


@pytest.mark.parametrize(("records", "problem"), [([(0, 0, 0, ".")], "no such service"), ([], "no addresses")])
async def test_a_service_that_is_not_there_is_a_failure(records: list[tuple[int, int, int, str]], problem: str) -> None:
    async with NameServer({}) as server:
        server.services[SRV] = records
        async with found(server, srv=SRV) as app:
            await app.until(lambda: problem in app.problem)
            assert app.urls == []


async def test_an_alias_of_srv_records_is_followed() -> None:
    async with NameServer({}) as server:
        server.aliases[SRV] = "_http._tcp.other.test"
        server.services["_http._tcp.other.test"] = [(0, 0, 80, "a.test")]
        async with found(server, srv=SRV) as app:
            await app.until(lambda: app.urls == ["http://a.test:80"])
