"""Upstream servers that misbehave, on real sockets and free ports, and record their requests.

    async with Server(answering(body=b"hi")) as server: ...   # server.url, server.requests, server.connections
    async with Server(sequence(reset, answering())) as server: ...
    async with refusing() as port: ...                        # nothing listens there
    async with unresponsive() as port: ...                    # connecting hangs: the backlog is full

A `Behaviour` is called with each request, whose body has been read, and writes any bytes to the connection.  The
connection stays open for the next request unless the behaviour closes it.
"""

from __future__ import annotations

import asyncio
import contextlib
import socket
import ssl
import struct
from collections.abc import AsyncIterator, Awaitable, Callable, Iterable
from types import TracebackType

from chaos.parts.http import Message, read_body, read_head, response


class Connection:
    """Accepted connection.

    - `number`: 1 for the first connection of its server.
    - `served`: requests so far, the current one included.
    """

    def __init__(self, number: int, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self.number = number
        self.reader = reader
        self.writer = writer
        self.served = 0

    async def send(self, data: bytes) -> None:
        """Send bytes, and wait while the client does not read."""
        self.writer.write(data)
        await self.writer.drain()

    async def close(self) -> None:
        """Close (FIN) after everything that was sent."""
        self.writer.close()
        with contextlib.suppress(OSError):
            await self.writer.wait_closed()

    def reset(self) -> None:
        """Reset (RST): what was not read yet is lost."""
        sock = self.writer.get_extra_info("socket")
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
        self.writer.transport.abort()

    @property
    def is_open(self) -> bool:
        return not self.writer.is_closing()


Behaviour = Callable[[Connection, Message], Awaitable[None]]


class Server:
    """Server that answers each request as its behaviour does.

    - `requests`: requests so far; their bodies are empty unless `reads_body`.
    - `path`: Unix socket to listen on instead of a port.
    """

    def __init__(
        self,
        behave: Behaviour,
        *,
        reads_body: bool = True,
        tls: ssl.SSLContext | None = None,
        path: str | None = None,
        host: str = "127.0.0.1",
    ) -> None:
        self.behave = behave
        self.requests: list[Message] = []
        self.connections: list[Connection] = []
        self.port = 0
        self._reads_body = reads_body
        self._tls = tls
        self._path = path
        self._host = host
        self._tasks: set[asyncio.Task[None]] = set()
        self._server: asyncio.Server | None = None

    @property
    def address(self) -> str:
        return f"[{self._host}]:{self.port}" if ":" in self._host else f"{self._host}:{self.port}"

    @property
    def url(self) -> str:
        return f"{'http' if self._tls is None else 'https'}://{self.address}"

    async def are_clients_gone(self, within: float = 60.0) -> bool:
        """True if every client closes its connection within so many seconds."""
        if self._tasks:
            await asyncio.wait(self._tasks, timeout=within)
        return not self._tasks

    async def __aenter__(self) -> Server:
        if self._path is not None:
            self._server = await asyncio.start_unix_server(self._accept, self._path, ssl=self._tls)
        else:
            self._server = await asyncio.start_server(self._accept, self._host, 0, ssl=self._tls)
            self.port = self._server.sockets[0].getsockname()[1]
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        assert self._server is not None
        self._server.close()
        for task in tuple(self._tasks):
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)

    def _accept(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        connection = Connection(len(self.connections) + 1, reader, writer)
        self.connections.append(connection)
        task = asyncio.get_running_loop().create_task(self._serve(connection))
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)

    async def _serve(self, connection: Connection) -> None:
        try:
            while connection.is_open:
                request = await read_head(connection.reader)
                connection.served += 1
                self.requests.append(request)
                if self._reads_body:
                    if request.get("expect").lower() == "100-continue":
                        await connection.send(b"HTTP/1.1 100 Continue\r\n\r\n")
                    await read_body(connection.reader, request, until_close=False)
                await self.behave(connection, request)
        except (asyncio.IncompleteReadError, OSError):
            pass  # the client has gone
        finally:
            connection.writer.transport.abort()


# ----- behaviours


def answering(status: int = 200, body: bytes = b"ok", fields: Iterable[tuple[str, str]] = ()) -> Behaviour:
    """Behave well: send a response with these parts."""
    return saying(response(status, body, fields))


def saying(*pieces: bytes, close: bool = False, every: float = 0.0) -> Behaviour:
    """Send exactly these pieces, with `every` seconds between two, then close the connection or keep it."""

    async def behave(connection: Connection, _: Message) -> None:
        for index, piece in enumerate(pieces):
            if index and every:
                await asyncio.sleep(every)
            await connection.send(piece)
        if close:
            await connection.close()

    return behave


