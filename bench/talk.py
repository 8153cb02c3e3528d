"""Long conversations: `serve PORT`, `messages URL CONNECTIONS SECONDS`, `events URL CONNECTIONS SECONDS`.

- `messages`: WebSocket sessions on `/talk/messages`.  Each client sends a message, waits for its echo, and sends the
  next.  Latency is the time of one message and its echo.
- `events`: server-sent events on `/talk/events`.  The server writes one to each stream every `EVERY` seconds, slowly
  enough for every proxy: one that is late would read several at once, at less cost for each.  Latency is the time from
  the server's write of an event to the client's read.

Both loads print a `bench.load.Load` as JSON.  Proxies do not look into messages, so all have the same mask and size.
"""

from __future__ import annotations

import asyncio
import json
import re
import sys
from base64 import b64encode
from functools import partial
from hashlib import sha1
from time import monotonic_ns, perf_counter
from typing import Any, Final, cast
from urllib.parse import urlsplit

import httptools
import uvloop

TEXT: Final = b"x" * 32
REQUEST: Final = b"\x81" + bytes([0x80 | len(TEXT)]) + bytes(4) + TEXT
"""Message of a client: one frame, masked with zeros (RFC 6455 5.2)."""
ECHO: Final = b"\x81" + bytes([len(TEXT)]) + TEXT
"""Message of the server: the same text, unmasked."""
CLOSE: Final = b"\x88\x80" + bytes(4)
KEY: Final = b"dGhlIHNhbXBsZSBub25jZQ=="
ACCEPTED: Final = b64encode(sha1(KEY + b"258EAFA5-E914-47DA-95CA-C5AB0DC85B11", usedforsecurity=False).digest())
EVERY: Final = 0.005
"""Seconds between two events of a stream."""
GRACE = 5.0
"""Seconds after the end of a load in which its clients may still finish."""
STAMP: Final = re.compile(rb"data: (\d{19}) x+\n\n")
STARTED: Final = b"HTTP/1.1 101 Switching Protocols\r\nConnection: Upgrade\r\nUpgrade: websocket\r\n"
STREAM: Final = (
    b"HTTP/1.1 200 OK\r\nContent-Type: text/event-stream\r\nCache-Control: no-cache\r\n"
    b"Transfer-Encoding: chunked\r\n\r\n"
)
GOOD: Final = b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok"


def event() -> bytes:
    """Return an event with the present instant, as one chunk."""
    text = b"data: %019d %b\n\n" % (monotonic_ns(), TEXT)
    return b"%x\r\n%b\r\n" % (len(text), text)


class Talker(asyncio.Protocol):
    """Connection of the server."""

    streams: Final[set[asyncio.Transport]] = set()
    """Streams whose write buffers are not full."""

    def __init__(self) -> None:
        self.buffer = b""
        self.is_echo = False
        self.is_stream = False

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self.transport = cast("asyncio.Transport", transport)

    def data_received(self, data: bytes) -> None:
        self.buffer += data
        if not self.is_echo:
            head, end, rest = self.buffer.partition(b"\r\n\r\n")
            if not end:
                return
            self.buffer = rest
            self.begin(head)
        if self.is_echo:
            self.echo()

    def begin(self, head: bytes) -> None:
        if b"/talk/messages" in head:
            self.is_echo = True
            self.transport.write(STARTED + b"Sec-WebSocket-Accept: " + ACCEPTED + b"\r\n\r\n")
        elif b"/talk/events" in head:
            self.is_stream = True
            self.transport.write(STREAM)
            self.streams.add(self.transport)
        else:
            self.transport.write(GOOD)

    def echo(self) -> None:
        number = self.buffer.count(REQUEST)
        if number:
            self.buffer = self.buffer[number * len(REQUEST) :]
            self.transport.write(ECHO * number)
        if self.buffer.startswith(CLOSE[:2]):
            self.transport.close()

    def pause_writing(self) -> None:
        self.streams.discard(self.transport)

    def resume_writing(self) -> None:
        if self.is_stream:
            self.streams.add(self.transport)

    def connection_lost(self, _: Exception | None) -> None:
        self.streams.discard(self.transport)


