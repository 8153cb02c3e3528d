"""The memory store behind aiocache's interface."""

from __future__ import annotations

from sidecar.cache.memory import MemoryStore
from tests.unit.cache.support import NOW
from tests.unit.cache.test_table import item


async def test_aiocaches_interface() -> None:
    memory = MemoryStore(100_000, lambda: NOW)
    one = item("a")
    assert await memory.set(one.key, one)
    assert await memory.get(one.key) is one
    assert await memory.exists(one.key)
    assert await memory.multi_get([one.key, b"other"]) == [one, None]
    assert await memory.delete(one.key) == 1
    assert await memory.get(one.key) is None
    await memory.set(one.key, one, ttl=5)
    assert one.keep_until == NOW + 5
    assert await memory.clear()
    assert len(memory.table) == 0
