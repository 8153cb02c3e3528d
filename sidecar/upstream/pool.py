"""Pool: the connections to one endpoint, and a bounded queue of requests that wait for one.

Rules:

1. The most recently used idle connection is taken first, so that the others can age out.
2. At `max_size` connections a request waits in a queue, for at most `connect_timeout`.  The queue holds `max_size`
   requests, or `QUEUE` if that is more, because clients that retry quickly would fill a shorter one.  If it is full or
   the time is over, the request is refused (`overloaded`), without blame for the upstream.
3. While requests wait, exchanges that wait for their own clients are ended: the longest first, and only after
   `patience`.  Before a full queue refuses a request, one that has waited for `LEAST_PAUSE` is ended at once.
4. A connection whose peer may still send a body is set aside for `SILENCE` seconds before it is reused.
5. A retired pool closes idle connections at once, others after their exchange.  If its endpoint has left, requests
   that wait for a connection go to another endpoint; so none is sent there any more.
"""

from __future__ import annotations

import asyncio
import ssl
from collections import deque
from collections.abc import Awaitable, Callable, Collection
from typing import TYPE_CHECKING, Any, Final, Union

from sidecar.core.env import Env
from sidecar.core.exchange import IDEMPOTENT_METHODS, Exchange
from sidecar.core.outcome import (
    CONNECT_FAILURE,
    CONNECT_TIMEOUT,
    ENDPOINT_LEFT,
    LOOKUP_TIMEOUT,
    OVERLOADED,
    Outcome,
    Refusal,
    failed,
)
from sidecar.core.promise import Promise
from sidecar.upstream.connection import UpstreamConnection
from sidecar.upstream.deadlines import Deadlines
from sidecar.upstream.errors import describe_error
from sidecar.upstream.response_times import ResponseTimes
from sidecar.upstream.spec import UpstreamSpec

if TYPE_CHECKING:
    from sidecar.upstream.http2.stream import UpstreamStream

CONNECTION_STATES: Final = ("idle", "active", "opening")
"""Connection states, as used in metric labels."""
QUEUE: Final = 64
"""Shortest length of the queue, in requests."""
PATIENCE: Final = 0.25
"""Seconds that an exchange may wait for its client while other requests wait for its connection."""
LOOKS: Final = 5
"""Number of checks for exchanges to end, in the time that each may wait for its client."""
LEAST_PAUSE: Final = 0.005
"""Least seconds between two such checks."""
SILENCE: Final = 0.1
"""Seconds after which a peer that has sent no unannounced body is expected to send none."""
NO_LIMIT: Final = 1 << 60
"""Number of exchanges that no connection reaches; it fits into a native integer of compiled code."""
Carrier = Union[UpstreamConnection, "UpstreamStream"]
"""Connection or stream that is ready for an exchange."""
Acquired = Carrier | Outcome
"""Connection or stream that is ready for an exchange, or the failure to get one."""
Connect = Callable[[Callable[[], asyncio.BaseProtocol]], Awaitable[Any]]
"""Function that opens a transport for the protocol that a factory makes.  Raises `OSError`, as which `ssl.SSLError`
counts."""


def patience(waiting: int, places: int) -> float:
    """Return the seconds for which an exchange may wait for its client while `waiting` requests wait for `places`.

    The time decreases as more requests wait for each place.  Many slow clients therefore delay others no longer than a
    few would.
    """
    return PATIENCE if waiting <= places else PATIENCE * places / waiting


class Waiter:
    """Request that waits for a connection: in the queue, or for one that is being opened for it."""

    __slots__ = ("_pool", "expires", "has_queued", "promise")

    def __init__(self, pool: Pool, expires: float) -> None:
        self._pool = pool
        self.has_queued = False
        """True if the request was in the queue.  The endpoint then had less than `connect_timeout` to accept."""
        self.expires = expires
        """Instant at which the request stops waiting."""
        self.promise: Promise[Acquired] = Promise(lambda: pool.forget(self))
        """Promise of a connection."""

    def expire(self, now: float) -> None:
        self._pool.forget(self)
        if self.has_queued:
            self.promise.resolve(self._pool.refuse())
        else:
            self.promise.resolve(self._pool.timed_out(f"no connection to {self._pool.name} in time"))


