"""One downstream connection: an `asyncio.Protocol` that reads requests, runs their route and writes the answers.

Our own rather than aiohttp's: a server that answers at once costs 16 us a request on `web.Server` at its lightest and 9
on a bare protocol, and aiohttp's parser does not tell how a head was spelled and where exactly it ends.

Rules:

1. One request at a time: what a client pipelines stays as bytes until its turn (`reading.py`).
2. A request is answered once.  A client that goes away cancels its run; the answer to a request whose body did not
   arrive whole closes the connection.
3. A head, a body and a reader each have a deadline as a whole: a slow client costs one bounded connection (`Limits`).
4. Half-closing is leaving: what a client that has closed its side waits for cannot be told from what nobody waits for.
"""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING, Final

from sidecar.core.body import Body
from sidecar.core.exchange import Exchange
from sidecar.core.http1 import Invalid
from sidecar.core.outcome import (
    BAD_REQUEST,
    CLIENT_CLOSED,
    CLIENT_TIMEOUT,
    INTERNAL,
    RESET,
    Failure,
    Outcome,
    Upgraded,
    failed,
)
from sidecar.core.promise import Run
from sidecar.downstream.closing import LINGER, Lingering, unsent
from sidecar.downstream.reading import RequestReader
from sidecar.downstream.response_body import OutgoingBody
from sidecar.downstream.response_head import STATUS_LINES, problem, refused, response_head
from sidecar.downstream.tunnel import Tunnel

if TYPE_CHECKING:
    from sidecar.downstream.listener import Listener

SWITCHED: Final = b"connection: Upgrade\r\nupgrade: websocket\r\n"


