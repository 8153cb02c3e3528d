"""Tests of discovery in a real process: an API server, a file and SRV records that change and go away."""

from __future__ import annotations

import asyncio
import json
from pathlib import Path
from typing import Any

from chaos.parts.kubernetes import ApiServer, endpoint
from chaos.parts.servers import Server, answering
from tests.support.files import replace
from tests.support.names import NameServer
from tests.support.process import Sidecar, policies, route


async def until(sidecar: Sidecar, target: str, status: int) -> None:
    """Wait for an answer with that status."""
    async with asyncio.timeout(30):
        while (await sidecar.fetch("GET", target)).status != status:
            await asyncio.sleep(0.02)


async def test_all_sources_are_followed_and_their_endpoints_outlive_them(tmp_path: Path) -> None:
    listed = tmp_path / "endpoints"
    async with (
        Server(answering()) as server,
        ApiServer() as api,
        NameServer({"app.test": ["127.0.0.1"]}, ttl=0) as names,
    ):
        port = server.port
        listed.write_text(f"127.0.0.1:{port}\n")
        names.services["_http._tcp.app.test"] = [(0, 1, port, "app.test")]
        gone = endpoint("127.0.0.9", ready=False, serving=False, terminating=True)
        api.put("orders-1", [gone], ready=["127.0.0.1"], port=port)
        resolve = {"nameservers": [names.address], "ttl": {"min": "50ms"}}
        kubernetes = {"service": "orders", "port": "http", "namespace": "shop", "api": {"url": api.url}}
        patient = {"connect_timeout": "30s"}
        upstreams: dict[str, Any] = {
            "kubernetes": {"discover": {"kubernetes": kubernetes}, **patient},
            "file": {"discover": {"file": str(listed)}, **patient},
            "srv": {"discover": {"srv": "_http._tcp.app.test", "interval": "100ms"}, "resolve": resolve, **patient},
        }
        policy = policies(upstreams=upstreams, routes=[route(name) for name in upstreams])
        async with Sidecar(policy, tmp_path) as sidecar:
            for name in upstreams:
                await until(sidecar, f"/{name}", 200)
            found = {each["upstream"]: each for each in sidecar.said("discovery.changed")}
            assert found["kubernetes"]["source"] == "kubernetes shop/orders"
            assert sorted(found["kubernetes"]["added"]) == [f"http://127.0.0.1:{port}", f"http://127.0.0.9:{port}"]

            await api.close()
            listed.unlink()
            names.rcode = "SERVFAIL"
            await sidecar.until("discovery.failed", 3)
            for name in upstreams:
                assert (await sidecar.fetch("GET", f"/{name}")).status == 200, "endpoints live on"
            state = await sidecar.state()
            text = json.dumps(state["state"]["discovery"] if "state" in state else state["discovery"])
            assert "cannot be reached" in text
            assert "no such file" in text
            assert "general failure" in text
            page = (await sidecar.ask("/metrics")).body.decode()
            assert 'sidecar_endpoint_up{state="not_ready",upstream="kubernetes"} 1' in page
            assert 'sidecar_discovery_updates_total{result="failed",upstream="file"}' in page
            assert 'sidecar_discovery_stale_seconds{upstream="kubernetes"}' in page

            names.rcode = ""
            replace(listed, "127.0.0.9:1\n")
            api.put("orders-1", ready=["127.0.0.9"], port=1)
            names.services["_http._tcp.app.test"] = [(0, 1, 1, "app.test")]
            await api.listen()
            await sidecar.until("discovery.restored", 3)
            for name in upstreams:
                await until(sidecar, f"/{name}", 502)
            assert sidecar.noise == []
