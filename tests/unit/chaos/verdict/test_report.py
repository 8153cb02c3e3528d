"""Tests of a run's files: HTML, JUnit, JSON."""

from __future__ import annotations

import json
import re
import shlex
from dataclasses import replace
from html import escape, unescape
from html.parser import HTMLParser
from pathlib import Path
from xml.etree import ElementTree as Tree

import pytest
from click.testing import CliRunner

from chaos.battery import Arm, Result, document, replayed, simulated
from chaos.cli import main
from chaos.scenario.files import SCENARIOS, Loaded, block, load
from chaos.verdict import charts
from chaos.verdict.compare import compare
from chaos.verdict.judge import judge
from chaos.verdict.junit import junit_xml
from chaos.verdict.report import page
from tests.support import scenarios

VOID = {"meta", "br", "line", "rect", "path", "input"}


@pytest.fixture(scope="module")
def results() -> list[Result]:
    chosen = [scenarios.ALL[name] for name in ("bad_policy", "slow_dependency")]
    return [simulated(loaded, ["bare", "sidecar"], 1) for loaded in chosen]


@pytest.fixture(scope="module")
def html(results: list[Result]) -> str:
    return page(results)


def test_the_axis_of_time_counts_whole_seconds_from_the_start_of_the_faults() -> None:
    chart = charts.lines("a", [], charts.Frame(-1.5, 7.5, ()), 1.0, str)
    assert re.findall(r'text-anchor="middle">([^<]*)<', chart) == ["0", "2", "4", "6"]


def test_runs_of_one_scenario_are_told_apart_by_their_seeds(results: list[Result]) -> None:
    title = escape(results[1].scenario.title)
    assert f"{title} <span" in page(results)
    again = simulated(scenarios.ALL["slow_dependency"], ["sidecar"], 2)
    html = page([*results, again])
    for seed in (1, 2):
        assert f">{title}, seed {seed}</a>" in html
        assert f">{title}, seed {seed} <span" in html


def test_the_page_is_well_formed(html: str) -> None:
    open_tags: list[str] = []

    class Parser(HTMLParser):
        def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
            if tag not in VOID:
                open_tags.append(tag)

        def handle_endtag(self, tag: str) -> None:
            if tag not in VOID:
                assert open_tags.pop() == tag

    Parser().feed(html)
    assert open_tags == []
    ids = re.findall(r' id="([^"]+)"', html)
    assert len(ids) == len(set(ids))
    assert set(re.findall(r'href="#([^"]+)"', html)) <= set(ids)


def test_the_page_needs_no_other_file(html: str) -> None:
    assert not re.search(r'(src|href)="(?!#)', html)
    assert "@import" not in html
    assert "<script" not in html


def test_verdicts_come_first_and_every_expectation_is_there(html: str, results: list[Result]) -> None:
    assert html.index("2 of 2 scenarios as expected") < html.index("<table") < html.index("<svg")
    for result in results:
        for arm in result.arms:
            for verdict in arm.verdicts:
                assert verdict.measured in html


def test_charts_have_descriptions_for_readers_who_do_not_see_them(html: str) -> None:
    pictures = re.findall(r"<svg viewBox.*?</svg>", html, re.DOTALL)
    assert pictures
    assert all('role="img"' in each and "aria-label=" in each and "<desc>" in each for each in pictures)
    assert "prefers-color-scheme: dark" in html
    assert "@media print" in html


def test_a_peer_is_compared_measure_by_measure(results: list[Result]) -> None:
    first = results[0] if results[0].name == "slow_dependency" else results[1]
    bare, sidecar = first.arms
    peer = replace(bare.recording, arm="envoy", notes=["envoy: no probes"])
    arms = [bare, sidecar, Arm("envoy", peer, judge(peer, first.scenario))]
    html = page([replace(first, arms=arms)])
    (better, equal, worse), *_ = re.findall(r"better on (\d+), equal on (\d+) and worse on (\d+)", html)
    found = compare(first.scenario, sidecar.recording, peer)
    words = [each.word for each in found]
    assert [int(better), int(equal), int(worse)] == [words.count(w) for w in ("better", "equal", "worse")]
    assert int(better) > 2
    assert html.count("<li>no probes</li>") == 2
    assert "Beside Envoy" not in page([first])


