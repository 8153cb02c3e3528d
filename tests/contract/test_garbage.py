"""Tests that requests and reloads leave no reference cycles.

Cycles are freed late, each search for them costs CPU, and freeing many at once is a pause."""

from __future__ import annotations

import asyncio
import gc
from collections.abc import AsyncIterator, Iterator

import pytest

from bench.costs import GET, ROWS, Row, answer, policies
from bench.rig import Rig

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
