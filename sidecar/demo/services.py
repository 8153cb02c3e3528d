"""Three small services: one is healthy, one is slow and one fails on command.

    python -m sidecar.demo.services {healthy,slow,flaky} [--address 127.0.0.1:9001]

- Every service answers `GET /healthz` and any other path with JSON: its name, and the number of requests that it has
  seen, which shows whether a request reached it.
- `slow` waits `?seconds=` before it answers: 2 by default, 60 at most.
- `flaky` answers 503 from `POST /fail` until `POST /recover`; `POST /fail?seconds=10` limits the time.  Send both to
  the service itself: through the sidecar, the circuit breaker would refuse them.
"""

from __future__ import annotations

import argparse
import asyncio
import signal
from typing import Final

from aiohttp import web

LONGEST_SECONDS: Final = 60.0
"""Largest value of `?seconds=`."""


class Service:
    """Service of a kind: `healthy`, `slow` or `flaky`.

    - `seen`: number of requests so far.
    - `failing_until`: instant of the loop's clock until which the service fails; infinity for no end.
    """

    def __init__(self, kind: str) -> None:
        self.kind = kind
        self.seen = 0
        self.failing_until = 0.0
        self.app = web.Application()
        self.app.router.add_get("/healthz", self.health)
        if kind == "flaky":
            self.app.router.add_post("/fail", self.fail)
            self.app.router.add_post("/recover", self.recover)
        self.app.router.add_route("*", "/{path:.*}", self.answer)

    async def answer(self, request: web.Request) -> web.Response:
        self.seen += 1
        await request.read()
        if self.kind == "slow":
            await asyncio.sleep(seconds(request, 2.0))
        if asyncio.get_running_loop().time() < self.failing_until:
            return web.json_response({"service": self.kind, "seen": self.seen, "error": "told to fail"}, status=503)
        return web.json_response({"service": self.kind, "seen": self.seen, "path": request.path})

    async def health(self, _: web.Request) -> web.Response:
        return web.json_response({"service": self.kind, "seen": self.seen})

    async def fail(self, request: web.Request) -> web.Response:
        duration = seconds(request, float("inf"))
        self.failing_until = asyncio.get_running_loop().time() + duration
        until = "told to recover" if duration == float("inf") else f"{duration:g} s have passed"
        return web.json_response({"service": self.kind, "fails_until": until})

    async def recover(self, _: web.Request) -> web.Response:
        self.failing_until = 0.0
        return web.json_response({"service": self.kind, "fails_until": None})


def seconds(request: web.Request, default: float) -> float:
    """Return `seconds` of the query.  Raises `HTTPBadRequest` unless it is a number from 0 to `LONGEST_SECONDS`."""
    text = request.query.get("seconds")
    if text is None:
        return default
    try:
        value = float(text)
    except ValueError:
        value = -1.0
    if not 0 <= value <= LONGEST_SECONDS:
        raise web.HTTPBadRequest(text=f"seconds={text}: write a number from 0 to {LONGEST_SECONDS:g}\n")
    return value


async def serve(kind: str, host: str, port: int) -> None:
    """Serve requests until SIGTERM or SIGINT."""
    loop = asyncio.get_running_loop()
    stop = asyncio.Event()
    for number in (signal.SIGTERM, signal.SIGINT):
        loop.add_signal_handler(number, stop.set)
    runner = web.AppRunner(Service(kind).app, access_log=None, shutdown_timeout=1.0)
    await runner.setup()
    await web.TCPSite(runner, host, port).start()
    bound = runner.addresses[0]
    print(f"{kind} {bound[0]}:{bound[1]}", flush=True)
    await stop.wait()
    await runner.cleanup()


def main() -> None:
    parser = argparse.ArgumentParser(
        prog="python -m sidecar.demo.services", description="A small service for demonstrations."
    )
    parser.add_argument("kind", choices=("healthy", "slow", "flaky"))
    parser.add_argument("--address", default="127.0.0.1:0", help="where to listen; port 0 takes a free one")
    options = parser.parse_args()
    host, _, port = options.address.rpartition(":")
    asyncio.run(serve(options.kind, host.strip("[]"), int(port)))


if __name__ == "__main__":
    main()
