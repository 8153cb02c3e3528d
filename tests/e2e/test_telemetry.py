"""Tests of metrics, access log and failing collectors, with real processes."""

from __future__ import annotations

import asyncio
import json
import re
import time
from pathlib import Path
from typing import Any, Literal

import pytest

from chaos.parts.http import Message
from chaos.parts.servers import Connection, Server, answering, refusing, sequence
from tests.support.otlp import Collector
from tests.support.process import Sidecar, policies, route


def one_route(server: Server, telemetry: dict[str, Any], **blocks: Any) -> dict[str, Any]:
    return policies(
        upstreams={"app": {"endpoints": [server.url]}}, routes=[route("app", **blocks)], telemetry=telemetry
    )


async def counted(sidecar: Sidecar, name: str, **labels: str) -> float:
    """Return the sum of a metric's samples with these labels."""
    page = (await sidecar.ask("/metrics")).body.decode()
    lines = [line for line in page.splitlines() if line.startswith(name + "{")]
    wanted = [f'{label}="{value}"' for label, value in labels.items()]
    return sum(float(line.rpartition(" ")[2]) for line in lines if all(pair in line for pair in wanted))


@pytest.mark.parametrize("protocol", ["grpc", "http"])
async def test_metrics_and_exemplars_reach_a_collector(tmp_path: Path, protocol: Literal["grpc", "http"]) -> None:
    async with Collector(protocol) as collector, Server(answering()) as server:
        telemetry = {"endpoint": collector.endpoint, "protocol": protocol, "metrics": {"interval": "100ms"}}
        async with Sidecar(one_route(server, telemetry), tmp_path, {"OTEL_BSP_SCHEDULE_DELAY": "50"}) as sidecar:
            await sidecar.fetch("GET", "/app")
            await collector.until(lambda: any("http.server.request.duration" in each for each in collector.metrics))
            await collector.until(lambda: len(collector.spans) == 2)
            header = {"accept": "application/openmetrics-text;version=1.0.0,text/plain;q=0.5"}
            page = await asyncio.wait_for(_ask(sidecar, header), 60)
        ((attributes, point),) = collector.metrics[-1]["http.server.request.duration"]
        assert (attributes["http.request.method"], attributes["url.scheme"]) == ("GET", "http")
        assert attributes["http.response.status_code"] == 200
        assert point.count == 1
        (exemplar,) = point.exemplars
        entry = next(span for span in collector.spans if span.kind == "server")
        assert (exemplar.trace_id.hex(), exemplar.span_id.hex()) == (entry.trace_id, entry.span_id)
        assert f'# {{trace_id="{entry.trace_id}",span_id="{entry.span_id}"}}' in page
        assert page.endswith("# EOF\n")
        ((attributes, _),) = collector.metrics[-1]["http.client.request.duration"]
        assert (attributes["server.address"], attributes["server.port"]) == ("127.0.0.1", server.port)


async def _ask(sidecar: Sidecar, fields: dict[str, str]) -> str:
    from chaos.parts.client import fetch

    answer = await fetch(sidecar.admin, "GET", "/metrics", **fields)
    assert answer.get("content-type") == "application/openmetrics-text; version=1.0.0; charset=utf-8"
    return answer.body.decode()


async def test_gauges_of_what_is_under_way_survive_reloads(tmp_path: Path) -> None:
    go = asyncio.Event()

    async def hold(connection: Connection, request: Message) -> None:
        await go.wait()
        await answering()(connection, request)

    async with Server(hold) as server:
        policy = one_route(server, {})
        async with Sidecar(policy, tmp_path) as sidecar, sidecar.client() as client:
            asking = asyncio.create_task(client.request("GET", "/app"))
            while not server.requests:
                await asyncio.sleep(0.01)
            policy["listeners"]["inbound"]["trusted_proxies"] = ["10.0.0.0/8"]  # another listener at the same address
            sidecar.write(policy)
            assert (await sidecar.ask("/reload", "POST")).status == 200
            policy["listeners"]["inbound"]["address"] = "256.0.0.1:1"  # and one that cannot be
            sidecar.write(policy)
            assert (await sidecar.ask("/reload", "POST")).status != 200
            busy = await levels(sidecar)
            go.set()
            assert (await asking).status == 200
            await asyncio.sleep(1.1)  # the page is kept for a second
            assert busy == {"active": 1, "clients": 1, "pool active": 1, "pool idle": 0}
            left = await levels(sidecar)
            assert (left["active"], left["pool active"], left["pool idle"]) == (0, 0, 1)


async def levels(sidecar: Sidecar) -> dict[str, float]:
    pool = "sidecar_upstream_connections"
    return {
        "active": await counted(sidecar, "http_server_active_requests", listener="inbound", url_scheme="http"),
        "clients": await counted(sidecar, "sidecar_downstream_connections", listener="inbound"),
        "pool active": await counted(sidecar, pool, upstream="app", state="active"),
        "pool idle": await counted(sidecar, pool, upstream="app", state="idle"),
    }


