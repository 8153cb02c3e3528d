"""Tests of unusual messages of HTTP/2 through two proxies: both understand the same, or one of them refuses."""

from __future__ import annotations

import asyncio
import contextlib
from pathlib import Path
from typing import Any, NamedTuple

import pytest
from h2.config import H2Configuration
from h2.connection import H2Connection
from h2.events import ConnectionTerminated, ResponseReceived, StreamEnded, StreamReset
from h2.exceptions import StreamClosedError

from chaos.parts.client import Client
from chaos.parts.floods import ACK, PREFACE, SETTINGS, frame
from chaos.parts.http import request
from tests.neighbours.http2_proxies import CONFIGURATIONS
from tests.neighbours.http2_vectors import ANSWERS, REQUESTS, ordinary
from tests.neighbours.proxies import MARK, SECRET, find, free_port, running
from tests.neighbours.test_answers import FAILED, final
from tests.neighbours.test_requests import AT_ONCE, QUIET, Recorder, judge, port_of
from tests.support.h2_server import Connection, H2Server, Request
from tests.support.process import Sidecar, policies

NAMES = list(REQUESTS)
ANSWER_NAMES = list(ANSWERS)
INTERIM = ("interim answer with a length", "content after an interim answer")
"""Answers that nginx 1.22 takes for final ones; see `test_answers`."""
LETHAL = ("content before a head", "content after an interim answer")
"""Answers at which HAProxy 2.6 ends by an assertion of its own."""
PATIENCE = 30
"""Seconds for which the proxies wait for an answer: long enough that no ordinary request times out."""
EMPTY = {"/": ("",), "*": ("",)}
"""Targets whose path HAProxy calls empty."""
GIVES_UP = 2
"""Seconds for which the sidecar waits for an answer that is not whole."""


# ----- requests


async def attack(address: str, number: int) -> None:
    """Send a vector with its number and an ordinary request behind it, and read all answers."""
    vector = REQUESTS[NAMES[number]]
    async with Client(address) as client:
        client.writer.write(PREFACE + frame(SETTINGS, 0, 0))
        with contextlib.suppress(OSError, TimeoutError):
            await asyncio.wait_for(client.reader.read(65536), PATIENCE)
            client.writer.write(frame(SETTINGS, ACK, 0) + vector(1, b"/vector-%d" % number))
            client.writer.write(ordinary(3, b"/after-%d" % number, []))
            while await asyncio.wait_for(client.reader.read(65536), QUIET):
                pass


async def visit(address: str, number: int) -> str:
    """Send the request of another client over HTTP/2; return what is wrong with its answer, empty if nothing."""
    h2 = H2Connection(H2Configuration(header_encoding="utf-8"))
    identity = f"visitor-{number}"
    fields: dict[str, str] = {}
    async with Client(address) as client:
        h2.initiate_connection()
        target = [(":method", "GET"), (":scheme", "http"), (":authority", "test"), (":path", f"/visit-{number}")]
        h2.send_headers(1, [*target, ("x-identity", identity)], end_stream=True)
        while True:
            await client.send(h2.data_to_send())
            data = await asyncio.wait_for(client.reader.read(65536), PATIENCE)
            for event in h2.receive_data(data):
                if isinstance(event, ResponseReceived):
                    fields = {str(name): str(value) for name, value in event.headers}
                if isinstance(event, (StreamEnded, StreamReset, ConnectionTerminated)):
                    data = b""
            if not data:
                break
    found = fields.get("x-answer")
    return "" if found == identity else f"visitor {number} got {fields.get(':status')} {found}"


async def run(address: str) -> list[str]:
    """Send all vectors, each with another client's request beside it and one after it; return all faults."""
    turn = asyncio.Semaphore(AT_ONCE)
    wrong: list[str] = []

    async def one(number: int) -> None:
        async with turn:
            _, first = await asyncio.gather(attack(address, number), visit(address, number))
            wrong.extend(f"{NAMES[number]}: {fault}" for fault in (first, await visit(address, number)) if fault)

    await asyncio.gather(*map(one, range(len(NAMES))))
    return wrong