def after(seconds: float, behave: Behaviour) -> Behaviour:
    """Wait before behaving."""

    async def slowly(connection: Connection, request: Message) -> None:
        await asyncio.sleep(seconds)
        await behave(connection, request)

    return slowly


def sequence(*behaviours: Behaviour) -> Behaviour:
    """Behave to the first request as the first says, and so on; the last behaviour stays."""
    left = list(behaviours)

    async def behave(connection: Connection, request: Message) -> None:
        await (left.pop(0) if len(left) > 1 else left[0])(connection, request)

    return behave


async def echoing(connection: Connection, request: Message) -> None:
    """Answer with the request's body, and its method and target in fields."""
    fields = [("X-Method", request.method), ("X-Target", request.target)]
    await connection.send(response(200, b"" if request.method == "HEAD" else request.body, fields))


async def silent(connection: Connection, _: Message) -> None:
    """Read the request and never answer."""
    await connection.reader.read(-1)


async def reset(connection: Connection, _: Message) -> None:
    """Reset the connection instead of answering."""
    connection.reset()


async def closing(connection: Connection, _: Message) -> None:
    """Close the connection instead of answering."""
    await connection.close()


async def hanging_after_head(connection: Connection, _: Message) -> None:
    """Announce ten bytes and send none."""
    await connection.send(b"HTTP/1.1 200 OK\r\nContent-Length: 10\r\n\r\n")
    await connection.reader.read(-1)


async def resetting_mid_body(connection: Connection, _: Message) -> None:
    """Reset the connection after five of ten bytes, which have been read by then."""
    await connection.send(b"HTTP/1.1 200 OK\r\nContent-Length: 10\r\n\r\nhello")
    await asyncio.sleep(0.05)  # a reset discards what the peer has not read yet
    connection.reset()


truncating = saying(b"HTTP/1.1 200 OK\r\nContent-Length: 10\r\n\r\nhello", close=True)
"""Announce ten bytes, send five, and close."""

truncating_chunked = saying(b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\na\r\nhello", close=True)
"""Announce a chunk of ten bytes, send five, and close."""

overlong = saying(b"HTTP/1.1 200 OK\r\nContent-Length: 5\r\n\r\nhelloHTTP/1.1 200 OK\r\nContent-Length: 4\r\n\r\nevil")
"""Send more bytes than announced; they look like the response to the next request."""

close_delimited = saying(b"HTTP/1.1 200 OK\r\n\r\n", b"hello ", b"world", close=True)
"""Send a body that ends with the connection (RFC 9112 6.3)."""

interim = saying(
    b"HTTP/1.1 103 Early Hints\r\nLink: </style.css>; rel=preload\r\n\r\n", response(200, b"hello"), every=0.02
)  # fmt: skip
"""Send an interim response before the final one (RFC 8297)."""


def closing_idle(behave: Behaviour) -> Behaviour:
    """Answer, then close the connection without having announced it."""

    async def answer(connection: Connection, request: Message) -> None:
        await behave(connection, request)
        await connection.close()

    return answer


def closing_on_reuse(behave: Behaviour) -> Behaviour:
    """Answer the first request of a connection and close it on the second: the race of an idle timeout."""

    async def answer(connection: Connection, request: Message) -> None:
        if connection.served > 1:
            await connection.close()
        else:
            await behave(connection, request)

    return answer


def dribbling(body: bytes = b"hello", every: float = 0.02) -> Behaviour:
    """Send the head at once, then the body a byte at a time."""
    head = f"HTTP/1.1 200 OK\r\nContent-Length: {len(body)}\r\n\r\n".encode()
    return saying(head, *(bytes((byte,)) for byte in body), every=every)


# ----- addresses without a listener


@contextlib.asynccontextmanager
async def refusing() -> AsyncIterator[int]:
    """Yield a port at which connecting is refused: bound, so that no other process takes it, and not listening."""
    with socket.socket() as sock:
        sock.bind(("127.0.0.1", 0))
        yield sock.getsockname()[1]


@contextlib.asynccontextmanager
async def unresponsive() -> AsyncIterator[int]:
    """Yield a port at which connecting hangs: its backlog is full, so Linux drops further SYNs."""
    with contextlib.ExitStack() as stack:
        listener = stack.enter_context(socket.socket())
        listener.bind(("127.0.0.1", 0))
        listener.listen(0)
        for _ in range(3):
            filler = stack.enter_context(socket.socket())
            filler.setblocking(False)
            filler.connect_ex(listener.getsockname())
        await asyncio.sleep(0.01)
        yield listener.getsockname()[1]
