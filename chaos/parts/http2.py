"""HTTP/2 and gRPC of services and clients of scenarios, on the engine of `sidecar.http2`.

Rules:

1. The server answers requests of HTTP/2 and calls of gRPC on the port of HTTP/1.1; the preface tells them apart.
2. The client is naive, as a channel of gRPC without a service config: one connection for all calls to an address, kept
   until it breaks, goes away or is full.  It repeats nothing.
3. A call's status is told as the HTTP status of its code, so that one recording has both.
4. Bodies are small: what waits for a window or for the transport is not limited.
"""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING, Final, cast

from chaos.parts.http import Fields, Message
from chaos.parts.part import split
from sidecar.core.outcome import GRPC_STATUSES
from sidecar.grpc.status import is_grpc, parse_status, status_from_http, status_to_http
from sidecar.http2.errors import CANCEL, INTERNAL_ERROR
from sidecar.http2.frames import PREFACE
from sidecar.http2.heads import Head
from sidecar.http2.limits import Limits
from sidecar.http2.session import Session
from sidecar.http2.stream import Stream

if TYPE_CHECKING:
    from chaos.faults.answer import AnswerFault
    from chaos.parts.service import Service

START: Final = PREFACE[:4]
"""First bytes of a connection of HTTP/2; no method of HTTP/1.1 is called so."""
UNLIMITED: Final = 1e9
"""Streams and frames a second that a part takes: the sidecar is tested, not the part."""


def limits() -> Limits:
    return Limits(max_streams=1000, reset_burst=UNLIMITED, frame_burst=UNLIMITED)


def message(payload: bytes) -> bytes:
    """Return a message of gRPC with its prefix."""
    return b"\0" + len(payload).to_bytes(4, "big") + payload


def fields_of(lines: bytes) -> Fields:
    """Return field lines as pairs, names in lower case."""
    pairs = (line.partition(":") for line in lines.decode("latin-1").split("\r\n") if line)
    return [(name.lower(), value.strip()) for name, _, value in pairs]


def lines_of(fields: Fields) -> bytes:
    """Return pairs as field lines."""
    return "".join([f"{name}: {value}\r\n" for name, value in fields]).encode("latin-1")


class Side:
    """End of a connection: a session and its transport; base of both ends, which are the session's handlers."""

    session: Session

    def __init__(self, transport: asyncio.Transport) -> None:
        self.transport = transport

    def receive(self, data: bytes) -> None:
        """Take bytes from the peer."""
        self.session.receive(data, asyncio.get_running_loop().time())
        self.flush()

    def flush(self) -> None:
        """Send what waits, and close a connection that has come to its end."""
        while out := self.session.take_output():
            if not self.transport.is_closing():
                self.transport.write(out)
        if self.session.has_failed or self.session.is_done:
            self.transport.close()

    def on_interim(self, stream: Stream, head: Head) -> None: ...

    def on_writable(self, stream: Stream) -> None: ...

    def on_goaway(self, last: int, code: int) -> None: ...

    def on_pong(self, payload: bytes) -> None: ...


class ServiceStream:
    """Request on a stream, as a service answers it."""

    def __init__(self, side: ServiceSide, stream: Stream, head: Head) -> None:
        self.side = side
        self.stream = stream
        self.request = Message(
            f"{head.method.decode()} {head.path.decode('latin-1')} HTTP/2", fields_of(head.lines)
        )  # fmt: skip
        self.is_call = is_grpc(self.request.get("content-type").encode())

    def reply(self, status: int, body: bytes, fields: Fields) -> None:
        """Send the whole answer; that of a call has the code that a client takes the status for."""
        session, stream = self.side.session, self.stream
        if not self.is_call:
            session.respond(stream, status, lines_of([("content-length", str(len(body))), *fields]), False)
            session.send(stream, body, True)
        elif status == 200:
            self.begin(fields)
            session.send(stream, message(body), False)
            session.send_trailers(stream, b"grpc-status: 0\r\n")
        else:
            code = b"grpc-status: %d\r\n" % status_from_http(status)
            session.respond(stream, 200, b"content-type: application/grpc\r\n" + code + lines_of(fields), True)
        self.side.flush()

    def begin(self, fields: Fields) -> None:
        """Send the head of a call's answer."""
        lines = b"content-type: application/grpc\r\n" + lines_of(fields)
        self.side.session.respond(self.stream, 200, lines, False)

    async def misbehave(self, fault: AnswerFault, body: bytes) -> int:
        """Answer as a fault says; return the status that the service meant, 0 for none.

        Faults in the bytes of HTTP/1.1 become a reset of the stream.
        """
        if fault.kind == "status":
            self.reply(fault.status, b"", [])
            return fault.status
        if fault.kind == "delay":
            await asyncio.sleep(fault.by)
            self.reply(200, body, [])
            return 200
        if fault.kind == "grpc_status" and self.is_call:
            code = GRPC_STATUSES.index(fault.code)
            self.begin([])
            self.side.flush()
            await asyncio.sleep(fault.by)
            self.side.session.send_trailers(self.stream, b"grpc-status: %d\r\n" % code)
            self.side.flush()
            return status_to_http(code)
        self.side.session.reset(self.stream, INTERNAL_ERROR)
        self.side.flush()
        return 0


