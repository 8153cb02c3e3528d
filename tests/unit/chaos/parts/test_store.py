"""Tests of the store that stands in for Redis, with the client library that the sidecar uses."""

from __future__ import annotations

import asyncio
from typing import Any

import pytest
from redis.asyncio import Redis
from redis.exceptions import OutOfMemoryError

from chaos.parts.store import Store
from sidecar.leases.quota import QuotaAsk, QuotaGrant
from sidecar.store.quota_script import RedisLedger
from sidecar.store.shared_quotas import Order
from sidecar.store.spec import RedisSpec
from tests.unit.chaos.linked_service import part_env, play


@pytest.mark.parametrize("protocol", [2, 3])
def test_a_client_of_redis_finds_what_it_wrote(protocol: int) -> None:
    async def scene() -> None:
        store = Store("redis", {}, part_env())
        (address,) = await store.start()
        host, _, port = address.partition(":")
        client: Any = Redis(host=host, port=int(port), protocol=protocol)
        assert await client.get("a") is None
        await client.set("a", b"1\r\n2", px=500)
        assert await client.mget(["a", "b"]) == [b"1\r\n2", None]
        async with client.pipeline() as pipeline:
            pipeline.getrange("a", 0, 1)
            pipeline.getrange("b", 0, 1)
            pipeline.mget(["b"])
            assert await pipeline.execute() == [b"1\r", b"", [None]]
        await asyncio.sleep(1)
        assert await client.get("a") is None
        assert [await client.incr("n"), await client.incrby("n", 4)] == [1, 5]
        await store.do("full")
        with pytest.raises(OutOfMemoryError):
            await client.set("c", b"1")
        await store.do("undo", id="x")
        await client.set("c", b"1")
        assert await client.delete("c", "d") == 1
        with pytest.raises(ValueError, match="no command dance"):
            await store.do("dance")
        await client.aclose()
        await store.stop()

    play(scene)


def test_it_grants_units_of_quotas() -> None:
    async def scene() -> None:
        store = Store("redis", {}, part_env())
        (address,) = await store.start()
        spec = RedisSpec.model_validate({"url": f"redis://{address}/0"})
        ledger = RedisLedger(spec, None, lambda: 0.0)
        asks = [QuotaAsk(key, 0.0, 3.0, 3.0, 0.0, 0.0, 0.0) for key in ("a", "b", "a")]
        _, found = await ledger.exchange("me", [Order("day", 5.0, 1, 100.0, ask) for ask in asks])
        assert found == [QuotaGrant(3.0, 2.0, False), QuotaGrant(3.0, 2.0, True), QuotaGrant(2.0, 0.0, False)]
        await ledger.close()
        await store.stop()

    play(scene)
