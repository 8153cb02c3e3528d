"""Tests of leases: a supervisor's pools and the workers' leases, with messages in any order of the channels."""

from __future__ import annotations

from collections import deque
from typing import Any

from hypothesis import given, settings
from hypothesis import strategies as st

from sidecar.leases.permits import Lease, Pool, TokenPool, lease_size

TOTAL = 10
WORKERS = 3


class World:
    """Pool and workers, with messages under way."""

    def __init__(self, total: int = TOTAL) -> None:
        self.now = 0.0
        self.down: list[deque[tuple[str, int]]] = [deque() for _ in range(WORKERS)]
        self.up: list[deque[tuple[Any, ...]]] = [deque() for _ in range(WORKERS)]
        self.waiting = [0] * WORKERS
        """Requests that wait for a permit."""
        self.refused = 0
        """Number of times that nothing was left for a worker."""
        self.pool = Pool(lambda worker, kind, count: self.down[worker].append((kind, count)), total)
        self.used = [0] * WORKERS
        self.leases = [self._lease(worker) for worker in range(WORKERS)]

    def _lease(self, worker: int) -> Lease:
        return Lease(
            lambda *message: self.up[worker].append(message),
            lease_size(TOTAL, WORKERS),
            lambda: self.used[worker],
            lambda: self._serve(worker),
        )

    def _serve(self, worker: int) -> None:
        """Give permits to requests that wait, or refuse these."""
        if self.leases[worker].is_exhausted:
            self.refused += 1
            self.waiting[worker] = 0
        while self.waiting[worker] and self.used[worker] < self.leases[worker].held:
            self.waiting[worker] -= 1
            self.used[worker] += 1
        if self.waiting[worker]:
            self.leases[worker].want(self.waiting[worker])

    def deliver_up(self, worker: int) -> None:
        if self.up[worker]:
            kind, *counts = self.up[worker].popleft()
            getattr(self.pool, kind)(worker, *counts, self.now)

    def deliver_down(self, worker: int) -> None:
        if self.down[worker]:
            self.leases[worker].receive(*self.down[worker].popleft())

    def settle(self) -> None:
        while any(self.up) or any(self.down):
            for worker in range(WORKERS):
                self.deliver_up(worker)
                self.deliver_down(worker)

    def take(self, worker: int) -> None:
        if self.used[worker] < self.leases[worker].held:
            self.used[worker] += 1
        else:
            self.waiting[worker] += 1
            self.leases[worker].want(self.waiting[worker])

    def release(self, worker: int) -> None:
        self.used[worker] = max(0, self.used[worker] - 1)
        self._serve(worker)

    def die(self, worker: int) -> None:
        self.up[worker].clear()
        self.down[worker].clear()
        self.used[worker] = self.waiting[worker] = 0
        self.leases[worker] = self._lease(worker)
        self.pool.leave(worker, self.now)


STEPS = ("take", "release", "look", "deliver_up", "deliver_down", "die")


@settings(max_examples=200)
@given(st.lists(st.tuples(st.sampled_from(STEPS), st.integers(0, WORKERS - 1)), max_size=80))
def test_no_order_of_messages_lends_more_than_the_total(steps: list[tuple[str, int]]) -> None:
    world = World()
    for step, worker in steps:
        if step == "look":
            world.leases[worker].look(world.waiting[worker])
        else:
            getattr(world, step)(worker)
        assert sum(lease.held for lease in world.leases) <= sum(world.pool.held.values()) <= TOTAL
        assert all(used <= lease.held for used, lease in zip(world.used, world.leases, strict=True))


@settings(max_examples=300)
@given(st.lists(st.tuples(st.sampled_from(STEPS[:-1]), st.integers(0, WORKERS - 1)), max_size=120))
def test_no_request_is_refused_while_all_together_are_within_the_total(steps: list[tuple[str, int]]) -> None:
    world = World()
    for step, worker in steps:
        if step == "look":
            world.leases[worker].look(world.waiting[worker])
        elif step != "take" or sum(world.used) + sum(world.waiting) < TOTAL:
            getattr(world, step)(worker)
    world.settle()
    assert world.refused == 0
    assert sum(world.waiting) == 0


@given(st.lists(st.tuples(st.sampled_from(("take", "release", "die")), st.integers(0, WORKERS - 1)), max_size=40))
def test_at_most_one_lease_a_worker_is_unused_once_all_is_quiet(steps: list[tuple[str, int]]) -> None:
    world = World()
    for step, worker in steps:
        getattr(world, step)(worker)
        world.settle()
    for lease in world.leases:
        lease.look()
    world.settle()
    assert all(lease.unused <= lease.size for lease in world.leases)


def test_one_worker_may_use_the_whole_total() -> None:
    world = World()
    for lease in world.leases:
        lease.look()
    world.settle()
    for _ in range(3 * TOTAL):
        world.take(0)
        world.settle()
    assert world.used[0] == TOTAL
    world.take(1)
    world.settle()
    assert world.leases[1].is_exhausted
    world.die(0)
    world.take(1)
    world.settle()
    assert world.used[1] == 1


def test_a_lower_total_is_called_back() -> None:
    world = World()
    world.leases[0].want(TOTAL)
    world.settle()
    world.pool.resize(4, world.now)
    world.settle()
    assert world.leases[0].held == 4


def test_tokens_of_a_dead_worker_count_as_spent_and_come_back_with_the_window() -> None:
    sent: list[Any] = []
    pool = TokenPool(lambda *message: sent.append(message))
    pool.retune(0.0, 10.0, 10.0)
    pool.want(0, 4, 4, 100.0)
    assert sent == [(0, "grant", 4)]
    pool.report(0, 0, 1, 100.1)
    assert pool.held[0] == 3
    pool.leave(0, 101.0)
    assert pool.total(101.0) == pool.free(101.0) == 6
    assert pool.free(112.0) == 10


def test_a_budget_that_is_overspent_says_that_nothing_is_left_and_lends_again_with_the_window() -> None:
    sent: list[Any] = []
    pool = TokenPool(lambda *message: sent.append(message))
    pool.retune(0.0, 4.0, 10.0)
    pool.want(0, 4, 4, 100.0)
    pool.retune(0.0, 2.0, 10.0)
    pool.leave(0, 100.5)
    assert pool.free(100.5) == -2
    pool.want(1, 1, 1, 101.0)
    assert sent[1:] == [(1, "none", 0)], "the worker asks again"
    pool.want(1, 1, 1, 112.0)
    assert sent[2:] == [(1, "grant", 1)]


def test_permits_in_use_are_called_back_once_and_again_at_the_next_look() -> None:
    world = World()
    world.leases[0].want(TOTAL)
    world.settle()
    world.used[0] = TOTAL
    world.pool.resize(4, world.now)
    world.take(1)
    world.settle()  # ends only if the two do not ask each other for ever
    assert world.leases[1].is_exhausted, "it asks again at its next look"
    world.used[0] = 1
    world.settle()
    assert world.leases[0].held == TOTAL
    world.pool.look(world.now)
    world.settle()
    assert world.leases[0].held == 4