class Downstream(RequestReader):
    """A client's connection."""

    __slots__ = ("_linger", "_outcome", "_run", "_stream", "_verdict")

    def __init__(self, listener: Listener) -> None:
        super().__init__(listener)
        self._run: Run[Outcome] | None = None
        self._outcome: Outcome | None = None  # once the answer has begun
        self._stream: Body | None = None  # its body, while it is coming
        self._verdict: Outcome | None = None  # what to answer once the run has been cancelled
        self._linger = False  # may the client still be sending when we close?

    # ----- asyncio.Protocol

    def connection_lost(self, error: Exception | None) -> None:
        self._transport = None
        self._closing = True
        self._buffer = b""
        self.listener.forget(self)
        self._abandon()

    def pause_writing(self) -> None:
        self._blocked = True
        self.expires = self.listener.now() + self.listener.limits.body_timeout
        if self._stream is not None:
            self._stream.pause()

    def resume_writing(self) -> None:
        self._blocked = False
        self.await_body()
        if self._stream is not None:
            self._stream.resume()
        elif self._x is None and not self._closing:
            self.await_request()
            self._advance()
            self.read_on()

    # ----- requests

    def serve(self, x: Exchange) -> None:
        try:
            route = self.listener.match(x)
            if route is None:
                self._respond(self.listener.no_route(x))
                return
            x.route = route
            if x.criticality == 1:
                x.criticality = route.criticality
            run = Run(route.service(x), self._done)
        except Exception as error:
            self._break_down(error)
            return
        if self._x is x and self._outcome is None:
            self._run = run

    def answer(self, x: Exchange) -> None:
        self._linger = True
        self._write(x, self.listener.last_hop(x))

    def break_request(self, error: Invalid) -> None:
        """The request's body will never be whole: end its run, and answer if nothing was answered yet."""
        incoming, self._incoming = self._incoming, None
        self._keep, self._linger = False, True
        self.expires = self.listener.now() + self.listener.limits.body_timeout
        failure = CLIENT_TIMEOUT if error.status == CLIENT_TIMEOUT.status else BAD_REQUEST
        if self._run is not None:
            self._verdict = refused(failure, error)
            self._run.cancel()
        if incoming is not None:
            incoming.body.fail(failure)

    def interim(self, status: int, lines: bytes) -> None:
        x = self._x
        if self._transport is not None and x is not None and self._outcome is None and x.version == 11:  # 1.0 has none
            self._transport.write(b"%b%b\r\n" % (STATUS_LINES[status], lines))

    def reject(self, error: Invalid) -> None:
        """What is not HTTP/1.1 gets one answer and no second chance."""
        self._keep, self._linger = False, True
        self._buffer = b""
        outcome = refused(BAD_REQUEST, error)
        self.listener.reject(outcome)
        self._x = x = Exchange(b"", b"/", []) if self._x is None else self._x
        x.version = 11
        self._write(x, problem(None, outcome))

    # ----- responses

    def _done(self, run: Run[Outcome]) -> None:
        self._run, outcome = None, run.value
        if self._x is None or self._outcome is not None:
            if outcome is not None and outcome.stream is not None:
                outcome.stream.cancel()  # nobody is left to read it
            return
        if outcome is None:
            is_over = isinstance(run.error, asyncio.CancelledError)
            outcome = (self._verdict or failed(CLIENT_CLOSED)) if is_over else failed(INTERNAL)
            if not is_over:
                self.listener.bug(self._x, run.error)
        try:
            self._respond(outcome)
        except Exception as error:
            self._break_down(error)

    def _break_down(self, error: Exception) -> None:
        """A bug: answered with 500 where nothing was answered yet."""
        self.listener.bug(self._x, error)
        if self._x is not None and self._outcome is None:
            self._write(self._x, problem(self._x, failed(INTERNAL)))
        else:
            self.abort()

    def _respond(self, outcome: Outcome) -> None:
        x = self._x
        assert x is not None
        if outcome.tunnel is not None:
            self._join(x, outcome, outcome.tunnel)
        else:
            has_to_say = outcome.failure is None or outcome.body or outcome.stream is not None
            self._write(x, outcome if has_to_say else problem(x, outcome))

    def _join(self, x: Exchange, outcome: Outcome, upstream: Upgraded) -> None:
        """The upstream has switched protocols: leave the two connections to each other."""
        transport, listener = self._transport, self.listener
        if transport is None:
            upstream.close()
            self._write(x, outcome)
            return
        tunnel = Tunnel(listener, x.idle_timeout)
        if not tunnel.open(transport, upstream, response_head(outcome, SWITCHED, listener.date), self._buffer):
            self._write(x, problem(x, failed(RESET, cause="closed after switching protocols")))
            return
        self._x = self._transport = None
        listener.replace(self, tunnel)
        listener.record(x, outcome, None)

    def _write(self, x: Exchange, outcome: Outcome) -> None:
        self._outcome = outcome
        transport = self._transport
        stream, body, status = outcome.stream, outcome.body, outcome.status
        if transport is None:
            if stream is not None:
                stream.cancel()
            self.finish(outcome.failure or CLIENT_CLOSED)
            return
        if self._keep and (self._incoming is not None or self.listener.draining):
            self._keep, self._linger = False, True  # what the client still sends will not be answered
        bodiless = x.method == b"HEAD" or status == 304 or status == 204
        if bodiless:
            framing = b""
        elif stream is None:
            framing = b"content-length: %d\r\n" % len(body)
        else:
            sink = OutgoingBody(self, transport, x, stream.length)
            framing = sink.framing
            if sink.ends_with_the_connection:
                self._keep = False
        if not self._keep:
            framing += b"connection: close\r\n"
        elif x.version == 10:
            framing += b"connection: keep-alive\r\n"
        head = response_head(outcome, framing, self.listener.date)
        if bodiless:
            transport.write(head)
            if stream is not None:
                stream.cancel()
            self.finish(outcome.failure)
        elif stream is None:
            transport.write(head + body if body else head)
            self.finish(outcome.failure)
        else:
            transport.write(head)
            self._stream = stream
            if self._blocked:
                stream.pause()
            stream.attach(sink)

    def finish(self, failure: Failure | None) -> None:
        """The exchange is over: record it, and make ready for the next one."""
        x, outcome, self._x, self._outcome, self._stream = self._x, self._outcome, None, None, None
        if x is not None and outcome is not None:
            self.listener.record(x, outcome, failure)
        if self._transport is None:
            return
        if not self._keep:
            self._close()
        else:
            if not self._blocked:
                self.await_request()
            if self._held:
                self.read_on()
            if self._buffer:
                self._advance()

    def break_off(self, failure: Failure) -> None:
        """The answer has broken off."""
        self._keep = False
        self.finish(failure)

    def _close(self) -> None:
        """Close once what was written is out, and let a client that may still be sending read it first."""
        self._closing = True
        transport, listener = self._transport, self.listener
        incoming, self._incoming = self._incoming, None
        if incoming is not None:
            incoming.body.fail(CLIENT_CLOSED)
        if transport is None or transport.is_closing():
            return
        if self._linger:
            self._transport = None
            listener.replace(self, Lingering(listener, transport))
        else:
            self.expires = listener.now() + LINGER  # a TLS client has a part in it, which many do not play
            transport.close()

    def _abandon(self) -> None:
        """The client is gone."""
        incoming, self._incoming = self._incoming, None
        run, stream = self._run, self._stream
        if run is not None and self._x is not None and not self._x.abandon(run):
            self._run = None
            self._write(self._x, failed(CLIENT_CLOSED))
        if incoming is not None:
            incoming.body.fail(CLIENT_CLOSED)
        if stream is not None:
            stream.cancel()
            self.finish(CLIENT_CLOSED)

    # ----- what the server asks of it

    def expire(self, now: float) -> None:
        if self._transport is None:
            return
        if self._closing and unsent(self._transport):
            self.listener.replace(self, Lingering(self.listener, self._transport))  # the client is still reading
        elif self._closing or self._blocked:
            self._transport.abort()
        elif self._incoming is not None:
            self.break_request(Invalid("the request's body did not arrive in time", 408))
        elif self._x is None and self._buffer:
            self.reject(Invalid("the request head did not arrive in time", 408))
        else:
            self._close()

    def drain(self) -> None:
        if self._x is None and not self._buffer:
            self._close()
        elif self._keep:
            self._keep, self._linger = False, True

    def __repr__(self) -> str:
        return f"<Downstream {self.listener.name} {self._x!r}>"
