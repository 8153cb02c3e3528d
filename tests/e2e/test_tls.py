"""Tests of TLS on listeners and to upstreams, on uvloop and asyncio's own loop, with certificates that change."""

from __future__ import annotations

import asyncio
import contextlib
import importlib.util
import json
import os
import socket
import ssl
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import pytest
import pytest_asyncio

from chaos.parts import websocket as ws
from chaos.parts.client import PATIENCE, Client
from chaos.parts.http import Message, read_head, response
from chaos.parts.servers import Connection, Server, after, answering, echoing, resetting_mid_body
from chaos.parts.websocket import Frame
from tests.e2e.crowd import until
from tests.support.authority import Authority
from tests.support.files import replace
from tests.support.process import LOOP, NOTHING, Sidecar, policies, route, without_uvloop

pytestmark = pytest.mark.asyncio(loop_scope="module")

MIB = 2**20
Environment = dict[str, str]


@pytest.fixture(scope="module")
def ca(tmp_path_factory: pytest.TempPathFactory) -> Authority:
    return Authority(tmp_path_factory.mktemp("authority") / "ca")


@pytest.fixture(scope="module")
def stranger(tmp_path_factory: pytest.TempPathFactory) -> Authority:
    return Authority(tmp_path_factory.mktemp("authority") / "stranger")


@pytest.fixture(scope="module")
def no_uvloop() -> Environment:
    """Return the environment that selects asyncio's loop."""
    return without_uvloop()


@pytest.fixture(scope="module", params=["uvloop", "asyncio"])
def loop(request: pytest.FixtureRequest, no_uvloop: Environment) -> Environment:
    """Return the environment that selects the event loop."""
    if request.param == "uvloop":
        pytest.importorskip("uvloop")
        if LOOP == "asyncio":
            pytest.skip("TEST_LOOP=asyncio")
        return {}
    return no_uvloop


@pytest.fixture(scope="module")
def each_loop(no_uvloop: Environment) -> list[Environment]:
    """Return the environments of all loops, for tests that wait long and can therefore wait for all at once."""
    return [no_uvloop] if importlib.util.find_spec("uvloop") is None else [no_uvloop, {}]


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def shared_on_each(
    each_loop: list[Environment], tmp_path_factory: pytest.TempPathFactory
) -> AsyncIterator[list[Sidecar]]:
    """Yield a process on each loop at once, for the tests that wait long and do not end it."""
    async with contextlib.AsyncExitStack() as stack:
        starting = (Sidecar(NOTHING, tmp_path_factory.mktemp("sidecar"), env) for env in each_loop)
        yield [await stack.enter_async_context(sidecar) for sidecar in starting]


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def shared(loop: Environment, tmp_path_factory: pytest.TempPathFactory) -> AsyncIterator[Sidecar]:
    """Yield a process on each loop, for the tests that do not end it."""
    async with Sidecar(NOTHING, tmp_path_factory.mktemp("sidecar"), loop) as running:
        yield running


def policy(listener: dict[str, Any] | None, url: str, upstream: dict[str, Any] | None = None) -> dict[str, Any]:
    """Return policies with one route from a listener to an upstream, each with its `tls` settings."""
    inbound: dict[str, Any] = {"address": "127.0.0.1:0"}
    app: dict[str, Any] = {"endpoints": [url]}
    if listener is not None:
        inbound["tls"] = listener
    if upstream is not None:
        app["tls"] = upstream
    return policies(listeners={"inbound": inbound}, upstreams={"app": app}, routes=[route("app")])


def connect(sidecar: Sidecar, tls: ssl.SSLContext) -> Client:
    return Client(sidecar.inbound, tls=tls, server_name="localhost")


def serial(client: Client) -> str:
    """Return the serial number of the certificate that the client was shown."""
    shown: str = client.writer.get_extra_info("peercert")["serialNumber"]
    return shown


async def app(connection: Connection, request: Message) -> None:
    """Answer as the path says: a large body, an echo, a broken body, or a WebSocket."""
    if request.get("upgrade"):
        await ws.echo(connection, request)
    elif request.target == "/app/large":
        await connection.send(response(200, bytes(8 * MIB)))
    elif request.target == "/app/break":
        await resetting_mid_body(connection, request)
    else:
        await echoing(connection, request)


