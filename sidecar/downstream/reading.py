"""The bytes of a client's connection as requests, one at a time: `Downstream` is this and the answers.

What a client pipelines stays as bytes until its turn, and reading stops when there is more of it than one head may
have. The rest of a body that did not come with its head goes to its `IncomingBody`.
"""

from __future__ import annotations

import asyncio
import re
from abc import ABC, abstractmethod
from binascii import hexlify
from typing import TYPE_CHECKING, Final, cast

from sidecar.core.exchange import NEVER, Exchange
from sidecar.core.http1 import Invalid, parse_request
from sidecar.downstream.request_body import IncomingBody, too_large
from sidecar.downstream.request_head import LastHop, Peer, read_request

if TYPE_CHECKING:
    from sidecar.downstream.listener import Listener

EMPTY_LINES: Final = re.compile(rb"\A(?:\r\n)+")
AT_ONCE: Final = 16
"""Pipelined requests that are answered in one turn of the loop, where they need not wait for anything; a single read
can
bring 10 000 of them, and nobody else would be served meanwhile."""


class RequestReader(asyncio.Protocol, ABC):
    """Reads requests, and has each served in its turn."""

    __slots__ = (
        "_advancing",
        "_blocked",
        "_buffer",
        "_closing",
        "_held",
        "_incoming",
        "_keep",
        "_peer",
        "_seen",
        "_transport",
        "_x",
        "expires",
        "listener",
    )

    def __init__(self, listener: Listener) -> None:
        self.listener = listener
        self.expires = NEVER
        """The instant by which something must have happened; the server's sweep looks after it."""
        self._transport: asyncio.Transport | None = None
        self._peer: Peer | None = None
        self._buffer = b""
        self._seen = 0
        """How much of the buffer is known not to end a head."""
        self._advancing = False
        self._held = False
        """Was reading stopped: by the upstream, or because more requests wait than we keep?"""
        self._blocked = False
        """Does the client not read what we write?"""
        self._closing = False
        self._x: Exchange | None = None
        """The request that is being served."""
        self._keep = True
        """May another one follow it?"""
        self._incoming: IncomingBody | None = None
        """The rest of its body."""

    @property
    def is_serving(self) -> bool:
        """Is a request under way?"""
        return self._x is not None

    @abstractmethod
    def serve(self, x: Exchange) -> None:
        """Answer a request; it is `_x`, and another one may come as soon as it is not."""

    @abstractmethod
    def answer(self, x: Exchange) -> None:
        """Answer a request that goes no further, and close."""

    @abstractmethod
    def reject(self, error: Invalid) -> None:
        """What came is not HTTP."""

    @abstractmethod
    def break_request(self, error: Invalid) -> None:
        """The rest of the body is not HTTP, or will not come."""

    @abstractmethod
    def expire(self, now: float) -> None:
        """`expires` has passed."""

    @abstractmethod
    def drain(self) -> None:
        """The sidecar stops: close when nothing is under way."""

    @abstractmethod
    def interim(self, status: int, lines: bytes) -> None:
        """Pass on an interim response (RFC 9110 15.2)."""

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._transport = transport = cast("asyncio.Transport", transport)
        listener = self.listener
        if not listener.admit(self, transport.get_extra_info("socket")):
            self._closing = True
            transport.write(listener.refusal)
            transport.close()
            return
        name = transport.get_extra_info("peername")
        address = name[0] if isinstance(name, tuple) else ""
        self._peer = Peer(address, listener.scheme, listener.trusted)
        self.expires = listener.now() + listener.limits.header_timeout

    def data_received(self, data: bytes) -> None:
        if self._incoming is not None:
            self._take_body(data)
        elif self._closing:
            return
        elif self._x is not None:
            self._buffer += data
            if len(self._buffer) > self.listener.limits.max_header_bytes:
                self.hold()
        else:
            if self._buffer:
                self._buffer += data
            else:
                self._buffer = data
            self._advance()
            if len(self._buffer) > self.listener.limits.max_header_bytes:
                self.hold()

    def _advance(self) -> None:
        """Start the next request that has arrived; once more for each that is answered at once."""
        if self._advancing:
            return
        self._advancing = True
        left = AT_ONCE
        try:
            while self._buffer and self._x is None and not self._closing and not self._blocked and self._start():
                left -= 1
                if not left:
                    self.listener.env.call_later(0, self._advance)
                    break
        except Exception as error:
            self.listener.bug(self._x, error)
            self.abort()
        finally:
            self._advancing = False

    def _start(self) -> bool:
        listener, data, peer = self.listener, self._buffer, self._peer
        now = listener.now()
        assert peer is not None
        try:
            if data[0] == 13:  # an empty line before a request is let pass (RFC 9112 2.2)
                data = self._buffer = EMPTY_LINES.sub(b"", data, 1)
                if data in (b"", b"\r"):
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
            x, length, self._keep = read_request(method, target, version, data, start, end - 2, peer, now)
            self._x = x
            if not x.request_id:
                x.request_id = hexlify(listener.getrandbits(128).to_bytes(16, "big"))  # quicker than %032x
            x.add(b"x-request-id", x.request_id)
            x.interim = self.interim
            if length:
                self._open_body(x, length)
            else:
                self.expires = NEVER
        except Invalid as error:
            self.reject(error)
            return False
        except LastHop as last:
            self._x, self._keep = last.x, False
            self.answer(last.x)
            return False
        self.serve(x)
        return True

    def _open_body(self, x: Exchange, length: int) -> None:
        """Take the body whole if it is here, else as a stream."""
        data, limit = self._buffer, self.listener.limits.max_body
        if limit is not None and length > limit:
            raise too_large(limit)
        if 0 < length <= len(data):
            x.body = data[:length]
            self._buffer = data[length:]
            return
        incoming = IncomingBody(self, length)
        self._buffer = b""
        if data:
            x.expects_continue = False  # it did not wait
            if incoming.take(data):
                self._buffer = incoming.finish()
                if incoming.body.trailers:
                    x.stream = incoming.body
                else:
                    x.body = incoming.body.whole()
                self.read_on()
                return
        self._incoming = incoming
        x.stream = incoming.body
        self.await_body()
        self.read_on()

    def _take_body(self, data: bytes) -> None:
        incoming = self._incoming
        assert incoming is not None
        try:
            is_whole = incoming.take(data)
        except Invalid as error:
            self.break_request(error)
            return
        if is_whole and self._incoming is incoming:
            self._incoming = None
            self.await_body()
            self._buffer = incoming.finish()  # whoever has waited for the body may answer within
            self.read_on()
            if self._x is None and self._buffer:
                self.await_request()
                self._advance()
        else:
            self.await_body()

    def await_body(self) -> None:
        """Set the deadline for the rest of the request's body; none where it is here or the upstream does not take
        it."""
        if not self._blocked:
            incoming = self._incoming
            self.expires = NEVER if incoming is None or incoming.is_paused else incoming.due

    def await_request(self) -> None:
        """Idle until the next request."""
        listener = self.listener
        if self._buffer:
            self.expires = listener.now() + listener.limits.header_timeout
        else:
            self.expires = listener.now() + listener.limits.idle_timeout

    def hold(self) -> None:
        """Stop reading."""
        self._held = True
        if self._transport is not None:
            self._transport.pause_reading()

    def read_on(self) -> None:
        """Go on reading, if what it was stopped for is over."""
        if (
            self._held
            and len(self._buffer) <= self.listener.limits.max_header_bytes
            and (self._incoming is None or not self._incoming.is_paused)
        ):
            self._held = False
            if self._transport is not None:
                self._transport.resume_reading()

    def abort(self) -> None:
        """Cut the connection off at once."""
        if self._transport is not None:
            self._transport.abort()
