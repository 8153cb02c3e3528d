"""Reload of policies: read, load, compile, bind, commit, swap and retire, in this order.

Rules:

1. A failure before the commit leaves the running policies, their state and their sockets unchanged.  The watch goes on,
   so that correct policies can follow a bad file (Polly stops watching).
2. There is no await between commit and swap: a request sees either the old policies or the new ones.  A request in
   progress keeps the policies that it began with.
3. Reloads are serialised; a reload that waited reads the files again.
4. The watch reports the same bad content once.  It is tried again when it changes, and on SIGHUP or `POST /reload`,
   because the cause may have been a certificate or a port.  Restoring the old content ends the rejected state.
5. Reading, parsing, checking and importing run in a worker thread that pauses often, because it shares the interpreter
   with the loop.  Compiling (in short steps) and swapping run on the loop, because they use state.
6. Only a restart changes the service's name, the admin listener, the workers and the destination of telemetry.  A
   file that changes one of them is refused as a whole.
7. A process that drains puts no policies in force: it would listen on new addresses again, perhaps before the process
   that replaces it.
"""

from __future__ import annotations

import asyncio
import os
from collections import deque
from collections.abc import Awaitable, Callable, Mapping, Sequence
from dataclasses import dataclass, field
from functools import partial
from typing import Any, Final, Literal, Protocol

from sidecar.config import files
from sidecar.config.checks.local_files import check_local_files
from sidecar.config.load import load
from sidecar.config.process_spec import ListenerSpec
from sidecar.config.spec import PolicySpec, RouteSpec
from sidecar.control.compiler import Compilation, CompileError, MakeUpstream, Snapshot, import_rest, import_stages
from sidecar.control.state import StateStore
from sidecar.control.watch import PolicyWatch, fingerprint
from sidecar.core import events, metrics
from sidecar.core.env import Env
from sidecar.core.metrics import POLICIES_REJECTED
from sidecar.core.spec import Problem
from sidecar.telemetry.plain import Masks
from sidecar.upstream.client import Upstream

HISTORY: Final = 50
"""Number of reloads that are kept for `/state`."""
FILE: Final = "file"
"""Trigger of a reload that the watch starts."""
DRAINING: Final = "the process drains and keeps its policies; a process that replaces it has read the files itself"
"""Problem of policies that are to be put in force during a drain."""
RESTART: Final = ("service", "admin", "process")
"""Sections of the policies that only a restart changes."""
Result = Literal["applied", "unchanged", "rejected"]
EVENTS: Final[dict[Result, str]] = {
    "applied": events.RELOAD_APPLIED,
    "unchanged": events.RELOAD_RESTORED,
    "rejected": events.RELOAD_REJECTED,
}
"""Log event of each result."""


class Listeners(Protocol):
    """Listeners of the process."""

    async def prepare(self, specs: dict[str, ListenerSpec]) -> Any:
        """Bind new and changed addresses, and change nothing else.  Raises `OSError` after releasing all of them."""

    def apply(self, snapshot: Snapshot, bound: Any) -> None:
        """Serve the snapshot on its listeners, and drain the listeners that it does not have.  Never raises."""

    def abandon(self, bound: Any) -> None:
        """Close the sockets that `prepare` has bound."""


@dataclass(frozen=True, slots=True)
class Reload:
    """Result of one reload."""

    at: float
    """Time of the reload as a Unix time in seconds."""
    trigger: str
    """Cause: `start`, `file` (the watch saw a change), `signal` or `request`."""
    digest: str
    """Digest of the files; empty if they could not be read."""
    result: Result
    problems: tuple[str, ...] = ()
    """Problems, one line each; empty unless the policies were rejected."""
    warnings: tuple[str, ...] = ()
    """Warnings, one line each."""
    added: tuple[str, ...] = ()
    """Names of new routes."""
    changed: tuple[str, ...] = ()
    """Names of routes that have changed, or whose upstream has changed."""
    removed: tuple[str, ...] = ()
    """Names of routes that no longer exist."""
    meaning: tuple[str, ...] = ()
    """Meaning of the change as of `sidecar diff`, one line for each route, upstream or section that differs."""

    def describe(self) -> dict[str, Any]:
        """Return the result as JSON-ready values."""
        lists = {
            name: list(value)
            for name in ("problems", "warnings", "added", "changed", "removed", "meaning")
            if (value := getattr(self, name))
        }
        return {"at": self.at, "trigger": self.trigger, "result": self.result, "digest": self.digest[:12], **lists}


class Rejected(Exception):  # noqa: N818 - the outcome of a reload, not an error of the program
    """Raised for policies that cannot be applied, with their problems."""

    def __init__(self, problems: Sequence[object]) -> None:
        super().__init__("\n".join(map(str, problems)))
        self.problems = tuple(map(str, problems))


