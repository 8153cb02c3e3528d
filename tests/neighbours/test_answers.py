"""Tests of unusual responses through two proxies: every other request gets its own answer or a clear failure."""

from __future__ import annotations

import asyncio
import contextlib
import re
from pathlib import Path

import pytest

from chaos.parts.client import Client
from chaos.parts.http import Message, read_response, request, response
from chaos.parts.servers import Connection, Server
from tests.neighbours.proxies import CONFIGURATIONS, find, neighbour
from tests.neighbours.test_requests import AT_ONCE, before, port_of, visit
from tests.neighbours.vectors import ANSWERS
from tests.support.process import Sidecar

NAMES = list(ANSWERS)
PATIENCE = 60.0
"""Seconds after which a connection without answer or close has failed the test."""
GIVES_UP = 2
"""Seconds for which both proxies wait for the rest of an answer."""
FAILED = re.compile(r" got 50[234] $")
"""Matches answers that a proxy may send when the connection that it was about to use is unusable."""


async def answer(connection: Connection, asked: Message) -> None:
    """Answer with the vector of the number in the target, or with the request's identity."""
    _, kind, number = [*asked.target.split("-"), "", ""][:3]
    if kind == "vector":
        await connection.send(ANSWERS[NAMES[int(number)]])
        await asyncio.sleep(0.05)
        if int(number) % 2:
            await connection.close()
    else:
        identity = asked.get("x-identity", "none")
        await connection.send(response(200, b"" if asked.method == "HEAD" else b"ok", [("X-Answer", identity)]))


async def ask(address: str, number: int, method: str) -> str:
    """Request the vector, then another target on the same connection; return what is wrong, empty if nothing."""
    name = f"{NAMES[number]} ({method})"
    is_interim = name.startswith("1xx")  # nginx 1.22 takes it for the final answer to a HEAD
    async with Client(address) as client:
        client.writer.write(request(method, f"/a-vector-{number}") + request("GET", "/b", x_identity="behind"))
        try:
            async with asyncio.timeout(GIVES_UP + 1 if is_interim else PATIENCE):
                first = await final(client, method)  # the vector itself: any valid message
                if first.get("x-answer") == "behind" and not is_interim:
                    return f"{name}: it got the answer to the next request"
                second = await final(client, "GET")
        except TimeoutError:
            return "" if is_interim else f"{name}: neither answered nor closed"
        except (asyncio.IncompleteReadError, OSError):
            return ""  # closed: no wrong answer is possible
        except (ValueError, AssertionError) as error:
            return f"{name}: what came is not HTTP: {error!r}"
    if second.status == 200 and second.get("x-answer") != "behind":
        return f"{name}: the next request got {second}"
    return ""


async def final(client: Client, method: str) -> Message:
    while True:
        found = await read_response(client.reader, method)
        if found.status >= 200:
            return found


async def run(address: str) -> list[str]:
    turn = asyncio.Semaphore(AT_ONCE)
    wrong: list[str] = []

    async def one(number: int, method: str) -> None:
        async with turn:
            faults = await asyncio.gather(ask(address, number, method), visit(address, number))
            faults.append(await visit(address, number))
            wrong.extend(f"{NAMES[number]}: {fault}" for fault in faults if fault and not FAILED.search(fault))

    await asyncio.gather(*(one(number, method) for number in range(len(NAMES)) for method in ("GET", "HEAD")))
    return wrong


async def faults_of(name: str, order: str, place: Path) -> list[str]:
    """Send all vectors through a neighbour and the sidecar; return all faults."""
    place.mkdir()
    async with contextlib.AsyncExitStack() as stack:
        server = await stack.enter_async_context(Server(answer))
        url = server.url
        if order == "before":
            url = f"http://{await stack.enter_async_context(neighbour(name, server.port, place, GIVES_UP))}"
        policy = before(url, GIVES_UP)
        sidecar = await stack.enter_async_context(Sidecar(policy, place))
        address = sidecar.inbound
        if order == "behind":
            address = await stack.enter_async_context(neighbour(name, port_of(address), place, GIVES_UP))
        return await run(address)


@pytest.mark.parametrize("name", CONFIGURATIONS)
async def test_nobody_gets_the_wrong_answer(name: str, tmp_path: Path) -> None:
    """`behind`: client, neighbour, sidecar, upstream; `before`: client, sidecar, neighbour, upstream.

    Both orders run at once, because each waits for `GIVES_UP` much of its time.
    """
    if find(name) is None:
        pytest.skip(f"{name} is not installed")
    orders = ("behind", "before")
    found = await asyncio.gather(*(faults_of(name, order, tmp_path / order) for order in orders))
    wrong = [f"{order}: {fault}" for order, faults in zip(orders, found, strict=True) for fault in faults]
    assert not wrong, "\n".join(wrong[:40])
