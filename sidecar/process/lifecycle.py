"""The life of the process: start, signals, readiness, drain.

    SIGTERM, SIGINT   not ready at once; no new connections; requests under way may end within `drain_timeout`; exit 0.
                      A second one ends the process now.
    SIGHUP            read the policy files again.

It is ready from the moment its listeners are bound until it drains.  A policy file that is wrong at the start ends it
with exit code 1 and all problems on standard error; one that goes wrong later changes nothing (`control/reload.py`).
"""

from __future__ import annotations

import asyncio
import signal
import sys
from typing import Any, Final

from aiohttp import web

from sidecar.admin.app import Admin
from sidecar.admin.view import AdminView
from sidecar.config.process_spec import AdminSpec, reveal
from sidecar.control.reload import Control, Reload
from sidecar.control.state import StateStore
from sidecar.core import events, metrics
from sidecar.core.env import Env
from sidecar.downstream.server import Server
from sidecar.downstream.sockets import Sockets
from sidecar.process.stall import StallWatch
from sidecar.telemetry.logs.log import Emitter
from sidecar.telemetry.metrics.registry import Registry
from sidecar.telemetry.plain import Secrets
from sidecar.telemetry.refusals import Refusals

WATCH: Final = 1.0
"""Seconds between two looks at certificates."""


class Process:
    """One running sidecar."""

    def __init__(
        self,
        env: Env,
        control: Control,
        store: StateStore,
        server: Server,
        registry: Registry,
        emitter: Emitter,
        refusals: Refusals,
        secrets: Secrets,
        version: str,
    ) -> None:
        self._env = env
        self._control = control
        self._store = store
        self._server = server
        self._registry = registry
        self._emitter = emitter
        self._refusals = refusals
        self._secrets = secrets
        self._version = version
        self._started = env.now()
        self._not_ready = "starting"
        self._stop = asyncio.Event()
        self._stop_now = asyncio.Event()
        self._stalls = StallWatch(env)
        self._sockets: Sockets | None = None
        """Of the admin listener."""

    async def live(self) -> int:
        """From the start to the end; returns the exit code."""
        loop = asyncio.get_running_loop()
        loop.add_signal_handler(signal.SIGTERM, self._ask_to_stop, "SIGTERM")
        loop.add_signal_handler(signal.SIGINT, self._ask_to_stop, "SIGINT")
        loop.add_signal_handler(signal.SIGHUP, self._ask_to_reload)
        first = await self._control.reload("start")
        snapshot = self._control.snapshot
        if snapshot is None:
            for problem in first.problems:
                print(problem, file=sys.stderr)
            return 1
        try:
            runner, admin = await self._serve_admin(snapshot.spec.admin)
        except OSError as error:
            print(error.strerror or error, file=sys.stderr)
            return 1
        self._env.meter.gauge(metrics.LOOP_TASKS, lambda: len(asyncio.all_tasks(loop)))
        background = [self._env.spawn(self._control.watch()), self._env.spawn(self._watch_certificates())]
        self._server.start()
        self._stalls.start()
        self._not_ready = ""
        addresses = {name: listener.addresses[0] for name, listener in self._server.listeners.items()}
        self._env.emit(events.READY, version=self._version, listeners=addresses, admin=admin)
        await self._stop.wait()
        await self._drain()
        for task in background:
            task.cancel()
        self._stalls.stop()
        if runner is not None:
            await runner.cleanup()
        if self._sockets is not None:
            self._sockets.close()
        self._env.emit(events.STOPPED)
        return 0

    async def _drain(self) -> None:
        snapshot = self._control.snapshot
        assert snapshot is not None
        timeout = snapshot.spec.limits.drain_timeout
        self._env.emit(events.DRAINING, connections=self._server.open_connections, timeout_seconds=timeout)
        draining = self._env.spawn(self._server.drain(timeout))
        now = self._env.spawn(self._stop_now.wait())
        await asyncio.wait((draining, now), return_when=asyncio.FIRST_COMPLETED)
        now.cancel()
        if not draining.done():
            draining.cancel()
            self._server.abort()
        elif draining.result():
            self._env.emit(events.DRAIN_EXPIRED, connections=draining.result())

    # ----- signals

    def _ask_to_stop(self, name: str) -> None:
        if self._stop.is_set():
            self._stop_now.set()
        self._not_ready = f"draining since {name}"
        self._stop.set()

    def _ask_to_reload(self) -> None:
        self._env.spawn(self._control.reload("signal"))

    async def _watch_certificates(self) -> None:
        while True:
            await self._env.sleep(WATCH)
            for key, thing in self._store.objects().items():
                if key[0] == "tls":
                    thing.poll()

    # ----- the admin listener

    async def _serve_admin(self, spec: AdminSpec | None) -> tuple[web.AppRunner | None, str]:
        """Its runner and address; raises `OSError` that says what cannot be had."""
        if spec is None:
            return None, ""
        token = None if spec.token is None else reveal(spec.token)
        if token is not None:
            self._secrets.hide([token])
        view = AdminView(
            env=self._env,
            registry=self._registry,
            version=self._version,
            started=self._started,
            ready=lambda: self._not_ready,
            reload=self._reload,
            states=self._store.objects,
            recent=self._emitter.recent,
            sections={
                "policies": self._policies,
                "reloads": lambda: [reload.describe() for reload in self._control.history],
                "routes": self._routes,
                "refusals": self._refusals.describe,
                "listeners": self._server.describe,
                "loop": lambda: {**self._stalls.describe(), "tasks": len(asyncio.all_tasks())},
            },
            secrets=self._secrets,
            token=token,
        )
        runner = web.AppRunner(Admin(view).application(), access_log=None, handle_signals=False)
        await runner.setup()
        try:
            self._sockets = sockets = await Sockets.open(spec.address)
        except OSError as error:
            await runner.cleanup()
            raise OSError(
                error.errno, f"the admin listener cannot listen on {spec.address}: {error.strerror}"
            ) from error
        for sock in sockets.duplicates():
            await web.SockSite(runner, sock).start()
        return runner, sockets.addresses[0]

    async def _reload(self) -> Reload:
        return await self._control.reload("request")

    def _policies(self) -> dict[str, Any]:
        snapshot = self._control.snapshot
        return {} if snapshot is None else {"service": snapshot.spec.service, "digest": snapshot.digest[:12]}

    def _routes(self) -> dict[str, Any]:
        snapshot = self._control.snapshot
        if snapshot is None:
            return {}
        return {
            name: {
                "upstream": route.upstream,
                "chain": [
                    {"policy": link.policy, "scope": link.scope, "mode": link.block.mode, "where": link.where}
                    for link in route.chain
                ],
            }
            for name, route in snapshot.routes.items()
        }
