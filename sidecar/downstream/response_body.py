"""A response's body that did not come whole with its head, on its way to the client: the sink of its stream."""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING, Final

from sidecar.core.exchange import Exchange
from sidecar.core.http1 import trailer_block
from sidecar.core.message import Headers
from sidecar.core.outcome import Failure
from sidecar.downstream.closing import reset

if TYPE_CHECKING:
    from sidecar.downstream.connection import Downstream

CHUNKED: Final = b"transfer-encoding: chunked\r\n"


class OutgoingBody:
    """Writes one body, delimited by its length, in chunks, or by the close for HTTP/1.0, which knows no chunks."""

    __slots__ = ("_accepts_trailers", "_connection", "_is_chunked", "_transport", "ends_with_the_connection", "framing")

    def __init__(self, connection: Downstream, transport: asyncio.Transport, x: Exchange, length: int | None) -> None:
        """`length` is in bytes, None where it is not known."""
        self._connection = connection
        self._transport = transport
        self._accepts_trailers = x.accepts_trailers
        self._is_chunked = length is None and x.version == 11
        self.ends_with_the_connection = length is None and not self._is_chunked
        self.framing = CHUNKED if self._is_chunked else b"" if length is None else b"content-length: %d\r\n" % length
        """The header lines that say so."""

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
        """It breaks off: the client must see that it is not whole (RFC 9112 8)."""
        if self.ends_with_the_connection:
            reset(self._transport)
        self._connection.break_off(failure)