def test_junit_has_a_case_for_each_expectation(results: list[Result]) -> None:
    root = Tree.fromstring(junit_xml(results))
    cases = root.findall("./testsuite/testcase")
    assert len(cases) == sum(len(arm.verdicts) for result in results for arm in result.arms)
    assert not root.findall(".//failure")


def test_a_recording_is_judged_again_as_before(results: list[Result]) -> None:
    again = replayed(json.loads(json.dumps(document(results))), list(scenarios.ALL.values()))
    assert [[arm.verdicts for arm in result.arms] for result in again] == [
        [arm.verdicts for arm in result.arms] for result in results
    ]


def test_a_failed_run_says_what_was_taken_out(results: list[Result]) -> None:
    loaded = scenarios.ALL["slow_dependency"]
    failed = simulated(loaded, ["sidecar"], 1, without=True)
    assert not failed.passed
    assert "NOT met" in failed.headline
    assert "Taken out of the policies: shop: routes.charge.timeout" in page([failed])
    assert Tree.fromstring(junit_xml([failed])).findall(".//failure")


# ----- the repeating command and the cause


def own(tmp_path: Path, name: str) -> Loaded:
    """Return a scenario in a copy of its file, in a directory whose name a shell would split."""
    directory = tmp_path / "my scenarios"
    directory.mkdir()
    text = (SCENARIOS / f"{name}.yaml").read_text().replace("../policies", str(SCENARIOS.parent / "policies"))
    (directory / "mine.yaml").write_text(text)
    return load([directory / "mine.yaml"])[0]


@pytest.mark.parametrize(
    ("arms", "word"),
    [(["bare", "sidecar"], "both"), (["bare"], "bare"), (["sidecar"], "sidecar")],
)
def test_the_repeat_line_runs_the_same_again(tmp_path: Path, arms: list[str], word: str) -> None:
    loaded = own(tmp_path, "hard_down_dependency")
    html = page([simulated(loaded, arms, 3)])
    (line,) = re.findall(r"Repeat it with <code>(.*?)</code>", html)
    words = shlex.split(unescape(line))
    assert words == ["chaos", "simulate", str(loaded.path), "--arm", word, "--seed", "3"]
    result = CliRunner().invoke(main, words[1:])
    assert result.exit_code == 0, result.output
    assert "mine" in result.output
    assert "seed 3" in result.output


def test_the_repeat_line_takes_out_what_was_taken_out(tmp_path: Path) -> None:
    loaded = own(tmp_path, "hard_down_dependency")
    assert "--arm sidecar --seed 1 --without-decisive" in page([simulated(loaded, ["sidecar"], 1, without=True)])


def test_a_scenario_of_the_working_directory_is_named_as_one_types_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    loaded = own(tmp_path, "hard_down_dependency")
    monkeypatch.chdir(tmp_path)
    assert "chaos simulate &#x27;my scenarios/mine.yaml&#x27;" in page([simulated(loaded, ["bare"], 1)])


def test_the_line_is_that_of_the_block(tmp_path: Path) -> None:
    loaded = own(tmp_path, "retry_storm")
    for service, blocks in loaded.scenario.decisive.items():
        for path in blocks:
            found = block(loaded, service, path)
            assert found is not None
            assert path.rpartition(".")[2] in Path(found.file).read_text().splitlines()[found.line - 1]


def test_the_sentence_follows_the_verdict(results: list[Result]) -> None:
    loaded = scenarios.ALL["hard_down_dependency"]
    assert simulated(loaded, ["bare"], 1).cause.startswith("With sidecars it is contained by `routes.for.fallback`")
    assert "taken out: `routes.for.fallback`" in simulated(loaded, ["sidecar"], 1, without=True).cause
    (refused,) = (result for result in results if result.name == "bad_policy")
    assert "which refused " in refused.cause
    assert "mistyped.yaml:7 and kept" in refused.cause
    assert document(results)["results"][0]["cause"] == results[0].cause


def test_a_scenario_that_names_no_block_says_so(tmp_path: Path) -> None:
    path = tmp_path / "x.yaml"
    text = (SCENARIOS / "hard_down_dependency.yaml").read_text()
    text = text.replace("../policies", str(SCENARIOS.parent / "policies"))
    path.write_text(text.replace("decisive: {shop: [routes.for.fallback]}\n", ""))
    assert "name those that do under `decisive`" in simulated(load([path])[0], ["sidecar"], 1).cause
