"""Client and upstream of HTTP/2 in lockstep, as `bench.lockstep` is of HTTP/1.1.

- One connection sends some requests at once, each on a stream, and the next ones when all of them are answered.
- The upstream is that of `bench.calls`, on sockets without an event loop.  All that one read of a socket brings is
  answered in one write, so the number of reads is the same in each run.
- An answer other than 200, and a call that does not end with `grpc-status: 0`, is an error.
"""

from __future__ import annotations

import asyncio
import selectors
import socket
from types import TracebackType
from typing import Any, Final, cast

from bench.calls import GOT, REQUESTS, Serving, Wire
from bench.lockstep import PATIENCE
from bench.upstream import SMALL
from sidecar.http2 import frames

AUTHORITY: Final = b"bench"
CALL: Final = "call"
SIZES: Final = {"get": len(SMALL), CALL: len(GOT)}
"""Bytes of content of a whole answer, by the kind of request."""


class SocketTransport(asyncio.Transport):
    """Socket as the transport of a `Wire`: what is written is sent at once."""

    def __init__(self, sock: socket.socket) -> None:
        super().__init__()
        self._socket = sock

    def write(self, data: Any) -> None:
        self._socket.sendall(data)

    def is_closing(self) -> bool:
        return False


class Asking(Wire):
    """Connection of the client."""

    opening = frames.PREFACE

    def __init__(self) -> None:
        super().__init__()
        self.kind = ""
        self.next = 1
        self.pending: dict[int, int] = {}
        """Bytes of content that answers under way have brought, by stream."""
        self.faults: list[str] = []

    def ask(self, kind: str, path: bytes) -> None:
        """Put a request into the output."""
        self.kind = kind
        method, lines, content = REQUESTS[kind]
        pseudo = ((b":method", method), (b":scheme", b"http"), (b":path", path), (b":authority", AUTHORITY))
        stream = self.next
        self.next += 2
        self.out.append(frames.header_frames(stream, self.block(pseudo, lines), not content))
        if content:
            self.out.append(frames.frame(frames.DATA, frames.END_STREAM, stream, content))
        self.pending[stream] = 0

    def on_head(self, stream: int, block: bytes, is_end: bool) -> None:
        fields = {field.name: field.value for field in self.decoder.decode(block).fields}
        if fields.get(b":status", b"200") != b"200" or fields.get(b"grpc-status", b"0") != b"0":
            self.faults.append(f"stream {stream}: {fields}")
        if is_end:
            self.finish(stream, b"grpc-status" in fields)

    def on_data(self, stream: int, data: bytes, start: int, end: int, is_end: bool) -> None:
        self.pending[stream] += end - start
        if is_end:
            self.finish(stream, self.kind != CALL)

    def on_reset(self, stream: int) -> None:
        self.finish(stream, False)

    def finish(self, stream: int, is_good: bool) -> None:
        """Judge an answer that has ended; `is_good` is False if it has not ended as one of its kind does."""
        size = self.pending.pop(stream)
        if not is_good or size != SIZES[self.kind]:
            self.faults.append(f"stream {stream}: broken off after {size} bytes")


class Counting(Serving):
    """Connection of the upstream."""

    answered = 0
    """Number of requests that all connections have answered."""

    def answer(self, stream: int, path: bytes) -> None:
        Counting.answered += 1
        super().answer(stream, path)


class LockstepHttp2:
    """Client and upstream: `with LockstepHttp2() as lockstep: ...`."""

    def __init__(self) -> None:
        self._listener = socket.create_server(("127.0.0.1", 0))
        self.upstream_port: int = self._listener.getsockname()[1]
        self._selector = selectors.DefaultSelector()
        self._selector.register(self._listener, selectors.EVENT_READ)
        self._client = Asking()
        self._socket: socket.socket | None = None
        self._before = Counting.answered

    def __enter__(self) -> LockstepHttp2:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        for key in list(self._selector.get_map().values()):
            if isinstance(key.fileobj, socket.socket):
                key.fileobj.close()
        self._selector.close()

    @property
    def requests(self) -> int:
        """Number of requests that the upstream has answered."""
        return Counting.answered - self._before

    def connect(self, port: int) -> None:
        """Open the client's connection to the sidecar."""
        self._socket = socket.create_connection(("127.0.0.1", port), timeout=PATIENCE)
        self._watch(self._socket, self._client)

    def ask(self, kind: str, path: str, number: int) -> None:
        """Send so many requests of a kind of `bench.calls` in one write, and wait for their answers."""
        client = self._client
        for _ in range(number):
            client.ask(kind, path.encode())
        client.flush()
        while client.pending:
            ready = self._selector.select(PATIENCE)
            if not ready:
                raise RuntimeError(f"no whole answer to {path}; {len(client.pending)} of {number} streams are open")
            for key, _ in ready:
                assert isinstance(key.fileobj, socket.socket)
                self._read(key.fileobj, key.data)
        if client.faults:
            raise RuntimeError(f"a wrong answer to {path}: {client.faults[0]}")

    def _watch(self, sock: socket.socket, wire: Wire) -> None:
        sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        self._selector.register(sock, selectors.EVENT_READ, wire)
        wire.connection_made(SocketTransport(sock))

    def _read(self, sock: socket.socket, wire: object) -> None:
        if sock is self._listener:
            self._watch(sock.accept()[0], Counting())
        elif data := sock.recv(2**20):
            cast("Wire", wire).data_received(data)
        elif sock is self._socket:
            raise RuntimeError("the sidecar closed the connection")
        else:
            self._selector.unregister(sock)
            sock.close()