def differences(recorder: Recorder) -> list[str]:
    """Return the requests whose target or host the neighbour in front has not understood as they arrive.

    The sidecar resolves dots, which is no difference.
    """
    return [
        f"{seen.start!r} with hosts {seen.get_all('host')} was {seen.get_all('x-target')} for the neighbour"
        for seen in recorder.requests
        if seen.get("x-target").removeprefix("/a/..") not in (seen.target, *EMPTY.get(seen.target, ()))
        or len(seen.get_all("host")) != 1
    ]


# ----- answers


def answer(connection: Connection, asked: Request) -> None:
    """Answer with the vector of the number in the target, or with the request's identity."""
    _, kind, number = [*asked.path.split("-"), "", ""][:3]
    if kind == "vector":
        connection.flush()
        connection.transport.write(ANSWERS[ANSWER_NAMES[int(number)]](asked.stream, b""))
    else:
        with contextlib.suppress(StreamClosedError):  # the client has reset it
            connection.answer(asked, b"ok", [(b"x-answer", asked.get(b"x-identity"))])


async def ask(address: str, number: int, method: str) -> str:
    """Request the vector, then another target on the same connection; return what is wrong, empty if nothing."""
    name = f"{ANSWER_NAMES[number]} ({method})"
    async with Client(address) as client:
        client.writer.write(request(method, f"/a-vector-{number}") + request("GET", "/b", x_identity="behind"))
        try:
            async with asyncio.timeout(PATIENCE):
                first = await final(client, method)  # the vector itself: any valid message
                second = await final(client, "GET")
        except TimeoutError:
            return f"{name}: neither answered nor closed"
        except (asyncio.IncompleteReadError, OSError):
            return ""  # closed: no wrong answer is possible
        except (ValueError, AssertionError) as error:
            return f"{name}: what came is not HTTP: {error!r}"
    if first.get("x-injected"):
        return f"{name}: a field was injected: {first}"
    if second.status == 200 and second.get("x-answer") != "behind":
        return f"{name}: the next request got {second}"
    return ""


async def visit_plainly(address: str, number: int) -> str:
    """Send the request of another client over HTTP/1.1; return what is wrong with its answer, empty if nothing."""
    async with Client(address) as client:
        found = await client.request("GET", f"/visit-{number}", x_identity=f"visitor-{number}")
    if found.status == 200 and found.get("x-answer") == f"visitor-{number}":
        return ""
    return f"visitor {number} got {found.status} {found.get('x-answer')}"


async def run_answers(address: str, skipped: tuple[str, ...]) -> list[str]:
    turn = asyncio.Semaphore(AT_ONCE)
    wrong: list[str] = []

    async def one(number: int, method: str) -> None:
        async with turn:
            faults = await asyncio.gather(ask(address, number, method), visit_plainly(address, number))
            faults.append(await visit_plainly(address, number))
            wrong.extend(f"{ANSWER_NAMES[number]}: {fault}" for fault in faults if fault and not FAILED.search(fault))

    numbers = [number for number, name in enumerate(ANSWER_NAMES) if name not in skipped]
    await asyncio.gather(*(one(number, method) for number in numbers for method in ("GET", "HEAD")))
    return wrong


# ----- rows


class Row(NamedTuple):
    """Row of proxies between a client and a server.

    - `name`: the row, with its versions of HTTP.
    - `recorder`: server at its end; None where answers are tried.
    - `mark`, `secret`: mark of the first proxy.
    - `skipped`: answers that are not tried.
    """

    name: str
    address: str
    recorder: Recorder | None
    mark: str = ""
    secret: str = ""
    skipped: tuple[str, ...] = ()

    async def faults(self) -> list[str]:
        if self.recorder is None:
            return await run_answers(self.address, self.skipped)
        wrong = await run(self.address)
        return wrong + judge(self.recorder, self.mark, self.secret, NAMES)


