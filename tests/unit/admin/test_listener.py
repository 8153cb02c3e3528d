"""Connections of the admin listener: probes that it answers itself, and all others, which it hands to aiohttp."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from typing import Any

import pytest

from chaos.parts.client import Client, fetch, request
from sidecar.admin import listener as module
from sidecar.admin.listener import IDLE_SECONDS, MAX_PROBE_BYTES, AdminListener, ProbeConnection, is_unfinished_probe
from sidecar.config.process_spec import AdminSpec
from sidecar.core.events import BUG
from sidecar.core.metrics import BUGS
from tests.support.cases import each
from tests.unit.admin.test_app import World


class Fixture:
    """A listener whose loads of the application are counted."""

    def __init__(self, world: World, listener: AdminListener) -> None:
        self.world = world
        self.listener = listener
        self.address = ""
        self.loads = 0
        self.error: Exception | None = None


@pytest.fixture
async def admin(monkeypatch: pytest.MonkeyPatch) -> AsyncIterator[Fixture]:
    world = World()
    fixture = Fixture(world, AdminListener(world.view))
    load = module._import_admin

    def counted() -> Any:
        fixture.loads += 1
        if fixture.error is not None:
            raise fixture.error
        return load()

    monkeypatch.setattr(module, "_import_admin", counted)
    await fixture.listener.open(AdminSpec(address="127.0.0.1:0"))
    fixture.address = fixture.listener.addresses[0]
    yield fixture
    await fixture.listener.close()


async def test_probes_do_without_the_application(admin: Fixture) -> None:
    for method, target, body in (
        ("GET", "/livez", b"alive\n"),
        ("GET", "/readyz", b"ready\n"),
        ("HEAD", "/readyz", b""),
    ):
        async with Client(admin.address) as client:
            answer = await client.request(method, target, user_agent="kube-probe/1.31", accept="*/*")
            assert (answer.status, answer.body) == (200, body)
            assert answer.get("content-type") == "text/plain; charset=utf-8"
            assert answer.get("content-length") == "6"
            assert answer.get("cache-control") == "no-store"
            assert await client.is_closed()
    admin.world.readiness.obstacle = "draining since SIGTERM"
    answer = await fetch(admin.address, "GET", "/readyz")
    assert (answer.status, answer.get("content-type")) == (503, "application/problem+json; charset=utf-8")
    assert b'"detail": "draining since SIGTERM"' in answer.body
    assert (await fetch(admin.address, "GET", "/livez")).status == 200
    assert admin.loads == 0


async def test_a_probe_may_come_in_pieces(admin: Fixture) -> None:
    async with Client(admin.address) as client:
        for byte in request("GET", "/readyz"):
            await client.send(bytes((byte,)))
            await asyncio.sleep(0)
        assert (await client.response()).body == b"ready\n"
    assert admin.loads == 0


async def test_whatever_differs_from_a_probe_is_for_the_application(admin: Fixture) -> None:
    async with Client(admin.address) as client:
        assert (await client.request("POST", "/livez")).status == 405
    async with Client(admin.address) as client:
        assert (await client.request("GET", "/readyz?verbose")).body == b"ready\n"
    async with Client(admin.address) as client:
        assert (await client.request("GET", "/livez", b"body")).body == b"alive\n"
    async with Client(admin.address) as client:
        await client.send(request("GET", "/livez") + request("GET", "/state"))
        assert (await client.response()).body == b"alive\n"
        assert (await client.response()).status == 200
    async with Client(admin.address) as client:
        assert (await client.request("GET", "/livez", x_long="a" * MAX_PROBE_BYTES)).status == 400
    async with Client(admin.address) as client:
        await client.send(b"GET /livez HTTP/1.1\r\nhost: test\r\nbad field: 1\r\n\r\n")
        assert (await client.response()).status == 400
    assert admin.loads == 1


async def test_the_application_is_loaded_once_for_all_who_wait(admin: Fixture) -> None:
    answers = await asyncio.gather(*(fetch(admin.address, "GET", "/state") for _ in range(5)))
    assert [answer.status for answer in answers] == [200] * 5
    assert (await fetch(admin.address, "GET", "/state")).status == 200
    assert admin.loads == 1


async def test_an_application_that_cannot_be_loaded_is_a_bug_and_is_tried_again(admin: Fixture) -> None:
    admin.error = ImportError("no aiohttp")
    answer = await fetch(admin.address, "GET", "/state")
    assert (answer.status, answer.get("content-type")) == (500, "application/problem+json; charset=utf-8")
    (event,) = admin.world.env.emitted(BUG)
    assert (event["where"], event["error"]) == ("admin listener", admin.error)
    assert admin.world.env.meter.value(BUGS, where="admin") == 1
    assert (await fetch(admin.address, "GET", "/readyz")).status == 200
    admin.error = None
    assert (await fetch(admin.address, "GET", "/state")).status == 200


class Transport:
    def __init__(self) -> None:
        self.is_closed = False

    def close(self) -> None:
        self.is_closed = True

    def is_closing(self) -> bool:
        return self.is_closed


async def test_a_silent_connection_is_closed() -> None:
    world = World()
    transport = Transport()
    timers: list[tuple[float, Any]] = []
    world.env.call_later = lambda seconds, function: timers.append((seconds, function))
    connection = ProbeConnection(AdminListener(world.view), world.view)
    connection.connection_made(transport)  # type: ignore[arg-type]
    ((seconds, expire),) = timers
    assert seconds == IDLE_SECONDS
    expire()
    assert transport.is_closed


@each(
    [
        (b"", True), (b"G", True), (b"GET /live", True), (b"HEAD /readyz HTTP/1.", True),
        (b"GET /readyz HTTP/1.1\r\n", True), (b"GET /readyz HTTP/1.1\r\nHost: a\r\n", True),
        (b"GET /readyz HTTP/1.1\r\nHost: a\r\n\r\n", False), (b"GET /state", False), (b"POST", False),
        (b"GET /readyz HTTP/2.0\r\n", False), (b"GET /readyz?", False), (b"\x16\x03\x01", False),
        (b"GET /livez HTTP/1.1\r\nX: " + b"a" * MAX_PROBE_BYTES, False),
    ]
)  # fmt: skip
def test_the_beginning_of_a_probe(case: tuple[bytes, bool]) -> None:
    received, is_unfinished = case
    assert is_unfinished_probe(received) is is_unfinished
