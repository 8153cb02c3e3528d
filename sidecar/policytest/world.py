"""World of a test: policies in force on a virtual loop, with real connections, pipelines and upstream clients."""

from __future__ import annotations

import asyncio
import random
from dataclasses import replace
from functools import partial
from typing import Any, Final, NamedTuple
from urllib.parse import urlsplit

from sidecar.config.spec import PolicySpec, RouteSpec, UpstreamSpec
from sidecar.control.compiler import Snapshot, compile_policies
from sidecar.control.passthrough import NAME, NAME_HTTP2
from sidecar.control.state import StateStore
from sidecar.core import events
from sidecar.core.env import Env
from sidecar.core.exchange import Exchange
from sidecar.core.message import Headers
from sidecar.core.outcome import Outcome
from sidecar.downstream.capture.destination import Destination
from sidecar.downstream.connection import DownstreamConnection
from sidecar.downstream.listener import Listener
from sidecar.downstream.server import Server
from sidecar.policytest.callers import TestCallers
from sidecar.policytest.client import ClientConnection, Received, WebSocketConnection
from sidecar.policytest.messages import Messages
from sidecar.policytest.script import Script
from sidecar.policytest.spec import RequestSpec
from sidecar.policytest.streams import CallConnection
from sidecar.simulation.loop import VirtualLoop
from sidecar.simulation.no_telemetry import NoMetrics, NoTelemetry
from sidecar.simulation.transport import Address, join
from sidecar.telemetry.metrics.registry import Registry
from sidecar.upstream.discovery.spec import DiscoverSpec
from sidecar.upstream.endpoint import SCHEME_PORTS, parse_endpoint

INBOUND: Final = "inbound"
TURNS: Final = 20
"""Turns of the loop in which all callbacks that need no time have run."""
IN_PROCESS: Final[dict[str, Any]] = {"redis": None, "file": None}
"""Settings of a store whose counts are in this process."""
CLIENT_PORT: Final = 40_000
HOST: Final = "sidecar.test"
"""Host of requests that name none."""
PATIENCE: Final = 600.0
"""Virtual seconds after which a client gives up, so that no test waits for ever."""


class Observed(NamedTuple):
    """Result of one request of a client.

    - `received`: response that the client received.
    - `x`, `outcome`: exchange as the sidecar recorded it; None if it recorded none.
    - `seconds`: time from sending the request to the end of the response.
    """

    received: Received
    x: Exchange | None
    outcome: Outcome | None
    seconds: float


