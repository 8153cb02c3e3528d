"""One downstream connection: an `asyncio.Protocol` that reads requests, runs their route and writes the answers.

It is our own rather than aiohttp's: measured on the same machine, a server that answers at once costs 16 us a request
on `web.Server` with the lightest request and response it allows, and 9 on a bare protocol, because aiohttp keeps a task
per connection and builds a multidict and a URL that a proxy does not need.  It also has to know exactly where each
message ends and how each byte of a head was spelled, which aiohttp's parser does not tell.  aiohttp serves where that does
not matter: the admin listener and the health probes.

Rules:

1. One request at a time: what a client pipelines stays as bytes in `_buffer` until its turn, and reading stops when
   there is more than one head of them.
2. A request is answered once.  A client that goes away cancels its run; the answer to a request whose body did not
   arrive whole closes the connection.
3. `expires` always has a value that the server's sweep enforces: a head, a body and a reader each have a deadline as a
   whole, so a silent or slow client costs one bounded connection (`Limits`).
4. Half-closing is leaving: what a client that has closed its side waits for cannot be told from what nobody waits for.
"""

from __future__ import annotations

import asyncio
import socket
import struct
from typing import TYPE_CHECKING, Any, Final

from sidecar.core.body import OPEN, Body
from sidecar.core.exchange import NEVER, Exchange
from sidecar.core.http1 import CHUNKED, ChunkedDecoder, Invalid, parse_request, trailer_block
from sidecar.core.outcome import (
    BAD_REQUEST,
    CLIENT_CLOSED,
    CLIENT_TIMEOUT,
    INTERNAL,
    Failure,
    Headers,
    Outcome,
    Refusal,
    Tunnel,
    failed,
)
from sidecar.core.promise import Run
from sidecar.edge.request import Peer, read_request
from sidecar.edge.respond import STATUS_LINES, problem, response_head

if TYPE_CHECKING:
    from sidecar.edge.server import Listener

LINGER: Final = 2.0
"""Seconds in which a client may still read our last answer while what it sends is thrown away (RFC 9112 9.6)."""
MIN_RATE: Final = 1024
"""Bytes a second that a body must come in at on average, after the grace of `limits.body_timeout`."""
RESET_ON_CLOSE: Final = struct.pack("ii", 1, 0)
"""SO_LINGER: the only way to say that a body which ends with the connection has not ended well."""


