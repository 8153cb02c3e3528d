"""Fixtures of the end-to-end tests, which use real sockets and real processes."""

from collections.abc import AsyncIterator
from pathlib import Path

import pytest
import pytest_asyncio

from tests.support.process import NOTHING, Sidecar

HERE = Path(__file__).parent


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    for item in items:
        if str(item.path).startswith(f"{HERE}/"):
            item.add_marker(pytest.mark.e2e)


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def shared(tmp_path_factory: pytest.TempPathFactory) -> AsyncIterator[Sidecar]:
    """Yield a process that the tests of a module share: `world(shared, ...)`, or `shared.under(policy)`."""
    async with Sidecar(NOTHING, tmp_path_factory.mktemp("sidecar")) as running:
        yield running
