"""From start to ready, reload under load, and the drain: the process as its platform sees it."""

from __future__ import annotations

import asyncio
import signal
import time
from pathlib import Path
from typing import Any

import pytest

from bench.machine import cpu_seconds
from tests.e2e.world import world
from tests.support.client import fetch
from tests.support.process import Sidecar, policies, route
from tests.support.servers import Server, after, answering, echoing


def policy(url: str, **blocks: Any) -> dict[str, Any]:
    """One route to one upstream."""
    return policies(upstreams={"app": {"endpoints": [url]}}, routes=[route("app", **blocks)])


async def test_it_is_ready_within_a_second(tmp_path: Path) -> None:
    """On a machine that has other things to do, what counts is the time that it had a core for; and not the first time,
    when Python compiles."""
    took = []
    async with Server(echoing) as server:
        for _ in range(3):
            began = time.monotonic()
            async with Sidecar(policy(server.url), tmp_path, {"PYTHONDONTWRITEBYTECODE": ""}) as sidecar:
                took.append(min(time.monotonic() - began, cpu_seconds(sidecar.pid)))
                assert (await sidecar.ask("/livez")).status == 200
                assert (await sidecar.ask("/readyz")).status == 200
    assert min(took) < 1.0


async def test_bad_policies_keep_it_from_starting(tmp_path: Path) -> None:
    sidecar = Sidecar(policies(upstreams={}, routes=[route("app", timeout={"request": 5})]), tmp_path)
    with pytest.raises(AssertionError, match=r"(?s)exit code 1.*policies\.yaml:.*unit"):
        await sidecar.__aenter__()


async def test_sigterm_drains_and_exits_cleanly(tmp_path: Path) -> None:
    async with Server(after(0.5, answering())) as server, Sidecar(policy(server.url), tmp_path) as sidecar:
        async with sidecar.client() as busy, sidecar.client() as idle:
            await busy.send(b"GET /app HTTP/1.1\r\nHost: test\r\n\r\n")
            await asyncio.sleep(0.2)
            sidecar.signal(signal.SIGTERM)
            assert await idle.is_closed(), "an idle connection is closed at once"
            answer = await busy.response()
            assert (answer.status, answer.body) == (200, b"ok")
            assert await busy.is_closed()
        assert await sidecar.wait() == 0


async def test_a_second_signal_ends_it_now(tmp_path: Path) -> None:
    async with Server(after(30, answering())) as server:
        sidecar = Sidecar(policy(server.url), tmp_path)
        await sidecar.__aenter__()
        async with sidecar.client() as busy:
            await busy.send(b"GET /app HTTP/1.1\r\nHost: test\r\n\r\n")
            await asyncio.sleep(0.2)
            sidecar.signal(signal.SIGTERM)
            await asyncio.sleep(0.3)
            assert sidecar.is_running
            sidecar.signal(signal.SIGTERM)
            began = time.monotonic()
            await sidecar.wait()
            assert time.monotonic() - began < 3


async def test_while_it_drains_it_is_alive_and_not_ready(tmp_path: Path) -> None:
    async with (
        Server(after(0.8, answering())) as server,
        Sidecar(policy(server.url), tmp_path) as sidecar,
        sidecar.client() as busy,
    ):
        await busy.send(b"GET /app HTTP/1.1\r\nHost: test\r\n\r\n")
        await asyncio.sleep(0.2)
        sidecar.signal(signal.SIGTERM)
        await sidecar.until("draining")
        answer = await sidecar.ask("/readyz")
        assert (answer.status, b"draining since SIGTERM" in answer.body) == (503, True), answer.body
        assert (await sidecar.ask("/livez")).status == 200
        with pytest.raises(ConnectionRefusedError):
            await sidecar.fetch("GET", "/app")
        answer = await busy.response()
        assert (answer.status, answer.get("connection")) == (200, "close")


async def test_a_drain_has_an_end(tmp_path: Path) -> None:
    async with Server(after(30, answering())) as server:
        rules = {**policy(server.url), "limits": {"drain_timeout": "500ms"}}
        async with Sidecar(rules, tmp_path) as sidecar, sidecar.client() as busy:
            await busy.send(b"GET /app HTTP/1.1\r\nHost: test\r\n\r\n")
            await asyncio.sleep(0.2)
            began = time.monotonic()
            assert await sidecar.stop() == 0
            assert 0.4 < time.monotonic() - began < 5
            assert sidecar.said("drain.expired")[0]["connections"] == 1


