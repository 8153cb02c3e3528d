"""Endpoint without sockets: connections are joined in memory to servers that the test plays, in virtual time.

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
from sidecar.core.stage import Gate
from sidecar.engine.pipeline import Pipeline
from sidecar.upstream.client import Upstream
from sidecar.upstream.connection import UpstreamConnection
from sidecar.upstream.deadlines import Deadlines
from sidecar.upstream.endpoint import Endpoint
from sidecar.upstream.pool import Pool
from sidecar.upstream.spec import UpstreamSpec
from tests.support.loop import virtual_env
from tests.support.receiver import exchanged
from tests.support.service import Store
from tests.support.transports import TransportPair, Wire

OK = b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nhi"
NEVER = float("inf")


class Peer(Wire):
    """Server's end of one connection."""

    pair: TransportPair

    @property
    def requests(self) -> int:
        return self.received.count(b" HTTP/1.1\r\n")


class Back:
    """Pool, or upstream of one endpoint, and the servers behind it."""

    def __init__(self, **spec: Any) -> None:
        self.env = virtual_env()
        self.deadlines = Deadlines(self.env)
        self.peers: list[Peer] = []
        self.connecting: Callable[[], Any] | None = None
        """Function whose result is awaited before each connection is made; None: connect at once."""
        self.extra: dict[str, Any] = {}
        """Results of `get_extra_info` of the proxy's end of a new connection, such as its `socket`."""
        self.pool = Pool("http://test:80", self.env, self.deadlines, self.connect)
        self.spec = UpstreamSpec.model_validate({"endpoints": ["http://test:80"], **spec})
        self.pool.retune(self.spec)

    async def connect(self, protocol: Callable[[], UpstreamConnection]) -> None:
        if self.connecting is not None:
            await self.connecting()
        peer = Peer()
        peer.pair = TransportPair(protocol(), peer, self.extra)
        self.peers.append(peer)

    @property
    def server(self) -> Peer:
        """Return the server's end of the newest connection."""
        return self.peers[-1]

    def send(self, x: Exchange, expires: float = NEVER) -> Run[Outcome]:
        """Carry one exchange over the pool, without an upstream around it."""

        async def go() -> Outcome:
            now = self.env.now()
            connection = self.pool.take(x, now) or await self.pool.open(expires)
            if not isinstance(connection, UpstreamConnection):
                return connection
            return await exchanged(connection, x, expires, now)

        return Run(go(), lambda run: None)

    def upstream(self, gate: Callable[[Endpoint], Gate] | None = None) -> Upstream:
        """Return an upstream whose one endpoint is connected here, with a gate of its own."""
        store = Store()
        upstream = Upstream("test", self.spec, self.env, store.obtain, endpoint_gate=gate)
        self.pool = upstream.pools.of(upstream.endpoints.members[0])
        self.pool.connect = self.connect
        self.deadlines = self.pool.deadlines
        return upstream


class Sink:
    """Sink that collects a response's body."""

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


class Interims:
    """Interim responses that were passed on to the client."""

    def __init__(self) -> None:
        self.said: list[tuple[int, bytes]] = []

    def __call__(self, status: int, lines: bytes) -> None:
        self.said.append((status, lines))


class Source:
    """Source of a request's body, which records its calls."""

    def __init__(self) -> None:
        self.said: list[str] = []

    def pause_body(self) -> None:
        self.said.append("pause")

    def resume_body(self) -> None:
        self.said.append("resume")

    def cancel_body(self) -> None:
        self.said.append("cancel")


def get(method: bytes = b"GET", **facts: Any) -> Exchange:
    """Return a request without a body; `facts` are attributes of the exchange."""
    x = Exchange(method, b"/", [])
    for name, value in facts.items():
        setattr(x, name, value)
    return x


def start(upstream: Upstream, x: Exchange) -> Run[Outcome]:
    """Start one attempt."""
    return Run(Pipeline([], upstream)(x), lambda run: None)


def upload(length: int | None = None, method: bytes = b"POST", **facts: Any) -> tuple[Exchange, Body, Source]:
    """Return a request whose body is still arriving, with its body and the body's source."""
    source = Source()
    x = Exchange(method, b"/", [])
    x.stream = Body(source, length)
    for name, value in facts.items():
        setattr(x, name, value)
    return x, x.stream, source


def outcome_of(run: Run[Outcome]) -> Outcome:
    """Return the outcome of a run that has ended."""
    assert run.error is None, run.error
    assert run.value is not None, "it has not ended"
    return run.value
