"""State that survives a reload: breakers, permits, budgets, pools, each kept under its identity.

Rules:

1. Policies are compiled against a `Lease`.  It hands out living objects and makes missing ones, but changes nothing:
   only `commit` retunes what has new settings, adopts what is new and gives up the rest.  Policies that do not compile
   leave the running ones as they were.
2. Retention is by mark: what the committed lease was asked for stays, all else is an orphan.  There is one writer, so
   nothing is counted and nothing can be released twice.
3. An orphan may still serve requests of the policies before.  Its `retire()`, if it has one, lets them end.
4. State that is not known when policies are compiled, because endpoints come and go, is kept in a `StateGroup`: one
   object of the store that holds objects of its own.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Set
from contextlib import AbstractContextManager, nullcontext
from typing import Any, NamedTuple, Protocol

from sidecar.core.env import StateKey


class SeriesRegistry(Protocol):
    """Keeper of the series of state objects (`sidecar.telemetry.metrics.registry.Registry`)."""

    def owned(self, owner: StateKey) -> AbstractContextManager[None]:
        """Let the series that are asked for inside belong to an object."""

    def retire(self, owner: StateKey) -> None:
        """Drop the series of an object that is gone."""


class _NoSeries:
    def owned(self, owner: StateKey) -> AbstractContextManager[None]:
        return nullcontext()

    def retire(self, owner: StateKey) -> None:
        pass


class _Held(NamedTuple):
    spec: Any
    state: Any


class Orphan(NamedTuple):
    """State object that the committed policies no longer have."""

    key: StateKey
    state: Any


class StateStore:
    """Living state objects by their identity."""

    def __init__(self, series: SeriesRegistry | None = None) -> None:
        self.series: SeriesRegistry = series or _NoSeries()
        self._held: dict[StateKey, _Held] = {}
        self._commits = 0

    def lease(self) -> Lease:
        """Return a lease to compile policies against."""
        return Lease(self, self._held, self._commits)

    def commit(self, lease: Lease) -> list[Orphan]:
        """Make the lease's objects the living ones and return the others, which the caller passes to `retire`.

        If a `retune` raises, those before it are tuned back, and the lease can still be abandoned.
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
        """Let orphans end, and drop their series.  An error in one spares the others; all are raised at the end."""
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
        """Return every living object by its identity, members of groups included."""
        found: dict[StateKey, Any] = {}
        for key, (_, state) in self._held.items():
            found[key] = state
            if isinstance(state, StateGroup):
                found |= state.members()
        return found

    def describe(self) -> dict[str, dict[str, Any]]:
        """Return the facts of every object that describes itself as JSON-ready values, by kind and name."""
        facts: dict[str, dict[str, Any]] = {}
        for (kind, *name), state in self.objects().items():
            if (describe := getattr(state, "describe", None)) is not None:
                facts.setdefault(kind, {})[":".join(name)] = describe()
        return facts

    def __repr__(self) -> str:
        return f"<StateStore {len(self._held)} objects, {self._commits} commits>"


class Lease:
    """State objects of one set of policies.  Living objects stay untouched until it is committed."""

    def __init__(self, store: StateStore, held: dict[StateKey, _Held], base: int) -> None:
        self.base = base
        """Number of commits before it was taken."""
        self.series = store.series
        self.used: dict[StateKey, _Held] = {}
        """Objects that it was asked for."""
        self._store = store
        self._held = held
        self._made: list[Orphan] = []

    def obtain(self, key: StateKey, spec: Any, make: Callable[[], Any]) -> Any:
        """Return the object of an identity, made where there is none; commit calls `retune(spec)` if that differs."""
        asked = self.used.get(key)
        if asked is not None:
            if asked.spec != spec:
                raise TypeError(
                    f"{':'.join(key)} is asked for with two specs; what sets them apart belongs into its key"
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
                raise TypeError(f"{':'.join(key)} cannot be retuned; what may change belongs into its key")
        self.used[key] = _Held(spec, state)
        return state

    def abandon(self) -> None:
        """Retire what this lease has made, and nothing else."""
        made, self._made, self.used = self._made, [], {}
        self._store.retire(made)


class StateGroup:
    """State objects that share a spec and are made when first needed: the breakers of an upstream's endpoints.

    The last word of a member's key is its name.  Members whose name `alive` no longer returns are dropped when the next
    one is made, so that their number is bounded by that of the names at one time, plus one.
    """

    def __init__(self, spec: Any, series: SeriesRegistry, alive: Callable[[], Iterable[str]]) -> None:
        self._spec = spec
        self._series = series
        self._alive = alive
        self._members: dict[StateKey, Any] = {}

    def obtain(self, key: StateKey, spec: Any, make: Callable[[], Any]) -> Any:
        """Return the member of an identity, made where there is none; like `Lease.obtain`, but at any time."""
        member = self._members.get(key)
        if member is None:
            self._drop(set(self._alive()))
            with self._series.owned(key):
                member = self._members[key] = make()
            if spec != self._spec:  # policies that are no longer in force asked; the newer settings hold
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
        """Return the members by their identities."""
        return dict(self._members)

    def describe(self) -> dict[str, Any]:
        """Return the number of members as JSON-ready values."""
        return {"members": len(self._members)}

    def _drop(self, alive: Set[str]) -> None:
        for key in [key for key in self._members if key[-1] not in alive]:
            del self._members[key]
            self._series.retire(key)
