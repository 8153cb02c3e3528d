"""TLS acceptor: connections are counted and bounded before their handshake.

The event loop's own servers announce a TLS connection after its handshake, so that clients which connect and stay
silent are not counted.  This acceptor accepts by itself, has the listener admit the connection, and lets the loop shake
hands within `limits.header_timeout`.  A connection beyond `limits.max_connections` is closed without an answer, which
would need a handshake.

`loop.start_tls` on an accepted transport is not used: uvloop can lose the client's first bytes there.
"""

from __future__ import annotations

import asyncio
import errno
import socket
import ssl
from typing import TYPE_CHECKING, Final

from sidecar.core.exchange import NEVER
from sidecar.downstream.connection import DownstreamConnection

if TYPE_CHECKING:
    from sidecar.downstream.listener import Listener

MAX_ACCEPTS_A_TURN: Final = 64
"""Connections accepted in one turn of the loop."""
EXHAUSTED: Final = (errno.EMFILE, errno.ENFILE, errno.ENOBUFS, errno.ENOMEM)
"""Errors of a system without free descriptors or memory."""
PAUSE_SECONDS: Final = 1.0
"""Pause after such an error, as in asyncio's own servers."""


class TlsAcceptor:
    """Accepts connections on one socket; has the methods of `asyncio.Server` that a listener needs."""

    def __init__(self, listener: Listener, sock: socket.socket, context: ssl.SSLContext) -> None:
        self._listener = listener
        self._socket = sock
        self._context = context
        self._loop = asyncio.get_running_loop()

    async def start_serving(self) -> None:
        self._resume()

    def _resume(self) -> None:
        if self._socket.fileno() >= 0:
            self._loop.add_reader(self._socket, self._accept)

    def close(self) -> None:
        self._loop.remove_reader(self._socket)
        self._socket.close()

    def _accept(self) -> None:
        for _ in range(MAX_ACCEPTS_A_TURN):
            try:
                client, _address = self._socket.accept()
            except (BlockingIOError, InterruptedError, ConnectionAbortedError):
                return
            except OSError as error:
                if error.errno not in EXHAUSTED:
                    raise
                self._loop.remove_reader(self._socket)
                self._listener.env.call_later(PAUSE_SECONDS, self._resume)
                return
            client.setblocking(False)
            Handshake(self._listener, client, self._context)


class Handshake:
    """Connection during its handshake; a `TlsConnection` replaces it."""

    expires = NEVER
    """The loop limits the time of the handshake."""

    def __init__(self, listener: Listener, sock: socket.socket, context: ssl.SSLContext) -> None:
        self._listener = listener
        if listener.admit(self, sock):
            self._task = listener.env.spawn(self._shake_hands(sock, context))
        else:
            sock.close()

    async def _shake_hands(self, sock: socket.socket, context: ssl.SSLContext) -> None:
        listener = self._listener
        try:
            await asyncio.get_running_loop().connect_accepted_socket(
                lambda: TlsConnection(self, listener),
                sock,
                ssl=context,
                ssl_handshake_timeout=listener.limits.header_timeout,
                ssl_shutdown_timeout=listener.limits.body_timeout,  # includes the time to send the rest of an answer
            )
        except OSError:  # of TLS or TCP, or the timeout
            listener.count_failed_handshake()
        finally:
            listener.forget(self)

    # ----- what listener and server call

    def expire(self, now: float) -> None:
        self.abort()

    def drain(self) -> None:
        """Close: the client has not sent a request yet."""
        self.abort()

    def abort(self) -> None:
        self._task.cancel()


class TlsConnection(DownstreamConnection):
    """Connection that the listener has admitted before its handshake."""

    __slots__ = ("_handshake",)

    def __init__(self, handshake: Handshake, listener: Listener) -> None:
        super().__init__(listener)
        self._handshake = handshake

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self.listener.replace(self._handshake, self)
        super().connection_made(transport)

    def eof_received(self) -> bool:
        """Close: after the client's close_notify the event loops write nothing more (RFC 5246 7.2.1)."""
        return False
