"""Streamed body of a request on its way to the upstream.

A request whose body arrived whole with its head is written in one piece and needs none of this.

With `Expect: 100-continue` the body is held back until the upstream asks for it, or for `CONTINUE_AFTER` seconds.
Then the client is told to go on and the body is sent: neither side has to know the expectation (RFC 9110 10.1.1).
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

DRIBBLE: Final = 1024
"""Bytes a second below which a body dribbles, once it has held up its upstream for a second."""
CONTINUE_AFTER: Final = 1.0
"""Longest wait for a `100 Continue`."""


class RequestBody:
    """Sink of an exchange's stream: writes it to the connection, chunked where its length is unknown."""

    __slots__ = (
        "_connection",
        "_exchange",
        "_held_before",
        "_is_attached",
        "_is_chunked",
        "_is_ended",
        "_is_writing_paused",
        "_stream",
        "_transport",
        "is_sent",
        "starved_since",
    )

    def __init__(self, connection: UpstreamConnection, transport: asyncio.Transport, x: Exchange, stream: Body) -> None:
        self._connection = connection
        self._transport = transport
        self._exchange = x
        self._stream = stream
        self._held_before = stream.held
        """Seconds for which the client had held the body up in earlier attempts."""
        self._is_chunked = stream.length is None
        self._is_attached = False
        """True once the body flows; False while it is held back."""
        self._is_writing_paused = False
        """True while the upstream has not taken what was written."""
        self._is_ended = False
        """True once the exchange is over."""
        self.is_sent = False
        """True once the last byte was written."""
        self.starved_since = 0.0
        """Instant since which the upstream waits for the client.  Each piece moves it on by what the piece takes at
        `DRIBBLE`, up to the present: a byte now and then does not."""

    def start(self) -> None:
        """Send the body, or wait for a `100 Continue`; the head was written before."""
        if self._exchange.expects_continue:
            self.starved_since = self._connection.pool.env.now()
            self._connection.pool.env.call_later(CONTINUE_AFTER, self.go_on, b"")
        else:
            self._attach()

    def go_on(self, lines: bytes) -> None:
        """Send a body that was held back, and pass `100 Continue` on with these field lines."""
        if not self._is_attached and not self._is_ended:
            if self._exchange.interim is not None:
                self._exchange.interim(100, lines)
            self._attach()

    def _attach(self) -> None:
        self._is_attached = True
        self.starved_since = self._connection.pool.env.now()
        self._stream.attach(self)
        if self._is_writing_paused:  # after attaching, which undoes earlier pauses
            self._stream.pause()
        self._measure()

    def end(self) -> None:
        """Write no more: the exchange is over."""
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
        """True while the next piece of the body is the client's to send."""
        return (
            self._is_attached
            and not self.is_sent
            and not self._is_ended
            and not self._is_writing_paused
            and self._stream.state == OPEN
        )

    def held_for(self, now: float) -> float:
        """Return the seconds for which the upstream has waited for the client in this attempt."""
        return self._stream.held_for(now) - self._held_before

    def is_dribbled(self, now: float) -> bool:
        """True if the upstream waits for a client that sends next to nothing."""
        held = self.held_for(now)
        return self.is_starved and held >= 1 and self._stream.received < DRIBBLE * held

    def _measure(self) -> None:
        """Begin or end to count the time for the client's."""
        now = self._connection.pool.env.now()
        if self.is_starved:
            self._stream.hold(now)
        else:
            self._stream.release(now)

    # ----- flow control, by the connection

    def pause(self) -> None:
        """Stop the stream: the upstream takes no more."""
        self._is_writing_paused = True
        if self._is_attached:
            self._stream.pause()
            self._measure()

    def resume(self) -> None:
        """Let the stream go on."""
        self._is_writing_paused = False
        if self._is_attached:
            self.starved_since = self._connection.pool.env.now()
            self._stream.resume()
            self._measure()

    # ----- the sink

    def write(self, data: bytes) -> None:
        if self._is_ended or not data:
            return
        self.starved_since = min(self._connection.pool.env.now(), self.starved_since + len(data) / DRIBBLE)
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
