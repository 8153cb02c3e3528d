"""Requests leave nothing behind that waits for the garbage collector: what holds on to each other in a circle is freed
late, and looking for it costs every request its share."""

from __future__ import annotations

import asyncio
import gc
from collections.abc import AsyncIterator, Iterator

import pytest

from bench.costs import GET, ROWS, Row, answer, policies
from bench.rig import Rig

IGNORED = 3
"""Objects: a timer or two of the sidecar's own may fall into the test."""


@pytest.fixture
def collector() -> Iterator[None]:
    """Runs on request alone, and does not look at the whole test run."""
    gc.collect()
    gc.freeze()
    gc.disable()
    yield
    gc.enable()
    gc.unfreeze()


@pytest.fixture(params=ROWS, ids=lambda row: row.name)
async def rig(request: pytest.FixtureRequest, collector: None) -> AsyncIterator[tuple[Rig, Row]]:
    async with Rig(policies(request.param)) as rig:
        yield rig, request.param


async def test_no_request_leaves_a_cycle_behind(rig: tuple[Rig, Row]) -> None:
    served, row = rig
    said = answer(row)

    async def ask(number: int) -> None:
        query = b"?%d" % number if row.unique else b""
        assert (await served.ask(GET % (query, row.fields), said)).startswith(b"HTTP/1.1 200 ")

    await ask(0)
    served.settle()
    await asyncio.sleep(0)
    gc.collect()
    for number in range(1, 51):
        await ask(number)
    served.settle()
    await asyncio.sleep(0)
    assert gc.collect() <= IGNORED
