"""Requests of the shop's customers, and faults in its services.

    python -m sidecar.demo.shop.traffic load http://web:8080 [--rate 20]
    python -m sidecar.demo.shop.traffic trouble http://payments:8000 http://inventory:8000 [--every 60]

- `load` sends orders at a steady rate, whatever the responses are.
- `trouble` makes one service after the other fail or slow down for a third of each period.  So breakers open, retry
  budgets are spent and endpoints are ejected.
"""

from __future__ import annotations

import argparse
import asyncio
import random
from typing import Final

from aiohttp import ClientError, ClientSession, ClientTimeout, TCPConnector

MOST_AT_ONCE: Final = 200
"""Most orders in flight."""
TROUBLES: Final = ("fail=60%25", "slow=1500ms", "fail=30%25&slow=300ms")


async def load(session: ClientSession, url: str, rate: float) -> None:
    """Send orders at a steady rate, given per second; skip an order while `MOST_AT_ONCE` are in flight."""
    in_flight: set[asyncio.Task[None]] = set()
    while True:
        if len(in_flight) < MOST_AT_ONCE:
            task = asyncio.create_task(send(session, "GET", f"{url}/orders/{random.randrange(1000)}"))
            in_flight.add(task)
            task.add_done_callback(in_flight.discard)
        await asyncio.sleep(random.expovariate(rate))


async def trouble(session: ClientSession, urls: list[str], every: float) -> None:
    """Make one service after the other misbehave, a new one every `every` seconds."""
    turn = 0
    while True:
        await asyncio.sleep(every)
        what = f"{TROUBLES[turn % len(TROUBLES)]}&seconds={every / 3:g}"
        url = urls[turn % len(urls)]
        print(f"{url}: {what}", flush=True)
        await send(session, "POST", f"{url}/trouble?{what}")
        turn += 1


async def send(session: ClientSession, method: str, url: str) -> None:
    """Send a request and discard its response."""
    try:
        async with session.request(method, url) as response:
            await response.read()
    except (ClientError, TimeoutError):
        return


async def run(options: argparse.Namespace) -> None:
    connector = TCPConnector(limit=MOST_AT_ONCE)
    async with ClientSession(connector=connector, timeout=ClientTimeout(total=10)) as session:
        if options.what == "load":
            await load(session, options.urls[0], options.rate)
        else:
            await trouble(session, options.urls, options.every)


def main() -> None:
    parser = argparse.ArgumentParser(prog="python -m sidecar.demo.shop.traffic", description="Load, and faults.")
    parser.add_argument("what", choices=("load", "trouble"))
    parser.add_argument("urls", nargs="+")
    parser.add_argument("--rate", type=float, default=20.0, help="requests a second")
    parser.add_argument("--every", type=float, default=60.0, help="seconds between two faults")
    try:
        asyncio.run(run(parser.parse_args()))
    except KeyboardInterrupt:
        return


if __name__ == "__main__":
    main()
