"""Backlog: what one client has been sent and has not taken, while its transport asks for a pause."""

from __future__ import annotations

import asyncio
import fcntl
import sys
import termios
from typing import Any, Final

from sidecar.core.message import Message
from sidecar.downstream.slow_clients import SLOW_AFTER, Pace, Reader, SlowClients

ENDLESS: Final = (b"text/event-stream", b"application/grpc")
"""Media types of streams whose reader may be as slow as it likes."""
WRITE_LIMIT: Final = 16 * 1024
"""Bytes in a transport from which its client is behind.  The kernel holds a good deal more, so nothing runs dry."""


class Backlog:
    """Bytes that wait for one client, its share of the account, and its allowance."""

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
        """Bytes not taken at the last look."""
        self._since = 0.0
        self._idle_timeout = 0.0
        self._is_endless = False

    def begin(self, now: float, answer: Message | None, idle_timeout: float) -> None:
        """The client is behind.  `idle_timeout` seconds without any progress end an `answer` that has no end."""
        self.unsent = unsent_bytes(self._transport)
        self._is_endless = answer is not None and is_endless(answer)
        self._idle_timeout = idle_timeout
        self._since = now
        self._pace.wait(now)
        self.add(0)
        if self._buffered:
            self._slow.behind[self._reader] = now
            if self._slow.is_overdrawn:
                self._make_room(now)

    def _make_room(self, now: float) -> None:
        """End the reader that has been behind longest, if it has been for a while."""
        reader, since = next(iter(self._slow.behind.items()))
        if now - since > SLOW_AFTER:
            del self._slow.behind[reader]
            reader.cut_off()

    def add(self, size: int, left: int = 0) -> bool:
        """Note that `size` more bytes were written; True if no more should be until the client has caught up.

        `left` bytes of the answer are still to come; 0 if that is not known.  To read a part in advance of what does
        not fit would not free the upstream.
        """
        self.unsent += size
        buffered = self._transport.get_write_buffer_size()
        if buffered <= WRITE_LIMIT:  # on its way to the kernel
            buffered = 0
        self._slow.buffered += buffered - self._buffered
        self._buffered = buffered
        if not buffered:
            self._slow.behind.pop(self._reader, None)
        return buffered + left >= self._slow.buffer or self._slow.is_full

    def end(self, now: float) -> None:
        """The client has caught up, or is gone."""
        self._slow.behind.pop(self._reader, None)
        if self._buffered:
            self._slow.buffered -= self._buffered
            self._buffered = 0
        self.look(now)
        self._pace.stop(now)

    def look(self, now: float) -> None:
        """See what the client has taken since the last look."""
        unsent = unsent_bytes(self._transport)
        if unsent < self.unsent:
            self._pace.move(self.unsent - unsent, now)
            self._since = now
            if self._slow.behind.pop(self._reader, None) is not None:
                self._slow.behind[self._reader] = now  # at the end
        self.unsent = unsent

    @property
    def expires(self) -> float:
        """Instant at which the client is to be looked at, and is cut off if it has not moved enough by then."""
        return self._since + self._idle_timeout if self._is_endless else self._pace.expires


def is_endless(answer: Message) -> bool:
    """True for server-sent events and gRPC."""
    return (answer.header(b"content-type") or b"").lower().startswith(ENDLESS)


def unsent_bytes(transport: asyncio.Transport) -> int:
    """Return how many bytes the client has still to take: what the transport holds, and the kernel.

    A TLS transport does not know what the TCP transport beneath it holds back.  While that is anything, the kernel's
    queue is full, so the result is never zero too early.
    """
    size = transport.get_write_buffer_size()
    sock: Any = transport.get_extra_info("socket")
    if sock is None:
        return size
    try:
        return size + int.from_bytes(fcntl.ioctl(sock.fileno(), termios.TIOCOUTQ, bytes(4)), sys.byteorder)
    except (OSError, ValueError):  # the socket is closed
        return size
