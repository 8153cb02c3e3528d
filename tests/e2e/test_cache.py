"""Tests of the response cache in a real process: source of each answer, and requests that reach the upstream."""

from __future__ import annotations

import asyncio
import contextlib
import json
import re
from typing import Any

import pytest

from chaos.parts.client import PATIENCE
from chaos.parts.http import Message, response
from chaos.parts.servers import (
    Behaviour,
    Connection,
    after,
    answering,
    echoing,
    reset,
    resetting_mid_body,
    saying,
    sequence,
    truncating,
    truncating_chunked,
)
from tests.e2e.world import World, world
from tests.support.process import Sidecar

pytestmark = pytest.mark.asyncio(loop_scope="module")

FRESH = answering(fields=[("Cache-Control", "max-age=60")])
CACHE: dict[str, Any] = {"cache": {}}


def numbered(*fields: tuple[str, str]) -> Behaviour:
    """Return a behaviour that answers with the number of the request as the body."""
    count = 0

    async def behave(connection: Connection, request: Message) -> None:
        nonlocal count
        count += 1
        body = f"answer {count} to {request.get('accept-language') or 'all'}".encode()
        head = response(200, body, fields)
        await connection.send(head[: -len(body)] if request.method == "HEAD" else head)

    return behave


def said(answer: Message) -> str:
    """Return the sidecar's member of Cache-Status (RFC 9211)."""
    return answer.get_all("cache-status")[-1]


def calls(w: World, name: str = "app") -> int:
    return len(w.servers[name].requests)


async def lookups(w: World, name: str, cache: str = "default") -> dict[str, int]:
    found: dict[str, int] = json.loads((await w.sidecar.ask("/cache")).body)[cache]["lookups"][name]
    return found


async def test_a_miss_is_stored_and_hit_with_its_age(shared: Sidecar) -> None:
    async with world(shared, {"stored": FRESH}, routes={"stored": CACHE}) as w:
        miss = await w.sidecar.fetch("GET", "/stored")
        hit = await w.sidecar.fetch("GET", "/stored")
        assert (miss.status, miss.body) == (200, b"ok")
        assert re.fullmatch("sidecar; fwd=uri-miss; ttl=(60|59); stored", said(miss))
        assert (hit.status, hit.body) == (200, b"ok")
        assert said(hit).startswith("sidecar; hit; ttl=")
        assert int(hit.get("age")) in (0, 1)
        assert calls(w, "stored") == 1
        assert (await lookups(w, "stored"))["hit"] == 1
        assert b'sidecar_cache_size_bytes{cache="default"}' in (await w.sidecar.ask("/metrics")).body
        assert (await w.sidecar.state())["state"]["cache"]["default"]["entries"] == 1


async def test_variants_live_side_by_side(shared: Sidecar) -> None:
    upstream = numbered(("Cache-Control", "max-age=60"), ("Vary", "Accept-Language"))
    async with world(shared, {"app": upstream}, routes={"app": CACHE}) as w:
        for language, number in (("de", 1), ("en", 2), ("de", 1), ("en", 2)):
            answer = await w.sidecar.fetch("GET", "/app", accept_language=language)
            assert answer.body == f"answer {number} to {language}".encode()


async def test_a_stale_answer_is_validated(shared: Sidecar) -> None:
    fields = [("Cache-Control", "max-age=0"), ("ETag", '"1"')]
    unchanged = answering(304, b"", [("Cache-Control", "max-age=60"), ("ETag", '"1"')])
    async with world(shared, {"app": sequence(answering(fields=fields), unchanged)}, routes={"app": CACHE}) as w:
        await w.sidecar.fetch("GET", "/app")
        validated = await w.sidecar.fetch("GET", "/app")
        assert (validated.status, validated.body) == (200, b"ok")
        assert "fwd-status=304" in said(validated)
        assert w.servers["app"].requests[1].get("if-none-match") == '"1"'
        assert said(await w.sidecar.fetch("GET", "/app")).startswith("sidecar; hit")
        mine = await w.sidecar.fetch("GET", "/app", if_none_match='"1"')
        assert (mine.status, mine.body) == (304, b"")
        assert calls(w) == 2


