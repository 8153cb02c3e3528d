"""Tests of the API server of scenarios, as a part."""

from __future__ import annotations

import asyncio
import json
from typing import Any

import pytest

from chaos.parts.client import fetch
from chaos.parts.http import Message
from chaos.parts.kubernetes import SLICES, ApiServerPart
from chaos.parts.part import PartEnv


async def stall(seconds: float) -> None:
    await asyncio.sleep(seconds)


def part(address: str = "127.0.0.1:0", **endpoints: Any) -> ApiServerPart:
    loop = asyncio.get_running_loop()
    env = PartEnv(now=loop.time, seed="1", report=lambda row: None, stall=stall)
    return ApiServerPart({"service": "catalogue", "address": address, "endpoints": endpoints}, env)


async def listed(address: str) -> dict[str, Any]:
    target = f"{SLICES}chaos/endpointslices?labelSelector=kubernetes.io/service-name%3Dcatalogue"
    answer: Message = await fetch(address, "GET", target)
    found: dict[str, Any] = json.loads(answer.body)
    return found


async def test_replicas_have_slices_with_their_states_and_versions_grow_over_a_restart() -> None:
    first = part(r0=["127.0.0.1:81", "ready"])
    (address,) = await first.start()
    await first.do("endpoint", replica="r1", address="127.0.0.1:82", state="terminating")
    before = await listed(address)
    assert [(each["ports"][0]["port"], each["endpoints"][0]["conditions"]["ready"]) for each in before["items"]] == [
        (81, True),
        (82, False),
    ]
    await first.do("endpoint", replica="r1", address="127.0.0.1:82", state="gone")
    assert (await listed(address))["items"][1]["endpoints"] == []
    with pytest.raises(ValueError, match="knows no dance"):
        await first.do("dance")
    await first.stop()
    await asyncio.sleep(0.01)
    second = part(address, r0=["127.0.0.1:81", "ready"])
    assert await second.start() == [address]
    after = await listed(address)
    assert int(after["metadata"]["resourceVersion"]) > int(before["metadata"]["resourceVersion"])
    await second.stop()
