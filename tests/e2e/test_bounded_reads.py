"""Tests that one read of an upstream's socket is bounded: real sockets in this process, each event loop, and TLS."""

from __future__ import annotations

import asyncio
import socket
import ssl
import threading
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from sidecar.core.exchange import Exchange
from sidecar.core.message import Headers
from sidecar.core.outcome import Failure, Outcome
from sidecar.upstream.connection import READ_BYTES, UpstreamConnection
from sidecar.upstream.deadlines import Deadlines
from sidecar.upstream.pool import Pool
from tests.e2e.test_early_answers import loops
from tests.support.authority import Authority
from tests.support.clock import make_env
from tests.support.receiver import exchanged

FIRST, SECOND = 400_000, 180_000
"""Bytes of the first answer on a connection, and of the second one, which event loops would read at once."""


class Upstream:
    """Upstream that answers the requests of one connection; `sent` is set once the second answer is sent."""

    def __init__(self, context: ssl.SSLContext | None) -> None:
        self.sent = threading.Event()
        self.listening = socket.create_server(("127.0.0.1", 0))
        self.context = context
        self.thread = threading.Thread(target=self.serve)
        self.thread.start()

    def serve(self) -> None:
        accepted, _ = self.listening.accept()
        with accepted if self.context is None else self.context.wrap_socket(accepted, server_side=True) as connection:
            for size in (FIRST, SECOND):
                connection.recv(1000)
                connection.sendall(b"HTTP/1.1 200 OK\r\nContent-Length: %d\r\n\r\n" % size + bytes(size))
            self.sent.set()
            connection.recv(1000)


class Pieces:
    """Sink that notes how large the pieces of a body are."""

    def __init__(self, outcome: Outcome) -> None:
        self.sizes: list[int] = [len(outcome.body)] if outcome.body else []
        self.ended: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        if outcome.stream is None:
            self.ended.set_result(None)
        else:
            outcome.stream.attach(self)

    def write(self, data: bytes) -> None:
        self.sizes.append(len(data))

    def finish(self, trailers: Headers) -> None:
        self.ended.set_result(None)

    def fail(self, failure: Failure) -> None:
        self.ended.set_exception(AssertionError(failure))


async def ask(upstream: Upstream, secured: dict[str, Any]) -> list[int]:
    """Ask for both answers on one connection; return the sizes of the pieces of the second."""
    loop = asyncio.get_running_loop()
    env = replace(make_env(), call_later=loop.call_later)
    pool = Pool("http://a", env, Deadlines(env), lambda _: loop.create_future())
    connection = UpstreamConnection(pool)
    sock = socket.socket()
    sock.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 2 * SECOND)
    sock.connect(upstream.listening.getsockname())
    sock.setblocking(False)
    transport, _ = await loop.create_connection(lambda: connection, sock=sock, **secured)
    sizes: list[int] = []
    for size in (FIRST, SECOND):
        promise = exchanged(connection, Exchange(b"GET", b"/", []), float("inf"), env.now())
        if size == SECOND:
            await asyncio.sleep(0)
            upstream.sent.wait(60)  # blocks the loop on purpose: all bytes must arrive before the next read
        pieces = Pieces(await promise)
        await pieces.ended
        sizes = pieces.sizes
        assert sum(sizes) == size
    connection.close()
    transport.abort()
    while not connection.is_closing():
        await asyncio.sleep(0)
    await asyncio.sleep(0)
    return sizes


@pytest.fixture(params=[False, True], ids=["plain", "TLS"])
def upstream(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[tuple[Upstream, dict[str, Any]]]:
    secured: dict[str, Any] = {}
    context = None
    if request.param:
        ca = Authority(tmp_path / "ca")
        context = ca.server(ca.sign("app"))
        secured = {"ssl": ca.client(), "server_hostname": "app"}
    server = Upstream(context)
    with server.listening:
        yield server, secured
        server.thread.join(60)


@pytest.mark.parametrize("factory", loops())
def test_a_connection_that_has_carried_a_long_answer_reads_no_more_than_this_at_once(
    factory: Callable[[], Any], upstream: tuple[Upstream, dict[str, Any]]
) -> None:
    with asyncio.Runner(loop_factory=factory) as runner:
        sizes = runner.run(asyncio.wait_for(ask(*upstream), 60))
    assert max(sizes) <= READ_BYTES
