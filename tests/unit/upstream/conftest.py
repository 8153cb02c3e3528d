"""Fixtures of this package: every test also checks the phases of its connections; certificate authorities."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.support.authority import Authority
from tests.unit.upstream.phases import Phases, is_observable, observed


@pytest.fixture(autouse=True)
def phases() -> Iterator[Phases | None]:
    """Yield the phases of all connections of the test; None if the request path is compiled."""
    if not is_observable:
        yield None
        return
    with observed() as phases:
        yield phases


@pytest.fixture
def ca(tmp_path: Path) -> Authority:
    """Return an authority that the test trusts."""
    return Authority(tmp_path / "ca")


@pytest.fixture
def stranger(tmp_path: Path) -> Authority:
    """Return an authority that the test does not trust."""
    return Authority(tmp_path / "stranger")
