"""Client and upstream of one sidecar in one thread, with one request at a time, so that all runs do the same work.

- One keep-alive connection sends the requests, each when the response to the last one is complete.
- The upstream sends a response in pieces, each when the client has the one before it. So a body takes the same number
  of reads in each run, in whatever order the kernel runs the processes.
- A wrong or missing response is an error.
"""

from __future__ import annotations

import re
import selectors
import socket
from collections.abc import Mapping, Sequence
from itertools import cycle
from types import TracebackType
from typing import Final

PIECE: Final = 16 * 1024
"""Bytes of a piece: less than a segment of the loopback interface, which is delivered as a whole."""
PATIENCE: Final = 60.0
"""Seconds to wait for the sidecar."""
END: Final = b"\r\n\r\n"
LENGTH: Final = re.compile(rb"(?i)\r\ncontent-length: *(\d+)\r\n")


def pieces(answer: bytes) -> list[bytes]:
    """Return the head of a response with the first bytes of its body, then the rest of the body."""
    first = answer.index(END) + len(END) + PIECE
    return [answer[:first], *(answer[at : at + PIECE] for at in range(first, len(answer), PIECE))]


def body_bytes(received: bytes) -> int | None:
    """Return the number of body bytes received; None while the head is incomplete."""
    head = received.find(END)
    return None if head < 0 else len(received) - head - len(END)


def is_whole(received: bytes) -> bool:
    """True if a response is complete; its head must have a Content-Length."""
    got = body_bytes(received)
    if got is None:
        return False
    length = LENGTH.search(received)
    if length is None:
        raise RuntimeError(f"an answer without Content-Length: {received[:500]!r}")
    return got >= int(length[1])


class Lockstep:
    """Client and upstream: `with Lockstep(answers) as lockstep: ...`.

    `answers` has the upstream's responses by path; several responses of one path are sent in turn.
    """

    def __init__(self, answers: Mapping[str, Sequence[bytes]]) -> None:
        self.requests = 0
        """Number of requests that the upstream has received."""
        self.token = ""
        """Bearer token for requests that have one."""
        self._answers = {path.encode(): cycle(several) for path, several in answers.items()}
        self._listener = socket.create_server(("127.0.0.1", 0))
        self.upstream_port: int = self._listener.getsockname()[1]
        self._selector = selectors.DefaultSelector()
        self._selector.register(self._listener, selectors.EVENT_READ)
        self._client: socket.socket | None = None
        self._received = b""
        self._heads: dict[socket.socket, bytes] = {}
        self._answering: socket.socket | None = None
        self._waiting: list[bytes] = []
        self._sent = 0
        """Bytes of the response's body that were sent."""
        self._together = 1
        self._held: list[socket.socket] = []
        """Connections whose request waits for the others that are answered together."""

    def __enter__(self) -> Lockstep:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        for key in list(self._selector.get_map().values()):
            if isinstance(key.fileobj, socket.socket):
                key.fileobj.close()
        self._selector.close()

    def connect(self, port: int) -> None:
        """Open the client's connection to the sidecar."""
        self._client = self._watch(socket.create_connection(("127.0.0.1", port), timeout=PATIENCE))

    def ask(self, target: str, *, has_token: bool = False, together: int = 1) -> bytes:
        """Send a request and return its response, which must be a 200.

        The upstream answers its requests `together`, in the order of their arrival; only with answers of one piece.
        """
        assert self._client is not None
        self._together = together
        self._received = b""
        token = f"Authorization: Bearer {self.token}\r\n" if has_token else ""
        self._client.sendall(f"GET {target} HTTP/1.1\r\nHost: bench\r\n{token}\r\n".encode())
        while not is_whole(self._received):
            ready = self._selector.select(PATIENCE)
            if not ready:
                raise RuntimeError(f"no whole answer to {target}; so far: {self._received[:500]!r}")
            for key, _ in ready:
                assert isinstance(key.fileobj, socket.socket)
                self._read(key.fileobj)
        if self._waiting or not self._received.startswith(b"HTTP/1.1 200 "):
            raise RuntimeError(f"a wrong answer to {target}: {self._received[:500]!r}")
        return self._received

    def _watch(self, sock: socket.socket) -> socket.socket:
        sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        self._selector.register(sock, selectors.EVENT_READ)
        return sock

    def _read(self, sock: socket.socket) -> None:
        if sock is self._listener:
            self._heads[self._watch(sock.accept()[0])] = b""
            return
        data = sock.recv(2**20)
        if sock is self._client:
            if not data:
                raise RuntimeError(f"the sidecar closed the connection; so far: {self._received[:500]!r}")
            self._received += data
            if self._waiting and (body_bytes(self._received) or 0) >= self._sent:
                self._send()
        elif data:
            self._heads[sock] += data
            if self._heads[sock].endswith(END):
                self._held.append(sock)
            if len(self._held) == self._together:
                held, self._held = self._held, []
                for each in held:
                    self._answer(each)
        else:
            self._selector.unregister(sock)
            sock.close()
            del self._heads[sock]

    def _answer(self, sock: socket.socket) -> None:
        path = self._heads[sock].split(b" ", 2)[1].partition(b"?")[0]
        self._heads[sock] = b""
        self.requests += 1
        self._answering, self._waiting = sock, pieces(next(self._answers[path]))
        self._sent = 0
        self._send()

    def _send(self) -> None:
        assert self._answering is not None
        piece = self._waiting.pop(0)
        self._sent += len(piece) if self._sent else body_bytes(piece) or 0
        self._answering.sendall(piece)
