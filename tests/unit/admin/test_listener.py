"""Tests of admin connections: probes are answered by the listener, all others go to aiohttp."""

from __future__ import annotations

import asyncio
import re
from collections.abc import AsyncIterator, Callable
from contextlib import AsyncExitStack
from pathlib import Path
from typing import Any

import pytest

from chaos.parts.client import Client, fetch, request
from sidecar.admin import listener as module
from sidecar.admin.listener import MAX_PROBE_BYTES, AdminListener, is_unfinished_head
from sidecar.config.process_spec import AdminSpec
from sidecar.core.events import ADMIN_FAILED, BUG
from sidecar.core.metrics import BUGS
from sidecar.core.spec import SecretFile
from tests.support.cases import each
from tests.unit.admin.test_app import World


class Fixture:
    """Listener whose loads of the application are counted."""

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
    monkeypatch.setattr(module, "SWEEP_SECONDS", 0.02)  # deadlines are checked soon, not after seconds
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


async def until(condition: Callable[[], object]) -> None:
    """Wait until the condition holds."""
    async with asyncio.timeout(30):
        while not condition():
            await asyncio.sleep(0.01)


HALVES = (
    b"GET /state HTTP/1.1\r\nHost: localhost\r\n", b"GET /livez HTTP/1.1\r\nHost: localhost\r\n", b"POST", b"\x16",
)  # fmt: skip


@pytest.mark.parametrize("half", HALVES)
async def test_a_head_that_does_not_arrive_has_a_deadline(admin: Fixture, half: bytes) -> None:
    admin.world.limits = {"header_timeout": "100ms"}
    async with Client(admin.address) as client:
        await client.send(half[:1])
        await client.send(half[1:])
        answer = await client.response()
        assert (answer.status, answer.get("content-type")) == (408, "application/problem+json; charset=utf-8")
        assert await client.is_closed()


async def test_a_second_head_has_a_deadline_too(admin: Fixture) -> None:
    admin.world.limits = {"header_timeout": "100ms"}
    async with Client(admin.address) as client:
        assert (await client.request("GET", "/state")).status == 200
        await client.send(HALVES[0])
        assert (await client.response()).status == 408
        assert await client.is_closed()


@pytest.mark.parametrize("asks_first", [False, True])
async def test_an_idle_connection_is_closed(admin: Fixture, asks_first: bool) -> None:
    admin.world.limits = {"idle_timeout": "100ms"}
    async with Client(admin.address) as client:
        if asks_first:
            assert (await client.request("GET", "/metrics")).status == 200
        assert await client.is_closed()


async def half_closed(address: str, *sent: bytes) -> bytes:
    """Send requests one after the other, the last with the end of the stream; return all bytes received."""
    host, _, port = address.rpartition(":")
    reader, writer = await asyncio.open_connection(host, int(port))
    received = b""
    async with asyncio.timeout(30):
        for data in sent[:-1]:
            writer.write(data)
            head = await reader.readuntil(b"\r\n\r\n")
            (length,) = re.findall(rb"(?i)\r\ncontent-length: (\d+)\r\n", head)
            received += head + await reader.readexactly(int(length))
        writer.write(sent[-1])
        writer.write_eof()
        received += await reader.read()
    writer.close()
    return received


@pytest.mark.parametrize("target", ["/livez", "/state", "/metrics", "/", "/nothing-of-the-kind"])
@pytest.mark.parametrize("before", [0, 1])
async def test_a_client_that_ends_its_side_gets_its_answer(admin: Fixture, target: str, before: int) -> None:
    admin.world.limits = {
        "idle_timeout": "30s",
        "half_close_timeout": "10s" if target != "/nothing-of-the-kind" else "1s",
    }
    answers = await half_closed(admin.address, *[request("GET", "/state")] * before, request("GET", target))
    assert answers.count(b"HTTP/1.1 ") == 1 + before
    head, _, body = answers.rpartition(b"HTTP/1.1 ")[2].partition(b"\r\n\r\n")
    assert head.startswith(b"404" if "nothing" in target else b"200")
    assert f"content-length: {len(body)}\r\n".encode() in head.lower() + b"\r\n"
    await until(lambda: not admin.listener._connections)


@pytest.mark.parametrize(
    "data",
    [*HALVES, b"POST /reload HTTP/1.1\r\nHost: localhost\r\nContent-Length: 5\r\n\r\n123", request("GET", "/live")],
)
async def test_one_whose_request_is_not_whole_or_has_no_end_is_gone_within_moments(admin: Fixture, data: bytes) -> None:
    admin.world.limits = {"idle_timeout": "30s", "header_timeout": "30s", "half_close_timeout": "200ms"}
    await half_closed(admin.address, data)
    await until(lambda: not admin.listener._connections and not admin.listener.feed.pages)


async def test_the_end_may_count_as_leaving(admin: Fixture) -> None:
    admin.world.limits = {"half_close_timeout": "0s", "idle_timeout": "30s"}
    assert (await half_closed(admin.address, request("GET", "/state"))).count(b"HTTP/1.1 ") == 0


