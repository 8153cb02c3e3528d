"""Model test of leases of permits: messages lost, late and doubled, lessees that die, and a total that changes."""

from __future__ import annotations

from collections.abc import Iterator
from random import Random

from hypothesis import given, settings
from hypothesis import strategies as st

from sidecar.leases.permits import RECALL, PermitAsk, PermitGrant, PermitLessee, PermitLessor
from tests.support.cases import each


class Pipe:
    """Messages on their way to one lessee and from it, in any order and perhaps twice."""

    def __init__(self) -> None:
        self.lessee = PermitLessee(2)
        self.asks: list[PermitAsk] = []
        self.grants: list[PermitGrant] = []


def steps(rng: Random, pipes: dict[str, Pipe], lessor: PermitLessor) -> Iterator[None]:
    names = count_names()
    while True:
        if not pipes or (len(pipes) < 4 and rng.random() < 0.05):
            pipes[next(names)] = Pipe()
        name = rng.choice(list(pipes))
        pipe = pipes[name]
        match rng.randrange(9):
            case 0 | 1:
                pipe.lessee.take()
            case 2 if pipe.lessee.used:
                pipe.lessee.release()
            case 3 if pipe.lessee.is_due:
                pipe.asks.append(pipe.lessee.ask())
            case 4 if pipe.asks:
                answer = lessor.exchange(name, pipe.asks[index := rng.randrange(len(pipe.asks))])
                if rng.random() < 0.7:
                    del pipe.asks[index]
                if answer is not None and rng.random() < 0.8:
                    pipe.grants.append(answer)
            case 5 if pipe.grants:
                pipe.lessee.receive(pipe.grants[index := rng.randrange(len(pipe.grants))])
                if rng.random() < 0.7:
                    del pipe.grants[index]
            case 6 if rng.random() < 0.05:
                del pipes[name]
                lessor.drop(name)
            case 7 if name in lessor.recalled():
                pipe.lessee.receive(RECALL)
            case 8:
                for lessee, offer in lessor.offers().items():
                    pipes[lessee].grants.append(offer)
        yield


def count_names() -> Iterator[str]:
    number = 0
    while True:
        number += 1
        yield f"worker-{number}"


@settings(max_examples=50, deadline=None, derandomize=True)
@given(st.integers(1, 20), st.integers(0, 2**32))
def test_permits_in_use_are_never_more_than_the_total(total: int, seed: int) -> None:
    lessor, pipes = PermitLessor(total), dict[str, Pipe]()
    run = steps(Random(seed), pipes, lessor)
    for _ in range(400):
        next(run)
        assert sum(pipe.lessee.held for pipe in pipes.values()) <= total
        assert all(pipe.lessee.used <= pipe.lessee.held for pipe in pipes.values())
        assert all(pipe.lessee.held <= lessor.held(name) for name, pipe in pipes.items())


def settle(lessor: PermitLessor, lessees: dict[str, PermitLessee]) -> None:
    """Exchange messages until nothing is due."""
    for _ in range(20):
        for name, lessee in lessees.items():
            if lessee.is_due:
                answer = lessor.exchange(name, lessee.ask())
                assert answer is not None
                lessee.receive(answer)
        for name, offer in lessor.offers().items():
            lessees[name].receive(offer)
        for name in lessor.recalled():
            lessees[name].receive(RECALL)


def test_spare_permits_go_to_who_is_short_of_them() -> None:
    lessor, a, b = PermitLessor(4), PermitLessee(2), PermitLessee(2)
    settle(lessor, {"a": a, "b": b})
    assert (a.held, b.held) == (2, 2)
    assert [a.take() for _ in range(4)] == [True, True, False, False]
    settle(lessor, {"a": a, "b": b})
    assert (a.held, b.held, lessor.free) == (4, 0, 0)


def test_permits_of_a_lessee_that_has_ended_are_free() -> None:
    lessor, a = PermitLessor(4), PermitLessee(2)
    settle(lessor, {"a": a})
    lessor.drop("a")
    assert (lessor.free, lessor.held("a")) == (4, 0)


@each([False, True])
def test_permits_that_were_spent_do_not_come_back(is_spent: bool) -> None:
    lessor, a = PermitLessor(10), PermitLessee(2)
    settle(lessor, {"a": a})
    for _ in range(2):
        assert a.take()
        a.spend()
    settle(lessor, {"a": a})
    assert lessor.total == 8
    lessor.drop("a", is_spent=is_spent)
    assert lessor.total == (6 if is_spent else 8)
    lessor.set_total(12)
    assert lessor.free == 12


def test_after_a_lower_total_permits_come_back_before_any_is_granted() -> None:
    lessor, a, b = PermitLessor(4), PermitLessee(1), PermitLessee(1)
    settle(lessor, {"a": a})
    assert a.take()
    settle(lessor, {"a": a})
    lessor.set_total(1)
    b.take()
    settle(lessor, {"a": a, "b": b})
    assert (a.held, b.held) == (1, 0)
    a.release()
    settle(lessor, {"a": a, "b": b})
    assert a.held + b.held <= 1
