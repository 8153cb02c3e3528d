"""Tests of the CPU of a refusal as a multiple of that of an answer."""

from __future__ import annotations

import pytest

from bench.load import Load
from bench.refusal import Loaded, share


def loaded(requests: int, cpu: float) -> Loaded:
    return Loaded("", Load(requests, 1.0, 1.0, 1.0, 0), cpu)


@pytest.mark.parametrize("slowness", [1, 3])
def test_a_refusal_is_held_against_an_answer_of_the_same_run(slowness: int) -> None:
    answered, refused = loaded(1000, 0.1 * slowness), loaded(3000, 0.15 * slowness)

    assert share([answered, refused]) == pytest.approx(0.5)
