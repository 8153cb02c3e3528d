"""What the kernel decides, on real sockets in this process.

A server that answers, closes and takes no more of the body resets the connection: its answer must be read all the
same, also where the reset is noticed by a write.  And what a TLS transport takes for sent may still be here.
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
    """Answers one connection after its first bytes and closes it with the rest unread; says when it has."""
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
    closed.wait(60)  # blocking the loop, on purpose: what it does next is write, not read
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
