"""Tests that a process shows no value of an environment variable: on its admin listener, in logs, to clients."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from chaos.parts.client import fetch
from chaos.parts.servers import Server, echoing
from tests.support.process import Sidecar, policies, route

pytestmark = pytest.mark.asyncio(loop_scope="module")


async def test_no_value_of_a_variable_is_shown(tmp_path: Path) -> None:
    async with Server(echoing) as server:
        environ = {
            "APP": server.url,
            "GONE": "http://localhost:1",
            "KEY": "k3y-of-gold",
            "REQUEST": "7654ms",
            "TOKEN": "hunter2-token",
        }
        breaker = {"per": "endpoint", "consecutive_failures": 1, "open_for": "${REQUEST}"}
        policy = policies(
            listeners={"inbound": {"address": "127.0.0.1:0"}, "open": {"address": "0.0.0.0:0"}},
            upstreams={
                "app": {"endpoints": ["${APP}"], "circuit_breaker": breaker},
                "gone": {"endpoints": ["${GONE}"], "circuit_breaker": breaker},
            },
            routes=[
                route("app", match={"path_prefix": "/app", "headers": {"x-key": "${KEY}"}}),
                {**route("gone"), "listener": "inbound"},
                {**route("shut", "gone"), "listener": "open"},
            ],
            telemetry={"access_log": {"format": "json", "successes": "100%"}},
        )
        policy["routes"][0] = {**policy["routes"][0], "listener": "inbound"}
        async with Sidecar(policy, tmp_path, environ) as sidecar:
            headers = {"x_key": environ["KEY"]}
            assert (await fetch(sidecar.inbound, "GET", "/app", **headers)).status == 200
            told = await fetch(sidecar.inbound, "GET", "/gone")
            port = sidecar.listeners["open"].rpartition(":")[2]
            untold = await fetch(f"127.0.0.1:{port}", "GET", "/shut")
            assert (told.status, untold.status) == (502, 503)
            assert json.loads(told.body)["endpoint"] == "${GONE}"
            assert "endpoint" not in json.loads(untold.body)
            assert "where" not in json.loads(untold.body)
            sidecar.write({**policy, "admin": {"address": "127.0.0.1:0", "token": "${TOKEN}"}, "routes": [
                route("app", timeout={"request": "${KEY}"}), route("gone", "${KEY}"),
            ]})  # fmt: skip
            refused = await sidecar.ask("/reload", "POST")
            assert refused.status == 422
            shown = [told.body, untold.body, refused.body, (await sidecar.ask("/state")).body]
            assert b"${APP}" in shown[-1]
            await sidecar.until("reload.rejected")
        everything = b"".join(shown).decode() + sidecar.log() + "".join(sidecar.output) + json.dumps(sidecar.events)
        assert '"endpoint":"${APP}"' in everything
        for name, value in environ.items():
            assert value not in everything, name
