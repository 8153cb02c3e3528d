"""New policies for a running process: read, load, compile, bind, commit, swap, retire, in this order.

Rules:

1. Each step is total.  Whatever fails before the commit leaves the running policies, their state and their sockets as
   they were, and the watch goes on: a bad file must not be the end of good ones (Polly stops watching; here nothing
   does).
2. Between the commit and the swap there is no await: requests see the old policies or the new ones, never half of each,
   and a request under way keeps what it began with.
3. One reload at a time.  Those asked for meanwhile wait and read the files anew.
4. The same bad content is reported once, however often it is looked at, and tried again as soon as it changes, or when
   someone asks (SIGHUP, `POST /reload`): what was wrong may have been a certificate or a port.
5. Reading, parsing and checking happen in a worker thread, with pauses, since thread and loop share one interpreter;
   compiling and swapping on the loop, since they touch state, the one in small steps, the other in one.

Only a restart changes the service's name, the admin listener and where telemetry is sent.  The name is part of the
identity of everything that is exported (OpenTelemetry's resource is immutable), and the admin listener is how an
operator finds out what went wrong here.  A file that changes them is refused whole: to apply a part of what was
reviewed as one is worse than to wait.
"""

from __future__ import annotations

import asyncio
import os
from collections import deque
from collections.abc import Awaitable, Callable, Generator, Mapping, Sequence
from dataclasses import dataclass, field
from functools import partial
from typing import Any, Final, Literal, Protocol

from sidecar.config import files
from sidecar.config.checks.local_files import check_here
from sidecar.config.load import load
from sidecar.config.process_spec import ListenerSpec
from sidecar.config.spec import PolicySpec, RouteSpec
from sidecar.control.compiler import CompileError, MakeUpstream, Snapshot, compile_steps
from sidecar.control.state import StateStore
from sidecar.control.watch import fingerprint
from sidecar.core import events, metrics
from sidecar.core.env import Env
from sidecar.core.spec import Problem
from sidecar.telemetry.spec import wiring
from sidecar.upstream.client import make_upstream

POLL: Final = 1.0
"""Seconds between two looks at the files."""
HISTORY: Final = 50
FILE: Final = "file"
RESTART: Final = ("service", "admin")
"""Parts of the policies that only a restart changes."""
Result = Literal["applied", "unchanged", "rejected"]


class Listeners(Protocol):
    """The sockets of the process."""

    async def prepare(self, specs: dict[str, ListenerSpec]) -> Any:
        """Bind what is new or changed, and touch nothing else.  Raises `OSError`, with nothing bound."""

    def apply(self, snapshot: Snapshot, bound: Any) -> None:
        """Serve the snapshot on all listeners; those that it has no more drain.  Cannot fail."""

    def abandon(self, bound: Any) -> None:
        """Close what `prepare` has bound: the policies were not applied after all."""


@dataclass(frozen=True, slots=True)
class Reload:
    """How one reload went."""

    at: float
    """Seconds since 1970."""
    trigger: str
    """`start`, `file` (the watch saw a change), `signal` or `request`."""
    digest: str
    result: Result
    problems: tuple[str, ...] = ()
    """Each one a line; none unless rejected."""
    warnings: tuple[str, ...] = ()
    added: tuple[str, ...] = ()
    """Names of routes."""
    changed: tuple[str, ...] = ()
    removed: tuple[str, ...] = ()

    def describe(self) -> dict[str, Any]:
        """JSON-ready."""
        lists = {
            name: list(value)
            for name in ("problems", "warnings", "added", "changed", "removed")
            if (value := getattr(self, name))
        }
        return {"at": self.at, "trigger": self.trigger, "result": self.result, "digest": self.digest[:12], **lists}


class Rejected(Exception):  # noqa: N818 - the outcome of a reload, not an error of ours
    """The policies cannot be applied, and why."""

    def __init__(self, problems: Sequence[object]) -> None:
        super().__init__("\n".join(map(str, problems)))
        self.problems = tuple(map(str, problems))


@dataclass(slots=True)
class Origin:
    """Where policies come from; each part can be another one in a test."""

    path: str
    environ: Mapping[str, str] = field(default_factory=lambda: os.environ)
    read: Callable[[str], list[files.Source]] = files.read
    look: Callable[[str], object] = fingerprint
    in_thread: Callable[[Callable[[], Any]], Awaitable[Any]] = asyncio.to_thread
    pace: Callable[[], object] = lambda: None
    """Called by that thread all the time, to leave the interpreter to requests (`sidecar.core.pace`)."""


