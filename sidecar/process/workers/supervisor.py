"""Supervisor of several workers: starts them, restarts them, tells them what they share, and answers for all of them.

    SIGTERM, SIGINT   all workers drain; then exit code 0.  A second signal ends them at once.
    SIGHUP            reload, on all workers or on none.
    SIGUSR2           start a new supervisor with new workers, which take the listening sockets, and drain.

Rules:

1. The supervisor holds the listening sockets, and all workers accept from them.  A worker that dies takes only its own
   connections with it; those in the accept queue go to the others.
2. A worker that ends is started again: at once if it has served for a while, else with growing pauses.  If no worker
   was ever ready, the supervisor ends with the exit code of the first that failed.
3. A worker without a turn of its loop for `KILL_SECONDS` is killed.
4. New policies are prepared by all workers, and applied only if all can apply them.  A worker that starts later gets
   the files as they were, whatever is on disk meanwhile.
5. It serves no requests, and a request never waits for it, except for a permit that its worker does not hold.
"""

from __future__ import annotations

import asyncio
import json
import os
import signal
import socket
import subprocess
import sys
from collections import deque
from collections.abc import AsyncIterator, Callable
from functools import partial
from typing import Any, Final

from sidecar.admin.commands import Reply
from sidecar.admin.listener import AdminListener
from sidecar.admin.view import AdminView
from sidecar.config import files
from sidecar.config.files import Source
from sidecar.config.listen_address import ListenAddress
from sidecar.config.load import Loaded, load
from sidecar.config.process_spec import LimitsSpec
from sidecar.config.spec import PolicySpec
from sidecar.control.reload import EVENTS, FILE, HISTORY, Rejected, Reload, check_restart
from sidecar.control.watch import fingerprint
from sidecar.core import events, metrics
from sidecar.core.env import Env
from sidecar.downstream.sockets import Sockets, socket_key
from sidecar.process.handover import ADMIN, Inheritance, start_again, start_successor
from sidecar.process.workers import inbox
from sidecar.process.workers.board import BEAT, HANDED, TAKEN, Board
from sidecar.process.workers.channel import Channel
from sidecar.process.workers.leases import Pool, TokenPool
from sidecar.process.workers.link import VARIABLE
from sidecar.process.workers.summary import Totals, join, join_parts
from sidecar.process.workers.topics import TopicBook
from sidecar.telemetry.metrics import process
from sidecar.telemetry.metrics.registry import Registry

TICK_SECONDS: Final = 1.0
"""Pause between two looks at files, metrics and workers."""
SETTLED_SECONDS: Final = 10.0
"""Seconds after which a worker that ends is started again at once."""
FIRST_PAUSE: Final = 0.1
"""Seconds before the second start of a worker that ends early; each further pause is twice as long."""
LONGEST_PAUSE: Final = 5.0
"""Longest pause before a start, in seconds."""
STUCK_SECONDS: Final = 2.0
"""Seconds without a turn of its loop after which a worker is stuck: others do what was its task."""
KILL_SECONDS: Final = 30.0
"""Seconds without a turn after which a worker is killed."""
REPLY_SECONDS: Final = 2.0
"""Longest wait for the replies to a command."""
PREPARE_SECONDS: Final = 60.0
"""Longest wait until all workers have prepared new policies."""
EXIT_SECONDS: Final = 5.0
"""Seconds beyond `drain_timeout` after which a worker is killed."""
SUPERVISOR: Final = -1
"""Number of the supervisor among the owners of metrics."""
MOST_POOLS: Final = 10_000
"""Most limits and budgets that workers share."""
READY_EVENTS: Final = 200
"""Events that `/state` shows."""


