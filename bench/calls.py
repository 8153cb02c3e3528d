"""HTTP/2 and gRPC: `serve PORT LEAVING_PORT`, `load KIND URL CONNECTIONS STREAMS SECONDS`.

The server does as little as possible, and answers by path:

- `/bench.Shop/Get` and `/bench.Leaving/Get`: one message.
- `/bench.Shop/List`: `LISTED` messages of 1 KiB, as fast as the windows allow.
- `/bench.Shop/Watch`: a message of 1 KiB every `EVERY` seconds, without an end.  The rate is fixed, because a proxy
  that is late would read several at once, at less cost for each.
- `/shop.Orders/Get`: an order that is 1.2 KB of JSON.
- Any other path: the answer of `bench.upstream` to `/orders/small`.

The leaving port ends each connection after a second: a GOAWAY names the last stream that is answered, and streams that
follow are not.

The load is a closed loop: each stream of each connection begins its next call when the last has ended.  It prints a
`bench.load.Load` as JSON, whose `requests` are good calls only: HTTP status 200, all messages, and `grpc-status: 0` in
the trailers.  Of `list` and `watch` the messages are counted instead of the calls.

Both ends write frames from templates and read blocks with the decoder of `sidecar.http2`: load and server must cost
less than any proxy between them.
"""

from __future__ import annotations

import asyncio
import json
import socket
import struct
import sys
import time
from pathlib import Path
from time import monotonic_ns, perf_counter
from typing import Any, Final, cast
from urllib.parse import urlsplit

import uvloop

from bench.upstream import SMALL, TAG
from sidecar.grpc.descriptors import read_descriptors
from sidecar.grpc.from_json import from_json
from sidecar.http2 import frames
from sidecar.http2.heads import Head
from sidecar.http2.hpack import Decoder, Encoder
from sidecar.http2.limits import Limits
from sidecar.http2.session import Session
from sidecar.http2.stream import Stream

DESCRIPTORS: Final = Path(__file__).parent.parent / "policies" / "proto" / "shop.binpb"
LISTED: Final = 100
"""Messages of a call to `List`."""
EVERY: Final = 0.005
"""Seconds between two messages of a call to `Watch`."""
LIFE: Final = 1.0
"""Seconds from a connection's first request on the leaving port to its GOAWAY."""
PARTING: Final = 0.5
"""Seconds from the GOAWAY to the end of the connection, in which the client can end it itself."""
GRACE: Final = 5.0
"""Seconds after the end of a load in which its calls may still end."""
HEAD: Final = struct.Struct(">HBBBI")
"""Head of a frame: the length in two parts, type, flags, stream."""
WINDOW: Final = 1 << 20
"""Bytes that the peer may send on a stream; sixteen times as many on the connection."""


def message(payload: bytes) -> bytes:
    """Return a message of gRPC with its prefix."""
    return b"\0" + len(payload).to_bytes(4, "big") + payload


ORDER: Final = json.dumps(
    {
        "name": "shops/7/orders/1",
        "state": "PAID",
        "items": [{"sku": f"article-{n:05}", "quantity": n, "priceCents": str(1999 + n)} for n in range(1, 20)],
        "placed": "2026-01-02T03:04:05Z",
        "labels": {"channel": "web", "campaign": "winter", "gift": "no"},
    },
    separators=(",", ":"),
).encode()
ASKED: Final = message(b"\x0a\x047531")
GOT: Final = message(b"\x0a\x047531\x12\x07shipped\x18\x03")
OF_1_KIB: Final = 1024
STAMP_END: Final = 24
"""Bytes of a message of `Watch` up to the end of its instant."""
LISTING: Final = message(bytes(OF_1_KIB))
OK: Final = ((b":status", b"200"),)
GRPC_LINES: Final = b"content-type: application/grpc\r\n"
GOOD_END: Final = b"grpc-status: 0\r\n"
SMALL_LINES: Final = (
    b"server: nginx/1.22.1\r\ndate: Thu, 01 Jan 1970 00:00:00 GMT\r\ncontent-type: application/json\r\n"
    b"content-length: %d\r\nlast-modified: Sun, 22 Nov 2020 00:50:48 GMT\r\netag: %b\r\naccept-ranges: bytes\r\n"
) % (len(SMALL), TAG)
REQUESTS: Final = {
    "get": (b"GET", b"accept: application/json\r\nuser-agent: bench/1\r\n", b""),
    "call": (b"POST", b"te: trailers\r\ncontent-type: application/grpc\r\nuser-agent: grpc-bench/1\r\n", ASKED),
}
"""Method, fields and content of the requests."""


