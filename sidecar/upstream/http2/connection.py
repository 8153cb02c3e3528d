"""Upstream connection that carries many exchanges at a time: the transport of a client's session, and its handler.

Rules:

1. The connection takes streams once the peer's settings have arrived, and as many as they allow, 100 at most
   (`sidecar.http2.session`).  It takes none after a GOAWAY, and after `connections.max_requests` of them.
2. After a REFUSED_STREAM without a GOAWAY it takes none until one of its streams has ended; without streams it closes.
3. What all exchanges of one turn of the loop send is written at once.  While the transport is full, nothing is handed
   to it, so that requests which were never sent are known as such.
4. Resets are bounded by a rate, because a peer ends connections that reset too many streams.  Beyond it a stream is
   left to run out, and keeps its place until it does.
5. While streams are active and nothing arrives, a PING is sent after a quarter of the shortest attempt timeout.  With
   no answer for as long again, the connection takes no streams until something arrives.  It is closed when its
   streams have ended, and after `DEAD_AFTER` at the latest.  An attempt that times out has the same effect, if nothing
   has arrived since it began.
6. Silence is worth `MAX_PINGS`: servers of gRPC end connections that send more of them without data in between.
"""

from __future__ import annotations

import asyncio
import select
from typing import TYPE_CHECKING, Final, cast

from sidecar.core import events
from sidecar.core.exchange import NEVER, Exchange
from sidecar.core.http1 import MAX_FIELDS, MAX_MEMBERS
from sidecar.core.message import write_http_date
from sidecar.core.outcome import INTERNAL, PROTOCOL
from sidecar.core.promise import Promise
from sidecar.http2.errors import CANCEL, HTTP_1_1_REQUIRED, REFUSED_STREAM, name_of
from sidecar.http2.fields import OVERHEAD
from sidecar.http2.limits import Bucket, Limits
from sidecar.http2.session import Session
from sidecar.http2.stream import Stream
from sidecar.upstream.errors import describe_error
from sidecar.upstream.http2.stream import UpstreamStream
from sidecar.upstream.response_head import MAX_HEAD_BYTES

if TYPE_CHECKING:
    from sidecar.http2.heads import Head
    from sidecar.upstream.http2.pool import StreamPool

WINDOW: Final = 256 * 1024
"""Bytes of a response that may arrive before its client has taken any."""
CONNECTION_WINDOW: Final = 4 * 1024 * 1024
LIMITS: Final = Limits(
    window=WINDOW,
    connection_window=CONNECTION_WINDOW,
    max_head=MAX_HEAD_BYTES + OVERHEAD * MAX_FIELDS,
    max_fields=MAX_FIELDS,
    max_list_members=MAX_MEMBERS,
)
"""Limits of responses, those of HTTP/1.1."""
RESET_BURST: Final = 100.0
"""Streams that may be reset at once."""
RESET_RATE: Final = 20.0
"""Streams a second that may be reset for ever; each stream that runs its course allows one more."""
LEAST_QUIET: Final = 0.02
MOST_QUIET: Final = 5.0
"""Shortest and longest silence in seconds before a PING, and before its answer is overdue."""
MAX_PINGS: Final = 2
"""PINGs without a head or content from the peer in between (grpc-core and grpc-go end a connection at the fourth)."""
PING_PAUSE: Final = 300.0
"""Seconds after which one more is sent all the same (their least interval)."""
DEAD_AFTER: Final = 30.0
"""Seconds of silence after an unanswered PING, after which the streams of a connection fail."""
PAYLOAD: Final = b"is alive"
"""Payload of PINGs."""


