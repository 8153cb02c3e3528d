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

if TYPE_CHECKING:
    from sidecar.downstream.listener import Listener

LINGER_SECONDS: Final = 2.0
"""Seconds that a peer has to close after the last bytes that it gets from this side."""
MIN_RATE: Final = 1024
"""Bytes a second that a client must read and send on average, after the grace of `limits.body_timeout`."""
RESET_ON_CLOSE: Final = struct.pack("ii", 1, 0)
"""Value of SO_LINGER with which a close sends a reset."""


class LingeringClose(asyncio.Protocol):
    """Connection after its last answer: waits until the client has read that and closed."""

    __slots__ = ("_abort_at", "_last_abort_at", "_listener", "_transport", "_unsent", "expires")

    def __init__(self, listener: Listener, transport: asyncio.Transport) -> None:
        self._listener = listener
        self._transport = transport
        now = listener.now()
        self._unsent = unsent_bytes(transport)
        self._abort_at = now + listener.limits.body_timeout
        """Instant at which a client that reads nothing more is cut off."""
        self._last_abort_at = self._abort_at + self._unsent / MIN_RATE
        """Instant at which any client is cut off."""
        self.expires = now + LINGER_SECONDS
        transport.set_protocol(self)
        if not transport.is_closing():
            if transport.can_write_eof():
                transport.write_eof()
            transport.resume_reading()

    def connection_lost(self, error: Exception | None) -> None:
        self._listener.forget(self)

    def expire(self, now: float) -> None:
        """Close, unless the client is still reading."""
        unsent = unsent_bytes(self._transport)
        if unsent < self._unsent:
            self._unsent = unsent
            self._abort_at = min(now + self._listener.limits.body_timeout, self._last_abort_at)
        if unsent and now < self._abort_at:
            self.expires = now + LINGER_SECONDS
        else:
            self._transport.abort()

    def drain(self) -> None:
        """Do nothing: the connection is closing already."""

    def abort(self) -> None:
        self._transport.abort()


def unsent_bytes(transport: asyncio.Transport) -> int:
    """Return how many bytes the client has still to take.

    A TLS transport does not know what the TCP transport beneath it holds back.  While that is anything, the kernel's
    queue is full, so the length of the queue is returned instead.
    """
    size = transport.get_write_buffer_size()
    sock: Any = transport.get_extra_info("socket")
    if size or sock is None or transport.get_extra_info("sslcontext") is None:
        return size
    try:
        return int.from_bytes(fcntl.ioctl(sock.fileno(), termios.TIOCOUTQ, bytes(4)), sys.byteorder)
    except (OSError, ValueError):  # the socket is closed
        return 0


def reset(transport: asyncio.Transport) -> None:
    """Close with a reset.  Nothing else tells that a body which ends with the connection is not whole."""
    sock: Any = transport.get_extra_info("socket")
    if sock is not None and sock.family != socket.AF_UNIX:
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, RESET_ON_CLOSE)
    transport.abort()
