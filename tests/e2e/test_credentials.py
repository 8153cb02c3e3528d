"""Credentials of the sidecar on real sockets: a token server, upstreams of both versions, WebSocket, health checks."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from chaos.parts import websocket as ws
from chaos.parts.http import Message, response
from chaos.parts.servers import Connection, Server
from tests.e2e.crowd import until
from tests.support.h2_server import Connection as Stream
from tests.support.h2_server import H2Server, Request
from tests.support.process import Sidecar, policies, route

pytestmark = pytest.mark.asyncio(loop_scope="module")


class World:
    """Token server, and upstreams that accept its tokens except the revoked ones."""

    def __init__(self) -> None:
        self.issued = 0
        self.revoked = 0
        """Number of tokens that are no longer accepted, the first ones."""
        self.is_away = False
        self.probes: list[str] = []

    def accepts(self, value: str) -> bool:
        return value in [f"Bearer t{number}" for number in range(self.revoked + 1, self.issued + 1)]

    async def issue(self, connection: Connection, request: Message) -> None:
        if self.is_away or request.body != b"grant_type=client_credentials&scope=pay":
            await connection.send(response(400, b'{"error":"invalid_scope"}'))
            return
        self.issued += 1
        token = {"access_token": f"t{self.issued}", "token_type": "Bearer", "expires_in": 600}
        await connection.send(response(200, json.dumps(token).encode()))

    async def serve(self, connection: Connection, request: Message) -> None:
        if request.target == "/healthz":
            self.probes.append(request.get("authorization"))
        if not self.accepts(request.get("authorization")):
            await connection.send(response(401, b"no"))
        elif request.get("upgrade"):
            await ws.echo(connection, request)
        else:
            await connection.send(response(200, request.body or b"yes"))

    def serve_streams(self, connection: Stream, request: Request) -> None:
        given = dict(request.fields).get(b"authorization", b"").decode()
        if self.accepts(given):
            connection.answer(request, b"pay")
        else:
            connection.h2.send_headers(request.stream, [(b":status", b"401")], end_stream=True)


async def test_a_token_goes_with_every_request_and_is_renewed_when_it_is_rejected(tmp_path: Path) -> None:
    world = World()
    async with Server(world.issue) as issuer, Server(world.serve) as app, H2Server(world.serve_streams) as h2:
        oauth2 = {"token_url": f"{issuer.url}/token", "client": {"id": "orders", "secret": "s3cret"}, "scopes": ["pay"]}
        check = {"path": "/healthz", "interval": "200ms"}
        own: dict[str, Any] = {"credentials": {"oauth2": oauth2}}
        rules = policies(
            upstreams={
                "app": {"endpoints": [app.url], "health_check": check, **own},
                "h2": {"endpoints": [h2.url], "protocol": "http2", **own},
            },
            routes=[route("app"), route("h2")],
        )
        async with Sidecar(rules, tmp_path) as sidecar:
            await until(lambda: world.issued == 2)  # one for each upstream
            world.revoked = 2
            for target in ("/app/x", "/h2/x"):
                answer = await sidecar.fetch("POST", target, b"pay", authorization="Bearer client")
                assert (answer.status, answer.body) == (200, b"pay")
            async with sidecar.client() as client:
                await client.send(ws.handshake("/app/ws"))
                assert (await client.response()).status == 101
            await until(lambda: any(map(world.accepts, world.probes)))
            assert world.issued == 4, "each upstream has renewed its token once"
            assert "s3cret" not in sidecar.log()
            state = json.dumps(await sidecar.state())
            assert "credentials" in state
            assert all(f'"t{number}"' not in state and f"Bearer t{number}" not in state for number in range(1, 5))
            assert "s3cret" not in state
            assert b"sidecar_credentials_fetches" in (await sidecar.ask("/metrics")).body


async def test_without_a_token_the_upstream_is_not_asked(tmp_path: Path) -> None:
    world = World()
    world.is_away = True
    secret = tmp_path / "secret"
    secret.write_text("s3cret\n")
    async with Server(world.issue) as issuer, Server(world.serve) as app:
        client = {"id": "orders", "secret": {"file": str(secret)}}
        oauth2 = {"token_url": f"{issuer.url}/token", "client": client, "scopes": ["pay"]}
        rules = policies(
            upstreams={"app": {"endpoints": [app.url], "credentials": {"oauth2": oauth2}}}, routes=[route("app")]
        )
        async with Sidecar(rules, tmp_path) as sidecar:
            answer = await sidecar.fetch("GET", "/app")
            assert (answer.status, answer.get("x-sidecar-reason")) == (503, "no_credentials")
            assert answer.get("retry-after") == "1"
            problem = json.loads(answer.body)
            assert problem["policy"] == "credentials"
            assert "invalid_scope" not in answer.body.decode()
            await until(lambda: sidecar.said("credentials.failed"))
            assert "(invalid_scope)" in sidecar.log()
            assert app.requests == []
            world.is_away = False
            await until(lambda: world.issued == 1)
            assert (await sidecar.fetch("GET", "/app")).status == 200
