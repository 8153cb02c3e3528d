"""A request's body on its way to the upstream: the sink of one exchange's `stream`.  Made only where there is one.

With `Expect: 100-continue` the body is held back until the upstream asks for it, or for a second: then the client is
told to go on and the body sent (RFC 9110 10.1.1: neither side has to know the expectation, and no one waits for ever).
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

from sidecar.core.body import OPEN, Body
from sidecar.core.exchange import Exchange
from sidecar.core.http1 import trailer_block
from sidecar.core.message import Headers
from sidecar.core.outcome import Failure

if TYPE_CHECKING:
    from sidecar.upstream.connection import Connection

CONTINUE_AFTER: Final = 1.0
"""Seconds to wait for a `100 Continue`."""


class RequestBody:
    """Writes a body to a connection, chunked where its length is unknown."""

    __slots__ = ("_connection", "_ended", "_is_chunked", "_stream", "_x", "is_attached", "is_sent")

    def __init__(self, connection: Connection, x: Exchange, stream: Body) -> None:
        self._connection = connection
        self._x = x
        self._stream = stream
        self._is_chunked = stream.length is None
        self._ended = False
        self.is_attached = False
        self.is_sent = False

    def start(self) -> None:
        """The head is on its way."""
        if self._x.expects_continue:
            self._connection.pool.env.call_later(CONTINUE_AFTER, self.go_on, b"")
        else:
            self._attach()

    def go_on(self, lines: bytes) -> None:
        """`100 Continue`, with these field lines: let the body come, if it was held back."""
        if not self.is_attached and not self._ended:
            if self._x.interim is not None:
                self._x.interim(100, lines)
            self._attach()

    def _attach(self) -> None:
        self.is_attached = True
        if self._connection.is_blocked:
            self._stream.pause()
        self._stream.attach(self)

    def end(self) -> None:
        """The exchange is over, whether or not the body is through."""
        self._ended = True
        if not self.is_sent and self.is_attached:
            self._stream.detach()

    @property
    def is_starved(self) -> bool:
        """Is it the client that we wait for?"""
        return self.is_attached and not self.is_sent and not self._connection.is_blocked and self._stream.state == OPEN

    # ----- flow control, by the connection

    def pause(self) -> None:
        if self.is_attached:
            self._stream.pause()

    def resume(self) -> None:
        if self.is_attached:
            self._stream.resume()

    # ----- the sink

    def write(self, data: bytes) -> None:
        transport = self._connection.transport
        if transport is None or self._ended or not data:
            return
        if self._is_chunked:
            transport.writelines((b"%x\r\n" % len(data), data, b"\r\n"))
        else:
            transport.write(data)

    def finish(self, trailers: Headers) -> None:
        self.is_sent = True
        transport = self._connection.transport
        if transport is not None and not self._ended and self._is_chunked:
            transport.write(trailer_block(trailers))

    def fail(self, failure: Failure) -> None:
        if not self._ended:
            self._connection.fail(failure, "the request's body broke off")
