"""Lifecycle of the process: start, signals, readiness, drain.

    SIGTERM, SIGINT   not ready any more; no new connections; requests in flight may end within `drain_timeout`; then
                      exit code 0.  A second signal ends the process at once.
    SIGHUP            reload the policy files.
    SIGUSR2           start a new process, which takes the listening sockets, and drain (`handover.py`).

The process is ready from the moment its listeners are bound until it drains.  If the policy files are wrong at the
start, it ends with exit code 1 and all problems on standard error.  Files that are wrong at a reload change nothing
(`control/reload.py`).
"""

from __future__ import annotations

import asyncio
import signal
import sys
from collections.abc import Coroutine, Sequence
from typing import Any, Final

from sidecar.admin.listener import AdminListener
from sidecar.admin.view import AdminView
from sidecar.config.process_spec import AdminSpec
from sidecar.control.reload import Control
from sidecar.control.state import StateStore
from sidecar.core import events, metrics
from sidecar.core.env import Env, TaskHandle
from sidecar.downstream.server import Server
from sidecar.process.handover import ADMIN, Inheritance, start_successor
from sidecar.process.stall import StallWatch

WATCH_SECONDS: Final = 1.0
"""Pause between two checks of certificate files for changes."""


class Process:
    """Running sidecar, from its start to its exit."""

    def __init__(
        self,
        env: Env,
        control: Control,
        store: StateStore,
        server: Server,
        stalls: StallWatch,
        view: AdminView,
        inheritance: Inheritance | None = None,
    ) -> None:
        """Take the parts of the process.

        `view` is the admin listener's view of it, whose `readiness` this class sets.  `inheritance` has the sockets of
        a process that this one replaces.
        """
        self._env = env
        self._control = control
        self._store = store
        self._server = server
        self._stalls = stalls
        self._view = view
        self._inheritance = Inheritance() if inheritance is None else inheritance
        self._admin: AdminListener | None = None
        self._stop = asyncio.Event()
        self._stop_now = asyncio.Event()
        self._is_gentle = False
        """True if the drain leaves idle connections open for a while, since a new process serves the addresses."""
        self._handing_over: TaskHandle | None = None
        """Hand-over in progress; None without one."""

    async def run(self) -> int:
        """Start, serve until a signal, drain, and return the exit code."""
        loop = asyncio.get_running_loop()
        self._handle_signals(loop)
        first = await self._control.reload("start")
        snapshot = self._control.snapshot
        if snapshot is None:
            for problem in first.problems:
                print(self._view.secrets.text(problem), file=sys.stderr)
            return 1
        try:
            await self._open_admin(snapshot.spec.admin)
        except OSError as error:
            print(snapshot.spec.masks.text(error.strerror or str(error)), file=sys.stderr)
            return 1
        self._env.meter.gauge(metrics.LOOP_TASKS, lambda: len(asyncio.all_tasks(loop)))
        background = [self._env.spawn(each) for each in self._background()]
        self._server.start()
        self._stalls.start()
        self._view.readiness.obstacle = ""
        self._announce()
        await self._stop.wait()
        await self._drain()
        await self._give_back()
        for task in background:
            task.cancel()
        self._stalls.stop()
        if self._admin is not None:
            await self._admin.close()
        self._env.emit(events.STOPPED)
        return 0

    def _handle_signals(self, loop: asyncio.AbstractEventLoop) -> None:
        """Set the handlers of signals."""
        loop.add_signal_handler(signal.SIGTERM, self._begin_stop, "SIGTERM")
        loop.add_signal_handler(signal.SIGINT, self._begin_stop, "SIGINT")
        loop.add_signal_handler(signal.SIGHUP, self._begin_reload)
        loop.add_signal_handler(signal.SIGUSR2, self._begin_hand_over)

    def _background(self) -> Sequence[Coroutine[Any, Any, None]]:
        """Return the coroutines that run until the drain has ended."""
        return [self._control.watch(), self._watch_certificates()]

    def _announce(self) -> None:
        """Tell the world that the process is ready."""
        self._inheritance.finish()
        addresses = {name: listener.addresses[0] for name, listener in self._server.listeners.items()}
        place = "" if self._admin is None else self._admin.addresses[0]
        self._env.emit(events.READY, version=self._view.version, listeners=addresses, admin=place)

    async def _open_admin(self, spec: AdminSpec | None) -> None:
        """Open the admin listener, if the policies have one.  Raises `OSError`."""
        if spec is None:
            return
        listener = AdminListener(self._view, self._inheritance.open_admin)
        await listener.open(spec)
        self._admin = listener
        self._control.on_applied = listener.renew

    async def _drain(self) -> None:
        """Drain the listeners; end when all connections are closed, the time is over, or a second signal comes."""
        snapshot = self._control.snapshot
        assert snapshot is not None
        timeout = snapshot.spec.limits.drain_timeout
        self._env.emit(events.DRAINING, connections=self._server.open_connections, timeout_seconds=timeout)
        draining = self._env.spawn(self._server.drain(timeout, is_gentle=self._is_gentle))
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
        if self._handing_over is not None:
            self._handing_over.cancel()
        self._view.readiness.obstacle = f"draining since {name}"
        self._end_reloads()
        self._stop.set()

    def _end_reloads(self) -> None:
        """Put no more policies in force, which could open listeners again."""
        self._control.close()

    def _begin_reload(self) -> None:
        """Start a reload of the policy files."""
        self._env.spawn(self._control.reload("signal"))

    def _begin_hand_over(self) -> None:
        """Start the hand-over to a new process, unless one is in progress or the process drains."""
        if self._handing_over is None and not self._stop.is_set():
            self._handing_over = self._env.spawn(self._hand_over())

    async def _hand_over(self) -> None:
        """Start a new process; drain once it is ready, or go on if it does not get ready."""
        emit = self._env.emit
        async with self._control.turn:  # both processes would open the addresses of new listeners
            snapshot = self._control.snapshot
            sockets = self._server.sockets()
            if self._admin is not None and snapshot is not None and snapshot.spec.admin is not None:
                sockets[ADMIN, snapshot.spec.admin.address] = self._admin.listening
            reason = await start_successor(sockets, self._env, lambda pid: emit(events.HANDOVER_BEGUN, pid=pid))
            self._handing_over = None
            if reason:
                emit(events.HANDOVER_FAILED, cause=reason)
                return
            emit(events.HANDOVER_DONE)
            self._server.disown()
            if self._admin is not None:
                self._admin.leave()
            self._is_gentle = True
            self._begin_stop("SIGUSR2")

    async def _watch_certificates(self) -> None:
        """Check certificate files for changes every `WATCH_SECONDS`."""
        while True:
            await self._env.sleep(WATCH_SECONDS)
            for key, watch in self._store.objects().items():
                if key[0] == "tls":
                    watch.poll()
