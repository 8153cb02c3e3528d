"""Tests of clients that shut down their sending side, as `nc` and old health checkers do, on both event loops."""

from __future__ import annotations

import asyncio
import logging
import socket
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from sidecar.core.exchange import Exchange
from sidecar.core.outcome import Outcome
from sidecar.downstream.connection import DownstreamConnection
from sidecar.downstream.tls_acceptor import TlsAcceptor
from tests.e2e.test_early_answers import loops
from tests.support.authority import Authority
from tests.unit.downstream.front import GET, Front, streamed

ENOUGH = 60.0


class Slow:
    """Service that answers after the client's end of stream has arrived."""

    def __init__(self, outcome: Callable[[], Outcome] | None = None) -> None:
        self.outcome = outcome or (lambda: Outcome(200, body=b"hello"))
        self.called = asyncio.Event()
        self.ended = asyncio.Event()
        self.cancelled = 0

    async def __call__(self, x: Exchange) -> Outcome:
        self.called.set()
        try:
            await asyncio.sleep(0.2 if x.path == b"/" else ENOUGH)
        except asyncio.CancelledError:
            self.cancelled += 1
            raise
        finally:
            self.ended.set()
        return self.outcome()


async def connect(front: Front) -> tuple[asyncio.Server, asyncio.StreamReader, asyncio.StreamWriter]:
    loop = asyncio.get_running_loop()
    server = await loop.create_server(lambda: DownstreamConnection(front.listener), "127.0.0.1", 0)
    return server, *await asyncio.open_connection(*server.sockets[0].getsockname())


async def ask(sent: bytes) -> bytes:
    front = Front(Slow())
    server, reader, writer = await connect(front)
    writer.write(sent)
    writer.write_eof()
    received = await asyncio.wait_for(reader.read(-1), ENOUGH)
    server.close()
    writer.close()
    return received


async def follow() -> tuple[bytes, bool]:
    """Read a stream whose pieces arrive after the client's end of stream, then disconnect."""
    outcome, body, source = streamed()
    front = Front(Slow(lambda: outcome))
    server, reader, writer = await connect(front)
    writer.write(GET)
    writer.write_eof()
    received = await asyncio.wait_for(reader.readuntil(b"\r\n\r\n"), ENOUGH)
    for _ in range(3):
        body.feed(b"piece")
        received += await asyncio.wait_for(reader.readuntil(b"piece\r\n"), ENOUGH)
    writer.transport.abort()
    while not source.said:  # writing to a closed connection fails
        body.feed(b"piece")
        await asyncio.sleep(0.01)
    server.close()
    return received, front.is_empty


async def leave() -> tuple[int, list[str]]:
    service = Slow()
    front = Front(service, {"half_close_timeout": "100ms"})
    server, _, writer = await connect(front)
    writer.write(GET.replace(b"/ ", b"/long "))
    await asyncio.wait_for(service.called.wait(), ENOUGH)
    writer.close()
    await asyncio.wait_for(service.ended.wait(), ENOUGH)
    server.close()
    return service.cancelled, [record.reason for record in front.records]


async def leave_tls(authority: Authority) -> int:
    service = Slow()
    front = Front(service)
    loop = asyncio.get_running_loop()
    listening = socket.create_server(("127.0.0.1", 0))
    listening.setblocking(False)
    server = TlsAcceptor(front.listener, listening, authority.server(authority.sign("localhost")))
    await server.start_serving()

    def client() -> None:
        with socket.create_connection(listening.getsockname(), ENOUGH) as plain:
            secure = authority.client().wrap_socket(plain, server_hostname="localhost")
            secure.sendall(GET.replace(b"/ ", b"/long "))
            asyncio.run_coroutine_threadsafe(service.called.wait(), loop).result(ENOUGH)
            secure.unwrap().close()

    await asyncio.to_thread(client)
    await asyncio.wait_for(service.ended.wait(), ENOUGH)
    server.close()
    return service.cancelled


def run(factory: Callable[[], Any], coroutine: Any) -> Any:
    with asyncio.Runner(loop_factory=factory) as runner:
        return runner.run(coroutine)


@pytest.mark.parametrize("factory", loops())
@pytest.mark.parametrize("count", [1, 3])
def test_whole_requests_before_the_end_are_answered(factory: Callable[[], Any], count: int) -> None:
    received = run(factory, ask(GET * count))
    assert received.count(b"HTTP/1.1 200 OK\r\n") == received.count(b"hello") == count
    assert received.count(b"connection: close\r\n") == 1
    assert run(factory, ask(GET[:-2])) == b"", "this one is not whole"


@pytest.mark.parametrize("factory", loops())
def test_a_stream_goes_on_after_the_end_until_the_client_has_left(factory: Callable[[], Any]) -> None:
    received, is_empty = run(factory, follow())
    assert received.count(b"piece") == 3
    assert is_empty


@pytest.mark.parametrize("factory", loops())
def test_a_client_that_has_left_is_waited_for_within_bounds(factory: Callable[[], Any]) -> None:
    assert run(factory, leave()) == (1, ["client_closed"])


@pytest.mark.parametrize("factory", loops())
def test_a_close_notify_ends_both_directions(
    factory: Callable[[], Any], tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    with caplog.at_level(logging.WARNING):
        assert run(factory, leave_tls(Authority(tmp_path / "ca"))) == 1
    assert caplog.records == [], "the loops warn of a protocol that wants to go on"