class Downstream(asyncio.Protocol):
    """A client's connection.  As a source it gives the request's body, as a sink it takes the response's."""

    __slots__ = (
        "_advancing", "_blocked", "_body", "_body_since", "_buffer", "_chunked", "_closing", "_decoder", "_delimited", "_keep",
        "_left", "_listener", "_outcome", "_peer", "_run", "_seen", "_stream", "_transport", "_tunnel", "_x", "expires",
    )  # fmt: skip

    def __init__(self, listener: Listener) -> None:
        self._listener = listener
        self._transport: asyncio.Transport | None = None
        self._peer: Peer | None = None
        self.expires = NEVER
        self._buffer = b""
        self._seen = 0
        self._advancing = False
        self._blocked = False
        self._closing = False
        # this request
        self._x: Exchange | None = None
        self._run: Run[Outcome] | None = None
        self._keep = True
        self._body: Body | None = None
        self._body_since = 0.0
        self._decoder: ChunkedDecoder | None = None
        self._left = 0
        # its response
        self._outcome: Outcome | None = None
        self._stream: Body | None = None
        self._chunked = False
        self._delimited = False
        self._tunnel: Tunnel | None = None

    # ----- asyncio.Protocol

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._transport = transport  # type: ignore[assignment]  # a stream transport: the listener's are
        listener = self._listener
        if not listener.admit(self):
            self._refuse_connection()
            return
        name = transport.get_extra_info("peername")
        address = name[0] if isinstance(name, tuple) else ""
        self._peer = Peer(address, listener.scheme, listener.trusted)
        self.expires = listener.now() + listener.limits.header_timeout

    def data_received(self, data: bytes) -> None:
        if self._tunnel is not None:
            self._tunnel.send(data)
        elif self._body is not None:
            self._take_body(data)
        elif self._closing:
            return
        elif self._x is not None:
            self._buffer += data
            if len(self._buffer) > self._listener.limits.max_header_bytes and self._transport is not None:
                self._transport.pause_reading()
        else:
            if self._buffer:
                self._buffer += data
            else:
                self._buffer = data
            self._advance()

    def eof_received(self) -> bool:
        if self._tunnel is not None:
            self._tunnel.send_eof()
            return True
        return False

    def connection_lost(self, error: Exception | None) -> None:
        self._transport = None
        self._closing = True
        self._buffer = b""
        self._listener.forget(self)
        if self._tunnel is not None:
            tunnel, self._tunnel = self._tunnel, None
            tunnel.close()
        self._abandon(CLIENT_CLOSED)

    def pause_writing(self) -> None:
        self._blocked = True
        self.expires = self._listener.now() + self._listener.limits.body_timeout
        if self._tunnel is not None:
            self._tunnel.pause()
        elif self._stream is not None:
            self._stream.pause()

    def resume_writing(self) -> None:
        self._blocked = False
        self.expires = NEVER
        if self._tunnel is not None:
            self._tunnel.resume()
        elif self._stream is not None:
            self._stream.resume()
        elif self._x is None:
            self._wait()
            self._advance()

    # ----- requests

    def _advance(self) -> None:
        """Start the next request that has arrived; once more for each that is answered at once."""
        if self._advancing:
            return
        self._advancing = True
        while self._buffer and self._x is None and not self._closing and not self._blocked and self._start():
            pass
        self._advancing = False

    def _start(self) -> bool:
        listener, data, peer = self._listener, self._buffer, self._peer
        now = listener.now()
        assert peer is not None
        try:
            if data[0] == 13:  # an empty line before a request is let pass (RFC 9112 2.2)
                data = self._buffer = data.lstrip(b"\r\n") if len(data) > 1 else data
                if data[:1] in (b"", b"\r"):
                    return False
            parsed = parse_request(data, listener.limits.max_header_bytes, self._seen)
            if parsed is None:
                if not self._seen:
                    self.expires = now + listener.limits.header_timeout
                self._seen = len(data)
                return False
            method, target, version, start, end = parsed
            self._seen = 0
            self._buffer = data[end:] if len(data) > end else b""
            x, framing = read_request(method, target, version, data, start, end - 2, peer, now)
            self._keep = framing.keep_alive
            self._x = x
            if not x.request_id:
                x.request_id = b"%032x" % listener.env.rng.getrandbits(128)
            x.add(b"x-request-id", x.request_id)
            if framing.length:
                self._open_body(x, framing.length, now)
            else:
                self.expires = NEVER
        except Invalid as error:
            self._reject(error)
            return False
        route = listener.match(x)
        if route is None:
            self._respond(listener.no_route(x))
            return True
        x.route = route
        if x.criticality == 1:
            x.criticality = route.criticality
        run = Run(route.service(x), self._done)
        if self._x is x and self._outcome is None:
            self._run = run
        return True

    def _open_body(self, x: Exchange, length: int, now: float) -> None:
        data, self._buffer = self._buffer, b""
        if length == CHUNKED:
            decoder = ChunkedDecoder()
            pieces = decoder.feed(data)
            if decoder.done and not decoder.trailers:
                x.body = b"".join(pieces)
                self._buffer = decoder.rest
                self.expires = NEVER
                return
            self._decoder = decoder
            x.stream = self._body = Body(self, None)
            for piece in pieces:
                self._body.feed(piece)
            if decoder.done:
                self._buffer = decoder.rest
                self._end_body(decoder.trailers)
                return
        elif len(data) >= length:
            x.body = data[:length]
            self._buffer = data[length:]
            self.expires = NEVER
            return
        else:
            limit = self._listener.limits.max_body
            if limit is not None and length > limit:
                raise Invalid(f"the body is larger than the limit of {limit} bytes", 413)
            self._left = length - len(data)
            x.stream = self._body = Body(self, length)
            if data:
                self._body.feed(data)
        x.interim = self._interim
        self._body_since = now
        self._expect_body(now)

    def _expect_body(self, now: float) -> None:
        """A body has its grace and then a least average rate: a client that dribbles is dropped all the same."""
        if self._body is not None:
            due = self._body_since + self._listener.limits.body_timeout + self._body.received / MIN_RATE
            self.expires = max(due, now + 1.0)

    def _take_body(self, data: bytes) -> None:
        body = self._body
        assert body is not None
        if self._decoder is not None:
            try:
                pieces = self._decoder.feed(data)
            except Invalid as error:
                self._break_request(BAD_REQUEST, str(error))
                return
            for piece in pieces:
                body.feed(piece)
            if self._decoder.done:
                self._buffer = self._decoder.rest
                self._end_body(self._decoder.trailers)
                return
            limit = self._listener.limits.max_body
            if limit is not None and body.received > limit:
                self._break_request(BAD_REQUEST, "the body is larger than the limit")
                return
        else:
            if len(data) > self._left:
                self._buffer = data[self._left :]
                data = data[: self._left]
            self._left -= len(data)
            body.feed(data)
            if not self._left:
                self._end_body([])
                return
        self._expect_body(self._listener.now())

    def _end_body(self, trailers: Headers) -> None:
        body, self._body, self._decoder = self._body, None, None
        self.expires = NEVER
        if body is not None:
            body.finish(trailers)
        if self._x is None:
            self._advance()

    def _break_request(self, failure: Failure, cause: str) -> None:
        """The request's body is not whole and never will be: whoever reads it learns it, and answers."""
        body, self._body, self._decoder = self._body, None, None
        self._keep = False
        self._buffer = b""
        self.expires = self._listener.now() + LINGER
        if body is not None:
            body.fail(failure)
        if self._x is not None and self._outcome is None and self._run is not None:
            self._run.cancel()
            if self._x is not None and self._outcome is None:
                self._respond(failed(failure, Refusal(detail=cause), cause))

    def _interim(self, status: int, lines: bytes) -> None:
        """Pass an interim response on (RFC 9110 15.2); HTTP/1.0 has none."""
        if self._transport is not None and self._x is not None and self._outcome is None and self._x.version == 11:
            self._transport.write(b"%b%b\r\n" % (STATUS_LINES[status], lines))

    def _reject(self, error: Invalid) -> None:
        """What is not HTTP/1.1 gets one answer and no second chance."""
        self._keep = False
        self._buffer = b""
        outcome = failed(BAD_REQUEST, Refusal(detail=f"{error}."), str(error))
        outcome.status = error.status
        self._listener.reject(outcome)
        self._x = x = Exchange(b"", b"/", []) if self._x is None else self._x
        x.version = 11
        self._body = self._decoder = None
        self._write(x, problem(None, outcome))

    def _refuse_connection(self) -> None:
        self._closing = True
        if self._transport is not None:
            self._transport.write(self._listener.refusal)
            self._transport.close()

    # ----- responses

    def _done(self, run: Run[Outcome]) -> None:
        self._run = None
        if self._x is None or self._outcome is not None:
            return
        if run.error is None and run.value is not None:
            self._respond(run.value)
        elif isinstance(run.error, asyncio.CancelledError):
            self._respond(failed(CLIENT_CLOSED))
        else:
            self._listener.bug(self._x, run.error)
            self._respond(failed(INTERNAL))

    def _respond(self, outcome: Outcome) -> None:
        x = self._x
        assert x is not None
        if outcome.tunnel is not None:
            self._join(x, outcome)
        elif outcome.failure is not None and not outcome.body and outcome.stream is None:
            self._write(x, problem(x, outcome))
        else:
            self._write(x, outcome)

    def _write(self, x: Exchange, outcome: Outcome) -> None:
        self._outcome = outcome
        transport = self._transport
        stream, body, status = outcome.stream, outcome.body, outcome.status
        if transport is None:
            if stream is not None:
                stream.cancel()
            self._finish(outcome.failure or CLIENT_CLOSED)
            return
        if self._body is not None and self._body.state == OPEN or self._listener.draining:
            self._keep = False  # the rest of the request is in the way of the next one
        bodiless = x.method == b"HEAD" or status == 304 or status == 204
        if bodiless:
            framing = b""
        elif stream is None:
            framing = b"content-length: %d\r\n" % len(body)
        elif stream.length is not None:
            framing = b"content-length: %d\r\n" % stream.length
        elif x.version == 11:
            self._chunked = True
            framing = b"transfer-encoding: chunked\r\n"
        else:
            self._keep, self._delimited = False, True
            framing = b""
        if not self._keep:
            framing += b"connection: close\r\n"
        elif x.version == 10:
            framing += b"connection: keep-alive\r\n"
        head = response_head(outcome, framing, self._listener.date)
        if bodiless:
            transport.write(head)
            if stream is not None:
                stream.cancel()
            self._finish(outcome.failure)
        elif stream is None:
            transport.write(head + body if body else head)
            self._finish(outcome.failure)
        else:
            transport.write(head)
            self._stream = stream
            if self._blocked:
                stream.pause()
            stream.attach(self)

    def write(self, data: bytes) -> None:
        if self._transport is None or not data:
            return
        if self._chunked:
            self._transport.writelines((b"%x\r\n" % len(data), data, b"\r\n"))
        else:
            self._transport.write(data)

    def finish(self, trailers: Headers) -> None:
        if self._transport is not None and self._chunked:
            accepts = self._x is not None and self._x.accepts_trailers
            self._transport.write(trailer_block(trailers if accepts else []))
        self._finish(None)

    def fail(self, failure: Failure) -> None:
        """The answer breaks off: the client must see that it is not whole (RFC 9112 8)."""
        self._keep = False
        transport = self._transport
        if transport is not None and self._delimited:
            sock: Any = transport.get_extra_info("socket")
            if sock is not None and sock.family != socket.AF_UNIX:
                sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, RESET_ON_CLOSE)
            transport.abort()
        self._finish(failure)

    def _finish(self, failure: Failure | None) -> None:
        """The exchange is over: record it, and make ready for the next one."""
        x, outcome, self._x, self._outcome, self._stream = self._x, self._outcome, None, None, None
        self._chunked = self._delimited = False
        if x is not None and outcome is not None:
            self._listener.record(x, outcome, failure)
        transport = self._transport
        if transport is None:
            return
        if not self._keep:
            self._close()
        else:
            if not self._blocked:
                self._wait()
            if self._buffer:
                if len(self._buffer) > self._listener.limits.max_header_bytes:
                    transport.resume_reading()
                self._advance()

    def _wait(self) -> None:
        """Idle until the next request."""
        listener = self._listener
        if self._buffer:
            self.expires = listener.now() + listener.limits.header_timeout
        else:
            self.expires = listener.now() + listener.limits.idle_timeout

    def _close(self) -> None:
        """Close once what was written is out; with input still on its way, let the client read our answer first."""
        transport = self._transport
        self._closing = True
        if transport is None:
            return
        self.expires = self._listener.now() + LINGER
        body, self._body, self._decoder = self._body, None, None
        if body is not None and body.state == OPEN:
            body.fail(CLIENT_CLOSED)
            if transport.can_write_eof():
                transport.write_eof()
                transport.resume_reading()
                return
        transport.close()

    def _abandon(self, failure: Failure) -> None:
        """The client is gone."""
        body, self._body, self._decoder = self._body, None, None
        run, stream = self._run, self._stream
        if body is not None:
            body.fail(failure)
        if run is not None:
            run.cancel()
        elif stream is not None:
            stream.cancel()
            self._finish(failure)

    # ----- the request's body as a source

    def pause_body(self) -> None:
        self.expires = NEVER  # it is not the client that is slow
        if self._transport is not None:
            self._transport.pause_reading()

    def resume_body(self) -> None:
        now = self._listener.now()
        self._body_since = now
        self._expect_body(now)
        if self._transport is not None:
            self._transport.resume_reading()

    def cancel_body(self) -> None:
        self._keep = False

    # ----- one end of a tunnel

    def _join(self, x: Exchange, outcome: Outcome) -> None:
        tunnel = outcome.tunnel
        assert tunnel is not None
        if self._transport is None:
            tunnel.close()
            return
        self._outcome = outcome
        head = response_head(outcome, b"connection: Upgrade\r\nupgrade: websocket\r\n", self._listener.date)
        self._transport.write(head)
        self._finish(None)
        self._tunnel = tunnel
        self.expires = NEVER
        early = tunnel.splice(self)
        if early:
            self._transport.write(early)
        if self._buffer:
            tunnel.send(self._buffer)
            self._buffer = b""

    def splice(self, other: Tunnel) -> bytes:
        self._tunnel = other
        return b""

    def send(self, data: bytes) -> None:
        if self._transport is not None:
            self._transport.write(data)

    def send_eof(self) -> None:
        if self._transport is not None and self._transport.can_write_eof():
            self._transport.write_eof()
        else:
            self.close()

    def pause(self) -> None:
        if self._transport is not None:
            self._transport.pause_reading()

    def resume(self) -> None:
        if self._transport is not None:
            self._transport.resume_reading()

    def close(self) -> None:
        self._tunnel = None
        self._closing = True
        self.expires = self._listener.now() + LINGER
        if self._transport is not None:
            self._transport.close()

    # ----- what the server asks of it

    def expire(self, now: float) -> None:
        """A deadline of the connection has passed."""
        if self._transport is None:
            return
        if self._closing or self._blocked:
            self._transport.abort()
        elif self._body is not None:
            self._break_request(CLIENT_TIMEOUT, "The request's body did not arrive in time.")
        elif self._x is None and self._buffer:
            self._reject(Invalid("the request head did not arrive in time", 408))
        else:
            self._transport.close()

    def drain(self) -> None:
        """The sidecar stops: close when nothing is under way."""
        if self._x is None and self._tunnel is None and not self._buffer:
            self._closing = True
            if self._transport is not None:
                self._transport.close()
        else:
            self._keep = False

    def abort(self) -> None:
        """Cut the connection off at once."""
        if self._transport is not None:
            self._transport.abort()

    def __repr__(self) -> str:
        return f"<Downstream {self._listener.name} {self._x!r}>"
