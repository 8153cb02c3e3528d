"""Transport without a loop for protocols under test, and a sink that collects a body."""

from __future__ import annotations

import asyncio
from collections.abc import Iterable
from typing import Any

from sidecar.core.body import Body
from sidecar.core.message import Headers
from sidecar.core.outcome import Failure
from sidecar.core.promise import Promise


class Pipe(asyncio.Transport):
    """Transport that keeps written bytes; `settle` reports the end, as a loop would in its next turn."""

    def __init__(self, protocol: Any) -> None:
        super().__init__({"peername": ("192.0.2.1", 40000)})
        self.protocol = protocol
        self.written = bytearray()
        self.closing = self.lost = False
        self.reading = True

    def feed(self, piece: bytes) -> None:
        """Pass received bytes to the protocol, as many at a time as it takes."""
        while piece and not self.closing:
            if not isinstance(self.protocol, asyncio.BufferedProtocol):
                self.protocol.data_received(piece)
                return
            buffer = memoryview(self.protocol.get_buffer(len(piece)))
            size = min(len(piece), len(buffer))
            buffer[:size], piece = piece[:size], piece[size:]
            self.protocol.buffer_updated(size)

    def write(self, data: Any) -> None:
        if not self.closing:
            self.written += data

    def writelines(self, list_of_data: Iterable[Any]) -> None:
        self.write(b"".join(list_of_data))

    def write_eof(self) -> None:
        pass

    def can_write_eof(self) -> bool:
        return True

    def get_write_buffer_size(self) -> int:
        return 0

    def set_write_buffer_limits(self, high: int | None = None, low: int | None = None) -> None:
        """Do nothing: nothing is buffered."""

    def pause_reading(self) -> None:
        self.reading = False

    def resume_reading(self) -> None:
        self.reading = True

    def is_reading(self) -> bool:
        return self.reading

    def is_closing(self) -> bool:
        return self.closing

    def set_protocol(self, protocol: asyncio.BaseProtocol) -> None:
        self.protocol = protocol

    def get_protocol(self) -> asyncio.BaseProtocol:
        return self.protocol  # type: ignore[no-any-return]

    def close(self) -> None:
        self.closing = True

    def abort(self) -> None:
        self.closing = True

    def settle(self) -> None:
        """Report the lost connection to the protocol, if it has been closed."""
        if self.closing and not self.lost:
            self.lost = True
            self.protocol.connection_lost(None)

    def break_off(self) -> None:
        """Close the connection from the peer's side."""
        self.closing = True
        self.settle()


class Taken:
    """Sink that collects a whole body; `ended` resolves to its failure, or None."""

    def __init__(self, body: Body) -> None:
        self.data = bytearray()
        self.trailers: Headers = []
        self.ended: Promise[Failure | None] = Promise()
        self._is_over = False
        body.attach(self)

    def write(self, data: bytes) -> None:
        assert not self._is_over, "a body goes on after its end"
        self.data += data

    def finish(self, trailers: Headers) -> None:
        self.trailers = trailers
        self._end(None)

    def fail(self, failure: Failure) -> None:
        self._end(failure)

    def _end(self, failure: Failure | None) -> None:
        assert not self._is_over, "a body ends twice"
        self._is_over = True
        self.ended.resolve(failure)


def cuts(seed: int, data: bytes) -> list[bytes]:
    """Return the data in pieces of sizes that sockets deliver; the seed decides them."""
    if not seed:
        return [data]
    if seed == 1:
        return [data[i : i + 1] for i in range(len(data))]
    pieces, at = [], 0
    while at < len(data):
        seed = (seed * 1103515245 + 12345) & 0x7FFFFFFF
        step = 1 + (seed >> 16) % (7 if seed & 0x8000 else 61)
        pieces.append(data[at : at + step])
        at += step
    return pieces