async def test_an_open_breaker_serves_stale_at_once(shared: Sidecar) -> None:
    fields = [("Cache-Control", "max-age=0, stale-if-error=60")]
    routes = {"app": {**CACHE, "circuit_breaker": {"consecutive_failures": 1, "open_for": "60s"}}}
    async with world(shared, {"app": sequence(answering(fields=fields), answering(500))}, routes=routes) as w:
        await w.sidecar.fetch("GET", "/app")
        failed = await w.sidecar.fetch("GET", "/app")
        refused = await w.sidecar.fetch("GET", "/app")
        assert (failed.status, failed.body, refused.status, refused.body) == (200, b"ok", 200, b"ok")
        assert "detail=status-500" in said(failed)
        assert "detail=breaker-open" in said(refused)
        assert calls(w) == 2, "and the upstream is left alone"


async def test_beyond_that_the_fallback_has_what_is_left(shared: Sidecar) -> None:
    fields = [("Cache-Control", "max-age=0"), ("ETag", '"1"')]
    routes = {"app": {**CACHE, "fallback": ["stale", {"response": {"status": 503, "body": "sorry"}}]}}
    async with world(shared, {"app": sequence(answering(fields=fields), answering(500))}, routes=routes) as w:
        await w.sidecar.fetch("GET", "/app")
        stale = await w.sidecar.fetch("GET", "/app")
        assert (stale.status, stale.body, stale.get("x-sidecar-fallback")) == (200, b"ok", "stale")
        assert "detail=fallback" in said(stale)
        unknown = await w.sidecar.fetch("GET", "/app/other")
        assert (unknown.status, unknown.body, unknown.get("x-sidecar-fallback")) == (503, b"sorry", "response")


async def test_stale_is_served_while_a_new_one_is_fetched(shared: Sidecar) -> None:
    old, new = (
        answering(body=body, fields=[("Cache-Control", control)])
        for body, control in ((b"old", "max-age=0, stale-while-revalidate=60"), (b"new", "max-age=60"))
    )
    async with world(shared, {"app": sequence(old, after(0.2, new))}, routes={"app": CACHE}) as w:
        await w.sidecar.fetch("GET", "/app")
        assert {(await w.sidecar.fetch("GET", "/app")).body for _ in range(3)} == {b"old"}
        async with asyncio.timeout(PATIENCE):
            while (await w.sidecar.fetch("GET", "/app")).body != b"new":
                await asyncio.sleep(0.02)
        assert calls(w) == 2


@pytest.mark.parametrize(
    "query", ["url=http://localhost/app/1", "prefix=http://localhost/app", "tag=one", "everything=true"]
)
async def test_purging(shared: Sidecar, query: str) -> None:
    upstream = answering(fields=[("Cache-Control", "max-age=60"), ("Cache-Tag", "one, two")])
    async with world(shared, {"app": upstream}, routes={"app": CACHE}) as w:
        await w.sidecar.fetch("GET", "/app/1")
        answer = await w.sidecar.ask(f"/cache/purge?{query}&cache=default", "POST")
        assert json.loads(answer.body) == {"purged": {"default": 1}}
        assert said(await w.sidecar.fetch("GET", "/app/1")).startswith("sidecar; fwd=uri-miss")


async def test_a_write_invalidates_what_any_route_has_cached(shared: Sidecar) -> None:
    async with world(shared, {"app": numbered(("Cache-Control", "max-age=60"))}, routes={"app": CACHE}) as w:
        policy = json.loads(w.sidecar.path.read_text())
        write = {"name": "write", "match": {"methods": ["PUT"], "path_prefix": "/app"}, "upstream": "app"}
        policy["routes"].append(write)
        w.sidecar.write(policy)
        await w.sidecar.until("reload.applied", 2)
        for method in ("POST", "PUT"):
            before = await w.sidecar.fetch("GET", "/app")
            assert (await w.sidecar.fetch("GET", "/app")).body == before.body
            assert (await w.sidecar.fetch(method, "/app", b"new")).status == 200
            assert (await w.sidecar.fetch("GET", "/app")).body != before.body


