"""Tests of the benchmark's ratios, limits and tables."""

from __future__ import annotations

from collections.abc import Sequence

import pytest

from bench import limits, report
from bench.costs import Cost
from bench.limits import Limit, against, ratio
from bench.scenarios import SCENARIOS, Sample, Scenario


def sample(cpu: float, per_second: float = 1000.0, idle: float = 0.0) -> Sample:
    return Sample(per_second, p50=1000.0, p99=2000.0, cpu=cpu, errors=0.0, resident=2.0**20, idle=idle)


def samples(*cpu: float) -> list[Sample]:
    return [sample(one) for one in cpu]


def scenario(name: str) -> Scenario:
    return next(one for one in SCENARIOS if one.name == name)


def test_a_ratio_is_the_median_over_the_rounds() -> None:
    ours, theirs = samples(10, 30, 50), samples(20, 40, 50)

    assert ratio(ours, theirs, "cpu") == 0.75  # of 0.5, 0.75 and 1.0


def test_a_machine_that_slows_down_does_not_change_a_ratio() -> None:
    ours, theirs = samples(10, 10, 30, 30, 30), samples(20, 20, 60, 60, 60)

    assert ratio(ours, theirs, "cpu") == 0.5


def test_a_round_in_which_the_other_has_nothing_does_not_count() -> None:
    assert ratio(samples(10, 30), samples(0, 20), "cpu") == 1.5
    assert ratio(samples(10), samples(0), "cpu") is None


def test_rounds_that_are_missing_are_an_error() -> None:
    with pytest.raises(ValueError, match="shorter"):
        ratio(samples(1, 2), samples(1), "cpu")


@pytest.mark.parametrize(
    ("limit", "ours", "theirs", "expected"),
    [
        (
            against("small", "cpu", "CPU", 0.75),
            samples(30),
            samples(40),
            "| CPU | at most 0.75x envoy's | 0.75x | yes |",
        ),
        (
            against("small", "cpu", "CPU", 0.75),
            samples(31),
            samples(40),
            "| CPU | at most 0.75x envoy's | 0.78x | **no** |",
        ),
        (
            against("small", "per_second", "rate", 1.3, is_least=True),
            [sample(1, 1200)],
            [sample(1, 1000)],
            "| rate | at least 1.30x envoy's | 1.20x | **no** |",
        ),
        (
            against("small", "per_second", "rate", 1.3, is_least=True),
            [sample(1, 1300)],
            [sample(1, 1000)],
            "| rate | at least 1.30x envoy's | 1.30x | yes |",
        ),
        (
            Limit("idle", "small", "idle", 9.0),
            [sample(1, idle=9 * 1024)],
            [],
            "| idle | at most 9.0 KiB | 9.0 KiB | yes |",
        ),
        (
            Limit("a miss", "small", "times", 1.1),
            [sample(1)._replace(times=1.11)],
            [],
            "| a miss | at most 1.10x that without a cache | 1.11x | **no** |",
        ),
        (
            Limit("failed calls", "small", "errors", 0.0),
            [*samples(1, 1), sample(1)._replace(errors=0.0001)],
            [],
            "| failed calls | at most 0.0000% | 0.0100% | **no** |",
        ),
    ],
)
def test_a_limit_tells_whether_it_holds(
    limit: Limit, ours: Sequence[Sample], theirs: Sequence[Sample], expected: str
) -> None:
    assert limit.row({("small", "sidecar"): ours, ("small", "envoy"): theirs}) == expected


def test_what_was_not_measured_is_left_out() -> None:
    limit = against("small", "cpu", "CPU", 0.75)

    assert limit.row({}) is None
    assert limit.row({("small", "sidecar"): samples(1)}) is None
    assert limits.table({}, [Cost("retry", 20.0, 1.0, None)], {"sidecar": [1.0]}) == []


def test_a_build_that_was_not_measured_is_not_judged_by_another() -> None:
    limit = against("small", "cpu", "CPU", 0.6, build=limits.PURE)
    found = {("small", "sidecar"): samples(10), ("small", "envoy"): samples(40)}

    assert limit.row(found) is None
    assert limit.row({**found, ("small", "pure"): samples(30)}) == "| CPU | at most 0.60x envoy's | 0.75x | **no** |"


def test_costs_with_a_limit_are_told() -> None:
    rows = limits.table({}, [Cost("a", 20.0, 3.0, 0.15), Cost("b", 20.0, 3.2, 0.15)], {})

    assert rows[2:] == [
        "| a: CPU that it adds | at most 0.15x the request without it | 0.15x | yes |",
        "| b: CPU that it adds | at most 0.15x the request without it | 0.16x | **no** |",
    ]


def test_a_slower_processor_changes_no_verdict_on_a_cost() -> None:
    fast, slow = (Cost("a", 20.0 * times, 2.9 * times, 0.15) for times in (1, 3))

    assert fast.holds
    assert slow.holds


def test_the_start_is_told_beside_envoys_and_has_no_limit() -> None:
    rows = limits.table({}, [], {"sidecar": [1.0, 0.6, 0.8], "envoy": [0.1, 0.1, 0.2]})

    assert rows[2:] == ["| CPU until ready | no limit | 6.00x envoy's | |"]  # of 10, 6 and 4


def test_limits_name_what_there_is() -> None:
    names = {one.name: one for one in SCENARIOS}
    for limit in limits.LIMITS:
        assert limit.field in Sample._fields
        assert names[limit.scenario].of(limit.build)
        assert limit.of is None or names[limit.of[0]].of(limit.of[1])


def test_a_table_compares_with_envoy() -> None:
    found = {("small", "sidecar"): samples(30, 10), ("small", "envoy"): samples(40, 20)}

    rows = report.table(scenario("small"), ["sidecar", "envoy"], found)

    assert rows[2].startswith("| sidecar | 20.0 (0.62x) | 1,000 (1.00x) |")  # of 0.75 and 0.5
    assert rows[3].startswith("| envoy | 30.0 | 1,000 |")


def test_without_envoy_the_first_is_compared_with() -> None:
    found = {("small", "sidecar"): samples(30), ("small", "nginx"): samples(15)}

    rows = report.table(scenario("small"), ["sidecar", "nginx"], found)

    assert rows[2].startswith("| sidecar | 30.0 |")
    assert rows[3].startswith("| nginx | 15.0 (0.50x) |")


def test_a_scenario_with_a_base_tells_what_it_adds() -> None:
    found = {("stored", "envoy"): [sample(22)._replace(times=times) for times in (1.05, 1.1, 1.4)]}

    rows = report.table(scenario("stored"), ["envoy"], found)

    assert rows[0].endswith("| CPU, times that of the same without a cache |")
    assert rows[2].endswith("| 1.10x |")
