"""Tests of a collector behind TLS: real sockets and certificates, and reports about unfit certificates."""

from __future__ import annotations

import asyncio
from pathlib import Path
from typing import Any, Literal

import pytest

from chaos.parts.servers import Server, answering
from tests.e2e.test_telemetry import counted, one_route
from tests.support.authority import Authority
from tests.support.otlp import Collector
from tests.support.process import Sidecar

FAST = {"OTEL_BSP_SCHEDULE_DELAY": "50"}
Protocol = Literal["grpc", "http"]


def to(collector: Collector, **more: Any) -> dict[str, Any]:
    return {"endpoint": collector.endpoint, "protocol": collector.protocol, "timeout": "2s", **more}


@pytest.mark.parametrize("protocol", ["grpc", "http"])
async def test_the_policy_names_the_authority(tmp_path: Path, protocol: Protocol) -> None:
    authority = Authority(tmp_path / "ca")
    usual = {**FAST, "REQUESTS_CA_BUNDLE": Authority(tmp_path / "other").ca_file}
    async with Collector(protocol, authority=authority) as collector, Server(answering()) as server:
        telemetry = to(collector, tls={"ca": authority.ca_file}, metrics={"interval": "100ms"})
        async with Sidecar(one_route(server, telemetry), tmp_path, usual) as sidecar:
            assert (await sidecar.fetch("GET", "/app")).status == 200
            await collector.until(lambda: len(collector.spans) == 2 and bool(collector.metrics))


@pytest.mark.parametrize("protocol", ["grpc", "http"])
async def test_the_variables_name_the_files_and_a_certificate_of_our_own(tmp_path: Path, protocol: Protocol) -> None:
    authority = Authority(tmp_path / "ca")
    own = authority.sign("sidecar")
    async with Collector(protocol, authority=authority, asks=True) as collector, Server(answering()) as server:
        variables = {
            **FAST,
            "OTEL_EXPORTER_OTLP_ENDPOINT": collector.endpoint,
            "OTEL_EXPORTER_OTLP_PROTOCOL": "grpc" if protocol == "grpc" else "http/protobuf",
            "OTEL_EXPORTER_OTLP_CERTIFICATE": authority.ca_file,
            "OTEL_EXPORTER_OTLP_TRACES_CLIENT_CERTIFICATE": own["cert"],
            "OTEL_EXPORTER_OTLP_TRACES_CLIENT_KEY": own["key"],
            "OTEL_METRICS_EXPORTER": "none",
        }
        async with Sidecar(one_route(server, {}), tmp_path, variables) as sidecar:
            assert (await sidecar.fetch("GET", "/app")).status == 200
            await collector.until(lambda: len(collector.spans) == 2)


@pytest.mark.parametrize("protocol", ["grpc", "http"])
@pytest.mark.parametrize("wrong", ["authority", "no certificate of ours"])
async def test_certificates_that_do_not_fit_cost_the_spans_and_nothing_else(
    tmp_path: Path, protocol: Protocol, wrong: str
) -> None:
    authority, other = Authority(tmp_path / "ca"), Authority(tmp_path / "other")
    asks = wrong != "authority"
    trusted = authority if asks else other
    async with Collector(protocol, authority=authority, asks=asks) as collector, Server(answering()) as server:
        telemetry = to(collector, tls={"ca": trusted.ca_file}, timeout="300ms")
        policy = one_route(server, telemetry)
        policy["telemetry"]["metrics"] = "off"
        async with Sidecar(policy, tmp_path, FAST) as sidecar:
            async with sidecar.client() as client:
                for _ in range(20):
                    assert (await client.request("GET", "/app")).status == 200
            event = await sidecar.until("telemetry.export_failed")
            assert event["endpoint"].startswith(collector.endpoint)
            if protocol == "http":  # gRPC reports only `unavailable`
                assert ("certificate" in event["cause"].lower()) is (wrong == "authority"), event["cause"]
            assert event["cause"]
            async with asyncio.timeout(60):
                while await counted(sidecar, "sidecar_telemetry_dropped_total", reason="export_failed") < 40:
                    await asyncio.sleep(0.05)
            assert (await sidecar.fetch("GET", "/app")).status == 200
            assert len(sidecar.said("telemetry.export_failed")) == 1
        assert sidecar.noise == []
    assert collector.spans == []
