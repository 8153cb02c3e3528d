"""Worker: a process that serves requests, and is started, told and ended by the supervisor.

SIGTERM and SIGINT drain it as they drain a sidecar of one process; the supervisor then starts another.  It has no admin
listener and does not watch the policy files.
"""

from __future__ import annotations

import asyncio
import signal
import socket
from collections.abc import Coroutine, Sequence
from typing import Any, Final

from sidecar.admin.commands import LocalCommands
from sidecar.admin.view import AdminView
from sidecar.config.process_spec import AdminSpec
from sidecar.control.reload import Control
from sidecar.control.state import StateStore
from sidecar.core.env import Env
from sidecar.downstream.server import Server
from sidecar.process.lifecycle import WATCH_SECONDS, Process
from sidecar.process.stall import StallWatch
from sidecar.process.workers.link import WorkerLink
from sidecar.process.workers.summary import Changes

REST_SECONDS: Final = 2.0
"""Longest wait for connections that others are handing over, which may hang or be dead."""
REST_TURN: Final = 0.005
"""Pause between two looks at these."""


class WorkerProcess(Process):
    """Running worker, from its start to its exit."""

    def __init__(
        self,
        env: Env,
        control: Control,
        store: StateStore,
        server: Server,
        stalls: StallWatch,
        view: AdminView,
        link: WorkerLink,
    ) -> None:
        super().__init__(env, control, store, server, stalls, view)
        self._link = link
        self._commands = LocalCommands(view)
        self._changes = Changes(view.registry)
        link.take = self._take
        link.reload = lambda trigger: env.spawn(self._reload(trigger))
        link.call = lambda number, command, arguments: env.spawn(self._call(number, command, arguments))
        link.drain = self._begin_drain

    async def run(self) -> int:
        """Serve until the supervisor or a signal ends the worker, and return the exit code."""
        try:
            return await super().run()
        finally:
            self._link.close()

    def _handle_signals(self, loop: asyncio.AbstractEventLoop) -> None:
        loop.add_signal_handler(signal.SIGTERM, self._begin_stop, "SIGTERM")
        loop.add_signal_handler(signal.SIGINT, self._begin_stop, "SIGINT")
        for number in (signal.SIGHUP, signal.SIGUSR2):  # the supervisor's alone; by default they would end the worker
            loop.add_signal_handler(number, lambda: None)

    def _background(self) -> Sequence[Coroutine[Any, Any, None]]:
        return [self._complete_imports(), self._watch_certificates()]

    async def _complete_imports(self) -> None:
        """Import what stages need later, as `Control.watch` does."""
        await self._env.sleep(WATCH_SECONDS)
        await self._control.import_rest()

    def _announce(self) -> None:
        self._link.start_accepting()

    async def _open_admin(self, spec: AdminSpec | None) -> None:
        """Open nothing: the supervisor has the admin listener."""

    def _begin_stop(self, name: str) -> None:
        self._link.stop_accepting()
        super()._begin_stop(name)

    def _end_reloads(self) -> None:
        """Go on with reloads: they are the supervisor's, and a worker that another one replaces holds up nobody."""

    async def _drain(self) -> None:
        """Take the connections that other workers were handing over, and drain."""
        until = self._env.now() + REST_SECONDS
        while self._link.on_their_way and self._env.now() < until:
            await self._env.sleep(REST_TURN)
        await super()._drain()

    def _begin_drain(self, reason: str, is_gentle: bool) -> None:
        """Begin to drain, because the supervisor says so or is gone."""
        self._is_gentle = is_gentle
        self._begin_stop(reason)

    def _take(self, name: str, sock: socket.socket) -> None:
        """Serve a connection that another worker has accepted."""
        listener = self._server.listeners.get(name)
        if listener is None:  # a reload has removed it meanwhile
            sock.close()
        else:
            listener.take(sock)

    async def _reload(self, trigger: str) -> None:
        """Prepare new policies, apply or abandon them as the supervisor says, and report the result."""
        result = await self._control.reload(trigger)
        self._link.send("reloaded", result.describe())
        if result.result == "applied":
            await self._control.import_rest()

    async def _call(self, number: int, command: str, arguments: list[Any]) -> None:
        """Carry a command out, and send its reply."""
        if command == "metrics":
            self._link.send("metrics", self._changes.take())  # counted even if the reply comes too late
            self._link.send("reply", number, 200, None)
            return
        status, result = await self._commands.call(command, *arguments)
        self._link.send("reply", number, status, result)
