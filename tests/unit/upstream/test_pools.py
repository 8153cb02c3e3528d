"""Tests of an upstream's pools: one for each endpoint, removed with it, and the opening of connections."""

from __future__ import annotations

import asyncio
import ssl
from typing import Any

import pytest

from sidecar.core import metrics
from sidecar.core.outcome import CLIENT_TIMEOUT, Outcome
from sidecar.upstream import resolver
from sidecar.upstream.client import Upstream
from sidecar.upstream.deadlines import Deadlines
from sidecar.upstream.endpoint import EndpointSet
from sidecar.upstream.pool import CONNECTION_STATES
from sidecar.upstream.pools import Pools
from sidecar.upstream.resolver import NameResolver, Queries, Resolver
from sidecar.upstream.spec import ResolveSpec, UpstreamSpec
from tests.support.authority import Authority
from tests.support.clock import make_env
from tests.support.loop import settle, virtual, virtual_env
from tests.support.service import Store
from tests.unit.upstream.back import OK, Back, get, outcome_of, start


def spec(*urls: str, **settings: Any) -> UpstreamSpec:
    return UpstreamSpec.model_validate({"endpoints": list(urls), **settings})


class Bench:
    """Pools of two endpoints."""

    def __init__(self) -> None:
        self.env = virtual_env()
        self.set = EndpointSet("app", spec("http://a:80", "http://b:80"), self.env)
        self.pools = Pools(self.set, spec("http://a:80", "http://b:80"), self.env, Deadlines(self.env))


@virtual
async def test_an_endpoint_has_one_pool() -> None:
    bench = Bench()
    a, b = bench.set.members
    assert bench.pools.of(a) is bench.pools.of(a)
    assert bench.pools.of(a) is not bench.pools.of(b)
    assert [bench.pools.of(a).name, bench.pools.of(a).host] == ["http://a:80", b"a:80"]
    assert list(bench.pools.describe()["pools"]) == ["http://a:80", "http://b:80"]


class Asked:
    """Name server that answers when the test says so."""

    def __init__(self) -> None:
        self.answer: Any = asyncio.get_running_loop().create_future()

    async def __call__(self, name: str, family: str, is_fresh: bool) -> Any:
        return await asyncio.shield(self.answer)


@pytest.mark.parametrize("expires_in", [0.5, 5.0], ids=["deadline", "connect_timeout"])
@pytest.mark.parametrize("hangs", ["look-up", "connection", "connection after a stale answer"])
@virtual
async def test_who_waits_in_vain_learns_whether_for_the_name_or_for_the_connection(
    hangs: str, expires_in: float, monkeypatch: pytest.MonkeyPatch
) -> None:
    async def race(*_: Any) -> Any:
        await asyncio.get_running_loop().create_future()

    monkeypatch.setattr(resolver, "race", race)
    env, asked = virtual_env(), Asked()
    names = NameResolver(
        Resolver(env.now, env.spawn, asked), Queries(), ResolveSpec.model_validate({"ttl": {"min": "10ms"}})
    )
    endpoints = EndpointSet("app", spec("http://app.test:80"), env)
    pool = Pools(endpoints, spec("http://app.test:80"), env, Deadlines(env), names=names).of(endpoints.members[0])
    if hangs != "look-up":
        asked.answer.set_result([("192.0.2.1", 0.0)])
    if hangs.endswith("stale answer"):
        await names.look_up("app.test")
        await asyncio.sleep(1)
        asked.answer = asyncio.get_running_loop().create_future()
    promise = pool.open(env.now() + expires_in)
    await asyncio.sleep(2)
    outcome = promise.result()
    assert isinstance(outcome, Outcome)
    assert outcome.failure is not None
    assert (outcome.failure.code, outcome.failure.origin, outcome.status) == ("connect_timeout", "upstream", 504)
    assert not outcome.failure.sent
    is_name = hangs == "look-up"
    assert (outcome.failure.title == "Looking up the upstream's name took too long") is is_name
    assert ("looking up the name of http://app.test:80 took too long" in outcome.cause) is is_name


@virtual
async def test_new_settings_reach_present_and_future_pools() -> None:
    bench = Bench()
    a, b = bench.set.members
    before = bench.pools.of(a)
    assert before.max_size == 256
    bench.pools.retune(spec("http://a:80", "http://b:80", connections={"max": 7}, connect_timeout="3s"))
    assert [pool.max_size for pool in (before, bench.pools.of(b))] == [7, 7]
    assert [pool.connect_timeout for pool in (before, bench.pools.of(b))] == [3.0, 3.0]


@virtual
async def test_a_pool_goes_with_its_endpoint() -> None:
    back = Back()
    upstream = back.upstream()
    sent = start(upstream, get())
    await settle()
    back.server.write(OK)
    await settle()
    assert outcome_of(sent).status == 200
    upstream.endpoints.replace(["http://other:80"])
    await settle()
    assert back.server.is_eof
    assert upstream.pools.describe() == {"upstream": "test", "pools": {}}