async def test_entries_outlive_a_reload(shared: Sidecar) -> None:
    async with world(shared, {"app": FRESH}, routes={"app": CACHE}) as w:
        await w.sidecar.fetch("GET", "/app")
        policy = json.loads(w.sidecar.path.read_text())
        policy["caches"] = {"default": {"memory": {"max_size": "1MiB"}}}
        w.sidecar.write(policy)
        await w.sidecar.until("reload.applied", 2)
        assert said(await w.sidecar.fetch("GET", "/app")).startswith("sidecar; hit")
        assert json.loads((await w.sidecar.ask("/cache")).body)["default"]["max_bytes"] == 2**20


async def test_a_thousand_requests_for_one_expired_answer_are_one_call(shared: Sidecar) -> None:
    expired = answering(body=b"old", fields=[("Cache-Control", "max-age=0"), ("ETag", '"1"')])
    renewed = after(1.0, answering(body=b"new", fields=[("Cache-Control", "max-age=60"), ("ETag", '"2"')]))
    async with world(shared, {"herd": sequence(expired, renewed)}, routes={"herd": CACHE}) as w:
        await w.sidecar.fetch("GET", "/herd")
        answers = await asyncio.gather(*(w.sidecar.fetch("GET", "/herd") for _ in range(1000)))
        assert {answer.body for answer in answers} == {b"new"}
        assert calls(w, "herd") == 2
        kinds = await lookups(w, "herd")
        assert kinds["coalesced"] + kinds["hit"] == 999


async def test_a_fetch_outlives_the_client_that_started_it(shared: Sidecar) -> None:
    may_answer = asyncio.Event()

    async def slow(connection: Connection, request: Message) -> None:
        await may_answer.wait()
        await FRESH(connection, request)

    async def filling(w: World, waiters: int) -> None:
        line = b'sidecar_cache_waiters{cache="default"} %d\n' % waiters
        while not calls(w, "left") or line not in (await w.sidecar.ask("/metrics")).body:
            await asyncio.sleep(0.01)

    async with world(shared, {"left": slow}, routes={"left": CACHE}) as w:
        async with w.sidecar.client() as first:
            await first.send(b"GET /left HTTP/1.1\r\nHost: localhost\r\n\r\n")
            await asyncio.wait_for(filling(w, 0), PATIENCE)
            others = [asyncio.ensure_future(w.sidecar.fetch("GET", "/left")) for _ in range(3)]
            await asyncio.wait_for(filling(w, 3), PATIENCE)
        assert not await w.servers["left"].are_clients_gone(0.3)
        may_answer.set()
        assert [(await other).body for other in others] == [b"ok"] * 3
        assert calls(w, "left") == 1
        assert (await lookups(w, "left"))["coalesced"] == 3


async def test_a_head_is_answered_from_what_is_stored(shared: Sidecar) -> None:
    async with world(shared, {"app": FRESH}, routes={"app": CACHE}) as w:
        await w.sidecar.fetch("GET", "/app")
        head = await w.sidecar.fetch("HEAD", "/app")
        assert (head.status, head.get("content-length"), head.body) == (200, "2", b"")
        assert calls(w) == 1


async def test_a_range_is_answered_from_what_is_stored(shared: Sidecar) -> None:
    upstream = answering(body=b"0123456789", fields=[("Cache-Control", "max-age=60"), ("ETag", '"1"')])
    async with world(shared, {"app": upstream}, routes={"app": CACHE}) as w:
        await w.sidecar.fetch("GET", "/app")
        part = await w.sidecar.fetch("GET", "/app", range="bytes=2-4")
        assert (part.status, part.body, part.get("content-range")) == (206, b"234", "bytes 2-4/10")
        beyond = await w.sidecar.fetch("GET", "/app", range="bytes=20-")
        assert (beyond.status, beyond.get("content-range")) == (416, "bytes */10")
        assert calls(w) == 1


