"""Pool of streams: the connections to one endpoint that may speak HTTP/2, and the requests that wait for a stream.

Rules:

1. A request gets a stream of the first connection with room.  Another connection is opened only if all are full.
2. Requests that wait while a connection is opened share it: as many connections are opened as their streams need.  The
   failure to open one goes to as many requests as it would have carried.
3. Connections that take no more streams (after a GOAWAY, or silent) do not count towards `max_size`, up to as many
   again.
4. A connection over TLS whose peer selects HTTP/1.1 carries one exchange at a time (`upstream.pool`), unless the policy
   demands HTTP/2.
5. WebSockets have connections that offer HTTP/1.1 alone.  Where the policy demands HTTP/2 they have streams, by the
   extended CONNECT (`websocket`).
6. A peer that answers HTTP_1_1_REQUIRED gets no more streams, and its new connections offer HTTP/1.1 alone, for
   `HTTP1_SECONDS` (RFC 9113 7).
7. The queue, its limit and its patience are those of `upstream.pool`.
"""

from __future__ import annotations

import asyncio
import ssl
from collections.abc import Callable, Collection
from typing import Any, Final

from sidecar.core.env import Env
from sidecar.core.exchange import IDEMPOTENT_METHODS, Exchange
from sidecar.core.outcome import CONNECT_FAILURE, NO_ENDPOINT, Outcome, Refusal, failed
from sidecar.core.promise import Promise
from sidecar.http2.limits import MAX_STREAMS
from sidecar.upstream.connection import UpstreamConnection
from sidecar.upstream.deadlines import Deadlines
from sidecar.upstream.errors import describe_error
from sidecar.upstream.http2.connection import MultiplexedConnection
from sidecar.upstream.http2.opening import Opening
from sidecar.upstream.http2.stream import UpstreamStream
from sidecar.upstream.pool import Acquired, Carrier, Connect, Pool, Waiter
from sidecar.upstream.spec import UpstreamSpec

HTTP1_SECONDS: Final = 600.0
"""Seconds for which a peer that has demanded HTTP/1.1 is not asked for HTTP/2 again."""