async def test_a_page_that_is_read_has_no_deadline_and_one_that_is_not_has(admin: Fixture) -> None:
    admin.world.limits = {"idle_timeout": "10ms", "header_timeout": "10ms", "body_timeout": "10ms"}
    async with Client(admin.address) as client:
        await client.send(request("GET", "/live"))
        await until(lambda: admin.listener.feed.pages)
        for _ in range(3):
            admin.listener._sweep()
            await asyncio.sleep(0.02)
        (connection,) = admin.listener._connections
        assert admin.listener.feed.pages == 1
        connection.pause_writing()  # as the transport does once its buffer is full
        await asyncio.sleep(0.02)
        admin.listener._sweep()
        await until(lambda: not admin.listener.feed.pages)


async def test_connections_that_wait_make_room_and_those_that_are_served_do_not(
    admin: Fixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(module, "share", lambda part, most: 4)
    async with AsyncExitStack() as stack:
        pages = [await stack.enter_async_context(Client(admin.address)) for _ in range(3)]
        for page in pages:
            await page.send(request("GET", "/live"))
        await until(lambda: admin.listener.feed.pages == 3)
        for _ in range(20):
            half = await stack.enter_async_context(Client(admin.address))
            await half.send(HALVES[0])
        assert (await fetch(admin.address, "GET", "/readyz")).status == 200, "a probe gets through"
        assert (await fetch(admin.address, "GET", "/state")).status == 200
        assert len(admin.listener._connections) <= 4
        assert admin.listener.feed.pages == 3
        last = await stack.enter_async_context(Client(admin.address))
        await last.send(request("GET", "/live"))
        await until(lambda: admin.listener.feed.pages == 4)
        answer = await fetch(admin.address, "GET", "/readyz")
        assert (answer.status, b"too many connections" in answer.body) == (503, True)
    await until(lambda: not admin.listener._connections)


async def test_pages_leave_room_for_probes(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "share", lambda part, most: 8)
    world = World()
    listener = AdminListener(world.view)
    await listener.open(AdminSpec(address="127.0.0.1:0"))
    assert listener.feed.max_pages == 6
    await listener.close()


async def test_the_reserve_of_descriptors_holds(admin: Fixture, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "are_scarce", lambda sock, *, is_admin: True)
    assert (await fetch(admin.address, "GET", "/readyz")).status == 503
    assert not admin.listener._connections


@pytest.mark.parametrize("target", ["/livez", "/readyz", "/readyz?x", "/state", "/metrics", "/live", "/", "/nowhere"])
async def test_names_are_misdirected_for_every_target(admin: Fixture, target: str) -> None:
    for method in ("GET", "HEAD", "POST", "OPTIONS"):
        answer = await fetch(admin.address, method, target, host="evil.example:9901")
        assert answer.status == 421, (method, target)
        assert method == "HEAD" or b"admin.hosts" in answer.body
    for scheme in ("http", "HTTP", "https", "ws"):
        whole = f"{scheme}://evil.example{target}"
        assert (await fetch(admin.address, "GET", whole, host="127.0.0.1")).status == 421, scheme


async def test_a_listed_name_passes_and_so_do_its_buttons() -> None:
    world = World()
    listener = AdminListener(world.view)
    await listener.open(AdminSpec(address="127.0.0.1:0", hosts=("orders.prod.svc",)))
    for target in ("/readyz", "/state"):
        assert (await fetch(listener.addresses[0], "GET", target, host="Orders.prod.svc:9901")).status == 200
    own = {"host": "orders.prod.svc", "origin": "http://orders.prod.svc", "sec_fetch_site": "same-origin"}
    assert (await fetch(listener.addresses[0], "POST", "/reload", **own)).status == 200
    await listener.close()


async def test_a_rotated_token_counts_once_it_is_renewed(tmp_path: Path) -> None:
    world, file = World(), tmp_path / "token"
    file.write_text("old-token\n")
    listener = AdminListener(world.view)
    await listener.open(AdminSpec(address="127.0.0.1:0", token=SecretFile(file=str(file))))

    async def status(token: str) -> int:
        return (await fetch(listener.addresses[0], "GET", "/state", authorization=f"Bearer {token}")).status

    file.write_text("new-token\n")
    assert (await status("old-token"), await status("new-token")) == (200, 401)
    await listener.renew()
    assert (await status("old-token"), await status("new-token")) == (401, 200)
    assert "new-token" not in world.view.secrets.text("it is new-token")
    for spoil in (lambda: file.write_text("\n"), file.unlink):
        spoil()
        await listener.renew()
        assert await status("new-token") == 200, "the token stays"
    causes = [event["cause"] for event in world.env.emitted(ADMIN_FAILED)]
    assert causes == ["the file is empty", "no such file or directory"]
    await listener.close()


@each(
    [
        (b"", True), (b"G", True), (b"GET /live", True), (b"GET /state", True), (b"\x16\x03\x01", True),
        (b"GET /readyz HTTP/1.1\r\nHost: a\r\n", True), (b"GET /readyz HTTP/1.1\r\nHost: a\r\n\r\n", False),
        (b"GET /state HTTP/1.0\n\n", False), (b"GET /livez HTTP/1.1\r\nX: " + b"a" * MAX_PROBE_BYTES, False),
    ]
)  # fmt: skip
def test_the_beginning_of_a_request(case: tuple[bytes, bool]) -> None:
    received, is_unfinished = case
    assert is_unfinished_head(received) is is_unfinished
