"""Tests that requests and reloads leave no reference cycles.

Cycles are freed late, each search for them costs CPU, and freeing many at once is a pause."""

from __future__ import annotations

import asyncio
import gc
from collections.abc import AsyncIterator, Iterator

import pytest

from bench.costs import GET, ROWS, Row, answer, policies
from bench.rig import Rig
from tests.support import backends
from tests.support.loop import settle, virtual
from tests.support.proxy import Client, Proxy

IGNORED = 3
"""Number of objects that are tolerated: a timer or two of the sidecar may fire during the test."""


@pytest.fixture(scope="module")
def collector() -> Iterator[None]:
    """Run the garbage collector only on request, and without the objects that exist so far."""
    gc.collect()
    gc.freeze()
    gc.disable()
    yield
    gc.enable()


@pytest.fixture(params=ROWS, ids=lambda row: row.name)
async def rig(request: pytest.FixtureRequest, collector: None) -> AsyncIterator[tuple[Rig, Row]]:
    async with Rig(policies(request.param)) as rig:
        yield rig, request.param


@pytest.mark.parametrize("size", [0, 70_000])
async def test_no_request_leaves_a_cycle_behind(rig: tuple[Rig, Row], size: int) -> None:
    """No cycle remains after an answer as a whole or in pieces."""
    served, row = rig
    said = answer(row._replace(body=b" " * size + row.body))
    pieces = [said[at : at + 30_000] for at in range(0, len(said), 30_000)]

    async def ask(number: int) -> None:
        query = b"?%d" % number if row.unique else b""
        got = await served.ask(GET % (query, row.fields), *pieces)
        assert size or got.startswith(b"HTTP/1.1 200 ")

    await ask(0)
    served.settle()
    await asyncio.sleep(0)
    gc.collect()
    for number in range(1, 51):
        await ask(number)
    served.settle()
    await asyncio.sleep(0)
    assert gc.collect() <= IGNORED


async def test_policies_that_are_replaced_leave_no_cycle_behind(collector: None) -> None:
    """Policies with every block are loaded in turn under two names."""
    blocks = {name: value for row in ROWS for name, value in row.block.items() if not row.whole}
    async with Rig(policies(Row("all", blocks))) as served:
        said = answer(ROWS[0])
        for number in range(6):
            await served.reload(policies(Row("all", blocks | {"timeout": {"request": f"{number + 1}s"}})))
            await served.ask(GET % (b"", b""), said)
            if number == 1:
                gc.collect()
        assert gc.collect() <= IGNORED


PAGE = """version: 1
listeners: {inbound: {address: "127.0.0.1:0"}}
upstreams: {app: {endpoints: ["http://app:80"]}}
routes:
  - name: page
    match: {path: "/page/{id}"}
    timeout: {request: 1s}
    aggregate:
      parts:
        user: {route: app, path: "/users/{path.id}", required: true}
        same: {route: app, path: "/users/{path.id}"}
        list: {route: app, path: "/list", timeout: 100ms, otherwise: {json: [1, 2]}}
        each: {route: app, path: "/items/{item}", each: "{parts.list}"}
        late: {route: app, path: "/late/{parts.gone./id}"}
        gone: {route: app, path: "/gone"}
  - {name: app, match: {path_prefix: /}, upstream: app}
"""
USER, LIST = backends.answer(b'{"id": 7}'), backends.answer(b"[1, 2, 2]")
ITEMS = {f"app/items/{number}": backends.answer(b"{}") for number in (1, 2)}
WHOLE = {"app/users/7": USER, "app/list": LIST, "app/gone": USER, "app/late/7": USER, **ITEMS}
ENDS = {
    "whole": WHOLE,
    "partial": {**WHOLE, "app/gone": backends.NOT_FOUND, "app/items/2": backends.NOT_FOUND},
    "a part too slow": {**WHOLE, "app/list": backends.HANG},
    "refused": {**WHOLE, "app/users/7": backends.NOT_FOUND, "app/list": backends.HANG},
    "client gone": {**WHOLE, "app/users/7": backends.HANG},
}
WATCHED = ("sidecar.core.exchange", "sidecar.core.outcome", "sidecar.engine", "sidecar.stages")
"""Modules of the objects that a request has; those of connections may be in cycles when these are closed."""


@pytest.mark.parametrize("end", ENDS)
@virtual
async def test_no_aggregated_answer_leaves_a_cycle_behind(collector: None, end: str) -> None:
    proxy = Proxy(PAGE, backends.Services(ENDS[end]))

    async def ask(client: Client) -> None:
        client.write(b"GET /page/7 HTTP/1.1\r\nHost: a\r\n\r\n")
        if end == "client gone":
            await asyncio.sleep(0.05)
            client.transport.close()
            await settle()
        else:
            found = await client.answer()
            assert found.status == (404 if end == "refused" else 200), found.body
            assert (found.get("x-sidecar-partial") != "") == (end in ("partial", "a part too slow"))

    client = proxy.connect()
    await ask(client)
    proxy.records.clear()
    gc.collect()
    gc.set_debug(gc.DEBUG_SAVEALL)
    try:
        for _ in range(3):
            await ask(proxy.connect() if end == "client gone" else client)
        proxy.records.clear()
        gc.collect()
        assert [each for each in gc.garbage if type(each).__module__.startswith(WATCHED)] == []
        assert end in ("refused", "client gone", "a part too slow") or len(gc.garbage) <= IGNORED
    finally:
        gc.set_debug(0)
        gc.garbage.clear()
