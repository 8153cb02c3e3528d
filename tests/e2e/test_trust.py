"""Tests of trust at the level of bytes: claims in heads and trailers, loops, the request's own URI."""

from __future__ import annotations

import pytest

from chaos.parts.servers import Server, answering, echoing
from tests.e2e.world import world
from tests.support.process import Client, Sidecar, policies, route

pytestmark = pytest.mark.asyncio(loop_scope="module")

CHUNKED = "POST /app HTTP/1.1\r\nHost: test\r\nTransfer-Encoding: chunked\r\n{}\r\n5\r\nhello\r\n0\r\n{}\r\n"


async def test_claims_reach_the_service_neither_in_the_head_nor_as_trailers(shared: Sidecar) -> None:
    lines = "X-Forwarded-User: evil\r\nx_forwarded_email: evil\r\nX.Original.URL: /evil\r\nTrue-Client-IP: 6.6.6.6\r\n"
    async with world(shared, {"app": echoing}) as w, w.sidecar.client() as client:
        await client.send(CHUNKED.format(lines, lines + "x-sum: 1\r\nX_Request_Id: evil\r\n").encode())
        assert (await client.response()).body == b"hello"
    (request,) = w.servers["app"].requests
    assert [name for name, _ in request.fields if "user" in name or "email" in name or "url" in name] == []
    assert request.get("true-client-ip") == ""
    assert request.trailers in ([], [("x-sum", "1")])


async def test_trailers_of_a_streamed_body_pass_through_the_same_list(shared: Sidecar) -> None:
    headers = {"set": {"x-user": "ada"}, "remove": ["x-internal-*"]}
    routes = {"app": {"transform": {"request": {"headers": headers}}}}
    async with world(shared, {"app": echoing}, routes=routes) as w, w.sidecar.client() as client:
        whole = CHUNKED.format(
            "X_User: eve\r\n", "X-User: eve\r\nx_user: eve\r\nx-internal-a: 1\r\nx-sum: 1\r\n"
        ).encode()
        at = whole.index(b"0\r\nX-User")
        await client.send(whole[:at])
        await client.send(whole[at:])
        assert (await client.response()).body == b"hello"
    (request,) = w.servers["app"].requests
    assert [value for name, value in request.fields if name.replace("_", "-") == "x-user"] == ["ada"]
    assert request.trailers == [("x-sum", "1")]


async def test_a_loop_ends_at_once(shared: Sidecar) -> None:
    async with Server(answering()) as server:
        rules = policies(
            upstreams={"app": {"endpoints": [server.url]}},
            routes=[route("app", match={"path_prefix": "/"})],
        )
        async with shared.under(rules) as sidecar, Client(sidecar.inbound) as client:
            await client.send(b"GET / HTTP/1.1\r\nHost: test\r\n\r\n")
            assert (await client.response()).status == 200
            (first,) = server.requests
            hops = first.get("x-sidecar-hops")
            assert len(hops) == 16
            await client.send(f"GET / HTTP/1.1\r\nHost: test\r\nX-Sidecar-Hops: aa, {hops}\r\n\r\n".encode())
            answer = await client.response()
            assert (answer.status, answer.get("x-sidecar-reason"), answer.closes) == (508, "loop", True)
    assert len(server.requests) == 1


async def test_a_sidecar_that_is_its_own_upstream_answers_508(shared: Sidecar) -> None:
    async with world(shared, {"app": answering()}) as w:
        address = w.sidecar.inbound  # policies do not change the listener's address
    rules = policies(upstreams={"app": {"endpoints": [f"http://{address}"]}}, routes=[route("app")])
    async with shared.under(rules) as sidecar:
        assert sidecar.inbound == address
        answer = await sidecar.fetch("GET", "/app")
        assert (answer.status, answer.get("x-sidecar-reason")) == (508, "loop")
