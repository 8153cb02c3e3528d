"""gRPC's interoperability cases through the sidecar, with grpcio at both ends; each test has the name of its case.

The cases of credentials, of ORCA and of long runs are left out.  A case whose request says `expect_compressed` with no
compression is left out too: grpcio's server does not tell how a message came.
"""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncIterator
from typing import Any

import grpc
import grpc.aio
import pytest
import pytest_asyncio
from google.protobuf import message_factory

from tests.support.grpc_interop import INITIAL, POOL, SERVICE, TRAILING, Handlers, make, payload
from tests.support.process import Sidecar, policies

pytestmark = pytest.mark.asyncio(loop_scope="module")

PATIENCE = 20.0
SIZES_IN = (27182, 8, 1828, 45904)
SIZES_OUT = (31415, 9, 2653, 58979)
SPECIAL = "\t\ntest with whitespace\r\nand Unicode BMP ☺ and non-BMP 😈\t\n"


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def channel(shared: Sidecar) -> AsyncIterator[grpc.aio.Channel]:
    server = grpc.aio.server(handlers=[Handlers()], options=[("grpc.so_reuseport", 0)])
    port = server.add_insecure_port("127.0.0.1:0")
    await server.start()
    policy = policies(
        upstreams={"app": {"endpoints": [f"http://127.0.0.1:{port}"], "protocol": "http2"}},
        routes=[
            {
                "name": "calls", "match": {"path_prefix": "/"}, "upstream": "app",
                "timeout": {"request": "30s"}, "retry": {"on": ["unavailable"]},
            }
        ],
    )  # fmt: skip
    async with shared.under(policy) as sidecar, grpc.aio.insecure_channel(sidecar.inbound) as made:
        yield made
    await server.stop(None)


def call(channel: grpc.aio.Channel, name: str, service: str = SERVICE) -> Any:
    """Return the callable of a method."""
    method = POOL.FindServiceByName(SERVICE).methods_by_name[name]
    kind = {
        (False, False): channel.unary_unary, (False, True): channel.unary_stream,
        (True, False): channel.stream_unary, (True, True): channel.stream_stream,
    }[method.client_streaming, method.server_streaming]  # fmt: skip
    decode = message_factory.GetMessageClass(method.output_type).FromString
    return kind(
        f"/{service}/{name}", request_serializer=lambda each: each.SerializeToString(), response_deserializer=decode
    )


def output(*sizes: int, **more: Any) -> Any:
    """Return a request for messages of these sizes."""
    parameters = [make("ResponseParameters", size=size) for size in sizes]
    return make("StreamingOutputCallRequest", response_parameters=parameters, **more)


async def inputs(sizes: tuple[int, ...]) -> AsyncIterator[Any]:
    for size in sizes:
        yield make("StreamingInputCallRequest", payload=payload(size))


async def test_empty_unary(channel: grpc.aio.Channel) -> None:
    assert await call(channel, "EmptyCall")(make("Empty"), timeout=PATIENCE) == make("Empty")


async def test_large_unary(channel: grpc.aio.Channel) -> None:
    request = make("SimpleRequest", response_size=314159, payload=payload(271828))
    answer = await call(channel, "UnaryCall")(request, timeout=PATIENCE)
    assert answer.payload.body == bytes(314159)


async def test_client_compressed_unary(channel: grpc.aio.Channel) -> None:
    request = make("SimpleRequest", response_size=314159, payload=payload(271828))
    answer = await call(channel, "UnaryCall")(request, timeout=PATIENCE, compression=grpc.Compression.Gzip)
    assert answer.payload.body == bytes(314159)


async def test_server_compressed_unary(channel: grpc.aio.Channel) -> None:
    is_compressed = make("BoolValue", value=True)
    request = make("SimpleRequest", response_size=314159, payload=payload(271828), response_compressed=is_compressed)
    answer = await call(channel, "UnaryCall")(request, timeout=PATIENCE)
    assert answer.payload.body == bytes(314159)


async def test_client_streaming(channel: grpc.aio.Channel) -> None:
    answer = await call(channel, "StreamingInputCall")(inputs(SIZES_IN), timeout=PATIENCE)
    assert answer.aggregated_payload_size == 74922


async def test_client_compressed_streaming(channel: grpc.aio.Channel) -> None:
    compressed = call(channel, "StreamingInputCall")
    answer = await compressed(inputs((27182, 45904)), timeout=PATIENCE, compression=grpc.Compression.Gzip)
    assert answer.aggregated_payload_size == 73086


async def test_server_streaming(channel: grpc.aio.Channel) -> None:
    answers = call(channel, "StreamingOutputCall")(output(*SIZES_OUT), timeout=PATIENCE)
    assert [len(each.payload.body) async for each in answers] == list(SIZES_OUT)


