"""Body of a response that did not arrive whole with its head: the sink that writes it to the client."""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING, Final

from sidecar.core.exchange import Exchange
from sidecar.core.http1 import trailer_block
from sidecar.core.message import Headers
from sidecar.core.outcome import Failure
from sidecar.downstream.closing import reset

if TYPE_CHECKING:
    from sidecar.downstream.connection import DownstreamConnection

CHUNKED: Final = b"transfer-encoding: chunked\r\n"


class ResponseBody:
    """Sink of one response's `stream`.

    The body is delimited by its length, by chunks, or by the close for HTTP/1.0, which has no chunks.
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
        """True if only the close of the connection tells where the body ends."""
        self.framing = CHUNKED if self._is_chunked else b"" if length is None else b"content-length: %d\r\n" % length
        """Header lines that delimit the body."""

    def write(self, data: bytes) -> None:
        if not self._is_chunked:
            self._transport.write(data)
        elif data:
            self._transport.writelines((b"%x\r\n" % len(data), data, b"\r\n"))

    def finish(self, trailers: Headers) -> None:
        if self._is_chunked:
            self._transport.write(trailer_block(trailers if self._accepts_trailers else []))
        self._connection.finish(None)

    def fail(self, failure: Failure) -> None:
        """End a body that breaks off so that the client sees it is not whole (RFC 9112 8)."""
        if self.ends_with_the_connection:
            reset(self._transport)
        self._connection.fail(failure)