@dataclass(slots=True)
class PolicySource:
    """Path of the policy files, with the functions that read them; tests replace these functions."""

    path: str
    """Policy file, or directory of policy files."""
    environ: Mapping[str, str] = field(default_factory=lambda: os.environ)
    """Environment variables for `${NAME}`."""
    read: Callable[[str], list[files.Source]] = files.read
    """Reads the policy files at a path."""
    look: Callable[[str], object] = fingerprint
    """Returns a fingerprint of the files at a path."""
    in_thread: Callable[[Callable[[], Any]], Awaitable[Any]] = asyncio.to_thread
    """Runs a function in a worker thread."""
    pace: Callable[[], object] = lambda: None
    """Called regularly in the worker thread; may pause it, so that requests get the interpreter."""


class Control:
    """Owner of the policies in force; `reload` is the only way to replace them."""

    def __init__(
        self,
        env: Env,
        store: StateStore,
        origin: PolicySource,
        listeners: Listeners,
        *,
        metrics: Callable[[RouteSpec], Any] = lambda _: None,
        make: MakeUpstream = Upstream,
        imported: Callable[[], object] = lambda: None,
        show: Callable[[Masks], object] = lambda _: None,
        agree: Callable[[str], Awaitable[bool]] | None = None,
    ) -> None:
        """Make a control without policies.

        - `agree`: called with the digest of policies that can be put in force; False to abandon them.  None for a
          process that decides alone; with it, the process logs and counts no reload, because its supervisor does.
        - `metrics`, `make`: see `Compilation`.
        - `show`: gets the masks for values from environment variables, before any of these values is used.
        - `imported`: called once, between the imports for the first policies and their compilation.
        """
        self.snapshot: Snapshot | None = None
        """Policies in force; None before the first were applied."""
        self.history: deque[Reload] = deque(maxlen=HISTORY)
        """Latest reloads, newest last.  Reloads without a change are left out, unless they end a rejected state."""
        self.on_applied: Callable[[], Awaitable[None]] = _nothing
        """Called after policies were put in force."""
        self.turn = asyncio.Lock()
        """Held while policies are put in force, and by what must not happen meanwhile, such as a hand-over."""
        self._is_closed = False
        """True once the process drains."""
        self._env = env
        self._store = store
        self._origin = origin
        self._listeners = listeners
        self._compile = partial(Compilation, metrics=metrics, make=make)
        self._imported = imported
        self._show = show
        self._agree = agree
        self._complete: Snapshot | None = None
        """Policies whose modules are all imported."""
        self._watch = PolicyWatch(origin.path, origin.read, origin.look)
        self._rejected = ""
        """Digest of the last rejected content; empty after policies were applied."""
        env.meter.gauge(POLICIES_REJECTED, lambda: float(self.is_rejected))

    async def reload(self, trigger: str) -> Reload:
        """Read the policy files and put them in force; problems of the files are in the result, and are not raised.

        `trigger`: see `Reload.trigger`.
        """
        async with self.turn:
            digest = ""
            try:
                if self._is_closed:
                    if trigger == FILE:
                        return Reload(self._env.wall(), trigger, digest, "unchanged")
                    raise Rejected([DRAINING])
                sources = await self._origin.in_thread(self._watch.read)
                digest = files.digest(sources)
                in_force = self.snapshot.digest if self.snapshot is not None else ""
                if trigger == FILE and digest in (in_force, self._rejected):
                    unchanged = Reload(self._env.wall(), trigger, digest, "unchanged")
                    if digest != in_force:
                        return unchanged
                    self._rejected = ""
                    return self._note(unchanged) if self.is_rejected else unchanged
                done = await self._replace(trigger, digest, sources)
                await self.on_applied()
                return self._note(done)
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

    def close(self) -> None:
        """Reject policies from now on, because the process drains.  A reload in progress goes on."""
        self._is_closed = True

    async def watch(self) -> None:
        """Look at the files again and again, and reload after a change; run until `close`.

        After new policies were applied, it also imports modules that their stages need only while serving.
        """
        while not self._is_closed:
            await self._env.sleep(self._watch.pause)
            await self.import_rest()
            if await self._origin.in_thread(self._watch.is_due):
                await self.reload(FILE)

    async def import_rest(self) -> None:
        """Import modules that the stages of the policies in force need only while serving."""
        if (snapshot := self.snapshot) is not None and snapshot is not self._complete:
            await self._origin.in_thread(partial(import_rest, snapshot.spec))
            self._complete = snapshot

    @property
    def is_rejected(self) -> bool:
        """True if the latest content of the files was rejected."""
        return bool(self.history) and self.history[-1].result == "rejected"

    def describe_policies(self) -> dict[str, Any]:
        """Return the service's name and the digest of the policies in force as JSON-ready values."""
        snapshot = self.snapshot
        return {} if snapshot is None else {"service": snapshot.spec.service, "digest": snapshot.digest[:12]}

    def describe_reloads(self) -> list[dict[str, Any]]:
        """Return the latest reloads as JSON-ready values, oldest first."""
        return [reload.describe() for reload in self.history]

    def describe_routes(self) -> dict[str, Any]:
        """Return each route's upstream and chain of stages as JSON-ready values.

        The upstream is empty for a route with `aggregate`, which has the route of each part instead.
        """
        snapshot = self.snapshot
        if snapshot is None:
            return {}
        return {
            name: {
                "upstream": route.upstream,
                "parts": dict(route.spec.parts),
                "chain": [
                    {"policy": link.policy, "scope": link.scope, "mode": link.block.mode, "where": link.where}
                    for link in (*route.observed, *route.chain)
                ],
            }
            for name, route in snapshot.routes.items()
        }

    async def _replace(self, trigger: str, digest: str, sources: list[files.Source]) -> Reload:
        """Load, compile and apply the policies of the files; raise if one of these steps fails."""
        old = self.snapshot
        pace = (self._origin.pace,) if old is not None else ()  # there are no requests before the first policies
        loaded = await self._origin.in_thread(partial(load, sources, self._origin.environ, *pace))
        spec = loaded.spec
        if spec is None:
            raise Rejected(loaded.problems)
        self._show(spec.facts)
        if old is not None:
            check_restart(old.spec, spec)
        if missing := await self._origin.in_thread(partial(_prepare, spec, old.spec if old is not None else None)):
            raise Rejected(missing)
        meaning: tuple[str, ...] = ()
        if old is None:
            self._imported()
        else:
            meaning = await self._origin.in_thread(partial(_meaning, old.spec, spec))
        lease = self._store.lease()
        try:
            compilation = self._compile(spec, self._env, lease, digest=digest)
            for _ in compilation:
                await self._env.sleep(0)
            snapshot = compilation.snapshot
            try:
                bound = await self._listeners.prepare(spec.listeners)
            except OSError as error:
                raise OSError(error.errno, spec.masks.text(error.strerror or str(error))) from error
            try:
                if self._agree is not None and not await self._agree(digest):
                    raise Rejected(["another worker cannot apply these policies"])
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
        try:  # the policies are in force: a failure from here on is a bug, and must not reject them
            for upstream in snapshot.upstreams.values():
                upstream.start()
            for identity in snapshot.identities.values():
                identity.start()
            self._store.retire(orphans)
        except Exception as error:
            self._env.emit(events.BUG, where="reload", error=error)
        warnings = tuple(map(str, loaded.warnings))
        changes = _changes(old, snapshot)
        return Reload(self._env.wall(), trigger, digest, "applied", (), warnings, *changes, meaning)

    def _note(self, reload: Reload) -> Reload:
        """Add a reload to the history, count it, and log it."""
        self.history.append(reload)
        if self._agree is not None:
            return reload
        self._env.meter.counter(metrics.RELOADS, result=reload.result).add()
        facts = reload.describe()
        self._env.emit(
            EVENTS[reload.result], **{name: value for name, value in facts.items() if name not in ("at", "result")}
        )
        return reload


