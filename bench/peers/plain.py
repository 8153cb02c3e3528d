"""Plain proxy with aiohttp, without any policy, as written in an afternoon: `plain PORT UPSTREAM_PORT`.

`/page/ID` is one answer made of three requests for `/orders/ID`, by `asyncio.gather`.
"""

from __future__ import annotations

import asyncio
import json
import sys

import aiohttp
import uvloop
from aiohttp import web
from multidict import CIMultiDict

HOP_BY_HOP = {"connection", "keep-alive", "te", "trailer", "transfer-encoding", "upgrade", "host", "content-length"}


async def serve(port: int, upstream_port: int) -> None:
    upstream = f"http://127.0.0.1:{upstream_port}"
    connector = aiohttp.TCPConnector(limit=0)
    async with aiohttp.ClientSession(connector=connector, auto_decompress=False) as session:

        async def part(name: str, id: str) -> object:
            async with session.get(f"{upstream}/orders/{id}?part={name}") as answer:
                answer.raise_for_status()
                return json.loads(await answer.read())

        async def gather(id: str) -> web.StreamResponse:
            found = await asyncio.gather(*(part(name, id) for name in "abc"), return_exceptions=True)
            if isinstance(found[0], BaseException):
                return web.json_response({"error": "no answer"}, status=502)
            values = {
                name: [] if isinstance(each, BaseException) else each for name, each in zip("abc", found, strict=True)
            }
            return web.json_response(values)

        async def forward(request: web.BaseRequest) -> web.StreamResponse:
            if request.path.startswith("/page/"):
                return await gather(request.path.removeprefix("/page/"))
            headers = CIMultiDict((k, v) for k, v in request.headers.items() if k.lower() not in HOP_BY_HOP)
            body = await request.read() if request.can_read_body else None
            async with session.request(
                request.method, upstream + request.path_qs, headers=headers, data=body
            ) as answer:
                kept = CIMultiDict((k, v) for k, v in answer.headers.items() if k.lower() not in HOP_BY_HOP)
                return web.Response(status=answer.status, headers=kept, body=await answer.read())

        runner = web.ServerRunner(web.Server(forward, access_log=None))
        await runner.setup()
        await web.TCPSite(runner, "127.0.0.1", port).start()
        await asyncio.Event().wait()


if __name__ == "__main__":
    with asyncio.Runner(loop_factory=uvloop.new_event_loop) as loop:
        loop.run(serve(int(sys.argv[1]), int(sys.argv[2])))
