"""The connections of one endpoint: idle ones to take, busy ones to count, and a bounded line for the next.

The one used last is taken first, so that the others can age out.  At `max` connections a request waits in a line of at
most as many, for at most `connect_timeout`: waiting for a connection is part of connecting.  Beyond that it is refused.

Retiring (a reload has dropped the endpoint) closes what is idle at once and the rest as it comes back.
"""

from __future__ import annotations

import asyncio
import select
import ssl
from collections import deque
from collections.abc import Awaitable, Callable
from typing import Any, Final

from sidecar.core.env import Env
from sidecar.core.exchange import IDEMPOTENT_METHODS, Exchange
from sidecar.core.outcome import (
    CONNECT_FAILURE,
    CONNECT_TIMEOUT,
    OVERLOADED,
    Outcome,
    Refusal,
    failed,
)
from sidecar.core.promise import Promise
from sidecar.upstream.connection import Connection
from sidecar.upstream.deadlines import Deadlines
from sidecar.upstream.errors import words
from sidecar.upstream.spec import UpstreamSpec

STATES: Final = ("idle", "active", "opening")
"""Of connections, as the metrics tell them."""
Acquired = Connection | Outcome
"""A connection that is ready, or why there is none."""
Connect = Callable[[Callable[[], Connection]], Awaitable[Any]]
"""Opens a connection for the protocol that the factory makes; raises `OSError`, `ssl.SSLError` included."""


class Waiting:
    """A request that waits for a connection, in line or for its own to open."""

    __slots__ = ("_pool", "expires", "promise")

    def __init__(self, pool: Pool, expires: float) -> None:
        self._pool = pool
        self.expires = expires
        self.promise: Promise[Acquired] = Promise(lambda: pool.forget(self))

    def expire(self, now: float) -> None:
        self._pool.forget(self)
        self.promise.resolve(failed(CONNECT_TIMEOUT, cause=f"no connection to {self._pool.name} in time"))