async def serve(port: int) -> None:
    loop = asyncio.get_running_loop()
    async with await loop.create_server(Talker, "127.0.0.1", port, backlog=4096):
        while True:
            await asyncio.sleep(EVERY)
            for stream in list(Talker.streams):
                stream.write(event())


class Listening(asyncio.Protocol):
    """Connection of a load; base of both kinds."""

    def __init__(self, site: str, path: str, until: float) -> None:
        self.head = f"GET {path} HTTP/1.1\r\nHost: {site}\r\n".encode()
        self.until = until
        self.microseconds: list[float] = []
        """Latencies in microseconds."""
        self.errors = 0
        self.over: asyncio.Future[None] = asyncio.get_running_loop().create_future()

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self.transport = cast("asyncio.Transport", transport)

    def connection_lost(self, _: Exception | None) -> None:
        self.errors += perf_counter() < self.until
        if not self.over.done():
            self.over.set_result(None)


class Messages(Listening):
    """WebSocket session of a load."""

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        super().connection_made(transport)
        self.buffer = b""
        self.began = 0.0
        upgrade = (
            b"Connection: Upgrade\r\nUpgrade: websocket\r\nSec-WebSocket-Version: 13\r\nSec-WebSocket-Key: %b\r\n\r\n"
        )
        self.transport.write(self.head + upgrade % KEY)

    def data_received(self, data: bytes) -> None:
        now = perf_counter()
        self.buffer += data
        if not self.began:
            if b"\r\n\r\n" not in self.buffer:
                return
            if not self.buffer.startswith(b"HTTP/1.1 101 "):
                self.transport.close()
                return
        elif self.buffer == ECHO:
            self.microseconds.append((now - self.began) * 1e6)
        elif len(self.buffer) < len(ECHO):
            return
        else:
            self.errors += 1
        self.buffer = b""
        if now < self.until:
            self.began = perf_counter()
            self.transport.write(REQUEST)
        else:
            self.transport.write(CLOSE)
            self.transport.close()


class Events(Listening):
    """Stream of events of a load."""

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        super().connection_made(transport)
        self.parser = httptools.HttpResponseParser(self)
        self.text = b""
        self.transport.write(self.head + b"Accept: text/event-stream\r\n\r\n")

    def data_received(self, data: bytes) -> None:
        self.parser.feed_data(data)

    def on_headers_complete(self) -> None:
        if self.parser.get_status_code() != 200:
            self.errors += 1
            self.transport.close()

    def on_body(self, text: bytes) -> None:
        now = monotonic_ns()
        self.text += text
        end = 0
        for found in STAMP.finditer(self.text):
            self.microseconds.append((now - int(found[1])) / 1e3)
            end = found.end()
        self.text = self.text[end:]
        if perf_counter() >= self.until:
            self.transport.abort()


KINDS: Final[dict[str, type[Listening]]] = {"messages": Messages, "events": Events}


def _as_protocol(client: Listening) -> Listening:
    """Return a client as the protocol of its connection; a factory for `create_connection`."""
    return client


async def load(kind: str, url: str, connections: int, seconds: float) -> dict[str, Any]:
    """Run a load and return its result, JSON-ready."""
    parts = urlsplit(url)
    loop = asyncio.get_running_loop()
    began = perf_counter()
    clients = [KINDS[kind](parts.netloc, parts.path, began + seconds) for _ in range(connections)]
    for client in clients:
        await loop.create_connection(partial(_as_protocol, client), parts.hostname or "", parts.port or 80)
    await asyncio.wait([client.over for client in clients], timeout=seconds + GRACE)
    took = perf_counter() - began
    for client in clients:
        client.transport.abort()
    times = sorted(each for client in clients for each in client.microseconds)
    if not times:
        raise SystemExit(f"no {kind} came back from {url}")
    return {
        "requests": len(times),
        "seconds": took,
        "p50": times[len(times) // 2],
        "p99": times[len(times) * 99 // 100],
        "errors": sum(client.errors for client in clients),
    }


async def main(what: str, *arguments: str) -> None:
    if what == "serve":
        await serve(int(arguments[0]))
    else:
        url, connections, seconds = arguments
        print(json.dumps(await load(what, url, int(connections), float(seconds))))


if __name__ == "__main__":
    with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
        runner.run(main(*sys.argv[1:]))
