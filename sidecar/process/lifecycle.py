"""Lifecycle of the process: start, signals, readiness, drain.

    SIGTERM, SIGINT   not ready any more; no new connections; requests in flight may end within `drain_timeout`; then
                      exit code 0.  A second signal ends the process at once.
    SIGHUP            reload the policy files.

The process is ready from the moment its listeners are bound until it drains.  If the policy files are wrong at the
start, it ends with exit code 1 and all problems on standard error.  Files that are wrong at a reload change nothing
(`control/reload.py`).
"""

from __future__ import annotations

import asyncio
import signal
import sys
from typing import Final

from sidecar.admin.listener import AdminListener
from sidecar.admin.view import AdminView
from sidecar.config.process_spec import AdminSpec
from sidecar.control.reload import Control
from sidecar.control.state import StateStore
from sidecar.core import events, metrics
from sidecar.core.env import Env
from sidecar.downstream.server import Server
from sidecar.process.stall import StallWatch

WATCH_SECONDS: Final = 1.0
"""Pause between two checks of certificate files for changes."""


class Process:
    """Running sidecar, from its start to its exit."""

    def __init__(
        self, env: Env, control: Control, store: StateStore, server: Server, stalls: StallWatch, view: AdminView
    ) -> None:
        """`view` is the admin listener's view of the process; this class sets its `readiness`."""
        self._env = env
        self._control = control
        self._store = store
        self._server = server
        self._stalls = stalls
        self._view = view
        self._stop = asyncio.Event()
        self._stop_now = asyncio.Event()

    async def run(self) -> int:
        """Start, serve until a signal, drain, and return the exit code."""
        loop = asyncio.get_running_loop()
        loop.add_signal_handler(signal.SIGTERM, self._begin_stop, "SIGTERM")
        loop.add_signal_handler(signal.SIGINT, self._begin_stop, "SIGINT")
        loop.add_signal_handler(signal.SIGHUP, self._begin_reload)
        first = await self._control.reload("start")
        snapshot = self._control.snapshot
        if snapshot is None:
            for problem in first.problems:
                print(self._view.secrets.text(problem), file=sys.stderr)
            return 1
        try:
            admin = await self._open_admin(snapshot.spec.admin)
        except OSError as error:
            print(snapshot.spec.masks.text(error.strerror or str(error)), file=sys.stderr)
            return 1
        self._env.meter.gauge(metrics.LOOP_TASKS, lambda: len(asyncio.all_tasks(loop)))
        background = [self._env.spawn(self._control.watch()), self._env.spawn(self._watch_certificates())]
        self._server.start()
        self._stalls.start()
        self._view.readiness.obstacle = ""
        addresses = {name: listener.addresses[0] for name, listener in self._server.listeners.items()}
        place = "" if admin is None else admin.addresses[0]
        self._env.emit(events.READY, version=self._view.version, listeners=addresses, admin=place)
        await self._stop.wait()
        await self._drain()
        await self._give_back()
        for task in background:
            task.cancel()
        self._stalls.stop()
        if admin is not None:
            await admin.close()
        self._env.emit(events.STOPPED)
        return 0

    async def _open_admin(self, spec: AdminSpec | None) -> AdminListener | None:
        """Open the admin listener; None if the policies have none.  Raises `OSError`."""
        if spec is None:
            return None
        listener = AdminListener(self._view)
        await listener.open(spec)
        self._control.on_applied = listener.renew
        return listener

    async def _drain(self) -> None:
        """Drain the listeners; end when all connections are closed, the time is over, or a second signal comes."""
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

    async def _give_back(self) -> None:
        """Give units of quotas back to their stores; each waits no longer than a call may take."""
        stores = [state for key, state in self._store.objects().items() if key[0] == "store"]
        for give_back in [getattr(state, "give_back", None) for state in stores]:
            if give_back is not None:
                await give_back()

    def _begin_stop(self, name: str) -> None:
        """Begin to drain; at the second signal, end the process at once."""
        if self._stop.is_set():
            self._stop_now.set()
        self._view.readiness.obstacle = f"draining since {name}"
        self._stop.set()

    def _begin_reload(self) -> None:
        """Start a reload of the policy files."""
        self._env.spawn(self._control.reload("signal"))

    async def _watch_certificates(self) -> None:
        """Check certificate files for changes every `WATCH_SECONDS`."""
        while True:
            await self._env.sleep(WATCH_SECONDS)
            for key, watch in self._store.objects().items():
                if key[0] == "tls":
                    watch.poll()
