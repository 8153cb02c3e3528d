"""Tests of active health checks: verdicts in virtual time, and the probe with real servers."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import pytest
from aiohttp import web

from sidecar.core import events, metrics
from sidecar.upstream.balancing.health import HealthChecker, http_probe
from sidecar.upstream.endpoint import Endpoint, EndpointSet, authority
from sidecar.upstream.resolver import NameResolver, Queries, Resolver
from sidecar.upstream.spec import HealthCheckSpec, UpstreamSpec
from sidecar.upstream.tls import ClientTlsSpec, ServerTlsSpec, build_context
from tests.support.authority import Authority
from tests.support.loop import virtual, virtual_env

SPEC: dict[str, Any] = {"path": "/healthz", "interval": "10s", "unhealthy_after": 3, "healthy_after": 2}


class Bench:
    """Upstream of two endpoints in virtual time; `ill` says which are unhealthy."""

    def __init__(self, **settings: Any) -> None:
        self.env = virtual_env()
        self.set = EndpointSet(
            "app", UpstreamSpec.model_validate({"endpoints": ["http://a:80", "http://b:80"]}), self.env
        )
        self.ill: dict[str, str] = {}
        self.times: list[float] = []
        self.fields: list[tuple[bytes, bytes]] = []
        """Further fields of the last probe."""
        self.checker = HealthChecker(self.set, HealthCheckSpec.model_validate(SPEC | settings), self.env, self.probe)

    async def probe(self, endpoint: Endpoint, spec: HealthCheckSpec, fields: Any = ()) -> str:
        self.fields = list(fields)
        if endpoint is self.set.members[0]:
            self.times.append(self.env.now())
        if endpoint.url == self.ill.get("bug"):
            raise RuntimeError("a bug in a probe")
        return self.ill.get(endpoint.url, "")

    async def rounds(self, number: int) -> list[bool]:
        for _ in range(number):
            await self.checker.check_all()
        return [endpoint.is_healthy for endpoint in self.set.members]


@virtual
async def test_verdicts_start_good_and_turn_after_enough_probes_in_a_row() -> None:
    bench = Bench()
    bench.ill["http://b:80"] = "status 503"
    assert await bench.rounds(2) == [True, True]
    assert await bench.rounds(1) == [True, False]
    bench.ill.clear()
    assert await bench.rounds(1) == [True, False]
    bench.ill["http://b:80"] = "status 500"
    assert await bench.rounds(1) == [True, False]
    bench.ill.clear()
    assert await bench.rounds(2) == [True, True]
    ill, well = bench.env.emitted(events.ENDPOINT_HEALTH)
    assert (ill["endpoint"], ill["healthy"], ill["reason"], ill["probes"], ill["up"]) == (
        "http://b:80", False, "status 503", 3, 1,
    )  # fmt: skip
    assert (well["healthy"], well["probes"], well["up"]) == (True, 2, 2)
    assert bench.checker.describe()["endpoints"]["http://b:80"]["last_problem"] == "status 500"


async def test_a_probe_that_waits_for_a_name_says_so() -> None:
    async def ask(*_: Any) -> Any:
        return await asyncio.get_running_loop().create_future()

    names = NameResolver(Resolver(asyncio.get_running_loop().time, asyncio.create_task, ask), Queries())
    spec = HealthCheckSpec.model_validate({"path": "/", "timeout": "50ms"})
    reason = await http_probe(names=names)(Endpoint("http://app.test:80"), spec)
    assert reason == "the look-up of app.test took longer than 0.05s"


class Own:
    """Credentials of the sidecar that a test sets."""

    def __init__(self) -> None:
        self.value = b"Bearer one"
        self.rejected: list[bytes] = []

    def start(self) -> None: ...

    def fields(self, now: float) -> list[tuple[bytes, bytes]] | None:
        return [(b"authorization", self.value)] if self.value else None

    def reject(self, value: bytes) -> bool:
        self.rejected.append(value)
        return len(self.rejected) == 1


@virtual
async def test_credentials_that_are_missing_or_rejected_are_not_the_endpoints_fault() -> None:
    bench, own = Bench(), Own()
    checker = HealthChecker(
        bench.set, HealthCheckSpec.model_validate(SPEC | {"unhealthy_after": 1}), bench.env, bench.probe, own
    )
    await checker.check_all()
    assert bench.fields == [(b"authorization", b"Bearer one")]
    own.value, bench.times = b"", []
    bench.ill["http://b:80"] = "status 401"
    await checker.check_all()
    assert bench.times == [], "no issuer, no round"
    own.value = b"Bearer one"
    await checker.check_all()
    assert all(endpoint.is_healthy for endpoint in bench.set.members), "a renewed token may please it"
    await checker.check_all()
    assert [endpoint.is_healthy for endpoint in bench.set.members] == [True, False]
    assert own.rejected == [b"Bearer one"] * 2


@virtual
async def test_one_lost_probe_changes_nothing() -> None:
    bench = Bench()
    for _ in range(5):
        bench.ill["http://a:80"] = "no answer"
        assert await bench.rounds(2) == [True, True]
        bench.ill.clear()
        assert await bench.rounds(1) == [True, True]


@virtual
async def test_rounds_come_at_jittered_intervals_until_retired() -> None:
    bench = Bench()
    begun = bench.env.now()
    bench.checker.start()
    bench.checker.start()
    await asyncio.sleep(100)
    assert 9 <= len(bench.times) <= 12
    assert bench.times[0] - begun <= 1.0
    pauses = [b - a for a, b in zip(bench.times, bench.times[1:], strict=False)]
    assert all(9.0 <= pause <= 11.0 for pause in pauses)
    assert len(set(pauses)) == len(pauses)
    bench.ill["http://a:80"] = "down"
    await asyncio.sleep(50)
    assert not bench.set.members[0].is_healthy
    bench.checker.retire()
    assert bench.set.members[0].is_healthy, "nobody checks any more, so nobody is unhealthy"
    seen = len(bench.times)
    await asyncio.sleep(50)
    assert len(bench.times) == seen
    assert len(asyncio.all_tasks()) == 1


@virtual
async def test_a_probe_that_hangs_or_breaks_holds_up_nothing_else() -> None:
    bench = Bench()
    bench.ill["bug"] = "http://b:80"
    assert await bench.rounds(3) == [True, False]
    assert len(bench.env.emitted(events.BUG)) == 3
    (event,) = bench.env.emitted(events.ENDPOINT_HEALTH)
    assert "a bug in a probe" in event["reason"]


@virtual
async def test_a_new_policy_keeps_verdicts_and_acts_at_once() -> None:
    bench = Bench()
    bench.checker.start()
    bench.ill["http://b:80"] = "down"
    await asyncio.sleep(40)
    assert not bench.set.members[1].is_healthy
    bench.times.clear()
    bench.checker.retune(HealthCheckSpec.model_validate(SPEC | {"interval": "1s"}))
    assert not bench.set.members[1].is_healthy
    await asyncio.sleep(5)
    assert len(bench.times) >= 4
    bench.checker.retune(HealthCheckSpec.model_validate(SPEC | {"mode": "observe"}))
    assert bench.set.members[1].is_healthy
    bench.checker.retire()


@virtual
async def test_observing_takes_nobody_out() -> None:
    bench = Bench(mode="observe")
    bench.ill["http://b:80"] = "down"
    assert await bench.rounds(5) == [True, True]
    assert bench.env.meter.value(metrics.WOULD_REFUSE, policy="health_check") == 1
    assert len(bench.env.emitted(events.ENDPOINT_HEALTH)) == 1


@virtual
async def test_endpoints_come_and_go() -> None:
    bench = Bench()
    await bench.rounds(1)
    bench.set.replace(["http://b:80", "http://c:80"])
    bench.ill["http://c:80"] = "down"
    assert await bench.rounds(3) == [True, False]
    assert set(bench.checker.describe()["endpoints"]) == {"http://b:80", "http://c:80"}


# ----- the probe, against real servers


async def answer(request: web.Request) -> web.StreamResponse:
    if request.path == "/hang":
        await asyncio.sleep(30)
    if request.path == "/moved":
        raise web.HTTPFound("/healthz")
    return web.Response(status=int(request.query.get("status", "200")), text=request.headers["user-agent"])


@pytest.fixture
async def runner() -> AsyncIterator[web.AppRunner]:
    app = web.Application()
    app.router.add_get("/{path:.*}", answer)
    runner = web.AppRunner(app, shutdown_timeout=0.1)
    await runner.setup()
    yield runner
    await runner.cleanup()


@pytest.mark.parametrize(
    ("path", "expect", "found"),
    [
        ("/healthz", ["2xx"], ""),
        ("/healthz?status=503", ["2xx"], "status 503"),
        ("/healthz?status=404", ["2xx", 404], ""),
        ("/a%2Fb%20c", ["2xx"], ""),
        ("/moved", ["2xx"], "status 302"),
        ("/hang", ["2xx"], "no answer within 0.05s"),
    ],
)
async def test_what_a_probe_finds(runner: web.AppRunner, path: str, expect: list[Any], found: str) -> None:
    await web.TCPSite(runner, "127.0.0.1", 0).start()
    host, port = runner.addresses[0]
    timeout = "50ms" if path == "/hang" else "5s"
    spec = HealthCheckSpec.model_validate({"path": path, "expect": expect, "timeout": timeout})
    assert await http_probe()(Endpoint(f"http://{host}:{port}"), spec) == found


async def test_a_probe_of_a_unix_socket(runner: web.AppRunner, tmp_path: Path) -> None:
    await web.UnixSite(runner, str(tmp_path / "app.sock")).start()
    assert await http_probe()(Endpoint(f"unix:{tmp_path}/app.sock"), HealthCheckSpec(path="/healthz")) == ""
    reason = await http_probe()(Endpoint(f"unix:{tmp_path}/none.sock"), HealthCheckSpec(path="/healthz"))
    assert "No such file" in reason


@pytest.mark.parametrize(
    ("settings", "discovered", "host"),
    [({}, "", "127.0.0.1:{port}"), ({}, "app.test", "app.test:{port}"), ({"host": "a.test"}, "app.test", "a.test")],
)
async def test_the_host_of_a_probe(settings: dict[str, Any], discovered: str, host: str) -> None:
    got: list[str] = []

    async def note(request: web.Request) -> web.Response:
        got.extend(request.headers.getall("host"))
        return web.Response()

    app = web.Application()
    app.router.add_get("/", note)
    runner = web.AppRunner(app)
    await runner.setup()
    await web.TCPSite(runner, "127.0.0.1", 0).start()
    port = runner.addresses[0][1]
    spec = HealthCheckSpec.model_validate({"path": "/", **settings})
    assert await http_probe(discovered=discovered)(Endpoint(f"http://127.0.0.1:{port}"), spec) == ""
    assert got == [host.format(port=port)]
    await runner.cleanup()


def test_the_usual_port_is_left_out() -> None:
    urls = ("http://10.0.0.1:80", "https://10.0.0.1:443", "http://10.0.0.1:443")
    assert [authority("app.test", Endpoint(url)) for url in urls] == ["app.test", "app.test", "app.test:443"]


async def test_a_probe_of_nobody() -> None:
    server = await asyncio.start_server(lambda r, w: w.close(), "127.0.0.1", 0)
    port = server.sockets[0].getsockname()[1]
    assert await http_probe()(Endpoint(f"http://127.0.0.1:{port}"), HealthCheckSpec(path="/")) != ""
    server.close()
    await server.wait_closed()
    assert "onnect" in await http_probe()(Endpoint(f"http://127.0.0.1:{port}"), HealthCheckSpec(path="/"))


async def test_a_probe_over_tls(ca: Authority) -> None:
    async def well(request: web.Request) -> web.Response:
        return web.Response()

    app = web.Application()
    app.router.add_get("/", well)
    runner = web.AppRunner(app)
    await runner.setup()
    try:
        await web.TCPSite(runner, "127.0.0.1", 0, ssl_context=build_context(ServerTlsSpec(**ca.sign("app")))).start()
        endpoint = Endpoint(f"https://127.0.0.1:{runner.addresses[0][1]}")
        trusting = build_context(ClientTlsSpec(ca=ca.ca_file))
        spec = HealthCheckSpec(path="/")
        assert "certificate" in (await http_probe(lambda: trusting)(endpoint, spec)).lower()
        endpoint.server_name = "app"
        assert await http_probe(lambda: trusting)(endpoint, spec) == ""
        assert "certificate" in (await http_probe()(endpoint, spec)).lower()
    finally:
        await runner.cleanup()