def order() -> bytes:
    """Return the message whose JSON is `ORDER`."""
    types = read_descriptors(DESCRIPTORS.read_bytes())
    return message(from_json(types.messages["shop.Order"], ORDER, types))


class Wire(asyncio.Protocol):
    """End of a connection: reads frames, counts windows, and writes once for each read."""

    opening = b""

    def __init__(self) -> None:
        self.out: list[bytes] = []
        self.window = 65535
        """Bytes that may be sent on the connection."""
        self.stream_window = 65535
        """Bytes that may be sent on a new stream."""
        self.taken = 0
        self.decoder = Decoder(1 << 20, 1000)
        self.encoder = Encoder()
        self._known: dict[tuple[Any, bytes], bytes] = {}
        self._rest = b""
        self.transport: asyncio.Transport

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self.transport = cast("asyncio.Transport", transport)
        self.out.append(self.opening + frames.settings([(frames.INITIAL_WINDOW_SIZE, WINDOW)]))
        self.out.append(frames.window_update(0, 16 * WINDOW - 65535))
        self.begin()
        self.flush()

    def begin(self) -> None:
        """Put what follows the settings into the output."""

    def flush(self) -> None:
        out = self.out
        if out:
            self.out = []
            if not self.transport.is_closing():
                self.transport.write(b"".join(out))

    def block(self, pseudo: tuple[tuple[bytes, bytes], ...], lines: bytes) -> bytes:
        """Return a header block, from memory once it changes the table no more."""
        known = self._known.get((pseudo, lines))
        if known is None:
            before = self.encoder.table_size
            known = self.encoder.encode(list(pseudo), lines)
            if self.encoder.table_size == before:
                self._known[pseudo, lines] = known
            else:
                self._known.clear()
        return known

    def data_received(self, data: bytes) -> None:
        if self._rest:
            data = self._rest + data
        at, size = 0, len(data)
        while size - at >= HEAD.size:
            high, low, kind, flags, stream = HEAD.unpack_from(data, at)
            start = at + HEAD.size
            end = start + (high << 8 | low)
            if end > size:
                break
            at = end
            if kind == frames.DATA:
                self.taken += end - start
                self.on_data(stream, data, start, end, flags & frames.END_STREAM != 0)
            elif kind == frames.HEADERS:
                assert flags & frames.END_HEADERS
                if flags & frames.PRIORITIZED:
                    start += 5
                self.on_head(stream, data[start:end], flags & frames.END_STREAM != 0)
            else:
                self._on_other(kind, flags, stream, data[start:end])
        self._rest = data[at:]
        if self.taken >= 8 * WINDOW:
            self.out.append(frames.window_update(0, self.taken))
            self.taken = 0
        self.flush()

    def _on_other(self, kind: int, flags: int, stream: int, payload: bytes) -> None:
        if kind == frames.WINDOW_UPDATE:
            step = int.from_bytes(payload, "big")
            if stream:
                self.on_window(stream, step)
            else:
                self.window += step
                self.on_window(0, 0)
        elif kind == frames.SETTINGS and not flags & frames.ACK:
            for at in range(0, len(payload), 6):
                key, value = struct.unpack_from(">HI", payload, at)
                if key == frames.INITIAL_WINDOW_SIZE:
                    self.on_initial_window(value - self.stream_window)
                    self.stream_window = value
                elif key == frames.HEADER_TABLE_SIZE:
                    self.encoder.resize(value)
                    self._known.clear()
            self.out.append(frames.SETTINGS_ACK)
            self.on_window(0, 0)
        elif kind == frames.PING and not flags & frames.ACK:
            self.out.append(frames.ping(payload, is_ack=True))
        elif kind == frames.RST_STREAM:
            self.on_reset(stream)

    def on_head(self, stream: int, block: bytes, is_end: bool) -> None: ...

    def on_data(self, stream: int, data: bytes, start: int, end: int, is_end: bool) -> None: ...

    def on_reset(self, stream: int) -> None: ...

    def on_window(self, stream: int, step: int) -> None: ...

    def on_initial_window(self, step: int) -> None: ...


