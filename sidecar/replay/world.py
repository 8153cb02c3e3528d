"""World of a replay: one policy set in force on a virtual loop, with real pipelines and real upstream connections.

Requests are given to the router of a listener without a connection of a client, which would only cost time.  Left out
are what needs something that a log does not have: credentials, header fields, servers beside the upstreams.
"""

from __future__ import annotations

import asyncio
import random
from collections.abc import Callable, Sequence
from dataclasses import replace
from functools import partial
from typing import Any, Final

from sidecar.config.spec import PolicySpec, RouteSpec, UpstreamSpec
from sidecar.control.compiler import Snapshot, compile_policies
from sidecar.control.route import Route
from sidecar.control.state import StateStore
from sidecar.core import events
from sidecar.core.env import Env
from sidecar.core.exchange import Caller, Exchange
from sidecar.core.outcome import CLIENT_CLOSED, INTERNAL, Outcome, failed
from sidecar.downstream.request_head import Peer
from sidecar.engine.pipeline import Call
from sidecar.identity.outgoing.spec import stand_in
from sidecar.replay.fit import Fitted
from sidecar.replay.peers import NUMBER, Behaviour, Peers
from sidecar.replay.record import Record, Request
from sidecar.replay.tally import Numbers, Tally
from sidecar.simulation.loop import VirtualLoop
from sidecar.simulation.no_telemetry import NoMetrics
from sidecar.simulation.transport import Address
from sidecar.telemetry.metrics.registry import Registry
from sidecar.upstream.endpoint import parse_endpoint

LEFT_OUT: Final = frozenset(("authenticate", "authorize", "cors", "mirror", "translate", "aggregate"))
"""Blocks that need what a log does not have, or that have no effect on the recorded requests."""
MOST_PEERS: Final = 10_000
"""Most clients whose addresses are remembered."""
HOST: Final = "sidecar.test"
"""Host of requests whose log has none."""
Observe = Callable[[Exchange, Outcome, float], None]
"""Function that gets each request that has ended, with its duration in seconds."""


class Unmatched(Exception):  # noqa: N818 - the finding of a run, not an error of ours
    """Raised for policies that have no route for any of the recorded requests."""


def run_world(
    spec: PolicySpec,
    requests: Sequence[Request],
    behaviour: Behaviour,
    seed: int,
    endpoints: Sequence[str] = (),
    observe: Observe | None = None,
) -> Numbers:
    """Return the numbers of one policy set with one seed.

    `endpoints` are recorded URLs, for upstreams whose endpoints are discovered.  Raises `CompileError`, and `Unmatched`
    if no request has a route.
    """
    with asyncio.Runner(loop_factory=VirtualLoop) as runner:
        return runner.run(_run(spec, requests, behaviour, seed, endpoints, observe))


def name_routes(record: Record, spec: PolicySpec) -> None:
    """Give each request without a route the one of the policies: logs of other proxies have none.

    Raises `CompileError`, and `Unmatched` if no request has a route.
    """
    if all(request.route for request in record.requests):
        return
    with asyncio.Runner(loop_factory=VirtualLoop) as runner:
        record.requests = runner.run(_with_routes(record.requests, spec))
    if not any(request.route for request in record.requests):
        raise Unmatched("no recorded request has a route")


async def _with_routes(requests: Sequence[Request], spec: PolicySpec) -> list[Request]:
    world = World(spec, Fitted(Record()), 0, (), None)
    return [each if each.route else each._replace(route=world.route_of(each)) for each in requests]


async def _run(
    spec: PolicySpec,
    requests: Sequence[Request],
    behaviour: Behaviour,
    seed: int,
    endpoints: Sequence[str],
    observe: Observe | None,
) -> Numbers:
    world = World(spec, behaviour, seed, endpoints, observe)
    await world.replay(requests)
    return world.tally.numbers(requests[-1].at if requests else 0.0)


