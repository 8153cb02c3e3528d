"""Tests of `Gradient` with a model of an upstream, which has workers and a queue."""

from __future__ import annotations

import pytest

from sidecar.stages.concurrency.limit import Gradient


class Model:
    """Upstream that serves `workers` requests at once in `service` seconds each, under a load that fills the limit."""

    def __init__(self, gradient: Gradient, workers: int, service: float, demand: int = 10**6) -> None:
        self.gradient = gradient
        self.workers = workers
        self.service = service
        self.demand = demand
        self.now = 0.0

    def latency(self, active: int) -> float:
        return self.service * max(1.0, active / self.workers)

    def run(self, seconds: float) -> int:
        until = self.now + seconds
        while self.now < until:
            active = min(self.demand, int(self.gradient.limit))
            latency = self.latency(active)
            self.now += latency / active
            self.gradient.sample(self.now, latency, active)
        return int(self.gradient.limit)


@pytest.mark.parametrize("workers", [10, 50])
def test_the_limit_settles_a_little_above_the_capacity(workers: int) -> None:
    limit = Model(Gradient(4, 1000), workers, 0.02).run(120)
    assert workers <= limit <= 3 * workers + 10


def test_the_limit_does_not_drift_under_a_lasting_overload() -> None:
    model = Model(Gradient(4, 1000), 30, 0.05)
    early = model.run(60)
    assert model.run(1200) <= early * 1.2 + 1


def test_the_limit_comes_back_after_the_upstream_slowed_down_for_good() -> None:
    model = Model(Gradient(4, 1000), 50, 0.02)
    model.run(60)
    model.service = 0.08
    assert model.run(120) >= 50, "a slower service is not a queue"


def test_the_limit_falls_when_capacity_is_lost() -> None:
    model = Model(Gradient(4, 1000), 100, 0.02)
    before = model.run(120)
    model.workers = 20
    assert model.run(120) < before * 0.7


def test_the_limit_stays_while_it_is_not_used() -> None:
    gradient = Gradient(4, 1000)
    model = Model(gradient, 5, 0.02, demand=3)
    assert model.run(60) == 20


def test_the_limit_keeps_its_bounds() -> None:
    assert Model(Gradient(4, 40), 1000, 0.02).run(120) == 40
    gradient = Gradient(50, 100)
    assert gradient.limit == 50
    gradient.retune(60, 100)
    assert gradient.limit == 60


def test_drops_cut_the_limit() -> None:
    gradient = Gradient(4, 1000)
    now = 0.0
    for _ in range(20):
        now += 0.02
        gradient.drop(now, 20)
    assert gradient.limit < 20
    for _ in range(2000):
        now += 0.02
        gradient.drop(now, 20)
    assert gradient.limit == 4
    assert gradient.describe() == {"limit": 4, "long_run_latency": 0.0}
