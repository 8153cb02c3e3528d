"""Service of the shop.

    python -m sidecar.demo.shop.service NAME [--address 0.0.0.0:8000] [--outbound http://127.0.0.1:15001]

- NAME is `web`, `orders`, `inventory` or `payments`.
- `prices` is called by gRPC, all others by HTTP/1.1.
- The service answers `GET /healthz` at once, and any other path after calling the services that it depends on.  Calls
  go to the outbound listener of its sidecar, which routes by Host.  With `{name}` in its address they go to the called
  service itself, as without a sidecar.
- The service has no timeouts and no retries, because its sidecar has them.  It passes on the header fields of
  `PASSED_ON`.
- `POST /trouble` with `fail` (a share), `slow` (a duration) and `seconds` makes it misbehave for a time: a share of its
  answers are 503, and all are delayed.
"""

from __future__ import annotations

import argparse
import asyncio
import random
import signal
from typing import TYPE_CHECKING, Final

from aiohttp import ClientError, ClientSession, ClientTimeout, TCPConnector, web

from sidecar.core.units import parse_duration, parse_share
from sidecar.demo.shop import CALLS

if TYPE_CHECKING:
    from sidecar.demo.prices import Client

PASSED_ON: Final = (
    "traceparent", "tracestate", "baggage", "x-request-id", "x-request-timeout-ms", "x-criticality", "idempotency-key",
)  # fmt: skip
"""Header fields of a request that its calls have too."""
LONGEST_SECONDS: Final = 600.0
"""Longest time of misbehaviour."""
CONNECTIONS: Final = 200
"""Most connections to the sidecar."""


class Service:
    """Service with its web application.

    - `fail`, `slow`: share of responses that are 503, and delay in seconds.
    - `until`: instant of the loop's clock until which these hold.
    """

    def __init__(self, name: str, outbound: str) -> None:
        self.name = name
        self.outbound = outbound
        self.seen = 0
        self.fail = 0.0
        self.slow = 0.0
        self.until = 0.0
        self.session: ClientSession
        self.prices: Client | None = None
        self.app = web.Application()
        self.app.router.add_get("/healthz", self.health)
        self.app.router.add_post("/trouble", self.trouble)
        self.app.router.add_route("*", "/{path:.*}", self.answer)
        self.app.cleanup_ctx.append(self.connect)

    async def connect(self, _: web.Application):  # type: ignore[no-untyped-def]  # an async generator for aiohttp
        if "prices" in CALLS[self.name]:
            from sidecar.demo.prices import Client  # here, because only this service needs grpcio

            self.prices = Client(self.base("prices").removeprefix("http://"), "prices")
        connector = TCPConnector(limit=CONNECTIONS)
        async with ClientSession(connector=connector, timeout=ClientTimeout(total=None)) as self.session:
            yield
        if self.prices is not None:
            await self.prices.close()

    def base(self, name: str) -> str:
        """Return the base URL of calls to a service."""
        return self.outbound.replace("{name}", name)

    async def health(self, _: web.Request) -> web.Response:
        return web.json_response({"service": self.name, "seen": self.seen})

    async def trouble(self, request: web.Request) -> web.Response:
        """Misbehave for a time, as the query says."""
        try:
            self.fail = parse_share(request.query.get("fail", "0%"))
            self.slow = parse_duration(request.query.get("slow", "0s"))
            seconds = min(LONGEST_SECONDS, float(request.query.get("seconds", "20")))
        except ValueError as error:
            raise web.HTTPBadRequest(text=f"{error}; write fail=30%, slow=400ms, seconds=20\n") from None
        self.until = asyncio.get_running_loop().time() + seconds
        return web.json_response({"service": self.name, "fail": self.fail, "slow": self.slow, "seconds": seconds})

    async def answer(self, request: web.Request) -> web.Response:
        self.seen += 1
        await request.read()
        if asyncio.get_running_loop().time() < self.until:
            await asyncio.sleep(self.slow)
            if random.random() < self.fail:
                return web.json_response({"service": self.name, "error": "in trouble"}, status=503)
        parts = {}
        for name in CALLS[self.name]:
            status, parts[name] = await self.call(name, request)
            if status >= 500:
                return web.json_response(
                    {"service": self.name, "error": f"{name} did not answer", name: parts[name]}, status=502
                )
        return web.json_response({"service": self.name, "path": request.path, **parts})

    async def call(self, name: str, request: web.Request) -> tuple[int, object]:
        """Call another service through the sidecar; return the status and the JSON of its response."""
        headers = {field: request.headers[field] for field in PASSED_ON if field in request.headers}
        if name == "prices" and self.prices is not None:
            code, price, _ = await self.prices.get(request.path.rpartition("/")[2] or "all", headers)
            return 200 if code == "OK" else 502, price
        headers["Host"] = name
        try:
            async with self.session.request(request.method, f"{self.base(name)}/{name}", headers=headers) as response:
                return response.status, await response.json(content_type=None)
        except (ClientError, ValueError) as error:
            return 502, {"error": str(error)}


async def serve(service: Service, host: str, port: int) -> None:
    """Serve requests until SIGTERM or SIGINT."""
    loop = asyncio.get_running_loop()
    stop = asyncio.Event()
    for number in (signal.SIGTERM, signal.SIGINT):
        loop.add_signal_handler(number, stop.set)
    runner = web.AppRunner(service.app, access_log=None, shutdown_timeout=5.0)
    await runner.setup()
    await web.TCPSite(runner, host, port).start()
    print(f"{service.name} listens on {host}:{port}", flush=True)
    await stop.wait()
    await runner.cleanup()


def main() -> None:
    parser = argparse.ArgumentParser(prog="python -m sidecar.demo.shop.service", description="One service of the shop.")
    parser.add_argument("name", choices=tuple(CALLS))
    parser.add_argument("--address", default="127.0.0.1:8000", help="where to listen")
    parser.add_argument("--outbound", default="http://127.0.0.1:15001", help="the sidecar's outbound listener")
    options = parser.parse_args()
    host, _, port = options.address.rpartition(":")
    asyncio.run(serve(Service(options.name, options.outbound), host, int(port)))


if __name__ == "__main__":
    main()
