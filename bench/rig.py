"""Sidecar in this process, between a client and an upstream that are in-memory transports.

Between the bytes of a request and those of its response runs the production code: the listener's connection, routing,
the compiled pipeline, the upstream's client, telemetry.  There are no system calls, whose times would hide small
differences.
"""

from __future__ import annotations

import asyncio
import json
import random
import sys
import time
import traceback
from collections.abc import Callable, Mapping
from types import TracebackType
from typing import Any, Final, cast

from sidecar import __version__
from sidecar.app import route_metrics
from sidecar.config.files import Source
from sidecar.control.reload import Control, PolicySource
from sidecar.control.state import StateStore
from sidecar.core.env import Env
from sidecar.downstream.connection import DownstreamConnection
from sidecar.downstream.server import Server
from sidecar.telemetry.metrics.registry import Registry
from sidecar.telemetry.pipeline import Telemetry
from sidecar.telemetry.plain import Secrets
from sidecar.telemetry.recorder import Recorder
from sidecar.telemetry.refusals import Refusals

UPSTREAM: Final = "app"
TURNS: Final = 1000
"""Turns of the event loop that a response may take."""
PAUSE: Final = 0.00005
"""Seconds between two looks at the access log's writer."""


class Wire:
    """Transport that counts writes and keeps the last one."""

    def __init__(self) -> None:
        self.writes = 0
        self.last = b""
        self.protocol: Any = None

    def write(self, data: bytes) -> None:
        self.writes += 1
        self.last = data

    def writelines(self, parts: list[bytes]) -> None:
        self.write(b"".join(parts))

    def set_write_buffer_limits(self, high: int) -> None:
        """Do nothing: writing never pauses."""

    def is_closing(self) -> bool:
        return False

    def get_extra_info(self, name: str, default: Any = None) -> Any:
        return ("127.0.0.1", 1) if name == "peername" else default

    def close(self) -> None:
        """Do nothing: connections stay open."""

    abort = pause_reading = resume_reading = close


class Rig:
    """Sidecar in this process: `async with Rig(policies) as rig: await rig.ask(request, answer)`.

    The policies have one upstream, named `UPSTREAM`, with one endpoint and without TLS.
    """

    def __init__(self, policies: Mapping[str, Any]) -> None:
        loop = asyncio.get_running_loop()
        registry, secrets = Registry(), Secrets()
        env = Env.on(loop, now=time.monotonic, wall=time.time, rng=random.Random(), emit=_tell, meter=registry)
        self._recorder = recorder = Recorder(registry, Refusals(time.time, registry), env.now, env.wall)
        self._telemetry = Telemetry(env, registry, recorder, secrets, {}, __version__, loop.call_soon_threadsafe)
        self._server = Server(env, recorder.record, self._telemetry)
        self._store = StateStore(registry)
        self._policies = policies
        origin = PolicySource("", {}, read=self._read, look=lambda _: 0)
        metrics: Callable[[Any], Any] = lambda spec: route_metrics(registry, spec)  # noqa: E731 - typed
        self._control = Control(env, self._store, origin, self._server, metrics=metrics)
        self._client, self._upstream = Wire(), Wire()

    def _read(self, _: str) -> list[Source]:
        inbound = {"inbound": {"address": "127.0.0.1:0"}}
        whole = {"version": 1, "service": "bench", "listeners": inbound, **self._policies}
        return [Source("policies.yaml", json.dumps(whole).encode())]

    async def reload(self, policies: Mapping[str, Any]) -> None:
        """Replace the policies."""
        self._policies = policies
        done = await self._control.reload("request")
        if done.result != "applied":
            raise RuntimeError("\n".join(map(str, done.problems)))

    async def __aenter__(self) -> Rig:
        done = await self._control.reload("start")
        if self._control.snapshot is None:
            raise SystemExit("\n".join(map(str, done.problems)))
        objects = self._store.objects()
        (member,) = objects["endpoints", UPSTREAM].members
        objects["pools", UPSTREAM, "None"].of(member).connect = self._connect
        self._downstream = DownstreamConnection(self._server.listeners["inbound"])
        self._downstream.connection_made(cast("asyncio.Transport", self._client))
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._downstream.connection_lost(None)
        await self._server.drain(0)
        await self._telemetry.close(0.1)

    async def _connect(self, factory: Callable[[], Any]) -> None:
        self._upstream.protocol = protocol = factory()
        protocol.connection_made(self._upstream)

    async def ask(self, request: bytes, *answer: bytes) -> bytes:
        """Send a request and return the last write to the client.

        If the upstream is asked, it sends the pieces of `answer` with a turn of the loop between two.  Further turns
        are run until the client has a response that ends with the same byte as the upstream's.
        """
        client, upstream, end = self._client, self._upstream, answer[-1][-1:]
        asked, had = upstream.writes, client.writes
        self._downstream.data_received(request)
        turns = 0
        while client.writes == had or not client.last.endswith(end):
            if upstream.writes != asked:
                asked = upstream.writes
                protocol = upstream.protocol
                protocol.data_received(answer[0])
                for piece in answer[1:]:
                    await asyncio.sleep(0)
                    protocol.data_received(piece)
            else:
                turns += 1
                if turns > TURNS:
                    raise RuntimeError(f"no whole answer; so far: {client.last!r}")
                await asyncio.sleep(0)
        return client.last

    def settle(self) -> None:
        """Wait until the access log's thread has written all lines, which it collects under load."""
        if self._recorder.access is None:
            return
        self._recorder.access.flush()
        while (lines := self._telemetry._lines) is not None and lines.waiting:
            time.sleep(PAUSE)


def _tell(event: str, /, **attributes: Any) -> None:
    """Print warnings and errors of the sidecar, which no measurement should cause."""
    if error := attributes.get("error"):
        traceback.print_exception(error)
    if attributes.get("level") in ("warning", "error"):
        print(event, attributes, file=sys.stderr)