def listener() -> dict[str, Any]:
    return {"address": "127.0.0.1:0", "protocols": ["http1", "http2"]}


def row_policies(upstreams: dict[str, dict[str, Any]]) -> dict[str, Any]:
    """Return policies of a sidecar with a listener for each upstream, which forwards everything to it."""
    routes = [
        {
            "name": name, "listener": name, "match": {"path_prefix": "/"}, "upstream": name,
            "timeout": {"request": f"{GIVES_UP if 'answers' in name else PATIENCE}s"},
        }
        for name in upstreams
    ]  # fmt: skip
    return policies(
        listeners={name: listener() for name in upstreams},
        upstreams={name: {"connect_timeout": f"{PATIENCE}s", **each} for name, each in upstreams.items()},
        routes=routes,
        limits={"header_timeout": "20s", "drain_timeout": "1s"},
    )


@pytest.mark.parametrize("name", CONFIGURATIONS)
async def test_both_agree_or_one_refuses(name: str, tmp_path: Path) -> None:
    """All rows run at once: they share one neighbour and one sidecar, and each has a server of its own."""
    if find(name) is None:
        pytest.skip(f"{name} is not installed")
    is_whole = name != "nginx"
    ports = {each: free_port() for each in ("port", "port2", "rear", "rear2", "answers", "rear_answers")}
    async with contextlib.AsyncExitStack() as stack:
        front, front2, rear, rear2 = [await stack.enter_async_context(Recorder()) for _ in range(4)]
        server = await stack.enter_async_context(H2Server(answer, max_streams=10000))
        upstreams = {
            "front": {"endpoints": [front.url]},
            "front2": {"endpoints": [front2.url]},
            "rear": {"endpoints": [f"http://127.0.0.1:{ports['rear']}"]},
            "rear2": {"endpoints": [f"http://127.0.0.1:{ports['rear2']}"], "protocol": "http2"},
            "answers": {"endpoints": [server.url], "protocol": "http2"},
            "rear_answers": {"endpoints": [f"http://127.0.0.1:{ports['rear_answers']}"]},
        }
        sidecar = await stack.enter_async_context(Sidecar(row_policies(upstreams), tmp_path))
        behind = {each: port_of(address) for each, address in sidecar.listeners.items()}
        facts = {
            **ports, "patience": PATIENCE, "next": behind["front"], "next2": behind["front2"],
            "next_answers": behind["answers"], "last": rear.port, "last2": rear2.port, "last_answers": server.port,
        }  # fmt: skip
        await stack.enter_async_context(running(name, CONFIGURATIONS[name], facts, tmp_path))
        local = "127.0.0.1:{}".format
        rows = [
            Row("behind, HTTP/1.1", local(ports["port"]), front, MARK, SECRET),
            Row("before, HTTP/1.1", sidecar.listeners["rear"], rear, "x-sidecar-attempt"),
            Row("before, HTTP/2", sidecar.listeners["rear2"], rear2, "x-sidecar-attempt"),
            Row("answers, behind", local(ports["answers"]), None, skipped=() if is_whole else INTERIM),
        ]
        if is_whole:
            rows.append(Row("behind, HTTP/2", local(ports["port2"]), front2, MARK, SECRET))
            skipped = LETHAL if name == "haproxy" else ()
            rows.append(Row("answers, before", sidecar.listeners["rear_answers"], None, skipped=skipped))
        found = await asyncio.gather(*[row.faults() for row in rows])
        wrong = [
            f"{row.name}: {fault}"
            for row, faults in zip(rows, found, strict=True)
            for fault in faults
            if is_whole or row.recorder is not rear2 or not fault.endswith("got 502 None")  # trailers end a connection
        ]
        wrong += differences(front) + differences(front2)
        assert all(len(recorder.requests) > len(NAMES) for recorder in (front, rear, rear2))
    assert not wrong, "\n".join(wrong[:40])
