"""Backlog: bytes written to one client that it has not read, while its transport has paused writing."""

from __future__ import annotations

import asyncio
import fcntl
import sys
import termios
from typing import Any, Final

from sidecar.core.message import Message
from sidecar.downstream.slow_clients import Pace, Reader, SlowClients

ENDLESS: Final = (b"text/event-stream", b"application/grpc")
"""Media types of endless streams, which have no minimum rate."""
WRITE_LIMIT: Final = 16 * 1024
"""Bytes in a transport above which its client is behind.  The kernel buffers more, so the socket never runs empty."""


class Backlog:
    """Backlog of one client: its bytes in the listener's account (`SlowClients`), and its allowance (`Pace`)."""

    __slots__ = (
        "_buffered", "_idle_timeout", "_is_endless", "_pace", "_reader", "_since", "_slow", "_transport", "unsent",
    )  # fmt: skip

    def __init__(self, slow: SlowClients, transport: asyncio.Transport, reader: Reader) -> None:
        self._slow = slow
        self._transport = transport
        self._reader = reader
        self._pace = Pace(slow)
        self._buffered = 0
        """Bytes of this client in the account."""
        self.unsent = 0
        """Bytes that the client had not read at the last look."""
        self._since = 0.0
        """Instant at which the client was last seen to read something."""
        self._idle_timeout = 0.0
        """Seconds without progress after which an endless stream ends."""
        self._is_endless = False
        """True if the response is an endless stream, which needs some progress but no minimum rate."""

    def begin(self, now: float, answer: Message | None, idle_timeout: float) -> None:
        """Start accounting for a client that is behind.

        `answer` is its response, None between responses.  If it is endless, `idle_timeout` seconds without progress end
        it.
        """
        self.unsent = unsent_bytes(self._transport)
        self._is_endless = answer is not None and is_endless(answer)
        self._idle_timeout = idle_timeout
        self._since = now
        self._pace.wait(now)
        self.add(0)
        if self._buffered:
            self._slow.behind[self._reader] = now
            self._slow.make_room(now)

    def add(self, size: int, left: int = 0) -> bool:
        """Count `size` more bytes as written; True if the upstream is to be paused until the client has caught up.

        `left` is the number of bytes of the response that have yet to arrive, 0 if unknown.  A response that does not
        fit into the buffer is paused at once, because reading a part of it would not free the upstream.
        """
        self.unsent += size
        buffered = self._transport.get_write_buffer_size()
        if buffered <= WRITE_LIMIT:  # the client is not behind
            buffered = 0
        self._slow.buffered += buffered - self._buffered
        self._buffered = buffered
        if not buffered:
            self._slow.behind.pop(self._reader, None)
        return buffered + left >= self._slow.buffer or self._slow.is_full

    def end(self, now: float) -> None:
        """Stop accounting for a client that has caught up or whose connection is closed."""
        self._slow.behind.pop(self._reader, None)
        if self._buffered:
            self._slow.buffered -= self._buffered
            self._buffered = 0
        self.look(now)
        self._pace.stop(now)

    def look(self, now: float) -> None:
        """Credit the client with the bytes that it has read since the last look."""
        unsent = unsent_bytes(self._transport)
        if unsent < self.unsent:
            self._pace.move(self.unsent - unsent, now)
            self._since = now
            if self._slow.behind.pop(self._reader, None) is not None:
                self._slow.behind[self._reader] = now  # moves it to the end of the dict
        self.unsent = unsent

    @property
    def expires(self) -> float:
        """Instant of the next look; a client that has not read enough by then is cut off."""
        return self._since + self._idle_timeout if self._is_endless else self._pace.expires


def is_endless(answer: Message) -> bool:
    """True if a response is a stream of server-sent events or gRPC."""
    return (answer.header(b"content-type") or b"").lower().startswith(ENDLESS)


def unsent_bytes(transport: asyncio.Transport) -> int:
    """Return the number of written bytes that the client has not received: those in the transport and in the kernel.

    Bytes in the TCP transport beneath a TLS transport are not counted.  While there are any, the kernel's queue is
    full, so the result is not zero.
    """
    size = transport.get_write_buffer_size()
    sock: Any = transport.get_extra_info("socket")
    if sock is None:
        return size
    try:
        return size + int.from_bytes(fcntl.ioctl(sock.fileno(), termios.TIOCOUTQ, bytes(4)), sys.byteorder)
    except (OSError, ValueError):  # the socket is closed
        return size
