"""Reload of policies on all workers or on none.

Rules:

1. The supervisor reads and checks the files; the workers get their text.  So all workers have the same policies,
   whatever is on disk meanwhile, and so has a worker that starts later.
2. Each worker prepares new policies: it compiles them and takes the sockets of new listeners.  They are applied only
   if all workers can apply them.
3. A worker that prepares nothing in time is killed, and so is one that does not apply what it has prepared.  Its
   successor has the policies in force.
4. Workers that drain get no policies any more.
"""

from __future__ import annotations

import asyncio
import os
from collections import deque
from collections.abc import Awaitable, Callable
from typing import Any, Final

from sidecar.config import files
from sidecar.config.files import Source
from sidecar.config.load import Loaded, load
from sidecar.config.spec import PolicySpec
from sidecar.control.reload import DRAINING, EVENTS, FILE, HISTORY, Rejected, Reload, check_restart
from sidecar.control.watch import PolicyWatch, fingerprint
from sidecar.core import events, metrics
from sidecar.core.env import Env
from sidecar.downstream.sockets import socket_key
from sidecar.process.workers.children import Child, Children
from sidecar.process.workers.listening import ListeningSockets
from sidecar.telemetry.metrics.registry import Registry
from sidecar.telemetry.plain import Masks

PREPARE_SECONDS: Final = 60.0
"""Longest wait until all workers have prepared new policies, and until they have applied them."""
READY_SECONDS: Final = 15.0
"""Longest wait for a worker that can prepare new policies."""
READY_POLL_SECONDS: Final = 0.05
"""Pause between two looks for one."""
READ: Final = "latin-1"
"""Encoding in which the bytes of files travel as JSON texts."""


class _Vote:
    """Answers of one worker to new policies."""

    def __init__(self, start: int) -> None:
        loop = asyncio.get_running_loop()
        self.start = start
        """Number of the start of the worker that was asked."""
        self.prepared: asyncio.Future[list[str]] = loop.create_future()
        """Problems that keep the worker from applying them; empty if it can."""
        self.applied: asyncio.Future[dict[str, Any]] = loop.create_future()
        """Result after `commit`."""

    def end(self, result: dict[str, Any]) -> None:
        """Note the result of the worker's reload, or its end."""
        if not self.prepared.done():
            self.prepared.set_result(list(result.get("problems", ["no reason is known"])))
        if not self.applied.done():
            self.applied.set_result(result)


