"""Response bodies on their way to the client: streamed from the upstream, or long and stored in memory.

A streamed body is read ahead of a slow client up to a limit (`backlog`), so that the upstream connection becomes free
sooner.  A stored body is written in pieces at the client's pace, so that it is not copied for a client that does not
read.
"""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING, Final

from sidecar.core.exchange import Exchange
from sidecar.core.http1 import trailer_block
from sidecar.core.message import Headers
from sidecar.core.outcome import CLIENT_CLOSED, Failure
from sidecar.downstream.closing import reset

if TYPE_CHECKING:
    from sidecar.downstream.connection import DownstreamConnection

MAX_AT_ONCE: Final = 128 * 1024
"""Longest stored body that is written together with its head, in bytes."""
PIECE: Final = 64 * 1024
"""Bytes of a stored body in one write."""
CHUNKED: Final = b"transfer-encoding: chunked\r\n"
"""Field line of a chunked body."""


class ResponseBody:
    """Sink of a streamed response body.

    Its length or chunks delimit the body.  For HTTP/1.0, which has no chunks, a body of unknown length ends with the
    connection.
    """

    __slots__ = ("_accepts_trailers", "_connection", "_is_chunked", "_transport", "ends_with_the_connection", "framing")

    def __init__(
        self, connection: DownstreamConnection, transport: asyncio.Transport, x: Exchange, length: int | None
    ) -> None:
        """`length` is in bytes, None if unknown."""
        self._connection = connection
        self._transport = transport
        self._accepts_trailers = x.accepts_trailers
        self._is_chunked = length is None and x.version == 11
        self.ends_with_the_connection = length is None and not self._is_chunked
        """True if the body ends when the connection closes."""
        self.framing = CHUNKED if self._is_chunked else b"" if length is None else b"content-length: %d\r\n" % length
        """Field lines that delimit the body."""

    def write(self, data: bytes) -> None:
        is_behind = self._connection.is_writing_paused
        if len(data) > PIECE and self._connection.listener.slow.is_tight:
            self._write_in_pieces(data)
            return
        if not self._is_chunked:
            self._transport.write(data)
        elif data:
            self._transport.writelines((b"%x\r\n" % len(data), data, b"\r\n"))
        if is_behind:
            self._connection.count_read_ahead(len(data))

    def _write_in_pieces(self, data: bytes) -> None:
        """Write a long piece as several short ones, because a transport frees a piece only once all of it is sent."""
        if self._is_chunked:
            self._transport.write(b"%x\r\n" % len(data))
        for at in range(0, len(data), PIECE):
            is_behind = self._connection.is_writing_paused  # the previous write may have paused writing
            piece = data[at : at + PIECE]
            self._transport.write(piece)
            if is_behind:
                self._connection.count_read_ahead(len(piece))
        if self._is_chunked:
            self._transport.write(b"\r\n")

    def finish(self, trailers: Headers) -> None:
        if self._is_chunked:
            self._transport.write(trailer_block(trailers if self._accepts_trailers else []))
        self._connection.finish(None)

    def fail(self, failure: Failure) -> None:
        """End a body that broke off in such a way that the client sees it is incomplete (RFC 9112 8)."""
        if self.ends_with_the_connection:
            reset(self._transport)
        self._connection.fail(failure)


class StoredBody:
    """Long body in memory, written in pieces as the client reads it."""

    __slots__ = ("_body", "_connection", "_failure", "_transport", "received")

    def __init__(
        self, connection: DownstreamConnection, transport: asyncio.Transport, body: bytes, failure: Failure | None
    ) -> None:
        """`failure` is that of the outcome, None for a response."""
        self._connection = connection
        self._transport = transport
        self._body = body
        self._failure = failure
        self.received = 0
        """Bytes of the body that were written."""

    @property
    def left(self) -> int:
        """Bytes that have yet to arrive from the upstream: always 0."""
        return 0

    def resume(self) -> None:
        """Write until the client is behind, and finish the response at the end of the body."""
        body, size = self._body, len(self._body)
        while self.received < size:
            if self._connection.is_writing_paused or self._transport.is_closing():
                return
            at, self.received = self.received, self.received + PIECE
            self._transport.write(body[at : at + PIECE])
        self._connection.finish(self._failure)

    def pause(self) -> None:
        """Do nothing, because there is no upstream to pause."""

    def cancel(self, failure: Failure = CLIENT_CLOSED) -> None:
        self._body = b""