class Pool:
    """All connections of one endpoint."""

    def __init__(
        self,
        name: str,
        env: Env,
        deadlines: Deadlines,
        connect: Connect,
        where: str = "",
    ) -> None:
        self.name = name
        self.host = name.partition("://")[2].encode() or b"localhost"
        """For an HTTP/1.0 client that named none."""
        self.env = env
        self.deadlines = deadlines
        self.connect = connect
        self.where = where
        self.max_size = 256
        self.idle_timeout = 60.0
        self.connect_timeout = 1.0
        self.max_requests: int | None = None
        self.idle: list[Connection] = []
        self.connections: set[Connection] = set()
        self.opening = 0
        self.opened = 0
        self.retired = False
        self._line: deque[Waiting] = deque()
        self._reaping = False

    @property
    def size(self) -> int:
        """Connections that are open or being opened."""
        return len(self.connections) + self.opening

    def take(self, x: Exchange, now: float) -> Connection | None:
        """An idle connection, if there is one that can be trusted."""
        while self.idle:
            connection = self.idle.pop()
            transport = connection.transport
            if transport is None or transport.is_closing():
                self.connections.discard(connection)
            elif now - connection.idle_since > self.idle_timeout or (
                x.method not in IDEMPOTENT_METHODS and _has_closed(transport)
            ):
                connection.close()
            else:
                return connection
        return None

    def open(self, expires: float) -> Promise[Acquired]:
        """A new connection, or a place in the line for one."""
        waiting = Waiting(self, min(expires, self.env.now() + self.connect_timeout))
        if self.size < self.max_size:
            self._start(waiting)
        elif len(self._line) >= self.max_size:
            waiting.promise.resolve(self._refuse())
            return waiting.promise
        else:
            self._line.append(waiting)
        self.deadlines.add(waiting)
        return waiting.promise

    def _start(self, waiting: Waiting) -> None:
        self.opening += 1
        task = self.env.spawn(self._open(waiting))
        timer = self.env.call_later(self.connect_timeout, task.cancel)
        task.add_done_callback(lambda _: timer.cancel())

    async def _open(self, waiting: Waiting) -> None:
        connection = Connection(self)
        try:
            await self.connect(lambda: connection)
            outcome = failed(CONNECT_FAILURE, cause=f"{self.name}: closed at once")
        except asyncio.CancelledError:  # by the timer of `_start`, which alone knows this task
            outcome = failed(CONNECT_TIMEOUT, cause=f"connecting to {self.name} took too long")
        except (OSError, ssl.CertificateError) as error:
            outcome = failed(CONNECT_FAILURE, cause=f"{self.name}: {words(error)}")
        self.opening -= 1
        if connection.transport is not None:
            self.opened += 1
            self.connections.add(connection)
            self._hand_on(connection, waiting)
        else:
            self.deadlines.discard(waiting)
            self._advance()
            waiting.promise.resolve(outcome)

    def _refuse(self) -> Outcome:
        detail = f"All {self.max_size} connections to {self.name} are busy and as many requests wait for one."
        refusal = Refusal("connections", self.where, detail, limit=self.max_size, value=self.size + len(self._line))
        return failed(OVERLOADED, refusal)

    def _hand_on(self, connection: Connection, waiting: Waiting | None) -> None:
        """Give a connection that is ready to whoever waits for it, else to the first in line, else keep it."""
        if connection.served == self.max_requests:
            connection.close()  # and another one is opened for the first in line
            return
        if waiting is None or waiting.promise.done():
            waiting = self._line.popleft() if self._line else None
        if waiting is not None:
            self.deadlines.discard(waiting)
            waiting.promise.resolve(connection)
        elif self.retired or len(self.connections) > self.max_size:
            connection.close()
        else:
            connection.idle_since = self.env.now()
            self.idle.append(connection)
            if not self._reaping:
                self._reaping = True
                self.env.call_later(self.idle_timeout, self._reap)

    def release(self, connection: Connection) -> None:
        """An exchange has ended and the connection can carry another."""
        self._hand_on(connection, None)

    def discard(self, connection: Connection) -> None:
        """The connection is closed or of no more use."""
        if connection in self.connections:
            self.connections.discard(connection)
            if connection in self.idle:
                self.idle.remove(connection)
            self._advance()

    def forget(self, waiting: Waiting) -> None:
        """A request waits no more.  A connection that is being opened for it will serve another."""
        self.deadlines.discard(waiting)
        if waiting in self._line:
            self._line.remove(waiting)

    def _advance(self) -> None:
        """There is room for one more connection: open it for the first in line."""
        if self._line and self.size < self.max_size:
            self._start(self._line.popleft())

    def _reap(self) -> None:
        limit = self.env.now() - self.idle_timeout
        for connection in [c for c in self.idle if c.idle_since <= limit]:
            connection.close()
        self._reaping = bool(self.idle)
        if self._reaping:
            self.env.call_later(self.idle_timeout, self._reap)

    def retune(self, spec: UpstreamSpec) -> None:
        """Another policy: fewer connections are reached as they come back."""
        self.max_size = spec.connections.max
        self.idle_timeout = spec.connections.idle_timeout
        self.connect_timeout = spec.connect_timeout
        self.max_requests = spec.connections.max_requests

    def retire(self) -> None:
        """Close what is idle; the rest closes as it comes back."""
        self.retired = True
        for connection in list(self.idle):
            connection.close()

    def count(self, state: str) -> int:
        """How many connections are in one of the `STATES`."""
        if state == "opening":
            return self.opening
        return len(self.idle) if state == "idle" else len(self.connections) - len(self.idle)

    def describe(self) -> dict[str, Any]:
        return {
            "max": self.max_size,
            "open": len(self.connections),
            "idle": len(self.idle),
            "opening": self.opening,
            "waiting": len(self._line),
            "opened": self.opened,
        }

    def __repr__(self) -> str:
        return f"<Pool {self.name} {len(self.idle)} idle of {len(self.connections)}, {len(self._line)} waiting>"


def _has_closed(transport: asyncio.Transport) -> bool:
    """Is there something to read on an idle connection, such as its end, that the loop has not seen yet?

    Asked for requests that must not be sent twice; a system call, about 1 us.
    """
    sock = transport.get_extra_info("socket")
    if sock is None:
        return False
    poll = select.poll()
    poll.register(sock.fileno(), select.POLLIN | select.POLLRDHUP)
    return bool(poll.poll(0))