class Answer:
    """Answer that is not sent as a whole."""

    __slots__ = ("left", "window")

    def __init__(self, left: int, window: int) -> None:
        self.left = left
        """Messages to be sent; negative for a call to `Watch`."""
        self.window = window
        """Bytes that may be sent on the stream."""


class Serving(Wire):
    """Connection of the server."""

    watched: Final[set[Serving]] = set()
    """Connections with calls to `Watch`."""
    order = b""

    def __init__(self) -> None:
        super().__init__()
        self.paths: dict[int, bytes] = {}
        """Paths of requests that are not whole."""
        self.answers: dict[int, Answer] = {}
        self.watchers: dict[int, Answer] = {}
        self.highest = 0
        self.last = 1 << 31
        """Last stream that is answered."""
        self._preface = len(frames.PREFACE)

    def data_received(self, data: bytes) -> None:
        if self._preface:
            skipped = min(self._preface, len(data))
            self._preface -= skipped
            data = data[skipped:]
        super().data_received(data)

    def on_head(self, stream: int, block: bytes, is_end: bool) -> None:
        path = b""
        for field in self.decoder.decode(block).fields:
            if field.name == b":path":
                path = field.value
                break
        if stream > self.last:
            return
        self.highest = stream
        if is_end:
            self.answer(stream, path)
        else:
            self.paths[stream] = path

    def on_data(self, stream: int, data: bytes, start: int, end: int, is_end: bool) -> None:
        if is_end and (path := self.paths.pop(stream, None)) is not None:
            self.answer(stream, path)

    def on_reset(self, stream: int) -> None:
        self.paths.pop(stream, None)
        self.answers.pop(stream, None)
        self.watchers.pop(stream, None)

    def answer(self, stream: int, path: bytes) -> None:
        """Answer a request that is whole."""
        if path in (b"/bench.Shop/Get", b"/bench.Leaving/Get"):
            self.call(stream, GOT)
        elif path == b"/shop.Orders/Get":
            self.call(stream, self.order)
        elif path == b"/bench.Shop/List":
            self.head(stream)
            self.answers[stream] = answer = Answer(LISTED, self.stream_window)
            self.advance(stream, answer)
        elif path == b"/bench.Shop/Watch":
            self.head(stream)
            self.watchers[stream] = Answer(-1, self.stream_window)
            self.watched.add(self)
        else:
            block = self.block(OK, SMALL_LINES)
            self.out += (frames.header_frames(stream, block, False), frames.frame(0, frames.END_STREAM, stream, SMALL))
            self.window -= len(SMALL)

    def head(self, stream: int) -> None:
        self.out.append(frames.header_frames(stream, self.block(OK, GRPC_LINES), False))

    def trail(self, stream: int) -> None:
        self.out.append(frames.header_frames(stream, self.block((), GOOD_END), True))

    def call(self, stream: int, content: bytes) -> None:
        """Answer with one message, which fits into the windows: they are opened long before they are used up."""
        self.head(stream)
        self.out.append(frames.frame(frames.DATA, 0, stream, content))
        self.window -= len(content)
        self.trail(stream)

    def advance(self, stream: int, answer: Answer) -> None:
        """Send as many messages as the windows allow."""
        number = min(answer.left, self.window // len(LISTING), answer.window // len(LISTING))
        if number > 0:
            self.out.append(frames.frame(frames.DATA, 0, stream, LISTING) * number)
            self.window -= number * len(LISTING)
            answer.window -= number * len(LISTING)
            answer.left -= number
        if not answer.left:
            self.answers.pop(stream, None)
            self.trail(stream)

    def on_window(self, stream: int, step: int) -> None:
        for number, answer in [*self.watchers.items(), *self.answers.items()]:
            if number == stream:
                answer.window += step
            if answer.left > 0:
                self.advance(number, answer)

    def on_initial_window(self, step: int) -> None:
        for answer in (*self.watchers.values(), *self.answers.values()):
            answer.window += step

    def tick(self) -> None:
        """Send each call to `Watch` a message with the present instant."""
        content = message(b"%019d" % monotonic_ns() + bytes(OF_1_KIB - 19))
        for stream, answer in self.watchers.items():
            if min(self.window, answer.window) >= len(content):
                self.out.append(frames.frame(frames.DATA, 0, stream, content))
                self.window -= len(content)
                answer.window -= len(content)
        self.flush()

    def connection_lost(self, _: Exception | None) -> None:
        self.watchers.clear()
        self.watched.discard(self)


class Leaving(Serving):
    """Connection of the leaving port."""

    is_parting = False

    def answer(self, stream: int, path: bytes) -> None:
        if not self.is_parting:
            self.is_parting = True
            asyncio.get_running_loop().call_later(LIFE, self.leave)
        super().answer(stream, path)

    def leave(self) -> None:
        """Take no more streams, though some are under way."""
        self.last = self.highest
        self.out.append(frames.goaway(self.highest, 0))
        self.flush()
        asyncio.get_running_loop().call_later(PARTING, self.transport.close)


async def serve(port: int, leaving_port: int) -> None:
    loop = asyncio.get_running_loop()
    Serving.order = order()
    await loop.create_server(Leaving, "127.0.0.1", leaving_port, backlog=4096)
    async with await loop.create_server(Serving, "127.0.0.1", port, backlog=4096):
        while True:
            await asyncio.sleep(EVERY)
            for connection in list(Serving.watched):
                connection.tick()


class Call:
    """Call of the load."""

    __slots__ = ("began", "code", "size", "status", "taken")

    def __init__(self) -> None:
        self.began = perf_counter()
        self.status = b""
        self.code = b""
        self.size = 0
        self.taken = 0


class Calling(Wire):
    """Connection of the load."""

    opening = frames.PREFACE

    def __init__(self, kind: str, authority: bytes, path: bytes, streams: int, until: float) -> None:
        super().__init__()
        self.kind = kind
        method, self.lines, self.content = REQUESTS["get" if kind == "get" else "call"]
        self.pseudo = ((b":method", method), (b":scheme", b"http"), (b":path", path), (b":authority", authority))
        self.expected = {"unary": len(GOT), "get": len(SMALL), "list": LISTED * len(LISTING)}.get(kind, 0)
        self.number = streams
        self.until = until
        self.calls: dict[int, Call] = {}
        self.good = 0
        self.errors = 0
        self.microseconds: list[float] = []
        self.next = 1
        self.over: asyncio.Future[None] = asyncio.get_running_loop().create_future()

    def begin(self) -> None:
        for _ in range(self.number):
            self.call()

    def call(self) -> None:
        """Begin a call."""
        stream = self.next
        self.next += 2
        block = self.block(self.pseudo, self.lines)
        content = self.content
        self.out.append(frames.header_frames(stream, block, not content))
        if content:
            self.out.append(frames.frame(frames.DATA, frames.END_STREAM, stream, content))
            self.window -= len(content)
            if self.window < 0:
                raise RuntimeError("the proxy does not open the connection's window in time")
        self.calls[stream] = Call()

    def on_head(self, stream: int, block: bytes, is_end: bool) -> None:
        fields = self.decoder.decode(block).fields
        call = self.calls.get(stream)
        if call is None:
            return
        for field in fields:
            if field.name == b":status":
                call.status = field.value
            elif field.name == b"grpc-status":
                call.code = field.value
        if is_end:
            self.finish(stream, call)

    def on_data(self, stream: int, data: bytes, start: int, end: int, is_end: bool) -> None:
        call = self.calls.get(stream)
        if call is None:
            return
        if self.kind == "watch":
            self.note_messages(call, data, start, end)
        call.size += end - start
        call.taken += end - start
        if is_end:
            self.finish(stream, call)
        elif call.taken * 2 >= WINDOW:
            self.out.append(frames.window_update(stream, call.taken))
            call.taken = 0

    def note_messages(self, call: Call, data: bytes, start: int, end: int) -> None:
        """Count the messages that end in a part of the content, and note the latency of those that begin in it."""
        now = monotonic_ns()
        size = len(LISTING)
        self.good += (call.size + end - start) // size - call.size // size
        for at in range(start + (-call.size) % size, end - STAMP_END, size):
            self.microseconds.append((now - int(data[at + 5 : at + STAMP_END])) / 1e3)
        if perf_counter() >= self.until:
            self.transport.abort()

    def on_reset(self, stream: int) -> None:
        if (call := self.calls.get(stream)) is not None:
            self.finish(stream, call)

    def finish(self, stream: int, call: Call) -> None:
        """Judge a call that has ended, and begin the next."""
        del self.calls[stream]
        now = perf_counter()
        is_good = call.status == b"200" and call.size == self.expected and (self.kind == "get" or call.code == b"0")
        if is_good:
            self.good += LISTED if self.kind == "list" else 1
            self.microseconds.append((now - call.began) * 1e6)
        else:
            self.errors += 1
        if now < self.until:
            self.call()
        elif not self.calls:
            self.transport.close()

    def connection_lost(self, _: Exception | None) -> None:
        if self.kind != "watch" or perf_counter() < self.until:
            self.errors += len(self.calls)
        if not self.over.done():
            self.over.set_result(None)


async def load(kind: str, url: str, connections: int, streams: int, seconds: float) -> dict[str, Any]:
    """Run a load and return its result, JSON-ready."""
    parts = urlsplit(url)
    loop = asyncio.get_running_loop()
    began = perf_counter()
    clients = []
    for _ in range(connections):
        client = Calling(kind, parts.netloc.encode(), parts.path.encode(), streams, began + seconds)
        await loop.create_connection(lambda client=client: client, parts.hostname or "", parts.port or 80)  # type: ignore[misc]
        clients.append(client)
    await asyncio.wait([client.over for client in clients], timeout=seconds + GRACE)
    took = perf_counter() - began
    for client in clients:
        client.transport.abort()
    await asyncio.sleep(0)
    good = sum(client.good for client in clients)
    times = sorted(each for client in clients for each in client.microseconds)
    if not times:
        raise SystemExit(f"no call of {url} was good")
    return {
        "requests": good,
        "seconds": took,
        "p50": times[len(times) // 2],
        "p99": times[len(times) * 99 // 100],
        "errors": sum(client.errors for client in clients),
    }


# ----- one request on a blocking socket


class Single:
    """Handler of a session with one request."""

    status = 0
    is_over = False

    def on_head(self, stream: Stream, head: Head, is_end: bool) -> None:
        self.status, self.is_over = head.status, is_end

    def on_data(self, stream: Stream, data: bytes, is_end: bool) -> None:
        self.is_over = is_end

    def on_trailers(self, stream: Stream, head: Head) -> None:
        self.is_over = True

    def on_reset(self, stream: Stream, code: int, text: str) -> None:
        self.is_over = True

    def on_interim(self, stream: Stream, head: Head) -> None: ...

    def on_writable(self, stream: Stream) -> None: ...

    def on_goaway(self, last: int, code: int) -> None: ...

    def on_pong(self, payload: bytes) -> None: ...


def ask(sock: socket.socket, target: str) -> int:
    """Send a GET as the first request of a connection and return the status; 0 if there was none."""
    handler = Single()
    session = Session(handler, Limits(), is_client=True)
    method, lines, _ = REQUESTS["get"]
    session.open(method, b"http", b"bench", target.encode(), lines, True)
    sock.sendall(session.take_output())
    while not handler.is_over and session.fault is None:
        data = sock.recv(65536)
        if not data:
            break
        session.receive(data, time.monotonic())
        sock.sendall(session.take_output())
    return handler.status


async def main(what: str, *arguments: str) -> None:
    if what == "serve":
        await serve(int(arguments[0]), int(arguments[1]))
    else:
        kind, url, connections, streams, seconds = arguments
        print(json.dumps(await load(kind, url, int(connections), int(streams), float(seconds))))


if __name__ == "__main__":
    with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
        runner.run(main(*sys.argv[1:]))
