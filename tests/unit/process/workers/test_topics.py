"""Tests of told values: all workers end with the value that is last in the supervisor's order."""

from __future__ import annotations

from collections import deque
from typing import Any

from hypothesis import given
from hypothesis import strategies as st

from sidecar.process.workers.topics import Subscriptions, TopicBook

WORKERS = 3


@given(st.lists(st.tuples(st.sampled_from(("tell", "up", "down")), st.integers(0, WORKERS - 1)), max_size=60))
def test_all_workers_end_with_the_same_value(steps: list[tuple[str, int]]) -> None:
    book = TopicBook()
    up: list[deque[Any]] = [deque() for _ in range(WORKERS)]
    down: list[deque[Any]] = [deque() for _ in range(WORKERS)]
    has: list[Any] = [None] * WORKERS
    tells: list[Any] = []
    workers = []
    for worker in range(WORKERS):
        workers.append(Subscriptions(lambda *value, worker=worker: up[worker].append(value)))

        def apply(_: str, value: Any, worker: int = worker) -> None:
            has[worker] = value

        tells.append(workers[worker].subscribe("breaker", apply))

    def deliver(step: str, worker: int) -> None:
        if step == "up" and up[worker]:
            topic, key, value = up[worker].popleft()
            book.put(topic, key, value)
            for other in range(WORKERS):
                down[other].append((topic, key, value, other == worker))
        elif step == "down" and down[worker]:
            workers[worker].receive(*down[worker].popleft())

    for number, (step, worker) in enumerate(steps):
        if step == "tell":
            has[worker] = number
            tells[worker]("", number)
        else:
            deliver(step, worker)
    while any(up) or any(down):
        for worker in range(WORKERS):
            deliver("up", worker)
            deliver("down", worker)
    assert has == [value for *_, value in book] * WORKERS or has == [None] * WORKERS


def test_who_subscribes_later_gets_the_last_value() -> None:
    worker = Subscriptions(lambda *_: None)
    worker.receive("health", "a", 1, False)
    worker.receive("health", "a", 2, False)
    seen: list[Any] = []
    worker.subscribe("health", lambda key, value: seen.append((key, value)))
    assert seen == [("a", 2)]