class MultiplexedConnection(asyncio.Protocol):
    """Connection to one endpoint, handler of its session."""

    __slots__ = (
        "_bucket", "_date", "_date_until", "_depth", "_error", "_heard", "_is_flushing", "_is_full", "_is_lost",
        "_is_refusing", "_is_silent", "_leftover", "_now", "_opened", "_patience", "_pinged_at", "_pings",
        "_quiet_since", "_since", "_touched", "_written", "expires", "idle_since", "is_open", "pool", "ready",
        "session", "transport",
    )  # fmt: skip

    def __init__(self, pool: StreamPool) -> None:
        self.pool = pool
        self.session = Session(self, LIMITS, True)
        self.session.joins_content = True
        self.transport: asyncio.Transport | None = None
        """Transport; None before the connection is made and after it is lost."""
        self.ready: Promise[str] = Promise()
        """Promise of the peer's settings: empty once they are here, else why they will not come."""
        self.is_open = False
        """True once the pool has the connection."""
        self.idle_since = 0.0
        """Instant at which the last stream ended; 0.0 before that."""
        self.expires = NEVER
        """Instant of the next check for silence, while streams are active."""
        self._now = pool.env.now
        self._touched: list[UpstreamStream] = []
        """Exchanges to which the read at hand has brought something."""
        self._depth = 0
        """Number of calls within which nothing is written: their end does."""
        self._is_flushing = False
        """True while a write is scheduled."""
        self._is_full = False
        """True while the transport takes no more."""
        self._is_lost = False
        """True once the transport is closing or lost."""
        self._error = "closed before the response was complete"
        """Description of the end of the connection."""
        self._is_refusing = False
        """True while the peer refuses streams that it should take."""
        self._is_silent = False
        """True while the peer is supposed to be dead."""
        self._opened = 0
        """Number of streams that were opened."""
        self._written = 0
        """Number of the last stream whose head was handed to the transport."""
        self._heard = 0.0
        """Instant at which bytes last arrived."""
        self._since = 0.0
        """Instant at which the streams became active."""
        self._quiet_since = 0.0
        """Instant at which a head or content last arrived, or the streams became active."""
        self._patience = NEVER
        """Shortest timeout of an attempt since then."""
        self._pinged_at = 0.0
        """Instant of a PING after which nothing has arrived; 0.0 without one."""
        self._pings = 0
        """PINGs since a head or content has arrived."""
        self._date = b""
        self._date_until = 0.0
        """Instant at which the date changes."""
        self._bucket = Bucket(RESET_BURST, RESET_RATE)
        self._leftover = 0
        """Number of streams that nobody waits for and that are not reset yet."""

    # ----- called by the pool

    @property
    def has_room(self) -> bool:
        """True if another stream can be opened."""
        return (
            self.is_open
            and not self._is_lost
            and not self._is_silent
            and not self._is_refusing
            and self.session.can_open
            and self._opened < self.pool.max_requests
        )

    @property
    def is_taking(self) -> bool:
        """True while streams may be opened now or once others have ended."""
        session = self.session
        return (
            not self._is_lost
            and not self._is_silent
            and session.goaway < 0
            and not session.is_draining
            and not session.has_failed
            and self._opened < self.pool.max_requests
        )

    @property
    def active(self) -> int:
        """Number of open streams."""
        return len(self.session.streams)

    @property
    def capacity(self) -> int:
        """Number of streams that the peer takes at a time."""
        return self.session.max_peer_streams

    @property
    def exchanges(self) -> list[UpstreamStream]:
        """Exchanges under way."""
        return [stream.user for stream in self.session.streams.values() if isinstance(stream.user, UpstreamStream)]

    def is_closed_by_peer(self) -> bool:
        """True if the socket has received the peer's end, which the event loop may not have read.

        The check takes a system call, so it is only for requests that must not be sent twice.
        """
        sock = None if self.transport is None else self.transport.get_extra_info("socket")
        if sock is None:
            return False
        poll = select.poll()
        poll.register(sock.fileno(), select.POLLRDHUP)
        return bool(poll.poll(0))

    def peer_address(self) -> str:
        """Return the IP address of the endpoint; empty without one."""
        peer = None if self.transport is None else self.transport.get_extra_info("peername")
        return str(peer[0]) if peer else ""

    def drain(self) -> None:
        """Take no more streams, and close once those that are open have ended."""
        self.session.drain()
        if not self.session.streams:
            self.close()

    def close(self) -> None:
        """Announce the end, and close the transport once all written bytes are sent."""
        transport = self.transport
        self._is_lost = True
        self.pool.deadlines.discard(self)
        self.pool.remove(self)
        if transport is None or transport.is_closing():
            return
        if self._is_silent or self._is_full:  # what is written would never go out
            transport.abort()
            return
        self.session.finish_drain()
        self._write(transport)
        transport.close()

    def discard(self) -> None:
        """Leave the pool and abort the transport, without an announcement: the socket may be closed already."""
        self._is_lost = True
        self.pool.deadlines.discard(self)
        self.pool.remove(self)
        if self.transport is not None:
            self.transport.abort()

    def abort(self, error: str) -> None:
        """Abort the transport; its exchanges fail."""
        self._error = error
        transport = self.transport
        if transport is not None:
            transport.abort()
        self._lose()

    # ----- called by the exchanges

    def begin(self, x: Exchange, expires: float, now: float) -> None:
        """Note that a stream was opened for an attempt that began at `now`."""
        self._opened += 1
        if len(self.session.streams) == 1:
            self._since = self._quiet_since = now
            self._patience = NEVER
            self.expires = NEVER
            self.pool.deadlines.add(self)
        patience = x.attempt_timeout if x.attempt_timeout != NEVER else expires - now
        if patience < self._patience:
            self._patience = patience
            self.expires = min(self.expires, now + self._quiet)
        elif self.expires == NEVER:
            self.expires = now + MOST_QUIET

    def end(self, stream: Stream) -> None:
        """Note the end of an exchange, and reset its stream unless that has run its course."""
        session = self.session
        if stream.id in session.streams:
            if self._bucket.charge(1.0, self._now()):
                self._bucket.pay(1.0)  # or the level would rise without end
                session.pause(stream)
                self._leftover += 1
            else:
                session.reset(stream, CANCEL)
        elif self._bucket.level > 0.0:
            self._bucket.pay(1.0)
        if not self._depth:
            self._after_streams()
            self.flush_later()

    def touch(self, exchange: UpstreamStream) -> None:
        """Deliver what has arrived for an exchange once the read at hand is over."""
        self._touched.append(exchange)
        if not self._depth:  # not within a read: what the session does for a call of an exchange
            self.pool.env.call_later(0.0, self._settle_safely)

    def flush_later(self) -> None:
        """Write what the session has to send, in the next turn of the loop or at the end of the read."""
        if not self._depth and not self._is_flushing:
            self._is_flushing = True
            self.pool.env.call_later(0.0, self._flush)

    def date(self) -> bytes:
        """Return the value of the Date field for what the read at hand brings."""
        now = self._heard
        if now >= self._date_until:
            wall = self.pool.env.wall()
            self._date = write_http_date(wall)
            self._date_until = now + 1.0 - wall % 1.0
        return self._date

    # ----- asyncio.Protocol

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self.transport = cast("asyncio.Transport", transport)
        self._heard = self._now()
        self._flush()

    def data_received(self, data: bytes) -> None:
        session = self.session
        self._heard = now = self._now()
        self._pinged_at = 0.0
        was_silent, self._is_silent = self._is_silent, False
        self._depth += 1
        try:
            if not session.has_settings and data.startswith(b"HTTP/1"):
                self._error = "answers in HTTP/1.1, not in HTTP/2; set protocol: http1"
                session.fail(1, self._error)
            session.receive(data, now)
            self._settle()
        except Exception as error:
            self._report(error)
        self._depth -= 1
        if not self.ready.done() and session.has_settings:
            self.ready.resolve("")
        if session.has_failed:
            self._fail()
            return
        if was_silent:
            self.pool.serve(self)
        self._after_streams()
        self._flush()

    def eof_received(self) -> bool:
        return False

    def connection_lost(self, error: Exception | None) -> None:
        self.transport = None
        if error is not None and not self._is_lost:
            self._error = describe_error(error)
        self._lose()
        self.session.detach()

    def pause_writing(self) -> None:
        self._is_full = True
        self.session.pause_writing()

    def resume_writing(self) -> None:
        self._is_full = False
        self._depth += 1
        try:
            self.session.resume_writing()
        except Exception as error:
            self._report(error)
        self._depth -= 1
        self._flush()

    def _flush(self) -> None:
        """Write what the session has to send."""
        self._is_flushing = False
        transport = self.transport
        if transport is not None and not self._is_full:
            self._write(transport)

    def _write(self, transport: asyncio.Transport) -> None:
        session = self.session
        while data := session.take_output():
            self._written = session.last_opened
            transport.write(data)
            if self._is_full:
                return

    def _report(self, error: Exception) -> None:
        """Report a bug, and end the connection."""
        self.pool.env.emit(events.BUG, where=repr(self), error=error)
        for exchange in self.exchanges:
            exchange.fail(INTERNAL, "a bug in the sidecar")
        self.session.fail(2, "internal error")

    def _fail(self) -> None:
        """End a connection whose peer has broken the protocol, and say so to the peer."""
        transport, fault = self.transport, self.session.fault
        text = "" if fault is None else f"{name_of(fault.code)}: {fault.text}"
        self._is_lost = True
        if not self.ready.done():
            self.ready.resolve(text if self.session.has_settings else self._describe_no_settings(text))
        for exchange in self.exchanges:
            exchange.fail(PROTOCOL, text)
        if transport is not None:
            self._write(transport)
            transport.close()
        self._lose()

    def _describe_no_settings(self, text: str) -> str:
        """Return why the connection does not begin as one of HTTP/2."""
        return self._error if self._error.startswith("answers") else f"does not speak HTTP/2: {text}"

    def _lose(self) -> None:
        """Leave the pool, and fail the exchanges; those that were never sent are repeated."""
        self._is_lost = True
        session = self.session
        self.pool.deadlines.discard(self)
        self.pool.remove(self)
        if not self.ready.done():
            self.ready.resolve("closed before its settings arrived")
        is_stale = self.idle_since > 0 and self._heard < self._since and session.goaway < 0
        self._depth += 1
        for number, stream in list(session.streams.items()):
            exchange = stream.user
            if isinstance(exchange, UpstreamStream):
                exchange.lose(self._error, number <= self._written, is_stale)
        try:
            self._settle()
        except Exception as error:
            self._report(error)
        session.streams.clear()
        self._depth -= 1

    # ----- after a read

    def _settle(self) -> None:
        """Deliver what has arrived."""
        touched = self._touched
        while touched:
            self._touched = []
            for exchange in touched:
                exchange.settle()
            touched = self._touched

    def _settle_safely(self) -> None:
        self._depth += 1
        try:
            self._settle()
        except Exception as error:
            self._report(error)
        self._depth -= 1
        self._after_streams()
        self._flush()

    def _after_streams(self) -> None:
        """Give free streams to requests that wait; without streams, wait for the next one or close."""
        if self._is_lost or not self.is_open:
            return
        session = self.session
        if not session.streams:
            self.pool.deadlines.discard(self)
            self._leftover = 0
            if not self.is_taking or self._is_refusing:
                self.close()
                return
        self.pool.serve(self)

    # ----- handler of the session

    def on_head(self, stream: Stream, head: Head, is_end: bool) -> None:
        self._quiet_since = self._heard  # inlined `_hear`
        self._pings = 0
        if is_end:
            self._is_refusing = False
        user = stream.user
        if isinstance(user, UpstreamStream):
            user.on_head(head, is_end)

    def on_interim(self, stream: Stream, head: Head) -> None:
        self._hear(False)
        if isinstance(stream.user, UpstreamStream):
            stream.user.on_interim(head)

    def on_data(self, stream: Stream, data: bytes, is_end: bool) -> None:
        self._hear(is_end)
        if isinstance(stream.user, UpstreamStream):
            stream.user.on_data(data, is_end)

    def on_trailers(self, stream: Stream, head: Head) -> None:
        self._hear(True)
        if isinstance(stream.user, UpstreamStream):
            stream.user.on_trailers(head)

    def on_reset(self, stream: Stream, code: int, text: str) -> None:
        if code == REFUSED_STREAM and self.session.goaway < 0 and not stream.has_final_head:
            self._is_refusing = True
        if isinstance(stream.user, UpstreamStream):
            stream.user.on_reset(stream, code, text)

    def on_writable(self, stream: Stream) -> None:
        if isinstance(stream.user, UpstreamStream):
            stream.user.on_writable()

    def on_goaway(self, last: int, code: int) -> None:
        """Take no more streams; `_after_streams` closes once those that are open have ended."""
        if code:
            self._error = f"the peer went away: {name_of(code)}"
        if code == HTTP_1_1_REQUIRED:
            self.pool.fall_back()
        self.pool.leave(self)

    def on_pong(self, payload: bytes) -> None:
        """Do nothing: any byte has ended the silence."""

    # ----- silence of the peer

    def _hear(self, is_end: bool) -> None:
        """Note a part of a response; its end frees a place at a peer that refuses streams."""
        self._quiet_since = self._heard
        self._pings = 0
        if is_end:
            self._is_refusing = False

    @property
    def _quiet(self) -> float:
        """Seconds of silence before a PING, and before its answer is overdue."""
        return max(LEAST_QUIET, min(MOST_QUIET, self._patience / 4))

    def expire(self, now: float) -> None:
        """Check the silence of the peer: send a PING, and open no streams while it has no answer."""
        if not self.session.streams:
            self.pool.deadlines.discard(self)
            return
        self._reset_leftovers(now)
        quiet = self._quiet
        heard = max(self._heard, self._since)
        if self._pinged_at:
            overdue = now - self._pinged_at
            if overdue >= DEAD_AFTER:
                self.abort(f"no answer to a PING for {overdue:.3g} s")
                return
            if overdue >= quiet:
                self._fall_silent()
            self.expires = now + quiet
        elif now - heard >= quiet:
            self._ping(now)
            self.expires = now + quiet
        else:
            self.expires = heard + quiet

    def _ping(self, now: float) -> None:
        """Send a PING, unless so many were sent in this silence that the peer might mind."""
        if self._pings < MAX_PINGS or now - self._quiet_since > PING_PAUSE * (self._pings - MAX_PINGS + 1):
            self._pings += 1
            self._pinged_at = now
            self.session.ping(PAYLOAD)
            self.flush_later()

    def doubt(self, since: float, now: float) -> None:
        """Note that an attempt timed out; without a byte since its start the peer is supposed to be dead."""
        if self._heard < since and now - since >= self._quiet and not self._is_lost:
            if not self._pinged_at:
                self._ping(now)
            self._fall_silent()

    def _fall_silent(self) -> None:
        if not self._is_silent:
            self._is_silent = True
            self.pool.leave(self)

    def _reset_leftovers(self, now: float) -> None:
        """Reset streams that nobody waits for, as the rate allows."""
        if not self._leftover:
            return
        session = self.session
        for stream in [each for each in session.streams.values() if each.user is None]:
            if self._bucket.charge(1.0, now):
                self._bucket.pay(1.0)
                return
            session.reset(stream, CANCEL)
            self._leftover -= 1
        self.flush_later()

    def __repr__(self) -> str:
        return f"<MultiplexedConnection {self.pool.name} {self.active} streams of {self.capacity}>"
