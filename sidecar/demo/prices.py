"""Service of prices that speaks gRPC, and its client.

    python -m sidecar.demo.prices [--address 127.0.0.1:9004]

The types are those of `policies/shop/prices.proto`.

- `Get` returns the price of any article, `Set` changes it, and `Watch` sends it again each second.
- Some articles misbehave.  Every second call for `unsure` ends with UNAVAILABLE in its trailers, after a head that
  promised success.  `slow` takes two seconds, and `nothing` is not found.
- The server has the health service and the reflection service of gRPC.
"""

from __future__ import annotations

import argparse
import asyncio
import signal
import time
import zlib
from collections.abc import AsyncIterator, Callable, Mapping
from typing import Any, Final

import grpc  # type: ignore[import-untyped]
from google.protobuf import (  # type: ignore[import-untyped]
    descriptor_pb2,
    descriptor_pool,
    json_format,
    message_factory,
)
from grpc import aio

from sidecar.demo import examples
from sidecar.grpc.wire import fields, varint

SERVICE: Final = "shop.Prices"
DESCRIPTORS: Final = examples.find("shop/prices.binpb")
SLOW: Final = 2.0
"""Seconds that the price of `slow` takes."""
EVERY: Final = 1.0
"""Seconds between two messages of `Watch`."""
MOST_PRICES: Final = 10_000
"""Most prices that `Set` keeps."""
SERVING: Final = b"\x08\x01"
"""Answer of the health service."""
LIST_SERVICES: Final = 7
"""Field of a question of reflection that asks for the names of services; the others ask for files."""
REFLECTION: Final = ("grpc.reflection.v1", "grpc.reflection.v1alpha")


def read_types() -> tuple[list[bytes], Callable[[str], Any]]:
    """Return the files of the descriptor set, and a function that returns the class of a message by its name."""
    found = descriptor_pb2.FileDescriptorSet.FromString(DESCRIPTORS.read_bytes())
    pool = descriptor_pool.DescriptorPool()
    for file in found.file:
        pool.Add(file)
    files = [file.SerializeToString() for file in found.file]
    return files, lambda name: message_factory.GetMessageClass(pool.FindMessageTypeByName(name))


class Prices(grpc.GenericRpcHandler):  # type: ignore[misc]  # grpcio has no types
    """Handlers of the service's methods.

    - `prices`: prices in cents that `Set` has stored, with the time of the change.
    - `unsure`: number of calls for the article `unsure`.
    """

    def __init__(self) -> None:
        self.prices: dict[str, tuple[int, float]] = {}
        self.unsure = 0
        self.started = time.time()
        self.files, self.types = read_types()
        unary, stream = grpc.unary_unary_rpc_method_handler, grpc.unary_stream_rpc_method_handler
        self.handlers = {
            f"/{SERVICE}/Get": unary(self.get, *self.codec("shop.GetPriceRequest")),
            f"/{SERVICE}/Set": unary(self.set, *self.codec("shop.SetPriceRequest")),
            f"/{SERVICE}/Watch": stream(self.watch, *self.codec("shop.GetPriceRequest")),
            "/grpc.health.v1.Health/Check": unary(self.check),
        }
        for package in REFLECTION:
            handler = grpc.stream_stream_rpc_method_handler(self.reflect)
            self.handlers[f"/{package}.ServerReflection/ServerReflectionInfo"] = handler

    def codec(self, request: str) -> tuple[Any, Any]:
        """Return the reader of a method's requests, and the writer of its answers."""
        return self.types(request).FromString, self.types("shop.Price").SerializeToString

    def service(self, details: Any) -> Any:
        return self.handlers.get(details.method)

    def price(self, sku: str) -> Any:
        """Return the message with the price of an article."""
        cents, since = self.prices.get(sku, (100 + zlib.crc32(sku.encode()) % 9900, self.started))
        message = self.types("shop.Price")(sku=sku, cents=cents)
        message.since.FromNanoseconds(int(since) * 10**9)
        return message

    async def misbehave(self, sku: str, context: Any) -> None:
        """Delay or end a call, if its article is one that misbehaves."""
        if not sku or sku == "nothing":
            await context.abort(grpc.StatusCode.NOT_FOUND, f"no article is called `{sku}`")
        if sku == "slow":
            await asyncio.sleep(SLOW)
        if sku == "unsure":
            self.unsure += 1
            if self.unsure % 2:
                await context.send_initial_metadata(())
                await context.abort(grpc.StatusCode.UNAVAILABLE, "every second answer is this one")

    async def get(self, request: Any, context: Any) -> Any:
        await self.misbehave(request.sku, context)
        return self.price(request.sku)

    async def set(self, request: Any, context: Any) -> Any:
        if request.cents <= 0:
            await context.abort(grpc.StatusCode.INVALID_ARGUMENT, f"cents is {request.cents}; write a number above 0")
        await self.misbehave(request.sku, context)
        if len(self.prices) >= MOST_PRICES and request.sku not in self.prices:
            await context.abort(grpc.StatusCode.RESOURCE_EXHAUSTED, f"more than {MOST_PRICES} prices were set")
        self.prices[request.sku] = request.cents, time.time()
        return self.price(request.sku)

    async def watch(self, request: Any, context: Any) -> AsyncIterator[Any]:
        await self.misbehave(request.sku, context)
        while True:
            yield self.price(request.sku)
            await asyncio.sleep(EVERY)

    async def check(self, _: bytes, __: Any) -> bytes:
        return SERVING

    async def reflect(self, questions: AsyncIterator[bytes], _: Any) -> AsyncIterator[bytes]:
        """Answer questions of reflection: with the names of services, or with all files."""
        async for question in questions:
            if LIST_SERVICES in dict(fields(question)):
                yield nested(6, nested(1, nested(1, SERVICE.encode())))
            else:
                yield nested(4, b"".join(nested(1, file) for file in self.files))


