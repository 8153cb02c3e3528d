"""Supervisor of several workers, from its start to its exit.

    SIGTERM, SIGINT   all workers drain; then exit code 0.  A second signal ends them at once.
    SIGHUP            reload, on all workers or on none.
    SIGUSR2           start a new supervisor with new workers, which take the listening sockets, and drain.

Rules:

1. The supervisor holds the listening sockets, and all workers accept from them.  A worker that dies takes only its own
   connections with it; those in the accept queue go to the others.
2. Until all workers have been ready once, the supervisor ends with the exit code of a worker that cannot start.
3. It serves no requests.  A request waits for it only for a permit or for tokens that its worker does not hold.
"""

from __future__ import annotations

import asyncio
import os
import signal
import sys
from collections.abc import Coroutine
from typing import Any, Final

from sidecar.admin.listener import AdminListener
from sidecar.admin.view import AdminView
from sidecar.config.files import Source
from sidecar.config.load import Loaded
from sidecar.config.process_spec import LimitsSpec
from sidecar.core import events, metrics
from sidecar.core.env import Env, TaskHandle
from sidecar.process.handover import ADMIN, Inheritance, start_successor
from sidecar.process.workers.children import NOBODY, Child, Children
from sidecar.process.workers.commands import JoinedCommands
from sidecar.process.workers.listening import ListeningSockets
from sidecar.process.workers.reloading import Reloading
from sidecar.process.workers.sharing import Sharing
from sidecar.process.workers.summary import Changes, Totals
from sidecar.telemetry.metrics.registry import Registry

TICK_SECONDS: Final = 1.0
"""Pause between two looks at workers, leases and metrics, and between two looks at the policy files."""
EXIT_SECONDS: Final = 5.0
"""Seconds beyond `drain_timeout` after which a worker is killed."""


