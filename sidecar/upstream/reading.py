"""The bytes of an upstream's connection as responses: `Connection` is this and the requests.

A response that arrives whole in one read becomes an `Outcome` with its body as bytes, in one call, and the connection
is back in the pool before the waiter runs.  A longer one becomes a `Body` that is pushed on as it arrives.
"""

from __future__ import annotations

import asyncio
from abc import ABC, abstractmethod
from typing import TYPE_CHECKING, Final

from sidecar.core import events
from sidecar.core.body import UNTIL_CLOSE, Body, BodyReader
from sidecar.core.exchange import NEVER, Exchange
from sidecar.core.http1 import CHUNKED, ChunkedDecoder, Invalid, parse_response
from sidecar.core.outcome import INTERNAL, PROTOCOL, Failure, Outcome
from sidecar.core.promise import Promise
from sidecar.upstream.response_head import read_interim, read_response, read_upgrade

if TYPE_CHECKING:
    from sidecar.upstream.pool import Pool

MAX_INTERIM: Final = 16
MAX_HEAD: Final = 64 * 1024
"""Bytes of a response head."""
NO_CONTENT: Final = frozenset((204, 304))


class ResponseReader(asyncio.Protocol, ABC):
    """Reads the responses to one exchange after the other; the source of their bodies."""

    __slots__ = (
        "_buffer",
        "_heard",
        "_interims",
        "_is_held",
        "_keep",
        "_limit",
        "_promise",
        "_reader",
        "_seen",
        "_x",
        "expires",
        "pool",
        "transport",
    )

    def __init__(self, pool: Pool) -> None:
        self.pool = pool
        self.transport: asyncio.Transport | None = None
        self.expires = NEVER
        """The instant by which more must have come; the pool's sweep looks after it."""
        self._limit = NEVER
        """The instant by which the answer must be whole."""
        self._x: Exchange | None = None
        self._promise: Promise[Outcome] | None = None
        """Where the outcome is waited for."""
        self._reader: BodyReader | None = None
        self._buffer = b""
        self._seen = 0
        """How much of the buffer is known not to end a head."""
        self._heard = False
        """Has anything come for this exchange?"""
        self._interims = 0
        self._keep = True
        """May the connection carry another exchange?"""
        self._is_held = False
        """Has the reader of the response's body stopped us reading?"""

    @abstractmethod
    def end(self, *, reusable: bool) -> None:
        """The exchange is over: give the connection back or close it."""

    @abstractmethod
    def fail(self, failure: Failure, cause: str) -> None:
        """The exchange has failed: tell whoever waits, and drop the connection."""

    @abstractmethod
    def abort(self) -> None:
        """Nobody wants the rest."""

    @abstractmethod
    def go_on(self, lines: bytes) -> None:
        """`100 Continue`, with these field lines."""

    @abstractmethod
    def switch(self, lines: bytes, early: bytes) -> None:
        """`101 Switching Protocols` in answer to our handshake; `early` came after it."""

    def data_received(self, data: bytes) -> None:
        self._heard = True
        try:
            if self._reader is not None:
                self._take_body(data)
            elif self._x is not None:
                self._take_head(data)
            else:  # nobody asked: a peer that says good-bye (408), or one that is confused
                self.end(reusable=False)
        except Invalid as error:
            self.fail(PROTOCOL, str(error))
        except Exception as error:
            self.pool.env.emit(events.BUG, where=repr(self), error=error)
            self.fail(INTERNAL, "a bug")

    def _take_head(self, data: bytes) -> None:
        if self._buffer:
            data = self._buffer + data
            self._buffer = b""
        x = self._x
        assert x is not None
        while True:
            parsed = parse_response(data, MAX_HEAD, self._seen)
            if parsed is None:
                self._buffer = data
                self._seen = len(data)
                return
            self._seen = 0
            status, version, start, end = parsed
            if status >= 200:
                break
            if status == 101:
                self.switch(read_upgrade(x, data, start, end - 2), data[end:])
                return
            self._interims += 1
            if self._interims > MAX_INTERIM:
                raise Invalid(f"more than {MAX_INTERIM} interim responses")
            lines = read_interim(data, start, end - 2)
            if status == 100:
                self.go_on(lines)
            elif x.interim is not None:
                x.interim(status, lines)
            data = data[end:]
            if not data or self._x is None:
                return
        lines, length, self._keep = read_response(data, start, end - 2, version, self.pool.env.wall)
        if x.method == b"HEAD" or status in NO_CONTENT:
            if length is not None and length >= 0 and status != 204:
                lines += b"content-length: %d\r\n" % length
            self._whole(Outcome(status, lines=lines), len(data) == end)
        elif length is None:  # delimited by the close (RFC 9112 6.3 rule 8)
            self._keep = False
            self._stream(Outcome(status, lines=lines), UNTIL_CLOSE, data[end:])
        elif length == CHUNKED:
            self._take_chunked(x, Outcome(status, lines=lines), data[end:])
        elif len(data) - end >= length:
            self._whole(Outcome(status, body=data[end : end + length], lines=lines), len(data) - end == length)
        else:
            self._stream(Outcome(status, lines=lines), length, data[end:])

    def _take_chunked(self, x: Exchange, outcome: Outcome, data: bytes) -> None:
        if data.endswith(b"0\r\n\r\n"):  # most likely it is whole
            decoder = ChunkedDecoder()
            pieces = decoder.feed(data)
            if decoder.done and not (decoder.trailers and x.accepts_trailers):
                outcome.body = b"".join(pieces)
                self._whole(outcome, not decoder.rest)
                return
        self._stream(outcome, CHUNKED, data)

    def _whole(self, outcome: Outcome, clean: bool) -> None:
        promise, self._promise = self._promise, None
        self.end(reusable=self._keep and clean)
        if promise is not None:
            promise.resolve(outcome)

    def _stream(self, outcome: Outcome, length: int, first: bytes) -> None:
        outcome.stream = body = Body(self, length if length >= 0 else None)
        self._reader = BodyReader(body, length)
        self._touch()
        promise = self._promise
        if first:
            self._take_body(first)  # the promise is still ours: a body that begins with an error is told as one
        if self._promise is promise:
            self._promise = None
        if promise is not None:
            promise.resolve(outcome)

    def _take_body(self, data: bytes) -> None:
        reader = self._reader
        assert reader is not None
        if self._x is not None and self._x.idle_timeout != NEVER and not self._is_held:
            self._touch()
        if reader.feed(data) and self._reader is reader:
            self._end_body(reader)

    def _end_body(self, reader: BodyReader) -> None:
        body = reader.body
        body.source = None  # from here on the connection may carry another exchange
        self.end(reusable=self._keep and not reader.rest)
        body.finish(reader.trailers)

    def _touch(self) -> None:
        """A piece of the body has arrived, or the reader takes more: the pause between two begins anew."""
        if self._x is not None and self._x.idle_timeout != NEVER:
            self.expires = min(self._limit, self.pool.env.now() + self._x.idle_timeout)

    # ----- the response's body as a source

    def pause_body(self) -> None:
        self._is_held = True
        self.expires = self._limit  # a reader that is slow is not the upstream's fault
        if self.transport is not None:
            self.transport.pause_reading()

    def resume_body(self) -> None:
        self._is_held = False
        self._touch()
        if self.transport is not None:
            self.transport.resume_reading()

    def cancel_body(self) -> None:
        self._reader = None
        self.abort()
