"""Files of a run: HTML, JUnit, JSON."""

from __future__ import annotations

import json
import re
from dataclasses import replace
from html.parser import HTMLParser
from xml.etree import ElementTree as Tree

import pytest

from chaos.battery import Arm, Result, document, replayed, simulated
from chaos.scenario.files import SCENARIOS, load
from chaos.verdict.compare import compare
from chaos.verdict.judge import judge
from chaos.verdict.junit import junit_xml
from chaos.verdict.report import page

VOID = {"meta", "br", "line", "rect", "path", "input"}


@pytest.fixture(scope="module")
def results() -> list[Result]:
    chosen = [each for each in load([SCENARIOS]) if each.name in ("slow_dependency", "bad_policy")]
    return [simulated(loaded, ["bare", "sidecar"], 1) for loaded in chosen]


@pytest.fixture(scope="module")
def html(results: list[Result]) -> str:
    return page(results)


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
    assert html.index("2 of 2 scenarios as expected") < html.index("<table>") < html.index("<svg")
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
    again = replayed(json.loads(json.dumps(document(results))), load([SCENARIOS]))
    assert [[arm.verdicts for arm in result.arms] for result in again] == [
        [arm.verdicts for arm in result.arms] for result in results
    ]


def test_a_failed_run_says_what_was_taken_out(results: list[Result]) -> None:
    loaded = next(each for each in load([SCENARIOS]) if each.name == "slow_dependency")
    failed = simulated(loaded, ["sidecar"], 1, without=True)
    assert not failed.passed
    assert "NOT met" in failed.headline
    assert "Taken out of the policies: shop: routes.charge.timeout" in page([failed])
    assert Tree.fromstring(junit_xml([failed])).findall(".//failure")
