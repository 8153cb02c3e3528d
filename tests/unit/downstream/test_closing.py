"""Tests of closing: early and last answers arrive, and clients that neither read nor close are disconnected."""

from __future__ import annotations

import asyncio
import contextlib
import socket
from collections.abc import Callable
from pathlib import Path
from typing import Any, Final, cast

import pytest

from chaos.parts.client import PATIENCE
from sidecar.core.outcome import Outcome
from sidecar.downstream.backlog import unsent_bytes
from sidecar.downstream.closing import LINGER_SECONDS, RESET_ON_CLOSE, LingeringClose, reset
from sidecar.downstream.connection import DownstreamConnection
from sidecar.downstream.slow_clients import START_AFTER
from tests.support.authority import Authority
from tests.support.loop import settle, virtual
from tests.unit.downstream.front import CLOSE, GET, Front, always, post, streamed
from tests.wire.pipe import Pipe

SIZE: Final = 2 * 1024 * 1024
"""Bytes that exceed the buffers of these tests' sockets."""
OK = always(lambda x: Outcome(200, [(b"x-target", x.target)], b"hello"))


@pytest.mark.parametrize("drains", [False, True])
@virtual
async def test_a_slow_reader_gets_all_of_the_last_answer(drains: bool) -> None:
    front = Front(always(lambda x: Outcome(200, body=b"x" * 300_000)), {"body_timeout": "5s"})
    client = front.connect()
    client.transport.pause_reading()
    if drains:
        client.write(GET[:9])
        await settle()
        front.listener.drain()
    client.write(GET[9:] if drains else CLOSE)
    client.pair.right.split = 1000
    for _ in range(400):
        await asyncio.sleep(0.5)
        client.transport.resume_reading()
        await asyncio.sleep(0)
        client.transport.pause_reading()
        if front.is_empty:
            break
    client.transport.resume_reading()
    await settle(500)
    assert len((await client.answer()).body) == 300_000
    client.transport.close()
    await settle()
    assert front.is_empty


@pytest.mark.parametrize("lines", [(), (b"Connection: close",)])
@virtual
async def test_an_early_answer_reaches_a_client_that_is_still_sending(lines: tuple[bytes, ...]) -> None:
    front = Front(always(lambda x: Outcome(413, body=b"too much")))
    client = front.connect()
    client.write(post(b"x" * 1_000_000, *lines, sent=1000))
    await asyncio.sleep(START_AFTER)
    answer = await client.answer()
    assert (answer.status, answer.get("connection")) == (413, "close")
    assert client.is_eof, "no more is written"
    assert not client.is_lost, "the client can still read"
    client.write(b"x" * 500_000)
    await settle(30)
    assert not client.is_lost
    client.transport.close()
    await settle()
    assert client.error is None
    assert front.is_empty


@virtual
async def test_a_client_that_goes_on_sending_is_cut_off() -> None:
    front = Front(always(lambda x: Outcome(413)))
    client = front.connect()
    client.write(post(b"x" * 1_000_000, sent=1000))
    await asyncio.sleep(1)
    for _ in range(10):
        client.write(b"x" * 1000)
        await asyncio.sleep(0.5)
    assert client.is_lost
    assert front.is_empty


@virtual
async def test_what_follows_an_early_answer_is_not_a_request() -> None:
    front = Front(OK)
    client = front.connect()
    client.write(post(b"x" * 100_000, sent=10))
    await asyncio.sleep(START_AFTER)
    assert (await client.answer()).status == 200
    client.write(b"x" * 99_990 + GET)
    await settle()
    assert client.rest == b""
    assert len(front.records) == 1


@virtual
async def test_a_client_that_reads_again_while_it_is_closed_has_no_longer_for_it() -> None:
    front = Front(OK)
    connection, pipe = DownstreamConnection(front.listener), Pipe()
    connection.connection_made(pipe)
    connection.pause_writing()
    connection.data_received(CLOSE)
    assert pipe.closed == ""
    connection.resume_writing()
    assert pipe.closed == "closed"
    deadline = connection.expires
    connection.pause_writing()
    connection.resume_writing()
    assert connection.expires <= deadline + front.server.limits.body_timeout
    connection.expire(connection.expires)
    assert pipe.closed == "aborted"


