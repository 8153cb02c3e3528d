"""Results of an upstream's bytes, as values: the sidecar's own `UpstreamConnection` in a pool of one."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, field
from typing import Any

from sidecar.core.exchange import Exchange
from sidecar.core.message import Headers
from sidecar.core.outcome import Failure, Outcome
from sidecar.upstream.connection import UpstreamConnection
from sidecar.upstream.deadlines import Deadlines
from sidecar.upstream.pool import SILENCE, Pool
from tests.support.clock import make_env
from tests.support.receiver import exchanged
from tests.wire.pipe import Pipe


@dataclass
class Answer:
    """Outcome of a request."""

    outcome: Outcome | None = None
    body: bytearray = field(default_factory=bytearray)
    trailers: Headers = field(default_factory=list)
    broken: Failure | None = None
    is_whole: bool = False
    interim: list[int] = field(default_factory=list)
    is_reused: bool = False
    """True if the connection returned to the pool, once it was known to be silent."""

    @property
    def status(self) -> int | None:
        return None if self.outcome is None else self.outcome.status

    @property
    def reason(self) -> str:
        return "" if self.outcome is None else self.outcome.reason

    @property
    def headers(self) -> dict[bytes, bytes]:
        return {} if self.outcome is None else dict(self.outcome.headers)

    @property
    def facts(self) -> tuple[Any, ...]:
        """Return all facts that must not depend on the pieces; an answer that fails may have begun before."""
        if self.broken is not None or self.reason:
            return ("turned away",)
        headers = tuple(pair for pair in self.outcome.headers if pair[0] != b"content-length") if self.outcome else ()
        return self.status, headers, bytes(self.body), tuple(self.trailers), self.is_whole, tuple(self.interim)

    def write(self, data: bytes) -> None:
        self.body += data

    def finish(self, trailers: Headers) -> None:
        self.is_whole = True
        self.trailers = trailers

    def fail(self, failure: Failure) -> None:
        self.broken = failure


def answer(pieces: bytes | Iterable[bytes], x: Exchange | None = None, *, closes: bool = False) -> Answer:
    """Return the answer to an exchange for these bytes; if `closes`, the upstream closes the connection after them."""
    env = make_env()
    told = Answer()
    pool = Pool("http://test", env, Deadlines(env), _connect)
    connection, pipe = UpstreamConnection(pool), Pipe()
    pool.connections.add(connection)
    connection.connection_made(pipe)
    x = x or Exchange(b"GET", b"/", [])
    x.interim = lambda status, lines: told.interim.append(status)
    promise = exchanged(connection, x, float("inf"), env.now())
    for piece in (pieces,) if isinstance(pieces, bytes) else pieces:
        if piece and not pipe.closed:
            connection.data_received(piece)
            _take(told, promise)
    if closes and not pipe.closed:
        connection.connection_lost(None)
        _take(told, promise)
    if not connection.is_closing():
        env.advance(SILENCE)
    told.is_reused = connection in pool.idle
    return told


async def _connect(factory: Any) -> Any:
    raise AssertionError("there is one connection, and it is there already")


def _take(told: Answer, promise: Any) -> None:
    if told.outcome is None and promise.done():
        told.outcome = outcome = promise.result()
        if outcome.stream is not None:
            outcome.stream.attach(told)
        elif outcome.failure is None:
            told.body += outcome.body
            told.is_whole = True
