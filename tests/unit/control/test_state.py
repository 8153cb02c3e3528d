from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import pytest

from sidecar.control.state import StateGroup, StateStore
from sidecar.core.env import StateKey

A, B, C = ("thing", "a"), ("thing", "b"), ("thing", "c")


class Thing:
    """State object that records its calls."""

    def __init__(self, spec: Any, fails_on: Any = None) -> None:
        self.specs = [spec]
        self.fails_on = fails_on
        self.retired = 0

    def retune(self, spec: Any) -> None:
        self.specs.append(spec)
        if spec == self.fails_on:
            raise RuntimeError("cannot")

    def retire(self) -> None:
        self.retired += 1

    def describe(self) -> dict[str, Any]:
        return {"spec": self.specs[-1]}


class Fixed:
    """State with neither `retune` nor `retire`."""


class Counted:
    """Metric series with their owners."""

    def __init__(self) -> None:
        self.owners: list[StateKey] = []
        self.retired: list[StateKey] = []

    @contextmanager
    def owned(self, owner: StateKey) -> Iterator[None]:
        self.owners.append(owner)
        yield

    def retire(self, owner: StateKey) -> None:
        self.retired.append(owner)


def committed(store: StateStore, *specs: tuple[StateKey, Any]) -> list[Any]:
    """Commit a lease that obtains these keys; return its objects."""
    lease = store.lease()
    things = [lease.obtain(key, spec, lambda spec=spec: Thing(spec)) for key, spec in specs]
    store.retire(store.commit(lease))
    return things


def test_the_same_key_is_the_same_object_and_a_new_spec_retunes_it_at_commit() -> None:
    store = StateStore()
    a, b = committed(store, (A, 1), (B, 1))
    lease = store.lease()
    assert lease.obtain(A, 2, Fixed) is a
    assert lease.obtain(B, 1, Fixed) is b
    assert a.specs == [1]
    assert store.commit(lease) == []
    assert (a.specs, b.specs) == ([1, 2], [1])
    committed(store, (A, 2))
    assert a.specs == [1, 2]


def test_one_lease_gives_one_object_for_one_key() -> None:
    lease = StateStore().lease()
    assert lease.obtain(A, 1, lambda: Thing(1)) is lease.obtain(A, 1, lambda: Thing(1))
    with pytest.raises(TypeError, match="thing:a is asked for with two specs"):
        lease.obtain(A, 2, lambda: Thing(2))


def test_what_nobody_asks_for_is_an_orphan() -> None:
    store = StateStore()
    a, b = committed(store, (A, 1), (B, 1))
    lease = store.lease()
    lease.obtain(B, 1, Fixed)
    assert store.commit(lease) == [(A, a)]
    assert store.objects() == {B: b}
    assert a.retired == 0
    store.retire([(A, a)])  # type: ignore[list-item]
    assert a.retired == 1


def test_abandon_closes_what_the_lease_made_and_nothing_else() -> None:
    store = StateStore()
    (a,) = committed(store, (A, 1))
    lease = store.lease()
    lease.obtain(A, 2, Fixed)
    made = lease.obtain(B, 1, lambda: Thing(1))
    lease.obtain(C, 1, Fixed)
    lease.abandon()
    lease.abandon()
    assert (a.specs, a.retired, made.retired) == ([1], 0, 1)
    assert store.objects() == {A: a}


def test_a_retune_that_fails_changes_nothing() -> None:
    store = StateStore()
    lease = store.lease()
    a = lease.obtain(A, 1, lambda: Thing(1))
    b = lease.obtain(B, 1, lambda: Thing(1, fails_on=2))
    store.commit(lease)
    lease = store.lease()
    lease.obtain(A, 2, Fixed)
    lease.obtain(B, 2, Fixed)
    made = lease.obtain(C, 1, lambda: Thing(1))
    with pytest.raises(RuntimeError, match="cannot"):
        store.commit(lease)
    lease.abandon()
    assert (a.specs, b.specs, made.retired) == ([1, 2, 1], [1, 2, 1], 1)
    assert store.objects() == {A: a, B: b}
    assert store.lease().obtain(A, 1, Fixed) is a


def test_what_cannot_be_retuned_must_have_its_settings_in_its_key() -> None:
    store = StateStore()
    lease = store.lease()
    lease.obtain(A, 1, Fixed)
    store.commit(lease)
    with pytest.raises(TypeError, match="thing:a cannot be retuned"):
        store.lease().obtain(A, 2, Fixed)


def test_a_lease_of_a_time_before_the_last_commit_is_refused() -> None:
    store = StateStore()
    late = store.lease()
    committed(store, (A, 1))
    with pytest.raises(RuntimeError, match="other policies were committed"):
        store.commit(late)


def test_one_that_cannot_be_retired_spares_the_others() -> None:
    class Stuck(Thing):
        def retire(self) -> None:
            raise OSError("stuck")

    counted = Counted()
    store = StateStore(counted)
    lease = store.lease()
    lease.obtain(A, 1, lambda: Stuck(1))
    b = lease.obtain(B, 1, lambda: Thing(1))
    store.commit(lease)
    with pytest.raises(ExceptionGroup, match="could not be retired"):
        store.retire(store.commit(store.lease()))
    assert b.retired == 1
    assert counted.retired == [A, B]


def test_series_belong_to_the_object_that_asks_for_them() -> None:
    counted = Counted()
    store = StateStore(counted)
    committed(store, (A, 1))
    committed(store, (A, 2), (B, 1))
    assert counted.owners == [A, B]
    lease = store.lease()
    lease.obtain(C, 1, Fixed)
    lease.abandon()
    assert counted.retired == [C]


def test_state_is_described_by_kind_and_name() -> None:
    store = StateStore()
    lease = store.lease()
    lease.obtain(("breaker", "route", "x"), 1, lambda: Thing(1))
    lease.obtain(("fixed",), 1, Fixed)
    family = lease.obtain(("breakers", "u"), 7, lambda: StateGroup(7, store.series, list))
    store.commit(lease)
    family.obtain(("breaker", "upstream", "u", "http://e"), 7, lambda: Thing(7))
    assert store.describe() == {
        "breaker": {"route:x": {"spec": 1}, "upstream:u:http://e": {"spec": 7}},
        "breakers": {"u": {"members": 1}},
    }


def test_a_family_keeps_its_members_over_reloads_and_tunes_them_alike() -> None:
    counted = Counted()
    alive = ["e1", "e2"]
    family = StateGroup(1, counted, lambda: alive)
    one = family.obtain(("breaker", "u", "e1"), 1, lambda: Thing(1))
    assert family.obtain(("breaker", "u", "e1"), 1, Fixed) is one
    family.retune(2)
    late = family.obtain(("breaker", "u", "e2"), 1, lambda: Thing(1))  # obtained by policies that are being replaced
    assert (one.specs, late.specs) == ([1, 2], [1, 2])
    alive[:] = ["e2", "e3"]
    family.obtain(("breaker", "u", "e3"), 2, lambda: Thing(2))
    assert [key[-1] for key in family.members()] == ["e2", "e3"]
    assert counted.retired == [("breaker", "u", "e1")]
    family.retire()
    assert family.members() == {}
    assert len(counted.retired) == 3