class Supervisor:
    """Running supervisor."""

    def __init__(
        self,
        path: str,
        sources: list[Source],
        loaded: Loaded,
        count: int,
        env: Env,
        registry: Registry,
        own: Registry,
        inheritance: Inheritance,
    ) -> None:
        """Take the policy files as read and as loaded, and the number of workers.

        `registry` gets the sums over all processes, of which `own` has the supervisor's part.
        """
        self._env = env
        self._inheritance = inheritance
        self._listening = ListeningSockets(inheritance)
        self._children = Children(count, env, self._receive, self._listening.send, self._take_back)
        self._sharing = Sharing(count, lambda worker, *message: self._children[worker].send(*message), env.now)
        self.reloading = Reloading(path, sources, loaded, env, registry, self._children, self._listening)
        """Policies in force, and their replacement."""
        self.commands = JoinedCommands(env, self._children, self._sharing, self.reloading)
        """Commands of the admin listener."""
        self._totals = Totals(registry, env.now)
        registry.gauge(metrics.WORKERS_READY, lambda: float(len(self._children.ready)))
        registry.total(metrics.WORKER_STARTS, lambda: float(sum(child.starts for child in self._children)))
        self._own = Changes(own)
        self._view: AdminView
        self._admin: AdminListener | None = None
        self._hop_key = os.urandom(16).hex()
        self._stop = asyncio.Event()
        self._stop_now = asyncio.Event()
        self._ended = asyncio.Event()
        """Set at each end of a worker."""
        self._is_gentle = False
        """True if the drain leaves idle connections open for a while, since a new process serves the addresses."""
        self._handing_over: TaskHandle | None = None
        """Hand-over in progress; None without one."""
        self._was_ready = False
        """True once all workers have been ready at the same time."""
        self._exit_code = 0

    def limits(self) -> LimitsSpec:
        """Return the limits in force."""
        return self.reloading.spec.limits

    async def refresh(self) -> None:
        """Bring the sums of the metrics up to date."""
        self._totals.apply(NOBODY, self._own.take())
        await self.commands.refresh()

    # ----- start and end

    async def run(self, view: AdminView) -> int:
        """Start the workers, supervise them until a signal, let them drain, and return the exit code.

        `view` is the admin listener's view of all workers, whose `readiness` this class sets.
        """
        self._view = self.commands.view = view
        self.reloading.show = view.secrets.mask
        loop = asyncio.get_running_loop()
        loop.add_signal_handler(signal.SIGTERM, self._begin_stop, "SIGTERM")
        loop.add_signal_handler(signal.SIGINT, self._begin_stop, "SIGINT")
        loop.add_signal_handler(signal.SIGHUP, lambda: self._spawn(self.reloading.reload("signal")))
        loop.add_signal_handler(signal.SIGUSR2, self._begin_hand_over)
        spec = self.reloading.spec
        try:
            await self._listening.open(spec.listeners)
            if spec.admin is not None:
                self._admin = AdminListener(view, self._inheritance.open_admin)
                await self._admin.open(spec.admin)
                self.reloading.on_applied = self._admin.renew
        except OSError as error:
            print(spec.masks.text(error.strerror or str(error)), file=sys.stderr)
            return 1
        self.reloading.begin()
        self._children.start()
        background = [self._env.spawn(each) for each in (self._tick(), self._watch())]
        await self._stop.wait()
        self._children.stop()
        if self._exit_code == 0:
            await self._drain()
        for task in background:
            task.cancel()
        await self._children.close()
        self._listening.close()
        if self._admin is not None:
            await self._admin.close()
        if self._exit_code == 0:
            self._env.emit(events.STOPPED)
        return self._exit_code

    def _spawn(self, coroutine: Coroutine[Any, Any, Any]) -> None:
        self._env.spawn(coroutine)

    def _announce(self) -> None:
        """Tell the world that all workers are ready."""
        self._was_ready = True
        self._inheritance.finish()
        self._env.emit(
            events.READY,
            version=self._view.version,
            workers=len(self._children),
            listeners=self._listening.addresses(self.reloading.spec.listeners),
            admin="" if self._admin is None else self._admin.addresses[0],
        )

    def _begin_stop(self, name: str) -> None:
        """Begin to drain; at the second signal, end all workers at once."""
        if self._stop.is_set():
            self._stop_now.set()
        if self._handing_over is not None:
            self._handing_over.cancel()
        self._view.readiness.obstacle = f"draining since {name}"
        self.reloading.close()
        self._stop.set()

    async def _drain(self) -> None:
        """Let all workers drain; kill those that are left at the end of the time or at a second signal."""
        timeout = self.limits().drain_timeout
        board = self._children.board
        self._env.emit(events.DRAINING, connections=board.connections, timeout_seconds=timeout)
        for child in self._children:
            if not child.is_ready:  # it serves nothing yet, and may not hear the message
                child.kill()
            child.send("drain", self._view.readiness.obstacle.removeprefix("draining since "), self._is_gentle)
        self.reloading.forget(self._listening.keys)  # with a copy left open, clients would connect and find nobody
        until = self._env.now() + timeout + EXIT_SECONDS
        while self._children.is_running and not self._stop_now.is_set():
            left = until - self._env.now()
            if left <= 0:
                self._env.emit(events.DRAIN_EXPIRED, connections=board.connections)
                return
            waiting = [asyncio.ensure_future(event.wait()) for event in (self._ended, self._stop_now)]
            self._ended.clear()
            await asyncio.wait(waiting, timeout=min(left, 1.0), return_when=asyncio.FIRST_COMPLETED)
            for each in waiting:
                each.cancel()

    def _begin_hand_over(self) -> None:
        """Start the hand-over to a new process, unless one is in progress or the workers drain."""
        if self._handing_over is None and not self._stop.is_set():
            self._handing_over = self._env.spawn(self._hand_over())

    async def _hand_over(self) -> None:
        """Start a new supervisor; drain once it is ready, or go on if it does not get ready."""
        emit = self._env.emit
        async with self.reloading.turn:  # both processes would open the addresses of new listeners
            spec = self.reloading.spec
            sockets = self._listening.by_place(spec.listeners)
            if self._admin is not None and spec.admin is not None:
                sockets[ADMIN, spec.admin.address] = self._admin.listening
            reason = await start_successor(sockets, self._env, lambda pid: emit(events.HANDOVER_BEGUN, pid=pid))
            self._handing_over = None
            if reason:
                emit(events.HANDOVER_FAILED, cause=reason)
                return
            emit(events.HANDOVER_DONE)
            self._listening.disown()
            if self._admin is not None:
                self._admin.leave()
            self._is_gentle = True
            self._begin_stop("SIGUSR2")

    # ----- workers

    def _receive(self, child: Child, message: list[Any]) -> None:
        """Handle a message of a worker."""
        number = child.number
        if (
            self._sharing.receive(number, message)
            or self.reloading.receive(number, message)
            or self.commands.receive(number, message)
        ):
            return
        kind = message[0]
        if kind == "metrics":
            self._totals.apply(number, message[1])
        elif kind == "hello":
            values = list(self._sharing.topics)
            child.send("start", {"sources": self.reloading.texts, "values": values, "hop_key": self._hop_key})
        elif kind == "ready":
            self._sharing.settle(number)
            self._children.greet(child)
            self._update_readiness()
            if not self._was_ready and all(each.is_ready for each in self._children):
                self._announce()

    def _take_back(self, child: Child, code: int) -> None:
        """Take back all that a worker had that has ended."""
        number = child.number
        self._totals.leave(number)
        self._sharing.leave(number)
        self.reloading.leave(number)
        self.commands.leave(number)
        self._ended.set()
        self._update_readiness()
        if not self._was_ready and not child.was_ready and code > 0 and not self._stop.is_set():
            self._exit_code = code
            self._children.stop()
            self._stop.set()

    def _update_readiness(self) -> None:
        if not self._stop.is_set():
            self._view.readiness.obstacle = "" if self._children.ready else "no worker is ready"

    async def _tick(self) -> None:
        """Look at workers, leases and metrics, again and again."""
        while True:
            await self._env.sleep(TICK_SECONDS)
            self._children.look()
            self._sharing.look()
            self._totals.look()
            self._update_readiness()
            await self.refresh()

    async def _watch(self) -> None:
        """Reload changed policy files.  Apart from `_tick`, which ends workers that hang meanwhile."""
        while True:
            await self._env.sleep(self.reloading.pause)
            await self.reloading.reload_if_changed()
