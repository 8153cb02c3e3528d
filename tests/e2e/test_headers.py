"""Tests of fields that the sidecar adds to requests and reads from them: time left, attempts, client."""

from __future__ import annotations

from collections.abc import AsyncIterator

import pytest
import pytest_asyncio

from chaos.parts.client import Client
from chaos.parts.http import Message
from chaos.parts.servers import Server, answering, closing, echoing, sequence, silent
from tests.e2e.world import World, world
from tests.support.process import Sidecar, policies, route

pytestmark = pytest.mark.asyncio(loop_scope="module")

ROUTES = {
    "timed": {"timeout": {"request": "60s", "attempt": "30s"}},
    "named": {"timeout": {"request": "60s", "header": "x-deadline-ms"}},
    "quiet": {"timeout": {"request": "60s", "header": "off"}},
    "silent": {"timeout": {"request": "300s"}},
}


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def w(tmp_path_factory: pytest.TempPathFactory) -> AsyncIterator[World]:
    servers = {"plain": echoing, "timed": echoing, "named": echoing, "quiet": echoing, "silent": silent}
    async with world(tmp_path_factory.mktemp("headers"), servers, routes=ROUTES) as running:
        yield running


def last(w: World, name: str) -> Message:
    return w.servers[name].requests[-1]


async def test_a_try_is_told_the_time_that_it_has(w: World) -> None:
    await w.sidecar.fetch("GET", "/timed")
    assert 0 < int(last(w, "timed").get("x-request-timeout-ms")) <= 30_000, "of the try, not of the request"
    assert last(w, "timed").get("grpc-timeout") == ""


@pytest.mark.parametrize("name", ["x_request_timeout_ms", "x_envoy_expected_rq_timeout_ms"])
async def test_a_caller_can_allow_less(w: World, name: str) -> None:
    answer = await w.sidecar.fetch("GET", "/silent", **{name: "500"})
    assert (answer.status, answer.get("x-sidecar-reason")) == (504, "timeout")
    assert b"the caller allows 0.5 s" in answer.body
    assert 1 <= int(last(w, "silent").get("x-request-timeout-ms")) <= 500
    assert last(w, "silent").get("x-envoy-expected-rq-timeout-ms") == "", "one name for it is enough"


async def test_a_caller_cannot_allow_more(w: World) -> None:
    await w.sidecar.fetch("GET", "/timed", x_request_timeout_ms="90000")
    assert int(last(w, "timed").get("x-request-timeout-ms")) <= 30_000


@pytest.mark.parametrize(
    ("value", "most"),
    [("20000m", 20_000), ("20000000u", 20_000), ("40S", 30_000), ("1H", 30_000)],
)
async def test_grpc_timeout_comes_in_and_goes_out(w: World, value: str, most: int) -> None:
    await w.sidecar.fetch("GET", "/timed", grpc_timeout=value)
    left = last(w, "timed").get("grpc-timeout")
    assert left.endswith("m")
    assert 0 < int(left[:-1]) <= most


async def test_an_incoming_time_left_goes_on_where_the_route_has_none(w: World) -> None:
    await w.sidecar.fetch("GET", "/plain", x_request_timeout_ms="5000")
    assert 0 < int(last(w, "plain").get("x-request-timeout-ms")) <= 5000
    await w.sidecar.fetch("GET", "/plain")
    assert last(w, "plain").get("x-request-timeout-ms") == ""


@pytest.mark.parametrize("value", ["soon", "-5", "1e3", "9999999999999999999999", ""])
async def test_a_time_left_that_is_none_is_ignored(w: World, value: str) -> None:
    assert (await w.sidecar.fetch("GET", "/timed", x_request_timeout_ms=value, grpc_timeout=value)).status == 200


async def test_the_header_can_have_another_name_or_be_off(w: World) -> None:
    await w.sidecar.fetch("GET", "/named", x_deadline_ms="20000")
    assert 1 <= int(last(w, "named").get("x-deadline-ms")) <= 20_000
    assert last(w, "named").get("x-request-timeout-ms") == ""
    await w.sidecar.fetch("GET", "/quiet")
    assert last(w, "quiet").get("x-request-timeout-ms") == ""


async def test_tries_are_numbered_and_go_on_counting(shared: Sidecar) -> None:
    retry = {"retry": {"max_attempts": 3, "backoff": {"base": "1ms"}}}
    servers = {"app": sequence(closing, closing, echoing)}
    async with world(shared, servers, routes={"app": retry}) as w:
        assert (await w.sidecar.fetch("GET", "/app")).status == 200
        await w.sidecar.fetch("GET", "/app", x_sidecar_attempt="2")
        assert [request.get("x-sidecar-attempt") for request in w.servers["app"].requests] == ["1", "2", "3", "2"]


async def test_who_asked_is_believed_from_nobody_by_default(w: World) -> None:
    await w.sidecar.fetch(
        "GET",
        "/plain",
        x_forwarded_for="192.0.2.1",
        x_forwarded_proto="https",
        x_forwarded_host="bank.example",
        forwarded="for=192.0.2.1",
    )
    request = last(w, "plain")
    assert request.get_all("x-forwarded-for") == ["127.0.0.1"]
    assert request.get_all("x-forwarded-proto") == ["http"]
    assert request.get("x-forwarded-host") == ""
    assert request.get("forwarded") == ""
    assert request.get("via") == "1.1 sidecar"


async def test_trusted_proxies_are_believed_and_joined(shared: Sidecar) -> None:
    async with Server(answering()) as server:
        rules = policies(
            listeners={"inbound": {"address": "127.0.0.1:0", "trusted_proxies": ["127.0.0.0/8", "10.0.0.0/8"]}},
            upstreams={"app": {"endpoints": [server.url]}},
            routes=[route("app")],
        )
        async with shared.under(rules) as sidecar, Client(sidecar.inbound) as client:
            await client.send(
                b"GET /app HTTP/1.1\r\nHost: test\r\nX-Forwarded-For: 192.0.2.1\r\nX-Forwarded-For: 10.0.0.9\r\n"
                b"X-Forwarded-Proto: https\r\nX-Forwarded-Host: shop.example\r\nForwarded: for=192.0.2.1\r\n\r\n"
            )
            await client.response()
    (request,) = server.requests
    assert request.get("x-forwarded-for") == "192.0.2.1, 10.0.0.9, 127.0.0.1"
    assert request.get("x-forwarded-proto") == "https"
    assert request.get("x-forwarded-host") == "shop.example"
    assert request.get("forwarded") == "for=192.0.2.1, for=127.0.0.1;proto=http"


async def test_a_request_has_one_id_everywhere(w: World) -> None:
    await w.sidecar.fetch("GET", "/plain", x_request_id="abc-123")
    assert last(w, "plain").get_all("x-request-id") == ["abc-123"]
    await w.sidecar.fetch("GET", "/plain", x_request_id="not a good one")
    assert " " not in last(w, "plain").get("x-request-id") != ""