class Control:
    """The policies in force, and the only way to replace them."""

    def __init__(
        self,
        env: Env,
        store: StateStore,
        origin: Origin,
        listeners: Listeners,
        *,
        metrics: Callable[[RouteSpec], Any] = lambda _: None,
        make: MakeUpstream = make_upstream,
    ) -> None:
        self.snapshot: Snapshot | None = None
        """The policies in force; None before the first were applied."""
        self.history: deque[Reload] = deque(maxlen=HISTORY)
        """The latest reloads, the newest last; those that found nothing new are left out."""
        self._env = env
        self._store = store
        self._origin = origin
        self._listeners = listeners
        self._compile = partial(compile_steps, metrics=metrics, make=make)
        self._turn = asyncio.Lock()
        self._seen: object = None
        """How the files looked just before they were read."""
        self._rejected = ""
        """The digest of the content that was rejected last."""

    async def reload(self, trigger: str) -> Reload:
        """Read the files and put them in force; never raises for what they say.  `trigger`: see `Reload.trigger`."""
        async with self._turn:
            digest = ""
            try:
                sources = await self._origin.in_thread(self._read)
                digest = files.digest(sources)
                in_force = self.snapshot.digest if self.snapshot is not None else ""
                if trigger == FILE and digest in (in_force, self._rejected):
                    self._rejected = "" if digest == in_force else digest
                    return Reload(self._env.wall(), trigger, digest, "unchanged")
                return self._note(await self._replace(trigger, digest, sources))
            except Rejected as rejected:
                problems = rejected.problems
            except CompileError as error:
                problems = tuple(map(str, error.problems))
            except OSError as error:
                problems = (error.strerror or str(error),)
            except Exception as error:
                self._env.emit(events.BUG, where="reload", error=error)
                problems = (f"the sidecar failed to apply the policies: {error!r}",)
            self._rejected = digest
            return self._note(Reload(self._env.wall(), trigger, digest, "rejected", problems))

    async def watch(self) -> None:
        """Look at the files once a second and reload when they have changed; runs until it is cancelled."""
        origin = self._origin
        while True:
            await self._env.sleep(POLL)
            if await origin.in_thread(partial(origin.look, origin.path)) != self._seen:
                await self.reload(FILE)

    def _read(self) -> list[files.Source]:
        self._seen = self._origin.look(self._origin.path)  # first: what is written meanwhile will look different again
        return self._origin.read(self._origin.path)

    async def _replace(self, trigger: str, digest: str, sources: list[files.Source]) -> Reload:
        old = self.snapshot
        pace = (self._origin.pace,) if old is not None else ()  # nobody is to wait before the first policies
        loaded = await self._origin.in_thread(partial(load, sources, self._origin.environ, *pace))
        spec = loaded.spec
        if spec is None:
            raise Rejected(loaded.problems)
        if old is not None:
            _check_restart(old.spec, spec)
        if missing := await self._origin.in_thread(partial(check_here, spec, old.spec if old is not None else None)):
            raise Rejected(missing)
        lease = self._store.lease()
        try:
            snapshot = await self._in_steps(self._compile(spec, self._env, lease, digest=digest))
            bound = await self._listeners.prepare(spec.listeners)
            try:
                orphans = self._store.commit(lease)
            except BaseException:
                self._listeners.abandon(bound)
                raise
        except BaseException:
            lease.abandon()
            raise
        self.snapshot = snapshot
        self._listeners.apply(snapshot, bound)
        self._rejected = ""
        try:  # the policies are in force; what fails now is a bug, but no reason to say that they are not
            for upstream in snapshot.upstreams.values():
                upstream.start()
            self._store.retire(orphans)
        except Exception as error:
            self._env.emit(events.BUG, where="reload", error=error)
        warnings = tuple(map(str, loaded.warnings))
        return Reload(self._env.wall(), trigger, digest, "applied", (), warnings, *_changes(old, snapshot))

    async def _in_steps(self, steps: Generator[None, None, Snapshot]) -> Snapshot:
        """Run it to its end, with a turn of the loop after each step."""
        while True:
            try:
                next(steps)
            except StopIteration as end:
                snapshot: Snapshot = end.value
                return snapshot
            await self._env.sleep(0)

    def _note(self, reload: Reload) -> Reload:
        self.history.append(reload)
        self._env.meter.counter(metrics.RELOADS, result=reload.result).add()
        facts = reload.describe()
        event = events.RELOAD_APPLIED if reload.result == "applied" else events.RELOAD_REJECTED
        self._env.emit(event, **{name: value for name, value in facts.items() if name not in ("at", "result")})
        return reload


def _check_restart(old: PolicySpec, new: PolicySpec) -> None:
    changed = [name for name in RESTART if getattr(old, name) != getattr(new, name)]
    if wiring(old.telemetry) != wiring(new.telemetry):
        changed.append("telemetry")
    if changed:
        message = "differs from what the process was started with; restart the sidecar to change it, or put it back"
        raise Rejected([Problem(*new.where(name), name, message) for name in changed])


def _changes(old: Snapshot | None, new: Snapshot) -> tuple[tuple[str, ...], tuple[str, ...], tuple[str, ...]]:
    """Names of the routes that are added, changed (their upstream's settings included) and removed."""
    if old is None:
        return (), (), ()

    def meaning(snapshot: Snapshot, name: str) -> object:
        spec = snapshot.routes[name].spec
        return spec, snapshot.spec.upstreams[spec.upstream]

    kept = [name for name in new.routes if name in old.routes]
    return (
        tuple(name for name in new.routes if name not in old.routes),
        tuple(name for name in kept if meaning(old, name) != meaning(new, name)),
        tuple(name for name in old.routes if name not in new.routes),
    )
