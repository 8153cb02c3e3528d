"""Load generator for machines without wrk: `generator URL CONNECTIONS SECONDS [UNIQUE [TOKENS]]`.

Prints a `bench.load.Load` as JSON.  With `UNIQUE` each request has a query of its own that begins with that word.
`TOKENS` is a file with a bearer token a line, which the requests have in turn.
"""

from __future__ import annotations

import asyncio
import json
import sys
from collections.abc import Iterator, Sequence
from functools import partial
from itertools import count, cycle, repeat
from pathlib import Path
from time import perf_counter
from typing import cast
from urllib.parse import urlsplit

import httptools
import uvloop

from bench import certificates


class Caller(asyncio.Protocol):
    """Connection that sends the next request as soon as a response is complete."""

    def __init__(self, requests: Iterator[bytes], until: float, times: list[float]) -> None:
        self.requests = requests
        self.until = until
        self.times = times
        self.errors = 0
        self.began = 0.0
        self.over = asyncio.get_running_loop().create_future()

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self.transport = cast("asyncio.Transport", transport)  # uvloop's transport is no subclass
        self.send()

    def send(self) -> None:
        self.parser = httptools.HttpResponseParser(self)
        self.began = perf_counter()
        self.transport.write(next(self.requests))

    def data_received(self, data: bytes) -> None:
        self.parser.feed_data(data)

    def on_message_complete(self) -> None:
        now = perf_counter()
        self.times.append(now - self.began)
        self.errors += self.parser.get_status_code() >= 400
        if now < self.until:
            asyncio.get_running_loop().call_soon(self.send)
        else:
            self.transport.close()

    def connection_lost(self, _: Exception | None) -> None:
        self.errors += perf_counter() < self.until
        if not self.over.done():
            self.over.set_result(None)


async def generate(
    url: str, connections: int, seconds: float, unique: str = "", tokens: Sequence[str] = ()
) -> dict[str, float]:
    parts = urlsplit(url)
    form = f"GET {parts.path}%s HTTP/1.1\r\nHost: {parts.netloc}%s\r\n\r\n"
    requests: Iterator[bytes] = repeat((form % ("", "")).encode())
    if unique:
        requests = ((form % (f"?{unique}-{n}", "")).encode() for n in count())
    elif tokens:
        fields = [f"\r\nAuthorization: Bearer {token}" for token in tokens]
        requests = cycle([(form % ("", field)).encode() for field in fields])
    loop = asyncio.get_running_loop()
    began = perf_counter()
    times: list[float] = []
    callers = []
    for _ in range(connections):
        factory = partial(Caller, requests, began + seconds, times)
        context = certificates.client_context() if parts.scheme == "https" else None
        _, caller = await loop.create_connection(factory, parts.hostname or "", parts.port or 80, ssl=context)
        callers.append(caller)
    await asyncio.wait([caller.over for caller in callers], timeout=seconds + 5)
    took = perf_counter() - began
    times.sort()
    return {
        "requests": len(times),
        "seconds": took,
        "p50": times[len(times) // 2] * 1e6,
        "p99": times[len(times) * 99 // 100] * 1e6,
        "errors": sum(caller.errors for caller in callers),
    }


def main(url: str, connections: str, seconds: str, unique: str = "", tokens: str = "") -> None:
    lines = Path(tokens).read_text().splitlines() if tokens else []
    with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
        print(json.dumps(runner.run(generate(url, int(connections), float(seconds), unique, lines))))


if __name__ == "__main__":
    main(*sys.argv[1:])
