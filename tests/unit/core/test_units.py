"""Tests of units and blocks: quantities need units, and unknown keys are errors."""

from __future__ import annotations

from typing import Any

import pytest
from pydantic import TypeAdapter, ValidationError

from sidecar.core.spec import Block, Problem
from sidecar.core.units import Duration, DurationOrZero, Rate, Share, Size, as_written
from tests.support.cases import each


@pytest.mark.parametrize(
    ("kind", "text", "value"),
    [
        (Duration, "250ms", 0.25),
        (Duration, "1.5s", 1.5),
        (Duration, "5m", 300),
        (Duration, "1h", 3600),
        (Duration, "10us", 1e-5),
        (DurationOrZero, "0s", 0),
        (Size, "64KiB", 65536),
        (Size, "10MB", 10_000_000),
        (Size, "0B", 0),
        (Share, "20%", 0.2),
        (Share, "0%", 0),
        (Share, "100%", 1),
        (Share, "0.1%", 0.001),
        (Rate, "100/s", 100),
        (Rate, "600/m", 10),
        (Rate, "36/h", 0.01),
    ],
)
def test_quantities(kind: Any, text: str, value: float) -> None:
    assert TypeAdapter(kind).validate_python(text) == pytest.approx(value)


@pytest.mark.parametrize(
    ("kind", "value", "remedy"),
    [
        (Duration, 5, "number without a unit; write a duration such as 250ms"),
        (Duration, "5", "is not a duration; write it such as 250ms"),
        (Duration, "-5s", "is not a duration"),
        (Duration, "5 s", "is not a duration"),
        (Duration, "0s", "must be more than zero"),
        (Duration, "٣s", "is not a duration"),
        (Duration, True, "is not a duration"),
        (Duration, None, "is not a duration"),
        (Size, "64K", "is not a size; write it such as 64KiB"),
        (Share, 0.2, "number without a unit; write a share such as 20%"),
        (Share, "120%", "is more than 100%"),
        (Rate, "100", "is not a rate; write it such as 100/s"),
        (Rate, "0/s", "must be more than zero"),
        (Rate, "9999999999/s", "is not between 0.001/h and 1000000000/s"),
        (Duration, "9" * 400 + "h", "is too large for a duration"),
        (Size, "9" * 400 + "B", "is too large for a size"),
    ],
)
def test_a_quantity_that_is_none_says_what_would_be_one(kind: Any, value: Any, remedy: str) -> None:
    with pytest.raises(ValidationError, match=remedy):
        TypeAdapter(kind).validate_python(value)


def test_blocks_are_closed_and_frozen() -> None:
    block = Block.model_validate({"mode": "observe"})
    assert not block.is_enforced
    assert Block().is_enforced
    with pytest.raises(ValidationError):
        Block.model_validate({"mod": "observe"})
    with pytest.raises(ValidationError):
        block.mode = "enforce"


def test_a_problem_reads_like_a_compilers() -> None:
    assert str(Problem("a.yaml", 3, 5, "routes[0].retry", "bad")) == "a.yaml:3:5: routes[0].retry: bad"
    assert str(Problem("a.yaml", 1, 1, "", "empty")) == "a.yaml:1:1: empty"


@each(
    [
        ("1s", 0.2, "200ms"), ("250ms", 90.0, "90s"), ("1s", 600.0, "10m"), ("1h", 0.0, "0h"), ("1B", 65536, "64KiB"),
        ("1KiB", 16, "16B"), ("5%", 0.95, "95%"), ("1KiB/s", 1024, "1KiB/s"), ("four", 10, "10"), (3, 1.1, "1.1"),
    ]
)  # fmt: skip
def test_a_bound_is_told_in_the_unit_of_the_value(case: tuple[Any, float, str]) -> None:
    text, number, told = case
    assert as_written(text, number) == told
