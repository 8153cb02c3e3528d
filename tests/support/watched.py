"""Whole sidecar in virtual time with its observation: metrics, refusals, traffic by second, logs, state.

The sidecar is composed as in `sidecar.app`, without the admin listener.  Clients and upstreams exchange bytes.
"""

from __future__ import annotations

import asyncio
import json
import random
from collections.abc import Callable, Mapping
from typing import Any, cast

from sidecar.admin.view import name_of
from sidecar.config.files import Source, digest
from sidecar.config.spec import RouteSpec
from sidecar.control.reload import Control, PolicySource, Reload
from sidecar.control.state import StateStore
from sidecar.core.env import Env
from sidecar.downstream.server import Server
from sidecar.simulation.loop import VirtualLoop
from sidecar.telemetry.metrics.durations import RouteMetrics
from sidecar.telemetry.metrics.registry import Registry
from sidecar.telemetry.metrics.traffic import Traffic
from sidecar.telemetry.pipeline import Telemetry
from sidecar.telemetry.plain import Secrets
from sidecar.telemetry.recorder import Recorder
from sidecar.telemetry.refusals import Refusals

ADDRESS = ("127.0.0.1", 8080)
UPSTREAM = "http://10.0.0.1:80"
Answer = Callable[[asyncio.Transport, bytes], None]
"""Function that answers the bytes of a request on an upstream's transport."""
POLICY = {
    "version": 1,
    "listeners": {"inbound": {"address": "127.0.0.1:8080", "untrusted": {"min_deadline": "0s"}}},
    "upstreams": {"u": {"endpoints": [UPSTREAM]}},
    "routes": [{"name": "r", "match": {"path_prefix": "/"}, "upstream": "u"}],
}


def policy(upstream: Mapping[str, Any] | None = None, **route: Any) -> dict[str, Any]:
    """Return policies with the route `r` before the upstream `u`."""
    return POLICY | {
        "upstreams": {"u": {"endpoints": [UPSTREAM], **(upstream or {})}},
        "routes": [{"name": "r", "match": {"path_prefix": "/"}, "upstream": "u", **route}],
    }


class Lines:
    """Log lines in memory."""

    dropped = 0
    waiting = 0

    def __init__(self) -> None:
        self.text = b""

    def write(self, line: bytes) -> bool:
        self.text += line
        return True

    def close(self) -> bool:
        return True

    def entries(self) -> list[dict[str, Any]]:
        """Return the lines so far as JSON."""
        return [json.loads(line) for line in self.text.splitlines()]


class Peer(asyncio.Protocol):
    """Connection whose bytes are kept; an upstream's answers them."""

    def __init__(self, answer: Answer | None = None) -> None:
        self.received = b""
        self.is_closed = False
        self._answer = answer
        self.transport: asyncio.Transport

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self.transport = cast("asyncio.Transport", transport)

    def data_received(self, data: bytes) -> None:
        self.received += data
        if self._answer is not None:
            self._answer(self.transport, data)

    def connection_lost(self, error: Exception | None) -> None:
        self.is_closed = True


class Watched:
    """Sidecar in virtual time; `await start(policies)` first, on a `VirtualLoop`."""

    def __init__(self) -> None:
        loop = asyncio.get_running_loop()
        assert isinstance(loop, VirtualLoop)
        self.loop = loop
        self.registry = Registry()
        self.events: list[tuple[str, dict[str, Any]]] = []
        env = Env.on(
            loop,
            wall=loop.wall,
            rng=random.Random(0),
            emit=lambda event, /, **facts: self.events.append((event, facts)),
            meter=self.registry,
        )
        self.env = env
        self.lines = Lines()
        self.refusals = Refusals(loop.wall, self.registry)
        self.recorder = Recorder(self.registry, self.refusals, env.now, env.wall)
        self.telemetry = Telemetry(
            env,
            self.registry,
            self.recorder,
            Secrets(),
            {},
            "1",
            loop.call_soon_threadsafe,
            make_lines=lambda: self.lines,
        )
        self.server = Server(env, self.recorder.record, self.telemetry, loop.network.socket)
        self.store = StateStore(self.registry)
        self.traffic = Traffic(self.registry)
        self.sources: list[Source] = []
        origin = PolicySource("p", {}, lambda _: self.sources, lambda _: digest(self.sources), cast("Any", _directly))
        self.control = Control(env, self.store, origin, self.server, metrics=self._metrics)
        self.answer: Answer = respond()
        self.upstream = loop.network.listen(lambda: Peer(self._respond), ("10.0.0.1", 80))

    def _metrics(self, spec: RouteSpec) -> RouteMetrics:
        return RouteMetrics(self.registry, {"route": spec.name, "http.route": spec.match.template})

    def _respond(self, transport: asyncio.Transport, data: bytes) -> None:
        self.answer(transport, data)

    def write(self, policies: Mapping[str, Any] | bytes) -> None:
        """Write the policy file."""
        text = policies if isinstance(policies, bytes) else json.dumps(policies).encode()
        self.sources = [Source("p.yaml", text)]

    async def start(self, policies: Mapping[str, Any]) -> Reload:
        """Put the first policies in force and serve."""
        self.write(policies)
        result = await self.control.reload("start")
        assert result.result == "applied", result.problems
        self.env.spawn(self.control.watch())
        self.server.start()
        return result

    async def connect(self) -> Peer:
        """Return a new client connection."""
        _, peer = await self.loop.network.connect(Peer, ADDRESS)
        assert isinstance(peer, Peer)
        return peer

    async def ask(self, target: str = "/", *fields: str, seconds: float = 0.0, method: str = "GET") -> bytes:
        """Send a request on a new connection; return the bytes received after so many seconds."""
        peer = await self.connect()
        head = "".join(f"{line}\r\n" for line in (f"{method} {target} HTTP/1.1", "host: h", *fields))
        peer.transport.write(f"{head}\r\n".encode())
        await self.sleep(seconds)
        peer.transport.abort()
        await self.sleep(0)
        return peer.received

    async def sleep(self, seconds: float) -> None:
        await asyncio.sleep(seconds)
        for _ in range(20):
            await asyncio.sleep(0)

    # ----- observers

    def log(self) -> list[dict[str, Any]]:
        """Return the lines of the access log so far."""
        if self.recorder.access is not None:
            self.recorder.access.flush()
        return self.lines.entries()

    def second(self) -> dict[str, list[int]]:
        """Return the traffic by route since the last call, as the live page gets it."""
        found: dict[str, list[int]] = json.loads(self.traffic.sample(0.0))[1]
        return found

    def counter(self, name: str, **labels: str) -> int:
        """Return the sum of a counter's series that have these labels."""
        return int(sum(
            series.value
            for metric in self.registry.collect()
            if metric.name == name
            for series in metric.series
            if labels.items() <= dict(series.labels).items()
        ))  # fmt: skip

    def state(self, kind: str, *names: str) -> dict[str, Any]:
        """Return the description of a state object."""
        for key, state in self.store.objects().items():
            if key[0] == kind and name_of(key) == ":".join(names):
                found: dict[str, Any] = state.describe()
                return found
        raise AssertionError(f"no {kind} {names} among {list(self.store.objects())}")


def respond(status: int = 200, body: bytes = b"ok") -> Answer:
    """Return a function that sends a complete answer at once."""
    head = b"HTTP/1.1 %d x\r\ncontent-length: %d\r\n\r\n" % (status, len(body))
    return lambda transport, _: transport.write(head + body)


async def _directly(work: Callable[[], Any]) -> Any:
    return work()
