"""Captured connection: reads the first bytes of a redirected client and hands the connection over.

HTTP goes to a `DownstreamConnection`, which routes its requests; TLS and all others become a `Passage`.

Rules:

1. The original destination is known before a byte is read.  A connection without one is closed (`Capture`).
2. The client has `capture.sniff_timeout` for its first bytes; then what has arrived decides.  A client that is silent
   waits for its server, so the connection passes as TCP.  If it then asks by HTTP before its server has sent anything,
   the passage hands it to the routes after all.
3. At most `sniff.MOST_BYTES` and one read are kept.  No byte is changed or lost.
"""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING, cast

from sidecar.core.env import TimerHandle
from sidecar.core.exchange import NEVER
from sidecar.downstream.capture.capture import ORIGINAL, TOO_MANY, UPSTREAM, Capture
from sidecar.downstream.capture.destination import Destination
from sidecar.downstream.capture.passage import Passage
from sidecar.downstream.capture.sniff import TLS, Sniffed, guess, sniff
from sidecar.downstream.closing import reset

if TYPE_CHECKING:
    from sidecar.downstream.listener import Listener


class CapturedConnection(asyncio.Protocol):
    """Redirected connection until its protocol is known."""

    expires = NEVER
    """Deadline for the sweep: none, because a timer limits the sniffing."""
    is_serving = False
    """False, because there is no request yet."""

    def __init__(self, listener: Listener, capture: Capture) -> None:
        self._listener = listener
        self._capture = capture
        self._transport: asyncio.Transport | None = None
        """Transport; None before the connection is made, and once it is handed over or closed."""
        self._destination: Destination | None = None
        self._buffer = b""
        self._timer: TimerHandle | None = None

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        transport = cast("asyncio.Transport", transport)
        listener, sock = self._listener, transport.get_extra_info("socket")
        if listener.server.crowd is not None and listener.hand_over(sock):
            transport.abort()
            return
        self._destination = self._capture.find_destination(transport)
        if self._destination is None:
            reset(transport)
            return
        if not listener.admit(self, sock):
            reset(transport)  # a response would be wrong in most protocols
            return
        self._transport = transport
        self._timer = listener.env.call_later(self._capture.spec.sniff_timeout, self._stop_sniffing)

    def data_received(self, data: bytes) -> None:
        if self._transport is None:
            return
        self._buffer += data
        found = sniff(self._buffer)
        if found is not None:
            self._hand_over(found, is_eof=False)

    def eof_received(self) -> bool:
        if self._transport is not None:
            self._hand_over(guess(self._buffer), is_eof=True)
        return True

    def _stop_sniffing(self) -> None:
        if self._transport is not None:
            self._hand_over(guess(self._buffer), is_eof=False)

    def _hand_over(self, found: Sniffed, *, is_eof: bool) -> None:
        transport, data, destination = self._transport, self._buffer, self._destination
        assert transport is not None
        assert destination is not None
        self._release()
        listener, capture = self._listener, self._capture
        protocol = found.protocol
        if not is_eof and capture.route(self, transport, protocol, data):
            return
        upstream = capture.upstream_of(found.server_name) if protocol == TLS else None
        limit = capture.spec.max_passages
        if capture.passages >= limit:
            capture.refuse(TOO_MANY, destination, f"exceeds capture.max_passages, which is {limit}; raise it")
            listener.forget(self)
            reset(transport)
            return
        capture.count(protocol, ORIGINAL if upstream is None else UPSTREAM)
        passage = Passage(capture, found, destination, upstream)
        listener.replace(self, passage)
        passage.open(transport, data, is_eof=is_eof)

    def _release(self) -> None:
        """Give the transport up, and stop the timer."""
        self._transport = None
        self._buffer = b""
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None

    def connection_lost(self, error: Exception | None) -> None:
        self._release()
        self._listener.forget(self)

    # ----- called by listener and server

    def expire(self, now: float) -> None:
        self.abort()

    def drain(self) -> None:
        """Close the connection, which has no request yet."""
        self.abort()

    def abort(self) -> None:
        if self._transport is not None:
            self._transport.abort()
