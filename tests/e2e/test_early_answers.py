"""Tests of early answers on real sockets in this process, since the kernel decides their course.

A server that answers and closes without reading the rest of the body resets the connection.  Its answer must be read
nevertheless, also if a write notices the reset.  Bytes that a TLS transport reports as sent may still be in this
process.
"""

from __future__ import annotations

import asyncio
import socket
import threading
import time
from collections.abc import Callable, Coroutine, Iterator
from dataclasses import replace
from types import SimpleNamespace
from typing import Any

import pytest

from sidecar.core.body import Body
from sidecar.core.exchange import Exchange
from sidecar.core.outcome import Outcome
from sidecar.upstream.connection import UpstreamConnection
from sidecar.upstream.deadlines import Deadlines
from sidecar.upstream.pool import Pool
from tests.support.clock import make_env
from tests.support.receiver import exchanged

ANSWER = b"HTTP/1.1 413 Content Too Large\r\nContent-Length: 2\r\n\r\nno"


@pytest.fixture
def server() -> Iterator[tuple[tuple[str, int], threading.Event]]:
    """Run a server that answers one connection after its first bytes and closes it with the rest unread.

    Yields its address and an event that is set once it has closed.
    """
    closed = threading.Event()

    def serve() -> None:
        connection, _ = listening.accept()
        with connection:
            connection.recv(1000)
            connection.sendall(ANSWER)
        closed.set()

    with socket.create_server(("127.0.0.1", 0)) as listening:
        thread = threading.Thread(target=serve)
        thread.start()
        yield listening.getsockname(), closed
        thread.join(60)


async def ask(address: tuple[str, int], closed: threading.Event) -> Outcome:
    loop = asyncio.get_running_loop()
    env = replace(make_env(), call_later=loop.call_later)
    pool = Pool("http://a", env, Deadlines(env), lambda _: loop.create_future())
    connection = UpstreamConnection(pool)
    await loop.create_connection(lambda: connection, *address)
    x = Exchange(b"POST", b"/", [])
    source: Any = SimpleNamespace(pause_body=lambda: None, resume_body=lambda: None, cancel_body=lambda: None)
    x.stream = Body(source, 10_000_000)
    promise = exchanged(connection, x, float("inf"), 0.0)
    x.stream.feed(b"x" * 60_000)
    closed.wait(60)  # blocks the loop on purpose: its next action must be a write, not a read
    for _ in range(5):
        x.stream.feed(b"x" * 60_000)
        time.sleep(0.005)
    return await asyncio.wait_for(asyncio.ensure_future(_await(promise)), 60)


async def _await(promise: Any) -> Any:
    return await promise


def loops() -> list[Callable[[], asyncio.AbstractEventLoop]]:
    factories: list[Callable[[], asyncio.AbstractEventLoop]] = [asyncio.new_event_loop]
    try:
        import uvloop
    except ImportError:
        return factories
    return [*factories, uvloop.new_event_loop]


@pytest.mark.parametrize("factory", loops())
def test_the_answer_is_read(factory: Callable[[], Any], server: tuple[tuple[str, int], threading.Event]) -> None:
    run: Coroutine[Any, Any, Outcome] = ask(*server)
    with asyncio.Runner(loop_factory=factory) as runner:
        outcome = runner.run(run)
    assert (outcome.status, outcome.body) == (413, b"no")
