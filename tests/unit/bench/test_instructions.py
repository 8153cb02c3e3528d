"""Tests of the gate for speed: its verdicts and its output."""

from __future__ import annotations

from pathlib import Path
from typing import Any, cast

import pytest

from bench import figures, instructions
from bench.callgrind import Counts
from bench.figures import MOST, Known, broken, differences, table
from bench.instructions import SCENARIOS, TITLES
from bench.slowed import loop_factory

HERE = {"interpreter": "CPython 3.11.7", "valgrind": "valgrind-3.19.0"}
BEFORE = {"demo": Counts(100_000, 5_000, 2_000)}


def known(environment: dict[str, str], counts: Counts = BEFORE["demo"]) -> dict[str, Known]:
    return {"pure": Known(environment, {"date": "2026-11-29"}, {"demo": counts})}


def test_what_is_within_its_limits_passes() -> None:
    at_most = Counts(100_000 * MOST.instructions, 5_000 * MOST.l1i, 1e9)

    assert broken({"demo": at_most}, BEFORE) == []


@pytest.mark.parametrize(
    ("found", "expected"),
    [
        (Counts(102_100, 5_000, 2_000), "demo: instructions 102,100, 1.021x of 100,000; at most 1.02x"),
        (Counts(100_000, 6_000, 2_000), f"demo: L1 instruction misses 6,000, 1.200x of 5,000; at most {MOST.l1i}x"),
    ],
)
def test_what_is_beyond_a_limit_is_told(found: Counts, expected: str) -> None:
    assert broken({"demo": found}, BEFORE) == [expected]


def test_a_scenario_without_a_figure_has_no_limit() -> None:
    assert broken({"new": Counts(9e9, 9e9, 9e9)}, BEFORE) == []


def test_differences_between_environments_are_named() -> None:
    assert differences(HERE, HERE) == []
    assert differences(HERE, {**HERE, "valgrind": "valgrind-3.24.0"}) == [
        "valgrind: valgrind-3.19.0 there, valgrind-3.24.0 here"
    ]
    assert differences({}, {"valgrind": "valgrind-3.24.0"}) == ["valgrind: none there, valgrind-3.24.0 here"]


def test_the_table_has_figures_beside_limits() -> None:
    rows = table({"pure": {"demo": Counts(101_000.4, 4_900, 2_100), "new": Counts(1, 2, 3)}}, {"pure": BEFORE}, TITLES)

    assert rows[2:] == [
        f"| pure | {SCENARIOS[0].title} | 101,000 | 102,000 | 4,900 | {5_000 * MOST.l1i:,.0f} | 2,100 |",
        "| pure | new | 1 |  | 2 |  | 3 |",
    ]


def test_a_goal_is_told_and_breaks_nothing() -> None:
    found = {"demo": Counts(90_000, 3_000, 2_000), "hit": Counts(1, 2, 3)}

    assert figures.goals("pure", found, TITLES) == []
    assert figures.goals("compiled", found, TITLES) == [
        f"{SCENARIOS[0].title}: instructions 90,000, 2.00x of the goal 45,000",
        f"{SCENARIOS[0].title}: L1 instruction misses 3,000, 1.50x of the goal 2,000",
    ]


@pytest.fixture
def gate(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Replace the gate's measurement by fixed counts, and return the file of its figures."""
    file = tmp_path / "instructions.json"
    monkeypatch.setattr(figures, "FILE", file)
    monkeypatch.setattr(figures, "PAGE", file.with_suffix(".md"))
    monkeypatch.setattr(figures, "environment", lambda is_compiled: HERE)
    monkeypatch.setattr(instructions, "measure", lambda build, keep: {"demo": Counts(110_000, 5_000, 2_000)})
    return file


def test_a_broken_limit_fails(gate: Path, capsys: pytest.CaptureFixture[str]) -> None:
    figures.save(known(HERE), TITLES)

    assert instructions.run(["pure"], None, is_written=False) == 1
    assert "pure: demo: instructions 110,000, 1.100x of 100,000; at most 1.02x" in capsys.readouterr().out


def test_what_improves_passes(gate: Path, capsys: pytest.CaptureFixture[str]) -> None:
    figures.save(known(HERE, Counts(120_000, 5_000, 2_000)), TITLES)

    assert instructions.run(["pure"], None, is_written=False) == 0
    assert "pure: every limit holds" in capsys.readouterr().out


def test_limits_of_another_environment_are_not_judged(gate: Path, capsys: pytest.CaptureFixture[str]) -> None:
    figures.save(known({**HERE, "interpreter": "CPython 3.12.1"}), TITLES)

    assert instructions.run(["pure"], None, is_written=False) == 0
    told = capsys.readouterr().out
    assert "pure: not judged, the limits are of another environment" in told
    assert "interpreter: CPython 3.12.1 there, CPython 3.11.7 here" in told
    assert "| 110,000 |" in told


def test_figures_are_written_down_and_judge_the_next_run(gate: Path, capsys: pytest.CaptureFixture[str]) -> None:
    compiled = Known(HERE, {"date": "2026-11-28"}, {"demo": Counts(1, 1, 1)})
    figures.save({**known(HERE), "compiled": compiled}, TITLES)

    assert instructions.run(["pure"], None, is_written=True) == 0
    assert figures.load()["pure"].figures == {"demo": Counts(110_000, 5_000, 2_000)}
    assert figures.load()["compiled"] == compiled, "a build that was not measured stays"
    assert "| 110,000 | 112,200 |" in gate.with_suffix(".md").read_text()
    assert instructions.run(["pure"], None, is_written=False) == 0
    assert "every limit holds" in capsys.readouterr().out


def test_a_build_that_is_not_there_is_left_out(
    gate: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(instructions, "COMPILED", tmp_path / "nowhere")

    assert instructions.run(["compiled"], None, is_written=False) == 0
    assert "compiled: left out, there is no build/compiled; `make compiled` makes it" in capsys.readouterr().out


def test_a_build_of_other_sources_is_left_out(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "sidecar").mkdir()
    (tmp_path / "sidecar" / "old.py").touch()
    monkeypatch.setattr(instructions, "COMPILED", tmp_path)

    assert "other sources" in instructions.missing("compiled")


def test_the_page_is_that_of_the_figures() -> None:
    assert figures.PAGE.read_text() == figures.page(figures.load(), TITLES)
    for build in figures.load().values():
        assert [*build.figures] == [scenario.name for scenario in SCENARIOS]


def test_delays_are_longer_by_the_factor(capsys: pytest.CaptureFixture[str]) -> None:
    loop = loop_factory(100)()
    try:
        now = loop.time()
        assert loop.call_later(10, print).when() > now + 900
    finally:
        loop.close()


def test_a_scenario_is_compared_with_another_of_the_same_run() -> None:
    found = {"bearer": Counts(1_000, 5, 2), "known": Counts(1_041, 5, 2)}
    assert figures.ratios(found) == ["known: 1.041x of the instructions of bearer, the goal is 1.04x"]
    assert figures.ratios({"known": Counts(1, 1, 1)}) == []


def test_every_tenth_request_of_a_mirror_is_asked_twice_of_the_upstream() -> None:
    scenario = next(each for each in SCENARIOS if each.name == "mirror")
    asked: list[str] = []

    class Recorder:
        requests = 0

        def ask(self, target: str, *, has_token: bool, together: int) -> None:
            asked.append(target)
            self.requests += together

    instructions.Client(cast("Any", Recorder()), cast("Any", Recorder())).repeat(scenario, scenario.block)

    assert asked.count(scenario.copied) * 10 == len(asked) == scenario.block