class FakeTransport(asyncio.Transport):
    """Transport whose buffer has the size that a test sets."""

    def __init__(self, size: int = 0, **extra: Any) -> None:
        super().__init__(extra)
        self.size = size
        self.calls: list[str] = []

    def get_write_buffer_size(self) -> int:
        return self.size

    def set_protocol(self, protocol: asyncio.BaseProtocol) -> None:
        self.calls.append("set_protocol")

    def is_closing(self) -> bool:
        return False

    def can_write_eof(self) -> bool:
        return True

    def write_eof(self) -> None:
        self.calls.append("write_eof")

    def resume_reading(self) -> None:
        self.calls.append("resume_reading")

    def abort(self) -> None:
        self.calls.append("abort")


@virtual
async def test_lingering_ends_when_the_client_reads_no_more_or_too_slowly() -> None:
    front = Front(OK, {"body_timeout": "5s"})
    loop = asyncio.get_running_loop()

    async def linger(sizes: list[int]) -> float:
        transport = FakeTransport(sizes[0])
        lingering = LingeringClose(front.listener, transport)
        assert transport.calls == ["set_protocol", "write_eof", "resume_reading"]
        began = loop.time()
        for size in sizes:
            await asyncio.sleep(max(0.0, lingering.expires - loop.time()))
            transport.size = size
            lingering.expire(loop.time())
            if transport.calls[-1] == "abort":
                break
        return loop.time() - began

    assert await linger([0]) == LINGER_SECONDS, "the client has read everything and does not close"
    assert await linger([9000] * 9) == 6, "reads nothing"
    assert await linger([9000 - 1024 * i for i in range(99)]) == 8, "reads, but below the least rate"
    assert await linger([90_000 - 2048 * i for i in range(40)]) == 80, "reads at the least rate"
    assert await linger([9000, 5000, 2000, 0]) == 8


def test_unsent_bytes_are_those_of_the_transport_and_of_the_kernel() -> None:
    ours, theirs = socket.socketpair()
    with ours, theirs:
        assert unsent_bytes(FakeTransport(7, socket=ours, sslcontext=None)) == 7
        assert unsent_bytes(FakeTransport(0, socket=ours)) == 0
        assert unsent_bytes(FakeTransport(0, sslcontext=object())) == 0
    with socket.create_server(("127.0.0.1", 0)) as server, socket.socket() as client:
        client.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
        client.connect(server.getsockname())
        accepted, _ = server.accept()
        with accepted:
            accepted.setblocking(False)
            with contextlib.suppress(BlockingIOError):
                while True:
                    accepted.send(b"x" * 65536)
            queued = unsent_bytes(FakeTransport(0, socket=accepted))
            assert queued > 0
            assert unsent_bytes(FakeTransport(7, socket=accepted)) == queued + 7
            assert unsent_bytes(FakeTransport(0, socket=accepted, sslcontext=object())) == queued
        assert unsent_bytes(FakeTransport(0, socket=accepted, sslcontext=object())) == 0, "closed"


class Sender(asyncio.Protocol):
    """Server that sends `SIZE` bytes to each client at once."""

    def __init__(self) -> None:
        self.transport: asyncio.Transport

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self.transport = cast("asyncio.Transport", transport)
        self.transport.write(bytes(SIZE))


def loops() -> list[Callable[[], asyncio.AbstractEventLoop]]:
    try:
        import uvloop
    except ImportError:
        return [asyncio.new_event_loop]
    return [asyncio.new_event_loop, uvloop.new_event_loop]


