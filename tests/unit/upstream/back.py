"""An endpoint without sockets: connections are joined in memory to servers that the test plays, in virtual time.

back = Back()
run = back.send(exchange())
await settle()
back.server.write(OK)
await settle()
assert run.value.status == 200
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from sidecar.core.body import Body
from sidecar.core.exchange import Exchange
from sidecar.core.message import Headers
from sidecar.core.outcome import Failure, Outcome
from sidecar.core.promise import Run
from sidecar.upstream.client import Upstream, make_upstream
from sidecar.upstream.connection import Connection
from sidecar.upstream.deadlines import Deadlines
from sidecar.upstream.pool import Pool
from sidecar.upstream.spec import UpstreamSpec
from tests.support.loop import virtual_env
from tests.support.service import Store
from tests.support.transports import TransportPair, Wire

OK = b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nhi"
NEVER = float("inf")


class Peer(Wire):
    """The server's end of one connection."""

    pair: TransportPair

    @property
    def requests(self) -> int:
        return self.received.count(b" HTTP/1.1\r\n")


class Back:
    """A pool, or an upstream of one endpoint, and the servers behind it."""

    def __init__(self, **spec: Any) -> None:
        self.env = virtual_env()
        self.deadlines = Deadlines(self.env)
        self.peers: list[Peer] = []
        self.connecting: Callable[[], Any] | None = None
        """What connecting waits for or raises, where it is not at once."""
        self.pool = Pool("http://test:80", self.env, self.deadlines, self.connect)
        self.spec = UpstreamSpec.model_validate({"endpoints": ["http://test:80"], **spec})
        self.pool.retune(self.spec)

    async def connect(self, protocol: Callable[[], Connection]) -> None:
        if self.connecting is not None:
            await self.connecting()
        peer = Peer()
        peer.pair = TransportPair(protocol(), peer)
        self.peers.append(peer)

    @property
    def server(self) -> Peer:
        """The end of the newest connection."""
        return self.peers[-1]

    def send(self, x: Exchange, expires: float = NEVER) -> Run[Outcome]:
        """One exchange over the pool, without an upstream around it."""

        async def go() -> Outcome:
            now = self.env.now()
            connection = self.pool.take(x, now) or await self.pool.open(expires)
            if not isinstance(connection, Connection):
                return connection
            return await connection.exchange(x, expires, now)

        return Run(go(), lambda run: None)

    def upstream(self) -> Upstream:
        """The whole client, its one endpoint connected to this."""
        store = Store()
        upstream = make_upstream("test", self.spec, self.env, store.obtain)
        self.deadlines = upstream._deadlines
        pool = upstream._pools.of(upstream.endpoints.members[0])
        pool.connect = self.connect
        self.pool = pool
        return upstream


class Sink:
    """The sink of an answer's body."""

    def __init__(self, outcome: Outcome | None) -> None:
        self.data = bytearray()
        self.trailers: Headers | None = None
        self.failure: Failure | None = None
        assert outcome is not None
        assert outcome.stream is not None
        self.stream = outcome.stream
        self.stream.attach(self)

    @property
    def is_whole(self) -> bool:
        return self.trailers is not None

    def write(self, data: bytes) -> None:
        self.data += data

    def finish(self, trailers: Headers) -> None:
        self.trailers = trailers

    def fail(self, failure: Failure) -> None:
        self.failure = failure


class Source:
    """Where a request's body comes from, in a test."""

    def __init__(self) -> None:
        self.said: list[str] = []

    def pause_body(self) -> None:
        self.said.append("pause")

    def resume_body(self) -> None:
        self.said.append("resume")

    def cancel_body(self) -> None:
        self.said.append("cancel")


def upload(length: int | None = None, method: bytes = b"POST", **facts: Any) -> tuple[Exchange, Body, Source]:
    """A request whose body is still coming."""
    source = Source()
    x = Exchange(method, b"/", [])
    x.stream = Body(source, length)
    for name, value in facts.items():
        setattr(x, name, value)
    return x, x.stream, source


def outcome_of(run: Run[Outcome]) -> Outcome:
    """What a run that has ended has brought."""
    assert run.error is None, run.error
    assert run.value is not None, "it has not ended"
    return run.value