class Worker:
    """Worker as the supervisor sees it."""

    def __init__(self, number: int) -> None:
        self.number = number
        """Number, from 0; people see it from 1."""
        self.process: subprocess.Popen[bytes] | None = None
        """Process; None between two starts."""
        self.channel: Channel | None = None
        self.is_ready = False
        self.is_stuck = False
        self.started = 0.0
        """Instant of the last start."""
        self.starts = 0
        """Number of starts."""
        self.early_ends = 0
        """Number of successive ends within `SETTLED_SECONDS`."""
        self.vote: asyncio.Future[dict[str, Any] | None] | None = None
        """Result of the preparation: None once it is prepared, or why it is not."""
        self.applied: asyncio.Future[dict[str, Any]] | None = None
        """Result of a reload, after `commit`."""

    def send(self, *message: Any) -> None:
        """Send a message; it is dropped if the worker is gone."""
        if self.channel is not None:
            self.channel.send(*message)

    def kill(self) -> None:
        """End the process at once."""
        if self.process is not None and self.process.poll() is None:
            self.process.kill()


class Supervisor:
    """Running supervisor, from its start to its exit."""

    def __init__(
        self,
        path: str,
        sources: list[Source],
        loaded: Loaded,
        count: int,
        env: Env,
        registry: Registry,
        inheritance: Inheritance,
    ) -> None:
        """Take the policy files as read and as loaded, and the number of workers."""
        assert loaded.spec is not None
        self.spec: PolicySpec = loaded.spec
        """Policies in force."""
        self.workers = [Worker(number) for number in range(count)]
        self.history: deque[Reload] = deque(maxlen=HISTORY)
        """Latest reloads, newest last."""
        self.view: AdminView
        """View of all workers; set before `run`."""
        self._path = path
        self._sources = sources
        self._digest = files.digest(sources)
        self._rejected = ""
        self._warnings = tuple(map(str, loaded.warnings))
        self._seen = fingerprint(path)
        self._env = env
        self._registry = registry
        self._inheritance = inheritance
        self._totals = Totals(registry)
        self._board = Board.make(count)
        self._inboxes = [inbox.open_inbox() for _ in range(count)]
        self._sockets: dict[str, Sockets] = {}
        """Listening sockets by their key."""
        self._admin: AdminListener | None = None
        self._topics = TopicBook()
        self._probes: dict[str, tuple[int, float]] = {}
        """Worker that may probe, and until when, by topic."""
        self._pools: dict[str, Pool] = {}
        self._calls: dict[int, asyncio.Future[dict[int, Reply]]] = {}
        self._replies: dict[int, dict[int, Reply]] = {}
        self._awaited: dict[int, set[int]] = {}
        self._number = 0
        self._first = SUPERVISOR
        """Number of the worker that does what only one should do."""
        self._hop_key = os.urandom(16).hex()
        self._turn = asyncio.Lock()
        self._stop = asyncio.Event()
        self._stop_now = asyncio.Event()
        self._ended = asyncio.Event()
        """Set at each end of a worker."""
        self._is_gentle = False
        self._is_handing_over = False
        self._exit_code: int | None = None
        """Exit code of the supervisor if no worker gets ready; None otherwise."""
        self._was_ready = False
        registry.gauge(metrics.POLICIES_REJECTED, lambda: float(self.is_rejected))

    # ----- start and end

    async def run(self) -> int:
        """Start the workers, supervise them until a signal, let them drain, and return the exit code."""
        loop = asyncio.get_running_loop()
        loop.add_signal_handler(signal.SIGTERM, self._begin_stop, "SIGTERM")
        loop.add_signal_handler(signal.SIGINT, self._begin_stop, "SIGINT")
        loop.add_signal_handler(signal.SIGHUP, self._spawn, self.reload, "signal")
        loop.add_signal_handler(signal.SIGUSR2, self._begin_hand_over)
        try:
            for name, spec in self.spec.listeners.items():
                await self._open(name, spec.address)
            await self._open_admin()
        except OSError as error:
            print(self.spec.masks.text(error.strerror or str(error)), file=sys.stderr)
            return 1
        first = Reload(self._env.wall(), "start", self._digest, "applied", (), self._warnings)
        self._note(first)
        for worker in self.workers:
            self._start(worker)
        ticking = self._env.spawn(self._tick())
        await self._stop.wait()
        if self._exit_code is None:
            await self._drain()
        ticking.cancel()
        for worker in self.workers:
            worker.kill()
            if worker.process is not None:
                await asyncio.to_thread(worker.process.wait)
        self._close_sockets()
        if self._admin is not None:
            await self._admin.close()
        self._board.close()
        for receiving, sending in self._inboxes:
            receiving.close()
            sending.close()
        if self._exit_code is not None:
            return self._exit_code
        self._env.emit(events.STOPPED)
        return 0

    async def _open(self, name: str, address: ListenAddress) -> str:
        """Open the sockets of a listener, unless they are open; return their key.  Raises `OSError`."""
        key = socket_key(name, address)
        if key not in self._sockets:
            try:
                self._sockets[key] = await self._inheritance.open(name, address)
            except OSError as error:
                reason = f"listener {name} cannot listen on {address}: {error.strerror}"
                raise OSError(error.errno, reason) from error
        return key

    async def _open_admin(self) -> None:
        """Open the admin listener, if the policies have one.  Raises `OSError`."""
        if self.spec.admin is not None:
            self._admin = AdminListener(self.view, self._inheritance.open_admin)
            await self._admin.open(self.spec.admin)

    def _close_sockets(self) -> None:
        for sockets in self._sockets.values():
            sockets.close()
        self._sockets.clear()

    def _announce(self) -> None:
        """Tell the world that the first worker is ready."""
        self._was_ready = True
        self._inheritance.finish()
        self._env.emit(
            events.READY,
            version=self.view.version,
            workers=len(self.workers),
            listeners={
                name: self._sockets[socket_key(name, spec.address)].addresses[0]
                for name, spec in self.spec.listeners.items()
            },
            admin="" if self._admin is None else self._admin.addresses[0],
        )

    def _begin_stop(self, name: str) -> None:
        """Begin to drain; at the second signal, end all workers at once."""
        if self._stop.is_set():
            self._stop_now.set()
        self.view.readiness.obstacle = f"draining since {name}"
        self._stop.set()

    async def _drain(self) -> None:
        """Let all workers drain; kill those that are left at the end of the time or at a second signal."""
        timeout = self.spec.limits.drain_timeout
        self._env.emit(events.DRAINING, connections=self._board.connections, timeout_seconds=timeout)
        self._close_sockets()
        for worker in self.workers:
            if not worker.is_ready:  # it serves nothing yet, and may not hear the message
                worker.kill()
            worker.send("drain", self.view.readiness.obstacle.removeprefix("draining since "), self._is_gentle)
        until = self._env.now() + timeout + EXIT_SECONDS
        while any(worker.process is not None for worker in self.workers) and not self._stop_now.is_set():
            left = until - self._env.now()
            if left <= 0:
                self._env.emit(events.DRAIN_EXPIRED, connections=self._board.connections)
                return
            waiting = [asyncio.ensure_future(event.wait()) for event in (self._ended, self._stop_now)]
            self._ended.clear()
            await asyncio.wait(waiting, timeout=min(left, 1.0), return_when=asyncio.FIRST_COMPLETED)
            for each in waiting:
                each.cancel()

    def _begin_hand_over(self) -> None:
        """Start the hand-over to a new process, unless one is in progress or the workers drain."""
        if not self._is_handing_over and not self._stop.is_set():
            self._is_handing_over = True
            self._spawn(self._hand_over)

    async def _hand_over(self) -> None:
        """Start a new supervisor; drain once it is ready, or go on if it does not get ready."""
        emit = self._env.emit
        sockets = {
            (name, spec.address): self._sockets[socket_key(name, spec.address)].listening
            for name, spec in self.spec.listeners.items()
        }
        if self._admin is not None and self.spec.admin is not None:
            sockets[ADMIN, self.spec.admin.address] = self._admin.listening
        reason = await start_successor(sockets, self._env, lambda pid: emit(events.HANDOVER_BEGUN, pid=pid))
        self._is_handing_over = False
        if reason:
            emit(events.HANDOVER_FAILED, cause=reason)
            return
        emit(events.HANDOVER_DONE)
        for each in self._sockets.values():
            each.disown()
        if self._admin is not None:
            self._admin.leave()
        self._is_gentle = True
        self._begin_stop("SIGUSR2")

    def _spawn(self, function: Callable[..., Any], *arguments: Any) -> None:
        self._env.spawn(function(*arguments))

    # ----- workers

    def _start(self, worker: Worker) -> None:
        """Start a worker."""
        if self._stop.is_set():
            return
        ours, theirs = socket.socketpair()
        ours.setblocking(False)
        theirs.setblocking(False)
        handles = {
            "channel": theirs.fileno(),
            "inbox": self._inboxes[worker.number][0].fileno(),
            "board": self._board.handle,
            "inboxes": [sending.fileno() for _, sending in self._inboxes],
        }
        facts = json.dumps({"number": worker.number, "count": len(self.workers), **handles})
        worker.started = self._env.now()
        worker.starts += 1
        worker.is_ready = worker.is_stuck = False
        channel = worker.channel = Channel(partial(self._receive, worker), partial(self._lose, worker))
        try:
            inherited = [theirs.fileno(), self._inboxes[worker.number][0].fileno(), self._board.handle]
            inherited += [sending.fileno() for _, sending in self._inboxes]
            worker.process = start_again({**os.environ, VARIABLE: facts}, inherited, is_session=True)
        except OSError as error:
            ours.close()
            theirs.close()
            worker.channel = None
            self._env.emit(events.WORKER_ENDED, worker=worker.number + 1, cause=f"cannot start: {error.strerror}")
            self._start_later(worker)
            return
        theirs.close()
        for key, sockets in self._sockets.items():
            self._send_sockets(worker, key, sockets)
        self._spawn(self._connect, channel, ours)

    async def _connect(self, channel: Channel, ours: socket.socket) -> None:
        await asyncio.get_running_loop().create_unix_connection(lambda: channel, sock=ours)

    def _send_sockets(self, worker: Worker, key: str, sockets: Sockets) -> None:
        """Send the listening sockets of an address to a worker."""
        for sock in sockets.listening:
            inbox.send(self._inboxes[worker.number][1], ["listen", key, len(sockets.listening)], sock)

    def _lose(self, worker: Worker) -> None:
        """Handle the end of a worker's channel, which is that of its process."""
        self._spawn(self._reap, worker)

    async def _reap(self, worker: Worker) -> None:
        """Take back what a worker had, and start it again."""
        process, worker.channel = worker.process, None
        number = worker.number
        self._board.leave(number)
        if process is not None:
            for _ in range(int(EXIT_SECONDS / 0.01)):  # it has closed its channel, and ends
                if process.poll() is not None:
                    break
                await self._env.sleep(0.01)
            else:
                process.kill()
            await asyncio.to_thread(process.wait)
        worker.process = None
        was_ready, worker.is_ready = worker.is_ready, False
        self._totals.leave(number)
        self._empty_inbox(worker)
        now = self._env.now()
        for pool in self._pools.values():
            pool.leave(number, now)
        self._probes = {topic: claim for topic, claim in self._probes.items() if claim[0] != number}
        for waiting in (worker.vote, worker.applied):
            if waiting is not None and not waiting.done():
                waiting.set_result({"problems": [f"worker {number + 1} has ended"]})
        for call in list(self._awaited):
            self._answer(call, number, (503, {"detail": f"worker {number + 1} has ended"}))
        self._choose_first()
        self._ended.set()
        self._update_readiness()
        if self._stop.is_set():
            return
        code = None if process is None else process.returncode
        if not self._was_ready and not was_ready and code is not None and code > 0:
            self._exit_code = code
            self._stop.set()
            return
        worker.early_ends = 0 if now - worker.started >= SETTLED_SECONDS else worker.early_ends + 1
        pause = self._start_later(worker)
        self._env.emit(
            events.WORKER_ENDED,
            worker=number + 1,
            pid=None if process is None else process.pid,
            cause=_cause(code),
            early_ends=worker.early_ends,
            starts_again_in=pause,
        )

    def _start_later(self, worker: Worker) -> float:
        """Start a worker after a pause that grows with its early ends; return the pause in seconds."""
        doublings = worker.early_ends - 2
        pause = 0.0 if doublings < 0 else min(FIRST_PAUSE * 2.0 ** min(doublings, 16), LONGEST_PAUSE)
        self._env.call_later(pause, self._start, worker)
        return pause

    def _empty_inbox(self, worker: Worker) -> None:
        """Send the connections that wait at a dead worker's inbox to others; they stay there if it is the only one."""
        others = [each for each in self.workers if each is not worker and each.is_ready]
        number, board = worker.number, self._board
        while (packet := inbox.receive(self._inboxes[number][0])) is not None:
            text, sock = packet
            with sock:
                if text[0] != "client":
                    continue
                board.add(number, TAKEN)
                to = min(others or [worker], key=lambda each: board.load(each.number)).number
                board.add(number, HANDED + to)
                if not inbox.send(self._inboxes[to][1], text, sock) or not others:
                    return

    def _choose_first(self) -> None:
        """Choose the worker that does what only one should do, if the present one cannot."""
        able = [worker.number for worker in self.workers if worker.is_ready and not worker.is_stuck]
        if self._first in able or not able:
            return
        before, self._first = self._first, able[0]
        if before >= 0:
            self.workers[before].send("first", False)
        self.workers[self._first].send("first", True)

    def _update_readiness(self) -> None:
        if not self._stop.is_set():
            is_ready = any(worker.is_ready and not worker.is_stuck for worker in self.workers)
            self.view.readiness.obstacle = "" if is_ready else "no worker is ready"

    def _receive(self, worker: Worker, message: list[Any]) -> None:
        """Handle a message of a worker."""
        kind, *rest = message
        number, now = worker.number, self._env.now()
        if kind == "tell":
            topic, key, value = rest
            self._topics.put(topic, key, value)
            if not value.get("probing"):
                self._probes.pop(topic, None)
            for each in self.workers:
                each.send("value", topic, key, value, each is worker)
        elif kind == "lease":
            name, what, count = rest
            if (pool := self._pools.get(name)) is not None:
                (pool.want if what == "want" else pool.give)(number, count, now)
        elif kind == "used":
            name, first, spent = rest
            if isinstance(pool := self._pools.get(name), TokenPool):
                pool.report(number, first, spent, now)
        elif kind == "permits":
            if (pool := self._pool(rest[0], Pool)) is not None:
                pool.resize(rest[1], now)
        elif kind == "budget":
            if isinstance(pool := self._pool(rest[0], TokenPool), TokenPool):
                pool.retune(*rest[1:])
        elif kind == "probe":
            topic, seconds = rest
            holder, until = self._probes.get(topic, (number, 0.0))
            if holder == number or until <= now:
                self._probes[topic] = (number, now + seconds)
                worker.send("probe", topic, now + seconds)
        elif kind == "metrics":
            self._totals.apply(number, rest[0])
        elif kind == "reply":
            call, status, result = rest
            self._answer(call, number, (status, result))
        elif kind == "hello":
            sources = [[name, text.decode("latin-1")] for name, text in self._sources]
            values = list(self._topics)
            worker.send("start", {"sources": sources, "values": values, "hop_key": self._hop_key})
        elif kind == "ready":
            self._greet(worker)
        elif kind == "prepared":
            if worker.vote is not None and not worker.vote.done():
                worker.vote.set_result(None)
        elif kind == "reloaded":
            for waiting in (worker.vote, worker.applied):
                if waiting is not None and not waiting.done():
                    waiting.set_result(rest[0])

    def _greet(self, worker: Worker) -> None:
        """Take note that a worker is ready."""
        worker.is_ready = True
        self._choose_first()
        self._update_readiness()
        pid = None if worker.process is None else worker.process.pid
        self._env.emit(events.WORKER_READY, worker=worker.number + 1, pid=pid)
        if not self._was_ready and all(each.is_ready for each in self.workers):
            self._announce()

    def _pool(self, name: str, kind: type[Pool]) -> Pool | None:
        """Return the pool with a name, made if it is missing; None if there are too many."""
        pool = self._pools.get(name)
        if pool is None and len(self._pools) < MOST_POOLS:

            def send(number: int, what: str, count: int) -> None:
                self.workers[number].send("lease", name, what, count)

            pool = self._pools[name] = kind(send)
        return pool

    async def _tick(self) -> None:
        """Look at workers, metrics and policy files, again and again."""
        while True:
            await self._env.sleep(TICK_SECONDS)
            self._look_at_workers()
            await self.refresh()
            seen = await asyncio.to_thread(fingerprint, self._path)
            if seen != self._seen:
                await self.reload(FILE)

    def _look_at_workers(self) -> None:
        """Find workers whose loop does not turn; others take over from them, and in the end they are killed."""
        now = self._env.now()
        for worker in self.workers:
            beat = self._board.get(worker.number, BEAT)
            silence = now - beat / 1e9 if beat else 0.0
            is_stuck = worker.is_ready and silence > STUCK_SECONDS
            if is_stuck and not worker.is_stuck:
                self._env.emit(events.WORKER_STUCK, worker=worker.number + 1, seconds=round(silence, 1))
            if is_stuck:
                self._empty_inbox(worker)
            if worker.is_ready and silence > KILL_SECONDS:
                worker.kill()
            if is_stuck != worker.is_stuck:
                worker.is_stuck = is_stuck
                self._choose_first()
                self._update_readiness()

    # ----- reload

    @property
    def is_rejected(self) -> bool:
        """True if the latest content of the files was rejected."""
        return bool(self.history) and self.history[-1].result == "rejected"

    async def reload(self, trigger: str) -> Reload:
        """Read the policy files, and put them in force on all workers or on none."""
        async with self._turn:
            digest = ""
            try:
                sources = await asyncio.to_thread(self._read)
                digest = files.digest(sources)
                if trigger == FILE and digest in (self._digest, self._rejected):
                    unchanged = Reload(self._env.wall(), trigger, digest, "unchanged")
                    if digest != self._digest:
                        return unchanged
                    self._rejected = ""
                    return self._note(unchanged) if self.is_rejected else unchanged
                done = await self._replace(trigger, digest, sources)
                if self._admin is not None:
                    await self._admin.renew()
                return self._note(done)
            except Rejected as rejected:
                problems = rejected.problems
            except OSError as error:
                problems = (error.strerror or str(error),)
            except Exception as error:
                self._env.emit(events.BUG, where="reload", error=error)
                problems = (f"the sidecar failed to apply the policies: {error!r}",)
            self._rejected = digest
            return self._note(Reload(self._env.wall(), trigger, digest, "rejected", problems))

    def _read(self) -> list[Source]:
        """Return the policy files, after taking their fingerprint."""
        self._seen = fingerprint(self._path)
        return files.read(self._path)

    async def _replace(self, trigger: str, digest: str, sources: list[Source]) -> Reload:
        """Load policies, let all workers prepare them, and let them be applied; raise if one of the steps fails."""
        loaded = await asyncio.to_thread(load, sources, os.environ)
        spec = loaded.spec
        if spec is None:
            raise Rejected(loaded.problems)
        self.view.secrets.mask(spec.facts)
        check_restart(self.spec, spec)
        before = set(self._sockets)
        keys = {socket_key(name, listener.address) for name, listener in spec.listeners.items()}
        try:
            for name, listener in spec.listeners.items():
                await self._open(name, listener.address)
            result = await self._vote(trigger, digest, sources, set(self._sockets) - before)
        except BaseException:
            self._forget(set(self._sockets) - before)
            raise
        self.spec = spec
        self._rejected = ""
        self._forget(before - keys)
        warnings = tuple(map(str, loaded.warnings))
        added, changed, removed = (tuple(result.get(name, ())) for name in ("added", "changed", "removed"))
        return Reload(self._env.wall(), trigger, digest, "applied", (), warnings, added, changed, removed)

    async def _vote(self, trigger: str, digest: str, sources: list[Source], opened: set[str]) -> dict[str, Any]:
        """Let all workers prepare policies, then apply them; return what has changed.  Raises `Rejected`."""
        voters = [worker for worker in self.workers if worker.is_ready]
        loop = asyncio.get_running_loop()
        texts = [[name, text.decode("latin-1")] for name, text in sources]
        for worker in voters:
            for key in opened:
                self._send_sockets(worker, key, self._sockets[key])
            worker.vote = loop.create_future()
            worker.applied = loop.create_future()
            worker.send("prepare", trigger, texts)
        votes = [worker.vote for worker in voters if worker.vote is not None]
        if votes:
            await asyncio.wait(votes, timeout=PREPARE_SECONDS)
        against = [
            problem
            for worker in voters
            if worker.vote is not None
            for problem in (
                [f"worker {worker.number + 1} has not prepared them within {PREPARE_SECONDS:g}s"]
                if not worker.vote.done()
                else (worker.vote.result() or {}).get("problems", ())
            )
        ]
        if against:
            for worker in voters:
                worker.vote = worker.applied = None
                worker.send("abandon")
            raise Rejected(list(dict.fromkeys(against)))
        self._sources, self._digest = sources, digest  # a worker that starts from here on gets them
        for worker in self.workers:
            if worker in voters:
                worker.send("commit")
            elif worker.process is not None:  # it is starting with the old ones
                worker.kill()
        applied = [worker.applied for worker in voters if worker.applied is not None]
        if applied:
            await asyncio.wait(applied, timeout=PREPARE_SECONDS)
        results = []
        for worker in voters:
            done = worker.applied
            worker.vote = worker.applied = None
            if done is not None and done.done() and done.result().get("result") == "applied":
                results.append(done.result())
            else:
                worker.kill()  # it starts again, with the new ones
        return results[0] if results else {}

    def _forget(self, keys: set[str]) -> None:
        """Close listening sockets, here and in all workers."""
        for key in keys:
            self._sockets.pop(key).close()
            for worker in self.workers:
                worker.send("forget", key)

    def _note(self, reload: Reload) -> Reload:
        """Add a reload to the history, count it, and log it."""
        self.history.append(reload)
        self._registry.counter(metrics.RELOADS, result=reload.result).add()
        facts = {name: value for name, value in reload.describe().items() if name not in ("at", "result")}
        self._env.emit(EVENTS[reload.result], **facts)
        return reload

    # ----- the admin listener

    async def ask(self, command: str, *arguments: Any) -> dict[int, Reply]:
        """Let each worker carry a command out; return the replies of those that answer in time, by number."""
        self._number += 1
        call = self._number
        asked = {worker.number for worker in self.workers if worker.is_ready}
        if not asked:
            return {}
        waiting = self._calls[call] = asyncio.get_running_loop().create_future()
        self._replies[call], self._awaited[call] = {}, asked
        for number in asked:
            self.workers[number].send("call", call, command, arguments)
        await asyncio.wait([waiting], timeout=REPLY_SECONDS)
        del self._calls[call], self._awaited[call]
        return self._replies.pop(call)

    def _answer(self, call: int, number: int, reply: Reply) -> None:
        """Add a worker's reply to those of a command."""
        if call not in self._awaited or number not in self._awaited[call]:
            return
        self._awaited[call].discard(number)
        self._replies[call][number] = reply
        if not self._awaited[call] and not self._calls[call].done():
            self._calls[call].set_result(self._replies[call])

    async def call(self, command: str, *arguments: Any) -> Reply:
        """Let all workers carry a command out, and return their joined replies; the first error is the reply."""
        replies = await self.ask(command, *arguments)
        if not replies:
            return 503, {"detail": "no worker answers; see /state and the log"}
        for status, result in replies.values():
            if status != 200:
                return status, result
        results = [result for _, result in replies.values()]
        if command == "keys":
            return 200, [key for keys in results for key in keys]
        if command == "purge":
            return 200, {name: sum(each.get(name, 0) for each in results) for name in results[0]}
        return 200, join(results)

    async def refresh(self) -> None:
        """Bring the sums of the metrics up to date: each worker sends its changes before its reply."""
        await self.ask("metrics")

    async def parts(self) -> AsyncIterator[tuple[str, Any]]:
        """Yield the parts of the state of all workers together, with the supervisor's own."""
        env, view = self._env, self.view
        replies = await self.ask("parts")
        found = [result for status, result in (replies[number] for number in sorted(replies)) if status == 200]
        obstacle = view.readiness.obstacle
        used = [part["process"] for parts in found for name, part in parts if name == "about"]
        yield (
            "about",
            {
                "version": view.version,
                "build": view.build,
                "uptime_seconds": round(env.now() - view.started, 3),
                "ready": not obstacle,
                "not_ready_because": obstacle or None,
                "process": join([_usage(), *used]),
            },
        )
        yield "workers", self.describe_workers(replies)
        own = {
            "policies": {"service": self.spec.service, "digest": self._digest[:12]},
            "reloads": view.secrets.plain([reload.describe() for reload in self.history]),
        }
        for name, value in join_parts(found):
            if name == "events":
                events = sorted([*value, *view.recent], key=lambda event: str(event.get("time")))
                yield name, events[-READY_EVENTS:]
            elif name == "state.retry_budget":
                yield name, self._with_pools("retry_budget", value)
            elif name == "state.concurrency":
                yield name, self._with_pools("concurrency", value)
            elif name != "about":
                yield name, own.get(name, value)
        if not found:
            for name, value in own.items():
                yield name, value
            yield "events", list(view.recent)

    def _with_pools(self, kind: str, described: dict[str, Any]) -> dict[str, Any]:
        """Return the descriptions of limits, with what is leased of them."""
        now = self._env.now()
        pools = {name: pool.describe(now) for name, pool in self._pools.items()}
        return {
            name: {**value, "shared": pools[f"{kind}:{name}"]} if f"{kind}:{name}" in pools else value
            for name, value in described.items()
        }

    def describe_workers(self, replies: dict[int, Reply]) -> list[dict[str, Any]]:
        """Return the state of each worker as JSON-ready values."""
        return [
            {
                "number": worker.number + 1,
                "pid": None if worker.process is None else worker.process.pid,
                "state": _state(worker),
                "uptime_seconds": round(self._env.now() - worker.started, 3),
                "starts": worker.starts,
                "connections": self._board.get(worker.number, 1),
                "first": worker.number == self._first,
                "process": _about(replies.get(worker.number)),
            }
            for worker in self.workers
        ]

    def limits(self) -> LimitsSpec:
        """Return the limits in force."""
        return self.spec.limits


def _state(worker: Worker) -> str:
    """Return the state of a worker as a word."""
    if worker.process is None:
        return "down"
    return "stuck" if worker.is_stuck else "ready" if worker.is_ready else "starting"


def _about(reply: Reply | None) -> dict[str, Any] | None:
    """Return what a worker uses, as its reply to `parts` says; None without a reply."""
    if reply is None or reply[0] != 200:
        return None
    return next((part["process"] for name, part in reply[1] if name == "about"), None)


def _usage() -> dict[str, float]:
    """Return what this process uses."""
    return {"rss_bytes": process.memory(), "cpu_seconds": process.cpu(), "files": process.files()}


def _cause(code: int | None) -> str:
    """Return the cause of a worker's end as words."""
    if code is None:
        return "it could not be started"
    if code < 0:
        return f"signal {signal.Signals(-code).name}"
    return f"exit code {code}"
