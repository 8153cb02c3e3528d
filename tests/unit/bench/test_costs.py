"""Tests that `bench.costs` measures requests through the sidecar."""

from __future__ import annotations

import time
from itertools import accumulate

import pytest

from bench.costs import GET, ROWS, RUN, Row, answer, least, measure, policies
from bench.rig import Rig

IN_PROCESS = [row for row in ROWS if not row.name.startswith("telemetry")]
"""Rows that start no threads."""


@pytest.mark.parametrize("row", IN_PROCESS, ids=lambda row: row.name)
async def test_a_block_is_answered_through(row: Row) -> None:
    async with Rig(policies(row)) as rig:
        for _ in range(2):
            assert (await rig.ask(GET % (b"", row.fields), answer(row))).startswith(b"HTTP/1.1 200 OK\r\n")


async def test_a_hit_does_not_ask_the_upstream() -> None:
    row = next(row for row in ROWS if row.name == "cache: a hit")
    async with Rig(policies(row)) as rig:
        first = await rig.ask(GET % (b"", b""), answer(row))
        second = await rig.ask(GET % (b"", b""), b"HTTP/1.1 500 Oh\r\nContent-Length: 1\r\n\r\n}")

    assert b"hit" not in first
    assert b"hit" in second


async def test_a_cost_is_the_difference_of_the_least_runs(monkeypatch: pytest.MonkeyPatch) -> None:
    row = next(row for row in ROWS if "JSON body" in row.name)
    warm_up, runs = [9.0, 9.0], [2.0, 8.0, 4.0, 7.0, 3.0, 5.0]  # without the block and with it in turn
    clock = accumulate(step for seconds in (*warm_up, *runs) for step in (0.0, seconds))
    monkeypatch.setattr(time, "process_time", lambda: next(clock))

    found = await measure(row, repeat=3)

    assert found == (pytest.approx(2.0 / RUN * 1e6), pytest.approx(5.0 / RUN * 1e6))
    assert least(row, [found, (1.0, 6.0), (3.0, 4.5)]) == (row.name, 1.0, 3.5, row.limit)


async def test_an_answer_that_does_not_come_is_told() -> None:
    row = ROWS[0]
    async with Rig(policies(row)) as rig:
        with pytest.raises(RuntimeError, match="no whole answer"):
            await rig.ask(GET % (b"", b""), answer(row)[:40])  # an incomplete head
