"""Test of the soak (`make soak`), cut down to seconds."""

from __future__ import annotations

import pytest

from bench.soak import soak

SECONDS = 6.0


@pytest.mark.soak
async def test_mixed_traffic_is_answered_exactly_and_leaves_nothing_behind() -> None:
    reports: list[str] = []
    verdict = await soak(SECONDS, seed=7, report=reports.append)
    assert not verdict.faults, reports[0]
