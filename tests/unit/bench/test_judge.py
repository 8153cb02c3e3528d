"""Tests of the verdict on a soak."""

from __future__ import annotations

import pytest

from bench.judge import MEMORIES, MIB, Sample, judge
from bench.tally import Tally

LINE = "sidecar.core.message.LineDecision"
REST = Sample(0.0, 60 * MIB, 20, 6, 0, 0, 0, 0, {"sidecar.a.B": 100, LINE: 50})


def samples(objects: list[dict[str, int]]) -> list[Sample]:
    return [REST._replace(at=float(at), objects={**REST.objects, **some}) for at, some in enumerate(objects)]


def faults(objects: list[dict[str, int]], after: Sample = REST) -> list[str]:
    return judge(samples(objects), REST, after, Tally()).faults


def test_what_stays_as_it_is_passes() -> None:
    assert faults([{}] * 20) == []


def test_what_grows_does_not() -> None:
    assert faults([{"sidecar.a.B": 100 + 10 * n} for n in range(20)]) == [
        "sidecar.a.B grow: +140.0 at 220.0 on average"
    ]


def test_what_remains_does_not() -> None:
    after = REST._replace(objects={"sidecar.a.B": 201})
    assert faults([{}] * 20, after) == ["201 sidecar.a.B remain; there were 100 before"]
    assert faults([{}] * 20, REST._replace(in_flight=1)) == ["1 requests in flight remain; there were 0 before"]


@pytest.mark.parametrize(("most", "passes"), [(MEMORIES[LINE], True), (MEMORIES[LINE] + 1, False)])
def test_a_bounded_table_is_judged_by_its_bound(most: int, passes: bool) -> None:
    assert (faults([{LINE: 100 + 50 * n} for n in range(19)] + [{LINE: most}]) == []) == passes


def test_a_violation_is_a_fault() -> None:
    tally = Tally()
    tally.violation("answered twice")
    assert judge(samples([{}] * 20), REST, REST, tally).faults == ["answered twice"]
