"""Tests of every way in which an upstream can misbehave: the client soon gets a clear failure."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack
from typing import Any

import pytest
import pytest_asyncio

from chaos.parts import servers as s
from chaos.parts.client import fetch
from chaos.parts.http import Message
from tests.e2e.world import World, world
from tests.support.malformed import MALFORMED, MALFORMED_BODIES

pytestmark = pytest.mark.asyncio(loop_scope="module")

TIMEOUT = {"timeout": {"request": "400ms"}}
PATIENT: dict[str, Any] = {"timeout": {"request": "60s"}}
"""Timeout of routes whose upstream does not stall."""
BEFORE_THE_HEAD = {
    "refused": (502, "connect_failure"),
    "unresponsive": (504, "connect_timeout"),
    "silent": (504, "timeout"),
    "reset": (502, "reset"),
    "closing": (502, "reset"),
}
AFTER_THE_HEAD = {
    "hanging": s.hanging_after_head,
    "mid-body": s.resetting_mid_body,
    "truncated": s.truncating,
    "truncated-chunked": s.truncating_chunked,
    "dribbling": s.dribbling(b"x" * 100, every=0.05),
}
MALFORMED_ALL = {**MALFORMED, **MALFORMED_BODIES}


def slug(name: str) -> str:
    return "bad-" + name.replace(" ", "-")


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def w(tmp_path_factory: pytest.TempPathFactory) -> AsyncIterator[World]:
    behaviours: dict[str, s.Behaviour | s.Server] = {
        "silent": s.silent,
        "reset": s.reset,
        "closing": s.closing,
        "overlong": s.overlong,
        "early": s.Server(s.saying(s.response(413, b"too long"), close=True), reads_body=False),
        **AFTER_THE_HEAD,
        **{slug(name): s.saying(data, close=True) for name, data in MALFORMED_ALL.items()},
    }
    async with AsyncExitStack() as stack:
        refusing = await stack.enter_async_context(s.refusing())
        unresponsive = await stack.enter_async_context(s.unresponsive())
        upstreams: dict[str, dict[str, Any]] = {
            "refused": {"endpoints": [f"http://127.0.0.1:{refusing}"]},
            "unresponsive": {"endpoints": [f"http://127.0.0.1:{unresponsive}"], "connect_timeout": "100ms"},
        }
        directory = tmp_path_factory.mktemp("faults")
        yield await stack.enter_async_context(
            world(
                directory,
                behaviours,
                upstreams=upstreams,
                routes=dict.fromkeys(("refused", "unresponsive", "reset", "closing", "overlong", "early"), PATIENT),
                defaults=TIMEOUT,
                limits={"drain_timeout": "1s"},
            )
        )


async def fate(w: World, target: str) -> Message | None:
    """Return the answer; None if it was visibly cut short."""
    try:
        return await fetch(w.sidecar.inbound, "GET", target)
    except (asyncio.IncompleteReadError, ConnectionResetError):
        return None


@pytest.mark.parametrize("name", BEFORE_THE_HEAD)
async def test_no_answer_becomes_a_problem_document(w: World, name: str) -> None:
    answer = await w.sidecar.fetch("GET", f"/{name}")
    assert (answer.status, answer.get("x-sidecar-reason")) == BEFORE_THE_HEAD[name]
    assert answer.get("content-type") == "application/problem+json"


@pytest.mark.parametrize("name", AFTER_THE_HEAD)
async def test_half_an_answer_never_looks_like_a_whole_one(w: World, name: str) -> None:
    answer = await fate(w, f"/{name}")
    assert answer is None or answer.status in (502, 504)


@pytest.mark.parametrize("name", MALFORMED_ALL)
async def test_nothing_malformed_reaches_the_client(w: World, name: str) -> None:
    answer = await fate(w, f"/{slug(name)}")
    assert answer is None or answer.status in (502, 504), answer
    if name in MALFORMED:
        assert answer is not None
        assert answer.get("x-sidecar-reason") in ("protocol_error", "reset", "timeout")


async def test_bytes_beyond_an_answer_do_not_become_the_next_one(w: World) -> None:
    async with w.sidecar.client() as client:
        answers = [await client.request("GET", "/overlong") for _ in range(3)]
    assert [answer.body for answer in answers] == [b"hello"] * 3
    assert len(w.servers["overlong"].connections) == 3


async def test_an_answer_that_comes_before_the_request_has_gone(w: World) -> None:
    async with w.sidecar.client() as client:
        await client.send(b"POST /early HTTP/1.1\r\nHost: test\r\nContent-Length: 10000000\r\n\r\n" + b"x" * 1000)
        answer = await client.response("POST")
    assert (answer.status, answer.body) == (413, b"too long")


async def test_it_still_works_after_all_that(w: World) -> None:
    assert (await w.sidecar.ask("/livez")).status == 200
    assert not w.sidecar.said("bug")