async def test_every_kind_of_exchange_passes_with_tls_on_both_sides(
    ca: Authority, loop: Environment, shared: Sidecar
) -> None:
    identity = ca.sign("localhost", "127.0.0.1")
    async with Server(app, tls=ca.server(identity)) as server:
        async with (
            shared.under(policy(identity, server.url, {"ca": ca.ca_file})) as sidecar,
            connect(sidecar, ca.client()) as client,
        ):
            assert ("uvloop" in Path(f"/proc/{sidecar.pid}/maps").read_text()) == (not loop)
            assert (await client.request("GET", "/app")).get("x-target") == "/app"
            answer = await client.request("POST", "/app", bytes(range(256)) * 8192)
            assert answer.body == bytes(range(256)) * 8192
            assert len((await client.request("GET", "/app/large")).body) == 8 * MIB
            assert len(server.connections) == 1, "the upstream connection is kept"
            assert server.requests[0].get("x-forwarded-proto") == "https"
            await client.send(ws.handshake("/app") + Frame(ws.TEXT, b"early", masked=True).encode())
            assert (await client.response()).status == 101
            assert (await asyncio.wait_for(ws.read_frame(client.reader), PATIENCE)).payload == b"early"
            await client.send(Frame(ws.TEXT, bytes(MIB), masked=True).encode())
            assert (await asyncio.wait_for(ws.read_frame(client.reader), PATIENCE)).payload == bytes(MIB)
            await client.send(Frame(ws.CLOSE, b"\x03\xe8", masked=True).encode())
            assert await asyncio.wait_for(ws.read_frame(client.reader), PATIENCE) == Frame(ws.CLOSE, b"\x03\xe8")
            assert await client.is_closed()


async def test_a_body_that_breaks_off_is_not_taken_for_whole(ca: Authority, shared: Sidecar) -> None:
    identity = ca.sign("localhost", "127.0.0.1")
    async with (
        Server(app, tls=ca.server(identity)) as server,
        shared.under(policy(identity, server.url, {"ca": ca.ca_file})) as sidecar,
        connect(sidecar, ca.client()) as client,
    ):
        await client.send(b"GET /app/break HTTP/1.1\r\nHost: test\r\n\r\n")
        assert (await read_head(client.reader)).get("content-length") == "10"
        assert await asyncio.wait_for(client.reader.read(-1), PATIENCE) in (b"", b"hello")


async def test_a_body_that_ends_with_the_connection_is_whole_only_after_a_close_notify(
    ca: Authority, shared: Sidecar
) -> None:
    async with (
        Server(until_close, tls=ca.server(ca.sign("127.0.0.1"))) as server,
        shared.under(policy(None, server.url, {"ca": ca.ca_file})) as sidecar,
        Client(sidecar.inbound) as client,
    ):
        assert (await client.request("GET", "/app/whole")).body == b"hello"
        await client.send(b"GET /app/cut HTTP/1.1\r\nHost: test\r\n\r\n")
        assert (await read_head(client.reader)).get("transfer-encoding") == "chunked"
        with contextlib.suppress(ConnectionResetError):
            assert not (await asyncio.wait_for(client.reader.read(-1), PATIENCE)).endswith(b"0\r\n\r\n")


async def until_close(connection: Connection, request: Message) -> None:
    """Send a body that ends with the connection; for the path `cut`, without a close_notify."""
    await connection.send(b"HTTP/1.1 200 OK\r\n\r\nhello")
    if request.target.endswith("/cut"):
        await asyncio.sleep(0.05)
        with socket.socket(fileno=os.dup(connection.writer.get_extra_info("socket").fileno())) as sock:
            sock.shutdown(socket.SHUT_WR)
        await connection.reader.read(-1)
    else:
        await connection.close()


async def test_what_is_not_http_is_answered_before_the_close(ca: Authority, shared_on_each: list[Sidecar]) -> None:
    identity = ca.sign("localhost")

    async def check(shared: Sidecar) -> None:
        async with (
            Server(answering()) as server,
            shared.under(policy(identity, server.url)) as sidecar,
            connect(sidecar, ca.client()) as client,
        ):
            await client.send(b"GET /app HTTP/1.1\r\nHost: a\r\nHost: b\r\n\r\n" + bytes(MIB))
            assert (await client.response()).status == 400
            assert await client.is_closed()

    await asyncio.gather(*map(check, shared_on_each))


async def test_a_drain_ends_tls_connections(tmp_path: Path, ca: Authority, each_loop: list[Environment]) -> None:
    """Drain with a client that answers the close, and with one that does not and must not hold it up."""
    identity = ca.sign("localhost")

    async def check(number: int, loop: Environment, reads: bool) -> None:
        place = tmp_path / f"{number}{reads}"
        place.mkdir()
        async with Server(answering()) as server:
            async with (
                Sidecar(policy(identity, server.url), place, loop) as sidecar,
                connect(sidecar, ca.client()) as client,
            ):
                assert (await client.request("GET", "/app")).status == 200
                if not reads:
                    client.writer.transport.pause_reading()
                assert await sidecar.stop() == 0
                if reads:
                    assert await client.is_closed()
            assert not sidecar.said("drain.expired")

    await asyncio.gather(*(check(n, loop, reads) for n, loop in enumerate(each_loop) for reads in (True, False)))


