"""Lingering close: closes a client's connection so that the client can read its last response.

Closing a TCP connection with unread or still arriving bytes resets it.  A reset can destroy a response that the client
has not read yet (RFC 9112 9.6).  While a client is still sending, its connection therefore lingers: it half-closes and
discards what arrives.  It closes when the client does, or `LINGER_SECONDS` after the client has read the response.

TLS cannot half-close, and OpenSSL aborts a shutdown if data still arrives.  Clients then learn only from
`Connection: close` that the response is the last one.
"""

from __future__ import annotations

import asyncio
import socket
import struct
from contextlib import suppress
from typing import TYPE_CHECKING, Any, Final

from sidecar.downstream.backlog import Backlog

if TYPE_CHECKING:
    from sidecar.downstream.listener import Listener

LINGER_SECONDS: Final = 2.0
"""Seconds that a peer has to close the connection after it has received the last bytes."""
MAX_ORPHANED: Final = 32 * 1024
"""Most unsent bytes with which a connection closes at once; the kernel then sends them.  With more, it lingers."""
RESET_ON_CLOSE: Final = struct.pack("ii", 1, 0)
"""Value of SO_LINGER with which a close sends a reset."""


class LingeringClose(asyncio.Protocol):
    """Connection after its last response: waits until the client has read it and closed."""

    __slots__ = ("_backlog", "_listener", "_transport", "expires")

    def __init__(self, listener: Listener, transport: asyncio.Transport) -> None:
        self._listener = listener
        self._transport = transport
        now = listener.now()
        self._backlog: Backlog | None = Backlog(listener.slow, transport, self)
        """None once the connection is lost, since it refers to this object."""
        self._backlog.begin(now, None, 0.0)
        self.expires = now + LINGER_SECONDS
        transport.set_protocol(self)
        if not transport.is_closing():
            if transport.can_write_eof():
                end_writing(transport)
            transport.resume_reading()

    def connection_lost(self, error: Exception | None) -> None:
        backlog, self._backlog = self._backlog, None
        if backlog is not None:
            backlog.end(self._listener.now())
        self._listener.forget(self)

    def expire(self, now: float) -> None:
        """Close the connection unless the client is still reading."""
        backlog = self._backlog
        if backlog is None:
            return
        backlog.look(now)
        backlog.add(0)
        if not backlog.unsent:
            self._transport.abort()
        elif now < backlog.expires:
            self.expires = now + LINGER_SECONDS
        else:
            self.cut_off()

    def cut_off(self) -> None:
        """Reset a client that does not read."""
        reset(self._transport)

    def drain(self) -> None:
        """Do nothing, because the connection is already closing."""

    def abort(self) -> None:
        self._transport.abort()


def end_writing(transport: asyncio.Transport) -> None:
    """Close the writing side of a connection, unless its peer has reset it, which the next read will report."""
    with suppress(OSError):  # asyncio shuts the socket down at once, uvloop in a later turn
        transport.write_eof()


def reset(transport: asyncio.Transport) -> None:
    """Close a connection with a reset.

    The kernel then drops unread bytes, which it would otherwise keep for minutes.  For a body that ends with the
    connection, only a reset shows the client that the body is incomplete.
    """
    sock: Any = transport.get_extra_info("socket")
    if sock is not None and sock.family != socket.AF_UNIX:
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, RESET_ON_CLOSE)
    transport.abort()