async def _nothing() -> None:
    """Do nothing."""


def _prepare(spec: PolicySpec, old: PolicySpec | None) -> list[Problem]:
    """Import the stages of the policies, and return problems of local files.  Blocks while it reads files."""
    import_stages(spec)
    return check_local_files(spec, old)


def _meaning(old: PolicySpec, new: PolicySpec) -> tuple[str, ...]:
    """Return what a change of policies means, a line for each route, upstream or section that differs."""
    from sidecar.lint.diff import sentences

    return tuple(sentences(old, new))


def check_restart(old: PolicySpec, new: PolicySpec) -> None:
    """Raise `Rejected` if the new policies change what only a restart can change."""
    changed = [name for name in RESTART if getattr(old, name) != getattr(new, name)]
    if old.telemetry != new.telemetry and _wiring(old) != _wiring(new):
        changed.append("telemetry")
    if changed:
        remedy = "restart the sidecar or send it SIGUSR2 to change it, or restore the old value"
        message = f"differs from its value at the start; {remedy}"
        raise Rejected([Problem(*new.where(name), name, message) for name in changed])


def _wiring(spec: PolicySpec) -> object:
    """Return the settings of telemetry that only a restart changes."""
    from sidecar.telemetry.spec import wiring

    return wiring(spec.telemetry)


def _changes(old: Snapshot | None, new: Snapshot) -> tuple[tuple[str, ...], tuple[str, ...], tuple[str, ...]]:
    """Return the names of added, changed and removed routes; a change of its upstream changes a route."""
    if old is None:
        return (), (), ()

    def meaning(snapshot: Snapshot, name: str) -> object:
        spec = snapshot.routes[name].spec
        return spec, snapshot.spec.upstreams.get(spec.upstream)

    kept = [name for name in new.routes if name in old.routes]
    return (
        tuple(name for name in new.routes if name not in old.routes),
        tuple(name for name in kept if meaning(old, name) != meaning(new, name)),
        tuple(name for name in old.routes if name not in new.routes),
    )
