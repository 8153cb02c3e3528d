"""Writer of a streamed request body to the upstream.

A body that arrived completely with its head is written together with it, and does not need this module.

With `Expect: 100-continue` the body is held back until the upstream sends a `100 Continue`, but for at most
`CONTINUE_AFTER` seconds.  Then the client gets a `100 Continue` and the body is sent, because the upstream may not
support the expectation (RFC 9110 10.1.1).
"""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING, Final

from sidecar.core.body import OPEN, Body
from sidecar.core.exchange import Exchange
from sidecar.core.http1 import trailer_block
from sidecar.core.message import Headers
from sidecar.core.outcome import Failure

if TYPE_CHECKING:
    from sidecar.upstream.connection import UpstreamConnection
    from sidecar.upstream.http2.stream import UpstreamStream

SLOW_RATE: Final = 1024
"""Rate in bytes per second below which a client counts as too slow, after the upstream has waited one second for it."""
CONTINUE_AFTER: Final = 1.0
"""Longest wait for a `100 Continue` in seconds."""


class RequestBody:
    """Sink of a streamed request body: writes it to the connection, in chunks if its length is unknown."""

    __slots__ = (
        "_blocked_before",
        "_connection",
        "_exchange",
        "_is_attached",
        "_is_chunked",
        "_is_ended",
        "_is_writing_paused",
        "_stream",
        "_transport",
        "is_sent",
        "starved_since",
    )

    def __init__(
        self, connection: UpstreamConnection | UpstreamStream, transport: asyncio.Transport, x: Exchange, stream: Body
    ) -> None:
        self._connection = connection
        self._transport = transport
        self._exchange = x
        self._stream = stream
        self._blocked_before = stream.blocked_seconds
        """Seconds for which the client delayed the body in earlier attempts."""
        self._is_chunked = stream.length is None
        """True if the body is sent in chunks."""
        self._is_attached = False
        """True once the body is being sent; False while it is held back."""
        self._is_writing_paused = False
        """True while the transport to the upstream has paused writing."""
        self._is_ended = False
        """True once the exchange is over."""
        self.is_sent = False
        """True once the last byte was written."""
        self.starved_since = 0.0
        """Instant since which the upstream waits for the client.  Each piece advances it by the time that the piece
        takes at the rate `SLOW_RATE`, at most to the present; single bytes therefore do not reset it."""

    def start(self) -> None:
        """Send the body after the head was written, or wait for a `100 Continue`."""
        if self._exchange.expects_continue:
            self.starved_since = self._connection.pool.env.now()
            self._connection.pool.env.call_later(CONTINUE_AFTER, self.send_withheld, b"")
        else:
            self._attach()

    def send_withheld(self, lines: bytes) -> None:
        """Send a body that was held back, and send the client a `100 Continue` with these field lines."""
        if not self._is_attached and not self._is_ended:
            if self._exchange.interim is not None:
                self._exchange.interim(100, lines)
            self._attach()

    def _attach(self) -> None:
        self._is_attached = True
        self.starved_since = self._connection.pool.env.now()
        self._stream.attach(self)
        if self._is_writing_paused:  # paused again, because attaching undoes earlier pauses
            self._stream.pause()
        self._measure()

    def end(self) -> None:
        """Stop writing, because the exchange is over."""
        self._is_ended = True
        if not self.is_sent and self._is_attached:
            self._stream.detach()
            self._measure()

    @property
    def is_held_back(self) -> bool:
        """True while the body waits for a `100 Continue`."""
        return not self._is_attached and not self._is_ended

    @property
    def is_starved(self) -> bool:
        """True while the upstream waits for the client to send the next piece."""
        return (
            self._is_attached
            and not self.is_sent
            and not self._is_ended
            and not self._is_writing_paused
            and self._stream.state == OPEN
        )

    def blocked_for(self, now: float) -> float:
        """Return the seconds for which the upstream has waited for the client in this attempt."""
        return self._stream.blocked_for(now) - self._blocked_before

    def is_slow(self, now: float) -> bool:
        """True if the upstream waits for a client that sends less than `SLOW_RATE` bytes per second."""
        blocked = self.blocked_for(now)
        return self.is_starved and blocked >= 1 and self._stream.received < SLOW_RATE * blocked

    def _measure(self) -> None:
        """Start or stop counting the time as the client's delay."""
        now = self._connection.pool.env.now()
        if self.is_starved:
            self._stream.block(now)
        else:
            self._stream.unblock(now)

    # ----- flow control, called by the connection

    def pause(self) -> None:
        """Pause the stream while the transport has paused writing."""
        self._is_writing_paused = True
        if self._is_attached:
            self._stream.pause()
            self._measure()

    def resume(self) -> None:
        """Resume the stream."""
        self._is_writing_paused = False
        if self._is_attached:
            self.starved_since = self._connection.pool.env.now()
            self._stream.resume()
            self._measure()

    # ----- `Sink` of the body

    def write(self, data: bytes) -> None:
        if self._is_ended or not data:
            return
        self.starved_since = min(self._connection.pool.env.now(), self.starved_since + len(data) / SLOW_RATE)
        if self._is_chunked:
            self._transport.writelines((b"%x\r\n" % len(data), data, b"\r\n"))
        else:
            self._transport.write(data)

    def finish(self, trailers: Headers) -> None:
        self.is_sent = True
        self._measure()
        if not self._is_ended and self._is_chunked:
            self._transport.write(trailer_block(trailers))

    def fail(self, failure: Failure) -> None:
        if not self._is_ended:
            self._connection.fail(failure, "the request's body broke off")