async def test_server_compressed_streaming(channel: grpc.aio.Channel) -> None:
    request = output(31415, 92653)
    request.response_parameters[0].compressed.value = True
    answers = call(channel, "StreamingOutputCall")(request, timeout=PATIENCE)
    assert [len(each.payload.body) async for each in answers] == [31415, 92653]


async def test_ping_pong(channel: grpc.aio.Channel) -> None:
    stream = call(channel, "FullDuplexCall")(timeout=PATIENCE)
    for size, sent in zip(SIZES_OUT, SIZES_IN, strict=True):
        await stream.write(output(size, payload=payload(sent)))
        assert len((await stream.read()).payload.body) == size
    await stream.done_writing()
    assert await stream.read() is grpc.aio.EOF
    assert await stream.code() is grpc.StatusCode.OK


async def test_empty_stream(channel: grpc.aio.Channel) -> None:
    stream = call(channel, "FullDuplexCall")(timeout=PATIENCE)
    await stream.done_writing()
    assert await stream.read() is grpc.aio.EOF
    assert await stream.code() is grpc.StatusCode.OK


async def test_cancel_after_begin(channel: grpc.aio.Channel) -> None:
    stream = call(channel, "StreamingInputCall")(timeout=PATIENCE, metadata=(("x-a", "b"),))
    stream.cancel()
    with pytest.raises(asyncio.CancelledError):
        await stream
    assert await stream.code() is grpc.StatusCode.CANCELLED


async def test_cancel_after_first_response(channel: grpc.aio.Channel) -> None:
    stream = call(channel, "FullDuplexCall")(timeout=PATIENCE)
    await stream.write(output(31415, payload=payload(27182)))
    assert len((await stream.read()).payload.body) == 31415
    stream.cancel()
    assert await stream.code() is grpc.StatusCode.CANCELLED


async def test_timeout_on_sleeping_server(channel: grpc.aio.Channel) -> None:
    request = output(31415, payload=payload(27182))
    request.response_parameters[0].interval_us = 10_000_000
    stream = call(channel, "FullDuplexCall")(timeout=0.05)
    with contextlib.suppress(grpc.aio.AioRpcError, asyncio.InvalidStateError):  # the call may end before
        await stream.write(request)
    assert await stream.code() is grpc.StatusCode.DEADLINE_EXCEEDED


async def test_status_code_and_message(channel: grpc.aio.Channel) -> None:
    status = make("EchoStatus", code=2, message="test status message")
    with pytest.raises(grpc.aio.AioRpcError) as caught:
        await call(channel, "UnaryCall")(make("SimpleRequest", response_status=status), timeout=PATIENCE)
    assert (caught.value.code(), caught.value.details()) == (grpc.StatusCode.UNKNOWN, "test status message")
    stream = call(channel, "FullDuplexCall")(timeout=PATIENCE)
    await stream.write(output(response_status=status))
    assert (await stream.code(), await stream.details()) == (grpc.StatusCode.UNKNOWN, "test status message")


async def test_special_status_message(channel: grpc.aio.Channel) -> None:
    status = make("EchoStatus", code=2, message=SPECIAL)
    with pytest.raises(grpc.aio.AioRpcError) as caught:
        await call(channel, "UnaryCall")(make("SimpleRequest", response_status=status), timeout=PATIENCE)
    assert (caught.value.code(), caught.value.details()) == (grpc.StatusCode.UNKNOWN, SPECIAL)


@pytest.mark.parametrize("service", [SERVICE, "grpc.testing.UnimplementedService"])
async def test_unimplemented_method_and_unimplemented_service(channel: grpc.aio.Channel, service: str) -> None:
    with pytest.raises(grpc.aio.AioRpcError) as caught:
        await call(channel, "UnimplementedCall", service)(make("Empty"), timeout=PATIENCE)
    assert caught.value.code() is grpc.StatusCode.UNIMPLEMENTED


async def test_custom_metadata(channel: grpc.aio.Channel) -> None:
    metadata = ((INITIAL, "test_initial_metadata_value"), (TRAILING, b"\xab\xab\xab"))
    request = make("SimpleRequest", response_size=314159, payload=payload(271828))
    unary = call(channel, "UnaryCall")(request, timeout=PATIENCE, metadata=metadata)
    assert (await unary).payload.body == bytes(314159)
    stream = call(channel, "FullDuplexCall")(timeout=PATIENCE, metadata=metadata)
    await stream.write(output(314159, payload=payload(271828)))
    assert len((await stream.read()).payload.body) == 314159
    await stream.done_writing()
    for each in (unary, stream):
        assert dict(await each.initial_metadata())[INITIAL] == "test_initial_metadata_value"
        assert dict(await each.trailing_metadata())[TRAILING] == b"\xab\xab\xab"
