"""The door of a TLS listener: clients are counted and bounded before their handshake, not after it.

The loop's own servers tell of a TLS connection only when it has shaken hands: a client that connects and says nothing
would be in nobody's count.  So we accept ourselves, admit the connection like any other, and have the loop shake hands
within `limits.header_timeout`.  What is beyond `limits.max_connections` is closed without a word: to say why would take
a handshake.  (`start_tls` on an accepted transport will not do: with uvloop the client's first bytes can get lost.)
"""

from __future__ import annotations

import asyncio
import errno
import socket
import ssl
from typing import TYPE_CHECKING, Final

from sidecar.core.exchange import NEVER
from sidecar.downstream.connection import Downstream

if TYPE_CHECKING:
    from sidecar.downstream.listener import Listener

AT_ONCE: Final = 64
"""Connections accepted in one turn of the loop."""
EXHAUSTED: Final = (errno.EMFILE, errno.ENFILE, errno.ENOBUFS, errno.ENOMEM)
PAUSE: Final = 1.0
"""Seconds without accepting when the system has no more descriptors or memory, as in asyncio's own servers."""


class TlsDoor:
    """Accepts on one socket, as an `asyncio.Server` does."""

    def __init__(self, listener: Listener, sock: socket.socket, context: ssl.SSLContext) -> None:
        self._listener = listener
        self._socket = sock
        self._context = context
        self._loop = asyncio.get_running_loop()

    async def start_serving(self) -> None:
        self._open()

    def _open(self) -> None:
        if self._socket.fileno() >= 0:
            self._loop.add_reader(self._socket, self._accept)

    def close(self) -> None:
        self._loop.remove_reader(self._socket)
        self._socket.close()

    def _accept(self) -> None:
        for _ in range(AT_ONCE):
            try:
                client, _place = self._socket.accept()
            except (BlockingIOError, InterruptedError, ConnectionAbortedError):
                return
            except OSError as error:
                if error.errno not in EXHAUSTED:
                    raise
                self._loop.remove_reader(self._socket)
                self._listener.env.call_later(PAUSE, self._open)
                return
            client.setblocking(False)
            Handshake(self._listener, client, self._context)


class Handshake:
    """A connection until it has shaken hands; a `Downstream` takes its place."""

    expires = NEVER
    """The loop sees to it."""

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
                lambda: Secured(self, listener),
                sock,
                ssl=context,
                ssl_handshake_timeout=listener.limits.header_timeout,
                ssl_shutdown_timeout=listener.limits.body_timeout,  # what was written has to go out in it, too
            )
        except OSError:  # of TLS or of TCP, or its time was over
            listener.fail_handshake()
        finally:
            listener.forget(self)

    # ----- what the server asks of it

    def expire(self, now: float) -> None:
        self.abort()

    def drain(self) -> None:
        """It has asked for nothing yet."""
        self.abort()

    def abort(self) -> None:
        self._task.cancel()


class Secured(Downstream):
    """A client's connection that was admitted before its handshake."""

    __slots__ = ("_before",)

    def __init__(self, before: Handshake, listener: Listener) -> None:
        super().__init__(listener)
        self._before = before

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self.listener.replace(self._before, self)
        super().connection_made(transport)
