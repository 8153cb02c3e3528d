"""What survives a reload: breakers, permits, budgets, pools, each kept under its identity.

Policies are compiled against a `Lease`.  It hands out the objects that live and makes those that are missing, but
changes nothing: only `commit` retunes what has new settings, adopts what is new and gives up what nobody asked for.  So
policies that turn out not to compile leave the running ones as they were.

Retention is by mark: what the committed lease has asked for stays, all else is an orphan.  There is one writer, hence
nothing is counted and nothing can be released twice.  An orphan may still serve requests of the policies before; its
`retire()`, where it has one, lets them end.

State that is not known when policies are compiled, because endpoints come and go, is kept in a `Family`: one object of
the store that holds objects of its own.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Set
from contextlib import AbstractContextManager, nullcontext
from typing import Any, NamedTuple, Protocol

from sidecar.core.env import StateKey


class Series(Protocol):
    """Whoever counts what state objects measure (`sidecar.telemetry.metrics.registry.Registry`)."""

    def owned(self, owner: StateKey) -> AbstractContextManager[None]:
        """Series that are asked for inside belong to that object."""

    def retire(self, owner: StateKey) -> None:
        """That object is gone, and its series with it."""


class _Uncounted:
    def owned(self, owner: StateKey) -> AbstractContextManager[None]:
        return nullcontext()

    def retire(self, owner: StateKey) -> None:
        pass


class _Entry(NamedTuple):
    spec: Any
    thing: Any


class Orphan(NamedTuple):
    """What the committed policies no longer have."""

    key: StateKey
    thing: Any


class StateStore:
    """All living state objects by their identity."""

    def __init__(self, series: Series | None = None) -> None:
        self.series: Series = series or _Uncounted()
        self._entries: dict[StateKey, _Entry] = {}
        self._commits = 0

    def lease(self) -> Lease:
        """Something to compile policies against."""
        return Lease(self, self._entries, self._commits)

    def commit(self, lease: Lease) -> list[Orphan]:
        """Make the lease's objects the living ones and return the others; `retire` is the caller's to call on them.

        All or nothing: if a `retune` raises, those before it are tuned back, and the lease can still be abandoned.
        """
        if lease.base != self._commits:
            raise RuntimeError("other policies were committed since this lease was taken")
        tuned: list[tuple[Any, Any]] = []
        try:
            for key, entry in lease.used.items():
                known = self._entries.get(key)
                if known is not None and known.spec != entry.spec:
                    tuned.append((entry.thing, known.spec))
                    entry.thing.retune(entry.spec)
        except BaseException:
            for thing, spec in reversed(tuned):
                thing.retune(spec)
            raise
        orphans = [Orphan(key, entry.thing) for key, entry in self._entries.items() if key not in lease.used]
        self._entries = lease.used
        self._commits += 1
        return orphans

    def retire(self, orphans: Iterable[Orphan]) -> None:
        """Let orphans end: `retire()` of those that have one, and their series.  An error in one spares the others."""
        errors: list[Exception] = []
        for key, thing in orphans:
            try:
                if (retire := getattr(thing, "retire", None)) is not None:
                    retire()
            except Exception as error:
                errors.append(error)
            self.series.retire(key)
        if errors:
            raise ExceptionGroup("state objects that could not be retired", errors)

    def objects(self) -> dict[StateKey, Any]:
        """Every living object, members of families included."""
        found: dict[StateKey, Any] = {}
        for key, (_, thing) in self._entries.items():
            found[key] = thing
            if isinstance(thing, Family):
                found |= thing.members()
        return found

    def describe(self) -> dict[str, dict[str, Any]]:
        """JSON-ready facts of every object that describes itself, by kind and name, for `/state`."""
        facts: dict[str, dict[str, Any]] = {}
        for (kind, *name), thing in self.objects().items():
            if (describe := getattr(thing, "describe", None)) is not None:
                facts.setdefault(kind, {})[":".join(name)] = describe()
        return facts

    def __repr__(self) -> str:
        return f"<StateStore {len(self._entries)} objects, {self._commits} commits>"


class Lease:
    """The state objects of one set of policies.  Living objects stay untouched until it is committed."""

    def __init__(self, store: StateStore, entries: dict[StateKey, _Entry], base: int) -> None:
        self.base = base
        self.series = store.series
        self.used: dict[StateKey, _Entry] = {}
        self._store = store
        self._entries = entries
        self._made: list[Orphan] = []

    def obtain(self, key: StateKey, spec: Any, make: Callable[[], Any]) -> Any:
        """The object of that identity, made where there is none; commit calls `retune(spec)` if that differs."""
        asked = self.used.get(key)
        if asked is not None:
            if asked.spec != spec:
                raise TypeError(
                    f"{':'.join(key)} is asked for with two specs; what sets them apart belongs into its key"
                )
            return asked.thing
        known = self._entries.get(key)
        if known is None:
            with self._store.series.owned(key):
                thing = make()
            self._made.append(Orphan(key, thing))
        else:
            thing = known.thing
            if known.spec != spec and not hasattr(thing, "retune"):
                raise TypeError(f"{':'.join(key)} cannot be retuned; what may change belongs into its key")
        self.used[key] = _Entry(spec, thing)
        return thing

    def abandon(self) -> None:
        """Give up: close what this lease has made, and nothing else."""
        made, self._made, self.used = self._made, [], {}
        self._store.retire(made)


class Family:
    """State objects that share a spec and are made when first needed: the breakers of an upstream's endpoints.

    The last word of a member's key is the name that it goes by; members whose name `alive` no longer gives are dropped
    when the next one is made, so that there are never more than there were names at once, and one.
    """

    def __init__(self, spec: Any, series: Series, alive: Callable[[], Iterable[str]]) -> None:
        self._spec = spec
        self._series = series
        self._alive = alive
        self._members: dict[StateKey, Any] = {}

    def obtain(self, key: StateKey, spec: Any, make: Callable[[], Any]) -> Any:
        """The member of that identity, made where there is none; as `Lease.obtain`, but at any time."""
        member = self._members.get(key)
        if member is None:
            self._drop(set(self._alive()))
            with self._series.owned(key):
                member = self._members[key] = make()
            if spec != self._spec:  # policies that are no longer in force asked; the newer ones hold
                member.retune(self._spec)
        return member

    def retune(self, spec: Any) -> None:
        """Take new settings, every member alike."""
        self._spec = spec
        for member in self._members.values():
            member.retune(spec)

    def retire(self) -> None:
        self._drop(frozenset())

    def members(self) -> dict[StateKey, Any]:
        return dict(self._members)

    def describe(self) -> dict[str, Any]:
        return {"members": len(self._members)}

    def _drop(self, alive: Set[str]) -> None:
        for key in [key for key in self._members if key[-1] not in alive]:
            del self._members[key]
            self._series.retire(key)
