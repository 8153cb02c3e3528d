"""One connection to an endpoint: an `asyncio.Protocol` that carries one exchange at a time.

It is the client of the hot path, so it does nothing twice: a response that arrives whole in one read becomes an
`Outcome` with its body as bytes, in one call, and the connection is back in the pool before the waiter runs.  A longer
one becomes a `Body` that is pushed on as it arrives.

Rules:

1. The outcome is told once: what comes after belongs to the body or to nobody.
2. A connection goes back to the pool only if both messages were whole, nothing followed and both sides want to keep it
   (RFC 9112 9.3).
3. A connection that was used before and closes without a byte of an answer was most likely closed by the peer while our
   request was on its way (RFC 9112 9.3.1): `STALE_CONNECTION` for methods that may be repeated, `RESET` for the others.
4. Interim responses are passed on, at most `MAX_INTERIM` of them (RFC 9110 15.2).
5. What the parser does not take is `PROTOCOL`: nothing malformed goes to a client.
"""

from __future__ import annotations

import asyncio
from base64 import b64encode
from hashlib import sha1
from typing import TYPE_CHECKING, Final

from sidecar.core.body import OPEN, Body
from sidecar.core.exchange import IDEMPOTENT_METHODS, NEVER, Exchange
from sidecar.core.headers import HOP_BY_HOP, get, tokens, write_http_date
from sidecar.core.http1 import (
    CHUNKED,
    ChunkedDecoder,
    Invalid,
    body_length,
    parse_response,
    take,
    trailer_block,
)
from sidecar.core.message import parse_fields
from sidecar.core.outcome import (
    CLIENT_TIMEOUT,
    PROTOCOL,
    RESET,
    STALE_CONNECTION,
    TIMEOUT,
    Failure,
    Headers,
    Outcome,
    Tunnel,
    failed,
)
from sidecar.core.promise import Promise
from sidecar.upstream.wire import request_head

if TYPE_CHECKING:
    from sidecar.upstream.pool import Pool

MAX_INTERIM: Final = 16
MAX_HEAD: Final = 64 * 1024
"""Bytes of a response head."""
CONTINUE_AFTER: Final = 1.0
"""Seconds to wait for a `100 Continue` before the body is sent anyway (RFC 9110 10.1.1: do not wait indefinitely)."""
NO_CONTENT: Final = frozenset((204, 304))
SPECIAL: Final = HOP_BY_HOP | {b"content-length", b"date"}
ORDINARY: Final = {b"close", b"keep-alive", b"upgrade", b""}
UPGRADE: Final = HOP_BY_HOP | {b"content-length", b"sec-websocket-accept"}
WEBSOCKET_GUID: Final = b"258EAFA5-E914-47DA-95CA-C5AB0DC85B11"
"""RFC 6455 1.3."""


