"""The end of a client's connection: how to close it so that the client learns what it has to, and no more.

Closing a TCP connection on which unread bytes wait or still arrive resets it, and a reset can destroy an answer that
the client has not read yet (RFC 9112 9.6).  So where a client is still sending, we stop writing, throw away what comes,
and close when it does or, once it has our answer, after `LINGER`.  A TLS transport cannot stop writing alone, and
OpenSSL breaks a shutdown off when data still comes: there the client learns from the head of the answer that it is the
last one.
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

LINGER: Final = 2.0
"""Seconds in which a client may close after our last answer."""
MIN_RATE: Final = 1024
"""Bytes a second that a client must take and give on average, after the grace of `limits.body_timeout`."""
RESET_ON_CLOSE: Final = struct.pack("ii", 1, 0)
"""SO_LINGER."""


class Lingering(asyncio.Protocol):
    """What is left of a connection after its last answer."""

    __slots__ = ("_limit", "_listener", "_transport", "_unread", "_until", "expires")

    def __init__(self, listener: Listener, transport: asyncio.Transport) -> None:
        self._listener = listener
        self._transport = transport
        now = listener.now()
        self._unread = unsent(transport)
        self._until = now + listener.limits.body_timeout
        self._limit = self._until + self._unread / MIN_RATE
        self.expires = now + LINGER
        transport.set_protocol(self)
        if not transport.is_closing():
            if transport.can_write_eof():
                transport.write_eof()
            transport.resume_reading()

    def connection_lost(self, error: Exception | None) -> None:
        self._listener.forget(self)

    def expire(self, now: float) -> None:
        unread = unsent(self._transport)
        if unread < self._unread:  # it is still reading
            self._unread = unread
            self._until = min(now + self._listener.limits.body_timeout, self._limit)
        if unread and now < self._until:
            self.expires = now + LINGER
        else:
            self._transport.abort()

    def drain(self) -> None:
        """It is on its way out already."""

    def abort(self) -> None:
        self._transport.abort()


def unsent(transport: asyncio.Transport) -> int:
    """Bytes that the client has still to take.  A TLS transport does not know what the TCP transport beneath it holds
    back; while that is anything, the kernel's queue is full."""
    size = transport.get_write_buffer_size()
    sock: Any = transport.get_extra_info("socket")
    if size or sock is None or transport.get_extra_info("sslcontext") is None:
        return size
    try:
        return int.from_bytes(fcntl.ioctl(sock.fileno(), termios.TIOCOUTQ, bytes(4)), sys.byteorder)
    except OSError:  # it is gone
        return 0


def reset(transport: asyncio.Transport) -> None:
    """Close with a reset: the only way to say that a body which ends with the connection has not ended well."""
    sock: Any = transport.get_extra_info("socket")
    if sock is not None and sock.family != socket.AF_UNIX:
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, RESET_ON_CLOSE)
    transport.abort()