async def test_a_listener_may_ask_for_a_certificate(ca: Authority, stranger: Authority, shared: Sidecar) -> None:
    listener = {**ca.sign("localhost"), "client_ca": ca.ca_file}
    nobody, other = ca.client(), ca.client(stranger.sign("client"))
    async with Server(answering()) as server, shared.under(policy(listener, server.url)) as sidecar:
        for refused in (nobody, other):
            with pytest.raises((ssl.SSLError, ConnectionError, asyncio.IncompleteReadError)):
                async with connect(sidecar, refused) as client:
                    await client.request("GET", "/app")
        async with connect(sidecar, ca.client(ca.sign("client"))) as client:
            assert (await client.request("GET", "/app")).status == 200
        assert len(server.requests) == 1


async def test_the_sidecar_shows_its_certificate_to_an_upstream(ca: Authority, shared: Sidecar) -> None:
    tls = ca.server(ca.sign("localhost", "127.0.0.1"), asks=True)
    upstream = {"ca": ca.ca_file, **ca.sign("sidecar")}
    async with Server(answering(), tls=tls) as server:
        async with shared.under(policy(None, server.url, upstream)) as sidecar:
            assert (await sidecar.fetch("GET", "/app")).status == 200
        shown = server.connections[0].writer.get_extra_info("peercert")
        assert ("DNS", "sidecar") in shown["subjectAltName"]


async def test_an_upstream_is_asked_for_by_its_server_name(ca: Authority, shared: Sidecar) -> None:
    names: list[str | None] = []
    tls = ca.server(ca.sign("payments"))
    tls.sni_callback = lambda _, name, __: names.append(name)
    async with Server(answering(), tls=tls) as server:
        upstream = {"ca": ca.ca_file, "server_name": "payments"}
        async with shared.under(policy(None, server.url, upstream)) as sidecar:
            assert (await sidecar.fetch("GET", "/app")).status == 200
    assert names == ["payments"]


@pytest.mark.parametrize(
    ("signed", "knows_ca", "why"),
    [("elsewhere", True, "127.0.0.1"), ("127.0.0.1", False, "certificate verify failed")],
    ids=["name", "authority"],
)
async def test_an_upstream_that_is_not_who_it_should_be_gets_nothing(
    ca: Authority, shared: Sidecar, signed: str, knows_ca: bool, why: str
) -> None:
    async with Server(answering(), tls=ca.server(ca.sign(signed))) as server:
        async with shared.under(policy(None, server.url, {"ca": ca.ca_file} if knows_ca else {})) as sidecar:
            answer = await sidecar.fetch("GET", "/app")
        assert (answer.status, answer.get("x-sidecar-reason")) == (502, "connect_failure")
        assert why in json.loads(answer.body)["detail"], answer.body
        assert not server.requests


async def test_a_client_without_tls_is_closed_without_a_log_line(ca: Authority, shared: Sidecar) -> None:
    identity = ca.sign("localhost")
    async with Server(answering()) as server:
        async with shared.under(policy(identity, server.url)) as sidecar:
            async with sidecar.client() as plain:
                await plain.send(b"GET /app HTTP/1.1\r\nHost: test\r\n\r\n")
                assert await plain.is_closed()
            async with connect(sidecar, ca.client()) as client:
                assert (await client.request("GET", "/app")).status == 200
        assert not sidecar.noise, sidecar.noise


async def test_a_new_certificate_is_shown_to_new_connections_only(
    tmp_path: Path, ca: Authority, shared_on_each: list[Sidecar]
) -> None:
    async def check(shared: Sidecar) -> None:
        folder = tmp_path / str(shared_on_each.index(shared))
        identity = ca.sign("localhost", to=folder)
        async with (
            Server(answering()) as server,
            shared.under(policy(identity, server.url)) as sidecar,
            connect(sidecar, ca.client()) as before,
        ):
            assert (await before.request("GET", "/app")).status == 200
            ca.sign("localhost", to=folder)
            await sidecar.until("certificate.reloaded")
            assert (await before.request("GET", "/app")).status == 200
            async with connect(sidecar, ca.client()) as after:
                assert (await after.request("GET", "/app")).status == 200
                assert serial(after) != serial(before)

            good = (folder / "cert").read_bytes()
            replace(folder / "cert", "-----BEGIN CERTIFICATE-----\nhalf of it")
            failed = await sidecar.until("certificate.failed")
            assert str(folder) in failed["reason"]
            async with connect(sidecar, ca.client()) as still:
                assert (await still.request("GET", "/app")).status == 200
                assert serial(still) == serial(after)
            replace(folder / "cert", good)
            await sidecar.until("certificate.reloaded", 2)

    await asyncio.gather(*map(check, shared_on_each))