@virtual
async def test_retiring_closes_what_is_idle_and_ends_the_subscription() -> None:
    back = Back()
    upstream = back.upstream()
    sent = start(upstream, get())
    await settle()
    back.server.write(OK)
    await settle()
    assert outcome_of(sent).status == 200
    upstream.pools.retire()
    await settle()
    assert back.server.is_eof
    upstream.endpoints.replace([])
    assert list(upstream.pools.describe()["pools"]) == ["http://test:80"], "no longer told of endpoints that go"


@virtual
async def test_gauges_of_connections() -> None:
    back = Back()
    upstream = back.upstream()

    def counts() -> tuple[float, ...]:
        value = back.env.meter.value
        return tuple(value(metrics.POOL_CONNECTIONS, upstream="test", state=state) for state in CONNECTION_STATES)

    assert counts() == (0, 0, 0)
    sent = start(upstream, get())
    assert counts() == (0, 0, 1)
    await settle()
    assert counts() == (0, 1, 0)
    back.server.write(OK)
    await settle()
    assert outcome_of(sent).status == 200
    assert counts() == (1, 0, 0)


class Opened(asyncio.Protocol):
    """Protocol of a connection that a test opens; never used."""


@pytest.fixture
def opened(monkeypatch: pytest.MonkeyPatch) -> list[tuple[Any, ...]]:
    """Return the addresses to which the loop connects, with the TLS context and the expected name."""
    found: list[tuple[Any, ...]] = []

    async def create_connection(
        _loop: Any, _protocol: Any, host: str, port: int, ssl: Any = None, server_hostname: str | None = None
    ) -> None:
        found.append((host, port, ssl, server_hostname))

    async def create_unix_connection(_loop: Any, _protocol: Any, path: str) -> None:
        found.append((path,))

    monkeypatch.setattr(asyncio.BaseEventLoop, "create_connection", create_connection)
    monkeypatch.setattr("asyncio.unix_events._UnixSelectorEventLoop.create_unix_connection", create_unix_connection)
    return found


async def test_where_connections_go(opened: list[tuple[Any, ...]], ca: Authority) -> None:
    urls = ("http://a:80", "https://b", "https://[::1]:8443", "unix:/run/app.sock")
    upstream = Upstream("app", spec(*urls, tls={"ca": ca.ca_file}), make_env(), Store().obtain)
    assert upstream.tls is not None
    for endpoint in upstream.endpoints.members:
        await upstream.pools.of(endpoint).connect(Opened)  # type: ignore[arg-type]
    context = upstream.tls.context
    assert opened == [
        ("a", 80, None, None), ("b", 443, context, "b"), ("::1", 8443, context, "::1"), ("/run/app.sock",)
    ]  # fmt: skip


async def test_an_upstream_that_begins_to_speak_tls_gets_pools_that_do(opened: list[tuple[Any, ...]]) -> None:
    store, env = Store(), make_env()
    before = Upstream("app", spec("http://a:80"), env, store.obtain)
    after = Upstream("app", spec("https://a:443"), env, store.obtain)
    assert after.pools is not before.pools
    await after.pools.of(after.endpoints.members[0]).connect(Opened)  # type: ignore[arg-type]
    ((_, _, context, name),) = opened
    assert isinstance(context, ssl.SSLContext)
    assert name == "a"


@virtual
async def test_a_client_without_a_host_field_gets_the_name_that_was_discovered() -> None:
    env = virtual_env()
    found = UpstreamSpec.model_validate({"discover": {"dns": "app.test", "port": 8080}})
    endpoints = EndpointSet("app", found, env)
    endpoints.replace(["http://10.0.0.1:8080"])
    pools = Pools(endpoints, found, env, Deadlines(env))
    pool = pools.of(endpoints.members[0])
    assert pool.host == b"app.test:8080"
    pools.retune(UpstreamSpec.model_validate({"discover": {"dns": "other.test", "port": 8080}}))
    assert pool.host == b"other.test:8080"


@virtual
async def test_the_exchange_that_has_waited_longest_for_its_client_makes_way() -> None:
    back = Back()
    upstream = back.upstream()
    runs = [start(upstream, get()) for _ in range(2)]
    await settle()
    for peer in back.peers:
        peer.write(b"HTTP/1.1 200 OK\r\nContent-Length: 1000000\r\n\r\nx")
    await settle()
    streams = [stream for run in runs if (stream := outcome_of(run).stream) is not None]
    streams[1].pause()
    await asyncio.sleep(0.2)
    streams[0].pause()
    assert not upstream.reclaim(), "nobody has waited for long"
    await asyncio.sleep(0.1)
    assert not upstream.reclaim("another route")
    assert upstream.reclaim()
    assert streams[1].failure is CLIENT_TIMEOUT
    assert not upstream.reclaim()
    assert streams[0].failure is None
