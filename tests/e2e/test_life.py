"""Tests of the process as its platform sees it: from start to ready, reload under load, and drain."""

from __future__ import annotations

import asyncio
import resource
import signal
from contextlib import AsyncExitStack
from functools import partial
from pathlib import Path
from typing import Any

import pytest

from chaos.parts.client import PATIENCE, Client, fetch
from chaos.parts.http import Message
from chaos.parts.servers import Connection, Server, after, answering, echoing
from tests.e2e.crowd import until
from tests.e2e.world import world
from tests.support.process import COMMAND, Sidecar, policies, route

pytestmark = pytest.mark.asyncio(loop_scope="module")
started = partial(Sidecar, command=COMMAND)
"""Sidecar whose program is started, since these tests are about its start and its end; most others are forked."""


def policy(url: str, **blocks: Any) -> dict[str, Any]:
    """Return policies with one route to one upstream."""
    return policies(upstreams={"app": {"endpoints": [url]}}, routes=[route("app", **blocks)])


async def test_it_says_that_it_is_ready(shared: Sidecar) -> None:
    async with Server(echoing) as server, shared.under(policy(server.url)) as sidecar:
        assert (await sidecar.ask("/livez")).status == 200
        assert (await sidecar.ask("/readyz")).status == 200
        assert (await sidecar.fetch("GET", "/app")).status == 200


ON_DEMAND = {
    "aiocache", "aiodns", "aiohappyeyeballs", "aiohttp", "click", "google", "grpc", "msgspec", "opentelemetry",
    "pybreaker", "redis", "requests", "rich", "tenacity",
}  # fmt: skip
"""Libraries that are imported only when a policy, a variable or a request needs them."""


async def test_the_start_imports_nothing_that_is_not_configured(tmp_path: Path) -> None:
    def imported() -> set[str]:
        lines = [line for line in sidecar.noise if line.startswith("import time:")]
        return {line.rpartition("|")[2].strip().partition(".")[0] for line in lines}

    environ = {"PYTHONPROFILEIMPORTTIME": "1"}
    async with Server(echoing) as server, started(policy(server.url), tmp_path, environ) as sidecar:
        assert (await sidecar.ask("/readyz")).status == 200
        assert (await sidecar.fetch("GET", "/app")).status == 200
        assert "pydantic" in imported()
        assert imported() & ON_DEMAND == set()
        assert (await sidecar.ask("/metrics")).status == 200
        assert imported() & ON_DEMAND == {"aiohttp", "aiohappyeyeballs", "aiodns"}, "aiohttp loads the others"


async def test_bad_policies_keep_it_from_starting(tmp_path: Path) -> None:
    sidecar = started(policies(upstreams={}, routes=[route("app", timeout={"request": 5})]), tmp_path)
    with pytest.raises(AssertionError, match=r"(?s)exit code 1.*policies\.yaml:.*unit"):
        await sidecar.__aenter__()


class Gated:
    """Server that answers once the test allows it."""

    def __init__(self) -> None:
        self.may_answer = asyncio.Event()

    async def __call__(self, connection: Connection, request: Message) -> None:
        await self.may_answer.wait()
        await answering()(connection, request)


async def test_no_socket_gets_the_number_of_a_closed_stream(tmp_path: Path) -> None:
    command = tmp_path / "without_streams"
    command.write_text(f'#!/bin/sh\nexec {COMMAND} "$@" <&- >&-\n')
    command.chmod(0o755)
    async with Server(echoing) as server, Sidecar(policy(server.url), tmp_path, command=command) as sidecar:
        assert (await sidecar.fetch("GET", "/app")).status == 200
        assert {str(Path(f"/proc/{sidecar.pid}/fd/{stream}").readlink()) for stream in (0, 1)} == {"/dev/null"}


async def test_sigterm_drains_and_exits_cleanly(tmp_path: Path) -> None:
    gated = Gated()
    async with Server(gated) as server, started(policy(server.url), tmp_path) as sidecar:
        async with sidecar.client() as busy, sidecar.client() as idle:
            await busy.send(b"GET /app HTTP/1.1\r\nHost: test\r\n\r\n")
            await until(lambda: server.requests)
            sidecar.signal(signal.SIGTERM)
            assert await idle.is_closed(), "an idle connection is closed at once"
            gated.may_answer.set()
            answer = await busy.response()
            assert (answer.status, answer.body) == (200, b"ok")
            assert await busy.is_closed()
        assert await sidecar.wait() == 0


async def test_a_second_signal_ends_it_now(tmp_path: Path) -> None:
    async with Server(after(30, answering())) as server:
        sidecar = started(policy(server.url), tmp_path)
        await sidecar.__aenter__()
        async with sidecar.client() as busy:
            await busy.send(b"GET /app HTTP/1.1\r\nHost: test\r\n\r\n")
            await until(lambda: server.requests)
            sidecar.signal(signal.SIGTERM)
            await sidecar.until("draining")
            assert sidecar.is_running
            sidecar.signal(signal.SIGTERM)
            await sidecar.wait()
        assert not sidecar.said("drain.expired")


async def test_while_it_drains_it_is_alive_and_not_ready(tmp_path: Path) -> None:
    gated = Gated()
    async with Server(gated) as server, started(policy(server.url), tmp_path) as sidecar, sidecar.client() as busy:
        await busy.send(b"GET /app HTTP/1.1\r\nHost: test\r\n\r\n")
        await until(lambda: server.requests)
        sidecar.signal(signal.SIGTERM)
        await sidecar.until("draining")
        answer = await sidecar.ask("/readyz")
        assert (answer.status, b"draining since SIGTERM" in answer.body) == (503, True), answer.body
        assert (await sidecar.ask("/livez")).status == 200
        with pytest.raises(ConnectionRefusedError):
            await sidecar.fetch("GET", "/app")
        gated.may_answer.set()
        answer = await busy.response()
        assert (answer.status, answer.get("connection")) == (200, "close")


