"""Tests of quotas in whole processes: an end and a kill forget nothing, and a damaged file is named and left alone."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from tests.support.files import replace
from tests.support.process import Sidecar, policies


def policy(file: Path, most: int) -> dict[str, Any]:
    """Return policies with one quota; what it admits finds no upstream, and gets 502."""
    return policies(
        stores={"disk": {"file": str(file)}},
        upstreams={"app": {"endpoints": ["http://127.0.0.1:9"]}},
        routes=[
            {
                "name": "r",
                "match": {"path_prefix": "/"},
                "upstream": "app",
                "quota": [{"name": "month", "max": most, "per": "month", "store": "disk"}],
            }
        ],
    )


async def statuses(sidecar: Sidecar, number: int) -> list[int]:
    return [(await sidecar.fetch("GET", "/")).status for _ in range(number)]


async def test_a_quota_outlives_its_process_however_it_ends(tmp_path: Path) -> None:
    file = tmp_path / "quotas.db"
    async with Sidecar(policy(file, 10_000), tmp_path) as sidecar:
        assert await statuses(sidecar, 5) == [502] * 5
    killed = await Sidecar(policy(file, 8), tmp_path).__aenter__()
    assert await statuses(killed, 1) == [502], "the first process has given back what it had leased"
    assert await killed.kill() != 0
    async with Sidecar(policy(file, 8), tmp_path) as sidecar:
        assert await statuses(sidecar, 4) == [502, 502, 429, 429]
        facts = (await sidecar.state())["state"]["quota"]["route:r:month:in disk"]
        assert (facts["refused"], facts["store_up"], facts["shared_by"]) == (2, True, "fleet")
    whole = file.read_bytes()
    file.write_bytes(b"damaged" * 1000)
    async with Sidecar(policy(file, 8), tmp_path) as sidecar:
        assert await statuses(sidecar, 1) == [502], "its share of the quota"
        said = (await sidecar.until("store.down"))["error"]
        assert f"{file}: file is not a database; restore the file, or move it away" in said
        assert file.read_bytes() == b"damaged" * 1000
        replace(file, whole)
        await sidecar.until("store.up")
        assert await statuses(sidecar, 1) == [429]