class World:
    """Policies in force on the running `VirtualLoop`, and the requests in flight."""

    def __init__(
        self, spec: PolicySpec, behaviour: Behaviour, seed: int, endpoints: Sequence[str], observe: Observe | None
    ) -> None:
        loop = asyncio.get_running_loop()
        assert isinstance(loop, VirtualLoop)
        self._loop = loop
        self._observe = observe
        self.tally = Tally()
        self.env = Env.on(loop, wall=loop.wall, rng=random.Random(f"sidecar:{seed}"), emit=self._note, meter=Registry())
        self._store = StateStore()
        lease = self._store.lease()
        spec = simplified(spec, endpoints)
        self.snapshot: Snapshot = compile_policies(spec, self.env, lease, metrics=_no_metrics)
        self._store.commit(lease)
        urls: dict[Address, str] = {}
        for upstream in spec.upstreams.values():
            for url in upstream.urls:
                address = parse_endpoint(url)
                urls[(address.path, None) if address.path else (address.host, address.port)] = address.url
        self._peers = Peers(self.env, behaviour, urls, seed)
        loop.network.accept = self._peers.accept
        loop.network.select = lambda _: ""
        self._clients: dict[str, Peer] = {}
        self._routers = list(self.snapshot.listeners.values())
        self._in_flight = 0
        self._has_ended: asyncio.Future[None] = loop.create_future()
        self._requests: Sequence[Request] = ()
        self._next = 0

    async def replay(self, requests: Sequence[Request]) -> None:
        """Make all requests at their times, and wait for the last answer.  Raises `Unmatched`."""
        if not requests:
            return
        self._requests = requests
        self._arrive()
        await self._has_ended
        if self.tally.unmatched == len(requests):
            raise Unmatched("no recorded request has a route")

    def _arrive(self) -> None:
        """Start the requests that are due, and wait for the next one."""
        requests = self._requests
        start = self._peers.start
        now = self._loop.time()
        while self._next < len(requests) and requests[self._next].at + start <= now:
            number, self._next = self._next, self._next + 1
            self._begin(number, requests[number])
        if self._next < len(requests):
            self._loop.call_at(requests[self._next].at + start, self._arrive)
        elif not self._in_flight:
            self._end_all()

    def _begin(self, number: int, request: Request) -> None:
        """Start one request."""
        x = self._exchange(number, request)
        route = self._match(x, request)
        if route is None:
            self.tally.unmatched += 1
            self._finish(number, x, failed(INTERNAL), None)
            return
        x.route = route
        x.criticality = route.criticality
        self._in_flight += 1
        self._peers.routes[number] = request.route
        Call(route.pipeline, x, partial(self._end_call, number)).start()

    def route_of(self, request: Request) -> str:
        """Return the name of the route of a request; empty without one."""
        route = self._match(self._exchange(0, request), request)
        return "" if route is None else route.name.partition("@")[0]

    def _exchange(self, number: int, request: Request) -> Exchange:
        """Return the exchange that a listener would make of a request."""
        path = request.path.encode("utf-8", "replace") or b"/"
        x = Exchange(request.method.encode(), path, None, b"%b: %d\r\n" % (NUMBER, number))
        client = self._clients.get(request.client)
        if client is None:
            if len(self._clients) >= MOST_PEERS:
                self._clients.clear()
            client = self._clients[request.client] = Peer(request.client or "192.0.2.2", b"http")
        x.client_address = client.address
        x.forwarding = client.forwarding
        x.authority = (request.host or HOST).encode("utf-8", "replace")
        x.arrived = self.env.now()
        x.speaks_to_caches = False
        if request.caller:
            x.caller = Caller(request.caller, "", {"sub": request.caller})
        return x

    def _match(self, x: Exchange, request: Request) -> Route | None:
        """Return the route of a request: the recorded one if a listener has it, else the first that any has."""
        first = None
        for router in self._routers:
            found = router.match(x)
            if found is not None and found.name.partition("@")[0] == request.route:
                return found
            first = first or found
        return first

    def _end_call(self, number: int, call: Call) -> None:
        """Take the outcome of a request, or wait for the end of its body."""
        outcome = call.value
        if outcome is None:
            self.tally.bugs += not isinstance(call.error, asyncio.CancelledError)
            outcome = failed(INTERNAL)
        body = outcome.stream
        if body is not None:
            body.cancel(CLIENT_CLOSED)  # bodies are not replayed: the head decides
        self._in_flight -= 1
        self._finish(number, call.x, outcome, call.x.route)

    def _finish(self, number: int, x: Exchange, outcome: Outcome, route: Any) -> None:
        """Count a request that has ended."""
        seconds = self.env.now() - x.arrived
        if route is not None:
            self._peers.end(number)
        self.tally.note(x, outcome, seconds)
        if self._observe is not None:
            self._observe(x, outcome, seconds)
        if self._next == len(self._requests) and not self._in_flight:
            self._end_all()

    def _end_all(self) -> None:
        if not self._has_ended.done():
            self._has_ended.set_result(None)

    def _note(self, event: str, /, **attributes: Any) -> None:
        if event == events.BREAKER_TRANSITION and attributes.get("after") == "open":
            self.tally.opened += 1
        elif event == events.BUG:
            self.tally.bugs += 1


def _no_metrics(_: RouteSpec) -> Any:
    return NoMetrics()


def simplified(spec: PolicySpec, endpoints: Sequence[str]) -> PolicySpec:
    """Return policies without what needs credentials, header fields, or servers beside the upstreams."""
    return replace(
        spec,
        upstreams={name: _simplified_upstream(each, endpoints) for name, each in spec.upstreams.items()},
        identities={},
        routes=[_simplified_route(each) for each in spec.routes],
        caches={name: each.model_copy(update={"redis": None}) for name, each in spec.caches.items()},
        stores={name: each.model_copy(update={"redis": None, "file": None}) for name, each in spec.stores.items()},
    )


def _simplified_route(spec: RouteSpec) -> RouteSpec:
    """Return a route without the blocks of `LEFT_OUT`; one with parts keeps them, and gets no requests."""
    left_out = LEFT_OUT - {"aggregate"} if spec.parts else LEFT_OUT
    blocks = {name: each for name, each in spec.blocks.items() if name not in left_out}
    return replace(spec, blocks=blocks, arms=tuple(map(_simplified_route, spec.arms)))


def _simplified_upstream(spec: UpstreamSpec, endpoints: Sequence[str]) -> UpstreamSpec:
    """Return an upstream with fixed endpoints over HTTP/1.1, without health checks, TLS and discovery."""
    changed: dict[str, Any] = {"health_check": None, "tls": None, "discover": None, "protocol": "http1"}
    if spec.credentials is not None:
        changed["credentials"] = stand_in(spec.credentials)
    if spec.discover is not None:
        changed["endpoints"] = tuple(endpoints) or ("http://discovered:80",)
    return spec.model_copy(update=changed)
