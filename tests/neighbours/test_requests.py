"""Tests of unusual requests through two proxies: exactly the requests that the first one forwards arrive."""

from __future__ import annotations

import asyncio
import contextlib
from pathlib import Path
from typing import Any

import pytest

from chaos.parts.client import Client
from chaos.parts.http import Message, request, response
from chaos.parts.servers import Connection, Server
from tests.neighbours.proxies import CONFIGURATIONS, MARK, SECRET, find, neighbour
from tests.neighbours.vectors import requests
from tests.support.process import Sidecar, policies, route

AT_ONCE = 96
QUIET = 0.15
"""Seconds without a byte after which an attacker stops reading."""
PATIENCE = 30
"""Seconds for which both proxies wait for an answer: long enough that no ordinary request times out."""


async def answer(connection: Connection, asked: Message) -> None:
    """Answer with the identity of the request."""
    identity = asked.get("x-identity", "none")
    await connection.send(response(200, b"" if asked.method == "HEAD" else b"ok", [("X-Answer", identity)]))


class Recorder(Server):
    """Upstream that records every request, and all bytes that are none."""

    def __init__(self) -> None:
        super().__init__(answer)
        self.rubbish: list[str] = []

    async def _serve(self, connection: Connection) -> None:
        try:
            await super()._serve(connection)
        except (ValueError, AssertionError, IndexError, asyncio.LimitOverrunError) as error:
            self.rubbish.append(repr(error))


async def attack(address: str, data: bytes, number: int) -> None:
    """Send a vector with its number and an ordinary request behind it, and read all answers."""
    data = data.replace(b"/vector", b"/vector-%d" % number, 1)
    async with Client(address) as client:
        client.writer.write(data + request("GET", f"/after-{number}"))
        with contextlib.suppress(OSError, TimeoutError):
            while await asyncio.wait_for(client.reader.read(65536), QUIET):
                pass


async def visit(address: str, number: int) -> str:
    """Send the request of another client; return what is wrong with its answer, empty if nothing."""
    async with Client(address) as client:
        found = await client.request("GET", f"/visit-{number}", x_identity=f"visitor-{number}")
    if found.status == 200 and found.get("x-answer") == f"visitor-{number}":
        return ""
    return f"visitor {number} got {found.status} {found.get('x-answer')}"


async def run(address: str, vectors: dict[str, bytes]) -> list[str]:
    """Send all vectors, each with another client's request beside it and one after it; return all faults."""
    turn = asyncio.Semaphore(AT_ONCE)
    wrong: list[str] = []

    async def one(number: int, name: str, data: bytes) -> None:
        async with turn:
            _, first = await asyncio.gather(attack(address, data, number), visit(address, number))
            wrong.extend(f"{name}: {fault}" for fault in (first, await visit(address, number)) if fault)

    await asyncio.gather(*(one(number, name, data) for number, (name, data) in enumerate(vectors.items())))
    return wrong


def judge(recorder: Recorder, mark: str, secret: str, names: list[str]) -> list[str]:
    """Return the wrong arrivals: requests without exactly one mark, with a repeated mark, or inside a body."""
    wrong = [f"not a request: {rubbish}" for rubbish in recorder.rubbish]
    marks: set[str] = set()
    for seen in recorder.requests:
        found = seen.get_all(mark)
        number = seen.target.rpartition("-")[2]
        name = names[int(number)] if number.isdigit() else ""
        if len(found) != 1 or not found[0].startswith(secret):
            wrong.append(f"{name}: {seen.start!r} bears {found}: nobody sent it")
        elif secret and found[0] in marks:
            wrong.append(f"{name}: {seen.start!r} came twice")
        if b"X-Identity" in seen.body or b"/after-" in seen.body or (secret and secret.encode() in seen.body):
            wrong.append(f"{name}: {seen.start!r} swallowed another: {seen.body!r}")
        marks.update(found)
    return wrong


@pytest.mark.parametrize("name", CONFIGURATIONS)
async def test_behind(name: str, tmp_path: Path) -> None:
    """The order is client, neighbour, sidecar, upstream."""
    if find(name) is None:
        pytest.skip(f"{name} is not installed")
    vectors = requests()
    async with Recorder() as recorder:
        policy = before(recorder.url, PATIENCE)
        async with (
            Sidecar(policy, tmp_path) as sidecar,
            neighbour(name, port_of(sidecar.inbound), tmp_path, PATIENCE) as address,
        ):
            wrong = await run(address, vectors)
        wrong += judge(recorder, MARK, SECRET, list(vectors))
        assert len(recorder.requests) > len(vectors)
    assert not wrong, "\n".join(wrong[:40])


@pytest.mark.parametrize("name", CONFIGURATIONS)
async def test_before(name: str, tmp_path: Path) -> None:
    """The order is client, sidecar, neighbour, upstream."""
    if find(name) is None:
        pytest.skip(f"{name} is not installed")
    vectors = requests()
    async with Recorder() as recorder, neighbour(name, recorder.port, tmp_path, PATIENCE) as address:
        policy = before(f"http://{address}", PATIENCE)
        async with Sidecar(policy, tmp_path) as sidecar:
            wrong = await run(sidecar.inbound, vectors)
        wrong += judge(recorder, "x-sidecar-attempt", "", list(vectors))
        assert len(recorder.requests) > len(vectors)
    assert not wrong, "\n".join(wrong[:40])


def before(url: str, patience: int) -> dict[str, Any]:
    """Return policies of a sidecar that forwards everything, and waits so many seconds to connect and for an answer."""
    return policies(
        listeners={"inbound": {"address": "127.0.0.1:0", "protocols": ["http1"]}},
        upstreams={"app": {"endpoints": [url], "connect_timeout": f"{patience}s"}},
        routes=[{**route("app"), "match": {"path_prefix": "/"}}],
        limits={"header_timeout": "20s", "drain_timeout": "1s"},
        defaults={"timeout": {"request": f"{patience}s"}},
    )


def port_of(address: str) -> int:
    return int(address.rpartition(":")[2])
