"""The body of one message between a connection's bytes and its `Body`: where it ends (RFC 9112 6.3), for both sides.

All that one read of the socket brings is pushed on as one piece, however many chunks it came in: a peer that sends a
chunk for each byte costs us one write a read, not one a byte.
"""

from __future__ import annotations

from typing import Final

from sidecar.core.body import Body
from sidecar.core.http1 import CHUNKED, ChunkedDecoder
from sidecar.core.outcome import Headers

UNTIL_CLOSE: Final = -2
"""A length beside bytes and `CHUNKED`: the body ends with the connection."""


class BodyReader:
    """Reads one body off a connection and pushes it into `body`."""

    __slots__ = ("_decoder", "_left", "body", "rest", "trailers")

    def __init__(self, body: Body, length: int) -> None:
        """`length` is in bytes, or `CHUNKED`, or `UNTIL_CLOSE`."""
        self.body = body
        self.rest = b""
        """Once it is whole: what followed it."""
        self.trailers: Headers = []
        self._decoder = ChunkedDecoder() if length == CHUNKED else None
        self._left = length

    @property
    def ends_with_the_connection(self) -> bool:
        return self._left == UNTIL_CLOSE

    def feed(self, data: bytes) -> bool:
        """Push the next bytes on; is the body whole now?  To say so to `body` (`finish`) is left to the caller, which
        brings itself in order first.  Raises `Invalid`."""
        decoder = self._decoder
        if decoder is not None:
            pieces = decoder.feed(data)
            if decoder.done:
                self.rest, self.trailers = decoder.rest, decoder.trailers
            if pieces:
                self.body.feed(pieces[0] if len(pieces) == 1 else b"".join(pieces))
            return decoder.done
        left = self._left
        if left >= 0:
            if len(data) > left:
                self.rest = data[left:]
                data = data[:left]
            self._left = left = left - len(data)
        if data:
            self.body.feed(data)
        return left == 0
