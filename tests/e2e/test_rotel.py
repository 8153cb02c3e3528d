"""Tests of traces with an independent receiver, Rotel (`pip install rotel`); skipped without it."""

from __future__ import annotations

from pathlib import Path
from typing import Any, Literal

import pytest

from chaos.parts.servers import Server, answering
from sidecar.demo.shop.collector import obstacle
from tests.support.process import Sidecar, policies, route
from tests.support.rotel import Rotel

TRACE = "0af7651916cd43dd8448eb211c80319c"
PARENT = "b7ad6b7169203331"

pytestmark = pytest.mark.skipif(bool(obstacle()), reason=obstacle() or "it can")


@pytest.mark.parametrize("protocol", ["grpc", "http"])
async def test_parents_and_children_across_two_sidecars(tmp_path: Path, protocol: Literal["grpc", "http"]) -> None:
    def policy(url: str, endpoint: str, service: str) -> dict[str, Any]:
        telemetry = {"endpoint": endpoint, "protocol": protocol, "compression": "gzip"}
        routes = [route("app")]
        return {
            **policies(upstreams={"app": {"endpoints": [url]}}, routes=routes, telemetry=telemetry),
            "service": service,
        }

    fast = {"OTEL_BSP_SCHEDULE_DELAY": "50"}
    (tmp_path / "a").mkdir()
    (tmp_path / "b").mkdir()
    async with Rotel() as rotel, Server(answering()) as server:
        endpoint = rotel.grpc if protocol == "grpc" else rotel.http
        async with (
            Sidecar(policy(server.url, endpoint, "second"), tmp_path / "b", fast) as b,
            Sidecar(policy(f"http://{b.inbound}", endpoint, "first"), tmp_path / "a", fast) as a,
        ):
            assert (await a.fetch("GET", "/app", traceparent=f"00-{TRACE}-{PARENT}-01")).status == 200
            spans = await rotel.spans(4)
    by_parent = {span["Parent ID"]: span for span in spans}
    assert {span["Trace ID"] for span in spans} == {TRACE}
    kinds, parent = [], PARENT
    for _ in range(4):
        span = by_parent[parent]
        kinds.append(span["Kind"])
        parent = span["ID"]
    assert kinds == ["SPAN_KIND_SERVER", "SPAN_KIND_CLIENT"] * 2