async def test_observing_answers_nothing_and_counts(shared: Sidecar) -> None:
    async with world(shared, {"observed": FRESH}, routes={"observed": {"cache": {"mode": "observe"}}}) as w:
        for _ in range(3):
            assert not (await w.sidecar.fetch("GET", "/observed")).get("cache-status")
        assert calls(w, "observed") == 3
        assert await lookups(w, "observed") == {"hit": 2, "stale": 0, "miss": 1}


async def test_a_route_without_a_cache_is_not_touched(shared: Sidecar) -> None:
    async with world(shared, {"app": FRESH, "plain": echoing}, routes={"app": CACHE}) as w:
        assert not (await w.sidecar.fetch("GET", "/plain")).get("cache-status")
        assert (await w.sidecar.fetch("POST", "/plain", b"x")).body == b"x"


STALE = answering(body=b"stored", fields=[("Cache-Control", "max-age=0, stale-if-error=60")])


@pytest.mark.parametrize("unusual", [
    *(answering(status, b"unusual") for status in (400, 408, 421, 425, 429, 431)), resetting_mid_body, truncating,
    truncating_chunked,
    saying(b"HTTP/1.1 200 OK\r\nCache-Control: max-age=60\r\nContent-Length: 9\r\n\r\nhalf", close=True),
])  # fmt: skip
async def test_an_unusual_response_keeps_the_stale_one(shared: Sidecar, unusual: Behaviour) -> None:
    async with world(shared, {"app": sequence(STALE, unusual, reset)}, routes={"app": CACHE}) as w:
        assert (await w.sidecar.fetch("GET", "/app")).body == b"stored"
        with contextlib.suppress(ConnectionError, EOFError):
            assert (await w.sidecar.fetch("GET", "/app")).body != b"stored"
        answer = await w.sidecar.fetch("GET", "/app")
        assert (answer.status, answer.body) == (200, b"stored")
        assert "detail=reset" in said(answer)


@pytest.mark.parametrize("framing", ["Content-Length: 6", "Transfer-Encoding: chunked"])
async def test_a_streamed_answer_to_a_post_is_stored_whole(shared: Sidecar, framing: str) -> None:
    head = f"HTTP/1.1 200 OK\r\nCache-Control: max-age=60\r\nContent-Location: /app\r\n{framing}\r\n\r\n".encode()
    pieces = (b"pos", b"ted") if "Length" in framing else (b"3\r\npos\r\n", b"3\r\nted\r\n0\r\n\r\n")
    async with world(shared, {"app": saying(head, *pieces, every=0.05)}, routes={"app": CACHE}) as w:
        posted = await w.sidecar.fetch("POST", "/app", b"x")
        got = await w.sidecar.fetch("GET", "/app")
        assert (posted.body, got.body, calls(w)) == (b"posted", b"posted", 1)


@pytest.mark.parametrize("block", [{"ttl": "60s"}, {"heuristic": "10%"}])
@pytest.mark.parametrize("name", ["cookie", "x_api_key", "authorization", "x_user_id"])
async def test_the_answer_to_one_user_is_not_given_to_another(
    shared: Sidecar, name: str, block: dict[str, Any]
) -> None:
    field = name.replace("_", "-")

    async def behave(connection: Connection, request: Message) -> None:
        fields = [("Last-Modified", "Mon, 01 Jan 2001 00:00:00 GMT")]
        await connection.send(response(200, (request.get(field) or "nobody").encode(), fields))

    async with world(shared, {"app": behave}, routes={"app": {"cache": block}}) as w:
        for user in ("one", "two", "one"):
            assert (await w.sidecar.fetch("GET", "/app", **{name: user})).body == user.encode()
        assert (await w.sidecar.fetch("GET", "/app")).body == b"nobody"
        assert (await w.sidecar.fetch("GET", "/app")).body == b"nobody"
        assert calls(w) == 4
