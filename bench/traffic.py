"""Mixed traffic with an identity for every request: the clients and the upstream of the soak (`bench.soak`).

1. A request's query says what the upstream has to do.
2. A response has the request's id and a content that is computed from it, which shows any byte of another response.
3. The upstream counts requests by id: one that is not idempotent must not arrive twice.
"""

from __future__ import annotations

import asyncio
import contextlib
import hashlib
import json
import random
from collections import Counter
from collections.abc import Awaitable, Callable
from typing import Final
from urllib.parse import parse_qs, urlsplit

from bench.tally import Tally
from chaos.parts.client import Client
from chaos.parts.http import Message, read_head, read_response, request, response
from chaos.parts.servers import Connection
from chaos.parts.websocket import CLOSE, TEXT, Frame, echo, handshake, read_frame

PATIENCE: Final = 15.0
"""Seconds after which a request counts as unanswered."""
LARGE: Final = 200_000
STALL: Final = 1.0
"""Seconds of a stall: longer than the policies' timeout of an attempt."""
REFUSALS: Final = (408, 502, 503, 504)


def content(identity: str, size: int) -> bytes:
    """Return the body of the response to the request with this id."""
    line = f"{identity}\n".encode()
    return (line * (size // len(line) + 1))[:size]


def digest(body: bytes) -> bytes:
    """Return the body of the response to a request with this body."""
    return hashlib.sha256(body).hexdigest().encode()


class Upstream:
    """Upstream that does what a request's query says, and counts requests."""

    def __init__(self) -> None:
        self.asked: Counter[str] = Counter()
        """Number of requests that are not idempotent, by id."""

    async def behave(self, connection: Connection, asked: Message) -> None:
        target = urlsplit(asked.target)
        query = {name: values[0] for name, values in parse_qs(target.query).items()}
        identity = query.get("id", "")
        if asked.method == "POST":
            self.asked[identity] += 1
        fault = query.get("fault", "") if asked.get("x-sidecar-attempt", "1") == "1" else ""
        if target.path == "/ws":
            await echo(connection, asked)
        elif target.path == "/events":
            await self.tell_events(connection, identity, int(query["size"]))
        elif fault == "reset":
            connection.reset()
        elif fault == "truncate":
            head = f"HTTP/1.1 200 OK\r\nContent-Length: 100\r\nX-Soak-Id: {identity}\r\n\r\n"
            await connection.send(head.encode() + (b"" if asked.method == "HEAD" else b"half"))
            await connection.close()
        elif fault == "503":
            await connection.send(response(503, identity.encode(), [("X-Soak-Id", identity)]))
        else:
            if fault == "stall":
                await asyncio.sleep(STALL)
            await self.answer(connection, asked, identity, int(query.get("size", "10")))

    async def answer(self, connection: Connection, asked: Message, identity: str, size: int) -> None:
        body = content(identity, size)
        if asked.method == "POST":
            body = digest(asked.body)
        whole = response(200, body, [("X-Soak-Id", identity)])
        await connection.send(whole[: -len(body)] if asked.method == "HEAD" else whole)

    async def tell_events(self, connection: Connection, identity: str, count: int) -> None:
        head = f"HTTP/1.1 200 OK\r\nContent-Type: text/event-stream\r\nX-Soak-Id: {identity}\r\n"
        await connection.send(head.encode() + b"Transfer-Encoding: chunked\r\n\r\n")
        for number in range(count):
            event = f"data: {identity} {number}\n\n".encode()
            await connection.send(b"%x\r\n%b\r\n" % (len(event), event))
            await asyncio.sleep(0.02)
        await connection.send(b"0\r\n\r\n")


class Traffic:
    """Clients of all kinds."""

    def __init__(self, address: str, upstream: Upstream, seed: int) -> None:
        self.address = address
        self.upstream = upstream
        self.tally = Tally()
        self.rng = random.Random(seed)
        self.is_over = False
        self._number = 0
        self.kinds: tuple[tuple[Callable[[], Awaitable[None]], int], ...] = (
            (self.converse, 8), (self.pipeline, 1), (self.websocket, 2), (self.events, 2), (self.read_slowly, 2),
            (self.send_slowly, 2), (self.send_head_slowly, 1), (self.disconnect, 3),
        )  # fmt: skip
        """Kinds of clients, and the number of each."""

    async def run(self) -> None:
        """Run all clients until `is_over`."""
        await asyncio.gather(*(self.repeat(kind) for kind, count in self.kinds for _ in range(count)))

    async def repeat(self, kind: Callable[[], Awaitable[None]]) -> None:
        """Run one kind of client again and again until `is_over`."""
        while not self.is_over:
            try:
                async with asyncio.timeout(10 * PATIENCE):
                    await kind()
            except (OSError, asyncio.IncompleteReadError, TimeoutError) as error:
                self.tally.violation(f"{kind.__name__}: not answered: {error!r}")
            await asyncio.sleep(0.01)

    def new_identity(self, kind: str) -> str:
        """Return a new id for a request of a kind, and count the request."""
        self._number += 1
        self.tally.asked[kind] += 1
        return f"{kind.replace(' ', '-')}-{self._number}"

    # ----- one request, one answer

    async def converse(self) -> None:
        """Send some requests of all kinds on one connection."""
        async with Client(self.address) as client:
            for _ in range(self.rng.randrange(1, 30)):
                if self.is_over or not await self.send_one(client):
                    return
                await asyncio.sleep(self.rng.random() * 0.03)

    async def send_one(self, client: Client) -> bool:
        """Send one request; True if another one can follow on this connection."""
        fault = self.rng.choice(("", "", "", "", "", "", "reset", "503", "stall", "truncate"))
        method = self.rng.choice(("GET", "GET", "GET", "HEAD", "POST", "POST"))
        size = self.rng.choice((10, 10, 10, 1000, LARGE))
        identity = self.new_identity(f"{method} {fault}".strip())
        target = f"/{'read' if method != 'POST' else 'write'}?id={identity}&fault={fault}&size={size}"
        body = content(identity, size) if method == "POST" else b""
        if body and self.rng.random() < 0.5:
            head = request(method, target, content_length="", transfer_encoding="chunked", x_request_id=identity)
            half = len(body) // 2 or 1
            data = head.replace(b"content-length: \r\n", b"")
            for piece in (body[:half], body[half:]):
                data += b"%x\r\n%b\r\n" % (len(piece), piece)
            data += b"0\r\n\r\n"
        else:
            data = request(method, target, body, x_request_id=identity)
        await client.send(data)
        try:
            answer = await self.read(client, method)
        except asyncio.IncompleteReadError:
            if fault != "truncate":
                raise
            self.tally.broken += 1
            return False
        self.verify(identity, method, digest(body) if method == "POST" else content(identity, size), answer)
        return answer.get("connection").lower() != "close"

    async def read(self, client: Client, method: str = "GET") -> Message:
        answer = await asyncio.wait_for(read_response(client.reader, method), PATIENCE)
        while answer.status < 200:
            answer = await asyncio.wait_for(read_response(client.reader, method), PATIENCE)
        return answer

    def verify(self, identity: str, method: str, wanted: bytes, answer: Message) -> None:
        """Record a violation unless the response belongs to the request and has the wanted body."""
        tally = self.tally
        asked = self.upstream.asked.pop(identity, 0)
        if asked > 1:
            tally.violation(f"{identity}: came {asked} times to the upstream")
        if reason := answer.get("x-sidecar-reason"):
            tally.refused[f"{reason}: {identity.rpartition('-')[0]}"] += 1
            told = json.loads(answer.body).get("request_id", identity) if answer.body else identity
            if told != identity or answer.status not in REFUSALS:
                tally.violation(f"{identity}: refused as {told} with {answer.status}")
            return
        expected = identity.encode() if answer.status == 503 else wanted
        if answer.get("x-soak-id") != identity or (method != "HEAD" and answer.body != expected):
            tally.violation(f"{identity}: got the answer of {answer.get('x-soak-id')!r}, {len(answer.body)} bytes")
        tally.answered[method] += 1

    async def pipeline(self) -> None:
        """Send five requests at once, and check that the responses arrive in order."""
        identities = [self.new_identity("pipelined") for _ in range(5)]
        async with Client(self.address) as client:
            lines = [request("GET", f"/read?id={one}&size=1000", x_request_id=one) for one in identities]
            await client.send(b"".join(lines))
            for identity in identities:
                self.verify(identity, "GET", content(identity, 1000), await self.read(client))

    # ----- streams

    async def websocket(self) -> None:
        """Exchange messages on a WebSocket and close it properly."""
        identity = self.new_identity("websocket")
        async with Client(self.address) as client:
            await client.send(handshake(f"/ws?id={identity}"))
            if (head := await asyncio.wait_for(read_head(client.reader), PATIENCE)).status != 101:
                self.tally.refused[head.get("x-sidecar-reason") or str(head.status)] += 1
                return
            for number in range(self.rng.randrange(1, 20)):
                said = content(f"{identity} {number}", self.rng.choice((10, 1000, 70_000)))
                await client.send(Frame(TEXT, said, masked=True).encode())
                heard = await asyncio.wait_for(read_frame(client.reader), PATIENCE)
                if heard.payload != said:
                    self.tally.violation(f"{identity}: heard {heard.payload[:40]!r}")
                await asyncio.sleep(0.02)
            await client.send(Frame(CLOSE, b"\x03\xe8", masked=True).encode())
            closing = await asyncio.wait_for(read_frame(client.reader), PATIENCE)
            rest = await asyncio.wait_for(client.reader.read(-1), PATIENCE)
            if closing.opcode != CLOSE or rest:
                self.tally.violation(f"{identity}: not closed cleanly: {closing}, {rest[:40]!r}")
        self.tally.answered["websocket"] += 1

    async def events(self) -> None:
        """Read a stream of events; leave some streams midway."""
        identity, count = self.new_identity("events"), self.rng.randrange(5, 40)
        async with Client(self.address) as client:
            await client.send(request("GET", f"/events?id={identity}&size={count}", x_request_id=identity))
            if self.rng.random() < 0.3:
                await asyncio.wait_for(client.reader.read(200), PATIENCE)
                self.tally.left += 1
                return
            answer = await self.read(client)
        wanted = b"".join(f"data: {identity} {number}\n\n".encode() for number in range(count))
        self.verify(identity, "GET", wanted, answer)

    # ----- slow clients and disconnects

    async def read_slowly(self) -> None:
        """Read a long response piece by piece."""
        identity = self.new_identity("slow reader")
        async with Client(self.address) as client:
            await client.send(request("GET", f"/read?id={identity}&size=1000000", x_request_id=identity))
            head = await asyncio.wait_for(read_head(client.reader), PATIENCE)
            body = b""
            while len(body) < int(head.get("content-length")):
                body += await asyncio.wait_for(client.reader.read(65536), PATIENCE)
                await asyncio.sleep(0.02)
            head.body = body
        self.verify(identity, "GET", content(identity, 1_000_000), head)

    async def send_slowly(self) -> None:
        """Send a body piece by piece."""
        identity = self.new_identity("slow sender")
        body = content(identity, 5000)
        data = request("POST", f"/write?id={identity}", body, x_request_id=identity)
        async with Client(self.address) as client:
            for at in range(0, len(data), 1000):
                await client.send(data[at : at + 1000])
                await asyncio.sleep(0.05)
            self.verify(identity, "POST", digest(body), await self.read(client))

    async def send_head_slowly(self) -> None:
        """Send a head byte by byte."""
        identity = self.new_identity("slow head")
        async with Client(self.address) as client:
            for byte in request("GET", f"/read?id={identity}", x_request_id=identity):
                with contextlib.suppress(OSError):  # too slow: the sidecar answers 408
                    await client.send(bytes((byte,)))
                await asyncio.sleep(0.005)
            self.verify(identity, "GET", content(identity, 10), await self.read(client))

    async def disconnect(self) -> None:
        """Disconnect before the response, in its midst, or before the request is complete."""
        identity = self.new_identity("leaver")
        whole = (
            request("GET", f"/read?id={identity}&fault=stall"),
            request("GET", f"/read?id={identity}&size={LARGE}"),
            request("POST", f"/write?id={identity}", content(identity, 1000)),
        )
        data = self.rng.choice(whole)
        async with Client(self.address) as client:
            await client.send(data[: self.rng.randrange(1, len(data) + 1)])
            with contextlib.suppress(TimeoutError):
                await asyncio.wait_for(client.reader.read(100), self.rng.random() * 0.1)
        self.tally.left += 1
        self.upstream.asked.pop(identity, None)