class World:
    """Policies of one test and their upstreams, on the running `VirtualLoop`.

    - `script`: the upstreams.
    - `messages`: the messages of gRPC.
    - `snapshot`: the compiled policies.
    - `bugs`: errors that the sidecar reported about itself.
    """

    def __init__(self, spec: PolicySpec, seed: int, messages: Messages) -> None:
        """Put the policies in force; `messages` are those of gRPC.  Raises `CompileError`."""
        loop = asyncio.get_running_loop()
        assert isinstance(loop, VirtualLoop)
        self._loop = loop
        self.bugs: list[str] = []
        self.env = Env.on(loop, wall=loop.wall, rng=random.Random(seed), emit=self._note, meter=Registry())
        self.messages = messages
        self._callers = callers = TestCallers(spec)
        called = {route.upstream for route in spec.routes if route.match.grpc or "translate" in route.blocks}
        spec = replace(
            spec,
            upstreams={name: _simplified(upstream, name in called) for name, upstream in spec.upstreams.items()},
            caches={name: cache.model_copy(update={"redis": None}) for name, cache in spec.caches.items()},
            stores={
                name: store.model_copy(update={"redis": None, "file": None}) for name, store in spec.stores.items()
            },
            identities=callers.identities,
        )
        names = {address: name for name, upstream in spec.upstreams.items() for address in _addresses(upstream)}
        self._names = names
        multiplexed = frozenset(name for name, upstream in spec.upstreams.items() if upstream.protocol == "http2")
        multiplexed |= {NAME_HTTP2}
        has_parts = any(route.parts for route in spec.routes)
        self.script = Script(self.env, names, multiplexed, messages, has_parts=has_parts)
        loop.network.accept = self.script.accept
        loop.network.select = lambda address: "h2" if names.get(address) in multiplexed else ""
        self.store = StateStore()
        lease = self.store.lease()
        self.snapshot: Snapshot = compile_policies(spec, self.env, lease, metrics=_no_metrics)
        self.store.commit(lease)

    @property
    def listener(self) -> str:
        """Name of the listener for requests that name none; empty if it is ambiguous."""
        names = list(self.snapshot.spec.listeners)
        return INBOUND if INBOUND in names else names[0] if len(names) == 1 else ""

    async def ask(self, listener: str, request: RequestSpec) -> Observed:
        """Send one request on a new connection, and wait for the end of its response.

        Raises `ValueError` if the caller's credentials or the messages of a call cannot be made.
        """
        call = request.grpc
        body = b"" if call is None else self.messages.encode(call.path, call.all_messages, of_request=True)
        request = self._callers.equip(request, dict(self.snapshot.identities), self.env.wall())
        recorded: list[tuple[Exchange, Outcome]] = []
        server = Server(self.env, lambda x, outcome, _reason, _seconds: recorded.append((x, outcome)), NoTelemetry())
        server.limits = self.snapshot.spec.limits
        front = Listener(listener, self.snapshot.spec.listeners[listener], server)
        front.use(self.snapshot)
        if front.capture is not None:
            dialled = _dialled(request)
            front.capture.read_destination = lambda _: dialled
            address = (dialled.host, dialled.port)
            if self._names.get(address) in (None, NAME, NAME_HTTP2):
                self._names[address] = NAME if call is None else NAME_HTTP2
        began = self._loop.time()
        done: asyncio.Future[Received] = self._loop.create_future()
        client: ClientConnection | CallConnection
        if request.websocket is not None:
            client = WebSocketConnection(request, done)
        elif call is None:
            client = ClientConnection(request, done)
        else:
            client = CallConnection(request, body, partial(_set_received, done))
        join(self._loop, client, DownstreamConnection(front), near_address=(request.client, CLIENT_PORT))
        timer = self._loop.call_later(PATIENCE, client.give_up)
        received = await done
        timer.cancel()
        seconds = self._loop.time() - began
        await self.settle()
        x, outcome = recorded[0] if recorded else (None, None)
        return Observed(received, x, outcome, seconds)

    async def settle(self) -> None:
        """Run all callbacks that need no time."""
        for _ in range(TURNS):
            await asyncio.sleep(0)

    def breakers(self) -> dict[str, str]:
        """Return the state of every breaker, by the name of the route, upstream or endpoint that it protects."""
        states = {}
        for key, state in self.store.objects().items():
            if key[0] == "breaker":
                states[key[-1]] = state.describe()["state"]
        return states

    def _note(self, event: str, /, **attributes: Any) -> None:
        if event == events.BUG:
            self.bugs.append(", ".join(f"{name}: {value!r}" for name, value in attributes.items()))


def _dialled(request: RequestSpec) -> Destination:
    """Return the address that the client of a captured request has dialled: that of its host."""
    fields = {name.lower(): value for name, value in request.headers.items()}
    parts = urlsplit(request.path if "://" in request.path else f"http://{fields.get('host', HOST)}")
    return Destination(parts.hostname or HOST, parts.port or SCHEME_PORTS["http"])


def _no_metrics(_: RouteSpec) -> Any:
    return NoMetrics()


def _set_received(
    done: asyncio.Future[Received], status: int, headers: Headers, body: bytes, trailers: Headers, is_whole: bool
) -> None:
    """Set the result of a call, unless it is set already."""
    if not done.done():
        done.set_result(Received(status, headers, body, is_whole, trailers))


def _simplified(spec: UpstreamSpec, is_called: bool) -> UpstreamSpec:
    """Return an upstream with fixed endpoints, without health checks, TLS and discovery.

    Its credentials are those for tests.  It speaks HTTP/2 if only that is left to it, or if it may and a route of gRPC
    calls it; else HTTP/1.1.
    """
    speaks_http2 = spec.protocol == "http2" or (is_called and spec.may_use_http2(spec.is_tls))
    protocol = "http2" if speaks_http2 else "http1"
    changed: dict[str, Any] = {"health_check": None, "tls": None, "discover": None, "protocol": protocol}
    if spec.credentials is not None:
        from sidecar.identity.outgoing.spec import stand_in

        changed["credentials"] = stand_in(spec.credentials)
    if spec.discover is not None:
        changed["endpoints"] = (_discovered(spec.discover),)
    return spec.model_copy(update=changed)


def _discovered(spec: DiscoverSpec) -> str:
    """Return the one endpoint of an upstream whose endpoints are discovered."""
    name = spec.host or (spec.srv or "").rstrip(".").partition("._")[2].partition(".")[2] or "discovered"
    kubernetes = spec.kubernetes
    port = spec.port or (kubernetes.port if kubernetes is not None and isinstance(kubernetes.port, int) else None)
    return f"{spec.scheme}://{name}:{port or SCHEME_PORTS[spec.scheme]}"


def _addresses(spec: UpstreamSpec) -> list[Address]:
    """Return the addresses of an upstream's endpoints."""
    found = [parse_endpoint(url) for url in spec.urls]
    return [(address.path, None) if address.path else (address.host, address.port) for address in found]
