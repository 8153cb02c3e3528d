"""Test of `cors` in a real browser: a page of one origin calls the sidecar, which is another, by real preflights."""

from __future__ import annotations

import asyncio
import contextlib
import json
import time
from collections.abc import AsyncIterator, Callable
from pathlib import Path
from typing import Any

import pytest
from playwright.async_api import Browser

from tests.support.authority import Authority
from tests.support.grpc_server import EchoServer
from tests.support.issuer import ISSUER, jwk, key, sign
from tests.support.process import Sidecar, policies

pytestmark = pytest.mark.asyncio(loop_scope="module")

SCRIPT = """async ([url, options]) => {
  try {
    const answer = await fetch(url, options);
    const shown = answer.headers.get("x-total");
    return `${answer.status} ${shown} ${await answer.text()}`.slice(0, 60);
  } catch (error) { return error.name; }
}"""

CALL = """async ([url, token, fields]) => {
  const headers = {"content-type": "application/grpc-web+proto", "x-grpc-web": "1", ...fields};
  if (token) headers.authorization = `Bearer ${token}`;
  try {
    const answer = await fetch(url, {method: "POST", headers, body: new Uint8Array([0, 0, 0, 0, 2, 104, 105])});
    const text = new TextDecoder().decode(await answer.arrayBuffer());
    const trailer = /grpc-status: ?([0-9]+)/.exec(text);
    return [answer.status, trailer ? trailer[1] : answer.headers.get("grpc-status"), text.includes("hi")];
  } catch (error) { return [error.name]; }
}"""


@contextlib.asynccontextmanager
async def served(answer: Callable[[str], str]) -> AsyncIterator[tuple[int, list[str]]]:
    """Yield the port of a server on loopback, and the request lines that it has got."""
    lines: list[str] = []

    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        head = (await reader.readuntil(b"\r\n\r\n")).decode("latin-1")
        lines.append(head.partition(" HTTP/")[0])
        body = answer(head)
        kind = "content-type: text/html\r\nx-total: 7\r\naccess-control-allow-origin: *\r\n"
        writer.write(
            f"HTTP/1.1 200 OK\r\n{kind}content-length: {len(body)}\r\nconnection: close\r\n\r\n{body}".encode()
        )
        await writer.drain()
        writer.close()

    server = await asyncio.start_server(serve, "127.0.0.1", 0)
    try:
        yield server.sockets[0].getsockname()[1], lines
    finally:
        server.close()


async def test_a_page_of_another_origin(browser: Browser, tmp_path: Path) -> None:
    async with served(lambda _: "<title>shop</title>") as (page_port, _), served(lambda _: "orders") as (port, seen):
        cors = {
            "origins": [f"http://localhost:{page_port}"],
            "methods": ["GET", "PUT"],
            "headers": ["content-type"],
            "expose": ["x-total"],
            "credentials": True,
        }
        routes: list[dict[str, Any]] = [
            {
                "name": "orders",
                "match": {"path": "/orders", "methods": ["GET", "PUT", "DELETE"]},
                "upstream": "app",
                "cors": cors,
            },
            {"name": "down", "match": {"path": "/down"}, "upstream": "down", "cors": cors},
        ]
        upstreams = {"app": {"endpoints": [f"http://127.0.0.1:{port}"]}, "down": {"endpoints": ["http://127.0.0.1:9"]}}
        async with Sidecar(policies(upstreams=upstreams, routes=routes), tmp_path) as sidecar:
            page = await browser.new_page()
            await page.goto(f"http://localhost:{page_port}/")

            async def call(path: str, **options: Any) -> str:
                found: str = await page.evaluate(SCRIPT, [f"http://{sidecar.inbound}{path}", options])
                return found

            written = {"content-type": "application/json"}
            assert await call("/orders") == "200 7 orders"
            assert await call("/orders", credentials="include") == "200 7 orders"
            assert await call("/orders", method="PUT", headers=written, body="{}") == "200 7 orders"
            assert seen == ["GET /orders", "GET /orders", "PUT /orders"], "the preflight went no further"
            assert await call("/orders", method="DELETE") == "TypeError", "a method that is not allowed"
            assert await call("/orders", headers={"x-secret": "1"}) == "TypeError", "a field that is not allowed"
            assert len(seen) == 3
            assert (await call("/down")).startswith("502 null {"), "a failure can be read too"
            await page.goto(f"http://127.0.0.1:{page_port}/")
            assert await call("/orders") == "TypeError", "another origin gets an answer that its browser keeps"
            assert len(seen) == 4
            assert await call("/orders", method="PUT", headers=written) == "TypeError"
            assert len(seen) == 4, "and no request that needs a preflight"
            await page.close()


async def test_a_call_of_grpc_web_over_http2_with_a_token(browser: Browser, tmp_path: Path) -> None:
    """The preflight is answered before authentication, and a page can read why a call was refused."""
    authority = Authority(tmp_path / "ca")
    async with EchoServer() as server, served(lambda _: "<title>shop</title>") as (page_port, _):
        jwt = {"issuer": ISSUER, "audiences": ["orders"], "algorithms": ["ES256"], "keys": {"inline": [jwk(key())]}}
        cors = {
            "origins": [f"http://localhost:{page_port}"],
            "methods": ["POST"],
            "headers": ["authorization", "content-type", "x-grpc-web", "x-caller"],
        }
        policy = policies(
            listeners={
                "inbound": {"address": "127.0.0.1:0", "grpc_web": True, "tls": authority.sign("localhost", "127.0.0.1")}
            },
            identities={"corporate": {"jwt": jwt}},
            upstreams={"app": {"endpoints": [server.url], "protocol": "http2"}},
            routes=[
                {
                    "name": "calls",
                    "match": {"grpc": {"service": "shop.Echo"}},
                    "upstream": "app",
                    "authenticate": {"any_of": ["corporate"], "forward": {"caller": "x-caller"}},
                    "cors": cors,
                }
            ],
            telemetry={"access_log": {}},
        )
        async with Sidecar(policy, tmp_path) as sidecar:
            context = await browser.new_context(ignore_https_errors=True)
            page = await context.new_page()
            await page.goto(f"http://localhost:{page_port}/")

            async def call(token: str = "", **fields: str) -> list[Any]:
                url = f"https://{sidecar.inbound}/shop.Echo/Unary"
                found: list[Any] = await page.evaluate(CALL, [url, token, fields])
                return found

            token = sign(key(), {"exp": time.time() + 600}).decode()
            assert await call(token) == [200, "0", True]
            assert await call(token, **{"x-caller": "root"}) == [200, "0", True]
            assert [dict(seen)["x-caller"] for _, seen in server.calls] == ["alice", "alice"]
            assert await call() == [200, "16", False], "UNAUTHENTICATED can be read"
            assert await call(token[:-9]) == [200, "16", False]
            assert await call(token, **{"x-secret": "1"}) == ["TypeError"], "a field that is not allowed"
            assert len(server.calls) == 2
            await page.goto(f"http://127.0.0.1:{page_port}/")
            assert await call(token) == ["TypeError"], "another origin"
            assert len(server.calls) == 2
            await context.close()
            lines = [json.loads(line) for line in await sidecar.printed(6)]
            assert {(line["method"], line["protocol"]) for line in lines} == {
                ("OPTIONS", "HTTP/2"),
                ("POST", "HTTP/2"),
            }
