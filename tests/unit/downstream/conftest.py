"""Checks that run with every test in this package."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from tests.unit.downstream.phases import SEEN, TABLE


@pytest.fixture(autouse=True)
def connections_keep_to_the_table_of_phases() -> Iterator[None]:
    SEEN.clear()
    yield
    assert set(SEEN) <= TABLE, f"not in the table: {set(SEEN) - TABLE}"