class Reloading:
    """Policies in force in all workers, and their replacement."""

    def __init__(
        self,
        path: str,
        sources: list[Source],
        loaded: Loaded,
        env: Env,
        registry: Registry,
        children: Children,
        listening: ListeningSockets,
    ) -> None:
        """Take the policy files as read and as loaded."""
        assert loaded.spec is not None
        self.spec: PolicySpec = loaded.spec
        """Policies in force."""
        self.digest = files.digest(sources)
        """Digest of the files in force."""
        self.history: deque[Reload] = deque(maxlen=HISTORY)
        """Latest reloads, newest last."""
        self.show: Callable[[Masks], object] = lambda _: None
        """Gets the masks for values from environment variables, before any of these values is used."""
        self.on_applied: Callable[[], Awaitable[None]] | None = None
        """Called after policies were put in force."""
        self._watch = PolicyWatch(path, files.read, fingerprint)
        self._sources = sources
        self._warnings = tuple(map(str, loaded.warnings))
        self._rejected = ""
        """Digest of the last rejected content; empty after policies were applied."""
        self._env = env
        self._registry = registry
        self._children = children
        self._listening = listening
        self._votes: dict[int, _Vote] = {}
        """Votes of a reload in progress, by worker."""
        self.turn = asyncio.Lock()
        """Held while policies are put in force, and by what must not happen meanwhile, such as a hand-over."""
        self._is_closed = False
        """True once the workers drain."""
        registry.gauge(metrics.POLICIES_REJECTED, lambda: float(self.is_rejected))

    @property
    def is_rejected(self) -> bool:
        """True if the latest content of the files was rejected."""
        return bool(self.history) and self.history[-1].result == "rejected"

    @property
    def texts(self) -> list[list[str]]:
        """Names and texts of the files in force, as JSON-ready values."""
        return _texts(self._sources)

    def begin(self) -> None:
        """Note the first policies."""
        self._note(Reload(self._env.wall(), "start", self.digest, "applied", (), self._warnings))

    def receive(self, worker: int, message: list[Any]) -> bool:
        """Handle a message of a worker; False if it concerns no reload."""
        kind, *rest = message
        if kind not in ("prepared", "reloaded"):
            return False
        vote = self._votes.get(worker)
        if vote is not None and kind == "reloaded":
            vote.end(rest[0])
        elif vote is not None and not vote.prepared.done():
            vote.prepared.set_result([])
        return True

    def leave(self, worker: int) -> None:
        """Take note that a worker has ended."""
        if (vote := self._votes.get(worker)) is not None:
            vote.end({"problems": [f"worker {worker + 1} has ended"]})

    def close(self) -> None:
        """Reject policies from now on, because the workers drain.  A reload in progress goes on."""
        self._is_closed = True

    @property
    def pause(self) -> float:
        """Seconds until the files are to be looked at again."""
        return self._watch.pause

    async def reload_if_changed(self) -> None:
        """Reload if the files have changed and are whole."""
        if await asyncio.to_thread(self._watch.is_due):
            await self.reload(FILE)

    async def reload(self, trigger: str) -> Reload:
        """Read the policy files, and put them in force on all workers or on none; see `Reload.trigger`."""
        async with self.turn:
            digest = ""
            try:
                if self._is_closed:
                    if trigger == FILE:
                        return Reload(self._env.wall(), trigger, digest, "unchanged")
                    raise Rejected([DRAINING])
                sources = await asyncio.to_thread(self._watch.read)
                digest = files.digest(sources)
                if trigger == FILE and digest in (self.digest, self._rejected):
                    unchanged = Reload(self._env.wall(), trigger, digest, "unchanged")
                    if digest != self.digest:
                        return unchanged
                    self._rejected = ""
                    return self._note(unchanged) if self.is_rejected else unchanged
                done = await self._replace(trigger, digest, sources)
                if self.on_applied is not None:
                    await self.on_applied()
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

    async def _replace(self, trigger: str, digest: str, sources: list[Source]) -> Reload:
        """Load policies, let all workers prepare and apply them; raise if one of the steps fails."""
        loaded = await asyncio.to_thread(load, sources, os.environ)
        spec = loaded.spec
        if spec is None:
            raise Rejected(loaded.problems)
        self.show(spec.facts)
        check_restart(self.spec, spec)
        opened = await self._listening.open(spec.listeners)
        voters = await self._voters()
        try:
            await self._prepare(voters, trigger, sources, opened)
        except BaseException:
            self._votes.clear()
            self.forget(opened)
            raise
        self._sources, self.digest, self.spec, self._rejected = sources, digest, spec, ""
        result = await self._apply(voters)
        self.forget(self._listening.keys - {socket_key(name, each.address) for name, each in spec.listeners.items()})
        warnings = tuple(map(str, loaded.warnings))
        changes = (tuple(result.get(name, ())) for name in ("added", "changed", "removed", "meaning"))
        return Reload(self._env.wall(), trigger, digest, "applied", (), warnings, *changes)

    async def _voters(self) -> list[Child]:
        """Return the workers that serve, which decide about new policies; wait for one if there is none.

        Without any for `READY_SECONDS`, the policies in force keep them all from starting, and others may be the cure.
        """
        until = self._env.now() + READY_SECONDS
        while not (voters := self._children.ready) and self._env.now() < until:
            await self._env.sleep(READY_POLL_SECONDS)
        return voters

    async def _prepare(self, voters: list[Child], trigger: str, sources: list[Source], opened: set[str]) -> None:
        """Let workers prepare policies.  Raises `Rejected` unless all of them can apply them."""
        texts = _texts(sources)
        self._votes = {child.number: _Vote(child.starts) for child in voters}
        for child in voters:
            self._listening.send(child, opened)
            child.send("prepare", trigger, texts)
        await _wait(vote.prepared for vote in self._votes.values())
        problems: list[str] = []
        for number, vote in self._votes.items():
            if not vote.prepared.done():
                problems.append(f"worker {number + 1} has not prepared them within {PREPARE_SECONDS:g}s")
                self._children[number].kill()  # it would prepare them later, and wait for an answer
            else:
                problems += vote.prepared.result()
        if problems:
            for child in voters:
                child.send("abandon")
            raise Rejected(list(dict.fromkeys(problems)))

    async def _apply(self, voters: list[Child]) -> dict[str, Any]:
        """Let workers apply what they have prepared; return what has changed."""
        votes = self._votes
        for child in self._children:
            if child.number in votes and votes[child.number].start == child.starts:
                child.send("commit")
            else:  # it starts or has started with the old ones, or is stuck
                child.kill()
        await _wait(vote.applied for vote in votes.values())
        self._votes = {}
        results: list[dict[str, Any]] = []
        for child in voters:
            vote = votes[child.number]
            if vote.applied.done() and vote.applied.result().get("result") == "applied":
                results.append(vote.applied.result())
            elif vote.start == child.starts:
                child.kill()
        return results[0] if results else {}

    def forget(self, keys: set[str]) -> None:
        """Close listening sockets, here and in all workers."""
        self._listening.close(keys)
        for key in keys:
            for child in self._children:
                child.send("forget", key)

    def _note(self, reload: Reload) -> Reload:
        """Add a reload to the history, count it, and log it."""
        self.history.append(reload)
        self._registry.counter(metrics.RELOADS, result=reload.result).add()
        facts = {name: value for name, value in reload.describe().items() if name not in ("at", "result")}
        self._env.emit(EVENTS[reload.result], **facts)
        return reload


def _texts(sources: list[Source]) -> list[list[str]]:
    return [[name, text.decode(READ)] for name, text in sources]


async def _wait(futures: Any) -> None:
    """Wait until all futures are done, `PREPARE_SECONDS` at most."""
    if waiting := list(futures):
        await asyncio.wait(waiting, timeout=PREPARE_SECONDS)
