"""TLS acceptor: accepts connections and counts them before their handshake.

The event loop's own TLS servers report a connection only after its handshake, so silent connections would not be
counted.  This acceptor accepts the socket, has the listener admit it, and then lets the loop do the handshake within
`limits.header_timeout`.  A connection beyond `limits.max_connections` is closed without a response, because a response
would need a handshake.

`loop.start_tls` on an accepted transport is not used, because uvloop can lose the client's first bytes.
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
"""Most connections accepted in one turn of the loop."""
EXHAUSTED: Final = (errno.EMFILE, errno.ENFILE, errno.ENOBUFS, errno.ENOMEM)
"""Errors of `accept` if the system has no free descriptors or memory."""
PAUSE_SECONDS: Final = 1.0
"""Seconds without accepting after such an error, as in asyncio's own servers."""


class TlsAcceptor:
    """Acceptor of TLS connections on one socket, with the methods of `asyncio.Server` that a listener calls."""

    def __init__(self, listener: Listener, sock: socket.socket, context: ssl.SSLContext) -> None:
        self._listener = listener
        self._socket = sock
        self._context = context
        self._loop = asyncio.get_running_loop()

    async def start_serving(self) -> None:
        self._listen_again()

    def _listen_again(self) -> None:
        """Watch the socket for connections, unless it was closed meanwhile."""
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
                self._listener.env.call_later(PAUSE_SECONDS, self._listen_again)
                return
            client.setblocking(False)
            if self._listener.hand_over(client):
                client.close()
                continue
            Handshake(self._listener, client, self._context)


class Handshake:
    """Connection during its TLS handshake, after which a `TlsConnection` replaces it."""

    expires = NEVER
    """Deadline for the sweep: none, because the loop limits the time of the handshake."""
    is_serving = False
    """False, because there is no request yet."""

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
                ssl_shutdown_timeout=listener.limits.body_timeout,  # includes the time to send buffered bytes
            )
        except OSError:  # also TLS errors and the timeout
            listener.count_failed_handshake()
        finally:
            listener.forget(self)

    # ----- called by listener and server

    def expire(self, now: float) -> None:
        self.abort()

    def drain(self) -> None:
        """Close the connection, which has no request yet."""
        self.abort()

    def abort(self) -> None:
        self._task.cancel()


class TlsConnection(DownstreamConnection):
    """TLS connection, which the listener has admitted before its handshake."""

    __slots__ = ("_handshake",)

    def __init__(self, handshake: Handshake, listener: Listener) -> None:
        super().__init__(listener)
        self._handshake = handshake

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self.listener.replace(self._handshake, self)
        super().connection_made(transport)

    def eof_received(self) -> bool:
        """Return False to close: after the client's close_notify, event loops send nothing more (RFC 5246 7.2.1)."""
        return False
