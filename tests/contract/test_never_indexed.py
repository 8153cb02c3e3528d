"""Tests that fields which came as never indexed go on like that, whichever policy has made the attempt.

RFC 7541 7.1.3: an intermediary must not encode such a field in another representation.
"""

from __future__ import annotations

import pytest

from sidecar.http2.errors import REFUSED_STREAM
from tests.support.loop import virtual
from tests.support.streams import MESSAGE, Exchanged, StreamProxy

POLICIES = """version: 1
listeners: {{inbound: {{address: "127.0.0.1:8080", grpc_web: true}}}}
upstreams:
  app: {{endpoints: ["http://10.0.0.1:80"], protocol: http2}}
  spare: {{endpoints: ["http://10.0.0.2:80"], protocol: http2}}
routes: [{{name: all, match: {{path_prefix: /}}, upstream: app, {block}}}]
"""
MARKED = frozenset((b"x-secret",))
TRAILERS = b"x-secret: 1\r\nx-open: 2\r\n"
LINES = b"content-type: text/plain\r\nx-secret: 0\r\n"


def answer(asked: Exchanged, is_whole: bool) -> None:
    if is_whole:
        asked.answer(MESSAGE, TRAILERS, lines=LINES, marks=MARKED)
    else:
        asked.respond(LINES, MARKED)
        asked.send(MESSAGE)


@pytest.mark.parametrize("is_whole", [True, False], ids=["in one read", "in pieces"])
@pytest.mark.parametrize(
    ("block", "bad"),
    [
        ("timeout: {request: 3s}", 0),
        ("hedge: {after: 10ms}", 1),
        ("retry: {max_attempts: 2, on: [503], backoff: {base: 1ms}}", 503),
        ("fallback: [{upstream: spare}]", 503),
        ("retry: {max_attempts: 1}", -REFUSED_STREAM),
        ("cache: {ttl: 1m}", 0),
        ("transform: {response: {body: {set: {/a: 1}}}}", 0),
    ],
    ids=["none", "hedge", "retry", "fallback", "refused stream", "cache", "transform"],
)
@virtual
async def test_trailers_that_came_as_never_indexed_go_on_like_that(block: str, bad: int, is_whole: bool) -> None:
    """`bad` is how the first attempt ends: a status, a reset (negative), or 1 for no answer in time."""
    proxy = StreamProxy(POLICIES.format(block=block))
    got = proxy.client.ask(b"GET", b"")
    asked = await proxy.asked(1)
    if bad:
        if bad > 1:
            asked[0].answer(status=bad)
        elif bad < 0:
            asked[0].reset(-bad)
        asked = await proxy.asked(2)
    answer(asked[-1], is_whole)
    if not is_whole:
        await got.begin()
        asked[-1].trail(TRAILERS, MARKED)
    await got.end()
    assert got.trailers == TRAILERS
    assert got.head is not None
    assert (got.head.sensitive, got.marks) == (MARKED, MARKED)


@virtual
async def test_a_response_with_such_a_field_is_not_stored() -> None:
    proxy = StreamProxy(POLICIES.format(block="cache: {ttl: 1m}"))
    for number, (marks, said) in enumerate([(MARKED, b"detail=never-indexed"), (frozenset[bytes](), b"stored")], 1):
        got = proxy.client.ask(b"GET", b"")
        (await proxy.asked(number))[-1].answer(b"hi", lines=LINES, marks=marks)
        assert said in (await got.end()).lines
    assert b"sidecar; hit" in (await proxy.client.ask(b"GET", b"").end()).lines


@virtual
async def test_such_a_field_of_a_304_does_not_get_into_the_stored_response() -> None:
    proxy = StreamProxy(POLICIES.format(block="cache: {}"))
    stored = b'etag: "1"\r\ncache-control: max-age=0\r\n'
    got = proxy.client.ask(b"GET", b"")
    (await proxy.asked(1))[-1].answer(b"hi", lines=stored)
    await got.end()
    again = proxy.client.ask(b"GET", b"")
    asked = (await proxy.asked(2))[-1]
    assert b'if-none-match: "1"' in asked.lines
    asked.answer(status=304, lines=stored + b"x-open: 2\r\nx-secret: 0\r\n", marks=MARKED)
    lines = (await again.end()).lines
    assert b"x-open: 2" in lines
    assert b"x-secret" not in lines


@pytest.mark.parametrize("is_whole", [True, False], ids=["in one read", "in pieces"])
@virtual
async def test_an_answer_of_grpc_web_keeps_the_marks_of_its_head(is_whole: bool) -> None:
    proxy = StreamProxy(POLICIES.format(block="timeout: {request: 3s}"))
    got = proxy.client.ask(b"POST", b"content-type: application/grpc-web\r\n", MESSAGE)
    (asked,) = await proxy.asked(1)
    lines = LINES.replace(b"text/plain", b"application/grpc")
    if is_whole:
        asked.answer(MESSAGE, b"grpc-status: 0\r\n", lines=lines, marks=MARKED)
    else:
        asked.respond(lines, MARKED)
        await got.begin()
        asked.trail(b"grpc-status: 0\r\n")
    assert (await got.end()).head.sensitive == MARKED  # type: ignore[union-attr]
