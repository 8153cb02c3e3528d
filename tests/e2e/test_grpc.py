"""gRPC through the proxy, with grpcio at both ends: every kind of call, statuses, deadlines, cancellation, retries."""

from __future__ import annotations

import asyncio
import base64
import json
from collections.abc import AsyncIterator
from typing import Any, NamedTuple

import grpc
import grpc.aio
import pytest
import pytest_asyncio

from sidecar.grpc.framing import frame
from tests.support.grpc_server import CODES, EchoServer
from tests.support.process import Sidecar, policies

pytestmark = pytest.mark.asyncio(loop_scope="module")

PATIENCE = 20.0


class World(NamedTuple):
    """Server, sidecar, and a client's channel."""

    server: EchoServer
    sidecar: Sidecar
    channel: grpc.aio.Channel


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def w(shared: Sidecar) -> AsyncIterator[World]:
    async with EchoServer() as server:
        upstreams = {
            "app": {"endpoints": [server.url], "protocol": "http2"},
            "nobody": {"endpoints": ["http://127.0.0.1:9"], "protocol": "http2"},
            "paced": {"endpoints": [server.url], "protocol": "http2", "pacing": {"max_wait": "10s"}},
        }
        calls = {"match": {"path_prefix": "/shop.Echo"}, "upstream": "app"}
        policy = policies(
            listeners={"inbound": {"address": "127.0.0.1:0", "grpc_web": True}},
            upstreams=upstreams,
            routes=[
                {"name": "calls", **calls, "timeout": {"request": "10s"}},
                {
                    "name": "flaky",
                    "match": {"path": "/shop.Echo/Flaky"},
                    "upstream": "app",
                    "timeout": {"request": "10s"},
                    "retry": {"on": ["unavailable", "resource_exhausted"], "backoff": {"base": "1ms", "max": "1ms"}},
                },
                {
                    "name": "late",
                    "match": {"path": "/shop.Echo/Hang"},
                    "upstream": "app",
                    "timeout": {"attempt": "300ms"},
                },
                {
                    "name": "limited",
                    "match": {"path": "/shop.Limited/Unary"},
                    "upstream": "app",
                    "rate_limit": [{"name": "slow", "rate": "1/h", "burst": 0, "key": "header.x-tenant"}],
                },
                {
                    "name": "sized",
                    "match": {"path": "/shop.Echo/Out", "headers": {"x-tenant": "sized"}},
                    "upstream": "app",
                    "timeout": {"request": "10s"},
                    "quota": [
                        {
                            "name": "bytes",
                            "max": 30,
                            "per": "month",
                            "key": "header.x-tenant",
                            "cost": {"answer_size": "1KiB"},
                        }
                    ],
                },
                {
                    "name": "counted",
                    "match": {"path": "/shop.Counted/Unary"},
                    "upstream": "app",
                    "quota": [{"name": "month", "max": 1, "per": "month", "key": "header.x-tenant"}],
                },
                {
                    "name": "paced",
                    "match": {"path": "/shop.Echo/Status", "headers": {"x-tenant": "paced"}},
                    "upstream": "paced",
                    "timeout": {"request": "20s"},
                },
                {"name": "nobody", "match": {"path_prefix": "/shop.Nobody"}, "upstream": "nobody"},
            ],
        )
        async with shared.under(policy) as sidecar:
            address = sidecar.inbound.removeprefix("http://")
            options = [("grpc.max_metadata_size", 64 * 1024), ("grpc.enable_retries", 0)]
            async with grpc.aio.insecure_channel(address, options=options) as channel:
                yield World(server, sidecar, channel)


async def unary(w: World, method: str, request: bytes = b"", service: str = "shop.Echo", **more: Any) -> bytes:
    more.setdefault("timeout", PATIENCE)
    found: bytes = await w.channel.unary_unary(f"/{service}/{method}")(request, **more)
    return found


async def failure(w: World, method: str, wanted: dict[str, Any] | bytes = b"", **more: Any) -> grpc.aio.AioRpcError:
    request = wanted if isinstance(wanted, bytes) else json.dumps(wanted).encode()
    with pytest.raises(grpc.aio.AioRpcError) as caught:
        await unary(w, method, request, **more)
    return caught.value


def metadata(error: grpc.aio.AioRpcError) -> dict[str, str | bytes]:
    return dict(error.initial_metadata()) | dict(error.trailing_metadata())


@pytest.mark.parametrize("size", [0, 5, 70_000, 3_000_000])
async def test_unary(w: World, size: int) -> None:
    assert await unary(w, "Unary", b"x" * size) == b"x" * size


async def test_metadata_passes_both_ways(w: World) -> None:
    call = w.channel.unary_unary("/shop.Echo/Unary")(
        b"", timeout=PATIENCE, metadata=(("x-one", "1"), ("x-two-bin", b"\x00\xff"))
    )
    await call
    _, seen = w.server.calls[-1]
    assert (seen["x-one"], seen["x-two-bin"]) == ("1", b"\x00\xff")


