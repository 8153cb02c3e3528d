"""Tests of histograms of durations: fine buckets for percentiles, and the few that are exported."""

from __future__ import annotations

import json
import math
import random
from bisect import bisect_left

import pytest

from sidecar.core.metrics import BOUNDS, SECONDS, TABLED, TICKS, Histogram, bucket_index
from sidecar.telemetry.metrics.durations import AttemptMetrics, RouteMetrics
from sidecar.telemetry.metrics.registry import Registry
from sidecar.telemetry.metrics.traffic import Traffic
from sidecar.top.stream import Model
from tests.support.cases import each

EDGES = (*SECONDS, *(bound - 1e-6 for bound in BOUNDS), *(bound + 1e-6 for bound in BOUNDS))


@each([0.0, 0.0001, 0.1, 1.0, TABLED / TICKS, 12.0, 999.0, *EDGES])
def test_a_duration_stands_in_the_bucket_whose_bound_is_the_first_not_below_it(seconds: float) -> None:
    assert bucket_index(seconds) == bisect_left(BOUNDS, seconds)


def test_durations_beyond_every_bound_share_a_bucket() -> None:
    assert bucket_index(BOUNDS[-1] + 1) == bucket_index(1e9) == len(BOUNDS)
    assert bucket_index(-1.0) == 0


def test_the_exported_buckets_are_those_of_the_conventions() -> None:
    rng = random.Random(7)
    values = [*SECONDS, *(rng.lognormvariate(-2, 2.5) for _ in range(2000)), 5000.0]
    histogram, expected = Histogram(), [0] * (len(SECONDS) + 1)
    for value in values:
        histogram.record(value)
        expected[bisect_left(SECONDS, value)] += 1
    assert histogram.exported() == tuple(expected)
    assert set(SECONDS) < set(BOUNDS)


def test_they_are_bounded() -> None:
    assert len(BOUNDS) < 320


@pytest.mark.parametrize("share", [0.5, 0.9, 0.99])
@pytest.mark.parametrize(
    "values",
    [
        [1.0] * 100,
        [0.0002] * 100,
        [0.251] * 100,
        [10.1] * 100,
        [600.0] * 100,
        [n / 1000 for n in range(1, 2001)],
        [0.003] * 95 + [2.5] * 5,
        [random.Random(3).lognormvariate(-3, 1.5) for _ in range(5000)],
    ],
    ids=["1s", "0.2ms", "251ms", "10.1s", "600s", "even", "tail", "lognormal"],
)
def test_percentiles_are_right_within_five_per_cent(values: list[float], share: float) -> None:
    registry = Registry()
    route = RouteMetrics(registry, {"route": "order"})
    for value in values:
        route.record(b"GET", 200, "", value)
    model = Model()
    seconds = [[0, {"order": _second(registry)}]]
    model.take("full", {"parts": {}, "bounds": list(BOUNDS), "keep": 300, "seconds": seconds})
    truth = sorted(values)[math.ceil(share * len(values)) - 1]
    assert model.recent(60)["order"].percentile(share) == pytest.approx(truth, rel=0.05)


def test_attempts_are_counted_in_the_same_buckets() -> None:
    registry = Registry()
    attempts = AttemptMetrics(registry)
    for value in EDGES:
        attempts.record("orders", "http://o:80", b"GET", 200, "", value)
    expected = Histogram()
    for value in EDGES:
        expected.counts[bucket_index(value)] += 1
        expected.total += value
    ((_, histogram),) = registry.instruments("http.client.request.duration")
    assert isinstance(histogram, Histogram)
    assert (histogram.counts, histogram.total) == (expected.counts, expected.total)


def _second(registry: Registry) -> list[int]:
    found: list[int] = json.loads(Traffic(registry).sample(0.0))[1]["order"]
    return found
