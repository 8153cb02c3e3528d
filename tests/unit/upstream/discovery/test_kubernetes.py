"""Tests of endpoints from an API server on loopback: list, watch, and everything that goes wrong with them."""

from __future__ import annotations

import asyncio
import socket
import ssl
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from functools import partial
from pathlib import Path
from typing import Any

import pytest

from chaos.parts.kubernetes import ApiServer, endpoint
from sidecar.core import events
from sidecar.upstream.client import _make_source
from sidecar.upstream.discovery import api as api_module
from sidecar.upstream.discovery import kubernetes
from sidecar.upstream.discovery.discovery import Discovery
from sidecar.upstream.endpoint import EndpointSet
from sidecar.upstream.spec import UpstreamSpec
from tests.support.authority import Authority
from tests.support.clock import FakeEnv, remembering
from tests.support.loop import virtual_env


@pytest.fixture(autouse=True)
def _quick(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """Make pauses short, and give the pod a service account."""
    monkeypatch.setattr(kubernetes, "FIRST_PAUSE", 0.02)
    monkeypatch.setattr(kubernetes, "LONGEST_PAUSE", 0.1)
    monkeypatch.setattr(kubernetes, "LEAST_PAUSE", 0.005)
    monkeypatch.setattr(api_module, "GATHER_SECONDS", 0.005)
    monkeypatch.setattr(api_module, "ACCOUNT", tmp_path)
    (tmp_path / "token").write_text("first\n")
    (tmp_path / "namespace").write_text("shop")


class Watched:
    """Discovery of a service by an API server."""

    def __init__(self, env: FakeEnv, endpoints: EndpointSet, discovery: Discovery) -> None:
        self.env = env
        self.endpoints = endpoints
        self.discovery = discovery

    @property
    def hosts(self) -> list[str]:
        return [endpoint.host for endpoint in self.endpoints.members]

    @property
    def state(self) -> dict[str, Any]:
        return self.discovery.describe()

    async def until(self, condition: Callable[[], bool]) -> None:
        async with asyncio.timeout(30):
            while not condition():
                await asyncio.sleep(0.005)

    async def until_hosts(self, *hosts: str) -> None:
        await self.until(lambda: self.hosts == list(hosts))


@asynccontextmanager
async def watched(server: ApiServer, scheme: str = "http", **spec: Any) -> AsyncIterator[Watched]:
    """Return a running discovery of the service `orders`; `env.sleeps` has its pauses, which are cut short."""
    pauses: list[float] = []

    async def pause(seconds: float) -> None:
        pauses.append(seconds)
        await asyncio.sleep(min(seconds, 0.1))

    env = remembering(asyncio.get_running_loop(), sleep=pause)
    env.sleeps = pauses
    block = {"service": "orders", "port": "http", "api": {"url": server.url}, **spec}
    upstream = UpstreamSpec.model_validate({"discover": {"kubernetes": block, "scheme": scheme}})
    endpoints = EndpointSet("orders", upstream, env)
    assert upstream.discover is not None
    discovery = Discovery(endpoints, upstream.discover, env, partial(_make_source, env, None))
    discovery.start()
    try:
        yield Watched(env, endpoints, discovery)
    finally:
        discovery.retire()
        await asyncio.sleep(0.01)
        assert not env.emitted(events.BUG)


async def test_slices_are_listed_once_and_then_watched() -> None:
    async with ApiServer() as server:
        server.put("orders-1", ready=["10.0.0.1", "10.0.0.2"])
        server.put("other", ready=["10.0.0.9"], service="other")
        server.put("orders-x", ready=["10.0.0.8"], namespace="elsewhere")
        async with watched(server) as orders:
            await orders.until_hosts("10.0.0.1", "10.0.0.2")
            await orders.until(lambda: len(server.watches) == 1)
            server.put("orders-2", ready=["10.0.0.3"], port=9090)
            await orders.until_hosts("10.0.0.1", "10.0.0.2", "10.0.0.3")
            assert orders.endpoints.members[2].url == "http://10.0.0.3:9090"
            server.put("orders-1", ready=["10.0.0.2"])
            await orders.until_hosts("10.0.0.2", "10.0.0.3")
            server.delete("orders-2")
            await orders.until_hosts("10.0.0.2")
            server.put("other", ready=["10.0.0.7"], service="other")
            server.put("orders-1")
            await orders.until_hosts()
            assert (server.lists, len(server.watches)) == (1, 1)
            assert orders.state["problem"] == "", "the API server knows that there are none"


async def test_long_lists_come_in_pages_and_begin_anew_if_a_page_has_expired() -> None:
    async with ApiServer() as server:
        server.page = 2
        for number in range(1, 6):
            server.put(f"orders-{number}", ready=[f"10.0.0.{number}"])
        async with watched(server) as orders:
            await orders.until_hosts(*(f"10.0.0.{number}" for number in range(1, 6)))
            assert [q.get("continue", "") != "" for _, q in server.requests][:3] == [False, True, True]


async def test_a_watch_that_ends_goes_on_from_the_last_version_without_a_list() -> None:
    async with ApiServer() as server:
        server.put("orders-1", ready=["10.0.0.1"])
        async with watched(server) as orders:
            await orders.until(lambda: len(server.watches) == 1)
            server.put("orders-1", ready=["10.0.0.2"])
            await orders.until_hosts("10.0.0.2")
            server.drop()
            server.put("orders-1", ready=["10.0.0.3"])
            await orders.until_hosts("10.0.0.3")
            assert server.watches == ["1001", "1002"]
            assert server.lists == 1
            assert orders.env.emitted(events.DISCOVERY_FAILED) == [], "one lost connection is no outage"


async def test_bookmarks_keep_the_version_young() -> None:
    async with ApiServer() as server:
        server.put("orders-1", ready=["10.0.0.1"])
        async with watched(server) as orders:
            await orders.until(lambda: len(server.watches) == 1)
            for number in range(50):
                server.put("other", ready=[f"10.1.0.{number}"], service="other")
            server.bookmark()
            await orders.until(lambda: orders.state["bookmarks"] == 1)
            server.expire()
            server.version = int(orders.state["resource_version"])
            server._oldest = server.version
            server.drop()
            server.put("orders-1", ready=["10.0.0.2"])
            await orders.until_hosts("10.0.0.2")
            assert server.lists == 1


@pytest.mark.parametrize("by_status", [True, False])
async def test_an_expired_version_makes_it_list_anew(by_status: bool) -> None:
    async with ApiServer() as server:
        server.expires_by_status = by_status
        server.put("orders-1", ready=["10.0.0.1"])
        server.put("orders-2", ready=["10.0.0.2"])
        async with watched(server) as orders:
            await orders.until(lambda: len(server.watches) == 1)
            await server.close()
            server.delete("orders-2")
            server.put("orders-1", ready=["10.0.0.3"])
            server.expire()
            await server.listen()
            await orders.until_hosts("10.0.0.3")
            assert server.lists == 2
            server.put("orders-1", ready=["10.0.0.4"])
            await orders.until_hosts("10.0.0.4")


async def test_endpoints_live_on_while_the_api_server_is_away_and_log_and_state_say_so() -> None:
    async with ApiServer() as server:
        server.put("orders-1", ready=["10.0.0.1"])
        async with watched(server) as orders:
            await orders.until(lambda: len(server.watches) == 1)
            await server.close()
            await orders.until(lambda: bool(orders.state["problem"]))
            assert orders.hosts == ["10.0.0.1"]
            assert "cannot be reached" in orders.state["problem"]
            await asyncio.sleep(0.1)
            (failed,) = orders.env.emitted(events.DISCOVERY_FAILED)
            assert (failed["source"], failed["kept"]) == ("kubernetes orders", 1)
            assert orders.discovery.stale_for() > 0.05
            server.put("orders-1", ready=["10.0.0.2"])
            await server.listen()
            await orders.until_hosts("10.0.0.2")
            assert len(orders.env.emitted(events.DISCOVERY_RESTORED)) == 1
            assert server.lists == 1


@pytest.mark.parametrize(
    ("fault", "words"),
    [
        (401, "the token is not accepted"),
        (403, "grant the service account list and watch of endpointslices"),
        (404, "does not know discovery.k8s.io/v1"),
        (429, "answers 429"),
        (500, "answers 500: made for a test"),
    ],
)
async def test_errors_of_the_api_server_are_told_and_tried_again(fault: int, words: str) -> None:
    async with ApiServer() as server:
        server.put("orders-1", ready=["10.0.0.1"])
        server.fault = fault
        async with watched(server) as orders:
            await orders.until(lambda: words in orders.state["problem"])
            server.fault = 0
            await orders.until_hosts("10.0.0.1")
            assert orders.state["problem"] == ""


@pytest.mark.parametrize(("wanted", "waited"), [(1, 1.0), (86400, 60.0)])
async def test_retry_after_is_honoured_within_a_bound(wanted: int, waited: float) -> None:
    async with ApiServer() as server:
        server.put("orders-1", ready=["10.0.0.1"])
        server.fault, server.retry_after = 429, wanted
        async with watched(server) as orders:
            await orders.until(lambda: bool(orders.state["problem"]))
            server.fault = 0
            assert set(orders.env.sleeps) == {waited}
            await orders.until_hosts("10.0.0.1")


@pytest.mark.parametrize(
    "garbage",
    [b"garbage\n", b'{"type":"ADDED","object":{"endpoints":3}}\n', b'{"type":"MOVED","object":{}}\n', b"x" * 100_000],
)
async def test_garbage_in_a_watch_makes_it_list_anew_and_changes_nothing(
    garbage: bytes, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(api_module, "MOST_LINE_BYTES", 50_000)
    async with ApiServer() as server:
        server.put("orders-1", ready=["10.0.0.1"])
        server.garbage = garbage
        async with watched(server) as orders:
            await orders.until(lambda: len(server.watches) >= 3)
            assert orders.hosts == ["10.0.0.1"]
            server.garbage = b""
            server.put("orders-1", ready=["10.0.0.2"])
            await orders.until_hosts("10.0.0.2")


async def test_a_watch_that_ends_at_once_is_not_repeated_without_a_pause(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(kubernetes, "FIRST_PAUSE", 0.1)
    async with ApiServer() as server:
        server.watch_seconds = 0.0
        server.put("orders-1", ready=["10.0.0.1"])
        async with watched(server) as orders:
            await orders.until(lambda: len(server.watches) >= 6)
            assert len(orders.env.sleeps) >= len(server.watches) - 1
            assert max(orders.env.sleeps) > kubernetes.LEAST_PAUSE
            assert orders.hosts == ["10.0.0.1"]


async def test_an_error_event_is_no_reason_to_list_anew() -> None:
    async with ApiServer() as server:
        server.put("orders-1", ready=["10.0.0.1"])
        async with watched(server) as orders:
            await orders.until(lambda: len(server.watches) == 1)
            server.error(500, "InternalError")
            await orders.until(lambda: len(server.watches) == 2)
            server.put("orders-1", ready=["10.0.0.2"])
            await orders.until_hosts("10.0.0.2")
            assert server.lists == 1


async def test_the_token_is_read_for_each_request(tmp_path: Path) -> None:
    async with ApiServer(token="hush-2") as server:
        server.put("orders-1", ready=["10.0.0.1"])
        async with watched(server, api={"url": server.url, "token": str(tmp_path / "token")}) as orders:
            await orders.until(lambda: "401" in orders.state["problem"])
            (tmp_path / "token").write_text("hush-2")
            await orders.until_hosts("10.0.0.1")
            assert server.tokens[0] == "first"
            assert "hush" not in str(orders.state) + str(orders.env.events)


async def test_no_token_is_sent_to_a_proxy_on_loopback() -> None:
    async with ApiServer() as server, watched(server) as orders:
        await orders.until(lambda: bool(server.tokens))
        assert set(server.tokens) == {""}


async def test_the_server_is_checked_with_the_accounts_authority(tmp_path: Path) -> None:
    ca = Authority(tmp_path / "ca")
    context = ca.server(ca.sign("127.0.0.1"))
    assert isinstance(context, ssl.SSLContext)
    async with ApiServer(token="first", tls=context) as server:
        server.put("orders-1", ready=["10.0.0.1"])
        async with watched(server) as orders:
            await orders.until(lambda: "ca.crt cannot be used" in orders.state["problem"])
            (tmp_path / "ca.crt").write_bytes(Path(Authority(tmp_path / "other").ca_file).read_bytes())
            await orders.until(lambda: "cannot be reached" in orders.state["problem"])
            (tmp_path / "ca.crt").write_bytes(Path(ca.ca_file).read_bytes())
            await orders.until_hosts("10.0.0.1")


async def test_the_pods_environment_names_the_server(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    ca = Authority(tmp_path / "ca")
    (tmp_path / "ca.crt").write_bytes(Path(ca.ca_file).read_bytes())
    async with ApiServer(token="first", tls=ca.server(ca.sign("127.0.0.1"))) as server:
        server.put("orders-1", ready=["10.0.0.1"])
        monkeypatch.delenv("KUBERNETES_SERVICE_HOST", raising=False)
        async with watched(server, api={}) as orders:
            await orders.until(lambda: "KUBERNETES_SERVICE_HOST is not set" in orders.state["problem"])
            host, _, port = server.address.partition(":")
            monkeypatch.setenv("KUBERNETES_SERVICE_HOST", host)
            monkeypatch.setenv("KUBERNETES_SERVICE_PORT", port)
            await orders.until_hosts("10.0.0.1")


async def test_another_namespace_is_asked_for_by_name(tmp_path: Path) -> None:
    (tmp_path / "namespace").unlink()
    async with ApiServer() as server:
        server.put("orders-1", ready=["10.0.0.1"], namespace="elsewhere")
        async with watched(server) as orders:
            await orders.until(lambda: "namespace cannot be read" in orders.state["problem"])
        async with watched(server, namespace="elsewhere") as orders:
            await orders.until_hosts("10.0.0.1")


async def test_terminating_and_unready_endpoints_have_their_states() -> None:
    async with ApiServer() as server:
        draining = endpoint("10.0.0.2", ready=False, serving=True, terminating=True)
        starting = endpoint("10.0.0.3", ready=False, serving=False, terminating=False)
        server.put("orders-1", [endpoint("10.0.0.1"), draining, starting])
        async with watched(server) as orders:
            await orders.until(lambda: len(orders.hosts) == 3)
            assert {each.host: each.state for each in orders.endpoints.members} == {
                "10.0.0.1": "up",
                "10.0.0.2": "draining",
                "10.0.0.3": "not_ready",
            }
            assert [each.host for each in orders.endpoints.preferred] == ["10.0.0.1"]
            stays = orders.endpoints.members[2]
            server.put("orders-1", ready=["10.0.0.3"])
            await orders.until_hosts("10.0.0.3")
            assert orders.endpoints.preferred == (stays,)


async def test_a_port_that_is_not_there_is_a_problem() -> None:
    async with ApiServer() as server:
        server.put("orders-1", ready=["10.0.0.1"])
        async with watched(server, port="grpc") as orders:
            await orders.until(lambda: "does not have the port grpc" in orders.state["problem"])
            server.put("orders-1", ready=["10.0.0.1"], ports=[{"name": "grpc", "port": 9}])
            await orders.until_hosts("10.0.0.1")


ZONE = {"topology.kubernetes.io/zone": "a"}


@pytest.mark.parametrize("where", ["pod", "node of the pod", "node"])
async def test_the_own_zone_is_found(where: str) -> None:
    async with ApiServer() as server:
        server.put("orders-1", [endpoint("10.0.0.1", "b"), endpoint("10.0.0.2", "a")])
        pod = f"/api/v1/namespaces/shop/pods/{socket.gethostname()}"
        settings: dict[str, Any] = {"zone_aware": True}
        if where == "pod":
            server.objects[pod] = {"metadata": {"labels": ZONE}, "spec": {"nodeName": "n"}}
        elif where == "node of the pod":
            server.objects[pod] = {"metadata": {}, "spec": {"nodeName": "n"}}
        else:
            settings["node"] = "n"
        server.objects["/api/v1/nodes/n"] = {"metadata": {"labels": ZONE}}
        async with watched(server, **settings) as orders:
            await orders.until(lambda: len(orders.hosts) == 2)
            assert [each.host for each in orders.endpoints.preferred] == ["10.0.0.2"]
            assert orders.endpoints.spills
            assert orders.state["zone"] == "a"


async def test_an_unknown_zone_makes_all_zones_equal_and_the_state_says_why() -> None:
    async with ApiServer() as server:
        server.put("orders-1", [endpoint("10.0.0.1", "b"), endpoint("10.0.0.2", "a")])
        async with watched(server, zone_aware=True) as orders:
            await orders.until(lambda: len(orders.hosts) == 2)
            assert len(orders.endpoints.preferred) == 2
            assert "the zone of the sidecar is not known" in orders.state["zone_problem"]


async def test_a_silent_api_server_is_given_up(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(api_module, "ANSWER_SECONDS", 0.05)
    async with ApiServer() as server:
        server.hangs = True
        server.put("orders-1", ready=["10.0.0.1"])
        async with watched(server) as orders:
            await orders.until(lambda: "does not answer in time" in orders.state["problem"])
            server.hangs = False
            monkeypatch.setattr(api_module, "ANSWER_SECONDS", 30.0)
            await orders.until_hosts("10.0.0.1")


async def test_a_burst_of_changes_is_applied_together(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(api_module, "GATHER_SECONDS", 0.1)
    async with ApiServer() as server:
        server.put("orders-1", ready=["10.0.0.1"])
        async with watched(server) as orders:
            await orders.until(lambda: len(server.watches) == 1)
            for number in range(2, 40):
                server.put("orders-1", ready=[f"10.0.0.{number}"])
            await orders.until_hosts("10.0.0.39")
            assert len(orders.env.emitted(events.DISCOVERY_CHANGED)) <= 4


def test_the_back_off_grows_to_its_bound_with_full_jitter(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.undo()

    async def measure() -> list[float]:
        env = virtual_env()
        spec = UpstreamSpec.model_validate({"discover": {"kubernetes": {"service": "orders"}}}).discover
        assert spec is not None
        source = kubernetes.KubernetesSource(spec, env, None)
        pauses = []
        for source._failures in (1, 2, 3, 5, 6, 100):
            pauses.append(max(source._pause() for _ in range(300)))
            assert min(source._pause() for _ in range(300)) < pauses[-1] / 3
        return pauses

    pauses = asyncio.run(measure())
    assert [round(pause, 1) for pause in pauses] == pytest.approx([0.5, 1.0, 2.0, 8.0, 10.0, 10.0], rel=0.1)