async def test_client_stream(w: World) -> None:
    async def messages() -> AsyncIterator[bytes]:
        for size in (27_182, 8, 1_828, 45_904):
            yield b"x" * size

    assert await w.channel.stream_unary("/shop.Echo/In")(messages(), timeout=PATIENCE) == b"4 74922"


async def test_server_stream(w: World) -> None:
    call = w.channel.unary_stream("/shop.Echo/Out")(b"500", timeout=PATIENCE)
    assert [int(message) async for message in call] == list(range(500))


async def test_ping_pong(w: World) -> None:
    """Each message is answered before the next is sent: nothing on the way waits for more."""
    call = w.channel.stream_stream("/shop.Echo/Both")(timeout=PATIENCE)
    for size in (31_415, 9, 2_653, 58_979, 0):
        await call.write(b"x" * size)
        assert len(await call.read()) == size
    await call.done_writing()
    assert await call.read() is grpc.aio.EOF
    assert await call.code() is grpc.StatusCode.OK


async def test_empty_stream(w: World) -> None:
    call = w.channel.stream_stream("/shop.Echo/Both")(timeout=PATIENCE)
    await call.done_writing()
    assert [message async for message in call] == []


@pytest.mark.parametrize(
    "message", ["plain", "100% sure?", "\t\ntest with whitespace\r\nand Unicode BMP ☺ and non-BMP 😈\t\n"]
)
async def test_status_code_and_message(w: World, message: str) -> None:
    error = await failure(w, "Status", {"code": 2, "message": message})
    assert (error.code(), error.details()) == (grpc.StatusCode.UNKNOWN, message)


@pytest.mark.parametrize("code", [1, 3, 5, 8, 9, 14, 16])
async def test_every_code_passes(w: World, code: int) -> None:
    assert (await failure(w, "Status", {"code": code})).code() is CODES[code]


async def test_trailers_of_twelve_kibibytes(w: World) -> None:
    """linkerd2#15199."""
    long = "abc" * 4096
    error = await failure(w, "Status", {"code": 13, "message": "long", "trailers": {"x-long": long}})
    assert (error.code(), metadata(error)["x-long"]) == (grpc.StatusCode.INTERNAL, long)


async def test_unimplemented_method_and_service(w: World) -> None:
    error = await failure(w, "Nothing")
    assert error.code() is grpc.StatusCode.UNIMPLEMENTED
    error = await failure(w, "Nothing", service="shop.Unknown")
    assert (error.code(), metadata(error)["x-sidecar-reason"]) == (grpc.StatusCode.UNIMPLEMENTED, "no_route")


async def test_cancel_after_begin(w: World) -> None:
    call = w.channel.stream_unary("/shop.Echo/In")(timeout=PATIENCE)
    await call.write(b"x")
    call.cancel()
    assert await call.code() is grpc.StatusCode.CANCELLED


async def test_cancel_after_first_response(w: World) -> None:
    call = w.channel.stream_stream("/shop.Echo/Both")(timeout=PATIENCE)
    await call.write(b"x")
    assert await call.read() == b"x"
    call.cancel()
    assert await call.code() is grpc.StatusCode.CANCELLED


async def test_a_cancellation_reaches_the_server(w: World) -> None:
    """haproxy#172."""
    w.server.cancelled.clear()
    known = len(w.server.calls)
    call = w.channel.unary_unary("/shop.Echo/Wait")(b"", timeout=PATIENCE)
    async with asyncio.timeout(PATIENCE / 4):
        while len(w.server.calls) == known:
            await asyncio.sleep(0.002)
        call.cancel()
        while not w.server.cancelled:
            await asyncio.sleep(0.002)


async def test_the_attempts_timeout_is_a_deadline(w: World) -> None:
    error = await failure(w, "Hang")  # the server, which knows the deadline too, may be the first to say so
    assert error.code() is grpc.StatusCode.DEADLINE_EXCEEDED


async def test_the_rest_of_the_deadline_reaches_the_server(w: World) -> None:
    w.server.left.clear()
    await unary(w, "Unary", timeout=5.0)
    await unary(w, "Unary", timeout=60.0)
    first, second = w.server.left
    assert 0 < first <= 5.1, "grpcio's clock is coarse"
    assert 5.1 < second <= 10.1, "the route allows ten seconds"


async def test_an_endpoint_that_is_not_there_is_unavailable(w: World) -> None:
    error = await failure(w, "Any", service="shop.Nobody")
    assert (error.code(), metadata(error)["x-sidecar-reason"]) == (grpc.StatusCode.UNAVAILABLE, "connect_failure")