async def test_a_stalled_collector_is_not_felt(tmp_path: Path) -> None:
    async with Collector("http", stalled=True) as collector, Server(answering()) as server:
        telemetry = {"endpoint": collector.endpoint, "timeout": "1s", "metrics": {"interval": "100ms"}}
        small = {
            "OTEL_BSP_MAX_QUEUE_SIZE": "20",
            "OTEL_BSP_MAX_EXPORT_BATCH_SIZE": "10",
            "OTEL_BSP_SCHEDULE_DELAY": "10",
        }
        async with Sidecar(one_route(server, telemetry), tmp_path, small) as sidecar:
            began = time.monotonic()
            async with sidecar.client() as client:
                for _ in range(300):
                    assert (await client.request("GET", "/app")).status == 200
            batches = time.monotonic() - began  # one a second leaves the queue, because each export takes its timeout
            failed = await sidecar.until("telemetry.export_failed")
            assert failed["endpoint"].startswith(collector.endpoint)
            dropped = await counted(sidecar, "sidecar_telemetry_dropped_total", reason="queue_full")
            assert dropped >= 600 - 40 - 10 * batches
            assert len(sidecar.said("telemetry.export_failed")) <= 2, "one for each signal"
        assert sidecar.noise == []


async def test_a_dead_collector_is_told_once_and_so_is_its_return(tmp_path: Path) -> None:
    async with refusing() as port, Server(answering()) as server:
        telemetry = {"endpoint": f"http://127.0.0.1:{port}", "timeout": "200ms", "metrics": None}
        fast = {"OTEL_BSP_SCHEDULE_DELAY": "10"}
        policy = one_route(server, telemetry)
        policy["telemetry"]["metrics"] = "off"
        async with Sidecar(policy, tmp_path, fast) as sidecar:
            for _ in range(20):
                assert (await sidecar.fetch("GET", "/app")).status == 200
                await asyncio.sleep(0.02)
            event = await sidecar.until("telemetry.export_failed")
            assert event["level"] == "warning"
            assert event["signal"] == "traces"
            assert event["cause"]
            assert len(sidecar.said("telemetry.export_failed")) == 1
            assert await counted(sidecar, "sidecar_telemetry_dropped_total", reason="export_failed") > 0


async def test_a_certificate_that_is_missing_is_told_and_the_sidecar_serves(tmp_path: Path) -> None:
    async with Server(answering()) as server:
        telemetry = {"endpoint": "https://127.0.0.1:1", "tls": {"ca": "/nowhere/ca.pem"}}
        async with Sidecar(one_route(server, telemetry), tmp_path) as sidecar:
            assert (await sidecar.fetch("GET", "/app")).status == 200
            assert "/nowhere/ca.pem" in json.dumps(await sidecar.until("telemetry.export_failed"))


async def test_the_access_log_has_every_try_and_follows_a_reload(tmp_path: Path) -> None:
    async with Server(sequence(answering(503), answering(200, b"hello"))) as server:
        policy = one_route(server, {"access_log": {}}, retry={"max_attempts": 2})
        async with Sidecar(policy, tmp_path) as sidecar:
            await sidecar.fetch("GET", "/app/x?secret=1", x_request_id="abc")
            (line,) = await sidecar.printed(1)
            found = json.loads(line)
            assert [(a["status"], a["why"]) for a in found["attempts"]] == [(503, "first"), (200, "retry:503")]
            assert (found["path"], found["status"], found["bytes_out"], found["request_id"]) == (
                "/app/x",
                200,
                5,
                "abc",
            )
            assert "secret" not in line
            sidecar.write(one_route(server, {"access_log": {"format": "text"}}))
            assert (await sidecar.ask("/reload", "POST")).status == 200
            await sidecar.fetch("GET", "/app/y")
            text = (await sidecar.printed(2))[1]
            assert re.fullmatch(r"[\d:.]{12} 200 GET /app/y [\d.]+ms route=app http://\S+=200/[\d.]+ms", text)
            sidecar.write(one_route(server, {"access_log": {"format": "off"}}))
            assert (await sidecar.ask("/reload", "POST")).status == 200
            await sidecar.fetch("GET", "/app/z")
            sidecar.write(one_route(server, {"endpoint": "http://127.0.0.1:1"}))
            assert (await sidecar.ask("/reload", "POST")).status == 422
            rejected = await sidecar.until("reload.rejected")
            assert "telemetry" in rejected["problems"][0]
            assert "restart" in rejected["problems"][0]
        assert len(sidecar.output) == 2


async def test_a_variable_that_makes_no_sense_is_told_at_the_start(tmp_path: Path) -> None:
    async with Server(answering()) as server:
        async with Sidecar(one_route(server, {}), tmp_path, {"OTEL_TRACES_SAMPLER": "sometimes"}) as sidecar:
            event = await sidecar.until("telemetry.settings")
            assert event["problem"].startswith("OTEL_TRACES_SAMPLER is 'sometimes'; known are")