async def test_a_drain_has_an_end(tmp_path: Path) -> None:
    async with Server(after(30, answering())) as server:
        rules = {**policy(server.url), "limits": {"drain_timeout": "500ms"}}
        async with started(rules, tmp_path) as sidecar, sidecar.client() as busy:
            await busy.send(b"GET /app HTTP/1.1\r\nHost: test\r\n\r\n")
            await until(lambda: server.requests)
            assert await sidecar.stop() == 0
            assert sidecar.said("drain.expired")[0]["connections"] == 1


async def test_the_admin_listener_can_ask_for_a_token(tmp_path: Path) -> None:
    secret = tmp_path / "token"
    secret.write_text("s3cret\n")
    async with Server(echoing) as server:
        rules = {**policy(server.url), "admin": {"address": "127.0.0.1:0", "token": {"file": str(secret)}}}
        async with started(rules, tmp_path) as sidecar:
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
            secret.write_text("rotated\n")
            assert (await fetch(sidecar.admin, "POST", "/reload", **right)).status == 200
            assert (await fetch(sidecar.admin, "GET", "/state", **right)).status == 401
            fresh = {"authorization": "Bearer rotated"}
            assert (await fetch(sidecar.admin, "GET", "/state", **fresh)).status == 200
            assert (await fetch(sidecar.admin, "GET", "/state", host="any.example", **fresh)).status == 200


@pytest.mark.parametrize("half", [b"GET /sta", b"GET /readyz HTTP/1.1\r\nHost: localhost\r\n"])
async def test_clients_of_the_admin_listener_leave_descriptors_to_the_service(tmp_path: Path, half: bytes) -> None:
    async with Server(echoing) as server, started(policy(server.url), tmp_path) as sidecar:
        resource.prlimit(sidecar.pid, resource.RLIMIT_NOFILE, (256, 256))
        async with AsyncExitStack() as stack:
            for _ in range(260):
                await (await stack.enter_async_context(Client(sidecar.admin))).send(half)
            for _ in range(20):
                assert (await sidecar.fetch("GET", "/app")).status == 200
            assert (await sidecar.ask("/readyz")).status == 200
            assert (await sidecar.ask("/state")).status == 200


async def test_a_changed_file_takes_effect_by_itself(shared: Sidecar) -> None:
    async with Server(echoing) as server, shared.under(policy(server.url)) as sidecar:
        sidecar.write({**policy(server.url), "routes": [route("renamed", "app")]})
        async with asyncio.timeout(PATIENCE):  # an event of the policies before may still be on its way
            while (await sidecar.fetch("GET", "/renamed")).status != 200:
                await asyncio.sleep(0.05)
        assert (await sidecar.fetch("GET", "/app")).status == 404


async def test_an_open_breaker_survives_a_reload(shared: Sidecar) -> None:
    breaker = {"circuit_breaker": {"consecutive_failures": 2, "open_for": "30s"}}
    async with Server(answering(500)) as server, shared.under(policy(server.url, **breaker)) as sidecar:
        for _ in range(2):
            await sidecar.fetch("GET", "/app")
        sidecar.write(policy(server.url, **breaker, timeout={"request": "3s"}))
        sidecar.signal(signal.SIGHUP)
        await sidecar.until("reload.applied", 2)
        answer = await sidecar.fetch("GET", "/app")
        assert answer.get("x-sidecar-reason") == "breaker_open"
        assert len(server.requests) == 2


async def test_a_request_ends_under_the_policy_it_began_with(shared: Sidecar) -> None:
    gated = Gated()
    async with Server(gated) as server, shared.under(policy(server.url)) as sidecar, sidecar.client() as client:
        await client.send(b"GET /app HTTP/1.1\r\nHost: test\r\n\r\n")
        await until(lambda: server.requests)
        sidecar.write(policy(server.url, timeout={"request": "10ms"}))
        assert (await sidecar.ask("/reload", "POST")).status < 300
        gated.may_answer.set()
        assert (await client.response()).status == 200
        gated.may_answer.clear()
        assert (await client.request("GET", "/app")).status == 504


async def test_breakers_can_be_forced(shared: Sidecar) -> None:
    routes = {"app": {"circuit_breaker": {"consecutive_failures": 5}}}
    async with world(shared, {"app": echoing}, routes=routes) as w:
        (name,) = (await w.sidecar.state())["state"]["breaker"]
        for order, status in (("open", 503), ("close", 200), ("auto", 200)):
            assert (await w.sidecar.ask(f"/breakers/{name}/{order}", "POST")).status == 200
            assert (await w.sidecar.fetch("GET", "/app")).status == status


async def test_metrics_speak_of_what_happened(shared: Sidecar) -> None:
    async with world(shared, {"app": echoing}) as w:
        await w.sidecar.fetch("GET", "/app")
        page = (await w.sidecar.ask("/metrics")).body.decode()
        assert "http_server_request_duration" in page
        assert 'route="app"' in page


async def test_nobody_listens_where_it_has_not_bound(tmp_path: Path) -> None:
    async with Server(echoing) as server:
        taken = policies(upstreams={"app": {"endpoints": [server.url]}}, routes=[route("app")])
        taken["listeners"] = {"inbound": {"address": server.address}}
        with pytest.raises(AssertionError, match=f"{server.address}.*in use"):
            await started(taken, tmp_path).__aenter__()
