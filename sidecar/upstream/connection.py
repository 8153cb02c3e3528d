"""One connection to an endpoint: an `asyncio.Protocol` that carries one exchange at a time.

Rules:

1. The outcome is told once: what comes after belongs to the body or to nobody.
2. A connection goes back to the pool only if both messages were whole, nothing followed and both sides want to keep it
   (RFC 9112 9.3).
3. A connection that was used before and closes without a byte of an answer was most likely closed by the peer while our
   request was on its way (RFC 9112 9.3.1): `STALE_CONNECTION` for methods that may be repeated, `RESET` for the others.
4. Interim responses are passed on, at most `MAX_INTERIM` of them (RFC 9110 15.2).
5. A body that ends with the connection is whole only if the peer says so where it can: over TLS (RFC 9112 9.8).
6. What the parser does not take is `PROTOCOL`: nothing malformed goes to a client.
"""

from __future__ import annotations

import asyncio
import os
from contextlib import suppress
from typing import TYPE_CHECKING

from sidecar.core.exchange import IDEMPOTENT_METHODS, NEVER, Exchange
from sidecar.core.outcome import (
    CLIENT_TIMEOUT,
    RESET,
    STALE_CONNECTION,
    TIMEOUT,
    Failure,
    Outcome,
    failed,
)
from sidecar.core.promise import Promise
from sidecar.upstream.errors import words
from sidecar.upstream.reading import MAX_HEAD, ResponseReader
from sidecar.upstream.request_body import RequestBody
from sidecar.upstream.request_head import request_head
from sidecar.upstream.tls import is_cut_off
from sidecar.upstream.upgrade import UpgradedConnection

if TYPE_CHECKING:
    from sidecar.upstream.pool import Pool


class Connection(ResponseReader):
    """An upstream connection."""

    __slots__ = ("_sender", "idle_since", "is_blocked", "served")

    def __init__(self, pool: Pool) -> None:
        super().__init__(pool)
        self.served = 0
        """Exchanges that ended well on it."""
        self.idle_since = 0.0
        self.is_blocked = False
        """Has the upstream not yet taken what was written?"""
        self._sender: RequestBody | None = None

    # ----- one exchange

    def exchange(self, x: Exchange, expires: float, now: float) -> Promise[Outcome]:
        """Send the request; the promise brings the outcome.  `expires` is the instant by which the answer must be
        whole."""
        assert self.transport is not None
        self._x = x
        promise: Promise[Outcome] = Promise(self.abort)
        self._promise = promise
        self._keep = True
        self.expires = self._limit = expires
        self._interims = 0
        self._heard = False
        self.pool.deadlines.add(self)
        head = request_head(x, now, self.pool.host)
        stream = x.stream
        if stream is None:
            self.transport.write(head + x.body if x.body else head)
        else:
            self._sender = sender = RequestBody(self, x, stream)
            self.transport.write(head)
            sender.start()
        return promise

    def _tell(self, outcome: Outcome) -> None:
        promise, self._promise = self._promise, None
        if promise is not None:
            promise.resolve(outcome)

    def end(self, *, reusable: bool) -> None:
        """The exchange is over: give the connection back or close it."""
        self._x = self._reader = None
        self.pool.deadlines.discard(self)
        self.expires = NEVER
        sender = self._sender
        if sender is not None:
            self._sender = None
            sender.end()
            reusable = reusable and sender.is_sent
        transport = self.transport
        if reusable and not self.is_blocked and transport is not None and not transport.is_closing():
            if self._is_held:  # its last piece was more than the reader could take
                self._is_held = False
                transport.resume_reading()
            self.served += 1
            self.pool.release(self)
        else:
            self.pool.discard(self)
            if transport is not None:
                transport.close()

    def fail(self, failure: Failure, cause: str) -> None:
        """The exchange has failed: tell whoever waits, and drop the connection."""
        reader, transport = self._reader, self.transport
        self._keep = False
        self.end(reusable=False)
        if transport is not None:
            transport.abort()
        if reader is not None:
            reader.body.fail(failure)
        self._tell(failed(failure, cause=cause))

    def abort(self) -> None:
        """The waiter has gone (cancelled): nobody is told anything."""
        self._promise = None
        if self._x is not None:
            self.fail(RESET, "abandoned")

    def expire(self, now: float) -> None:
        """The deadline has passed, or the pause between two pieces was too long."""
        if self._sender is not None and self._sender.is_starved:
            self.fail(CLIENT_TIMEOUT, "the request's body did not arrive in time")
        else:
            self.fail(TIMEOUT, "no whole answer in time" if self._reader is None else "the answer's body stalled")

    # ----- asyncio.Protocol

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self.transport = transport  # type: ignore[assignment]  # a stream transport: we asked for one

    def connection_lost(self, error: Exception | None) -> None:
        if error is not None and self._sender is not None:
            self._hear_out()
        transport, self.transport = self.transport, None
        x = self._x
        if x is None:
            self.pool.discard(self)
        elif self._reader is not None and self._reader.ends_with_the_connection and error is None:
            if transport is not None and is_cut_off(transport):
                self.fail(RESET, "closed without the close_notify of TLS: the answer may not be whole")
            else:
                self._end_body(self._reader)
        elif (self.served or self.idle_since) and not self._heard and x.method in IDEMPOTENT_METHODS:
            self.fail(STALE_CONNECTION, "closed while idle")
        else:
            self.fail(RESET, words(error) if error else "closed before the answer was whole")

    def _hear_out(self) -> None:
        """Writing has failed: the peer takes no more of the body.  Its answer may be here all the same: a server that
        says 413 and closes resets the connection (RFC 9112 9.6), and event loops do not read after a failed write."""
        assert self.transport is not None
        sock = self.transport.get_extra_info("socket")
        if sock is None or self.transport.get_extra_info("sslcontext") is not None:
            return
        with suppress(OSError):
            while self._x is not None and (data := os.read(sock.fileno(), MAX_HEAD)):
                self.data_received(data)

    def pause_writing(self) -> None:
        self.is_blocked = True
        if self._sender is not None:
            self._sender.pause()

    def resume_writing(self) -> None:
        self.is_blocked = False
        if self._sender is not None:
            self._sender.resume()

    def go_on(self, lines: bytes) -> None:
        if self._sender is not None:
            self._sender.go_on(lines)

    def switch(self, lines: bytes, early: bytes) -> None:
        """The peer speaks another protocol from here on: whoever takes the outcome has the connection, until the
        deadline of the exchange."""
        outcome = Outcome(101, lines=lines)
        outcome.tunnel = UpgradedConnection(self, early)
        self._x = None
        if self.transport is not None:
            self.transport.pause_reading()
        self._tell(outcome)

    def close(self) -> None:
        """Close after what was written has gone out.  Also ends an idle connection."""
        self.pool.discard(self)
        if self.transport is not None:
            self.transport.close()

    def __repr__(self) -> str:
        state = "idle" if self._x is None else f"busy with {self._x!r}"
        return f"<Connection {self.pool.name} {state}>"
