"""Tests of addresses to listen on and to connect to: Unix sockets, IPv6, names, and routes chosen by Host."""

from __future__ import annotations

import asyncio
import signal
import socket
from pathlib import Path

import pytest

from chaos.parts.client import Client, fetch
from chaos.parts.servers import Server, answering, echoing
from tests.support.process import Sidecar, policies, route

HAS_IPV6 = socket.has_ipv6


pytestmark = pytest.mark.asyncio(loop_scope="module")


async def test_unix_sockets_on_both_sides(tmp_path: Path) -> None:
    app, door, admin = (str(tmp_path / name) for name in ("app.sock", "door.sock", "admin.sock"))
    async with Server(echoing, path=app) as server:
        rules = policies(
            listeners={"inbound": {"address": f"unix:{door}"}},
            admin={"address": f"unix:{admin}"},
            upstreams={"app": {"endpoints": [f"unix:{app}"], "health_check": {"path": "/health", "interval": "100ms"}}},
            routes=[route("app")],
        )
        async with Sidecar(rules, tmp_path) as sidecar:
            assert sidecar.inbound == f"unix:{door}"
            async with Client(f"unix:{door}") as client:
                assert (await client.request("POST", "/app", b"hello")).body == b"hello"
                assert (await client.request("GET", "/app", host="orders")).get("x-target") == "/app"
            assert (await fetch(f"unix:{admin}", "GET", "/readyz")).status == 200
            async with asyncio.timeout(60):
                while not any(each.target == "/health" for each in server.requests):
                    await asyncio.sleep(0.02)
        _, request = (each for each in server.requests if each.target == "/app")
        assert request.get("host") == "orders"
        assert request.get("x-forwarded-for") == "", "a Unix socket has no address"
    assert not Path(door).exists(), "it tidies up after itself"


async def test_the_socket_of_a_process_that_was_killed_is_replaced(tmp_path: Path) -> None:
    door = tmp_path / "door.sock"
    async with Server(answering()) as server:
        rules = policies(
            listeners={"inbound": {"address": f"unix:{door}"}},
            upstreams={"app": {"endpoints": [server.url]}},
            routes=[route("app")],
        )
        first = Sidecar(rules, tmp_path)
        await first.__aenter__()
        with pytest.raises(AssertionError, match=r"inbound.*door\.sock.*in use"):
            await Sidecar(rules, tmp_path).__aenter__()
        first.signal(signal.SIGKILL)
        await first.wait()
        assert door.is_socket(), "it was left behind"
        async with Sidecar(rules, tmp_path) as second:
            assert (await second.fetch("GET", "/app")).status == 200


async def test_a_file_that_is_no_socket_is_left_alone(tmp_path: Path) -> None:
    door = tmp_path / "door.sock"
    door.write_text("precious")
    rules = policies(
        listeners={"inbound": {"address": f"unix:{door}"}},
        upstreams={"app": {"endpoints": ["http://127.0.0.1:9"]}},
        routes=[route("app")],
    )
    with pytest.raises(AssertionError, match=r"door\.sock"):
        await Sidecar(rules, tmp_path).__aenter__()
    assert door.read_text() == "precious"


@pytest.mark.skipif(not HAS_IPV6, reason="no IPv6 here")
async def test_ipv6_on_both_sides(tmp_path: Path) -> None:
    async with Server(echoing, host="::1") as server:
        rules = policies(
            listeners={"inbound": {"address": "[::1]:0", "trusted_proxies": ["::1"]}},
            admin={"address": "[::1]:0"},
            upstreams={"app": {"endpoints": [server.url]}},
            routes=[route("app")],
        )
        async with Sidecar(rules, tmp_path) as sidecar:
            assert sidecar.inbound.startswith("[::1]:")
            assert (await sidecar.fetch("GET", "/app", host="[::1]:80")).status == 200
            assert (await sidecar.fetch("GET", "/app", forwarded="for=192.0.2.1")).status == 200
            assert (await sidecar.ask("/livez")).status == 200
        plain, forwarded = server.requests
        assert plain.get("x-forwarded-for") == "::1"
        assert forwarded.get("forwarded") == 'for=192.0.2.1, for="[::1]";proto=http'


async def test_an_outbound_listener_chooses_the_route_by_host(shared: Sidecar) -> None:
    async with Server(answering(body=b"orders")) as orders, Server(answering(body=b"users")) as users:
        rules = policies(
            listeners={"inbound": {"address": "127.0.0.1:0"}, "outbound": {"address": "127.0.0.1:0"}},
            upstreams={"orders": {"endpoints": [orders.url]}, "users": {"endpoints": [users.url]}},
            routes=[
                {"name": "orders", "listener": "outbound", "match": {"host": "orders"}, "upstream": "orders"},
                {"name": "users", "listener": "outbound", "match": {"host": "*.users.svc"}, "upstream": "users"},
                {"name": "in", "match": {"path_prefix": "/"}, "upstream": "orders"},
            ],
        )
        async with shared.under(rules) as sidecar:
            (outbound,) = (await sidecar.state())["listeners"]["outbound"]["addresses"]
            async with Client(outbound) as client:
                assert (await client.request("GET", "/x", host="orders")).body == b"orders"
                assert (await client.request("GET", "/x", host="ORDERS:8080")).body == b"orders"
                assert (await client.request("GET", "/x", host="eu.users.svc")).body == b"users"
                assert (await client.request("GET", "http://orders/y", host="ignored")).body == b"orders"
                assert (await client.request("GET", "/x", host="elsewhere")).status == 404
            assert [request.get("host") for request in orders.requests] == ["orders", "ORDERS:8080", "orders"]
            assert (await sidecar.fetch("GET", "/x", host="elsewhere")).body == b"orders"


async def test_endpoints_are_found_by_name(shared: Sidecar) -> None:
    async with Server(answering()) as server:
        found = {"discover": {"dns": "localhost", "port": server.port, "interval": "1s"}, "connect_timeout": "30s"}
        rules = policies(
            upstreams={"app": found, "lost": {"discover": {"dns": "nowhere.invalid", "port": 80}}},
            routes=[route("app", retry={"max_attempts": 3}), route("lost")],
        )
        async with shared.under(rules) as sidecar:
            changed = await sidecar.until("discovery.changed")
            assert f"http://127.0.0.1:{server.port}" in changed["added"]
            assert (await sidecar.fetch("GET", "/app", host="test")).status == 200
            assert server.requests[0].get("host") == "test"
            failed = await sidecar.until("discovery.failed")
            assert failed["source"] == "dns nowhere.invalid"
            answer = await sidecar.fetch("GET", "/lost")
            assert (answer.status, answer.get("x-sidecar-reason")) == (503, "no_endpoint")
            assert b"nowhere.invalid" in answer.body, answer.body


async def test_a_name_in_an_endpoint_is_looked_up_too(shared: Sidecar) -> None:
    async with Server(answering()) as server:
        rules = policies(upstreams={"app": {"endpoints": [f"http://localhost:{server.port}"]}}, routes=[route("app")])
        async with shared.under(rules) as sidecar:
            assert (await sidecar.fetch("GET", "/app")).status == 200
