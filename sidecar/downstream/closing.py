"""Closing a client's connection so that the client can read its last answer.

Closing a TCP connection while unread bytes wait or still arrive resets it, and a reset can destroy an answer that the
client has not read yet (RFC 9112 9.6).  So where a client is still sending, the connection lingers: it stops writing,
discards what arrives, and closes when the client does or `LINGER_SECONDS` after the client has the answer.

TLS cannot stop writing alone, and OpenSSL breaks a shutdown off when data still arrives.  There the client learns from
`Connection: close` in the head that the answer is the last one.
"""

from __future__ import annotations

import asyncio
import fcntl
import socket
import struct
import sys
import termios
from typing import TYPE_CHECKING, Any, Final

from sidecar.downstream.slow_clients import Pace

if TYPE_CHECKING:
    from sidecar.downstream.listener import Listener

LINGER_SECONDS: Final = 2.0
"""Seconds that a peer has to close after the last bytes that it gets from this side."""
MAX_ORPHANED: Final = 32 * 1024
"""Bytes that may be left to the kernel when a connection closes.  With more, it lingers until the client has them."""
RESET_ON_CLOSE: Final = struct.pack("ii", 1, 0)
"""Value of SO_LINGER with which a close sends a reset."""


class LingeringClose(asyncio.Protocol):
    """Connection after its last answer: waits until the client has read that and closed."""

    __slots__ = ("_buffered", "_listener", "_pace", "_transport", "_unsent", "expires")

    def __init__(self, listener: Listener, transport: asyncio.Transport) -> None:
        self._listener = listener
        self._transport = transport
        now = listener.now()
        self._unsent = unsent_bytes(transport)
        self._buffered = 0
        """Bytes on the account of the listener's slow clients."""
        self._account()
        self._pace = Pace(listener.slow)
        self._pace.wait(now)
        self.expires = now + LINGER_SECONDS
        transport.set_protocol(self)
        if not transport.is_closing():
            if transport.can_write_eof():
                transport.write_eof()
            transport.resume_reading()

    def connection_lost(self, error: Exception | None) -> None:
        self._listener.slow.buffered -= self._buffered
        self._listener.slow.behind.pop(self._transport, None)
        self._listener.forget(self)

    def _account(self) -> None:
        """Note how many bytes wait in the transport; a few are on their way to the kernel."""
        size = self._transport.get_write_buffer_size()
        size = size if size > MAX_ORPHANED else 0
        slow = self._listener.slow
        slow.buffered += size - self._buffered
        if size < self._buffered:
            slow.behind.pop(self._transport, None)
        if size:
            slow.behind.setdefault(self._transport, self._listener.now())
        self._buffered = size

    def expire(self, now: float) -> None:
        """Close, unless the client is still reading."""
        unsent = unsent_bytes(self._transport)
        self._pace.move(max(0, self._unsent - unsent), now)
        self._unsent = unsent
        self._account()
        if unsent and now < self._pace.expires:
            self.expires = now + LINGER_SECONDS
        elif unsent:
            reset(self._transport)
        else:
            self._transport.abort()

    def drain(self) -> None:
        """Do nothing: the connection is closing already."""

    def abort(self) -> None:
        self._transport.abort()


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


def reset(transport: asyncio.Transport) -> None:
    """Close with a reset.

    The kernel drops what the client has not taken, which it would else keep for minutes.  Nothing else tells that a
    body which ends with the connection is not whole.
    """
    sock: Any = transport.get_extra_info("socket")
    if sock is not None and sock.family != socket.AF_UNIX:
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, RESET_ON_CLOSE)
    transport.abort()