def nested(number: int, data: bytes) -> bytes:
    """Return a field with bytes, as Protocol Buffers write it."""
    return varint(number << 3 | 2) + varint(len(data)) + data


class Client:
    """Client of the service.

    - `authority`: name of the service in its requests; empty for the address.
    """

    def __init__(self, address: str, authority: str = "") -> None:
        options = [("grpc.enable_retries", 0), *([("grpc.default_authority", authority)] if authority else ())]
        self.channel = aio.insecure_channel(address, options)
        self.types = read_types()[1]

    async def get(
        self, sku: str, metadata: Mapping[str, str], timeout: float | None = None
    ) -> tuple[str, dict[str, Any], str]:
        """Call `Get`; return the name of the status, the price as JSON, and the field `x-sidecar-reason`.

        The price is an error where the status is not OK.
        """
        request, price = self.types("shop.GetPriceRequest"), self.types("shop.Price")
        method = self.channel.unary_unary(f"/{SERVICE}/Get", request.SerializeToString, price.FromString)
        try:
            answer = await method(request(sku=sku), metadata=tuple(metadata.items()), timeout=timeout)
        except aio.AioRpcError as error:
            fields = {name: str(value) for name, value in (*error.initial_metadata(), *error.trailing_metadata())}
            return error.code().name, {"error": error.details()}, fields.get("x-sidecar-reason", "")
        return "OK", json_format.MessageToDict(answer), ""

    async def close(self) -> None:
        await self.channel.close()


async def serve(address: str) -> None:
    """Serve calls until SIGTERM or SIGINT."""
    loop = asyncio.get_running_loop()
    stop = asyncio.Event()
    for number in (signal.SIGTERM, signal.SIGINT):
        loop.add_signal_handler(number, stop.set)
    server = aio.server(options=[("grpc.so_reuseport", 0)])
    server.add_generic_rpc_handlers((Prices(),))
    port = server.add_insecure_port(address)
    await server.start()
    print(f"prices {address.rpartition(':')[0]}:{port}", flush=True)
    await stop.wait()
    await server.stop(0.5)


def main() -> None:
    parser = argparse.ArgumentParser(
        prog="python -m sidecar.demo.prices", description="A gRPC service for demonstrations."
    )
    parser.add_argument("--address", default="127.0.0.1:9004", help="where to listen; port 0 takes a free one")
    asyncio.run(serve(parser.parse_args().address))


if __name__ == "__main__":
    main()
