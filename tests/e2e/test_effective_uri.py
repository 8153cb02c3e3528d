"""Tests of the effective request URI behind a trusted proxy: cache key, purge, invalidation, rewriting."""

from __future__ import annotations

from typing import Any

import pytest

from chaos.parts.http import Message
from chaos.parts.servers import Behaviour, Connection
from tests.e2e.world import World, world
from tests.support.process import Sidecar

pytestmark = pytest.mark.asyncio(loop_scope="module")

TRUSTING = {"inbound": {"address": "127.0.0.1:0", "trusted_proxies": ["127.0.0.0/8"]}}
CACHED = {"app": {"cache": {}}}


async def shop(connection: Connection, request: Message) -> None:
    """Answer with the request's origin; `http` is redirected to `https`, and a POST names the changed URI `/app`."""
    host, scheme = request.get("x-forwarded-host") or request.get("host"), request.get("x-forwarded-proto")
    body = f"{scheme}://{host}".encode()
    lines = [f"HTTP/1.1 {301 if scheme == 'http' else 200} x", f"Content-Length: {len(body)}"]
    if request.method == "POST":
        lines += [f"Location: {scheme}://{host}/app"]
    elif scheme == "http":
        lines += [f"Location: https://{host}/app", "Cache-Control: max-age=60"]
    else:
        lines += ["Cache-Control: max-age=60"]
    await connection.send("\r\n".join([*lines, "", ""]).encode() + body)


async def fetch(w: World, method: str = "GET", target: str = "/app", **fields: str) -> Message:
    return await w.sidecar.fetch(method, target, host="shop.example", **fields)


HTTPS = [
    {"x_forwarded_proto": "https"},
    {"x_forwarded_proto": "HTTPS"},
    {"x_forwarded_for": "203.0.113.9, 127.0.0.2", "x_forwarded_proto": "https, http"},
    {"forwarded": 'for="[2001:db8::9]:443";proto=https'},
]


@pytest.mark.parametrize("https", HTTPS)
async def test_an_answer_to_http_is_none_to_https(shared: Sidecar, https: dict[str, str]) -> None:
    async with world(shared, {"app": shop}, routes=CACHED, listeners=TRUSTING) as w:
        assert [(await fetch(w)).status for _ in range(2)] == [301, 301]
        assert [(await fetch(w, **https)).status for _ in range(2)] == [200, 200]
        assert (await fetch(w)).status == 301
        assert len(w.servers["app"].requests) == 2


async def test_a_stranger_cannot_say_it(shared: Sidecar) -> None:
    async with world(shared, {"app": shop}, routes=CACHED) as w:
        for fields in (*HTTPS, {"x_forwarded_host": "evil"}, {}):
            answer = await fetch(w, **fields)
            assert (answer.status, answer.body) == (301, b"http://shop.example")
        answer = await fetch(w, target="https://shop.example/app")
        assert (answer.status, answer.body) == (301, b"http://shop.example")
        assert len(w.servers["app"].requests) == 1


async def test_the_host_that_the_client_asked_for_is_in_the_key(shared: Sidecar) -> None:
    async with world(shared, {"app": shop}, routes=CACHED, listeners=TRUSTING) as w:
        for host in ("a.example", "b.example", "a.example", "A.example:443"):
            answer = await fetch(w, x_forwarded_proto="https", x_forwarded_host=host)
            assert answer.body == f"https://{host.lower().removesuffix(':443')}".encode()
        assert (await fetch(w, x_forwarded_proto="https")).body == b"https://shop.example"
        assert [request.get("host") for request in w.servers["app"].requests] == ["shop.example"] * 3


@pytest.mark.parametrize("how", ["url", "prefix"])
async def test_a_purge_by_https(shared: Sidecar, how: str) -> None:
    async with world(shared, {"app": shop}, routes=CACHED, listeners=TRUSTING) as w:
        for fields in (
            {},
            {"x_forwarded_proto": "https"},
            {"x_forwarded_proto": "https", "x_forwarded_host": "b.example"},
        ):
            await fetch(w, **fields)
        for site, left in (("https://shop.example", 4), ("https://b.example", 5), ("http://shop.example", 6)):
            await w.sidecar.ask(f"/cache/purge?{how}={site}/app", "POST")
            for fields in (
                {},
                {"x_forwarded_proto": "https"},
                {"x_forwarded_proto": "https", "x_forwarded_host": "b.example"},
            ):
                await fetch(w, **fields)
            assert len(w.servers["app"].requests) == left


@pytest.mark.parametrize("target", ["/app", "/app/7"])
async def test_a_change_by_https_drops_what_https_has(shared: Sidecar, target: str) -> None:
    async with world(shared, {"app": shop}, routes=CACHED, listeners=TRUSTING) as w:
        await fetch(w)
        await fetch(w, x_forwarded_proto="https")
        assert (await fetch(w, "POST", target, x_forwarded_proto="https")).get("location") == "https://shop.example/app"
        await fetch(w)
        assert len(w.servers["app"].requests) == 3, "what http has is another URI"
        await fetch(w, x_forwarded_proto="https")
        assert len(w.servers["app"].requests) == 4


def redirecting(location: str) -> Behaviour:
    async def behave(connection: Connection, request: Message) -> None:
        text = f"HTTP/1.1 302 x\r\nLocation: {location}\r\nContent-Length: 0\r\n\r\n"
        await connection.send(text.encode())

    return behave


@pytest.mark.parametrize(
    ("fields", "location", "told"),
    [
        ({}, "http://shop.example/app/7", "shop.example"),
        ({"x_forwarded_proto": "https"}, "https://shop.example/app/7", "shop.example"),
        ({"x_forwarded_proto": "https", "x_forwarded_host": "b.example"}, "https://b.example/app/7", "b.example"),
        (
            {"forwarded": 'for=192.0.2.1;proto=https;host="b.example:444"'},
            "https://b.example:444/app/7",
            "b.example:444",
        ),
    ],
)
async def test_a_host_that_is_rewritten(shared: Sidecar, fields: dict[str, str], location: str, told: str) -> None:
    request: dict[str, Any] = {"host": "orders.internal", "path_prefix": {"/app": "/internal"}}
    routes = {"app": {"transform": {"request": request}}}
    servers = {"app": redirecting("http://orders.internal/internal/7")}
    async with world(shared, servers, routes=routes, listeners=TRUSTING) as w:
        answer = await fetch(w, **fields)
        assert answer.get("location") == location
        (seen,) = w.servers["app"].requests
        assert (seen.get("host"), seen.get_all("x-forwarded-host")) == ("orders.internal", [told])
        if "forwarded" in fields:
            assert seen.get("forwarded") == f'{fields["forwarded"]}, for=127.0.0.1;proto=http;host="shop.example"'


async def test_a_host_that_is_not_rewritten_is_told_once(shared: Sidecar) -> None:
    async with world(shared, {"app": redirecting("/")}) as w:
        await fetch(w)
        assert w.servers["app"].requests[0].get_all("x-forwarded-host") == []


async def test_a_trusted_client_asks_for_a_whole_uri(shared: Sidecar) -> None:
    async with world(shared, {"app": shop}, routes=CACHED, listeners=TRUSTING) as w:
        assert (await fetch(w, target="https://b.example/app")).body == b"https://b.example"
        (seen,) = w.servers["app"].requests
        assert (seen.get("host"), seen.get_all("x-forwarded-proto")) == ("b.example", ["https"])
        assert (
            await fetch(w, target="https://b.example/app", x_forwarded_host="c.example")
        ).body == b"https://c.example"
        assert (await fetch(w, target="https://b.example/app")).body == b"https://b.example"
