"""Every test of this package is also one of the phases of its connections; and certificate authorities."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.support.authority import Authority
from tests.unit.upstream.phases import Phases, is_observable, observed


@pytest.fixture(autouse=True)
def phases() -> Iterator[Phases | None]:
    """The phases of all connections of the test; None where the request path is compiled."""
    if not is_observable:
        yield None
        return
    with observed() as phases:
        yield phases


@pytest.fixture
def ca(tmp_path: Path) -> Authority:
    """An authority that the test trusts."""
    return Authority(tmp_path / "ca")


@pytest.fixture
def stranger(tmp_path: Path) -> Authority:
    """Another authority."""
    return Authority(tmp_path / "stranger")