class ServiceSide(Side):
    """Connection of a service."""

    def __init__(self, service: Service, transport: asyncio.Transport) -> None:
        super().__init__(transport)
        self.session = Session(self, limits(), is_client=False)
        self.service = service

    def on_head(self, stream: Stream, head: Head, is_end: bool) -> None:
        stream.user = ServiceStream(self, stream, head)
        if is_end:
            self.on_data(stream, b"", True)

    def on_data(self, stream: Stream, data: bytes, is_end: bool) -> None:
        request = cast("ServiceStream", stream.user)
        request.request.body += data
        if is_end:
            self.service.arrive(request.request, request)

    def on_trailers(self, stream: Stream, head: Head) -> None:
        self.on_data(stream, b"", True)

    def on_reset(self, stream: Stream, code: int, text: str) -> None: ...

    def go_away(self) -> None:
        """Take no more requests; those that have begun are answered."""
        self.session.finish_drain()
        self.flush()


class Reply:
    """Answer to a call as far as it has arrived."""

    def __init__(self, waiter: asyncio.Future[Reply | None]) -> None:
        self.waiter = waiter
        """Future that gets this object, or None where the stream has broken."""
        self.status = 0
        self.fields: Fields = []
        self.body = b""

    @property
    def code(self) -> int:
        """Code of gRPC; that of the HTTP status if there is none."""
        value = dict(self.fields).get("grpc-status")
        return status_from_http(self.status) if value is None else parse_status(value.encode())

    def end(self, reply: Reply | None) -> None:
        if not self.waiter.done():
            self.waiter.set_result(reply)


class ClientSide(Side, asyncio.Protocol):
    """Connection of a client."""

    def __init__(self) -> None:
        self.is_open = False

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self.transport = cast("asyncio.Transport", transport)
        self.session = Session(self, limits(), is_client=True)
        self.is_open = True
        self.flush()

    def data_received(self, data: bytes) -> None:
        self.receive(data)

    def connection_lost(self, _: Exception | None) -> None:
        self.is_open = False
        for stream in self.session.streams.values():
            cast("Reply", stream.user).end(None)

    def on_head(self, stream: Stream, head: Head, is_end: bool) -> None:
        reply = cast("Reply", stream.user)
        reply.status = head.status
        reply.fields += fields_of(head.lines)
        if is_end:
            reply.end(reply)

    def on_data(self, stream: Stream, data: bytes, is_end: bool) -> None:
        reply = cast("Reply", stream.user)
        reply.body += data
        if is_end:
            reply.end(reply)

    def on_trailers(self, stream: Stream, head: Head) -> None:
        reply = cast("Reply", stream.user)
        reply.fields += fields_of(head.lines)
        reply.end(reply)

    def on_reset(self, stream: Stream, code: int, text: str) -> None:
        cast("Reply", stream.user).end(None)

    async def call(self, path: str, host: str, fields: Fields, payload: bytes) -> Reply | None:
        """Make a call; return its answer, or None if the stream broke."""
        reply = Reply(asyncio.get_running_loop().create_future())
        lines = lines_of([("te", "trailers"), ("content-type", "application/grpc"), *fields])
        stream = self.session.open(b"POST", b"http", host.encode(), path.encode("latin-1"), lines, False)
        stream.user = reply
        self.session.send(stream, message(payload), True)
        self.flush()
        try:
            return await reply.waiter
        except asyncio.CancelledError:
            self.session.reset(stream, CANCEL)
            self.flush()
            raise


class Channels:
    """Connections of a client to any number of addresses.

    - `sides`: connection for the next call, by address.
    - `opened`: all connections that are open.
    """

    def __init__(self) -> None:
        self.sides: dict[str, ClientSide] = {}
        self.opened: set[ClientSide] = set()
        self.locks: dict[str, asyncio.Lock] = {}

    async def call(self, address: str, path: str, host: str, fields: Fields, payload: bytes) -> Reply | None:
        """Make a call.  Raises `OSError` if the address refuses a connection."""
        async with self.locks.setdefault(address, asyncio.Lock()):
            side = self.sides.get(address)
            if side is None or not side.is_open or not side.session.can_open:
                where = split(address)
                made = ClientSide()
                await asyncio.get_running_loop().create_connection(lambda: made, *where)
                side = self.sides[address] = made
                self.opened = {each for each in self.opened if each.is_open} | {made}
        return await side.call(path, host, fields, payload)

    def close(self) -> None:
        """Close all connections."""
        for side in self.opened:
            if side.is_open:
                side.transport.abort()