class Connection(asyncio.Protocol):
    """An upstream connection.  As a sink it takes the request's body, as a source it gives the response's."""

    __slots__ = (
        "_attached", "_body", "_buffer", "_decoder", "_heard", "_interims", "_is_tunnel", "_keep", "_left", "_limit", "_paused", "_peer", "_promise",
        "_sent", "_x", "expires", "idle_since", "pool", "served", "transport",
    )  # fmt: skip

    def __init__(self, pool: Pool) -> None:
        self.pool = pool
        self.transport: asyncio.Transport | None = None
        self.served = 0
        """Exchanges that ended well on it."""
        self.idle_since = 0.0
        self.expires = NEVER
        self._limit = NEVER
        self._x: Exchange | None = None
        self._promise: Promise[Outcome] | None = None
        self._body: Body | None = None
        self._decoder: ChunkedDecoder | None = None
        self._left = 0
        self._buffer = b""
        self._keep = True
        self._sent = True
        self._attached = False
        self._paused = False
        self._interims = 0
        self._heard = False
        self._is_tunnel = False
        self._peer: Tunnel | None = None

    # ----- one exchange

    def exchange(self, x: Exchange, expires: float, now: float) -> Promise[Outcome]:
        """Send the request; the promise brings the outcome.  `expires` is the instant by which the answer must be whole."""
        assert self.transport is not None
        self._x = x
        promise: Promise[Outcome] = Promise(self.abort)
        self._promise = promise
        self._keep = True
        self.expires = self._limit = expires
        self._interims = 0
        self._heard = False
        self.pool.deadlines.add(self)
        head = request_head(x, now)
        stream = x.stream
        if stream is None:
            self.transport.write(head + x.body if x.body else head)
            return promise
        self._sent = self._attached = False
        self.transport.write(head)
        if x.expects_continue:
            self.pool.env.call_later(CONTINUE_AFTER, self._attach, x)
        else:
            self._attach(x)
        return promise

    def _attach(self, x: Exchange) -> None:
        if self._x is x and not self._attached and x.stream is not None:
            self._attached = True
            x.stream.attach(self)

    def _tell(self, outcome: Outcome) -> None:
        promise, self._promise = self._promise, None
        if promise is not None:
            promise.resolve(outcome)

    def _end(self, *, reusable: bool) -> None:
        """The exchange is over: give the connection back or close it."""
        x, self._x = self._x, None
        self.pool.deadlines.discard(self)
        self.expires = NEVER
        self._body = self._decoder = None
        if x is not None and not self._sent and x.stream is not None:
            x.stream.detach()
        transport = self.transport
        if reusable and self._sent and transport is not None and not transport.is_closing():
            self.served += 1
            self.pool.release(self)
        else:
            self.pool.discard(self)
            if transport is not None:
                transport.close()

    def _break(self, failure: Failure, cause: str) -> None:
        """The exchange has failed: tell whoever waits, and drop the connection."""
        body, transport = self._body, self.transport
        self._keep = False
        self._end(reusable=False)
        if transport is not None:
            transport.abort()
        if body is not None:
            body.fail(failure)
        self._tell(failed(failure, cause=cause))

    def abort(self) -> None:
        """The waiter has gone (cancelled): nobody is told anything."""
        self._promise = None
        if self._x is not None:
            self._break(RESET, "abandoned")

    def expire(self, now: float) -> None:
        """The deadline has passed, or the pause between two pieces was too long."""
        x = self._x
        starved = (
            x is not None and not self._sent and x.stream is not None and x.stream.state == OPEN and not self._paused
        )
        if starved and self._attached:
            self._break(CLIENT_TIMEOUT, "the request's body did not arrive in time")
        else:
            self._break(TIMEOUT, "no whole answer in time" if self._body is None else "the answer's body stalled")

    # ----- asyncio.Protocol

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self.transport = transport  # type: ignore[assignment]  # a stream transport: we asked for one

    def data_received(self, data: bytes) -> None:
        self._heard = True
        if self._body is not None:
            self._take_body(data)
        elif self._x is not None:
            try:
                self._take_head(data)
            except Invalid as error:
                self._break(PROTOCOL, str(error))
        elif self._peer is not None:
            self._peer.send(data)
        elif self._is_tunnel:
            self._buffer += data
        else:  # nobody asked: a peer that says good-bye (408), or one that is confused
            self._end(reusable=False)

    def eof_received(self) -> bool:
        if self._peer is not None:
            self._peer.send_eof()
            return True
        return False

    def connection_lost(self, error: Exception | None) -> None:
        self.transport = None
        if self._peer is not None:
            self._peer.close()
            self._peer = None
        x = self._x
        if x is None:
            self.pool.discard(self)
        elif self._body is not None and self._decoder is None and self._left < 0 and error is None:
            body = self._body
            self._end(reusable=False)
            body.finish()
        elif self.served and not self._heard and x.method in IDEMPOTENT_METHODS:
            self._break(STALE_CONNECTION, "closed while idle")
        else:
            self._break(RESET, str(error) if error else "closed before the answer was whole")

    def pause_writing(self) -> None:
        self._paused = True
        if self._peer is not None:
            self._peer.pause()
        elif self._x is not None and self._x.stream is not None:
            self._x.stream.pause()

    def resume_writing(self) -> None:
        self._paused = False
        if self._peer is not None:
            self._peer.resume()
        elif self._x is not None and self._x.stream is not None:
            self._x.stream.resume()

    # ----- the response

    def _take_head(self, data: bytes) -> None:
        if self._buffer:
            data = self._buffer + data
            self._buffer = b""
        x = self._x
        assert x is not None
        while True:
            parsed = parse_response(data, MAX_HEAD)
            if parsed is None:
                self._buffer = data
                return
            status, version, start, end = parsed
            if status >= 200:
                break
            if status == 101:
                self._upgrade(x, data, start, end)
                return
            self._interims += 1
            if self._interims > MAX_INTERIM:
                raise Invalid(f"more than {MAX_INTERIM} interim responses")
            self._take_interim(x, status, take(data, start, end - 2, SPECIAL)[0])
            data = data[end:]
            if not data or self._x is None:
                return
        lines, special = take(data, start, end - 2, SPECIAL)
        keep = version == 11
        length = body_length(special, version)
        dated = False
        for name, value in special:
            if name == b"connection":
                named = {token.strip(b" \t").lower() for token in value.split(b",")}
                keep = b"close" not in named and (version == 11 or b"keep-alive" in named)
                if named - ORDINARY:
                    lines = b"".join([b"%b: %b\r\n" % field for field in parse_fields(lines) if field[0] not in named])
            elif name == b"date":
                dated = True
                lines += b"date: %b\r\n" % value
        if not dated:  # RFC 9110 6.6.1
            lines += b"date: %b\r\n" % write_http_date(self.pool.env.wall())
        self._keep = keep
        if x.method == b"HEAD" or status in NO_CONTENT:
            if length is not None and length >= 0 and status != 204:
                lines += b"content-length: %d\r\n" % length
            self._whole(Outcome(status, lines=lines), len(data) == end)
        elif length is None:  # delimited by the close (RFC 9112 6.3 rule 8)
            self._left = -1
            self._keep = False
            self._stream(Outcome(status, lines=lines), None, data[end:])
        elif length == CHUNKED:
            decoder = ChunkedDecoder()
            pieces = decoder.feed(data[end:])
            if decoder.done and not (decoder.trailers and x.accepts_trailers):
                self._whole(Outcome(status, body=b"".join(pieces), lines=lines), not decoder.rest)
            else:
                self._decoder = decoder
                self._stream(Outcome(status, lines=lines), None, b"".join(pieces))
                self._end_chunked()
        elif len(data) - end >= length:
            self._whole(Outcome(status, body=data[end : end + length], lines=lines), len(data) - end == length)
        else:
            self._left = length - (len(data) - end)
            self._stream(Outcome(status, lines=lines), length, data[end:])

    def _whole(self, outcome: Outcome, clean: bool) -> None:
        promise, self._promise = self._promise, None
        self._end(reusable=self._keep and clean)
        if promise is not None:
            promise.resolve(outcome)

    def _stream(self, outcome: Outcome, length: int | None, first: bytes) -> None:
        outcome.stream = self._body = body = Body(self, length)
        self._touch()
        if first:
            body.feed(first)
        self._tell(outcome)

    def _take_body(self, data: bytes) -> None:
        body = self._body
        assert body is not None
        if self._x is not None and self._x.idle_timeout != NEVER:
            self._touch()
        if self._decoder is not None:
            try:
                pieces = self._decoder.feed(data)
            except Invalid as error:
                self._break(PROTOCOL, str(error))
                return
            for piece in pieces:
                body.feed(piece)
            self._end_chunked()
        elif self._left < 0:
            body.feed(data)
        else:
            clean = len(data) <= self._left
            if not clean:
                data = data[: self._left]
            self._left -= len(data)
            body.feed(data)
            if not self._left and self._body is body:
                self._end(reusable=self._keep and clean)
                body.finish()

    def _end_chunked(self) -> None:
        body, decoder = self._body, self._decoder
        if body is not None and decoder is not None and decoder.done:
            self._end(reusable=self._keep and not decoder.rest)
            body.finish(decoder.trailers)

    def _touch(self) -> None:
        """A piece of the body has arrived, or the reader takes more: the pause between two begins anew."""
        if self._x is not None and self._x.idle_timeout != NEVER:
            self.expires = min(self._limit, self.pool.env.now() + self._x.idle_timeout)

    def _take_interim(self, x: Exchange, status: int, lines: bytes) -> None:
        if status == 100:
            if not x.expects_continue or self._attached:
                return
            self._attach(x)
        if x.interim is not None and (status != 100 or x.expects_continue):
            x.interim(status, lines)

    # ----- the response's body as a source

    def pause_body(self) -> None:
        self.expires = self._limit  # a reader that is slow is not the upstream's fault
        if self.transport is not None:
            self.transport.pause_reading()

    def resume_body(self) -> None:
        self._touch()
        if self.transport is not None:
            self.transport.resume_reading()

    def cancel_body(self) -> None:
        self._body = None
        self.abort()

    # ----- the request's body as a sink

    def write(self, data: bytes) -> None:
        if self.transport is None or self._x is None or self._x.stream is None or not data:
            return
        if self._x.stream.length is None:
            self.transport.writelines((b"%x\r\n" % len(data), data, b"\r\n"))
        else:
            self.transport.write(data)

    def finish(self, trailers: Headers) -> None:
        if self.transport is None or self._x is None or self._x.stream is None:
            return
        self._sent = True
        if self._x.stream.length is None:
            self.transport.write(trailer_block(trailers))

    def fail(self, failure: Failure) -> None:
        if self._x is not None:
            self._break(failure, "the request's body broke off")

    # ----- an upgraded connection as one end of a tunnel

    def _upgrade(self, x: Exchange, data: bytes, start: int, end: int) -> None:
        lines, fields = take(data, start, end - 2, UPGRADE)
        if x.upgrade is None or x.upgrade not in tokens(fields, b"upgrade"):
            raise Invalid("101 Switching Protocols to what was not asked for")
        key = x.header(b"sec-websocket-key")
        accept = get(fields, b"sec-websocket-accept")
        if key is None or accept != b64encode(sha1(key + WEBSOCKET_GUID, usedforsecurity=False).digest()):
            raise Invalid("Sec-WebSocket-Accept does not answer the key that was sent")
        outcome = Outcome(101, lines=lines + b"sec-websocket-accept: %b\r\n" % accept)
        outcome.tunnel = self
        self._x = None
        self._is_tunnel = True
        self._buffer = data[end:]
        self.pool.deadlines.discard(self)
        self._tell(outcome)

    def splice(self, other: Tunnel) -> bytes:
        self._peer = other
        early, self._buffer = self._buffer, b""
        return early

    def send(self, data: bytes) -> None:
        if self.transport is not None:
            self.transport.write(data)

    def send_eof(self) -> None:
        if self.transport is not None and self.transport.can_write_eof():
            self.transport.write_eof()
        else:
            self.close()

    def pause(self) -> None:
        if self.transport is not None:
            self.transport.pause_reading()

    def resume(self) -> None:
        if self.transport is not None:
            self.transport.resume_reading()

    def close(self) -> None:
        """Close after what was written has gone out.  Also ends an idle connection."""
        self._peer = None
        self.pool.discard(self)
        if self.transport is not None:
            self.transport.close()

    def __repr__(self) -> str:
        state = "tunnel" if self._is_tunnel else "idle" if self._x is None else f"busy with {self._x!r}"
        return f"<Connection {self.pool.name} {state}>"
