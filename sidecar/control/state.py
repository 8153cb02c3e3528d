"""State that survives a reload: breakers, permits, budgets and pools, each under its key.

Rules:

1. Policies are compiled against a `Lease`, which hands out existing objects and makes missing ones.  Only `commit`
   changes objects in use: it retunes those with new settings, adopts new ones, and releases the rest.  Policies that do
   not compile change nothing.
2. Retention is by mark, not by reference count: an object stays if the committed lease was asked for it.  All others
   are orphans.  There is one writer, so no object can be released twice.
3. An orphan may still serve requests that began under the old policies.  Its `retire()`, if it has one, lets them end.
4. Some objects are not known when policies are compiled, such as breakers of endpoints that come and go.  They are
   members of a `StateGroup`, which is itself one object of the store.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Set
from contextlib import AbstractContextManager, nullcontext
from typing import Any, NamedTuple, Protocol

from sidecar.core.env import StateKey


class SeriesRegistry(Protocol):
    """Owner of the metric series of state objects (`sidecar.telemetry.metrics.registry.Registry`)."""

    def owned(self, owner: StateKey) -> AbstractContextManager[None]:
        """Return a context in which new series belong to the object `owner`."""

    def retire(self, owner: StateKey) -> None:
        """Drop the series of an object that no longer exists."""


class _NoSeries:
    """Registry of series for a store without metrics."""

    def owned(self, owner: StateKey) -> AbstractContextManager[None]:
        return nullcontext()

    def retire(self, owner: StateKey) -> None:
        pass


class _Held(NamedTuple):
    """State object with the settings that hold for it."""

    spec: Any
    state: Any


class Orphan(NamedTuple):
    """State object that the committed policies no longer use."""

    key: StateKey
    state: Any


class StateStore:
    """State objects in use, by key."""

    def __init__(self, series: SeriesRegistry | None = None) -> None:
        self.series: SeriesRegistry = series or _NoSeries()
        self._held: dict[StateKey, _Held] = {}
        self._commits = 0

    def lease(self) -> Lease:
        """Return a lease to compile policies against."""
        return Lease(self, self._held, self._commits)

    def commit(self, lease: Lease) -> list[Orphan]:
        """Put the objects of a lease in use, and return all others, which the caller passes to `retire`.

        If a `retune` raises, objects that were retuned before it get their old settings back; the lease can then still
        be abandoned.
        """
        if lease.base != self._commits:
            raise RuntimeError("other policies were committed since this lease was taken")
        tuned: list[tuple[Any, Any]] = []
        try:
            for key, held in lease.used.items():
                known = self._held.get(key)
                if known is not None and known.spec != held.spec:
                    tuned.append((held.state, known.spec))
                    held.state.retune(held.spec)
        except BaseException:
            for state, spec in reversed(tuned):
                state.retune(spec)
            raise
        orphans = [Orphan(key, held.state) for key, held in self._held.items() if key not in lease.used]
        self._held = lease.used
        self._commits += 1
        return orphans

    def retire(self, orphans: Iterable[Orphan]) -> None:
        """Retire orphans and drop their series; errors are collected, and raised after the last orphan."""
        errors: list[Exception] = []
        for key, state in orphans:
            try:
                if (retire := getattr(state, "retire", None)) is not None:
                    retire()
            except Exception as error:
                errors.append(error)
            self.series.retire(key)
        if errors:
            raise ExceptionGroup("state objects that could not be retired", errors)

    def objects(self) -> dict[StateKey, Any]:
        """Return every object in use by its key, members of groups included."""
        found: dict[StateKey, Any] = {}
        for key, (_, state) in self._held.items():
            found[key] = state
            if isinstance(state, StateGroup):
                found |= state.members()
        return found

    def describe(self) -> dict[str, dict[str, Any]]:
        """Return the description of every object that has one as JSON-ready values, by kind and name."""
        facts: dict[str, dict[str, Any]] = {}
        for (kind, *name), state in self.objects().items():
            if (describe := getattr(state, "describe", None)) is not None:
                facts.setdefault(kind, {})[":".join(name)] = describe()
        return facts

    def __repr__(self) -> str:
        return f"<StateStore {len(self._held)} objects, {self._commits} commits>"


class Lease:
    """State objects for one set of policies; objects in use stay unchanged until the lease is committed."""

    def __init__(self, store: StateStore, held: dict[StateKey, _Held], base: int) -> None:
        self.base = base
        """Number of commits before the lease was taken."""
        self.series = store.series
        self.used: dict[StateKey, _Held] = {}
        """Objects that the lease was asked for."""
        self._store = store
        self._held = held
        self._made: list[Orphan] = []

    def obtain(self, key: StateKey, spec: Any, make: Callable[[], Any]) -> Any:
        """Return the object under a key, or make it; the commit calls its `retune(spec)` if its settings differ.

        Raises `TypeError` if the key was asked for with another spec, or if the object cannot be retuned.
        """
        asked = self.used.get(key)
        if asked is not None:
            if asked.spec != spec:
                raise TypeError(
                    f"{':'.join(key)} is asked for with two specs; put what distinguishes them into the key"
                )
            return asked.state
        known = self._held.get(key)
        if known is None:
            with self._store.series.owned(key):
                state = make()
            self._made.append(Orphan(key, state))
        else:
            state = known.state
            if known.spec != spec and not hasattr(state, "retune"):
                raise TypeError(f"{':'.join(key)} cannot be retuned; put what may change into the key")
        self.used[key] = _Held(spec, state)
        return state

    def abandon(self) -> None:
        """Retire the objects that this lease has made, and no others."""
        made, self._made, self.used = self._made, [], {}
        self._store.retire(made)


class StateGroup:
    """State objects with one common spec, made when first needed: the breakers of an upstream's endpoints.

    The last part of a member's key is its name.  When a member is made, members whose names `alive` does not return are
    dropped.  So there is at most one member more than there are names.
    """

    def __init__(self, spec: Any, series: SeriesRegistry, alive: Callable[[], Iterable[str]]) -> None:
        self._spec = spec
        self._series = series
        self._alive = alive
        self._members: dict[StateKey, Any] = {}

    def obtain(self, key: StateKey, spec: Any, make: Callable[[], Any]) -> Any:
        """Return the member under a key, or make it; unlike `Lease.obtain`, this takes effect at once."""
        member = self._members.get(key)
        if member is None:
            self._drop(set(self._alive()))
            with self._series.owned(key):
                member = self._members[key] = make()
            if spec != self._spec:  # the caller belongs to older policies; the newer settings hold
                member.retune(self._spec)
        return member

    def retune(self, spec: Any) -> None:
        """Put new settings in force for every member."""
        self._spec = spec
        for member in self._members.values():
            member.retune(spec)

    def retire(self) -> None:
        """Drop all members."""
        self._drop(frozenset())

    def members(self) -> dict[StateKey, Any]:
        """Return the members by key."""
        return dict(self._members)

    def describe(self) -> dict[str, Any]:
        """Return the number of members as JSON-ready values."""
        return {"members": len(self._members)}

    def _drop(self, alive: Set[str]) -> None:
        """Drop all members except those whose names are in `alive`."""
        for key in [key for key in self._members if key[-1] not in alive]:
            del self._members[key]
            self._series.retire(key)
