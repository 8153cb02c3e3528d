"""Peer of gRPC with the library grpclib, as a program: a client, or a server until its input ends.

python -m tests.support.grpclib_peer client PORT     # calls `shop.Echo`; prints what it got as JSON
python -m tests.support.grpclib_peer server          # serves some of the methods of `grpc_server`; prints its port
"""

from __future__ import annotations

import asyncio
import json
import sys
from typing import Any

from grpclib import GRPCError, Status
from grpclib.client import Channel, StreamStreamMethod, StreamUnaryMethod, UnaryStreamMethod, UnaryUnaryMethod
from grpclib.const import Cardinality, Handler
from grpclib.encoding.base import CodecBase
from grpclib.server import Server


class Plain(CodecBase):
    """Messages are plain bytes."""

    __content_subtype__ = "proto"

    def encode(self, message: Any, _: Any) -> bytes:
        return bytes(message)

    def decode(self, data: bytes, _: Any) -> bytes:
        return data


class Echo:
    """The server's methods."""

    async def unary(self, stream: Any) -> None:
        await stream.send_message(await stream.recv_message())

    async def status(self, stream: Any) -> None:
        wanted = json.loads(await stream.recv_message())
        raise GRPCError(Status(wanted["code"]), wanted["message"])

    async def out(self, stream: Any) -> None:
        for number in range(int(await stream.recv_message())):
            await stream.send_message(b"%1024d" % number)

    async def in_(self, stream: Any) -> None:
        sizes = [len(message) async for message in stream]
        await stream.send_message(b"%d %d" % (len(sizes), sum(sizes)))

    async def both(self, stream: Any) -> None:
        async for message in stream:
            await stream.send_message(message)

    def __mapping__(self) -> dict[str, Handler]:
        return {
            "/shop.Echo/Unary": Handler(self.unary, Cardinality.UNARY_UNARY, bytes, bytes),
            "/shop.Echo/Status": Handler(self.status, Cardinality.UNARY_UNARY, bytes, bytes),
            "/shop.Echo/Out": Handler(self.out, Cardinality.UNARY_STREAM, bytes, bytes),
            "/shop.Echo/In": Handler(self.in_, Cardinality.STREAM_UNARY, bytes, bytes),
            "/shop.Echo/Both": Handler(self.both, Cardinality.STREAM_STREAM, bytes, bytes),
        }


async def serve() -> None:
    server = Server([Echo()], codec=Plain())
    await server.start("127.0.0.1", 0)
    print(server._server.sockets[0].getsockname()[1], flush=True)  # type: ignore[union-attr]
    await asyncio.get_running_loop().run_in_executor(None, sys.stdin.read)
    server.close()
    await server.wait_closed()


async def call(port: int) -> dict[str, Any]:
    found: dict[str, Any] = {}
    async with Channel("127.0.0.1", port, codec=Plain()) as channel:
        unary = UnaryUnaryMethod(channel, "/shop.Echo/Unary", bytes, bytes)
        found["unary"] = [len(await unary(bytes(size), timeout=20)) for size in (0, 70_000)]
        out = await UnaryStreamMethod(channel, "/shop.Echo/Out", bytes, bytes)(b"100", timeout=20)
        found["out"] = len(out)
        sent = [bytes(27182), bytes(8), bytes(45904)]
        found["in"] = (await StreamUnaryMethod(channel, "/shop.Echo/In", bytes, bytes)(sent, timeout=20)).decode()
        found["both"] = []
        async with StreamStreamMethod(channel, "/shop.Echo/Both", bytes, bytes).open(timeout=20) as stream:
            for message in sent:
                await stream.send_message(message)
                found["both"].append(len(await stream.recv_message()))
            await stream.end()
        try:
            await UnaryUnaryMethod(channel, "/shop.Echo/Status", bytes, bytes)(b'{"code": 9, "message": "n\\u00f6"}')
        except GRPCError as error:
            found["status"] = [error.status.value, error.message]
        try:
            await UnaryUnaryMethod(channel, "/shop.Unknown/Nothing", bytes, bytes)(b"", timeout=20)
        except GRPCError as error:
            found["unknown"] = error.status.value
    return found


if __name__ == "__main__":
    if sys.argv[1] == "server":
        asyncio.run(serve())
    else:
        print(json.dumps(asyncio.run(call(int(sys.argv[2])))))
