"""Server of gRPC, with grpcio, whose methods do what their names say; messages are plain bytes.

    async with EchoServer() as server:
        ... f"http://127.0.0.1:{server.port}"

| method | what it does |
|---|---|
| `/shop.Echo/Unary` | answers with the request |
| `/shop.Echo/Status` | ends with the code and the message of the JSON in the request, after its `seconds` |
| `/shop.Echo/Flaky` | as `Status` the first time that a request comes, then answers with the request |
| `/shop.Echo/Out` | answers with as many messages as the request says, each of 1 KiB |
| `/shop.Echo/In` | answers with the number of messages and of bytes that came |
| `/shop.Echo/Both` | answers each message with itself |
| `/shop.Echo/Hang`, `/shop.Echo/Wait` | never answer |
"""

from __future__ import annotations

import asyncio
import json
from collections import Counter
from collections.abc import AsyncIterator
from typing import Any

import grpc
import grpc.aio

CODES = {code.value[0]: code for code in grpc.StatusCode}


class EchoServer:
    """The server, and what it has seen."""

    def __init__(self) -> None:
        self.port = 0
        self.calls: list[tuple[str, dict[str, str | bytes]]] = []
        """Method and metadata of each call."""
        self.cancelled: list[str] = []
        """Methods of calls that the client cancelled."""
        self.left: list[float] = []
        """Seconds that were left of each call's deadline."""
        self._seen: Counter[bytes] = Counter()

    async def __aenter__(self) -> EchoServer:
        self._server = grpc.aio.server(options=[("grpc.so_reuseport", 0)])
        self._server.add_generic_rpc_handlers((_Handlers(self),))
        self.port = self._server.add_insecure_port("127.0.0.1:0")
        await self._server.start()
        return self

    async def __aexit__(self, *_: object) -> None:
        await self._server.stop(None)

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.port}"

    async def end(self, request: bytes, context: Any) -> None:
        """End a call as the JSON in its request says."""
        wanted = json.loads(request)
        if early := wanted.get("early"):
            await context.send_initial_metadata((("x-early", early),))
        await asyncio.sleep(wanted.get("seconds", 0))
        trailers = tuple((name, value) for name, value in wanted.get("trailers", {}).items())
        await context.abort(CODES[wanted["code"]], wanted.get("message", ""), trailers)

    async def unary(self, request: bytes, _: Any) -> bytes:
        return request

    async def status(self, request: bytes, context: Any) -> bytes:
        await self.end(request, context)
        return b""

    async def flaky(self, request: bytes, context: Any) -> bytes:
        self._seen[request] += 1
        if self._seen[request] == 1:
            await self.end(request, context)
        return request

    async def out(self, request: bytes, _: Any) -> AsyncIterator[bytes]:
        for number in range(int(request)):
            yield b"%1024d" % number

    async def in_(self, requests: AsyncIterator[bytes], _: Any) -> bytes:
        sizes = [len(request) async for request in requests]
        return b"%d %d" % (len(sizes), sum(sizes))

    async def both(self, requests: AsyncIterator[bytes], _: Any) -> AsyncIterator[bytes]:
        async for request in requests:
            yield request

    async def hang(self, _: bytes, context: Any) -> bytes:
        try:
            await asyncio.Event().wait()
        except asyncio.CancelledError:
            self.cancelled.append("hang")
            raise
        return b""


class _Handlers(grpc.GenericRpcHandler):
    def __init__(self, server: EchoServer) -> None:
        self._server = server
        self._handlers = {
            "/shop.Echo/Unary": grpc.unary_unary_rpc_method_handler(self._noted(server.unary)),
            "/shop.Echo/Status": grpc.unary_unary_rpc_method_handler(self._noted(server.status)),
            "/shop.Echo/Flaky": grpc.unary_unary_rpc_method_handler(self._noted(server.flaky)),
            "/shop.Echo/Hang": grpc.unary_unary_rpc_method_handler(self._noted(server.hang)),
            "/shop.Echo/Wait": grpc.unary_unary_rpc_method_handler(self._noted(server.hang)),
            "/shop.Echo/In": grpc.stream_unary_rpc_method_handler(server.in_),
            "/shop.Echo/Out": grpc.unary_stream_rpc_method_handler(server.out),
            "/shop.Echo/Both": grpc.stream_stream_rpc_method_handler(server.both),
        }

    def service(self, details: Any) -> Any:
        self._server.calls.append((details.method, dict(details.invocation_metadata)))
        return self._handlers.get(details.method)

    def _noted(self, method: Any) -> Any:
        async def noted(request: bytes, context: Any) -> bytes:
            if (left := context.time_remaining()) is not None:
                self._server.left.append(left)
            found: bytes = await method(request, context)
            return found

        return noted