async def test_a_new_authority_counts_for_new_upstream_connections(
    tmp_path: Path, ca: Authority, stranger: Authority, shared: Sidecar
) -> None:
    trusted = tmp_path / "trusted.pem"
    trusted.write_bytes(Path(ca.ca_file).read_bytes())
    async with Server(answering(), tls=stranger.server(stranger.sign("127.0.0.1"))) as server:
        async with shared.under(policy(None, server.url, {"ca": str(trusted)})) as sidecar:
            assert (await sidecar.fetch("GET", "/app")).status == 502
            replace(trusted, Path(stranger.ca_file).read_bytes())
            await sidecar.until("certificate.reloaded")
            assert (await sidecar.fetch("GET", "/app")).status == 200


async def test_a_listener_takes_other_tls_settings_by_a_reload(ca: Authority, shared: Sidecar) -> None:
    async with Server(after(0.5, answering())) as server:
        async with shared.under(policy(None, server.url)) as sidecar, sidecar.client() as old:
            await old.send(b"GET /app HTTP/1.1\r\nHost: test\r\n\r\n")
            await until(lambda: server.requests)
            sidecar.write(policy(ca.sign("localhost"), server.url))
            answer = await sidecar.ask("/reload", "POST")
            assert answer.status == 200, answer.body
            async with connect(sidecar, ca.client()) as client:
                assert (await client.request("GET", "/app")).status == 200
            assert (await old.response()).status == 200, "what was under way ends as it began"
            assert await old.is_closed()
            page = (await sidecar.ask("/metrics")).body.decode()
            assert page.count('sidecar_downstream_connections{listener="inbound"}') == 1


async def test_a_client_that_shakes_no_hands_is_counted_and_let_go_of(ca: Authority, shared: Sidecar) -> None:
    limits = {"max_connections": 3, "header_timeout": "1s"}
    async with Server(answering()) as server:
        rules = {**policy(ca.sign("localhost"), server.url), "limits": limits}
        async with shared.under(rules) as sidecar, contextlib.AsyncExitStack() as stack:
            silent = [await stack.enter_async_context(sidecar.client()) for _ in range(3)]
            with pytest.raises((ssl.SSLError, ConnectionError)):
                await stack.enter_async_context(connect(sidecar, ca.client()))
            assert all(await asyncio.gather(*(client.is_closed() for client in silent)))
            async with asyncio.timeout(PATIENCE):  # a client sees the close a moment before its place is free
                while (
                    b'sidecar_downstream_connections{listener="inbound"} 0' not in (await sidecar.ask("/metrics")).body
                ):
                    await asyncio.sleep(0.01)
            async with connect(sidecar, ca.client()) as client:
                assert (await client.request("GET", "/app")).status == 200


async def test_a_reader_that_stalls_gets_the_whole_of_a_last_response(
    ca: Authority, shared_on_each: list[Sidecar]
) -> None:
    """A TLS close waits for the client's close_notify, long enough for all written bytes to arrive.

    Buffers decide how much the kernel has accepted when the sidecar has written all, so several sizes are tried.
    """

    async def missing(sidecar: Sidecar, stall_at: int) -> int:
        host, _, port = sidecar.inbound.rpartition(":")
        narrow = socket.socket()
        narrow.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
        narrow.connect((host, int(port)))
        narrow.setblocking(False)
        reader, writer = await asyncio.open_connection(sock=narrow, ssl=ca.client(), server_hostname="localhost")
        writer.write(b"GET /app/large HTTP/1.1\r\nHost: test\r\nConnection: close\r\n\r\n")
        left = int((await read_head(reader)).get("content-length"))
        for pause in (0, 3):
            await asyncio.sleep(pause)
            while left > (0 if pause else stall_at) and (data := await reader.read(16384)):
                left -= len(data)
        writer.transport.abort()
        with contextlib.suppress(OSError):
            await writer.wait_closed()
        return left

    async def check(shared: Sidecar) -> None:
        async with Server(app) as server, shared.under(policy(ca.sign("localhost"), server.url)) as sidecar:
            lost = await asyncio.gather(*(missing(sidecar, n * MIB // 2) for n in range(16)))
            assert lost == [0] * len(lost)

    await asyncio.gather(*map(check, shared_on_each))
