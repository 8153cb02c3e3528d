"""Tests of the misbehaving servers, which the other tests here rely on."""

from __future__ import annotations

import asyncio

import pytest

from chaos.parts.client import Client, fetch
from chaos.parts.http import request
from chaos.parts.servers import (
    Behaviour,
    Server,
    answering,
    close_delimited,
    closing_idle,
    closing_on_reuse,
    dribbling,
    echoing,
    hanging_after_head,
    interim,
    overlong,
    refusing,
    reset,
    resetting_mid_body,
    sequence,
    silent,
    truncating,
    unresponsive,
)


async def test_requests_are_remembered() -> None:
    async with Server(echoing) as server, Client(server.address) as client:
        answer = await client.request("POST", "/a?b", b"body", x_tag="1")
        again = await client.request("HEAD", "/c")
    assert (answer.status, answer.body, answer.get("x-target")) == (200, b"body", "/a?b")
    assert (again.status, again.body) == (200, b"")
    assert [(r.method, r.target, r.body, r.get("x-tag")) for r in server.requests] == [
        ("POST", "/a?b", b"body", "1"),
        ("HEAD", "/c", b"", ""),
    ]
    assert len(server.connections) == 1


async def test_behaviours_in_sequence() -> None:
    async with Server(sequence(answering(503), answering(200))) as server, Client(server.address) as client:
        assert [(await client.request("GET", "/")).status for _ in range(3)] == [503, 200, 200]


async def test_a_refused_connect() -> None:
    async with refusing() as port:
        with pytest.raises(ConnectionRefusedError):
            await asyncio.open_connection("127.0.0.1", port)


async def test_a_hanging_connect() -> None:
    async with unresponsive() as port:
        with pytest.raises(TimeoutError):
            await asyncio.wait_for(asyncio.open_connection("127.0.0.1", port), 0.2)


@pytest.mark.parametrize("behaviour", [silent, hanging_after_head])
async def test_one_that_hangs(behaviour: Behaviour) -> None:
    async with Server(behaviour) as server, Client(server.address) as client:
        await client.send(request("GET", "/"))
        with pytest.raises(TimeoutError):
            await asyncio.wait_for(client.response(), 0.2)


@pytest.mark.parametrize("behaviour", [reset, resetting_mid_body])
async def test_one_that_resets(behaviour: Behaviour) -> None:
    async with Server(behaviour) as server:
        with pytest.raises(ConnectionResetError):
            await fetch(server.address, "GET", "/")


async def test_one_that_truncates() -> None:
    async with Server(truncating) as server:
        with pytest.raises(asyncio.IncompleteReadError):
            await fetch(server.address, "GET", "/")


async def test_one_that_says_more_than_it_promised() -> None:
    async with Server(overlong) as server, Client(server.address) as client:
        assert (await client.request("GET", "/")).body == b"hello"
        assert (await client.response()).body == b"evil"


async def test_bodies_that_take_their_time() -> None:
    async with Server(dribbling()) as slow, Server(close_delimited) as closing:
        assert (await fetch(slow.address, "GET", "/")).body == b"hello"
        assert (await fetch(closing.address, "GET", "/")).body == b"hello world"


async def test_interim_responses_come_first() -> None:
    async with Server(interim) as server, Client(server.address) as client:
        assert (await client.request("GET", "/")).status == 103
        assert (await client.response()).status == 200


async def test_connections_that_close_unannounced() -> None:
    async with Server(closing_idle(answering())) as server, Client(server.address) as client:
        assert (await client.request("GET", "/")).status == 200
        assert await client.is_closed()
    async with Server(closing_on_reuse(answering())) as server, Client(server.address) as client:
        assert (await client.request("GET", "/")).status == 200
        await client.send(request("GET", "/"))
        assert await client.is_closed()
