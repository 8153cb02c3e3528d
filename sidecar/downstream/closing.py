"""Closing a client's connection so that the client can read its last answer.

Closing a TCP connection while unread bytes wait or still arrive resets it, and a reset can destroy an answer that the
client has not read yet (RFC 9112 9.6).  So where a client is still sending, the connection lingers: it stops writing,
discards what arrives, and closes when the client does or `LINGER_SECONDS` after the client has the answer.

TLS cannot stop writing alone, and OpenSSL breaks a shutdown off when data still arrives.  There the client learns from
`Connection: close` in the head that the answer is the last one.
"""

from __future__ import annotations

import asyncio
import socket
import struct
from typing import TYPE_CHECKING, Any, Final

from sidecar.downstream.backlog import Backlog

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

    __slots__ = ("_backlog", "_listener", "_transport", "expires")

    def __init__(self, listener: Listener, transport: asyncio.Transport) -> None:
        self._listener = listener
        self._transport = transport
        now = listener.now()
        self._backlog = Backlog(listener.slow, transport, self)
        self._backlog.begin(now, None, 0.0)
        self.expires = now + LINGER_SECONDS
        transport.set_protocol(self)
        if not transport.is_closing():
            if transport.can_write_eof():
                transport.write_eof()
            transport.resume_reading()

    def connection_lost(self, error: Exception | None) -> None:
        self._backlog.end(self._listener.now())
        self._listener.forget(self)

    def expire(self, now: float) -> None:
        """Close, unless the client is still reading."""
        backlog = self._backlog
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
        """Do nothing: the connection is closing already."""

    def abort(self) -> None:
        self._transport.abort()


def reset(transport: asyncio.Transport) -> None:
    """Close with a reset.

    The kernel drops what the client has not taken, which it would else keep for minutes.  Nothing else tells that a
    body which ends with the connection is not whole.
    """
    sock: Any = transport.get_extra_info("socket")
    if sock is not None and sock.family != socket.AF_UNIX:
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, RESET_ON_CLOSE)
    transport.abort()