@pytest.mark.parametrize("new_loop", loops())
def test_unsent_bytes_are_counted_beneath_a_real_tls_connection(
    new_loop: Callable[[], asyncio.AbstractEventLoop], tmp_path: Path
) -> None:
    ca = Authority(tmp_path / "ca")

    async def scenario() -> None:
        sender = Sender()
        listening, client = socket.socket(), socket.socket()
        for sock, option in ((listening, socket.SO_SNDBUF), (client, socket.SO_RCVBUF)):
            sock.setsockopt(socket.SOL_SOCKET, option, SIZE // 64)
            sock.setblocking(False)
        listening.bind(("127.0.0.1", 0))
        loop = asyncio.get_running_loop()
        server = await loop.create_server(lambda: sender, sock=listening, ssl=ca.server(ca.sign("app")))
        await loop.sock_connect(client, listening.getsockname())
        reader, writer = await asyncio.open_connection(sock=client, ssl=ca.client(), server_hostname="app", limit=1024)
        try:
            await reader.readexactly(1)
            assert sender.transport.get_write_buffer_size() == 0, "the TLS transport has passed everything on"
            assert unsent_bytes(sender.transport) > 0, "the client reads no more"
            await reader.readexactly(SIZE - 1)
            while unsent_bytes(sender.transport):  # the client's kernel has not acknowledged all bytes yet
                await asyncio.sleep(0.01)
        finally:
            sender.transport.abort()
            writer.transport.abort()
            server.close()
            await server.wait_closed()

    with asyncio.Runner(loop_factory=new_loop) as runner:
        runner.run(asyncio.wait_for(scenario(), PATIENCE))


@pytest.mark.parametrize("new_loop", loops())
def test_lingering_for_a_client_that_has_already_reset_the_connection(
    new_loop: Callable[[], asyncio.AbstractEventLoop],
) -> None:
    async def scenario() -> None:
        front = Front(OK)
        accepted = DownstreamConnection(front.listener)
        loop = asyncio.get_running_loop()
        server = await loop.create_server(lambda: accepted, "127.0.0.1", 0)
        client = socket.create_connection(server.sockets[0].getsockname())
        while accepted._transport is None:
            await asyncio.sleep(0)
        transport = accepted._transport
        client.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, RESET_ON_CLOSE)
        client.close()
        LingeringClose(front.listener, transport)
        while not transport.is_closing():
            await asyncio.sleep(0)
        server.close()
        await server.wait_closed()

    with asyncio.Runner(loop_factory=new_loop) as runner:
        runner.run(asyncio.wait_for(scenario(), PATIENCE))


def test_a_reset_is_seen_by_the_peer() -> None:
    with socket.create_server(("127.0.0.1", 0)) as server, socket.create_connection(server.getsockname()) as client:
        accepted, _ = server.accept()
        transport = FakeTransport(socket=accepted)
        reset(transport)
        assert transport.calls == ["abort"]
        accepted.close()  # as an abort does
        with pytest.raises(ConnectionResetError):
            client.recv(1)


def test_a_unix_socket_has_no_reset() -> None:
    ours, theirs = socket.socketpair()
    with ours, theirs:
        transport = FakeTransport(socket=ours)
        reset(transport)
        assert transport.calls == ["abort"]


@pytest.mark.parametrize("new_loop", loops())
def test_a_tls_client_is_behind_before_much_waits_for_it(
    new_loop: Callable[[], asyncio.AbstractEventLoop], tmp_path: Path
) -> None:
    """By default TLS transports buffer 512 KiB before they pause the writer."""
    ca = Authority(tmp_path / "ca")

    async def scenario() -> None:
        outcome, body, source = streamed(4_000_000)
        front = Front(always(outcome))
        listening, client = socket.socket(), socket.socket()
        for sock, option in ((listening, socket.SO_SNDBUF), (client, socket.SO_RCVBUF)):
            sock.setsockopt(socket.SOL_SOCKET, option, SIZE // 64)
            sock.setblocking(False)
        listening.bind(("127.0.0.1", 0))
        loop = asyncio.get_running_loop()
        accepted = DownstreamConnection(front.listener)
        server = await loop.create_server(lambda: accepted, sock=listening, ssl=ca.server(ca.sign("app")))
        await loop.sock_connect(client, listening.getsockname())
        _, writer = await asyncio.open_connection(sock=client, ssl=ca.client(), server_hostname="app", limit=1024)
        try:
            writer.write(GET)
            while not accepted.is_serving:
                await asyncio.sleep(0)
            while source.said != ["pause"]:
                body.feed(bytes(10_000))
                await asyncio.sleep(0)
            assert 10_000 < front.listener.slow.buffered < 50_000
        finally:
            accepted.abort()
            writer.transport.abort()
            server.close()
            await server.wait_closed()

    with asyncio.Runner(loop_factory=new_loop) as runner:
        runner.run(asyncio.wait_for(scenario(), PATIENCE))