class StreamPool(Pool):
    """Streams to one endpoint, and the connections that carry them."""

    def __init__(
        self,
        name: str,
        env: Env,
        deadlines: Deadlines,
        connect: Connect,
        where: str = "",
        awaits_name: Callable[[], bool] | None = None,
        is_http2_only: bool = False,
        connect_plain: Connect | None = None,
    ) -> None:
        """Take what `Pool` takes, and a function that opens connections which speak HTTP/1.1, for WebSockets.

        `is_http2_only` is True if a peer that does not speak HTTP/2 is a failure.
        """
        super().__init__(name, env, deadlines, connect, where, awaits_name)
        self.scheme = b"https" if name.startswith("https:") else b"http"
        self.is_http2_only = is_http2_only
        self.carriers: list[MultiplexedConnection] = []
        """Connections that carry streams, also those that take no more."""
        self._streams = MAX_STREAMS
        """Number of exchanges that a new connection is expected to carry at a time."""
        self._plain: Pool | None = None
        """Pool of connections for WebSockets; None before the first one."""
        self._connect_plain = connect_plain
        self._http1_until = 0.0
        """Instant until which new connections speak HTTP/1.1, because the peer demands it; 0.0 if it never has."""

    @property
    def size(self) -> int:
        """Number of connections that are open or being opened, without those that take no more streams."""
        plain = 0 if self._plain is None else self._plain.size
        taking = [each for each in self.carriers if each.is_taking]
        excess = max(0, len(self.carriers) - len(taking) - self.max_size)
        return len(self.connections) + len(taking) + excess + self.opening + plain

    @property
    def streams(self) -> int:
        """Number of open streams."""
        return sum([each.active for each in self.carriers])

    def take(self, x: Exchange, now: float) -> Carrier | None:
        """Return a stream, or an idle HTTP/1.1 connection; None if the request has to wait."""
        if x.upgrade is not None:
            return self._take_for_websocket(x, now)
        for carrier in self.carriers:
            if carrier.has_room:
                if (
                    not carrier.session.streams
                    and x.method != b"GET"
                    and x.method not in IDEMPOTENT_METHODS
                    and carrier.is_closed_by_peer()
                ):
                    continue
                return UpstreamStream(carrier, True)
        return None if self.latest is None else super().take(x, now)

    def open(self, expires: float, x: Exchange | None = None) -> Promise[Acquired]:
        """Open a connection, or wait for a stream, and return its promise; `expires` is the deadline of the request."""
        if x is not None and x.upgrade is not None:
            return self._open_socket(expires) if self._connect_plain is None else self._open_plain(expires, x)
        if self.has_left:
            return super().open(expires, x)
        now = self.env.now()
        if x is not None and (found := self.take(x, now)) is not None:  # to repeat what another connection has refused
            taken: Promise[Acquired] = Promise()
            taken.resolve(found)
            return taken
        waiter = Waiter(self, min(expires, now + self.connect_timeout))
        places = max(self.max_size, self.min_queue) + self.opening * self._streams
        if len(self._queue) >= places and not self.has_room:
            waiter.promise.resolve(self.refuse())
            return waiter.promise
        self._queue.append(waiter)
        self.deadlines.add(waiter)
        self._advance()
        if len(self._queue) > self.opening * self._streams:
            waiter.has_queued = True
            if not self._is_pressing:
                self._is_pressing = True
                self._reclaim_later()
        return waiter.promise

    def _take_for_websocket(self, x: Exchange, now: float) -> Carrier | None:
        """Return what carries a WebSocket; None if the request has to wait."""
        if self._connect_plain is not None:
            return None if self._plain is None else self._plain.take(x, now)
        for carrier in self.carriers:
            if carrier.has_room:
                return self._make_websocket(carrier)
        return None

    def _make_websocket(self, carrier: MultiplexedConnection) -> Carrier:
        from sidecar.upstream.http2.websocket import WebSocketStream  # most upstreams never carry one

        return WebSocketStream(carrier)

    def _open_socket(self, expires: float) -> Promise[Acquired]:
        """Wait for a stream, for a WebSocket."""
        waiting = self.open(expires)
        found: Promise[Acquired] = Promise(lambda: cancel(waiting))

        def take(_: object) -> None:
            if not waiting.cancelled():
                acquired = waiting.result()
                found.resolve(
                    self._make_websocket(acquired.connection) if isinstance(acquired, UpstreamStream) else acquired
                )

        if waiting.done():
            take(waiting)
        else:
            waiting.set_waiter(take)
        return found

    def refuse_websocket(self) -> Outcome:
        """Return the refusal of a WebSocket by a peer that does not serve the extended CONNECT."""
        detail = f"{self.name} does not serve WebSockets over HTTP/2 (RFC 8441); set protocol: auto or http1."
        return failed(NO_ENDPOINT, Refusal("protocol", self._where, detail))

    def _open_plain(self, expires: float, x: Exchange) -> Promise[Acquired]:
        """Open a connection that speaks HTTP/1.1, for a WebSocket."""
        plain = self._plain
        if plain is None:
            assert self._connect_plain is not None
            plain = self._plain = Pool(
                self.name, self.env, self.deadlines, self._connect_plain, self._where, self._is_name_awaited
            )
            plain.host = self.host
            plain.idle_timeout = self.idle_timeout
            plain.connect_timeout = self.connect_timeout
        plain.max_size = max(1, self.max_size - self.size + plain.size)
        return plain.open(expires, x)

    # ----- opening connections

    def _advance(self) -> None:
        """Open as many connections as the requests in the queue need, if there is room."""
        while len(self._queue) > self.opening * self._streams and self.has_room:
            self._start(None)

    async def _open(self, waiter: Waiter | None) -> None:
        opening = Opening(self)
        now = self.env.now()
        try:
            plain = self._connect_plain if now < self._http1_until else None
            await (plain or self.connect)(lambda: opening)
            problem = await opening.ready
            outcome = failed(CONNECT_FAILURE, cause=f"{self.name}: {problem or 'takes no streams'}")
        except asyncio.CancelledError:  # only the timer of `_start` cancels this task
            opening.abort()
            outcome = self.timed_out(f"connecting to {self.name} took too long")
            self.times.fall_silent(now, self.env.now())
        except (OSError, ssl.CertificateError, RuntimeError) as error:  # uvloop: of a socket that it has closed
            outcome = failed(CONNECT_FAILURE, cause=f"{self.name}: {describe_error(error)}")
        self.opening -= 1
        carrier = opening.carrier
        if isinstance(carrier, MultiplexedConnection):
            carrier.is_open = True
        if isinstance(carrier, MultiplexedConnection) and carrier.has_room:
            self.opened += 1
            self.carriers.append(carrier)
            self._streams = carrier.capacity
            self.serve(carrier)
        elif isinstance(carrier, UpstreamConnection) and carrier.is_idle():
            self.opened += 1
            self._streams = 1
            self.connections.add(carrier)
            self.release(carrier)
        else:
            opening.abort()
            for each in list(self._queue)[: max(1, self._streams)]:  # none if the endpoint has left
                self.forget(each)
                each.promise.resolve(outcome)
        self._advance()

    # ----- called by connections

    def fall_back(self) -> bool:
        """Take no more streams, because the peer demands HTTP/1.1; False if the policy demands HTTP/2."""
        if self._connect_plain is None:
            return False
        self._http1_until = self._now() + HTTP1_SECONDS
        for carrier in self.carriers:
            carrier.session.drain()
        self.env.call_later(0.0, self._close_unused)
        return True

    def _close_unused(self) -> None:
        """Close connections that take no more streams and have none."""
        for carrier in list(self.carriers):
            if not carrier.is_taking and not carrier.active:
                carrier.close()

    def serve(self, carrier: MultiplexedConnection) -> None:
        """Give the free streams of a connection to the requests in the queue; without streams, keep it idle."""
        while self._queue and carrier.has_room:
            waiter = self._queue.popleft()
            self.deadlines.discard(waiter)
            waiter.promise.resolve(UpstreamStream(carrier))
        if not carrier.active:
            open_ones = len(self.connections) + len(self.carriers)
            if self._is_retired or (open_ones > self.max_size and self.size > self.max_size):
                carrier.close()
                return
            carrier.idle_since = self._now()
            if not self._is_reaping:
                self._is_reaping = True
                self.env.call_later(self.idle_timeout, self._reap)

    def leave(self, carrier: MultiplexedConnection) -> None:
        """Open another connection for requests in the queue: this one takes no more streams."""
        self._advance()

    def remove(self, carrier: MultiplexedConnection) -> None:
        """Remove a connection that is closing.  Idempotent."""
        if carrier in self.carriers:
            self.carriers.remove(carrier)
            self._advance()

    def _reap(self) -> None:
        """Close connections after their idle timeout."""
        limit = self.env.now() - self.idle_timeout
        for connection in [each for each in self.idle if each.idle_since <= limit]:
            connection.close()
        for carrier in [each for each in self.carriers if not each.active and each.idle_since <= limit]:
            carrier.close()
        self._is_reaping = self.latest is not None or bool(self.carriers)
        if self._is_reaping:
            self.env.call_later(self.idle_timeout, self._reap)

    # ----- called by the owner of the pools

    def carriers_in_use(self) -> list[Carrier]:
        found: list[Carrier] = [*self.connections]
        for carrier in self.carriers:
            found += carrier.exchanges
        return found

    def leave_addresses(self, addresses: Collection[str]) -> None:
        super().leave_addresses(addresses)
        for carrier in list(self.carriers):
            if carrier.peer_address() not in addresses:
                carrier.drain()

    @property
    def has_lasting_connections(self) -> bool:
        return self.latest is not None or bool(self.carriers)

    def retune(self, spec: UpstreamSpec) -> None:
        super().retune(spec)
        if self._plain is not None:
            self._plain.retune(spec)

    def retire(self) -> None:
        super().retire()
        if self._plain is not None:
            self._plain.retire()
        for carrier in list(self.carriers):
            if not carrier.active:
                carrier.close()

    def abandon(self) -> None:
        super().abandon()
        if self._plain is not None:
            self._plain.abandon()

    def count(self, state: str) -> int:
        found = super().count(state) + (0 if self._plain is None else self._plain.count(state))
        if state == "opening":
            return found
        return found + len([each for each in self.carriers if (each.active == 0) == (state == "idle")])

    def describe(self) -> dict[str, Any]:
        return {
            **super().describe(),
            "open": len(self.connections) + len(self.carriers) + (0 if self._plain is None else self._plain.size),
            "idle": self.count("idle"),
            "streams": self.streams,
            "max_streams": sum([each.capacity for each in self.carriers if each.is_taking]),
            "draining": len([each for each in self.carriers if not each.is_taking]),
        }


def cancel(waiting: Promise[Acquired]) -> None:
    """Cancel the wait for a stream."""
    waiting.cancel()