@pytest.mark.parametrize(
    "wanted",
    [
        {"code": 14, "name": "at once"},
        {"code": 14, "name": "late", "early": "yes", "seconds": 0.05},
        {"code": 8, "name": "with a wait", "trailers": {"grpc-retry-pushback-ms": "10"}},
    ],
)
async def test_a_status_that_the_route_names_is_retried(w: World, wanted: dict[str, Any]) -> None:
    request = json.dumps(wanted).encode()
    assert await unary(w, "Flaky", request) == request


async def test_a_server_that_asks_for_no_retry_gets_none(w: World) -> None:
    error = await failure(w, "Flaky", {"code": 14, "name": "never", "trailers": {"grpc-retry-pushback-ms": "-1"}})
    assert error.code() is grpc.StatusCode.UNAVAILABLE


async def test_a_status_that_the_route_does_not_name_is_passed_on(w: World) -> None:
    assert (await failure(w, "Flaky", {"code": 13, "name": "other"})).code() is grpc.StatusCode.INTERNAL


async def test_grpc_web(w: World) -> None:
    answer = await w.sidecar.fetch(
        "POST", "/shop.Echo/Unary", body=frame(b"hello"), content_type="application/grpc-web+proto"
    )
    assert answer.get("content-type").startswith("application/grpc-web")
    assert answer.body.startswith(frame(b"hello") + b"\x80")
    assert b"grpc-status: 0\r\n" in answer.body
    text = base64.b64encode(frame(b"3"))
    answer = await w.sidecar.fetch("POST", "/shop.Echo/Out", body=text, content_type="application/grpc-web-text")
    whole = b"".join(base64.b64decode(answer.body[at : at + 4]) for at in range(0, len(answer.body), 4))
    assert whole.startswith(b"".join(frame(b"%1024d" % number) for number in range(3)) + b"\x80")


async def test_the_messages_of_a_stream_count_by_their_size(w: World) -> None:
    """20 messages of 1 KiB, each with a prefix of 5 bytes: 21 units."""

    def out(number: bytes) -> Any:
        metadata = (("x-tenant", "sized"),)
        return w.channel.unary_stream("/shop.Echo/Out")(number, timeout=PATIENCE, metadata=metadata)

    for left in (30, 9):
        call = out(b"20")
        assert f"r={(left - 1) * 1024};" in dict(await call.initial_metadata())["ratelimit"]
        assert len([message async for message in call]) == 20
    with pytest.raises(grpc.aio.AioRpcError) as refused:
        await anext(aiter(out(b"1")))
    assert refused.value.code() is grpc.StatusCode.RESOURCE_EXHAUSTED


@pytest.mark.parametrize(("service", "limit"), [("shop.Limited", "slow"), ("shop.Counted", "month")])
async def test_a_call_over_a_limit_is_resource_exhausted(w: World, service: str, limit: str) -> None:
    """The server does not know these methods, so the first call is UNIMPLEMENTED there."""
    tenant = (("x-tenant", "a"),)
    first = await failure(w, "Unary", service=service, metadata=tenant)
    assert first.code() is grpc.StatusCode.UNIMPLEMENTED
    refused = await failure(w, "Unary", service=service, metadata=tenant)
    assert refused.code() is grpc.StatusCode.RESOURCE_EXHAUSTED
    assert f"the {'limit' if limit == 'slow' else 'quota'} `{limit}` is 1 per" in (refused.details() or "")
    fields = metadata(refused)
    assert fields["x-sidecar-reason"] == "rate_limited"
    assert int(fields["grpc-retry-pushback-ms"]) > 1000
    other = await failure(w, "Unary", service=service, metadata=(("x-tenant", "b"),))
    assert other.code() is grpc.StatusCode.UNIMPLEMENTED


async def test_statuses_that_ask_for_less_slow_an_upstream_down(w: World) -> None:
    """RESOURCE_EXHAUSTED, also in late trailers, and UNAVAILABLE with a time until the next try; no other status."""
    pushback = {"grpc-retry-pushback-ms": "50"}
    for wanted, expected in (
        ({"code": 14}, 0),
        ({"code": 13, "trailers": pushback}, 0),
        ({"code": 8}, 1),
        ({"code": 8, "early": "yes"}, 2),
        ({"code": 14, "trailers": pushback}, 3),
        ({"code": 14, "early": "yes", "trailers": pushback}, 4),
        ({"code": 14, "trailers": {"grpc-retry-pushback-ms": "-1"}}, 4),
    ):
        error = await failure(w, "Status", wanted, metadata=(("x-tenant", "paced"),))
        assert error.code().value[0] == wanted["code"], error
        paced = (await w.sidecar.state())["state"]["pacing"]["upstream:paced"]
        assert paced["asked_for_less"] == expected, wanted
        assert (paced["rate"] is None) == (expected == 0)
