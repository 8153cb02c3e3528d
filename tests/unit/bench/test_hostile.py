"""Tests of the report on growth with hostile input, with times that the test sets."""

from __future__ import annotations

from collections.abc import Callable

import pytest

from bench import hostile
from bench.hostile import CASES, FACTOR, Case, Work, main


@pytest.fixture
def scripted(monkeypatch: pytest.MonkeyPatch) -> None:
    """Replace the measurement, so that each piece of work returns its own duration."""
    monkeypatch.setattr(hostile, "seconds", lambda work: work())


def taking(seconds: Callable[[int], float]) -> Callable[[int], Work]:
    return lambda size: lambda: seconds(size)


@pytest.mark.usefixtures("scripted")
def test_quadratic_work_is_named_and_fails(capsys: pytest.CaptureFixture[str]) -> None:
    cases = (Case("fine", 100, taking(lambda size: size)), Case("bad", 100, taking(lambda size: size * size)))
    with pytest.raises(SystemExit, match=r"more than 24 times as long for 8 times the input: bad$"):
        main([], cases)
    assert "8.0x" in capsys.readouterr().out


@pytest.mark.usefixtures("scripted")
def test_linear_work_passes() -> None:
    main(["--times", "1"], (Case("fine", 100, taking(lambda size: size)),))


@pytest.mark.parametrize("case", CASES, ids=lambda case: case.name)
def test_every_case_can_be_run_at_both_sizes(case: Case) -> None:
    for size in (case.size, case.size * FACTOR):
        assert hostile.seconds(case.prepare(size)) > 0