class Pool:
    """Connections of one endpoint."""

    def __init__(
        self,
        name: str,
        env: Env,
        deadlines: Deadlines,
        connect: Connect,
        where: str = "",
        is_name_awaited: Callable[[], bool] | None = None,
    ) -> None:
        """Take the endpoint's URL as `name`, and `file:line` of its upstream as `where`, for refusals.

        `is_name_awaited` returns True while connecting waits for a look-up; None for an endpoint without a name.
        """
        self.name = name
        """URL of the endpoint."""
        self.host = name.partition("://")[2].encode() or b"localhost"
        """Host field for a request without one, from an HTTP/1.0 client."""
        self.env = env
        self._now = env.now
        self.wall = env.wall
        """`Env.wall`, for the Date of responses without one."""
        self.deadlines = deadlines
        self.connect = connect
        self.max_size = 256
        self.min_queue = QUEUE
        """Shortest length of the queue, in requests."""
        self.idle_timeout = 60.0
        self.connect_timeout = 1.0
        self.max_requests = NO_LIMIT
        """Number of exchanges after which a connection is closed."""
        self.times = ResponseTimes()
        """Usual response time of the endpoint."""
        self.latest: UpstreamConnection | None = None
        """Idle connection that was used last; each links the one that was used before it.  In a list, one connection
        that comes and goes would be memory allocated and freed for each request."""
        self.connections: set[UpstreamConnection] = set()
        """Open connections, idle or busy."""
        self.opening = 0
        """Number of connections being opened."""
        self.opened = 0
        """Number of connections opened since the start."""
        self.has_left = False
        """True once discovery or a reload has removed the endpoint."""
        self._where = where
        self._is_name_awaited = is_name_awaited
        self._queue: deque[Waiter] = deque()
        self._is_retired = False
        self._crowd = 0
        """Longest length of the queue since it was last empty: what is left of a crowd has no more patience than its
        beginning."""
        self._is_pressing = False
        """True while `_reclaim_later` is scheduled."""
        self._is_reaping = False
        """True while `_reap` is scheduled."""

    @property
    def size(self) -> int:
        """Number of connections that are open or being opened."""
        return len(self.connections) + self.opening

    @property
    def streams(self) -> int:
        """Number of open streams; 0 without HTTP/2."""
        return 0

    @property
    def idle(self) -> list[UpstreamConnection]:
        """Idle connections, the most recently used one first."""
        found: list[UpstreamConnection] = []
        connection = self.latest
        while connection is not None:
            found.append(connection)
            connection = connection.used_before
        return found

    @property
    def has_room(self) -> bool:
        """True if another connection may be opened."""
        return self.size < self.max_size

    def take(self, x: Exchange, now: float) -> Carrier | None:
        """Return an idle connection that is safe for the exchange; None without one.

        For a request that is not idempotent, a connection with unread input is closed: it may hold the peer's close.
        """
        while (connection := self.latest) is not None:
            self.latest = connection.used_before
            connection.used_before = None
            transport = connection.transport
            if transport is None or transport.is_closing():
                self.connections.discard(connection)
            elif now - connection.idle_since > self.idle_timeout or (
                x.method != b"GET"  # the most common method; this comparison avoids the hash below
                and x.method not in IDEMPOTENT_METHODS
                and connection.has_input()
            ):
                connection.close()
            else:
                return connection
        return None

    def open(self, expires: float, x: Exchange | None = None) -> Promise[Acquired]:
        """Open a connection, or queue for one, and return its promise; `expires` is the deadline of the request `x`."""
        waiter = Waiter(self, min(expires, self.env.now() + self.connect_timeout))
        if self.has_left:
            waiter.promise.resolve(failed(ENDPOINT_LEFT))
            return waiter.promise
        if self.has_room:
            self._start(waiter)
        elif len(self._queue) >= max(self.max_size, self.min_queue) and not self._reclaim(LEAST_PAUSE, 1):
            waiter.promise.resolve(self.refuse())
            return waiter.promise
        else:
            waiter.has_queued = True
            self._queue.append(waiter)
            self._crowd = max(self._crowd, len(self._queue))
            if not self._is_pressing:
                self._is_pressing = True
                self._reclaim_later()
        self.deadlines.add(waiter)
        return waiter.promise

    def _start(self, waiter: Waiter | None) -> None:
        """Start to open a connection for a request; None if it is for all that wait."""
        self.opening += 1
        task = self.env.spawn(self._open(waiter))
        # The timer starts after the task: uvloop runs timers first, and counts from the start of a turn.  After a turn
        # longer than the timeout it would cancel a task that has not begun, and `_open` would never count it out.
        self.env.call_later(0.0, self._limit, task)

    def _limit(self, task: Any) -> None:
        """Start the timer of a task that opens a connection."""
        if not task.done():
            timer = self.env.call_later(self.connect_timeout, task.cancel)
            task.add_done_callback(lambda _: timer.cancel())

    async def _open(self, waiter: Waiter | None) -> None:
        assert waiter is not None
        connection = UpstreamConnection(self)
        try:
            await self.connect(lambda: connection)
            outcome = failed(CONNECT_FAILURE, cause=f"{self.name}: closed at once")
        except asyncio.CancelledError:  # only the timer of `_start` cancels this task
            if connection.is_idle():  # made in this very turn: uvloop closes its socket without `connection_lost`
                connection.close()
            outcome = self.timed_out(f"connecting to {self.name} took too long")
            now = self.env.now()
            self.times.fall_silent(now - self.connect_timeout, now)
        except (OSError, ssl.CertificateError, RuntimeError) as error:  # uvloop: of a socket that it has closed
            outcome = failed(CONNECT_FAILURE, cause=f"{self.name}: {describe_error(error)}")
        self.opening -= 1
        if self.has_left:
            if connection.is_idle():
                connection.close()
            outcome = failed(ENDPOINT_LEFT)
        if connection.is_idle():
            self.opened += 1
            self.connections.add(connection)
            self.release(connection, waiter)
        else:
            self.deadlines.discard(waiter)
            self._advance()
            waiter.promise.resolve(outcome)

    def timed_out(self, cause: str) -> Outcome:
        """Return the failure to connect in time; `cause` is its text, unless the look-up of the name still runs."""
        if self._is_name_awaited is not None and self._is_name_awaited():
            return failed(LOOKUP_TIMEOUT, cause=f"looking up the name of {self.name} took too long")
        return failed(CONNECT_TIMEOUT, cause=cause)

    def refuse(self) -> Outcome:
        """Return the refusal of a request that cannot get a connection."""
        waiting = len(self._queue)
        detail = f"All {self.max_size} connections to {self.name} are busy and {waiting} requests wait for one."
        refusal = Refusal("connections", self._where, detail, limit=self.max_size, value=self.size + waiting)
        return failed(OVERLOADED, refusal)

    def _reclaim_later(self) -> None:
        """End exchanges that have waited too long for their clients, one for each request in the queue."""
        allowed = patience(self._crowd, self.max_size)
        self._reclaim(allowed, len(self._queue))
        if self._queue:
            self.env.call_later(max(LEAST_PAUSE, allowed / LOOKS), self._reclaim_later)
        else:
            self._is_pressing = False
            self._crowd = 0

    def _reclaim(self, allowed: float, most: int) -> bool:
        """End at most `most` exchanges that have waited for their clients for `allowed` seconds, the longest first.

        False if there is none.
        """
        limit = self.env.now() - allowed
        blocked = [carrier for carrier in self.carriers_in_use() if carrier.blocked_since <= limit]
        blocked.sort(key=lambda carrier: carrier.blocked_since)
        for carrier in blocked[:most]:
            carrier.yield_place()
        return bool(blocked)

    def release(self, connection: UpstreamConnection, waiter: Waiter | None = None) -> None:
        """Give a connection to its waiter or to the first request in the queue; without either, keep it idle.

        `waiter` is the request for which the connection was opened; None after an exchange.
        """
        if connection.served >= self.max_requests:
            connection.close()  # `discard` then opens another one for the first request in the queue
            return
        if waiter is None or waiter.promise.done():
            waiter = self._queue.popleft() if self._queue else None
        if waiter is not None:
            self.deadlines.discard(waiter)
            waiter.promise.resolve(connection)
        elif self._is_retired or len(self.connections) > self.max_size:
            connection.close()
        else:
            connection.idle_since = self._now()
            connection.used_before = self.latest
            self.latest = connection
            if not self._is_reaping:
                self._is_reaping = True
                self.env.call_later(self.idle_timeout, self._reap)

    def await_silence(self, connection: UpstreamConnection) -> None:
        """Set a connection aside for `SILENCE` seconds before it is reused; close it if the pool has no room."""
        if self.has_room and not self._is_retired:
            self.env.call_later(SILENCE, self._end_silence, connection)
        else:
            connection.close()

    def _end_silence(self, connection: UpstreamConnection) -> None:
        if connection.is_idle():  # a byte from the peer has closed it otherwise
            self.release(connection)

    def discard(self, connection: UpstreamConnection) -> None:
        """Remove a connection that is closing, and open one for the first request in the queue.  Idempotent."""
        if connection in self.connections:
            self.connections.discard(connection)
            self._unlink(connection)
            self._advance()

    def _unlink(self, connection: UpstreamConnection) -> None:
        """Remove a connection from the idle ones if it is one of them."""
        if self.latest is connection:
            self.latest = connection.used_before
        else:
            for each in self.idle:
                if each.used_before is connection:
                    each.used_before = connection.used_before
        connection.used_before = None

    def forget(self, waiter: Waiter) -> None:
        """Remove a request that no longer waits.  A connection being opened for it will serve another request."""
        self.deadlines.discard(waiter)
        if waiter in self._queue:
            self._queue.remove(waiter)

    def _advance(self) -> None:
        """Open a connection for the first request in the queue, if there is room."""
        if self._queue and self.has_room:
            self._start(self._queue.popleft())

    def _reap(self) -> None:
        """Close connections after their idle timeout."""
        limit = self.env.now() - self.idle_timeout
        for connection in [c for c in self.idle if c.idle_since <= limit]:
            connection.close()
        self._is_reaping = self.latest is not None
        if self._is_reaping:
            self.env.call_later(self.idle_timeout, self._reap)

    # ----- called by the owner of the pools

    def carriers_in_use(self) -> list[Carrier]:
        """Return the connections, idle ones included, or the streams that may carry an exchange."""
        return [*self.connections]

    @property
    def has_lasting_connections(self) -> bool:
        """True if a connection may outlast the addresses of its endpoint's name."""
        return self.latest is not None

    def leave_addresses(self, addresses: Collection[str]) -> None:
        """Close idle connections to other addresses than these."""
        for connection in self.idle:
            if connection.peer_address() not in addresses:
                connection.close()

    def retune(self, spec: UpstreamSpec) -> None:
        """Apply new settings; connections above a lower limit are closed after their exchange."""
        self.max_size = spec.connections.max
        self.idle_timeout = spec.connections.idle_timeout
        self.connect_timeout = spec.connect_timeout
        self.max_requests = spec.connections.max_requests or NO_LIMIT

    def retire(self) -> None:
        """Close idle connections now, and the others after their exchange."""
        self._is_retired = True
        for connection in self.idle:
            connection.close()

    def abandon(self) -> None:
        """Retire the pool of an endpoint that has left; requests that wait for a connection go to another endpoint."""
        self.has_left = True
        self.retire()
        while self._queue:
            waiter = self._queue.popleft()
            self.deadlines.discard(waiter)
            waiter.promise.resolve(failed(ENDPOINT_LEFT))

    def count(self, state: str) -> int:
        """Return the number of connections in one of the `CONNECTION_STATES`."""
        if state == "opening":
            return self.opening
        return len(self.idle) if state == "idle" else len(self.connections) - len(self.idle)

    def describe(self) -> dict[str, Any]:
        return {
            "max": self.max_size,
            "open": len(self.connections),
            "idle": len(self.idle),
            "opening": self.opening,
            "waiting": len(self._queue),
            "opened": self.opened,
        }

    def __repr__(self) -> str:
        return f"<Pool {self.name} {len(self.idle)} idle of {len(self.connections)}, {len(self._queue)} waiting>"