async def test_the_admin_listener_can_ask_for_a_token(tmp_path: Path) -> None:
    secret = tmp_path / "token"
    secret.write_text("s3cret\n")
    async with Server(echoing) as server:
        rules = {**policy(server.url), "admin": {"address": "127.0.0.1:0", "token": {"file": str(secret)}}}
        async with Sidecar(rules, tmp_path) as sidecar:
            for target in ("/livez", "/readyz"):
                assert (await sidecar.ask(target)).status == 200, "probes have no token"
            for method, target in (("GET", "/metrics"), ("GET", "/state"), ("POST", "/reload"), ("GET", "/nowhere")):
                for given in ({}, {"authorization": "Bearer wrong"}, {"authorization": "Basic czNjcmV0"}):
                    answer = await fetch(sidecar.admin, method, target, **given)
                    assert answer.status == 401
                    assert "Bearer" in answer.get("www-authenticate")
            right = {"authorization": "Bearer s3cret"}
            assert (await fetch(sidecar.admin, "GET", "/metrics", **right)).status == 200
            assert (await fetch(sidecar.admin, "POST", "/reload", **right)).status == 200
            state = await fetch(sidecar.admin, "GET", "/state", **right)
            assert (state.status, b"s3cret" in state.body) == (200, False)


async def test_a_changed_file_takes_effect_by_itself(tmp_path: Path) -> None:
    async with Server(echoing) as server, Sidecar(policy(server.url), tmp_path) as sidecar:
        sidecar.write({**policy(server.url), "routes": [route("renamed", "app")]})
        await sidecar.until("reload.applied", 2)
        assert (await sidecar.fetch("GET", "/renamed")).status == 200
        assert (await sidecar.fetch("GET", "/app")).status == 404


async def test_an_open_breaker_survives_a_reload(tmp_path: Path) -> None:
    breaker = {"circuit_breaker": {"consecutive_failures": 2, "open_for": "30s"}}
    async with Server(answering(500)) as server, Sidecar(policy(server.url, **breaker), tmp_path) as sidecar:
        for _ in range(2):
            await sidecar.fetch("GET", "/app")
        sidecar.write(policy(server.url, **breaker, timeout={"request": "3s"}))
        sidecar.signal(signal.SIGHUP)
        await sidecar.until("reload.applied", 2)
        answer = await sidecar.fetch("GET", "/app")
        assert answer.get("x-sidecar-reason") == "breaker_open"
        assert len(server.requests) == 2


async def test_a_request_ends_under_the_policy_it_began_with(tmp_path: Path) -> None:
    async with (
        Server(after(0.5, answering())) as server,
        Sidecar(policy(server.url), tmp_path) as sidecar,
        sidecar.client() as client,
    ):
        await client.send(b"GET /app HTTP/1.1\r\nHost: test\r\n\r\n")
        await asyncio.sleep(0.1)
        sidecar.write(policy(server.url, timeout={"request": "10ms"}))
        assert (await sidecar.ask("/reload", "POST")).status < 300
        assert (await client.response()).status == 200
        assert (await client.request("GET", "/app")).status == 504


async def test_breakers_can_be_forced(tmp_path: Path) -> None:
    routes = {"app": {"circuit_breaker": {"consecutive_failures": 5}}}
    async with world(tmp_path, {"app": echoing}, routes=routes) as w:
        (name,) = (await w.sidecar.state())["state"]["breaker"]
        for order, status in (("open", 503), ("close", 200), ("auto", 200)):
            assert (await w.sidecar.ask(f"/breakers/{name}/{order}", "POST")).status == 200
            assert (await w.sidecar.fetch("GET", "/app")).status == status


async def test_metrics_speak_of_what_happened(tmp_path: Path) -> None:
    async with world(tmp_path, {"app": echoing}) as w:
        await w.sidecar.fetch("GET", "/app")
        page = (await w.sidecar.ask("/metrics")).body.decode()
        assert "http_server_request_duration" in page
        assert 'route="app"' in page


async def test_nobody_listens_where_it_has_not_bound(tmp_path: Path) -> None:
    async with Server(echoing) as server:
        taken = policies(upstreams={"app": {"endpoints": [server.url]}}, routes=[route("app")])
        taken["listeners"] = {"inbound": {"address": server.address}}
        with pytest.raises(AssertionError, match=f"{server.address}.*in use"):
            await Sidecar(taken, tmp_path).__aenter__()
