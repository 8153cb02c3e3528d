"""Service of gRPC's interoperability tests, with grpcio: `grpc.testing.TestService`, as its description says."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from typing import Any, Final

import grpc
import grpc.aio
from google.protobuf import message_factory

from tests.support.protos import compile_proto, pool_of

PROTO: Final = """
syntax = "proto3";
package grpc.testing;

message Empty {}
message BoolValue { bool value = 1; }
enum PayloadType { COMPRESSABLE = 0; }
message Payload { PayloadType type = 1; bytes body = 2; }
message EchoStatus { int32 code = 1; string message = 2; }
message SimpleRequest {
  PayloadType response_type = 1; int32 response_size = 2; Payload payload = 3; BoolValue response_compressed = 6;
  EchoStatus response_status = 7; BoolValue expect_compressed = 8;
}
message SimpleResponse { Payload payload = 1; }
message StreamingInputCallRequest { Payload payload = 1; BoolValue expect_compressed = 2; }
message StreamingInputCallResponse { int32 aggregated_payload_size = 1; }
message ResponseParameters { int32 size = 1; int32 interval_us = 2; BoolValue compressed = 3; }
message StreamingOutputCallRequest {
  PayloadType response_type = 1; repeated ResponseParameters response_parameters = 2; Payload payload = 3;
  EchoStatus response_status = 7;
}
message StreamingOutputCallResponse { Payload payload = 1; }

service TestService {
  rpc EmptyCall(Empty) returns (Empty);
  rpc UnaryCall(SimpleRequest) returns (SimpleResponse);
  rpc StreamingInputCall(stream StreamingInputCallRequest) returns (StreamingInputCallResponse);
  rpc StreamingOutputCall(StreamingOutputCallRequest) returns (stream StreamingOutputCallResponse);
  rpc FullDuplexCall(stream StreamingOutputCallRequest) returns (stream StreamingOutputCallResponse);
  rpc UnimplementedCall(Empty) returns (Empty);
}
"""
POOL: Final = pool_of(compile_proto(PROTO))
SERVICE: Final = "grpc.testing.TestService"
INITIAL: Final = "x-grpc-test-echo-initial"
TRAILING: Final = "x-grpc-test-echo-trailing-bin"
CODES: Final = {code.value[0]: code for code in grpc.StatusCode}


def make(name: str, **values: Any) -> Any:
    """Return a message of the package."""
    return message_factory.GetMessageClass(POOL.FindMessageTypeByName(f"grpc.testing.{name}"))(**values)


def payload(size: int) -> Any:
    return make("Payload", body=bytes(size))


class TestService:
    """The service; a method of it has the name of its call in lower case."""

    __test__ = False

    async def emptycall(self, _: Any, context: Any) -> Any:
        await self._echo(context)
        return make("Empty")

    async def unarycall(self, request: Any, context: Any) -> Any:
        await self._echo(context)
        if request.response_compressed.value:
            context.set_compression(grpc.Compression.Gzip)
        await self._fail(request, context)
        return make("SimpleResponse", payload=payload(request.response_size))

    async def streaminginputcall(self, requests: AsyncIterator[Any], _: Any) -> Any:
        size = 0
        async for request in requests:
            size += len(request.payload.body)
        return make("StreamingInputCallResponse", aggregated_payload_size=size)

    async def streamingoutputcall(self, request: Any, context: Any) -> AsyncIterator[Any]:
        if any(each.compressed.value for each in request.response_parameters):
            context.set_compression(grpc.Compression.Gzip)
        async for answer in self._answers(request):
            yield answer

    async def fullduplexcall(self, requests: AsyncIterator[Any], context: Any) -> AsyncIterator[Any]:
        await self._echo(context)
        async for request in requests:
            await self._fail(request, context)
            async for answer in self._answers(request):
                yield answer

    async def _answers(self, request: Any) -> AsyncIterator[Any]:
        for each in request.response_parameters:
            await asyncio.sleep(each.interval_us / 1e6)
            yield make("StreamingOutputCallResponse", payload=payload(each.size))

    async def _echo(self, context: Any) -> None:
        """Send metadata back: one value at the start, another at the end."""
        given = dict(context.invocation_metadata())
        if INITIAL in given:
            await context.send_initial_metadata(((INITIAL, given[INITIAL]),))
        if TRAILING in given:
            context.set_trailing_metadata(((TRAILING, given[TRAILING]),))

    async def _fail(self, request: Any, context: Any) -> None:
        if request.response_status.code:
            await context.abort(CODES[request.response_status.code], request.response_status.message)


class Handlers(grpc.GenericRpcHandler):
    """Handlers of the methods; `UnimplementedCall` and what has another name have none."""

    def __init__(self) -> None:
        self._service = TestService()

    def service(self, details: Any) -> Any:
        service, _, name = details.method[1:].rpartition("/")
        behaviour = getattr(self._service, name.lower(), None)
        if service != SERVICE or behaviour is None:
            return None
        method = POOL.FindServiceByName(SERVICE).methods_by_name[name]
        make_handler = {
            (False, False): grpc.unary_unary_rpc_method_handler, (False, True): grpc.unary_stream_rpc_method_handler,
            (True, False): grpc.stream_unary_rpc_method_handler, (True, True): grpc.stream_stream_rpc_method_handler,
        }[method.client_streaming, method.server_streaming]  # fmt: skip
        decode = message_factory.GetMessageClass(method.input_type).FromString
        return make_handler(behaviour, decode, lambda message: message.SerializeToString())
